/* Our Valkey as a replica of the log: WAITING, FEEDING, FED.
 *
 *   gathered ─┬─ no part yet, or the log says nothing yet ─▶ WAITING    (Valkey is left alone: the group may have
 *             │                                              │           to adopt its data, or to bridge its stream)
 *             └────────────────────────────────────────────▶ FEEDING ──caught up──▶ FED
 *                                                              ▲  masterauth, REPLICAOF the feed │
 *                                                              └──── the link broke, skipped ────┘
 *
 * Caught up: what was committed when the sync began is acknowledged, and little has been added since.
 *
 * A replica *skips* what it cannot run, without a word to its primary; only the counter unexpected_error_replies
 * tells. So it is read before the state is FED, and every second: when it rises by more than the TRYs that were sent
 * may have been refused, the state is not the log's. One full sync; if that skips, too, something is wrong that a
 * sync does not mend: not FED any more, and tried again slowly.
 *
 * A Valkey that an earlier feed of ours has fed (node_is_ours) goes on by partial sync, if a checkpoint proves it.
 * That serves a node that leads, as well: it is promoted instead of rebuilt. */
#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/backend.h"
#include "proxy/certs.h"
#include "proxy/feed.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/node_internal.h"

enum {
    WARM_BYTES = 64 * 1024 * 1024, /* behind the log by no more: warm */
    LOOK_BYTES = 64 * 1024,
    SKIP_RETRY_FIRST_MS = 60 * 1000,
    SKIP_RETRY_MS_MAX = 60 * 60 * 1000,
    CLEAN_MS = 10 * 60 * 1000 /* so long without skipping: as if it had never been */
};

/* ---- has the log begun? ---- */

/* A snapshot alone says nothing: it may have been adopted by a leadership that ended before the log could speak of
 * it. A Valkey that was fed with it would be promoted later, and not adopted: nobody else would ever get its data. */
static bool log_begun(struct node *n)
{
    const struct replay_facts *facts;
    struct snapshot_mark mark;
    char path[4096];

    if (n->follow.begun)
        return true;
    if (n->follow.look == NULL || replay_facts(n->follow.look)->cut) {
        replay_free(n->follow.look);
        n->follow.look = replay_new(n->log, snapshot_newest(n->log, &mark, path, sizeof path) ? &mark : NULL);
    }
    while (!replay_facts(n->follow.look)->anything && replay_step(n->follow.look, NULL, LOOK_BYTES))
        continue;
    facts = replay_facts(n->follow.look);
    n->follow.begun = facts->anything || facts->damage != NULL; /* damage: whoever reads on says so */
    if (n->follow.begun) {
        replay_free(n->follow.look);
        n->follow.look = NULL;
    }
    return n->follow.begun;
}

/* ---- warm, or not ---- */

static void unfed(struct node *n, const char *why)
{
    if (n->state != NODE_FED)
        return;
    node_set_state(n, NODE_FEEDING, why);
    if (n->events->unfed != NULL)
        n->events->unfed(n->arg, why);
}

static bool caught_up(struct node *n)
{
    if (n->state != NODE_FEEDING || !n->follow.told || n->follow.distrusted || n->figures.fed_index < n->follow.goal)
        return false;
    if (feed_behind(n->feed) < WARM_BYTES)
        return true;
    n->follow.goal = log_committed(n->log); /* look again then */
    return false;
}

bool node_warm(const struct node *n)
{
    return n->state == NODE_FED && feed_behind(n->feed) < WARM_BYTES;
}

static void on_checked(void *arg, const char *reply, size_t size);

static void check_fed(struct node *n)
{
    if (n->follow.checking || !caught_up(n))
        return;
    n->follow.checking = true;
    node_ask(n, on_checked, 4, (const char *const[]){"INFO", "replication", "stats", "keyspace"});
}

static void skipped(struct node *n, uint64_t count)
{
    n->doubt.skipped = true;
    n->follow.clean_since_ms = loop_now_ms(n->loop);
    if (n->follow.distrusted || (n->follow.skips > 0 && !n->follow.synced))
        return; /* said already */
    n->follow.skips++;
    n->follow.synced = false;
    diag_log(n->diag, DIAG_WARNING,
             "FEED SKIPPED COMMANDS: Valkey at %s refused %llu of the log's effects; its state is not the log's. "
             "Is it older than the leader's, or does it have fewer databases or modules?",
             node_address(n), (unsigned long long)count);
    unfed(n, "it has skipped effects of the log");
    if (n->state != NODE_FEEDING)
        return;
    if (n->follow.skips == 1) {
        feed_resync(n->feed);
        return;
    }
    n->follow.distrusted = true;
    n->follow.retry_ms = n->follow.retry_ms == 0 ? SKIP_RETRY_FIRST_MS : n->follow.retry_ms * 2;
    if (n->follow.retry_ms > SKIP_RETRY_MS_MAX)
        n->follow.retry_ms = SKIP_RETRY_MS_MAX;
    n->follow.retry_at_ms = loop_now_ms(n->loop) + n->follow.retry_ms;
    diag_log(n->diag, DIAG_WARNING,
             "Valkey at %s skips effects even after a full sync: it is not promoted, and serves "
             "no reads; the next sync is in %llu s",
             node_address(n), (unsigned long long)n->follow.retry_ms / 1000);
}

/* Intents that were resolved without their effect having been seen may be refused: as many as were sent. */
uint64_t node_unexplained(struct node *n, uint64_t errors)
{
    uint64_t rise = errors > n->valkey.unexpected_errors ? errors - n->valkey.unexpected_errors : 0;
    uint64_t room =
        n->feed != NULL && feed_tries(n->feed) > n->follow.excused ? feed_tries(n->feed) - n->follow.excused : 0;
    uint64_t excused = rise < room ? rise : room;

    n->valkey.unexpected_errors = n->doubt.errors = errors;
    n->follow.excused += excused;
    return rise - excused;
}

/* The sum of "keys=" over the lines "db0:keys=1,expires=0,..." */
static uint64_t count_keys(const char *info, size_t size)
{
    static const char word[] = ":keys=";
    uint64_t sum = 0;

    for (size_t i = 0; i + sizeof word - 1 < size; i++) {
        if (memcmp(info + i, word, sizeof word - 1) != 0)
            continue;
        i += sizeof word - 1;
        for (uint64_t keys = 0;; i++) {
            if (i >= size || info[i] < '0' || info[i] > '9') {
                sum += keys;
                break;
            }
            keys = keys * 10 + (uint64_t)(info[i] - '0');
        }
    }
    return sum;
}

static void look(struct node *n, const char *reply, size_t size)
{
    uint64_t errors = node_info_number(reply, size, "unexpected_error_replies");
    char role[16];

    n->figures.valkey_keys = count_keys(reply, size);
    if ((n->state != NODE_FEEDING && n->state != NODE_FED) || !n->follow.told)
        return;
    if (node_info_field(reply, size, "role", role, sizeof role) && strcmp(role, "slave") != 0) {
        node_fail(n, "somebody has made Valkey a primary");
        return;
    }
    errors = node_unexplained(n, errors);
    if (errors > 0)
        skipped(n, errors);
}

static void on_looked(void *arg, const char *reply, size_t size)
{
    if (reply[0] == '$')
        look(arg, reply, size);
}

static void on_checked(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    n->follow.checking = false;
    on_looked(arg, reply, size);
    if (reply[0] != '$' || !caught_up(n))
        return;
    node_set_state(n, NODE_FED,
                   n->follow.partial ? "it has caught up with the log, by partial sync"
                                     : "it has caught up with the log, by full sync");
    n->pause_ms = NODE_RETRY_FIRST_MS;
    n->last_why[0] = '\0';
    if (n->events->fed != NULL)
        n->events->fed(n->arg, node_identity(n));
}

void node_look(struct node *n)
{
    uint64_t now = loop_now_ms(n->loop);

    node_ask(n, on_looked, 4, (const char *const[]){"INFO", "replication", "stats", "keyspace"});
    if (n->state == NODE_FEEDING && n->follow.distrusted && now >= n->follow.retry_at_ms) {
        n->follow.distrusted = false;
        feed_resync(n->feed);
    } else if (n->state == NODE_FED && now >= n->follow.clean_since_ms + CLEAN_MS) {
        n->follow.skips = n->follow.retry_ms = 0;
    }
}

/* ---- the feed ---- */

static void on_began(void *arg, bool partial)
{
    struct node *n = arg;

    if (partial)
        n->figures.feeds_partial++;
    else
        n->figures.feeds_full++;
    if (n->figures.feeds_full == 1 && !partial && n->figures.valkey_keys > 0 && n->figures.valkey_keys != UINT64_MAX)
        diag_log(n->diag, DIAG_WARNING, "The %llu keys of Valkey at %s are replaced by the group's data",
                 (unsigned long long)n->figures.valkey_keys, node_address(n));
    n->doubt.skipped = n->doubt.skipped && partial;
    n->figures.fed_index = 0;
    n->figures.rebuild_progress = partial ? 1 : 0;
    n->follow.synced = true;
    n->follow.partial = partial;
    n->follow.goal = log_committed(n->log);
}

static void on_left(void *arg, const char *why)
{
    struct node *n = arg;

    if (n->state == NODE_PROMOTING)
        node_fail(n, "Valkey left the feed: %s", why);
    else if (n->state == NODE_FEEDING)
        node_complain(n, why);
    else
        unfed(n, why);
}

static void on_drained(void *arg)
{
    struct node *n = arg;

    if (n->state == NODE_PROMOTING)
        node_promote_more(n);
}

static void on_acked(void *arg, uint64_t index)
{
    struct node *n = arg;

    n->figures.fed_index = index;
    check_fed(n);
}

static void on_feed_closed(void *arg, const char *why)
{
    struct node *n = arg;
    const struct replay_facts *facts = feed_facts(n->feed);

    if (facts != NULL && facts->damage != NULL)
        node_damaged(n, facts->damage);
    else
        node_fail(n, "feed: %s", why);
}

static const struct feed_events feed_callbacks = {.progress = node_on_progress,
                                                  .began = on_began,
                                                  .left = on_left,
                                                  .drained = on_drained,
                                                  .acked = on_acked,
                                                  .complete = node_promote_complete,
                                                  .closed = on_feed_closed};

static void on_told(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (reply[0] == '-') {
        node_fail(n, "REPLICAOF was refused: %.*s", (int)(size < 120 ? size - 2 : 120), reply + 1);
        return;
    }
    n->follow.told = true;
    check_fed(n);
}

void node_follow_on(struct node *n, const struct feed_proof *proof)
{
    const char *ip = backend_local_ip(n->control);
    struct feed_settings s = {.ip = ip,
                              .run_id = n->valkey.run_id,
                              .checkpoints = n->checkpoints,
                              .proof = proof,
                              .tls = certs_feed(n->certs),
                              .tls_expected = certs_valkey(n->certs) != NULL};
    char why[NODE_WHY_BYTES_MAX] = "";

    if (n->state != NODE_FEEDING)
        node_set_state(n, NODE_FEEDING, "it is fed from the log");
    n->follow.excused = 0;
    n->feed = feed_new(n->loop, n->diag, n->log, &s, &feed_callbacks, n, why, sizeof why);
    if (n->feed == NULL) {
        node_fail(n, "feed: %s", why);
        return;
    }
    node_follow_stop(n);
    n->follow.goal = UINT64_MAX;
    node_kill_others(n);
    node_ask(n, NULL, 4, (const char *const[]){"CONFIG", "SET", "replica-read-only", "yes"});
    node_replicate(n, ip, on_told);
}

bool node_is_ours(const struct node *n)
{
    const struct checkpoint *k = checkpoints_newest(n->checkpoints);

    return n->valkey.is_replica && k != NULL && strcmp(k->replid, n->valkey.replid) == 0 &&
           strcmp(k->run_id, n->valkey.run_id) == 0;
}

void node_follow_stop(struct node *n)
{
    n->follow.told = n->follow.checking = n->follow.distrusted = false;
    n->figures.fed_index = 0;
}

/* ---- the door ---- */

void node_wait(struct node *n, const char *why)
{
    if (n->state != NODE_WAITING)
        node_set_state(n, NODE_WAITING, why);
    n->pause_ms = NODE_RETRY_FIRST_MS;
    node_look(n);
}

void node_follow(struct node *n)
{
    if (n->valkey.cluster_enabled)
        node_refuse(n, "Valkey is cluster-enabled: markers would not reach its replication stream");
    else if (n->valkey.lacks_commands)
        node_refuse(n, "Valkey lacks SPUBLISH, ACL DRYRUN or CLIENT KILL");
    else if (n->valkey.loading)
        node_try_again(n, NODE_LOADING_MS);
    else if (!log_begun(n))
        node_wait(n, "the log says nothing yet");
    else
        node_follow_on(n, NULL);
}

void node_follow_more(struct node *n)
{
    if (n->state == NODE_WAITING && n->part == NODE_FOLLOWS && log_begun(n))
        node_gather(n); /* then node_follow() */
    else if (n->feed != NULL && n->state != NODE_REBUILDING)
        feed_more(n->feed);
    if (n->state == NODE_PROMOTING)
        node_promote_more(n);
    else if (n->state == NODE_FEEDING)
        check_fed(n);
}

int node_fed_mode(const struct node *n)
{
    const struct replay_facts *facts = n->feed != NULL ? feed_facts(n->feed) : NULL;

    return facts != NULL ? facts->mode : -1;
}

/* The way up: walk the log, decide, adopt or bridge, hand over to the core.
 *
 *   gathered ─▶ log settled (all appended is committed) ─▶ walk ─▶ node_decide()
 *
 *   ADOPTING   tap, full sync: RDB ─▶ first snapshot; tap held ─▶ snapshot durable ─▶ ATTACH committed ─▶ hand over
 *   BRIDGING   all other connections killed ─▶ tap, partial sync from the log's offset ─▶ hand over
 *              (a full sync is offered instead: the stream has a gap ─▶ REBUILDING)
 *   REBUILDING node_rebuild.c; joins here with ATTACH committed and the tap in partial sync
 *
 * Effects that arrive before the hand-over stay in the tap (tap_pause), so none is lost and none comes too early. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/certs.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/node_internal.h"
#include "proxy/tap.h"

/* ---- the log ---- */

uint64_t node_settled_index(struct node *n)
{
    if (log_batch(n->log)->len <= ENTRY_HEADER_BYTES)
        return log_open_index(n->log) - 1;
    log_touch(n->log, true);
    return log_open_index(n->log);
}

uint64_t node_append_attach(struct node *n, uint64_t offset, const char *replid, const char *run_id, bool again)
{
    struct buf body = {0};

    replay_attach_body(&body, offset, replid, run_id, again);
    frame_control(log_batch(n->log), CONTROL_ATTACH, buf_head(&body), body.len);
    buf_free(&body);
    log_touch(n->log, true);
    return log_open_index(n->log);
}

static void walk_step(struct node *n)
{
    if (replay_step(n->walk, NULL, NODE_WALK_BYTES)) {
        node_after(n, 0, walk_step);
        return;
    }
    n->walked_to = log_committed(n->log);
    if (replay_facts(n->walk)->cut)
        node_walk(n, n->walked); /* a newer snapshot has come */
    else if (replay_facts(n->walk)->damage != NULL)
        node_damaged(n, replay_facts(n->walk)->damage);
    else
        n->walked(n);
}

static void walk_begin(struct node *n)
{
    struct snapshot_mark mark;
    char path[4096];

    if (n->walk != NULL && n->walked_to == log_committed(n->log) &&
        !replay_facts(n->walk)->cut) { /* nothing has been written since */
        n->walked(n);
        return;
    }
    replay_free(n->walk);
    n->walk = replay_new(n->log, snapshot_newest(n->log, &mark, path, sizeof path) ? &mark : NULL);
    n->walked_to = 0;
    walk_step(n);
}

void node_walk(struct node *n, void (*walked)(struct node *n))
{
    n->walked = walked;
    node_after(n, node_settled_index(n), walk_begin);
}

/* ---- the tap of the stream ---- */

static void on_full(void *arg, const char *replid, uint64_t offset)
{
    struct node *n = arg;

    if (n->state == NODE_BRIDGING) {
        n->bridge_failed = true;
        tap_close(n->tap);
        n->tap = NULL;
        node_rebuild(n, "Valkey's backlog does not reach back to what the log has");
        return;
    }
    if (n->state != NODE_ADOPTING) {
        node_fail(n, "Valkey does not continue the stream that it was just fed");
        return;
    }
    (void)snprintf(n->replid, sizeof n->replid, "%s", replid);
    n->offset = offset;
    if (!node_snapshot_open(n, true))
        node_fail(n, "cannot begin the first snapshot");
}

static void on_rdb(void *arg, const char *bytes, size_t size)
{
    struct node *n = arg;

    if (!node_snapshot_bytes(n, bytes, size))
        node_fail(n, "cannot write the first snapshot");
}

static void on_rdb_end(void *arg)
{
    struct node *n = arg;
    uint64_t index = log_open_index(n->log);

    node_sync_delay(n, false);
    tap_pause(n->tap, true); /* effects wait until the core can take them */
    n->snapshot.mark = (struct snapshot_mark){.index = index,
                                              .log_from = index,
                                              .next_seq = replay_facts(n->walk)->next_seq,
                                              .mode = replay_facts(n->walk)->mode};
    node_snapshot_finish(n);
}

static void on_partial(void *arg, const char *replid)
{
    struct node *n = arg;
    bool same = strcmp(replid, n->replid) == 0;

    (void)snprintf(n->replid, sizeof n->replid, "%s", replid);
    if (n->state == NODE_BRIDGING && !same) { /* promoted meanwhile: next time the new id must be known */
        tap_pause(n->tap, true);
        node_after(n, node_append_attach(n, n->offset, replid, n->valkey.run_id, false), node_hand_over);
    } else if (n->state != NODE_BRIDGING && !same) {
        node_fail(n, "Valkey's replication id changed while it was attached");
    } else if (n->state != NODE_BRIDGING) {
        tap_pause(n->tap, true);
        node_after(n, n->attach_index, node_hand_over);
    } else {
        node_hand_over(n);
    }
}

static void on_effect(void *arg, const struct effect *e)
{
    struct node *n = arg;

    node_prove_void(n);
    if (n->state == NODE_ATTACHED) /* else somebody else's, while we make Valkey a replica */
        n->events->effect(n->arg, e);
}

static void on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    struct node *n = arg;

    if (n->state != NODE_ATTACHED || !n->events->message(n->arg, channel, channel_n, payload, payload_n, e))
        node_prove_void(n);
}

static void on_tap_closed(void *arg, const char *why)
{
    node_fail(arg, "the replication stream was cut: %s", why);
}

static const struct tap_events stream_events = {.full = on_full,
                                                .rdb = on_rdb,
                                                .rdb_end = on_rdb_end,
                                                .partial = on_partial,
                                                .effect = on_effect,
                                                .message = on_message,
                                                .closed = on_tap_closed};

/* replid NULL: full sync. */
void node_open_tap(struct node *n, const char *replid, uint64_t offset, uint32_t db)
{
    struct tap_settings s = {.address = node_address(n),
                             .user = n->config->valkey_user,
                             .password = n->config->valkey_password,
                             .tls = certs_valkey(n->certs),
                             .replid = replid,
                             .offset = offset,
                             .db = db};

    n->offset = offset;
    n->tap = tap_new(n->loop, n->diag, &s, &stream_events, n);
}

/* ---- adopting ---- */

static void adopt(struct node *n, const char *reason)
{
    node_set_state(n, NODE_ADOPTING, reason);
    node_sync_delay(n, true);
    node_open_tap(n, NULL, 0, 0);
}

void node_adopted(struct node *n, bool ok)
{
    if (!ok) {
        node_fail(n, "the first snapshot failed");
        return;
    }
    n->joined.db = 0;
    n->joined.offset = n->offset;
    if (!log_alone(n->log)) { /* a member has this entry only when it has the data, too */
        struct buf body = {0};

        buf_varint(&body, n->snapshot.mark.index);
        frame_control(log_batch(n->log), CONTROL_BASE, buf_head(&body), body.len);
        buf_free(&body);
    }
    node_after(n, node_append_attach(n, n->offset, n->replid, n->valkey.run_id, false), node_hand_over);
}

/* ---- bridging ---- */

static void on_others_killed(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;
    const struct replay_facts *f = &n->joined;

    (void)reply;
    (void)size;
    (void)snprintf(n->replid, sizeof n->replid, "%s", f->replid);
    node_open_tap(n, f->replid, f->offset, f->db);
}

static void bridge(struct node *n, const char *reason)
{
    node_set_state(n, NODE_BRIDGING, reason);
    node_kill_others(n); /* what a predecessor has left in Valkey's sockets must not run any more */
    node_ask(n, on_others_killed, 1, (const char *const[]){"PING"});
}

/* ---- the decision ---- */

void node_refuse(struct node *n, const char *reason)
{
    node_fail(n, "refused: %s", reason);
    loop_timer_once(n->retry, NODE_REFUSED_RETRY_MS);
}

static void decide(struct node *n)
{
    const struct replay_facts *log = replay_facts(n->walk);
    struct snapshot_mark mark;
    char path[4096];
    const char *reason = "";
    struct node_facts f = {
        .log_empty = !log->anything && (!snapshot_newest(n->log, &mark, path, sizeof path) || mark.run_id[0] == '\0'),
        .log_attached = log->attached,
        .same_run_id = log->attached && strcmp(log->run_id, n->valkey.run_id) == 0,
        .is_replica = n->valkey.is_replica,
        .loading = n->valkey.loading,
        .cluster_enabled = n->valkey.cluster_enabled,
        .lacks_commands = n->valkey.lacks_commands,
        .bridge_failed = n->bridge_failed,
    };

    if (n->part != NODE_LEADS) { /* meanwhile */
        node_decide_now(n);
        return;
    }
    n->joined = *log;
    node_users_note(n, log);
    switch (node_decide(&f, &reason)) {
    case CHOOSE_WAIT:
        node_try_again(n, NODE_LOADING_MS);
        break;
    case CHOOSE_REFUSE:
        node_refuse(n, reason);
        break;
    case CHOOSE_ADOPT:
        adopt(n, reason);
        break;
    case CHOOSE_BRIDGE:
        bridge(n, reason);
        break;
    case CHOOSE_REBUILD:
        if (node_is_ours(n)) {
            node_follow_on(n, NULL);
            if (n->state == NODE_FEEDING)
                node_promote(n, reason);
        } else {
            node_rebuild(n, reason);
        }
        break;
    }
}

void node_decide_now(struct node *n)
{
    if (n->part == NODE_LEADS)
        node_walk(n, decide);
    else if (n->part == NODE_FOLLOWS)
        node_follow(n);
    else
        node_wait(n, "it is not known yet which part to play");
}

/* ---- the hand-over ---- */

struct valkey_identity *node_identity(const struct node *n)
{
    struct valkey_identity *v = must_calloc(1, sizeof *v);
    const struct buf *commands = &n->valkey.commands;

    (void)snprintf(v->run_id, sizeof v->run_id, "%s", n->valkey.run_id);
    (void)snprintf(v->version, sizeof v->version, "%s", n->valkey.version);
    (void)snprintf(v->server, sizeof v->server, "%s", n->valkey.server);
    v->databases = n->valkey.databases;
    v->scripts = n->valkey.scripts;
    v->commands = must_calloc(1, commands->len + 1);
    memcpy(v->commands, buf_head(commands), commands->len);
    v->commands_bytes = commands->len;
    return v;
}

void node_hand_over(struct node *n)
{
    bool bridged = n->state == NODE_BRIDGING;

    if (n->state == NODE_REBUILDING || n->state == NODE_PROMOTING)
        node_rebuilt(n);
    node_follow_stop(n);
    if (checkpoints_newest(n->checkpoints) != NULL) /* of a feed before this; they would hold the log's beginning */
        checkpoints_wipe(n->checkpoints, NULL, NULL);
    n->joined.attached = true;
    n->joined.offset = n->offset;
    (void)snprintf(n->joined.run_id, sizeof n->joined.run_id, "%s", n->valkey.run_id);
    (void)snprintf(n->joined.replid, sizeof n->joined.replid, "%s", n->replid);
    node_set_state(n, NODE_ATTACHED, bridged ? "the stream goes on where the log ends" : "its state is the log's");
    n->pause_ms = NODE_RETRY_FIRST_MS;
    n->last_why[0] = '\0';
    n->bridge_failed = false;
    n->closed_out = false;
    n->events->attached(n->arg, node_identity(n), &n->joined, bridged);
    n->joined.pending = NULL; /* borrowed from the walk */
    n->joined.pending_count = 0;
    replay_free(n->walk);
    n->walk = NULL;
    if (n->tap != NULL)
        tap_pause(n->tap, false);
}

/* REBUILDING: make Valkey's state the log's, whatever it was before.
 *
 *   close out    the core appends what it has seen; a CONTROL_ATTACH of nobody says: nothing to bridge to
 *   walk         which intents are pending, now that all is committed
 *   resolve      OUTCOME {TRY each pending, in sequence order, RESOLVED last}: the replay executes them
 *   feed         others killed; masterauth = the feed's password; REPLICAOF; snapshot + replayed log; acknowledged
 *   promote      and join: node_promote.c
 *
 * A crash at any point leaves a log that says "attached to nobody", so that the next start rebuilds again: an
 * OUTCOME made for intents that this Valkey has perhaps executed, perhaps not, must never be followed by its own
 * stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/backend.h"
#include "proxy/certs.h"
#include "proxy/feed.h"
#include "proxy/node_internal.h"

enum { SAY_MS = 10000 };

/* ---- feed ---- */

void node_on_progress(void *arg, double done, uint64_t commands)
{
    struct node *n = arg;
    uint64_t now = loop_now_ms(n->loop);

    n->figures.rebuild_progress = done;
    n->figures.last_rebuild_commands = commands;
    if (n->state == NODE_FED || now < n->rebuild.said_ms + SAY_MS)
        return;
    n->rebuild.said_ms = now;
    diag_log(n->diag, DIAG_NOTICE, "Feeding Valkey at %s: %.0f %%, %llu commands replayed", node_address(n),
             done * 100, (unsigned long long)commands);
}

static void on_feed_closed(void *arg, const char *why)
{
    node_fail(arg, "rebuild: %s", why);
}

static const struct feed_events feed_callbacks = {
    .progress = node_on_progress, .complete = node_promote_complete, .closed = on_feed_closed};

/* The feed's password is remembered instead of an operator's only if a rebuild died half-way: then there is nothing
 * to save. */
static void save_auth(struct node *n)
{
    const struct node_valkey *v = &n->valkey;

    if (strncmp(v->master_auth, FEED_PASSWORD_PREFIX, sizeof FEED_PASSWORD_PREFIX - 1) == 0)
        return;
    (void)snprintf(n->rebuild.saved_user, sizeof n->rebuild.saved_user, "%s", v->master_user);
    (void)snprintf(n->rebuild.saved_auth, sizeof n->rebuild.saved_auth, "%s", v->master_auth);
}

static void on_set(void *arg, const char *reply, size_t size)
{
    if (reply[0] == '-')
        node_fail(arg, "a command of the feed was refused: %.*s", (int)(size < 120 ? size - 2 : 120), reply + 1);
}

void node_replicate(struct node *n, const char *ip, node_reply_fn *replied)
{
    char port[16];

    save_auth(n);
    (void)snprintf(port, sizeof port, "%d", feed_port(n->feed));
    node_ask(n, on_set, 6,
             (const char *const[]){"CONFIG", "SET", "masteruser", "", "masterauth", feed_password(n->feed)});
    node_ask(n, replied != NULL ? replied : on_set, 3,
             (const char *const[]){"REPLICAOF", ip[0] ? ip : "127.0.0.1", port});
}

static void begin_feed(struct node *n)
{
    const char *ip = backend_local_ip(n->control);
    struct feed_settings s = {.ip = ip,
                              .run_id = n->valkey.run_id,
                              .tls = certs_feed(n->certs),
                              .tls_expected = certs_valkey(n->certs) != NULL};
    char why[NODE_WHY_BYTES_MAX] = "";

    n->joined.pending = NULL;
    n->joined.pending_count = 0;
    n->follow.excused = 0;
    n->feed = feed_new(n->loop, n->diag, n->log, &s, &feed_callbacks, n, why, sizeof why);
    if (n->feed == NULL) {
        node_fail(n, "rebuild: %s", why);
        return;
    }
    feed_finish(n->feed, log_committed(n->log));
    node_kill_others(n);
    node_replicate(n, ip, NULL);
}

/* ---- resolve ---- */

void node_append_resolved(struct node *n, const struct replay_facts *facts)
{
    struct buf items = {0};

    for (size_t i = 0; i < facts->pending_count; i++)
        item_try(&items, facts->pending[i].seq, 1);
    item_resolved(&items, facts->pending[facts->pending_count - 1].seq);
    CHECK(!items.failed);
    frame_outcome(log_batch(n->log), facts->offset, &items);
    buf_free(&items);
    log_touch(n->log, true);
    diag_log(n->diag, DIAG_NOTICE, "%zu intents of the log have no outcome: executed now", facts->pending_count);
}

static void resolve(struct node *n)
{
    const struct replay_facts *facts = replay_facts(n->walk);

    n->joined = *facts;
    if (facts->pending_count == 0) {
        begin_feed(n);
        return;
    }
    node_append_resolved(n, facts);
    node_after(n, log_open_index(n->log), begin_feed);
}

static void walk_again(struct node *n)
{
    node_walk(n, resolve);
}

/* ---- the door ---- */

void node_rebuild_began(struct node *n, const char *why)
{
    n->rebuild.started_ms = n->rebuild.said_ms = loop_now_ms(n->loop);
    (void)snprintf(n->rebuild.why, sizeof n->rebuild.why, "%s", why);
    n->figures.rebuild_progress = 0;
    n->figures.last_rebuild_commands = 0;
}

void node_rebuild(struct node *n, const char *why)
{
    uint64_t index = 0;

    node_set_state(n, NODE_REBUILDING, why);
    node_rebuild_began(n, why);
    if (!n->closed_out || n->joined.attached) {
        if (!n->closed_out)
            n->events->close_out(n->arg);
        n->closed_out = true;
        index = node_append_attach(n, 0, "", "", false); /* behind what the core appended: durable together */
    }
    node_after(n, index, walk_again);
}

void node_rebuild_stop(struct node *n)
{
    feed_close(n->feed);
    n->feed = NULL;
}

void node_rebuilt(struct node *n)
{
    struct node_figures *f = &n->figures;

    f->rebuilds++;
    f->rebuild_progress = 1;
    f->last_rebuild_unix_ms = clock_wall_ms();
    f->last_rebuild_duration_ms = loop_now_ms(n->loop) - n->rebuild.started_ms;
    f->last_rebuild_commands = n->rebuild.commands;
    (void)snprintf(f->last_rebuild_why, sizeof f->last_rebuild_why, "%.*s", (int)sizeof f->last_rebuild_why - 1,
                   n->rebuild.why);
    diag_log(n->diag, DIAG_NOTICE, "Rebuilt Valkey at %s in %llu ms: %llu commands replayed", node_address(n),
             (unsigned long long)f->last_rebuild_duration_ms, (unsigned long long)f->last_rebuild_commands);
    node_rebuild_stop(n);
}

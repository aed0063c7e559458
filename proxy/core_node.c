/* What the node tells the core: attached, detached, effects, markers, snapshots.
 *
 *   node              here                                                   then
 *   attached          the sequencer begins with what the log has left over   lane, first marker; the worker opens
 *   effect, message   passed on in the stream's order; a marker of ours is   decisions
 *                     told apart by channel, term and form
 *   detached          what was seen is closed, all that waits fails          the worker shuts
 *   fed, unfed        no sequencer: this Valkey serves the reader-port       the worker opens, shuts */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/argv.h"
#include "proxy/core_internal.h"

static void take_commands(struct core *c, const char *reply, size_t n)
{
    char why[128];
    struct command_table *t = command_table_new(reply, n, why, sizeof why);

    if (t == NULL) {
        diag_log(c->diag, DIAG_WARNING, "COMMAND's reply cannot be read: %s", why);
        return;
    }
    command_table_free(c->commands);
    c->commands = t;
}

/* CONFIG SET holds for the group, whoever leads; the settings say what is so, or the next CONFIG SET of anything
 * would change it back. */
static void take_mode(struct core *c, enum durability mode)
{
    if (c->config->durability != mode)
        diag_log(c->diag, DIAG_NOTICE, "Durability mode: %s, as the group was told; this node's settings say %s",
                 durability_name(mode), durability_name(c->config->durability));
    c->config->durability = mode;
    atomic_store(&c->set.gate->mode, (int)mode);
}

static void on_attached(void *arg, struct valkey_identity *identity, const struct replay_facts *facts, bool bridged)
{
    struct core *c = arg;

    valkey_identity_free(c->identity);
    c->identity = identity;
    take_commands(c, identity->commands, identity->commands_bytes);
    c->attached = c->was_attached = true;
    if (!log_alone(c->log) && facts->mode >= 0)
        take_mode(c, (enum durability)facts->mode);
    c->marker_channel[0] = '\0'; /* a new nonce for each attachment */
    c->marker_term = log_term(c->log);
    c->marker_paused = c->unheard = false;
    c->durable_offset = facts->offset;
    core_users_came(c);
    core_facts(c);
    seq_attach(c->seq, facts, bridged);
    core_decisions(c);
    diag_log(c->diag, DIAG_VERBOSE, "Attached to Valkey's stream at offset %" PRIu64 "%s, %zu intents to settle",
             facts->offset, bridged ? " (bridged)" : "", bridged ? facts->pending_count : 0);
}

static void on_detached(void *arg, const char *why)
{
    struct core *c = arg;

    if (!c->attached)
        return;
    diag_log(c->diag, DIAG_VERBOSE, "Detached from Valkey: %s", why);
    c->attached = c->lane_wanted = c->worker_open = false;
    core_users_gone(c);
    c->detached_ms = loop_now_ms(c->loop);
    c->ack_count = 0;
    loop_timer_stop(c->lane_timer);
    loop_timer_stop(c->marker_timer);
    if (atomic_load(&c->set.gate->state) == GATE_OPEN)
        atomic_store(&c->set.gate->state, GATE_SHUT);
    core_post(c, TO_WORKER_SHUT, NULL, 0, must_strdup(why));
    lane_close(c);
    core_facts(c);
    seq_detach(c->seq);
    atomic_store(&c->set.gate->epoch, seq_epoch(c->seq));
    core_decisions(c);
}

static void on_close_out(void *arg)
{
    struct core *c = arg;

    core_facts(c);
    seq_close_out(c->seq);
    core_decisions(c);
}

/* ---- the stream ---- */

/* A SELECT inside a unit moves the database for what follows it. */
static uint32_t selected(const struct argv *a, uint32_t db)
{
    int64_t n;

    if (argv_is(a, 0, "select") && a->count == 2 && argv_integer(a, 1, &n) && n >= 0)
        return (uint32_t)n;
    return db;
}

static void effect_keys(struct core *c, const struct effect *e, struct keyset *keys)
{
    uint32_t db = e->db_before;

    if (!seq_tracking(c->seq))
        return;
    for (size_t i = 0; i < e->command_count; i++) {
        const struct argv *a = &e->commands[i];
        const struct command *cmd = c->commands != NULL ? command_find(c->commands, a) : NULL;

        if (argv_is(a, 0, "select"))
            db = selected(a, db);
        else if (cmd == NULL)
            keys->all = true;
        else if (cmd->flags & (CMD_WRITE | CMD_HAS_KEYS | CMD_SCRIPT))
            command_keys(c->commands, cmd, a, db, keys);
    }
}

static void on_effect(void *arg, const struct effect *e)
{
    struct core *c = arg;
    struct keyset keys = {0};
    struct seq_effect s = {.db_before = e->db_before,
                           .db_after = e->db_after,
                           .bytes = e->bytes,
                           .n = e->n,
                           .single = e->unit || e->command_count != 1 ? NULL : &e->commands[0],
                           .keys = &keys,
                           .end_offset = e->end_offset};

    if (!c->leads) { /* stepped down, not detached yet: nothing of it counts */
        c->unheard = true;
        return;
    }
    effect_keys(c, e, &keys);
    core_facts(c);
    seq_effect(c->seq, &s);
    core_decisions(c);
    keyset_clear(&keys);
}

static bool is_marker(const struct core *c, const char *channel, size_t n)
{
    return c->marker_channel[0] != '\0' && n == strlen(c->marker_channel) &&
           memcmp(channel, c->marker_channel, n) == 0;
}

static bool on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    struct core *c = arg;
    uint64_t term, number, resolves;
    char text[80], rest;
    bool seen = false;

    if (!c->leads)
        return is_marker(c, channel, channel_n);
    if (is_marker(c, channel, channel_n) && payload_n < sizeof text) {
        memcpy(text, payload, payload_n);
        text[payload_n] = '\0';
        if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 "%c", &term, &number, &resolves, &rest) == 3 &&
            term == c->marker_term) {
            core_facts(c);
            seq_stream_db(c->seq, e->db_after);
            seen = seq_marker_seen(c->seq, number, resolves, e->end_offset);
            core_decisions(c);
        }
    }
    if (!seen)
        on_effect(arg, e); /* anybody else's message: an effect like any other */
    return seen && seq_is_clean(c->seq, &number);
}

/* ---- snapshots, commands ---- */

static bool on_map_offset(void *arg, uint64_t offset, struct snapshot_mark *mark)
{
    struct core *c = arg;

    return seq_map_offset(c->seq, offset, mark);
}

static void on_snapshot_started(void *arg)
{
    struct core *c = arg;

    seq_watch_offsets(c->seq, true);
}

static void on_snapshot_ended(void *arg, bool ok, const struct snapshot_mark *mark)
{
    struct core *c = arg;
    uint8_t mode = (uint8_t)core_logged_mode(c);
    struct buf body = {0};

    seq_watch_offsets(c->seq, false);
    if (!ok)
        return;
    buf_varint(&body, mark->index);
    frame_control(log_batch(c->log), CONTROL_SNAPSHOT, buf_head(&body), body.len);
    frame_control(log_batch(c->log), CONTROL_MODE, &mode, 1); /* the entry that said it goes with the truncation */
    core_users_again(c);
    log_touch(c->log, false);
    buf_free(&body);
}

static void on_commands(void *arg, const char *reply, size_t n)
{
    struct core *c = arg;
    struct buf *copy = must_calloc(1, sizeof *copy);

    take_commands(c, reply, n);
    buf_append(copy, reply, n);
    CHECK(!copy->failed);
    core_post(c, TO_WORKER_COMMANDS, NULL, 0, copy);
}

/* Following: our Valkey serves the reader-port. */
static void on_fed(void *arg, struct valkey_identity *identity)
{
    struct core *c = arg;

    core_users_came(c);
    c->worker_open = true;
    core_post(c, TO_WORKER_OPEN, NULL, 0, identity);
    atomic_store(&c->set.gate->state, GATE_OPEN);
}

static void on_unfed(void *arg, const char *why)
{
    struct core *c = arg;

    if (!c->worker_open)
        return;
    c->worker_open = false;
    if (atomic_load(&c->set.gate->state) == GATE_OPEN)
        atomic_store(&c->set.gate->state, GATE_SHUT);
    core_post(c, TO_WORKER_SHUT, NULL, 0, must_strdup(why));
}

static bool on_clean(void *arg, uint64_t offset, uint64_t *index)
{
    struct core *c = arg;

    (void)offset; /* the tap has read up to it, and what it read was told in order */
    return !c->unheard && seq_is_clean(c->seq, index);
}

static void on_failed(void *arg, const char *why)
{
    struct core *c = arg;

    c->set.failed(c->set.arg, why);
}

const struct node_events core_node_events = {
    .attached = on_attached,
    .detached = on_detached,
    .close_out = on_close_out,
    .effect = on_effect,
    .message = on_message,
    .map_offset = on_map_offset,
    .snapshot_started = on_snapshot_started,
    .snapshot_ended = on_snapshot_ended,
    .commands = on_commands,
    .failed = on_failed,
    .fed = on_fed,
    .unfed = on_unfed,
    .clean = on_clean,
};

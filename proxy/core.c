/* The driver of the sequencer: see core.h. Each turn of the loop, as a hook:
 *
 *     messages of the worker ─▶ facts ─▶ decisions ─▶ a marker, if one is wanted ─▶ cut ─▶ log_flush
 *
 * so that all writes that arrived together share one commit, one write to Valkey and one marker. */
#include "proxy/certs.h"
#include "proxy/core_internal.h"

#include <stdio.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/stream.h"
#include "proxy/resp.h"

enum { LEAVE_MS = 3000 }; /* for handing leadership over before the end */

void core_post(struct core *c, enum message_kind kind, struct op *op, uint64_t number, void *pointer)
{
    queue_push(c->set.to_worker, (struct message){.kind = kind, .op = op, .number = number, .pointer = pointer});
}

void core_facts(struct core *c)
{
    if (c->leads)
        seq_log_open(c->seq, log_open_index(c->log));
}

static void remember_offset(struct core *c, uint64_t index, uint64_t offset)
{
    if (c->ack_count == c->ack_cap) {
        size_t cap = c->ack_cap ? 2 * c->ack_cap : 64;
        uint64_t *i = must_calloc(cap, sizeof *i), *o = must_calloc(cap, sizeof *o);

        for (size_t k = 0; k < c->ack_count; k++) {
            i[k] = c->ack_index[(c->ack_head + k) & (c->ack_cap - 1)];
            o[k] = c->ack_offset[(c->ack_head + k) & (c->ack_cap - 1)];
        }
        free(c->ack_index);
        free(c->ack_offset);
        c->ack_index = i;
        c->ack_offset = o;
        c->ack_cap = cap;
        c->ack_head = 0;
    }
    c->ack_index[(c->ack_head + c->ack_count) & (c->ack_cap - 1)] = index;
    c->ack_offset[(c->ack_head + c->ack_count++) & (c->ack_cap - 1)] = offset;
}

void core_log_moved(struct core *c, uint64_t from, uint64_t to)
{
    seq_log_moved(c->seq, to);
    node_log_moved(c->node, from, to);
    core_mode_moved(c, from, to);
    core_users_moved(c, from, to);
    for (size_t k = 0; k < c->ack_count; k++) {
        uint64_t *index = &c->ack_index[(c->ack_head + k) & (c->ack_cap - 1)];

        if (*index >= from)
            *index += to - from;
    }
}

/* ---- decisions ---- */

static void append_intent(struct core *c, const struct seq_decision *d)
{
    CHECK(d->index == log_open_index(c->log));
    frame_intent(log_batch(c->log), d->op->seq, d->op->db, buf_head(&d->op->request), d->op->request.len);
    log_touch(c->log, true);
}

static void append_outcome(struct core *c, struct seq_decision *d)
{
    CHECK(d->index == log_open_index(c->log));
    frame_outcome(log_batch(c->log), d->end_offset, &d->items);
    buf_free(&d->items);
    log_touch(c->log, d->urgent);
    remember_offset(c, d->index, d->end_offset);
}

static void release(struct core *c, struct op *op)
{
    if (op->kind != OP_READ && op->accepted_us != 0)
        histogram_add(&c->release_us, loop_now_us(c->loop) - op->accepted_us);
    if (op->kind == OP_LOCAL && !core_in_zones(c, op))
        return;
    if (core_under_lease(c, op))
        core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
}

/* "Accepted, not confirmed": never said of a write that was refused. A read can simply be asked again. */
void core_fail(struct core *c, struct op *op)
{
    buf_free(&op->reply);
    op->error = true;
    if (op->kind == OP_READ && !log_alone(c->log) && (!c->leads || c->lost)) {
        resp_error(&op->reply, "CLUSTERDOWN This node does not lead any more, ask again");
    } else if (op->kind == OP_READ && c->attached) { /* held for durability-lag-max by a log that stands still */
        resp_error(&op->reply, "TRYAGAIN The newest value of the key is not durable yet");
    } else if (op->kind == OP_READ) {
        resp_error(&op->reply, "LOADING Valkey was lost while the value was being made durable, ask again");
    } else {
        c->writes_uncertain++;
        resp_error(&op->reply, "UNCERTAIN The write was accepted but not confirmed, it may still be applied");
    }
    core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
}

static void on_killed(void *arg, uint64_t client_id, bool ok)
{
    struct core *c = arg;

    if (!ok || !c->attached)
        return;
    core_facts(c);
    seq_killed(c->seq, client_id);
    core_decisions(c);
}

static void carry_out(struct core *c, struct seq_decision *d)
{
    switch (d->act) {
    case SEQ_INTENT:
        append_intent(c, d);
        break;
    case SEQ_OUTCOME:
        append_outcome(c, d);
        break;
    case SEQ_URGE:
        log_touch(c->log, true);
        break;
    case SEQ_FORWARD:
        lane_send(c, d->op);
        break;
    case SEQ_KILL:
        node_kill_client(c->node, d->number, on_killed, c);
        break;
    case SEQ_REOPEN:
        c->lane_wanted = true;
        lane_connect(c);
        break;
    case SEQ_RELEASE:
        release(c, d->op);
        break;
    case SEQ_FAIL:
        core_fail(c, d->op);
        break;
    }
}

void core_decisions(struct core *c)
{
    struct seq_decision d;

    while (seq_next(c->seq, &d))
        carry_out(c, &d);
    if (c->reads_until_boot_ms != 0 && !seq_is_calm(c->seq))
        core_reads_until(c, 0);
}

/* ---- messages ---- */

static void set_tracking(struct core *c)
{
    bool before = seq_tracking(c->seq);

    seq_track(c->seq, c->sync_sessions > 0);
    if (seq_tracking(c->seq) && !before)
        c->tracking_fresh = true; /* begun before the worker knew: their keys were not sent */
    atomic_store(&c->set.gate->tracking, seq_tracking(c->seq));
}

static void async_message(struct core *c, const struct message *m)
{
    switch (m->kind) {
    case TO_CORE_ASYNC_BEGIN:
        c->writes_async++;
        seq_async_begin(c->seq, m->number);
        if (c->tracking_fresh)
            seq_async_all(c->seq);
        break;
    case TO_CORE_ASYNC_KEY:
        seq_async_key(c->seq, m->number);
        break;
    case TO_CORE_ASYNC_ALL:
        seq_async_all(c->seq);
        break;
    default:
        seq_async_end(c->seq, m->number, loop_now_us(c->loop));
        break;
    }
}

static void op_message(struct core *c, const struct message *m)
{
    uint64_t now = loop_now_us(c->loop);

    switch (m->kind) {
    case TO_CORE_WRITE:
        c->writes_sync++;
        seq_write(c->seq, m->op, now);
        break;
    case TO_CORE_LANE:
        c->writes_captured++;
        seq_lane_captured(c->seq, m->op, now);
        break;
    case TO_CORE_BEGIN:
        c->writes_captured++;
        m->op->accepted_us = now;
        seq_begin(c->seq, m->op);
        break;
    case TO_CORE_END:
        if (!log_alone(c->log))
            m->op->came_boot_ms = log_boot_ms();
        seq_end(c->seq, m->op, now);
        break;
    case TO_CORE_BROKEN:
        seq_broken(c->seq, m->op, m->number);
        break;
    case TO_CORE_USERS:
        core_users_log(c, m->op);
        break;
    case TO_CORE_READ:
        m->op->accepted_us = now;
        if (!log_alone(c->log))
            m->op->came_boot_ms = log_boot_ms();
        seq_read(c->seq, m->op);
        break;
    default:
        CHECK(m->kind == TO_CORE_WAIT);
        seq_wait(c->seq, m->op);
        break;
    }
}

static void on_message(struct core *c, const struct message *m)
{
    core_facts(c);
    switch (m->kind) {
    case TO_CORE_ASYNC_BEGIN:
    case TO_CORE_ASYNC_KEY:
    case TO_CORE_ASYNC_ALL:
    case TO_CORE_ASYNC_END:
        async_message(c, m);
        break;
    case TO_CORE_KILL:
        seq_broken_async(c->seq, m->number);
        break;
    case TO_CORE_MODE:
        core_set_mode(c, m->op, (enum durability)m->number);
        break;
    case TO_CORE_SYNC_SESSIONS:
        c->sync_sessions = m->number;
        set_tracking(c);
        break;
    case TO_CORE_RELOAD_COMMANDS:
        node_reload_commands(c->node);
        break;
    case TO_CORE_BACKUP:
        core_backup(c, m->pointer);
        break;
    default:
        op_message(c, m);
        break;
    }
    core_decisions(c);
}

/* ---- turns and time ---- */

static bool drain_finished(struct core *c)
{
    return (seq_oldest_us(c->seq) == 0 && log_pending_bytes(c->log) == 0) || !c->attached ||
           loop_now_ms(c->loop) >= c->drain_until_ms;
}

static void on_node_stopped(void *arg)
{
    struct core *c = arg;

    c->drained(c->drained_arg);
}

static void stop_node(struct core *c)
{
    node_stop(c->node, on_node_stopped, c);
}

static void on_handed_over(void *arg, bool ok, const char *why)
{
    struct core *c = arg;

    (void)ok;
    (void)why;
    stop_node(c);
}

static bool on_turn(void *arg)
{
    struct core *c = arg;
    struct message m;
    bool worked = false;

    while (queue_pop(c->set.to_core, &m)) {
        on_message(c, &m);
        worked = true;
    }
    c->tracking_fresh = false;
    if (seq_tracking(c->seq) != (c->sync_sessions > 0))
        set_tracking(c);
    core_facts(c);
    seq_tick(c->seq, loop_now_us(c->loop));
    seq_effects_end(c->seq);
    core_decisions(c);
    lane_markers(c);
    worked = log_flush(c->log) || worked;
    core_group_turn(c);
    core_facts(c);
    core_refusal(c);
    core_reads_turn(c);
    return worked || c->set.to_worker->count > 0;
}

static void on_tick(void *arg)
{
    struct core *c = arg;
    uint64_t now = loop_now_us(c->loop), max_us = (uint64_t)c->config->durability_lag_max_ms * 1000u;

    atomic_store(&c->set.gate->progress_percent, (int)(node_figures(c->node)->rebuild_progress * 100));
    if (now > max_us) {
        core_facts(c);
        seq_expire(c->seq, now - max_us);
        core_decisions(c);
    }
    core_group_tick(c);
    core_users_tick(c);
    core_backup_tick(c);
    if (c->drained != NULL && !c->node_stopping && drain_finished(c)) {
        c->node_stopping = true;
        if (log_alone(c->log) || !c->leads || c->lost)
            stop_node(c);
        else /* no client sees more of it than a new connection */
            core_hand_over(c, NULL, LEAVE_MS, on_handed_over, c);
    }
}

/* ---- the log ---- */

static void on_committed(void *arg, uint64_t index)
{
    struct core *c = arg;
    bool moved = false;

    if (c->leads) {
        core_facts(c);
        seq_committed(c->seq, index);
        core_decisions(c);
        core_mode_committed(c, index);
    }
    core_users_tick(c);
    while (c->ack_count > 0 && c->ack_index[c->ack_head] <= index) {
        c->durable_offset = c->ack_offset[c->ack_head];
        c->ack_head = (c->ack_head + 1) & (c->ack_cap - 1);
        c->ack_count--;
        moved = true;
    }
    if (moved && c->attached)
        node_ack(c->node, c->durable_offset);
    node_committed(c->node, index);
}

static void on_stalled(void *arg, bool stalled, const char *why)
{
    struct core *c = arg;

    (void)snprintf(c->stalled_why, sizeof c->stalled_why, "%s", stalled ? why : "");
    if (stalled && c->leads)
        node_snapshot(c->node, "the log cannot grow");
}

static void on_log_failed(void *arg, const char *why)
{
    struct core *c = arg;

    c->set.failed(c->set.arg, why);
}

struct log_dial *core_relay(void *arg, const void *extra, size_t n,
                            void (*done)(void *arg, struct stream *s, const char *why), void *done_arg)
{
    struct core *c = arg;

    return log_relay(c->log, extra, n, done, done_arg);
}

void core_relay_cancel(struct log_dial *d)
{
    log_relay_cancel(d);
}

struct core *core_new(struct loop *l, const struct diag *d, const struct core_settings *s, char *why, size_t why_size)
{
    struct core *c = must_calloc(1, sizeof *c);
    struct log_settings ls = {
        .dir = s->config->data_dir, .size_max_bytes = s->config->log_size_max, .node = s->config->node};
    struct members members = {0};

    c->loop = l;
    c->diag = d;
    c->set = *s;
    c->config = s->config;
    c->seq = seq_new();
    TAILQ_INIT(&c->lease_waiting);
    TAILQ_INIT(&c->zone_waiting);
    TAILQ_INIT(&c->users_waiting);
    c->log_events = (struct log_events){.committed = on_committed, .stalled = on_stalled, .failed = on_log_failed};
    core_group_events(&c->log_events);
    if (!core_group_settings(c, &ls, &members, why, why_size) ||
        (c->log = log_open(l, d, &ls, &c->log_events, c, why, why_size)) == NULL) {
        seq_free(c->seq);
        free(c);
        return NULL;
    }
    c->leads = log_alone(c->log);
    core_facts(c);
    seq_committed(c->seq, log_committed(c->log));
    atomic_store(&s->gate->mode, (int)s->config->durability);
    atomic_store(&s->gate->epoch, seq_epoch(c->seq));
    c->lane_timer = loop_timer_new(l, lane_on_retry, c);
    c->marker_timer = loop_timer_new(l, lane_on_marker_retry, c);
    c->tick = loop_timer_new(l, on_tick, c);
    loop_timer_every(c->tick, CORE_TICK_MS);
    c->node = node_new(l, d, s->config, s->certs, c->log, &core_node_events, c);
    loop_add_hook(l, on_turn, c);
    if (!log_alone(c->log))
        node_play(c->node, NODE_UNDECIDED);
    if (!c->witness)
        node_start(c->node);
    return c;
}

void core_drain(struct core *c, uint64_t timeout_ms, void (*done)(void *arg), void *arg)
{
    c->drained = done;
    c->drained_arg = arg;
    c->drain_until_ms = loop_now_ms(c->loop) + timeout_ms;
}

void core_reconfigure(struct core *c)
{
    log_reload_tls(c->log);
    if (c->set.certs != NULL)
        certs_reload(c->set.certs, c->config);
}

void core_free(struct core *c)
{
    lane_close(c);
    seq_detach(c->seq);
    core_decisions(c);
    core_users_end(c);
    core_backup_end(c);
    node_free(c->node);
    loop_timer_free(c->lane_timer);
    loop_timer_free(c->marker_timer);
    loop_timer_free(c->tick);
    log_close(c->log);
    core_admin_end(c);
    seq_free(c->seq);
    command_table_free(c->commands);
    valkey_identity_free(c->identity);
    free(c->ack_index);
    free(c->ack_offset);
    free(c);
}

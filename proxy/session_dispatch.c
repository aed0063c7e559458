/* From a parsed command to its way: facts for the router, then what the route asks for.
 *
 * Clause 5 of the release rule lives here (session_needs): a command goes to another connection than its predecessor
 * only when Valkey has answered all earlier ones of the session.
 *
 *   SET a 1 (sync: writer lane)  SET b 2 (the same: pipelined)  GET a (a shared lane: held until both are answered)
 *
 * A command that has to wait is NOT_NOW: nothing was done, and it is dispatched again, from the beginning, when the
 * session is kicked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/hash.h"
#include "log/base/stream.h"
#include "proxy/blocked.h"
#include "proxy/lane.h"
#include "proxy/local.h"
#include "proxy/pause.h"
#include "proxy/pinned.h"
#include "proxy/rights.h"
#include "proxy/scripts.h"
#include "proxy/session.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

enum {
    WRITE_LOG_SHARE = 8, /* one command takes at most this part of log-size-max: an entry must fit */
    GROUP_WRITE_BYTES_MAX = 64 * 1024 * 1024 /* and into a frame between members, which heartbeats wait behind */
};

/* ---- waiting ---- */

bool session_over_limit(const struct session *s)
{
    return s->op_count >= SESSION_OPS_MAX || s->op_count * s->reply_bytes >= SESSION_REPLIES_BYTES_MAX ||
           s->inflight_bytes >= SESSION_INFLIGHT_BYTES_MAX || stream_pending(s->stream) >= SESSION_OUT_BYTES_MAX;
}

enum dispatch session_hold(struct session *s, enum hold why)
{
    s->hold = why;
    if (why == HOLD_READY)
        session_wait(s);
    return NOT_NOW;
}

enum hold session_needs(const struct session *s, enum via via)
{
    return s->uncame > 0 && (s->barrier || s->via != via) ? HOLD_CAME : HOLD_NONE;
}

/* No connection yet: wait a little, then say so. One that is being made is waited for, however busy Valkey is; when
 * that is too long, it is lost as a whole (valkey-timeout). */
enum dispatch session_wait_ready(struct session *s)
{
    char text[128];

    if (s->held == NULL || loop_now_ms(s->worker->loop) - s->held->since_ms < SESSION_HOLD_MS_MAX ||
        pinned_connecting(s))
        return session_hold(s, HOLD_READY);
    if (s->tx == NULL && s->last != NULL && strcmp(s->last->name, "multi") == 0) {
        tx_begin_unserved(s);
        return DISPATCHED;
    }
    if (s->tx != NULL)
        s->tx->refused = true;
    session_say(s, session_loading_text(s->worker, text, sizeof text));
    return DISPATCHED;
}

/* ---- ways ---- */

static void keys_of(struct session *s, struct task *t, const struct command *c, const struct argv *a)
{
    if (c == NULL)
        t->op.keys.all = true;
    else
        command_keys(s->worker->commands, c, a, t->op.db, &t->op.keys);
}

enum hold session_lane(struct session *s, struct lane **out)
{
    struct lane *l = lanes_of(s->worker->lanes, s);

    if (session_needs(s, VIA_LANE) != HOLD_NONE || (l != s->lane && s->uncame > 0))
        return HOLD_CAME;
    if (l == NULL || !lane_usable(l))
        return HOLD_READY;
    s->lane = *out = l;
    return HOLD_NONE;
}

static enum dispatch choose_lane(struct session *s, struct lane **out)
{
    switch (session_lane(s, out)) {
    case HOLD_NONE:
        return DISPATCHED;
    case HOLD_READY:
        return session_wait_ready(s);
    default:
        return session_hold(s, HOLD_CAME);
    }
}

/* DISPATCHED with *out == NULL: it was answered with an error. */
enum dispatch session_to_lane(struct session *s, enum op_kind kind, const struct command *c, const struct argv *a,
                              task_reply_fn *on_reply, struct task **out)
{
    struct lane *l = NULL;
    struct task *t;

    *out = NULL;
    if (choose_lane(s, &l) == NOT_NOW)
        return NOT_NOW;
    if (l == NULL)
        return DISPATCHED;
    t = session_task(s, kind);
    t->on_reply = on_reply;
    if (kind == OP_READ && t->op.sync)
        keys_of(s, t, c, a);
    session_sent(s, t, TASK_LANE, VIA_LANE);
    lane_ask(l, t, a->bytes, a->n);
    *out = t;
    return DISPATCHED;
}

enum dispatch session_to_control(struct session *s, const char *resp, size_t n, task_reply_fn *on_reply,
                                 struct task **out)
{
    struct lane *l = lanes_control(s->worker->lanes);
    struct task *t;

    *out = NULL;
    if (session_needs(s, VIA_CONTROL) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    if (!lane_usable(l))
        return session_wait_ready(s);
    t = session_task(s, OP_NEUTRAL);
    t->on_reply = on_reply;
    t->op.db = 0;
    session_sent(s, t, TASK_LANE, VIA_CONTROL);
    lane_ask(l, t, resp, n);
    *out = t;
    return DISPATCHED;
}

enum dispatch session_to_pinned(struct session *s, enum op_kind kind, const struct command *c, const struct argv *a,
                                task_reply_fn *on_reply, struct task **out)
{
    bool blocks = c != NULL && command_blocks(c, a);
    struct task *t;

    *out = NULL;
    if (session_needs(s, VIA_PINNED) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    if (!pinned_ready(s, !session_full(s))) {
        if (blocks)
            blocked_queue(s);
        return session_wait_ready(s);
    }
    if (blocks && !blocked_turn(s))
        return session_hold(s, HOLD_READY);
    t = session_task(s, kind);
    t->on_reply = on_reply;
    t->blocks = blocks;
    if (kind == OP_CAPTURED || (kind == OP_READ && t->op.sync))
        keys_of(s, t, c, a);
    pinned_ask(s, t, a->bytes, a->n);
    *out = t;
    return DISPATCHED;
}

enum dispatch session_forward(struct session *s, const struct argv *a, task_reply_fn *on_reply, struct task **out)
{
    if (!users_known(s->worker->users)) {
        *out = NULL;
        return session_wait_ready(s);
    }
    if (!session_full(s) || session_stateful(s))
        return session_to_pinned(s, OP_NEUTRAL, NULL, a, on_reply, out);
    return session_to_lane(s, OP_NEUTRAL, NULL, a, on_reply, out);
}

/* A write of an async session: sent at once; the core is told that it begins, under which epoch, and later that it
 * has ended. */
void session_send_async(struct session *s, struct lane *l, struct task *t, const char *bytes, size_t n)
{
    struct worker *w = s->worker;

    t->op.sync = false;
    t->async_write = true;
    t->epoch = atomic_load_explicit(&w->set.gate->epoch, memory_order_relaxed);
    worker_post(w, TO_CORE_ASYNC_BEGIN, NULL, t->epoch);
    if (atomic_load_explicit(&w->set.gate->tracking, memory_order_relaxed)) {
        if (t->op.keys.all)
            worker_post(w, TO_CORE_ASYNC_ALL, NULL, 0);
        for (uint32_t i = 0; i < t->op.keys.count; i++)
            worker_post(w, TO_CORE_ASYNC_KEY, NULL, keyset_keys(&t->op.keys)[i]);
    }
    session_sent(s, t, TASK_LANE, VIA_LANE);
    lane_ask(l, t, bytes, n);
}

static enum dispatch to_async(struct session *s, const struct command *c, const struct argv *a)
{
    struct lane *l = NULL;
    struct task *t;

    if (choose_lane(s, &l) == NOT_NOW)
        return NOT_NOW;
    if (l == NULL)
        return DISPATCHED;
    t = session_task(s, OP_CAPTURED);
    if (atomic_load_explicit(&s->worker->set.gate->tracking, memory_order_relaxed))
        keys_of(s, t, c, a);
    session_send_async(s, l, t, a->bytes, a->n);
    return DISPATCHED;
}

/* ---- to the writer lane, by way of the core ---- */

static uint64_t write_bytes_max(const struct worker *w)
{
    uint64_t share = w->set.config->log_size_max / WRITE_LOG_SHARE;

    return w->set.config->member_count > 0 && share > GROUP_WRITE_BYTES_MAX ? GROUP_WRITE_BYTES_MAX : share;
}

static void find_args(struct op *op)
{
    const char *bytes = buf_head(&op->request);

    (void)argv_places(bytes, op->request.len, NULL, &op->arg_count);
    op->args = must_calloc(op->arg_count, sizeof *op->args);
    CHECK(argv_places(bytes, op->request.len, op->args, &op->arg_count) == op->request.len);
}

static void copy_args(struct op *op, const struct argv *a)
{
    op->args = must_calloc(a->count, sizeof *op->args);
    memcpy(op->args, a->arg, a->count * sizeof *op->args);
    op->arg_count = a->count;
}

/* XADD with `*`: the id is ours. False: not one that can be given an id. */
static bool choose_id(struct session *s, struct task *t, const struct command *c, const struct argv *a)
{
    struct worker *w = s->worker;

    if (!w->identity->scripts || !canon_wants_id(c->canon, a))
        return false;
    canon_with_id(a, stream_ids_next(w->ids, key_hash(t->op.db, argv_at(a, 1), argv_len(a, 1)), clock_wall_ms()),
                  &t->op.request, &t->op.sent);
    return true;
}

enum canon_result session_intent(struct session *s, struct task *t, const struct command *c, const struct argv *a,
                                 uint64_t now_ms)
{
    enum canon_result result =
        choose_id(s, t, c, a) ? CANON_REWRITTEN : canon_intent(c->canon, a, now_ms, &t->op.request);
    const struct command *canonical = c;
    struct argv made;

    if (result == CANON_NO)
        return CANON_NO;
    if (result == CANON_SAME) {
        buf_append(&t->op.request, a->bytes, a->n);
        copy_args(&t->op, a);
    } else if (!t->op.request.failed) {
        find_args(&t->op);
    }
    if (t->op.request.failed || t->op.sent.failed)
        return result;
    made = (struct argv){buf_head(&t->op.request), t->op.request.len, t->op.args, t->op.arg_count};
    if (result == CANON_REWRITTEN) /* SETEX became SET */
        canonical = command_find(s->worker->commands, &made);
    CHECK(canonical != NULL && canonical->canon != 0);
    keys_of(s, t, canonical, &made);
    if (t->op.keys.all) /* the rule needs to know them */
        return CANON_NO;
    t->op.kind = OP_WRITE;
    t->op.canon = canonical->canon;
    op_hash_effect(&t->op);
    return result;
}

/* What is logged counts, too: with absolute times it may be longer than what was said. */
bool session_intent_fits(const struct session *s, const struct task *t)
{
    return t->op.kind != OP_WRITE || t->op.request.len <= write_bytes_max(s->worker);
}

void session_send_writer(struct session *s, struct task *t)
{
    if (!session_intent_fits(s, t)) {
        session_answer_error(t, session_too_large);
        return;
    }
    if (t->op.request.failed || t->op.sent.failed) {
        session_answer_error(t, "ERR out of memory for the command");
        return;
    }
    session_sent(s, t, TASK_CORE, VIA_WRITER);
    worker_post(s->worker, t->op.kind == OP_WRITE ? TO_CORE_WRITE : TO_CORE_LANE, &t->op, 0);
}

static enum dispatch to_writer(struct session *s, bool try_intent, const struct command *c, const struct argv *a)
{
    struct task *t;

    if (session_needs(s, VIA_WRITER) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    if (s->worker->identity == NULL)
        return session_wait_ready(s);
    t = session_task(s, OP_CAPTURED);
    t->op.accepted_us = loop_now_us(s->worker->loop);
    if (!try_intent || session_intent(s, t, c, a, clock_wall_ms()) == CANON_NO) {
        buf_clear(&t->op.request);
        buf_clear(&t->op.sent);
        buf_append(&t->op.request, a->bytes, a->n);
        if (c->flags & (CMD_WRITE | CMD_SCRIPT | CMD_MAY_REPLICATE)) /* SCRIPT LOAD touches no key */
            keys_of(s, t, c, a);
    }
    session_send_writer(s, t);
    return DISPATCHED;
}

/* ---- dispatch ---- */

static enum dispatch follow(struct session *s, const struct route_facts *f, const struct route *r,
                            const struct local_row *row)
{
    const struct command *c = f->command;
    const struct argv *a = f->args;
    struct task *t;

    if (r->to != ROUTE_REFUSE && (r->to != ROUTE_LOCAL || f->treatment == TREAT_LOCAL) &&
        !users_known(s->worker->users))
        return session_wait_ready(s);
    switch (r->to) {
    case ROUTE_REFUSE:
        session_refuse(s, f, r->why, row);
        return DISPATCHED;
    case ROUTE_LOCAL:
        return row->run(s, a);
    case ROUTE_LANE:
        return session_to_lane(s, r->kind, c, a, NULL, &t);
    case ROUTE_CONTROL:
        return session_to_control(s, a->bytes, a->n, NULL, &t);
    case ROUTE_ASYNC:
        return to_async(s, c, a);
    case ROUTE_WRITE:
        return f->full ? to_writer(s, true, c, a) : rights_write(s, c, a);
    case ROUTE_WRITER:
        return to_writer(s, false, c, a);
    case ROUTE_MULTI:
        return tx_command(s, f, r);
    case ROUTE_PINNED:
        break;
    }
    if (f->treatment >= TREAT_MULTI && f->treatment <= TREAT_UNWATCH)
        return tx_command(s, f, r);
    if (row->run != NULL)
        return row->run(s, a);
    if (c == NULL || ((c->flags & CMD_CONTAINER) != 0 && a->count > 1))
        worker_reload_commands(s->worker);
    return session_to_pinned(s, r->kind, (c != NULL && (c->flags & CMD_CONTAINER) != 0) ? NULL : c, a, NULL, &t);
}

static bool needs_no_auth(const struct local_row *row, const struct command *c)
{
    return row->treatment == TREAT_AUTH || row->treatment == TREAT_QUIT || row->treatment == TREAT_RESET ||
           row->run == local_hello || row->run == local_close || (c != NULL && (c->flags & CMD_NO_AUTH) != 0);
}

static enum dispatch serve(struct session *s, const struct route_facts *f, const struct local_row *row)
{
    bool ends_tx = row->treatment == TREAT_EXEC || row->treatment == TREAT_DISCARD, may;
    struct route r;

    if (s->tx != NULL && s->tx->place == TX_UNSERVED && row->treatment != TREAT_QUIT && row->treatment != TREAT_RESET)
        return tx_unserved(s, f);
    if (tx_is_here(s) && ends_tx)
        return row->treatment == TREAT_EXEC && pause_holds(s, f) ? session_hold(s, HOLD_PAUSE) : tx_here_end(s, f);
    r = route_command(f);
    if (r.to == ROUTE_REFUSE && r.why == WHY_LOADING && row->treatment == TREAT_MULTI) {
        tx_begin_unserved(s);
        return DISPATCHED;
    }
    if (r.to == ROUTE_MULTI && row->treatment != TREAT_BY_FLAGS && !row->in_multi)
        r = (struct route){.to = ROUTE_REFUSE, .kind = OP_LOCAL, .why = WHY_IN_MULTI};
    if (r.to != ROUTE_REFUSE && pause_holds(s, f))
        return session_hold(s, HOLD_PAUSE);
    if (r.to == ROUTE_LOCAL) {
        enum dispatch done = rights_ask(s, f, row, &may);

        if (!may)
            return done;
    }
    return follow(s, f, &r, row);
}

/* What a script says of itself; and from now on the session shares a lane with others that run some. */
static bool look_at_script(struct session *s, const struct command *c, const struct argv *a)
{
    struct scripts *known = s->worker->scripts;

    if (strcmp(c->name, "script|load") == 0 && a->count == 3)
        scripts_learn(known, argv_at(a, 2), argv_len(a, 2));
    if ((c->flags & CMD_SCRIPT) == 0)
        return false;
    s->scripts = true;
    if (a->count > 1 && strcmp(c->name, "eval") == 0)
        scripts_learn(known, argv_at(a, 1), argv_len(a, 1));
    return a->count > 1 && strcmp(c->name, "evalsha") == 0 && scripts_no_writes(known, argv_at(a, 1), argv_len(a, 1));
}

enum dispatch session_dispatch(struct session *s, const struct argv *a)
{
    struct worker *w = s->worker;
    struct gate *g = w->set.gate;
    const struct command *c;
    const struct local_row *row = local_find(w, a, &c);
    struct route_facts f = {.command = c, .args = a, .treatment = local_treatment(w, row), .in_multi = s->tx != NULL};
    enum dispatch done;

    if (s->barrier && s->uncame > 0)
        return session_hold(s, HOLD_CAME);
    if (session_over_limit(s))
        return session_hold(s, HOLD_ROOM);
    s->last = c;
    if (s->tx == NULL && !session_check_arity(s, c, row, a)) /* in MULTI Valkey must know, to abort at EXEC */
        return DISPATCHED;
    if (session_authentication(s) == AUTH_NEEDED && !needs_no_auth(row, c)) {
        session_say_stranger(s, c, row, a);
        return DISPATCHED;
    }
    f.no_writes = c != NULL && (c->flags & (CMD_SCRIPT | CMD_NOSCRIPT)) != 0 && look_at_script(s, c, a);
    f.mode = session_mode(s);
    f.reader = s->reader;
    f.full = session_full(s);
    f.stateful = session_stateful(s);
    f.subscribed = s->proto == 2 && s->channels + s->shard_channels > 0;
    f.monitoring = s->monitoring;
    f.gate = w->draining                                  ? GATE_DRAINING
             : w->identity != NULL && w->commands != NULL ? (enum gate_state)atomic_load(&g->state)
                                                          : GATE_SHUT;
    f.refusal = (enum gate_refusal)atomic_load(&g->refusal);
    f.write_bytes_max = write_bytes_max(w);
    f.marker_channel = w->set.marker_channel != NULL ? w->set.marker_channel : "";
    done = serve(s, &f, row);
    if (done == DISPATCHED) {
        s->commands++;
        w->commands_total++;
    }
    return done;
}

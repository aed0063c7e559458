/* EXEC of a transaction that was queued with us: where it runs, and as what.
 *
 *   what is in it                             on a sync connection             async, off
 *   reads only                                a read, on a shared lane         the same
 *   replayable writes, reads of named keys    OP_WRITE: one intent             an async write, on the shared lane
 *   anything else                             captured, on the writer lane     likewise
 *
 * XADD with `*` is of the last kind: alone it is sent as a script, which Valkey queues even when it is out of memory.
 * EXEC would run what stands beside it (LPOP q, XADD done *: the element would be gone), where Valkey aborts.
 *
 * What goes to Valkey is one block, and only its last reply is the client's. What goes into the log is what Valkey's
 * stream will say: the writes alone, between MULTI and EXEC when there are several.
 *
 *   queued:  INCR a   GET b   EXPIRE a 60
 *   sent:    MULTI  INCR a  GET b  PEXPIREAT a 1795…  EXEC        (+OK +QUEUED +QUEUED +QUEUED, then the answer)
 *   intent:  MULTI  INCR a         PEXPIREAT a 1795…  EXEC        = the unit in the stream: a REF
 *
 * The keys that it reads count as its own: its reply waits for their taints, and the marker behind it on the lane has
 * passed all that it can have seen. Where a write has no effect, or Valkey expires a key first, the stream says
 * something else: then its keys are tainted until the OUTCOME is durable, as a single write's. */
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/loop.h"
#include "proxy/canon.h"
#include "proxy/lane.h"
#include "proxy/session.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

bool tx_walk_next(struct tx_walk *w, const struct command_table *table)
{
    const char *at = buf_head(w->queued) + w->at;
    size_t left = w->queued->len - w->at, count, n;

    if (left == 0) {
        free(w->places);
        w->places = NULL;
        return false;
    }
    (void)argv_places(at, left, NULL, &count);
    if (count > w->cap) {
        w->cap = 2 * count;
        w->places = must_realloc(w->places, w->cap * sizeof *w->places);
    }
    n = argv_places(at, left, w->places, &count);
    w->at += n;
    w->args = (struct argv){at, n, w->places, count};
    w->command = command_find(table, &w->args);
    return true;
}

/* ---- what it is ---- */

/* Leaves nothing in the stream, and what it reads is what it names. */
static bool is_read(const struct command *c)
{
    enum { MORE = CMD_WRITE | CMD_MAY_REPLICATE | CMD_SCRIPT | CMD_PUBSUB | CMD_ADMIN | CMD_MODULE };

    return (c->flags & MORE) == 0;
}

static bool is_replayable(const struct command *c)
{
    return is_read(c) || ((c->flags & CMD_WRITE) != 0 && c->canon != 0);
}

static void add_keys(struct session *s, const struct tx_walk *w, struct keyset *keys)
{
    const uint32_t any = CMD_WRITE | CMD_READONLY | CMD_SCRIPT | CMD_HAS_KEYS | CMD_MODULE;

    if (w->command == NULL)
        keys->all = true;
    else if ((w->command->flags & any) != 0)
        command_keys(s->worker->commands, w->command, &w->args, s->db, keys);
}

/* Keys of all commands; whether each by itself might be in an intent. */
static bool look_through(struct session *s, struct keyset *keys)
{
    struct tx_walk w = {.queued = &s->tx->queued};
    bool replayable = true;

    while (tx_walk_next(&w, s->worker->commands)) {
        add_keys(s, &w, keys);
        replayable = replayable && w.command != NULL && is_replayable(w.command);
    }
    return replayable && !keys->all;
}

static void whole_block(const struct transaction *tx, struct buf *out)
{
    buf_text(out, OP_UNIT_HEAD);
    buf_append(out, buf_head(&tx->queued), tx->queued.len);
    buf_text(out, OP_UNIT_END);
}

/* ---- the intent ---- */

/* One command more: into what is sent, and, if it writes, into the intent. The last write's form stays in t->op, for
 * a transaction of one. false: this form is not replayable. */
static bool add_command(struct session *s, struct task *t, const struct tx_walk *w, struct buf *writes)
{
    struct op *op = &t->op;

    if (is_read(w->command)) {
        add_keys(s, w, &op->keys);
        buf_append(&op->sent, w->args.bytes, w->args.n);
        return true;
    }
    if (canon_wants_id(w->command->canon,
                       &w->args)) /* Valkey would not see, when it queues, that the script needs memory */
        return false;
    buf_clear(&op->request);
    free(op->args);
    op->args = NULL;
    if (session_intent(s, t, w->command, &w->args, clock_wall_ms()) == CANON_NO)
        return false;
    buf_append(writes, buf_head(&op->request), op->request.len);
    buf_append(&op->sent, buf_head(&op->request), op->request.len);
    return !op->request.failed && !writes->failed;
}

/* A transaction of several: the unit is its intent, and no command's. */
static void make_unit(struct op *op, const struct buf *writes)
{
    buf_clear(&op->request);
    buf_text(&op->request, OP_UNIT_HEAD);
    buf_append(&op->request, buf_head(writes), writes->len);
    buf_text(&op->request, OP_UNIT_END);
    op->unit = true;
    op->canon = 0;
    op_hash_effect(op);
}

static bool make_intent(struct session *s, struct task *t)
{
    struct tx_walk w = {.queued = &s->tx->queued};
    struct buf writes = {0};
    size_t count = 0;
    bool whole = true;

    buf_text(&t->op.sent, OP_UNIT_HEAD);
    while (tx_walk_next(&w, s->worker->commands)) {
        whole = whole && add_command(s, t, &w, &writes);
        count += whole && !is_read(w.command);
    }
    buf_text(&t->op.sent, OP_UNIT_END);
    if (whole && count > 1)
        make_unit(&t->op, &writes);
    buf_free(&writes);
    return whole && count > 0; /* 0: SCRIPT LOAD and its kin, which are captured without being writes */
}

/* ---- ways ---- */

/* Valkey's words for an EXEC that it cannot run now. */
static enum dispatch abort_loading(struct session *s)
{
    char text[256] = "EXECABORT Transaction discarded because of: ";
    size_t n = strlen(text);

    (void)session_loading_text(s->worker, text + n, sizeof text - n);
    return tx_abort(s, text);
}

static enum dispatch wait(struct session *s, enum hold why)
{
    bool late = s->held != NULL && loop_now_ms(s->worker->loop) - s->held->since_ms >= SESSION_HOLD_MS_MAX;

    return why == HOLD_READY && late ? abort_loading(s) : session_hold(s, why);
}

static struct task *new_task(struct session *s, enum op_kind kind)
{
    struct task *t = session_task(s, kind);

    t->op.more = (uint32_t)s->tx->commands + 1;
    t->op.accepted_us = loop_now_us(s->worker->loop);
    return t;
}

static enum dispatch to_lane(struct session *s, bool writes)
{
    bool tracking = atomic_load_explicit(&s->worker->set.gate->tracking, memory_order_relaxed);
    struct lane *l = NULL;
    struct buf block = {0};
    enum hold hold = session_lane(s, &l);
    struct task *t;

    if (hold != HOLD_NONE)
        return wait(s, hold);
    whole_block(s->tx, &block);
    if (block.failed) {
        buf_free(&block);
        return tx_abort(s, "EXECABORT Transaction discarded because of: ERR out of memory");
    }
    t = new_task(s, writes ? OP_CAPTURED : OP_READ);
    if (writes ? tracking : t->op.sync)
        (void)look_through(s, &t->op.keys);
    if (writes) {
        session_send_async(s, l, t, buf_head(&block), block.len);
    } else {
        session_sent(s, t, TASK_LANE, VIA_LANE);
        lane_ask(l, t, buf_head(&block), block.len);
    }
    buf_free(&block);
    tx_end(s);
    return DISPATCHED;
}

static enum dispatch to_writer(struct session *s)
{
    struct keyset keys = {0};
    struct task *t;

    if (session_needs(s, VIA_WRITER) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    t = new_task(s, OP_CAPTURED);
    if (!look_through(s, &keys) || !make_intent(s, t)) {
        t->op.kind = OP_CAPTURED;
        keyset_clear(&t->op.keys);
        t->op.keys = keys;
        memset(&keys, 0, sizeof keys);
        buf_clear(&t->op.sent);
        buf_clear(&t->op.request);
        whole_block(s->tx, &t->op.request);
    }
    keyset_clear(&keys);
    tx_end(s);
    session_send_writer(s, t);
    return DISPATCHED;
}

enum dispatch tx_exec_here(struct session *s, const struct route_facts *f)
{
    if (f->gate != GATE_OPEN)
        return abort_loading(s);
    if (!users_known(s->worker->users))
        return wait(s, HOLD_READY);
    if (!session_full(s))
        return tx_abort(s, "EXECABORT Transaction discarded because of: NOPERM The rights of this user have changed");
    if (!s->tx->writes || f->mode != DURABILITY_SYNC)
        return to_lane(s, s->tx->writes);
    return to_writer(s);
}

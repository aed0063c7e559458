/* Tasks, and the way of an answer back to its client.
 *
 * Answers leave in the order of the commands. One that comes while nothing before it waits goes straight into the
 * stream's buffer; any other is kept in op.reply until it is its turn:
 *
 *   FIFO:  [SET b: at the core] [GET c: "$1 x", released] [GET d: on a lane]
 *          RELEASE of SET b ─▶ its reply leaves, then that of GET c; GET d becomes the head
 *
 * A task is freed by whoever ends it last: the FIFO if the client was answered, a lane's reply if the session is
 * gone, the core's RELEASE if the core had it. */
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

struct task *task_new(struct worker *w)
{
    struct task *t = TAILQ_FIRST(&w->free_tasks);

    if (t != NULL) {
        TAILQ_REMOVE(&w->free_tasks, t, in_list);
        w->free_count--;
        memset(t, 0, sizeof *t);
    } else {
        t = must_calloc(1, sizeof *t);
    }
    t->worker = w;
    w->task_count++;
    return t;
}

void task_free(struct task *t)
{
    struct worker *w = t->worker;

    CHECK(w->task_count > 0);
    w->task_count--;
    keyset_clear(&t->op.keys);
    buf_free(&t->op.request);
    buf_free(&t->op.sent);
    buf_free(&t->op.refusal);
    buf_free(&t->op.reply);
    buf_free(&t->extra);
    buf_free(&t->behind);
    free(t->op.args);
    t->op.args = NULL;
    if (t->context_free != NULL && t->context != NULL)
        t->context_free(t->context);
    t->context = NULL;
    if (t->in_waits)
        TAILQ_REMOVE(&w->waits, t, in_list);
    if (t->peer != NULL)
        t->peer->peer = NULL;
    t->peer = NULL;
    t->in_waits = false;
    if (t->known && w->set.to_core->count > 0) { /* END or BROKEN may still be in the queue */
        TAILQ_INSERT_TAIL(&w->cooling, t, in_list);
    } else if (w->free_count < WORKER_FREE_TASKS_MAX) {
        TAILQ_INSERT_HEAD(&w->free_tasks, t, in_list);
        w->free_count++;
    } else {
        free(t);
    }
}

struct task *session_task(struct session *s, enum op_kind kind)
{
    struct task *t = task_new(s->worker);

    t->op.session = s;
    t->op.kind = kind;
    t->op.sync = session_mode(s) == DURABILITY_SYNC;
    t->op.proto = s->proto;
    t->op.db = s->db;
    t->mute = s->reply_off || s->skip_next;
    s->skip_next = false;
    if (s->setup != NULL && s->setup->muted > 0) {
        s->setup->muted--;
        t->setup = t->mute = true;
    }
    TAILQ_INSERT_TAIL(&s->ops, &t->op, in_session);
    s->op_count++;
    return t;
}

void session_sent(struct session *s, struct task *t, enum task_place place, enum via via)
{
    t->place = place;
    t->waited = true;
    t->held_bytes = t->op.request.len + t->op.sent.len;
    s->inflight_bytes += t->held_bytes;
    s->uncame++;
    s->via = via;
}

void session_came(struct task *t)
{
    struct session *s = t->op.session;

    t->op.came = true;
    if (!t->waited)
        return;
    t->waited = false;
    if (s == NULL)
        return;
    CHECK(s->uncame > 0);
    if (--s->uncame == 0) {
        s->barrier = false;
        if (s->hold == HOLD_CAME)
            session_kick(s);
    }
}

/* ---- to the client ---- */

static void check_output(struct session *s)
{
    bool pubsub = s->channels + s->shard_channels > 0;
    const struct output_limit *limit = &s->worker->config->output_limit[pubsub ? OUTPUT_PUBSUB : OUTPUT_NORMAL];
    size_t pending = stream_pending(s->stream) + s->behind_bytes;

    if (limit->hard_bytes != 0 && pending > limit->hard_bytes) {
        s->doom = "output buffer limit overcome";
        session_kick(s);
    } else if (limit->soft_bytes == 0 || pending <= limit->soft_bytes) {
        s->soft_since_ms = 0;
    } else if (s->soft_since_ms == 0) {
        s->soft_since_ms = loop_now_ms(s->worker->loop);
    }
}

void session_write(struct session *s, const char *bytes, size_t n)
{
    if (s->state == SESSION_CLOSED || n == 0)
        return;
    stream_write(s->stream, bytes, n);
    s->reply_bytes = n > s->reply_bytes ? n : s->reply_bytes - (s->reply_bytes - n) / 8;
    s->out_bytes += n;
    s->worker->out_bytes += n;
    check_output(s);
}

/* Pushes keep their place among the replies of the connection that they came on, also among those that wait for their
 * release. A client that caches would else be told that a key has changed before it is told the value that is stale
 * by then, and keep it.
 *
 *   from Valkey:  reply of GET k, invalidate k        FIFO: [GET k: came, waits | behind: invalidate k] */
void session_push(struct session *s, const char *bytes, size_t n)
{
    struct op *op;
    struct buf *behind;

    TAILQ_FOREACH_REVERSE(op, &s->ops, op_list, in_session)
    {
        if (op->pinned && op->came)
            break;
    }
    if (op == NULL) {
        session_write(s, bytes, n);
        return;
    }
    behind = &task_of(op)->behind;
    s->behind_bytes -= behind->len;
    buf_append(behind, bytes, n);
    s->behind_bytes += behind->len;
    if (behind->failed) {
        s->doom = "out of memory for a push";
        session_kick(s);
    }
    check_output(s);
}

/* The client has t's answer: t leaves the FIFO. */
static void leave(struct session *s, struct task *t)
{
    bool finish = t->finish;

    if (t->behind.len > 0) {
        s->behind_bytes -= t->behind.len;
        session_write(s, buf_head(&t->behind), t->behind.len);
    }

    TAILQ_REMOVE(&s->ops, &t->op, in_session);
    CHECK(s->op_count > 0);
    s->op_count--;
    s->inflight_bytes -= t->held_bytes;
    if (s->hold == HOLD_ROOM && !session_over_limit(s))
        session_kick(s);
    if (s->op_count == 0 && (s->hold == HOLD_EMPTY || s->moves))
        session_kick(s);
    task_free(t);
    if (finish || (s->state == SESSION_FINISHING && s->op_count == 0))
        session_finish(s);
}

static void leave_with_reply(struct session *s, struct task *t)
{
    if (t->op.reply.failed) {
        s->doom = "out of memory for a reply";
        session_kick(s);
    } else if (!t->mute) {
        session_write(s, buf_head(&t->op.reply), t->op.reply.len);
    }
    leave(s, t);
}

static void flush(struct session *s)
{
    struct op *op;

    while (s->state != SESSION_CLOSED && (op = TAILQ_FIRST(&s->ops)) != NULL && op->released)
        leave_with_reply(s, task_of(op));
}

void session_release(struct task *t)
{
    struct session *s = t->op.session;

    session_came(t);
    t->place = TASK_HERE;
    if (s == NULL) {
        task_free(t);
        return;
    }
    t->op.released = true;
    if (TAILQ_FIRST(&s->ops) == &t->op)
        flush(s);
}

void session_answer(struct task *t, const char *reply, size_t n)
{
    struct session *s = t->op.session;

    if (s != NULL && t->setup && n > 0 && reply[0] == '-') {
        s->doom = "its session could not be set up here";
        session_kick(s);
    }
    if (s == NULL || TAILQ_FIRST(&s->ops) != &t->op) {
        if (s != NULL && !t->mute)
            buf_append(&t->op.reply, reply, n);
        session_release(t);
        return;
    }
    session_came(t);
    t->place = TASK_HERE;
    if (!t->mute)
        session_write(s, reply, n);
    leave(s, t);
    flush(s);
}

void session_answer_buf(struct task *t, struct buf *reply)
{
    if (reply->failed) {
        session_answer_error(t, "ERR out of memory for a reply");
        buf_free(reply);
        return;
    }
    session_answer(t, buf_head(reply), reply->len);
    buf_free(reply);
}

void session_answer_error(struct task *t, const char *text)
{
    struct buf reply = {0};

    resp_error(&reply, text);
    session_answer(t, buf_head(&reply), reply.len);
    buf_free(&reply);
}

void session_say(struct session *s, const char *text)
{
    session_answer_error(session_task(s, OP_LOCAL), text);
}

/* ---- from Valkey ---- */

static void to_core(struct task *t, enum message_kind kind, const char *reply, size_t n)
{
    if (t->op.reply.len ==
        0) /* else the core has failed it meanwhile: that is the answer, its RELEASE is under way */
        buf_append(&t->op.reply, reply, n);
    t->place = TASK_CORE;
    session_came(t);
    worker_post(t->worker, kind, &t->op, 0);
}

static void end_async(struct task *t)
{
    if (t->async_write)
        worker_post(t->worker, TO_CORE_ASYNC_END, NULL, t->epoch);
    t->async_write = false;
}

/* "Busy running a script": nothing was read, so nothing that it says can be undone. */
static bool tells_nothing(const char *reply, size_t n)
{
    static const char busy[] = "-BUSY ";

    return n >= sizeof busy && memcmp(reply, busy, sizeof busy - 1) == 0;
}

/* The core would release it at once: message.h. */
static bool nothing_to_wait_for(const struct worker *w)
{
    uint64_t until = atomic_load_explicit(&w->set.gate->reads_until_boot_ms, memory_order_acquire);

    return until == UINT64_MAX || (until != 0 && clock_boot_ms() < until);
}

static void take_answer(struct task *t, const char *reply, size_t n)
{
    t->op.error = reply[0] == '-';
    end_async(t);
    if (t->place == TASK_BOTH) {
        if (t->on_reply != NULL)
            t->on_reply(t, reply, n); /* only looks */
        to_core(t, TO_CORE_END, reply, n);
    } else if (t->op.session == NULL && !t->internal) {
        task_free(t);
    } else if (t->on_reply != NULL) {
        t->on_reply(t, reply, n);
    } else if (t->op.kind == OP_READ && t->op.sync && !tells_nothing(reply, n) && !nothing_to_wait_for(t->worker)) {
        to_core(t, TO_CORE_READ, reply, n);
    } else {
        session_answer(t, reply, n);
    }
}

void task_reply(struct task *t, const char *reply, size_t n)
{
    struct buf refused = {0};

    if (t->op.more > 0)
        op_take_more(&t->op, reply, n);
    else if (op_exec_refused(&t->op, reply, n, &refused) && !refused.failed)
        take_answer(t, buf_head(&refused), refused.len);
    else
        take_answer(t, reply, n);
    buf_free(&refused);
}

void task_broke(struct task *t, const char *text)
{
    struct buf reply = {0};

    end_async(t);
    t->op.error = true;
    if (t->op.session == NULL && !t->internal) {
        task_free(t);
        return;
    }
    resp_error(&reply, text);
    if (t->internal)
        t->on_reply(t, buf_head(&reply), reply.len);
    else
        session_answer(t, buf_head(&reply), reply.len);
    buf_free(&reply);
}

/* WAIT and WAITAOF, answered from the log instead of from replicas.
 *
 *   WAIT n timeout               how many other zones have all of this connection's writes on disk: a lone node 0.
 *                                Answered when they are durable and n zones have them, or when the timeout ends
 *   WAITAOF local n timeout      [durable here: 0 or 1, other zones]
 *
 * The client's task waits in the FIFO; its other half is the core's until RELEASE says "durable, in so many zones".
 * CAME before that: durable, but in fewer zones than asked. Whichever ends first unties them:
 *
 *   task (client) ◀─peer─▶ half (core)  */
#include <string.h>

#include "proxy/local.h"
#include "proxy/worker_state.h"

enum { ASKED_LOCAL = 0, ASKED_ZONES = 1, REACHED_ZONES = 2 }; /* task->numbers; of the first: durable or not */

static void answer(struct task *t, bool durable)
{
    struct buf reply = {0};
    bool aof = t->op.canon != 0;

    if (t->in_waits) {
        TAILQ_REMOVE(&t->worker->waits, t, in_list);
        t->in_waits = false;
    }
    if (!aof) {
        resp_integer(&reply, durable ? (int64_t)t->numbers[REACHED_ZONES] : 0);
    } else {
        resp_array(&reply, 2);
        resp_integer(&reply, durable ? 1 : 0);
        resp_integer(&reply, durable ? (int64_t)t->numbers[REACHED_ZONES] : 0);
    }
    session_answer_buf(t, &reply);
}

void local_wait_reached(struct task *half)
{
    if (half->peer == NULL)
        return;
    half->peer->numbers[ASKED_LOCAL] = 1;
    half->peer->numbers[REACHED_ZONES] = half->op.db;
}

void local_wait_durable(struct task *half)
{
    struct task *t = half->peer;
    bool durable = !half->op.error;
    uint32_t zones = half->op.db;

    task_free(half); /* unties them */
    if (t == NULL)
        return;
    if (durable)
        t->numbers[REACHED_ZONES] = zones;
    if (durable && t->numbers[ASKED_ZONES] <= zones)
        answer(t, true);
    else if (!durable && t->deadline_ms == 0 && t->numbers[ASKED_ZONES] == 0)
        session_answer_error(t, "UNCERTAIN Valkey was lost: it is not known whether the writes are durable");
    else
        t->numbers[ASKED_LOCAL] = durable ? 1 : 0; /* what the timeout will say */
}

void local_wait_tick(struct worker *w, uint64_t now_ms)
{
    struct task *t, *next;

    for (t = TAILQ_FIRST(&w->waits); t != NULL; t = next) {
        next = TAILQ_NEXT(t, in_list);
        if (now_ms >= t->deadline_ms)
            answer(t, t->numbers[ASKED_LOCAL] != 0);
    }
}

void local_wait_unblock(struct task *t, bool error)
{
    if (!error) {
        answer(t, t->numbers[ASKED_LOCAL] != 0);
        return;
    }
    if (t->in_waits)
        TAILQ_REMOVE(&t->worker->waits, t, in_list);
    t->in_waits = false;
    session_answer_error(t, "UNBLOCKED client unblocked via CLIENT UNBLOCK");
}

static void begin(struct session *s, bool aof, int64_t zones, int64_t timeout_ms)
{
    struct worker *w = s->worker;
    struct task *t = session_task(s, OP_LOCAL), *half = task_new(w);

    t->op.canon = aof ? 1 : 0;
    t->blocks = true;
    t->numbers[ASKED_LOCAL] = t->numbers[REACHED_ZONES] = 0;
    t->numbers[ASKED_ZONES] = (uint64_t)zones;
    session_sent(s, t, TASK_HERE, VIA_NONE);
    s->barrier = true;
    if (timeout_ms > 0) {
        t->deadline_ms = loop_now_ms(w->loop) + (uint64_t)timeout_ms;
        t->in_waits = true;
        TAILQ_INSERT_TAIL(&w->waits, t, in_list);
        loop_timer_once(w->wait_tick, WAIT_TICK_MS);
    }
    half->op.kind = OP_LOCAL;
    half->op.db = 0;
    half->op.canon = zones < UINT16_MAX ? (uint16_t)zones : UINT16_MAX;
    half->op.forwarded_us = timeout_ms > 0 ? loop_now_us(w->loop) + (uint64_t)timeout_ms * 1000u : 0;
    half->place = TASK_CORE;
    half->peer = t;
    t->peer = half;
    worker_post(w, TO_CORE_WAIT, &half->op, s->id);
}

static const char *timeout_of(const struct argv *a, size_t i, int64_t *ms)
{
    if (!argv_integer(a, i, ms))
        return "ERR timeout is not an integer or out of range";
    if (*ms < 0)
        return "ERR timeout is negative";
    return *ms > INT64_MAX / 4 ? "ERR timeout is out of range" : NULL;
}

static bool earlier_are_under_way(struct session *s)
{
    return s->uncame > 0;
}

enum dispatch local_wait(struct session *s, const struct argv *a)
{
    int64_t zones, timeout_ms;
    const char *error = timeout_of(a, 2, &timeout_ms);

    if (s->reader)
        return local_error(s, "ERR WAIT cannot be used with replica instances.");
    if (!argv_integer(a, 1, &zones))
        return local_error(s, "ERR value is not an integer or out of range");
    if (error != NULL)
        return local_error(s, error);
    if (earlier_are_under_way(s))
        return session_hold(s, HOLD_CAME);
    begin(s, false, zones > 0 ? zones : 0, timeout_ms);
    return DISPATCHED;
}

enum dispatch local_waitaof(struct session *s, const struct argv *a)
{
    int64_t local, zones, timeout_ms;
    const char *error = timeout_of(a, 3, &timeout_ms);

    if (s->reader)
        return local_error(s, "ERR WAITAOF cannot be used with replica instances.");
    if (!argv_integer(a, 1, &local) || !argv_integer(a, 2, &zones))
        return local_error(s, "ERR value is not an integer or out of range");
    if (local < 0 || local > 1)
        return local_error(s, "ERR value is out of range, value must between 0 and 1");
    if (zones < 0)
        return local_error(s, "ERR value is out of range, must be positive");
    if (error != NULL)
        return local_error(s, error);
    if (earlier_are_under_way(s))
        return session_hold(s, HOLD_CAME);
    begin(s, true, zones, timeout_ms);
    return DISPATCHED;
}

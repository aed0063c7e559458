/* Who blocks first is served first, and nobody blocks across the end of a leadership.
 *
 * Valkey serves blocked clients in the order in which their commands reached it. A session's first blocking command
 * has to wait for its connection, a later one of somebody else may have one already; so the later one waits, too:
 *
 *   BLPOP q   A   its connection is being made   ─┐ blockers: A, B
 *   BLPOP q   B   has a connection: waits for A  ─┘   A's is ready ─▶ A's BLPOP, PING ─▶ +PONG ─▶ B's
 *
 * Of what Valkey finds in its sockets at one look, nobody says what it reads first; after the answer to a PING it has
 * read all that was sent before that. Only who had to wait in the queue pays for it.
 *
 * A queue of sessions, not of commands: one that does not wait for a connection any more (refused meanwhile, or
 * gone) is passed over when somebody looks at the head.
 *
 * When leadership is handed over or the node ends, what is blocked would otherwise hold all others up and get an
 * uncertain answer. CLIENT UNBLOCK is exact: either Valkey had handed out an element before, and the reply says so,
 * or it never will. It may reach Valkey before the command that it is to end; therefore it is sent again. */
#include "proxy/blocked.h"

#include <stdio.h>
#include <string.h>

#include "log/base/loop.h"
#include "proxy/argv.h"
#include "proxy/lane.h"
#include "proxy/pinned.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

static void internal_ask(struct worker *w, const char *resp, size_t n, task_reply_fn *on_reply)
{
    struct task *t = task_new(w);

    t->internal = true;
    t->op.kind = OP_NEUTRAL;
    t->place = TASK_LANE;
    t->on_reply = on_reply;
    lane_ask(lanes_control(w->lanes), t, resp, n);
}

/* ---- the order ---- */

static void enter(struct session *s)
{
    if (s->in_blockers)
        return;
    s->in_blockers = true;
    TAILQ_INSERT_TAIL(&s->worker->blockers, s, in_blocking);
}

static struct session *first(struct worker *w)
{
    struct session *s;

    while ((s = TAILQ_FIRST(&w->blockers)) != NULL && s->held == NULL)
        blocked_leave(s);
    return s;
}

static void on_read(struct task *t, const char *reply, size_t n)
{
    struct worker *w = t->worker;
    struct session *s;

    (void)reply; /* also when the lane broke: then nothing can be known, and nobody shall wait */
    (void)n;
    w->blocker_unread = false;
    if ((s = first(w)) != NULL)
        session_kick(s);
    task_free(t);
}

/* s goes, others are behind it: they wait until Valkey has read its command, which leaves in this turn. */
static void ask_read(struct worker *w)
{
    static const char ping[] = "*1\r\n$4\r\nPING\r\n";

    if (w->blocker_unread || first(w) == NULL || !lane_usable(lanes_control(w->lanes)))
        return;
    w->blocker_unread = true;
    internal_ask(w, ping, sizeof ping - 1, on_read);
}

bool blocked_turn(struct session *s)
{
    struct session *head = first(s->worker);

    if (s->worker->blocker_unread || (head != NULL && head != s)) {
        enter(s);
        return false;
    }
    blocked_leave(s);
    ask_read(s->worker);
    return true;
}

void blocked_queue(struct session *s)
{
    enter(s);
}

void blocked_leave(struct session *s)
{
    struct worker *w = s->worker;
    struct session *next;

    if (!s->in_blockers)
        return;
    s->in_blockers = false;
    TAILQ_REMOVE(&w->blockers, s, in_blocking);
    if ((next = TAILQ_FIRST(&w->blockers)) != NULL)
        session_kick(next);
}

/* ---- the end ---- */

static bool is_blocked(const struct session *s)
{
    struct op *op;

    TAILQ_FOREACH(op, &s->ops, in_session)
    {
        struct task *t = task_of(op);

        if (!op->came && t->blocks && (t->place == TASK_BOTH || t->place == TASK_PINNED))
            return true;
    }
    return false;
}

static void on_unblocked(struct task *t, const char *reply, size_t n)
{
    (void)reply; /* 0: it was not blocked, or not yet */
    (void)n;
    task_free(t);
}

static void unblock(struct worker *w, uint64_t client_id)
{
    struct buf command = {0};
    char number[24];

    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)client_id);
    argv_encode(&command, 4, (const char *const[]){"CLIENT", "UNBLOCK", number, "ERROR"},
                (const size_t[]){6, 7, strlen(number), 5});
    internal_ask(w, buf_head(&command), command.len, on_unblocked);
    buf_free(&command);
}

void blocked_release(struct worker *w)
{
    uint64_t now = loop_now_ms(w->loop);
    bool any = false;
    struct session *s;

    if (now < w->released_ms + WAIT_TICK_MS || !lane_usable(lanes_control(w->lanes)))
        return;
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        if ((s->reader && !w->draining) || pinned_client_id(s) == 0 || !is_blocked(s))
            continue;
        unblock(w, pinned_client_id(s));
        any = true;
    }
    if (!any)
        return;
    w->released_ms = now;
    loop_timer_once(w->wait_tick, WAIT_TICK_MS);
}

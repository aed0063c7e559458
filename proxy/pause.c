/* CLIENT PAUSE: see pause.h. A session that is held is in worker->pause.held, with its command as session->held; the
 * session that asked for the pause waits there, too (HOLD_SETTLE), until the writes before it have come. A client
 * that goes away while it is held takes its command with it, as a blocked one of Valkey's does. */
#include "proxy/pause.h"

#include "log/base/loop.h"
#include "proxy/local.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

static void on_end(void *arg)
{
    struct worker *w = arg;
    struct session *s, *next;
    uint64_t now = loop_now_ms(w->loop);

    if (w->pause.until_ms > now) { /* it was made longer */
        loop_timer_once(w->pause.timer, w->pause.until_ms - now);
        return;
    }
    w->pause.until_ms = 0;
    w->pause.all = false;
    for (s = TAILQ_FIRST(&w->pause.held); s != NULL; s = next) {
        next = TAILQ_NEXT(s, in_paused);
        if (s->settles)
            continue;
        pause_forget(s);
        session_kick(s);
    }
}

void pause_init(struct worker *w)
{
    TAILQ_INIT(&w->pause.held);
    w->pause.timer = loop_timer_new(w->loop, on_end, w);
}

static void hold(struct session *s)
{
    if (s->paused)
        return;
    s->paused = true;
    TAILQ_INSERT_TAIL(&s->worker->pause.held, s, in_paused);
}

void pause_forget(struct session *s)
{
    if (!s->paused)
        return;
    s->paused = false;
    TAILQ_REMOVE(&s->worker->pause.held, s, in_paused);
    if (s->settles)
        s->worker->pause.settling--;
    s->settles = false;
}

bool pause_holds(struct session *s, const struct route_facts *f)
{
    const struct pause *p = &s->worker->pause;
    bool writes = f->treatment == TREAT_EXEC ? s->tx != NULL && s->tx->pauses : route_replicates(f);

    if (p->until_ms == 0 || s->monitoring || s->settles || (!p->all && !writes) || s->worker->draining)
        return false;
    hold(s);
    return true;
}

uint64_t pause_held(const struct worker *w)
{
    const struct session *s;
    uint64_t count = 0;

    TAILQ_FOREACH(s, &w->pause.held, in_paused)
    count += s->settles ? 0 : 1;
    return count;
}

/* Blocked ones may stay so for ever: what wakes them is held. */
static bool writes_under_way(const struct worker *w)
{
    const struct session *s;
    const struct op *op;

    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        TAILQ_FOREACH(op, &s->ops, in_session)
        {
            if (!op->came && (op->kind == OP_WRITE || op->kind == OP_CAPTURED) && !((const struct task *)op)->blocks)
                return true;
        }
    }
    return false;
}

bool pause_settle(struct worker *w)
{
    struct session *s;
    bool kicked = false;

    if (w->pause.settling == 0 || writes_under_way(w))
        return false;
    TAILQ_FOREACH(s, &w->pause.held, in_paused)
    {
        if (!s->settles)
            continue;
        session_kick(s);
        kicked = true;
    }
    return kicked;
}

/* ---- the commands ---- */

static enum dispatch answer_ok(struct session *s)
{
    pause_forget(s);
    return local_ok(s);
}

static void begin(struct worker *w, uint64_t until_ms, bool all)
{
    struct pause *p = &w->pause;
    uint64_t now = loop_now_ms(w->loop);

    p->all = p->all || all;
    if (until_ms > p->until_ms)
        p->until_ms = until_ms;
    loop_timer_once(p->timer, p->until_ms > now ? p->until_ms - now : 0);
}

enum dispatch local_client_pause(struct session *s, const struct argv *a)
{
    struct worker *w = s->worker;
    uint64_t now = loop_now_ms(w->loop);
    int64_t timeout_ms;

    if (s->settles)
        return writes_under_way(w) ? session_hold(s, HOLD_SETTLE) : answer_ok(s);
    if (a->count > 4)
        return local_bad_subcommand(s, a);
    if (a->count == 4 && !argv_is(a, 3, "write") && !argv_is(a, 3, "all"))
        return local_error(s, "ERR CLIENT PAUSE mode must be WRITE or ALL");
    if (!argv_integer(a, 2, &timeout_ms))
        return local_error(s, "ERR timeout is not an integer or out of range");
    if (timeout_ms < 0)
        return local_error(s, "ERR timeout is negative");
    if (timeout_ms > INT64_MAX / 4)
        return local_error(s, "ERR timeout is out of range");
    begin(w, now + (uint64_t)timeout_ms, a->count == 3 || argv_is(a, 3, "all"));
    if (!writes_under_way(w))
        return local_ok(s);
    hold(s);
    s->settles = true;
    w->pause.settling++;
    return session_hold(s, HOLD_SETTLE);
}

enum dispatch local_client_unpause(struct session *s, const struct argv *a)
{
    struct worker *w = s->worker;

    (void)a;
    w->pause.until_ms = 0;
    loop_timer_stop(w->pause.timer);
    on_end(w);
    return local_ok(s);
}

/* One turn of the loop, in order:
 *
 *     epoll ─▶ callbacks ─▶ hooks (again, while one of them did something) ─▶ write dirty streams ─▶ wake kicked ones
 * ─▶ bury the dead
 *
 * libevent runs the first two steps (event_base_loop, once round); the rest is ours. */
#include "log/base/loop.h"

#include <event2/event.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/stream_loop.h"

enum { HOOKS_MAX = 16, HOOK_ROUNDS_MAX = 10000 };

struct grave {
    struct grave *next;
    void *object;
    void (*release)(void *object);
};

struct loop {
    struct event_base *base;
    struct {
        loop_hook_fn *run;
        void *arg;
    } hooks[HOOKS_MAX];
    int hook_count;
    bool stopping;
    uint64_t now_us;                   /* 0: we have waited since, ask the clock */
    struct stream *kicked;             /* their next turn comes, whatever their sockets say */
    struct stream *dirty, *dirty_last; /* in order: what was asked of two of them leaves in the order asked */
    struct grave *graves;
    char *scratch;
};

struct loop_timer {
    struct loop *loop;
    struct event *event;
    void (*fire)(void *arg);
    void *arg;
    uint64_t every_ms;
};

struct loop *loop_new(void)
{
    struct loop *l = must_calloc(1, sizeof *l);

    l->base = event_base_new();
    CHECK(l->base != NULL);
    l->scratch = must_calloc(1, LOOP_SCRATCH_BYTES);
    l->now_us = clock_mono_us();
    return l;
}

static void bury_all(struct loop *l)
{
    while (l->graves != NULL) {
        struct grave *g = l->graves;

        l->graves = g->next;
        g->release(g->object);
        free(g);
    }
}

void loop_free(struct loop *l)
{
    bury_all(l);
    event_base_free(l->base);
    free(l->scratch);
    free(l);
}

struct event_base *loop_base(struct loop *l)
{
    return l->base;
}

void loop_add_hook(struct loop *l, loop_hook_fn *hook, void *arg)
{
    CHECK(l->hook_count < HOOKS_MAX);
    l->hooks[l->hook_count].run = hook;
    l->hooks[l->hook_count++].arg = arg;
}

static void run_hooks(struct loop *l)
{
    bool again = true;

    for (int round = 0; again; round++) {
        CHECK(round < HOOK_ROUNDS_MAX);
        again = false;
        for (int i = 0; i < l->hook_count; i++)
            again = l->hooks[i].run(l->hooks[i].arg) || again;
    }
}

static void write_streams(struct loop *l)
{
    while (l->dirty != NULL) {
        struct stream *s = l->dirty;

        l->dirty = stream_unlink_dirty(s);
        if (l->dirty == NULL)
            l->dirty_last = NULL;
        stream_flush(s);
    }
}

/* Not from a callback: libevent would go on with it in the same turn, for as long as there is something to read. */
static void wake_kicked(struct loop *l)
{
    while (l->kicked != NULL) {
        struct stream *s = l->kicked;

        l->kicked = stream_unlink_kicked(s);
        stream_wake(s);
    }
}

static void end_turn(struct loop *l)
{
    run_hooks(l);
    write_streams(l);
    wake_kicked(l);
    bury_all(l);
}

void loop_run(struct loop *l)
{
    end_turn(l);
    while (!l->stopping) {
        l->now_us = 0; /* libevent calls nobody between its wait and the first callback, so that one asks */
        if (event_base_loop(l->base, EVLOOP_ONCE) < 0)
            break;
        end_turn(l);
    }
    l->stopping = false;
}

void loop_stop(struct loop *l)
{
    l->stopping = true;
}

uint64_t loop_now_us(struct loop *l)
{
    if (l->now_us == 0)
        l->now_us = clock_mono_us();
    return l->now_us;
}

uint64_t loop_now_ms(struct loop *l)
{
    return loop_now_us(l) / 1000u;
}

void loop_bury(struct loop *l, void *object, void (*release)(void *object))
{
    struct grave *g = must_calloc(1, sizeof *g);

    g->object = object;
    g->release = release;
    g->next = l->graves;
    l->graves = g;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct loop_timer *t = arg;

    (void)fd;
    (void)what;
    t->loop->now_us = clock_mono_us();
    t->fire(t->arg);
}

struct loop_timer *loop_timer_new(struct loop *l, void (*fire)(void *arg), void *arg)
{
    struct loop_timer *t = must_calloc(1, sizeof *t);

    t->loop = l;
    t->fire = fire;
    t->arg = arg;
    t->event = event_new(l->base, -1, EV_PERSIST, on_timer, t);
    CHECK(t->event != NULL);
    return t;
}

static struct timeval interval(uint64_t ms)
{
    return (struct timeval){.tv_sec = (time_t)(ms / 1000u), .tv_usec = (suseconds_t)(ms % 1000u * 1000u)};
}

void loop_timer_once(struct loop_timer *t, uint64_t after_ms)
{
    struct timeval tv = interval(after_ms);

    (void)event_del(t->event);
    (void)event_assign(t->event, t->loop->base, -1, 0, on_timer, t);
    (void)event_add(t->event, &tv);
}

void loop_timer_every(struct loop_timer *t, uint64_t every_ms)
{
    struct timeval tv = interval(every_ms);

    (void)event_del(t->event);
    (void)event_assign(t->event, t->loop->base, -1, EV_PERSIST, on_timer, t);
    (void)event_add(t->event, &tv);
}

void loop_timer_stop(struct loop_timer *t)
{
    (void)event_del(t->event);
}

static void release_timer(void *object)
{
    struct loop_timer *t = object;

    event_free(t->event);
    free(t);
}

void loop_timer_free(struct loop_timer *t)
{
    if (t == NULL)
        return;
    (void)event_del(t->event);
    loop_bury(t->loop, t, release_timer);
}

void loop_kick(struct loop *l, struct stream *s)
{
    l->kicked = stream_link_kicked(s, l->kicked);
}

void loop_mark_dirty(struct loop *l, struct stream *s)
{
    if (!stream_link_dirty(s, l->dirty_last))
        return;
    if (l->dirty == NULL)
        l->dirty = s;
    l->dirty_last = s;
}

char *loop_scratch(struct loop *l)
{
    return l->scratch;
}

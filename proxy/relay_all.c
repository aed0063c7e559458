/* All relays of a worker: when to look at them again, and when a link has become stale.
 *
 * A link may outlive the leadership that it leads to: the former leader closes it, or is cut off and does not. So
 * once another leader is known, a link to the former one is given up as soon as nothing is unanswered, or after
 * RELAY_STALE_MS; and while none is known, after relay-timeout. What it owes is -UNCERTAIN then. One that carries a
 * backup is left alone: the file does not change with the leader. */
#include <stdio.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/relay_internal.h"

static void kick_all(struct worker *w)
{
    struct relay *r;

    TAILQ_FOREACH(r, &w->relays, in_worker)
    {
        relay_kick(r);
    }
}

/* ---- stale links ---- */

static const char *staleness(struct relay *r, int part, uint64_t now_ms)
{
    struct worker *w = r->worker;
    bool other =
        part == PART_FOLLOWS && w->leader[0] != '\0' && r->leader[0] != '\0' && strcmp(r->leader, w->leader) != 0;
    bool busy = r->count > 0 || r->track.opaque;

    if (r->backup || (!other && part == PART_FOLLOWS)) {
        r->stale_ms = 0;
        return NULL;
    }
    if (r->stale_ms == 0)
        r->stale_ms = now_ms;
    if (other && (r->state < RELAY_UP || !busy || now_ms - r->stale_ms >= RELAY_STALE_MS))
        return "another node leads now";
    if (!other && now_ms - r->stale_ms >= (uint64_t)w->config->relay_timeout_ms)
        return "its leader is not known to lead any more";
    return NULL;
}

static void drop_stale(struct worker *w)
{
    int part = atomic_load(&w->set.gate->part);
    uint64_t now = loop_now_ms(w->loop);
    struct relay *r;

    TAILQ_FOREACH(r, &w->relays, in_worker)
    {
        if (r->state == RELAY_DOWN || r->state >= RELAY_FINISHING || r->broke != NULL)
            continue;
        r->broke = staleness(r, part, now);
        if (r->broke != NULL)
            relay_kick(r);
    }
}

static void learn_leader(struct worker *w)
{
    const struct status *s = w->set.status(w->set.arg);

    (void)snprintf(w->leader, sizeof w->leader, "%s", s->leader);
}

/* ---- the worker's calls ---- */

/* Part, leader or our own Valkey may have changed. */
static void follow(struct worker *w)
{
    int part = atomic_load(&w->set.gate->part);
    bool open = worker_open(w);

    if (part == w->last_part && open == w->last_open)
        return;
    w->last_part = part;
    w->last_open = open;
    if (TAILQ_EMPTY(&w->relays))
        return;
    learn_leader(w);
    drop_stale(w);
    kick_all(w);
}

bool relays_run(struct worker *w)
{
    struct relay *r;
    bool worked = false;

    follow(w);
    while ((r = TAILQ_FIRST(&w->relay_run)) != NULL) {
        relay_run(r);
        worked = true;
    }
    return worked;
}

void relays_watch(struct worker *w)
{
    if (w->relay_ticking)
        return;
    w->relay_ticking = true;
    loop_timer_once(w->relay_tick, RELAY_TICK_MS);
}

void relays_on_tick(void *arg)
{
    struct worker *w = arg;
    struct relay *r;

    w->relay_ticking = false;
    learn_leader(w);
    drop_stale(w);
    TAILQ_FOREACH(r, &w->relays, in_worker)
    {
        if (r->state < RELAY_UP && r->count > 0) {
            relay_kick(r);
            relays_watch(w);
        }
    }
}

void relays_tick(struct worker *w, uint64_t now_ms)
{
    uint64_t timeout_ms = (uint64_t)w->config->timeout_s * 1000u;
    struct relay *r, *next;

    if (TAILQ_EMPTY(&w->relays))
        return;
    learn_leader(w);
    drop_stale(w);
    for (r = TAILQ_FIRST(&w->relays); r != NULL; r = next) {
        next = TAILQ_NEXT(r, in_worker);
        if (timeout_ms > 0 && r->count == 0 && !r->track.opaque && now_ms - r->active_ms > timeout_ms)
            relay_close(r, "idle");
    }
}

/* Blocked (BLPOP ...), or about to be answered? After a moment it is the former, and what is behind it has not begun:
 * the connection may end, as it does when a Valkey is shut down. */
static bool is_blocked(struct relay *r, uint64_t now_ms)
{
    const struct request *q = relay_oldest(r);

    return q != NULL && q->blocks && now_ms - q->since_ms >= RELAY_BLOCKED_MS;
}

bool relays_idle(struct worker *w, uint64_t now_ms)
{
    struct relay *r;

    TAILQ_FOREACH(r, &w->relays, in_worker)
    {
        if ((r->state == RELAY_UP && r->count > 0 && !is_blocked(r, now_ms)) || stream_pending(r->client) > 0)
            return false;
    }
    return true;
}

void relays_pause(struct worker *w)
{
    struct relay *r;

    TAILQ_FOREACH(r, &w->relays, in_worker)
    {
        r->last = true;
        relay_kick(r);
    }
}

void relays_close(struct worker *w, const char *why)
{
    struct relay *r;

    while ((r = TAILQ_FIRST(&w->relays)) != NULL)
        relay_close(r, why);
}

/* The simulation's time and its one source of chance.
 *
 * Everything that happens is an event in a heap, ordered by virtual time and then by when it was made; whatever is
 * left to chance asks rsim_random(). So a history is a function of its seed (libraft's own random numbers are seeded
 * from it, too).
 *
 * A node that is paused keeps its disk and its queues: events for its loop move to the end of the pause, in order. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

const char *const rsim_bug_names[RSIM_BUGS] = {"none",      "vote-forgotten", "ack-early",
                                               "no-quorum", "lease-long",     "amnesia"};

uint64_t rsim_random(struct rsim *w, uint64_t below)
{
    uint64_t z = (w->random += 0x9e3779b97f4a7c15u); /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

bool rsim_chance(struct rsim *w, unsigned permille)
{
    return rsim_random(w, 1000) < permille;
}

void rsim_violation(struct rsim *w, const char *format, ...)
{
    va_list args;
    int n;

    if (w->failed)
        return;
    w->failed = true;
    n = snprintf(w->why, RSIM_WHY_BYTES, "at %.3f ms: ", (double)w->now_us / RSIM_MS);
    va_start(args, format);
    if (n > 0 && n < RSIM_WHY_BYTES)
        (void)vsnprintf(w->why + n, RSIM_WHY_BYTES - (size_t)n, format, args);
    va_end(args);
    TRACE(w, "VIOLATION %s", w->why);
}

void rsim_note(struct rsim *w, uint64_t fact)
{
    w->n.digest = (w->n.digest ^ fact ^ w->now_us) * 0x100000001b3u;
    w->n.digest ^= w->n.digest >> 29;
}

/* ---- the heap ---- */

static bool before(const struct rsim_event *a, const struct rsim_event *b)
{
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->serial < b->serial);
}

void rsim_push(struct rsim *w, struct rsim_event e)
{
    size_t i = w->event_count++;

    if (i == w->event_room) {
        w->event_room = i > 0 ? 2 * i : 256;
        w->events = must_realloc(w->events, w->event_room * sizeof *w->events);
    }
    e.serial = w->serial++;
    for (; i > 0 && before(&e, &w->events[(i - 1) / 2]); i = (i - 1) / 2)
        w->events[i] = w->events[(i - 1) / 2];
    w->events[i] = e;
}

static struct rsim_event pop(struct rsim *w)
{
    struct rsim_event top = w->events[0], e = w->events[--w->event_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < w->event_count) {
        if (child + 1 < w->event_count && before(&w->events[child + 1], &w->events[child]))
            child++;
        if (!before(&w->events[child], &e))
            break;
        w->events[i] = w->events[child];
        i = child;
    }
    w->events[i] = e;
    return top;
}

void rsim_letter_free(struct rsim_letter *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->count; i++)
        record_drop(l->records[i]);
    free(l->base);
    free(l);
}

struct rsim_node *rsim_by_id(struct rsim *w, uint64_t id)
{
    for (unsigned i = 0; i < w->nodes; i++)
        if (w->at[i].id == id)
            return &w->at[i];
    return NULL;
}

struct rsim_node *rsim_leader(struct rsim *w)
{
    struct rsim_node *best = NULL;

    for (unsigned i = 0; i < w->nodes; i++) {
        struct rsim_node *n = &w->at[i];

        if (n->up && n->paused_until_us <= w->now_us && consensus_role(n->c) == CONSENSUS_LEADER &&
            (best == NULL || consensus_term(n->c) > consensus_term(best->c)))
            best = n;
    }
    return best;
}

/* ---- what happens ---- */

/* Clients talk to each node that believes that it leads, stale ones included. */
static void clients_submit(struct rsim *w, struct rsim_event e)
{
    if (!w->clients)
        return;
    for (unsigned i = 0; i < w->nodes; i++)
        if (w->at[i].up && w->at[i].paused_until_us <= w->now_us && consensus_role(w->at[i].c) == CONSENSUS_LEADER)
            rsim_node_submit(&w->at[i], 1 + (unsigned)rsim_random(w, w->o.batch));
    e.at_us = w->now_us + 1 + rsim_random(w, 2 * w->o.client_us);
    rsim_push(w, e);
}

static bool for_the_loop(enum rsim_event_kind kind)
{
    return kind == EVENT_LEAVE || kind == EVENT_MESSAGE || kind == EVENT_DURABLE || kind == EVENT_TICK ||
           kind == EVENT_FETCHED;
}

static void handle(struct rsim *w, struct rsim_event *e)
{
    struct rsim_node *n = &w->at[e->to];
    bool mine = n->up && n->incarnation == e->incarnation;

    if (for_the_loop(e->kind) && n->up && n->paused_until_us > w->now_us) {
        e->at_us = n->paused_until_us;
        rsim_push(w, *e);
        return;
    }
    rsim_note(w, (uint64_t)e->kind * 131 + e->to);
    switch (e->kind) {
    case EVENT_LEAVE:
        if (mine)
            rsim_leave(n, e);
        break;
    case EVENT_MESSAGE:
        rsim_deliver(w, e); /* frees the letter, or keeps it for later */
        return;
    case EVENT_FETCHED:
        rsim_fetched(w, e);
        break;
    case EVENT_DISK:
        if (mine)
            rsim_disk_end(n);
        break;
    case EVENT_DURABLE:
        if (mine)
            rsim_node_durable(n, e->done);
        break;
    case EVENT_TICK:
        if (mine)
            rsim_node_tick(n, e->number);
        break;
    case EVENT_CLIENT:
        clients_submit(w, *e);
        break;
    case EVENT_CHAOS:
        rsim_chaos(w);
        break;
    case EVENT_OPERATE:
        rsim_operate(w);
        break;
    case EVENT_HEAL:
        if (w->heal_us <= w->now_us)
            rsim_open_links(w);
        break;
    case EVENT_SWAP:
        rsim_swap(w, n);
        break;
    case EVENT_CRASH:
        if (mine && !w->calm)
            rsim_crash(n, rsim_random(w, 20 * RSIM_MS));
        break;
    case EVENT_START:
        if (!n->up && !n->lost && n->incarnation == e->incarnation)
            rsim_node_start(n);
        break;
    }
    rsim_letter_free(e->letter);
    free(e->done);
}

void rsim_run_until(struct rsim *w, uint64_t until_us)
{
    while (!w->failed && w->event_count > 0 && w->events[0].at_us <= until_us) {
        struct rsim_event e = pop(w);

        if (e.at_us > w->now_us)
            w->now_us = e.at_us;
        if (++w->n.events > RSIM_EVENTS_MAX)
            rsim_violation(w, "more events than any healthy history has");
        handle(w, &e);
    }
    if (w->now_us < until_us)
        w->now_us = until_us;
}

/* ---- a history ---- */

static void choose(struct rsim *w)
{
    static const unsigned loss[] = {0, 0, 0, 0, 5, 10, 20, 50, 100, 300};
    struct rsim_options *o = &w->o;

    o->membership = rsim_chance(w, 400);
    o->nodes = rsim_chance(w, 300) ? 5 : 3;
    if (o->membership && rsim_chance(w, 150))
        o->nodes = 1 + (unsigned)rsim_random(w, 4);
    o->election_ms = 100 + 50 * (unsigned)rsim_random(w, 5);
    o->heartbeat_ms = o->election_ms / 10;
    o->latency_us = 50 + rsim_random(w, 1000);
    o->jitter_us = 50 + rsim_random(w, rsim_chance(w, 250) ? o->election_ms * RSIM_MS / 3 : 3000);
    o->disk_us = 50 + rsim_random(w, rsim_chance(w, 200) ? o->election_ms * RSIM_MS / 6 : 2000);
    o->client_us = 2000 + rsim_random(w, 10000);
    o->chaos_us = (uint64_t)o->election_ms * RSIM_MS * (30 + rsim_random(w, 40));
    o->loss_permille = loss[rsim_random(w, sizeof loss / sizeof *loss)];
    o->twice_permille = rsim_chance(w, 400) ? 30 : 0;
    o->drift_ppm = rsim_chance(w, 500) ? 10000 : 0;
    o->fifo = rsim_chance(w, 800);
    o->campaigns = rsim_chance(w, 300);
    o->batch = 1 + (unsigned)rsim_random(w, 8);
    o->window = 20 + (unsigned)rsim_random(w, 300);
    o->trail = (unsigned)rsim_random(w, 60);
}

static void free_world(struct rsim *w)
{
    for (size_t i = 0; i < w->event_count; i++) {
        rsim_letter_free(w->events[i].letter);
        free(w->events[i].done);
    }
    free(w->events);
    for (unsigned i = 0; i < w->nodes; i++)
        rsim_node_free(&w->at[i]);
    rsim_check_free(w);
    record_drop(w->founding);
    free(w);
}

static void add_counts(struct rsim *w, struct rsim_counts *to)
{
    const uint64_t *from = (const uint64_t *)&w->n;
    uint64_t *sum = (uint64_t *)to, heal_ms_max = to->heal_ms_max;

    w->n.virtual_ms = w->now_us / RSIM_MS;
    w->n.committed = w->committed_count;
    w->n.elections = w->election_count;
    for (size_t i = 0; i < sizeof *to / sizeof *sum; i++)
        sum[i] += from[i];
    to->heal_ms_max = w->n.heal_ms_max > heal_ms_max ? w->n.heal_ms_max : heal_ms_max;
}

bool rsim_run(const struct rsim_plan *plan, struct rsim_counts *counts, char why[RSIM_WHY_BYTES])
{
    struct rsim *w = must_calloc(1, sizeof *w);
    bool good;

    why[0] = '\0';
    CHECK(plan->bug < RSIM_BUGS);
    w->plan = plan;
    w->why = why;
    w->random = plan->seed * 0x2545f4914f6cdd1du + 12345;
    choose(w);
    TRACE(w,
          "seed %" PRIu64 ": %u nodes%s, election %u ms, loss %u/1000, latency %" PRIu64 "+%" PRIu64
          " us, disk %" PRIu64 " us%s",
          plan->seed, w->o.nodes, w->o.membership ? ", membership" : "", w->o.election_ms, w->o.loss_permille,
          w->o.latency_us, w->o.jitter_us, w->o.disk_us, w->o.fifo ? "" : ", reordering");
    rsim_found(w, w->o.nodes);
    w->clients = true;
    rsim_push(w, (struct rsim_event){.at_us = 1, .kind = EVENT_CLIENT});
    rsim_push(w, (struct rsim_event){.at_us = (uint64_t)w->o.election_ms * 3 * RSIM_MS, .kind = EVENT_CHAOS});
    if (w->o.membership)
        rsim_push(w, (struct rsim_event){.at_us = (uint64_t)w->o.election_ms * 3 * RSIM_MS, .kind = EVENT_OPERATE});
    rsim_run_until(w, w->o.chaos_us);
    if (!w->failed)
        rsim_end(w);
    add_counts(w, counts);
    good = !w->failed;
    free_world(w);
    return good;
}

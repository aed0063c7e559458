/* A node's disk. What is asked for becomes durable later, in the order of asking:
 *
 *      asked:  [hard state][append 7][append 8][cut 8][append 8']
 *              └─ in flight: one transaction ─┘└─ the next ones ─┘
 *
 * A transaction takes a random part of the queue, mostly all of it. A crash lets a random prefix of what was asked
 * for survive, whatever transaction it was in: the store may group writes as it likes, and its host must not care. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>
#include <string.h>

uint64_t rsim_disk_last(const struct rsim_disk *d)
{
    return d->first + d->count - 1;
}

struct record *rsim_disk_get(const struct rsim_disk *d, uint64_t index)
{
    return index >= d->first && index - d->first < d->count ? d->at[index - d->first] : NULL;
}

void rsim_disk_append(struct rsim_disk *d, struct record *r)
{
    if (d->count == d->room) {
        d->room = d->room > 0 ? 2 * d->room : 64;
        d->at = must_realloc(d->at, d->room * sizeof(struct record *));
    }
    d->at[d->count++] = r;
}

static void cut(struct rsim_disk *d, uint64_t index)
{
    while (d->count > 0 && rsim_disk_last(d) >= index)
        record_drop(d->at[--d->count]);
}

static void drop_before(struct rsim_disk *d, uint64_t first)
{
    size_t n = first > d->first ? (size_t)(first - d->first) : 0;

    if (n > d->count)
        n = d->count;
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        record_drop(d->at[i]);
    memmove(d->at, d->at + n, (d->count - n) * sizeof(struct record *));
    d->count -= n;
    d->first += n;
}

static void install(struct rsim_disk *d, const struct rsim_letter *l)
{
    cut(d, 0);
    d->base = *l->base;
    d->first = l->base->index + 1 - l->count;
    for (size_t i = 0; i < l->count; i++)
        rsim_disk_append(d, record_hold(l->records[i]));
}

static void write_free(struct rsim_write *w)
{
    record_drop(w->record);
    free(w->base);
    rsim_letter_free(w->snapshot);
}

static void apply(struct rsim_node *n, struct rsim_write *w)
{
    struct rsim_disk *d = &n->disk;

    switch (w->kind) {
    case WRITE_HARD_STATE:
        rsim_check_hard_state(n, w->term, w->vote);
        d->term = w->term;
        d->vote = w->vote;
        break;
    case WRITE_CUT:
        cut(d, w->index);
        break;
    case WRITE_APPEND:
        if (w->record->index != rsim_disk_last(d) + 1)
            rsim_violation(n->w, "node %u writes entry %" PRIu64 " after %" PRIu64, n->slot, w->record->index,
                           rsim_disk_last(d));
        rsim_disk_append(d, record_hold(w->record));
        break;
    case WRITE_COMPACT:
        d->base = *w->base;
        drop_before(d, w->index);
        break;
    case WRITE_INSTALL:
        install(d, w->snapshot);
        break;
    }
}

/* ---- transactions ---- */

static void begin(struct rsim_node *n)
{
    struct rsim *w = n->w;
    struct rsim_disk *d = &n->disk;
    uint64_t us = 1 + rsim_random(w, 2 * w->o.disk_us);

    d->in_flight = rsim_chance(w, 700) ? d->queued : 1 + (size_t)rsim_random(w, d->queued);
    if (rsim_chance(w, 5))
        us += rsim_random(w, (uint64_t)w->o.election_ms * RSIM_MS);
    if (n->slow_until_us > w->now_us)
        us = us * 20 + rsim_random(w, 100 * RSIM_MS);
    rsim_push(w, (struct rsim_event){
                     .at_us = w->now_us + us, .kind = EVENT_DISK, .to = n->slot, .incarnation = n->incarnation});
}

void rsim_disk_ask(struct rsim_node *n, struct rsim_write write)
{
    struct rsim_disk *d = &n->disk;

    if (d->queued == d->queue_room) {
        d->queue_room = d->queue_room > 0 ? 2 * d->queue_room : 64;
        d->queue = must_realloc(d->queue, d->queue_room * sizeof *d->queue);
    }
    d->queue[d->queued++] = write;
    if (d->in_flight == 0)
        begin(n);
}

/* Told entry by entry, or only of the last one of a transaction: both must do. */
static struct rsim_done *what_is_done(struct rsim_node *n, const struct rsim_disk *d)
{
    struct rsim_done *done = must_calloc(1, sizeof *done + d->in_flight * sizeof done->persisted[0]);
    bool each = rsim_chance(n->w, 300);

    for (size_t i = 0; i < d->in_flight; i++) {
        const struct rsim_write *w = &d->queue[i];

        if (w->kind == WRITE_HARD_STATE && n->w->plan->bug != RSIM_VOTE_FORGOTTEN)
            done->hard_states++;
        if (w->kind == WRITE_INSTALL)
            done->installed = true;
        if (w->kind != WRITE_APPEND)
            continue;
        if (each || done->count == 0)
            done->count++;
        done->persisted[done->count - 1].index = w->record->index;
        done->persisted[done->count - 1].term = w->record->term;
    }
    return done;
}

static void forget(struct rsim_disk *d, size_t n)
{
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        write_free(&d->queue[i]);
    memmove(d->queue, d->queue + n, (d->queued - n) * sizeof *d->queue);
    d->queued -= n;
}

void rsim_disk_end(struct rsim_node *n)
{
    struct rsim_disk *d = &n->disk;
    struct rsim_done *done = what_is_done(n, d);

    for (size_t i = 0; i < d->in_flight; i++)
        apply(n, &d->queue[i]);
    forget(d, d->in_flight);
    d->in_flight = 0;
    rsim_push(n->w, (struct rsim_event){.at_us = n->w->now_us,
                                        .kind = EVENT_DURABLE,
                                        .to = n->slot,
                                        .incarnation = n->incarnation,
                                        .done = done});
    if (d->queued > 0)
        begin(n);
}

void rsim_disk_crash(struct rsim_node *n)
{
    struct rsim_disk *d = &n->disk;
    size_t kept = rsim_chance(n->w, 300) ? 0 : (size_t)rsim_random(n->w, d->queued + 1);

    for (size_t i = 0; i < kept; i++)
        apply(n, &d->queue[i]);
    n->w->n.lost_writes += d->queued - kept;
    forget(d, d->queued);
    d->in_flight = 0;
}

void rsim_disk_free(struct rsim_node *n)
{
    struct rsim_disk *d = &n->disk;

    forget(d, d->queued);
    cut(d, 0);
    free(d->queue);
    free(d->at);
}

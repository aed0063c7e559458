/* The tail: a ring of references to records, and where the durable part of it ends.
 *
 *     slot            head                            head + count
 *     records  . . .  [ 41 | 42 | 43 | 44 | 45 | 46 ]  . . .         a ring of a power of two slots
 *     first = 41       durable up to 43 ──┘          └ last = 46
 *
 * Example: 47 is appended by a leader: it is sent to the peers at once and written; tail_durable(47) makes it one of
 * those that may go. Whoever holds a record keeps its bytes: eviction and cuts only take the tail's own reference.
 *
 * Invariants: indexes have no gaps; durable_bytes is the sum of the records up to `durable`, and at most bytes_max
 * after each call. */
#include "log/tail.h"

#include <stdlib.h>

#include "log/base/diag.h"

enum { SLOTS_MIN = 64 };

struct tail {
    struct record **slots;
    size_t capacity, head, count; /* capacity: a power of two */
    uint64_t first;               /* index of the record at head, or of the next one to come */
    uint64_t durable;             /* records up to here may be evicted; first - 1 <= durable < first + count */
    struct hash128 running;       /* after the last */
    uint64_t bytes, durable_bytes, bytes_max;
};

/* ---- records ---- */

struct record *record_new(struct buf *bytes, enum record_type type, uint64_t index, uint64_t term,
                          struct hash128 running)
{
    struct record *r = must_calloc(1, sizeof *r);

    CHECK(!bytes->failed && bytes->len >= ENTRY_HEADER_BYTES);
    *r = (struct record){.holders = 1, .type = type, .index = index, .term = term, .running = running};
    buf_move(&r->bytes, bytes);
    return r;
}

struct record *record_hold(struct record *r)
{
    CHECK(r->holders > 0 && r->holders < UINT32_MAX);
    r->holders++;
    return r;
}

void record_drop(struct record *r)
{
    if (r == NULL)
        return;
    CHECK(r->holders > 0);
    if (--r->holders > 0)
        return;
    buf_free(&r->bytes);
    free(r);
}

const void *record_change(const struct record *r, size_t *n)
{
    struct entry_view e;

    CHECK(entry_stated(buf_head(&r->bytes), r->bytes.len, &e) == ENTRY_OK);
    return entry_change(&e, n);
}

/* ---- the ring ---- */

static struct record **slot(const struct tail *t, size_t at)
{
    return &t->slots[(t->head + at) & (t->capacity - 1)];
}

static void grow(struct tail *t)
{
    size_t capacity = t->capacity * 2;
    struct record **slots = must_calloc(capacity, sizeof *slots);

    for (size_t i = 0; i < t->count; i++)
        slots[i] = *slot(t, i);
    free(t->slots);
    t->slots = slots;
    t->capacity = capacity;
    t->head = 0;
}

static void drop_last(struct tail *t)
{
    struct record *r = *slot(t, --t->count);

    t->bytes -= r->bytes.len;
    if (r->index <= t->durable) {
        t->durable_bytes -= r->bytes.len;
        t->durable = r->index - 1;
    }
    record_drop(r);
}

static void evict_first(struct tail *t)
{
    struct record *r = *slot(t, 0);

    CHECK(r->index <= t->durable);
    t->head = (t->head + 1) & (t->capacity - 1);
    t->count--;
    t->first++;
    t->bytes -= r->bytes.len;
    t->durable_bytes -= r->bytes.len;
    record_drop(r);
}

static void evict(struct tail *t)
{
    while (t->durable_bytes > t->bytes_max)
        evict_first(t);
}

struct tail *tail_new(uint64_t next_index, struct hash128 running)
{
    struct tail *t = must_calloc(1, sizeof *t);

    t->capacity = SLOTS_MIN;
    t->bytes_max = TAIL_BYTES_MAX;
    t->slots = must_calloc(t->capacity, sizeof(struct record *));
    tail_reset(t, next_index, running);
    return t;
}

void tail_free(struct tail *t)
{
    if (t == NULL)
        return;
    tail_reset(t, 1, (struct hash128){0, 0});
    free(t->slots);
    free(t);
}

void tail_reset(struct tail *t, uint64_t next_index, struct hash128 running)
{
    CHECK(next_index > 0);
    while (t->count > 0)
        drop_last(t);
    t->head = 0;
    t->first = next_index;
    t->durable = next_index - 1;
    t->running = running;
    CHECK(t->bytes == 0 && t->durable_bytes == 0);
}

uint64_t tail_first(const struct tail *t)
{
    return t->first;
}

uint64_t tail_last(const struct tail *t)
{
    return t->first + t->count - 1;
}

struct hash128 tail_running(const struct tail *t)
{
    return t->running;
}

void tail_append(struct tail *t, struct record *r)
{
    CHECK(r->index == t->first + t->count);
    if (t->count == t->capacity)
        grow(t);
    *slot(t, t->count++) = r;
    t->bytes += r->bytes.len;
    t->running = r->running;
}

void tail_cut(struct tail *t, uint64_t index, struct hash128 running)
{
    CHECK(index > 0 && index <= t->first + t->count);
    if (index <= t->first) {
        tail_reset(t, index, running);
        return;
    }
    while (t->first + t->count > index)
        drop_last(t);
    t->running = (*slot(t, t->count - 1))->running;
}

struct record *tail_get(const struct tail *t, uint64_t index)
{
    return index >= t->first && index - t->first < t->count ? *slot(t, (size_t)(index - t->first)) : NULL;
}

void tail_durable(struct tail *t, uint64_t index)
{
    CHECK(index < t->first + t->count); /* a report of what was cut since must not get here */
    while (t->durable < index)
        t->durable_bytes += tail_get(t, ++t->durable)->bytes.len;
    evict(t);
}

void tail_keep(struct tail *t, uint64_t bytes_max)
{
    t->bytes_max = bytes_max;
    evict(t);
}

uint64_t tail_bytes(const struct tail *t)
{
    return t->bytes;
}

/* What the sequencer remembers of keys: taints, unresolved lane writes, flights; and the epochs of async writes.
 *
 *   taint:   0 ──effect or unseen intent──▶ NEED_OPEN ──cut──▶ index ──commit of index──▶ 0
 *   flight:  from before a captured write is sent until the tap has passed a marker sent after its answer (or after
 *            its connection was killed). While it lasts, "this effect is surely the lane's" cannot be said for its
 *            keys.
 *   epoch:   the same for async writes, by the hundred: a filter of the keys they name. */
#include <string.h>

#include "proxy/seq_internal.h"

struct key *key_get(struct seq *s, uint64_t hash)
{
    struct key *k;

    HASH_FIND(hh, s->keys, &hash, sizeof hash, k);
    if (k == NULL) {
        k = must_calloc(1, sizeof *k);
        k->hash = hash;
        HASH_ADD(hh, s->keys, hash, sizeof k->hash, k);
    }
    return k;
}

static struct key *key_find(const struct seq *s, uint64_t hash)
{
    struct key *k;

    HASH_FIND(hh, s->keys, &hash, sizeof hash, k);
    return k;
}

void key_drop_if_clean(struct seq *s, struct key *k)
{
    if (k->taint != 0 || k->lane != 0 || k->flying != 0)
        return;
    HASH_DEL(s->keys, k);
    free(k);
}

void keys_clear(struct seq *s)
{
    struct key *k, *next;
    struct flight *f;
    struct flight_list *lists[] = {&s->flights, &s->closing, &s->killing};

    HASH_ITER(hh, s->keys, k, next)
    {
        HASH_DEL(s->keys, k);
        free(k);
    }
    s->taint_all = s->last_taint_index = 0;
    s->open_taints.count = s->tainted.count = 0;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        while ((f = TAILQ_FIRST(lists[i])) != NULL) {
            TAILQ_REMOVE(lists[i], f, link);
            keyset_clear(&f->keys);
            free(f);
        }
    }
    s->flight_all = 0;
}

/* ---- taints ---- */

void taint_keys(struct seq *s, const struct keyset *keys)
{
    if (!s->tracking)
        return;
    if (keys->all)
        s->taint_all = NEED_OPEN;
    for (uint32_t i = 0; i < keys->count; i++) {
        struct key *k = key_get(s, keyset_keys(keys)[i]);

        if (k->taint != NEED_OPEN) {
            k->taint = NEED_OPEN;
            ring_push(&s->open_taints, 0, k->hash);
        }
    }
}

bool taint_touches(const struct seq *s, const struct keyset *keys)
{
    return taint_need(s, keys) != 0;
}

uint64_t taint_need(const struct seq *s, const struct keyset *keys)
{
    uint64_t need = s->taint_all;

    if (keys->all) {
        if (s->open_taints.count > 0)
            return NEED_OPEN;
        need = need > s->last_taint_index ? need : s->last_taint_index;
    }
    for (uint32_t i = 0; i < keys->count; i++) {
        struct key *k = key_find(s, keyset_keys(keys)[i]);

        if (k != NULL && k->taint > need)
            need = k->taint;
    }
    return need > s->durable ? need : 0;
}

void taint_cut(struct seq *s, uint64_t index)
{
    bool any = s->taint_all == NEED_OPEN || s->open_taints.count > 0;

    while (s->open_taints.count > 0) {
        uint64_t hash = ring_first(&s->open_taints)->since_us;
        struct key *k = key_find(s, hash);

        ring_pop(&s->open_taints);
        CHECK(k != NULL && k->taint == NEED_OPEN);
        k->taint = index;
        ring_push(&s->tainted, index, hash);
    }
    if (s->taint_all == NEED_OPEN)
        s->taint_all = index;
    if (any)
        s->last_taint_index = index;
}

void taint_expire(struct seq *s)
{
    struct dated *d;

    while ((d = ring_first(&s->tainted)) != NULL && d->index <= s->durable) {
        struct key *k = key_find(s, d->since_us);

        ring_pop(&s->tainted);
        if (k != NULL && k->taint <= s->durable) {
            k->taint = 0;
            key_drop_if_clean(s, k);
        }
    }
    if (s->taint_all <= s->durable)
        s->taint_all = 0;
}

/* ---- flights ---- */

struct flight *flight_new(struct seq *s, const struct keyset *keys)
{
    struct flight *f = must_calloc(1, sizeof *f);

    keyset_add_all(&f->keys, keys);
    TAILQ_INSERT_TAIL(&s->flights, f, link);
    if (keys->all)
        s->flight_all++;
    for (uint32_t i = 0; i < keys->count; i++)
        key_get(s, keyset_keys(keys)[i])->flying++;
    return f;
}

void flight_close(struct seq *s, struct flight *f)
{
    TAILQ_REMOVE(&s->flights, f, link);
    f->killing = 0;
    f->marker = s->next_marker;
    TAILQ_INSERT_TAIL(&s->closing, f, link);
    s->marker_wanted = s->marker_wanted || s->tracking;
}

void flights_seen(struct seq *s, uint64_t marker)
{
    struct flight *f;

    while ((f = TAILQ_FIRST(&s->closing)) != NULL && f->marker <= marker) {
        TAILQ_REMOVE(&s->closing, f, link);
        if (f->keys.all)
            s->flight_all--;
        for (uint32_t i = 0; i < f->keys.count; i++) {
            struct key *k = key_get(s, keyset_keys(&f->keys)[i]);

            CHECK(k->flying > 0);
            k->flying--;
            key_drop_if_clean(s, k);
        }
        keyset_clear(&f->keys);
        free(f);
    }
}

/* ---- epochs ---- */

void epochs_reset(struct seq *s)
{
    uint64_t next = s->epoch_count ? s->epochs[s->epoch_count - 1].number + 1 : 1;

    for (size_t i = 0; i < s->epoch_count; i++)
        free(s->epochs[i].filter);
    memset(s->epochs, 0, sizeof s->epochs);
    s->epochs[0].number = next;
    s->epoch_count = 1;
}

static struct epoch *epoch_open(struct seq *s)
{
    return &s->epochs[s->epoch_count - 1];
}

void seq_async_key(struct seq *s, uint64_t key)
{
    struct epoch *e = epoch_open(s);

    if (e->filter == NULL)
        e->filter = must_calloc(1, SEQ_FILTER_BITS / 8);
    e->filter[key % SEQ_FILTER_BITS / 8] |= (uint8_t)(1u << (key & 7u));
}

void seq_async_all(struct seq *s)
{
    epoch_open(s)->all = true;
}

void epochs_marker_sent(struct seq *s, uint64_t marker)
{
    if (epoch_open(s)->used && s->epoch_count < SEQ_EPOCHS_MAX) {
        uint64_t next = epoch_open(s)->number + 1;

        memset(&s->epochs[s->epoch_count], 0, sizeof *s->epochs);
        s->epochs[s->epoch_count++].number = next;
    }
    for (size_t i = 0; i + 1 < s->epoch_count; i++)
        if (s->epochs[i].inflight == 0 && s->epochs[i].marker == 0)
            s->epochs[i].marker = marker;
}

void epochs_seen(struct seq *s, uint64_t marker)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->epoch_count; i++) {
        struct epoch *e = &s->epochs[i];

        if (i + 1 < s->epoch_count && e->inflight == 0 && e->marker != 0 && e->marker <= marker)
            free(e->filter);
        else
            s->epochs[kept++] = *e;
    }
    s->epoch_count = kept;
}

static bool epoch_may_touch(const struct epoch *e, const struct keyset *keys)
{
    if (!e->used)
        return false;
    if (e->all || keys->all)
        return true;
    for (uint32_t i = 0; e->filter != NULL && i < keys->count; i++) {
        uint64_t key = keyset_keys(keys)[i];

        if (e->filter[key % SEQ_FILTER_BITS / 8] & (1u << (key & 7u)))
            return true;
    }
    return false;
}

bool may_be_touched(const struct seq *s, const struct keyset *keys)
{
    if (s->flight_all > 0)
        return true;
    if (keys->all && (!TAILQ_EMPTY(&s->flights) || !TAILQ_EMPTY(&s->closing) || !TAILQ_EMPTY(&s->killing)))
        return true;
    for (uint32_t i = 0; i < keys->count; i++) {
        struct key *k = key_find(s, keyset_keys(keys)[i]);

        if (k != NULL && k->flying > 0)
            return true;
    }
    for (size_t i = 0; i < s->epoch_count; i++)
        if (epoch_may_touch(&s->epochs[i], keys))
            return true;
    return false;
}

bool keys_calm(const struct seq *s)
{
    if (s->keys != NULL || s->taint_all > s->durable || s->last_taint_index > s->durable || s->flight_all > 0 ||
        !TAILQ_EMPTY(&s->flights) || !TAILQ_EMPTY(&s->closing) || !TAILQ_EMPTY(&s->killing))
        return false;
    for (size_t i = 0; i < s->epoch_count; i++)
        if (s->epochs[i].used)
            return false;
    return true;
}

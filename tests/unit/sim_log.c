#include "tests/unit/sim_log.h"

#include <string.h>

#include "log/base/diag.h"

void sim_log_reset(struct sim_log *l)
{
    sim_log_survive(l, 0);
    l->durable = 0;
    l->seen.first = 1;
}

void sim_log_free(struct sim_log *l)
{
    for (size_t i = 0; i < l->seen.cap; i++)
        buf_free(&l->seen.entries[i]);
    free(l->seen.entries);
    buf_free(&l->open);
}

uint64_t sim_log_open_index(const struct sim_log *l)
{
    return l->sealed + 1;
}

bool sim_log_seal(struct sim_log *l)
{
    struct buf *entry;

    if (l->open.len == 0)
        return false;
    CHECK(!l->open.failed);
    if (l->sealed + 1 >= l->seen.cap) {
        size_t cap = l->seen.cap ? 2 * l->seen.cap : 64;

        l->seen.entries = must_realloc(l->seen.entries, cap * sizeof *l->seen.entries);
        memset(l->seen.entries + l->seen.cap, 0, (cap - l->seen.cap) * sizeof *l->seen.entries);
        l->seen.cap = cap;
    }
    entry = &l->seen.entries[++l->sealed];
    buf_clear(entry);
    buf_append(entry, buf_head(&l->open), l->open.len);
    buf_clear(&l->open);
    return true;
}

void sim_log_barriers(struct sim_log *l, int n)
{
    struct buf open = {0};

    buf_move(&open, &l->open);
    for (int i = 0; i < n; i++) {
        frame_control(&l->open, CONTROL_BARRIER, NULL, 0);
        (void)sim_log_seal(l);
    }
    buf_free(&l->open);
    buf_move(&l->open, &open);
}

void sim_log_survive(struct sim_log *l, uint64_t last)
{
    l->sealed = l->durable = last;
    buf_clear(&l->open);
}

/* ---- the doors of log.h ---- */

uint64_t log_first_index(const struct log *l)
{
    return l->first;
}

uint64_t log_committed(const struct log *l)
{
    return l->last;
}

uint64_t log_read(struct log *l, uint64_t from, size_t bytes_max, void (*each)(void *arg, const struct entry_view *e),
                  void *arg)
{
    (void)bytes_max;
    for (; from <= l->last; from++) {
        struct entry_view view = {.index = from};

        view.frames = cursor_of(buf_head(&l->entries[from]), l->entries[from].len);
        each(arg, &view);
    }
    return from;
}

/* ---- recovery ---- */

const char *sim_log_rebuild(struct sim_log *l, uint64_t last, const struct snapshot_mark *mark,
                            struct keyspace *state, struct sim_rebuilt *out)
{
    struct replay *r;
    struct buf stream = {0};
    const struct replay_facts *facts;
    const char *why = NULL;

    l->seen.last = last;
    l->seen.first = mark != NULL ? mark->log_from : 1;
    if (mark == NULL)
        keyspace_clear(state);
    r = replay_new(&l->seen, mark);
    while (replay_step(r, &stream, SIZE_MAX))
        ;
    facts = replay_facts(r);
    out->facts = *facts;
    out->pending_count = 0;
    if (facts->damage != NULL)
        why = "replay finds the log damaged";
    else if (!keyspace_replay(state, 0, buf_head(&stream), stream.len))
        why = "replay gives no stream";
    for (size_t i = 0; why == NULL && i < facts->pending_count; i++) {
        const struct replay_intent *p = &facts->pending[i];

        CHECK(out->pending_count < sizeof out->pending / sizeof *out->pending);
        out->pending[out->pending_count++] = p->seq;
        if (!keyspace_replay(state, p->db, p->resp, p->n))
            why = "a pending intent is no command";
    }
    if (why == NULL && state->full)
        why = "writes were applied many times";
    replay_free(r);
    buf_free(&stream);
    return why;
}

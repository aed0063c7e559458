/* Bugs to plant, by name: to prove that the simulator would notice. What is planted in the sequencer itself is undone
 * from outside: a move that leaves one structure behind is a whole one and the way back for that structure; whether
 * all is clean is asked condition by condition. So this file alone, of all that is outside, knows the sequencer's
 * insides.
 *
 *   log-moved, mark-moved, committed-before-moved, expire-on-lost a call left out, or in the wrong order
 *   move-<structure>                                              seq_log_moved() leaves it as it is
 *   clean-<condition>                                             seq_is_clean() does not ask it */
#include <string.h>

#include "proxy/seq_internal.h"
#include "tests/unit/sim_world.h"

bool planted(const struct sim *w, const char *bug)
{
    return w->without != NULL && strcmp(w->without, bug) == 0;
}

struct back {
    uint64_t from, to;
};

static void back(uint64_t *index, struct back b)
{
    if (*index != NEED_OPEN && *index >= b.to)
        *index = *index - b.to + b.from;
}

static void back_ops(struct op_list *list, struct back b)
{
    struct op *op;

    TAILQ_FOREACH(op, list, in_core)
    {
        back(&op->log_index, b);
        back(&op->need, b);
    }
}

static void back_ring(struct ring *r, struct back b)
{
    for (size_t i = 0; i < r->count; i++)
        back(&r->at[(r->head + i) & (r->cap - 1)].index, b);
}

static void back_lists(const struct sim *w, struct back b)
{
    struct seq *s = w->seq;

    if (planted(w, "move-queue"))
        back_ops(&s->queue, b);
    if (planted(w, "move-resolved"))
        back_ops(&s->resolved, b);
    if (planted(w, "move-waiting"))
        back_ops(&s->waiting, b);
    if (planted(w, "move-pending-marker"))
        back_ops(&s->pending_marker, b);
    for (size_t i = 0; planted(w, "move-markers") && i < s->marker_count; i++)
        back_ops(&s->markers[(s->marker_head + i) & (s->marker_cap - 1)].ops, b);
    if (planted(w, "move-tainted"))
        back_ring(&s->tainted, b);
    if (planted(w, "move-intent-dates"))
        back_ring(&s->intent_dates, b);
    if (planted(w, "move-answer-dates"))
        back_ring(&s->answer_dates, b);
}

static void back_numbers(const struct sim *w, struct back b)
{
    struct seq *s = w->seq;
    const struct {
        const char *name;
        uint64_t *index;
    } number[] = {{"move-taint-all", &s->taint_all},     {"move-last-taint", &s->last_taint_index},
                  {"move-last-cut", &s->last_cut_index}, {"move-entry", &s->entry_index},
                  {"move-recover", &s->recover_index},   {"move-answered", &s->answered_index}};

    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (planted(w, number[i].name))
            back(number[i].index, b);
}

void planted_move(struct sim *w, uint64_t to)
{
    struct seq *s = w->seq;
    struct back b = {s->open_index, to};
    struct key *k, *next;

    if (planted(w, "log-moved"))
        return;
    seq_log_moved(s, to);
    back_lists(w, b);
    back_numbers(w, b);
    if (planted(w, "move-taints"))
        HASH_ITER(hh, s->keys, k, next)
        {
            back(&k->taint, b);
        }
    for (size_t i = 0; i < s->passed_count; i++) {
        if (planted(w, "move-passed"))
            back(&s->passed[i].index, b);
        if (planted(w, "move-log-from"))
            back(&s->passed[i].log_from, b);
    }
}

/* A key that is remembered for nothing shows in no figure. */
bool keys_left(const struct sim *w)
{
    return HASH_COUNT(w->seq->keys) > 0;
}

bool planted_clean(const struct sim *w, uint64_t *index)
{
    const struct seq *s = w->seq;
    const struct {
        const char *name;
        bool fits;
    } condition[] = {{"clean-attached", s->attached},           {"clean-items", s->items.len == 0},
                     {"clean-refs", s->ref_count == 0},         {"clean-settling", !s->settling},
                     {"clean-queue", TAILQ_EMPTY(&s->queue)},   {"clean-unresolved", TAILQ_EMPTY(&s->unresolved)},
                     {"clean-flying", TAILQ_EMPTY(&s->flying)}, {"clean-cut", s->last_cut_index <= s->durable}};
    bool all = true;

    if (w->without == NULL || strncmp(w->without, "clean-", 6) != 0)
        return seq_is_clean(s, index);
    for (size_t i = 0; i < sizeof condition / sizeof *condition; i++)
        all = all && (condition[i].fits || planted(w, condition[i].name));
    *index = s->durable;
    return all;
}

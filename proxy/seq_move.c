/* When indexes are not what they seemed: the open entry moves, or all that was not committed is void.
 *
 * A node that lost its quorum and leads again finds that the barrier of its new term has taken the index that its
 * open batch had been promised. Nothing else can have: nobody else led. So whatever is noted for the open entry, and
 * that entry is the newest of all, gets the new number. */
#include "proxy/seq_internal.h"

struct move {
    uint64_t from, to;
};

static void shift(uint64_t *index, struct move m)
{
    if (*index != NEED_OPEN && *index >= m.from)
        *index = *index - m.from + m.to;
}

static void shift_ops(struct op_list *list, struct move m)
{
    struct op *op;

    TAILQ_FOREACH(op, list, in_core)
    {
        shift(&op->log_index, m);
        shift(&op->need, m);
    }
}

static void shift_ring(struct ring *r, struct move m)
{
    for (size_t i = 0; i < r->count; i++)
        shift(&r->at[(r->head + i) & (r->cap - 1)].index, m);
}

void seq_log_moved(struct seq *s, uint64_t to)
{
    struct move m = {s->open_index, to};
    struct key *k, *next;

    CHECK(to >= s->open_index && s->out_count == 0);
    if (m.from == m.to)
        return;
    shift_ops(&s->queue, m); /* unresolved, flying: committed before they were sent, and need nothing yet */
    shift_ops(&s->resolved, m);
    shift_ops(&s->waiting, m);
    shift_ops(&s->pending_marker, m);
    for (size_t i = 0; i < s->marker_count; i++)
        shift_ops(&s->markers[(s->marker_head + i) & (s->marker_cap - 1)].ops, m);
    HASH_ITER(hh, s->keys, k, next)
    {
        shift(&k->taint, m);
    }
    shift_ring(&s->tainted, m);
    shift_ring(&s->intent_dates, m);
    shift_ring(&s->answer_dates, m);
    for (size_t i = 0; i < s->passed_count; i++) {
        shift(&s->passed[i].index, m);
        shift(&s->passed[i].log_from, m);
    }
    shift(&s->taint_all, m);
    shift(&s->last_taint_index, m);
    shift(&s->last_cut_index, m);
    shift(&s->entry_index, m);
    shift(&s->recover_index, m);
    shift(&s->answered_index, m);
    s->open_index = to;
}

void seq_void(struct seq *s)
{
    CHECK(!s->attached && s->figures.ops == 0);
    keys_clear(s);
    buf_clear(&s->items);
    s->ref_count = s->effects = s->cut_effects = 0;
    s->entry_index = s->last_cut_index = s->last_taint_index = s->taint_all = 0;
    s->answered_durable = s->answered_sample = s->answered - seq_answered(s); /* as good as the last commit made it */
    s->answered_index = 0;
    s->open_index = s->durable = s->recover_index = 0;
    s->intent_dates.count = s->answer_dates.count = 0;
    s->settling = false;
}

bool seq_is_clean(const struct seq *s, uint64_t *index)
{
    if (!s->attached || s->items.len > 0 || s->ref_count > 0 || s->settling || !TAILQ_EMPTY(&s->queue) ||
        !TAILQ_EMPTY(&s->unresolved) || !TAILQ_EMPTY(&s->flying) || s->last_cut_index > s->durable)
        return false;
    *index = s->durable;
    return true;
}

bool seq_is_idle(const struct seq *s)
{
    for (size_t i = 0; i < s->epoch_count; i++)
        if (s->epochs[i].inflight > 0)
            return false;
    return s->figures.ops == 0;
}

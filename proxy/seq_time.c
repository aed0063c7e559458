/* Time, modes and figures of the sequencer: the lag, giving up what has waited too long, tracking on and off. */
#include "proxy/seq_internal.h"

void seq_tick(struct seq *s, uint64_t now_us)
{
    if (s->unmarked_first_us != 0 && now_us >= s->unmarked_first_us + SEQ_EPOCH_MS * 1000u / 2)
        s->marker_wanted = true;
}

static uint64_t older(uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a + b;
    return a < b ? a : b;
}

uint64_t seq_oldest_us(const struct seq *s)
{
    uint64_t oldest = s->unmarked_first_us;

    if (s->intent_dates.count > 0)
        oldest = older(oldest, s->intent_dates.at[s->intent_dates.head].since_us);
    if (s->answer_dates.count > 0)
        oldest = older(oldest, s->answer_dates.at[s->answer_dates.head].since_us);
    for (size_t i = 0; i < s->marker_count; i++)
        oldest = older(oldest, s->markers[(s->marker_head + i) & (s->marker_cap - 1)].first_us);
    return oldest;
}

uint64_t seq_answered(const struct seq *s)
{
    return s->answered - (s->answered_index <= s->durable ? s->answered_sample : s->answered_durable);
}

static void expire_list(struct seq *s, struct op_list *list, uint64_t before_us)
{
    struct op *op, *next;

    for (op = TAILQ_FIRST(list); op != NULL; op = next) {
        /* A read has waited since it was told; a write since it was answered. 0: has no date, waits on. */
        uint64_t since_us = op->kind == OP_READ ? op->accepted_us : op->came_us;

        next = TAILQ_NEXT(op, in_core);
        if (op->came && since_us != 0 && since_us < before_us && op->kind != OP_LOCAL) {
            TAILQ_REMOVE(list, op, in_core);
            seq_let_go(s, op, SEQ_FAIL);
        }
    }
}

void seq_expire(struct seq *s, uint64_t before_us)
{
    struct op *op, *next;

    for (op = TAILQ_FIRST(&s->queue); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        if (op->accepted_us >= before_us || op->orphan || op->session == NULL)
            continue;
        if (op->kind == OP_WRITE) {
            struct op *ghost = op_ghost(s, op); /* the macro below evaluates it more than once */

            TAILQ_INSERT_BEFORE(op, ghost, in_core);
        }
        TAILQ_REMOVE(&s->queue, op, in_core);
        seq_let_go(s, op, SEQ_FAIL);
    }
    expire_list(s, &s->waiting, before_us);
    expire_list(s, &s->open_waiting, before_us);
}

void seq_track(struct seq *s, bool tracking)
{
    if (tracking == s->tracking || (!tracking && s->figures.ops > 0))
        return;
    s->tracking = tracking;
    if (!tracking) {
        s->taint_all = 0;
        return;
    }
    for (size_t i = 0; i < s->epoch_count; i++)
        s->epochs[i].all = s->epochs[i].all || s->epochs[i].used;
    s->taint_all = s->items.len > 0 || s->ref_count > 0 ? NEED_OPEN : s->last_cut_index;
    if (s->taint_all != NEED_OPEN && s->taint_all > s->last_taint_index)
        s->last_taint_index = s->taint_all;
}

bool seq_tracking(const struct seq *s)
{
    return s->tracking;
}

struct seq_figures seq_figures(const struct seq *s)
{
    struct seq_figures f = s->figures;
    struct op *op;

    f.pending_intents = s->next_seq - 1 - s->last_resolved;
    f.tainted_keys = s->tainted.count + s->open_taints.count;
    f.tainted_all = s->taint_all > s->durable;
    TAILQ_FOREACH(op, &s->waiting, in_core)
    f.waiting++;
    TAILQ_FOREACH(op, &s->open_waiting, in_core)
    f.waiting++;
    return f;
}

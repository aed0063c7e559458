/* The log's beginning moves on: what a snapshot has made superfluous goes, from the front and in pieces, so that
 * commits pass in between.
 *
 *     log_truncate(30) ─▶ consensus: asks for nothing below 30 any more ─▶ wanted = 30 ─▶ jobs: 1..20, 21..29
 *
 * For the loop entries below `wanted` do not exist from then on. With the first piece the store is told from where on
 * Raft goes by the log after a restart (the base).
 *
 * Example: entries 10 and 25 named the members, all up to 40 is committed, 30 is asked for: the base is 29, with the
 * members of 25. Had 35 named them last, it would be 35. */
#include "log/log_internal.h"

static bool truncation_run(struct writer_job *j)
{
    struct truncation *t = (struct truncation *)j;

    t->result = store_truncate_to(t->log->store, t->index, &t->base, &t->more, t->why);
    t->after = store_state(t->log->store);
    return true;
}

void truncate_more(struct log *l)
{
    struct truncation *t = &l->truncation;

    if (t->out || l->kept.first >= t->wanted || l->writing == WRITE_FAILED || l->install.ready)
        return;
    t->out = true;
    t->index = t->wanted;
    buf_free(&t->base.change);
    t->base = t->next_base;
    t->base.change = (struct buf){0};
    buf_append(&t->base.change, buf_head(&t->next_base.change), t->next_base.change.len);
    writer_submit(l->writer, &t->job, WRITER_BACKGROUND);
}

/* Jobs are reported in the order in which they ran, so `after` knows of nothing that the loop does not. */
static void truncation_done(struct writer_job *j)
{
    struct truncation *t = (struct truncation *)j;
    struct log *l = t->log;

    t->out = false;
    if (l->writing == WRITE_FAILED)
        return;
    if (t->result == STORE_BROKEN) {
        log_fail(l, t->why);
        return;
    }
    if (t->result == STORE_FULL) {
        loop_timer_once(l->retry_timer, LOG_RETRY_MS);
        return;
    }
    l->kept = t->after;
    truncate_more(l);
    if (l->full)
        write_retry(l);
    else
        write_more(l); /* an installation waits for us */
}

/* Raft's snapshot is where the log begins, or where its members were named last, if that is later: both may be asked
 * for. It never moves to the same place twice, so all that is committed is the last resort: a log that is full has
 * nothing newer. */
static bool compact(struct log *l, uint64_t index, struct store_base *base)
{
    buf_clear(&base->change);
    base->change_index = consensus_committed_change(l->raft, &base->change);
    base->index = base->change_index >= index ? base->change_index : index - 1;
    if (base->index < l->committed && consensus_compact(l->raft, base->index, index)) {
        base->term = group_term_at(l, base->index);
        return true;
    }
    base->index = l->committed;
    base->term = group_term_at(l, base->index);
    return consensus_compact(l->raft, base->index, index);
}

/* Raft is told first: it must never ask for an entry that is gone. */
void log_truncate(struct log *l, uint64_t index)
{
    struct truncation *t = &l->truncation;

    if (index > l->committed)
        index = l->committed;
    if (l->serve_from != 0 && index > l->serve_from)
        index = l->serve_from;
    if (l->raft == NULL || index <= t->wanted || index <= l->kept.first)
        return;
    if (!compact(l, index, &t->next_base) && !l->alone) /* nobody asks a lone node for what is gone */
        return;
    t->wanted = index;
    truncate_more(l);
    group_after(l);
}

void truncate_init(struct log *l)
{
    l->truncation.log = l;
    l->truncation.job = (struct writer_job){.run = truncation_run, .done = truncation_done};
}

void truncate_replaced(struct log *l)
{
    l->truncation.wanted = 0;
}

void truncate_free(struct log *l)
{
    buf_free(&l->truncation.base.change);
    buf_free(&l->truncation.next_base.change);
}

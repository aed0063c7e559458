/* From memory to disk. At most one job is with the writer; what arrives meanwhile becomes the next one.
 *
 *      consensus says              here                                        on disk
 *      hard_state(t, v)  ─▶ hard_wanted ──┐
 *      cut(i)            ─▶ cut_wanted ───┼─▶ one job ─▶ one transaction ─▶ consensus_hard_state_durable()
 *      append(...)       ─▶ tail ─────────┘                                 consensus_persisted()
 *                           handed < last
 *
 * The order is Raft's: a job takes the term first, then the cut, then as many records as fit. Group commit needs no
 * timer: while the disk works, the next job gathers.
 *
 * A full disk or log-size-max: the job is taken apart again and tried every LOG_RETRY_MS. A term or vote does not
 * wait for that: a node without room for entries must still be able to vote, and never twice.
 *
 * Example, a follower cut back: records 5..7 are with the writer when cut(6) and append(6') come: handed becomes 5,
 * cut_wanted 6; the job in flight writes 5..7, the next one removes 6 and 7 and writes 6'. Consensus is told of 7 and
 * ignores it, since its log has another entry there; then of 6'. */
#include <stdio.h>

#include "log/base/clock.h"
#include "log/log_internal.h"

enum { FILL_BATCH_BYTES_MAX = 64 * 1024 }; /* larger ones need the disk's bandwidth, not a quick commit */

static void set_writing(struct log *l, enum writing to)
{
    static const bool allowed[3][3] = {
        [WRITE_IDLE] = {[WRITE_BUSY] = true, [WRITE_FAILED] = true},
        [WRITE_BUSY] = {[WRITE_IDLE] = true, [WRITE_FAILED] = true},
    };

    CHECK(allowed[l->writing][to]);
    l->writing = to;
}

void log_fail(struct log *l, const char *why)
{
    if (l->writing == WRITE_FAILED)
        return;
    set_writing(l, WRITE_FAILED);
    loop_timer_stop(l->idle_timer);
    loop_timer_stop(l->retry_timer);
    l->events->failed(l->arg, why);
}

static void tell_stalled(struct log *l, bool stalled, const char *why)
{
    if (l->told_stalled == stalled)
        return;
    l->told_stalled = stalled;
    if (stalled)
        diag_log(l->diag, DIAG_WARNING, "The log cannot grow, tried again every %d ms: %s", LOG_RETRY_MS, why);
    else
        diag_log(l->diag, DIAG_NOTICE, "The log has room again");
    if (l->events->stalled != NULL)
        l->events->stalled(l->arg, stalled, why);
}

/* ---- a job ---- */

static bool write_run(struct writer_job *w)
{
    struct write_job *j = (struct write_job *)w;
    struct log *l = j->log;
    struct store_write what = {
        .hard = j->hard ? &j->hard_state : NULL, .cut_from = j->cut_from, .records = j->records, .count = j->count};
    uint64_t from_us = clock_mono_us(), took_us;

    j->result =
        j->installing ? store_install(l->store, &l->install.store, j->why) : store_write(l->store, &what, j->why);
    j->after = store_state(l->store);
    took_us = clock_mono_us() - from_us;
    j->took_us = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX;
    j->wants_fill = j->result == STORE_OK && j->bytes <= FILL_BATCH_BYTES_MAX && store_wants_fill(l->store);
    return true;
}

static void gather_records(struct log *l, struct write_job *j)
{
    struct record *r;

    while (j->count < LOG_JOB_RECORDS_MAX && l->handed < tail_last(l->tail)) {
        r = tail_get(l->tail, l->handed + 1);
        CHECK(r != NULL); /* the tail keeps all that is not durable */
        if (j->count > 0 && j->bytes + r->bytes.len > LOG_JOB_BYTES_MAX)
            break;
        j->records[j->count++] = record_hold(r);
        j->bytes += r->bytes.len;
        l->handed++;
    }
}

/* A truncation that is out would meet another log than the one that it is for. */
static bool may_install(const struct log *l)
{
    return l->install.ready && !l->full && !l->truncation.out;
}

/* False: there is nothing to write, or no room for it. While the disk is full a cut is tried without what comes in
 * its place: that makes room, and needs none but the reserve. */
static bool gather(struct log *l)
{
    struct write_job *j = &l->write;

    CHECK(j->count == 0);
    j->hard = l->hard_wanted;
    j->hard_state = l->hard;
    j->cut_from = 0;
    j->bytes = 0;
    j->installing = !j->hard && may_install(l);
    j->hard_calls = l->hard_wanted ? l->hard_calls : 0;
    l->hard_calls -= j->hard_calls;
    l->hard_wanted = false;
    if (!l->install.ready && (!l->full || !l->cut_owed)) {
        j->cut_from = l->cut_wanted;
        l->cut_wanted = 0;
    }
    if (!l->install.ready && !l->full)
        gather_records(l, j);
    return j->hard || j->cut_from != 0 || j->count > 0 || j->installing;
}

static void drop_records(struct write_job *j)
{
    for (size_t i = 0; i < j->count; i++)
        record_drop(j->records[i]);
    j->count = 0;
}

/* Nothing of it was written: as if it had never been gathered. If a whole log is to replace ours, it is not wanted
 * any more. */
static void take_apart(struct log *l)
{
    struct write_job *j = &l->write;

    if (!l->install.ready && j->count > 0 && j->records[0]->index <= l->handed)
        l->handed = j->records[0]->index - 1;
    if (!l->install.ready && j->cut_from != 0 && (l->cut_wanted == 0 || j->cut_from < l->cut_wanted))
        l->cut_wanted = j->cut_from;
    if (j->hard)
        l->hard_wanted = true; /* l->hard is newer, or the same */
    l->hard_calls += j->hard_calls;
    j->hard_calls = 0;
    drop_records(j);
}

/* Not beyond what base_wait waits for. */
static void tell_persisted(struct log *l)
{
    uint64_t last = l->durable;

    if (l->base_wait != 0 && last >= l->base_wait)
        last = l->base_wait - 1;
    if (last > 0)
        consensus_persisted(l->raft, last, group_term_at(l, last));
}

/* Of what was written only that counts which the log still holds: the rest was cut, or replaced, meanwhile. */
static void tell_durable(struct log *l)
{
    struct write_job *j = &l->write;
    size_t n = j->count;

    while (n > 0 && tail_get(l->tail, j->records[n - 1]->index) != j->records[n - 1])
        n--;
    if (n > 0) {
        l->durable = j->records[n - 1]->index;
        tail_durable(l->tail, l->durable);
    }
    drop_records(j);
    for (; j->hard_calls > 0; j->hard_calls--)
        consensus_hard_state_durable(l->raft);
    if (n > 0)
        tell_persisted(l);
}

static void job_ok(struct log *l)
{
    struct write_job *j = &l->write;

    l->kept = j->after;
    if (!j->installing)
        histogram_add(&l->fsync_us, j->took_us);
    set_writing(l, WRITE_IDLE);
    if (j->cut_from != 0 || j->count > 0 || j->installing) {
        l->full = false;
        tell_stalled(l, false, "");
    }
    if (j->wants_fill && !l->fill.out && !l->sync_open) {
        l->fill.out = true;
        writer_submit(l->writer, &l->fill.job, WRITER_BACKGROUND);
    }
    if (j->installing)
        fetch_installed(l);
    else
        tell_durable(l);
}

static void job_full(struct log *l)
{
    struct write_job *j = &l->write;
    bool again = j->hard && (j->cut_from != 0 || j->count > 0); /* perhaps the term alone finds room */
    bool cut_again = j->cut_from != 0 && j->count > 0;          /* or the cut */

    set_writing(l, WRITE_IDLE);
    take_apart(l);
    if (j->hard && !again) { /* not even the reserve had room: the term waits for the next try, too */
        l->hard_owed = true;
        l->hard_wanted = false;
    }
    if (j->cut_from != 0)
        l->cut_owed = !cut_again;
    l->full = true;
    loop_timer_once(l->retry_timer, LOG_RETRY_MS);
    tell_stalled(l, true, j->why);
}

static void write_done(struct writer_job *w)
{
    struct write_job *j = (struct write_job *)w;
    struct log *l = j->log;

    if (l->writing == WRITE_FAILED) {
        drop_records(j);
        return;
    }
    switch (j->result) {
    case STORE_OK:
        job_ok(l);
        break;
    case STORE_FULL:
        job_full(l);
        break;
    case STORE_BROKEN:
        drop_records(j);
        log_fail(l, j->why);
        return;
    }
    group_after(l);
}

static bool fill_run(struct writer_job *j)
{
    store_fill(((struct fill *)j)->log->store);
    return true;
}

static void fill_done(struct writer_job *j)
{
    ((struct fill *)j)->out = false;
}

/* ---- the doors ---- */

void write_init(struct log *l)
{
    l->write.log = l;
    l->write.job = (struct writer_job){.run = write_run, .done = write_done};
    l->fill.log = l;
    l->fill.job = (struct writer_job){.run = fill_run, .done = fill_done};
}

void write_more(struct log *l)
{
    if (l->writing != WRITE_IDLE || l->sync_open || !gather(l))
        return;
    set_writing(l, WRITE_BUSY);
    l->write_since_ms = clock_mono_ms();
    writer_submit(l->writer, &l->write.job, WRITER_URGENT);
}

uint64_t log_disk_ms(const struct log *l)
{
    return l->writing == WRITE_BUSY ? clock_mono_ms() - l->write_since_ms : 0;
}

void write_retry(struct log *l)
{
    l->full = l->cut_owed = false;
    if (l->hard_owed) {
        l->hard_owed = false;
        l->hard_wanted = true;
    }
    write_more(l);
}

void write_cut(struct log *l, uint64_t index)
{
    uint64_t term;
    struct hash128 running = l->kept.before;
    struct record *before = tail_get(l->tail, index - 1);

    if (before != NULL) {
        running = before->running;
    } else if (!store_at(l->store, index - 1, &term, &running)) {
        log_fail(l, "the log is cut before its beginning");
        return;
    }
    tail_cut(l->tail, index, running);
    if (l->durable >= index)
        l->durable = index - 1;
    if (index > l->handed)
        return;
    l->handed = index - 1;
    if (l->cut_wanted == 0 || index < l->cut_wanted)
        l->cut_wanted = index;
}

void write_hard(struct log *l, uint64_t term, uint64_t vote)
{
    l->hard = (struct store_hard){term, vote};
    l->hard_wanted = true;
    l->hard_calls++;
}

bool write_now(struct log *l)
{
    while (gather(l)) {
        set_writing(l, WRITE_BUSY);
        (void)write_run(&l->write.job);
        write_done(&l->write.job);
        if (l->full || l->writing == WRITE_FAILED)
            return false;
    }
    return true;
}

void write_base_here(struct log *l)
{
    l->base_wait = 0;
    if (l->raft != NULL)
        tell_persisted(l);
    group_after(l);
}

void write_drop(struct log *l)
{
    drop_records(&l->write);
}

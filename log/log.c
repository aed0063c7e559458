/* The log's machine: one batch is open, at most one is with the writer.
 *
 *                    log_flush()                     committed
 *     IDLE ─────────────────────────▶ COMMITTING ─────────────────▶ IDLE
 *                                       │    ▲
 *                                  full │    │ LOG_RETRY_MS, or a piece was truncated
 *                                       ▼    │
 *                                      STALLED                       any ── final error ──▶ FAILED (for good)
 *
 * Group commit needs no timer: what arrives while a commit is in flight becomes the next batch. Only a batch that
 * nobody waits for has one (LOG_IDLE_FLUSH_MS).
 *
 * Example: 50 clients write at once; the first turn's writes are flushed as entry 7; what arrives during its 200 us
 * gathers; when entry 7 is reported, the same turn's log_flush() starts entry 8 with all of it.
 *
 * The writer thread owns the store's state and the batch in hand while a job is out; each job brings back a copy of
 * the state, so that what the loop knows (l->kept) is only ever changed on the loop. */
#include "log/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/lock.h"
#include "log/snapshot.h"
#include "log/store.h"
#include "log/writer.h"

enum {
    FLUSH_BYTES = 1024 * 1024,        /* a batch of this size does not wait for company */
    SPARE_BYTES_MAX = 1024 * 1024,    /* a larger batch's memory is given back */
    FILL_BATCH_BYTES_MAX = 64 * 1024, /* larger batches need the disk's bandwidth, not a quick commit */
    COMMIT_TIMES_MAX = 1024,          /* kept for metrics; later ones are dropped until they are taken */
};

enum log_state { IDLE, COMMITTING, STALLED, FAILED };

struct commit {
    struct writer_job job;
    struct log *log;
    struct buf batch;
    enum store_result result;
    struct store_state after;
    bool wants_fill;
    uint32_t took_us;
    char why[STORE_WHY_BYTES];
};

struct truncation {
    struct writer_job job;
    struct log *log;
    bool out;        /* with the writer */
    uint64_t index;  /* what the writer works towards */
    uint64_t wanted; /* what was last asked for; entries below do not exist for the loop any more */
    bool more;
    enum store_result result;
    struct store_state after;
    char why[STORE_WHY_BYTES];
};

struct fill {
    struct writer_job job;
    struct log *log;
    bool out; /* with the writer */
};

struct log {
    struct loop *loop;
    const struct diag *diag;
    const struct log_events *events;
    void *arg;
    int lock_fd;
    struct store *store;
    struct writer *writer;
    struct snapshots *snapshots;
    struct loop_timer *idle_timer, *retry_timer;
    enum log_state state;
    bool told_stalled;
    struct store_state kept; /* as of the last commit or truncation reported */
    struct buf open, spare;
    bool urgent, waiting; /* of the open batch: flush at once; touched, with the idle timer running */
    struct commit commit;
    struct truncation truncation;
    struct fill fill;
    uint32_t commit_us[COMMIT_TIMES_MAX];
    size_t commit_count;
};

/* The one setter; FAILED is never left. */
static void set_state(struct log *l, enum log_state to)
{
    static const bool allowed[4][4] = {
        [IDLE] = {[COMMITTING] = true, [FAILED] = true},
        [COMMITTING] = {[IDLE] = true, [STALLED] = true, [FAILED] = true},
        [STALLED] = {[COMMITTING] = true, [FAILED] = true},
    };

    CHECK(allowed[l->state][to]);
    l->state = to;
}

static void fail(struct log *l, const char *why)
{
    if (l->state == FAILED)
        return;
    set_state(l, FAILED);
    loop_timer_stop(l->idle_timer);
    loop_timer_stop(l->retry_timer);
    diag_log(l->diag, DIAG_WARNING, "log failed: %s", why);
    l->events->failed(l->arg, why);
}

static void snapshots_broken(void *arg, const char *why)
{
    fail(arg, why);
}

/* ---- commit ---- */

static bool commit_run(struct writer_job *j)
{
    struct commit *c = (struct commit *)j;
    uint64_t from_us = clock_mono_us(), took_us;
    size_t bytes = c->batch.len;

    c->result = store_append(c->log->store, &c->batch, c->why);
    c->after = store_state(c->log->store);
    took_us = clock_mono_us() - from_us;
    c->took_us = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX;
    c->wants_fill = c->result == STORE_OK && bytes <= FILL_BATCH_BYTES_MAX && store_wants_fill(c->log->store);
    return true;
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

static void submit_fill(struct log *l)
{
    if (!l->commit.wants_fill || l->fill.out)
        return;
    l->fill.out = true;
    writer_submit(l->writer, &l->fill.job, WRITER_BACKGROUND);
}

static void submit_commit(struct log *l)
{
    set_state(l, COMMITTING);
    writer_submit(l->writer, &l->commit.job, WRITER_URGENT);
}

static void tell_stalled(struct log *l, bool stalled, const char *why)
{
    if (l->told_stalled == stalled)
        return;
    l->told_stalled = stalled;
    if (stalled)
        diag_log(l->diag, DIAG_WARNING, "log stalled, retrying every %d ms: %s", LOG_RETRY_MS, why);
    else
        diag_log(l->diag, DIAG_NOTICE, "log has room again");
    if (l->events->stalled != NULL)
        l->events->stalled(l->arg, stalled, why);
}

static void committed(struct log *l)
{
    struct commit *c = &l->commit;

    CHECK(c->after.last == l->kept.last + 1);
    l->kept = c->after;
    if (l->commit_count < COMMIT_TIMES_MAX)
        l->commit_us[l->commit_count++] = c->took_us;
    buf_clear(&c->batch);
    if (c->batch.cap > SPARE_BYTES_MAX || l->spare.data != NULL)
        buf_free(&c->batch);
    else
        buf_move(&l->spare, &c->batch);
    set_state(l, IDLE);
    tell_stalled(l, false, "");
    submit_fill(l);
    l->events->committed(l->arg, l->kept.last);
}

static void commit_done(struct writer_job *j)
{
    struct log *l = ((struct commit *)j)->log;

    if (l->state == FAILED)
        return;
    switch (l->commit.result) {
    case STORE_OK:
        committed(l);
        break;
    case STORE_FULL:
        set_state(l, STALLED);
        loop_timer_once(l->retry_timer, LOG_RETRY_MS);
        tell_stalled(l, true, l->commit.why);
        break;
    case STORE_BROKEN:
        fail(l, l->commit.why);
        break;
    }
}

/* ---- the open batch ---- */

struct buf *log_batch(struct log *l)
{
    if (l->open.len == 0)
        entry_begin(&l->open);
    return &l->open;
}

void log_touch(struct log *l, bool urgent)
{
    CHECK(l->open.failed || l->open.len > ENTRY_HEADER_BYTES);
    l->urgent = l->urgent || urgent;
    if (!l->waiting && l->state != FAILED)
        loop_timer_once(l->idle_timer, LOG_IDLE_FLUSH_MS);
    l->waiting = true;
}

static void idle_over(void *arg)
{
    struct log *l = arg;

    l->urgent = l->urgent || l->waiting; /* this turn's log_flush() does the rest */
}

bool log_flush(struct log *l)
{
    if (l->state != IDLE || !l->waiting)
        return false;
    if (l->open.failed) {
        fail(l, "out of memory for the log's batch");
        return false;
    }
    if (!l->urgent && l->open.len < FLUSH_BYTES)
        return false;
    loop_timer_stop(l->idle_timer);
    l->urgent = false;
    l->waiting = false;
    buf_move(&l->commit.batch, &l->open);
    buf_move(&l->open, &l->spare);
    submit_commit(l);
    return true;
}

/* ---- truncation ---- */

static bool truncation_run(struct writer_job *j)
{
    struct truncation *t = (struct truncation *)j;

    t->result = store_truncate(t->log->store, t->index, &t->more, t->why);
    t->after = store_state(t->log->store);
    return true;
}

static void submit_truncation(struct log *l)
{
    struct truncation *t = &l->truncation;

    if (t->out || l->kept.first >= t->wanted || l->state == FAILED)
        return;
    t->out = true;
    t->index = t->wanted;
    writer_submit(l->writer, &t->job, WRITER_BACKGROUND);
}

/* Jobs are reported in the order in which they ran, so `after` knows of no commit that the loop does not. */
static void truncation_done(struct writer_job *j)
{
    struct truncation *t = (struct truncation *)j;
    struct log *l = t->log;

    t->out = false;
    if (l->state == FAILED)
        return;
    if (t->result == STORE_BROKEN) {
        fail(l, t->why);
        return;
    }
    if (t->result == STORE_FULL) {
        loop_timer_once(l->retry_timer, LOG_RETRY_MS);
        return;
    }
    CHECK(t->after.last == l->kept.last);
    l->kept = t->after;
    submit_truncation(l);
    if (l->state == STALLED)
        submit_commit(l);
}

void log_truncate(struct log *l, uint64_t index)
{
    if (index > l->kept.last + 1)
        index = l->kept.last + 1;
    if (index > l->truncation.wanted)
        l->truncation.wanted = index;
    submit_truncation(l);
}

static void retry(void *arg)
{
    struct log *l = arg;

    submit_truncation(l);
    if (l->state == STALLED)
        submit_commit(l);
}

/* ---- what is known ---- */

uint64_t log_term(const struct log *l)
{
    return store_identity(l->store).term;
}

uint64_t log_first_index(const struct log *l)
{
    return l->kept.first > l->truncation.wanted ? l->kept.first : l->truncation.wanted;
}

uint64_t log_last_index(const struct log *l)
{
    return l->kept.last;
}

uint64_t log_committed(const struct log *l)
{
    return l->kept.last;
}

static bool batch_in_hand(const struct log *l)
{
    return l->commit.batch.data != NULL; /* never true in IDLE */
}

uint64_t log_open_index(const struct log *l)
{
    return l->kept.last + 1 + (l->state == COMMITTING || l->state == STALLED ? 1 : 0);
}

uint64_t log_bytes(const struct log *l)
{
    return l->kept.bytes;
}

/* The batch in hand belongs to the writer, but its length does not change there. */
uint64_t log_pending_bytes(const struct log *l)
{
    return l->open.len + (batch_in_hand(l) ? l->commit.batch.len : 0);
}

bool log_stalled(const struct log *l)
{
    return l->told_stalled;
}

size_t log_take_commit_us(struct log *l, uint32_t *out, size_t max)
{
    size_t n = l->commit_count < max ? l->commit_count : max;

    memcpy(out, l->commit_us, n * sizeof *out);
    memmove(l->commit_us, l->commit_us + n, (l->commit_count - n) * sizeof *out);
    l->commit_count -= n;
    return n;
}

uint64_t log_read(struct log *l, uint64_t from, size_t bytes_max, void (*each)(void *arg, const struct entry_view *e),
                  void *arg)
{
    char why[STORE_WHY_BYTES];

    if (l->state == FAILED)
        return 0;
    if (from < log_first_index(l)) {
        (void)snprintf(why, sizeof why, "log entry %" PRIu64 " is wanted, but the log begins at %" PRIu64, from,
                       log_first_index(l));
        fail(l, why);
        return 0;
    }
    if (store_read(l->store, &from, l->kept.last, bytes_max, each, arg, why) == STORE_OK)
        return from;
    fail(l, why);
    return 0;
}

/* ---- snapshots: passed on ---- */

struct snapshot_writer *snapshot_begin(struct log *l, char *why, size_t why_size)
{
    return snapshots_begin(l->snapshots, why, why_size);
}

bool snapshot_newest(struct log *l, struct snapshot_mark *mark, char *path, size_t path_size)
{
    return snapshots_newest(l->snapshots, mark, path, path_size);
}

/* ---- opening and closing ---- */

static bool open_parts(struct log *l, const struct log_settings *settings, char *why, size_t why_size)
{
    const char *dir = settings->dir;
    bool existed = false;

    if (!lock_take(dir, &l->lock_fd, &existed, why, why_size))
        return false;
    l->store =
        store_open(dir, settings->node, settings->size_max_bytes, !existed && !snapshots_exist(dir), why, why_size);
    if (l->store == NULL ||
        (!existed && !lock_note(l->lock_fd, store_identity(l->store), settings->node, why, why_size)))
        return false;
    l->kept = store_state(l->store);
    l->writer = writer_new(l->loop);
    if (l->writer == NULL) {
        (void)snprintf(why, why_size, "cannot start the writer thread: %s", strerror(errno));
        return false;
    }
    l->snapshots = snapshots_open(dir, l->diag, l->store, l->writer, snapshots_broken, l, why, why_size);
    return l->snapshots != NULL;
}

struct log *log_open(struct loop *loop, const struct diag *d, const struct log_settings *settings,
                     const struct log_events *events, void *arg, char *why, size_t why_size)
{
    struct log *l = must_calloc(1, sizeof *l);

    *l = (struct log){.loop = loop, .diag = d, .events = events, .arg = arg, .lock_fd = -1};
    l->commit.log = l;
    l->commit.job = (struct writer_job){.run = commit_run, .done = commit_done};
    l->fill.log = l;
    l->fill.job = (struct writer_job){.run = fill_run, .done = fill_done};
    l->truncation.log = l;
    l->truncation.job = (struct writer_job){.run = truncation_run, .done = truncation_done};
    l->idle_timer = loop_timer_new(loop, idle_over, l);
    l->retry_timer = loop_timer_new(loop, retry, l);
    if (open_parts(l, settings, why, why_size))
        return l;
    log_close(l);
    return NULL;
}

void log_close(struct log *l)
{
    if (l == NULL)
        return;
    if (l->writer != NULL)
        writer_free(l->writer);
    if (l->snapshots != NULL)
        snapshots_close(l->snapshots);
    if (l->store != NULL)
        store_close(l->store);
    if (l->lock_fd >= 0)
        (void)close(l->lock_fd);
    loop_timer_free(l->idle_timer);
    loop_timer_free(l->retry_timer);
    buf_free(&l->open);
    buf_free(&l->spare);
    buf_free(&l->commit.batch);
    free(l);
}

/* The log's door and its open batch.
 *
 *      frames ─▶ open batch ──log_flush()──▶ sealed record ─▶ consensus ─┬▶ own disk (log_write.c)
 *                                                                       └▶ peers    (log_peers.c)
 *                                      committed(index) ◀─ a majority ◀──┘
 *
 * Group commit needs no timer: what arrives while LOG_WINDOW_* batches are on their way becomes the next one. Only a
 * batch that nobody waits for has a timer (LOG_IDLE_FLUSH_MS).
 *
 * Example, a lone node: 50 clients write at once; the first turn's writes are flushed as entry 7; what arrives during
 * its 200 us gathers; when entry 7 is reported, the same turn's log_flush() starts entry 8 with all of it.
 *
 * The writer thread owns the store's state and what a job carries while that is out; each job brings back a copy of
 * the state, so that what the loop knows (l->kept) is only ever changed on the loop. */
#include "log/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/tls.h"
#include "log/lock.h"
#include "log/log_internal.h"
#include "log/snapshot.h"

enum { FLUSH_BYTES = 1024 * 1024 }; /* a batch of this size does not wait for company */

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
    if (!l->waiting && l->writing != WRITE_FAILED)
        loop_timer_once(l->idle_timer, LOG_IDLE_FLUSH_MS);
    l->waiting = true;
}

void log_hurry(struct log *l)
{
    l->urgent = l->urgent || l->waiting;
}

static void idle_over(void *arg)
{
    struct log *l = arg;

    l->urgent = l->urgent || l->waiting; /* this turn's log_flush() does the rest */
}

static size_t window(const struct log *l)
{
    return l->alone ? LOG_WINDOW_ALONE : LOG_WINDOW_GROUP;
}

static bool may_flush(struct log *l)
{
    if (l->writing == WRITE_FAILED || !l->waiting || l->role != LOG_LEADS || l->raft_role != CONSENSUS_LEADER ||
        l->transfer.active)
        return false;
    if (l->open.failed)
        log_fail(l, "out of memory for the log's batch");
    return !l->open.failed && l->submitted_count < window(l) && (l->urgent || l->open.len >= FLUSH_BYTES);
}

bool log_flush(struct log *l)
{
    struct record *r;
    size_t bytes;

    if (!may_flush(l))
        return false;
    group_log_clock(l);
    bytes = l->open.len;
    r = group_seal(l, &l->open, RECORD_COMMAND, l->open_index, l->raft_term);
    l->submitting = true;
    if (consensus_submit(l->raft, r, LOG_WINDOW_GROUP + 1) != CONSENSUS_OK) { /* nothing was appended */
        l->submitting = false;
        buf_move(&l->open, &r->bytes);
        record_drop(r);
        return false;
    }
    l->submitting = false;
    record_drop(r);
    loop_timer_stop(l->idle_timer);
    l->urgent = l->waiting = false;
    l->submitted[l->submitted_count++] = (struct submitted){l->open_index, loop_now_us(l->loop), bytes};
    l->open_index++;
    group_after(l);
    return true;
}

void log_committed_to(struct log *l, uint64_t index)
{
    size_t done = 0;

    while (done < l->submitted_count && l->submitted[done].index <= index)
        done++;
    l->submitted_count -= done;
    memmove(l->submitted, l->submitted + done, l->submitted_count * sizeof *l->submitted);
}

void log_drop_open(struct log *l)
{
    buf_clear(&l->open);
    l->urgent = l->waiting = false;
    l->submitted_count = 0;
    loop_timer_stop(l->idle_timer);
}

uint64_t log_abandon(struct log *l)
{
    uint64_t bytes = log_pending_bytes(l);

    log_drop_open(l);
    return bytes;
}

static void retry(void *arg)
{
    struct log *l = arg;

    truncate_more(l);
    write_retry(l);
}

/* ---- what is known ---- */

enum log_role log_role(const struct log *l)
{
    return l->role;
}

bool log_alone(const struct log *l)
{
    return l->alone;
}

const char *log_leader(const struct log *l)
{
    return l->leader;
}

uint64_t log_boot_ms(void)
{
    return clock_boot_ms();
}

bool log_may_read(const struct log *l, uint64_t at_ms)
{
    if (l->alone)
        return true;
    if (l->role != LOG_LEADS || l->raft_role != CONSENSUS_LEADER)
        return false;
    return (!l->lease_off && clock_boot_ms() < consensus_lease_end_ms(l->raft)) ||
           consensus_proven_ms(l->raft) >= at_ms;
}

uint64_t log_lease_ms_left(const struct log *l)
{
    uint64_t end, now = clock_boot_ms();

    if (l->alone)
        return UINT64_MAX;
    end = l->role == LOG_LEADS ? consensus_lease_end_ms(l->raft) : 0;
    return end > now ? end - now : 0;
}

uint64_t log_lease_end_boot_ms(const struct log *l)
{
    if (l->alone)
        return UINT64_MAX;
    if (l->role != LOG_LEADS || l->raft_role != CONSENSUS_LEADER || l->lease_off)
        return 0;
    return consensus_lease_end_ms(l->raft);
}

struct hash128 log_running(const struct log *l)
{
    const struct record *r = tail_get(l->tail, l->committed);
    struct hash128 running = {0};
    uint64_t term;

    if (r != NULL)
        return r->running;
    (void)store_at(l->store, l->committed, &term, &running);
    return running;
}

uint64_t log_term(const struct log *l)
{
    return l->raft_term;
}

uint64_t log_first_index(const struct log *l)
{
    return l->kept.first > l->truncation.wanted ? l->kept.first : l->truncation.wanted;
}

uint64_t log_last_index(const struct log *l)
{
    return l->durable;
}

uint64_t log_committed(const struct log *l)
{
    return l->committed;
}

uint64_t log_open_index(const struct log *l)
{
    return l->open_index;
}

uint64_t log_bytes(const struct log *l)
{
    return l->kept.bytes;
}

uint64_t log_pending_bytes(const struct log *l)
{
    uint64_t bytes = l->open.len > ENTRY_HEADER_BYTES ? l->open.len : 0;

    for (size_t i = 0; i < l->submitted_count; i++)
        bytes += l->submitted[i].bytes;
    return bytes;
}

bool log_stalled(const struct log *l)
{
    return l->told_stalled;
}

const struct histogram *log_fsync_us(const struct log *l)
{
    return &l->fsync_us;
}

uint64_t log_read(struct log *l, uint64_t from, size_t bytes_max, void (*each)(void *arg, const struct entry_view *e),
                  void *arg)
{
    char why[LOG_WHY_BYTES];

    if (l->writing == WRITE_FAILED)
        return 0;
    if (l->install.ready)
        return from; /* at any moment another log is on the disk: replaced() follows */
    if (from < log_first_index(l)) {
        (void)snprintf(why, sizeof why, "log entry %" PRIu64 " is wanted, but the log begins at %" PRIu64, from,
                       log_first_index(l));
        log_fail(l, why);
        return 0;
    }
    if (store_read(l->store, &from, l->committed, bytes_max, each, arg, why) == STORE_OK)
        return from;
    log_fail(l, why);
    return 0;
}

/* ---- notes ---- */

struct note {
    struct writer_job job;
    struct note *next;
    struct log *log;
    char name[32];
    char bytes[LOG_NOTE_BYTES_MAX];
    size_t n;
    void (*done)(void *arg, bool ok);
    void *arg;
    enum store_result result;
    char why[LOG_WHY_BYTES];
};

static bool note_run(struct writer_job *j)
{
    struct note *n = (struct note *)j;

    n->result = store_put_note(n->log->store, n->name, n->bytes, n->n, n->why);
    return true;
}

static void note_done(struct writer_job *j)
{
    struct note *n = (struct note *)j, **at = &n->log->notes;

    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    if (n->result == STORE_BROKEN)
        log_fail(n->log, n->why);
    if (n->done != NULL)
        n->done(n->arg, n->result == STORE_OK);
    free(n);
}

void log_note(struct log *l, const char *name, const void *bytes, size_t n, void (*done)(void *arg, bool ok),
              void *arg)
{
    struct note *note = must_calloc(1, sizeof *note);

    CHECK(n <= LOG_NOTE_BYTES_MAX && strlen(name) < sizeof note->name);
    *note = (struct note){.job = {.run = note_run, .done = note_done}, .log = l, .n = n, .done = done, .arg = arg};
    (void)snprintf(note->name, sizeof note->name, "%s", name);
    memcpy(note->bytes, bytes, n);
    note->next = l->notes;
    l->notes = note;
    writer_submit(l->writer, &note->job, WRITER_BACKGROUND);
}

size_t log_noted(struct log *l, const char *name, void *out, size_t max)
{
    return store_get_note(l->store, name, out, max);
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

bool snapshot_open_newest(struct log *l, struct snapshot_mark *mark, struct hash128 *hash, int *fd)
{
    struct snapshot_source source;

    if (!snapshots_open_newest(l->snapshots, &source))
        return false;
    *mark = source.mark;
    *hash = source.rdb_hash;
    *fd = source.fd;
    return true;
}

/* ---- opening and closing ---- */

static void broken(void *arg, const char *why)
{
    log_fail(arg, why);
}

static bool open_parts(struct log *l, char *why, size_t why_size)
{
    const char *dir = l->set.dir;
    bool existed = false;

    if (!lock_take(dir, &l->lock_fd, &existed, why, why_size))
        return false;
    l->store = store_open(dir, l->set.node, l->set.size_max_bytes, !existed && !snapshots_exist(dir), why, why_size);
    if (l->store == NULL ||
        (!existed && !lock_note(l->lock_fd, store_identity(l->store), l->set.node, why, why_size)))
        return false;
    l->kept = store_state(l->store);
    l->tail = tail_new(l->kept.last + 1, l->kept.running);
    l->handed = l->durable = l->kept.last;
    if (!begin_open(l, why, why_size))
        return false;
    l->writer = writer_new(l->loop);
    if (l->writer == NULL) {
        (void)snprintf(why, why_size, "cannot start the writer thread: %s", strerror(errno));
        return false;
    }
    l->sync_open = false;
    l->snapshots = snapshots_open(dir, l->diag, l->store, l->writer, broken, l, why, why_size);
    if (l->snapshots == NULL || (!l->alone && !peers_open(l, why, why_size)))
        return false;
    if (l->alone)
        group_after(l);
    else
        loop_timer_once(l->state_timer, 0); /* the rest, once whoever opens us has us */
    return true;
}

static bool safe(const struct log_settings *s, char *why, size_t why_size)
{
    return s->members == NULL || s->members->count == 0 || s->allow_single_az ||
           members_safe(s->members, why, why_size);
}

struct log *log_open(struct loop *loop, const struct diag *d, const struct log_settings *settings,
                     const struct log_events *events, void *arg, char *why, size_t why_size)
{
    struct log *l = must_calloc(1, sizeof *l);

    *l = (struct log){.loop = loop, .diag = d, .events = events, .arg = arg, .set = *settings, .lock_fd = -1};
    l->sync_open = true;
    write_init(l);
    truncate_init(l);
    l->idle_timer = loop_timer_new(loop, idle_over, l);
    l->retry_timer = loop_timer_new(loop, retry, l);
    if (safe(settings, why, why_size) && open_parts(l, why, why_size)) /* before anything is written */
        return l;
    log_close(l);
    return NULL;
}

void log_close(struct log *l)
{
    if (l == NULL)
        return;
    if (l->writer != NULL)
        writer_free(l->writer); /* first: a job may hold what a fetch has brought */
    change_free(l);
    fetch_free(l);
    peers_close(l);
    write_drop(l);
    for (struct note *n; (n = l->notes) != NULL; free(n)) {
        l->notes = n->next;
        if (n->done != NULL)
            n->done(n->arg, false);
    }
    consensus_free(l->raft);
    if (l->snapshots != NULL)
        snapshots_close(l->snapshots);
    if (l->store != NULL)
        store_close(l->store);
    tail_free(l->tail);
    if (l->lock_fd >= 0)
        (void)close(l->lock_fd);
    loop_timer_free(l->idle_timer);
    loop_timer_free(l->retry_timer);
    loop_timer_free(l->raft_timer);
    loop_timer_free(l->state_timer);
    tls_free(l->tls);
    buf_free(&l->open);
    buf_free(&l->first_change);
    truncate_free(l);
    buf_free(&l->install.base.change);
    free(l);
}

/* Snapshots: an RDB that comes through a tap goes into the log's snapshot writer.
 *
 *   at run time:  second tap (rdb-only) ─▶ +FULLRESYNC offset ────────────────────▶ RDB ... end ─┐
 *                               └▶ core: which place in the log is that? ─▶ reminder committed ──┴▶ finish
 *   of a fed one: the same, but the place is looked for in the log, and the mark tells what is in force there
 *   adopting:     the stream's own tap delivers the RDB; the mark is where the log begins
 *
 * The reminder: truncation takes away old entries, also the CONTROL_ATTACH that says which stream the log follows.
 * So it is written again, with the offset of the fork (replay.h says why that one), after the mark's OUTCOME: when
 * it is committed, so is that, and the snapshot may become valid. It must be there *before* the snapshot is: a walk
 * that begins at the mark and finds only an older reminder would bridge from an older offset, and effects that are
 * in the RDB would be logged again.
 *
 * A full log takes no OUTCOME, so no snapshot can become valid either. Then the trail behind the last snapshot is
 * given up at once, and snapshots begin early enough (BEHIND_LOG_SHARE) that there always is one.
 *
 * Nothing here is needed for safety: a snapshot that fails is tried again later, and the log just grows meanwhile. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "config/config.h"
#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/certs.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/node_internal.h"
#include "proxy/tap.h"

enum {
    RETRY_FIRST_MS = 1000,
    RETRY_MS_MAX = 60000,
    SILENCE_MS_MAX = 60000,
    TRAIL_LOG_SHARE = 8,      /* the trail takes at most this part of log-size-max ... */
    TRAIL_SNAPSHOT_SHARE = 4, /* ... and of snapshot-log-bytes */
    SEARCH_BYTES = 4 * 1024 * 1024,
    BEHIND_LOG_SHARE = 4 /* a snapshot in time: before this part of log-size-max lies behind the last */
};

/* ---- the end ---- */

static void drop_tap(struct node *n)
{
    struct node_snapshot *s = &n->snapshot;

    if (s->tap == NULL)
        return;
    tap_close(s->tap);
    s->tap = NULL;
    node_sync_delay(n, false);
}

static void retry_later(struct node *n)
{
    struct node_snapshot *s = &n->snapshot;

    s->pause_ms = s->pause_ms == 0 ? RETRY_FIRST_MS : s->pause_ms * 2;
    if (s->pause_ms > RETRY_MS_MAX)
        s->pause_ms = RETRY_MS_MAX;
    s->retry_at_ms = loop_now_ms(n->loop) + s->pause_ms;
}

static void ended(struct node *n, bool ok)
{
    struct node_snapshot *s = &n->snapshot;

    s->phase = SNAPSHOT_NONE;
    n->figures.snapshot_running = false;
    if (!ok)
        retry_later(n);
    if (!s->adopting && !s->fed && n->events->snapshot_ended != NULL)
        n->events->snapshot_ended(n->arg, ok, ok ? &s->mark : NULL);
}

void node_snapshot_abandon(struct node *n, const char *why)
{
    struct node_snapshot *s = &n->snapshot;

    s->truncate_after = 0;
    if (s->phase != SNAPSHOT_TAKING)
        return; /* while finishing, done() comes */
    diag_log(n->diag, DIAG_WARNING, "Snapshot given up after %" PRIu64 " bytes: %s", s->bytes, why);
    drop_tap(n);
    snapshot_abandon(s->writer);
    s->writer = NULL;
    replay_free(s->walk);
    s->walk = NULL;
    ended(n, false);
}

void node_snapshot_free(struct node *n)
{
    if (n->snapshot.phase == SNAPSHOT_FINISHING)
        snapshot_disown(n->snapshot.writer);
}

/* How much of the log to keep behind a snapshot, as the first index to keep. The entries' mean size stands for the
 * size of each. */
static uint64_t cut_before(const struct node *n, uint64_t log_from)
{
    uint64_t first = log_first_index(n->log), count = log_last_index(n->log) + 1 - first, bytes = log_bytes(n->log);
    uint64_t trail = n->config->snapshot_log_bytes / TRAIL_SNAPSHOT_SHARE, entries;

    if (trail > n->config->log_size_max / TRAIL_LOG_SHARE)
        trail = n->config->log_size_max / TRAIL_LOG_SHARE;
    if (log_stalled(n->log) || count == 0 || bytes == 0)
        return log_from; /* every byte is needed */
    entries = (uint64_t)((double)trail / (double)bytes * (double)count);
    return log_from > first + entries ? log_from - entries : first;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void on_finished(void *arg, bool ok)
{
    struct node *n = arg;
    struct node_snapshot *s = &n->snapshot;
    bool same_life = s->life == n->life;

    s->writer = NULL;
    ended(n, ok);
    if (ok) {
        s->pause_ms = 0;
        n->figures.snapshot_made = s->number;
        n->figures.snapshot_index = s->mark.index;
        n->figures.snapshot_bytes = s->bytes;
        n->figures.snapshot_unix_ms = s->mark.taken_ms;
        diag_log(n->diag, DIAG_NOTICE, "Snapshot done, at entry %" PRIu64 ": %" PRIu64 " bytes in %" PRIu64 " ms",
                 s->mark.index, s->bytes, loop_now_ms(n->loop) - s->started_ms);
    } /* else the log has said why */
    if (!same_life)
        return;
    if (s->adopting) {
        node_adopted(n, ok);
    } else if (ok && s->fed) {
        s->truncate_before = cut_before(n, s->mark.log_from);
        s->truncate_after = log_committed(n->log);
    } else if (ok) { /* what the core has just said again (snapshot_ended) comes first */
        s->truncate_before = cut_before(n, s->mark.log_from);
        s->truncate_after = node_settled_index(n);
    }
}

void node_snapshot_finish(struct node *n)
{
    struct node_snapshot *s = &n->snapshot;

    CHECK(s->phase == SNAPSHOT_TAKING);
    drop_tap(n);
    s->phase = SNAPSHOT_FINISHING;
    s->mark.taken_ms = clock_wall_ms();
    snapshot_finish(s->writer, &s->mark, on_finished, n);
}

/* ---- the bytes ---- */

bool node_snapshot_open(struct node *n, bool adopting)
{
    struct node_snapshot *s = &n->snapshot;
    uint64_t retry_at = s->retry_at_ms, pause = s->pause_ms, before = s->truncate_before, after = s->truncate_after;
    char why[NODE_WHY_BYTES_MAX] = "";
    struct snapshot_writer *writer;

    if (s->phase != SNAPSHOT_NONE)
        return false;
    writer = snapshot_begin(n->log, why, sizeof why);
    if (writer == NULL) {
        diag_log(n->diag, DIAG_WARNING, "Cannot begin a snapshot: %s", why);
        retry_later(n);
        return false;
    }
    *s = (struct node_snapshot){.phase = SNAPSHOT_TAKING,
                                .number = ++n->figures.snapshots_begun,
                                .adopting = adopting,
                                .mark = {.mode = -1},
                                .life = n->life,
                                .writer = writer,
                                .active_ms = loop_now_ms(n->loop),
                                .started_ms = loop_now_ms(n->loop),
                                .retry_at_ms = retry_at,
                                .pause_ms = pause,
                                .truncate_before = before,
                                .truncate_after = after};
    n->figures.snapshot_running = true;
    return true;
}

bool node_snapshot_bytes(struct node *n, const char *bytes, size_t size)
{
    struct node_snapshot *s = &n->snapshot;
    char why[NODE_WHY_BYTES_MAX];

    s->bytes += size;
    s->active_ms = loop_now_ms(n->loop);
    if (snapshot_write(s->writer, bytes, size))
        return true;
    (void)snprintf(why, sizeof why, "it cannot be written: %s", strerror(errno));
    node_snapshot_abandon(n, why);
    return false;
}

/* ---- at run time ---- */

/* A fed Valkey's offset is one of the feed's stream: its place in the log is found by making the stream again, from
 * the checkpoint before it. */
static bool begin_search(struct node *n, const char *replid, uint64_t offset)
{
    const struct checkpoint *k = checkpoints_for(n->checkpoints, replid, n->valkey.run_id, offset);

    if (k == NULL)
        return false;
    n->snapshot.walk = replay_new_at(n->log, &k->place);
    replay_seek_bytes(n->snapshot.walk, offset - k->offset);
    return true;
}

static void search(struct node *n)
{
    struct node_snapshot *s = &n->snapshot;
    struct replay_place place;

    if (s->walk == NULL)
        return;
    (void)replay_step(s->walk, NULL, SEARCH_BYTES);
    switch (replay_sought(s->walk, &place)) {
    case REPLAY_SEEKING:
        return;
    case REPLAY_FOUND:
        s->mark = place.mark;
        s->placed = true;
        break;
    case REPLAY_MISSED:
        node_snapshot_abandon(n, "its offset is not one of the feed's");
        return;
    }
    replay_free(s->walk);
    s->walk = NULL;
}

static void on_full(void *arg, const char *replid, uint64_t offset)
{
    struct node *n = arg;

    if (n->snapshot.fed && !begin_search(n, replid, offset)) {
        node_snapshot_abandon(n, "its place in the log is not known");
        return;
    }
    n->snapshot.forked = true;
    n->snapshot.offset = offset;
    n->snapshot.active_ms = loop_now_ms(n->loop);
}

static void on_rdb(void *arg, const char *bytes, size_t size)
{
    (void)node_snapshot_bytes(arg, bytes, size);
}

static void on_rdb_end(void *arg)
{
    struct node *n = arg;

    n->snapshot.received = true;
}

static void on_closed(void *arg, const char *why)
{
    struct node *n = arg;

    if (!n->snapshot.received)
        node_snapshot_abandon(n, why);
    else
        drop_tap(n);
}

static const struct tap_events snapshot_events = {
    .full = on_full, .rdb = on_rdb, .rdb_end = on_rdb_end, .closed = on_closed};

void node_snapshot(struct node *n, const char *why)
{
    struct tap_settings settings = {.address = node_address(n),
                                    .user = n->config->valkey_user,
                                    .password = n->config->valkey_password,
                                    .tls = certs_valkey(n->certs),
                                    .rdb_only = true};

    if ((n->state != NODE_ATTACHED && n->state != NODE_FED) || n->snapshot.phase != SNAPSHOT_NONE ||
        !node_snapshot_open(n, false))
        return;
    n->snapshot.fed = n->state == NODE_FED;
    diag_log(n->diag, DIAG_NOTICE, "Snapshot begun: %s", why);
    if (!n->snapshot.fed)
        n->events->snapshot_started(n->arg); /* before PSYNC: the fork comes later */
    node_sync_delay(n, true);
    n->snapshot.tap = tap_new(n->loop, n->diag, &settings, &snapshot_events, n);
}

static void go_on(struct node *n, uint64_t now_ms)
{
    struct node_snapshot *s = &n->snapshot;

    if (s->fed)
        search(n);
    else if (s->forked && s->reminder == 0 && tap_offset(n->tap) >= s->offset &&
             n->events->map_offset(n->arg, s->offset, &s->mark))
        s->reminder = node_append_attach(n, s->offset, n->replid, n->valkey.run_id, true);
    if (s->phase != SNAPSHOT_TAKING)
        return;
    if (s->received && s->placed)
        node_snapshot_finish(n);
    else if (s->received && s->reminder != 0 && log_committed(n->log) >= s->reminder)
        node_snapshot_finish(n);
    else if (now_ms >= s->active_ms + SILENCE_MS_MAX)
        node_snapshot_abandon(n, "nothing came for a minute");
}

/* Bytes of log behind the newest snapshot, by the entries' mean size. */
static uint64_t bytes_behind(const struct node *n)
{
    uint64_t first = log_first_index(n->log), last = log_last_index(n->log), at = n->figures.snapshot_index;

    if (last < first || at >= last)
        return 0;
    if (at < first)
        return log_bytes(n->log);
    return (uint64_t)((double)log_bytes(n->log) * (double)(last - at) / (double)(last + 1 - first));
}

/* The reminder of the attachment cannot be written now. If we die before it is, the next start rebuilds instead of
 * bridging. */
static void give_up_trail(struct node *n)
{
    struct snapshot_mark mark;
    char path[4096];

    if (snapshot_newest(n->log, &mark, path, sizeof path) && mark.log_from > log_first_index(n->log))
        log_truncate(n->log, mark.log_from);
}

static uint64_t behind_max(const struct node *n)
{
    uint64_t share = n->config->log_size_max / BEHIND_LOG_SHARE;

    return n->config->snapshot_log_bytes < share ? n->config->snapshot_log_bytes : share;
}

/* What the checkpoints of a feed need stays until there are newer ones. */
static void truncate_log(struct node *n)
{
    struct node_snapshot *s = &n->snapshot;
    uint64_t needed = checkpoints_log_from(n->checkpoints);

    if (needed >= s->truncate_before)
        s->truncate_after = 0;
    log_truncate(n->log, least(s->truncate_before, needed));
}

void node_truncate(struct node *n)
{
    const struct node_snapshot *s = &n->snapshot;

    if (log_stalled(n->log))
        give_up_trail(n);
    if (s->truncate_after != 0 && log_committed(n->log) >= s->truncate_after)
        truncate_log(n);
}

void node_snapshot_tick(struct node *n, uint64_t now_ms)
{
    struct node_snapshot *s = &n->snapshot;

    node_truncate(n);
    if (s->phase == SNAPSHOT_TAKING)
        go_on(n, now_ms);
    else if (s->phase == SNAPSHOT_NONE && (n->state == NODE_FED || n->snapshots_by_itself) &&
             now_ms >= s->retry_at_ms && (log_stalled(n->log) || bytes_behind(n) > behind_max(n)))
        node_snapshot(n, log_stalled(n->log) ? "the log cannot grow" : "enough log lies behind the newest one");
}

bool node_wants_snapshot(const struct node *n)
{
    return bytes_behind(n) > behind_max(n);
}

/* Its mark says what a reminder would. */
void node_snapshot_came(struct node *n)
{
    struct snapshot_mark mark;
    char path[4096];

    if (!snapshot_newest(n->log, &mark, path, sizeof path))
        return;
    n->figures.snapshot_index = mark.index;
    n->figures.snapshot_bytes = mark.rdb_bytes;
    n->figures.snapshot_unix_ms = mark.taken_ms;
    n->snapshot.truncate_before = cut_before(n, mark.log_from);
    n->snapshot.truncate_after = log_committed(n->log);
    node_truncate(n); /* at once: what comes later is put off while Valkey comes and goes */
}

void node_snapshots(struct node *n, bool by_itself)
{
    n->snapshots_by_itself = by_itself;
}

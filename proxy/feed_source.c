/* What goes out to Valkey, and what of it was acknowledged.
 *
 *   $<len> RDB ┃ SELECT 0  SET ...  │ REPLCONF GETACK * │  INCR ...    │ PING │ ...
 *              0 ───────────────────┤                   ├──────────────┤      ├────▶ offset
 *   log:      mark      entries     │   not the log's   │   entries    │      │
 *
 * What is not the log's goes out only behind a durable checkpoint (feed_checkpoint.c), and nothing goes out while one
 * waits for that: `held`. The same at the beginning of each stream, full or partial: a checkpoint of an earlier
 * stream may tell of a PING that was never sent, and must not be the newest any more when new bytes follow.
 *
 * GETACK makes Valkey answer at once, with the offset before that command. Otherwise it tells once a second what it
 * has executed. Ends of entries that were sent are remembered until then: offset to log index.
 *
 * Work is done in pieces, one per turn, and only while less than FEED_OUT_BYTES_MAX waits to be sent; so the loop is
 * never held up and a slow Valkey slows the reading of file and log. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/log.h"
#include "proxy/feed_internal.h"

/* An RDB without keys, for a log that begins at nothing. The checksum of zeros means "not computed". */
static const unsigned char empty_rdb[] = {'R', 'E', 'D', 'I', 'S', '0', '0', '1', '1', 0xff, 0, 0, 0, 0, 0, 0, 0, 0};

static const char *const extra_bytes[] = {[EXTRA_NOTHING] = "",
                                          [EXTRA_PING] = "*1\r\n$4\r\nPING\r\n",
                                          [EXTRA_GETACK] = "*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"};

/* ---- checkpoints, and what is not in the log ---- */

static void put_extra(struct feed *f, enum feed_extra extra)
{
    size_t n = strlen(extra_bytes[extra]);

    stream_write(f->stream, extra_bytes[extra], n);
    f->offset += n;
    f->said_ms = loop_now_ms(f->loop);
}

static void add_checkpoint(struct feed *f, enum feed_extra extra, void (*done)(void *arg, bool ok))
{
    struct checkpoint k = {.extra = (uint32_t)strlen(extra_bytes[extra])};

    memcpy(k.replid, f->replid, sizeof k.replid);
    memcpy(k.run_id, f->run_id, sizeof k.run_id);
    k.offset = f->offset + k.extra;
    replay_place(f->replay, &k.place);
    f->checkpoint_ms = loop_now_ms(f->loop);
    checkpoints_add(f->checkpoints, &k, done, f);
}

static void on_held(void *arg, bool ok)
{
    struct feed *f = arg;

    if (!ok) {
        feed_fail(f, "cannot note how far the feed is");
        return;
    }
    f->held = false;
    if (f->state == FEED_STREAM && f->stream != NULL && f->extra != EXTRA_NOTHING)
        put_extra(f, f->extra);
    f->extra = EXTRA_NOTHING;
    loop_timer_once(f->pump, 0);
}

/* Sends what is not in the log (or nothing), once a checkpoint behind it is durable. */
static void hold(struct feed *f, enum feed_extra extra)
{
    if (f->checkpoints == NULL) {
        put_extra(f, extra);
        return;
    }
    f->held = true;
    f->extra = extra;
    add_checkpoint(f, extra, on_held);
}

void feed_source_stop(struct feed *f)
{
    if (f->checkpoints != NULL)
        checkpoints_unhook(f->checkpoints);
    f->held = false;
    f->extra = EXTRA_NOTHING;
    if (f->file >= 0)
        (void)close(f->file);
    f->file = -1;
}

/* ---- what was acknowledged ---- */

static void remember_place(struct feed *f, uint64_t index)
{
    if (f->places > 0 && f->place[f->places - 1].offset == f->offset) {
        f->place[f->places - 1].index = index;
        return;
    }
    if (f->places == FEED_PLACES_MAX) { /* coarser: every second one */
        for (size_t i = 0; i < FEED_PLACES_MAX / 2; i++)
            f->place[i] = f->place[2 * i + 1];
        f->places = FEED_PLACES_MAX / 2;
    }
    f->place[f->places++] = (struct feed_place){f->offset, index};
}

static void tell_acked(struct feed *f)
{
    uint64_t before = f->fed_index;
    size_t n = 0;

    if (!f->heard)
        return;
    while (n < f->places && f->place[n].offset <= f->acked)
        f->fed_index = f->place[n++].index;
    f->places -= n;
    memmove(f->place, f->place + n, f->places * sizeof *f->place);
    if (f->fed_index != before && f->events->acked != NULL)
        f->events->acked(f->arg, f->fed_index);
}

void feed_on_ack(struct feed *f, uint64_t offset)
{
    if (f->state != FEED_STREAM)
        return;
    f->heard = true;
    if (offset > f->acked)
        f->acked = offset;
    tell_acked(f);
    if (f->state == FEED_STREAM && f->asked && offset >= f->goal) {
        f->state = FEED_COMPLETE;
        if (f->events->progress != NULL)
            f->events->progress(f->arg, feed_progress(f), replay_facts(f->replay)->commands);
        if (f->state == FEED_COMPLETE && f->events->complete != NULL)
            f->events->complete(f->arg);
    }
}

/* ---- the beginning ---- */

static bool open_source(struct feed *f)
{
    struct snapshot_mark mark;
    struct stat st;
    char path[4096];

    replay_free(f->replay);
    f->file_left = 0;
    f->rdb_bytes = sizeof empty_rdb;
    if (!snapshot_newest(f->log, &mark, path, sizeof path)) {
        f->replay = replay_new(f->log, NULL);
        return true;
    }
    f->replay = replay_new(f->log, &mark);
    f->file = open(path, O_RDONLY | O_CLOEXEC);
    if (f->file < 0 || fstat(f->file, &st) != 0 || (uint64_t)st.st_size != mark.rdb_bytes) {
        (void)snprintf(f->why, sizeof f->why, "snapshot %.160s: %s", path,
                       f->file < 0 ? strerror(errno) : "wrong size");
        return false;
    }
    f->rdb_bytes = f->file_left = mark.rdb_bytes;
    return true;
}

static void reset_places(struct feed *f, uint64_t offset)
{
    struct replay_place at;

    replay_place(f->replay, &at);
    f->offset = f->acked = offset;
    f->fed_index = 0;
    f->places = 0;
    f->said_ms = loop_now_ms(f->loop);
    remember_place(f, at.mark.index - 1);
}

static void told(struct feed *f, bool partial)
{
    diag_log(f->diag, DIAG_VERBOSE, "Feed %.8s: %s sync at offset %llu", f->replid, partial ? "partial" : "full",
             (unsigned long long)f->offset);
    if (f->events->began != NULL)
        f->events->began(f->arg, partial);
}

void feed_begin_full(struct feed *f)
{
    feed_random_hex(f->replid, FEED_ID_BYTES);
    f->full_next = false;
    if (!open_source(f)) {
        feed_fail(f, f->why);
        return;
    }
    buf_printf(stream_out(f->stream), "+FULLRESYNC %s 0\r\n$%llu\r\n", f->replid, (unsigned long long)f->rdb_bytes);
    if (f->file < 0)
        stream_write(f->stream, empty_rdb, sizeof empty_rdb);
    reset_places(f, 0);
    f->heard = false;
    f->state = FEED_SNAPSHOT;
    loop_timer_once(f->pump, 0);
    told(f, false);
}

static void begin_stream(struct feed *f)
{
    f->state = FEED_STREAM;
    f->ack_wanted = f->checkpoints != NULL;
    loop_timer_once(f->pump, 0);
    if (f->checkpoints != NULL)
        hold(f, EXTRA_NOTHING);
}

void feed_begin_partial(struct feed *f, const char *replid, uint64_t offset, const struct replay_place *place)
{
    bool same = f->replay != NULL && f->offset == offset && strcmp(f->replid, replid) == 0;

    (void)snprintf(f->replid, sizeof f->replid, "%s", replid);
    if (!same) {
        replay_free(f->replay);
        f->replay = replay_new_at(f->log, place);
    }
    f->has_proof = false;
    buf_printf(stream_out(f->stream), "+CONTINUE %s\r\n", f->replid);
    reset_places(f, offset);
    f->heard = true;
    begin_stream(f);
    told(f, true);
    if (f->state == FEED_STREAM)
        tell_acked(f);
}

/* ---- going out ---- */

static bool pump_file(struct feed *f)
{
    struct buf *out = stream_out(f->stream);
    size_t want = f->file_left < FEED_PIECE_BYTES ? (size_t)f->file_left : FEED_PIECE_BYTES;
    char *tail;
    ssize_t n;

    if (want == 0) {
        begin_stream(f);
        return false;
    }
    tail = buf_tail(out, want);
    if (tail == NULL) {
        feed_fail(f, "out of memory for the snapshot");
        return false;
    }
    n = read(f->file, tail, want);
    if (n <= 0) {
        (void)snprintf(f->why, sizeof f->why, "cannot read the snapshot: %s",
                       n < 0 ? strerror(errno) : "it is shorter than its sidecar says");
        feed_fail(f, f->why);
        return false;
    }
    buf_grew(out, (size_t)n);
    f->file_left -= (uint64_t)n;
    return true;
}

/* All that is committed has gone out. */
static void at_end(struct feed *f)
{
    if (f->finishing && !f->asked && f->wiped && replay_walked(f->replay) >= f->finish_index) {
        f->asked = true;
        f->goal = f->offset;
        put_extra(f, EXTRA_GETACK);
    } else if (f->ack_wanted && !f->finishing) {
        f->ack_wanted = false;
        hold(f, EXTRA_GETACK);
    }
    if (f->events->drained != NULL)
        f->events->drained(f->arg);
}

static bool pump_stream(struct feed *f)
{
    struct buf *out = stream_out(f->stream);
    size_t before = out->len;
    uint64_t tries = replay_facts(f->replay)->tries;
    bool more = replay_step(f->replay, out, FEED_PIECE_BYTES);
    const struct replay_facts *facts = replay_facts(f->replay);

    f->tries += facts->tries - tries;
    if (facts->damage != NULL || out->failed) {
        feed_fail(f, out->failed ? "out of memory for the replay" : facts->damage);
        return false;
    }
    if (facts->cut) {
        f->full_next = true;
        feed_left(f, "the log goes on behind a newer snapshot");
        return false;
    }
    if (out->len > before)
        f->said_ms = loop_now_ms(f->loop);
    f->offset += out->len - before;
    remember_place(f, replay_walked(f->replay));
    tell_acked(f);
    if (!more && f->state == FEED_STREAM)
        at_end(f);
    return more;
}

/* One piece per turn. Goes on by itself, or when `sent` says that there is room again, or the log has more. */
void feed_on_pump(void *arg)
{
    struct feed *f = arg;
    bool more = false;

    if (f->stream == NULL)
        return;
    f->choked = stream_pending(f->stream) > FEED_OUT_BYTES_MAX;
    if (f->choked)
        return; /* until `sent` */
    if (f->state == FEED_FINDING)
        feed_find_step(f);
    else if (f->state == FEED_SNAPSHOT)
        more = pump_file(f);
    else if (f->state == FEED_STREAM && !f->held)
        more = pump_stream(f);
    if (more && f->state != FEED_CLOSED)
        loop_timer_once(f->pump, 0);
}

/* ---- time ---- */

void feed_source_tick(struct feed *f, uint64_t now_ms)
{
    const struct checkpoint *newest;
    bool moved;

    if (f->state != FEED_STREAM || f->held || f->finishing || f->checkpoints == NULL ||
        checkpoints_busy(f->checkpoints))
        return;
    newest = checkpoints_newest(f->checkpoints);
    if (newest != NULL && f->acked < newest->offset)
        return; /* the older one is still needed */
    moved = newest == NULL || f->offset > newest->offset;
    if (replay_walked(f->replay) >= log_committed(f->log) && now_ms >= f->said_ms + FEED_PING_MS)
        hold(f, EXTRA_PING);
    else if (moved && (newest == NULL || now_ms >= f->checkpoint_ms + FEED_CHECKPOINT_MS ||
                       f->offset - newest->offset >= FEED_CHECKPOINT_BYTES))
        add_checkpoint(f, EXTRA_NOTHING, NULL);
}

double feed_progress(const struct feed *f)
{
    double all = (double)log_bytes(f->log), total = (double)f->rdb_bytes + all;
    double done = (double)(f->rdb_bytes - f->file_left) + (f->replay != NULL ? replay_progress(f->replay) : 0) * all;

    return total > 0 ? done / total : 1;
}

/* ---- the end ---- */

static void on_wiped(void *arg, bool ok)
{
    struct feed *f = arg;

    if (!ok) {
        feed_fail(f, "cannot note that the feed ends");
        return;
    }
    f->wiped = true;
    loop_timer_once(f->pump, 0);
}

/* The last GETACK is covered by no checkpoint: they are given up instead, at the same time as the last entries are
 * committed. */
void feed_finish(struct feed *f, uint64_t index)
{
    f->finishing = true;
    f->finish_index = index;
    f->asked = false;
    f->wiped = f->checkpoints == NULL;
    if (f->checkpoints != NULL)
        checkpoints_wipe(f->checkpoints, on_wiped, f);
    f->held = false; /* it waited for what is wiped now */
    f->extra = EXTRA_NOTHING;
    loop_timer_once(f->pump, 0);
}

void feed_unfinish(struct feed *f)
{
    CHECK(f->state != FEED_COMPLETE);
    if (!f->finishing)
        return;
    f->finishing = f->asked = false;
    if (f->checkpoints == NULL || f->state != FEED_STREAM)
        return;
    checkpoints_unhook(f->checkpoints);
    f->ack_wanted = true;
    hold(f, EXTRA_NOTHING);
}

/* The file <dir>/log/ahead: the newest entries, durable with one wait for the disk instead of LMDB's two.
 *
 *     small writes of entries alone          everything else (terms, cuts, large ones, truncations; no room here)
 *             │                                      │
 *             ▼                                      ▼
 *     a frame, by one O_DSYNC write  ──settled──▶  one LMDB transaction: what is ahead, then what is new
 *
 *     |frame 0 .....pad|frame 1 ..pad|frame 2 ..........pad|  older laps' frames ...            |
 *     0              one block of 4 KiB or more each       at                          AHEAD_BYTES
 *
 *     frame:  u32 magic 'HFA2' | u32 bytes of the entries | u64 lap | u64 number in its lap | u64 checksum of all
 *             of it but these eight bytes | entries, sealed (record.h), one after the other
 *     on disk it is spread over sectors of 512 bytes, each with a stamp at its end that only this frame's have; the
 *     last one's is another:  |504 bytes, stamp|504 bytes, stamp|... last bytes, last stamp|zeros up to a block|
 *
 * What is ahead is kept in memory, too, until it is settled: readers find it here. It belongs to the log from the
 * moment that its write has returned, like any other entry.
 *
 * A *lap* ends when what is ahead is settled: the same transaction that puts the entries into LMDB raises the number
 * of the lap that the meta database holds. Frames of another lap count for nothing, so an entry is never found twice,
 * and one that was cut, or replaced by an installed log, does not come back. A log's first lap is a random number: no
 * bytes of a client can pass for a frame.
 *
 *     killed before the transaction is durable   the old lap holds: the frames count, LMDB is without them
 *     killed after it                            the new lap holds: LMDB has them, no frame counts
 *     killed inside a frame's write              a sector has not its stamp: it was never reported. Frames end there,
 *                                                and the lap with them
 *     all its sectors have theirs, and its       damage: it was written whole, and may have been reported. Refused.
 *         checksum fails                         (A stamp with a few wrong bits is one: others differ by some thirty)
 *     a frame that fails before a good one       damage: each was reported before the next was begun. Refused
 *
 * The file is written over once, with zeros, when the log is made: its blocks are allocated and written, so that a
 * frame changes nothing that the file system would have to note, and a full disk does not matter to it. Frames begin
 * at blocks, so a write that is cut short by a power failure touches no frame that was reported. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

enum {
    AHEAD_MAGIC = 0x32414648,
    FRAME_HEADER_BYTES = 32,
    FRAME_CHECKED_BYTES = 24,
    SECTOR_BYTES = 512, /* a disk writes one whole or not at all */
    SECTOR_TAKES = SECTOR_BYTES - 8,
    STAMP_BITS_OFF_MAX = 8, /* a byte of a stamp may be damaged, too */
    PATH_BYTES_MAX = 4096
};

static size_t whole_blocks(size_t n)
{
    return (n + AHEAD_BLOCK_BYTES - 1) / AHEAD_BLOCK_BYTES * AHEAD_BLOCK_BYTES;
}

/* ---- sectors ---- */

static size_t sectors_of(size_t n)
{
    return (n + SECTOR_TAKES - 1) / SECTOR_TAKES;
}

static size_t spread_bytes(size_t n)
{
    return whole_blocks(sectors_of(n) * SECTOR_BYTES);
}

/* All of it is hashed, without a seed: XXH3 of short inputs lets a seed and a small number make up for each other. */
static uint64_t stamp_of(const struct ahead *a, bool last)
{
    const uint64_t of[4] = {AHEAD_MAGIC, a->lap, a->frames, last};

    return hash64(of, sizeof of, 0);
}

/* a->frame, as the disk gets it, in a->spread. */
static void spread(struct ahead *a)
{
    size_t n = a->frame.len, all = spread_bytes(n), sectors = sectors_of(n);
    const char *from = buf_head(&a->frame);
    char *to;

    buf_clear(&a->spread);
    (void)buf_reserve(&a->spread, all);
    CHECK(!a->spread.failed);
    to = buf_head(&a->spread);
    memset(to, 0, all);
    for (size_t i = 0; i < sectors; i++) {
        size_t part = i + 1 < sectors ? SECTOR_TAKES : n - i * SECTOR_TAKES;
        uint64_t stamp = stamp_of(a, i + 1 == sectors);

        memcpy(to + i * SECTOR_BYTES, from + i * SECTOR_TAKES, part);
        memcpy(to + i * SECTOR_BYTES + SECTOR_TAKES, &stamp, sizeof stamp);
    }
    buf_grew(&a->spread, all);
}

/* n bytes of what was spread at `from`, into a->frame. */
static void gather(struct ahead *a, const char *from, size_t n)
{
    buf_clear(&a->frame);
    for (size_t i = 0; i * SECTOR_TAKES < n; i++)
        buf_append(&a->frame, from + i * SECTOR_BYTES,
                   n - i * SECTOR_TAKES < SECTOR_TAKES ? n - i * SECTOR_TAKES : SECTOR_TAKES);
    CHECK(!a->frame.failed);
}

static bool is_stamp(const char *sector, uint64_t stamp)
{
    uint64_t there;

    memcpy(&there, sector + SECTOR_TAKES, sizeof there);
    return __builtin_popcountll(there ^ stamp) <= STAMP_BITS_OFF_MAX;
}

/* Whether the frame that comes next in this lap was written here as a whole, whatever became of it. */
static bool written_whole(const struct ahead *a, const char *at, size_t n)
{
    for (; n >= SECTOR_BYTES; at += SECTOR_BYTES, n -= SECTOR_BYTES) {
        if (is_stamp(at, stamp_of(a, true)))
            return true;
        if (!is_stamp(at, stamp_of(a, false)))
            return false;
    }
    return false;
}

/* ---- the entries in memory ---- */

/* With the lock held, or by the writing thread. */
static const struct ahead_entry *entry_at(const struct ahead *a, uint64_t index)
{
    return a->count > 0 && index >= a->first && index - a->first < a->count ? &a->entry[index - a->first] : NULL;
}

static void remember(struct ahead *a, uint64_t index, const void *bytes, size_t n)
{
    if (a->count == a->cap) {
        a->cap = a->cap > 0 ? 2 * a->cap : 64;
        a->entry = must_realloc(a->entry, a->cap * sizeof *a->entry);
    }
    if (a->count == 0)
        a->first = index;
    CHECK(index == a->first + a->count);
    a->entry[a->count++] = (struct ahead_entry){a->bytes.len, n};
    buf_append(&a->bytes, bytes, n);
    CHECK(!a->bytes.failed);
}

bool ahead_copy(struct store *s, uint64_t index, struct buf *out)
{
    struct ahead *a = &s->ahead;
    const struct ahead_entry *e;

    buf_clear(out);
    (void)pthread_mutex_lock(&a->lock);
    e = entry_at(a, index);
    if (e != NULL)
        buf_append(out, buf_head(&a->bytes) + e->at, e->n);
    (void)pthread_mutex_unlock(&a->lock);
    CHECK(!out->failed);
    return e != NULL;
}

bool ahead_stated(struct store *s, uint64_t index, struct entry_view *out)
{
    struct ahead *a = &s->ahead;
    const struct ahead_entry *e;
    bool ok;

    (void)pthread_mutex_lock(&a->lock);
    e = entry_at(a, index);
    ok = e != NULL && entry_stated(buf_head(&a->bytes) + e->at, e->n, out) == ENTRY_OK;
    (void)pthread_mutex_unlock(&a->lock);
    out->frames = (struct cursor){0}; /* they may be gone */
    return ok;
}

/* ---- writing ---- */

bool ahead_takes(struct store *s, const struct store_write *w, uint64_t cost)
{
    size_t bytes = FRAME_HEADER_BYTES;

    if (s->ahead.spoilt || w->hard != NULL || w->cut_from != 0 || w->count == 0 || cost > AHEAD_WRITE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < w->count; i++)
        bytes += w->records[i]->bytes.len;
    return s->ahead.at + spread_bytes(bytes) <= AHEAD_BYTES && (s->ahead.at > 0 || store_has_room(s, AHEAD_COST_MAX));
}

static void make_frame(struct ahead *a, struct record *const *records, size_t count)
{
    struct buf *f = &a->frame;
    char *head;
    size_t n;
    uint64_t sum;

    buf_clear(f);
    buf_u32(f, AHEAD_MAGIC);
    buf_u32(f, 0);
    buf_u64(f, a->lap);
    buf_u64(f, a->frames);
    buf_u64(f, 0);
    for (size_t i = 0; i < count; i++)
        buf_append(f, buf_head(&records[i]->bytes), records[i]->bytes.len);
    CHECK(!f->failed);
    n = f->len;
    head = buf_head(f);
    for (size_t i = 0; i < 4; i++)
        head[4 + i] = (char)(uint8_t)((n - FRAME_HEADER_BYTES) >> (8 * i));
    sum = hash64(head + FRAME_HEADER_BYTES, n - FRAME_HEADER_BYTES, hash64(head, FRAME_CHECKED_BYTES, 0));
    for (size_t i = 0; i < 8; i++)
        head[FRAME_CHECKED_BYTES + i] = (char)(uint8_t)(sum >> (8 * i));
    spread(a);
}

int ahead_append(struct store *s, struct record *const *records, size_t count)
{
    struct ahead *a = &s->ahead;
    ssize_t n;

    make_frame(a, records, count);
    do
        n = pwrite(a->fd, buf_head(&a->spread), a->spread.len, (off_t)a->at);
    while (n < 0 && errno == EINTR);
    a->spoilt = n < 0 || (size_t)n < a->spread.len;
    if (a->spoilt)
        return n < 0 ? errno : ENOSPC; /* its blocks are there, but something says that they are not */
    a->at += a->spread.len;
    a->frames++;
    (void)pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < count; i++)
        remember(a, records[i]->index, buf_head(&records[i]->bytes), records[i]->bytes.len);
    (void)pthread_mutex_unlock(&a->lock);
    return 0;
}

/* ---- settling ---- */

uint64_t ahead_cost(const struct store *s)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < s->ahead.count; i++)
        bytes += store_cost(s, s->ahead.entry[i].n);
    return bytes;
}

int ahead_put(struct store *s, MDB_txn *txn)
{
    struct ahead *a = &s->ahead;
    int rc = a->count > 0 || a->spoilt ? store_put_lap(s, txn, a->lap + 1) : 0;

    for (size_t i = 0; i < a->count && rc == 0; i++) {
        size_t number = a->first + i;
        MDB_val key = {sizeof number, &number}, data = {a->entry[i].n, buf_head(&a->bytes) + a->entry[i].at};

        rc = mdb_put(txn, s->entries, &key, &data, MDB_APPEND | MDB_NOOVERWRITE);
    }
    return rc;
}

void ahead_settled(struct store *s)
{
    struct ahead *a = &s->ahead;

    if (a->count == 0 && !a->spoilt)
        return;
    (void)pthread_mutex_lock(&a->lock);
    a->count = 0;
    buf_clear(&a->bytes);
    (void)pthread_mutex_unlock(&a->lock);
    a->spoilt = false;
    a->lap++;
    a->at = a->frames = 0;
}

static int settle_work(struct store *s, MDB_txn *txn, void *context)
{
    (void)context;
    return ahead_put(s, txn);
}

int ahead_settle(struct store *s)
{
    int rc = s->ahead.count > 0 || s->ahead.spoilt ? store_transact_small(s, settle_work, NULL) : 0;

    if (rc == 0)
        ahead_settled(s);
    return rc;
}

/* ---- opening ---- */

static bool refuse(char *why, size_t why_size, const char *text)
{
    (void)snprintf(why, why_size, "the log is damaged: %s", text);
    return false;
}

int ahead_begin(struct store *s, MDB_txn *txn)
{
    if (getrandom(&s->ahead.lap, sizeof s->ahead.lap, 0) != sizeof s->ahead.lap)
        return errno;
    return store_put_lap(s, txn, s->ahead.lap);
}

static int make_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), rc = 0;
    void *zeros = must_calloc(1, AHEAD_BYTES);

    if (fd < 0 || fallocate(fd, 0, 0, AHEAD_BYTES) != 0)
        rc = errno;
    if (fd >= 0 && (rc == 0 || rc == EOPNOTSUPP)) {
        ssize_t n = pwrite(fd, zeros, AHEAD_BYTES, 0);

        rc = n < 0 ? errno : n < AHEAD_BYTES ? ENOSPC : fdatasync(fd) != 0 ? errno : 0;
    }
    free(zeros);
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

bool ahead_open_file(struct store *s, const char *dir, bool make, char *why, size_t why_size)
{
    char path[PATH_BYTES_MAX], directory[PATH_BYTES_MAX];
    struct stat st;
    int rc;

    (void)snprintf(directory, sizeof directory, "%s/log", dir);
    (void)snprintf(path, sizeof path, "%s/log/ahead", dir);
    rc = make ? make_file(path) : 0;
    if (rc == 0 && ((s->ahead.fd = open(path, O_RDWR | O_DSYNC | O_CLOEXEC)) < 0 || fstat(s->ahead.fd, &st) != 0))
        rc = errno;
    if (rc != 0) {
        (void)snprintf(why, why_size, "%s: %s", path, strerror(rc));
        return false;
    }
    if (make && !store_sync_directory(directory, why, why_size))
        return false;
    return st.st_size >= AHEAD_BYTES || refuse(why, why_size, "its file ahead has been cut off");
}

struct frame {
    size_t bytes; /* with its header and what pads it */
    uint64_t number;
    const char *entries;
    size_t entries_bytes;
};

/* A frame of this lap, whole, at `bytes`. Its entries are in a->frame until the next call. */
static bool frame_of(struct ahead *a, const char *bytes, size_t n, struct frame *f)
{
    struct cursor c = cursor_of(bytes, n);
    uint32_t magic = cursor_u32(&c);
    uint64_t lap, sum;

    f->entries_bytes = cursor_u32(&c);
    lap = cursor_u64(&c);
    f->number = cursor_u64(&c);
    sum = cursor_u64(&c);
    if (c.bad || magic != AHEAD_MAGIC || lap != a->lap || f->entries_bytes > n)
        return false;
    f->bytes = spread_bytes(FRAME_HEADER_BYTES + f->entries_bytes);
    if (f->bytes > n)
        return false;
    gather(a, bytes, FRAME_HEADER_BYTES + f->entries_bytes);
    f->entries = buf_head(&a->frame) + FRAME_HEADER_BYTES;
    return sum == hash64(f->entries, f->entries_bytes, hash64(buf_head(&a->frame), FRAME_CHECKED_BYTES, 0));
}

/* Its entries follow what is there. */
static bool take_frame(struct store *s, const struct frame *f)
{
    size_t at = 0;

    while (at < f->entries_bytes) {
        struct entry_view e;
        size_t left = f->entries_bytes - at, n = entry_bytes(f->entries + at, left);

        if (n == 0 || entry_open(f->entries + at, n, s->state.last + 1, s->state.running, &e) != ENTRY_OK)
            return false;
        remember(&s->ahead, e.index, f->entries + at, n);
        s->state.last = e.index;
        s->state.running = e.running;
        s->state.bytes += store_cost(s, n);
        at += n;
    }
    return f->entries_bytes > 0;
}

/* Behind the last good frame there is none of this lap. */
static bool ends_there(struct ahead *a, const char *file)
{
    struct frame f;

    for (size_t at = a->at; at < AHEAD_BYTES; at += AHEAD_BLOCK_BYTES)
        if (frame_of(a, file + at, AHEAD_BYTES - at, &f))
            return false;
    return true;
}

/* Of a write that was cut short there may be sectors. The next frame of this lap would have the same stamps, and, cut
 * short as well, could be taken for whole together with them: so there is none, a new lap begins. */
static bool has_remains(const struct ahead *a, const char *file)
{
    for (size_t at = a->at; at < AHEAD_BYTES; at += SECTOR_BYTES)
        if (is_stamp(file + at, stamp_of(a, true)) || is_stamp(file + at, stamp_of(a, false)))
            return true;
    return false;
}

bool ahead_load(struct store *s, char *why, size_t why_size)
{
    struct ahead *a = &s->ahead;
    char *file = must_calloc(1, AHEAD_BYTES);
    ssize_t n = pread(a->fd, file, AHEAD_BYTES, 0);
    struct frame f;
    bool ok = n == AHEAD_BYTES || refuse(why, why_size, "its file ahead cannot be read");

    while (ok && a->at < AHEAD_BYTES && frame_of(a, file + a->at, AHEAD_BYTES - a->at, &f) && f.number == a->frames) {
        ok = take_frame(s, &f) || refuse(why, why_size, "an entry in its file ahead does not follow the others");
        a->at += f.bytes;
        a->frames++;
    }
    if (ok && a->at < AHEAD_BYTES && written_whole(a, file + a->at, AHEAD_BYTES - a->at))
        ok = refuse(why, why_size, "the last write in its file ahead is not what was written");
    a->spoilt = ok && has_remains(a, file);
    if (ok && !ends_there(a, file))
        ok = refuse(why, why_size, "a write in its file ahead is not whole, and others follow it");
    free(file);
    return ok;
}

void ahead_close(struct store *s)
{
    struct ahead *a = &s->ahead;

    if (a->fd >= 0)
        (void)close(a->fd);
    free(a->entry);
    buf_free(&a->bytes);
    buf_free(&a->frame);
    buf_free(&a->spread);
}

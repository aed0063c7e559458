/* The file <dir>/log/data.mdb, an LMDB environment:
 *
 *     database "entries"   index (native size_t, MDB_INTEGERKEY) -> one entry of record.h; appended in order, no gaps
 *     database "meta"      identity -> u32 format | 16 bytes cluster id | node name
 *                          term     -> u64, one more at each open
 *                          base     -> u64 first index kept | 16 bytes running hash before it
 *                          snapshot -> u64 serial | u64 hash64 of its sidecar
 *
 * Invariants:
 *   1. The keys of "entries" are base .. last, all of them; the running hashes chain from base's to the newest.
 *   2. An append is one transaction; a piece of a truncation, with the base that follows from it, is another.
 *   3. A transaction counts only when mdb_txn_commit() has returned 0: data by fdatasync, the meta page by O_DSYNC.
 *
 * Room. LMDB reports a write cut short by a full disk as EIO, and EIO must be final here. So the file's blocks are
 * allocated before LMDB may use them, and LMDB's map ends where they end, less a reserve:
 *
 *     |---- used ----|---- free ----|--- reserve ---|
 *     0                          map_bytes    allocated_bytes
 *
 * An append that meets the end of the map (MDB_MAP_FULL, raised before anything is written) has the file grown, if
 * the disk lets it; if not the log is full. A truncation may move the map's end into the reserve: it is copy-on-write
 * and must work just when nothing else does. Growing moves the map, so it excludes the reader by a lock.
 *
 * Blocks just allocated are written once, with zeros, before LMDB comes to them (store_fill): only behind the last
 * page that any transaction has used, on the thread that alone writes transactions, and between two of them.
 *
 * Where the file system cannot allocate ahead (EOPNOTSUPP), or copies on write itself, a full disk may end the
 * process. */
#include "log/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

enum {
    GROW_BYTES_MAX = 64 * 1024 * 1024,
    SLACK_BYTES = 1024 * 1024,           /* of a transaction beside its entry: copied branches, free list */
    HEADROOM_BYTES = 1024 * 1024 * 1024, /* of the map over 2 * size_max: holes between entries of other sizes */
    NODE_BYTES = 26,                     /* LMDB's share of an entry: page pointer, node header, key */
    INLINE_BYTES_MAX = 2000,             /* larger values have pages of their own */
    PAGE_HEADER_BYTES = 16,
    FILL_AHEAD_BYTES = 1024 * 1024,
    FILL_PIECE_BYTES = 512 * 1024,
    TRUNCATE_ENTRIES_MAX = 1024,
    TRUNCATE_BYTES_MAX = 16 * 1024 * 1024
};

/* EFBIG: the limit on file sizes (RLIMIT_FSIZE), with SIGXFSZ ignored. */
bool store_is_full(int rc)
{
    return rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT || rc == EFBIG;
}

static enum store_result trouble(int rc, const char *what, char *why)
{
    (void)snprintf(why, STORE_WHY_BYTES, "%s: %s", what, mdb_strerror(rc));
    return store_is_full(rc) ? STORE_FULL : STORE_BROKEN;
}

uint64_t store_cost(const struct store *s, size_t n)
{
    if (n <= INLINE_BYTES_MAX)
        return n + NODE_BYTES;
    return (PAGE_HEADER_BYTES + n + s->page_bytes - 1) / s->page_bytes * s->page_bytes + NODE_BYTES;
}

/* ---- room ---- */

int store_allocate(struct store *s, uint64_t bytes)
{
    if (bytes <= s->allocated_bytes)
        return 0;
    if (fallocate(s->fd, 0, (off_t)s->allocated_bytes, (off_t)(bytes - s->allocated_bytes)) != 0 &&
        errno != EOPNOTSUPP)
        return errno;
    s->allocated_bytes = bytes;
    return 0;
}

static int move_map(struct store *s, uint64_t map_bytes)
{
    MDB_envinfo info;
    int rc;

    (void)pthread_rwlock_wrlock(&s->map_lock);
    rc = mdb_env_set_mapsize(s->env, (size_t)map_bytes); /* never below the last used page */
    (void)pthread_rwlock_unlock(&s->map_lock);
    if (rc == 0)
        rc = mdb_env_info(s->env, &info);
    if (rc == 0)
        s->map_bytes = info.me_mapsize;
    return rc;
}

static uint64_t round_up(const struct store *s, uint64_t bytes)
{
    return (bytes + s->page_bytes - 1) / s->page_bytes * s->page_bytes;
}

/* Room for at least `need` more bytes; 0, an errno of the full kind, or any other error. */
static int grow(struct store *s, uint64_t need)
{
    uint64_t least = round_up(s, need + SLACK_BYTES);
    uint64_t step = s->map_bytes < GROW_BYTES_MAX ? s->map_bytes : GROW_BYTES_MAX;
    int rc;

    if (s->map_bytes + least > 2 * s->size_max_bytes + HEADROOM_BYTES)
        return MDB_MAP_FULL;
    if (step < least)
        step = least;
    rc = store_allocate(s, s->map_bytes + step + STORE_RESERVE_BYTES);
    if (rc != 0 && store_is_full(rc) && step > least) {
        step = least;
        rc = store_allocate(s, s->map_bytes + step + STORE_RESERVE_BYTES);
    }
    return rc != 0 ? rc : move_map(s, s->map_bytes + step);
}

static int grow_into_reserve(struct store *s)
{
    return s->map_bytes < s->allocated_bytes ? move_map(s, s->allocated_bytes) : MDB_MAP_FULL;
}

/* Appends must not use the reserve up: what a truncation left of it is taken out of the map again. */
static int restore_reserve(struct store *s)
{
    return move_map(s, s->allocated_bytes - STORE_RESERVE_BYTES);
}

/* Where LMDB has never written, from `used` on: no page there is part of any transaction. */
static uint64_t fill_from(const struct store *s, uint64_t *used)
{
    MDB_envinfo info;

    *used = UINT64_MAX;
    if (s->filled_bytes == UINT64_MAX || mdb_env_info(s->env, &info) != 0)
        return UINT64_MAX;
    *used = (info.me_last_pgno + 1) * s->page_bytes;
    return s->filled_bytes > *used ? s->filled_bytes : *used;
}

bool store_wants_fill(const struct store *s)
{
    uint64_t used, from = fill_from(s, &used);

    return from != UINT64_MAX && from < used + FILL_AHEAD_BYTES / 2 && from < s->allocated_bytes;
}

void store_fill(struct store *s)
{
    uint64_t used, from = fill_from(s, &used), n;
    void *zeros;

    if (from == UINT64_MAX || from >= s->allocated_bytes)
        return;
    n = s->allocated_bytes - from < FILL_PIECE_BYTES ? s->allocated_bytes - from : FILL_PIECE_BYTES;
    zeros = must_calloc(1, (size_t)n);
    if (pwrite(s->fd, zeros, (size_t)n, (off_t)from) == (ssize_t)n) {
        s->filled_bytes = from + n;
        (void)sync_file_range(s->fd, (off_t)from, (off_t)n,
                              SYNC_FILE_RANGE_WRITE); /* begin; a commit waits for the rest */
    } else {
        s->filled_bytes = UINT64_MAX;
    }
    free(zeros);
}

/* ---- meta ---- */

int store_put_meta(struct store *s, MDB_txn *txn, const char *name, const struct buf *value)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data = {value->len, buf_head(value)};

    CHECK(!value->failed);
    return mdb_put(txn, s->meta, &key, &data, 0);
}

int store_get_meta(struct store *s, MDB_txn *txn, const char *name, struct cursor *out)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data;
    int rc = mdb_get(txn, s->meta, &key, &data);

    if (rc == 0)
        *out = cursor_of(data.mv_data, data.mv_size);
    return rc;
}

int store_put_base(struct store *s, MDB_txn *txn, uint64_t first, struct hash128 before)
{
    struct buf b = {0};
    int rc;

    buf_u64(&b, first);
    buf_u64(&b, before.low);
    buf_u64(&b, before.high);
    rc = store_put_meta(s, txn, "base", &b);
    buf_free(&b);
    return rc;
}

int store_get_base(struct store *s, MDB_txn *txn, uint64_t *first, struct hash128 *before)
{
    struct cursor c;
    int rc = store_get_meta(s, txn, "base", &c);

    if (rc != 0)
        return rc;
    *first = cursor_u64(&c);
    before->low = cursor_u64(&c);
    before->high = cursor_u64(&c);
    return c.bad || c.left > 0 ? MDB_CORRUPTED : 0;
}

/* ---- writing ---- */

struct store_state store_state(const struct store *s)
{
    return s->state;
}

/* What a small transaction does; the context is its own. */
typedef int work_fn(struct store *s, MDB_txn *txn, void *context);

static int transact(struct store *s, work_fn *work, void *context)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);

    if (rc != 0)
        return rc;
    rc = work(s, txn, context);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* One that may use the reserve if there is no other room. */
static int transact_in_reserve(struct store *s, work_fn *work, void *context)
{
    int rc = transact(s, work, context);

    while (rc == MDB_MAP_FULL && (rc = grow(s, 0)) == 0)
        rc = transact(s, work, context);
    if (store_is_full(rc) && (rc = grow_into_reserve(s)) == 0 && (rc = transact(s, work, context)) == 0)
        rc = restore_reserve(s);
    return rc;
}

static int append_work(struct store *s, MDB_txn *txn, void *context)
{
    const struct buf *batch = context;
    size_t number = s->state.last + 1;
    MDB_val key = {sizeof number, &number}, data = {batch->len, buf_head(batch)};

    return mdb_put(txn, s->entries, &key, &data, MDB_APPEND | MDB_NOOVERWRITE);
}

static int base_work(struct store *s, MDB_txn *txn, void *context)
{
    const struct store_state *state = context;

    return store_put_base(s, txn, state->first, state->before);
}

static int append(struct store *s, struct buf *batch, uint64_t bytes)
{
    int rc = transact(s, append_work, batch);

    while (rc == MDB_MAP_FULL && (rc = grow(s, bytes)) == 0)
        rc = transact(s, append_work, batch);
    /* What transaction n frees is of use from n+2 on. If n was a truncation and nothing else fits, this is n+1. */
    if (store_is_full(rc) && s->freed) {
        rc = transact_in_reserve(s, base_work, &s->state);
        if (rc == 0) {
            s->freed = false;
            rc = transact(s, append_work, batch);
        }
    }
    return rc;
}

enum store_result store_append(struct store *s, struct buf *batch, char *why)
{
    uint64_t bytes = store_cost(s, batch->len);
    struct hash128 running;
    int rc;

    if (s->state.bytes + bytes > s->size_max_bytes) {
        (void)snprintf(why, STORE_WHY_BYTES,
                       "log-size-max reached: %" PRIu64 " bytes are taken, %" PRIu64 " are wanted", s->state.bytes,
                       bytes);
        return STORE_FULL;
    }
    running = entry_seal(batch, s->state.last + 1, s->identity.term, s->state.running);
    rc = append(s, batch, bytes);
    if (rc != 0)
        return trouble(rc, "cannot append to the log", why);
    s->state.last++;
    s->state.running = running;
    s->state.bytes += bytes;
    return STORE_OK;
}

struct truncation {
    uint64_t index;
    struct store_state after;
};

/* Removes a piece from the front, and keeps `after` in step. */
static int remove_piece(struct store *s, MDB_cursor *at, uint64_t index, struct store_state *after)
{
    uint64_t removed_bytes = 0;
    MDB_val key, data;
    size_t number;
    int rc = 0;

    for (int n = 0; n < TRUNCATE_ENTRIES_MAX && removed_bytes < TRUNCATE_BYTES_MAX && after->first < index; n++) {
        if ((rc = mdb_cursor_get(at, &key, &data, MDB_FIRST)) != 0)
            break;
        memcpy(&number, key.mv_data, sizeof number);
        if (number != after->first || entry_running(data.mv_data, data.mv_size, &after->before) != ENTRY_OK) {
            rc = MDB_CORRUPTED;
            break;
        }
        removed_bytes += store_cost(s, data.mv_size);
        after->first++;
        if ((rc = mdb_cursor_del(at, 0)) != 0)
            break;
    }
    after->bytes -= removed_bytes;
    return rc;
}

static int truncate_work(struct store *s, MDB_txn *txn, void *context)
{
    struct truncation *t = context;
    MDB_cursor *at;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    t->after = s->state;
    rc = remove_piece(s, at, t->index, &t->after);
    mdb_cursor_close(at);
    return rc != 0 ? rc : store_put_base(s, txn, t->after.first, t->after.before);
}

enum store_result store_truncate(struct store *s, uint64_t index, bool *more, char *why)
{
    struct truncation t = {.index = index};
    int rc;

    CHECK(index <= s->state.last + 1);
    *more = false;
    if (index <= s->state.first)
        return STORE_OK;
    rc = transact_in_reserve(s, truncate_work, &t);
    if (rc != 0)
        return trouble(rc, "cannot truncate the log", why);
    s->state = t.after;
    s->freed = true;
    *more = t.after.first < index;
    return STORE_OK;
}

static int snapshot_work(struct store *s, MDB_txn *txn, void *context)
{
    const struct store_snapshot *snapshot = context;
    struct buf b = {0};
    int rc;

    buf_u64(&b, snapshot->serial);
    buf_u64(&b, snapshot->check);
    rc = store_put_meta(s, txn, "snapshot", &b);
    buf_free(&b);
    return rc;
}

enum store_result store_put_snapshot(struct store *s, struct store_snapshot snapshot, char *why)
{
    int rc = transact_in_reserve(s, snapshot_work, &snapshot);

    return rc == 0 ? STORE_OK : trouble(rc, "cannot record the snapshot", why);
}

/* ---- reading ---- */

/* The running hash before entry `index`: what the entry before it states, or the base's. */
static int running_before(struct store *s, MDB_txn *txn, uint64_t index, struct hash128 *out, char *why)
{
    size_t number = index - 1;
    MDB_val key = {sizeof number, &number}, data;
    uint64_t first;
    int rc = store_get_base(s, txn, &first, out);

    if (rc != 0 || first == index)
        return rc;
    if (index < first) {
        (void)snprintf(why, STORE_WHY_BYTES, "log entry %" PRIu64 " is wanted, but the log begins at %" PRIu64, index,
                       first);
        return MDB_NOTFOUND;
    }
    rc = mdb_get(txn, s->entries, &key, &data);
    if (rc == 0 && entry_running(data.mv_data, data.mv_size, out) != ENTRY_OK)
        rc = MDB_CORRUPTED;
    return rc;
}

static int read_entries(struct store *s, MDB_txn *txn, uint64_t *next, uint64_t last, size_t bytes_max,
                        void (*each)(void *arg, const struct entry_view *e), void *arg, char *why)
{
    size_t number = *next, bytes = 0;
    MDB_val key = {sizeof number, &number}, data;
    MDB_cursor *at;
    struct entry_view e;
    enum entry_error error;
    int rc = running_before(s, txn, *next, &e.running, why);

    if (rc != 0 || (rc = mdb_cursor_open(txn, s->entries, &at)) != 0)
        return rc;
    rc = mdb_cursor_get(at, &key, &data, MDB_SET_KEY);
    for (; rc == 0 && *next <= last && bytes < bytes_max; rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) {
        error = entry_open(data.mv_data, data.mv_size, *next, e.running, &e);
        if (error != ENTRY_OK) {
            (void)snprintf(why, STORE_WHY_BYTES, "the log is damaged: entry %" PRIu64 ": %s", *next,
                           entry_error_text(error));
            rc = MDB_CORRUPTED;
            break;
        }
        each(arg, &e);
        bytes += data.mv_size;
        ++*next;
    }
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND && *next > last ? 0 : rc;
}

enum store_result store_read(struct store *s, uint64_t *next, uint64_t last, size_t bytes_max,
                             void (*each)(void *arg, const struct entry_view *e), void *arg, char *why)
{
    MDB_txn *txn;
    int rc;

    if (*next > last)
        return STORE_OK;
    why[0] = '\0';
    (void)pthread_rwlock_rdlock(&s->map_lock);
    rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = read_entries(s, txn, next, last, bytes_max > 0 ? bytes_max : 1, each, arg, why);
        mdb_txn_abort(txn);
    }
    (void)pthread_rwlock_unlock(&s->map_lock);
    if (rc == 0)
        return STORE_OK;
    if (why[0] == '\0')
        (void)trouble(rc, "cannot read the log", why);
    return STORE_BROKEN;
}

enum store_result store_get_snapshot(struct store *s, struct store_snapshot *out, char *why)
{
    MDB_txn *txn;
    struct cursor c;
    int rc;

    *out = (struct store_snapshot){0, 0};
    (void)pthread_rwlock_rdlock(&s->map_lock);
    rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = store_get_meta(s, txn, "snapshot", &c);
        if (rc == 0) {
            out->serial = cursor_u64(&c);
            out->check = cursor_u64(&c);
            rc = c.bad || c.left > 0 ? MDB_CORRUPTED : 0;
        }
        mdb_txn_abort(txn);
    }
    (void)pthread_rwlock_unlock(&s->map_lock);
    if (rc == 0 || rc == MDB_NOTFOUND)
        return STORE_OK;
    (void)trouble(rc, "cannot read the snapshot's record", why);
    return STORE_BROKEN;
}

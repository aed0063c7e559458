/* The file <dir>/log/data.mdb, an LMDB environment:
 *
 *     database "entries"   index (native size_t, MDB_INTEGERKEY) -> one entry of record.h; appended in order, no gaps
 *     database "meta"      identity -> u32 format | 16 bytes cluster id | node name
 *                          term     -> u64, one more at each open
 *                          base     -> u64 first index kept | 16 bytes running hash before it
 *                          snapshot -> u64 serial | u64 hash64 of its sidecar
 *
 * Invariants:
 *   1. The keys of "entries" are base .. last, all of them; the chain of running hashes goes from base's to the newest.
 *   2. An append is one transaction; a piece of a truncation, with the base that follows from it, is another.
 *   3. A transaction counts only when mdb_txn_commit() has returned 0: data by fdatasync, the meta page by O_DSYNC.
 *
 * Room. LMDB reports a write cut short by a full disk as EIO, and EIO must be final here. So the file's blocks are allocated
 * before LMDB may use them, and LMDB's map ends where they end, less a reserve:
 *
 *     |---- used ----|---- free ----|--- reserve ---|
 *     0                          map_bytes    allocated_bytes
 *
 * An append that meets the end of the map (MDB_MAP_FULL, raised before anything is written) has the file grown, if the
 * disk lets it; if not the log is full. A truncation may move the map's end into the reserve: it is copy-on-write and must work
 * just when nothing else does. Growing moves the map, so it excludes the reader by a lock.
 *
 * Where the file system cannot allocate ahead (EOPNOTSUPP), or copies on write itself, a full disk may end the process. */
#include "log/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "indexes are LMDB's integer keys");

enum {
    FORMAT = 1,
    MAP_BYTES_MIN = 4 * 1024 * 1024,
    GROW_BYTES_MAX = 64 * 1024 * 1024,
    RESERVE_BYTES = 4 * 1024 * 1024,
    SLACK_BYTES = 1024 * 1024,       /* of a transaction beside its entry: copied branches, free list */
    HEADROOM_BYTES = 1024 * 1024 * 1024, /* of the map over twice size_max: holes between entries of different sizes */
    NODE_BYTES = 26,                 /* LMDB's share of an entry: page pointer, node header, key */
    INLINE_BYTES_MAX = 2000,         /* larger values have pages of their own */
    PAGE_HEADER_BYTES = 16,
    TRUNCATE_ENTRIES_MAX = 1024,
    TRUNCATE_BYTES_MAX = 16 * 1024 * 1024,
    READERS_MAX = 8,
    PATH_BYTES_MAX = 4096
};

struct store {
    MDB_env *env;
    MDB_dbi entries, meta;
    int fd; /* LMDB's */
    size_t page_bytes;
    uint64_t size_max_bytes, map_bytes, allocated_bytes;
    bool freed; /* a truncation has freed pages that the next transaction cannot use yet */
    struct store_state state;
    struct store_identity identity;
    pthread_rwlock_t map_lock; /* read: while pages are looked at by the reading thread; write: while the map moves */
};

/* EFBIG: the limit on file sizes (RLIMIT_FSIZE), with SIGXFSZ ignored. */
static bool is_full(int rc)
{
    return rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT || rc == EFBIG;
}

static enum store_result trouble(int rc, const char *what, char *why)
{
    (void)snprintf(why, STORE_WHY_BYTES, "%s: %s", what, mdb_strerror(rc));
    return is_full(rc) ? STORE_FULL : STORE_BROKEN;
}

static uint64_t cost(const struct store *s, size_t n)
{
    if (n <= INLINE_BYTES_MAX)
        return n + NODE_BYTES;
    return (PAGE_HEADER_BYTES + n + s->page_bytes - 1) / s->page_bytes * s->page_bytes + NODE_BYTES;
}

/* ---- room ---- */

static int allocate(struct store *s, uint64_t bytes)
{
    if (bytes <= s->allocated_bytes)
        return 0;
    if (fallocate(s->fd, 0, (off_t)s->allocated_bytes, (off_t)(bytes - s->allocated_bytes)) != 0 && errno != EOPNOTSUPP)
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
    rc = allocate(s, s->map_bytes + step + RESERVE_BYTES);
    if (rc != 0 && is_full(rc) && step > least) {
        step = least;
        rc = allocate(s, s->map_bytes + step + RESERVE_BYTES);
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
    return move_map(s, s->allocated_bytes - RESERVE_BYTES);
}

/* ---- meta ---- */

static int put_meta(struct store *s, MDB_txn *txn, const char *name, const struct buf *value)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data = {value->len, buf_head(value)};

    CHECK(!value->failed);
    return mdb_put(txn, s->meta, &key, &data, 0);
}

static int get_meta(struct store *s, MDB_txn *txn, const char *name, struct cursor *out)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data;
    int rc = mdb_get(txn, s->meta, &key, &data);

    if (rc == 0)
        *out = cursor_of(data.mv_data, data.mv_size);
    return rc;
}

static int put_base(struct store *s, MDB_txn *txn, uint64_t first, struct hash128 before)
{
    struct buf b = {0};
    int rc;

    buf_u64(&b, first);
    buf_u64(&b, before.low);
    buf_u64(&b, before.high);
    rc = put_meta(s, txn, "base", &b);
    buf_free(&b);
    return rc;
}

static int get_base(struct store *s, MDB_txn *txn, uint64_t *first, struct hash128 *before)
{
    struct cursor c;
    int rc = get_meta(s, txn, "base", &c);

    if (rc != 0)
        return rc;
    *first = cursor_u64(&c);
    before->low = cursor_u64(&c);
    before->high = cursor_u64(&c);
    return c.bad || c.left > 0 ? MDB_CORRUPTED : 0;
}

/* ---- opening ---- */

static int create_identity(struct store *s, MDB_txn *txn, const char *node)
{
    struct buf b = {0}, term = {0};
    int rc;

    if (getrandom(s->identity.cluster, STORE_CLUSTER_BYTES, 0) != STORE_CLUSTER_BYTES)
        return errno;
    buf_u32(&b, FORMAT);
    buf_append(&b, s->identity.cluster, STORE_CLUSTER_BYTES);
    buf_text(&b, node);
    buf_u64(&term, 0);
    rc = put_meta(s, txn, "identity", &b);
    if (rc == 0)
        rc = put_meta(s, txn, "term", &term);
    if (rc == 0)
        rc = put_base(s, txn, 1, (struct hash128){0, 0});
    buf_free(&b);
    buf_free(&term);
    return rc;
}

static bool check_identity(struct store *s, struct cursor c, const char *node, char *why, size_t why_size)
{
    uint32_t format = cursor_u32(&c);
    const char *cluster = cursor_bytes(&c, STORE_CLUSTER_BYTES);

    if (c.bad || format != FORMAT) {
        (void)snprintf(why, why_size, "the log has format %" PRIu32 ", this program knows %d", format, FORMAT);
        return false;
    }
    memcpy(s->identity.cluster, cluster, STORE_CLUSTER_BYTES);
    if (c.left != strlen(node) || memcmp(c.at, node, c.left) != 0) {
        (void)snprintf(why, why_size, "the log belongs to node '%.*s', this node is called '%s'", (int)c.left, c.at, node);
        return false;
    }
    return true;
}

static bool failed_to(const char *what, int rc, char *why, size_t why_size)
{
    (void)snprintf(why, why_size, "%s: %s", what, mdb_strerror(rc));
    return false;
}

/* Opens or creates the databases; leaves what is there as it is. */
static bool open_databases(struct store *s, const char *node, bool may_create, char *why, size_t why_size)
{
    MDB_txn *txn;
    struct cursor identity;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);

    if (rc != 0)
        return failed_to("cannot begin a transaction", rc, why, why_size);
    rc = mdb_dbi_open(txn, "entries", MDB_CREATE | MDB_INTEGERKEY, &s->entries);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
    if (rc == 0)
        rc = get_meta(s, txn, "identity", &identity);
    if (rc == 0 && !check_identity(s, identity, node, why, why_size)) {
        mdb_txn_abort(txn);
        return false;
    }
    if (rc == MDB_NOTFOUND && !may_create) {
        mdb_txn_abort(txn);
        (void)snprintf(why, why_size, "the log's data are missing, although there was a log here");
        return false;
    }
    if (rc == MDB_NOTFOUND)
        rc = create_identity(s, txn, node);
    if (rc != 0)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    return rc == 0 ? true : failed_to("cannot open the log's databases", rc, why, why_size);
}

/* Walks all entries; the state follows from them. */
static bool verify_entries(struct store *s, MDB_cursor *at, char *why, size_t why_size)
{
    struct store_state *state = &s->state;
    struct entry_view e;
    enum entry_error error;
    MDB_val key, data;
    size_t index;
    int rc = mdb_cursor_get(at, &key, &data, MDB_FIRST);

    state->last = state->first - 1;
    state->running = state->before;
    for (; rc == 0; rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) {
        CHECK(key.mv_size == sizeof index);
        memcpy(&index, key.mv_data, sizeof index);
        if (index != state->last + 1) {
            (void)snprintf(why, why_size, "the log is damaged: entry %" PRIu64 " is missing, %zu comes instead",
                           state->last + 1, index);
            return false;
        }
        error = entry_open(data.mv_data, data.mv_size, index, state->running, &e);
        if (error != ENTRY_OK) {
            (void)snprintf(why, why_size, "the log is damaged: entry %zu: %s", index, entry_error_text(error));
            return false;
        }
        state->last = index;
        state->running = e.running;
        state->bytes += cost(s, data.mv_size);
    }
    return rc == MDB_NOTFOUND ? true : failed_to("cannot read the log", rc, why, why_size);
}

static bool verify(struct store *s, char *why, size_t why_size)
{
    MDB_txn *txn = NULL;
    MDB_cursor *at = NULL;
    bool ok = false;
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);

    if (rc == 0)
        rc = get_base(s, txn, &s->state.first, &s->state.before);
    if (rc == 0 && s->state.first == 0)
        rc = MDB_CORRUPTED;
    if (rc == 0)
        rc = mdb_cursor_open(txn, s->entries, &at);
    if (rc != 0)
        (void)failed_to("cannot read the log", rc, why, why_size);
    else
        ok = verify_entries(s, at, why, why_size);
    if (at != NULL)
        mdb_cursor_close(at);
    if (txn != NULL)
        mdb_txn_abort(txn);
    return ok;
}

static bool raise_term(struct store *s, char *why, size_t why_size)
{
    MDB_txn *txn;
    struct cursor c;
    struct buf b = {0};
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);

    if (rc != 0)
        return failed_to("cannot begin a transaction", rc, why, why_size);
    rc = get_meta(s, txn, "term", &c);
    if (rc == 0) {
        s->identity.term = cursor_u64(&c) + 1;
        buf_u64(&b, s->identity.term);
        rc = c.bad ? MDB_CORRUPTED : put_meta(s, txn, "term", &b);
    }
    buf_free(&b);
    if (rc != 0)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    return rc == 0 ? true : failed_to("cannot raise the log's term", rc, why, why_size);
}

static bool sync_directory(const char *path, char *why, size_t why_size)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok)
        (void)snprintf(why, why_size, "cannot sync directory %s: %s", path, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    return ok;
}

/* A file shorter than LMDB's last used page would end in SIGBUS at the first look beyond its end. */
static bool measure(struct store *s, char *why, size_t why_size)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat file;
    int rc;

    if ((rc = mdb_env_get_fd(s->env, &s->fd)) != 0 || (rc = mdb_env_info(s->env, &info)) != 0 ||
        (rc = mdb_env_stat(s->env, &stat)) != 0 || (rc = fstat(s->fd, &file) == 0 ? 0 : errno) != 0)
        return failed_to("cannot examine the log's file", rc, why, why_size);
    s->page_bytes = stat.ms_psize;
    s->map_bytes = info.me_mapsize;
    s->allocated_bytes = (uint64_t)file.st_size;
    if (s->allocated_bytes < (info.me_last_pgno + 1) * s->page_bytes) {
        (void)snprintf(why, why_size, "the log is damaged: its file has been cut off at %" PRIu64 " bytes",
                       s->allocated_bytes);
        return false;
    }
    rc = allocate(s, s->map_bytes + RESERVE_BYTES);
    if (rc != 0 && (!is_full(rc) || s->allocated_bytes < s->map_bytes))
        return failed_to("cannot allocate the log's file", rc, why, why_size);
    return true;
}

/* The map covers what the file has, less the reserve; growing comes with need. */
static bool open_environment(struct store *s, const char *dir, char *why, size_t why_size)
{
    char path[PATH_BYTES_MAX], data[PATH_BYTES_MAX];
    uint64_t map_bytes = MAP_BYTES_MIN;
    struct stat file;
    int rc;

    if (snprintf(path, sizeof path, "%s/log", dir) >= PATH_BYTES_MAX - 16) {
        (void)snprintf(why, why_size, "the directory's name is too long");
        return false;
    }
    (void)snprintf(data, sizeof data, "%s/log/data.mdb", dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return failed_to(path, errno, why, why_size);
    if (stat(data, &file) == 0 && (uint64_t)file.st_size > MAP_BYTES_MIN + RESERVE_BYTES)
        map_bytes = (uint64_t)file.st_size / RESERVE_BYTES * RESERVE_BYTES - RESERVE_BYTES;
    if ((rc = mdb_env_create(&s->env)) != 0 || (rc = mdb_env_set_maxdbs(s->env, 2)) != 0 ||
        (rc = mdb_env_set_maxreaders(s->env, READERS_MAX)) != 0 || (rc = mdb_env_set_mapsize(s->env, map_bytes)) != 0 ||
        (rc = mdb_env_open(s->env, path, MDB_NOTLS, 0600)) != 0)
        return failed_to(data, rc, why, why_size);
    return measure(s, why, why_size) && sync_directory(path, why, why_size) && sync_directory(dir, why, why_size);
}

struct store *store_open(const char *dir, const char *node, uint64_t size_max_bytes, bool may_create, char *why,
                         size_t why_size)
{
    struct store *s = must_calloc(1, sizeof *s);

    CHECK(size_max_bytes <= UINT64_MAX / 4);
    s->size_max_bytes = size_max_bytes;
    CHECK(pthread_rwlock_init(&s->map_lock, NULL) == 0);
    if (open_environment(s, dir, why, why_size) && open_databases(s, node, may_create, why, why_size) &&
        verify(s, why, why_size) && raise_term(s, why, why_size))
        return s;
    store_close(s);
    return NULL;
}

void store_close(struct store *s)
{
    if (s->env != NULL)
        mdb_env_close(s->env);
    (void)pthread_rwlock_destroy(&s->map_lock);
    free(s);
}

struct store_identity store_identity(const struct store *s)
{
    return s->identity;
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
    if (is_full(rc) && (rc = grow_into_reserve(s)) == 0 && (rc = transact(s, work, context)) == 0)
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

    return put_base(s, txn, state->first, state->before);
}

static int append(struct store *s, struct buf *batch, uint64_t bytes)
{
    int rc = transact(s, append_work, batch);

    while (rc == MDB_MAP_FULL && (rc = grow(s, bytes)) == 0)
        rc = transact(s, append_work, batch);
    /* What transaction n frees can be used from n+2 on. If n was a truncation and nothing fits before, something must be n+1. */
    if (is_full(rc) && s->freed) {
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
    uint64_t bytes = cost(s, batch->len);
    struct hash128 running;
    int rc;

    if (s->state.bytes + bytes > s->size_max_bytes) {
        (void)snprintf(why, STORE_WHY_BYTES, "log-size-max reached: %" PRIu64 " bytes are taken, %" PRIu64 " are wanted",
                       s->state.bytes, bytes);
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
        removed_bytes += cost(s, data.mv_size);
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
    return rc != 0 ? rc : put_base(s, txn, t->after.first, t->after.before);
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
    rc = put_meta(s, txn, "snapshot", &b);
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
    int rc = get_base(s, txn, &first, out);

    if (rc != 0 || first == index)
        return rc;
    if (index < first) {
        (void)snprintf(why, STORE_WHY_BYTES, "log entry %" PRIu64 " is wanted, but the log begins at %" PRIu64, index, first);
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
            (void)snprintf(why, STORE_WHY_BYTES, "the log is damaged: entry %" PRIu64 ": %s", *next, entry_error_text(error));
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
        rc = get_meta(s, txn, "snapshot", &c);
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

/* Room in the store's file, and the transactions that need it.
 *
 * LMDB reports a write cut short by a full disk as EIO, and EIO must be final here. So the file's blocks are
 * allocated before LMDB may use them, and LMDB's map ends where they end, less a reserve:
 *
 *     |---- used ----|---- free ----|--- reserve ---|
 *     0                          map_bytes    allocated_bytes
 *
 *     who meets the end of the map      what is done (MDB_MAP_FULL is raised before anything is written)
 *     entries are to be added           the file grows, if the disk lets it; if not, the log is full
 *     a term, a vote, a truncation ...  the file grows; if it cannot, the map's end moves into the reserve: these are
 *                                       copy-on-write, and must work just when nothing else does
 *
 * The map's end cannot move back below the last page used, so the reserve may stay in part in the map. As long as it
 * does, entries are only added if, all free pages counted, the size of the reserve is left. Otherwise each vote on a
 * full disk would set a page or two free for entries to take, until nothing is left to vote with.
 *
 * Growing moves the map, so it excludes the reader by a lock.
 *
 * Blocks just allocated are written once, with zeros, before LMDB comes to them (store_fill): only behind the last
 * page that any transaction has used, on the thread that alone writes transactions, and between two of them.
 *
 * Where the file system cannot allocate ahead (EOPNOTSUPP), or copies on write itself, a full disk may end the
 * process. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

enum {
    GROW_BYTES_MAX = 64 * 1024 * 1024,
    SLACK_BYTES = 1024 * 1024,           /* of a transaction beside its entries: copied branches, free list */
    HEADROOM_BYTES = 1024 * 1024 * 1024, /* of the map over 2 * size_max: holes between entries of other sizes */
    NODE_BYTES = 26,                     /* LMDB's share of an entry: page pointer, node header, key */
    INLINE_BYTES_MAX = 2000,             /* larger values have pages of their own */
    PAGE_HEADER_BYTES = 16,
    FREE_LIST = 0,                 /* LMDB's database of free pages */
    ROOM_SLACK_BYTES = 256 * 1024, /* what small transactions take until entries come */
    FILL_AHEAD_BYTES = 1024 * 1024,
    FILL_PIECE_BYTES = 512 * 1024,
};

/* EFBIG: the limit on file sizes (RLIMIT_FSIZE), with SIGXFSZ ignored. */
bool store_is_full(int rc)
{
    return rc == MDB_MAP_FULL || rc == ENOSPC || rc == EDQUOT || rc == EFBIG;
}

enum store_result store_trouble(int rc, const char *what, char *why)
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

/* ---- blocks and the map ---- */

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

/* What a transaction left of the reserve is taken out of the map again. */
static int restore_reserve(struct store *s)
{
    return move_map(s, s->allocated_bytes - STORE_RESERVE_BYTES);
}

static bool reserve_is_whole(const struct store *s)
{
    return s->map_bytes + STORE_RESERVE_BYTES <= s->allocated_bytes;
}

/* Each item of the free list is a count and so many page numbers. */
static int free_list_work(struct store *s, MDB_txn *txn, void *context)
{
    uint64_t *pages = context;
    MDB_val key, data;
    MDB_cursor *at;
    size_t count;
    int rc = mdb_cursor_open(txn, FREE_LIST, &at);

    (void)s;
    *pages = 0;
    if (rc != 0)
        return rc;
    while ((rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) == 0) {
        memcpy(&count, data.mv_data, sizeof count);
        *pages += count;
    }
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* 0 if `bytes` of entries may be added while the reserve is not whole; else MDB_MAP_FULL, or an error. */
static int spare_the_reserve(struct store *s, uint64_t bytes)
{
    MDB_envinfo info;
    uint64_t pages, unused;
    int rc = mdb_env_info(s->env, &info);

    if (rc == 0)
        rc = store_look(s, free_list_work, &pages);
    if (rc != 0)
        return rc;
    unused = s->allocated_bytes - (info.me_last_pgno + 1) * s->page_bytes + pages * s->page_bytes;
    if (unused >= STORE_RESERVE_BYTES + round_up(s, bytes) + 16 * s->page_bytes)
        return 0;
    return grow(s, bytes);
}

/* ---- transactions ---- */

static int transact(struct store *s, store_work *work, void *context)
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

int store_transact_small(struct store *s, store_work *work, void *context)
{
    int rc = transact(s, work, context), restored;

    while (rc == MDB_MAP_FULL && (rc = grow(s, 0)) == 0)
        rc = transact(s, work, context);
    if (!store_is_full(rc) || (rc = grow_into_reserve(s)) != 0)
        return rc;
    rc = transact(s, work, context);
    restored = restore_reserve(s);
    return rc != 0 ? rc : restored;
}

static int nothing_work(struct store *s, MDB_txn *txn, void *context)
{
    (void)context;
    return store_put_begin(s, txn, &(struct store_begin){s->state.first, s->state.before, s->before_term});
}

bool store_has_room(struct store *s, uint64_t bytes)
{
    uint64_t end = s->allocated_bytes - STORE_RESERVE_BYTES, pages, used;
    MDB_envinfo info;

    if (mdb_env_info(s->env, &info) != 0 || store_look(s, free_list_work, &pages) != 0)
        return false;
    end = s->map_bytes < end ? s->map_bytes : end;
    used = (info.me_last_pgno + 1) * s->page_bytes;
    return end + pages * s->page_bytes >= used + round_up(s, bytes) + ROOM_SLACK_BYTES || grow(s, bytes) == 0;
}

int store_transact_entries(struct store *s, uint64_t bytes, store_work *work, void *context)
{
    int rc = reserve_is_whole(s) ? 0 : spare_the_reserve(s, bytes);

    if (rc == 0)
        rc = transact(s, work, context);
    while (rc == MDB_MAP_FULL && (rc = grow(s, bytes)) == 0)
        rc = transact(s, work, context);
    /* What transaction n frees is of use from n+2 on. If n was a truncation and nothing else fits, this is n+1. */
    if (store_is_full(rc) && s->freed) {
        rc = store_transact_small(s, nothing_work, NULL);
        if (rc == 0) {
            s->freed = false;
            if (!reserve_is_whole(s))
                rc = spare_the_reserve(s, bytes);
        }
        if (rc == 0)
            rc = transact(s, work, context);
    }
    return rc;
}

int store_look(struct store *s, store_work *work, void *context)
{
    MDB_txn *txn;
    int rc;

    (void)pthread_rwlock_rdlock(&s->map_lock);
    rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = work(s, txn, context);
        mdb_txn_abort(txn);
    }
    (void)pthread_rwlock_unlock(&s->map_lock);
    return rc;
}

/* ---- blocks written ahead of their use ---- */

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

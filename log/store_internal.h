/* What the store_*.c files share; nobody else includes this. */
#ifndef HF_STORE_INTERNAL_H
#define HF_STORE_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>

#include "log/store.h"

enum { STORE_FORMAT = 3, STORE_MAP_BYTES_MIN = 4 * 1024 * 1024, STORE_RESERVE_BYTES = 4 * 1024 * 1024 };

/* Where the log begins: entries below `first` are gone. */
struct store_begin {
    uint64_t first;
    struct hash128 before; /* running hash before it */
    uint64_t before_term;  /* of entry first - 1; 0 = there is none, or it is not known */
};

/* What of the base the writing thread has to know. */
struct store_point {
    uint64_t index, term;
};

/* Entries that are durable in the file ahead, and not in LMDB yet (store_ahead.c). */
enum {
    AHEAD_BYTES = 512 * 1024,
    AHEAD_COST_MAX = 2 * AHEAD_BYTES, /* of all that it holds, in LMDB: a large entry has pages of its own */
    AHEAD_BLOCK_BYTES = 4096,
    AHEAD_WRITE_BYTES_MAX = 64 * 1024 /* larger ones need the disk's bandwidth: not twice */
};
struct ahead_entry {
    size_t at, n; /* in bytes */
};
struct ahead {
    int fd; /* O_DSYNC */
    uint64_t lap, frames;
    size_t at;   /* where the next frame goes */
    bool spoilt; /* a write failed, and may be there all the same: no more frames in this lap */
    struct buf frame, spread;
    pthread_mutex_t lock; /* of what follows: changed by the writing thread, looked at by both */
    uint64_t first;       /* index of entry[0] */
    struct ahead_entry *entry;
    size_t count, cap;
    struct buf bytes;
};

struct store {
    MDB_env *env;
    MDB_dbi entries, meta;
    int fd; /* LMDB's */
    size_t page_bytes;
    uint64_t size_max_bytes, map_bytes, allocated_bytes;
    uint64_t filled_bytes; /* blocks below were written once (store_fill); UINT64_MAX: filling does not work here */
    bool opened;           /* all was well: it may be written */
    bool freed;            /* a transaction has freed pages that the next one cannot use yet */
    pthread_rwlock_t map_lock; /* read: while pages are looked at by the reading thread; write: while the map moves */
    struct ahead ahead;
    /* as of the last write, with what is ahead; the writing thread's */
    struct store_state state;
    uint64_t before_term;
    struct store_hard hard;
    struct store_point base;
    /* as of store_open(), then unchanged */
    struct store_identity identity;
    uint64_t member_id;
    struct store_hard opened_hard;
    struct store_base opened_base;
};

bool store_is_full(int rc); /* an LMDB code or errno that means: no room, nothing was written */
enum store_result store_trouble(int rc, const char *what, char *why); /* rc in words, and as a result */

/* ---- store_room.c: blocks, the map, transactions ---- */
uint64_t store_cost(const struct store *s, size_t n); /* what an entry of n bytes takes */
int store_allocate(struct store *s, uint64_t bytes);  /* the file's blocks, up to `bytes` */

/* What a transaction does; it may be called several times, each time for a new transaction. LMDB codes. */
typedef int store_work(struct store *s, MDB_txn *txn, void *context);
/* Whether a later transaction of so many bytes of entries finds room without the reserve; the file grows if need be.
 */
bool store_has_room(struct store *s, uint64_t bytes);
/* One that adds `bytes` of entries: the file grows if need be; never uses the reserve. */
int store_transact_entries(struct store *s, uint64_t bytes, store_work *work, void *context);
/* One that adds none: may use the reserve if there is no other room. */
int store_transact_small(struct store *s, store_work *work, void *context);
/* One that only looks, on any thread. */
int store_look(struct store *s, store_work *work, void *context);

/* ---- store_ahead.c: LMDB codes or errno ---- */
bool ahead_takes(struct store *s, const struct store_write *w, uint64_t cost);
int ahead_append(struct store *s, struct record *const *records, size_t count);
uint64_t ahead_cost(const struct store *s);   /* of what is ahead, in LMDB */
int ahead_put(struct store *s, MDB_txn *txn); /* into a transaction; ahead_settled() when it is committed */
void ahead_settled(struct store *s);
int ahead_settle(struct store *s); /* in a transaction of its own; may use the reserve */
bool ahead_stated(struct store *s, uint64_t index, struct entry_view *out); /* its index, term and hash */
bool ahead_copy(struct store *s, uint64_t index, struct buf *out);          /* false: not ahead (any more) */
int ahead_begin(struct store *s, MDB_txn *txn);                             /* of a new log: its first lap */
bool ahead_open_file(struct store *s, const char *dir, bool make, char *why, size_t why_size);
bool ahead_load(struct store *s, char *why, size_t why_size); /* behind LMDB's entries; s->ahead.lap is known */
void ahead_close(struct store *s);

/* ---- store_meta.c: the meta database; LMDB codes ---- */
/* (store_open.c) The names in it are durable. */
bool store_sync_directory(const char *path, char *why, size_t why_size);
int store_put_lap(struct store *s, MDB_txn *txn, uint64_t lap);
int store_get_lap(struct store *s, MDB_txn *txn, uint64_t *lap);
int store_put_identity(struct store *s, MDB_txn *txn, const char *cluster, uint64_t member, const void *node,
                       size_t n);
int store_get_identity(struct store *s, MDB_txn *txn, uint32_t *format, struct cursor *rest);
int store_put_begin(struct store *s, MDB_txn *txn, const struct store_begin *b);
int store_get_begin(struct store *s, MDB_txn *txn, struct store_begin *out);
int store_put_base(struct store *s, MDB_txn *txn, const struct store_base *b);
int store_get_base(struct store *s, MDB_txn *txn, struct store_base *out); /* out->change is filled anew */
int store_put_hard(struct store *s, MDB_txn *txn, const struct store_hard *h);
int store_get_hard(struct store *s, MDB_txn *txn, struct store_hard *out);
int store_put_snapshot_record(struct store *s, MDB_txn *txn, const struct store_snapshot *snapshot);

#endif

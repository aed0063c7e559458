/* What store.c and store_open.c share; nobody else includes this. */
#ifndef HF_STORE_INTERNAL_H
#define HF_STORE_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>

#include "log/store.h"

enum { STORE_FORMAT = 1, STORE_MAP_BYTES_MIN = 4 * 1024 * 1024, STORE_RESERVE_BYTES = 4 * 1024 * 1024 };

struct store {
    MDB_env *env;
    MDB_dbi entries, meta;
    int fd; /* LMDB's */
    size_t page_bytes;
    uint64_t size_max_bytes, map_bytes, allocated_bytes;
    uint64_t filled_bytes; /* blocks below were written once (store_fill); UINT64_MAX: filling does not work here */
    bool freed; /* a truncation has freed pages that the next transaction cannot use yet */
    struct store_state state;
    struct store_identity identity;
    pthread_rwlock_t map_lock; /* read: while pages are looked at by the reading thread; write: while the map moves */
};

bool store_is_full(int rc); /* an LMDB code or errno that means: no room, nothing was written */
uint64_t store_cost(const struct store *s, size_t n); /* what an entry of n bytes takes */
int store_allocate(struct store *s, uint64_t bytes);  /* the file's blocks, up to `bytes` */

/* The meta database; LMDB codes. */
int store_put_meta(struct store *s, MDB_txn *txn, const char *name, const struct buf *value);
int store_get_meta(struct store *s, MDB_txn *txn, const char *name, struct cursor *out);
int store_put_base(struct store *s, MDB_txn *txn, uint64_t first, struct hash128 before);
int store_get_base(struct store *s, MDB_txn *txn, uint64_t *first, struct hash128 *before);

#endif

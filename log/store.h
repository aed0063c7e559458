/* The entries on disk: one LMDB environment with two databases. Knows nothing of threads' schedules or callbacks.
 *
 * Two threads may use a store at once, each with its own functions: one writes (append, truncate, put_snapshot), one
 * reads (store_read). store_open() and store_close() belong to whoever has it alone. */
#ifndef HF_STORE_H
#define HF_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/hash.h"
#include "log/record.h"

struct store;

enum { STORE_CLUSTER_BYTES = 16, STORE_WHY_BYTES = 256 };

struct store_state {
    uint64_t first;         /* index of the oldest entry; last+1 if none */
    uint64_t last;          /* index of the newest entry, of any that ever was if none is left; 0 at first */
    struct hash128 before;  /* running hash before `first` */
    struct hash128 running; /* running hash after `last` */
    uint64_t bytes;         /* taken by entries, with LMDB's rounding */
};

struct store_identity {
    uint64_t term;
    char cluster[STORE_CLUSTER_BYTES];
};

struct store_snapshot {
    uint64_t serial; /* 0: none */
    uint64_t check;  /* hash64 of its sidecar */
};

/* FULL: nothing was written, try again when there is room. BROKEN: final; what the disk holds is uncertain, and
 * nothing of the call may be counted as durable. Both with a reason in why[STORE_WHY_BYTES]. */
enum store_result { STORE_OK, STORE_FULL, STORE_BROKEN };

/* Opens <dir>/log/, checks every entry and raises the term by one, durably. Without a log there: creates it if
 * may_create, else it is an error. NULL with a reason. */
struct store *store_open(const char *dir, const char *node, uint64_t size_max_bytes, bool may_create, char *why,
                         size_t why_size);
void store_close(struct store *s);
struct store_identity store_identity(const struct store *s);

/* ---- the writing thread ---- */
struct store_state store_state(const struct store *s);
/* Seals the batch as the next entry (again, if it was sealed before) and commits it alone, durably. */
enum store_result store_append(struct store *s, struct buf *batch, char *why);
/* Removes entries below `index`, a bounded piece of them in one transaction; *more says whether some are left. */
enum store_result store_truncate(struct store *s, uint64_t index, bool *more, char *why);
enum store_result store_put_snapshot(struct store *s, struct store_snapshot snapshot, char *why);

/* ---- the reading thread ---- */
/* each() for entries from *next on, none above `last`, until bytes_max is passed; *next is then the index to ask for
 * next. */
enum store_result store_read(struct store *s, uint64_t *next, uint64_t last, size_t bytes_max,
                             void (*each)(void *arg, const struct entry_view *e), void *arg, char *why);
enum store_result store_get_snapshot(struct store *s, struct store_snapshot *out, char *why);

/* Blocks that were allocated but never written make a commit slow: the file system has to note, durably, that they
 * hold data now. So some are filled with zeros ahead of LMDB, when the writer has nothing else to do. Both on the
 * writer's thread, between transactions. */
bool store_wants_fill(const struct store *s);
void store_fill(struct store *s); /* one piece; trouble only ends the filling: the next commit meets it, too */

#endif

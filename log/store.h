/* The entries on disk: one LMDB environment with two databases, and a file ahead of it for the newest. Knows nothing
 * of threads' schedules or callbacks.
 *
 * Two threads may use a store at once, each with its own functions: one writes, one reads. store_open() and
 * store_close() belong to whoever has it alone. */
#ifndef HF_STORE_H
#define HF_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/hash.h"
#include "log/record.h"
#include "log/tail.h"

struct store;

enum { STORE_CLUSTER_BYTES = 16, STORE_WHY_BYTES = 256, STORE_NOTE_BYTES_MAX = 1024 };

struct store_state {
    uint64_t first;         /* index of the oldest entry; last+1 if none */
    uint64_t last;          /* index of the newest entry, of any that ever was if none is left; 0 at first */
    struct hash128 before;  /* running hash before `first` */
    struct hash128 running; /* running hash after `last` */
    uint64_t bytes;         /* taken by entries, with LMDB's rounding */
};

struct store_identity {
    char cluster[STORE_CLUSTER_BYTES];
};

struct store_snapshot {
    uint64_t serial; /* 0: none */
    uint64_t check;  /* hash64 of its sidecar */
};

/* What Raft must not forget. */
struct store_hard {
    uint64_t term, vote; /* vote: a member's id, 0 = none */
};
/* Where the log's beginning stands for Raft: everything up to index is committed, and the configuration as of it. It
 * is not below the entry before the first one kept, and never moves back; what it covers is never cut. */
struct store_base {
    uint64_t index, term; /* 0: the log begins at 1 */
    uint64_t change_index;
    struct buf change; /* the owner's */
};
/* One transaction of the writer. The log's order: cut, then records, which follow the last entry. Term and vote are
 * checked, too (CHECK): the term does not sink, and in one term a vote that was given stays. */
struct store_write {
    const struct store_hard *hard; /* NULL: unchanged */
    uint64_t cut_from;             /* 0: nothing; else entries from here on, if there are any, go first */
    struct record *const *records; /* sealed; index and chain are checked (CHECK) against what is there */
    size_t count;
};
/* A log that comes from another member with its snapshot: replaces all entries, the base and the snapshot, in one
 * transaction. Term, vote, identity and notes stay. */
struct store_install {
    uint64_t first;                /* of records; base.index + 1 if there are none */
    uint64_t before_term;          /* of entry first - 1; 0 = not known (without records it is the base's) */
    struct hash128 before;         /* running hash before it */
    struct record *const *records; /* first .. base->index */
    size_t count;
    const struct store_base *base;
    struct store_snapshot snapshot;
};

/* FULL: nothing was written, try again when there is room. BROKEN: final; what the disk holds is uncertain, and
 * nothing of the call may be counted as durable. Both with a reason in why[STORE_WHY_BYTES]. */
enum store_result { STORE_OK, STORE_FULL, STORE_BROKEN };

/* Opens <dir>/log/, and checks every entry; an existing log is left as it is. Without a log there: creates it if
 * may_create, else it is an error. NULL with a reason. */
struct store *store_open(const char *dir, const char *node, uint64_t size_max_bytes, bool may_create, char *why,
                         size_t why_size);
void store_close(struct store *s);
struct store_identity store_identity(const struct store *s);

/* As of store_open(), for the start: */
struct store_hard store_hard(const struct store *s);
const struct store_base *store_base(const struct store *s); /* borrowed */
uint64_t store_member_id(const struct store *s);            /* made at random with the log; never 0 */
/* Walks all entries of an opened store: what Raft needs of each. change: of a CHANGE, else NULL. */
enum store_result store_walk(struct store *s,
                             void (*each)(void *arg, uint64_t index, uint64_t term, enum record_type type,
                                          const void *change, size_t change_bytes),
                             void *arg, char *why);
/* The group's id: all zero until the group was begun; then put once (CHECK), by whoever has the store alone, or on
 * the writing thread; store_identity() tells it from the next store_open() on. */
enum store_result store_put_cluster(struct store *s, const char cluster[STORE_CLUSTER_BYTES], char *why);

/* ---- the writing thread ---- */
struct store_state store_state(const struct store *s);
/* All of it or nothing, durable when it returns OK. What adds no entries finds room in the reserve when there is no
 * other; so when a write with `hard` and records is FULL, `hard` alone may still be written, and should be. */
enum store_result store_write(struct store *s, const struct store_write *w, char *why);
enum store_result store_install(struct store *s, const struct store_install *i, char *why);
/* Removes entries below `index`, a bounded piece of them in one transaction; *more says whether some are left. The
 * base is stored with the first piece (also if nothing is to be removed); index <= base->index + 1. */
enum store_result store_truncate_to(struct store *s, uint64_t index, const struct store_base *base, bool *more,
                                    char *why);
/* n = 0 removes it; n <= STORE_NOTE_BYTES_MAX. */
enum store_result store_put_note(struct store *s, const char *name, const void *bytes, size_t n, char *why);
enum store_result store_put_snapshot(struct store *s, struct store_snapshot snapshot, char *why);

/* ---- the reading thread ---- */
/* each() for entries from *next on, none above `last`, until bytes_max is passed; *next is then the index to ask for
 * next. */
enum store_result store_read(struct store *s, uint64_t *next, uint64_t last, size_t bytes_max,
                             void (*each)(void *arg, const struct entry_view *e), void *arg, char *why);
/* Sealed bytes of entries from `from` on, none above `last`, at least one if there is one, until bytes_max is passed
 * or each() returns false; each is checked by its checksum. For followers that are far behind. OK without a call if
 * `from` is not there (any more). What the disk holds may still be there although it is to be cut: the caller asks
 * for nothing that its tail has replaced. */
enum store_result store_read_raw(struct store *s, uint64_t from, uint64_t last, size_t bytes_max,
                                 bool (*each)(void *arg, uint64_t index, const void *bytes, size_t n), void *arg,
                                 char *why);
/* Term and running hash of an entry, also of the one before the first (from the base); false: neither is there. */
bool store_at(struct store *s, uint64_t index, uint64_t *term, struct hash128 *running);
/* At most `max` bytes of it; 0: there is none. */
size_t store_get_note(struct store *s, const char *name, void *out, size_t max);
enum store_result store_get_snapshot(struct store *s, struct store_snapshot *out, char *why);

/* Blocks that were allocated but never written make a commit slow: the file system has to note, durably, that they
 * hold data now. So some are filled with zeros ahead of LMDB, when the writer has nothing else to do. Both on the
 * writer's thread, between transactions. */
bool store_wants_fill(const struct store *s);
void store_fill(struct store *s); /* one piece; trouble only ends the filling: the next commit meets it, too */

#endif

/* Records in memory: sealed entries that are on their way to the disk and to the peers, and the newest of those that
 * have arrived there, so that followers need not be served from the disk.
 *
 *      tail.first ........... durable ............ last
 *      |── may be evicted ────|── must be kept ────|
 *
 * A record is shared by counting: tail, writer job and links hold references. Counts change on the loop only. */
#ifndef HF_TAIL_H
#define HF_TAIL_H

#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/hash.h"
#include "log/record.h"

struct record {
    uint32_t holders;
    enum record_type type;
    uint64_t index, term;
    struct hash128 running; /* after it */
    struct buf bytes;       /* as record.h lays them out: header and frames */
};
/* Takes over *bytes, which hold a whole sealed entry that was checked (entry_open). One reference is the caller's. */
struct record *record_new(struct buf *bytes, enum record_type type, uint64_t index, uint64_t term,
                          struct hash128 running);
struct record *record_hold(struct record *r);
void record_drop(struct record *r); /* NULL is fine */
/* Where a CHANGE's configuration is, inside bytes. */
const void *record_change(const struct record *r, size_t *n);

enum { TAIL_BYTES_MAX = 32 * 1024 * 1024 }; /* of durable records */

struct tail;
struct tail *tail_new(uint64_t next_index, struct hash128 running); /* running: before next_index */
void tail_free(struct tail *t);
void tail_reset(struct tail *t, uint64_t next_index, struct hash128 running); /* forgets everything */
uint64_t tail_first(const struct tail *t);                           /* last + 1 if it is empty */
uint64_t tail_last(const struct tail *t);
struct hash128 tail_running(const struct tail *t); /* after the last */
void tail_append(struct tail *t, struct record *r); /* takes the reference; index must be last + 1 */
/* Drops records from `index` on; running: the hash before it, which the caller looks up on disk if tail_first() >=
 * index. */
void tail_cut(struct tail *t, uint64_t index, struct hash128 running);
struct record *tail_get(const struct tail *t, uint64_t index); /* NULL: not here; a hold is the caller's business */
void tail_durable(struct tail *t, uint64_t index);             /* up to here: may be evicted */
uint64_t tail_bytes(const struct tail *t);                     /* of all that is here */
void tail_keep(struct tail *t, uint64_t bytes_max); /* of durable records, instead of TAIL_BYTES_MAX */

#endif

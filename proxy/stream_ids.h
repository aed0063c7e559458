/* Ids for XADD with `*`: as Valkey makes them, the clock's milliseconds and a number, each greater than the one
 * before of the same stream.
 *
 *     next(x, 1795173900374) ─▶ 1795173900374-0      next(x, 1795173900374) ─▶ 1795173900374-1
 *     next(x, 1795173900001) ─▶ 1795173900374-2      (the clock went back)
 *
 * A table of fixed size, one stream in a place: who loses its place to another starts from the clock again, and
 * whether its id is still greater is then up to Valkey (canon_streams.c has what happens if not). Pure: the clock
 * comes in. */
#ifndef HF_STREAM_IDS_H
#define HF_STREAM_IDS_H

#include <stdint.h>

enum { STREAM_IDS_MAX = 1024 };

struct stream_id {
    uint64_t ms, seq;
};
struct stream_ids {
    struct {
        uint64_t key; /* hash of (database, name); 0 = free */
        struct stream_id last;
    } at[STREAM_IDS_MAX];
};

struct stream_id stream_ids_next(struct stream_ids *t, uint64_t key, uint64_t now_ms);

#endif

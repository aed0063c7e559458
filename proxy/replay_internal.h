/* Private to replay*.c: the replay's insides. replay.c walks; replay_place.c knows where it is, and looks for places.
 */
#ifndef HF_REPLAY_INTERNAL_H
#define HF_REPLAY_INTERNAL_H

#include "log/base/buf.h"
#include "proxy/replay.h"

enum { REPLAY_WHY_BYTES_MAX = 160 };
enum seek { SEEK_NOTHING, SEEK_BYTES, SEEK_INDEX };

struct replay {
    struct log *log;
    struct snapshot_mark mark; /* all zero: none */
    bool has_mark;
    bool mark_tells;              /* what is in force at the mark: what the log says before it is older */
    uint64_t first, next;         /* entries walked: first .. next - 1 */
    uint64_t entry, effects;      /* the entry at hand, and effects counted in it */
    struct buf *out;              /* of the step at hand; NULL = no output */
    int64_t out_db;               /* database selected at the end of the stream */
    uint64_t bytes;               /* of stream */
    struct replay_intent *intent; /* intent[head .. count) by rising seq */
    size_t head, count, cap;
    uint64_t last_seq; /* of the newest intent seen */
    struct replay_facts facts;
    struct buf users; /* facts.users */
    struct {
        enum seek what;
        uint64_t goal;
        enum replay_search result;
        struct replay_place place;
    } seek;
    char why[REPLAY_WHY_BYTES_MAX];
};

/* ---- replay_place.c ---- */
/* So many bytes have been made, at the end of a command; `effects` of the entry at hand are done. */
void replay_passed(struct replay *r, size_t n, uint64_t effects);
void replay_found(struct replay *r, uint64_t index, uint64_t effects); /* what was looked for is here */

#endif

/* A feed with a log, and a scripted replica in place of Valkey. */
#ifndef HF_FEED_PLAY_H
#define HF_FEED_PLAY_H

#include "log/base/buf.h"
#include "proxy/feed.h"
#include "proxy/feed_checkpoint.h"
#include "tests/unit/follow_log.h"

#define GETACK "*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
#define PING   "*1\r\n$4\r\nPING\r\n"
#define RUN_ID "the-run-of-this-valkey"
enum { GETACK_BYTES = sizeof GETACK - 1, PING_BYTES = sizeof PING - 1 };

struct play {
    struct world *w; /* for its log; no Valkey is started */
    struct leader l;
    struct checkpoints *checkpoints;
    struct feed *feed;
    bool complete, closed, noted;
    int began_full, began_partial, lefts;
    uint64_t acked;
    char why[256];
    /* ---- the replica ---- */
    struct stream *s;
    struct buf in;
    bool gone;
    size_t want;
    char replid[48];
    uint64_t offset; /* of the stream at the beginning of `in` */
};

void open_feed(struct play *p, const struct feed_proof *proof, const char *run);
void hang_up(struct play *p);
void close_feed(struct play *p);
struct play *new_play(uint64_t seed, size_t entries);
void end_play(struct play *p);
void say(struct play *p, const char *text);
void dial(struct play *p);
void line(struct play *p, char *out, size_t size);
void wait_bytes(struct play *p, size_t n);
void ack(struct play *p, uint64_t offset);
/* As Valkey does. true: continued; p->offset is where the stream goes on. */
bool sync_from(struct play *p, const char *id, int64_t offset);
/* for fixture_wait */
bool until_getack(struct fixture *f);
/* Everything up to the GETACK that says that all has gone out; acknowledged. */
void take_all(struct play *p);
bool until_all_acked(struct fixture *f);

#endif

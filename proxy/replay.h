/* Replay: from the log to the stream that rebuilds Valkey. state = snapshot + OUTCOMEs (a REF expands to its
 * intent's bytes), in log order.
 *
 * The same walk, without output, tells what a start needs to know: the intents still pending, the last attachment,
 * the next sequence number. */
#ifndef HF_REPLAY_H
#define HF_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/log.h"

struct buf;
struct replay;

struct replay_intent {
    uint64_t seq;
    uint32_t db;
    const char *resp; /* borrowed from the replay */
    size_t n;
};
struct replay_facts {  /* complete once the walk has ended */
    bool anything;     /* an INTENT, OUTCOME or CONTROL_ATTACH was seen */
    uint64_t next_seq; /* above every sequence number seen */
    bool attached;     /* the last CONTROL_ATTACH names a Valkey */
    char run_id[48], replid[48];
    uint64_t offset;                     /* of that stream: end of the last OUTCOME since, else where it attached */
    uint32_t db;                         /* database selected there, as far as the log knows */
    uint64_t commands;                   /* effects passed on */
    int mode;                            /* last CONTROL_MODE, -1 if none */
    const struct replay_intent *pending; /* neither REFed nor RESOLVED, in sequence order */
    size_t pending_count;
    const char *damage; /* NULL, or why the walk stopped: the log contradicts itself, nothing may be built on it */
};

/* The body of CONTROL_ATTACH: varint offset | u8 n, replid | u8 n, run_id [| u8 again].
 *
 * again = 0: an attachment begins. again = 1: a reminder of the one that goes on, committed before a snapshot
 * becomes valid, so that a walk from its mark always finds it. Its offset is where the snapshot was forked: all
 * effects before it are in the snapshot, and Valkey writes a SELECT first after a fork. So the offset of an OUTCOME
 * between the snapshot and the reminder is later and stays; without one, the reminder's holds. Empty ids: from here
 * on the log says more than any running Valkey (a rebuild has begun): nothing to bridge to. */
void replay_attach_body(struct buf *body, uint64_t offset, const char *replid, const char *run_id, bool again);

/* mark: the snapshot to start from, NULL for the whole log. */
struct replay *replay_new(struct log *log, const struct snapshot_mark *mark);
void replay_free(struct replay *r);
/* Walks about bytes_max of log and appends the stream (RESP, with SELECTs; begins with one) to out unless out is
 * NULL. true = there is more. The walk ends at what was committed when it gets there, or at damage (see the facts).
 * */
bool replay_step(struct replay *r, struct buf *out, size_t bytes_max);
double replay_progress(const struct replay *r); /* 0..1, by log index */
const struct replay_facts *replay_facts(const struct replay *r);

#endif

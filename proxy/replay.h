/* Replay: from the log to the stream that rebuilds Valkey. state = snapshot + OUTCOMEs (a REF expands to its
 * intent's bytes), in log order.
 *
 * The same walk, without output, tells what a start needs to know: the intents still pending, the last attachment,
 * the next sequence number.
 *
 * A replay can go on for ever: when replay_step() has returned false, it may be called again once more is committed.
 * Its facts are always as of what it has walked.
 *
 * Between two places of the log the stream is a pure function of the log. So a place (struct replay_place) can be
 * kept, and a later replay goes on from there with exactly the same bytes; and a place inside the stream is found by
 * its distance in bytes from an earlier one (replay_seek_bytes). */
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
    uint64_t index; /* of the entry that holds it */
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
    uint64_t tries;                      /* of what was put out: intents that Valkey may refuse (record.h, TRY) */
    int mode;                            /* last CONTROL_MODE, -1 if none */
    const char *users;                   /* last CONTROL_USERS, borrowed from the replay; NULL if none was walked */
    size_t users_bytes;
    uint64_t users_index; /* its entry */
    const struct replay_intent *pending; /* neither REFed nor RESOLVED, in sequence order */
    size_t pending_count;
    bool cut; /* the log was truncated or replaced before we had read it: begin anew, from a newer snapshot */
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

/* A place in the log, and the state of the stream there. Its mark is like a snapshot's (but for its file's size and
 * date): a replay can begin at it. */
struct replay_place {
    struct snapshot_mark mark;
    int64_t db; /* selected in the stream; REPLAY_DB_NONE: the stream goes on with a SELECT */
};
enum { REPLAY_DB_NONE = -1 };

/* mark: the snapshot to start from, NULL for the whole log. A mark with a run_id tells what is in force at it. */
struct replay *replay_new(struct log *log, const struct snapshot_mark *mark);
/* Goes on where another one was. */
struct replay *replay_new_at(struct log *log, const struct replay_place *place);
void replay_free(struct replay *r);
/* Walks about bytes_max of log and appends the stream (RESP, with SELECTs; begins with one) to out unless out is
 * NULL. true = there is more. The walk ends at what was committed when it gets there, or at damage (see the facts).
 * */
bool replay_step(struct replay *r, struct buf *out, size_t bytes_max);
double replay_progress(const struct replay *r); /* 0..1, by log index */
const struct replay_facts *replay_facts(const struct replay *r);
uint64_t replay_walked(const struct replay *r);                      /* entries up to this index were walked */
uint64_t replay_bytes(const struct replay *r);                       /* of stream, made or not, since the start */
void replay_place(const struct replay *r, struct replay_place *out); /* the end of what was walked */

/* Looks for a place while walking (without output): where the stream has so many bytes since the start, at the end of
 * a command; or the end of an entry. The walk stops behind it. MISSED: it is passed, and there is no such place. */
enum replay_search { REPLAY_SEEKING, REPLAY_FOUND, REPLAY_MISSED };
void replay_seek_bytes(struct replay *r, uint64_t bytes);
void replay_seek_index(struct replay *r, uint64_t index);
enum replay_search replay_sought(const struct replay *r, struct replay_place *out);

#endif

/* Checkpoints: which place of the log belongs to which offset of a feed's stream. The two newest are kept, durably,
 * so that a feed that begins after a crash can prove what a Valkey holds that it fed before. See feed_checkpoint.c.
 */
#ifndef HF_FEED_CHECKPOINT_H
#define HF_FEED_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/replay.h"

struct log;

struct checkpoint {
    char replid[48]; /* of the feed's stream */
    char run_id[48]; /* of the Valkey that is fed */
    uint64_t offset;
    uint32_t extra; /* so many bytes right before offset are not the log's: a PING, a GETACK */
    struct replay_place place;
};

struct checkpoints;
struct checkpoints *checkpoints_new(struct log *log); /* with what an earlier process has noted */
void checkpoints_free(struct checkpoints *c);         /* NULL is fine */
/* done() when it is durable, on a later turn; may be NULL. A request made while another one is on its way waits for
 * it, and takes the place of one that waits already. */
void checkpoints_add(struct checkpoints *c, const struct checkpoint *k, void (*done)(void *arg, bool ok), void *arg);
/* Forgets all, in memory at once. What was on its way is forgotten, too, without a call. */
void checkpoints_wipe(struct checkpoints *c, void (*done)(void *arg, bool ok), void *arg);
bool checkpoints_busy(const struct checkpoints *c);                       /* something is on its way */
void checkpoints_unhook(struct checkpoints *c);                           /* whoever waits for done() is gone */
const struct checkpoint *checkpoints_newest(const struct checkpoints *c); /* NULL: none */
/* The newest one from which the place at `offset` can be found. NULL: there is no proof. */
const struct checkpoint *checkpoints_for(const struct checkpoints *c, const char *replid, const char *run_id,
                                         uint64_t offset);
/* Entries from here on are needed; UINT64_MAX: none. */
uint64_t checkpoints_log_from(const struct checkpoints *c);

#endif

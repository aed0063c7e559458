/* A log in memory for the simulator: open batch, sealed entries, a durable prefix; and the doors of log.h that
 * proxy/replay.c reads through. */
#ifndef HF_SIM_LOG_H
#define HF_SIM_LOG_H

#include "log/log.h"
#include "proxy/replay.h"
#include "tests/unit/sim_valkey.h"

struct log { /* what replay sees: entries first .. last */
    struct buf *entries;
    size_t cap;
    uint64_t first, last;
};
struct sim_log {
    struct log seen;
    uint64_t sealed, durable; /* entries 1 .. sealed exist */
    struct buf open;
};

void sim_log_reset(struct sim_log *l);
void sim_log_free(struct sim_log *l);
uint64_t sim_log_open_index(const struct sim_log *l);
bool sim_log_seal(struct sim_log *l);                   /* the open batch becomes an entry; false if it is empty */
void sim_log_barriers(struct sim_log *l, int n);        /* n entries get the indexes before the open batch */
void sim_log_survive(struct sim_log *l, uint64_t last); /* a crash: what is behind `last` is gone */
/* What any node makes of the entries up to `last`: state, and what the walk told. NULL on success, else what is
 * wrong. */
struct sim_rebuilt {
    struct replay_facts facts; /* pending is not to be used: it went with the replay */
    uint64_t pending[256];
    size_t pending_count;
};
const char *sim_log_rebuild(struct sim_log *l, uint64_t last, const struct snapshot_mark *mark,
                            struct keyspace *state, struct sim_rebuilt *out);

#endif

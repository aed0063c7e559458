/* The world of test_log_chaos.c: three logs on one loop, what was promised to who wrote, and what was read. */
#ifndef HF_LOG_CHAOS_H
#define HF_LOG_CHAOS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/log.h"

enum { CHAOS_NODES = 3, CHAOS_PATIENCE_MS = 30000, CHAOS_ELECTION_MS = 150, CHAOS_SEQS_MAX = 200000 };

enum fate { FATE_NONE, FATE_WAITS, FATE_TOLD, FATE_VOID };

struct chaos;
struct chaos_node {
    struct chaos *chaos;
    struct log *log;
    char dir[64], name[8];
    struct diag diag;
    uint64_t read_at, lost_index;
    bool leads, lost, changing;
};
struct chaos {
    struct loop *loop;
    struct members members;
    struct chaos_node node[CHAOS_NODES];
    uint64_t random, seqs, entries;
    uint64_t *promised, *seen; /* by sequence number: the entry */
    unsigned char *fate, *owner;
    struct hash128 *running; /* by index */
    int changes_asked, changes_done, told, moved, replaced, kills, changed, handed, snapshots;
    bool timed_out, snapshotting;
    uint64_t low; /* none below waits */
    bool (*until)(struct chaos *c);
};

extern atomic_int chaos_slow_ms[CHAOS_NODES]; /* what each disk takes longer */

uint64_t chaos_below(struct chaos *c, uint64_t n);
bool chaos_on_turn(void *arg);
/* For so long; or until. True: until came. */
bool chaos_run(struct chaos *c, uint64_t ms, bool (*until)(struct chaos *c));
void chaos_open_node(struct chaos_node *n);
void chaos_stop_node(struct chaos_node *n);
void chaos_new_disk(struct chaos_node *n);
void chaos_remove_disk(const struct chaos_node *n);
int chaos_free_port(void);
struct chaos_node *chaos_leader(struct chaos *c);
bool chaos_one_leads(struct chaos *c);
bool chaos_all_equal(struct chaos *c);

#endif

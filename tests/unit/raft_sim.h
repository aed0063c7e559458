/* The simulation of consensus: log/consensus.c and libraft, the very code of production, driven by a host that is
 * made of memory: nodes, disks, network and clocks, all of it decided by one seed.
 *
 *      raft_sim.c ........... events in order of virtual time, the run of one seed
 *      raft_sim_host.c ...... struct consensus_host, as the store does it: the log in memory, what the disk is asked
 *      raft_sim_disk.c ...... writes that become durable later, in order; a crash loses a suffix of them
 *      raft_sim_net.c ....... loss, repetition, delay, cuts; the transfer of snapshots
 *      raft_sim_chaos.c ..... what goes wrong, and when
 *      raft_sim_members.c ... an operator who adds, promotes, demotes, removes and replaces
 *      raft_sim_check.c ..... what must hold at any moment, raft_sim_end.c: and when everything is healed
 *
 * A bug can be planted in the host (never in the product), to prove that the checks would see one. */
#ifndef HF_RAFT_SIM_H
#define HF_RAFT_SIM_H

#include <stdbool.h>
#include <stdint.h>

enum rsim_bug {
    RSIM_NO_BUG,
    RSIM_VOTE_FORGOTTEN, /* the hard state counts as durable when it has been asked for */
    RSIM_ACK_EARLY,      /* an entry counts as durable when it has been asked for */
    RSIM_NO_QUORUM,      /* an entry counts as committed when it is durable at the leader */
    RSIM_LEASE_LONG,     /* no margin, and a node that starts again does not wait before it votes */
    RSIM_AMNESIA,        /* a node that lost its disk comes back as its old self */
    RSIM_BUGS
};
extern const char *const rsim_bug_names[RSIM_BUGS];

/* What the checks look at. CONSEQUENCES leaves out what the host and consensus promise each other step by step, and
 * that the group heals: so a planted bug is found by the harm it does, two leaders, a vote given twice, a committed
 * entry that changes. */
enum rsim_checks { RSIM_ALL, RSIM_CONSEQUENCES };

struct rsim_counts {
    uint64_t events, messages, committed, elections, crashes, restarts, pauses, cuts, slow_disks;
    uint64_t lost_writes, entries_cut, compactions, fetches, installs, transfers, changes, lost_disks, leases;
    uint64_t virtual_ms, heal_ms_max;
    uint64_t digest; /* of everything that happened: the same seed must give the same one */
};

enum { RSIM_WHY_BYTES = 512 };
struct rsim_plan {
    uint64_t seed;
    enum rsim_bug bug;
    enum rsim_checks checks;
    const char *without; /* a guard of consensus.h, left out; NULL: none */
    bool trace;          /* tell it step by step on stdout */
};
/* One history. true: nothing was violated, and after the last fault the group healed. Otherwise why says what and
 * when. Adds to *counts. */
bool rsim_run(const struct rsim_plan *plan, struct rsim_counts *counts, char why[RSIM_WHY_BYTES]);

#endif

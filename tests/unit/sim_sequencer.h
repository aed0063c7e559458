/* The simulated world around the sequencer: clients, connections, Valkey, its stream, the log; crashes. One seed =
 * one schedule.
 *
 *   sessions ─▶ sequencer (the real one) ─▶ connections ─▶ Valkey ─▶ stream ─▶ tap ─▶ back
 *                    └─▶ log ─▶ commits, crashes ─▶ the real replay ─▶ what was promised must be there
 *
 * Everything is delayed and interleaved at random. Held at any crash: each released write stands exactly once, at the
 * position its reply named, on the same history; nothing is applied twice, and a unit whole or not at all; each
 * released read is a prefix of the rebuilt history; a refused write is not there. Held at the end: everything was
 * answered, nothing is left over, and log and Valkey agree.
 *
 * The group: the quorum goes away and comes back. Either we lead again, and the barrier has taken the index that the
 * open batch was promised: then nothing at all may be lost. Or another node has led: what we had under way is in its
 * log up to a point or not at all, its Valkey is rebuilt from that, and of what async clients were told no more is
 * missing than we say.
 */
#ifndef HF_SIM_SEQUENCER_H
#define HF_SIM_SEQUENCER_H

#include <stdbool.h>
#include <stdint.h>

enum { SIM_WHY_BYTES = 512 };

struct sim_counts { /* over all runs of a simulator */
    uint64_t steps, commands, released_writes, released_reads, failed, crashes_looked_at, attachments, rebuilds,
        restarts, lanes_broken, snapshots, forged, waits, losses, led_again, followed, lost_async, clean, refused,
        transactions, calm;
};

enum sim_profile {
    SIM_ANY,      /* the seed chooses among all of these */
    SIM_MIXED,    /* a bit of everything */
    SIM_NARROW,   /* one key, equal writes */
    SIM_BREAKING, /* connections break again and again, and what they left lies long in Valkey's sockets */
    SIM_DYING,    /* taps, processes and Valkeys come and go */
    SIM_TOGGLING, /* few sessions, which change between sync and async */
    SIM_LOSING    /* the quorum goes away again and again */
};

struct sim;
struct sim *sim_new(void);
void sim_free(struct sim *w);
/* Runs one schedule, without one clause of the rule if `without` is not NULL. false: a violation, told in why. */
bool sim_run(struct sim *w, uint64_t seed, enum sim_profile profile, const char *without, bool trace,
             char why[SIM_WHY_BYTES]);
const struct sim_counts *sim_counts(const struct sim *w);

#endif

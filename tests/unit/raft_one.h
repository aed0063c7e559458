/* One member under test, with its host in memory; the test plays its peers (ids 2, 3, ...; itself it is 1 unless it
 * says otherwise). What the member does is recorded here. */
#ifndef HF_RAFT_ONE_H
#define HF_RAFT_ONE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "log/base/diag.h"
#include "log/consensus.h"

enum { ONE_ENTRIES_MAX = 5000, ONE_SENT_MAX = 4096, ONE_ELECTION_MS = 1000, ONE_HEARTBEAT_MS = 100, ONE_MARGIN = 20 };

struct one {
    struct consensus *c;
    struct consensus_settings settings;
    uint64_t now_ms, boot_ms;
    struct consensus_entry log[ONE_ENTRIES_MAX + 1]; /* log[i].index == i, from first to last */
    uint64_t first, last, base_index, base_term;
    bool slow_disk; /* hard states become durable only by consensus_hard_state_durable() */
    unsigned hard_states, cuts, needed, installs, failures, roles;
    uint64_t hard_term, hard_vote, committed, leader, need_leader;
    bool committed_fell, members_committed;
    struct members members;
    struct peer_message sent[ONE_SENT_MAX]; /* all so far, oldest first */
    size_t sent_count;
};

/* A group of n voters, ids 1 .. n, each in its own zone; the last a standby if so said. */
struct members one_members(size_t n, enum member_role last_role);
struct consensus_entry one_change(uint64_t index, uint64_t term, const struct members *m);

/* Member `id`; its log gets a CHANGE with `m` at 1 (term 1), and `extra` commands of `term`, all durable. m NULL: an
 * empty log, a joining server. one_start_log(): what o->log holds already. */
struct one *one_new(uint64_t id, bool restarted);
void one_fill(struct one *o, const struct members *m, uint64_t term, unsigned extra);
void one_start(struct one *o, uint64_t term);
struct one *one_simple(uint64_t id, size_t voters, uint64_t term, unsigned extra);
void one_free(struct one *o);

void one_settle(struct one *o); /* hard states and entries become durable */
/* Time goes on, without ticks; and with them. */
void one_sleep(struct one *o, uint64_t ms);
void one_run(struct one *o, uint64_t ms);
/* Becomes leader by the votes of `voter`; its barrier, if any, is durable. */
void one_elect(struct one *o, uint64_t voter);
uint64_t one_run_to_campaign(struct one *o); /* now_ms when it stood */
void one_submit(struct one *o);              /* one command; durable */

/* What peers say. */
void one_append(struct one *o, uint64_t from, uint64_t term, uint64_t prev, uint64_t prev_term, uint64_t commit,
                const struct consensus_entry *entries, uint32_t n);
void one_result(struct one *o, uint64_t from, uint64_t rejected, uint64_t last);
void one_echo(struct one *o, uint64_t from, uint64_t last, uint64_t echo_ms);
void one_vote(struct one *o, uint64_t from, uint64_t term, bool pre_vote);
/* Answered with yes? */
bool one_ask_vote(struct one *o, uint64_t from, uint64_t term, bool disrupt);
struct consensus_entry one_command(uint64_t index, uint64_t term);

/* The newest message of a kind to a peer (0: to any); NULL if there is none since `mark` (o->sent_count then). */
const struct peer_message *one_sent(const struct one *o, enum peer_kind kind, uint64_t peer, size_t mark);

#endif

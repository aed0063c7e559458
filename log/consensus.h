/* Consensus: the one file that drives libraft's raft_step(). No socket, disk or clock inside: a host supplies them,
 * so that the simulator (tests/unit/raft_*) drives the very code that runs in production.
 *
 *      consensus_submit / receive / tick / persisted / ...      host: append, cut, hard_state, send, committed, role
 *             └──────────────▶ raft_step() ──▶ what it wants done ──────┘
 *
 * Rules that the host relies on, and that consensus.c keeps:
 *   - no message leaves while a term or vote is not durable that was changed before it (it is held in here);
 *   - the host's functions are called from inside a consensus_*() call and must not call back into consensus;
 *   - committed() rises, and is never above what is durable here;
 *   - of one step the host hears in this order: hard_state, cut, append or install, send, role, members, committed.
 *     A new leader's BARRIER and first APPENDs can thus come before its role().
 *
 * Rules for the host: writes become durable in the order in which they were asked for; persisted() is told only of
 * what is durable; messages may be lost, repeated, late, but keep their order as far as possible. So writing and
 * sending go on in parallel: an entry is told to be committed when a majority has it, and our own disk, too.
 *
 * The ten guards of this driver against defects of libraft 0.22.1 are named at their places: SPLIT, PREV, INSTALL,
 * STALE_RESULT, TIMER, COMMIT, CONFIGURATION, REJECTED, HINT, WINDOW. Test builds (-DCONSENSUS_GUARDS) can leave one
 * out. */
#ifndef HF_CONSENSUS_H
#define HF_CONSENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/members.h"
#include "log/peer_message.h"
#include "log/tail.h"

struct consensus;

enum consensus_role { CONSENSUS_FOLLOWER, CONSENSUS_CANDIDATE, CONSENSUS_LEADER };

/* An entry as consensus sees it: record is the host's and is only passed through; NULL for one that consensus makes
 * itself (BARRIER, CHANGE), which the host must seal. change: a CHANGE's configuration, borrowed. */
struct consensus_entry {
    uint64_t index, term;
    enum record_type type;
    struct record *record;
    const void *change;
    size_t change_bytes;
};

struct consensus_host {
    uint64_t (*now_ms)(void *arg);  /* monotonic */
    uint64_t (*boot_ms)(void *arg); /* CLOCK_BOOTTIME, read afresh: for the lease */
    /* Make term and vote durable, in order with the entries; then consensus_hard_state_durable(). */
    void (*hard_state)(void *arg, uint64_t term, uint64_t vote);
    /* Drop entries from `index` on, in memory at once and on disk in order with what follows. */
    void (*cut)(void *arg, uint64_t index);
    /* Append one: in memory at once, on disk in order; then consensus_persisted(). */
    void (*append)(void *arg, const struct consensus_entry *e);
    uint64_t (*term_at)(void *arg, uint64_t index); /* of an entry of the log (or of the base); 0 = not there */
    void (*send)(void *arg, const struct peer_message *m);
    /* Raised: entries up to here are committed and durable here. */
    void (*committed)(void *arg, uint64_t index);
    /* A change of role, term or leader. leader: 0 = not known. */
    void (*role)(void *arg, enum consensus_role role, uint64_t term, uint64_t leader);
    /* The configuration in force has changed (also back, when an uncommitted change is cut). */
    void (*members)(void *arg, const struct members *m, bool committed);
    /* The leader's log begins after ours ends: fetch its snapshot, then consensus_install(). Repeated while needed.
     */
    void (*need_snapshot)(void *arg, uint64_t leader, uint64_t last_index);
    /* Swap to the snapshot of consensus_install(): its log and position replace ours, durably; then
     * consensus_installed(). */
    void (*install)(void *arg, uint64_t index, uint64_t term);
    void (*failed)(void *arg, const char *why); /* libraft refused what it must not: stop the process */
};

struct consensus_settings {
    uint64_t id; /* > 0 */
    unsigned election_ms, heartbeat_ms;
    unsigned lease_margin_percent; /* of election_ms: the lease is shorter by so much */
    unsigned seed;
    bool restarted; /* this node may have promised something before: drop vote requests for one election timeout */
};

/* Where raft's snapshot is: everything up to index is committed; the configuration as of it. */
struct consensus_base {
    uint64_t index, term; /* index 0: none */
    uint64_t change_index;
    const void *change; /* raft_configuration_encode()d */
    size_t change_bytes;
};
struct consensus_start {
    uint64_t term, vote;
    struct consensus_base base;
    uint64_t first; /* index of entries[0]; 1 for a new log; base.index + 1 for an empty one behind a snapshot */
    const struct consensus_entry *entries; /* all that the log holds: term, type, and change of CHANGEs */
    size_t count;
};

struct consensus *consensus_new(const struct consensus_settings *s, const struct consensus_host *h, void *arg);
void consensus_start(struct consensus *c, const struct consensus_start *s);
void consensus_free(struct consensus *c);

enum consensus_answer { CONSENSUS_OK, CONSENSUS_NOT_LEADER, CONSENSUS_BUSY, CONSENSUS_REFUSED };

uint64_t consensus_due_ms(const struct consensus *c); /* call consensus_tick() then, not much earlier */
void consensus_tick(struct consensus *c);
/* Leader: append a COMMAND; its record has index last + 1 and the current term. BUSY: more than window entries are
 * uncommitted (WINDOW), or a transfer is under way. */
enum consensus_answer consensus_submit(struct consensus *c, struct record *r, uint64_t window);
/* entries: of an APPEND, count of them; checked by the host (checksums, chain). Each keeps the caller's reference:
 * what append() wants to keep it holds. */
void consensus_receive(struct consensus *c, const struct peer_message *m, const struct consensus_entry *entries);
/* The write that ended with this entry is durable. Ignored if the log holds another entry there now. */
void consensus_persisted(struct consensus *c, uint64_t index, uint64_t term);
void consensus_hard_state_durable(struct consensus *c);
/* A snapshot is here, whole and checked. false: not wanted any more (nothing happens). */
bool consensus_install(struct consensus *c, const struct consensus_base *base);
void consensus_installed(struct consensus *c);
/* Everything up to base.index is in a snapshot of ours, durably; entries from first_kept on stay. The base's
 * configuration is ignored: it is the committed one. false: cannot now (nothing happens). */
bool consensus_compact(struct consensus *c, uint64_t index, uint64_t first_kept);
/* The configuration in force as consensus_base wants it stored with index: encoded bytes in *out (a struct buf);
 * returns the index of the entry that set it. */
uint64_t consensus_committed_change(const struct consensus *c, struct buf *out);
/* The bytes of a configuration, for the first entry of a new group. */
void consensus_encode(const struct members *m, struct buf *out);
bool consensus_decode(const void *bytes, size_t n, struct members *out); /* bounds checked */
/* Leader: one member added (at the end), removed, or promoted to voter, against the configuration in force: same
 * order otherwise. BUSY: a change or a transfer is under way, nothing of this term is committed yet, or who is to be
 * a voter has not even heard that it is a standby. REFUSED also for a demotion (remove it, and add it again), for two
 * members of one text, and for a leader that would be no voter any more: it hands over first. */
enum consensus_answer consensus_change(struct consensus *c, const struct members *to);
/* Leader: hand over to id, which must have everything (match == last; else BUSY). The lease ends at once and for good
 * in this term. */
enum consensus_answer consensus_transfer(struct consensus *c, uint64_t id);
bool consensus_transferring(const struct consensus *c);
/* A node that led and lost its quorum: for a while it answers no vote requests, and campaigns sooner. */
void consensus_campaign_first(struct consensus *c, bool on);

enum consensus_role consensus_role(const struct consensus *c);
uint64_t consensus_term(const struct consensus *c);
uint64_t consensus_leader(const struct consensus *c);
uint64_t consensus_last(const struct consensus *c);
uint64_t consensus_commit(const struct consensus *c); /* of the group; may be above what is durable here */
uint64_t consensus_match(const struct consensus *c, uint64_t id);    /* leader; 0 otherwise */
uint64_t consensus_heard_ms(const struct consensus *c, uint64_t id); /* now_ms of the last message; 0 = never */
const struct members *consensus_members(const struct consensus *c);
bool consensus_changing(const struct consensus *c); /* a configuration is not committed yet */
/* Leader: until when (boot_ms) reads may be served without asking again; and the moment up to which leadership is
 * proven (a quorum answered what was sent then or later). 0 = none. */
uint64_t consensus_lease_end_ms(const struct consensus *c);
uint64_t consensus_proven_ms(const struct consensus *c);

#ifdef CONSENSUS_GUARDS
void consensus_without(struct consensus *c, const char *guard);
struct raft *consensus_raft(struct consensus *c); /* for what our own messages cannot bring about */
extern const char *const consensus_guards[];      /* NULL-terminated */
#endif

#endif

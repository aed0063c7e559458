/* Inside consensus: shared by these files only.
 *
 *   consensus.c          drives libraft from event to event; alone calls raft_step()
 *   consensus_start.c    begins and ends it
 *   consensus_group.c    asks it: members, leading, snapshots
 *   consensus_message.c  its messages and ours (door of its own: consensus_message.h) */
#ifndef HF_CONSENSUS_INTERNAL_H
#define HF_CONSENSUS_INTERNAL_H

#include "log/consensus.h"
#include "log/consensus_message.h"
#include "log/contact.h"

enum {
    INFLIGHT_ENTRIES_MAX = 1024,   /* per peer, not acknowledged; libraft's 32 is far too few */
    SNAPSHOT_RETRY_MS = 1000,      /* a peer that was told to fetch a snapshot is told again */
    HELD_MESSAGES_MAX = 256,       /* beyond, the oldest is dropped: messages may be lost */
    CAMPAIGN_FIRST_TIMEOUTS = 3    /* how long it lasts, in election timeouts */
};
_Static_assert((int)RECORD_COMMAND == RAFT_COMMAND && (int)RECORD_BARRIER == RAFT_BARRIER &&
                   (int)RECORD_CHANGE == RAFT_CHANGE && (int)MEMBER_STANDBY == RAFT_STANDBY &&
                   (int)MEMBER_VOTER == RAFT_VOTER,
               "our names are libraft's");

#define HAS(update, flag) (((update)->flags & (flag)) != 0)
#ifdef CONSENSUS_GUARDS
#define GUARD(c, name) ((c)->without != GUARD_##name)
#else
#define GUARD(c, name) true
#endif
enum guard {
    GUARD_SPLIT,
    GUARD_PREV,
    GUARD_INSTALL,
    GUARD_STALE_RESULT,
    GUARD_TIMER,
    GUARD_COMMIT,
    GUARD_CONFIGURATION,
    GUARD_REJECTED,
    GUARD_HINT,
    GUARD_WINDOW
};

struct held {
    uint64_t after; /* leaves once so many hard states are durable */
    struct peer_message m;
};
struct consensus {
    struct raft raft;
    struct consensus_settings set;
    struct consensus_host host;
    void *arg;
    struct members members;
    uint64_t uncommitted_change, committed_change; /* of what members() was told last */
    bool changed;                                  /* members() must be told again */
    enum consensus_role role;                      /* role() was told */
    uint64_t term, leader;
    uint64_t opened_term;                      /* which we lead, and have an entry in */
    uint64_t last, durable, commit, committed; /* committed: told */
    uint64_t cut_index;                        /* ONE CUT: not durable yet; 0 = none */
    uint64_t now_ms, due_ms, ticked_ms;
    bool failed, installing;
    struct raft_snapshot_metadata install;
    struct raft_entry *scratch;
    size_t scratch_cap;
    const struct peer_message *receiving;
    uint64_t back_step; /* HINT */
    bool patient; /* restarted, and neither followed nor campaigned since */
    struct contact contact;
    uint64_t hard_asked, hard_durable;
    struct held held[HELD_MESSAGES_MAX];
    size_t held_first, held_count;
#ifdef CONSENSUS_GUARDS
    int without;
    uint64_t started_last;
#endif
};

/* Gives libraft an event, and does what it then wants done; not 0: it failed, and so has the consensus. from: the
 * entries of the event, NULL if it has none. */
int step(struct consensus *c, struct raft_event *ev, const struct consensus_entry *from);
/* The same, for a vote request (PROMOTED). */
void step_vote_request(struct consensus *c, struct raft_event *ev);
/* After the last step of an event. */
void settle(struct consensus *c);
/* Steps a SUBMIT of one entry of our own. */
enum consensus_answer submit_entry(struct consensus *c, const struct consensus_entry *e);
void hard_state(struct consensus *c, uint64_t term, uint64_t vote);
void fail(struct consensus *c, const char *why);
uint64_t clock_ms(struct consensus *c); /* never goes back */
uint64_t known_leader(const struct consensus *c);
void arm(struct consensus *c);
void consensus_patient(struct consensus *c, bool on);
void take_role(struct consensus *c); /* tells the host, if it has changed */
void tell_members(struct consensus *c);
void commit_change(struct consensus *c); /* the uncommitted configuration is a committed one */
/* ONE CHANGE: entry e of an APPEND is next, behind prev of a. */
void commit_change_before(struct consensus *c, const struct raft_append_entries *a, const struct consensus_entry *e);
void open_term(struct consensus *c);
void copy_configuration(const struct raft_configuration *from, struct raft_configuration *to);

#endif

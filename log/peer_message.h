/* What the members' consensus says to one another: plain values, no pointers. An APPEND carries its entries beside it
 * (peer.h), so that a message can wait in a queue and its entries be read from the log when there is room to send.
 *
 * The fields are Raft's (Ongaro's thesis, figures 3.1 and 5.3); libraft's own versions are constant and filled in by
 * consensus_message.c. sent/echo make the read lease: echo is the sent_ms of the newest APPEND of the receiver that
 * the sender of this message has accepted in this term. */
#ifndef HF_PEER_MESSAGE_H
#define HF_PEER_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

enum peer_kind {
    PEER_VOTE_REQUEST = 1,
    PEER_VOTE = 2,
    PEER_APPEND = 3,
    PEER_APPEND_RESULT = 4,
    PEER_INSTALL = 5, /* "what you need is not in my log any more: fetch a snapshot" */
    PEER_TIMEOUT_NOW = 6,
    PEER_STATE = 7 /* not Raft: what the members tell each other about themselves, now and then */
};

struct peer_state {
    uint64_t committed;      /* of this node's log */
    uint64_t snapshot_index; /* of its newest snapshot, 0 = none */
    uint64_t fed_index;      /* its Valkey has executed the log up to here; 0 = not warm */
    uint64_t valkey_keys;    /* before the log has begun: what its Valkey holds already; UINT64_MAX = not known */
    uint64_t log_first;
    uint64_t election_ms; /* its election-timeout: a lease relies on it */
    bool log_only;
    bool draining; /* it is taken out of service: it leads only if nobody else can */
};

struct peer_message {
    enum peer_kind kind;
    uint64_t peer;    /* outgoing: to whom; incoming: from whom (ids of members.h) */
    uint64_t term;    /* the sender's, where Raft says so */
    uint64_t sent_ms; /* APPEND: the sender's CLOCK_BOOTTIME when it was made */
    uint64_t echo_ms; /* to the leader: see above; 0 = none */
    uint64_t wall_ms; /* the sender's wall clock */
    union {
        struct {
            uint64_t last_index, last_term;
            bool disrupt_leader, pre_vote;
        } vote_request;
        struct {
            bool granted, pre_vote;
        } vote;
        struct {
            uint64_t prev_index, prev_term, commit;
            uint32_t count; /* entries prev_index + 1 .. prev_index + count */
        } append;
        struct {
            uint64_t rejected, last_index;
        } append_result;
        struct {
            uint64_t last_index, last_term;
        } install, timeout_now;
        struct peer_state state;
    };
};

#endif

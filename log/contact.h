/* What a member knows of its contact with the others, and the read lease that follows from it. Pure: no clock inside.
 *
 * THE LEASE. A follower that accepts an APPEND promises not to help elect anybody else for one election timeout, and
 * says to the leader which APPEND that was (echo: its sent_ms, the leader's own clock):
 *
 *      leader    ──sent_ms──┐                                        ┌── echo
 *      follower             └──▶ accepted; no vote for others  ──────┘     until accepted + election_ms
 *      lease     |── from sent_ms, election_ms less a margin for clocks that differ ──|
 *
 * It was accepted after it was sent. So once a quorum has echoed s, nobody else can be elected before s +
 * election_ms, by however little the clocks' speeds differ more than the margin. libraft keeps the promise: a
 * follower that knows a leader refuses votes until its own timer has run out, which is election_ms at least. But:
 *   - after a restart it has forgotten its leader: a restarted node answers no vote requests for election_ms;
 *   - a candidate shortened by consensus_campaign_first() answers none at all, and is not shortened before its own
 *     promise has run out. That its timer is short can thus elect nobody but itself, by the votes of others who keep
 *     theirs;
 *   - requests that may disrupt a leader are granted all the same. Only a transfer allows them; before it, the lease
 *     ended for good in its term. */
#ifndef HF_CONTACT_H
#define HF_CONTACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/members.h"

enum { CONTACT_PEERS_MAX = MEMBERS_MAX + 3 }; /* some strangers, too */

struct contact_peer {
    uint64_t id, heard_ms; /* now_ms */
    /* While we lead, of this term: */
    uint64_t echo_ms;               /* boot_ms: the newest APPEND that it has accepted; 0 = none */
    uint64_t end, end_term, commit; /* the last entry and the commit index that it was sent */
    bool agrees;                    /* its last answer was no rejection */
};
struct contact {
    uint64_t self;
    unsigned election_ms, margin_percent;
    struct contact_peer peers[CONTACT_PEERS_MAX];
    uint64_t led_ms;                        /* boot_ms when the leadership began */
    uint64_t transfer_term;                 /* in it the lease is over; 0 = none */
    uint64_t echo_peer, echo_term, echo_ms; /* what we owe to our leader */
    uint64_t followed_ms;                   /* now_ms of the last APPEND accepted */
    uint64_t restart_until_ms, first_until_ms;
};

const struct contact_peer *contact_find(const struct contact *c, uint64_t id); /* NULL: never met */
/* Found or made, in place of one that is no member. */
struct contact_peer *contact_peer(struct contact *c, const struct members *members, uint64_t id);
bool contact_is_member(const struct members *m, uint64_t id);

/* As a follower: an APPEND was accepted; and what to echo to `peer` in `term`. */
void contact_followed(struct contact *c, uint64_t leader, uint64_t term, uint64_t sent_ms, uint64_t now_ms);
uint64_t contact_echo(const struct contact *c, uint64_t peer, uint64_t term);
/* May a vote request be answered? */
bool contact_may_vote(const struct contact *c, uint64_t now_ms);

/* As a leader. */
void contact_lead(struct contact *c, uint64_t boot_ms);
void contact_echoed(struct contact *c, struct contact_peer *p, uint64_t echo_ms, uint64_t boot_ms);
/* The newest moment that a quorum of voters has echoed; 0: none. */
uint64_t contact_proven_ms(const struct contact *c, const struct members *m, uint64_t boot_ms);
/* 0: none. UINT64_MAX: nobody else can be elected (the only voter). */
uint64_t contact_lease_end_ms(const struct contact *c, const struct members *m, uint64_t term, uint64_t boot_ms);

#endif

/* See contact.h. */
#include "log/base/diag.h"
#include "log/contact.h"

bool contact_is_member(const struct members *m, uint64_t id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->at[i].id == id)
            return true;
    return false;
}

const struct contact_peer *contact_find(const struct contact *c, uint64_t id)
{
    for (size_t i = 0; i < CONTACT_PEERS_MAX; i++)
        if (c->peers[i].id == id && id != 0)
            return &c->peers[i];
    return NULL;
}

struct contact_peer *contact_peer(struct contact *c, const struct members *members, uint64_t id)
{
    const struct contact_peer *known = contact_find(c, id);
    size_t i = 0;

    if (known != NULL)
        return &c->peers[known - c->peers];
    while (c->peers[i].id != 0 && contact_is_member(members, c->peers[i].id))
        i++; /* stops in time: there are more places than members */
    CHECK(i < CONTACT_PEERS_MAX);
    c->peers[i] = (struct contact_peer){.id = id};
    return &c->peers[i];
}

void contact_followed(struct contact *c, uint64_t leader, uint64_t term, uint64_t sent_ms, uint64_t now_ms)
{
    uint64_t before = contact_echo(c, leader, term);

    c->echo_ms = before > sent_ms ? before : sent_ms;
    c->echo_peer = leader;
    c->echo_term = term;
    c->followed_ms = now_ms;
}

uint64_t contact_echo(const struct contact *c, uint64_t peer, uint64_t term)
{
    return c->echo_peer == peer && c->echo_term == term ? c->echo_ms : 0;
}

bool contact_may_vote(const struct contact *c, uint64_t now_ms)
{
    return now_ms >= c->restart_until_ms && now_ms >= c->first_until_ms;
}

void contact_lead(struct contact *c, uint64_t boot_ms)
{
    c->led_ms = boot_ms;
    for (size_t i = 0; i < CONTACT_PEERS_MAX; i++)
        c->peers[i] = (struct contact_peer){.id = c->peers[i].id, .heard_ms = c->peers[i].heard_ms};
}

void contact_echoed(struct contact *c, struct contact_peer *p, uint64_t echo_ms, uint64_t boot_ms)
{
    if (echo_ms >= c->led_ms && echo_ms <= boot_ms && echo_ms > p->echo_ms)
        p->echo_ms = echo_ms; /* not from before this leadership, not from the future */
}

uint64_t contact_proven_ms(const struct contact *c, const struct members *m, uint64_t boot_ms)
{
    uint64_t echoes[MEMBERS_MAX] = {0};
    size_t n = 0;

    for (size_t i = 0; i < m->count; i++) {
        const struct contact_peer *p = contact_find(c, m->at[i].id);
        uint64_t echo = m->at[i].id == c->self ? boot_ms : p != NULL ? p->echo_ms : 0;
        size_t at = n;

        if (m->at[i].role != MEMBER_VOTER)
            continue;
        for (; at > 0 && echoes[at - 1] < echo; at--)
            echoes[at] = echoes[at - 1];
        echoes[at] = echo;
        n++;
    }
    return n == 0 ? 0 : echoes[members_quorum(m) - 1];
}

uint64_t contact_lease_end_ms(const struct contact *c, const struct members *m, uint64_t term, uint64_t boot_ms)
{
    uint64_t proven = contact_proven_ms(c, m, boot_ms);

    if (proven == 0 || c->transfer_term == term)
        return 0;
    for (size_t i = 0; members_voters(m) == 1 && i < m->count; i++)
        if (m->at[i].role == MEMBER_VOTER && m->at[i].id == c->self)
            return UINT64_MAX;
    return proven + (uint64_t)c->election_ms * (100 - c->margin_percent) / 100;
}

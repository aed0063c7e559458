/* What must hold at any moment:
 *
 *    1. At most one leader in each term.
 *    2. A durable term never goes back, and in one term a node votes for one at most: over all its starts.
 *    3. Nothing is said before it is durable: term and vote, the entries behind a positive answer.
 *    4. committed() rises, and is never above what is durable at that node.
 *    5. What any node was told to be committed is the same on all nodes for ever: entry, term, and (by the running
 *       hash) all before it. A leader has all of it. Nobody cuts it, nor replaces it by a snapshot that ends before.
 *    6. What a leader reports committed is durable on a majority of the voters of its configuration.
 *    7. At most one node has a valid lease, and it has everything that was committed anywhere before now. Nobody was
 *       elected in a later term before the moment up to which a leadership is proven.
 *    8. The configuration in force is that of the newest CHANGE in the log.
 *
 * 3, 4 and 6 are promises, kept step by step; the others are what they are good for. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>
#include <string.h>

static bool promises(const struct rsim_node *n)
{
    return n->w->plan->checks == RSIM_ALL;
}

/* ---- terms and votes ---- */

static void voted(struct rsim_node *n, uint64_t term, uint64_t whom)
{
    if (term >= 100000) {
        rsim_violation(n->w, "node %u is in term %" PRIu64, n->slot, term);
        return;
    }
    if (term >= n->votes_room) {
        size_t room = (size_t)term * 2 + 16;

        n->votes = must_realloc(n->votes, room * sizeof *n->votes);
        memset(n->votes + n->votes_room, 0, (room - n->votes_room) * sizeof *n->votes);
        n->votes_room = room;
    }
    if (n->votes[term] != 0 && n->votes[term] != whom)
        rsim_violation(n->w, "node %u votes twice in term %" PRIu64 ": %" PRIx64 " and %" PRIx64, n->slot, term,
                       n->votes[term], whom);
    n->votes[term] = whom;
}

void rsim_check_hard_state(struct rsim_node *n, uint64_t term, uint64_t vote)
{
    const struct rsim_disk *d = &n->disk;

    if (term < d->term)
        rsim_violation(n->w, "node %u goes back from term %" PRIu64 " to %" PRIu64, n->slot, d->term, term);
    if (term == d->term && d->vote != 0 && vote != d->vote)
        rsim_violation(n->w, "node %u changes its vote in term %" PRIu64, n->slot, term);
}

static void check_append_result(struct rsim_node *n, const struct peer_message *m)
{
    const struct rsim_disk *d = &n->disk;
    uint64_t last = m->append_result.last_index;
    const struct record *r = rsim_disk_get(d, last);

    if (m->append_result.rejected > 0 || last <= d->base.index || last <= n->base.index)
        return;
    if (r == NULL || !rsim_log_same(n, last, r->term, r->running))
        rsim_violation(n->w, "node %u says that it has %" PRIu64 ", which is not durable there", n->slot, last);
}

void rsim_check_send(struct rsim_node *n, const struct peer_message *m)
{
    const struct rsim_disk *d = &n->disk;
    bool real_vote = m->kind == PEER_VOTE && m->vote.granted && !m->vote.pre_vote;
    bool real_request = m->kind == PEER_VOTE_REQUEST && !m->vote_request.pre_vote;
    bool pre =
        (m->kind == PEER_VOTE && m->vote.pre_vote) || (m->kind == PEER_VOTE_REQUEST && m->vote_request.pre_vote);

    if (m->peer == n->id)
        rsim_violation(n->w, "node %u talks to itself", n->slot);
    if (real_vote)
        voted(n, m->term, m->peer);
    if (real_request)
        voted(n, m->term, n->id);
    if (!promises(n))
        return;
    if (!pre && m->kind != PEER_STATE && m->term > d->term)
        rsim_violation(n->w, "node %u speaks in term %" PRIu64 ", durable is %" PRIu64, n->slot, m->term, d->term);
    if ((real_vote || real_request) && m->term == d->term && d->vote != (real_vote ? m->peer : n->id))
        rsim_violation(n->w, "node %u gives a vote in term %" PRIu64 " that is not durable", n->slot, m->term);
    if (m->kind == PEER_APPEND_RESULT)
        check_append_result(n, m);
}

static struct rsim_election *first_later(struct rsim *w, uint64_t term)
{
    struct rsim_election *first = NULL;

    for (size_t i = 0; i < w->election_count; i++)
        if (w->elections[i].term > term && (first == NULL || w->elections[i].at_us < first->at_us))
            first = &w->elections[i];
    return first;
}

static void elected(struct rsim_node *n, uint64_t term)
{
    struct rsim *w = n->w;

    for (size_t i = 0; i < w->election_count; i++)
        if (w->elections[i].term == term) {
            /* A single voter leads again, in the same term, after each of its starts. */
            if (w->elections[i].id != n->id)
                rsim_violation(w, "two leaders in term %" PRIu64 ": %" PRIx64 " and %" PRIx64, term,
                               w->elections[i].id, n->id);
            return;
        }
    if (w->election_count == w->election_room) {
        w->election_room = w->election_room > 0 ? 2 * w->election_room : 64;
        w->elections = must_realloc(w->elections, w->election_room * sizeof *w->elections);
    }
    w->elections[w->election_count++] = (struct rsim_election){term, n->id, w->now_us};
}

void rsim_check_role(struct rsim_node *n, enum consensus_role role, uint64_t term)
{
    struct rsim *w = n->w;
    uint64_t newest = w->committed_count;

    rsim_note(w, (uint64_t)role * 17 + term);
    if (role == CONSENSUS_FOLLOWER && w->o.campaigns && rsim_chance(w, 500))
        n->campaign_wanted = true;
    if (role != CONSENSUS_LEADER)
        return;
    elected(n, term);
    while (newest > 0 && w->committed[newest].in_term >= term) /* it is late: somebody leads a later term already */
        newest--;
    if (newest > 0 && tail_last(n->tail) < newest)
        rsim_violation(w,
                       "node %u leads term %" PRIu64 " and lacks what is committed: it has %" PRIu64 " of %" PRIu64,
                       n->slot, term, tail_last(n->tail), newest);
    else if (newest > 0 && newest >= n->base.index &&
             !rsim_log_same(n, newest, w->committed[newest].term, w->committed[newest].running))
        rsim_violation(w, "node %u leads term %" PRIu64 " and has another entry at %" PRIu64, n->slot, term, newest);
}

/* ---- what is committed ---- */

static bool same_as_committed(const struct rsim_node *n, uint64_t index)
{
    struct rsim *w = n->w;

    return index <= w->committed_count &&
           rsim_log_same(n, index, w->committed[index].term, w->committed[index].running);
}

void rsim_check_cut(struct rsim_node *n, uint64_t index)
{
    if (index <= n->ever_committed)
        rsim_violation(n->w, "node %u is to cut from %" PRIu64 ", it reported %" PRIu64 " as committed", n->slot,
                       index, n->ever_committed);
    if (same_as_committed(n, index))
        rsim_violation(n->w, "node %u is to cut from %" PRIu64 ", which is committed", n->slot, index);
}

void rsim_check_install(struct rsim_node *n, const struct rsim_base *base)
{
    struct rsim *w = n->w;

    if (base->index > w->committed_count || w->committed[base->index].term != base->term ||
        memcmp(&w->committed[base->index].running, &base->running, sizeof base->running) != 0)
        rsim_violation(w, "node %u installs a snapshot of what is not committed", n->slot);
    if (base->index < n->ever_committed)
        rsim_violation(w, "node %u installs %" PRIu64 ", it reported %" PRIu64 " as committed", n->slot, base->index,
                       n->ever_committed);
    if (base->index < tail_last(n->tail) && same_as_committed(n, base->index + 1))
        rsim_violation(w, "node %u installs %" PRIu64 " and drops committed entries behind it", n->slot, base->index);
}

/* Is that very entry on the disk (or in the snapshot that it begins with)? Of a lost one: was it, when it was lost.
 */
static bool durable_at(const struct rsim_node *n, uint64_t index)
{
    const struct rsim *w = n->w;
    const struct rsim_disk *d = &n->disk;
    const struct record *r = rsim_disk_get(d, index);

    if (index <= d->base.index)
        return true;
    return r != NULL && r->term == w->committed[index].term &&
           memcmp(&r->running, &w->committed[index].running, sizeof r->running) == 0;
}

static void check_majority(struct rsim_node *n, uint64_t index)
{
    struct members m;
    uint64_t change;
    size_t have = 0;

    if (!rsim_newest_members(n, &m, &change))
        return;
    for (size_t i = 0; i < m.count; i++) {
        const struct rsim_node *peer = rsim_by_id(n->w, m.at[i].id);

        have += m.at[i].role == MEMBER_VOTER && peer != NULL && durable_at(peer, index);
    }
    if (have < members_quorum(&m))
        rsim_violation(n->w, "leader %u reports %" PRIu64 " as committed, durable on %zu of %zu voters", n->slot,
                       index, have, members_voters(&m));
}

static uint64_t payload_of(const struct record *r)
{
    struct entry_view e;
    struct frame_view f;

    return r->type == RECORD_COMMAND && entry_stated(buf_head(&r->bytes), r->bytes.len, &e) == ENTRY_OK &&
                   frame_next(&e.frames, &f)
               ? f.seq
               : 0;
}

/* The first report of an entry says what it is, for all and for ever. */
static void extend(struct rsim_node *n, uint64_t index)
{
    struct rsim *w = n->w;
    const struct record *r = rsim_log_get(n, index);

    if (r == NULL) {
        rsim_violation(w, "node %u reports %" PRIu64 " as committed, which it does not have", n->slot, index);
        return;
    }
    if (index >= w->committed_room) {
        w->committed_room = 2 * index + 256;
        w->committed = must_realloc(w->committed, w->committed_room * sizeof *w->committed);
    }
    w->committed[index].term = r->term;
    w->committed[index].running = r->running;
    w->committed[index].in_term = consensus_term(n->c);
    w->committed_count = index;
    if (payload_of(r) > w->probe_payload)
        w->probe_index = index;
}

void rsim_check_committed(struct rsim_node *n, uint64_t index)
{
    struct rsim *w = n->w;
    bool news = index > w->committed_count;
    uint64_t from = n->committed > n->base.index ? n->committed : n->base.index;

    if (index <= n->committed)
        rsim_violation(w, "node %u reports %" PRIu64 " as committed after %" PRIu64, n->slot, index, n->committed);
    if (promises(n) && index > n->disk.base.index && index > rsim_disk_last(&n->disk))
        rsim_violation(w, "node %u reports %" PRIu64 " as committed, durable is %" PRIu64, n->slot, index,
                       rsim_disk_last(&n->disk));
    for (uint64_t i = from + 1; i <= index && !w->failed; i++) {
        if (i > w->committed_count)
            extend(n, i);
        else if (!same_as_committed(n, i))
            rsim_violation(w, "node %u reports another entry %" PRIu64 " as committed than was before", n->slot, i);
        else if (promises(n) && !durable_at(n, i))
            rsim_violation(w, "node %u reports %" PRIu64 " as committed, durable is another", n->slot, i);
    }
    n->committed = index;
    if (index > n->ever_committed)
        n->ever_committed = index;
    if (w->failed)
        return;
    if (promises(n) && consensus_role(n->c) == CONSENSUS_LEADER)
        check_majority(n, index);
    if (news)
        rsim_check_leases(w);
}

/* ---- leases ---- */

static void check_proof(struct rsim_node *n)
{
    uint64_t proven = consensus_proven_ms(n->c), ago_us;
    const struct rsim_election *later;

    if (consensus_role(n->c) != CONSENSUS_LEADER || proven == 0)
        return;
    if (proven > rsim_boot_ms(n)) {
        rsim_violation(n->w, "node %u proves that it leads in the future", n->slot);
        return;
    }
    later = first_later(n->w, consensus_term(n->c));
    ago_us = (rsim_boot_ms(n) - proven) * RSIM_MS;
    /* 2 ms for rounding, 2 % for clocks that drift */
    if (later != NULL && later->at_us + ago_us + ago_us / 50 + 2 * RSIM_MS < n->w->now_us)
        rsim_violation(n->w,
                       "node %u proves that it leads term %" PRIu64 " after %" PRIx64 " was elected in %" PRIu64,
                       n->slot, consensus_term(n->c), later->id, later->term);
}

void rsim_check_leases(struct rsim *w)
{
    const struct rsim_node *holder = NULL;
    uint64_t newest = w->committed_count;

    for (unsigned i = 0; i < w->nodes; i++) {
        struct rsim_node *n = &w->at[i];

        if (!n->up)
            continue;
        check_proof(n);
        if (consensus_lease_end_ms(n->c) <= rsim_boot_ms(n))
            continue;
        if (holder != NULL)
            rsim_violation(w, "nodes %u and %u both have a lease", holder->slot, n->slot);
        holder = n;
        w->n.leases++;
        if (tail_last(n->tail) < newest || (newest >= n->base.index && newest > 0 && !same_as_committed(n, newest)))
            rsim_violation(w, "node %u has a lease and lacks %" PRIu64 ", which is committed", n->slot, newest);
    }
}

/* ---- after each call ---- */

static void check_members(struct rsim_node *n)
{
    const struct members *in_force = consensus_members(n->c);
    struct members m = {.count = 0};
    uint64_t index;

    (void)rsim_newest_members(n, &m, &index);
    if (m.count != in_force->count) {
        rsim_violation(n->w, "node %u has %zu members in force, %zu in its log", n->slot, in_force->count, m.count);
        return;
    }
    for (size_t i = 0; i < m.count; i++)
        if (m.at[i].id != in_force->at[i].id || m.at[i].role != in_force->at[i].role)
            rsim_violation(n->w, "node %u has other members in force than those in its log at %" PRIu64, n->slot,
                           index);
}

void rsim_check_node(struct rsim_node *n)
{
    if (n->w->failed)
        return;
    if (!n->installing && consensus_last(n->c) != tail_last(n->tail))
        rsim_violation(n->w, "node %u: consensus ends with %" PRIu64 ", the log with %" PRIu64, n->slot,
                       consensus_last(n->c), tail_last(n->tail));
    if (n->change_seen && !n->installing) {
        n->change_seen = false;
        check_members(n);
    }
    if (consensus_role(n->c) == CONSENSUS_LEADER)
        rsim_check_leases(n->w);
}

void rsim_check_free(struct rsim *w)
{
    free(w->committed);
    free(w->elections);
}

/* The network, and what a host does at both ends of it.
 *
 *      consensus ─send()─▶ queue of the link ─leave()─▶ pieces on the wire ─deliver()─▶ consensus
 *
 * A message may wait in the link's queue. The entries of an APPEND are read from the log when it leaves, and only if
 * the sender still leads in the message's term: otherwise the message is out of date and is dropped. Large ones go in
 * pieces. A cut link either drops what is sent, as one that is dialled anew does, or holds it until the link is back,
 * as TCP does: then very old messages arrive. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>

static struct rsim_letter *letter_new(const struct peer_message *m, size_t count)
{
    struct rsim_letter *l = must_calloc(1, sizeof *l + count * sizeof l->records[0]);

    l->m = *m;
    l->count = count;
    return l;
}

static struct rsim_letter *copy(const struct rsim_letter *l)
{
    struct rsim_letter *c = letter_new(&l->m, l->count);

    for (size_t i = 0; i < l->count; i++)
        c->records[i] = record_hold(l->records[i]);
    return c;
}

/* An APPEND with its entries from the log of now. NULL: the log does not hold them all. */
static struct rsim_letter *with_entries(struct rsim_node *n, const struct peer_message *m)
{
    struct rsim_letter *l = letter_new(m, m->append.count);

    for (size_t i = 0; i < l->count; i++) {
        struct record *r = rsim_log_get(n, m->append.prev_index + 1 + i);

        if (r == NULL) {
            l->count = i;
            rsim_letter_free(l);
            return NULL;
        }
        l->records[i] = record_hold(r);
    }
    return l;
}

static void post(struct rsim *w, struct rsim_node *from, struct rsim_node *to, struct rsim_letter *l)
{
    uint64_t at = w->now_us + w->o.latency_us + rsim_random(w, w->o.jitter_us);

    if (w->o.fifo || !rsim_chance(w, 100)) {
        if (at <= w->link_free_us[from->slot][to->slot])
            at = w->link_free_us[from->slot][to->slot] + 1;
        w->link_free_us[from->slot][to->slot] = at;
    }
    rsim_push(
        w, (struct rsim_event){.at_us = at, .kind = EVENT_MESSAGE, .to = to->slot, .from = from->slot, .letter = l});
}

static void travel(struct rsim *w, struct rsim_node *from, struct rsim_node *to, struct rsim_letter *l)
{
    if (w->link[from->slot][to->slot] == LINK_DROPS || (!w->calm && rsim_chance(w, w->o.loss_permille))) {
        rsim_letter_free(l);
        return;
    }
    if (!w->calm && rsim_chance(w, w->o.twice_permille))
        post(w, from, to, copy(l));
    post(w, from, to, l);
}

static void leave_in_pieces(struct rsim_node *from, struct rsim_node *to, const struct peer_message *m)
{
    struct peer_message piece = *m;
    uint32_t left = m->append.count;

    while (left > 0) {
        struct rsim_letter *l;

        piece.append.count = left > 1 && rsim_chance(from->w, 150) ? 1 + (uint32_t)rsim_random(from->w, left) : left;
        l = with_entries(from, &piece);
        if (l == NULL)
            return;
        left -= piece.append.count;
        piece.append.prev_index += piece.append.count;
        piece.append.prev_term = l->records[l->count - 1]->term;
        travel(from->w, from, to, l);
    }
}

static void leave(struct rsim_node *from, struct rsim_node *to, const struct peer_message *m)
{
    if (m->kind != PEER_APPEND || m->append.count == 0)
        travel(from->w, from, to, letter_new(m, 0));
    else if (consensus_role(from->c) == CONSENSUS_LEADER && consensus_term(from->c) == m->term)
        leave_in_pieces(from, to, m);
}

void rsim_leave(struct rsim_node *from, struct rsim_event *e)
{
    leave(from, &from->w->at[e->number], &e->letter->m);
}

void rsim_send(struct rsim_node *from, const struct peer_message *m)
{
    struct rsim *w = from->w;
    struct rsim_node *to = rsim_by_id(w, m->peer);
    struct rsim_letter *l;
    uint64_t *busy;

    w->n.messages++;
    if (w->failed || to == NULL)
        return;
    if (m->kind == PEER_APPEND && m->append.count > 0) { /* whatever happens later, now it must be there */
        l = with_entries(from, m);
        if (l == NULL)
            rsim_violation(w, "node %u sends entries that it does not have: %u after %" PRIu64, from->slot,
                           m->append.count, m->append.prev_index);
        rsim_letter_free(l);
    }
    busy = &w->link_busy_us[from->slot][to->slot];
    if (!w->calm && rsim_chance(w, 5))
        *busy = w->now_us + rsim_random(w, (uint64_t)w->o.election_ms * RSIM_MS / 4);
    rsim_push(w, (struct rsim_event){.at_us = *busy > w->now_us ? *busy : w->now_us,
                                     .kind = EVENT_LEAVE,
                                     .to = from->slot,
                                     .incarnation = from->incarnation,
                                     .number = to->slot,
                                     .letter = letter_new(m, 0)});
}

static void tell(struct rsim *w, const struct rsim_node *from, const struct rsim_node *to,
                 const struct peer_message *m)
{
    if (m->kind == PEER_VOTE_REQUEST)
        TRACE(w, "%u asks %u for a %svote in %" PRIu64 ", last %" PRIu64 " of %" PRIu64 "%s", from->slot, to->slot,
              m->vote_request.pre_vote ? "pre-" : "", m->term, m->vote_request.last_index, m->vote_request.last_term,
              m->vote_request.disrupt_leader ? ", disrupting" : "");
    else if (m->kind == PEER_VOTE)
        TRACE(w, "%u %s %u its %svote in %" PRIu64, from->slot, m->vote.granted ? "gives" : "refuses", to->slot,
              m->vote.pre_vote ? "pre-" : "", m->term);
}

void rsim_deliver(struct rsim *w, struct rsim_event *e)
{
    struct rsim_node *to = &w->at[e->to];
    struct rsim_letter *l = e->letter;
    struct consensus_entry *entries;

    if (w->link[e->from][e->to] == LINK_HOLDS) {
        e->at_us = w->heal_us > w->now_us ? w->heal_us : w->now_us + RSIM_MS;
        rsim_push(w, *e);
        return;
    }
    if (!to->up || w->link[e->from][e->to] == LINK_DROPS) {
        rsim_letter_free(l);
        return;
    }
    l->m.peer = w->at[e->from].id;
    entries = must_calloc(l->count + 1, sizeof *entries);
    for (size_t i = 0; i < l->count; i++) {
        struct record *r = l->records[i];

        entries[i] = (struct consensus_entry){.index = r->index, .term = r->term, .type = r->type, .record = r};
        if (r->type == RECORD_CHANGE)
            entries[i].change = record_change(r, &entries[i].change_bytes);
    }
    rsim_note(w, (uint64_t)l->m.kind * 31 + l->m.term * 7 + l->count);
    tell(w, &w->at[e->from], to, &l->m);
    consensus_receive(to->c, &l->m, entries);
    free(entries);
    rsim_letter_free(l);
    rsim_node_settle(to);
}

/* ---- snapshots ---- */

void rsim_fetch(struct rsim_node *n, uint64_t source_id)
{
    struct rsim *w = n->w;
    struct rsim_node *source = rsim_by_id(w, source_id);

    if (n->fetching || source == NULL)
        return;
    n->fetching = true;
    w->n.fetches++;
    rsim_push(w, (struct rsim_event){.at_us = w->now_us + 1 + rsim_random(w, (uint64_t)w->o.election_ms * RSIM_MS),
                                     .kind = EVENT_FETCHED,
                                     .to = n->slot,
                                     .from = source->slot,
                                     .incarnation = n->incarnation});
}

/* The newest snapshot of a node, with the log entries up to it that it still has. */
static struct rsim_letter *snapshot_of(const struct rsim_node *n)
{
    size_t count = n->first <= n->base.index ? (size_t)(n->base.index - n->first + 1) : 0;
    struct rsim_letter *l = letter_new(&(struct peer_message){.peer = n->id}, count);

    l->base = must_calloc(1, sizeof *l->base);
    *l->base = n->base;
    for (size_t i = 0; i < count; i++) {
        l->records[i] = rsim_log_get(n, n->first + i);
        CHECK(l->records[i] != NULL);
        (void)record_hold(l->records[i]);
    }
    return l;
}

/* The transfer has ended: with the source's snapshot of this moment, which may be newer than what was asked for; with
 * that of another member; or with nothing, if it was interrupted. */
void rsim_fetched(struct rsim *w, struct rsim_event *e)
{
    struct rsim_node *n = &w->at[e->to], *source = &w->at[e->from];
    struct rsim_letter *l;
    struct consensus_base base;
    bool wanted;

    if (!n->up || n->incarnation != e->incarnation)
        return;
    n->fetching = false;
    if (!w->calm && rsim_chance(w, 100))
        source = &w->at[rsim_random(w, w->nodes)];
    if (source == n || !source->up || source->paused_until_us > w->now_us || source->installing ||
        source->base.index == 0 || w->link[source->slot][n->slot] != LINK_OPEN || (!w->calm && rsim_chance(w, 150)))
        return;
    l = snapshot_of(source);
    base = (struct consensus_base){.index = l->base->index,
                                   .term = l->base->term,
                                   .change_index = l->base->change_index,
                                   .change = l->base->change,
                                   .change_bytes = l->base->change_bytes};
    n->fetched = l;
    wanted = consensus_install(n->c, &base);
    TRACE(w, "%u fetched a snapshot of %u, %" PRIu64 ": %s", n->slot, source->slot, base.index,
          wanted ? "installs" : "not wanted");
    if (!wanted) {
        n->fetched = NULL;
        rsim_letter_free(l);
    } else if (n->fetched != NULL) {
        rsim_violation(w, "node %u wants the snapshot and does not install it", n->slot);
        n->fetched = NULL;
        rsim_letter_free(l);
    }
    rsim_node_settle(n);
}

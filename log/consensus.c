/* libraft, driven step by step; see consensus.h for who calls whom, and contact.h for the lease.
 *
 * Everything goes through step(): one event in, and what libraft then wants done, in this order:
 *
 *      raft_step() ─▶ term and vote ─▶ cut, entries, install ─▶ messages ─▶ role ─▶ timer ─▶ commit, nudges
 *                       (host: durable)     (host: the log)       (held while a term or vote is not durable)
 *
 * and settle() after it: configurations that became committed, and what the host is told of members and commits.
 *
 * Payloads never go to libraft: it owns only a token of one byte per call (it passes `batch` back, or frees it) and
 * reads only the bytes of CHANGEs. Its defects are answered by the ten guards, each at its place in capitals (WINDOW
 * and INSTALL in consensus_group.c). Seven more rules are ours:
 *   - DISRUPT. A vote request may disrupt a leader only in the round that the leader itself asked for. libraft goes
 *     on disrupting in later rounds, when somebody else may lead already, and have a lease.
 *   - ONE TERM, ONE LEADER. libraft lets a sole voter lead without a new term. After a crash that could put a second
 *     entry at an index and term that a standby has seen already: so the term is raised before it starts.
 *   - ONE CUT at a time: a second one waits (its message is dropped) until the first is durable, since otherwise
 *     "(10, term 2) is durable" could mean an entry 10 that was cut, and has come back, but not yet to the disk.
 *   - TERM. libraft refuses a pre-vote of an older term in that same term. So a candidate with the better log never
 *     learns that its term is too low, while those who know the term have too little to win.
 *   - ONE CHANGE at a time: when the next one comes, the one before it is committed, though ours waits for our disk.
 *     libraft would forget the first, and not go back to it if the second is cut.
 *   - PROMOTED. libraft refuses its vote as long as it does not know that it has one: a standby that was promoted,
 *     but has not got the CHANGE yet. If the others need it, that would be for ever. Who asks counts it as a voter,
 *     and whom to vote for depends on logs and terms, not on one's own configuration (Ongaro 4.1).
 *   - STRANGERS. Requests of servers that our configuration does not name are heard (Ongaro 4.1: we may be the one
 *     who is behind, or still have none); their answers are not. */
#include <string.h>

#include "log/base/diag.h"
#include "log/consensus_internal.h"

void fail(struct consensus *c, const char *why)
{
    if (!c->failed)
        c->host.failed(c->arg, why);
    c->failed = true;
}

uint64_t clock_ms(struct consensus *c)
{
    uint64_t now = c->host.now_ms(c->arg);

    return c->now_ms = now > c->now_ms ? now : c->now_ms; /* libraft must never see it go back */
}

uint64_t known_leader(const struct consensus *c)
{
    return c->raft.state == RAFT_LEADER     ? c->raft.id
           : c->raft.state == RAFT_FOLLOWER ? c->raft.follower_state.current_leader.id
                                            : 0;
}

static struct contact_peer *peer_of(struct consensus *c, uint64_t id)
{
    return contact_peer(&c->contact, &c->members, id);
}

/* TIMER (T6): libraft's leader can name a moment in the past for ever (a peer that it skips), which would make the
 * host spin: two ticks are a heartbeat apart. */
void arm(struct consensus *c)
{
    uint64_t least = c->ticked_ms + c->set.heartbeat_ms;

    c->due_ms = raft_timeout(&c->raft); /* always: RAFT_UPDATE_TIMEOUT is missing sometimes */
    if (GUARD(c, TIMER) && c->raft.state == RAFT_LEADER && c->due_ms < least)
        c->due_ms = least;
}

/* ---- sending ---- */

static void post(struct consensus *c, struct peer_message *m)
{
    if (known_leader(c) == m->peer)
        m->echo_ms = contact_echo(&c->contact, m->peer, c->raft.current_term);
    if (m->kind == PEER_APPEND)
        m->sent_ms = c->host.boot_ms(c->arg);
    if (c->hard_durable == c->hard_asked) {
        c->host.send(c->arg, m);
        return;
    }
    if (c->held_count == HELD_MESSAGES_MAX) {
        c->held_first = (c->held_first + 1) % HELD_MESSAGES_MAX;
        c->held_count--;
    }
    c->held[(c->held_first + c->held_count++) % HELD_MESSAGES_MAX] = (struct held){c->hard_asked, *m};
}

void consensus_hard_state_durable(struct consensus *c)
{
    CHECK(c->hard_durable < c->hard_asked);
    c->hard_durable++;
    while (c->held_count > 0 && c->held[c->held_first].after <= c->hard_durable) {
        const struct peer_message *m = &c->held[c->held_first].m;

        c->held_first = (c->held_first + 1) % HELD_MESSAGES_MAX;
        c->held_count--;
        /* The entries of an APPEND are read when it is sent: not under another leader's term. */
        if (m->kind != PEER_APPEND || (c->raft.state == RAFT_LEADER && m->term == c->raft.current_term))
            c->host.send(c->arg, m);
    }
}

void hard_state(struct consensus *c, uint64_t term, uint64_t vote)
{
    c->hard_asked++;
    c->host.hard_state(c->arg, term, vote);
}

static void send_append(struct consensus *c, struct peer_message *m)
{
    struct contact_peer *p = peer_of(c, m->peer);

    p->end = m->append.prev_index + m->append.count;
    p->end_term = m->append.count == 0 ? m->append.prev_term : c->host.term_at(c->arg, p->end);
    p->commit = m->append.commit = raft_commit_index(&c->raft); /* maybe raised by this same step: saves a nudge */
    if (p->end > 0 && p->end_term == 0)
        fail(c, "libraft asks for an entry that is not there");
    else
        post(c, m);
}

/* What we answer to an APPEND, put right. */
static void mend_result(struct consensus *c, const struct peer_message *got, struct peer_message *m)
{
    uint64_t floor = c->raft.state == RAFT_FOLLOWER ? c->raft.follower_state.match : 0;
    uint64_t *last = &m->append_result.last_index;

    /* STALE_RESULT (T12): to a request of an older term libraft answers with what was on its stack, and with
     * "success" if prev is 0. */
    if (got->term < m->term) {
        if (GUARD(c, STALE_RESULT))
            *last = 0;
        return;
    }
    if (m->append_result.rejected == 0) {
        c->back_step = 0;
        return;
    }
    /* HINT (T24): at a conflict libraft steps back one index per round trip. Any lower hint is safe; ours doubles the
     * step, down to what is known to agree. */
    floor = floor > c->commit ? floor : c->commit;
    if (!GUARD(c, HINT) || c->last < m->append_result.rejected || *last + 1 != m->append_result.rejected ||
        *last <= floor)
        return;
    c->back_step = c->back_step == 0 ? 1 : 2 * c->back_step;
    *last = *last - floor > c->back_step ? *last - c->back_step : floor;
}

static void send_message(struct consensus *c, const struct raft_message *rm)
{
    const struct peer_message *got = c->receiving;
    struct peer_message m = {0};

    message_from_raft(rm, &m);
    if (m.kind == PEER_APPEND) {
        send_append(c, &m);
        return;
    }
    if (m.kind == PEER_APPEND_RESULT && got != NULL && got->kind == PEER_APPEND)
        mend_result(c, got, &m);
    if (m.kind == PEER_VOTE_REQUEST && (got == NULL || got->kind != PEER_TIMEOUT_NOW))
        m.vote_request.disrupt_leader = false; /* DISRUPT */
    if (m.kind == PEER_VOTE && m.vote.pre_vote && !m.vote.granted && m.term < c->raft.current_term)
        m.term = c->raft.current_term; /* TERM */
    if (m.kind == PEER_INSTALL)
        peer_of(c, m.peer)->agrees = false;
    post(c, &m);
}

/* Followers learn of a commit only from the next APPEND, which may be a heartbeat away (T25): an empty one at once,
 * after the last entry that the peer was sent; not to one that is silent or must be brought to agree first. */
static void nudge(struct consensus *c)
{
    for (size_t i = 0; i < c->members.count; i++) {
        struct contact_peer *p = peer_of(c, c->members.at[i].id);
        struct peer_message m = {.kind = PEER_APPEND, .peer = p->id, .term = c->raft.current_term};

        if (p->id == c->raft.id || !p->agrees || p->commit >= c->commit || p->end == 0 ||
            c->now_ms - p->heard_ms >= c->set.election_ms)
            continue;
        m.append.prev_index = p->end;
        m.append.prev_term = p->end_term;
        send_append(c, &m);
    }
}

/* ---- one step ---- */

static void take_entries(struct consensus *c, const struct raft_update *u, const struct consensus_entry *from)
{
    uint64_t first = u->entries.index;

    if (first <= c->last) { /* the only sign of a truncation */
        c->host.cut(c->arg, first);
        c->cut_index = first;
        c->durable = c->durable < first ? c->durable : first - 1;
        c->changed = true;
    }
    for (unsigned i = 0; i < u->entries.n; i++) {
        const struct raft_entry *got = &u->entries.batch[i];
        struct consensus_entry e = {.index = first + i, .term = got->term, .type = (enum record_type)got->type};

        if (from != NULL)
            e = from[e.index - from->index];
        c->changed |= e.type == RECORD_CHANGE;
        c->last = e.index;
        c->host.append(c->arg, &e);
    }
    raft_free(u->entries.batch[0].batch); /* the token, or libraft's own barrier */
}

void take_role(struct consensus *c)
{
    enum consensus_role role = c->raft.state == RAFT_LEADER      ? CONSENSUS_LEADER
                               : c->raft.state == RAFT_CANDIDATE ? CONSENSUS_CANDIDATE
                                                                 : CONSENSUS_FOLLOWER;
    uint64_t leader = known_leader(c);

    if (leader != 0)
        consensus_patient(c, false);
    if (leader != 0 && c->contact.first_until_ms != 0)
        consensus_campaign_first(c, false); /* before a promise could be broken */
    if (role == c->role && leader == c->leader && c->raft.current_term == c->term)
        return;
    c->role = role;
    c->leader = leader;
    c->term = c->raft.current_term;
    c->back_step = 0;
    c->host.role(c->arg, role, c->term, leader);
}

/* COMMIT (T4): libraft's commit index can go back, when an older APPEND comes late. */
static void take_commit(struct consensus *c)
{
    uint64_t commit = raft_commit_index(&c->raft);

    if (commit == c->commit || (GUARD(c, COMMIT) && commit < c->commit))
        return;
    c->commit = commit;
    if (c->raft.state == RAFT_LEADER)
        nudge(c);
}

/* What must be known before libraft's answers are passed on. */
static void note_contact(struct consensus *c, bool led)
{
    const struct peer_message *m = c->receiving;

    if (m != NULL && m->kind == PEER_APPEND && c->raft.state == RAFT_FOLLOWER && c->raft.current_term == m->term &&
        known_leader(c) == m->peer)
        contact_followed(&c->contact, m->peer, m->term, m->sent_ms, c->now_ms);
    if (!led && c->raft.state == RAFT_LEADER)
        contact_lead(&c->contact, c->host.boot_ms(c->arg));
}

int step(struct consensus *c, struct raft_event *ev, const struct consensus_entry *from)
{
    unsigned was = c->raft.state;
    struct raft_update u;
    int rv;

    ev->time = clock_ms(c);
    rv = raft_step(&c->raft, ev, &u);
    if (rv != 0) {
        fail(c, raft_strerror(rv));
        return rv;
    }
    if (was == RAFT_FOLLOWER && c->raft.state == RAFT_LEADER && ev->type != RAFT_START) {
        fail(c, "libraft made this node a leader without an election"); /* ONE TERM, ONE LEADER: start again */
        return -1;
    }
    note_contact(c, was == RAFT_LEADER);
    if (HAS(&u, RAFT_UPDATE_CURRENT_TERM) || HAS(&u, RAFT_UPDATE_VOTED_FOR))
        hard_state(c, raft_current_term(&c->raft), raft_voted_for(&c->raft));
    if (HAS(&u, RAFT_UPDATE_ENTRIES))
        take_entries(c, &u, from);
    if (HAS(&u, RAFT_UPDATE_SNAPSHOT)) {
        c->installing = true;
        c->install = u.snapshot.metadata;
        c->last = c->install.index;
        c->durable = c->cut_index = 0;
        c->host.install(c->arg, c->install.index, c->install.term);
    }
    for (unsigned i = 0; HAS(&u, RAFT_UPDATE_MESSAGES) && i < u.messages.n; i++)
        send_message(c, &u.messages.batch[i]);
    take_role(c);
    arm(c);
    take_commit(c);
    return 0;
}

/* CONFIGURATION (T15, T3): libraft must be told that its pending configuration is committed, by its own index: told
 * only of those that become committed while it runs, it refuses every change after a restart. */
static bool change_due(const struct consensus *c)
{
    uint64_t pending = c->raft.configuration_uncommitted_index;

#ifdef CONSENSUS_GUARDS
    if (!GUARD(c, CONFIGURATION) && pending <= c->started_last)
        return false;
#endif
    return pending != 0 && pending <= raft_commit_index(&c->raft);
}

void settle(struct consensus *c)
{
    uint64_t upto;

    while (!c->failed && change_due(c))
        commit_change(c);
    if (c->failed)
        return;
    tell_members(c);
    open_term(c);
    upto = c->commit < c->durable ? c->commit : c->durable;
    if (upto > c->committed || (!GUARD(c, COMMIT) && upto < c->committed)) {
        c->committed = upto;
        c->host.committed(c->arg, upto);
    }
}

/* ---- events ---- */

/* n entries as libraft wants them: the payload stays ours, it gets the token. Valid until the next call. */
static struct raft_entry *dress(struct consensus *c, const struct consensus_entry *entries, size_t n)
{
    void *token = raft_malloc(1);

    CHECK(token != NULL);
    if (n > c->scratch_cap) {
        c->scratch = must_realloc(c->scratch, n * sizeof *c->scratch);
        c->scratch_cap = n;
    }
    for (size_t i = 0; i < n; i++) {
        struct raft_entry *e = &c->scratch[i];

        *e = (struct raft_entry){
            .term = entries[i].term, .type = (enum raft_entry_type)entries[i].type, .batch = token};
        e->buf.base = entries[i].type == RECORD_CHANGE ? (void *)(uintptr_t)entries[i].change : token;
        e->buf.len = entries[i].type == RECORD_CHANGE ? entries[i].change_bytes : 1;
    }
    return c->scratch;
}

/* An APPEND of the entries from[0 .. n) that follow prev. */
static void step_append(struct consensus *c, struct raft_message *rm, const struct consensus_entry *from, unsigned n)
{
    struct raft_event ev = {.type = RAFT_RECEIVE};

    rm->append_entries.n_entries = n;
    rm->append_entries.entries = n == 0 ? NULL : dress(c, from, n);
    ev.receive.message = rm;
    step(c, &ev, from);
    settle(c);
}

static void receive_append(struct consensus *c, const struct peer_message *m, const struct consensus_entry *entries)
{
    const struct raft_trail *trail = &c->raft.trail;
    struct raft_message rm;
    struct raft_append_entries *a = &rm.append_entries;
    uint32_t at = 0, n;

    message_to_raft(m, &rm);
    /* PREV (T7, T8): a request that reaches below what we have compacted is taken from there on: all before it is
     * committed, hence equal. libraft would read beyond the entries, or reject what is committed. */
    if (GUARD(c, PREV) && !c->installing && a->prev_log_index <= trail->offset &&
        a->prev_log_index < trail->snapshot.index) {
        uint64_t skip = trail->snapshot.index - a->prev_log_index;

        at = skip < m->append.count ? (uint32_t)skip : m->append.count;
        a->prev_log_index = trail->snapshot.index;
        a->prev_log_term = trail->snapshot.term;
    }
    for (uint32_t i = at; c->cut_index != 0 && i < m->append.count && entries[i].index <= c->last; i++)
        if (c->host.term_at(c->arg, entries[i].index) != entries[i].term)
            return; /* ONE CUT */
    do {
        /* SPLIT (T2, T3): libraft takes the index of the first entry for that of a CHANGE: each must be the first. */
        for (n = at < m->append.count; at + n < m->append.count; n++)
            if (GUARD(c, SPLIT) && entries[at + n].type == RECORD_CHANGE)
                break;
        if (n > 0)
            commit_change_before(c, a, &entries[at]);
        step_append(c, &rm, n == 0 ? NULL : &entries[at], n);
        at += n;
        if (n > 0) {
            a->prev_log_index = entries[at - 1].index;
            a->prev_log_term = entries[at - 1].term;
        }
    } while (at < m->append.count && !c->failed);
}

/* REJECTED (T5): a late rejection at or below what already matches makes libraft's next index underflow; it would
 * send that peer nothing more. What remains of it is that the peer has been heard. */
static void mend_rejection(const struct consensus *c, struct raft_append_entries_result *r, uint64_t peer)
{
    raft_index match;

    if (!GUARD(c, REJECTED) || r->rejected == 0 || r->term != c->raft.current_term ||
        raft_match_index(&c->raft, peer, &match) != 0)
        return;
    if (r->rejected <= match)
        r->rejected = r->last_log_index = 0;
    else if (r->last_log_index < match)
        r->last_log_index = match;
}

/* Not all that a peer may send is for libraft. */
static bool welcome(struct consensus *c, const struct peer_message *m, const struct consensus_entry *entries)
{
    bool answer = m->kind == PEER_VOTE || m->kind == PEER_APPEND_RESULT || m->kind == PEER_TIMEOUT_NOW;

    if (answer && !contact_is_member(&c->members, m->peer))
        return false; /* STRANGERS */
    switch (m->kind) {
    case PEER_VOTE_REQUEST:
        return contact_may_vote(&c->contact, c->now_ms);
    case PEER_VOTE: /* T18: to others than candidates libraft looks into the wrong member of a union */
        return c->raft.state == RAFT_CANDIDATE;
    case PEER_APPEND: /* there is no second leader of our term */
        return (c->raft.state != RAFT_LEADER || m->term != c->raft.current_term) && message_append_sound(m, entries);
    case PEER_APPEND_RESULT:
        return c->raft.state == RAFT_LEADER;
    case PEER_INSTALL: /* of another leader or term: it repeats it, and an APPEND makes us its follower first */
        return !c->installing && c->raft.state == RAFT_FOLLOWER && known_leader(c) == m->peer &&
               m->term == c->raft.current_term;
    case PEER_TIMEOUT_NOW:
        return true;
    case PEER_STATE:
        break;
    }
    return false;
}

void consensus_receive(struct consensus *c, const struct peer_message *m, const struct consensus_entry *entries)
{
    struct raft_event ev = {.type = RAFT_RECEIVE};
    struct contact_peer *p;
    struct raft_message rm;

    if (c->failed || m->peer == 0 || m->peer == c->raft.id)
        return;
    p = peer_of(c, m->peer);
    p->heard_ms = clock_ms(c);
    if (!welcome(c, m, entries))
        return;
    if (m->kind == PEER_INSTALL) {
        c->host.need_snapshot(c->arg, m->peer, m->install.last_index);
        return;
    }
    c->receiving = m;
    if (m->kind == PEER_APPEND) {
        receive_append(c, m, entries);
    } else if (message_to_raft(m, &rm)) {
        if (m->kind == PEER_APPEND_RESULT && m->term == c->raft.current_term) {
            contact_echoed(&c->contact, p, m->echo_ms, c->host.boot_ms(c->arg));
            p->agrees = m->append_result.rejected == 0;
            mend_rejection(c, &rm.append_entries_result, m->peer);
        }
        ev.receive.message = &rm;
        if (m->kind == PEER_VOTE_REQUEST)
            step_vote_request(c, &ev);
        else
            step(c, &ev, NULL);
        settle(c);
    }
    c->receiving = NULL;
}

void consensus_persisted(struct consensus *c, uint64_t index, uint64_t term)
{
    struct raft_event ev = {.type = RAFT_PERSISTED_ENTRIES};

    if (c->failed || c->installing || index <= c->durable || index > c->last ||
        c->host.term_at(c->arg, index) != term)
        return;
    if (index >= c->cut_index)
        c->cut_index = 0;
    c->durable = ev.persisted_entries.index = index;
    step(c, &ev, NULL);
    settle(c);
}

enum consensus_answer submit_entry(struct consensus *c, const struct consensus_entry *e)
{
    struct raft_event ev = {.type = RAFT_SUBMIT};

    ev.submit.entries = dress(c, e, 1);
    ev.submit.n = 1;
    if (step(c, &ev, e) != 0)
        return CONSENSUS_REFUSED;
    settle(c);
    return CONSENSUS_OK;
}

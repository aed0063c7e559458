/* The group as libraft sees it: who belongs to it, who leads it, what it is asked; see consensus.h. Each question is
 * an event of its own, through step() and settle() of consensus.c:
 *
 *     submit, change ─▶ RAFT_SUBMIT      transfer ─▶ RAFT_TRANSFER      tick ─▶ RAFT_TIMEOUT
 *     install ─▶ RAFT_RECEIVE, later RAFT_PERSISTED_SNAPSHOT             compact ─▶ RAFT_SNAPSHOT
 *
 * Example, a member is added: {a, b, c, d standby}, committed; then {a, b, c, d voter}, when d knows of the first.
 * Each is one entry and differs from the one before by one member (is_one_change()), so majorities overlap. */
#include <string.h>

#include "log/base/diag.h"
#include "log/consensus_internal.h"

/* ---- members ---- */

void tell_members(struct consensus *c)
{
    const struct raft_configuration *conf = &c->raft.configuration;
    struct members now = {0};

    if (!c->changed && c->uncommitted_change == c->raft.configuration_uncommitted_index &&
        c->committed_change == c->raft.configuration_committed_index)
        return;
    c->changed = false;
    c->uncommitted_change = c->raft.configuration_uncommitted_index;
    c->committed_change = c->raft.configuration_committed_index;
    for (now.count = 0; now.count < conf->n; now.count++) {
        struct member *m = &now.at[now.count];

        CHECK(now.count < MEMBERS_MAX && member_parse(conf->servers[now.count].address, m, NULL, 0));
        m->id = conf->servers[now.count].id;
        m->role = (enum member_role)conf->servers[now.count].role;
    }
    c->members = now;
    c->host.members(c->arg, &c->members, c->uncommitted_change == 0);
}

void copy_configuration(const struct raft_configuration *from, struct raft_configuration *to)
{
    int rv = 0;

    raft_configuration_init(to);
    for (unsigned i = 0; i < from->n && rv == 0; i++)
        rv = raft_configuration_add(to, from->servers[i].id, from->servers[i].address, from->servers[i].role);
    CHECK(rv == 0);
}

/* A leader's first entry is of its own term: only when that is committed does it know what is (Raft 6.4), and may it
 * change the group. libraft writes a barrier only if it sees uncommitted entries. */
void open_term(struct consensus *c)
{
    struct consensus_entry e = {.index = c->last + 1, .term = c->raft.current_term, .type = RECORD_BARRIER};

    if (c->raft.state != RAFT_LEADER || c->opened_term == c->raft.current_term)
        return;
    c->opened_term = c->raft.current_term;
    if (members_voters(&c->members) > 1 && c->host.term_at(c->arg, c->last) != c->raft.current_term)
        submit_entry(c, &e);
}

/* One member appended, removed, or promoted; all else, and the order, the same (T14: libraft checks nothing, and
 * would give a new member the progress of the one whose place it takes). None is demoted: if it alone got that
 * CHANGE, and then the leader is gone, it would not stand for election, and not vote either for those whose log is
 * shorter. Who is removed is not even sent the CHANGE. */
static bool is_one_change(const struct members *from, const struct members *to)
{
    size_t differ = 0, i = 0, j = 0;

    while (i < from->count && j < to->count) {
        struct member a = from->at[i], b = to->at[j];

        if (a.id != b.id) { /* removed */
            differ++;
            i++;
            continue;
        }
        differ += a.role != b.role;
        if (b.role < a.role || strcmp(a.name, b.name) != 0 || strcmp(a.zone, b.zone) != 0 ||
            strcmp(a.address, b.address) != 0 || a.log_only != b.log_only)
            return false;
        i++;
        j++;
    }
    return differ + (from->count - i) + (to->count - j) == 1;
}

/* Whoever is promoted has the entry that made it a standby: without it it could not vote. */
static bool knows_itself(const struct consensus *c, const struct members *to)
{
    for (size_t i = 0; i < to->count && i < c->members.count; i++)
        if (to->at[i].id == c->members.at[i].id && to->at[i].role > c->members.at[i].role &&
            consensus_match(c, to->at[i].id) < c->raft.configuration_committed_index)
            return false;
    return true;
}

enum consensus_answer consensus_change(struct consensus *c, const struct members *to)
{
    struct consensus_entry e = {.index = c->last + 1, .term = c->raft.current_term, .type = RECORD_CHANGE};
    enum consensus_answer answer = CONSENSUS_REFUSED;
    struct members again;
    struct buf bytes = {0};
    bool leads = false;

    if (c->failed || c->raft.state != RAFT_LEADER)
        return CONSENSUS_NOT_LEADER;
    if (c->raft.configuration_uncommitted_index != 0 || raft_transferee(&c->raft) != 0)
        return CONSENSUS_BUSY;
    /* Not before something of this term is committed: else two leaders' changes could make two disjoint majorities
     * (Ongaro, "bug in single-server membership changes", 2015; libraft does not look). */
    if (members_voters(&c->members) > 1 && c->host.term_at(c->arg, c->commit) != c->raft.current_term)
        return CONSENSUS_BUSY;
    /* A leader that is no voter any more would go on leading those who count it out; it hands over first. */
    for (size_t i = 0; i < to->count; i++)
        leads |= to->at[i].id == c->set.id && to->at[i].role == MEMBER_VOTER;
    if (!leads || to->count > MEMBERS_MAX || !is_one_change(&c->members, to))
        return CONSENSUS_REFUSED;
    if (!knows_itself(c, to))
        return CONSENSUS_BUSY;
    consensus_encode(to, &bytes);
    e.change = buf_head(&bytes);
    e.change_bytes = bytes.len;
    if (!bytes.failed && consensus_decode(e.change, e.change_bytes, &again))
        answer = submit_entry(c, &e);
    buf_free(&bytes);
    return answer;
}

void consensus_encode(const struct members *m, struct buf *out)
{
    members_encode(m, out);
}

bool consensus_decode(const void *bytes, size_t n, struct members *out)
{
    return members_decode(bytes, n, out);
}

uint64_t consensus_committed_change(const struct consensus *c, struct buf *out)
{
    struct raft_buffer bytes;

    if (c->raft.configuration_committed_index == 0)
        return 0;
    CHECK(raft_configuration_encode(&c->raft.configuration_committed, &bytes) == 0);
    buf_append(out, bytes.base, bytes.len);
    raft_free(bytes.base);
    return c->raft.configuration_committed_index;
}

void commit_change(struct consensus *c)
{
    struct raft_event ev = {.type = RAFT_CONFIGURATION};

    ev.configuration.index = c->raft.configuration_uncommitted_index;
    copy_configuration(&c->raft.configuration, &ev.configuration.conf); /* libraft takes it over */
    step(c, &ev, NULL);
}

void commit_change_before(struct consensus *c, const struct raft_append_entries *a, const struct consensus_entry *e)
{
    uint64_t pending = c->raft.configuration_uncommitted_index;

    /* The leader's log and ours are the same up to prev, so that is the CHANGE that was before e. */
    if (GUARD(c, SPLIT) && e->type == RECORD_CHANGE && pending != 0 && pending < e->index && !c->installing &&
        a->term >= c->raft.current_term && c->host.term_at(c->arg, a->prev_log_index) == a->prev_log_term)
        commit_change(c);
}

/* ---- leading ---- */

/* A follower that does not stand for election (a standby; while it installs, or waits for its disk) would know its
 * last leader for ever, and refuse all others its vote (PROMOTED). */
static void forget_leader(struct consensus *c)
{
    if (c->raft.state != RAFT_FOLLOWER || known_leader(c) == 0 ||
        c->now_ms - c->contact.followed_ms < c->set.election_ms)
        return;
    raft_free(c->raft.follower_state.current_leader.address);
    c->raft.follower_state.current_leader.address = NULL;
    c->raft.follower_state.current_leader.id = 0;
    take_role(c);
}

void consensus_tick(struct consensus *c)
{
    struct raft_event ev = {.type = RAFT_TIMEOUT};

    if (c->failed || clock_ms(c) < c->due_ms)
        return; /* T22: libraft takes each tick for a timeout */
    if (c->contact.first_until_ms != 0 && c->now_ms >= c->contact.first_until_ms)
        consensus_campaign_first(c, false);
    consensus_patient(c, false);
    c->ticked_ms = c->now_ms;
    if (step(c, &ev, NULL) != 0)
        return;
    forget_leader(c);
    settle(c);
}

void step_vote_request(struct consensus *c, struct raft_event *ev)
{
    struct raft_configuration *conf = &c->raft.configuration;
    struct raft_server none = {0}, *self = &none;
    int role;

    for (unsigned i = 0; i < conf->n; i++)
        if (conf->servers[i].id == c->raft.id)
            self = &conf->servers[i];
    role = self->role;
    self->role = RAFT_VOTER; /* for this step, in which configurations do not change */
    step(c, ev, NULL);
    self->role = role;
}

enum consensus_answer consensus_submit(struct consensus *c, struct record *r, uint64_t window)
{
    const struct consensus_entry e = {.index = r->index, .term = r->term, .type = r->type, .record = r};

    if (c->failed || c->raft.state != RAFT_LEADER)
        return CONSENSUS_NOT_LEADER;
    if (raft_transferee(&c->raft) != 0)
        return CONSENSUS_BUSY;
    /* WINDOW (T17): libraft never refuses: it would take entries without end while no quorum, or no disk, answers,
     * and scan them at each acknowledgement. */
    if (GUARD(c, WINDOW) && c->last - c->committed >= window)
        return CONSENSUS_BUSY;
    CHECK(r->type == RECORD_COMMAND && r->index == c->last + 1 && r->term == c->raft.current_term);
    return submit_entry(c, &e);
}

enum consensus_answer consensus_transfer(struct consensus *c, uint64_t id)
{
    struct raft_event ev = {.type = RAFT_TRANSFER};
    bool voter = false;

    if (c->failed || c->raft.state != RAFT_LEADER)
        return CONSENSUS_NOT_LEADER;
    for (size_t i = 0; i < c->members.count; i++)
        voter |= c->members.at[i].id == id && c->members.at[i].role == MEMBER_VOTER;
    if (!voter || id == c->set.id)
        return CONSENSUS_REFUSED;
    /* T11: to one that lacks something libraft sends its message too early, once, and in vain. */
    if (raft_transferee(&c->raft) != 0 || consensus_match(c, id) != c->last)
        return CONSENSUS_BUSY;
    c->contact.transfer_term = c->raft.current_term; /* before the message leaves */
    ev.transfer.server_id = id;
    if (step(c, &ev, NULL) != 0)
        return CONSENSUS_REFUSED;
    settle(c);
    return CONSENSUS_OK;
}

/* A restarted node lets others campaign first: one that led, lost its quorum with us and is still there holds what is
 * not committed (consensus_campaign_first). A longer timer breaks no promise. */
void consensus_patient(struct consensus *c, bool on)
{
    if (on == c->patient)
        return;
    c->patient = on;
    raft_set_election_timeout(&c->raft, on ? 2 * c->set.election_ms : c->set.election_ms);
    arm(c);
}

/* The shorter timer makes this node a candidate sooner, not a voter for others: it answers no vote requests
 * meanwhile, follows nobody (else the timer is as before), and has kept what it promised to its last leader
 * (contact.h). */
void consensus_campaign_first(struct consensus *c, bool on)
{
    uint64_t now = clock_ms(c);
    bool shorter;

    on = on && !c->failed && known_leader(c) == 0;
    shorter = on && now >= c->contact.restart_until_ms && now - c->contact.followed_ms >= c->set.election_ms;
    c->contact.first_until_ms = on ? now + CAMPAIGN_FIRST_TIMEOUTS * (uint64_t)c->set.election_ms : 0;
    raft_set_election_timeout(&c->raft, shorter ? c->set.election_ms / 2 : c->set.election_ms);
    arm(c);
}

/* ---- snapshots ---- */

bool consensus_install(struct consensus *c, const struct consensus_base *base)
{
    struct raft_event ev = {.type = RAFT_RECEIVE};
    struct raft_message rm = {.type = RAFT_INSTALL_SNAPSHOT, .server_address = "peer"};
    struct raft_install_snapshot *is = &rm.install_snapshot;
    struct raft_buffer bytes = {(void *)(uintptr_t)base->change, base->change_bytes};
    struct members decoded;
    bool before = c->installing;

    /* INSTALL (T13): while one is being installed libraft ignores another, and leaks it. */
    if (c->failed || (GUARD(c, INSTALL) && c->installing) || c->raft.state != RAFT_FOLLOWER || known_leader(c) == 0)
        return false;
    if (base->index == 0 || base->term == 0 || base->term > c->raft.current_term ||
        base->change_index > base->index || !consensus_decode(base->change, base->change_bytes, &decoded))
        return false;
    rm.server_id = known_leader(c);
    is->term = c->raft.current_term;
    is->last_index = base->index;
    is->last_term = base->term;
    is->conf_index = base->change_index;
    CHECK(raft_configuration_decode(&bytes, &is->conf) == 0); /* libraft's from here on, or ours again: c->install */
    ev.receive.message = &rm;
    step(c, &ev, NULL);
    settle(c);
    return c->installing && !before;
}

void consensus_installed(struct consensus *c)
{
    struct raft_event ev = {.type = RAFT_PERSISTED_SNAPSHOT};

    if (c->failed)
        return;
    CHECK(c->installing);
    c->installing = false;
    c->last = c->durable = c->install.index;
    ev.persisted_snapshot.metadata = c->install; /* libraft takes its configuration back */
    ev.persisted_snapshot.last = true;
    c->changed = true;
    if (step(c, &ev, NULL) == 0)
        settle(c);
}

bool consensus_compact(struct consensus *c, uint64_t index, uint64_t first_kept)
{
    struct raft_event ev = {.type = RAFT_SNAPSHOT};
    struct raft_snapshot_metadata *at = &ev.snapshot.metadata;
    uint64_t trailing = index + 1 - first_kept;

    if (c->failed || c->installing || index > c->committed || first_kept == 0 || first_kept > index + 1 ||
        index <= c->raft.trail.snapshot.index || c->raft.configuration_committed_index > index ||
        trailing > UINT32_MAX)
        return false;
    at->index = index;
    at->term = c->host.term_at(c->arg, index);
    at->configuration_index = c->raft.configuration_committed_index;
    if (at->term == 0 || at->configuration_index == 0)
        return false;
    copy_configuration(&c->raft.configuration_committed, &at->configuration); /* libraft takes it over */
    ev.snapshot.trailing = (unsigned)trailing;
    if (step(c, &ev, NULL) == 0)
        settle(c);
    return !c->failed;
}

/* ---- questions ---- */

uint64_t consensus_due_ms(const struct consensus *c)
{
    return c->failed ? UINT64_MAX : c->due_ms;
}

bool consensus_transferring(const struct consensus *c)
{
    return raft_transferee(&c->raft) != 0;
}

enum consensus_role consensus_role(const struct consensus *c)
{
    return c->role;
}

uint64_t consensus_term(const struct consensus *c)
{
    return c->raft.current_term;
}

uint64_t consensus_leader(const struct consensus *c)
{
    return c->leader;
}

uint64_t consensus_last(const struct consensus *c)
{
    return c->last;
}

uint64_t consensus_commit(const struct consensus *c)
{
    return c->commit;
}

uint64_t consensus_match(const struct consensus *c, uint64_t id)
{
    raft_index match = 0;

    return raft_match_index(&c->raft, id, &match) == 0 ? match : 0;
}

uint64_t consensus_heard_ms(const struct consensus *c, uint64_t id)
{
    const struct contact_peer *p = contact_find(&c->contact, id);

    return p != NULL ? p->heard_ms : 0;
}

const struct members *consensus_members(const struct consensus *c)
{
    return &c->members;
}

bool consensus_changing(const struct consensus *c)
{
    return c->raft.configuration_uncommitted_index != 0;
}

uint64_t consensus_lease_end_ms(const struct consensus *c)
{
    if (c->role != CONSENSUS_LEADER)
        return 0;
    return contact_lease_end_ms(&c->contact, &c->members, c->raft.current_term, c->host.boot_ms(c->arg));
}

uint64_t consensus_proven_ms(const struct consensus *c)
{
    return c->role == CONSENSUS_LEADER ? contact_proven_ms(&c->contact, &c->members, c->host.boot_ms(c->arg)) : 0;
}

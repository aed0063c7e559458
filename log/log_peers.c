/* The other members, as this node sees them: what they said about themselves, which links are up; and connections
 * between nodes for one purpose (a client that is relayed).
 *
 *      HELLO ─▶ on_met ─▶ known[id] ─▶ begin_met() (log_begin.c), the next state timer
 *      STATE ─▶ on_message ─▶ known[id].state          any other message ─▶ group_message() (log_group.c)
 *      every LOG_STATE_MS: our own STATE to all that are linked
 *
 * Nodes are remembered by id. Two ids may claim one name: a member whose disk was lost and the stranger that came
 * back in its place; the one met last is the one to add. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "log/base/tls.h"
#include "log/log_internal.h"

/* ---- who is known ---- */

struct known *known_by_id(struct log *l, uint64_t id)
{
    for (size_t i = 0; i < l->known_count; i++)
        if (l->known[i].member.id == id)
            return &l->known[i];
    return NULL;
}

struct known *known_by_name(struct log *l, const char *name)
{
    struct known *found = NULL;

    for (size_t i = 0; i < l->known_count; i++)
        if (strcmp(l->known[i].member.name, name) == 0 && (found == NULL || l->known[i].heard_ms >= found->heard_ms))
            found = &l->known[i];
    return found;
}

static bool is_member(const struct log *l, uint64_t id)
{
    struct members m;

    if (l->raft == NULL)
        return false;
    m = *consensus_members(l->raft);
    return members_by_id(&m, id) != NULL;
}

static struct known *remember(struct log *l, const struct member *m)
{
    struct known *k = known_by_id(l, m->id), *oldest = NULL;

    if (k == NULL && l->known_count < LOG_KNOWN_MAX)
        k = &l->known[l->known_count++];
    for (size_t i = 0; k == NULL && i < l->known_count; i++)
        if (!is_member(l, l->known[i].member.id) && (oldest == NULL || l->known[i].heard_ms < oldest->heard_ms))
            oldest = &l->known[i];
    if (k == NULL && (k = oldest) == NULL)
        return NULL;
    if (k->member.id != m->id)
        *k = (struct known){.state = {.valkey_keys = UINT64_MAX}};
    k->member = *m;
    return k;
}

/* ---- events of the links ---- */

static void on_hello(void *arg, struct peer_hello *own)
{
    struct log *l = arg;

    own->member = l->self;
    memcpy(own->group, l->group, sizeof own->group);
    buf_append(&own->configuration, buf_head(&l->first_change), l->first_change.len);
}

static bool on_met(void *arg, const struct peer_hello *h, char *why, size_t why_size)
{
    static const char none[PEER_GROUP_BYTES];
    struct log *l = arg;
    bool theirs = memcmp(h->group, none, sizeof none) != 0;
    struct known *k;

    if (h->member.id == l->self.id || strcmp(h->member.name, l->self.name) == 0) {
        (void)snprintf(why, why_size, "it says that it is this very node");
        return false;
    }
    if (l->begun && theirs && memcmp(l->group, h->group, sizeof l->group) != 0) {
        (void)snprintf(why, why_size, "its log belongs to another group");
        return false;
    }
    k = remember(l, &h->member);
    if (k == NULL) {
        (void)snprintf(why, why_size, "more than %d nodes are known already", LOG_KNOWN_MAX);
        return false;
    }
    k->begun = theirs;
    k->heard_ms = clock_mono_ms();
    if (!k->up && l->peers != NULL)
        peers_hurry(l->peers, h->member.name); /* it is there again: so should our link be */
    if (!l->begun && (theirs || l->begin_wanted.member.id == 0)) {
        l->begin_wanted = *h;
        l->begin_wanted.configuration = (struct buf){0};
        buf_clear(&l->begin_change);
        buf_append(&l->begin_change, buf_head(&h->configuration), h->configuration.len);
        loop_timer_once(l->state_timer, 0); /* not from inside a callback of the link */
    }
    return true;
}

static void note_clock(struct log *l, struct known *k, uint64_t wall_ms)
{
    int64_t off_ms, max_ms = (int64_t)l->set.clock_skew_max_ms;
    bool off;

    if (wall_ms == 0)
        return;
    skew_heard(&k->skew, (int64_t)wall_ms - (int64_t)clock_wall_ms(), clock_mono_ms());
    off_ms = k->skew.ms < 0 ? -k->skew.ms : k->skew.ms;
    off = off_ms > (k->skew_said ? max_ms - max_ms / 4 : max_ms);
    if (!off && k->skew_said)
        diag_log(l->diag, DIAG_NOTICE, "The clock of node %s is right again: %lld ms off ours", k->member.name,
                 (long long)k->skew.ms);
    if (off && !k->skew_said)
        diag_log(l->diag, DIAG_WARNING, "CLOCK SKEW: the clock of node %s is %lld ms off ours (clock-skew-max %u)",
                 k->member.name, (long long)k->skew.ms, l->set.clock_skew_max_ms);
    k->skew_said = off;
}

/* The lease is ours to count, the promise that it rests on is theirs: a member with a shorter election-timeout
 * promises less. Without the lease each read waits for a proof. */
static void compare_elections(struct log *l, struct known *k)
{
    bool differs = k->state.election_ms != l->set.election_ms;

    if (differs && !k->election_said)
        diag_log(l->diag, DIAG_WARNING,
                 "election-timeout is %llu ms on node %s and %u ms here: it must be the same on all members",
                 (unsigned long long)k->state.election_ms, k->member.name, l->set.election_ms);
    k->election_said = differs;
    l->lease_off = false;
    for (size_t i = 0; i < l->known_count; i++)
        l->lease_off =
            l->lease_off || (l->known[i].state_ms != 0 && l->known[i].state.election_ms < l->set.election_ms &&
                             is_member(l, l->known[i].member.id));
}

static void on_message(void *arg, const struct peer_message *m, struct record **records)
{
    struct log *l = arg;
    struct known *k = known_by_id(l, m->peer);

    if (k == NULL)
        return;
    if (l->role == LOG_LOST && clock_mono_ms() > k->heard_ms + l->set.election_ms)
        consensus_campaign_first(l->raft, true); /* it was paused, its link never broke: as when one comes up */
    k->heard_ms = clock_mono_ms();
    note_clock(l, k, m->wall_ms);
    if (m->kind == PEER_STATE) {
        k->state = m->state;
        k->state_ms = k->heard_ms;
        compare_elections(l, k);
        k->state_ms = k->heard_ms;
        return;
    }
    group_message(l, m, records);
}

static size_t on_records(void *arg, const struct peer_message *m, uint64_t from, size_t max, size_t bytes_max,
                         struct record **out)
{
    return group_records(arg, m, from, max, bytes_max, out);
}

static void on_link(void *arg, uint64_t id, bool up, const char *why)
{
    struct log *l = arg;
    struct known *k = known_by_id(l, id);

    if (k == NULL || k->up == up)
        return;
    k->up = up;
    diag_log(l->diag, up || why == peers_unwanted ? DIAG_NOTICE : DIAG_WARNING, "Link to node %s is %s%s",
             k->member.name, up ? "up" : "down: ", up ? "" : why);
    l->members_changed = true;
    if (up && l->role == LOG_LOST)
        consensus_campaign_first(l->raft, true); /* its time counts from when somebody is there to vote */
    loop_timer_once(l->state_timer, 0);
}

static void on_accepted(void *arg, struct stream *s, const struct peer_hello *h)
{
    struct log *l = arg;

    if (h->purpose == PEER_FETCH)
        fetch_serve(l, s, h);
    else if (l->role == LOG_LEADS && l->events->relayed != NULL)
        l->events->relayed(l->arg, s, h->member.name, h->extra, h->extra_bytes);
    else
        stream_close(s);
}

static const struct peers_events events = {.hello = on_hello,
                                           .met = on_met,
                                           .message = on_message,
                                           .records = on_records,
                                           .link = on_link,
                                           .accepted = on_accepted};

/* ---- what we say ---- */

void log_tell(struct log *l, uint64_t fed_index, uint64_t valkey_keys)
{
    l->told.fed_index = fed_index;
    l->told.valkey_keys = valkey_keys;
}

static void say(struct log *l)
{
    struct peer_message m = {.kind = PEER_STATE, .wall_ms = clock_wall_ms(), .state = l->told};
    struct snapshot_mark mark;
    char path[4096];

    m.state.committed = l->committed;
    m.state.election_ms = l->set.election_ms;
    m.state.log_first = log_first_index(l);
    m.state.log_only = l->set.log_only;
    if (snapshot_newest(l, &mark, path, sizeof path))
        m.state.snapshot_index = mark.index;
    for (size_t i = 0; i < l->known_count; i++) {
        m.peer = l->known[i].member.id;
        if (l->known[i].up)
            peers_send(l->peers, &m);
    }
}

static void on_state_timer(void *arg)
{
    struct log *l = arg;

    loop_timer_once(l->state_timer, LOG_STATE_MS);
    if (l->writing == WRITE_FAILED)
        return;
    if (!l->begun && l->begin_wanted.member.id != 0) {
        l->begin_wanted.configuration = l->begin_change;
        begin_met(l, &l->begin_wanted);
        l->begin_wanted = (struct peer_hello){0};
    } else if (l->configured.count == 1) {
        begin_met(l, NULL); /* nobody is to be met */
    }
    peers_follow(l); /* somebody may have been met */
    say(l);
    fetch_tick(l);
    if (l->raft != NULL)
        group_after(l);
}

/* ---- opening and closing ---- */

/* Who answers to a member's name now: another data directory than our configuration knows. It may be a stranger; or
 * the configuration is an old one, of a log that is catching up, and this is the leader that waits for our answers,
 * or a candidate. What is sent goes by id, so a stranger gets nothing that was meant for the member. */
static const struct known *successor(struct log *l, const struct member *m)
{
    const struct known *own = known_by_id(l, m->id), *k = known_by_name(l, m->name);

    if (m->id == 0 || m->id == l->self.id || k == NULL || k->member.id == m->id)
        return NULL;
    return own != NULL && (own->up || own->heard_ms >= k->heard_ms) ? NULL : k;
}

/* Whom the configuration names, whom the settings name and it does not, and whoever leads. */
void peers_follow(struct log *l)
{
    struct members m = {0};
    const struct known *k;

    if (l->peers == NULL)
        return;
    if (l->raft != NULL)
        m = *consensus_members(l->raft);
    for (size_t i = 0; i < l->configured.count && m.count < MEMBERS_MAX; i++)
        if (members_by_name(&m, l->configured.at[i].name) == NULL) {
            m.at[m.count] = l->configured.at[i];
            if (strcmp(m.at[m.count].name, l->self.name) != 0)
                m.at[m.count].id = 0; /* whoever proves the name */
            m.count++;
        }
    for (size_t i = 0; i < m.count; i++)
        if ((k = successor(l, &m.at[i])) != NULL)
            m.at[i] = k->member;
    k = l->raft_leader != 0 ? known_by_id(l, l->raft_leader) : NULL;
    if (k != NULL && members_by_name(&m, k->member.name) == NULL && m.count < MEMBERS_MAX)
        m.at[m.count++] = k->member;
    peers_set(l->peers, &m);
}

void peers_hello_again(struct log *l)
{
    struct members nobody = {0};

    if (l->peers == NULL)
        return;
    peers_set(l->peers, &nobody);
    peers_follow(l);
}

static bool load_tls(struct log *l, char *why, size_t why_size)
{
    const struct log_tls *t = &l->set.tls;
    struct tls_settings s = {.cert_file = t->cert_file,
                             .key_file = t->key_file,
                             .ca_file = t->ca_file,
                             .peer_must_prove = true,
                             .versions = TLS_VERSION_13,
                             .prefer_server_ciphers = true};

    if (t->cert_file == NULL || t->cert_file[0] == '\0')
        return true;
    l->tls = tls_new(&s, why, why_size);
    return l->tls != NULL;
}

void log_reload_tls(struct log *l)
{
    char why[LOG_WHY_BYTES];

    if (l->tls == NULL)
        return;
    if (!tls_reload(l->tls, why, sizeof why)) {
        diag_log(l->diag, DIAG_WARNING, "The peer links keep their certificates: %s", why);
        return;
    }
    diag_log(l->diag, DIAG_NOTICE, "Certificates of the peer links read again");
    peers_hello_again(l);
}

bool peers_open(struct log *l, char *why, size_t why_size)
{
    struct peers_settings s = {.cluster = l->set.cluster,
                               .self = l->self,
                               .listen = l->set.listen != NULL && l->set.listen[0] ? l->set.listen : l->self.address};

    if (!load_tls(l, why, why_size))
        return false;
    s.tls = l->tls;
    l->state_timer = loop_timer_new(l->loop, on_state_timer, l);
    l->peers = peers_new(l->loop, l->diag, &s, &events, l, why, why_size);
    if (l->peers == NULL)
        return false;
    loop_timer_once(l->state_timer, LOG_STATE_MS);
    peers_follow(l);
    return true;
}

void peers_close(struct log *l)
{
    if (l->peers != NULL)
        peers_free(l->peers);
    l->peers = NULL;
    buf_free(&l->begin_change);
}

/* ---- relays ---- */

struct log_dial {
    struct log *log;
    struct peer_dial *dial;
    struct loop_timer *later;
    void (*done)(void *arg, struct stream *s, const char *why);
    void *arg;
    bool over;
};

static void dial_free(void *object)
{
    free(object);
}

static void dial_end(struct log_dial *d)
{
    d->over = true;
    loop_timer_free(d->later);
    d->later = NULL;
    loop_bury(d->log->loop, d, dial_free);
}

static void on_dialled(void *arg, struct stream *s, const char *why)
{
    struct log_dial *d = arg;

    d->dial = NULL;
    d->done(d->arg, s, why);
    dial_end(d);
}

static void on_nobody(void *arg)
{
    struct log_dial *d = arg;

    d->done(d->arg, NULL, "no leader is known");
    dial_end(d);
}

struct log_dial *log_relay(struct log *l, const void *extra, size_t n,
                           void (*done)(void *arg, struct stream *s, const char *why), void *arg)
{
    struct log_dial *d = must_calloc(1, sizeof *d);
    struct members m = {0};
    const struct member *to = NULL;

    CHECK(n <= LOG_RELAY_EXTRA_BYTES_MAX);
    *d = (struct log_dial){.log = l, .done = done, .arg = arg};
    if (l->raft != NULL && l->peers != NULL && l->raft_leader != 0 && l->raft_leader != l->self.id) {
        m = *consensus_members(l->raft);
        to = members_by_id(&m, l->raft_leader);
        if (to == NULL && known_by_id(l, l->raft_leader) != NULL)
            to = &known_by_id(l, l->raft_leader)->member;
    }
    if (to != NULL)
        d->dial = peers_dial(l->peers, to, PEER_RELAY, extra, n, on_dialled, d);
    if (d->dial == NULL) {
        d->later = loop_timer_new(l->loop, on_nobody, d);
        loop_timer_once(d->later, 0);
    }
    return d;
}

void log_relay_cancel(struct log_dial *d)
{
    if (d == NULL || d->over)
        return;
    if (d->dial != NULL)
        peer_dial_cancel(d->dial);
    dial_end(d);
}

/* ---- what is known of all ---- */

unsigned log_other_zones(const struct log *l, uint64_t index)
{
    const struct members *m = l->raft != NULL ? consensus_members(l->raft) : &l->configured;
    const char *zones[MEMBERS_MAX];
    unsigned n = 0;

    if (l->raft_role != CONSENSUS_LEADER || l->alone)
        return 0;
    for (size_t i = 0; i < m->count; i++) {
        bool seen = strcmp(m->at[i].zone, l->self.zone) == 0 || consensus_match(l->raft, m->at[i].id) < index;

        for (unsigned k = 0; k < n && !seen; k++)
            seen = strcmp(zones[k], m->at[i].zone) == 0;
        if (!seen)
            zones[n++] = m->at[i].zone;
    }
    return n;
}

static void fill_self(struct log *l, struct log_member_status *out)
{
    out->self = out->connected = true;
    out->match_index = log_last_index(l);
    out->state = l->told;
    out->state.committed = l->committed;
    out->state.log_only = l->set.log_only;
}

size_t log_members(const struct log *log, struct log_member_status *out, size_t max)
{
    struct log *l = (struct log *)log; /* looking changes nothing */
    const struct members *m = l->raft != NULL ? consensus_members(l->raft) : &l->configured;
    uint64_t now = clock_mono_ms();
    size_t n = 0;

    for (size_t i = 0; i < m->count && n < max; i++) {
        const struct known *k = known_by_id(l, m->at[i].id);
        struct log_member_status *s = &out[n++];

        *s = (struct log_member_status){.member = m->at[i], .heard_ms_ago = UINT64_MAX};
        s->leader = l->raft != NULL && m->at[i].id == l->raft_leader && m->at[i].id != 0;
        if (k != NULL && m->at[i].id != 0) {
            s->connected = k->up;
            s->heard_ms_ago = k->heard_ms ? now - k->heard_ms : UINT64_MAX;
            s->state = k->state;
            s->clock_skew_ms = k->skew.ms;
        }
        if (l->raft != NULL && l->raft_role == CONSENSUS_LEADER)
            s->match_index = consensus_match(l->raft, m->at[i].id);
        if (m->at[i].id == l->self.id)
            fill_self(l, s);
    }
    return n;
}

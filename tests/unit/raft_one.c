/* See raft_one.h. */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/raft_one.h"

static uint64_t now_ms(void *arg)
{
    return ((struct one *)arg)->now_ms;
}

static uint64_t boot_ms(void *arg)
{
    return ((struct one *)arg)->boot_ms;
}

static void hard_state(void *arg, uint64_t term, uint64_t vote)
{
    struct one *o = arg;

    o->hard_states++;
    assert_true(term > o->hard_term || (term == o->hard_term && (o->hard_vote == 0 || o->hard_vote == vote)));
    o->hard_term = term;
    o->hard_vote = vote;
}

static void forget(struct one *o, uint64_t from)
{
    for (uint64_t i = from; i <= o->last; i++) {
        free((void *)(uintptr_t)o->log[i].change);
        memset(&o->log[i], 0, sizeof o->log[i]);
    }
    o->last = from - 1;
}

static void cut(void *arg, uint64_t index)
{
    struct one *o = arg;

    assert_true(index > o->base_index && index <= o->last);
    o->cuts++;
    forget(o, index);
}

static void append(void *arg, const struct consensus_entry *e)
{
    struct one *o = arg;

    assert_int_equal(e->index, o->last + 1);
    assert_true(e->index <= ONE_ENTRIES_MAX && e->term > 0);
    o->log[++o->last] = *e;
    if (e->type == RECORD_CHANGE) {
        void *copy = must_calloc(1, e->change_bytes);

        memcpy(copy, e->change, e->change_bytes);
        o->log[o->last].change = copy;
    }
}

static uint64_t term_at(void *arg, uint64_t index)
{
    const struct one *o = arg;

    if (index >= o->first && index <= o->last)
        return o->log[index].term;
    return index == o->base_index ? o->base_term : 0;
}

static void send_one(void *arg, const struct peer_message *m)
{
    struct one *o = arg;

    assert_true(o->sent_count < ONE_SENT_MAX);
    o->sent[o->sent_count++] = *m;
}

static void committed(void *arg, uint64_t index)
{
    struct one *o = arg;

    o->committed_fell |= index <= o->committed;
    o->committed = index;
}

static void role(void *arg, enum consensus_role r, uint64_t term, uint64_t leader)
{
    struct one *o = arg;

    (void)r;
    (void)term;
    o->roles++;
    o->leader = leader;
}

static void members(void *arg, const struct members *m, bool is_committed)
{
    struct one *o = arg;

    o->members = *m;
    o->members_committed = is_committed;
}

static void need_snapshot(void *arg, uint64_t leader, uint64_t last_index)
{
    struct one *o = arg;

    (void)last_index;
    o->needed++;
    o->need_leader = leader;
}

static void install(void *arg, uint64_t index, uint64_t term)
{
    struct one *o = arg;

    o->installs++;
    forget(o, o->first);
    o->first = index + 1;
    o->last = o->base_index = index;
    o->base_term = term;
}

static void failed(void *arg, const char *why)
{
    (void)why;
    ((struct one *)arg)->failures++;
}

struct members one_members(size_t n, enum member_role last_role)
{
    struct members m = {.count = n};

    for (size_t i = 0; i < n; i++) {
        char text[64];

        snprintf(text, sizeof text, "node%zu zone%zu 127.0.0.1:%zu", i + 1, i + 1, 7401 + i);
        assert_true(member_parse(text, &m.at[i], NULL, 0));
        m.at[i].id = i + 1;
    }
    m.at[n - 1].role = last_role;
    return m;
}

struct consensus_entry one_command(uint64_t index, uint64_t term)
{
    return (struct consensus_entry){.index = index, .term = term, .type = RECORD_COMMAND};
}

/* Its bytes are the caller's to free. */
struct consensus_entry one_change(uint64_t index, uint64_t term, const struct members *m)
{
    struct consensus_entry e = {.index = index, .term = term, .type = RECORD_CHANGE};
    struct buf bytes = {0};
    void *copy;

    consensus_encode(m, &bytes);
    copy = must_calloc(1, bytes.len);
    memcpy(copy, buf_head(&bytes), bytes.len);
    e.change = copy;
    e.change_bytes = bytes.len;
    buf_free(&bytes);
    return e;
}

struct one *one_new(uint64_t id, bool restarted)
{
    static const struct consensus_host host = {.now_ms = now_ms,
                                               .boot_ms = boot_ms,
                                               .hard_state = hard_state,
                                               .cut = cut,
                                               .append = append,
                                               .term_at = term_at,
                                               .send = send_one,
                                               .committed = committed,
                                               .role = role,
                                               .members = members,
                                               .need_snapshot = need_snapshot,
                                               .install = install,
                                               .failed = failed};
    struct one *o = must_calloc(1, sizeof *o);

    o->settings = (struct consensus_settings){.id = id,
                                              .election_ms = ONE_ELECTION_MS,
                                              .heartbeat_ms = ONE_HEARTBEAT_MS,
                                              .lease_margin_percent = ONE_MARGIN,
                                              .seed = (unsigned)id * 7,
                                              .restarted = restarted};
    o->now_ms = 100000;
    o->boot_ms = 700000;
    o->first = 1;
    o->c = consensus_new(&o->settings, &host, o);
    return o;
}

void one_fill(struct one *o, const struct members *m, uint64_t term, unsigned extra)
{
    if (m != NULL) {
        o->last++;
        o->log[o->last] = one_change(o->last, o->last == 1 ? 1 : term, m);
    }
    for (; extra > 0; extra--) {
        o->last++;
        o->log[o->last] = one_command(o->last, term);
    }
}

void one_start(struct one *o, uint64_t term)
{
    struct consensus_start s = {
        .term = term, .first = o->first, .entries = o->log + o->first, .count = o->last + 1 - o->first};

    o->hard_term = term;
    consensus_start(o->c, &s);
    one_settle(o);
}

struct one *one_simple(uint64_t id, size_t voters, uint64_t term, unsigned extra)
{
    struct members m = one_members(voters, MEMBER_VOTER);
    struct one *o = one_new(id, false);

    one_fill(o, &m, term, extra);
    one_start(o, term);
    return o;
}

void one_free(struct one *o)
{
    forget(o, o->first);
    consensus_free(o->c);
    free(o);
}

void one_settle(struct one *o)
{
    for (; !o->slow_disk && o->hard_states > 0; o->hard_states--)
        consensus_hard_state_durable(o->c);
    if (o->last >= o->first)
        consensus_persisted(o->c, o->last, o->log[o->last].term);
}

void one_sleep(struct one *o, uint64_t ms)
{
    o->now_ms += ms;
    o->boot_ms += ms;
}

void one_run(struct one *o, uint64_t ms)
{
    for (; ms > 0; ms--) {
        one_sleep(o, 1);
        if (consensus_due_ms(o->c) <= o->now_ms) {
            consensus_tick(o->c);
            one_settle(o);
        }
    }
}

uint64_t one_run_to_campaign(struct one *o)
{
    size_t mark = o->sent_count;

    for (int i = 0; i < 4 * ONE_ELECTION_MS && one_sent(o, PEER_VOTE_REQUEST, 0, mark) == NULL; i++)
        one_run(o, 1);
    assert_non_null(one_sent(o, PEER_VOTE_REQUEST, 0, mark));
    return o->now_ms;
}

void one_elect(struct one *o, uint64_t voter)
{
    one_run_to_campaign(o);
    one_vote(o, voter, consensus_term(o->c) + 1, true);
    one_vote(o, voter, consensus_term(o->c), false);
    assert_int_equal(consensus_role(o->c), CONSENSUS_LEADER);
}

void one_submit(struct one *o)
{
    struct record r = {.type = RECORD_COMMAND, .index = o->last + 1, .term = consensus_term(o->c)};

    assert_int_equal(consensus_submit(o->c, &r, 1000), CONSENSUS_OK);
    one_settle(o);
}

void one_append(struct one *o, uint64_t from, uint64_t term, uint64_t prev, uint64_t prev_term, uint64_t commit,
                const struct consensus_entry *entries, uint32_t n)
{
    struct peer_message m = {.kind = PEER_APPEND, .peer = from, .term = term, .sent_ms = o->boot_ms};

    m.append.prev_index = prev;
    m.append.prev_term = prev_term;
    m.append.commit = commit;
    m.append.count = n;
    consensus_receive(o->c, &m, entries);
}

void one_echo(struct one *o, uint64_t from, uint64_t last, uint64_t echo_ms)
{
    struct peer_message m = {
        .kind = PEER_APPEND_RESULT, .peer = from, .term = consensus_term(o->c), .echo_ms = echo_ms};

    m.append_result.last_index = last;
    consensus_receive(o->c, &m, NULL);
}

void one_result(struct one *o, uint64_t from, uint64_t rejected, uint64_t last)
{
    struct peer_message m = {.kind = PEER_APPEND_RESULT, .peer = from, .term = consensus_term(o->c)};

    m.append_result.rejected = rejected;
    m.append_result.last_index = last;
    consensus_receive(o->c, &m, NULL);
}

void one_vote(struct one *o, uint64_t from, uint64_t term, bool pre_vote)
{
    struct peer_message m = {.kind = PEER_VOTE, .peer = from, .term = term};

    m.vote.granted = true;
    m.vote.pre_vote = pre_vote;
    consensus_receive(o->c, &m, NULL);
    one_settle(o);
}

bool one_ask_vote(struct one *o, uint64_t from, uint64_t term, bool disrupt)
{
    struct peer_message m = {.kind = PEER_VOTE_REQUEST, .peer = from, .term = term};
    const struct peer_message *answer;
    size_t mark = o->sent_count;

    m.vote_request.last_index = o->last + 1000;
    m.vote_request.last_term = term - 1;
    m.vote_request.disrupt_leader = disrupt;
    consensus_receive(o->c, &m, NULL);
    one_settle(o);
    answer = one_sent(o, PEER_VOTE, from, mark);
    return answer != NULL && answer->vote.granted;
}

const struct peer_message *one_sent(const struct one *o, enum peer_kind kind, uint64_t peer, size_t mark)
{
    for (size_t i = o->sent_count; i > mark; i--)
        if (o->sent[i - 1].kind == kind && (peer == 0 || o->sent[i - 1].peer == peer))
            return &o->sent[i - 1];
    return NULL;
}

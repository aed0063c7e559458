/* Consensus beyond the guards: the lease and the promises that it rests on, held messages, nudges, transfer. */
#include "tests/unit/raft_one.h"

static struct one *leader(size_t voters)
{
    struct one *o = one_simple(1, voters, 2, 5);

    one_elect(o, 2);
    one_result(o, 2, 0, o->last);
    assert_int_equal(o->committed, o->last);
    assert_int_equal(o->leader, 1);
    return o;
}

/* The lease runs from when that was sent which a quorum has echoed, in this leadership. */
static void lease(void **state)
{
    struct one *o = leader(3);
    uint64_t sent;

    (void)state;
    assert_int_equal(consensus_lease_end_ms(o->c), 0); /* nobody has echoed yet */
    one_echo(o, 2, o->last, o->boot_ms - 1);           /* from before: no */
    one_echo(o, 2, o->last, o->boot_ms + 1);           /* not sent yet: no */
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    one_run(o, 2 * ONE_HEARTBEAT_MS);
    sent = one_sent(o, PEER_APPEND, 2, 0)->sent_ms;
    assert_true(sent > 0 && sent <= o->boot_ms);
    one_sleep(o, 30);
    one_echo(o, 2, o->last, sent);
    assert_int_equal(consensus_proven_ms(o->c), sent);
    assert_int_equal(consensus_lease_end_ms(o->c), sent + ONE_ELECTION_MS * (100 - ONE_MARGIN) / 100);
    one_echo(o, 2, o->last, sent - 1); /* an older one, late */
    assert_int_equal(consensus_proven_ms(o->c), sent);
    one_echo(o, 3, o->last, sent - 1); /* the quorum's is the best of the two */
    assert_int_equal(consensus_proven_ms(o->c), sent);
    one_run(o, 3 * ONE_ELECTION_MS); /* nobody answers: it steps down */
    assert_int_not_equal(consensus_role(o->c), CONSENSUS_LEADER);
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    assert_int_equal(consensus_proven_ms(o->c), 0);
    one_elect(o, 2);
    one_echo(o, 2, o->last, sent); /* of its first leadership */
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    one_free(o);
}

/* Five voters: two echoes besides its own are needed. A standby's counts for nothing. */
static void lease_quorum(void **state)
{
    struct members m = one_members(6, MEMBER_STANDBY);
    struct one *o = one_new(1, false);

    (void)state;
    one_fill(o, &m, 2, 0);
    one_start(o, 2);
    one_run_to_campaign(o);
    for (uint64_t id = 2; id <= 3; id++)
        one_vote(o, id, consensus_term(o->c) + 1, true);
    for (uint64_t id = 2; id <= 3; id++)
        one_vote(o, id, consensus_term(o->c), false);
    assert_int_equal(consensus_role(o->c), CONSENSUS_LEADER);
    one_sleep(o, 10);
    one_echo(o, 2, o->last, o->boot_ms);
    one_echo(o, 6, o->last, o->boot_ms);
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    one_echo(o, 5, o->last, o->boot_ms - 3);
    assert_int_equal(consensus_proven_ms(o->c), o->boot_ms - 3);
    one_free(o);
}

/* A follower echoes the newest APPEND of its leader's that it accepted, in that term, to that leader. */
static void echoes(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);
    uint64_t first = o->boot_ms;

    (void)state;
    one_append(o, 1, 2, 6, 2, 1, NULL, 0);
    assert_int_equal(one_sent(o, PEER_APPEND_RESULT, 1, 0)->echo_ms, first);
    one_sleep(o, 10);
    one_append(o, 1, 1, 6, 2, 1, NULL, 0); /* of an old term: not accepted */
    assert_int_equal(one_sent(o, PEER_APPEND_RESULT, 1, 0)->echo_ms, first);
    one_append(o, 3, 3, 6, 2, 1, NULL, 0); /* another leader */
    one_settle(o);
    assert_int_equal(one_sent(o, PEER_APPEND_RESULT, 3, 0)->echo_ms, first + 10);
    one_append(o, 1, 2, 6, 2, 1, NULL, 0); /* the old one again */
    assert_int_equal(one_sent(o, PEER_APPEND_RESULT, 1, 0)->echo_ms, 0);
    one_run_to_campaign(o); /* what it asks as a candidate, it asks as nobody's follower */
    assert_int_equal(one_sent(o, PEER_VOTE_REQUEST, 3, 0)->echo_ms, 0);
    one_free(o);
}

/* The promise: no vote for another, and no candidacy, for an election timeout after an APPEND. */
static void promise(void **state)
{
    (void)state;
    for (uint64_t wait = 1; wait < ONE_ELECTION_MS; wait += 37) {
        struct one *o = one_simple(2, 3, 2, 5);
        uint64_t heard;

        one_run(o, ONE_ELECTION_MS / 2);
        one_append(o, 1, 2, 6, 2, 1, NULL, 0);
        heard = o->now_ms;
        consensus_campaign_first(o->c, true); /* not while it follows somebody */
        one_run(o, wait);
        assert_int_equal(consensus_role(o->c), CONSENSUS_FOLLOWER);
        assert_false(one_ask_vote(o, 3, 3, false));
        assert_int_equal(consensus_term(o->c), 2);
        assert_true(one_run_to_campaign(o) - heard >= ONE_ELECTION_MS);
        assert_true(one_ask_vote(o, 3, 4, false)); /* it has run out */
        one_free(o);
    }
}

/* A restarted node has forgotten whom it follows. */
static void restarted(void **state)
{
    (void)state;
    for (int restarted = 0; restarted < 2; restarted++) {
        struct members m = one_members(3, MEMBER_VOTER);
        struct one *o = one_new(2, restarted);
        uint64_t began = o->now_ms;
        size_t mark;

        one_fill(o, &m, 2, 5);
        one_start(o, 2);
        mark = o->sent_count;
        one_run(o, ONE_ELECTION_MS - 1);
        consensus_campaign_first(o->c, true); /* cannot shorten that */
        consensus_campaign_first(o->c, false);
        assert_int_equal(one_ask_vote(o, 3, 3, false), !restarted);
        if (restarted) {
            assert_int_equal(o->sent_count, mark); /* not even an answer */
            assert_int_equal(consensus_term(o->c), 2);
            one_sleep(o, 1);
            assert_true(one_ask_vote(o, 3, 3, false));
        }
        assert_true(one_run_to_campaign(o) - began >= ONE_ELECTION_MS);
        one_free(o);
    }
}

/* Campaigns sooner, and votes for nobody, for a while; all as before when somebody leads. */
static void campaign_first(void **state)
{
    uint64_t soonest = UINT64_MAX;

    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        struct one *o = leader(3);
        uint64_t began;

        one_run(o, ONE_HEARTBEAT_MS + 17 * i);
        while (consensus_role(o->c) == CONSENSUS_LEADER)
            one_run(o, 1);
        began = o->now_ms;
        consensus_campaign_first(o->c, true);
        assert_false(one_ask_vote(o, 3, consensus_term(o->c) + 1, false));
        assert_false(one_ask_vote(o, 3, consensus_term(o->c) + 1, true));
        soonest = one_run_to_campaign(o) - began < soonest ? o->now_ms - began : soonest;
        assert_true(o->now_ms - began <= ONE_ELECTION_MS);
        one_append(o, 3, consensus_term(o->c) + 1, o->last, o->log[o->last].term, 1, NULL, 0);
        one_settle(o);
        assert_int_equal(o->leader, 3);
        began = o->now_ms;
        assert_true(one_run_to_campaign(o) - began >= ONE_ELECTION_MS);
        assert_true(one_ask_vote(o, 2, consensus_term(o->c) + 5, false));
        one_free(o);
    }
    assert_true(soonest < ONE_ELECTION_MS);
}

static void campaign_first_ends(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);

    (void)state;
    consensus_campaign_first(o->c, true);
    one_run(o, 3 * ONE_ELECTION_MS - 1);
    assert_false(one_ask_vote(o, 3, consensus_term(o->c) + 5, false));
    one_run(o, ONE_ELECTION_MS);
    assert_true(one_ask_vote(o, 3, consensus_term(o->c) + 5, false));
    one_free(o);
}

/* No message overtakes the term and the vote that it speaks of. */
static void held(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);
    size_t mark = o->sent_count;

    (void)state;
    o->slow_disk = true;
    assert_false(one_ask_vote(o, 3, 3, true)); /* granted, but not said */
    assert_int_equal(o->hard_vote, 3);
    one_append(o, 1, 4, 6, 2, 1, NULL, 0);
    one_append(o, 1, 4, 6, 2, 2, NULL, 0);
    assert_int_equal(o->hard_term, 4);
    assert_int_equal(o->sent_count, mark);
    assert_int_equal(o->hard_states, 2);
    consensus_hard_state_durable(o->c);
    assert_int_equal(o->sent_count, mark + 1);
    assert_int_equal(o->sent[mark].kind, PEER_VOTE);
    assert_true(o->sent[mark].vote.granted);
    consensus_hard_state_durable(o->c);
    assert_int_equal(o->sent_count, mark + 3);
    assert_int_equal(o->sent[mark + 1].kind, PEER_APPEND_RESULT);
    o->hard_states = 0;
    one_append(o, 1, 4, 6, 2, 2, NULL, 0); /* and at once from then on */
    assert_int_equal(o->sent_count, mark + 4);
    one_append(o, 3, 5, 6, 2, 2, NULL, 0);
    for (int i = 0; i < 1000; i++) { /* no memory without end */
        one_sleep(o, 1);
        one_append(o, 3, 5, 6, 2, 2, NULL, 0);
    }
    consensus_hard_state_durable(o->c);
    assert_int_equal(o->sent_count, mark + 4 + 256);
    assert_int_equal(o->sent[o->sent_count - 1].echo_ms, o->boot_ms); /* the newest are kept */
    o->hard_states = 0;
    one_free(o);
}

/* Commits are announced at once, once, and not to whom it would not help. */
static void nudges(void **state)
{
    struct one *o = leader(3);
    const struct peer_message *m;
    size_t mark;

    (void)state;
    one_result(o, 3, 0, o->last);
    one_submit(o);
    mark = o->sent_count;
    one_result(o, 2, 0, o->last);
    assert_int_equal(o->committed, o->last);
    for (uint64_t id = 2; id <= 3; id++) {
        m = one_sent(o, PEER_APPEND, id, mark);
        assert_int_equal(m->append.commit, o->last);
        assert_int_equal(m->append.prev_index, o->last);
        assert_int_equal(m->append.count, 0);
    }
    assert_int_equal(o->sent_count, mark + 2);
    one_result(o, 3, 0, o->last);
    assert_int_equal(o->sent_count, mark + 2);
    one_submit(o);
    one_result(o, 3, o->last, o->last - 1); /* must be brought to agree first */
    mark = o->sent_count;
    one_result(o, 2, 0, o->last);
    assert_non_null(one_sent(o, PEER_APPEND, 2, mark));
    assert_null(one_sent(o, PEER_APPEND, 3, mark));
    one_free(o);
}

/* To one that lacks something: not yet. Then: the lease ends first, for good in this term. */
static void transfer(void **state)
{
    struct one *o = leader(3);
    struct record r = {.type = RECORD_COMMAND, .index = o->last + 1, .term = consensus_term(o->c)};
    size_t mark;

    (void)state;
    one_sleep(o, 5);
    one_echo(o, 2, o->last, o->boot_ms);
    assert_true(consensus_lease_end_ms(o->c) > o->boot_ms);
    assert_int_equal(consensus_transfer(o->c, 3), CONSENSUS_BUSY);
    assert_int_equal(consensus_transfer(o->c, 1), CONSENSUS_REFUSED);
    assert_int_equal(consensus_transfer(o->c, 9), CONSENSUS_REFUSED);
    assert_true(consensus_lease_end_ms(o->c) > o->boot_ms);
    mark = o->sent_count;
    assert_int_equal(consensus_transfer(o->c, 2), CONSENSUS_OK);
    assert_non_null(one_sent(o, PEER_TIMEOUT_NOW, 2, mark));
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    assert_true(consensus_transferring(o->c));
    assert_int_equal(consensus_transfer(o->c, 2), CONSENSUS_BUSY);
    assert_int_equal(consensus_submit(o->c, &r, 100), CONSENSUS_BUSY);
    for (int i = 0; i < 2 * ONE_ELECTION_MS; i++) { /* nothing comes of it */
        one_run(o, 1);
        one_echo(o, 2, o->last, o->boot_ms);
    }
    assert_false(consensus_transferring(o->c));
    assert_int_equal(consensus_role(o->c), CONSENSUS_LEADER);
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    assert_int_equal(consensus_submit(o->c, &r, 100), CONSENSUS_OK);
    one_free(o);
}

/* One who was asked to take over may disrupt, once. */
static void disrupts_once(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);
    struct peer_message m = {.kind = PEER_TIMEOUT_NOW, .peer = 1, .term = 2};

    (void)state;
    one_append(o, 1, 2, 6, 2, 6, NULL, 0);
    m.timeout_now.last_index = 6;
    m.timeout_now.last_term = 2;
    consensus_receive(o->c, &m, NULL);
    one_settle(o);
    assert_true(one_sent(o, PEER_VOTE_REQUEST, 3, 0)->vote_request.disrupt_leader);
    one_run_to_campaign(o);
    assert_false(one_sent(o, PEER_VOTE_REQUEST, 3, 0)->vote_request.disrupt_leader);
    one_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lease),
        cmocka_unit_test(lease_quorum),
        cmocka_unit_test(echoes),
        cmocka_unit_test(promise),
        cmocka_unit_test(restarted),
        cmocka_unit_test(campaign_first),
        cmocka_unit_test(campaign_first_ends),
        cmocka_unit_test(held),
        cmocka_unit_test(nudges),
        cmocka_unit_test(transfer),
        cmocka_unit_test(disrupts_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Consensus beyond the guards: who belongs to the group, what is heard from whom, cuts and snapshots. */
#include <stdlib.h>
#include <string.h>

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

/* A change of the group, by one that may. */
static void changes(void **state)
{
    struct members three = one_members(3, MEMBER_VOTER), four = one_members(4, MEMBER_STANDBY), m;
    struct one *o = one_simple(1, 3, 2, 0);

    (void)state;
    assert_int_equal(consensus_change(o->c, &four), CONSENSUS_NOT_LEADER);
    one_elect(o, 2);
    assert_int_equal(o->log[o->last].type, RECORD_BARRIER);
    assert_int_equal(consensus_change(o->c, &four), CONSENSUS_BUSY); /* nothing of this term is committed */
    one_result(o, 2, 0, o->last);
    m = four;
    m.at[1].role = MEMBER_STANDBY; /* two changes */
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    m = four; /* one in another's place: libraft would give it that one's progress (T14) */
    m.at[2] = four.at[3];
    m.count = 3;
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    m = three;
    m.at[0] = three.at[1];
    m.at[1] = three.at[0];
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    m = three;
    m.at[0].role = MEMBER_STANDBY; /* itself */
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    m = three;
    m.at[2].role = MEMBER_STANDBY; /* a demotion */
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    m = four;
    strcpy(m.at[3].name, m.at[2].name); /* the same text twice */
    strcpy(m.at[3].zone, m.at[2].zone);
    strcpy(m.at[3].address, m.at[2].address);
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_REFUSED);
    assert_int_equal(consensus_change(o->c, &three), CONSENSUS_REFUSED); /* none */
    assert_int_equal(consensus_change(o->c, &four), CONSENSUS_OK);
    assert_int_equal(o->members.count, 4);
    assert_false(o->members_committed);
    assert_true(consensus_changing(o->c));
    assert_int_equal(consensus_change(o->c, &three), CONSENSUS_BUSY);
    one_settle(o);
    one_result(o, 2, 0, o->last);
    assert_true(o->members_committed);
    assert_int_equal(consensus_members(o->c)->at[3].role, MEMBER_STANDBY);
    m = four;
    m.at[3].role = MEMBER_VOTER;
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_BUSY); /* it does not know that it belongs to the group */
    one_result(o, 4, 0, o->last);
    assert_int_equal(consensus_change(o->c, &m), CONSENSUS_OK);
    one_free(o);
}

/* The only voter leads at once, in a term of its own, which is durable before it says anything. */
static void alone(void **state)
{
    struct one *o = one_simple(1, 1, 2, 5);
    struct members two = one_members(2, MEMBER_STANDBY);

    (void)state;
    assert_int_equal(consensus_role(o->c), CONSENSUS_LEADER);
    assert_int_equal(consensus_term(o->c), 3);
    assert_int_equal(o->hard_term, 3);
    assert_int_equal(o->hard_vote, 1);
    assert_int_equal(o->committed, 6);
    assert_true(consensus_lease_end_ms(o->c) == UINT64_MAX);
    one_submit(o);
    assert_int_equal(o->committed, 7);
    one_run(o, 5 * ONE_ELECTION_MS);
    assert_int_equal(consensus_role(o->c), CONSENSUS_LEADER);
    assert_int_equal(consensus_change(o->c, &two), CONSENSUS_OK);
    one_settle(o);
    assert_true(consensus_lease_end_ms(o->c) == UINT64_MAX);
    two.at[1].role = MEMBER_VOTER;
    one_result(o, 2, 0, o->last);
    assert_int_equal(consensus_change(o->c, &two), CONSENSUS_OK);
    assert_int_equal(consensus_lease_end_ms(o->c), 0);
    one_free(o);
}

/* A joining server knows nobody: it hears who leads. Answers of strangers count for nothing. */
static void strangers(void **state)
{
    struct members two = one_members(2, MEMBER_STANDBY);
    struct consensus_entry es[] = {one_change(1, 1, &two), one_command(2, 3)};
    struct one *o = one_new(2, false);
    struct members three = one_members(3, MEMBER_VOTER);

    (void)state;
    one_start(o, 0);
    one_run(o, 5 * ONE_ELECTION_MS);
    assert_int_equal(o->sent_count, 0);
    one_append(o, 1, 3, 0, 0, 2, es, 2);
    one_settle(o);
    assert_int_equal(o->last, 2);
    assert_int_equal(o->committed, 2);
    assert_int_equal(o->leader, 1);
    assert_int_equal(o->members.count, 2);
    one_append(o, 77, 4, 2, 3, 2, NULL, 0); /* a leader that it has not heard of yet */
    one_settle(o);
    assert_int_equal(o->leader, 77);
    free((void *)(uintptr_t)es[0].change);
    one_free(o);
    o = one_new(1, false);
    one_fill(o, &three, 2, 5);
    one_start(o, 2);
    one_run_to_campaign(o);
    one_vote(o, 77, 3, true);
    assert_int_equal(consensus_term(o->c), 2);
    one_free(o);
}

/* What no leader sends is dropped: unchecked, libraft would fall over it. */
static void hostile(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);
    struct consensus_entry e[2] = {one_command(7, 2), one_command(8, 2)}, bad[2];
    static const char junk[] = "\001\377\377\377\377\377\377\377\377";
    size_t mark = o->sent_count;

    (void)state;
    one_append(o, 1, 2, 0, 2, 1, NULL, 0);
    one_append(o, 1, 2, 6, 0, 1, NULL, 0);
    one_append(o, 1, 2, 6, 3, 1, NULL, 0);
    for (int what = 0; what < 6; what++) {
        memcpy(bad, e, sizeof bad);
        if (what == 0)
            bad[1].index = 9;
        else if (what == 1)
            bad[0].term = 0;
        else if (what == 2)
            bad[1].term = 1;
        else if (what == 3)
            bad[1].term = 3; /* later than the message's */
        else if (what == 4)
            bad[1].type = (enum record_type)9;
        else
            bad[1] = (struct consensus_entry){
                .index = 8, .term = 2, .type = RECORD_CHANGE, .change = junk, .change_bytes = sizeof junk};
        one_append(o, 1, 2, 6, 2, 1, bad, 2);
    }
    assert_int_equal(o->sent_count, mark);
    assert_int_equal(o->last, 6);
    assert_int_equal(o->leader, 0);
    one_append(o, 1, 2, 6, 2, 1, e, 2);
    assert_int_equal(o->last, 8);
    assert_int_equal(o->failures, 0);
    one_append(o, 1, 2, 3, 1, 1, NULL, 0); /* against what is committed? no: 3 is not */
    assert_int_equal(o->failures, 0);
    one_free(o);
}

/* Who asks in too low a term is told the term. */
static void terms(void **state)
{
    struct one *o = one_simple(2, 3, 9, 5);
    struct peer_message m = {.kind = PEER_VOTE_REQUEST, .peer = 3, .term = 5};

    (void)state;
    m.vote_request.pre_vote = true;
    m.vote_request.last_index = 1000;
    m.vote_request.last_term = 4;
    consensus_receive(o->c, &m, NULL);
    assert_false(one_sent(o, PEER_VOTE, 3, 0)->vote.granted);
    assert_int_equal(one_sent(o, PEER_VOTE, 3, 0)->term, 9);
    one_run_to_campaign(o);
    m = (struct peer_message){.kind = PEER_VOTE, .peer = 3, .term = 20};
    m.vote.pre_vote = true;
    consensus_receive(o->c, &m, NULL);
    assert_int_equal(consensus_term(o->c), 20);
    one_free(o);
}

/* A standby that was promoted, and does not know it yet: who needs its vote gets it. It does not stand itself. */
static void promoted(void **state)
{
    struct members m = one_members(3, MEMBER_STANDBY);
    struct one *o = one_new(3, false);

    (void)state;
    one_fill(o, &m, 2, 5);
    one_start(o, 2);
    one_run(o, 5 * ONE_ELECTION_MS);
    assert_int_equal(o->sent_count, 0);
    one_append(o, 1, 2, 7, 2, 1, NULL, 0);
    assert_int_equal(o->leader, 1);
    one_run(o, ONE_ELECTION_MS - 1);
    assert_false(one_ask_vote(o, 2, 3, false)); /* it follows somebody */
    one_run(o, 2 * ONE_ELECTION_MS);
    assert_int_equal(o->leader, 0);
    assert_true(one_ask_vote(o, 2, 3, false));
    assert_int_equal(o->hard_vote, 2);
    assert_false(one_ask_vote(o, 1, 3, false)); /* once */
    assert_int_equal(consensus_members(o->c)->at[2].role, MEMBER_STANDBY);
    one_run(o, 5 * ONE_ELECTION_MS);
    assert_null(one_sent(o, PEER_VOTE_REQUEST, 0, 0));
    one_free(o);
}

/* While a cut is not durable, a second one waits: it might bring back what the first one's disk write still holds. */
static void one_cut(void **state)
{
    struct one *o = one_simple(2, 3, 2, 5);
    struct consensus_entry a = one_command(7, 2), b = one_command(7, 3);

    (void)state;
    one_append(o, 1, 2, 6, 2, 1, &a, 1);
    one_append(o, 3, 3, 6, 2, 1, &b, 1);
    assert_int_equal(o->cuts, 1);
    one_append(o, 1, 4, 6, 2, 1, &a, 1); /* (7, 2) again */
    assert_int_equal(o->cuts, 1);
    consensus_persisted(o->c, 7, 2); /* of the first write */
    assert_int_equal(consensus_term(o->c), 3);
    assert_null(one_sent(o, PEER_APPEND_RESULT, 1, 0));
    consensus_persisted(o->c, 7, 3);
    one_append(o, 1, 4, 6, 2, 1, &a, 1);
    assert_int_equal(o->cuts, 2);
    assert_int_equal(consensus_term(o->c), 4);
    one_free(o);
}

/* A snapshot: asked for by the leader we follow, installed, and then the log goes on behind it. */
static void snapshots(void **state)
{
    struct members four = one_members(4, MEMBER_VOTER);
    struct consensus_entry change = one_change(50, 2, &four), next = one_command(101, 2);
    struct consensus_base base = {100, 2, 50, change.change, change.change_bytes};
    struct one *o = one_simple(2, 3, 2, 5);
    struct peer_message m = {.kind = PEER_INSTALL, .peer = 1, .term = 2};
    struct buf bytes = {0};

    (void)state;
    m.install.last_index = 100;
    m.install.last_term = 2;
    consensus_receive(o->c, &m, NULL); /* nobody leads yet, as far as it knows */
    assert_int_equal(o->needed, 0);
    assert_false(consensus_install(o->c, &base));
    one_append(o, 1, 2, 6, 2, 1, NULL, 0);
    m.peer = 3;
    consensus_receive(o->c, &m, NULL);
    assert_int_equal(o->needed, 0);
    m.peer = 1;
    consensus_receive(o->c, &m, NULL);
    assert_int_equal(o->needed, 1);
    assert_int_equal(o->need_leader, 1);
    base.change_bytes--;
    assert_false(consensus_install(o->c, &base));
    base.change_bytes++;
    assert_true(consensus_install(o->c, &base));
    consensus_persisted(o->c, 6, 2);
    one_append(o, 1, 2, 100, 2, 101, &next, 1); /* ignored meanwhile */
    assert_int_equal(o->last, 100);
    consensus_receive(o->c, &m, NULL);
    assert_int_equal(o->needed, 1);
    consensus_installed(o->c);
    assert_int_equal(o->committed, 100);
    assert_int_equal(o->members.count, 4);
    assert_int_equal(one_sent(o, PEER_APPEND_RESULT, 1, 0)->append_result.last_index, 100);
    assert_int_equal(consensus_committed_change(o->c, &bytes), 50);
    assert_int_equal(bytes.len, change.change_bytes);
    assert_memory_equal(buf_head(&bytes), change.change, bytes.len);
    one_append(o, 1, 2, 100, 2, 101, &next, 1);
    one_settle(o);
    assert_int_equal(o->committed, 101);
    assert_false(consensus_install(o->c, &base)); /* it has all that */
    assert_int_equal(o->failures, 0);
    buf_free(&bytes);
    free((void *)(uintptr_t)change.change);
    one_free(o);
}

/* A follower whose disk is slow gets a CHANGE, and the next one before it knows that the first is committed. When the
 * second is cut, the first is still in force. */
static void one_change_at_a_time(void **state)
{
    struct members four = one_members(4, MEMBER_STANDBY);
    struct members promoted = one_members(4, MEMBER_VOTER);
    struct one *o = one_simple(2, 3, 2, 5);
    struct consensus_entry add = one_change(7, 2, &four), promote = one_change(8, 2, &promoted);
    struct consensus_entry other = one_command(8, 3);

    (void)state;
    one_append(o, 1, 2, 6, 2, 6, &add, 1); /* not durable yet */
    assert_int_equal(o->members.count, 4);
    one_append(o, 1, 2, 7, 2, 7, &promote, 1);
    assert_int_equal(o->members.at[3].role, MEMBER_VOTER);
    one_settle(o);
    one_append(o, 3, 3, 7, 2, 7, &other, 1);
    assert_int_equal(o->cuts, 1);
    assert_int_equal(o->members.count, 4);
    assert_int_equal(o->members.at[3].role, MEMBER_STANDBY);
    assert_int_equal(o->failures, 0);
    free((void *)(uintptr_t)add.change);
    free((void *)(uintptr_t)promote.change);
    one_free(o);
}

/* When the log may be shortened; and the leader then offers a snapshot to whom needs what is gone. */
static void compacts(void **state)
{
    struct one *o = leader(3);
    size_t mark;

    (void)state;
    one_submit(o); /* not committed */
    assert_false(consensus_compact(o->c, o->last, 2));
    assert_false(consensus_compact(o->c, 0, 1));
    assert_false(consensus_compact(o->c, 5, 7));
    assert_false(consensus_compact(o->c, 5, 0));
    assert_true(consensus_compact(o->c, 5, 6));
    assert_false(consensus_compact(o->c, 5, 6));
    assert_false(consensus_compact(o->c, 4, 5));
    mark = o->sent_count;
    one_result(o, 3, 6, 2); /* 3 has only two entries */
    assert_non_null(one_sent(o, PEER_INSTALL, 3, mark));
    assert_int_equal(one_sent(o, PEER_INSTALL, 3, mark)->install.last_index, 5);
    assert_int_equal(o->failures, 0);
    one_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes), cmocka_unit_test(alone),     cmocka_unit_test(strangers),
        cmocka_unit_test(hostile), cmocka_unit_test(terms),     cmocka_unit_test(promoted),
        cmocka_unit_test(one_cut), cmocka_unit_test(snapshots), cmocka_unit_test(compacts),
        cmocka_unit_test(one_change_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

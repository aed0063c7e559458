/* The ten guards against libraft's defects, one by one: each test shows that all is well with the guard, and the
 * defect without it. If one "without" fails after an upgrade of libraft, the defect may be gone. */
#include <raft.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/raft_one.h"

/* A follower of node 1, in a log of one CHANGE and `extra` commands of term 2, all committed up to `commit`. */
static struct one *follower(const char *without, unsigned extra, uint64_t commit)
{
    struct one *o = one_simple(2, 3, 2, extra);

    consensus_without(o->c, without);
    one_append(o, 1, 2, 1 + extra, extra == 0 ? 1 : 2, commit, NULL, 0);
    one_settle(o);
    return o;
}

/* Node 1, leading with everything acknowledged by node 2. */
static struct one *leader(const char *without, struct one *o)
{
    consensus_without(o->c, without);
    one_elect(o, 2);
    one_result(o, 2, 0, o->last);
    assert_int_equal(o->committed, o->last);
    return o;
}

/* A CHANGE in the middle of an APPEND, cut again by the next leader: its configuration must go with it. */
static size_t members_after_cut(const char *without)
{
    struct one *o = follower(without, 0, 1);
    struct members four = one_members(4, MEMBER_VOTER);
    struct consensus_entry es[] = {one_command(2, 2), one_command(3, 2), one_change(4, 2, &four)};
    struct consensus_entry other = one_command(3, 3);
    size_t n;

    one_append(o, 1, 2, 1, 1, 1, es, 3);
    assert_int_equal(o->members.count, 4);
    assert_false(o->members_committed);
    one_settle(o);
    one_append(o, 3, 3, 2, 2, 1, &other, 1);
    assert_int_equal(o->cuts, 1);
    assert_int_equal(o->last, 3);
    n = o->members.count;
    free((void *)(uintptr_t)es[2].change);
    one_free(o);
    return n;
}

static void split(void **state)
{
    (void)state;
    assert_int_equal(members_after_cut(NULL), 3);
    assert_int_equal(members_after_cut("split"), 4);
}

/* An APPEND that begins below what the follower has compacted: it is not to be rejected, all of it is committed. */
static uint64_t rejected_below_compacted(const char *without)
{
    struct one *o = follower(without, 99, 100);
    size_t mark;
    uint64_t rejected;

    assert_true(consensus_compact(o->c, 90, 86));
    mark = o->sent_count;
    one_append(o, 1, 2, 40, 2, 100, NULL, 0);
    rejected = one_sent(o, PEER_APPEND_RESULT, 1, mark)->append_result.rejected;
    one_free(o);
    return rejected;
}

static void prev(void **state)
{
    (void)state;
    assert_int_equal(rejected_below_compacted(NULL), 0);
    assert_int_equal(rejected_below_compacted("prev"), 40);
}

/* libraft's heap, counted; what it leaks is freed here, so that it is no leak of the test. */
static void *leaks[4096];

static void note_alloc(void *p)
{
    for (size_t i = 0; i < sizeof leaks / sizeof leaks[0]; i++)
        if (leaks[i] == NULL) {
            leaks[i] = p;
            return;
        }
    fail();
}

static void *heap_malloc(void *data, size_t n)
{
    void *p = malloc(n);

    (void)data;
    note_alloc(p);
    return p;
}

static void heap_free(void *data, void *p)
{
    (void)data;
    for (size_t i = 0; i < sizeof leaks / sizeof leaks[0]; i++)
        if (leaks[i] == p)
            leaks[i] = NULL;
    free(p);
}

static void *heap_calloc(void *data, size_t count, size_t size)
{
    void *p = calloc(count, size);

    (void)data;
    note_alloc(p);
    return p;
}

static void *heap_realloc(void *data, void *old, size_t n)
{
    void *p;

    (void)data;
    for (size_t i = 0; old != NULL && i < sizeof leaks / sizeof leaks[0]; i++)
        if (leaks[i] == old)
            leaks[i] = NULL;
    p = realloc(old, n);
    note_alloc(p);
    return p;
}

/* A second snapshot while one is being installed; how much has leaked at the end. */
static size_t leaked_by_install(const char *without)
{
    static struct raft_heap heap = {NULL, heap_malloc, heap_free, heap_calloc, heap_realloc, NULL, NULL};
    struct members three = one_members(3, MEMBER_VOTER);
    struct consensus_entry change = one_change(1, 1, &three);
    struct consensus_base base = {500, 2, 1, change.change, change.change_bytes};
    size_t leaked = 0;
    struct one *o;

    raft_heap_set(&heap);
    o = follower(without, 5, 1);
    assert_true(consensus_install(o->c, &base));
    assert_false(consensus_install(o->c, &base));
    assert_int_equal(o->installs, 1);
    consensus_installed(o->c);
    assert_int_equal(o->committed, 500);
    one_free(o);
    for (size_t i = 0; i < sizeof leaks / sizeof leaks[0]; i++) {
        leaked += leaks[i] != NULL;
        free(leaks[i]);
        leaks[i] = NULL;
    }
    raft_heap_set_default();
    free((void *)(uintptr_t)change.change);
    return leaked;
}

static void install(void **state)
{
    (void)state;
    assert_int_equal(leaked_by_install(NULL), 0);
    assert_true(leaked_by_install("install") > 0);
}

/* Leaves its mark where the next calls have their uninitialised variables. */
__attribute__((noinline, no_sanitize("address"))) static void dirty_stack(void)
{
    volatile unsigned char junk[32768];

    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = 0x5a;
}

/* The answer to a leader of an old term. */
static struct peer_message answer_to_old_leader(const char *without)
{
    struct one *o = one_simple(2, 3, 7, 5);
    struct peer_message m;

    consensus_without(o->c, without);
    dirty_stack();
    one_append(o, 1, 3, 0, 0, 0, NULL, 0);
    m = *one_sent(o, PEER_APPEND_RESULT, 1, 0);
    one_free(o);
    return m;
}

static void stale_result(void **state)
{
    struct peer_message m = answer_to_old_leader(NULL);

    (void)state;
    assert_int_equal(m.term, 7);
    assert_int_equal(m.append_result.last_index, 0);
    m = answer_to_old_leader("stale-result");
    assert_int_equal(m.append_result.rejected, 0); /* "success" */
    assert_int_not_equal(m.append_result.last_index, 0);
}

/* A peer that libraft's leader skips (here: a role that we never give): how often it wants to be woken in a second.
 */
static unsigned wakes_with_skipped_peer(const char *without)
{
    struct members four = one_members(4, MEMBER_STANDBY);
    struct one *o = one_new(1, false);
    unsigned wakes = 0;

    one_fill(o, &four, 2, 5);
    one_start(o, 2);
    leader(without, o);
    one_run(o, 1);
    consensus_raft(o->c)->configuration.servers[3].role = RAFT_SPARE;
    for (int ms = 0; ms < 1000; ms++) {
        one_sleep(o, 1);
        if (consensus_due_ms(o->c) > o->now_ms)
            continue;
        consensus_tick(o->c);
        wakes++;
        one_result(o, 2, 0, o->last);
        one_result(o, 3, 0, o->last);
    }
    one_free(o);
    return wakes;
}

static void timer(void **state)
{
    (void)state;
    assert_true(wakes_with_skipped_peer(NULL) <= 1000 / ONE_HEARTBEAT_MS + 1);
    assert_true(wakes_with_skipped_peer("timer") > 500);
}

/* An older APPEND comes late, and knows of a later commit. */
static uint64_t commit_after_late_append(const char *without, bool *fell)
{
    struct one *o = follower(without, 20, 10);
    uint64_t commit;

    assert_int_equal(o->committed, 10);
    one_append(o, 1, 2, 5, 2, 12, NULL, 0);
    commit = consensus_commit(o->c);
    *fell = o->committed_fell;
    one_free(o);
    return commit;
}

static void commit(void **state)
{
    bool fell;

    (void)state;
    assert_int_equal(commit_after_late_append(NULL, &fell), 10);
    assert_false(fell);
    assert_int_equal(commit_after_late_append("commit", &fell), 5);
    assert_true(fell);
}

/* A restart with a CHANGE in the log: may the group be changed again? */
static enum consensus_answer change_after_restart(const char *without)
{
    struct members three = one_members(3, MEMBER_VOTER), four = one_members(4, MEMBER_STANDBY);
    struct one *o = one_new(1, false);
    enum consensus_answer answer;

    one_fill(o, &three, 2, 1);
    one_fill(o, &four, 2, 0);
    one_start(o, 2);
    leader(without, o);
    assert_int_equal(o->members.count, 4);
    assert_int_equal(o->members_committed, without == NULL);
    answer = consensus_change(o->c, &three);
    one_free(o);
    return answer;
}

static void configuration(void **state)
{
    (void)state;
    assert_int_equal(change_after_restart(NULL), CONSENSUS_OK);
    assert_int_equal(change_after_restart("configuration"), CONSENSUS_BUSY);
}

/* Node 3 matches up to 15, falls silent, and then a late rejection of 15 arrives: what does it still get? */
static uint64_t match_after_late_rejection(const char *without)
{
    struct one *o = leader(without, one_simple(1, 3, 2, 20));
    uint64_t match;

    one_result(o, 3, 0, 15);
    for (int i = 0; i < 25; i++) { /* libraft notices that 3 is silent, and goes back to asking it */
        one_run(o, ONE_HEARTBEAT_MS);
        one_result(o, 2, 0, o->last);
    }
    one_result(o, 3, 15, 14);
    for (int i = 0; i < 50; i++) {
        size_t mark = o->sent_count;
        const struct peer_message *m;

        one_run(o, ONE_HEARTBEAT_MS);
        one_result(o, 2, 0, o->last);
        m = one_sent(o, PEER_APPEND, 3, mark);
        if (m != NULL) /* it accepts all that it is sent */
            one_result(o, 3, 0, m->append.prev_index + m->append.count);
    }
    match = consensus_match(o->c, 3);
    assert_int_equal(o->failures, 0);
    one_free(o);
    return match;
}

static void rejected(void **state)
{
    (void)state;
    assert_int_equal(match_after_late_rejection(NULL), 22); /* 1 + 20, and the barrier */
    assert_int_equal(match_after_late_rejection("rejected"), 15);
}

/* A deposed leader's 1,000 entries that nobody else has: how many round trips until the new one finds what agrees. */
static unsigned round_trips_to_agree(const char *without)
{
    struct one *o = one_simple(2, 3, 2, 1000);
    uint64_t prev = o->last;
    unsigned trips = 0;

    consensus_without(o->c, without);
    while (prev > 1) {
        size_t mark = o->sent_count;
        const struct peer_message *m;

        one_append(o, 3, 5, prev, 4, 1, NULL, 0); /* of another term */
        one_settle(o);
        m = one_sent(o, PEER_APPEND_RESULT, 3, mark);
        assert_int_equal(m->append_result.rejected, prev);
        assert_true(m->append_result.last_index < prev);
        prev = m->append_result.last_index;
        trips++;
    }
    assert_int_equal(o->cuts, 0);
    one_free(o);
    return trips;
}

static void hint(void **state)
{
    (void)state;
    assert_true(round_trips_to_agree(NULL) <= 11);
    assert_int_equal(round_trips_to_agree("hint"), 1000);
}

/* How many of 100 entries a leader takes that nobody acknowledges, with a window of 10. */
static unsigned taken_without_quorum(const char *without)
{
    struct one *o = leader(without, one_simple(1, 3, 2, 5));
    unsigned taken = 0;

    for (int i = 0; i < 100; i++) {
        struct record r = {.type = RECORD_COMMAND, .index = o->last + 1, .term = consensus_term(o->c)};
        enum consensus_answer answer = consensus_submit(o->c, &r, 10);

        assert_true(answer == CONSENSUS_OK || answer == CONSENSUS_BUSY);
        taken += answer == CONSENSUS_OK;
    }
    one_free(o);
    return taken;
}

static void window(void **state)
{
    (void)state;
    assert_int_equal(taken_without_quorum(NULL), 10);
    assert_int_equal(taken_without_quorum("window"), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split),         cmocka_unit_test(prev),     cmocka_unit_test(install),
        cmocka_unit_test(stale_result),  cmocka_unit_test(timer),    cmocka_unit_test(commit),
        cmocka_unit_test(configuration), cmocka_unit_test(rejected), cmocka_unit_test(hint),
        cmocka_unit_test(window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

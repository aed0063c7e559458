/* The node as a follower, against a real Valkey: fed, fed again, promoted and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "log/base/clock.h"
#include "tests/unit/follow_log.h"
#include "tests/unit/node_world.h"

enum { COMMANDS = 500, ENTRIES = 300 };

/* ---- helpers ---- */

static struct world *new_follower(void)
{
    struct world *w = new_world();

    w->part = NODE_FOLLOWS;
    real_valkey_start(&w->v, NULL);
    return w;
}

static bool until_fed(struct fixture *f)
{
    struct world *w = world_of(f);

    return w->is_fed && node_figures(w->node)->fed_index >= log_committed(f->log);
}

static void wait_fed(struct world *w)
{
    assert_true(fixture_wait(&w->f, until_fed));
    assert_int_equal(node_state(w->node), NODE_FED);
    assert_true(node_warm(w->node));
}

static bool until_unfed(struct fixture *f)
{
    return !world_of(f)->is_fed;
}

static bool until_waiting(struct fixture *f)
{
    struct world *w = world_of(f);

    return node_state(w->node) == NODE_WAITING && node_figures(w->node)->valkey_keys != UINT64_MAX;
}

static uint64_t full(struct world *w)
{
    return node_figures(w->node)->feeds_full;
}

static uint64_t partial(struct world *w)
{
    return node_figures(w->node)->feeds_partial;
}

/* ---- feeding ---- */

/* Nothing is done to Valkey before the log says something. */
static void feeds_a_growing_log(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 1};
    char keys[32];

    (void)state;
    real_valkey_do(&w->v, "MSET own 1 other 2");
    start_node(w);
    assert_true(fixture_wait(&w->f, until_waiting));
    assert_int_equal(node_figures(w->node)->valkey_keys, 2);
    real_valkey_do(&w->v, "SELECT 2");
    real_valkey_do(&w->v, "SET own 1");
    fixture_turns(&w->f, 1300);
    assert_int_equal(node_figures(w->node)->valkey_keys, 3);
    assert_int_equal(node_figures(w->node)->fed_index, 0);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    expect_replayed(w);
    for (int i = 0; i < 20; i++) {
        lead_entries(w, &l, 20);
        fixture_turns(&w->f, (unsigned)i * 7);
    }
    wait_fed(w);
    expect_replayed(w);
    assert_true(full(w) == 1 && partial(w) == 0);
    assert_true(w->feds == 1 && w->unfeds == 0);
    real_valkey_ask(&w->v, keys, sizeof keys, "DBSIZE");
    fixture_turns(&w->f, 1300);
    assert_true(node_figures(w->node)->valkey_keys >= strtoull(keys, NULL, 10));
    close_world(w);
}

/* A snapshot that the log does not speak of is no beginning: the group may yet begin with what Valkey holds, which is
 * left alone until then. */
static void waits_for_a_beginning(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 9};
    char kept[32];

    (void)state;
    real_valkey_do(&w->v, "MSET own 1 other 2");
    adopt_in_vain(w);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_waiting));
    fixture_turns(&w->f, 500);
    assert_int_equal(node_state(w->node), NODE_WAITING);
    assert_int_equal(full(w), 0);
    real_valkey_ask(&w->v, kept, sizeof kept, "GET own");
    assert_string_equal(kept, "1");
    lead_entries(w, &l, 20);
    wait_fed(w);
    expect_replayed(w);
    close_world(w);
}

/* The process dies, again and again, and the log grows meanwhile. */
static void goes_on_after_a_restart(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 2};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    for (unsigned i = 0; i < 12; i++) {
        lead_entries(w, &l, 40);
        fixture_turns(&w->f, i == 5 ? 6500 : i * 3); /* a PING is sent, too */
        restart_log(w);
        lead_entries(w, &l, i % 3 == 0 ? 0 : 40);
        start_node(w);
        wait_fed(w);
        assert_true(full(w) == 0 && partial(w) == 1);
    }
    expect_replayed(w);
    close_world(w);
}

/* Only the link breaks; then Valkey hangs; then it dies, and an empty one comes. */
static void feeds_again(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 3};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    for (uint64_t i = 1; i <= 5; i++) {
        lead_entries(w, &l, 30);
        real_valkey_do(&w->v, "CLIENT KILL TYPE master");
        lead_entries(w, &l, 30);
        fixture_turns(&w->f, 100);
        wait_fed(w);
        assert_int_equal(w->unfeds, i);
        assert_int_equal(partial(w), i);
    }
    assert_int_equal(full(w), 1);
    (void)kill(w->v.pid, SIGSTOP);
    lead_entries(w, &l, 30);
    assert_true(fixture_wait(&w->f, until_unfed));
    (void)kill(w->v.pid, SIGCONT);
    wait_fed(w);
    assert_int_equal(full(w), 1);
    assert_true(partial(w) >= 6);
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_unfed));
    lead_entries(w, &l, 30);
    real_valkey_start(&w->v, NULL);
    wait_fed(w);
    assert_int_equal(full(w), 2);
    expect_replayed(w);
    close_world(w);
}

/* Somebody else promotes it and writes to it: its state is not trusted. */
static void does_not_trust_strangers(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 4};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    real_valkey_do(&w->v, "REPLICAOF NO ONE");
    real_valkey_do(&w->v, "SET stranger 1");
    assert_true(fixture_wait(&w->f, until_unfed));
    wait_fed(w);
    assert_true(full(w) == 2);
    expect_replayed(w);
    stop_node(w);
    real_valkey_do(&w->v, "REPLICAOF NO ONE"); /* and while we are away */
    real_valkey_do(&w->v, "SET stranger 1");
    start_node(w);
    wait_fed(w);
    assert_true(full(w) == 1 && partial(w) == 0);
    expect_replayed(w);
    close_world(w);
}

static bool until_skipped_twice(struct fixture *f)
{
    struct world *w = world_of(f);

    return node_figures(w->node)->feeds_full == 2 && node_figures(w->node)->fed_index >= log_committed(f->log);
}

/* An effect that it refuses: fed once more, and then not called warm any more. */
static void sees_what_is_skipped(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 5};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    lead_raw(w, "SET k text");
    lead_raw(w, "LPUSH k x");
    assert_true(fixture_wait(&w->f, until_unfed));
    assert_true(fixture_wait(&w->f, until_skipped_twice));
    fixture_turns(&w->f, 2500);
    assert_true(!w->is_fed && full(w) == 2);
    assert_int_equal(node_state(w->node), NODE_FEEDING);
    assert_false(node_warm(w->node));
    close_world(w);
}

/* ---- leading, and back ---- */

static void promote(struct world *w, struct leader *l)
{
    node_play(w->node, NODE_LEADS);
    assert_true(fixture_wait(&w->f, until_attached));
    l->pending_count = 0; /* resolved */
}

static void promotes(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 6};
    char before[64], masterauth[128];

    (void)state;
    real_valkey_do(&w->v, "CONFIG SET masterauth operators-own");
    start_node(w);
    for (int i = 0; i < 8; i++) {
        uint64_t commits, started;

        lead_entries(w, &l, 100);
        if (i % 2)
            lead_entries(w, &l, 200);
        if (i != 5)
            wait_fed(w);
        commits = w->commits;
        started = clock_mono_us();
        promote(w, &l);
        print_message("promotion: %llu us, %llu entries\n", (unsigned long long)(clock_mono_us() - started),
                      (unsigned long long)(w->commits - commits));
        assert_true(w->commits - commits <= 3 || i == 5);
        assert_int_equal(w->bridged, 0);
        assert_int_equal(w->pending, 0);
        real_valkey_ask(&w->v, masterauth, sizeof masterauth, "CONFIG GET masterauth");
        expect_replayed(w);
        real_valkey_workload(&w->v, 100 + (uint64_t)i, COMMANDS);
        follow(w);
        digest(w, before);
        expect_replayed(w);
        node_play(w->node, NODE_FOLLOWS);
        assert_false(w->is_attached);
        wait_fed(w);
        expect_digest(w, before);
    }
    assert_int_equal(w->close_outs, 0);
    assert_int_equal(w->attached, 8);
    assert_int_equal(node_figures(w->node)->rebuilds, 8);
    close_world(w);
}

static void on_proven(void *arg, bool proven)
{
    *(int *)arg = proven ? 1 : 0;
}

static int prove(struct world *w)
{
    int proven = -1;

    node_prove(w->node, on_proven, &proven);
    for (int i = 0; i < 300 && proven < 0; i++)
        fixture_turns(&w->f, 10);
    return proven;
}

/* Proven at the end of a leadership: back without a full sync, unless something came in between. */
static void proves(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 7};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    for (uint64_t i = 0; i < 6; i++) {
        promote(w, &l);
        real_valkey_workload(&w->v, 200 + i, COMMANDS);
        follow(w);
        assert_int_equal(prove(w), 1);
        lead_entries(w, &l, i % 2 ? 50 : 0);
        if (i == 3)
            real_valkey_do(&w->v, "SET too late"); /* logged by the tap, or not: not proven any more */
        if (i == 4)
            fixture_turns(&w->f, 11000); /* Valkey's own PING */
        node_play(w->node, NODE_FOLLOWS);
        wait_fed(w);
        assert_int_equal(partial(w) + full(w), i + 2);
        if (i != 3)
            assert_int_equal(full(w), i < 3 ? 1 : 2);
        expect_replayed(w);
    }
    assert_int_equal(full(w), 2);
    close_world(w);
}

/* The whole group was restarted: a Valkey that was fed is promoted without a rebuild. */
static void promotes_after_a_restart(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 8};

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    w->part = NODE_LEADS;
    restart_log(w);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    assert_true(full(w) == 0 && partial(w) == 1);
    expect_replayed(w);
    close_world(w);
}

static bool until_promoting(struct fixture *f)
{
    return node_state(world_of(f)->node) == NODE_PROMOTING;
}

/* Valkey dies while it is promoted. */
static void dies_promoting(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 9};

    (void)state;
    start_node(w);
    for (unsigned i = 0; i < 6; i++) {
        lead_entries(w, &l, 60);
        wait_fed(w);
        lead_entries(w, &l, 20);
        node_play(w->node, NODE_LEADS);
        assert_true(until_promoting(&w->f));
        for (unsigned turn = 0; turn < i * 2; turn++)
            fixture_turns(&w->f, 1);
        real_valkey_kill(&w->v);
        fixture_turns(&w->f, 5);
        real_valkey_start(&w->v, NULL);
        assert_true(fixture_wait(&w->f, until_detached) && fixture_wait(&w->f, until_attached));
        l.pending_count = 0;
        expect_replayed(w);
        node_play(w->node, NODE_FOLLOWS);
    }
    close_world(w);
}

/* ---- snapshots ---- */

static bool until_truncated(struct fixture *f)
{
    return node_figures(world_of(f)->node)->snapshot_index > 0 &&
           !node_figures(world_of(f)->node)->snapshot_running && log_first_index(f->log) > 1;
}

static bool until_snapshot(struct fixture *f)
{
    return node_figures(world_of(f)->node)->snapshot_index > 0;
}

/* Taken from a fed Valkey while the log grows: with the rest of the log, the same state. */
static void snapshots(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 10};
    char whole[64];

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    wait_fed(w);
    node_snapshot(w->node, "a test");
    lead_entries(w, &l, 100);
    replayed_digest(w, whole);
    assert_true(fixture_wait(&w->f, until_snapshot));
    expect_replayed(w);
    w->config.snapshot_log_bytes = 64 * 1024; /* by itself, and truncated behind it */
    for (int i = 0; i < 30; i++) {
        lead_entries(w, &l, 60);
        fixture_turns(&w->f, 20);
    }
    assert_true(fixture_wait(&w->f, until_truncated));
    wait_fed(w);
    assert_int_equal(full(w), 1);
    expect_replayed(w);
    restart_log(w);
    start_node(w);
    wait_fed(w);
    assert_true(full(w) == 0 && partial(w) == 1);
    promote(w, &l);
    expect_replayed(w);
    assert_int_equal(w->snapshots + w->snapshots_failed, 0); /* the core was not bothered */
    close_world(w);
}

/* ---- flapping ---- */

static void flaps(void **state)
{
    struct world *w = new_follower();
    struct leader l = {.x = 11};
    uint64_t x = 12345;

    (void)state;
    start_node(w);
    lead_entries(w, &l, ENTRIES);
    for (int i = 0; i < 200; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        if (w->is_attached) {
            l.pending_count = 0;
            if ((x >> 40) % 2) {
                real_valkey_workload(&w->v, x >> 33, 20);
                follow(w);
            }
            if ((x >> 41) % 2)
                (void)prove(w);
        } else if (node_state(w->node) == NODE_FED || node_state(w->node) == NODE_FEEDING) {
            lead_entries(w, &l, (x >> 42) % 5);
        }
        node_play(w->node, (enum node_part)((x >> 33) % 3));
        fixture_turns(&w->f, (x >> 50) % 3 == 0 ? (unsigned)((x >> 52) % 300) : (unsigned)((x >> 52) % 12));
    }
    node_play(w->node, NODE_LEADS);
    assert_true(fixture_wait(&w->f, until_attached));
    expect_replayed(w);
    node_play(w->node, NODE_FOLLOWS);
    wait_fed(w);
    expect_replayed(w);
    print_message("flapping: %llu full, %llu partial, %llu promotions\n", (unsigned long long)full(w),
                  (unsigned long long)partial(w), (unsigned long long)node_figures(w->node)->rebuilds);
    close_world(w);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(feeds_a_growing_log),
                                       cmocka_unit_test(waits_for_a_beginning),
                                       cmocka_unit_test(goes_on_after_a_restart),
                                       cmocka_unit_test(feeds_again),
                                       cmocka_unit_test(does_not_trust_strangers),
                                       cmocka_unit_test(sees_what_is_skipped),
                                       cmocka_unit_test(promotes),
                                       cmocka_unit_test(proves),
                                       cmocka_unit_test(promotes_after_a_restart),
                                       cmocka_unit_test(dies_promoting),
                                       cmocka_unit_test(snapshots),
                                       cmocka_unit_test(flaps)};

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (!real_valkey_installed())
        return 0;
    return cmocka_run_group_tests_name("follow", tests, NULL, NULL);
}

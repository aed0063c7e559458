/* Consensus under everything that can go wrong, by seed (raft_sim.h).
 *
 *   RAFT_SEEDS=n   so many histories instead of the default
 *   RAFT_SEED=n    only this one, told step by step
 *   RAFT_BUG=name  with that bug planted in the host (rsim_bug_names)
 *   RAFT_WITHOUT=g without that guard of consensus.h
 *
 * A failure prints its seed. Each planted bug must be found twice: by the checks of what host and consensus promise
 * each other, and, without those, by what it leads to. */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/raft_sim.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW_BUILD
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW_BUILD
#endif
#ifdef SLOW_BUILD
enum { SEEDS = 400 };
#else
enum { SEEDS = 2000 };
#endif

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static enum rsim_bug bug_of(const char *name)
{
    for (int bug = RSIM_NO_BUG; name != NULL && bug < RSIM_BUGS; bug++)
        if (strcmp(name, rsim_bug_names[bug]) == 0)
            return (enum rsim_bug)bug;
    return RSIM_NO_BUG;
}

/* A CHECK of the product, or an assertion of libraft, ends the process: the seed is said even then. */
static char running[64];

static void on_abort(int sig)
{
    (void)sig;
    (void)!write(STDERR_FILENO, running, strlen(running));
}

static bool run(uint64_t seed, enum rsim_bug bug, enum rsim_checks checks, struct rsim_counts *c,
                char why[RSIM_WHY_BYTES])
{
    struct rsim_plan plan = {.seed = seed,
                             .bug = bug,
                             .checks = checks,
                             .without = getenv("RAFT_WITHOUT"),
                             .trace = getenv("RAFT_SEED") != NULL};

    (void)snprintf(running, sizeof running, "aborted in RAFT_SEED=%" PRIu64 "\n", seed);
    return rsim_run(&plan, c, why);
}

static void test_holds(void **state)
{
    enum rsim_bug bug = bug_of(getenv("RAFT_BUG"));
    uint64_t first = number("RAFT_SEED", 0), count = getenv("RAFT_SEED") != NULL ? 1 : number("RAFT_SEEDS", SEEDS);
    uint64_t failures = 0;
    struct rsim_counts c = {0};
    char why[RSIM_WHY_BYTES];

    (void)state;
    for (uint64_t seed = first; seed < first + count && failures < 5; seed++)
        if (!run(seed, bug, RSIM_ALL, &c, why)) {
            print_error("RAFT_SEED=%" PRIu64 " build/unit/test_raft_sim: %s\n", seed, why);
            failures++;
        }
    print_message("%" PRIu64 " histories of %" PRIu64 " s: %" PRIu64 " entries committed, %" PRIu64
                  " elections, %" PRIu64 " messages, %" PRIu64 " events\n",
                  count, c.virtual_ms / 1000, c.committed, c.elections, c.messages, c.events);
    print_message("%" PRIu64 " crashes lost %" PRIu64 " writes, %" PRIu64 " entries cut, %" PRIu64 " cuts, %" PRIu64
                  " pauses, %" PRIu64 " slow disks, %" PRIu64 " lost disks\n",
                  c.crashes, c.lost_writes, c.entries_cut, c.cuts, c.pauses, c.slow_disks, c.lost_disks);
    print_message("%" PRIu64 " compactions, %" PRIu64 " fetches, %" PRIu64 " installs, %" PRIu64
                  " transfers, %" PRIu64 " changes, %" PRIu64 " leases held; healed within %" PRIu64
                  " ms; digest %016" PRIx64 "\n",
                  c.compactions, c.fetches, c.installs, c.transfers, c.changes, c.leases, c.heal_ms_max, c.digest);
    if (count >= 100) { /* what never happens proves nothing */
        assert_true(c.lost_writes > 0 && c.entries_cut > 0 && c.pauses > 0 && c.slow_disks > 0 && c.cuts > 0);
        assert_true(c.compactions > 0 && c.installs > 0 && c.transfers > 0 && c.changes > 0 && c.lost_disks > 0);
    }
    assert_int_equal(failures, 0);
}

/* The same seed gives the same history, or a failure could not be looked at. */
static void test_repeats(void **state)
{
    char why[RSIM_WHY_BYTES];

    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct rsim_counts once = {0}, again = {0};

        (void)run(seed, RSIM_NO_BUG, RSIM_ALL, &once, why);
        (void)run(seed, RSIM_NO_BUG, RSIM_ALL, &again, why);
        assert_memory_equal(&once, &again, sizeof once);
    }
}

static const struct {
    enum rsim_bug bug;
    enum rsim_checks checks;
    uint64_t seeds;
} planted[] = {
    {RSIM_VOTE_FORGOTTEN, RSIM_ALL, 10},     {RSIM_VOTE_FORGOTTEN, RSIM_CONSEQUENCES, 2000},
    {RSIM_ACK_EARLY, RSIM_ALL, 10},          {RSIM_ACK_EARLY, RSIM_CONSEQUENCES, 1000},
    {RSIM_NO_QUORUM, RSIM_ALL, 10},          {RSIM_NO_QUORUM, RSIM_CONSEQUENCES, 1000},
    {RSIM_LEASE_LONG, RSIM_ALL, 1000},       {RSIM_AMNESIA, RSIM_ALL, 1000},
    {RSIM_AMNESIA, RSIM_CONSEQUENCES, 1000},
};

static void test_planted_bugs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof planted / sizeof *planted; i++) {
        struct rsim_counts c = {0};
        char why[RSIM_WHY_BYTES];
        uint64_t seed = 0;

        while (seed < planted[i].seeds && run(seed, planted[i].bug, planted[i].checks, &c, why))
            seed++;
        if (seed == planted[i].seeds)
            fail_msg("%s was not found in %" PRIu64 " histories", rsim_bug_names[planted[i].bug], seed);
        print_message("%s (%s): seed %" PRIu64 ", %s\n", rsim_bug_names[planted[i].bug],
                      planted[i].checks == RSIM_ALL ? "all checks" : "consequences", seed, why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds),
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_planted_bugs),
    };
    const struct CMUnitTest one[] = {cmocka_unit_test(test_holds)};

    (void)signal(SIGABRT, on_abort);
    if (getenv("RAFT_SEED") != NULL)
        return cmocka_run_group_tests(one, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The release rule (design section 5) against the real sequencer.
 *
 *   HF_SEEDS=n    so many schedules instead of the default
 *   HF_SEED=n     only this one, told step by step      HF_PROFILE=n  of this profile (sim_sequencer.h)
 *   HF_WITHOUT=c  without clause c
 *
 * A failure prints its seed. Schedules by hand are in test_sequencer_hand.c. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/diag.h"
#include "proxy/sequencer.h"
#include "tests/unit/sim_sequencer.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW_BUILD
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW_BUILD
#endif
#ifdef SLOW_BUILD
enum { SEEDS = 6000 };
#else
enum { SEEDS = 60000 };
#endif

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

/* ---- by seed ---- */

static void test_rule_holds(void **state)
{
    struct sim *w = sim_new();
    uint64_t seeds = number("HF_SEEDS", SEEDS), failures = 0;
    char why[SIM_WHY_BYTES];
    const struct sim_counts *c = sim_counts(w);

    (void)state;
    for (uint64_t seed = 0; seed < seeds && failures < 5; seed++)
        if (!sim_run(w, seed, SIM_ANY, NULL, false, why)) {
            print_error("HF_SEED=%" PRIu64 ": %s\n", seed, why);
            failures++;
        }
    print_message("%" PRIu64 " schedules, %" PRIu64 " commands, %" PRIu64 " writes and %" PRIu64
                  " reads released, %" PRIu64 " crashes looked at, %" PRIu64 " attachments, %" PRIu64 " snapshots\n",
                  seeds, c->commands, c->released_writes, c->released_reads, c->crashes_looked_at, c->attachments,
                  c->snapshots);
    if (seeds >= 1000) { /* what never happens proves nothing */
        assert_true(c->rebuilds > 0 && c->restarts > 0 && c->lanes_broken > 0);
        assert_true(c->forged > 0 && c->waits > 0 && c->snapshots > 0 && c->failed > 0);
        assert_true(c->refused > 0 && c->led_again > 0 && c->followed > 0 && c->transactions > 0 && c->calm > 0);
    }
    sim_free(w);
    assert_int_equal(failures, 0);
}

/* Each clause is there because of a schedule that goes wrong without it; so many seeds find one for sure. */
static const struct {
    const char *clause;
    enum sim_profile profile;
    uint64_t seeds;
} needed[] = {
    {"cut-at-marker", SIM_MIXED, 200},
    {"taint", SIM_MIXED, 200},
    {"wait-for-marker", SIM_MIXED, 200},
    {"captured-waits", SIM_MIXED, 100},
    {"reads-wait", SIM_MIXED, 200},
    {"reads-see-tap", SIM_MIXED, 200},
    {"no-effect-taints", SIM_MIXED, 2000},
    {"taint-follows-data", SIM_MIXED, 12000},
    {"refused-waits", SIM_MIXED, 200},
    {"equal-bytes", SIM_NARROW, 4000},
    {"skipped-taints", SIM_NARROW, 12000},
    {"units-whole", SIM_MIXED, 200},
    {"kill-before-marker", SIM_BREAKING, 8000},
};

static void test_every_clause_is_needed(void **state)
{
    struct sim *w = sim_new();
    char why[SIM_WHY_BYTES];
    size_t clauses = 0, missed = 0;

    (void)state;
    while (seq_clauses[clauses] != NULL)
        clauses++;
    assert_int_equal(clauses, sizeof needed / sizeof *needed + 1);
    assert_string_equal(seq_clauses[clauses - 1], "rewritten-in-time"); /* one in 50,000: test_sequencer_hand.c */
    for (size_t i = 0; i + 1 < clauses; i++) {
        uint64_t seed = 0;

        assert_string_equal(needed[i].clause, seq_clauses[i]);
        while (seed < needed[i].seeds && sim_run(w, seed, needed[i].profile, needed[i].clause, false, why))
            seed++;
        if (seed == needed[i].seeds) {
            print_error("without %s nothing goes wrong in %" PRIu64 " seeds\n", needed[i].clause, seed);
            missed++;
        }
    }
    sim_free(w);
    assert_int_equal(missed, 0);
}

static int run_one(const char *seed)
{
    struct sim *w = sim_new();
    char why[SIM_WHY_BYTES];
    bool held = sim_run(w, strtoull(seed, NULL, 10), (enum sim_profile)number("HF_PROFILE", SIM_ANY),
                        getenv("HF_WITHOUT"), true, why);

    printf("%s\n", held ? "held" : why);
    sim_free(w);
    return held ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rule_holds),
        cmocka_unit_test(test_every_clause_is_needed),
    };
    const char *seed = getenv("HF_SEED");

    if (seed != NULL)
        return run_one(seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

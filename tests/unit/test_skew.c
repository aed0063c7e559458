/* A clock that is off is seen within two windows; a message that is late is no clock that is off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "log/skew.h"

enum { BEAT_MS = 40 };

/* Messages every BEAT_MS from `from` to `to`, each 1 to 5 ms under way. */
static uint64_t beats(struct skew *s, uint64_t from, uint64_t to, int64_t truth)
{
    for (; from < to; from += BEAT_MS)
        skew_heard(s, truth - 1 - (int64_t)(from / BEAT_MS % 5), from);
    return from;
}

static void seen_in_time(void **state)
{
    (void)state;
    for (int64_t truth = -900; truth <= 900; truth += 300) {
        struct skew s = {0};

        (void)beats(&s, 1, 2 * SKEW_WINDOW_MS + 2 * BEAT_MS, truth);
        assert_in_range(s.ms - truth + 5, 0, 4);
    }
}

static void follows_steps(void **state)
{
    struct skew s = {0};
    uint64_t now = beats(&s, 1, 5000, 0);

    (void)state;
    skew_heard(&s, 699, now); /* ahead: at once */
    assert_int_equal(s.ms, 699);
    now = beats(&s, now, now + 3000, 700);
    now = beats(&s, now, now + 2 * SKEW_WINDOW_MS + 2 * BEAT_MS, -800); /* back: when a window has ended */
    assert_in_range(s.ms + 805, 0, 4);
}

static void stalls_are_no_skew(void **state)
{
    (void)state;
    for (uint64_t stall = 100; stall < 20000; stall = stall * 3 / 2) {
        struct skew s = {0};
        uint64_t now = beats(&s, 1, 5000, -3), begun = now;

        now += stall; /* all that was sent meanwhile comes at once, the oldest first */
        for (uint64_t sent = begun; sent < now; sent += BEAT_MS) {
            skew_heard(&s, -3 - (int64_t)(now - sent), now);
            assert_true(s.ms >= -8);
        }
        for (uint64_t end = now + 3000; now < end; now += BEAT_MS) {
            skew_heard(&s, -4, now);
            assert_true(s.ms >= -8 && s.ms <= 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(seen_in_time), cmocka_unit_test(follows_steps),
                                       cmocka_unit_test(stalls_are_no_skew)};

    return cmocka_run_group_tests_name("skew", tests, NULL, NULL);
}

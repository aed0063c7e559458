/* What is said of a status: nothing when all is well, the worst first, each with something to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/advice.h"

enum { SKEW_MS = 500 };

static struct status healthy(const char *role)
{
    struct status s = {.state = strcmp(role, "follower") == 0 ? "fed" : "serving",
                       .ready = true,
                       .mode = DURABILITY_SYNC,
                       .lag_max_ms = 10000,
                       .log_size_max_bytes = 1u << 30,
                       .log_committed = 100000,
                       .member_count = 3};

    (void)snprintf(s.role, sizeof s.role, "%s", role);
    for (size_t i = 0; i < s.member_count; i++) {
        struct status_member *m = &s.members[i];

        (void)snprintf(m->name, sizeof m->name, "%c", (char)('a' + i));
        (void)snprintf(m->zone, sizeof m->zone, "az-%c", (char)('a' + i));
        m->self = i == 0;
        m->connected = true;
        m->match_index = s.log_committed;
    }
    return s;
}

static const struct advice *first(const struct status *s)
{
    static struct advices found;

    advice_of(s, SKEW_MS, &found);
    for (size_t i = 0; i < found.count; i++) {
        assert_true(found.at[i].todo != NULL && strlen(found.at[i].todo) > 3);
        assert_true(i == 0 || found.at[i - 1].severity <= found.at[i].severity);
    }
    return found.count > 0 ? &found.at[0] : NULL;
}

static void expect(const struct status *s, enum advice_severity severity, const char *words)
{
    const struct advice *a = first(s);

    assert_non_null(a);
    if (strstr(a->what, words) == NULL)
        print_error("%s: %s\n", words, a->what);
    assert_non_null(strstr(a->what, words));
    assert_int_equal(a->severity, severity);
}

static void all_is_well(void **state)
{
    struct status s = healthy("leader");

    (void)state;
    assert_null(first(&s));
    s = healthy("follower");
    s.members[2].heard_ms_ago = UINT64_MAX; /* another follower: it hears the leader alone */
    assert_null(first(&s));
    s = healthy("leader");
    s.member_count = 1;
    s.single_zone = true; /* one node says so at its start, and in INFO */
    assert_null(first(&s));
}

static void quorum(void **state)
{
    struct status s = healthy("none");

    (void)state;
    expect(&s, ADVICE_CRITICAL, "No leader");
    s = healthy("detached");
    s.detached = true;
    s.lag_ms = 1500;
    expect(&s, ADVICE_CRITICAL, "until the oldest that is not logged is 10.0 s old (now 1.5 s)");
}

static void members(void **state)
{
    struct status s = healthy("leader");

    (void)state;
    s.members[1].heard_ms_ago = 12000;
    expect(&s, ADVICE_WARNING, "b (az-b) has not been heard for 12 s. One more loss ends service.");
    s.member_count = 5;
    s.members[3] = s.members[4] = s.members[2];
    expect(&s, ADVICE_WARNING, "b (az-b) has not been heard for 12 s.");
    assert_null(strstr(first(&s)->what, "One more"));
    s = healthy("leader");
    s.members[2].connected = false;
    s.members[2].heard_ms_ago = UINT64_MAX;
    expect(&s, ADVICE_WARNING, "c (az-c) has not been heard since this node started.");
    s = healthy("leader");
    s.members[1].match_index = 1;
    expect(&s, ADVICE_WARNING, "b (az-b) is 99999 entries behind.");
    s = healthy("leader");
    s.members[2].clock_skew_ms = -501;
    expect(&s, ADVICE_WARNING, "The clock of c (az-c) differs from ours by -501 ms.");
    s.members[2].clock_skew_ms = -500;
    assert_null(first(&s));
}

static void writes(void **state)
{
    struct status s = healthy("leader");

    (void)state;
    s.lag_ms = 1000;
    assert_null(first(&s));
    s.lag_ms = 1001;
    expect(&s, ADVICE_WARNING, "The log lags by 1.0 s; at 10.0 s writes are refused.");
    s.lag_max_ms = 400;
    s.lag_ms = 200;
    assert_null(first(&s));
    s.lag_ms = 201;
    expect(&s, ADVICE_WARNING, "The log lags by 0.2 s; at 0.4 s writes are refused.");
    s.lag_max_ms = 10000;
    s.lag_ms = 10100;
    s.refusing_writes = true;
    s.pending_bytes = 77;
    expect(&s, ADVICE_CRITICAL, "is 10.1 s old, the limit is 10.0 s; 77 bytes are pending.");
    s = healthy("leader");
    s.log_stalled = true;
    (void)snprintf(s.log_stalled_why, sizeof s.log_stalled_why, "No space left on device");
    expect(&s, ADVICE_CRITICAL, "The log cannot be written: No space left on device");
    s = healthy("leader");
    s.dropped_writes = 3;
    expect(&s, ADVICE_WARNING, "3 async writes were given up here");
}

static void valkey(void **state)
{
    struct status s = healthy("leader");

    (void)state;
    s.state = "waiting";
    expect(&s, ADVICE_CRITICAL, "clients get LOADING");
    s = healthy("follower");
    s.state = "waiting";
    expect(&s, ADVICE_WARNING, "cannot take over");
    s = healthy("leader");
    s.state = "rebuilding";
    s.rebuild_progress = 0.42;
    expect(&s, ADVICE_CRITICAL, "42 %");
    s.state = "draining";
    expect(&s, ADVICE_WARNING, "shutting down");
    s.state = "feeding";
    expect(&s, ADVICE_WARNING, "not ready yet: feeding");
    s.state = NULL; /* before the first look */
    assert_null(first(&s));
}

static void maintenance(void **state)
{
    struct status s = healthy("follower");

    (void)state;
    s.draining = true;
    expect(&s, ADVICE_WARNING, "This node is draining: out of service");
    s = healthy("leader");
    s.draining = true;
    expect(&s, ADVICE_WARNING, "draining, but leads on: nobody else can");
    s.member_count = 1;
    expect(&s, ADVICE_WARNING, "out of service, /readyz says 503");
}

static void storage(void **state)
{
    struct status s = healthy("leader");

    (void)state;
    s.log_bytes = s.log_size_max_bytes / 100 * 79;
    assert_null(first(&s));
    s.log_bytes = s.log_size_max_bytes / 100 * 82;
    expect(&s, ADVICE_WARNING, "The log takes 839 MB of 1024 MB");
    s = healthy("leader");
    s.single_zone = true;
    expect(&s, ADVICE_WARNING, "The loss of one zone");
}

static void worst_first_and_bounded(void **state)
{
    struct status s = healthy("leader");
    struct advices found;

    (void)state;
    s.member_count = STATUS_MEMBERS_MAX;
    for (size_t i = 1; i < s.member_count; i++) {
        s.members[i] = s.members[1];
        s.members[i].heard_ms_ago = 60000;
        s.members[i].clock_skew_ms = 10000;
        s.members[i].match_index = 1;
    }
    s.log_stalled = s.refusing_writes = true;
    expect(&s, ADVICE_CRITICAL, "The log cannot be written");
    advice_of(&s, SKEW_MS, &found);
    assert_true(found.count > 10 && found.count <= ADVICE_MAX);
    assert_int_equal(found.at[1].severity, ADVICE_CRITICAL);
    assert_string_equal(advice_severity_name(ADVICE_CRITICAL), "critical");
    assert_string_equal(advice_severity_name(ADVICE_WARNING), "warning");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_is_well), cmocka_unit_test(quorum),
                                       cmocka_unit_test(members),     cmocka_unit_test(writes),
                                       cmocka_unit_test(valkey),      cmocka_unit_test(storage),
                                       cmocka_unit_test(maintenance), cmocka_unit_test(worst_first_and_bounded)};

    return cmocka_run_group_tests_name("advice", tests, NULL, NULL);
}

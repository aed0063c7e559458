/* Names looked up beside the loop. Only names of this machine: tests ask no name server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/address.h"
#include "log/base/loop.h"
#include "log/base/resolve.h"

enum { MANY = 200 };

struct asked {
    struct loop *loop;
    size_t done, good;
    char numeric[ADDRESS_BYTES_MAX], why[128];
    size_t until;
};

static void on_done(void *arg, const char *numeric, const char *why)
{
    struct asked *a = arg;

    a->done++;
    a->good += numeric != NULL;
    (void)snprintf(a->numeric, sizeof a->numeric, "%s", numeric != NULL ? numeric : "");
    (void)snprintf(a->why, sizeof a->why, "%s", why);
    if (a->done == a->until)
        loop_stop(a->loop);
}

static void run(struct asked *a, size_t until)
{
    a->until = until;
    if (a->done < until)
        loop_run(a->loop);
}

static void test_names(void **state)
{
    struct asked a = {.loop = loop_new()};
    struct resolver *r = resolver_new(a.loop);
    struct sockaddr_storage to;

    (void)state;
    (void)resolver_ask(r, "localhost:7000", on_done, &a);
    assert_int_equal(a.done, 0);
    run(&a, 1);
    assert_true(address_numeric(a.numeric, &to) && address_is_loopback(&to));
    assert_string_equal(strrchr(a.numeric, ':'), ":7000");
    (void)resolver_ask(r, "127.0.0.1:7001", on_done, &a);
    run(&a, 2);
    assert_string_equal(a.numeric, "127.0.0.1:7001");
    (void)resolver_ask(r, "[::1]:7001", on_done, &a);
    run(&a, 3);
    assert_string_equal(a.numeric, "[::1]:7001");
    assert_int_equal(a.good, 3);
    (void)resolver_ask(r, "localhost:no-such-port", on_done, &a);
    run(&a, 4);
    assert_int_equal(a.good, 3);
    assert_true(a.why[0] != '\0');
    (void)resolver_ask(r, "no port", on_done, &a);
    run(&a, 5);
    assert_int_equal(a.good, 3);
    assert_true(a.why[0] != '\0');
    resolver_free(r);
    loop_free(a.loop);
}

/* More names, and more who ask, than are kept; some change their mind, and the end comes while threads are at work.
 */
static void test_many(void **state)
{
    struct asked a = {.loop = loop_new()}, never = {.loop = a.loop};
    struct resolver *r = resolver_new(a.loop);
    char address[64];

    (void)state;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < MANY; i++) {
            (void)snprintf(address, sizeof address, "localhost:%d", 1 + i % 70);
            (void)resolver_ask(r, address, on_done, &a);
            lookup_cancel(resolver_ask(r, address, on_done, &never));
        }
    run(&a, 2 * MANY);
    assert_int_equal(a.good, 2 * MANY);
    for (int i = 0; i < 20; i++) {
        (void)snprintf(address, sizeof address, "localhost:%d", 1000 + i);
        (void)resolver_ask(r, address, on_done, &never);
    }
    resolver_free(r);
    (void)resolver_ask(r = resolver_new(a.loop), "localhost:1", on_done, &a);
    run(&a, 2 * MANY + 1);
    assert_int_equal(never.done, 0);
    resolver_free(r);
    loop_free(a.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_many)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

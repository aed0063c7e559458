/* Relays: what comes without end, or is no reply: large replies, messages, the file of a backup. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/relay_world.h"

static struct relay_world *w;
static int c;

static int begin(void **state)
{
    (void)state;
    w = relay_world_new(PART_FOLLOWS);
    c = rw_client_new(w);
    return 0;
}

static int end(void **state)
{
    (void)state;
    (void)close(c);
    relay_world_free(w);
    return 0;
}

/* A client that does not read holds up the leader, and nothing grows. */
static void large_replies_and_slow_clients(void **state)
{
    const size_t size = 64u << 20;
    char head[32], *chunk = must_calloc(1, 1 << 20);
    size_t sent = 0, got = 0, stuck = 0;
    int n = snprintf(head, sizeof head, "$%zu\r\n", size);

    (void)state;
    memset(chunk, 'x', 1 << 20);
    rw_say(w, c, GET_A GET_A);
    rw_expect(w, w->leader, GET_A GET_A);
    rw_say(w, w->leader, head);
    while (sent < size) {
        size_t most = size - sent < 1 << 20 ? size - sent : 1 << 20;
        ssize_t step = send(w->leader, chunk, most, MSG_NOSIGNAL);

        sent += step > 0 ? (size_t)step : 0;
        rw_turns(w, 0);
    }
    rw_say(w, w->leader, "\r\n$100000000\r\n");
    while (stuck < 50) { /* the second reply: the first has not been read */
        ssize_t step = send(w->leader, chunk, 4096, MSG_NOSIGNAL);

        stuck = step > 0 ? 0 : stuck + 1;
        sent += step > 0 ? (size_t)step : 0;
        assert_true(sent < size + (4u << 20));
        rw_turns(w, 1);
    }
    while (got < size + (size_t)n + 2) {
        (void)rw_hear(w, c);
        got += w->read_n;
    }
    assert_int_equal(got, size + (size_t)n + 2);
    free(chunk);
}

/* Neither do messages, which answer nothing. */
static void messages_for_slow_clients(void **state)
{
    char *message = must_calloc(1, 5000);
    size_t n = (size_t)snprintf(message, 64, ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4096\r\n"), sent = 0, stuck = 0;

    (void)state;
    memset(message + n, 'x', 4096);
    memcpy(message + n + 4096, "\r\n", 2);
    n += 4096 + 2;
    rw_say(w, c, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n");
    (void)rw_hear(w, w->leader);
    for (size_t at = 0; stuck < 50;) {
        ssize_t step = send(w->leader, message + at, n - at, MSG_NOSIGNAL | MSG_DONTWAIT);

        stuck = step > 0 ? 0 : stuck + 1;
        sent += step > 0 ? (size_t)step : 0;
        at = step > 0 ? (at + (size_t)step) % n : at;
        assert_true(sent < 32u << 20);
        rw_turns(w, 1);
    }
    free(message);
    for (size_t got = 0; got < sent / n * n;) {
        (void)rw_hear(w, c);
        got += w->read_n;
        assert_true(w->read_n > 0);
    }
}

/* What the leader's session wraps arrives bare, wherever it is cut; a link that is lost inside adds nothing to it. */
static void passes_on_bytes(void **state)
{
    static const char sync[] = "*1\r\n$4\r\nSYNC\r\n", bare[] = "$6\r\nRE\r\nDIS";
    char wrapped[256];
    int n = snprintf(wrapped, sizeof wrapped, "%s$4\r\n$6\r\n\r\n%s$7\r\nRE\r\nDIS\r\n%s", relay_bytes, relay_bytes,
                     relay_farewell);
    int farewell = (int)strlen(relay_farewell);

    (void)state;
    for (int cut = 1; cut <= n - farewell; cut++) {
        rw_say(w, c, sync);
        rw_expect(w, w->leader, sync);
        rw_say_bytes(w, w->leader, wrapped, (size_t)cut);
        if (cut < n - farewell) {
            rw_say_bytes(w, w->leader, wrapped + cut, (size_t)(n - cut));
            rw_expect(w, c, bare);
        } else {
            rw_expect(w, c, bare);
            rw_hang_up(w);
        }
        rw_expect_closed(w, c);
        c = rw_client_new(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_replies_and_slow_clients),
        TEST(messages_for_slow_clients),
        TEST(passes_on_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

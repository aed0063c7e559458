/* Clients that change hands: relays become sessions and sessions relays; clients of other nodes. */
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

/* One command and its reply. */
static void exchange(const char *request, const char *reply)
{
    rw_say(w, c, request);
    rw_expect(w, w->leader, request);
    rw_say(w, w->leader, reply);
    rw_expect(w, c, reply);
}

static void relay_becomes_session(void **state)
{
    int busy = rw_client_new(w), subscribed = rw_client_new(w), waits;

    (void)state;
    exchange(HELLO3, "%0\r\n");
    exchange(NAME, "+OK\r\n");
    exchange(SELECT, "+OK\r\n");
    rw_say(w, c, "*2\r\n$6\r\nCLIENT\r\n$7\r\nGET");
    rw_say(w, subscribed, "SUBSCRIBE x\r\n");
    rw_say(w, busy, GET_A);
    rw_expect(w, w->leader, GET_A);
    rw_part(w, PART_NONE);
    waits = rw_client_new(w);
    rw_say(w, waits, SELECT "CLIENT GETNAME\r\n");
    rw_open_valkey(w);
    rw_part(w, PART_LEADS);
    rw_say(w, c, "NAME\r\n");
    assert_string_equal(rw_hear(w, c), "$3\r\nbob\r\n");
    rw_expect(w, waits, "+OK\r\n$-1\r\n");
    rw_expect_open(w, busy);
    rw_say(w, w->leader, "$1\r\nx\r\n");
    rw_expect(w, busy, "$1\r\nx\r\n");
    rw_say(w, busy, "CLIENT GETNAME\r\n");
    rw_expect(w, busy, "$-1\r\n");
    rw_turns(w, 200);
    rw_expect_closed(w, subscribed);
    assert_int_equal(w->dials, 3);
    (void)close(busy);
    (void)close(waits);
}

static void session_becomes_relay(void **state)
{
    int subscribed;

    (void)state;
    rw_open_valkey(w);
    rw_part(w, PART_LEADS);
    (void)close(c);
    c = rw_client_new(w);
    subscribed = rw_client_new(w);
    rw_say(w, c, NAME SELECT "CLIENT DURABILITY ASYNC\r\nHELLO 3\r\n*2\r\n$3\r\nGET\r\n");
    assert_memory_equal(rw_hear(w, c), "+OK\r\n+OK\r\n+OK\r\n%7\r\n", 19);
    rw_say(w, subscribed, "GET a\r\n"); /* held: Valkey cannot be reached */
    rw_part(w, PART_FOLLOWS);
    rw_expect(w, w->leader, GET_A);
    rw_say(w, w->leader, "$1\r\nx\r\n");
    rw_expect(w, subscribed, "$1\r\nx\r\n");
    rw_say(w, c, "$1\r\na\r\n");
    rw_expect(w, w->leader, HELLO3 NAME "*3\r\n$6\r\nCLIENT\r\n$10\r\nDURABILITY\r\n$5\r\nASYNC\r\n" SELECT);
    rw_say(w, w->leader, "%0\r\n+OK\r\n+OK\r\n+OK\r\n");
    rw_expect(w, w->leader, GET_A);
    (void)close(subscribed);
}

/* About to hand over: nothing begins, nothing is refused; and it may come to nothing. */
static void hand_over_holds(void **state)
{
    struct buf extra = {0};
    int pair[2];

    (void)state;
    rw_open_valkey(w);
    rw_part(w, PART_LEADS);
    (void)close(c);
    c = rw_client_new(w);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    relay_extra(&extra, "10.0.0.7:4711");
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    buf_free(&extra);
    rw_expect(w, pair[0], relay_ready);
    rw_say(w, c, NAME);
    rw_expect(w, c, "+OK\r\n");
    rw_part(w, PART_HANDS_OVER);
    rw_say(w, c, "CLIENT GETNAME\r\n");
    rw_expect_open(w, c);
    rw_part(w, PART_LEADS);
    rw_expect(w, c, "$3\r\nbob\r\n");
    rw_part(w, PART_HANDS_OVER);
    rw_say(w, c, GET_A);
    rw_say(w, pair[0], GET_A);
    rw_expect_open(w, c);
    rw_part(w, PART_FOLLOWS);
    rw_expect(w, w->leader, NAME);
    rw_say(w, w->leader, "+OK\r\n");
    rw_expect(w, w->leader, GET_A);
    assert_string_equal(rw_hear(w, pair[0]), relay_moved);
    rw_expect_closed(w, pair[0]);
}

static void clients_of_other_nodes(void **state)
{
    struct buf extra = {0};
    int pair[2], here = rw_client_new(w);

    (void)state;
    rw_open_valkey(w);
    rw_part(w, PART_LEADS);
    relay_extra(&extra, "10.0.0.7:4711");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    rw_expect(w, pair[0], relay_ready);
    rw_say(w, pair[0], "CLIENT INFO\r\n");
    assert_non_null(strstr(rw_hear(w, pair[0]), " addr=10.0.0.7:4711 "));
    rw_say(w, here, "CLIENT KILL ADDR 10.0.0.7:4711\r\n");
    rw_expect(w, here, ":1\r\n");
    assert_string_equal(rw_hear(w, pair[0]), relay_farewell);
    assert_true(w->ended);
    (void)close(pair[0]);
    for (size_t n = 0; n <= extra.len; n++) { /* cut, or of another kind */
        bool whole = n == extra.len;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        buf_head(&extra)[0] = (char)(whole ? 0 : RELAY_EXTRA_VERSION);
        worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), n);
        rw_expect_closed(w, pair[0]);
    }
    buf_head(&extra)[0] = RELAY_EXTRA_VERSION;
    w->config.maxclients = 1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    assert_string_equal(rw_hear(w, pair[0]), "-ERR max number of clients reached\r\n");
    rw_expect_closed(w, pair[0]);
    buf_free(&extra);
    (void)close(here);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(relay_becomes_session),
        TEST(session_becomes_relay),
        TEST(hand_over_holds),
        TEST(clients_of_other_nodes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

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
    c = client_new(w);
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
    say(w, c, request);
    expect(w, w->leader, request);
    say(w, w->leader, reply);
    expect(w, c, reply);
}

static void relay_becomes_session(void **state)
{
    int busy = client_new(w), subscribed = client_new(w), waits;

    (void)state;
    exchange(HELLO3, "%0\r\n");
    exchange(NAME, "+OK\r\n");
    exchange(SELECT, "+OK\r\n");
    say(w, c, "*2\r\n$6\r\nCLIENT\r\n$7\r\nGET");
    say(w, subscribed, "SUBSCRIBE x\r\n");
    say(w, busy, GET_A);
    expect(w, w->leader, GET_A);
    part(w, PART_NONE);
    waits = client_new(w);
    say(w, waits, SELECT "CLIENT GETNAME\r\n");
    open_valkey(w);
    part(w, PART_LEADS);
    say(w, c, "NAME\r\n");
    assert_string_equal(hear(w, c), "$3\r\nbob\r\n");
    expect(w, waits, "+OK\r\n$-1\r\n");
    expect_open(w, busy);
    say(w, w->leader, "$1\r\nx\r\n");
    expect(w, busy, "$1\r\nx\r\n");
    say(w, busy, "CLIENT GETNAME\r\n");
    expect(w, busy, "$-1\r\n");
    turns(w, 200);
    expect_closed(w, subscribed);
    assert_int_equal(w->dials, 3);
    (void)close(busy);
    (void)close(waits);
}

static void session_becomes_relay(void **state)
{
    int subscribed;

    (void)state;
    open_valkey(w);
    part(w, PART_LEADS);
    (void)close(c);
    c = client_new(w);
    subscribed = client_new(w);
    say(w, c, NAME SELECT "CLIENT DURABILITY ASYNC\r\nHELLO 3\r\n*2\r\n$3\r\nGET\r\n");
    assert_memory_equal(hear(w, c), "+OK\r\n+OK\r\n+OK\r\n%7\r\n", 19);
    say(w, subscribed, "GET a\r\n"); /* held: Valkey cannot be reached */
    part(w, PART_FOLLOWS);
    expect(w, w->leader, GET_A);
    say(w, w->leader, "$1\r\nx\r\n");
    expect(w, subscribed, "$1\r\nx\r\n");
    say(w, c, "$1\r\na\r\n");
    expect(w, w->leader, HELLO3 NAME "*3\r\n$6\r\nCLIENT\r\n$10\r\nDURABILITY\r\n$5\r\nASYNC\r\n" SELECT);
    say(w, w->leader, "%0\r\n+OK\r\n+OK\r\n+OK\r\n");
    expect(w, w->leader, GET_A);
    (void)close(subscribed);
}

/* About to hand over: nothing begins, nothing is refused; and it may come to nothing. */
static void hand_over_holds(void **state)
{
    struct buf extra = {0};
    int pair[2];

    (void)state;
    open_valkey(w);
    part(w, PART_LEADS);
    (void)close(c);
    c = client_new(w);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    relay_extra(&extra, "10.0.0.7:4711");
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    buf_free(&extra);
    expect(w, pair[0], relay_ready);
    say(w, c, NAME);
    expect(w, c, "+OK\r\n");
    part(w, PART_HANDS_OVER);
    say(w, c, "CLIENT GETNAME\r\n");
    expect_open(w, c);
    part(w, PART_LEADS);
    expect(w, c, "$3\r\nbob\r\n");
    part(w, PART_HANDS_OVER);
    say(w, c, GET_A);
    say(w, pair[0], GET_A);
    expect_open(w, c);
    part(w, PART_FOLLOWS);
    expect(w, w->leader, NAME);
    say(w, w->leader, "+OK\r\n");
    expect(w, w->leader, GET_A);
    assert_string_equal(hear(w, pair[0]), relay_moved);
    expect_closed(w, pair[0]);
}

static void clients_of_other_nodes(void **state)
{
    struct buf extra = {0};
    int pair[2], here = client_new(w);

    (void)state;
    open_valkey(w);
    part(w, PART_LEADS);
    relay_extra(&extra, "10.0.0.7:4711");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    expect(w, pair[0], relay_ready);
    say(w, pair[0], "CLIENT INFO\r\n");
    assert_non_null(strstr(hear(w, pair[0]), " addr=10.0.0.7:4711 "));
    say(w, here, "CLIENT KILL ADDR 10.0.0.7:4711\r\n");
    expect(w, here, ":1\r\n");
    assert_string_equal(hear(w, pair[0]), relay_farewell);
    assert_true(w->ended);
    (void)close(pair[0]);
    for (size_t n = 0; n <= extra.len; n++) { /* cut, or of another kind */
        bool whole = n == extra.len;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        buf_head(&extra)[0] = (char)(whole ? 0 : RELAY_EXTRA_VERSION);
        worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), n);
        expect_closed(w, pair[0]);
    }
    buf_head(&extra)[0] = RELAY_EXTRA_VERSION;
    w->config.maxclients = 1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    worker_relayed(w->worker, stream_accepted(w->loop, pair[1], NULL, NULL), "c", buf_head(&extra), extra.len);
    assert_string_equal(hear(w, pair[0]), "-ERR max number of clients reached\r\n");
    expect_closed(w, pair[0]);
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

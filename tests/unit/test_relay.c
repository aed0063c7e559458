/* Relays, with a scripted leader: counting, restoring, waiting. */
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

static void gone(void)
{
    rw_expect_closed(w, c);
    c = rw_client_new(w);
}

/* ---- the pipe ---- */

static void passes_requests_and_replies(void **state)
{
    char address[RELAY_ADDRESS_BYTES_MAX];

    (void)state;
    assert_int_equal(w->dials, 0); /* an idle client costs no link */
    rw_say(w, c, "*2\r\n$3\r\nGET\r\n$1");
    assert_int_equal(w->dials, 0);
    rw_say(w, c, "\r\na\r\nset b 1\r\n*2\r\n$4\r\nLP");
    assert_int_equal(w->dials, 1);
    assert_true(relay_extra_read(w->extra, w->extra_n, address, sizeof address));
    assert_string_equal(address + strlen(address) - 2, ":0");
    rw_expect(w, w->leader, GET_A "*3\r\n$3\r\nset\r\n$1\r\nb\r\n$1\r\n1\r\n"); /* whole ones, canonical */
    rw_say(w, w->leader, "$1\r\n");
    rw_expect(w, c, "");
    rw_say(w, w->leader, "x\r\n+OK\r\n");
    rw_expect(w, c, "$1\r\nx\r\n+OK\r\n");
    rw_say(w, c, "OP\r\n$1\r\nc\r\n");
    rw_expect(w, w->leader, LPOP_C);
    rw_say(w, w->leader, ">2\r\n+invalidate\r\n*0\r\n$-1\r\n");
    rw_expect(w, c, ">2\r\n+invalidate\r\n*0\r\n$-1\r\n");
    rw_hang_up(w);
    rw_expect_open(w, c); /* nothing was owed: a push is no reply */
}

static void long_pipelines(void **state)
{
    enum { COUNT = 5000 };
    size_t sent = 0, asked = 0, answered = 0;
    char *pings = must_calloc(COUNT, sizeof PING);
    struct buf replies = {0};

    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        memcpy(pings + i * (sizeof PING - 1), PING, sizeof PING - 1);
    while (answered < COUNT) {
        size_t left = COUNT * (sizeof PING - 1) - sent;
        ssize_t n = left > 0 ? send(c, pings + sent, left, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

        sent += n > 0 ? (size_t)n : 0;
        rw_turns(w, 1);
        asked += w->leader >= 0 ? strlen(rw_hear(w, w->leader)) : 0;
        assert_true(asked / (sizeof PING - 1) - answered <= RELAY_OPS_MAX);
        for (replies.len = 0; answered < asked / (sizeof PING - 1); answered++)
            buf_text(&replies, "+PONG\r\n");
        if (replies.len > 0)
            rw_say_bytes(w, w->leader, buf_head(&replies), replies.len);
        (void)rw_hear(w, c);
    }
    free(pings);
    buf_free(&replies);
    rw_hang_up(w);
    rw_expect_open(w, c);
}

static void protocol_errors(void **state)
{
    (void)state;
    rw_say(w, c, GET_A "*1\r\n+PING\r\n" GET_A);
    rw_expect(w, w->leader, GET_A);
    rw_expect_open(w, c); /* its turn comes after GET's */
    rw_say(w, w->leader, "$-1\r\n");
    assert_string_equal(rw_hear(w, c), "$-1\r\n-ERR Protocol error: expected '$', got '+'\r\n");
    gone();
    rw_say(w, c, "POST / HTTP/1.1\r\nHost: x\r\n");
    gone();
}

static void quit_and_half_close(void **state)
{
    (void)state;
    rw_say(w, c, GET_A "QUIT\r\n" SET_B);
    rw_expect(w, w->leader, GET_A "*1\r\n$4\r\nQUIT\r\n");
    rw_say(w, w->leader, "$-1\r\n+OK\r\n");
    assert_string_equal(rw_hear(w, c), "$-1\r\n+OK\r\n");
    gone();
    exchange(PING, "+PONG\r\n");
    rw_say(w, c, GET_A);
    (void)shutdown(c, SHUT_WR);
    rw_expect(w, w->leader, GET_A);
    rw_say(w, w->leader, "$1\r\nx\r\n");
    assert_string_equal(rw_hear(w, c), "$1\r\nx\r\n");
    gone();
    rw_say(w, c, "BLPOP l 0\r\n"); /* must not take anything any more */
    (void)rw_hear(w, w->leader);
    (void)shutdown(c, SHUT_WR);
    gone();
    assert_string_equal(rw_hear(w, w->leader), "");
    assert_true(w->ended);
}

/* ---- loss ---- */

static void cut_everywhere(void **state)
{
    static const char replies[] = "$1\r\nx\r\n+OK\r\n*2\r\n$1\r\na\r\n$-1\r\n";
    static const size_t ends[] = {7, 12, sizeof replies - 1};

    (void)state;
    for (size_t cut = 0; cut < sizeof replies; cut++) {
        size_t whole = 0, from = 0;

        rw_say(w, c, GET_A SET_B LPOP_C);
        rw_expect(w, w->leader, GET_A SET_B LPOP_C);
        rw_say_bytes(w, w->leader, replies, cut);
        while (whole < 3 && ends[whole] <= cut)
            from = ends[whole++];
        assert_int_equal(strlen(rw_hear(w, c)), from);
        assert_memory_equal(w->read, replies, from);
        rw_hang_up(w);
        rw_expect_count(w, c, "UNCERTAIN ", 3 - whole);
        assert_int_equal(w->dials, cut + 1); /* not before the next command */
    }
    exchange(PING, "+PONG\r\n");
}

static void requests_are_cut_too(void **state)
{
    (void)state;
    exchange(PING, "+PONG\r\n");
    rw_say(w, c, GET_A "*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1");
    rw_expect(w, w->leader, GET_A);
    rw_hang_up(w);
    rw_expect_count(w, c, "UNCERTAIN ", 1);
    rw_say(w, c, "\r\n1\r\n"); /* the half one was never sent: it goes to the new leader */
    rw_expect(w, w->leader, SET_B);
}

static void prelude_is_repeated(void **state)
{
    (void)state;
    exchange(HELLO3, "%0\r\n");
    exchange(AUTH, "+OK\r\n");
    exchange("*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n", "+OK\r\n");
    exchange(NAME, "+OK\r\n");
    exchange("*2\r\n$6\r\nSELECT\r\n$2\r\n99\r\n", "-ERR DB index is out of range\r\n");
    exchange(SELECT, "+OK\r\n");
    rw_hang_up(w);
    rw_say(w, c, GET_A);
    rw_expect(w, w->leader, HELLO3 AUTH NAME SELECT);
    rw_say(w, w->leader, "%0\r\n+OK\r\n+OK\r\n");
    rw_expect(w, w->leader, ""); /* not before all of it has succeeded */
    rw_say(w, w->leader, "+OK\r\n");
    rw_expect(w, w->leader, GET_A);
    rw_say(w, w->leader, "$1\r\nx\r\n");
    rw_expect(w, c, "$1\r\nx\r\n");
    rw_hang_up(w);
    rw_say(w, c, GET_A);
    (void)rw_hear(w, w->leader);
    rw_say(w, w->leader, "%0\r\n-LOADING soon\r\n"); /* again, later: nothing was executed */
    rw_turns(w, 80);
    rw_expect(w, w->leader, HELLO3 AUTH NAME SELECT);
    rw_hang_up(w);
    rw_turns(w, 150);
    rw_expect_count(w, c, "CLUSTERDOWN ", 1);
    rw_say(w, c, GET_A);
    rw_turns(w, 60);
    rw_expect(w, w->leader, HELLO3 AUTH NAME SELECT);
    rw_say(w, w->leader, "%0\r\n-WRONGPASS\r\n");
    gone();
}

static void prelude_is_bounded(void **state)
{
    char long_name[3000], command[3100];

    (void)state;
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    (void)snprintf(command, sizeof command, "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$2999\r\n%s\r\n", long_name);
    for (int i = 0; i < 200; i++) /* one voids the other */
        exchange(i % 2 ? SELECT : command, "+OK\r\n");
    rw_hang_up(w);
    rw_expect_open(w, c);
    rw_say(w, c, PING);
    rw_say(w, w->leader, "+OK\r\n+OK\r\n");
    (void)rw_hear(w, w->leader);
    rw_say(w, w->leader, "+PONG\r\n");
    rw_expect(w, c, "+PONG\r\n");
    (void)snprintf(command, sizeof command,
                   "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$2999\r\n%s\r\n", long_name);
    exchange(command, "+OK\r\n");
    rw_hang_up(w);
    gone();
}

static void state_that_is_lost_closes(void **state)
{
    static const char *const requests[] = {MULTI, "*2\r\n$5\r\nWATCH\r\n$1\r\na\r\n",
                                           "*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        exchange(requests[i], "+OK\r\n");
        rw_hang_up(w);
        gone();
    }
    exchange(MULTI, "+OK\r\n");
    exchange(SET_B, "+QUEUED\r\n");
    rw_say(w, c, SET_B EXEC);
    rw_expect(w, w->leader, SET_B EXEC);
    rw_hang_up(w);
    rw_expect_count(w, c, "UNCERTAIN ", 2);
    gone();
    rw_say(w, c, SELECT); /* nobody knows which database it is */
    rw_hang_up(w);
    rw_expect_count(w, c, "UNCERTAIN ", 1);
    gone();
    exchange(MULTI, "+OK\r\n");
    exchange(EXEC, "*0\r\n");
    exchange(requests[1], "+OK\r\n");
    exchange("*1\r\n$7\r\nUNWATCH\r\n", "+OK\r\n");
    exchange(MULTI, "-NOPERM\r\n");
    rw_hang_up(w);
    rw_expect_open(w, c);
}

static void opaque_closes(void **state)
{
    (void)state;
    rw_say(w, c, GET_A "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nx\r\n");
    rw_say(w, w->leader,
           "$-1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n");
    rw_expect(w, c, "$-1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n");
    rw_hang_up(w);
    gone();
    rw_say(w, c, "CLIENT REPLY SKIP\r\n" PING PING);
    rw_say(w, w->leader, "+PONG\r\n");
    rw_expect(w, c, "+PONG\r\n");
    rw_hang_up(w);
    gone();
}

/* ---- without a leader ---- */

static void waits_then_refuses(void **state)
{
    (void)state;
    rw_part(w, PART_NONE);
    rw_say(w, c, GET_A SET_B);
    rw_expect_open(w, c);
    rw_turns(w, 200);
    rw_expect_count(w, c, "CLUSTERDOWN No leader", 2);
    assert_int_equal(w->dials, 0);
    rw_say(w, c, MULTI SET_B);
    rw_turns(w, 200);
    assert_string_equal(rw_hear(w, c), "+OK\r\n-CLUSTERDOWN No leader: the transaction will be discarded\r\n");
    rw_part(w, PART_FOLLOWS);
    rw_say(w, c, EXEC SELECT); /* must not find a leader half-way */
    rw_expect(w, c, "-EXECABORT Transaction discarded because of previous errors.\r\n");
    rw_expect(w, w->leader, SELECT);
    rw_say(w, w->leader, "+OK\r\n");
    rw_hang_up(w);
    rw_expect(w, c, "+OK\r\n");
    rw_part(w, PART_NONE);
    rw_say(w, c, "*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n" GET_A);
    rw_turns(w, 200);
    assert_string_equal(rw_hear(w, c), "+OK\r\n-CLUSTERDOWN No leader: the command was not executed\r\n");
    rw_say(w, c, GET_A);
    rw_part(w, PART_FOLLOWS); /* in time */
    rw_expect(w, w->leader, "*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n");
    rw_say(w, w->leader, "+OK\r\n");
    rw_expect(w, w->leader, GET_A);
}

static void until_dialled(int before)
{
    for (int i = 0; i < 400 && w->dials == before; i++)
        rw_turns(w, 5);
    assert_true(w->dials > before);
}

static void dials_again(void **state)
{
    int dials;

    (void)state;
    w->answer = REFUSED;
    rw_say(w, c, GET_A);
    rw_turns(w, 200);
    assert_true(w->dials >= 2);
    rw_expect_count(w, c, "CLUSTERDOWN ", 1);
    w->answer = ACCEPTED_MUTE; /* a node that leads no more: it takes the link and drops it */
    dials = w->dials;
    rw_say(w, c, GET_A);
    until_dialled(dials);
    rw_expect(w, w->leader, "");
    dials = w->dials;
    rw_hang_up(w);
    w->answer = ACCEPTED;
    rw_say(w, c, SET_B);
    until_dialled(dials);
    for (int i = 0; i < 100 && strstr(rw_hear(w, w->leader), SET_B) == NULL; i++)
        rw_turns(w, 5);
    assert_non_null(strstr(w->read, SET_B));
    w->answer = NO_ANSWER;
    rw_hang_up(w);
    (void)rw_hear(w, c);
    rw_say(w, c, GET_A);
    (void)close(c); /* perhaps only half: its command is still answered */
    rw_turns(w, 200);
    assert_int_equal(w->cancelled, 1);
    w->answer = ACCEPTED_MUTE;
    c = rw_client_new(w);
    rw_say(w, c, GET_A);
    rw_say(w, w->leader, "-ERR max number of clients reached\r\n");
    assert_string_equal(rw_hear(w, c), "-ERR max number of clients reached\r\n");
    gone();
}

static void leaves_a_former_leader(void **state)
{
    (void)state;
    (void)snprintf(w->status.leader, sizeof w->status.leader, "b");
    rw_turns(w, 120);
    exchange(PING, "+PONG\r\n");
    (void)snprintf(w->status.leader, sizeof w->status.leader, "c");
    rw_turns(w, 300);
    rw_expect(w, w->leader, "");
    assert_true(w->ended);
    exchange(PING, "+PONG\r\n");
    rw_say(w, c, GET_A);
    (void)snprintf(w->status.leader, sizeof w->status.leader, "d");
    rw_turns(w, 200);
    rw_expect_open(w, c); /* it may still answer */
    rw_turns(w, RELAY_STALE_MS + 300);
    rw_expect_count(w, c, "UNCERTAIN ", 1);
    exchange(PING, "+PONG\r\n");
    rw_say(w, c, GET_A);
    rw_part(w, PART_NONE);
    rw_turns(w, 700);
    rw_expect_count(w, c, "UNCERTAIN ", 1);
}

/* A leader that hands over says what it has not executed: that may be sent again. */
static void handed_over(void **state)
{
    static char large[RELAY_KEPT_BYTES_MAX + 64];
    int n = snprintf(large, sizeof large, "*2\r\n$4\r\nECHO\r\n$%d\r\n", RELAY_KEPT_BYTES_MAX);

    (void)state;
    rw_say(w, c, GET_A SELECT MULTI SET_B);
    rw_expect(w, w->leader, GET_A SELECT MULTI SET_B);
    rw_say(w, w->leader, "$1\r\nx\r\n");
    rw_say(w, w->leader, relay_moved);
    rw_expect(w, c, "$1\r\nx\r\n");
    rw_turns(w, RELAY_RETRY_MS + RELAY_TICK_MS);
    rw_expect(w, w->leader, SELECT MULTI SET_B);
    rw_say(w, w->leader, "+OK\r\n+OK\r\n+QUEUED\r\n");
    rw_expect(w, c, "+OK\r\n+OK\r\n+QUEUED\r\n");
    exchange(EXEC, "*0\r\n");
    memset(large + n, 'x', RELAY_KEPT_BYTES_MAX);
    memcpy(large + n + RELAY_KEPT_BYTES_MAX, "\r\n", 2);
    rw_say(w, c, PING);
    rw_say_bytes(w, c, large, (size_t)n + RELAY_KEPT_BYTES_MAX + 2);
    (void)rw_hear(w, w->leader);
    rw_say(w, w->leader, relay_moved);
    rw_expect_count(w, c, "CLUSTERDOWN The leader has changed", 2);
    rw_expect_open(w, c);
    rw_say(w, c, GET_A);
    rw_turns(w, RELAY_RETRY_MS + RELAY_TICK_MS);
    rw_expect(w, w->leader, SELECT);
    rw_say(w, w->leader, "+OK\r\n");
    rw_expect(w, w->leader, GET_A);
    rw_say(w, w->leader, "$-1\r\n");
    rw_expect(w, c, "$-1\r\n");
    exchange(MULTI, "+OK\r\n");
    rw_say(w, c, SET_B);
    rw_expect(w, w->leader, SET_B);
    rw_say(w, w->leader, relay_moved);
    rw_expect_count(w, c, "CLUSTERDOWN The leader has changed", 1);
    gone();
}

static void farewell_closes(void **state)
{
    (void)state;
    exchange(PING, "+PONG\r\n");
    rw_say(w, w->leader, relay_farewell);
    gone();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(passes_requests_and_replies),
        TEST(long_pipelines),
        TEST(protocol_errors),
        TEST(quit_and_half_close),
        TEST(cut_everywhere),
        TEST(requests_are_cut_too),
        TEST(prelude_is_repeated),
        TEST(prelude_is_bounded),
        TEST(state_that_is_lost_closes),
        TEST(opaque_closes),
        TEST(waits_then_refuses),
        TEST(dials_again),
        TEST(leaves_a_former_leader),
        TEST(handed_over),
        TEST(farewell_closes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

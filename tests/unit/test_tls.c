/* Streams that speak TLS: bytes both ways, changing hands, and how a connection ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/loop.h"
#include "tests/unit/tls_place.h"

enum { ECHO_BYTES = 10 * 1024 * 1024 };

/* ---- bytes ---- */

static char byte_at(const struct end *from, size_t i)
{
    return (char)((i * 31 + i / 251) ^ (from->pauses ? 0x55 : 0));
}

/* Some more of what is to be sent, in a piece of any size. */
static void send_some(struct end *e)
{
    size_t n = (size_t)end_random(e, end_random(e, 4) == 0 ? 300000 : 3000) + 1;

    if (e->sent == e->to_send || stream_pending(e->stream) > 1024 * 1024)
        return;
    for (; n > 0 && e->sent < e->to_send; n--, e->sent++)
        buf_u8(stream_out(e->stream), (uint8_t)byte_at(e, e->sent));
}

static void on_feed(void *arg)
{
    struct pair *x = arg;

    for (int i = 0; i < 20; i++) {
        send_some(&x->client);
        send_some(&x->server);
    }
}

static void exchange(struct place *p, struct tls *client, struct tls *server)
{
    struct loop_timer *feed;
    struct pair x;

    pair_connect(p, &x, client, server, client != NULL ? "b.test" : "");
    assert_true(place_run(p, both_connected, &x));
    x.client.to_send = x.server.to_send = ECHO_BYTES;
    x.server.pauses = true;
    feed = loop_timer_new(p->loop, on_feed, &x);
    loop_timer_every(feed, 1);
    if (!place_run(p, all_arrived, &x))
        fail_msg("%zu and %zu bytes have arrived: %s, %s", x.client.in.len, x.server.in.len, x.client.why,
                 x.server.why);
    for (size_t i = 0; i < ECHO_BYTES; i++)
        assert_true(buf_head(&x.client.in)[i] == byte_at(&x.server, i) &&
                    buf_head(&x.server.in)[i] == byte_at(&x.client, i));
    loop_timer_free(feed);
    pair_close(&x);
}

static void test_exchange(void **state)
{
    exchange(*state, place_good(*state, "a"), place_good(*state, "b"));
}

static void test_exchange_plain(void **state)
{
    exchange(*state, NULL, NULL);
}

/* TLS 1.2, where that is allowed: clients of the future. */
static void test_exchange_12(void **state)
{
    char why[256];
    struct tls *server = place_context(*state, "b", "", false, false, why);
    struct tls *client = place_context(*state, "", "ca", false, false, why);

    assert_non_null(server);
    assert_non_null(client);
    exchange(*state, client, server);
}

/* Everything at once, while the reader is paused, and then nothing more on the socket: what OpenSSL has read ahead
 * must come all the same. */
static void test_nothing_forgotten(void **state)
{
    struct place *p = *state;
    struct pair x;

    pair_good(p, &x);
    stream_pause(x.server.stream, true);
    x.client.to_send = 100000;
    while (x.client.sent < x.client.to_send)
        send_some(&x.client);
    place_pass(p, 50);
    assert_int_equal(x.server.in.len, 0);
    stream_pause(x.server.stream, false);
    stream_pause(x.server.stream, true);
    place_pass(p, 50);
    assert_int_equal(x.server.in.len, 0);
    stream_pause(x.server.stream, false);
    assert_true(place_run(p, all_arrived, &x));
    pair_close(&x);
}

/* Whoever sends more than a turn's worth does not keep the others from their turn: loop hooks, output, timers. */
struct turns {
    struct pair *x;
    size_t seen, most, turns;
};

static bool on_turn(void *arg)
{
    struct turns *t = arg;
    size_t now;

    if (t->x == NULL)
        return false;
    now = t->x->server.in.len;
    if (now - t->seen > t->most)
        t->most = now - t->seen;
    t->turns += now != t->seen;
    t->seen = now;
    return false;
}

static void test_turns(void **state)
{
    struct place *p = *state;
    static struct turns t; /* the hook stays until the loop ends */
    struct pair x;
    size_t before;

    pair_good(p, &x);
    stream_pause(x.server.stream, true);
    x.client.to_send = 32 * 1024 * 1024;
    for (int i = 0; i < 400; i++) { /* as much as the sockets take */
        send_some(&x.client);
        send_some(&x.client);
        place_pass(p, 0);
    }
    before = x.client.sent - stream_pending(x.client.stream);
    assert_true(before > 2 * 1024 * 1024);
    x.client.to_send = x.client.sent;
    t.x = &x;
    loop_add_hook(p->loop, on_turn, &t);
    stream_pause(x.server.stream, false);
    assert_true(place_run(p, all_arrived, &x));
    t.x = NULL;
    assert_in_range(t.most, 1, 512 * 1024);
    assert_true(t.turns >= before / (512 * 1024));
    pair_close(&x);
}

/* ---- changing hands ---- */

static void on_first(void *arg, const char *bytes, size_t n)
{
    struct end *e = arg;

    assert_true(n >= 3);
    buf_append(&e->in, bytes, 3);
    stream_set_aside(e->stream, bytes + 3, n - 3);
    e->at_eof = true; /* that is, given up */
}

static bool given_up(void *arg)
{
    return ((struct end *)arg)->at_eof;
}

static void hand_over(struct place *p, struct pair *x)
{
    static const struct stream_events first = {.data = on_first, .closed = end_on_closed};
    struct buf expected = {0};

    stream_hand_over(x->server.stream, &first, &x->server);
    for (int i = 0; i < 60000; i++)
        buf_u8(&expected, (uint8_t)(i * 7 + i / 256));
    stream_write(x->client.stream, buf_head(&expected), 30000);
    assert_true(place_run(p, given_up, &x->server));
    stream_write(x->client.stream, buf_head(&expected) + 30000, 30000);
    place_pass(p, 30);
    stream_close(x->client.stream); /* told to the next owner, behind the bytes */
    x->client.stream = NULL;
    place_pass(p, 30);
    assert_int_equal(x->server.in.len, 3);
    assert_false(x->server.closed);
    x->server.at_eof = false;
    stream_hand_over(x->server.stream, &end_events, &x->server);
    assert_int_equal(x->server.in.len, 3); /* not from inside the call */
    assert_true(place_run(p, one_closed, &x->server));
    assert_int_equal(x->server.in.len, expected.len);
    assert_memory_equal(buf_head(&x->server.in), buf_head(&expected), expected.len);
    assert_true(x->server.at_eof);
    buf_free(&expected);
    pair_close(x);
}

static void test_hand_over(void **state)
{
    struct pair x;

    pair_good(*state, &x);
    hand_over(*state, &x);
}

static void test_hand_over_plain(void **state)
{
    struct pair x;

    pair_connect(*state, &x, NULL, NULL, "");
    assert_true(place_run(*state, both_connected, &x));
    hand_over(*state, &x);
}

/* ---- ends ---- */

static void test_close(void **state)
{
    for (int who = 0; who < 2; who++) {
        struct pair x;
        struct end *from = who == 0 ? &x.client : &x.server, *to = who == 0 ? &x.server : &x.client;

        pair_good(*state, &x);
        stream_write(from->stream, "last words", 10);
        stream_finish(from->stream);
        assert_true(place_run(*state, both_closed, &x));
        assert_string_equal(from->why, "finished");
        assert_string_equal(to->why, "closed by the other end");
        assert_true(to->at_eof);
        assert_int_equal(to->in.len, 10);
        pair_close(&x);
    }
}

/* One end says that it sends no more, and is still answered. */
static void test_half_close(void **state)
{
    struct place *p = *state;
    struct pair x;

    pair_good(p, &x);
    x.server.keep_half = true;
    stream_finish(x.client.stream); /* close_notify, but the socket stays */
    assert_true(place_run(p, given_up, &x.server));
    assert_false(x.server.closed);
    stream_write(x.server.stream, "answer", 6);
    place_pass(p, 20);
    assert_false(x.server.closed);
    pair_close(&x);
}

/* Without a close_notify it is no end, but a cut: what was sent before may be incomplete. */
static void test_cut(void **state)
{
    struct place *p = *state;
    struct pair x;

    pair_good(p, &x);
    stream_write(x.client.stream, "half of", 7);
    place_pass(p, 20);
    (void)shutdown(stream_fd(x.client.stream), SHUT_WR);
    assert_true(place_run(p, one_closed, &x.server));
    assert_string_equal(x.server.why, "cut off by the other end");
    assert_false(x.server.at_eof);
    assert_int_equal(x.server.in.len, 7);
    pair_close(&x);
}

static void test_broken_record(void **state)
{
    struct place *p = *state;
    struct pair x;

    pair_good(p, &x);
    assert_int_equal(write(stream_fd(x.client.stream), "\x17\x03\x03\x00\x20 this is no record at all, is it?", 37),
                     37);
    assert_true(place_run(p, one_closed, &x.server));
    assert_non_null(strstr(x.server.why, "TLS: "));
    assert_int_equal(x.server.in.len, 0);
    pair_close(&x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, place_open, place_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_exchange),      T(test_exchange_plain),  T(test_exchange_12), T(test_nothing_forgotten), T(test_turns),
        T(test_hand_over),     T(test_hand_over_plain), T(test_close),       T(test_half_close),        T(test_cut),
        T(test_broken_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

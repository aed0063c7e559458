/* Links between members that meet what they should not: strangers, damaged frames, one who does not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/address.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/base/tls.h"
#include "tests/unit/peer_world.h"
#include "tests/unit/tls_files.h"

/* Says these bytes to b, after a HELLO or not, and is closed for it; and the log says why. */
static void closed_for(struct world *w, bool greet, struct buf *bytes, const char *why)
{
    struct raw r;

    raw_open(w, &r, B);
    if (greet)
        hello_of(stream_out(r.stream), A, PEER_LINK, PEER_VERSION);
    stream_write(r.stream, buf_head(bytes), bytes->len);
    assert_true(world_run(w, raw_is_closed, &r));
    if (!world_says(w, why, 1))
        fail_msg("nothing said of: %s", why);
    raw_close(&r);
    buf_clear(bytes);
}

static void message_frame(struct buf *out, const struct peer_message *m, struct record *const *records, size_t n)
{
    size_t at = wire_begin(out);

    wire_message(out, m, records, n);
    wire_end(out, at, WIRE_MESSAGE);
}

static void test_garbage(void **state)
{
    struct world world, *w = &world;
    struct peer_message m = {.kind = PEER_APPEND};
    struct buf b = {0};
    size_t at;

    (void)state;
    world_open(w, false);
    world_records(w, 3, 100);
    peer_node_start(B);
    buf_text(&b, "GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    closed_for(w, false, &b, "connection from 127.0.0.1: a frame of impossible length");
    buf_append(&b, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11); /* TLS */
    closed_for(w, false, &b, "a frame of impossible length");
    buf_append(&b, "\xff\xff\xff\xff\x01", 5);
    closed_for(w, false, &b, "a frame of impossible length");
    buf_append(&b, "\x01\x00\x00\x00\x01", 5);
    closed_for(w, false, &b, "a frame of impossible length");
    buf_append(&b, "\x20\x00\x00\x00\x77", 5);
    closed_for(w, false, &b, "a frame of no known kind");
    hello_of(&b, A, PEER_LINK, 2);
    closed_for(w, false, &b, "version 2 of the peer protocol; b speaks 1");
    message_frame(&b, &m, NULL, 0);
    closed_for(w, false, &b, "no HELLO, but another frame");
    at = wire_begin(&b);
    buf_text(&b, "HFP1\x01");
    wire_end(&b, at, WIRE_HELLO);
    closed_for(w, false, &b, "a malformed HELLO");
    hello_of(&b, B, PEER_LINK, 1);
    closed_for(w, false, &b, "it has the name or the data directory's id of b itself");
    assert_int_equal(B->met, 0);

    hello_of(&b, A, PEER_LINK, 1); /* a second one */
    closed_for(w, true, &b, "link from a: a frame that does not belong here");
    message_frame(&b, &m, NULL, 0);
    buf_head(&b)[b.len - 1] ^= 1;
    closed_for(w, true, &b, "link from a: a damaged frame");
    buf_append(&b, "\xff\xff\xff\x7f\x02", 5);
    closed_for(w, true, &b, "link from a: a frame of impossible length");
    m.append.prev_index = 1; /* entries of another place than the message says */
    m.append.count = 2;
    message_frame(&b, &m, &w->records[1], 2);
    closed_for(w, true, &b, "link from a: a malformed message");
    assert_int_equal(B->messages, 0);
    m.append.prev_index = 0;
    m.append.count = 3;
    m.sent_ms = 7;
    m.append.commit = 5;
    at = b.len;
    message_frame(&b, &m, &w->records[1], 3);
    buf_append(&b, "\xff\xff\xff\x7f\x02", 5);
    closed_for(w, true, &b, "link from a: a frame of impossible length");
    assert_int_equal(B->entries, 3); /* what was good before is good */
    buf_free(&b);
    world_close(w);
}

/* Random bytes, and random changes to good ones: closed, or waited for; never harm. */
static void test_random(void **state)
{
    struct world world, *w = &world;
    struct buf good = {0};
    struct raw r;

    (void)state;
    world_open(w, false);
    w->diag.level = DIAG_NOTHING;
    peer_node_start(B);
    for (int i = 0; i < 300; i++) {
        buf_clear(&good);
        hello_of(&good, A, 1 + world_random(w, 3), 1);
        for (uint64_t j = world_random(w, 300); j > 0; j--)
            buf_u8(&good, (uint8_t)world_random(w, 256));
        for (uint64_t j = world_random(w, 4); j > 0; j--)
            buf_head(&good)[world_random(w, good.len)] ^= (char)(1 << world_random(w, 8));
        raw_open(w, &r, B);
        stream_write(r.stream, buf_head(&good), world_random(w, good.len + 1));
        world_pass(w, 1);
        raw_close(&r);
        stream_close(B->taken);
        B->taken = NULL;
    }
    buf_free(&good);
    world_close(w);
}

enum { STRANGERS = 400, STRANGERS_KEPT = 256 };

static bool strangers_are_closed(struct world *w, void *arg)
{
    const struct raw *silent = arg;
    size_t closed = 0;

    (void)w;
    for (size_t i = 0; i < STRANGERS; i++)
        closed += silent[i].closed;
    return closed >= STRANGERS - STRANGERS_KEPT;
}

/* Silent connections do not keep a member out, and are ended. */
static void test_silent_strangers(void **state)
{
    struct world world, *w = &world;
    struct raw *silent = calloc(STRANGERS, sizeof *silent);
    size_t marks = 1;

    (void)state;
    world_open(w, false);
    peer_node_start(B);
    for (size_t i = 0; i < STRANGERS; i++)
        raw_open(w, &silent[i], B);
    assert_true(world_run(w, strangers_are_closed, silent));
    peer_node_start(A);
    node_knows(A, 2, A, B);
    assert_true(world_run(w, a_to_b, NULL));
    send_mark(A, B, 0);
    assert_true(world_run(w, has_marks, &marks));
    assert_true(world_run(w, raw_is_closed, &silent[STRANGERS - 1]));
    for (size_t i = 0; i < STRANGERS; i++)
        raw_close(&silent[i]);
    free(silent);
    world_close(w);
}

static bool b_met_one(struct world *w, void *arg)
{
    (void)arg;
    return B->met == 1;
}

/* A member that dials again takes the place of its older connection: what that still holds is out of date. */
static void test_replaced(void **state)
{
    struct world world, *w = &world;
    struct raw old, new;
    size_t marks = 1;

    (void)state;
    world_open(w, false);
    peer_node_start(B);
    raw_open(w, &old, B);
    hello_of(stream_out(old.stream), A, PEER_LINK, PEER_VERSION);
    assert_true(world_run(w, b_met_one, NULL));
    raw_open(w, &new, B);
    hello_of(stream_out(new.stream), A, PEER_LINK, PEER_VERSION);
    assert_true(world_run(w, raw_is_closed, &old));
    message_frame(stream_out(new.stream), &(struct peer_message){.kind = PEER_VOTE}, NULL, 0);
    assert_true(world_run(w, has_marks, &marks));
    assert_false(new.closed);
    raw_close(&old);
    raw_close(&new);
    world_close(w);
}

/* ---- one who does not read ---- */

static size_t memory_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size, resident;

    assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
    (void)fclose(f);
    return resident * 4096;
}

struct deaf {
    struct world *world;
    struct raw raw;
    int listener;
    struct loop_timer *poll;
};

/* Accepts on b's address, answers the HELLO, and reads no more. */
static void deaf_poll(void *arg)
{
    struct deaf *d = arg;
    int fd = accept(d->listener, NULL, NULL);

    if (fd < 0)
        return;
    if (d->raw.stream != NULL)
        raw_close(&d->raw);
    d->raw = (struct raw){.keep_quiet = true};
    d->raw.stream = stream_accepted(d->world->loop, fd, &raw_events, &d->raw);
    hello_of(stream_out(d->raw.stream), &d->world->nodes[1], PEER_LINK, PEER_VERSION);
}

static bool c_has_all(struct world *w, void *arg)
{
    return C->marks == *(size_t *)arg;
}

/* What is sent before a link is up is dropped: which of two is up first says nothing of the other. */
static bool a_to_b_and_c(struct world *w, void *arg)
{
    return a_to_b(w, arg) && peers_up(A->peers, C->self.id);
}

static void test_deaf(void **state)
{
    struct world world, *w = &world;
    struct deaf d = {.world = &world};
    size_t before, marks = 20000;
    uint64_t deaf_ms;
    char why[128];

    (void)state;
    world_open(w, false);
    world_records(w, 2000, 12000);
    d.listener = address_listen(B->self.address, 10, why, sizeof why);
    assert_true(d.listener >= 0);
    d.poll = loop_timer_new(w->loop, deaf_poll, &d);
    loop_timer_every(d.poll, 1);
    peer_node_start(A);
    peer_node_start(C);
    node_knows(A, 3, A, B, C);
    assert_true(world_run(w, a_to_b_and_c, NULL));
    before = memory_bytes();
    deaf_ms = loop_now_ms(w->loop);
    for (size_t i = 0; i < marks; i++) {
        send_append(A, B, 0, 2000);
        send_mark(A, C, i);
        if (i % 1000 == 0)
            world_pass(w, 1);
    }
    assert_true(world_run(w, c_has_all, &marks));
    assert_true(memory_bytes() - before < 16 * 1024 * 1024);
    if (!peers_up(A->peers, B->self.id)) /* on a slow machine: but not before its time */
        assert_true(loop_now_ms(w->loop) - deaf_ms >= PEER_SILENCE_MS_MAX);
    assert_true(world_run(w, a_lost_b, NULL)); /* silence */
    assert_string_equal(A->why, "it has taken no bytes for too long");
    assert_true(world_run(w, a_to_b, NULL));
    loop_timer_free(d.poll);
    raw_close(&d.raw);
    (void)close(d.listener);
    world_close(w);
}

/* More messages than a queue holds, in one turn: the newest arrive. */
static void test_queue_bound(void **state)
{
    struct world world, *w = &world;
    size_t marks = PEER_QUEUE_MESSAGES_MAX;

    (void)state;
    world_open(w, false);
    assert_true(world_three(w));
    for (uint64_t i = 0; i < 3 * PEER_QUEUE_MESSAGES_MAX; i++)
        send_mark(A, B, i);
    assert_true(world_run(w, has_marks, &marks));
    world_pass(w, 20);
    assert_int_equal(B->marks, PEER_QUEUE_MESSAGES_MAX);
    assert_int_equal(B->next_mark, 3 * PEER_QUEUE_MESSAGES_MAX);
    assert_int_equal(B->gaps, 1);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage),  cmocka_unit_test(test_random), cmocka_unit_test(test_silent_strangers),
        cmocka_unit_test(test_replaced), cmocka_unit_test(test_deaf),   cmocka_unit_test(test_queue_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

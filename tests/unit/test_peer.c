/* The links between members: real sockets on loopback, several members in this process, plain and with TLS. */
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

enum { CROWD = 100 };

/* ---- messages and entries ---- */

static bool everything_arrived(struct world *w, void *arg)
{
    (void)arg;
    return B->entries == w->record_count && C->entries == w->record_count && B->marks == 500 && C->marks == 500;
}

static void entries_arrive(bool tls)
{
    struct world world, *w = &world;
    uint64_t index = 0, mark = 0;

    world_open(w, tls);
    world_records(w, 2000, 12000);
    assert_true(world_three(w));
    while (index < w->record_count || mark < 500) { /* in order, the ends of one mixed with the other */
        uint64_t n = world_random(w, 400);

        if (n > w->record_count - index)
            n = w->record_count - index;
        for (size_t i = 1; i < 3; i++) {
            send_append(A, &w->nodes[i], index, (uint32_t)n);
            if (mark < 500)
                send_mark(A, &w->nodes[i], mark);
        }
        index += n;
        mark += mark < 500;
    }
    assert_true(world_run(w, everything_arrived, NULL));
    assert_int_equal(B->gaps + C->gaps, 0);
    assert_int_equal(A->messages, 0);
    assert_true(B->messages > 1000); /* in pieces */
    world_close(w);
}

static void test_entries_plain(void **state)
{
    (void)state;
    entries_arrive(false);
}

static void test_entries_tls(void **state)
{
    (void)state;
    entries_arrive(true);
}

/* Entries that are not in the log any more: their message is dropped, what is behind it is not. */
static void test_out_of_date(void **state)
{
    struct world world, *w = &world;
    size_t one = 1;

    (void)state;
    world_open(w, false);
    world_records(w, 10, 100);
    assert_true(world_three(w));
    send_append(A, B, 8, 2);
    w->record_count = 0; /* a cut */
    send_mark(A, B, 0);
    assert_true(world_run(w, has_marks, &one));
    assert_int_equal(B->entries, 0);
    w->record_count = 10;
    world_close(w);
}

/* ---- coming and going ---- */

static void restart(bool tls)
{
    struct world world, *w = &world;
    size_t marks = 1;

    world_open(w, tls);
    assert_true(world_three(w));
    send_mark(A, B, 0);
    assert_true(world_run(w, has_marks, &marks));
    peer_node_stop(B);
    assert_true(world_run(w, a_lost_b, NULL));
    assert_false(peers_up(A->peers, B->self.id));
    send_mark(A, B, 1); /* nobody: dropped */
    world_pass(w, 200);
    peer_node_start(B);
    assert_true(world_run(w, a_to_b, NULL));
    send_mark(A, B, 2);
    marks = 2;
    assert_true(world_run(w, has_marks, &marks));
    assert_int_equal(B->next_mark, 3);
    assert_int_equal(A->ups, 3);
    node_knows(A, 2, A, C);
    assert_false(peers_up(A->peers, B->self.id));
    assert_int_equal(A->downs, 2);
    assert_string_equal(A->why, "not wanted any more");
    node_knows(A, 3, A, B, C);
    assert_true(world_run(w, a_to_b, NULL));
    world_close(w);
}

static void test_restart_plain(void **state)
{
    (void)state;
    restart(false);
}

static void test_restart_tls(void **state)
{
    (void)state;
    restart(true);
}

/* Members that are known by name. */
static void test_names(void **state)
{
    struct world world, *w = &world;

    (void)state;
    world_open(w, false);
    for (size_t i = 0; i < 3; i++)
        memmove(w->nodes[i].self.address, "localhost", 9); /* as long as 127.0.0.1 */
    assert_true(world_three(w));
    world_close(w);
}

/* ---- who is refused ---- */

static bool b_refuses_a(const struct peer_hello *h)
{
    return strcmp(h->member.name, "a") == 0;
}

/* A dials B, and each time is refused, with a reason that is said once. */
static void refused(struct world *w, const char *reason)
{
    peer_node_start(A);
    peer_node_start(B);
    node_knows(A, 2, A, B);
    if (!world_says(w, reason, 1))
        fail_msg("nothing said of: %s", reason);
    world_pass(w, 1500); /* and dialled again, within a second and a quarter */
    assert_false(peers_up(A->peers, B->self.id));
    assert_int_equal(A->ups, 0);
    assert_in_range(world_said(w, reason), 1, 2); /* each side */
    peer_node_stop(A);
    peer_node_stop(B);
}

/* What listens at b's address says that it is x. */
static void named_as_meant(struct world *w)
{
    peer_node_start(A);
    node_knows(A, 2, A, B);
    (void)snprintf(B->self.name, sizeof B->self.name, "x");
    peer_node_start(B);
    assert_true(world_says(w, "it is x, not b", 2));
    assert_int_equal(A->ups, 0);
}

static void test_refused(void **state)
{
    struct world world, *w = &world;

    (void)state;
    world_open(w, false);
    B->cluster = "another";
    refused(w, "cluster test; b belongs to another");
    B->cluster = "test";
    B->refuse = b_refuses_a;
    refused(w, "refused by the other end: unwelcome");
    B->refuse = NULL;
    named_as_meant(w);
    world_close(w);
}

static void test_other_id(void **state)
{
    struct world world, *w = &world;

    (void)state;
    world_open(w, false);
    peer_node_start(B);
    B->self.id = 777; /* as a knows it; b itself says 102 */
    peer_node_start(A);
    node_knows(A, 2, A, B);
    assert_true(world_says(w, "another data directory", 2));
    assert_false(peers_up(A->peers, 777));
    B->self.id = 0; /* whoever proves the name */
    node_knows(A, 2, A, B);
    B->self.id = 102;
    assert_true(world_run(w, a_to_b, NULL));
    node_knows(A, 2, A, B); /* now its id is known: the same link */
    assert_int_equal(A->downs, 0);
    assert_true(peers_up(A->peers, 102));
    world_close(w);
}

static void test_wrong_certificates(void **state)
{
    struct world world, *w = &world;
    struct tls *good;

    (void)state;
    world_open(w, true);
    good = B->tls;
    B->tls = C->tls; /* b with c's certificate, as a server */
    refused(w, "the other end's certificate is not for b.test");
    B->tls = good;
    good = A->tls;
    A->tls = C->tls; /* a with c's certificate, as a client */
    refused(w, "its certificate is not for a.test, the name that it gives");
    A->tls = good;
    world_close(w);
}

/* ---- connections for one purpose ---- */

struct dialled {
    struct raw raw;
    bool done;
    char why[256];
};

static void on_dialled(void *arg, struct stream *s, const char *why)
{
    struct dialled *d = arg;

    assert_false(d->done);
    d->done = true;
    d->raw.stream = s;
    (void)snprintf(d->why, sizeof d->why, "%s", why != NULL ? why : "");
}

static bool is_dialled(struct world *w, void *arg)
{
    (void)w;
    return ((struct dialled *)arg)->done;
}

static bool b_has_taken(struct world *w, void *arg)
{
    (void)arg;
    return B->taken != NULL;
}

static bool raw_has_five(struct world *w, void *arg)
{
    (void)w;
    return ((struct raw *)arg)->in.len >= 5;
}

static void relay(bool tls)
{
    struct world world, *w = &world;
    struct dialled d = {.done = false};
    struct raw server = {0};
    struct buf hello = {0};
    struct raw early;

    world_open(w, tls);
    peer_node_start(A);
    peer_node_start(B);
    (void)peers_dial(A->peers, &B->self, PEER_RELAY, "extra", 5, on_dialled, &d);
    assert_true(world_run(w, b_has_taken, NULL));
    stream_write(B->taken, "early", 5); /* before anybody is there to read it */
    assert_true(world_run(w, is_dialled, &d));
    assert_non_null(d.raw.stream);
    assert_memory_equal(B->extra, "extra", 5);
    assert_int_equal(B->extra_bytes, 5);
    stream_write(d.raw.stream, "hello", 5);
    world_pass(w, 50);
    stream_hand_over(d.raw.stream, &raw_events, &d.raw);
    assert_true(world_run(w, raw_has_five, &d.raw));
    assert_memory_equal(buf_head(&d.raw.in), "early", 5);
    stream_hand_over(B->taken, &raw_events, &server);
    server.stream = B->taken;
    B->taken = NULL;
    assert_true(world_run(w, raw_has_five, &server));
    assert_memory_equal(buf_head(&server.in), "hello", 5);
    raw_close(&d.raw);
    assert_true(world_run(w, raw_is_closed, &server));
    raw_close(&server);
    if (!tls) { /* bytes in the same packet as the HELLO */
        hello_of(&hello, A, PEER_FETCH, 1);
        buf_text(&hello, "first");
        raw_open(w, &early, B);
        stream_write(early.stream, buf_head(&hello), hello.len);
        assert_true(world_run(w, b_has_taken, NULL));
        server = (struct raw){.stream = B->taken};
        B->taken = NULL;
        raw_close(&early);
        world_pass(w, 20);
        stream_hand_over(server.stream, &raw_events, &server);
        assert_true(world_run(w, raw_is_closed, &server));
        assert_int_equal(server.in.len, 5);
        assert_memory_equal(buf_head(&server.in), "first", 5);
        raw_close(&server);
        buf_free(&hello);
    }
    world_close(w);
}

static void test_relay_plain(void **state)
{
    (void)state;
    relay(false);
}

static void test_relay_tls(void **state)
{
    (void)state;
    relay(true);
}

struct crowd {
    struct world *world;
    size_t done;
    struct buf streams; /* struct stream * */
};

static void on_one_of_many(void *arg, struct stream *s, const char *why)
{
    struct crowd *c = arg;
    struct world *w = c->world;

    (void)why;
    if (s == NULL) { /* on a slow machine: its time was over, as a client's relay tries again */
        (void)peers_dial(A->peers, &B->self, PEER_RELAY, NULL, 0, on_one_of_many, c);
        return;
    }
    c->done++;
    buf_append(&c->streams, &s, sizeof s);
}

static bool all_done(struct world *w, void *arg)
{
    (void)w;
    return ((struct crowd *)arg)->done == CROWD;
}

/* All clients of a node, relayed at once to a new leader. */
static void test_crowd(void **state)
{
    struct world world, *w = &world;
    struct crowd c = {.world = w};
    size_t marks = 1;

    (void)state;
    world_open(w, true);
    A->keep_no_taken = B->keep_no_taken = true;
    peer_node_start(A);
    peer_node_start(B);
    for (int i = 0; i < CROWD; i++)
        (void)peers_dial(A->peers, &B->self, PEER_RELAY, NULL, 0, on_one_of_many, &c);
    node_knows(A, 2, A, B);
    assert_true(world_run(w, a_to_b, NULL)); /* the link does not wait for them */
    if (c.done == CROWD) /* or it was tried before, and its time was over, too */
        assert_true(world_said(w, "peer b (") > 0);
    send_mark(A, B, 0);
    assert_true(world_run(w, has_marks, &marks));
    assert_true(world_run(w, all_done, &c));
    for (size_t i = 0; i < CROWD; i++)
        stream_close(((struct stream **)(void *)buf_head(&c.streams))[i]);
    buf_free(&c.streams);
    world_pass(w, 100);
    world_close(w);
}

static void test_dial_fails(void **state)
{
    struct world world, *w = &world;
    struct dialled d = {.done = false}, none = {.done = false};
    struct member nowhere = {.name = "b", .address = "127.0.0.1"};

    (void)state;
    world_open(w, false);
    peer_node_start(A);
    (void)peers_dial(A->peers, &B->self, PEER_RELAY, NULL, 0, on_dialled, &d);
    assert_false(d.done);
    assert_true(world_run(w, is_dialled, &d));
    assert_null(d.raw.stream);
    assert_string_equal(d.why, "Connection refused");
    d.done = false;
    (void)peers_dial(A->peers, &nowhere, PEER_FETCH, NULL, 0, on_dialled, &d);
    assert_false(d.done);
    assert_true(world_run(w, is_dialled, &d));
    assert_string_equal(d.why, "its address, 127.0.0.1, is not host:port");
    d.done = false;
    (void)snprintf(nowhere.address, sizeof nowhere.address, "192.0.2.1:7000"); /* TEST-NET-1: not loopback */
    (void)peers_dial(A->peers, &nowhere, PEER_FETCH, NULL, 0, on_dialled, &d);
    assert_true(world_run(w, is_dialled, &d));
    assert_string_equal(d.why, "without TLS, members are dialled on loopback addresses only");
    peer_node_start(B);
    B->refuse = b_refuses_a;
    d.done = false;
    (void)peers_dial(A->peers, &B->self, PEER_FETCH, NULL, 0, on_dialled, &d);
    assert_true(world_run(w, is_dialled, &d));
    assert_string_equal(d.why, "refused by the other end: unwelcome");
    peer_dial_cancel(peers_dial(A->peers, &B->self, PEER_FETCH, NULL, 0, on_dialled, &none));
    (void)peers_dial(A->peers, &B->self, PEER_FETCH, NULL, 0, on_dialled, &none);
    peer_node_stop(A); /* takes it along */
    world_pass(w, 50);
    assert_false(none.done);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_plain),
        cmocka_unit_test(test_entries_tls),
        cmocka_unit_test(test_out_of_date),
        cmocka_unit_test(test_restart_plain),
        cmocka_unit_test(test_restart_tls),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_id),
        cmocka_unit_test(test_wrong_certificates),
        cmocka_unit_test(test_relay_plain),
        cmocka_unit_test(test_relay_tls),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_dial_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

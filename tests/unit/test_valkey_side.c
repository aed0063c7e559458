/* Tap, replay and feed against a real Valkey: what is tapped from one, logged and fed to another makes them equal. */
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/feed.h"
#include "proxy/tap.h"
#include "tests/unit/log_fixture.h"
#include "tests/unit/real_valkey.h"

enum { LOG_BYTES_MAX = 256 << 20, COMMANDS = 6000 };

struct side {
    struct fixture f;
    struct real_valkey a, b;
    struct tap *tap;
    char replid[48];
    uint64_t offset, end;
    size_t effects, units, messages;
    uint32_t db;
    struct snapshot_writer *writer;
    bool rdb_ended, stored, partial, closed, complete;
    char why[256];
    uint64_t goal;
};

static const struct diag quiet = {.level = DIAG_NOTHING};

/* ---- tap ─▶ log ---- */

static void on_full(void *arg, const char *replid, uint64_t offset)
{
    struct side *s = arg;
    char why[128];

    (void)snprintf(s->replid, sizeof s->replid, "%s", replid);
    s->offset = s->end = offset;
    s->writer = snapshot_begin(s->f.log, why, sizeof why);
    assert_non_null(s->writer);
}

static void on_rdb(void *arg, const char *bytes, size_t n)
{
    struct side *s = arg;

    assert_true(snapshot_write(s->writer, bytes, n));
}

static void on_stored(void *arg, bool ok)
{
    struct side *s = arg;

    assert_true(ok);
    s->stored = true;
}

static void on_rdb_end(void *arg)
{
    struct side *s = arg;
    uint64_t index = log_open_index(s->f.log);
    struct snapshot_mark mark = {.index = index, .log_from = index, .next_seq = 1};

    s->rdb_ended = true;
    snapshot_finish(s->writer, &mark, on_stored, s);
}

static void on_partial(void *arg, const char *replid)
{
    struct side *s = arg;

    s->partial = true;
    (void)snprintf(s->replid, sizeof s->replid, "%s", replid);
}

static void on_effect(void *arg, const struct effect *e)
{
    struct side *s = arg;
    struct buf items = {0};

    item_raw(&items, e->db_before, e->db_after, e->bytes, e->n);
    frame_outcome(log_batch(s->f.log), e->end_offset, &items);
    log_touch(s->f.log, true);
    buf_free(&items);
    s->effects++;
    s->units += e->unit;
    s->end = e->end_offset;
    s->db = e->db_after;
}

static void on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    struct side *s = arg;

    (void)channel;
    (void)channel_n;
    (void)payload;
    (void)payload_n;
    s->messages++;
    s->end = e->end_offset;
    s->db = e->db_after;
}

static void on_closed(void *arg, const char *why)
{
    struct side *s = arg;

    s->closed = true;
    (void)snprintf(s->why, sizeof s->why, "%s", why);
}

static const struct tap_events tap_callbacks = {.full = on_full,
                                                .rdb = on_rdb,
                                                .rdb_end = on_rdb_end,
                                                .partial = on_partial,
                                                .effect = on_effect,
                                                .message = on_message,
                                                .closed = on_closed};

static struct side *side_of(struct fixture *f)
{
    return (struct side *)((char *)f - offsetof(struct side, f));
}

static bool until_stored(struct fixture *f)
{
    return side_of(f)->stored || side_of(f)->closed;
}

static bool until_goal(struct fixture *f)
{
    struct side *s = side_of(f);

    return s->closed || (tap_offset(s->tap) >= s->goal && log_pending_bytes(f->log) <= ENTRY_HEADER_BYTES &&
                         log_committed(f->log) + 1 == log_open_index(f->log));
}

static bool until_complete(struct fixture *f)
{
    return side_of(f)->complete || side_of(f)->closed;
}

static bool until_partial(struct fixture *f)
{
    return side_of(f)->partial || side_of(f)->closed;
}

static uint64_t info_number(struct real_valkey *v, const char *field)
{
    char info[8192], key[64];
    const char *at;

    real_valkey_ask(v, info, sizeof info, "INFO replication");
    (void)snprintf(key, sizeof key, "%s:", field);
    at = strstr(info, key);
    assert_non_null(at);
    return strtoull(at + strlen(key), NULL, 10);
}

static void follow(struct side *s, struct real_valkey *v)
{
    s->goal = info_number(v, "master_repl_offset");
    assert_true(fixture_wait(&s->f, until_goal));
    if (s->closed)
        fail_msg("tap closed: %s", s->why);
}

static void open_side(struct side *s, const char *const *extra)
{
    *s = (struct side){0};
    fixture_dir(&s->f);
    assert_true(fixture_open(&s->f, LOG_BYTES_MAX));
    real_valkey_make(&s->a);
    real_valkey_make(&s->b);
    real_valkey_start(&s->a, extra);
    real_valkey_start(&s->b, NULL);
}

static void close_side(struct side *s)
{
    tap_close(s->tap);
    fixture_remove(&s->f);
    real_valkey_remove(&s->a);
    real_valkey_remove(&s->b);
}

static void tap_from_start(struct side *s)
{
    struct tap_settings settings = {.address = s->a.address};

    s->tap = tap_new(s->f.loop, &quiet, &settings, &tap_callbacks, s);
    assert_true(fixture_wait(&s->f, until_stored));
    if (s->closed)
        fail_msg("tap closed: %s", s->why);
}

/* ---- log ─▶ feed ---- */

static void on_complete(void *arg)
{
    ((struct side *)arg)->complete = true;
}

static const struct feed_events feed_callbacks = {.complete = on_complete, .closed = on_closed};

static struct feed *feed_b(struct side *s)
{
    char why[128] = "";
    struct feed_settings settings = {.ip = "", .run_id = ""};
    struct feed *f = feed_new(s->f.loop, &quiet, s->f.log, &settings, &feed_callbacks, s, why, sizeof why);

    assert_non_null(f);
    feed_finish(f, log_committed(s->f.log));
    s->closed = s->complete = false;
    real_valkey_do(&s->b, "CONFIG SET masterauth %s", feed_password(f));
    real_valkey_do(&s->b, "REPLICAOF 127.0.0.1 %d", feed_port(f));
    assert_true(fixture_wait(&s->f, until_complete));
    if (s->closed)
        fail_msg("feed closed: %s", s->why);
    real_valkey_do(&s->b, "REPLICAOF NO ONE");
    return f;
}

static void check_equal(struct side *s)
{
    char errors[4096];

    real_valkey_ask(&s->b, errors, sizeof errors, "INFO stats");
    assert_non_null(strstr(errors, "unexpected_error_replies:0"));
    assert_true(real_valkey_same(&s->a, &s->b));
}

/* ---- the tests ---- */

static void tapped_logged_fed(void **state)
{
    struct side s;
    struct feed *f;
    uint64_t end;

    (void)state;
    open_side(&s, NULL);
    real_valkey_workload(&s.a, 1, COMMANDS); /* what the RDB holds */
    tap_from_start(&s);
    for (uint64_t seed = 2; seed < 6; seed++) {
        real_valkey_workload(&s.a, seed, COMMANDS / 4);
        follow(&s, &s.a);
    }
    assert_true(s.effects > COMMANDS / 4 && s.units > 50 && s.messages > 5);
    f = feed_b(&s);
    check_equal(&s);
    end = feed_offset(f);
    assert_int_equal(info_number(&s.b, "second_repl_offset"), end + 1);
    feed_close(f);
    close_side(&s);
}

/* Disk-backed transfer ($<len>), and a second feed over what the first left. */
static void with_length(void **state)
{
    static const char *const disk[] = {"--repl-diskless-sync", "no", NULL};
    struct side s;

    (void)state;
    open_side(&s, disk);
    real_valkey_workload(&s.a, 11, COMMANDS);
    tap_from_start(&s);
    real_valkey_workload(&s.a, 12, COMMANDS / 4);
    follow(&s, &s.a);
    feed_close(feed_b(&s));
    check_equal(&s);
    real_valkey_workload(&s.a, 13, COMMANDS / 4);
    follow(&s, &s.a);
    real_valkey_workload(&s.b, 14, 500); /* goes its own way, and is fed again */
    feed_close(feed_b(&s));
    check_equal(&s);
    close_side(&s);
}

/* A log that begins at nothing: the empty RDB. */
static void from_nothing(void **state)
{
    struct side s;
    struct tap_settings settings = {0};

    (void)state;
    open_side(&s, NULL);
    real_valkey_do(&s.a, "SET before 1"); /* gives the stream an offset to begin at */
    real_valkey_workload(&s.b, 20, 500);
    tap_from_start(&s);
    tap_close(s.tap);
    fixture_remove(&s.f);
    fixture_dir(&s.f);
    assert_true(fixture_open(&s.f, LOG_BYTES_MAX));
    real_valkey_do(&s.a, "FLUSHALL");
    settings = (struct tap_settings){.address = s.a.address, .replid = s.replid, .offset = s.offset};
    s.tap = tap_new(s.f.loop, &quiet, &settings, &tap_callbacks, &s);
    real_valkey_workload(&s.a, 21, COMMANDS);
    follow(&s, &s.a);
    feed_close(feed_b(&s));
    check_equal(&s);
    close_side(&s);
}

/* A tap cut in the middle of traffic in database 3 goes on with the database it knows, and after a promotion with
 * the one that Valkey names. */
static void bridged(void **state)
{
    struct side s;
    struct feed *f;
    struct tap_settings settings = {0};

    (void)state;
    open_side(&s, NULL);
    tap_from_start(&s);
    real_valkey_do(&s.a, "SELECT 3");
    real_valkey_do(&s.a, "SET before 1");
    real_valkey_do(&s.a, "SPUBLISH marker m");
    follow(&s, &s.a);
    assert_int_equal(s.db, 3);
    tap_close(s.tap);
    real_valkey_do(&s.a, "SET between 2"); /* without SELECT in the stream */
    settings = (struct tap_settings){.address = s.a.address, .replid = s.replid, .offset = s.end, .db = s.db};
    s.tap = tap_new(s.f.loop, &quiet, &settings, &tap_callbacks, &s);
    assert_true(fixture_wait(&s.f, until_partial));
    real_valkey_do(&s.a, "SET after 3");
    follow(&s, &s.a);
    assert_int_equal(s.db, 3);
    f = feed_b(&s);
    check_equal(&s);
    tap_close(s.tap);
    s.partial = false;
    real_valkey_do(&s.b, "SELECT 5");
    real_valkey_do(&s.b, "SET after-promotion 4"); /* Valkey selects first */
    settings =
        (struct tap_settings){.address = s.b.address, .replid = feed_replid(f), .offset = feed_offset(f), .db = 0};
    s.tap = tap_new(s.f.loop, &quiet, &settings, &tap_callbacks, &s);
    assert_true(fixture_wait(&s.f, until_partial));
    follow(&s, &s.b);
    assert_int_equal(s.db, 5);
    assert_true(s.partial);
    feed_close(f);
    close_side(&s);
}

/* A backlog that does not reach back is answered by a full sync, which is told. */
static void gap(void **state)
{
    struct side s;
    struct tap_settings settings = {0};

    (void)state;
    open_side(&s, NULL);
    tap_from_start(&s);
    tap_close(s.tap);
    s.stored = false;
    settings = (struct tap_settings){
        .address = s.a.address, .replid = "0123456789012345678901234567890123456789", .offset = 5};
    s.tap = tap_new(s.f.loop, &quiet, &settings, &tap_callbacks, &s);
    assert_true(fixture_wait(&s.f, until_stored));
    assert_false(s.partial);
    close_side(&s);
}

/* A tap that holds effects back delivers all of them, in order, once it goes on. */
static bool until_seen(struct fixture *f)
{
    return side_of(f)->effects == 3000;
}

static void paused(void **state)
{
    struct side s;

    (void)state;
    open_side(&s, NULL);
    tap_from_start(&s);
    tap_pause(s.tap, true);
    for (int i = 0; i < 3000; i++)
        (void)redisAppendCommand(s.a.c, "SET k%d v", i);
    for (int i = 0; i < 3000; i++) {
        redisReply *r = NULL;

        assert_int_equal(redisGetReply(s.a.c, (void **)&r), REDIS_OK);
        freeReplyObject(r);
    }
    fixture_turns(&s.f, 100);
    assert_int_equal(s.effects, 0);
    tap_pause(s.tap, false);
    assert_true(fixture_wait(&s.f, until_seen));
    close_side(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tapped_logged_fed), cmocka_unit_test(with_length), cmocka_unit_test(from_nothing),
        cmocka_unit_test(bridged),           cmocka_unit_test(gap),         cmocka_unit_test(paused)};

    if (!real_valkey_installed())
        return 0;
    return cmocka_run_group_tests_name("valkey side", tests, NULL, NULL);
}

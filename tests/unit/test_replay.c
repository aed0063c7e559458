/* Logs written with the record format, through the real log; the stream that replay makes of them, as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "proxy/replay.h"
#include "tests/unit/log_fixture.h"

enum { LOG_BYTES_MAX = 64 << 20 };

#define SELECT(n) "*2\r\n$6\r\nSELECT\r\n$1\r\n" n "\r\n"

/* ---- writing: one entry per commit() ---- */

static void intent(struct fixture *f, uint64_t seq, uint32_t db, const char *resp)
{
    frame_intent(log_batch(f->log), seq, db, resp, strlen(resp));
}

struct item {
    enum item_kind kind;
    uint64_t a, b;
    const char *resp;
};

static void outcome(struct fixture *f, uint64_t end, const struct item *item, size_t count)
{
    struct buf items = {0};

    for (size_t i = 0; i < count; i++) {
        if (item[i].kind == ITEM_REF)
            item_ref(&items, item[i].a, item[i].b);
        else if (item[i].kind == ITEM_TRY)
            item_try(&items, item[i].a, item[i].b);
        else if (item[i].kind == ITEM_RAW)
            item_raw(&items, (uint32_t)item[i].a, (uint32_t)item[i].b, item[i].resp, strlen(item[i].resp));
        else
            item_resolved(&items, item[i].a);
    }
    frame_outcome(log_batch(f->log), end, &items);
    buf_free(&items);
}
#define OUTCOME(f, end, ...)                                                                                         \
    outcome(f, end, (const struct item[]){__VA_ARGS__},                                                              \
            sizeof((const struct item[]){__VA_ARGS__}) / sizeof(struct item))
#define REF(n, count)                                                                                                \
    {                                                                                                                \
        ITEM_REF, n, count, NULL                                                                                     \
    }
#define TRY(n, count)                                                                                                \
    {                                                                                                                \
        ITEM_TRY, n, count, NULL                                                                                     \
    }
#define RAW(before, after, resp)                                                                                     \
    {                                                                                                                \
        ITEM_RAW, before, after, resp                                                                                \
    }
#define RESOLVED(n)                                                                                                  \
    {                                                                                                                \
        ITEM_RESOLVED, n, 0, NULL                                                                                    \
    }

static void attach(struct fixture *f, uint64_t offset, const char *replid, const char *run_id, bool again)
{
    struct buf body = {0};

    replay_attach_body(&body, offset, replid, run_id, again);
    frame_control(log_batch(f->log), CONTROL_ATTACH, buf_head(&body), body.len);
    buf_free(&body);
}

static uint64_t commit(struct fixture *f)
{
    log_touch(f->log, true);
    assert_true(fixture_wait(f, fixture_quiet));
    return log_committed(f->log);
}

/* ---- walking ---- */

struct result {
    struct replay *r;
    const struct replay_facts *facts;
    struct buf out;
};

static void walk(struct fixture *f, const struct snapshot_mark *mark, size_t piece, struct result *result)
{
    *result = (struct result){.r = replay_new(f->log, mark)};
    while (replay_step(result->r, &result->out, piece))
        continue;
    result->facts = replay_facts(result->r);
    buf_u8(&result->out, 0);
}

static void end(struct result *result)
{
    replay_free(result->r);
    buf_free(&result->out);
}

static void expect(struct fixture *f, const struct snapshot_mark *mark, const char *stream)
{
    for (size_t piece = 1; piece < 100000; piece *= 317) {
        struct result r;

        walk(f, mark, piece, &r);
        assert_null(r.facts->damage);
        assert_string_equal(buf_head(&r.out), stream);
        end(&r);
    }
}

static void expect_damage(struct fixture *f, const struct snapshot_mark *mark, const char *word)
{
    struct result r;

    walk(f, mark, 1 << 20, &r);
    assert_non_null(r.facts->damage);
    assert_non_null(strstr(r.facts->damage, word));
    assert_false(replay_step(r.r, NULL, 1));
    end(&r);
}

static struct fixture *new_log(void)
{
    struct fixture *f = malloc(sizeof *f);

    assert_non_null(f);
    fixture_dir(f);
    assert_true(fixture_open(f, LOG_BYTES_MAX));
    return f;
}

static void drop_log(struct fixture *f)
{
    fixture_remove(f);
    free(f);
}

/* ---- tests ---- */

static void effects_in_order(void **state)
{
    struct fixture *f = new_log();
    struct result r;

    (void)state;
    attach(f, 100, "id", "run", false);
    intent(f, 1, 0, "A");
    intent(f, 2, 3, "B");
    commit(f);
    intent(f, 4, 3, "C");
    OUTCOME(f, 200, REF(1, 2), RAW(3, 5, "D"), RESOLVED(2));
    commit(f);
    OUTCOME(f, 300, RAW(5, 5, "E"), REF(4, 1), RAW(7, 7, ""), RESOLVED(4));
    commit(f);
    expect(f, NULL, SELECT("0") "A" SELECT("3") "BDE" SELECT("3") "C");
    walk(f, NULL, 1 << 20, &r);
    assert_true(r.facts->anything && r.facts->attached);
    assert_int_equal(r.facts->next_seq, 5);
    assert_int_equal(r.facts->offset, 300);
    assert_int_equal(r.facts->db, 7); /* the empty RAW says so */
    assert_int_equal(r.facts->commands, 5);
    assert_int_equal(r.facts->pending_count, 0);
    end(&r);
    drop_log(f);
}

/* Entries 2 and 3 hold OUTCOMEs; the mark goes through every place, and what is left is what comes after it. */
static void mark_anywhere(void **state)
{
    static const char *const effect[] = {"a", "b", "c", "d", "e", "f", "g"};
    struct fixture *f = new_log();
    uint64_t first, from;

    (void)state;
    intent(f, 1, 0, "b");
    intent(f, 2, 0, "c");
    intent(f, 3, 0, "f");
    from = commit(f);
    OUTCOME(f, 10, RAW(0, 0, "a"), REF(1, 2), RESOLVED(2));
    first = commit(f);
    OUTCOME(f, 20, RAW(0, 0, "d"));
    OUTCOME(f, 30, RAW(0, 0, "e"), REF(3, 1), RESOLVED(3), RAW(0, 0, "g"));
    commit(f);
    for (size_t done = 0; done <= 7; done++) {
        struct snapshot_mark mark = {.log_from = from, .next_seq = 9};
        char expected[64] = "";

        mark.index = done < 3 ? first : first + 1;
        mark.effects = done < 3 ? done : done - 3;
        for (size_t i = done; i < 7; i++) {
            if (i == done)
                (void)snprintf(expected, sizeof expected, "%s", SELECT("0"));
            (void)strcat(expected, effect[i]);
        }
        expect(f, &mark, expected);
    }
    drop_log(f);
}

/* An intent older than log_from was resolved before the mark: its REF there is nothing; after the mark it would be
 * damage. */
static void refs_before_log_from(void **state)
{
    struct fixture *f = new_log();
    struct snapshot_mark mark = {.next_seq = 3};
    struct result r;

    (void)state;
    intent(f, 1, 0, "A");
    commit(f);
    intent(f, 2, 4, "B");
    mark.log_from = commit(f);
    OUTCOME(f, 10, REF(1, 1), REF(2, 1));
    mark.index = commit(f);
    mark.effects = 1;
    expect(f, &mark, SELECT("4") "B");
    mark.effects = 2;
    expect(f, &mark, "");
    walk(f, &mark, 1000, &r);
    assert_int_equal(r.facts->db, 4);
    assert_int_equal(r.facts->offset, 10);
    end(&r);
    mark.effects = 0;
    expect_damage(f, &mark, "REF of an intent that is not pending: 1");
    drop_log(f);
}

static void pending(void **state)
{
    struct fixture *f = new_log();
    struct result r;

    (void)state;
    for (uint64_t seq = 1; seq <= 300; seq++)
        intent(f, seq, (uint32_t)(seq % 3), "X");
    commit(f);
    OUTCOME(f, 10, RESOLVED(100), REF(150, 1), REF(200, 50));
    commit(f);
    walk(f, NULL, 1000, &r);
    assert_int_equal(r.facts->pending_count, 200 - 51);
    for (size_t i = 0; i < r.facts->pending_count; i++) {
        uint64_t seq = r.facts->pending[i].seq;

        assert_true(seq > 100 && seq != 150 && (seq < 200 || seq > 249));
        assert_true(i == 0 || seq > r.facts->pending[i - 1].seq);
        assert_int_equal(r.facts->pending[i].db, seq % 3);
    }
    assert_int_equal(r.facts->next_seq, 301);
    end(&r);
    drop_log(f);
}

static void damage(void **state)
{
    struct fixture *f = new_log();

    (void)state;
    intent(f, 1, 0, "A");
    OUTCOME(f, 10, REF(1, 1));
    commit(f);
    expect(f, NULL, SELECT("0") "A");
    OUTCOME(f, 20, REF(1, 1)); /* a second time */
    commit(f);
    expect_damage(f, NULL, "REF of an intent that is not pending: 1");
    drop_log(f);

    f = new_log();
    intent(f, 5, 0, "A");
    OUTCOME(f, 10, RESOLVED(5));
    intent(f, 5, 0, "B");
    commit(f);
    expect_damage(f, NULL, "out of sequence: 5");
    drop_log(f);

    f = new_log();
    frame_control(log_batch(f->log), CONTROL_ATTACH, "\x05\x30short", 7);
    commit(f);
    expect_damage(f, NULL, "malformed attachment");
    drop_log(f);
}

static void expect_place(struct fixture *f, const struct snapshot_mark *mark, bool attached, const char *run_id,
                         const char *replid, uint64_t offset, uint32_t db)
{
    struct result r;

    walk(f, mark, 1 << 20, &r);
    assert_null(r.facts->damage);
    assert_int_equal(r.facts->attached, attached);
    assert_string_equal(r.facts->run_id, run_id);
    assert_string_equal(r.facts->replid, replid);
    assert_int_equal(r.facts->offset, offset);
    assert_int_equal(r.facts->db, db);
    end(&r);
}

/* Where the stream goes on, after each kind of attachment. */
static void attachments(void **state)
{
    struct fixture *f = new_log();
    struct snapshot_mark mark = {0};

    (void)state;
    attach(f, 5000, "id1", "run1", false);
    OUTCOME(f, 6000, RAW(2, 2, "A"));
    commit(f);
    expect_place(f, NULL, true, "run1", "id1", 6000, 2);
    attach(f, 6000, "id2", "run1", false); /* a new id at the same place: the database stays */
    commit(f);
    expect_place(f, NULL, true, "run1", "id2", 6000, 2);
    attach(f, 0, "", "", false); /* a rebuild began */
    commit(f);
    expect_place(f, NULL, false, "", "", 0, 0);
    attach(f, 10, "id3", "run1", false); /* lower: another stream */
    commit(f);
    expect_place(f, NULL, true, "run1", "id3", 10, 0);
    OUTCOME(f, 800, RAW(4, 4, "B"));
    mark.index = mark.log_from = commit(f);
    mark.effects = 1;
    attach(f, 850, "id3", "run1", true); /* a snapshot was forked at 850, nothing happened since */
    commit(f);
    expect_place(f, NULL, true, "run1", "id3", 850, 0);
    expect_place(f, &mark, true, "run1", "id3", 850, 0);
    mark.index = mark.log_from =
        log_open_index(f->log); /* the next: forked at 860 before an effect that ends at 900 */
    mark.effects = 0;
    OUTCOME(f, 900, RAW(6, 6, "C"));
    commit(f);
    attach(f, 860, "id3", "run1", true);
    commit(f);
    expect_place(f, &mark, true, "run1", "id3", 900, 6);
    expect_place(f, NULL, true, "run1", "id3", 900, 6);
    mark.index = mark.log_from = log_committed(f->log); /* only the reminder is left */
    expect_place(f, &mark, true, "run1", "id3", 860, 0);
    drop_log(f);
}

static void modes_and_nothing(void **state)
{
    struct fixture *f = new_log();
    struct result r;

    (void)state;
    walk(f, NULL, 1000, &r);
    assert_false(r.facts->anything);
    assert_int_equal(r.facts->mode, -1);
    assert_int_equal(r.facts->next_seq, 1);
    end(&r);
    frame_control(log_batch(f->log), CONTROL_MODE, "\2", 1);
    commit(f);
    walk(f, NULL, 1000, &r);
    assert_false(r.facts->anything); /* a mode is no content */
    assert_int_equal(r.facts->mode, 2);
    end(&r);
    drop_log(f);
}

/* ---- places ---- */

/* From every place that can be found, the rest of the stream is exactly the rest, and what is known at the end is the
 * same. */
static void from_every_place(void **state)
{
    struct fixture *f = new_log();
    struct result whole;
    size_t found = 0, all;
    uint64_t last;

    (void)state;
    intent(f, 1, 0, "one\r\n");
    intent(f, 2, 3, "two\r\n");
    (void)commit(f);
    attach(f, 10, "id-a", "run-a", false);
    OUTCOME(f, 20, REF(2, 1), RAW(0, 2, "raw\r\n"), RAW(2, 2, ""));
    intent(f, 3, 2, "three\r\n");
    OUTCOME(f, 30, REF(3, 1));
    (void)commit(f);
    attach(f, 40, "id-b", "run-b", false);
    intent(f, 4, 1, "four\r\n");
    OUTCOME(f, 50, REF(1, 1), RESOLVED(1), RAW(1, 1, "last\r\n"));
    last = commit(f);
    walk(f, NULL, 1, &whole);
    all = whole.out.len - 1; /* its zero */
    for (size_t at = 0; at <= all + 1; at++) {
        struct replay *seek = replay_new(f->log, NULL);
        struct replay_place place;
        struct result rest = {0};

        replay_seek_bytes(seek, at);
        while (replay_step(seek, NULL, 1))
            continue;
        if (replay_sought(seek, &place) == REPLAY_FOUND) {
            found++;
            rest.r = replay_new_at(f->log, &place);
            while (replay_step(rest.r, &rest.out, 1))
                continue;
            assert_int_equal(rest.out.len, all - at);
            if (at < all)
                assert_memory_equal(buf_head(&rest.out), buf_head(&whole.out) + at, all - at);
            rest.facts = replay_facts(rest.r);
            assert_null(rest.facts->damage);
            assert_string_equal(rest.facts->run_id, "run-b");
            assert_true(rest.facts->offset == 50 && rest.facts->db == 1 && rest.facts->next_seq == 5);
            assert_int_equal(rest.facts->pending_count, 1);
            assert_true(rest.facts->pending[0].seq == 4 && rest.facts->pending[0].index == last);
            end(&rest);
        }
        replay_free(seek);
    }
    assert_int_equal(found, 1 + 5 + 4); /* the beginning, five effects, four SELECTs */
    end(&whole);
    drop_log(f);
}

/* A walk that has ended goes on when more is committed; the end of an entry is found by its index. */
static void goes_on(void **state)
{
    struct fixture *f = new_log();
    struct result r;
    struct replay_place place;
    struct replay *seek;
    uint64_t first;

    (void)state;
    intent(f, 1, 0, "one\r\n");
    first = commit(f);
    walk(f, NULL, 1 << 20, &r);
    assert_int_equal(r.facts->pending_count, 1);
    assert_int_equal(replay_walked(r.r), first);
    OUTCOME(f, 20, REF(1, 1));
    (void)commit(f);
    assert_int_equal(replay_facts(r.r)->pending_count, 1); /* as of what was walked */
    assert_false(replay_step(r.r, &r.out, 1 << 20));
    assert_int_equal(replay_facts(r.r)->pending_count, 0);
    assert_int_equal(replay_walked(r.r), first + 1);
    seek = replay_new(f->log, NULL);
    replay_seek_index(seek, first);
    while (replay_step(seek, NULL, 1))
        continue;
    assert_int_equal(replay_sought(seek, &place), REPLAY_FOUND);
    assert_true(place.mark.index == first + 1 && place.mark.effects == 0 && place.mark.log_from == first);
    replay_free(seek);
    end(&r);
    drop_log(f);
}

/* What a new leader has resolved may be refused, by every Valkey alike: a transaction command by command. */
static void tries(void **state)
{
#define GET_K "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
#define UNIT  "*1\r\n$5\r\nMULTI\r\n" GET_K GET_K "*1\r\n$4\r\nEXEC\r\n"
    struct fixture *f = new_log();
    struct result r;

    (void)state;
    attach(f, 0, "replid", "run", false);
    intent(f, 1, 0, GET_K);
    intent(f, 2, 0, UNIT);
    intent(f, 3, 0, GET_K);
    (void)commit(f);
    OUTCOME(f, 10, REF(1, 1), TRY(2, 2), RESOLVED(3));
    (void)commit(f);
    walk(f, NULL, 1 << 20, &r);
    assert_null(r.facts->damage);
    assert_string_equal(buf_head(&r.out), SELECT("0") GET_K UNIT GET_K);
    assert_int_equal(r.facts->tries, 5); /* four in the transaction, one alone */
    end(&r);
    drop_log(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(effects_in_order), cmocka_unit_test(tries),
                                       cmocka_unit_test(mark_anywhere),    cmocka_unit_test(refs_before_log_from),
                                       cmocka_unit_test(pending),          cmocka_unit_test(damage),
                                       cmocka_unit_test(attachments),      cmocka_unit_test(modes_and_nothing),
                                       cmocka_unit_test(from_every_place), cmocka_unit_test(goes_on)};

    return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}

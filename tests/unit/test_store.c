/* store.h: every function against a model of it, and each rule by itself. What is refused: test_store_rules.c.
 * Crashes and full disks: test_store_crash.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/store_small.h"

enum { STEPS = 2500, SEEDS = 4, REOPEN_EVERY = 150 };

static void test_against_a_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct model *m = model_new(seed);
        struct store_fixture f;

        store_fixture_new(&f);
        store_fixture_open(&f);
        for (int i = 0; i < STEPS / SEEDS; i++) {
            model_step(m, f.s);
            if (i % 10 == 0)
                assert_true(model_matches(m, f.s));
            if (i % REOPEN_EVERY == REOPEN_EVERY - 1) {
                uint64_t bytes = store_state(f.s).bytes;

                store_fixture_open(&f);
                assert_true(model_matches_opened(m, f.s));
                assert_int_equal(store_state(f.s).bytes, bytes); /* as the walk at opening counts them */
            }
        }
        for (int k = 0; k < 5; k++)
            assert_true(m->calls[k] > 0);
        store_fixture_remove(&f);
        model_free(m);
    }
}

static void test_cut_and_append_with_another_term(void **state)
{
    struct small s;
    struct store_write w = {.cut_from = 8, .hard = &(struct store_hard){9, 3}};
    uint64_t bytes;

    (void)state;
    small_new(&s);
    small_append(&s, 9, 1);
    bytes = store_state(s.f.s).bytes;
    w.records = small_make(&s, 8, 3, 9, s.at[7]->running);
    w.count = 3;
    store_ok(store_write(s.f.s, &w, s.f.why), s.f.why);
    small_expect(&s, 1, 10);
    assert_true(store_state(s.f.s).bytes > bytes);
    store_ok(store_write(s.f.s, &(struct store_write){.cut_from = 3}, s.f.why), s.f.why);
    small_expect(&s, 1, 2);
    s.last = 2;
    s.running = s.at[2]->running;
    small_append(&s, 2, 10);
    store_fixture_open(&s.f);
    small_expect(&s, 1, 4);
    store_ok(store_write(s.f.s, &(struct store_write){.cut_from = 1}, s.f.why), s.f.why);
    small_expect(&s, 1, 0);
    assert_int_equal(store_state(s.f.s).bytes, 0);
    s.last = 0;
    s.running = (struct hash128){0, 0};
    small_append(&s, 1, 11);
    store_fixture_open(&s.f);
    small_expect(&s, 1, 1);
    small_free(&s);
}

static void install(struct small *s, uint64_t first, size_t count, uint64_t term, uint64_t serial)
{
    struct store_base base = {.index = first + count - 1, .term = term, .change_index = 1};
    struct hash128 before = {first, 77};
    struct store_install i = {.first = first,
                              .before_term = count > 0 ? term : 0,
                              .before = before,
                              .records = small_make(s, first, count, term, before),
                              .count = count,
                              .base = &base,
                              .snapshot = {serial, 5}};

    buf_text(&base.change, "three members");
    store_ok(store_install(s->f.s, &i, s->f.why), s->f.why);
    buf_free(&base.change);
}

static void expect_installed(struct small *s, uint64_t first, uint64_t last, uint64_t term, uint64_t serial)
{
    const struct store_base *base;
    struct store_snapshot snapshot;
    struct hash128 running;
    uint64_t before_term;

    for (int round = 0; round < 2; round++) { /* now, and after opening it again */
        small_expect(s, first, last);
        assert_true(store_at(s->f.s, first - 1, &before_term, &running));
        assert_true(before_term == term && running.low == first && running.high == 77);
        assert_false(store_at(s->f.s, last + 1, &before_term, &running));
        store_ok(store_get_snapshot(s->f.s, &snapshot, s->f.why), s->f.why);
        assert_true(snapshot.serial == serial && snapshot.check == 5);
        store_fixture_open(&s->f);
    }
    base = store_base(s->f.s);
    assert_true(base->index == last && base->term == term && base->change_index == 1);
    assert_memory_equal(buf_head(&base->change), "three members", 13);
}

static void test_install(void **state)
{
    struct small s;

    (void)state;
    small_new(&s);
    small_append(&s, 30, 1);
    install(&s, 50, 5, 4, 1); /* over a longer log */
    expect_installed(&s, 50, 54, 4, 1);
    small_append(&s, 2, 4);
    install(&s, 70, 60, 6, 2); /* over a shorter one */
    expect_installed(&s, 70, 129, 6, 2);
    install(&s, 140, 0, 7, 3); /* nothing but the snapshot */
    expect_installed(&s, 140, 139, 7, 3);
    assert_int_equal(store_state(s.f.s).bytes, 0);
    small_append(&s, 3, 8);
    store_fixture_open(&s.f);
    small_expect(&s, 140, 142);
    small_free(&s);
}

static void test_truncate_to(void **state)
{
    struct store_base base = {.index = 15, .term = 2, .change_index = 10};
    struct hash128 running;
    struct small s;
    uint64_t term;
    bool more = true;

    (void)state;
    small_new(&s);
    small_append(&s, 10, 1);
    small_append(&s, 10, 2);
    buf_text(&base.change, "x");
    store_ok(store_truncate_to(s.f.s, 1, &base, &more, s.f.why), s.f.why); /* only the base moves */
    assert_false(more);
    small_expect(&s, 1, 20);
    store_fixture_open(&s.f);
    assert_true(store_base(s.f.s)->index == 15 && store_base(s.f.s)->term == 2);
    store_ok(store_truncate_to(s.f.s, 11, &base, &more, s.f.why), s.f.why);
    small_expect(&s, 11, 20);
    assert_true(store_at(s.f.s, 10, &term, &running) && term == 1 && running.low == s.at[10]->running.low);
    assert_false(store_at(s.f.s, 9, &term, &running));
    base.index = 20;
    store_ok(store_truncate_to(s.f.s, 21, &base, &more, s.f.why), s.f.why);
    small_expect(&s, 21, 20);
    assert_true(store_at(s.f.s, 20, &term, &running) && term == 2);
    store_fixture_open(&s.f);
    small_append(&s, 1, 3);
    small_expect(&s, 21, 21);
    assert_int_equal(store_base(s.f.s)->index, 20);
    buf_free(&base.change);
    small_free(&s);
}

static void test_truncation_in_pieces(void **state)
{
    struct store_base base = {.index = 3000, .term = 1};
    struct store_fixture f;
    struct hash128 running = {0, 0};
    bool more = true;
    int pieces = 0;

    (void)state;
    store_fixture_new(&f);
    store_fixture_open(&f);
    for (uint64_t i = 1; i <= 3000; i += 1000) {
        struct record *records[1000];

        for (uint64_t k = 0; k < 1000; k++) {
            records[k] = model_record(i + k, 1, running, 10);
            running = records[k]->running;
        }
        store_ok(store_write(f.s, &(struct store_write){.records = records, .count = 1000}, f.why), f.why);
        for (uint64_t k = 0; k < 1000; k++)
            record_drop(records[k]);
    }
    for (; more; pieces++)
        store_ok(store_truncate_to(f.s, 2500, &base, &more, f.why), f.why);
    assert_int_equal(pieces, 3);
    assert_true(store_state(f.s).first == 2500 && store_state(f.s).last == 3000);
    store_fixture_open(&f);
    assert_true(store_state(f.s).first == 2500 && store_base(f.s)->index == 3000);
    store_fixture_remove(&f);
}

static void test_size_max_counts_what_a_cut_frees(void **state)
{
    struct record *r[3] = {NULL};
    struct store_fixture f;
    struct hash128 zero = {0, 0};
    const size_t n = MODEL_SIZE_MAX_BYTES / 5 * 2;

    (void)state;
    store_fixture_new(&f);
    store_fixture_open(&f);
    r[0] = model_record(3, 1, zero, n); /* index 3: a COMMAND, of n bytes; installed as the first */
    r[1] = model_record(4, 1, r[0]->running, n);
    r[2] = model_record(5, 1, r[1]->running, n);
    store_ok(store_install(
                 f.s,
                 &(struct store_install){.first = 3, .base = &(struct store_base){.index = 2}, .snapshot = {1, 1}},
                 f.why),
             f.why);
    store_ok(store_write(f.s, &(struct store_write){.records = r, .count = 2}, f.why), f.why);
    assert_int_equal(store_write(f.s, &(struct store_write){.records = r + 2, .count = 1}, f.why), STORE_FULL);
    assert_non_null(strstr(f.why, "log-size-max"));
    assert_int_equal(store_state(f.s).last, 4);
    store_ok(store_write(f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, f.why), f.why);
    store_ok(store_write(f.s, &(struct store_write){.cut_from = 4, .records = r + 1, .count = 1}, f.why), f.why);
    assert_int_equal(store_state(f.s).last, 4);
    for (int i = 0; i < 3; i++)
        record_drop(r[i]);
    store_fixture_remove(&f);
}

/* ---- identity ---- */

static void test_identity(void **state)
{
    static const char none[STORE_CLUSTER_BYTES], cluster[STORE_CLUSTER_BYTES] = "0123456789abcde";
    struct store_fixture f, g;
    uint64_t id;

    (void)state;
    store_fixture_new(&f);
    store_fixture_new(&g);
    store_fixture_open(&f);
    store_fixture_open(&g);
    id = store_member_id(f.s);
    assert_true(id != 0 && id != store_member_id(g.s));
    assert_memory_equal(store_identity(f.s).cluster, none, sizeof none);
    assert_true(store_base(f.s)->index == 0 && store_base(f.s)->change.len == 0);
    store_ok(store_put_cluster(f.s, cluster, f.why), f.why);
    store_ok(store_put_cluster(f.s, cluster, f.why), f.why); /* the same again is fine */
    store_fixture_open(&f);
    assert_memory_equal(store_identity(f.s).cluster, cluster, sizeof cluster);
    assert_int_equal(store_member_id(f.s), id);
    store_fixture_close(&f);
    assert_null(store_open(f.dir, "node-2", MODEL_SIZE_MAX_BYTES, true, f.why, sizeof f.why));
    assert_non_null(strstr(f.why, "node-1"));
    store_fixture_open(&f);
    store_fixture_remove(&f);
    store_fixture_remove(&g);
}

static void test_notes(void **state)
{
    char long_note[STORE_NOTE_BYTES_MAX], out[STORE_NOTE_BYTES_MAX];
    struct store_fixture f;

    (void)state;
    store_fixture_new(&f);
    store_fixture_open(&f);
    memset(long_note, 'x', sizeof long_note);
    assert_int_equal(store_get_note(f.s, "a", out, sizeof out), 0);
    store_ok(store_put_note(f.s, "a", "12345", 5, f.why), f.why);
    store_ok(store_put_note(f.s, "b", long_note, sizeof long_note, f.why), f.why);
    assert_int_equal(store_get_note(f.s, "a", out, sizeof out), 5);
    assert_memory_equal(out, "12345", 5);
    assert_int_equal(store_get_note(f.s, "a", out, 3), 3);
    store_ok(store_put_note(f.s, "a", "", 0, f.why), f.why);
    store_ok(store_put_note(f.s, "a", "", 0, f.why), f.why);
    store_fixture_open(&f);
    assert_int_equal(store_get_note(f.s, "a", out, sizeof out), 0);
    assert_int_equal(store_get_note(f.s, "b", out, sizeof out), sizeof long_note);
    assert_memory_equal(out, long_note, sizeof long_note);
    store_fixture_remove(&f);
}

/* ---- reading raw ---- */

struct raw {
    uint64_t next, stop_at;
    int calls;
};

static bool each_raw(void *arg, uint64_t index, const void *bytes, size_t n)
{
    struct raw *r = arg;
    struct entry_view e;

    assert_int_equal(index, r->next++);
    assert_int_equal(entry_check(bytes, n, &e), ENTRY_OK);
    r->calls++;
    return index != r->stop_at;
}

static void expect_raw(struct small *s, uint64_t from, uint64_t last, size_t bytes, uint64_t stop_at, int calls)
{
    struct raw r = {from, stop_at, 0};

    store_ok(store_read_raw(s->f.s, from, last, bytes, each_raw, &r, s->f.why), s->f.why);
    assert_int_equal(r.calls, calls);
}

static void test_read_raw(void **state)
{
    struct small s;

    (void)state;
    small_new(&s);
    expect_raw(&s, 1, 10, 1000, 0, 0);
    install(&s, 20, 10, 1, 1);
    expect_raw(&s, 20, 29, 1000000, 0, 10);
    expect_raw(&s, 20, 25, 1000000, 0, 6);
    expect_raw(&s, 20, 29, 1000000, 22, 3);
    expect_raw(&s, 22, 29, 0, 0, 1);
    expect_raw(&s, 22, 29, 1, 0, 1);
    expect_raw(&s, 22, 29, s.at[22]->bytes.len + 1, 0, 2);
    expect_raw(&s, 5, 29, 1000, 0, 0);  /* gone */
    expect_raw(&s, 30, 40, 1000, 0, 0); /* not there yet */
    expect_raw(&s, 25, 24, 1000, 0, 0);
    small_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_model),
        cmocka_unit_test(test_cut_and_append_with_another_term),
        cmocka_unit_test(test_install),
        cmocka_unit_test(test_truncate_to),
        cmocka_unit_test(test_truncation_in_pieces),
        cmocka_unit_test(test_size_max_counts_what_a_cut_frees),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_read_raw),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

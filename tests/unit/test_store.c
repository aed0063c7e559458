/* store.h: every function against a model of it, and each rule by itself. Crashes and full disks: test_store_crash.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/store_model.h"

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

/* ---- a small log, written by hand ---- */

struct small {
    struct store_fixture f;
    struct record *at[200]; /* what was written last, by index */
    struct hash128 running;
    uint64_t last;
};

static void small_new(struct small *s)
{
    memset(s, 0, sizeof *s);
    store_fixture_new(&s->f);
    store_fixture_open(&s->f);
}

static void small_free(struct small *s)
{
    for (size_t i = 0; i < sizeof s->at / sizeof s->at[0]; i++)
        record_drop(s->at[i]);
    store_fixture_remove(&s->f);
}

static struct record **make(struct small *s, uint64_t from, size_t count, uint64_t term, struct hash128 before)
{
    for (size_t i = 0; i < count; i++) {
        record_drop(s->at[from + i]);
        s->at[from + i] = model_record(from + i, term, before, 500);
        before = s->at[from + i]->running;
    }
    s->last = from + count - 1;
    s->running = before;
    return &s->at[from];
}

static void ok(enum store_result r, const char *why)
{
    if (r != STORE_OK)
        fail_msg("%s", why);
}

static void append(struct small *s, size_t count, uint64_t term)
{
    struct record **records = make(s, s->last + 1, count, term, s->running);

    ok(store_write(s->f.s, &(struct store_write){.records = records, .count = count}, s->f.why), s->f.why);
}

static void expect_entries(struct small *s, uint64_t first, uint64_t last)
{
    struct store_state now = store_state(s->f.s);

    assert_int_equal(now.first, first);
    assert_int_equal(now.last, last);
    for (uint64_t i = first; i <= last; i++) {
        struct hash128 running;
        uint64_t term;

        assert_true(store_at(s->f.s, i, &term, &running));
        assert_int_equal(term, s->at[i]->term);
        assert_true(running.low == s->at[i]->running.low && running.high == s->at[i]->running.high);
    }
}

static void test_cut_and_append_with_another_term(void **state)
{
    struct small s;
    struct store_write w = {.cut_from = 8, .hard = &(struct store_hard){9, 3}};
    uint64_t bytes;

    (void)state;
    small_new(&s);
    append(&s, 9, 1);
    bytes = store_state(s.f.s).bytes;
    w.records = make(&s, 8, 3, 9, s.at[7]->running);
    w.count = 3;
    ok(store_write(s.f.s, &w, s.f.why), s.f.why);
    expect_entries(&s, 1, 10);
    assert_true(store_state(s.f.s).bytes > bytes);
    ok(store_write(s.f.s, &(struct store_write){.cut_from = 3}, s.f.why), s.f.why);
    expect_entries(&s, 1, 2);
    s.last = 2;
    s.running = s.at[2]->running;
    append(&s, 2, 10);
    store_fixture_open(&s.f);
    expect_entries(&s, 1, 4);
    ok(store_write(s.f.s, &(struct store_write){.cut_from = 1}, s.f.why), s.f.why);
    expect_entries(&s, 1, 0);
    assert_int_equal(store_state(s.f.s).bytes, 0);
    s.last = 0;
    s.running = (struct hash128){0, 0};
    append(&s, 1, 11);
    store_fixture_open(&s.f);
    expect_entries(&s, 1, 1);
    small_free(&s);
}

static void install(struct small *s, uint64_t first, size_t count, uint64_t term, uint64_t serial)
{
    struct store_base base = {.index = first + count - 1, .term = term, .change_index = 1};
    struct hash128 before = {first, 77};
    struct store_install i = {.first = first,
                              .before_term = term,
                              .before = before,
                              .records = make(s, first, count, term, before),
                              .count = count,
                              .base = &base,
                              .snapshot = {serial, 5}};

    buf_text(&base.change, "three members");
    ok(store_install(s->f.s, &i, s->f.why), s->f.why);
    buf_free(&base.change);
}

static void expect_installed(struct small *s, uint64_t first, uint64_t last, uint64_t term, uint64_t serial)
{
    const struct store_base *base;
    struct store_snapshot snapshot;
    struct hash128 running;
    uint64_t before_term;

    for (int round = 0; round < 2; round++) { /* now, and after opening it again */
        expect_entries(s, first, last);
        assert_true(store_at(s->f.s, first - 1, &before_term, &running));
        assert_true(before_term == term && running.low == first && running.high == 77);
        assert_false(store_at(s->f.s, last + 1, &before_term, &running));
        ok(store_get_snapshot(s->f.s, &snapshot, s->f.why), s->f.why);
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
    append(&s, 30, 1);
    install(&s, 50, 5, 4, 1); /* over a longer log */
    expect_installed(&s, 50, 54, 4, 1);
    append(&s, 2, 4);
    install(&s, 70, 60, 6, 2); /* over a shorter one */
    expect_installed(&s, 70, 129, 6, 2);
    install(&s, 140, 0, 7, 3); /* nothing but the snapshot */
    expect_installed(&s, 140, 139, 7, 3);
    assert_int_equal(store_state(s.f.s).bytes, 0);
    append(&s, 3, 8);
    store_fixture_open(&s.f);
    expect_entries(&s, 140, 142);
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
    append(&s, 10, 1);
    append(&s, 10, 2);
    buf_text(&base.change, "x");
    ok(store_truncate_to(s.f.s, 1, &base, &more, s.f.why), s.f.why); /* only the base moves */
    assert_false(more);
    expect_entries(&s, 1, 20);
    store_fixture_open(&s.f);
    assert_true(store_base(s.f.s)->index == 15 && store_base(s.f.s)->term == 2);
    ok(store_truncate_to(s.f.s, 11, &base, &more, s.f.why), s.f.why);
    expect_entries(&s, 11, 20);
    assert_true(store_at(s.f.s, 10, &term, &running) && term == 1 && running.low == s.at[10]->running.low);
    assert_false(store_at(s.f.s, 9, &term, &running));
    base.index = 20;
    ok(store_truncate_to(s.f.s, 21, &base, &more, s.f.why), s.f.why);
    expect_entries(&s, 21, 20);
    assert_true(store_at(s.f.s, 20, &term, &running) && term == 2);
    store_fixture_open(&s.f);
    append(&s, 1, 3);
    expect_entries(&s, 21, 21);
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
        ok(store_write(f.s, &(struct store_write){.records = records, .count = 1000}, f.why), f.why);
        for (uint64_t k = 0; k < 1000; k++)
            record_drop(records[k]);
    }
    for (; more; pieces++)
        ok(store_truncate_to(f.s, 2500, &base, &more, f.why), f.why);
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
    ok(store_install(
           f.s, &(struct store_install){.first = 3, .base = &(struct store_base){.index = 2}, .snapshot = {1, 1}},
           f.why),
       f.why);
    ok(store_write(f.s, &(struct store_write){.records = r, .count = 2}, f.why), f.why);
    assert_int_equal(store_write(f.s, &(struct store_write){.records = r + 2, .count = 1}, f.why), STORE_FULL);
    assert_non_null(strstr(f.why, "log-size-max"));
    assert_int_equal(store_state(f.s).last, 4);
    ok(store_write(f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, f.why), f.why);
    ok(store_write(f.s, &(struct store_write){.cut_from = 4, .records = r + 1, .count = 1}, f.why), f.why);
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
    ok(store_put_cluster(f.s, cluster, f.why), f.why);
    ok(store_put_cluster(f.s, cluster, f.why), f.why); /* the same again is fine */
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
    ok(store_put_note(f.s, "a", "12345", 5, f.why), f.why);
    ok(store_put_note(f.s, "b", long_note, sizeof long_note, f.why), f.why);
    assert_int_equal(store_get_note(f.s, "a", out, sizeof out), 5);
    assert_memory_equal(out, "12345", 5);
    assert_int_equal(store_get_note(f.s, "a", out, 3), 3);
    ok(store_put_note(f.s, "a", "", 0, f.why), f.why);
    ok(store_put_note(f.s, "a", "", 0, f.why), f.why);
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

    ok(store_read_raw(s->f.s, from, last, bytes, each_raw, &r, s->f.why), s->f.why);
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

/* ---- our own mistakes ---- */

static void mistake_second_vote(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
}

static void mistake_vote_taken_back(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
}

static void mistake_term_sinks(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){4, 0}}, s->f.why);
}

static void mistake_index(struct small *s)
{
    struct record *r = model_record(11, 1, s->running, 5);

    (void)store_write(s->f.s, &(struct store_write){.records = &r, .count = 1}, s->f.why);
}

static void mistake_chain(struct small *s)
{
    struct record *r = model_record(10, 1, (struct hash128){1, 1}, 5);

    (void)store_write(s->f.s, &(struct store_write){.records = &r, .count = 1}, s->f.why);
}

static void mistake_chain_behind_a_cut(struct small *s)
{
    struct record *r = model_record(7, 1, s->running, 5);

    (void)store_write(s->f.s, &(struct store_write){.cut_from = 7, .records = &r, .count = 1}, s->f.why);
}

static void mistake_cut_below_the_base(struct small *s)
{
    struct store_base base = {.index = 5, .term = 1};
    bool more;

    (void)store_truncate_to(s->f.s, 2, &base, &more, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.cut_from = 5}, s->f.why);
}

static void mistake_truncate_beyond_the_base(struct small *s)
{
    struct store_base base = {.index = 5, .term = 1};
    bool more;

    (void)store_truncate_to(s->f.s, 7, &base, &more, s->f.why);
}

static void mistake_another_group(struct small *s)
{
    static const char a[STORE_CLUSTER_BYTES] = "a", b[STORE_CLUSTER_BYTES] = "b";

    (void)store_put_cluster(s->f.s, a, s->f.why);
    (void)store_put_cluster(s->f.s, b, s->f.why);
}

static void nothing_wrong(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
}

static bool aborts(void (*wrong)(struct small *s))
{
    struct small s;
    int status, pid;

    small_new(&s);
    append(&s, 9, 1);
    store_fixture_close(&s.f);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        (void)signal(SIGABRT, SIG_DFL);
        store_fixture_open(&s.f);
        wrong(&s);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    store_fixture_open(&s.f); /* and the log is well */
    expect_entries(&s, store_state(s.f.s).first, 9);
    small_free(&s);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_our_mistakes_end_the_process(void **state)
{
    static void (*const mistakes[])(struct small * s) = {
        mistake_second_vote,
        mistake_vote_taken_back,
        mistake_term_sinks,
        mistake_index,
        mistake_chain,
        mistake_chain_behind_a_cut,
        mistake_cut_below_the_base,
        mistake_truncate_beyond_the_base,
        mistake_another_group,
    };

    (void)state;
    assert_false(aborts(nothing_wrong));
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++)
        if (!aborts(mistakes[i]))
            fail_msg("mistake %zu is not noticed", i);
}

/* ---- what is refused at opening ---- */

static void overwrite(const struct store_fixture *f, const void *find, size_t n, size_t at, char byte)
{
    char path[256];
    struct buf file = {0};
    int fd;
    ssize_t got;

    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f->dir);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    while ((got = read(fd, buf_tail(&file, 65536), 65536)) > 0)
        buf_grew(&file, (size_t)got);
    for (size_t i = 0; i + n <= file.len; i++)
        if (memcmp(buf_head(&file) + i, find, n) == 0)
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)(i + at)), 1);
    (void)close(fd);
    buf_free(&file);
}

static void test_another_format_is_refused(void **state)
{
    struct store_fixture f;
    struct buf identity = {0};

    (void)state;
    store_fixture_new(&f);
    store_fixture_open(&f);
    buf_text(&identity, "identity");
    buf_u32(&identity, 2);
    store_fixture_close(&f);
    overwrite(&f, buf_head(&identity), identity.len, 8, 1);
    assert_null(store_open(f.dir, "node-1", MODEL_SIZE_MAX_BYTES, true, f.why, sizeof f.why));
    assert_non_null(strstr(f.why, "the log has format 1, this program knows format 2"));
    buf_free(&identity);
    store_fixture_remove(&f);
}

static void test_a_base_that_disagrees_is_refused(void **state)
{
    struct store_base base = {.index = 5, .term = 1, .change_index = 0x1122334455667788};
    struct buf stored = {0};
    struct small s;
    bool more;

    (void)state;
    small_new(&s);
    append(&s, 9, 1);
    ok(store_truncate_to(s.f.s, 3, &base, &more, s.f.why), s.f.why);
    store_fixture_close(&s.f);
    buf_u64(&stored, 5);
    buf_u64(&stored, 1);
    buf_u64(&stored, base.change_index);
    overwrite(&s.f, buf_head(&stored), stored.len, 8, 2); /* another term */
    assert_null(store_open(s.f.dir, "node-1", MODEL_SIZE_MAX_BYTES, true, s.f.why, sizeof s.f.why));
    assert_non_null(strstr(s.f.why, "its base"));
    small_free(&s);
    buf_free(&stored);
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
        cmocka_unit_test(test_our_mistakes_end_the_process),
        cmocka_unit_test(test_another_format_is_refused),
        cmocka_unit_test(test_a_base_that_disagrees_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The store killed at any write, and on a full disk. A kill leaves the state before the call or after it, never one
 * between, and all that was reported; a full disk still takes a term, a vote, a cut and a truncation. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log/store_internal.h"
#include "tests/unit/log_fault.h"
#include "tests/unit/store_model.h"

enum { MIB = 1024 * 1024, KILLS_BY_CALL = 400, KILLS_BY_TIME = 60, STEPS_MAX = 200 };

/* ---- killed ---- */

/* The child: steps for ever, one byte to the pipe for each that is done. It has the model by fork(). */
_Noreturn static void child(const struct store_fixture *f, struct model *m, int out, int nth)
{
    struct store *s = store_open(f->dir, "node-1", MODEL_SIZE_MAX_BYTES, true, (char[256]){0}, 256);

    if (s == NULL)
        _exit(4);
    if (write(out, "o", 1) != 1)
        _exit(5);
    if (nth > 0)
        fault_arm(FAULT_WRITE | FAULT_META | FAULT_SYNC | FAULT_ALLOCATE | FAULT_AHEAD, nth, 0, false);
    for (int i = 0; i < STEPS_MAX; i++) {
        model_step(m, s);
        if (write(out, "s", 1) != 1)
            _exit(5);
    }
    for (;;)
        (void)pause();
}

static void read_one(int fd, char expected)
{
    char c = 0;

    assert_int_equal(read(fd, &c, 1), 1);
    assert_int_equal(c, expected);
}

/* After `said` steps: the store is the model there, or one step on. */
static void check_killed(struct store_fixture *f, struct model *m, int said)
{
    for (int i = 0; i < said; i++)
        model_step(m, NULL);
    store_fixture_open(f);
    if (!model_matches_opened(m, f->s)) {
        model_step(m, NULL);
        if (!model_matches_opened(m, f->s))
            fail_msg("after %d steps: neither as before the next one nor as after it", said);
    }
    store_fixture_close(f);
}

/* nth: of the calls that write; 0: at a random moment. Returns how many steps were reported. */
static int kill_one(struct store_fixture *f, struct model *m, int nth, unsigned after_us)
{
    int ends[2], status, said = 0, pid;
    char c;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(f, m, ends[1], nth);
    (void)close(ends[1]);
    read_one(ends[0], 'o');
    if (nth == 0) {
        (void)usleep(after_us);
        assert_int_equal(kill(pid, SIGKILL), 0);
    }
    while (read(ends[0], &c, 1) == 1)
        said++;
    (void)close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    check_killed(f, m, said);
    return said;
}

static void start(struct store_fixture *f)
{
    store_fixture_new(f);
    store_fixture_open(f);
    store_fixture_close(f);
}

/* The n-th write, sync or allocation after the start, n = 1, 2, ...: a few steps are made before it, so all kinds of
 * steps meet all of their calls. */
static void test_killed_at_each_call(void **state)
{
    struct model *m = model_new(1);
    struct store_fixture f;
    int steps = 0;

    (void)state;
    start(&f);
    for (int i = 0; i < KILLS_BY_CALL; i++)
        steps += kill_one(&f, m, 1 + i % 23, 0);
    assert_true(steps > KILLS_BY_CALL);
    for (int k = 0; k < 5; k++)
        assert_true(m->calls[k] > 5);
    store_fixture_remove(&f);
    model_free(m);
}

static void test_killed_at_any_time(void **state)
{
    struct model *m = model_new(2);
    struct store_fixture f;
    unsigned seed = 5;

    (void)state;
    start(&f);
    for (int i = 0; i < KILLS_BY_TIME; i++)
        (void)kill_one(&f, m, 0, (unsigned)rand_r(&seed) % 15000);
    store_fixture_remove(&f);
    model_free(m);
}

/* ---- a full disk ---- */

struct disk {
    struct store_fixture f;
    uint64_t term, last;
    struct hash128 running;
};

static void limit_file_size(rlim_t bytes)
{
    struct rlimit r;

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static bool append(struct disk *d, size_t n)
{
    struct record *r = model_record(d->last + 1, 1, d->running, n);
    enum store_result result = store_write(d->f.s, &(struct store_write){.records = &r, .count = 1}, d->f.why);

    if (result == STORE_BROKEN)
        fail_msg("%s", d->f.why);
    if (result == STORE_OK) {
        d->last++;
        d->running = r->running;
    }
    record_drop(r);
    return result == STORE_OK;
}

static void vote(struct disk *d)
{
    struct store_hard hard = {++d->term, 0};

    if (store_write(d->f.s, &(struct store_write){.hard = &hard}, d->f.why) != STORE_OK)
        fail_msg("term %d: %s", (int)d->term, d->f.why);
    hard.vote = 7;
    if (store_write(d->f.s, &(struct store_write){.hard = &hard}, d->f.why) != STORE_OK)
        fail_msg("vote in %d: %s", (int)d->term, d->f.why);
}

static void fill(struct disk *d)
{
    int n = 0;

    while (append(d, 40000))
        assert_true(n++ < 10000);
    while (append(d, 1900))
        assert_true(n++ < 100000);
}

static void expect_disk(struct disk *d)
{
    store_fixture_open(&d->f);
    assert_int_equal(store_state(d->f.s).last, d->last);
    assert_true(store_state(d->f.s).running.low == d->running.low);
    d->term = store_hard(d->f.s).term;
}

static void begin_full_disk(struct disk *d)
{
    *d = (struct disk){.last = 0};
    store_fixture_new(&d->f);
    store_fixture_open(&d->f);
    d->term = store_hard(d->f.s).term;
    limit_file_size(12 * MIB);
    fill(d);
    assert_true(d->last > 50);
}

/* Terms and votes for ever, although entries try to take each page that they set free; also after a restart. */
static void test_full_disk_votes(void **state)
{
    struct disk d;

    (void)state;
    begin_full_disk(&d);
    for (int restart = 0; restart < 3; restart++) {
        uint64_t last = d.last;

        for (int i = 0; i < 400; i++) {
            vote(&d);
            (void)append(&d, i % 3 == 0 ? 10 : 3000);
        }
        assert_true(d.last < last + 200); /* what fitted beside the reserve */
        expect_disk(&d);
    }
    for (int i = 0; i < 100; i++)
        if (store_put_note(d.f.s, "n", &i, sizeof i, d.f.why) != STORE_OK)
            fail_msg("%s", d.f.why);
    limit_file_size(RLIM_INFINITY);
    assert_true(append(&d, 40000));
    vote(&d);
    expect_disk(&d);
    store_fixture_remove(&d.f);
}

/* A cut and a truncation need no room, and make some. */
static void test_full_disk_gets_room(void **state)
{
    struct disk d;

    (void)state;
    begin_full_disk(&d);
    for (int round = 0; round < 8; round++) {
        struct store_base base = {.index = d.last - 10, .term = 1};
        uint64_t term, appended = d.last;
        bool more = true;

        if (round % 2 == 0) {
            uint64_t from = d.last - (d.last - store_state(d.f.s).first) / 2;

            if (from <= store_base(d.f.s)->index)
                from = d.last - 5;
            assert_true(store_at(d.f.s, from - 1, &term, &d.running));
            assert_int_equal(store_write(d.f.s, &(struct store_write){.cut_from = from}, d.f.why), STORE_OK);
            d.last = from - 1;
        } else {
            while (more)
                assert_int_equal(store_truncate_to(d.f.s, d.last - 40, &base, &more, d.f.why), STORE_OK);
        }
        vote(&d);
        fill(&d);
        assert_true(round % 2 == 0 || d.last > appended + 10);
        vote(&d);
        if (round % 5 == 4)
            expect_disk(&d);
    }
    limit_file_size(RLIM_INFINITY);
    expect_disk(&d);
    store_fixture_remove(&d.f);
}

/* What a truncation has taken of the reserve is not for entries, however often they follow one another. */
static void test_full_disk_keeps_the_reserve(void **state)
{
    struct disk d;

    (void)state;
    begin_full_disk(&d);
    for (int round = 0; round < 50; round++) {
        struct store_base base = {.index = d.last, .term = 1};
        bool more = true;

        vote(&d);
        while (more)
            assert_int_equal(store_truncate_to(d.f.s, store_state(d.f.s).first + 1, &base, &more, d.f.why), STORE_OK);
        while (append(&d, round % 2 == 0 ? 40000 : 100))
            ;
    }
    vote(&d);
    assert_true(d.f.s->map_bytes + STORE_RESERVE_BYTES <= d.f.s->allocated_bytes + 3 * d.f.s->page_bytes);
    expect_disk(&d);
    limit_file_size(RLIM_INFINITY);
    store_fixture_remove(&d.f);
}

/* What does not fit is refused as a whole; the log and the term are as before. */
static void test_full_disk_install(void **state)
{
    struct record *records[64];
    struct disk d;
    struct store_base base = {.index = 1000 + 63, .term = 2};
    struct store_install i = {.first = 1000, .before = {1, 1}, .records = records, .count = 64, .base = &base};
    struct hash128 before = i.before;

    (void)state;
    begin_full_disk(&d);
    for (uint64_t k = 0; k < 64; k++) {
        records[k] = model_record(1000 + k, 2, before, 200000);
        before = records[k]->running;
    }
    for (int k = 0; k < 3; k++)
        assert_int_equal(store_install(d.f.s, &i, d.f.why), STORE_FULL);
    vote(&d);
    expect_disk(&d);
    limit_file_size(RLIM_INFINITY);
    assert_int_equal(store_install(d.f.s, &i, d.f.why), STORE_OK);
    d.last = 1063;
    d.running = before;
    expect_disk(&d);
    limit_file_size((rlim_t)d.f.s->allocated_bytes); /* no entries: nothing but the free list grows */
    base.index = 2000;
    i = (struct store_install){.first = 2001, .before = {2, 2}, .base = &base};
    assert_int_equal(store_install(d.f.s, &i, d.f.why), STORE_OK);
    d.last = 2000;
    d.running = i.before;
    expect_disk(&d);
    limit_file_size(RLIM_INFINITY);
    for (int k = 0; k < 64; k++)
        record_drop(records[k]);
    store_fixture_remove(&d.f);
}

/* ---- what a call of LMDB that fails leaves ---- */

static void test_errors_are_told(void **state)
{
    static const int kinds[] = {FAULT_WRITE, FAULT_SYNC, FAULT_META};

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct store_hard hard = {50, 3};
        struct store_fixture f;

        store_fixture_new(&f);
        store_fixture_open(&f);
        fault_arm(kinds[i], 1, EIO, false);
        assert_int_equal(store_write(f.s, &(struct store_write){.hard = &hard}, f.why), STORE_BROKEN);
        fault_arm(0, 0, 0, false);
        store_fixture_open(&f);
        assert_true(store_hard(f.s).term <= 51);
        store_fixture_remove(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_at_each_call),
        cmocka_unit_test(test_killed_at_any_time),
        cmocka_unit_test(test_full_disk_votes),
        cmocka_unit_test(test_full_disk_gets_room),
        cmocka_unit_test(test_full_disk_keeps_the_reserve),
        cmocka_unit_test(test_full_disk_install),
        cmocka_unit_test(test_errors_are_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

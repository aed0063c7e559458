/* The file ahead of LMDB (log/store_ahead.c): what is in it survives, once; what was cut, or never reported, does not
 * come back; damage is refused. Random steps and kills: test_store.c and test_store_crash.c, which have it too. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store_internal.h"
#include "tests/unit/log_fault.h"
#include "tests/unit/store_small.h"

/* ---- a process that dies with entries ahead ---- */

typedef void work_fn(struct small *s);

/* Done to the store by a child that then dies without closing it; the parent's `s` only takes note of it. */
static void die_after(struct small *s, work_fn *work)
{
    int status, pid;

    store_fixture_close(&s->f);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        store_fixture_open(&s->f);
        work(s);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void append_one_by_one(struct small *s, size_t count)
{
    for (size_t i = 0; i < count; i++)
        small_append(s, 1, 1);
}

static void note(struct small *s, size_t count)
{
    (void)small_make(s, s->last + 1, count, 1, s->running);
}

static void ahead_name(const struct small *s, char *path, size_t size)
{
    (void)snprintf(path, size, "%s/log/ahead", s->f.dir);
}

static void look_into(const struct small *s, char *image)
{
    char path[256];
    int fd;

    ahead_name(s, path, sizeof path);
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, image, AHEAD_BYTES, 0), AHEAD_BYTES);
    (void)close(fd);
}

static void put_back(const struct small *s, const void *bytes, size_t n, off_t at)
{
    char path[256];
    int fd;

    ahead_name(s, path, sizeof path);
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, n, at), (ssize_t)n);
    (void)close(fd);
}

static void five(struct small *s)
{
    append_one_by_one(s, 5);
    assert_int_equal(s->f.s->ahead.count, 5);
    small_expect(s, 1, 5);
}

/* All readers find them, before and after they come into LMDB. */

static bool take_raw(void *arg, uint64_t index, const void *bytes, size_t n)
{
    struct small *s = arg;

    assert_int_equal(n, s->at[index]->bytes.len);
    assert_memory_equal(bytes, buf_head(&s->at[index]->bytes), n);
    return true;
}

struct seen {
    uint64_t next;
};

static void take_view(void *arg, const struct entry_view *e)
{
    struct seen *seen = arg;

    assert_int_equal(e->index, seen->next++);
}

static void take_walk(void *arg, uint64_t index, uint64_t term, enum record_type type, const void *change, size_t n)
{
    struct seen *seen = arg;

    (void)type;
    (void)change;
    (void)n;
    assert_int_equal(term, 1);
    assert_int_equal(index, seen->next++);
}

static void expect_all(struct small *s)
{
    struct seen viewed = {1}, walked = {1}, late = {3};
    uint64_t next = 1, last = s->last;

    small_expect(s, 1, last);
    store_ok(store_read(s->f.s, &next, last, SIZE_MAX, take_view, &viewed, s->f.why), s->f.why);
    assert_int_equal(next, last + 1);
    assert_int_equal(viewed.next, last + 1);
    next = 3;
    store_ok(store_read(s->f.s, &next, last - 1, SIZE_MAX, take_view, &late, s->f.why), s->f.why);
    assert_int_equal(next, last);
    store_ok(store_read_raw(s->f.s, 2, last, SIZE_MAX, take_raw, s, s->f.why), s->f.why);
    store_ok(store_walk(s->f.s, take_walk, &walked, s->f.why), s->f.why);
    assert_int_equal(walked.next, last + 1);
}

static void test_they_survive(void **state)
{
    struct small s;

    (void)state;
    small_new(&s);
    die_after(&s, five);
    note(&s, 5);
    store_fixture_open(&s.f);
    assert_int_equal(s.f.s->ahead.count, 5);
    expect_all(&s);
    append_one_by_one(&s, 3);
    assert_int_equal(s.f.s->ahead.count, 8);
    expect_all(&s);
    store_fixture_open(&s.f); /* closed in good order: they are in LMDB */
    assert_int_equal(s.f.s->ahead.count, 0);
    expect_all(&s);
    append_one_by_one(&s, 2); /* some here, some there */
    expect_all(&s);
    small_free(&s);
}

/* A full file, and writes that it does not take, bring all into LMDB; over many laps. */
static void laps(struct small *s)
{
    uint64_t lap = s->f.s->ahead.lap;
    struct store_hard hard = {.term = 3};

    for (int i = 0; i < 190; i++) {
        small_append(s, 1, 1);
        if (i == 20)
            store_ok(store_write(s->f.s, &(struct store_write){.hard = &hard}, s->f.why), s->f.why);
    }
    assert_int_equal(s->f.s->ahead.lap, lap + 2);
    assert_int_equal(s->f.s->ahead.count, 190 - 21 - 128 - 1); /* 129th of its lap: into LMDB, with what was ahead */
    expect_all(s);
}

static void test_laps(void **state)
{
    struct small s;

    (void)state;
    small_new(&s);
    die_after(&s, laps);
    note(&s, 190);
    store_fixture_open(&s.f);
    expect_all(&s);
    small_free(&s);
}

/* ---- what must not come back ---- */

static void cut_three(struct small *s)
{
    append_one_by_one(s, 5);
    store_ok(store_write(s->f.s, &(struct store_write){.cut_from = 3}, s->f.why), s->f.why);
}

static void test_what_was_cut_stays_away(void **state)
{
    struct small s;

    (void)state;
    small_new(&s);
    die_after(&s, cut_three);
    note(&s, 2);
    store_fixture_open(&s.f);
    small_expect(&s, 1, 2);
    small_free(&s);
}

/* Frames of an earlier lap, even of one that would follow. */
static void test_an_old_lap_counts_for_nothing(void **state)
{
    static char image[AHEAD_BYTES];
    struct small s;

    (void)state;
    small_new(&s);
    append_one_by_one(&s, 5);
    look_into(&s, image);
    store_ok(store_write(s.f.s, &(struct store_write){.cut_from = 1}, s.f.why), s.f.why);
    store_fixture_close(&s.f);
    put_back(&s, image, sizeof image, 0);
    store_fixture_open(&s.f);
    assert_int_equal(store_state(s.f.s).last, 0);
    small_free(&s);
}

/* A write that failed may be there all the same; what is written in its place counts. */
static void test_a_failed_write_is_forgotten(void **state)
{
    struct record **records;
    struct small s;
    uint64_t lap;

    (void)state;
    small_new(&s);
    append_one_by_one(&s, 2);
    lap = s.f.s->ahead.lap;
    records = small_make(&s, 3, 1, 1, s.at[2]->running);
    fault_arm(FAULT_AHEAD, 1, ENOSPC, false);
    assert_int_equal(store_write(s.f.s, &(struct store_write){.records = records, .count = 1}, s.f.why), STORE_FULL);
    fault_arm(0, 0, 0, false);
    assert_int_equal(store_state(s.f.s).last, 2);
    records = small_make(&s, 3, 1, 2, s.at[2]->running); /* another term: another entry */
    store_ok(store_write(s.f.s, &(struct store_write){.records = records, .count = 1}, s.f.why), s.f.why);
    assert_int_equal(s.f.s->ahead.count, 0); /* not into this lap */
    assert_int_equal(s.f.s->ahead.lap, lap + 1);
    small_append(&s, 1, 2);
    assert_int_equal(s.f.s->ahead.count, 1);
    small_expect(&s, 1, 4);
    fault_arm(FAULT_AHEAD, 1, EIO, false);
    records = small_make(&s, 5, 1, 2, s.at[4]->running);
    assert_int_equal(store_write(s.f.s, &(struct store_write){.records = records, .count = 1}, s.f.why),
                     STORE_BROKEN);
    fault_arm(0, 0, 0, false);
    small_free(&s);
}

/* ---- damage ---- */

static bool opens(struct small *s)
{
    s->f.s = store_open(s->f.dir, "node-1", MODEL_SIZE_MAX_BYTES, true, s->f.why, sizeof s->f.why);
    return s->f.s != NULL;
}

static void refused(struct small *s)
{
    assert_false(opens(s));
    assert_non_null(strstr(s->f.why, "damaged"));
}

static void opens_up_to(struct small *s, uint64_t last)
{
    if (!opens(s))
        fail_msg("%s", s->f.why);
    assert_int_equal(store_state(s->f.s).last, last);
    s->f.s->ahead.spoilt = true; /* so that closing leaves all as it is */
    store_fixture_close(&s->f);
}

/* A damaged byte is found wherever it is, in the last write, too: that was reported. */
static void test_damaged(void **state)
{
    static char image[AHEAD_BYTES];
    struct small s;

    (void)state;
    small_new(&s);
    die_after(&s, five);
    note(&s, 5);
    look_into(&s, image);
    for (int frame = 0; frame < 5; frame++) {
        for (int byte = 0; byte < 32 + (int)s.at[frame + 1]->bytes.len; byte += 7) {
            off_t at = frame * AHEAD_BLOCK_BYTES + byte / 504 * 512 + byte % 504;
            char other[2] = {(char)(image[at] ^ 0x10), (char)~image[at]};

            for (int k = 0; k < 2; k++) {
                put_back(&s, &other[k], 1, at);
                refused(&s);
            }
            put_back(&s, image + at, 1, at);
        }
    }
    opens_up_to(&s, 5);
    small_free(&s);
}

static void a_large_one(struct small *s)
{
    append_one_by_one(s, 2);
    small_append(s, 30, 1); /* one frame of several sectors */
    assert_int_equal(s->f.s->ahead.frames, 3);
}

/* The last write, cut short by a power failure, was never reported: whichever of its sectors are there, and also when
 * what stood there before was another frame's. But when all are there it was written, and what is wrong is damage. */
static void test_torn(void **state)
{
    static char image[AHEAD_BYTES], before[512];
    enum { AT = 2 * AHEAD_BLOCK_BYTES };
    struct small s;
    int sectors = 0;

    (void)state;
    small_new(&s);
    die_after(&s, a_large_one);
    look_into(&s, image);
    while (sectors < 100 && memcmp(image + AT + sectors * 512 + 504, before, 8) != 0)
        sectors++;
    assert_in_range(sectors, 3, 99);
    for (int kind = 0; kind < 2; kind++) { /* nothing stood there; the first frame did */
        memcpy(before, image, (size_t)kind * sizeof before);
        for (int i = 0; i < sectors; i++) {
            put_back(&s, before, sizeof before, AT + i * 512);
            opens_up_to(&s, 2);
            put_back(&s, image + AT + i * 512, 512, AT + i * 512);
        }
        for (int i = 0; i < sectors; i++) /* all from i on are missing, the last one first */
            put_back(&s, before, sizeof before, AT + (sectors - 1 - i) * 512), opens_up_to(&s, 2);
        put_back(&s, image + AT, (size_t)sectors * 512, AT);
    }
    for (int i = 0; i < sectors; i++) {
        off_t stamp = AT + i * 512 + 504 + i % 8, byte = AT + i * 512 + 40;
        char wrong_stamp = (char)~image[stamp], wrong = (char)(image[byte] ^ 1);

        put_back(&s, &wrong_stamp, 1, stamp); /* a stamp is not what counts while the frame is good */
        opens_up_to(&s, 32);
        put_back(&s, &wrong, 1, byte);
        refused(&s);
        put_back(&s, image + stamp, 1, stamp);
        refused(&s);
        put_back(&s, image + byte, 1, byte);
    }
    opens_up_to(&s, 32);
    small_free(&s);
}

static void test_without_its_file(void **state)
{
    char path[256];
    struct small s;

    (void)state;
    small_new(&s);
    append_one_by_one(&s, 2);
    store_fixture_close(&s.f);
    ahead_name(&s, path, sizeof path);
    assert_int_equal(truncate(path, AHEAD_BYTES - 1), 0);
    assert_false(opens(&s));
    assert_non_null(strstr(s.f.why, "cut off"));
    assert_int_equal(unlink(path), 0);
    assert_false(opens(&s));
    assert_non_null(strstr(s.f.why, "ahead"));
    small_free(&s);
}

/* ---- the two threads ---- */

struct reader {
    struct store *s;
    atomic_uint_fast64_t last;
    atomic_bool stop;
    atomic_uint_fast64_t read;
};

static void follow_view(void *arg, const struct entry_view *e)
{
    struct seen *seen = arg;

    CHECK(e->index == seen->next++); /* not an assert: those are the main thread's */
}

static void *read_on(void *arg)
{
    struct reader *r = arg;

    while (!r->stop) {
        uint64_t last = r->last, next = last > 20 ? last - 20 : 1, term;
        struct seen seen = {next};
        struct hash128 running;
        char why[STORE_WHY_BYTES];

        if (last == 0)
            continue;
        CHECK(store_read(r->s, &next, last, SIZE_MAX, follow_view, &seen, why) == STORE_OK);
        CHECK(next == last + 1 && store_at(r->s, last, &term, &running));
        r->read++;
    }
    return NULL;
}

static void test_read_while_it_is_settled(void **state)
{
    struct reader r = {.last = 0};
    struct hash128 running = {0};
    struct small s;
    pthread_t thread;

    (void)state;
    small_new(&s);
    running = store_state(s.f.s).running;
    r.s = s.f.s;
    assert_int_equal(pthread_create(&thread, NULL, read_on, &r), 0);
    for (uint64_t i = 1; i <= 600 || r.read < 100; i++) {
        struct record *record = model_record(i, 1, running, 300);
        struct store_hard hard = {.term = i};
        struct store_write w = {.records = &record, .count = 1, .hard = i % 7 == 0 ? &hard : NULL};

        store_ok(store_write(s.f.s, &w, s.f.why), s.f.why);
        running = record->running;
        record_drop(record);
        r.last = i;
    }
    r.stop = true;
    (void)pthread_join(thread, NULL);
    small_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_survive),
        cmocka_unit_test(test_laps),
        cmocka_unit_test(test_what_was_cut_stays_away),
        cmocka_unit_test(test_an_old_lap_counts_for_nothing),
        cmocka_unit_test(test_a_failed_write_is_forgotten),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_torn),
        cmocka_unit_test(test_without_its_file),
        cmocka_unit_test(test_read_while_it_is_settled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

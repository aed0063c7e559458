/* Snapshot files: the newest is whole, whatever happens; damage is found. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "log/base/loop.h"
#include "log/log.h"
#include "tests/unit/log_fault.h"
#include "tests/unit/log_fixture.h"

enum { MIB = 1024 * 1024, SIZE_MAX_BYTES = 64 * MIB, SMALL = 3000 };

struct outcome {
    bool done, ok;
};

static void on_done(void *arg, bool ok)
{
    struct outcome *o = arg;

    assert_false(o->done);
    *o = (struct outcome){true, ok};
}

static bool is_done(struct fixture *f)
{
    return ((struct outcome *)f->arg)->done;
}

static struct snapshot_mark mark_of(uint64_t n)
{
    struct snapshot_mark mark = {.index = n,
                                 .effects = n + 1,
                                 .log_from = n + 2,
                                 .next_seq = n + 3,
                                 .taken_ms = n + 4,
                                 .offset = UINT64_MAX - n,
                                 .db = (uint32_t)n % 16,
                                 .mode = (int)(n % 4) - 1};

    if (n % 2 == 0)
        memset(mark.replid, 'a', sizeof mark.replid - 1); /* as long as can be */
    if (n % 3 == 0)
        memcpy(mark.run_id, "8371445ee75bc1b7e9a1dcfe5ab4d8a0e1f1f6aa", 40);
    return mark;
}

/* Writes snapshot n: bytes made from n. Returns what done() was told. */
static bool take(struct fixture *f, uint64_t n, size_t bytes)
{
    struct outcome o = {false, false};
    struct snapshot_mark mark = mark_of(n);
    char *content = malloc(bytes + 1);
    struct snapshot_writer *w = snapshot_begin(f->log, f->why, sizeof f->why);

    assert_non_null(content);
    assert_non_null(w);
    fixture_fill(content, bytes, n);
    for (size_t at = 0; at < bytes; at += 65536)
        if (!snapshot_write(w, content + at, bytes - at < 65536 ? bytes - at : 65536)) {
            snapshot_abandon(w);
            free(content);
            return false;
        }
    free(content);
    snapshot_finish(w, &mark, on_done, &o);
    f->arg = &o;
    assert_true(fixture_wait(f, is_done));
    return o.ok;
}

static bool content_is(const char *path, uint64_t n, size_t bytes)
{
    char *expected = malloc(bytes + 1), *got = malloc(bytes + 1);
    FILE *file = fopen(path, "r");
    bool same;

    assert_non_null(expected);
    assert_non_null(got);
    assert_non_null(file);
    fixture_fill(expected, bytes, n);
    same = fread(got, 1, bytes + 1, file) == bytes && memcmp(expected, got, bytes) == 0;
    (void)fclose(file);
    free(expected);
    free(got);
    return same;
}

static void check_newest(struct fixture *f, uint64_t n, size_t bytes)
{
    struct snapshot_mark mark, expected = mark_of(n);
    char path[512];

    expected.rdb_bytes = bytes;
    if (!snapshot_newest(f->log, &mark, path, sizeof path))
        fail_msg("%s", f->why);
    assert_memory_equal(&mark, &expected, sizeof mark);
    assert_true(content_is(path, n, bytes));
}

static int files(const struct fixture *f)
{
    char path[256];
    struct dirent *e;
    int n = 0;
    DIR *d;

    (void)snprintf(path, sizeof path, "%s/snapshots", f->dir);
    d = opendir(path);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    (void)closedir(d);
    return n;
}

static void reopen(struct fixture *f)
{
    fixture_close(f);
    if (!fixture_open(f, SIZE_MAX_BYTES))
        fail_msg("%s", f->why);
}

static void open_fresh(struct fixture *f)
{
    fixture_dir(f);
    assert_true(fixture_open(f, SIZE_MAX_BYTES));
}

static void test_replace(void **state)
{
    struct fixture f;
    struct snapshot_mark mark;
    char path[512];

    (void)state;
    open_fresh(&f);
    assert_false(snapshot_newest(f.log, &mark, path, sizeof path));
    for (uint64_t n = 1; n <= 4; n++) {
        assert_true(take(&f, n, n * SMALL));
        check_newest(&f, n, n * SMALL);
        assert_int_equal(files(&f), 2);
    }
    reopen(&f);
    check_newest(&f, 4, 4 * SMALL);
    assert_true(take(&f, 5, 0)); /* an empty file is a file */
    reopen(&f);
    check_newest(&f, 5, 0);
    assert_false(f.failed);
    fixture_remove(&f);
}

static void test_large_between_commits(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    assert_true(take(&f, 1, 40 * (size_t)MIB));
    fixture_commit(&f, 1, 100);
    check_newest(&f, 1, 40 * (size_t)MIB);
    reopen(&f);
    check_newest(&f, 1, 40 * (size_t)MIB);
    fixture_remove(&f);
}

static void test_abandon(void **state)
{
    struct fixture f;
    struct snapshot_writer *w;

    (void)state;
    open_fresh(&f);
    assert_true(take(&f, 1, SMALL));
    w = snapshot_begin(f.log, f.why, sizeof f.why);
    assert_non_null(w);
    assert_null(snapshot_begin(f.log, f.why, sizeof f.why));
    assert_non_null(strstr(f.why, "already"));
    assert_true(snapshot_write(w, "half", 4));
    assert_int_equal(files(&f), 3);
    snapshot_abandon(w);
    assert_int_equal(files(&f), 2);
    check_newest(&f, 1, SMALL);
    assert_true(take(&f, 2, SMALL));
    check_newest(&f, 2, SMALL);
    fixture_remove(&f);
}

/* The log is closed while a snapshot is being finished: the old one or the new one is there. */
static void test_close_while_finishing(void **state)
{
    struct fixture f;
    struct outcome o;
    struct snapshot_mark mark;
    char path[512];

    (void)state;
    open_fresh(&f);
    assert_true(take(&f, 1, SMALL));
    for (int i = 0; i < 20; i++) {
        struct snapshot_writer *w = snapshot_begin(f.log, f.why, sizeof f.why);

        o = (struct outcome){false, false};
        mark = mark_of(1);
        assert_true(snapshot_write(w, "0123456789", 10));
        snapshot_finish(w, &mark, on_done, &o);
        (void)usleep((unsigned)i * 200);
        reopen(&f);
        assert_true(snapshot_newest(f.log, &mark, path, sizeof path));
        assert_int_equal(files(&f), 2);
    }
    fixture_remove(&f);
}

/* ---- damage ---- */

static void path_of(const struct fixture *f, const char *end, char *out)
{
    (void)snprintf(out, 256, "%s/snapshots/00000001%s", f->dir, end);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte = (char)(byte ^ 4);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void expect_damage(struct fixture *f)
{
    struct snapshot_mark mark;
    char path[512];

    reopen(f);
    assert_false(snapshot_newest(f->log, &mark, path, sizeof path));
    assert_true(f->failed);
    assert_non_null(strstr(f->why, "newest snapshot"));
}

static void test_damage(void **state)
{
    struct fixture f;
    char rdb[256], mark[256];
    struct stat st;

    (void)state;
    open_fresh(&f);
    assert_true(take(&f, 1, SMALL));
    path_of(&f, ".rdb", rdb);
    path_of(&f, ".mark", mark);
    for (off_t at = 0; at < SMALL; at += 97) {
        flip(rdb, at);
        expect_damage(&f);
        flip(rdb, at);
    }
    assert_int_equal(stat(mark, &st), 0);
    for (off_t at = 0; at < st.st_size; at++) {
        flip(mark, at);
        expect_damage(&f);
        flip(mark, at);
    }
    reopen(&f);
    check_newest(&f, 1, SMALL);
    assert_int_equal(truncate(mark, st.st_size - 1), 0);
    expect_damage(&f);
    fixture_remove(&f);

    open_fresh(&f);
    assert_true(take(&f, 1, SMALL));
    path_of(&f, ".rdb", rdb);
    assert_int_equal(truncate(rdb, SMALL - 1),
                     0); /* the size is looked at even when the content was compared before */
    assert_false(snapshot_newest(f.log, &(struct snapshot_mark){0}, mark, sizeof mark));
    assert_true(f.failed);
    assert_int_equal(unlink(rdb), 0);
    expect_damage(&f);
    fixture_remove(&f);
}

/* ---- trouble and crashes ---- */

/* Each system call of a snapshot fails once: it is dropped, the one before stays, the log goes on, the next one
 * succeeds. */
static void test_disk_trouble(void **state)
{
    static const int errors[] = {ENOSPC, EIO};

    (void)state;
    for (size_t i = 0; i < 2; i++)
        for (int nth = 1; nth <= 4; nth++) {
            struct fixture f;
            bool ok;

            open_fresh(&f);
            assert_true(take(&f, 1, SMALL));
            fault_arm(nth == 4 ? FAULT_RENAME : FAULT_SYNC, nth == 4 ? 2 : nth, errors[i], false);
            ok = take(&f, 2, SMALL);
            assert_int_equal(fault.hits, 1);
            fault_arm(0, 0, 0, false);
            assert_false(ok);
            assert_false(f.failed);
            assert_int_equal(files(&f), 2);
            check_newest(&f, 1, SMALL);
            fixture_commit(&f, 1, 100);
            assert_true(take(&f, 3, SMALL));
            reopen(&f);
            check_newest(&f, 3, SMALL);
            fixture_remove(&f);
        }
}

/* File, rename, directory; the same for the sidecar; then the record; then the old files go. */
static void test_order(void **state)
{
    struct fixture f;
    size_t n;

    (void)state;
    open_fresh(&f);
    assert_true(take(&f, 1, SMALL));
    fault_arm(0, 0, 0, false);
    assert_true(take(&f, 2, SMALL));
    assert_int_equal(strncmp(fault.trace, "FRFFRF", 6), 0);
    n = 6 + strspn(fault.trace + 6, "w");
    assert_string_equal(fault.trace + n, "DMuu");
    fixture_remove(&f);
}

/* What cannot be read back is not written. */
static void test_a_mark_that_is_not_words(void **state)
{
    static const char *const bad[] = {"a b", "-", "a\nindex 7", "\xff"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct outcome o = {false, false};
        struct snapshot_mark mark = mark_of(1);
        struct snapshot_writer *w;
        struct fixture f;

        open_fresh(&f);
        assert_true(take(&f, 1, SMALL));
        w = snapshot_begin(f.log, f.why, sizeof f.why);
        assert_non_null(w);
        memcpy(i % 2 == 0 ? mark.replid : mark.run_id, bad[i], strlen(bad[i]) + 1);
        snapshot_finish(w, &mark, on_done, &o);
        f.arg = &o;
        assert_true(fixture_wait(&f, is_done));
        assert_false(o.ok || f.failed);
        check_newest(&f, 1, SMALL);
        assert_int_equal(files(&f), 2);
        fixture_remove(&f);
    }
}

/* The record of a snapshot is a commit: if that breaks, the process must end. */
static void test_record_error_is_final(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    fault_arm(FAULT_WRITE, 1, EIO, false);
    assert_false(take(&f, 1, SMALL));
    fault_arm(0, 0, 0, false);
    assert_true(f.failed);
    fixture_remove(&f);
}

/* The wait for a large file takes the kernel's error off the descriptor: it must count there. */
static void test_error_while_waiting(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    for (int nth = 1; nth <= 5; nth++) {
        fault_arm(FAULT_SYNC, nth, EIO, false);
        assert_false(take(&f, 1, 20 * (size_t)MIB));
        fault_arm(0, 0, 0, false);
        assert_false(f.failed);
        assert_int_equal(files(&f), 0);
    }
    fixture_remove(&f);
}

static int child_take(const char *dir, int nth)
{
    struct fixture f = {0};

    (void)snprintf(f.dir, sizeof f.dir, "%s", dir);
    if (!fixture_open(&f, SIZE_MAX_BYTES))
        return 4;
    fault_arm(FAULT_WRITE | FAULT_META | FAULT_SYNC | FAULT_RENAME | FAULT_UNLINK, nth, 0, false);
    if (!take(&f, 2, SMALL))
        return 5;
    if (write(STDOUT_FILENO, "+", 1) != 1)
        return 6;
    fixture_close(&f);
    return 0;
}

/* Death before each write, sync, rename and removal of a second snapshot: then the first or the second is the newest,
 * whole, and nothing else is left. */
static void test_crash_at_each_call(void **state)
{
    int status = 1, nth = 0, old = 0, new = 0;

    (void)state;
    while (status != 0) {
        struct fixture f;
        struct snapshot_mark mark;
        char path[512], count[16], told = 0;
        int out, pid;

        open_fresh(&f);
        assert_true(take(&f, 1, SMALL));
        fixture_close(&f);
        (void)snprintf(count, sizeof count, "%d", ++nth);
        pid = fixture_child("take", f.dir, count, "", &out);
        if (read(out, &told, 1) != 1)
            told = 0;
        (void)close(out);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        assert_true(fixture_open(&f, SIZE_MAX_BYTES));
        assert_int_equal(files(&f), 2);
        assert_true(snapshot_newest(f.log, &mark, path, sizeof path));
        assert_true(mark.index == 1 || mark.index == 2);
        assert_false(told && mark.index == 1);
        check_newest(&f, mark.index, SMALL);
        old += mark.index == 1;
        new += mark.index == 2;
        assert_true(take(&f, 3, SMALL));
        check_newest(&f, 3, SMALL);
        fixture_remove(&f);
    }
    assert_true(old >= 8 && new >= 3);
}

static bool another_may_begin(struct fixture *f)
{
    struct snapshot_writer *w = snapshot_begin(f->log, f->why, sizeof f->why);

    if (w != NULL)
        snapshot_abandon(w);
    return w != NULL;
}

/* Whoever had it finished is gone before it is. */
static void test_disowned(void **state)
{
    struct fixture f;
    struct snapshot_mark mark = mark_of(1);
    struct snapshot_writer *w;

    (void)state;
    fixture_open_fresh(&f);
    w = snapshot_begin(f.log, f.why, sizeof f.why);
    snapshot_finish(w, &mark, on_done, NULL); /* where a call would crash */
    snapshot_disown(w);
    assert_true(fixture_wait(&f, another_may_begin));
    check_newest(&f, 1, 0);
    fixture_remove(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_a_mark_that_is_not_words),
        cmocka_unit_test(test_large_between_commits),
        cmocka_unit_test(test_abandon),
        cmocka_unit_test(test_disowned),
        cmocka_unit_test(test_close_while_finishing),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_disk_trouble),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_record_error_is_final),
        cmocka_unit_test(test_error_while_waiting),
        cmocka_unit_test(test_crash_at_each_call),
    };

    if (argc == 5 && strcmp(argv[1], "take") == 0)
        return child_take(argv[2], atoi(argv[3]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}

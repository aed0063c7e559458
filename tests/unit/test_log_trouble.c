/* The log in trouble: full, with a failing disk, killed at any moment. Nothing that was reported is lost, nothing
 * that failed is reported. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "log/log.h"
#include "tests/unit/log_fault.h"
#include "tests/unit/log_fixture.h"

enum { MIB = 1024 * 1024 };

/* ---- full ---- */

static void append_until_stalled(struct fixture *f, int entries_max)
{
    for (int i = 0; !f->stalled && i < entries_max; i++) {
        fixture_append_next(f);
        assert_true(fixture_wait(f, fixture_stalled_or_quiet));
        if (f->failed)
            fail_msg("%s", f->why);
    }
    assert_true(f->stalled);
    assert_true(log_stalled(f->log));
}

static void test_size_max(void **state)
{
    struct fixture f;
    uint64_t durable;

    (void)state;
    fixture_dir(&f);
    assert_true(fixture_open(&f, MIB));
    append_until_stalled(&f, 1000);
    assert_non_null(strstr(f.why, "log-size-max"));
    durable = f.committed;
    fixture_turns(&f, 3 * LOG_RETRY_MS);
    assert_int_equal(f.committed, durable);
    assert_int_equal(f.stalls, 1);
    assert_true(log_bytes(f.log) <= MIB);
    assert_int_equal(log_open_index(f.log),
                     durable + 2); /* the stalled batch keeps its index, the next one gathers */
    fixture_append_next(&f);
    assert_false(log_flush(f.log));
    log_truncate(f.log, durable / 2);
    assert_true(fixture_wait(&f, fixture_recovered));
    assert_int_equal(f.recoveries, 1);
    assert_int_equal(f.committed, durable + 2);
    fixture_check(&f, durable / 2);
    append_until_stalled(&f, 1000); /* and what was not committed when the process ends was never there */
    durable = f.committed;
    fixture_close(&f);
    assert_true(fixture_open(&f, MIB));
    assert_int_equal(log_committed(f.log), durable);
    fixture_remove(&f);
}

static void limit_file_size(rlim_t bytes)
{
    struct rlimit r;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &r), 0);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

/* A disk without room for another block of the file: the kernel refuses to let it grow. Truncation works all the
 * same. */
static void test_disk_full(void **state)
{
    struct fixture f;
    uint64_t durable, bytes;
    struct stat st;
    char path[256];

    (void)state;
    fixture_open_fresh(&f);
    limit_file_size(12 * MIB);
    append_until_stalled(&f, 10000);
    durable = f.committed;
    assert_true(durable > 50);
    fixture_turns(&f, 2 * LOG_RETRY_MS);
    assert_int_equal(f.committed, durable);
    fixture_check(&f, 1);
    limit_file_size(RLIM_INFINITY);
    assert_true(fixture_wait(&f, fixture_recovered)); /* by its own retries */
    assert_int_equal(f.committed, durable + 1);
    fixture_commit_next(&f, 10);
    fixture_check(&f, 1);
    fixture_close(&f);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    assert_int_equal(stat(path, &st), 0);
    limit_file_size((rlim_t)st.st_size); /* the same again, now with the way out by truncation, several times */
    if (!fixture_open(&f, FIXTURE_SIZE_MAX_BYTES))
        fail_msg("%s", f.why);
    for (int round = 0; round < 5; round++) {
        append_until_stalled(&f, 10000);
        durable = f.committed;
        bytes = log_bytes(f.log);
        f.arg = &bytes;
        log_truncate(f.log, durable - 20);
        assert_true(fixture_wait(&f, fixture_shrunk));
        assert_true(fixture_wait(&f, fixture_recovered));
        assert_false(f.failed);
        assert_int_equal(f.committed, durable + 1);
        fixture_check(&f, durable - 20);
    }
    limit_file_size(RLIM_INFINITY);
    fixture_reopen(&f);
    fixture_check(&f, durable - 20);
    fixture_remove(&f);
}

/* ---- errors of the disk ---- */

static bool has_failed(struct fixture *f)
{
    return f->failed;
}

struct disk_error {
    int kinds, error;
    bool final;
    int before; /* so many entries come before it: what follows 5 is large, and no file is ahead of LMDB for it */
};

/* Every call of a commit fails once; a final error is told, an entry is never reported that is not there afterwards.
 */
static void disk_error(const struct disk_error *e)
{
    struct fixture f;

    for (int nth = 1;; nth++) {
        uint64_t reported;

        fixture_open_fresh(&f);
        fixture_commit_next(&f, e->before);
        fault_arm(e->kinds, nth, e->error, false);
        fixture_append_next(&f);
        assert_true(fixture_wait(&f, e->final ? fixture_stalled_or_quiet : fixture_recovered));
        if (fault.hits == 0) {
            fault_arm(0, 0, 0, false);
            assert_int_equal(f.committed, e->before + 2); /* entry 1 is the group's */
            fixture_remove(&f);
            assert_true(nth > 1);
            return;
        }
        fault_arm(0, 0, 0, false);
        reported = f.committed;
        assert_int_equal(f.failed, e->final);
        assert_int_equal(reported, e->before + (e->final ? 1 : 2));
        assert_false(e->final && log_flush(f.log));
        fixture_reopen(&f);
        assert_true(log_committed(f.log) >= reported && log_committed(f.log) <= (uint64_t)e->before + 2);
        fixture_check(&f, 1);
        fixture_remove(&f);
    }
}

static void test_disk_errors(void **state)
{
    static const struct disk_error errors[] = {
        {FAULT_WRITE, EIO, true, 5},     {FAULT_SYNC, EIO, true, 5},      {FAULT_META, EIO, true, 5},
        {FAULT_WRITE, ENOSPC, false, 5}, {FAULT_SYNC, EDQUOT, false, 5},  {FAULT_WRITE, EROFS, true, 5},
        {FAULT_AHEAD, EIO, true, 4},     {FAULT_AHEAD, ENOSPC, false, 4}, {FAULT_AHEAD, EROFS, true, 4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        disk_error(&errors[i]);
}

/* What makes a commit: one write through O_DSYNC to the file ahead; of a large one all pages, then fdatasync, then
 * the meta page through O_DSYNC. Only then is it told. */
static void test_order_of_a_commit(void **state)
{
    struct fixture f;
    size_t n;

    (void)state;
    fixture_open_fresh(&f);
    fixture_commit_next(&f, 4);
    fault_arm(0, 0, 0, false);
    fixture_commit_next(&f, 1);
    assert_string_equal(fault.trace, "A");
    fault_arm(0, 0, 0, false);
    fixture_commit_next(&f, 1);
    n = strspn(fault.trace, "w");
    assert_true(n > 0);
    assert_string_equal(fault.trace + n, "DM");
    fixture_remove(&f);
}

/* A failed meta write poisons LMDB: even if it was for want of space, the retry is final. */
static void test_meta_write_without_space(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open_fresh(&f);
    fixture_commit_next(&f, 5);
    fault_arm(FAULT_META, 1, ENOSPC, true);
    fixture_append_next(&f);
    assert_true(fixture_wait(&f, has_failed));
    fault_arm(0, 0, 0, false);
    assert_int_equal(f.committed, 6);
    fixture_reopen(&f);
    fixture_check(&f, 1);
    fixture_remove(&f);
}

static void test_allocation_error_is_final(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open_fresh(&f);
    fault_arm(FAULT_ALLOCATE, 1, EIO, true);
    fixture_append(&f, 1, 10 * (size_t)MIB, true);
    assert_true(fixture_wait(&f, has_failed));
    fault_arm(0, 0, 0, false);
    assert_int_equal(f.committed, 1);
    fixture_remove(&f);
}

static void test_no_memory_for_the_batch(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open_fresh(&f);
    log_batch(f.log)->failed = true;
    log_touch(f.log, true);
    assert_false(log_flush(f.log));
    assert_true(f.failed);
    fixture_remove(&f);
}

/* ---- crashes ---- */

static void say(uint64_t number)
{
    char line[32];
    int n = snprintf(line, sizeof line, "%" PRIu64 "\n", number);

    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(3);
}

/* The child: appends for ever (or `rounds` times), reports what is committed, truncates now and then. */
static int child_append(const char *dir, int kinds, int nth, int rounds)
{
    struct fixture f = {0};

    (void)snprintf(f.dir, sizeof f.dir, "%s", dir);
    if (!fixture_open(&f, FIXTURE_SIZE_MAX_BYTES))
        return 4;
    if (nth > 0)
        fault_arm(kinds, nth, 0, false);
    for (int i = 0; rounds == 0 || i < rounds; i++) {
        fixture_append_next(&f);
        if (!fixture_wait(&f, fixture_quiet))
            return 5;
        say(f.committed);
        if (f.committed % 16 == 0 || (rounds > 0 && i % 4 == 1))
            log_truncate(f.log, f.committed - (rounds > 0 ? 1 : 10));
    }
    fixture_turns(&f, 50);
    fixture_close(&f);
    return 0;
}

/* What the child has said so far. */
struct told {
    char text[MIB];
    size_t n, lines;
};
static struct told told;

/* False: it says no more. */
static bool read_some(int fd)
{
    ssize_t got = read(fd, told.text + told.n, sizeof told.text - told.n - 1);

    for (ssize_t i = 0; i < got; i++)
        told.lines += told.text[told.n + (size_t)i] == '\n';
    told.n += got > 0 ? (size_t)got : 0;
    return got > 0;
}

/* The last number that it says until its end, whole. */
static uint64_t last_number(int fd)
{
    char *end;

    while (read_some(fd))
        continue;
    (void)close(fd);
    told.text[told.n] = '\0';
    end = strrchr(told.text, '\n');
    if (end == NULL)
        return 0;
    *end = '\0';
    end = strrchr(told.text, '\n');
    return strtoull(end == NULL ? told.text : end + 1, NULL, 10);
}

static int child_begin(const struct fixture *f, const char *kinds, const char *nth, int *out)
{
    told.n = told.lines = 0;
    return fixture_child("append", f->dir, kinds, nth, out);
}

static void check_after_crash(struct fixture *f, uint64_t reported)
{
    if (!fixture_open(f, FIXTURE_SIZE_MAX_BYTES))
        fail_msg("%s", f->why);
    assert_true(log_committed(f->log) >= reported);
    fixture_check(f, log_first_index(f->log));
    fixture_close(f);
}

static void test_kill_9_while_appending(void **state)
{
    struct fixture f;
    uint64_t reported = 0;
    unsigned seed = 3;

    (void)state;
    fixture_dir(&f);
    for (int i = 0; i < 50; i++) {
        uint64_t said;
        int out, status, pid = child_begin(&f, "0", "0", &out);
        size_t lines = (unsigned)rand_r(&seed) % 12;

        while (told.lines < lines) /* then between two reports; at once it would be while it opens the log */
            assert_true(read_some(out));
        (void)usleep((unsigned)rand_r(&seed) % (lines > 0 ? 2000 : 60000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        said = last_number(out);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        reported = said > reported ? said : reported;
        check_after_crash(&f, reported);
    }
    assert_true(reported > 50);
    fixture_remove(&f);
}

/* Death at each single write, sync and allocation of a short life with appends and a truncation. */
static void test_crash_at_each_call(void **state)
{
    enum { KINDS = FAULT_WRITE | FAULT_META | FAULT_SYNC | FAULT_ALLOCATE | FAULT_AHEAD };
    int nth = 0, status = 1;

    (void)state;
    while (status != 0) {
        struct fixture f;
        char kinds[16], count[16];
        int out, pid;
        uint64_t reported;

        fixture_dir(&f);
        (void)snprintf(kinds, sizeof kinds, "%d", KINDS);
        (void)snprintf(count, sizeof count, "%d", ++nth);
        pid = child_begin(&f, kinds, count, &out);
        reported = last_number(out);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        check_after_crash(&f, reported);
        fixture_remove(&f);
    }
    assert_true(nth > 30);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_max),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_disk_errors),
        cmocka_unit_test(test_order_of_a_commit),
        cmocka_unit_test(test_meta_write_without_space),
        cmocka_unit_test(test_allocation_error_is_final),
        cmocka_unit_test(test_no_memory_for_the_batch),
        cmocka_unit_test(test_kill_9_while_appending),
        cmocka_unit_test(test_crash_at_each_call),
    };

    (void)signal(SIGXFSZ, SIG_IGN);
    if (argc == 5 && strcmp(argv[1], "append") == 0)
        return child_append(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[4]) > 0 ? 12 : 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

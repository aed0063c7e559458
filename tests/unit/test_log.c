/* The log against a real LMDB: what was appended is there, in order, until it is truncated; what is damaged is
 * refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log/base/metrics.h"
#include "log/log.h"
#include "tests/unit/log_fixture.h"

enum { MIB = 1024 * 1024 };

struct reading {
    uint64_t next;
    bool ok;
};

static void ignore_entry(void *arg, const struct entry_view *e)
{
    (void)arg;
    (void)e;
}

static void test_append_and_reopen(void **state)
{
    struct fixture f;
    uint64_t term;

    (void)state;
    fixture_open_fresh(&f);
    term = log_term(f.log);
    assert_int_equal(term, 1);
    assert_int_equal(log_first_index(f.log), 1);
    assert_int_equal(log_last_index(f.log), 1); /* the group's configuration */
    assert_int_equal(log_open_index(f.log), 2);
    assert_false(log_flush(f.log));
    fixture_commit_next(&f, 40);
    fixture_check(&f, 1);
    fixture_check(&f, 17);
    assert_true(log_bytes(f.log) > 40);
    for (int i = 2; i < 5; i++) {
        uint64_t bytes = log_bytes(f.log);

        fixture_reopen(&f);
        assert_int_equal(log_term(f.log), i);
        assert_int_equal(log_bytes(f.log), bytes);
        fixture_check(&f, 1);
        fixture_commit_next(&f, 3);
    }
    fixture_remove(&f);
}

/* While a commit is in flight everything gathers in one batch: 1000 appends cost far fewer entries. */
static void test_group_commit(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open_fresh(&f);
    fixture_append(&f, 1, 10, true);
    assert_true(log_flush(f.log));
    assert_false(log_flush(f.log));
    assert_int_equal(log_open_index(f.log), 3);
    for (uint64_t i = 0; i < 1000; i++) {
        fixture_append(&f, i, 10, true);
        assert_false(log_flush(f.log));
        assert_int_equal(log_open_index(f.log), 3);
    }
    assert_true(log_pending_bytes(f.log) > 10000);
    assert_int_equal(f.committed, 1);
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 3);
    fixture_remove(&f);
}

static void test_idle_and_large_flush(void **state)
{
    struct fixture f;
    uint64_t fsyncs;

    (void)state;
    fixture_open_fresh(&f);
    fsyncs = log_fsync_us(f.log)->count;
    fixture_append(&f, 1, 10, false);
    assert_false(log_flush(f.log));
    fixture_turns(&f, LOG_IDLE_FLUSH_MS / 3);
    assert_int_equal(f.committed, 1);
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 2);
    fixture_append(&f, 1, 2 * MIB, false);
    assert_true(log_flush(f.log));
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 3);
    assert_int_equal(log_fsync_us(f.log)->count, fsyncs + 2);
    assert_true(log_fsync_us(f.log)->sum_us >= 2 && log_fsync_us(f.log)->sum_us < 60u * 1000 * 1000);
    fixture_remove(&f);
}

static void check_large(void *arg, const struct entry_view *e)
{
    struct reading *r = arg;

    r->ok = r->ok && fixture_matches(e, 7, (size_t)64 * MIB);
    r->next++;
}

static void test_entry_of_64_mib(void **state)
{
    struct fixture f;
    struct reading r = {1, true};

    (void)state;
    fixture_open_fresh(&f);
    for (int i = 0; i < 3; i++)
        fixture_commit(&f, 7, (size_t)64 * MIB);
    fixture_reopen(&f);
    assert_int_equal(log_read(f.log, 2, 1, check_large, &r), 3);
    assert_int_equal(log_read(f.log, 3, SIZE_MAX, check_large, &r), 5);
    assert_true(r.ok);
    log_truncate(f.log, 4);
    assert_int_equal(log_first_index(f.log), 4);
    fixture_commit(&f, 7, (size_t)64 * MIB);
    fixture_remove(&f);
}

static bool truncated(struct fixture *f)
{
    (void)f->arg;
    return f->failed || log_bytes(f->log) < 100 * 1024;
}

static void test_truncate(void **state)
{
    struct fixture f;
    uint64_t none = 0, bytes;

    (void)state;
    fixture_open_fresh(&f);
    fixture_commit_next(&f, 50);
    bytes = log_bytes(f.log);
    log_truncate(f.log, 31);
    log_truncate(f.log, 11);
    assert_int_equal(log_first_index(f.log), 31);
    fixture_commit_next(&f, 20);
    assert_true(log_bytes(f.log) < bytes);
    fixture_check(&f, 31);
    fixture_reopen(&f);
    assert_int_equal(log_first_index(f.log), 31);
    assert_int_equal(log_last_index(f.log), 71);
    fixture_check(&f, 31);
    log_truncate(f.log, 1000); /* the newest one stays */
    f.arg = &none;
    assert_true(fixture_wait(&f, truncated));
    assert_false(f.failed);
    fixture_reopen(&f);
    assert_int_equal(log_first_index(f.log), 71);
    assert_int_equal(log_last_index(f.log), 71);
    fixture_commit_next(&f, 5);
    fixture_reopen(&f);
    fixture_check(&f, 71);
    assert_int_equal(log_read(f.log, 70, 1, ignore_entry, NULL), 0);
    assert_true(f.failed);
    assert_false(log_flush(f.log));
    fixture_remove(&f);
}

/* Many small entries: truncation takes several pieces, and commits pass in between. */
static void test_truncate_in_pieces(void **state)
{
    struct fixture f;
    uint64_t after, few = 1000;

    (void)state;
    fixture_open_fresh(&f);
    for (uint64_t i = 0; i < 5000; i++) {
        fixture_append(&f, i, 10, true);
        (void)log_flush(f.log);
        while (log_pending_bytes(f.log) > 0 && i < 4998)
            assert_true(fixture_wait(&f, fixture_quiet));
    }
    assert_true(fixture_wait(&f, fixture_quiet));
    after = log_last_index(f.log);
    assert_true(after >= 4999);
    log_truncate(f.log, after - 1);
    fixture_commit(&f, 1, 10); /* before the pieces are done */
    assert_int_equal(log_last_index(f.log), after + 1);
    f.arg = &few;
    assert_true(fixture_wait(&f, fixture_shrunk));
    fixture_reopen(&f);
    assert_int_equal(log_first_index(f.log), after - 1);
    assert_int_equal(log_last_index(f.log), after + 1);
    fixture_remove(&f);
}

/* ---- opening ---- */

static void test_refusals(void **state)
{
    struct fixture f, again;
    char path[256];

    (void)state;
    fixture_open_fresh(&f);
    fixture_commit_next(&f, 3);
    again = f;
    assert_false(fixture_open(&again, FIXTURE_SIZE_MAX_BYTES));
    assert_non_null(strstr(again.why, "in use by another process"));
    fixture_close(&f);
    assert_false(fixture_open_as(&f, FIXTURE_SIZE_MAX_BYTES, "node-2"));
    assert_non_null(strstr(f.why, "belongs to node 'node-1', this node is called 'node-2'"));
    assert_false(fixture_open_as(&f, FIXTURE_SIZE_MAX_BYTES, "node-11"));
    fixture_reopen(&f);
    fixture_check(&f, 1);
    fixture_close(&f);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    assert_int_equal(truncate(path, 20000), 0);
    assert_false(fixture_open(&f, FIXTURE_SIZE_MAX_BYTES));
    assert_non_null(strstr(f.why, "cut off"));
    assert_int_equal(unlink(path), 0); /* a log that was there is never begun anew */
    assert_false(fixture_open(&f, FIXTURE_SIZE_MAX_BYTES));
    assert_non_null(strstr(f.why, "missing"));
    fixture_remove(&f);
}

static void test_second_process_is_refused(void **state)
{
    struct fixture f;
    char text[256] = "";
    int out, status, pid;

    (void)state;
    fixture_open_fresh(&f);
    pid = fixture_child("open", f.dir, "", "", &out);
    assert_true(read(out, text, sizeof text - 1) > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)close(out);
    assert_non_null(strstr(text, "in use by another process"));
    fixture_close(&f);
    pid = fixture_child("open", f.dir, "", "", &out);
    memset(text, 0, sizeof text);
    assert_true(read(out, text, sizeof text - 1) > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)close(out);
    assert_string_equal(text, "opened\n");
    fixture_remove(&f);
}

static void flip(const char *path, off_t at, int bit)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unsigned char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte = (unsigned char)(byte ^ (1u << bit));
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static off_t find_in_file(const char *path, const char *what, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    static char memory[4 * MIB];
    ssize_t got = pread(fd, memory, sizeof memory, 0);
    char *at;

    assert_true(got > 0);
    at = memmem(memory, (size_t)got, what, n);
    (void)close(fd);
    return at == NULL ? -1 : at - memory;
}

/* Every bit of an entry in LMDB's file: flipped, the log does not open. */
static void test_every_flipped_bit_in_the_file(void **state)
{
    enum { BYTES = 40, BODY = BYTES + 4 }; /* kind, length, seq, db */
    struct fixture f;
    char path[256], bytes[BYTES];
    off_t at;

    (void)state;
    fixture_open_fresh(&f);
    fixture_commit(&f, 1, BYTES);
    fixture_close(&f);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    fixture_fill(bytes, BYTES, 1);
    at = find_in_file(path, bytes, BYTES);
    assert_true(at > 0);
    at -= ENTRY_HEADER_BYTES + 4;
    for (int i = 0; i < ENTRY_HEADER_BYTES + BODY; i++) {
        int bit = (i * 5 + 3) % 8; /* test_record flips all of them; each costs an open here */

        flip(path, at + i, bit);
        assert_false(fixture_open(&f, FIXTURE_SIZE_MAX_BYTES));
        assert_non_null(strstr(f.why, "damaged: entry 2"));
        flip(path, at + i, bit);
    }
    assert_true(fixture_open(&f, FIXTURE_SIZE_MAX_BYTES));
    assert_int_equal(log_term(f.log), 2); /* a refused open changes nothing */
    fixture_remove(&f);
}

static void count_entry(void *arg, const struct entry_view *e)
{
    (void)e;
    ++*(int *)arg;
}

/* Damage that comes while the log is open is found by reading. */
static void test_damage_found_by_reading(void **state)
{
    struct fixture f;
    char path[256], bytes[5000];
    int seen = 0;

    (void)state;
    fixture_open_fresh(&f);
    for (uint64_t i = 1; i <= 9; i++)
        fixture_commit(&f, i, sizeof bytes);
    fixture_commit(&f, 10, 100000); /* too large for the file ahead: all that is there comes into LMDB */
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    fixture_fill(bytes, sizeof bytes, 6);
    flip(path, find_in_file(path, bytes, sizeof bytes) + 4321, 5);
    assert_int_equal(log_read(f.log, 1, SIZE_MAX, count_entry, &seen), 0);
    assert_int_equal(seen, 6);
    assert_true(f.failed);
    assert_non_null(strstr(f.why, "entry 7: checksum"));
    fixture_remove(&f);
}

static int child_open(const char *dir)
{
    struct fixture f = {0};

    (void)snprintf(f.dir, sizeof f.dir, "%s", dir);
    if (!fixture_open(&f, FIXTURE_SIZE_MAX_BYTES)) {
        (void)printf("%s\n", f.why);
        return 0;
    }
    (void)printf("opened\n");
    fixture_close(&f);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_and_reopen),
        cmocka_unit_test(test_group_commit),
        cmocka_unit_test(test_idle_and_large_flush),
        cmocka_unit_test(test_entry_of_64_mib),
        cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_truncate_in_pieces),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_second_process_is_refused),
        cmocka_unit_test(test_every_flipped_bit_in_the_file),
        cmocka_unit_test(test_damage_found_by_reading),
    };

    if (argc == 5 && strcmp(argv[1], "open") == 0)
        return child_open(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

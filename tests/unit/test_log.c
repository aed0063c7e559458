/* The log against a real LMDB: what was committed is there, whatever happens. */
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

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/log.h"
#include "tests/unit/log_fault.h"
#include "tests/unit/log_fixture.h"

enum { MIB = 1024 * 1024, SIZE_MAX_BYTES = 512 * MIB };

static size_t size_of(uint64_t index)
{
    static const size_t sizes[] = {1, 100, 1900, 2100, 5000, 20000, 300, 70000};

    return sizes[index % (sizeof sizes / sizeof sizes[0])];
}

struct reading {
    uint64_t next;
    bool ok;
};

static void check_entry(void *arg, const struct entry_view *e)
{
    struct reading *r = arg;

    r->ok = r->ok && e->index == r->next && fixture_matches(e, e->index, size_of(e->index));
    r->next++;
}

/* All entries from `from` on are there and are what append_as_indexed() wrote. */
static void check_all(struct fixture *f, uint64_t from)
{
    struct reading r = {from, true};
    uint64_t next = from;

    while (next <= log_committed(f->log)) {
        uint64_t got = log_read(f->log, next, 10000, check_entry, &r);

        assert_true(got > next);
        next = got;
    }
    assert_true(r.ok);
    assert_int_equal(r.next, log_committed(f->log) + 1);
}

static void append_as_indexed(struct fixture *f)
{
    uint64_t index = log_open_index(f->log);

    fixture_append(f, index, size_of(index), true);
}

static void commit_as_indexed(struct fixture *f, int n)
{
    for (int i = 0; i < n; i++) {
        append_as_indexed(f);
        assert_true(fixture_wait(f, fixture_quiet));
        assert_false(f->failed);
    }
}

static void open_fresh(struct fixture *f)
{
    fixture_dir(f);
    assert_true(fixture_open(f, SIZE_MAX_BYTES));
}

static void reopen(struct fixture *f)
{
    fixture_close(f);
    if (!fixture_open(f, SIZE_MAX_BYTES))
        fail_msg("%s", f->why);
}

static void test_append_and_reopen(void **state)
{
    struct fixture f;
    uint64_t term;

    (void)state;
    open_fresh(&f);
    term = log_term(f.log);
    assert_int_equal(term, 1);
    assert_int_equal(log_first_index(f.log), 1);
    assert_int_equal(log_last_index(f.log), 0);
    assert_int_equal(log_open_index(f.log), 1);
    assert_false(log_flush(f.log));
    commit_as_indexed(&f, 40);
    check_all(&f, 1);
    check_all(&f, 17);
    assert_true(log_bytes(f.log) > 40);
    for (int i = 2; i < 5; i++) {
        uint64_t bytes = log_bytes(f.log);

        reopen(&f);
        assert_int_equal(log_term(f.log), i);
        assert_int_equal(log_bytes(f.log), bytes);
        check_all(&f, 1);
        commit_as_indexed(&f, 3);
    }
    fixture_remove(&f);
}

/* While a commit is in flight everything gathers in one batch: 1000 appends cost far fewer entries. */
static void test_group_commit(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    fixture_append(&f, 1, 10, true);
    assert_true(log_flush(f.log));
    assert_false(log_flush(f.log));
    assert_int_equal(log_open_index(f.log), 2);
    for (uint64_t i = 0; i < 1000; i++) {
        fixture_append(&f, i, 10, true);
        assert_false(log_flush(f.log));
        assert_int_equal(log_open_index(f.log), 2);
    }
    assert_true(log_pending_bytes(f.log) > 10000);
    assert_int_equal(f.committed, 0);
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 2);
    fixture_remove(&f);
}

static void test_idle_and_large_flush(void **state)
{
    struct fixture f;
    uint32_t us[8];

    (void)state;
    open_fresh(&f);
    fixture_append(&f, 1, 10, false);
    assert_false(log_flush(f.log));
    fixture_turns(&f, LOG_IDLE_FLUSH_MS / 3);
    assert_int_equal(f.committed, 0);
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 1);
    fixture_append(&f, 1, 2 * MIB, false);
    assert_true(log_flush(f.log));
    assert_true(fixture_wait(&f, fixture_quiet));
    assert_int_equal(f.committed, 2);
    assert_int_equal(log_take_commit_us(f.log, us, 1), 1);
    assert_int_equal(log_take_commit_us(f.log, us, 8), 1);
    assert_int_equal(log_take_commit_us(f.log, us, 8), 0);
    assert_true(us[0] > 0);
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
    open_fresh(&f);
    for (int i = 0; i < 3; i++)
        fixture_commit(&f, 7, (size_t)64 * MIB);
    reopen(&f);
    assert_int_equal(log_read(f.log, 1, 1, check_large, &r), 2);
    assert_int_equal(log_read(f.log, 2, SIZE_MAX, check_large, &r), 4);
    assert_true(r.ok);
    log_truncate(f.log, 4);
    assert_int_equal(log_first_index(f.log), 4);
    fixture_commit(&f, 7, (size_t)64 * MIB);
    fixture_remove(&f);
}

static bool has_shrunk(struct fixture *f)
{
    return f->failed || log_bytes(f->log) < *(uint64_t *)f->arg;
}

static bool truncated(struct fixture *f)
{
    return f->failed || log_bytes(f->log) == *(uint64_t *)f->arg;
}

static void test_truncate(void **state)
{
    struct fixture f;
    struct reading r = {1, true};
    uint64_t none = 0, bytes;

    (void)state;
    open_fresh(&f);
    commit_as_indexed(&f, 50);
    bytes = log_bytes(f.log);
    log_truncate(f.log, 31);
    log_truncate(f.log, 11);
    assert_int_equal(log_first_index(f.log), 31);
    commit_as_indexed(&f, 20);
    assert_true(log_bytes(f.log) < bytes);
    check_all(&f, 31);
    reopen(&f);
    assert_int_equal(log_first_index(f.log), 31);
    assert_int_equal(log_last_index(f.log), 70);
    check_all(&f, 31);
    log_truncate(f.log, 1000);
    f.arg = &none;
    assert_true(fixture_wait(&f, truncated));
    assert_false(f.failed);
    reopen(&f);
    assert_int_equal(log_first_index(f.log), 71);
    assert_int_equal(log_last_index(f.log), 70);
    assert_int_equal(log_bytes(f.log), 0);
    commit_as_indexed(&f, 5);
    reopen(&f);
    check_all(&f, 71);
    assert_int_equal(log_read(f.log, 70, 1, check_entry, &r), 0);
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
    open_fresh(&f);
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
    assert_true(fixture_wait(&f, has_shrunk));
    reopen(&f);
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
    open_fresh(&f);
    commit_as_indexed(&f, 3);
    again = f;
    assert_false(fixture_open(&again, SIZE_MAX_BYTES));
    assert_non_null(strstr(again.why, "in use by another process"));
    fixture_close(&f);
    assert_false(fixture_open_as(&f, SIZE_MAX_BYTES, "node-2"));
    assert_non_null(strstr(f.why, "belongs to node 'node-1', this node is called 'node-2'"));
    assert_false(fixture_open_as(&f, SIZE_MAX_BYTES, "node-11"));
    reopen(&f);
    check_all(&f, 1);
    fixture_close(&f);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    assert_int_equal(truncate(path, 20000), 0);
    assert_false(fixture_open(&f, SIZE_MAX_BYTES));
    assert_non_null(strstr(f.why, "cut off"));
    assert_int_equal(unlink(path), 0); /* a log that was there is never begun anew */
    assert_false(fixture_open(&f, SIZE_MAX_BYTES));
    assert_non_null(strstr(f.why, "missing"));
    fixture_remove(&f);
}

static void test_second_process_is_refused(void **state)
{
    struct fixture f;
    char text[256] = "";
    int out, status, pid;

    (void)state;
    open_fresh(&f);
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
    open_fresh(&f);
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
        assert_false(fixture_open(&f, SIZE_MAX_BYTES));
        assert_non_null(strstr(f.why, "damaged: entry 1"));
        flip(path, at + i, bit);
    }
    assert_true(fixture_open(&f, SIZE_MAX_BYTES));
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
    open_fresh(&f);
    for (uint64_t i = 1; i <= 9; i++)
        fixture_commit(&f, i, sizeof bytes);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    fixture_fill(bytes, sizeof bytes, 6);
    flip(path, find_in_file(path, bytes, sizeof bytes) + 4321, 5);
    assert_int_equal(log_read(f.log, 1, SIZE_MAX, count_entry, &seen), 0);
    assert_int_equal(seen, 5);
    assert_true(f.failed);
    assert_non_null(strstr(f.why, "entry 6: checksum"));
    fixture_remove(&f);
}

/* ---- full ---- */

static bool stalled_or_quiet(struct fixture *f)
{
    return f->stalled || fixture_quiet(f);
}

static bool has_recovered(struct fixture *f)
{
    return f->failed || (!f->stalled && log_pending_bytes(f->log) == 0);
}

static void append_until_stalled(struct fixture *f, int entries_max)
{
    for (int i = 0; !f->stalled && i < entries_max; i++) {
        append_as_indexed(f);
        assert_true(fixture_wait(f, stalled_or_quiet));
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
    assert_int_equal(log_open_index(f.log), durable + 2); /* the stalled batch keeps its index, the next one gathers */
    append_as_indexed(&f);
    assert_false(log_flush(f.log));
    log_truncate(f.log, durable / 2);
    assert_true(fixture_wait(&f, has_recovered));
    assert_int_equal(f.recoveries, 1);
    assert_int_equal(f.committed, durable + 2);
    check_all(&f, durable / 2);
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

/* A disk without room for another block of the file: the kernel refuses to let it grow. Truncation works all the same. */
static void test_disk_full(void **state)
{
    struct fixture f;
    uint64_t durable, bytes;
    struct stat st;
    char path[256];

    (void)state;
    open_fresh(&f);
    limit_file_size(12 * MIB);
    append_until_stalled(&f, 10000);
    durable = f.committed;
    assert_true(durable > 50);
    fixture_turns(&f, 2 * LOG_RETRY_MS);
    assert_int_equal(f.committed, durable);
    check_all(&f, 1);
    limit_file_size(RLIM_INFINITY);
    assert_true(fixture_wait(&f, has_recovered)); /* by its own retries */
    assert_int_equal(f.committed, durable + 1);
    commit_as_indexed(&f, 10);
    check_all(&f, 1);
    fixture_close(&f);
    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f.dir);
    assert_int_equal(stat(path, &st), 0);
    limit_file_size((rlim_t)st.st_size); /* the same again, now with the way out by truncation, several times */
    if (!fixture_open(&f, SIZE_MAX_BYTES))
        fail_msg("%s", f.why);
    for (int round = 0; round < 5; round++) {
        append_until_stalled(&f, 10000);
        durable = f.committed;
        bytes = log_bytes(f.log);
        f.arg = &bytes;
        log_truncate(f.log, durable - 20);
        assert_true(fixture_wait(&f, has_shrunk));
        assert_true(fixture_wait(&f, has_recovered));
        assert_false(f.failed);
        assert_int_equal(f.committed, durable + 1);
        check_all(&f, durable - 20);
    }
    limit_file_size(RLIM_INFINITY);
    reopen(&f);
    check_all(&f, durable - 20);
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
};

/* Every call of a commit fails once; a final error is told, an entry is never reported that is not there afterwards. */
static void disk_error(const struct disk_error *e)
{
    struct fixture f;

    for (int nth = 1;; nth++) {
        uint64_t reported;

        open_fresh(&f);
        commit_as_indexed(&f, 5);
        fault_arm(e->kinds, nth, e->error, false);
        append_as_indexed(&f);
        assert_true(fixture_wait(&f, e->final ? stalled_or_quiet : has_recovered));
        if (fault.hits == 0) {
            fault_arm(0, 0, 0, false);
            assert_int_equal(f.committed, 6);
            fixture_remove(&f);
            assert_true(nth > 1);
            return;
        }
        fault_arm(0, 0, 0, false);
        reported = f.committed;
        assert_int_equal(f.failed, e->final);
        assert_int_equal(reported, e->final ? 5 : 6);
        assert_false(e->final && log_flush(f.log));
        reopen(&f);
        assert_true(log_committed(f.log) >= reported && log_committed(f.log) <= 6);
        check_all(&f, 1);
        fixture_remove(&f);
    }
}

static void test_disk_errors(void **state)
{
    static const struct disk_error errors[] = {
        {FAULT_WRITE, EIO, true},    {FAULT_SYNC, EIO, true},    {FAULT_META, EIO, true},
        {FAULT_WRITE, ENOSPC, false}, {FAULT_SYNC, EDQUOT, false}, {FAULT_WRITE, EROFS, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        disk_error(&errors[i]);
}

/* A failed meta write poisons LMDB: even if it was for want of space, the retry is final. */
static void test_meta_write_without_space(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    commit_as_indexed(&f, 5);
    fault_arm(FAULT_META, 1, ENOSPC, true);
    append_as_indexed(&f);
    assert_true(fixture_wait(&f, has_failed));
    fault_arm(0, 0, 0, false);
    assert_int_equal(f.committed, 5);
    reopen(&f);
    check_all(&f, 1);
    fixture_remove(&f);
}

static void test_allocation_error_is_final(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
    fault_arm(FAULT_ALLOCATE, 1, EIO, true);
    fixture_append(&f, 1, 10 * (size_t)MIB, true);
    assert_true(fixture_wait(&f, has_failed));
    fault_arm(0, 0, 0, false);
    assert_int_equal(f.committed, 0);
    fixture_remove(&f);
}

static void test_no_memory_for_the_batch(void **state)
{
    struct fixture f;

    (void)state;
    open_fresh(&f);
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
    if (!fixture_open(&f, SIZE_MAX_BYTES))
        return 4;
    if (nth > 0)
        fault_arm(kinds, nth, 0, false);
    for (int i = 0; rounds == 0 || i < rounds; i++) {
        append_as_indexed(&f);
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

static uint64_t last_number(int fd)
{
    static char text[MIB];
    size_t n = 0;
    ssize_t got;
    char *end;

    while ((got = read(fd, text + n, sizeof text - n - 1)) > 0)
        n += (size_t)got;
    (void)close(fd);
    text[n] = '\0';
    end = strrchr(text, '\n');
    if (end == NULL)
        return 0;
    *end = '\0';
    end = strrchr(text, '\n');
    return strtoull(end == NULL ? text : end + 1, NULL, 10);
}

static void check_after_crash(struct fixture *f, uint64_t reported)
{
    if (!fixture_open(f, SIZE_MAX_BYTES))
        fail_msg("%s", f->why);
    assert_true(log_committed(f->log) >= reported);
    check_all(f, log_first_index(f->log));
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
        int out, status, pid = fixture_child("append", f.dir, "0", "0", &out);

        (void)usleep(5000 + (unsigned)rand_r(&seed) % 60000);
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
    enum { KINDS = FAULT_WRITE | FAULT_META | FAULT_SYNC | FAULT_ALLOCATE };
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
        pid = fixture_child("append", f.dir, kinds, count, &out);
        reported = last_number(out);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        check_after_crash(&f, reported);
        fixture_remove(&f);
    }
    assert_true(nth > 30);
}

static int child_open(const char *dir)
{
    struct fixture f = {0};

    (void)snprintf(f.dir, sizeof f.dir, "%s", dir);
    if (!fixture_open(&f, SIZE_MAX_BYTES)) {
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
        cmocka_unit_test(test_size_max),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_disk_errors),
        cmocka_unit_test(test_meta_write_without_space),
        cmocka_unit_test(test_allocation_error_is_final),
        cmocka_unit_test(test_no_memory_for_the_batch),
        cmocka_unit_test(test_kill_9_while_appending),
        cmocka_unit_test(test_crash_at_each_call),
    };

    (void)signal(SIGXFSZ, SIG_IGN);
    if (argc == 5 && strcmp(argv[1], "append") == 0)
        return child_append(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[4]) > 0 ? 12 : 0);
    if (argc == 5 && strcmp(argv[1], "open") == 0)
        return child_open(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

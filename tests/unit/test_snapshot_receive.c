/* Snapshots of other members: received in pieces, interrupted, wrong, put in place alone or with a log; and killed at
 * any moment of that. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/log_fault.h"
#include "tests/unit/snapshot_side.h"

enum { MIB = 1024 * 1024, SMALL = 50000 };

static void on_finished(void *arg, bool ok)
{
    struct side *d = arg;

    d->done = true;
    d->ok = ok;
}

static void on_checked(void *arg, bool ok, struct store_snapshot record, const char *why)
{
    struct side *d = arg;

    d->record = record;
    if (!ok)
        (void)snprintf(d->why, sizeof d->why, "%s", why);
    on_finished(arg, ok);
}

/* Of snapshot n: bytes made from n. */
static char *content_of(uint64_t n, size_t bytes)
{
    char *out = malloc(bytes + 8);
    uint64_t x = n + 1;

    assert_non_null(out);
    for (size_t i = 0; i < bytes; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        memcpy(out + i, &x, 8);
    }
    return out;
}

/* Snapshot n of this side's own Valkey. */
static bool take(struct side *d, uint64_t n, size_t bytes)
{
    struct snapshot_mark mark = {.index = n, .log_from = n, .next_seq = n, .mode = -1};
    struct snapshot_writer *w = snapshots_begin(d->s, d->why, sizeof d->why);
    char *content = content_of(n, bytes);

    assert_non_null(w);
    assert_true(snapshot_write(w, content, bytes));
    snapshot_finish(w, &mark, on_finished, d);
    side_wait(d);
    free(content);
    return d->ok;
}

/* What another member would send of its snapshot n. */
static void source_of(uint64_t n, size_t bytes, struct snapshot_source *out)
{
    struct side d;

    side_new(&d);
    assert_true(take(&d, n, bytes));
    assert_true(snapshots_open_newest(d.s, out));
    side_remove(&d); /* the descriptor is still good */
}

static bool send_piece(const struct snapshot_source *from, uint64_t at, size_t n, struct snapshot_receiver *to)
{
    char *piece = malloc(n);
    bool ok;

    assert_non_null(piece);
    assert_int_equal(pread(from->fd, piece, n, (off_t)at), n);
    ok = snapshot_receive_write(to, piece, n);
    free(piece);
    return ok;
}

/* From where it stopped to `to`, in pieces. */
static void send_until(const struct snapshot_source *from, uint64_t to, struct snapshot_receiver *r)
{
    uint64_t at = from->mark.rdb_bytes - snapshot_receive_missing(r);

    while (at < to) {
        size_t n = to - at < 7777 ? (size_t)(to - at) : 7777;

        assert_true(send_piece(from, at, n, r));
        at += n;
    }
}

static struct snapshot_receiver *receive(struct side *d, const struct snapshot_source *from, uint64_t expected)
{
    uint64_t here = UINT64_MAX;
    struct snapshot_receiver *r =
        snapshots_receive(d->s, from->sidecar, from->sidecar_bytes, &here, d->why, sizeof d->why);

    if (r == NULL)
        fail_msg("%s", d->why);
    assert_int_equal(here, expected);
    return r;
}

static void expect_newest(struct side *d, uint64_t n, size_t bytes)
{
    char path[512], *expected = content_of(n, bytes), *got = malloc(bytes + 1);
    struct snapshot_mark mark;
    FILE *file;

    assert_non_null(got);
    if (!snapshots_newest(d->s, &mark, path, sizeof path))
        fail_msg("%s", d->why);
    assert_true(mark.index == n && mark.rdb_bytes == bytes);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(got, 1, bytes + 1, file), bytes);
    assert_memory_equal(got, expected, bytes);
    (void)fclose(file);
    free(expected);
    free(got);
}

static int files(const struct side *d)
{
    char path[256];
    struct dirent *e;
    int n = 0;
    DIR *dir;

    (void)snprintf(path, sizeof path, "%s/snapshots", d->f.dir);
    dir = opendir(path);
    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL)
        n += e->d_name[0] != '.';
    (void)closedir(dir);
    return n;
}

static bool check(struct side *d, struct snapshot_receiver *r)
{
    snapshot_receive_check(r, on_checked, d);
    side_wait(d);
    return d->ok;
}

/* ---- tests ---- */

static void test_sidecar_tells_all(void **state)
{
    struct snapshot_source from;
    struct snapshot_mark mark;
    struct hash128 hash;
    char *content = content_of(5, SMALL);

    (void)state;
    source_of(5, SMALL, &from);
    assert_true(snapshot_sidecar_parse(from.sidecar, from.sidecar_bytes, &mark, &hash));
    assert_true(mark.index == 5 && mark.rdb_bytes == SMALL && mark.mode == -1);
    assert_true(hash.low == hash128(content, SMALL, 0).low && hash.high == hash128(content, SMALL, 0).high);
    assert_true(hash.low == from.rdb_hash.low && hash.high == from.rdb_hash.high);
    for (size_t n = 0; n < from.sidecar_bytes; n++)
        assert_false(snapshot_sidecar_parse(from.sidecar, n, &mark, &hash));
    for (size_t i = 0; i < from.sidecar_bytes; i++) {
        from.sidecar[i] = (char)(from.sidecar[i] ^ 1);
        assert_false(snapshot_sidecar_parse(from.sidecar, from.sidecar_bytes, &mark, &hash));
        from.sidecar[i] = (char)(from.sidecar[i] ^ 1);
    }
    (void)close(from.fd);
    free(content);
}

static void test_received_alone(void **state)
{
    static const size_t sizes[] = {1, SMALL, 20 * (size_t)MIB};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int before = 0; before < 2; before++) {
            struct snapshot_source from;
            struct snapshot_receiver *r;
            struct side d;

            source_of(5, sizes[i], &from);
            side_new(&d);
            assert_true(before == 0 || take(&d, 1, SMALL));
            r = receive(&d, &from, 0);
            assert_int_equal(snapshot_receive_mark(r)->index, 5);
            send_until(&from, sizes[i], r);
            assert_false(send_piece(&from, 0, 1, r) && snapshot_receive_missing(r) == 0);
            snapshot_receive_end(r, true); /* more than announced ends it; what was right stays */
            r = receive(&d, &from, sizes[i]);
            assert_true(check(&d, r));
            snapshot_receive_finish(r, on_finished, &d);
            side_wait(&d);
            assert_true(d.ok);
            expect_newest(&d, 5, sizes[i]);
            assert_int_equal(files(&d), 2);
            side_reopen(&d);
            expect_newest(&d, 5, sizes[i]);
            assert_true(take(&d, 6, SMALL));
            side_remove(&d);
            (void)close(from.fd);
        }
}

static void test_goes_on_where_it_stopped(void **state)
{
    struct snapshot_source from, other;
    struct snapshot_receiver *r;
    struct side d;

    (void)state;
    source_of(5, SMALL, &from);
    source_of(6, SMALL, &other);
    side_new(&d);
    assert_true(take(&d, 1, SMALL));
    r = receive(&d, &from, 0);
    send_until(&from, 20000, r);
    snapshot_receive_end(r, true);
    r = receive(&d, &from, 20000);
    send_until(&from, 30000, r);
    side_reopen(&d); /* the process ends in the middle of it */
    r = receive(&d, &from, 30000);
    assert_true(take(&d, 2, SMALL)); /* our own one does not disturb it */
    send_until(&from, 40000, r);
    snapshot_receive_end(r, true);
    r = receive(&d, &other, 0); /* of another one: what was here is not needed any more */
    assert_int_equal(files(&d), 3);
    snapshot_receive_end(r, false);
    assert_int_equal(files(&d), 2);
    r = receive(&d, &from, 0);
    assert_null(snapshots_receive(d.s, from.sidecar, from.sidecar_bytes, &(uint64_t){0}, d.why, sizeof d.why));
    send_until(&from, SMALL, r);
    assert_true(check(&d, r));
    snapshot_receive_finish(r, on_finished, &d);
    side_wait(&d);
    expect_newest(&d, 5, SMALL);
    assert_null(snapshots_receive(d.s, "nonsense", 8, &(uint64_t){0}, d.why, sizeof d.why));
    assert_non_null(strstr(d.why, "malformed"));
    side_remove(&d);
    (void)close(from.fd);
    (void)close(other.fd);
}

static void test_wrong_bytes_are_found(void **state)
{
    struct snapshot_source from, other;
    struct snapshot_receiver *r;
    struct side d;

    (void)state;
    source_of(5, SMALL, &from);
    source_of(6, SMALL, &other);
    side_new(&d);
    assert_true(take(&d, 1, SMALL));
    r = receive(&d, &from, 0);
    send_until(&from, 20000, r);
    send_until(&other, SMALL, r);
    assert_false(check(&d, r));
    assert_non_null(strstr(d.why, "does not agree"));
    snapshot_receive_end(r, true);
    assert_int_equal(files(&d), 2);
    assert_false(d.broken);
    expect_newest(&d, 1, SMALL);
    r = receive(&d, &from, 0);
    snapshot_receive_end(r, false);
    side_remove(&d);
    (void)close(from.fd);
    (void)close(other.fd);
}

static void install(struct side *d, struct store_snapshot record)
{
    struct store_base base = {.index = 500, .term = 3};
    struct store_install i = {.first = 501, .before_term = 3, .base = &base, .snapshot = record};

    if (store_install(d->f.s, &i, d->why) != STORE_OK)
        fail_msg("%s", d->why);
}

/* With a log; and a snapshot of our own that was being written is dropped, for the log begins behind it now. */
static void test_installed(void **state)
{
    struct snapshot_mark mark = {.index = 2};
    struct snapshot_source from;
    struct snapshot_receiver *r;
    struct snapshot_writer *own;
    struct side d;

    (void)state;
    source_of(5, SMALL, &from);
    side_new(&d);
    assert_true(take(&d, 1, SMALL));
    own = snapshots_begin(d.s, d.why, sizeof d.why);
    assert_true(snapshot_write(own, "own", 3));
    r = receive(&d, &from, 0);
    send_until(&from, SMALL, r);
    assert_true(check(&d, r));
    expect_newest(&d, 1, SMALL); /* not yet */
    install(&d, d.record);
    snapshot_receive_installed(r);
    expect_newest(&d, 5, SMALL);
    snapshot_finish(own, &mark, on_finished, &d);
    side_wait(&d);
    assert_false(d.ok || d.broken);
    expect_newest(&d, 5, SMALL);
    assert_int_equal(files(&d), 2);
    side_reopen(&d);
    expect_newest(&d, 5, SMALL);
    assert_int_equal(store_state(d.f.s).first, 501);
    assert_true(take(&d, 6, SMALL));
    side_remove(&d);
    (void)close(from.fd);
}

/* From the check on, no snapshot of our own begins, until the receiver has ended. */
static void test_nothing_overtakes(void **state)
{
    struct snapshot_source from;
    struct snapshot_receiver *r;
    struct side d;

    (void)state;
    source_of(5, SMALL, &from);
    side_new(&d);
    r = receive(&d, &from, 0);
    send_until(&from, SMALL, r);
    assert_true(check(&d, r));
    assert_null(snapshots_begin(d.s, d.why, sizeof d.why));
    snapshot_receive_end(r, false);
    assert_int_equal(files(&d), 0);
    assert_true(take(&d, 6, SMALL));
    assert_true(snapshots_open_newest(d.s, &from) && from.mark.index == 6);
    side_remove(&d);
    (void)close(from.fd);
}

static void test_disk_trouble(void **state)
{
    (void)state;
    for (int nth = 1; nth <= 5; nth++) { /* two syncs of the RDB and its directory, a rename ... */
        struct snapshot_source from;
        struct snapshot_receiver *r;
        struct side d;

        source_of(5, SMALL, &from);
        side_new(&d);
        assert_true(take(&d, 1, SMALL));
        r = receive(&d, &from, 0);
        send_until(&from, SMALL, r);
        fault_arm(FAULT_SYNC | FAULT_RENAME, nth, EIO, false);
        assert_false(check(&d, r));
        fault_arm(0, 0, 0, false);
        snapshot_receive_end(r, nth % 2 == 0);
        assert_false(d.broken);
        expect_newest(&d, 1, SMALL);
        side_reopen(&d);
        expect_newest(&d, 1, SMALL);
        side_remove(&d);
        (void)close(from.fd);
    }
}

/* ---- killed ---- */

_Noreturn static void child(struct side *d, const struct snapshot_source *from, int nth, bool with_log)
{
    uint64_t here = 0;
    struct snapshot_receiver *r;

    side_open(d);
    fault_arm(FAULT_WRITE | FAULT_META | FAULT_SYNC | FAULT_RENAME | FAULT_UNLINK, nth, 0, false);
    r = snapshots_receive(d->s, from->sidecar, from->sidecar_bytes, &here, d->why, sizeof d->why);
    send_until(from, SMALL, r);
    if (!check(d, r))
        _exit(5);
    if (with_log) {
        install(d, d->record);
        snapshot_receive_installed(r);
    } else {
        snapshot_receive_finish(r, on_finished, d);
        side_wait(d);
    }
    side_close(d);
    _exit(0);
}

static void test_killed_at_each_call(void **state)
{
    int old = 0, new = 0;

    (void)state;
    for (int with_log = 0; with_log < 2; with_log++)
        for (int nth = 1, status = 1; status != 0; nth++) {
            struct snapshot_source from;
            struct side d;
            struct snapshot_mark mark;
            char path[512];
            bool installed;
            int pid;

            source_of(5, SMALL, &from);
            side_new(&d);
            assert_true(take(&d, 1, SMALL));
            side_close(&d);
            pid = fork();
            assert_true(pid >= 0);
            if (pid == 0)
                child(&d, &from, nth, with_log == 1);
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
            side_open(&d);
            installed = store_state(d.f.s).first == 501;
            assert_true(snapshots_newest(d.s, &mark, path, sizeof path));
            assert_true(mark.index == 1 || mark.index == 5);
            assert_true(with_log == 0 || installed == (mark.index == 5));
            expect_newest(&d, mark.index, SMALL);
            assert_true(files(&d) == 2 || (files(&d) == 3 && mark.index == 1)); /* and a transfer to go on with */
            old += mark.index == 1;
            new += mark.index == 5;
            assert_true(take(&d, 6, SMALL));
            side_remove(&d);
            (void)close(from.fd);
        }
    assert_true(old >= 12 && new >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sidecar_tells_all),
        cmocka_unit_test(test_received_alone),
        cmocka_unit_test(test_goes_on_where_it_stopped),
        cmocka_unit_test(test_wrong_bytes_are_found),
        cmocka_unit_test(test_installed),
        cmocka_unit_test(test_nothing_overtakes),
        cmocka_unit_test(test_disk_trouble),
        cmocka_unit_test(test_killed_at_each_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

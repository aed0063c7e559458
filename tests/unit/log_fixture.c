#include "tests/unit/log_fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"

enum { WAIT_MS_MAX = 60000 };

static void on_committed(void *arg, uint64_t index)
{
    struct fixture *f = arg;

    assert_true(index == f->committed + 1);
    f->committed = index;
}

static void on_stalled(void *arg, bool stalled, const char *why)
{
    struct fixture *f = arg;

    assert_true(stalled != f->stalled);
    f->stalled = stalled;
    f->stalls += stalled;
    f->recoveries += !stalled;
    if (stalled)
        (void)snprintf(f->why, sizeof f->why, "%s", why);
}

static void on_failed(void *arg, const char *why)
{
    struct fixture *f = arg;

    assert_false(f->failed);
    f->failed = true;
    (void)snprintf(f->why, sizeof f->why, "%s", why);
}

static const struct log_events events = {.committed = on_committed, .stalled = on_stalled, .failed = on_failed};

static bool on_turn(void *arg)
{
    struct fixture *f = arg;
    bool did = f->log != NULL && log_flush(f->log);

    if (f->timed_out || (f->until != NULL && f->until(f)))
        loop_stop(f->loop);
    return did;
}

static void on_timeout(void *arg)
{
    ((struct fixture *)arg)->timed_out = true;
}

void fixture_dir(struct fixture *f)
{
    const char *tmp = getenv("TMPDIR");

    *f = (struct fixture){0};
    (void)snprintf(f->dir, sizeof f->dir, "%s/holdfast-test-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->dir));
}

bool fixture_open_as(struct fixture *f, uint64_t size_max, const char *node)
{
    struct log_settings settings = {.dir = f->dir, .size_max_bytes = size_max, .node = node};
    static const struct diag quiet = {.level = DIAG_NOTHING};

    f->loop = loop_new();
    loop_add_hook(f->loop, on_turn, f);
    f->stalled = f->failed = f->timed_out = false;
    f->stalls = f->recoveries = 0;
    f->log = log_open(f->loop, &quiet, &settings, &events, f, f->why, sizeof f->why);
    if (f->log == NULL) {
        loop_free(f->loop);
        f->loop = NULL;
        return false;
    }
    f->committed = log_committed(f->log);
    return true;
}

bool fixture_open(struct fixture *f, uint64_t size_max)
{
    return fixture_open_as(f, size_max, "node-1");
}

void fixture_close(struct fixture *f)
{
    if (f->loop == NULL)
        return;
    log_close(f->log);
    loop_free(f->loop);
    f->log = NULL;
    f->loop = NULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

void fixture_remove(struct fixture *f)
{
    fixture_close(f);
    assert_int_equal(nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static bool turn(struct fixture *f, bool (*until)(struct fixture *f), uint64_t ms)
{
    struct loop_timer *t = loop_timer_new(f->loop, on_timeout, f);
    bool ok;

    f->timed_out = false;
    f->until = until;
    loop_timer_once(t, ms);
    loop_run(f->loop);
    ok = !f->timed_out;
    f->until = NULL;
    f->timed_out = false;
    loop_timer_free(t);
    return ok;
}

bool fixture_wait(struct fixture *f, bool (*until)(struct fixture *f))
{
    return turn(f, until, WAIT_MS_MAX);
}

void fixture_turns(struct fixture *f, unsigned ms)
{
    (void)turn(f, NULL, ms);
}

void fixture_fill(char *to, size_t n, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        to[i] = (char)(uint8_t)(x >> (i % 8 * 8));
    }
}

void fixture_append(struct fixture *f, uint64_t seed, size_t n, bool urgent)
{
    char *bytes = malloc(n + 1);

    assert_non_null(bytes);
    fixture_fill(bytes, n, seed);
    frame_intent(log_batch(f->log), seed, 0, bytes, n);
    log_touch(f->log, urgent);
    free(bytes);
}

bool fixture_matches(const struct entry_view *e, uint64_t seed, size_t n)
{
    struct cursor frames = e->frames;
    struct frame_view v;
    char *bytes = malloc(n + 1);
    bool ok;

    assert_non_null(bytes);
    fixture_fill(bytes, n, seed);
    ok = frame_next(&frames, &v) && v.kind == FRAME_INTENT && v.seq == seed && v.resp_bytes == n &&
         memcmp(v.resp, bytes, n) == 0 && !frame_next(&frames, &v) && !frames.bad;
    free(bytes);
    return ok;
}

bool fixture_quiet(struct fixture *f)
{
    return f->failed || log_pending_bytes(f->log) == 0;
}

void fixture_commit(struct fixture *f, uint64_t seed, size_t n)
{
    fixture_append(f, seed, n, true);
    assert_true(fixture_wait(f, fixture_quiet));
    assert_false(f->failed);
}

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

/* All entries from `from` on are there and are what fixture_append_next() wrote. Entry 1 is the group's members. */
void fixture_check(struct fixture *f, uint64_t from)
{
    uint64_t next = from > 1 ? from : 2;
    struct reading r = {next, true};

    while (next <= log_committed(f->log)) {
        uint64_t got = log_read(f->log, next, 10000, check_entry, &r);

        assert_true(got > next);
        next = got;
    }
    assert_true(r.ok);
    assert_int_equal(r.next, log_committed(f->log) + 1);
}

void fixture_append_next(struct fixture *f)
{
    uint64_t index = log_open_index(f->log);

    fixture_append(f, index, size_of(index), true);
}

void fixture_commit_next(struct fixture *f, int n)
{
    for (int i = 0; i < n; i++) {
        fixture_append_next(f);
        assert_true(fixture_wait(f, fixture_quiet));
        assert_false(f->failed);
    }
}

void fixture_open_fresh(struct fixture *f)
{
    fixture_dir(f);
    assert_true(fixture_open(f, FIXTURE_SIZE_MAX_BYTES));
}

void fixture_reopen(struct fixture *f)
{
    fixture_close(f);
    if (!fixture_open(f, FIXTURE_SIZE_MAX_BYTES))
        fail_msg("%s", f->why);
}

bool fixture_stalled_or_quiet(struct fixture *f)
{
    return f->stalled || fixture_quiet(f);
}

bool fixture_recovered(struct fixture *f)
{
    return f->failed || (!f->stalled && log_pending_bytes(f->log) == 0);
}

bool fixture_shrunk(struct fixture *f)
{
    return f->failed || log_bytes(f->log) < *(uint64_t *)f->arg;
}

int fixture_child(const char *mode, const char *a, const char *b, const char *c, int *out)
{
    int ends[2], pid;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(ends[1], 1);
        (void)execl("/proc/self/exe", "child", mode, a, b, c, (char *)NULL);
        _exit(127);
    }
    (void)close(ends[1]);
    *out = ends[0];
    return pid;
}

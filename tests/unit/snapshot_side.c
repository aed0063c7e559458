#include "tests/unit/snapshot_side.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/writer.h"

enum { WAIT_MS_MAX = 60000 };

static const struct diag quiet = {.level = DIAG_NOTHING};

static void on_broken(void *arg, const char *why)
{
    struct side *d = arg;

    d->broken = true;
    (void)snprintf(d->why, sizeof d->why, "%s", why);
}

void side_open(struct side *d)
{
    store_fixture_open(&d->f);
    d->loop = loop_new();
    d->writer = writer_new(d->loop);
    assert_non_null(d->writer);
    d->s = snapshots_open(d->f.dir, &quiet, d->f.s, d->writer, on_broken, d, d->why, sizeof d->why);
    assert_non_null(d->s);
}

void side_close(struct side *d)
{
    writer_free(d->writer);
    snapshots_close(d->s);
    loop_free(d->loop);
    store_fixture_close(&d->f);
}

void side_new(struct side *d)
{
    memset(d, 0, sizeof *d);
    store_fixture_new(&d->f);
    side_open(d);
}

void side_remove(struct side *d)
{
    side_close(d);
    store_fixture_remove(&d->f);
}

void side_reopen(struct side *d)
{
    side_close(d);
    side_open(d);
}

static bool stop_when_done(void *arg)
{
    struct side *d = arg;

    if (d->done)
        loop_stop(d->loop);
    return false;
}

static void on_timeout(void *arg)
{
    loop_stop(((struct side *)arg)->loop);
}

void side_wait(struct side *d)
{
    struct loop_timer *t = loop_timer_new(d->loop, on_timeout, d);

    loop_timer_once(t, WAIT_MS_MAX);
    loop_add_hook(d->loop, stop_when_done, d);
    if (!d->done)
        loop_run(d->loop);
    loop_timer_free(t);
    assert_true(d->done);
    d->done = false;
}

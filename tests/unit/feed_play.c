#include "tests/unit/feed_play.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"

static const struct diag quiet = {.level = DIAG_NOTHING};

/* ---- feed ---- */

static void on_began(void *arg, bool is_partial)
{
    struct play *p = arg;

    p->began_partial += is_partial;
    p->began_full += !is_partial;
}

static void on_left(void *arg, const char *why)
{
    (void)why;
    ((struct play *)arg)->lefts++;
}

static void on_acked(void *arg, uint64_t index)
{
    struct play *p = arg;

    assert_true(index > p->acked || p->began_full + p->began_partial > 1);
    p->acked = index;
}

static void on_complete(void *arg)
{
    ((struct play *)arg)->complete = true;
}

static void on_closed(void *arg, const char *why)
{
    struct play *p = arg;

    p->closed = true;
    (void)snprintf(p->why, sizeof p->why, "%s", why);
}

static const struct feed_events feed_callbacks = {
    .began = on_began, .left = on_left, .acked = on_acked, .complete = on_complete, .closed = on_closed};

void open_feed(struct play *p, const struct feed_proof *proof, const char *run)
{
    struct feed_settings settings = {.ip = "", .run_id = run, .proof = proof};
    char why[128] = "";

    p->checkpoints = settings.checkpoints = checkpoints_new(p->w->f.log);
    p->feed = feed_new(p->w->f.loop, &quiet, p->w->f.log, &settings, &feed_callbacks, p, why, sizeof why);
    assert_non_null(p->feed);
    p->acked = 0;
}

void hang_up(struct play *p)
{
    stream_close(p->s);
    p->s = NULL;
    buf_clear(&p->in);
}

void close_feed(struct play *p)
{
    hang_up(p);
    feed_close(p->feed);
    fixture_turns(&p->w->f, 1); /* a note on its way */
    while (checkpoints_busy(p->checkpoints))
        fixture_turns(&p->w->f, 1);
    checkpoints_free(p->checkpoints);
    p->feed = NULL;
}

struct play *new_play(uint64_t seed, size_t entries)
{
    struct play *p = calloc(1, sizeof *p);

    assert_non_null(p);
    p->w = new_world();
    p->w->f.arg = p;
    p->l.x = seed;
    lead_entries(p->w, &p->l, entries);
    open_feed(p, NULL, RUN_ID);
    return p;
}

void end_play(struct play *p)
{
    close_feed(p);
    buf_free(&p->in);
    fixture_remove(&p->w->f);
    real_valkey_remove(&p->w->v);
    real_valkey_remove(&p->w->twin);
    free(p->w);
    free(p);
}

/* ---- the replica ---- */

static void on_data(void *arg, const char *bytes, size_t n)
{
    buf_append(&((struct play *)arg)->in, bytes, n);
}

static void on_gone(void *arg, const char *why)
{
    (void)why;
    ((struct play *)arg)->gone = true;
}

static const struct stream_events replica_callbacks = {.data = on_data, .closed = on_gone};

void say(struct play *p, const char *text)
{
    stream_write(p->s, text, strlen(text));
}

void dial(struct play *p)
{
    char address[64], why[64] = "";

    hang_up(p);
    p->gone = false;
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", feed_port(p->feed));
    p->s = stream_connect(p->w->f.loop, address, &replica_callbacks, p, why, sizeof why);
    assert_non_null(p->s);
}

static bool until_bytes(struct fixture *f)
{
    struct play *p = f->arg;

    return p->gone || p->in.len >= p->want;
}

static bool until_line(struct fixture *f)
{
    struct play *p = f->arg;

    while (p->in.len > 0 && buf_head(&p->in)[0] == '\n')
        buf_consume(&p->in, 1);
    return p->gone || (p->in.len > 0 && memmem(buf_head(&p->in), p->in.len, "\r\n", 2) != NULL);
}

void line(struct play *p, char *out, size_t size)
{
    const char *end;

    assert_true(fixture_wait(&p->w->f, until_line));
    out[0] = '\0';
    if (p->gone)
        return;
    end = memmem(buf_head(&p->in), p->in.len, "\r\n", 2);
    (void)snprintf(out, size, "%.*s", (int)(end - buf_head(&p->in)), buf_head(&p->in));
    buf_consume(&p->in, (size_t)(end - buf_head(&p->in)) + 2);
}

void wait_bytes(struct play *p, size_t n)
{
    p->want = n;
    assert_true(fixture_wait(&p->w->f, until_bytes));
    assert_false(p->gone);
}

void ack(struct play *p, uint64_t offset)
{
    char text[80];

    (void)snprintf(text, sizeof text, "REPLCONF ACK %llu\r\n", (unsigned long long)offset);
    say(p, text);
}

bool sync_from(struct play *p, const char *id, int64_t offset)
{
    char text[256];
    unsigned long long at;
    size_t rdb;

    dial(p);
    say(p, "PING\r\n");
    line(p, text, sizeof text);
    assert_string_equal(text, "+PONG");
    (void)snprintf(text, sizeof text, "AUTH %s\r\nREPLCONF capa eof capa psync2\r\n", feed_password(p->feed));
    say(p, text);
    line(p, text, sizeof text);
    assert_string_equal(text, "+OK");
    line(p, text, sizeof text);
    (void)snprintf(text, sizeof text, "PSYNC %s %lld\r\n", id, (long long)offset);
    say(p, text);
    line(p, text, sizeof text);
    if (sscanf(text, "+CONTINUE %40s", p->replid) == 1) {
        p->offset = (uint64_t)offset - 1;
        return true;
    }
    assert_int_equal(sscanf(text, "+FULLRESYNC %40s %llu", p->replid, &at), 2);
    line(p, text, sizeof text);
    assert_int_equal(sscanf(text, "$%zu", &rdb), 1);
    wait_bytes(p, rdb);
    buf_consume(&p->in, rdb);
    p->offset = at;
    ack(p, at);
    return false;
}

bool until_getack(struct fixture *f)
{
    struct play *p = f->arg;
    size_t n = GETACK_BYTES;

    return p->gone || (p->in.len >= n && memcmp(buf_head(&p->in) + p->in.len - n, GETACK, n) == 0);
}

void take_all(struct play *p)
{
    assert_true(fixture_wait(&p->w->f, until_getack));
    assert_false(p->gone);
    ack(p, p->offset + p->in.len);
}

bool until_all_acked(struct fixture *f)
{
    return ((struct play *)f->arg)->acked >= log_committed(f->log);
}

#include "tests/unit/follow_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/argv.h"
#include "proxy/feed.h"
#include "proxy/replay.h"

static const struct diag quiet = {.level = DIAG_NOTHING};

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void words(struct buf *out, const char *text)
{
    char copy[256], *rest = NULL;
    const char *word[16];
    size_t n = 0;

    (void)snprintf(copy, sizeof copy, "%s", text);
    for (char *t = strtok_r(copy, " ", &rest); t != NULL; t = strtok_r(NULL, " ", &rest))
        word[n++] = t;
    argv_header(out, n);
    for (size_t i = 0; i < n; i++)
        argv_bulk(out, word[i], strlen(word[i]));
}

/* A write that never fails: each type has its own keys. */
static void random_write(struct leader *l, struct buf *out)
{
    static const char *const forms[] = {"SET s%d %s", "APPEND s%d %s", "INCR i%d",    "LPUSH l%d %s",
                                        "RPOP l%d",   "SADD t%d %s",   "SREM t%d %s", "HSET h%d f %s",
                                        "DEL s%d",    "ZADD z%d 1 %s"};
    char text[128], value[48];
    int key = (int)(next(&l->x) % 7);

    (void)snprintf(value, sizeof value, "v%d%.*s", (int)(next(&l->x) % 100), (int)(next(&l->x) % 30),
                   "..............................");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(text, sizeof text, forms[next(&l->x) % (sizeof forms / sizeof *forms)], key, value);
#pragma GCC diagnostic pop
    words(out, text);
}

static void add_raw(struct leader *l, struct buf *items)
{
    struct buf resp = {0};
    uint32_t db = (uint32_t)(next(&l->x) % 4), after = db;

    if (next(&l->x) % 4 == 0) { /* a unit, perhaps over two databases */
        words(&resp, "MULTI");
        random_write(l, &resp);
        if (next(&l->x) % 2) {
            after = (db + 1) % 4;
            words(&resp, after == 0 ? "SELECT 0" : after == 1 ? "SELECT 1" : after == 2 ? "SELECT 2" : "SELECT 3");
        }
        random_write(l, &resp);
        words(&resp, "EXEC");
    } else {
        random_write(l, &resp);
    }
    item_raw(items, db, after, buf_head(&resp), resp.len);
    buf_free(&resp);
}

static void add_intent(struct world *w, struct leader *l)
{
    struct buf resp = {0};

    random_write(l, &resp);
    frame_intent(log_batch(w->f.log), ++l->seq, (uint32_t)(next(&l->x) % 4), buf_head(&resp), resp.len);
    l->pending[l->pending_count++] = l->seq;
    buf_free(&resp);
}

/* One that is pending, any, has taken effect. */
static void add_ref(struct leader *l, struct buf *items)
{
    size_t i = (size_t)(next(&l->x) % l->pending_count);

    item_ref(items, l->pending[i], 1);
    memmove(l->pending + i, l->pending + i + 1, (--l->pending_count - i) * sizeof *l->pending);
}

static void add_outcome(struct world *w, struct leader *l)
{
    struct buf items = {0};

    for (uint64_t n = next(&l->x) % 6; n > 0; n--) {
        if (l->pending_count > 0 && next(&l->x) % 2)
            add_ref(l, &items);
        else
            add_raw(l, &items);
    }
    if (l->pending_count > 0 && next(&l->x) % 8 == 0) { /* the oldest ones left no effect */
        size_t n = 1 + (size_t)(next(&l->x) % l->pending_count);

        item_resolved(&items, l->pending[n - 1]);
        memmove(l->pending, l->pending + n, (l->pending_count - n) * sizeof *l->pending);
        l->pending_count -= n;
    }
    frame_outcome(log_batch(w->f.log), l->offset += 100, &items);
    buf_free(&items);
}

static bool until_quiet(struct fixture *f)
{
    return log_pending_bytes(f->log) <= ENTRY_HEADER_BYTES;
}

/* As a new leader does: what is pending, the log says. */
static void read_pending(struct world *w, struct leader *l)
{
    struct snapshot_mark mark;
    char path[4096];
    struct replay *r = replay_new(w->f.log, snapshot_newest(w->f.log, &mark, path, sizeof path) ? &mark : NULL);
    const struct replay_facts *facts;

    while (replay_step(r, NULL, 1 << 20))
        continue;
    facts = replay_facts(r);
    assert_null(facts->damage);
    assert_true(facts->pending_count <= sizeof l->pending / sizeof *l->pending);
    l->pending_count = facts->pending_count;
    for (size_t i = 0; i < facts->pending_count; i++)
        l->pending[i] = facts->pending[i].seq;
    if (facts->next_seq > l->seq + 1)
        l->seq = facts->next_seq - 1;
    replay_free(r);
}

void lead_entries(struct world *w, struct leader *l, size_t entries)
{
    assert_true(fixture_wait(&w->f, until_quiet));
    read_pending(w, l);
    for (size_t i = 0; i < entries; i++) {
        uint64_t frames = 1 + next(&l->x) % 4;

        for (uint64_t n = 0; n < frames; n++) {
            if (next(&l->x) % 2 && l->pending_count < sizeof l->pending / sizeof *l->pending)
                add_intent(w, l);
            else
                add_outcome(w, l);
        }
        log_touch(w->f.log, true);
        if (next(&l->x) % 3 == 0)
            assert_true(fixture_wait(&w->f, until_quiet));
    }
    assert_true(fixture_wait(&w->f, until_quiet));
}

void lead_raw(struct world *w, const char *text)
{
    struct buf items = {0}, resp = {0};

    words(&resp, text);
    item_raw(&items, 0, 0, buf_head(&resp), resp.len);
    frame_outcome(log_batch(w->f.log), 1, &items);
    log_touch(w->f.log, true);
    buf_free(&items);
    buf_free(&resp);
    assert_true(fixture_wait(&w->f, until_quiet));
}

/* ---- what the log says ---- */

struct twin {
    bool complete;
    char why[256];
};

static void on_complete(void *arg)
{
    ((struct twin *)arg)->complete = true;
}

static void on_closed(void *arg, const char *why)
{
    struct twin *t = arg;

    (void)snprintf(t->why, sizeof t->why, "%s", why);
}

static bool until_complete(struct fixture *f)
{
    struct twin *t = f->arg;

    return t->complete || t->why[0] != '\0';
}

void replayed_digest(struct world *w, char *out)
{
    static const struct feed_events events = {.complete = on_complete, .closed = on_closed};
    struct feed_settings settings = {.ip = "", .run_id = ""};
    struct twin t = {0};
    char why[256] = "";
    struct feed *f = feed_new(w->f.loop, &quiet, w->f.log, &settings, &events, &t, why, sizeof why);

    assert_non_null(f);
    if (w->twin.pid == 0)
        real_valkey_start(&w->twin, NULL);
    feed_finish(f, log_committed(w->f.log));
    real_valkey_do(&w->twin, "CONFIG SET masterauth %s", feed_password(f));
    real_valkey_do(&w->twin, "REPLICAOF 127.0.0.1 %d", feed_port(f));
    w->f.arg = &t;
    assert_true(fixture_wait(&w->f, until_complete));
    if (!t.complete)
        fail_msg("replay: %s", t.why);
    real_valkey_do(&w->twin, "REPLICAOF NO ONE");
    feed_close(f);
    real_valkey_ask(&w->twin, out, 64, "DEBUG DIGEST");
}

void expect_replayed(struct world *w)
{
    char replayed[64];

    replayed_digest(w, replayed);
    expect_digest(w, replayed);
}

static bool until_adopted(struct fixture *f)
{
    return world_of(f)->snapshots > 0;
}

static void on_adopted(void *arg, bool ok)
{
    struct world *w = arg;

    assert_true(ok);
    w->snapshots++;
}

void adopt_in_vain(struct world *w)
{
    static const unsigned char rdb[] = {'R', 'E', 'D', 'I', 'S', '0', '0', '1', '1', 0xff, 0, 0, 0, 0, 0, 0, 0, 0};
    struct snapshot_mark mark = {
        .index = log_open_index(w->f.log), .log_from = log_open_index(w->f.log), .next_seq = 1, .mode = -1};
    char why[128];
    struct snapshot_writer *writer = snapshot_begin(w->f.log, why, sizeof why);

    assert_true(writer != NULL && snapshot_write(writer, rdb, sizeof rdb));
    snapshot_finish(writer, &mark, on_adopted, w);
    assert_true(fixture_wait(&w->f, until_adopted));
}

#include "tests/unit/node_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"

static const struct diag quiet = {.level = DIAG_NOTHING};

struct world *world_of(struct fixture *f)
{
    return (struct world *)((char *)f - offsetof(struct world, f));
}

/* ---- the core ---- */

static void on_attached(void *arg, struct valkey_identity *identity, const struct replay_facts *facts, bool bridged)
{
    struct world *w = arg;
    struct buf items = {0};

    assert_false(w->is_attached);
    assert_true(facts->attached);
    assert_string_equal(facts->run_id, identity->run_id);
    assert_true(identity->databases == 16 && identity->commands_bytes > 10000);
    assert_string_equal(identity->server, "valkey");
    (void)snprintf(w->run_id, sizeof w->run_id, "%s", identity->run_id);
    valkey_identity_free(identity);
    w->is_attached = true;
    w->attached++;
    w->bridged += bridged;
    w->pending = facts->pending_count;
    w->end_offset = facts->offset;
    w->places = 0;
    if (bridged && facts->pending_count > 0) {
        item_resolved(&items, facts->next_seq - 1);
        frame_outcome(log_batch(w->f.log), facts->offset, &items);
        log_touch(w->f.log, true);
        buf_free(&items);
    }
}

static void on_detached(void *arg, const char *why)
{
    struct world *w = arg;

    assert_true(w->is_attached);
    w->is_attached = false;
    w->detached++;
    (void)snprintf(w->why, sizeof w->why, "%s", why);
}

static void on_close_out(void *arg)
{
    struct world *w = arg;

    assert_false(w->is_attached);
    w->close_outs++;
}

static void append_effect(struct world *w, const struct effect *e)
{
    struct buf items = {0};
    uint64_t index = log_open_index(w->f.log);

    assert_true(w->is_attached);
    item_raw(&items, e->db_before, e->db_after, e->bytes, e->n);
    frame_outcome(log_batch(w->f.log), e->end_offset, &items);
    log_touch(w->f.log, true);
    buf_free(&items);
    w->effects++;
    w->in_entry = index == w->entry ? w->in_entry + 1 : 1;
    w->entry = index;
    w->end_offset = e->end_offset;
    if (w->watching && w->places < sizeof w->place / sizeof *w->place)
        w->place[w->places++] = (struct place){e->end_offset, index, w->in_entry};
}

static void on_effect(void *arg, const struct effect *e)
{
    append_effect(arg, e);
}

static bool on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    (void)channel;
    (void)channel_n;
    (void)payload;
    (void)payload_n;
    append_effect(arg, e);
    return false;
}

static bool on_map_offset(void *arg, uint64_t offset, struct snapshot_mark *mark)
{
    struct world *w = arg;

    *mark = (struct snapshot_mark){.index = log_open_index(w->f.log), .next_seq = 1};
    for (size_t i = w->places; i-- > 0;) {
        if (w->place[i].offset > offset)
            continue;
        mark->index = w->place[i].index;
        mark->effects = w->place[i].effects;
        break;
    }
    if (mark->effects == 0 && w->places > 0) {
        mark->index = w->place[0].index;
        mark->effects = w->place[0].effects - 1;
    }
    mark->log_from = mark->index;
    return true;
}

static void on_snapshot_started(void *arg)
{
    struct world *w = arg;

    w->watching = true;
    w->places = 0;
}

static void on_snapshot_ended(void *arg, bool ok, const struct snapshot_mark *mark)
{
    struct world *w = arg;

    assert_true(!ok || mark != NULL);
    w->watching = false;
    w->snapshots += ok;
    w->snapshots_failed += !ok;
}

static void on_fed(void *arg, struct valkey_identity *identity)
{
    struct world *w = arg;

    assert_false(w->is_fed || w->is_attached);
    assert_true(identity->databases == 16 && identity->commands_bytes > 10000);
    valkey_identity_free(identity);
    w->is_fed = true;
    w->feds++;
}

static void on_unfed(void *arg, const char *why)
{
    struct world *w = arg;

    assert_true(w->is_fed);
    w->is_fed = false;
    w->unfeds++;
    (void)snprintf(w->why, sizeof w->why, "%s", why);
}

static bool on_clean(void *arg, uint64_t offset, uint64_t *index)
{
    struct world *w = arg;

    if (offset < w->end_offset || log_committed(w->f.log) + 1 != log_open_index(w->f.log) ||
        log_pending_bytes(w->f.log) > ENTRY_HEADER_BYTES)
        return false;
    *index = log_committed(w->f.log);
    return true;
}

static void on_failed(void *arg, const char *why)
{
    (void)arg;
    fail_msg("the log contradicts itself: %s", why);
}

static const struct node_events node_callbacks = {.attached = on_attached,
                                                  .detached = on_detached,
                                                  .close_out = on_close_out,
                                                  .effect = on_effect,
                                                  .message = on_message,
                                                  .map_offset = on_map_offset,
                                                  .snapshot_started = on_snapshot_started,
                                                  .snapshot_ended = on_snapshot_ended,
                                                  .failed = on_failed,
                                                  .fed = on_fed,
                                                  .unfed = on_unfed,
                                                  .clean = on_clean};

/* ---- the world ---- */

static void on_pass(void *arg)
{
    struct world *w = arg;

    if (w->f.committed > w->passed && w->node != NULL) {
        w->commits += w->f.committed - w->passed;
        w->passed = w->f.committed;
        node_committed(w->node, w->passed);
    }
}

void start_node(struct world *w)
{
    w->node = node_new(w->f.loop, &quiet, &w->config, NULL, w->f.log, &node_callbacks, w);
    w->pass = loop_timer_new(w->f.loop, on_pass, w);
    loop_timer_every(w->pass, 1);
    if (w->part != NODE_LEADS)
        node_play(w->node, w->part);
    node_start(w->node);
}

void restart_log(struct world *w)
{
    stop_node(w);
    fixture_close(&w->f);
    assert_true(fixture_open(&w->f, NODE_LOG_BYTES_MAX));
    w->passed = w->f.committed;
}

void stop_node(struct world *w)
{
    loop_timer_free(w->pass);
    node_free(w->node);
    w->node = NULL;
    w->is_attached = w->is_fed = false;
}

static void open_world(struct world *w)
{
    *w = (struct world){0};
    fixture_dir(&w->f);
    assert_true(fixture_open(&w->f, NODE_LOG_BYTES_MAX));
    real_valkey_make(&w->v);
    real_valkey_make(&w->twin);
    config_defaults(&w->config);
    (void)snprintf(w->config.valkey, sizeof w->config.valkey, "%s", w->v.address);
    (void)snprintf(w->config.data_dir, sizeof w->config.data_dir, "%s", w->f.dir);
    w->config.valkey_timeout_ms = 1000;
    w->part = NODE_LEADS;
}

struct world *new_world(void)
{
    struct world *w = malloc(sizeof *w);

    assert_non_null(w);
    open_world(w);
    return w;
}

void close_world(struct world *w)
{
    stop_node(w);
    fixture_remove(&w->f);
    real_valkey_remove(&w->v);
    real_valkey_remove(&w->twin);
    free(w);
}

bool until_attached(struct fixture *f)
{
    return world_of(f)->is_attached;
}

bool until_detached(struct fixture *f)
{
    return !world_of(f)->is_attached;
}

static bool until_followed(struct fixture *f)
{
    struct world *w = world_of(f);

    return w->is_attached && node_tap_offset(w->node) >= w->goal && log_pending_bytes(f->log) <= ENTRY_HEADER_BYTES;
}

void follow(struct world *w)
{
    char info[8192];
    const char *at;

    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_ask(&w->v, info, sizeof info, "INFO replication");
    at = strstr(info, "master_repl_offset:");
    assert_non_null(at);
    w->goal = strtoull(at + 19, NULL, 10);
    assert_true(fixture_wait(&w->f, until_followed));
}

void digest(struct world *w, char *out)
{
    real_valkey_ask(&w->v, out, 64, "DEBUG DIGEST");
}

void expect_digest(struct world *w, const char *expected)
{
    char now[64];

    digest(w, now);
    assert_string_equal(now, expected);
}

/* The node against a real Valkey, with a core that logs every effect as RAW: adopt, bridge, rebuild, snapshot, hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/node.h"
#include "tests/unit/log_fixture.h"
#include "tests/unit/real_valkey.h"

enum { LOG_BYTES_MAX = 256 << 20, COMMANDS = 2000 };

struct place { /* the end of an effect in the stream, and in the log */
    uint64_t offset, index, effects;
};

struct world {
    struct fixture f;
    struct real_valkey v, twin;
    struct config config;
    struct node *node;
    struct loop_timer *pass; /* passes commits on */
    uint64_t passed;
    int attached, bridged, detached, close_outs, snapshots, snapshots_failed;
    bool is_attached, stopped;
    size_t effects, pending;
    uint64_t end_offset, goal, entry, in_entry;
    struct place place[65536];
    size_t places;
    bool watching;
    char run_id[48], why[256];
};

static const struct diag quiet = {.level = DIAG_NOTHING};

static struct world *world_of(struct fixture *f)
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

static void on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    (void)channel;
    (void)channel_n;
    (void)payload;
    (void)payload_n;
    append_effect(arg, e);
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
                                                  .failed = on_failed};

/* ---- the world ---- */

static void on_pass(void *arg)
{
    struct world *w = arg;

    if (w->f.committed > w->passed && w->node != NULL) {
        w->passed = w->f.committed;
        node_committed(w->node, w->passed);
    }
}

static void start_node(struct world *w)
{
    w->node = node_new(w->f.loop, &quiet, &w->config, w->f.log, &node_callbacks, w);
    w->pass = loop_timer_new(w->f.loop, on_pass, w);
    loop_timer_every(w->pass, 1);
    node_start(w->node);
}

static void stop_node(struct world *w) /* as a crash does it: without a word */
{
    loop_timer_free(w->pass);
    node_free(w->node);
    w->node = NULL;
    w->is_attached = false;
}

static void open_world(struct world *w)
{
    *w = (struct world){0};
    fixture_dir(&w->f);
    assert_true(fixture_open(&w->f, LOG_BYTES_MAX));
    real_valkey_make(&w->v);
    real_valkey_make(&w->twin);
    config_defaults(&w->config);
    (void)snprintf(w->config.valkey, sizeof w->config.valkey, "%s", w->v.address);
    (void)snprintf(w->config.data_dir, sizeof w->config.data_dir, "%s", w->f.dir);
    w->config.valkey_timeout_ms = 1000;
}

static struct world *new_world(void)
{
    struct world *w = malloc(sizeof *w);

    assert_non_null(w);
    open_world(w);
    return w;
}

static void close_world(struct world *w)
{
    stop_node(w);
    fixture_remove(&w->f);
    real_valkey_remove(&w->v);
    real_valkey_remove(&w->twin);
    free(w);
}

static bool until_attached(struct fixture *f)
{
    return world_of(f)->is_attached;
}

static bool until_detached(struct fixture *f)
{
    return !world_of(f)->is_attached;
}

static bool until_followed(struct fixture *f)
{
    struct world *w = world_of(f);

    return w->is_attached && node_tap_offset(w->node) >= w->goal && log_pending_bytes(f->log) <= ENTRY_HEADER_BYTES;
}

static void follow(struct world *w)
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

static void digest(struct world *w, char *out)
{
    real_valkey_ask(&w->v, out, 64, "DEBUG DIGEST");
}

static void expect_digest(struct world *w, const char *expected)
{
    char now[64];

    digest(w, now);
    assert_string_equal(now, expected);
}

/* ---- the tests ---- */

static void adopts_then_rebuilds(void **state)
{
    struct world *w = new_world();
    char before[64], masterauth[128];

    (void)state;
    real_valkey_start(&w->v, NULL);
    real_valkey_workload(&w->v, 1, COMMANDS);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    assert_int_equal(w->bridged, 0);
    real_valkey_workload(&w->v, 2, COMMANDS);
    follow(w);
    digest(w, before);
    assert_true(w->effects > COMMANDS / 4);
    real_valkey_kill(&w->v); /* Valkey dies; an empty one comes */
    assert_true(fixture_wait(&w->f, until_detached));
    real_valkey_start(&w->v, NULL);
    assert_true(fixture_wait(&w->f, until_attached));
    assert_int_equal(w->bridged, 0);
    assert_int_equal(w->close_outs, 1);
    assert_int_equal(node_figures(w->node)->rebuilds, 1);
    expect_digest(w, before);
    real_valkey_ask(&w->v, masterauth, sizeof masterauth, "CONFIG GET masterauth");
    assert_string_equal(masterauth, "");
    real_valkey_workload(&w->v, 3, COMMANDS); /* and the same once more, upon what was rebuilt */
    follow(w);
    digest(w, before);
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_detached));
    real_valkey_start(&w->v, NULL);
    assert_true(fixture_wait(&w->f, until_attached));
    expect_digest(w, before);
    assert_int_equal(w->close_outs, 2);
    assert_int_equal(w->detached, 2);
    close_world(w);
}

/* Holdfast restarts while Valkey lives and is written to: bridged, and nothing is missing. */
static void bridges_a_restart(void **state)
{
    struct world *w = new_world();
    char before[64];

    (void)state;
    real_valkey_start(&w->v, NULL);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_workload(&w->v, 4, COMMANDS);
    follow(w);
    stop_node(w);
    fixture_turns(&w->f, 50);
    real_valkey_workload(&w->v, 5, COMMANDS);
    fixture_close(&w->f);
    assert_true(fixture_open(&w->f, LOG_BYTES_MAX));
    w->passed = 0;
    start_node(w);
    follow(w);
    assert_int_equal(w->bridged, 1);
    digest(w, before);
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_detached));
    real_valkey_start(&w->v, NULL);
    assert_true(fixture_wait(&w->f, until_attached));
    expect_digest(w, before);
    close_world(w);
}

/* The tap is cut while both live; then Valkey is stopped for a while. */
static void bridges_a_cut_and_a_pause(void **state)
{
    struct world *w = new_world();
    char before[64];

    (void)state;
    real_valkey_start(&w->v, NULL);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_workload(&w->v, 6, COMMANDS);
    real_valkey_do(&w->v, "CLIENT KILL TYPE replica");
    assert_true(fixture_wait(&w->f, until_detached));
    follow(w);
    assert_int_equal(w->bridged, 1);
    real_valkey_workload(&w->v, 7, COMMANDS);
    (void)kill(w->v.pid, SIGSTOP);
    assert_true(fixture_wait(&w->f, until_detached));
    assert_string_equal(w->why, "Valkey does not answer");
    fixture_turns(&w->f, 1500);
    (void)kill(w->v.pid, SIGCONT);
    follow(w);
    assert_int_equal(w->bridged, 2);
    assert_int_equal(w->detached, 2);
    digest(w, before);
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_detached));
    real_valkey_start(&w->v, NULL);
    assert_true(fixture_wait(&w->f, until_attached));
    expect_digest(w, before);
    close_world(w);
}

/* The backlog is lost while nobody listens: a gap, rebuilt; what happened in the gap was never ours and is gone. */
static void rebuilds_over_a_gap(void **state)
{
    struct world *w = new_world();
    char before[64];

    (void)state;
    real_valkey_start(&w->v, NULL);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_workload(&w->v, 8, COMMANDS);
    follow(w);
    digest(w, before);
    stop_node(w);
    fixture_turns(&w->f, 50);
    real_valkey_do(&w->v, "CONFIG SET repl-backlog-size 16384");
    real_valkey_workload(&w->v, 9, COMMANDS * 4);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    assert_int_equal(w->bridged, 0);
    assert_int_equal(node_figures(w->node)->rebuilds, 1);
    expect_digest(w, before);
    close_world(w);
}

/* ---- snapshots ---- */

static bool until_snapshot(struct fixture *f)
{
    return world_of(f)->snapshots > 0;
}

static bool until_truncated(struct fixture *f)
{
    return log_first_index(f->log) > 1 && log_pending_bytes(f->log) <= ENTRY_HEADER_BYTES;
}

/* Snapshots under traffic, the log truncated behind them; then a restart must still bridge, and a rebuild must give the same state. */
static void snapshots(void **state)
{
    struct world *w = new_world();
    char before[64];

    (void)state;
    w->config.snapshot_log_bytes = 64 * 1024;
    real_valkey_start(&w->v, NULL);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    for (uint64_t seed = 30; seed < 60; seed++) {
        real_valkey_workload(&w->v, seed, COMMANDS / 4);
        fixture_turns(&w->f, 30);
    }
    assert_true(fixture_wait(&w->f, until_snapshot));
    follow(w);
    assert_true(fixture_wait(&w->f, until_truncated));
    stop_node(w);
    fixture_turns(&w->f, 50);
    real_valkey_workload(&w->v, 61, COMMANDS / 4);
    start_node(w);
    follow(w);
    assert_int_equal(w->bridged, 1); /* the attachment outlived the truncation */
    digest(w, before);
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_detached));
    real_valkey_start(&w->v, NULL);
    assert_true(fixture_wait(&w->f, until_attached));
    expect_digest(w, before);
    close_world(w);
}

/* ---- pending intents ---- */

static void append_intent(struct world *w, uint64_t seq, uint32_t db, const char *resp)
{
    frame_intent(log_batch(w->f.log), seq, db, resp, strlen(resp));
    log_touch(w->f.log, true);
}

/* Intents without an outcome: executed by the rebuild, in their order and databases, once; logged as executed. */
static void executes_pending(void **state)
{
    struct world *w = new_world();
    char value[64];

    (void)state;
    real_valkey_start(&w->v, NULL);
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_do(&w->v, "SET n 5");
    follow(w);
    append_intent(w, 1, 0, "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
    append_intent(w, 2, 3, "*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\n1\r\n");
    append_intent(w, 4, 0, "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
    real_valkey_kill(&w->v);
    assert_true(fixture_wait(&w->f, until_detached));
    for (int i = 0; i < 2; i++) { /* the second time they are outcomes */
        real_valkey_start(&w->v, NULL);
        assert_true(fixture_wait(&w->f, until_attached));
        assert_int_equal(w->pending, 0);
        real_valkey_ask(&w->v, value, sizeof value, "GET n");
        assert_string_equal(value, "7");
        real_valkey_do(&w->v, "SELECT 3");
        real_valkey_ask(&w->v, value, sizeof value, "GET x");
        assert_string_equal(value, "1");
        real_valkey_kill(&w->v);
        assert_true(fixture_wait(&w->f, until_detached));
    }
    close_world(w);
}

/* A rebuild that dies half-way must be a rebuild again, even if the very same Valkey is there. */
static bool until_rebuilding(struct fixture *f)
{
    return node_state(world_of(f)->node) == NODE_REBUILDING && world_of(f)->close_outs > 0;
}

static void dies_rebuilding(void **state)
{
    struct world *w = new_world();
    char before[64];

    (void)state;
    real_valkey_start(&w->v, NULL);
    real_valkey_do(&w->v, "CONFIG SET masterauth operators-own");
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    real_valkey_workload(&w->v, 70, COMMANDS * 5);
    follow(w);
    digest(w, before);
    for (unsigned ms = 0; ms < 60; ms += 6) {
        w->close_outs = 0;
        real_valkey_kill(&w->v);
        assert_true(fixture_wait(&w->f, until_detached));
        real_valkey_start(&w->v, NULL);
        real_valkey_do(&w->v, "CONFIG SET masterauth operators-own");
        assert_true(fixture_wait(&w->f, until_rebuilding));
        fixture_turns(&w->f, ms + 1);
        stop_node(w);
        fixture_close(&w->f);
        assert_true(fixture_open(&w->f, LOG_BYTES_MAX));
        w->passed = 0;
        start_node(w);
        follow(w);
        expect_digest(w, before);
    }
    close_world(w);
}

/* ---- refusals ---- */

static void refuses(void **state)
{
    struct world *w = new_world();
    static const char *const cluster[] = {"--cluster-enabled", "yes", NULL};

    (void)state;
    real_valkey_start(&w->v, cluster);
    start_node(w);
    fixture_turns(&w->f, 500);
    assert_false(w->is_attached);
    assert_int_equal(node_state(w->node), NODE_CONNECTING);
    real_valkey_kill(&w->v);
    real_valkey_start(&w->v, NULL);
    real_valkey_do(&w->v, "REPLICAOF 127.0.0.1 1"); /* somebody's replica */
    fixture_turns(&w->f, 4000);
    assert_false(w->is_attached);
    real_valkey_do(&w->v, "REPLICAOF NO ONE");
    assert_true(fixture_wait(&w->f, until_attached));
    close_world(w);
}

/* ---- spawned ---- */

static void on_stopped(void *arg)
{
    ((struct world *)arg)->stopped = true;
}

static bool until_stopped(struct fixture *f)
{
    return world_of(f)->stopped;
}

static void spawns(void **state)
{
    struct world *w = new_world();
    char value[64];
    int pid;

    (void)state;
    w->config.valkey_spawn = true;
    start_node(w);
    assert_true(fixture_wait(&w->f, until_attached));
    (void)snprintf(w->v.address, sizeof w->v.address, "%.80s/valkey/valkey.sock", w->f.dir);
    real_valkey_connect(&w->v);
    real_valkey_do(&w->v, "SET a 1");
    follow(w);
    real_valkey_ask(&w->v, value, sizeof value, "CONFIG GET port");
    stop_node(w); /* we are killed; it lives; its successor takes it over */
    fixture_turns(&w->f, 50);
    start_node(w);
    follow(w);
    assert_int_equal(w->bridged, 1);
    pid = real_valkey_pid(&w->v);
    (void)kill(pid, SIGSTOP); /* it hangs: killed and started again */
    assert_true(fixture_wait(&w->f, until_detached));
    assert_true(fixture_wait(&w->f, until_attached));
    assert_int_equal(w->bridged, 1);
    real_valkey_connect(&w->v);
    real_valkey_ask(&w->v, value, sizeof value, "GET a");
    assert_string_equal(value, "1");
    assert_true(real_valkey_pid(&w->v) != pid);
    node_stop(w->node, on_stopped, w);
    assert_true(fixture_wait(&w->f, until_stopped));
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adopts_then_rebuilds),
                                       cmocka_unit_test(bridges_a_restart),
                                       cmocka_unit_test(bridges_a_cut_and_a_pause),
                                       cmocka_unit_test(rebuilds_over_a_gap),
                                       cmocka_unit_test(snapshots),
                                       cmocka_unit_test(executes_pending),
                                       cmocka_unit_test(dies_rebuilding),
                                       cmocka_unit_test(refuses),
                                       cmocka_unit_test(spawns)};

    if (!real_valkey_installed())
        return 0;
    return cmocka_run_group_tests_name("node", tests, NULL, NULL);
}

/* The node against a real Valkey: adopt, bridge, rebuild, snapshot, hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/node_world.h"

enum { COMMANDS = 2000 };

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
    assert_true(fixture_open(&w->f, NODE_LOG_BYTES_MAX));
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

/* Snapshots under traffic, the log truncated behind them; then a restart must still bridge, and a rebuild must give
 * the same state. */
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
        assert_true(fixture_open(&w->f, NODE_LOG_BYTES_MAX));
        w->passed = 0;
        start_node(w);
        follow(w);
        expect_digest(w, before);
    }
    close_world(w);
}

/* ---- refusals ---- */

static void free_port(char *out, size_t size)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    (void)close(fd);
    (void)snprintf(out, size, "%d", ntohs(a.sin_port));
}

static void refuses(void **state)
{
    struct world *w = new_world();
    char bus[8]; /* else it is the same one for all that have no port */
    const char *const cluster[] = {"--cluster-enabled", "yes", "--cluster-port", bus, NULL};

    (void)state;
    free_port(bus, sizeof bus);
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

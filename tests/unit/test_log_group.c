/* Three logs in one process, on one loop, over plain loopback links: a group begins, leads, commits, loses its leader
 * and gets it back. The consensus beneath has its own simulation (test_raft_sim.c); this is about the machine around
 * it: roles and the order in which they are told, indexes, what is on disk at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/log.h"

enum { NODES = 3, PATIENCE_MS = 15000, ELECTION_MS = 150 };

struct group;
struct node {
    struct group *group;
    struct log *log;
    char dir[64], name[8];
    struct diag diag;
    uint64_t committed, leads, losses, follows, open_index;
    bool leading, same;
};
struct group {
    struct loop *loop;
    struct members members;
    struct node node[NODES];
    bool (*until)(struct group *g);
    bool timed_out;
    uint64_t want;
    struct node *leader;
};

static void on_committed(void *arg, uint64_t index)
{
    struct node *n = arg;

    assert_true(index > n->committed);
    n->committed = index;
}

static void on_failed(void *arg, const char *why)
{
    (void)arg;
    fail_msg("log failed: %s", why);
}

static void on_lead(void *arg, bool same, uint64_t open_index)
{
    struct node *n = arg;

    n->leads++;
    n->leading = true;
    n->same = same;
    n->open_index = open_index;
    assert_int_equal(log_open_index(n->log), open_index);
    assert_true(n->committed < open_index);
}

static void on_lost(void *arg, const char *why)
{
    struct node *n = arg;

    (void)why;
    assert_true(n->leading);
    n->losses++;
    n->leading = false;
}

static void on_follow(void *arg, const char *leader)
{
    struct node *n = arg;

    (void)leader;
    n->follows++;
    n->leading = false;
}

static const struct log_events events = {.committed = on_committed,
                                         .failed = on_failed,
                                         .lead = on_lead,
                                         .lost = on_lost,
                                         .follow = on_follow};

/* ---- the world ---- */

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    (void)close(fd);
    return ntohs(a.sin_port);
}

static bool on_turn(void *arg)
{
    struct group *g = arg;
    bool worked = false;

    for (int i = 0; i < NODES; i++)
        if (g->node[i].log != NULL)
            worked = log_flush(g->node[i].log) || worked;
    if (g->until != NULL && g->until(g)) {
        g->until = NULL;
        loop_stop(g->loop);
    }
    return worked;
}

static void on_timeout(void *arg)
{
    struct group *g = arg;

    g->timed_out = true;
    loop_stop(g->loop);
}

static bool nothing(void *arg)
{
    (void)arg;
    return false;
}

static void run_until(struct group *g, bool (*until)(struct group *g), const char *what)
{
    struct loop_timer *t = loop_timer_new(g->loop, on_timeout, g);

    g->timed_out = false;
    g->until = until;
    loop_timer_once(t, PATIENCE_MS);
    loop_run(g->loop);
    loop_timer_free(t);
    if (g->timed_out)
        fail_msg("not in time: %s", what);
    (void)nothing;
}

static void open_node(struct group *g, int i)
{
    struct node *n = &g->node[i];
    char why[256] = "";
    struct log_settings s = {.dir = n->dir,
                             .size_max_bytes = 64 << 20,
                             .node = n->name,
                             .cluster = "test",
                             .members = &g->members,
                             .election_ms = ELECTION_MS,
                             .clock_skew_max_ms = 500};

    n->leading = false;
    n->committed = 0;
    n->log = log_open(g->loop, &n->diag, &s, &events, n, why, sizeof why);
    if (n->log == NULL)
        fail_msg("%s", why);
    n->committed = log_committed(n->log);
}

static void begin(struct group *g, int count)
{
    char why[128];

    memset(g, 0, sizeof *g);
    g->loop = loop_new();
    loop_add_hook(g->loop, on_turn, g);
    for (int i = 0; i < NODES; i++) {
        struct node *n = &g->node[i];
        char text[128];

        *n = (struct node){.group = g, .diag = {.level = getenv("VERBOSE") ? DIAG_DEBUG : DIAG_NOTHING}};
        (void)snprintf(n->name, sizeof n->name, "%c", 'a' + i);
        (void)snprintf(n->dir, sizeof n->dir, "/tmp/holdfast-group-XXXXXX");
        assert_non_null(mkdtemp(n->dir));
        (void)snprintf(text, sizeof text, "%s az-%s 127.0.0.1:%d", n->name, n->name, free_port());
        assert_true(member_parse(text, &g->members.at[i], why, sizeof why));
        g->members.count++;
    }
    for (int i = 0; i < count; i++)
        open_node(g, i);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

static void end(struct group *g)
{
    for (int i = 0; i < NODES; i++) {
        log_close(g->node[i].log);
        (void)nftw(g->node[i].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    loop_free(g->loop);
}

static void stop_node(struct node *n)
{
    log_close(n->log);
    n->log = NULL;
    n->leading = false;
}

/* ---- conditions ---- */

static bool somebody_leads(struct group *g)
{
    for (int i = 0; i < NODES; i++)
        if (g->node[i].log != NULL && g->node[i].leading) {
            g->leader = &g->node[i];
            return true;
        }
    return false;
}

static bool all_have(struct group *g)
{
    for (int i = 0; i < NODES; i++)
        if (g->node[i].log != NULL && g->node[i].committed < g->want)
            return false;
    return true;
}

static bool leader_lost(struct group *g)
{
    return !g->leader->leading;
}

static bool leader_leads(struct group *g)
{
    return g->leader->leading;
}

/* ---- writing and comparing ---- */

static uint64_t append(struct node *n, uint64_t seq)
{
    char text[32];
    int len = snprintf(text, sizeof text, "write %d", (int)seq);

    frame_intent(log_batch(n->log), seq, 0, text, (size_t)len);
    log_touch(n->log, true);
    return log_open_index(n->log);
}

static void commit(struct group *g, uint64_t seq)
{
    g->want = append(g->leader, seq);
    run_until(g, all_have, "a write on all nodes");
}

struct content {
    uint64_t count, last_seq;
    struct hash128 running;
};

static void take(void *arg, const struct entry_view *e)
{
    struct content *c = arg;
    struct cursor frames = e->frames;
    struct frame_view f;

    c->running = e->running;
    while (frame_next(&frames, &f))
        if (f.kind == FRAME_INTENT) {
            c->count++;
            c->last_seq = f.seq;
        }
}

static struct content content(struct node *n, uint64_t to)
{
    struct content c = {0};
    uint64_t at = log_first_index(n->log);

    while (at <= to)
        at = log_read(n->log, at, 1, take, &c);
    return c;
}

static void same_logs(struct group *g, uint64_t writes)
{
    struct content first = {0};
    bool any = false;

    for (int i = 0; i < NODES; i++) {
        struct content c;

        if (g->node[i].log == NULL)
            continue;
        c = content(&g->node[i], g->want);
        assert_int_equal(c.count, writes);
        if (any)
            assert_memory_equal(&c.running, &first.running, sizeof c.running);
        first = c;
        any = true;
    }
}

/* ---- tests ---- */

static void test_begin_and_commit(void **state)
{
    struct group g;

    (void)state;
    begin(&g, NODES);
    run_until(&g, somebody_leads, "a leader");
    for (uint64_t i = 1; i <= 50; i++)
        commit(&g, i);
    same_logs(&g, 50);
    end(&g);
}

static void test_leader_dies(void **state)
{
    struct group g;
    uint64_t writes = 0;

    (void)state;
    begin(&g, NODES);
    for (int round = 0; round < 6; round++) {
        struct node *dead;

        run_until(&g, somebody_leads, "a leader");
        for (int i = 0; i < 5; i++)
            commit(&g, ++writes);
        dead = g.leader;
        stop_node(dead);
        run_until(&g, somebody_leads, "another leader");
        assert_true(g.leader != dead);
        commit(&g, ++writes);
        open_node(&g, (int)(dead - g.node));
        g.want = g.leader->committed;
        run_until(&g, all_have, "the one that was away has caught up");
        same_logs(&g, writes);
    }
    end(&g);
}

/* The quorum is lost, the open batch goes on; both others come back: nobody else has led, the batch moves and is
 * committed, and is never reported under the index that it was promised first. */
static void test_lost_and_same(void **state)
{
    struct group g;
    uint64_t promised;

    (void)state;
    begin(&g, NODES);
    run_until(&g, somebody_leads, "a leader");
    commit(&g, 1);
    for (int i = 0; i < NODES; i++)
        if (&g.node[i] != g.leader)
            stop_node(&g.node[i]);
    run_until(&g, leader_lost, "the leader notices");
    assert_int_equal(log_role(g.leader->log), LOG_LOST);
    assert_false(log_may_read(g.leader->log, log_boot_ms()));
    promised = append(g.leader, 2);
    for (int i = 0; i < NODES; i++)
        if (g.node[i].log == NULL)
            open_node(&g, i);
    run_until(&g, leader_leads, "the same leads again");
    assert_true(g.leader->same);
    assert_true(g.leader->open_index > promised);
    assert_true(g.leader->committed < g.leader->open_index);
    g.want = g.leader->open_index;
    run_until(&g, all_have, "what had gathered");
    same_logs(&g, 2);
    end(&g);
}

static void on_handed(void *arg, bool ok, const char *why)
{
    int *said = arg;

    *said = ok ? 1 : -1;
    if (!ok)
        print_message("%s\n", why);
}

static void test_transfer(void **state)
{
    struct group g;
    int said = 0;

    (void)state;
    begin(&g, NODES);
    run_until(&g, somebody_leads, "a leader");
    for (uint64_t i = 1; i <= 5; i++) {
        struct node *before = g.leader, *to = &g.node[(before - g.node + 1) % NODES];

        commit(&g, i);
        said = 0;
        log_transfer(before->log, to->name, 5000, on_handed, &said);
        run_until(&g, leader_lost, "the old one ends");
        run_until(&g, somebody_leads, "the new one begins");
        assert_ptr_equal(g.leader, to);
        g.want = g.leader->committed;
        run_until(&g, all_have, "all know");
        assert_int_equal(said, 1);
    }
    same_logs(&g, 5);
    end(&g);
}

static void test_all_restart(void **state)
{
    struct group g;

    (void)state;
    begin(&g, NODES);
    for (uint64_t round = 1; round <= 3; round++) {
        run_until(&g, somebody_leads, "a leader");
        commit(&g, round);
        for (int i = 0; i < NODES; i++)
            stop_node(&g.node[i]);
        for (int i = 0; i < NODES; i++)
            open_node(&g, i);
    }
    run_until(&g, somebody_leads, "a leader");
    g.want = g.leader->committed;
    run_until(&g, all_have, "all have all");
    same_logs(&g, 3);
    end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_and_commit), cmocka_unit_test(test_leader_dies),
        cmocka_unit_test(test_lost_and_same),    cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_all_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

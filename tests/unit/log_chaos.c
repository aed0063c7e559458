/* See log_chaos.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/log_chaos.h"

/* ---- a disk that is slow ---- */

atomic_int chaos_slow_ms[CHAOS_NODES];

int fdatasync(int fd)
{
    int (*real)(int) = (int (*)(int))(uintptr_t)dlsym(RTLD_NEXT, "fdatasync");
    char link[64], path[256] = "";
    const char *at;

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && (at = strstr(path, "/holdfast-chaos-")) != NULL) {
        int ms = atomic_load(&chaos_slow_ms[at[16] - 'a']);

        if (ms > 0)
            (void)usleep((unsigned)ms * 1000);
    }
    return real(fd);
}

uint64_t chaos_below(struct chaos *c, uint64_t n)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random % n;
}

/* ---- what is known of what was written ---- */

static void chaos_each_waiting(struct chaos_node *n,
                               void (*what)(struct chaos *c, uint64_t seq, uint64_t a, uint64_t b), uint64_t a,
                               uint64_t b)
{
    struct chaos *c = n->chaos;

    while (c->low <= c->seqs && c->fate[c->low] != FATE_WAITS)
        c->low++;
    for (uint64_t seq = c->low; seq <= c->seqs; seq++)
        if (c->fate[seq] == FATE_WAITS && c->owner[seq] == n - c->node)
            what(c, seq, a, b);
}

static void chaos_make_void(struct chaos *c, uint64_t seq, uint64_t a, uint64_t b)
{
    (void)a;
    (void)b;
    c->fate[seq] = FATE_VOID;
}

static void tell(struct chaos *c, uint64_t seq, uint64_t index, uint64_t b)
{
    (void)b;
    if (c->promised[seq] > index)
        return;
    c->fate[seq] = FATE_TOLD;
    c->told++;
}

static void shift(struct chaos *c, uint64_t seq, uint64_t from, uint64_t to)
{
    if (c->promised[seq] >= from) {
        c->promised[seq] += to - from;
        c->moved++;
    }
}

/* ---- events ---- */

static void on_committed(void *arg, uint64_t index)
{
    struct chaos_node *n = arg;

    if (n->leads || n->lost)
        chaos_each_waiting(n, tell, index, 0);
}

static void on_failed(void *arg, const char *why)
{
    (void)arg;
    fail_msg("log failed: %s", why);
}

static void on_lead(void *arg, bool same, uint64_t open_index)
{
    struct chaos_node *n = arg;

    assert_int_equal(log_open_index(n->log), open_index);
    assert_true(!same || n->lost);
    if (same)
        chaos_each_waiting(n, shift, n->lost_index, open_index);
    else
        chaos_each_waiting(n, chaos_make_void, 0, 0);
    n->leads = true;
    n->lost = false;
}

static void on_lost(void *arg, const char *why)
{
    struct chaos_node *n = arg;

    (void)why;
    assert_true(n->leads);
    n->leads = false;
    n->lost = true;
    n->lost_index = log_open_index(n->log);
}

static void on_follow(void *arg, const char *leader)
{
    struct chaos_node *n = arg;

    (void)leader;
    n->leads = n->lost = false;
    chaos_each_waiting(n, chaos_make_void, 0, 0);
}

static void on_replaced(void *arg)
{
    struct chaos_node *n = arg;

    n->read_at = 0;
    n->chaos->replaced++;
}

static const struct log_events events = {.committed = on_committed,
                                         .failed = on_failed,
                                         .lead = on_lead,
                                         .lost = on_lost,
                                         .follow = on_follow,
                                         .replaced = on_replaced};

/* ---- reading ---- */

static void on_entry(void *arg, const struct entry_view *e)
{
    struct chaos *c = arg;
    struct cursor frames = e->frames;
    struct frame_view f;

    assert_true(e->index < CHAOS_SEQS_MAX);
    if (c->running[e->index].low == 0)
        c->running[e->index] = e->running;
    assert_memory_equal(&c->running[e->index], &e->running, sizeof e->running);
    while (frame_next(&frames, &f)) {
        if (f.kind != FRAME_INTENT)
            continue;
        assert_int_equal(c->promised[f.seq], e->index);
        c->seen[f.seq] = e->index;
    }
}

static void read_on(struct chaos_node *n)
{
    uint64_t first = log_first_index(n->log), next;

    if (n->read_at < first)
        n->read_at = first;
    while (n->read_at <= log_committed(n->log)) {
        next = log_read(n->log, n->read_at, 1 << 20, on_entry, n->chaos);
        assert_true(next >= n->read_at);
        if (next == n->read_at)
            return; /* it is being replaced */
        n->read_at = next;
    }
}

/* ---- the world ---- */

bool chaos_on_turn(void *arg)
{
    struct chaos *c = arg;
    bool worked = false;

    for (int i = 0; i < CHAOS_NODES; i++)
        if (c->node[i].log != NULL) {
            worked = log_flush(c->node[i].log) || worked;
            read_on(&c->node[i]);
        }
    if (c->until != NULL && c->until(c)) {
        c->until = NULL;
        loop_stop(c->loop);
    }
    return worked;
}

static void on_time(void *arg)
{
    struct chaos *c = arg;

    c->timed_out = true;
    loop_stop(c->loop);
}

/* For so long; or until. True: until came. */
bool chaos_run(struct chaos *c, uint64_t ms, bool (*until)(struct chaos *c))
{
    struct loop_timer *t = loop_timer_new(c->loop, on_time, c);

    c->timed_out = false;
    c->until = until;
    loop_timer_once(t, ms);
    loop_run(c->loop);
    loop_timer_free(t);
    c->until = NULL;
    return !c->timed_out;
}

void chaos_open_node(struct chaos_node *n)
{
    struct log_settings s = {.dir = n->dir,
                             .size_max_bytes = 64 << 20,
                             .node = n->name,
                             .cluster = "chaos",
                             .members = &n->chaos->members,
                             .election_ms = CHAOS_ELECTION_MS,
                             .clock_skew_max_ms = 500};
    char why[256] = "";

    n->read_at = 0;
    n->log = log_open(n->chaos->loop, &n->diag, &s, &events, n, why, sizeof why);
    if (n->log == NULL)
        fail_msg("%s", why);
}

void chaos_stop_node(struct chaos_node *n)
{
    if (n->changing) { /* its done() will not come */
        n->chaos->changes_asked--;
        n->changing = false;
    }
    log_close(n->log);
    n->log = NULL;
    n->leads = n->lost = false;
    chaos_each_waiting(n, chaos_make_void, 0, 0);
}

int chaos_free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    (void)close(fd);
    return ntohs(a.sin_port);
}

static int chaos_remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

void chaos_new_disk(struct chaos_node *n)
{
    if (n->dir[0] != '\0')
        (void)nftw(n->dir, chaos_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    (void)snprintf(n->dir, sizeof n->dir, "/tmp/holdfast-chaos-%sXXXXXX", n->name);
    assert_non_null(mkdtemp(n->dir));
}

struct chaos_node *chaos_leader(struct chaos *c)
{
    for (int i = 0; i < CHAOS_NODES; i++)
        if (c->node[i].leads)
            return &c->node[i];
    return NULL;
}

bool chaos_one_leads(struct chaos *c)
{
    return chaos_leader(c) != NULL;
}

bool chaos_all_equal(struct chaos *c)
{
    struct chaos_node *l = chaos_leader(c);

    if (l == NULL || log_pending_bytes(l->log) > 0 || log_committed(l->log) + 1 < log_open_index(l->log))
        return false;
    for (int i = 0; i < CHAOS_NODES; i++)
        if (c->node[i].log == NULL || log_committed(c->node[i].log) != log_committed(l->log))
            return false;
    return true;
}

void chaos_remove_disk(const struct chaos_node *n)
{
    (void)nftw(n->dir, chaos_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

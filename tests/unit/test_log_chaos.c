/* Three real logs, links and disks in one process, and a seed that decides what befalls them: kills, lost disks, slow
 * disks, hand-overs, members removed and added, snapshots and truncations, while whoever leads is written to.
 *
 *   each frame's promised index (log_open_index(), moved by lead(same))  ═══ the index of the entry that it is read
 * in, on each node, in each life what was reported to the one who wrote it                            ═══ is there at
 * the end each index                                                           ═══ has one content, on all nodes, for
 * ever
 *
 * LOG_CHAOS_SEEDS=n runs n seeds from LOG_CHAOS_FROM on (1), LOG_CHAOS_STEPS steps each; VERBOSE shows the logs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "tests/unit/log_chaos.h"

enum { RDB_BYTES = 300000, STEPS = 250, STEP_MS_MAX = 25 };

/* ---- what befalls them ---- */

static void append(struct chaos *c, struct chaos_node *n, uint64_t count)
{
    char text[600];

    memset(text, 'x', sizeof text);
    while (count-- > 0 && c->seqs + 1 < CHAOS_SEQS_MAX) {
        uint64_t seq = ++c->seqs;

        frame_intent(log_batch(n->log), seq, 0, text, (size_t)chaos_below(c, sizeof text));
        log_touch(n->log, chaos_below(c, 4) > 0);
        c->promised[seq] = log_open_index(n->log);
        c->owner[seq] = (unsigned char)(n - c->node);
        c->fate[seq] = FATE_WAITS;
    }
}

static void on_changed(void *arg, bool ok, const char *why)
{
    struct chaos_node *n = arg;

    (void)why;
    assert_true(n->changing);
    n->changing = false;
    n->chaos->changes_done++;
    n->chaos->changed += ok;
}

static void change(struct chaos *c, enum log_change what, const char *name)
{
    struct chaos_node *n = chaos_leader(c);

    if (n == NULL || n->changing)
        return;
    n->changing = true;
    c->changes_asked++;
    log_change_members(n->log, what, name, on_changed, n);
}

static void on_handed(void *arg, bool ok, const char *why)
{
    struct chaos *c = arg;

    (void)why;
    c->handed += ok;
}

static void on_snapshot(void *arg, bool ok)
{
    struct chaos *c = arg;

    c->snapshotting = false;
    c->snapshots += ok;
}

static bool has_snapshot(struct chaos *c)
{
    return !c->snapshotting;
}

static void snapshot(struct chaos *c, struct chaos_node *n)
{
    uint64_t at = log_committed(n->log), first = log_first_index(n->log), back = chaos_below(c, 10);
    struct snapshot_mark mark = {.index = at, .mode = -1, .next_seq = c->seqs + 1};
    char why[256], *rdb;
    struct snapshot_writer *w;
    int before = c->snapshots;

    if (at < first + 10 || (w = snapshot_begin(n->log, why, sizeof why)) == NULL)
        return;
    mark.log_from = at - back;
    rdb = calloc(1, RDB_BYTES);
    memcpy(rdb, &at, sizeof at);
    assert_true(snapshot_write(w, rdb, RDB_BYTES));
    free(rdb);
    c->snapshotting = true;
    snapshot_finish(w, &mark, on_snapshot, c);
    assert_true(chaos_run(c, CHAOS_PATIENCE_MS, has_snapshot));
    if (c->snapshots > before)
        log_truncate(n->log, mark.log_from);
}

/* What a majority of the voters has lost is lost: so only when all three are, and have everything. */
static bool all_vote(struct chaos *c)
{
    struct log_member_status m[MEMBERS_MAX];
    struct chaos_node *l = chaos_leader(c);
    size_t n = l != NULL ? log_members(l->log, m, MEMBERS_MAX) : 0;
    int voters = 0;

    for (size_t i = 0; i < n; i++)
        voters += m[i].member.role == MEMBER_VOTER;
    return voters == CHAOS_NODES && !l->changing && chaos_all_equal(c);
}

static void replace_disk(struct chaos *c, struct chaos_node *n)
{
    if (!chaos_run(c, 1000, all_vote) || n->leads)
        return;
    chaos_stop_node(n);
    chaos_new_disk(n);
    chaos_open_node(n);
    change(c, LOG_REPLACE, n->name);
    (void)chaos_run(c, 6000, all_vote);
}

static void befall(struct chaos *c)
{
    struct chaos_node *n = &c->node[chaos_below(c, CHAOS_NODES)], *l = chaos_leader(c);
    uint64_t what = chaos_below(c, 100);

    if (what < 5 && n->log != NULL) {
        chaos_stop_node(n);
        c->kills++;
    } else if (what < 30) {
        for (int i = 0; i < CHAOS_NODES; i++)
            if (c->node[i].log == NULL && chaos_below(c, 3) > 0)
                chaos_open_node(&c->node[i]);
    } else if (what < 38 && l != NULL) {
        log_transfer(l->log, chaos_below(c, 2) ? n->name : NULL, 300 + chaos_below(c, 700), on_handed, c);
    } else if (what < 43) {
        change(c, LOG_REMOVE, n->name);
    } else if (what < 48) {
        change(c, LOG_ADD, n->name);
    } else if (what < 56) {
        atomic_store(&chaos_slow_ms[n - c->node], (int)chaos_below(c, 3) * (int)chaos_below(c, 60));
    } else if (what < 62 && n->log != NULL) {
        snapshot(c, n);
    } else if (what < 64) {
        replace_disk(c, n);
    }
}

/* ---- a life, and its end ---- */

static void begin(struct chaos *c, uint64_t seed)
{
    char text[128], why[128];

    memset(c, 0, sizeof *c);
    c->random = seed * 0x9e3779b97f4a7c15u | 1;
    c->low = 1;
    c->promised = calloc(CHAOS_SEQS_MAX, sizeof *c->promised);
    c->seen = calloc(CHAOS_SEQS_MAX, sizeof *c->seen);
    c->running = calloc(CHAOS_SEQS_MAX, sizeof *c->running);
    c->fate = calloc(CHAOS_SEQS_MAX, 1);
    c->owner = calloc(CHAOS_SEQS_MAX, 1);
    c->loop = loop_new();
    loop_add_hook(c->loop, chaos_on_turn, c);
    for (int i = 0; i < CHAOS_NODES; i++) {
        struct chaos_node *n = &c->node[i];

        *n = (struct chaos_node){.chaos = c, .diag = {.level = getenv("VERBOSE") ? DIAG_DEBUG : DIAG_NOTHING}};
        (void)snprintf(n->name, sizeof n->name, "%c", 'a' + i);
        chaos_new_disk(n);
        (void)snprintf(text, sizeof text, "%s az-%s 127.0.0.1:%d", n->name, n->name, chaos_free_port());
        assert_true(member_parse(text, &c->members.at[i], why, sizeof why));
        c->members.count++;
        atomic_store(&chaos_slow_ms[i], 0);
    }
    for (int i = 0; i < CHAOS_NODES; i++)
        chaos_open_node(&c->node[i]);
    assert_true(chaos_run(c, CHAOS_PATIENCE_MS, chaos_one_leads));
}

/* True: all three are voters. Otherwise the next step towards that is taken. */
static bool whole(struct chaos *c)
{
    struct log_member_status m[MEMBERS_MAX];
    struct chaos_node *l = chaos_leader(c);
    size_t n = l != NULL ? log_members(l->log, m, MEMBERS_MAX) : 0;
    int voters = 0;

    if (l == NULL || l->changing)
        return false;
    for (int i = 0; i < CHAOS_NODES; i++) {
        const struct log_member_status *found = NULL;

        for (size_t k = 0; k < n; k++)
            if (strcmp(m[k].member.name, c->node[i].name) == 0)
                found = &m[k];
        if (found != NULL && found->member.role == MEMBER_VOTER) {
            voters++;
            continue;
        }
        change(c, found != NULL ? LOG_REMOVE : LOG_ADD, c->node[i].name);
        return false;
    }
    return voters == CHAOS_NODES;
}

static void mend(struct chaos *c)
{
    uint64_t until = clock_mono_ms() + 2 * CHAOS_PATIENCE_MS;

    for (int i = 0; i < CHAOS_NODES; i++) {
        atomic_store(&chaos_slow_ms[i], 0);
        if (c->node[i].log == NULL)
            chaos_open_node(&c->node[i]);
    }
    while (!whole(c)) {
        if (clock_mono_ms() > until)
            fail_msg("the group does not become whole again");
        (void)chaos_run(c, 100, NULL);
    }
}

static void end(struct chaos *c)
{
    for (uint64_t seq = 1; seq <= c->seqs; seq++)
        if (c->fate[seq] == FATE_TOLD)
            assert_int_equal(c->seen[seq], c->promised[seq]);
    for (int i = 0; i < CHAOS_NODES; i++) {
        chaos_stop_node(&c->node[i]);
        chaos_remove_disk(&c->node[i]);
    }
    assert_int_equal(c->changes_asked, c->changes_done);
    loop_free(c->loop);
    free(c->promised);
    free(c->seen);
    free(c->running);
    free(c->fate);
    free(c->owner);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

static void live(uint64_t seed)
{
    uint64_t steps = number("LOG_CHAOS_STEPS", STEPS);
    struct chaos c;

    begin(&c, seed);
    for (uint64_t i = 0; i < steps; i++) {
        struct chaos_node *n = chaos_leader(&c);

        if (n != NULL)
            append(&c, n, chaos_below(&c, 60));
        for (int k = 0; k < CHAOS_NODES; k++)
            if (c.node[k].lost && chaos_below(&c, 3) == 0)
                append(&c, &c.node[k], 1);
        befall(&c);
        (void)chaos_run(&c, 1 + chaos_below(&c, STEP_MS_MAX), NULL);
    }
    mend(&c);
    append(&c, chaos_leader(&c), 1);
    if (!chaos_run(&c, CHAOS_PATIENCE_MS, chaos_all_equal))
        fail_msg("seed %llu: the logs do not become equal", (unsigned long long)seed);
    print_message(
        "seed %llu: %llu written, %d reported, %d moved, %d stops, %d changes, %d hand-overs, %d snapshots, "
        "%d logs replaced\n",
        (unsigned long long)seed, (unsigned long long)c.seqs, c.told, c.moved, c.kills, c.changed, c.handed,
        c.snapshots, c.replaced);
    end(&c);
}

static void test_chaos(void **state)
{
    uint64_t from = number("LOG_CHAOS_FROM", 1), seeds = number("LOG_CHAOS_SEEDS", 1);

    (void)state;
    for (uint64_t seed = from; seed < from + seeds; seed++)
        live(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chaos)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

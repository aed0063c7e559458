/* The schedule: what happens next, by seed. */
#include "tests/unit/sim_sequencer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

uint64_t sim_random(struct sim *w, uint64_t n) /* splitmix64 */
{
    uint64_t z = (w->random += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return n > 1 ? z % n : 0;
}

bool sim_chance(struct sim *w, int percent)
{
    return (int)sim_random(w, 100) < percent;
}

void sim_violation(struct sim *w, const char *format, ...)
{
    va_list arguments;

    if (w->violated) /* the first one counts */
        return;
    w->violated = true;
    va_start(arguments, format);
    (void)vsnprintf(w->why, SIM_WHY_BYTES, format, arguments);
    va_end(arguments);
    TRACE(w, "VIOLATION: %s\n", w->why);
}

struct sim *sim_new(void)
{
    return must_calloc(1, sizeof(struct sim));
}

void sim_free(struct sim *w)
{
    for (int i = 0; i < SIM_CONNS_MAX; i++)
        free(w->conn[i]);
    sim_log_free(&w->log);
    buf_free(&w->bytes);
    free(w);
}

const struct sim_counts *sim_counts(const struct sim *w)
{
    return &w->counts;
}

enum { FAULTS_LANE = 40, FAULTS_CONNECTIONS = 65, FAULTS = 100 }; /* shares, each up to here */

static int one_of(struct sim *w, int a, int b, int c)
{
    uint64_t dice = sim_random(w, 3);

    return dice == 0 ? a : dice == 1 ? b : c;
}

/* One key and many equal writes, of which Valkey rewrites some: nearly everything that is matched could be something
 * else. */
static void narrow(struct sim *w)
{
    w->keys = one_of(w, 1, 1, 2);
    w->p_anonymous = 85;
    w->p_other = 40;
    w->p_async = one_of(w, 0, 0, 20);
    w->p_past = w->p_lazy = w->p_foreign = 0;
    w->p_refused = one_of(w, 0, 0, 25);
    w->p_rewritten = one_of(w, 0, 0, 40);
    w->p_two_keys = w->keys > 1 ? 30 : 0;
    w->p_fault = 0;
    w->p_marker = 100;
}

static void breaking(struct sim *w)
{
    w->keys = one_of(w, 1, 1, 2);
    w->sessions = SIM_SESSIONS;
    w->p_async = one_of(w, 0, 30, 50);
    w->p_all = w->p_foreign = 0;
    w->p_fault = 6;
    w->fault_to = w->p_async > 0 ? FAULTS_CONNECTIONS : FAULTS_LANE;
    w->p_slow_kill = one_of(w, 80, 90, 96);
    w->p_marker = 100;
}

static void dying(struct sim *w)
{
    w->keys = one_of(w, 1, 2, 3);
    w->p_fault = 6;
    w->fault_from = FAULTS_CONNECTIONS;
}

static void toggling(struct sim *w)
{
    w->keys = one_of(w, 1, 1, 2);
    w->sessions = one_of(w, 1, 1, 2);
    w->p_async = 60;
    w->p_toggle = 8;
    w->p_all = w->p_foreign = 0;
}

static void losing(struct sim *w)
{
    w->sessions = SIM_SESSIONS;
    w->p_async = one_of(w, 20, 40, 70);
    w->p_wait = one_of(w, 3, 3, 20);
    w->p_marker = one_of(w, 10, 50, 100);
    w->p_lose = one_of(w, 15, 30, 60);
    w->p_fault = one_of(w, 0, 2, 6);
    w->p_toggle = one_of(w, 0, 0, 3);
}

static void reset(struct sim *w, uint64_t seed, enum sim_profile profile)
{
    w->random = seed * 0x2545f4914f6cdd1du + 1;
    w->violated = false;
    w->now_us = 1000000;
    w->calls = w->conns = w->records = w->tapped = w->outcomes = 0;
    w->next_id = 1;
    w->next_conn = w->clock = w->offset = w->attachment = w->valkeys = w->processes = 0;
    w->nonce = 1;
    w->db = 0;
    w->lane = w->control = w->killer = w->shared = NULL;
    w->lane_wanted = w->open = w->attached = false;
    w->durable_offset = w->last_end_offset = w->last_forwarded = 0;
    w->snapshot = SNAPSHOT_NONE;
    w->lost = w->closed_out = w->abandoned = false;
    w->down = DOWN_NOT;
    memset(w->session, 0, sizeof w->session);
    keyspace_clear(&w->valkey);
    sim_log_reset(&w->log);
    buf_clear(&w->bytes);
    w->keys = 1 + (int)sim_random(w, SIM_KEYS);
    w->sessions = 1 + (int)sim_random(w, SIM_SESSIONS);
    w->p_fault = one_of(w, 0, 2, 6);
    w->p_slow_kill = one_of(w, 0, 0, 90);
    w->p_async = one_of(w, 0, 20, 50);
    w->p_anonymous = one_of(w, 0, 20, 90);
    w->p_refused = one_of(w, 0, 10, 25);
    w->p_past = one_of(w, 0, 50, 80);
    w->p_lazy = one_of(w, 0, 0, 15);
    w->p_two_keys = one_of(w, 0, 25, 50);
    w->p_other = one_of(w, 0, 5, 30);
    w->p_unit = one_of(w, 0, 30, 60);
    w->p_foreign = one_of(w, 0, 2, 5);
    w->p_all = one_of(w, 0, 3, 10);
    w->p_marker = one_of(w, 20, 60, 100);
    w->p_typed = one_of(w, 0, 0, 30);
    w->p_wait = 3;
    w->p_rewritten = 0;
    w->p_lose = one_of(w, 0, 0, 8);
    w->p_return = one_of(w, 5, 10, 40);
    w->p_follow = one_of(w, 0, 40, 80);
    if (profile == SIM_ANY) {
        uint64_t dice = sim_random(w, 100);

        profile = dice < 12   ? SIM_NARROW
                  : dice < 26 ? SIM_BREAKING
                  : dice < 38 ? SIM_DYING
                  : dice < 50 ? SIM_TOGGLING
                  : dice < 65 ? SIM_LOSING
                              : SIM_MIXED;
    }
    w->p_toggle = 0;
    w->fault_from = 0;
    w->fault_to = FAULTS;
    if (profile == SIM_NARROW)
        narrow(w);
    else if (profile == SIM_BREAKING)
        breaking(w);
    else if (profile == SIM_DYING)
        dying(w);
    else if (profile == SIM_TOGGLING)
        toggling(w);
    else if (profile == SIM_LOSING)
        losing(w);
    for (int i = 0; i < w->sessions; i++)
        w->session[i].sync = !sim_chance(w, w->p_async);
}

static struct conn *any_conn(struct sim *w, bool answered)
{
    int n = 0, pick;

    for (int i = 0; i < w->conns; i++)
        n += answered ? w->conn[i]->open && w->conn[i]->answered_count > 0 : w->conn[i]->sent_count > 0;
    if (n == 0)
        return NULL;
    pick = (int)sim_random(w, (uint64_t)n);
    for (int i = 0;; i++)
        if ((answered ? w->conn[i]->open && w->conn[i]->answered_count > 0 : w->conn[i]->sent_count > 0) &&
            pick-- == 0)
            return w->conn[i];
}

/* ---- things that go wrong ---- */

static void break_any(struct sim *w)
{
    for (int tries = 0; tries < 20; tries++) { /* rather one that has something under way */
        struct conn *c = w->conn[sim_random(w, (uint64_t)w->conns)];

        if (!c->open || c == w->control || c == w->killer || c == w->lane || (c->sent_count == 0 && tries < 15))
            continue;
        driver_break(w, c);
        return;
    }
}

static void fault(struct sim *w)
{
    uint64_t dice = (uint64_t)w->fault_from + sim_random(w, (uint64_t)(w->fault_to - w->fault_from));

    if (dice < FAULTS_LANE) {
        if (w->lane != NULL)
            driver_break(w, w->lane);
    } else if (dice < FAULTS_CONNECTIONS) {
        break_any(w);
    } else if (dice < 75) {
        sim_tap_cut(w, false);
    } else if (dice < 83) {
        sim_tap_cut(w, true);
    } else if (dice < 88) {
        sim_valkey_dies(w, false);
    } else if (dice < 92) {
        sim_valkey_dies(w, true);
    } else {
        TRACE(w, "expire\n");
        driver_facts(w);
        seq_expire(w->seq, w->now_us - sim_random(w, 100000));
        driver_decisions(w);
    }
}

static void snapshot(struct sim *w)
{
    if (!w->attached)
        return;
    if (w->snapshot == SNAPSHOT_NONE) {
        w->snapshot = SNAPSHOT_WATCHING;
        driver_facts(w);
        seq_watch_offsets(w->seq, true);
        TRACE(w, "snapshot: watching\n");
    } else if (w->snapshot == SNAPSHOT_WATCHING) {
        w->snapshot = SNAPSHOT_FORKED;
        w->forked_offset = w->offset;
        keyspace_copy(&w->forked, &w->valkey);
        TRACE(w, "snapshot: forked at %llu\n", (unsigned long long)w->offset);
    } else if (w->snapshot == SNAPSHOT_MARKED && w->mark.index <= w->log.durable) {
        w->snapshot = SNAPSHOT_NONE;
    }
}

/* ---- the ordinary ---- */

static bool is_slow(struct sim *w, const struct conn *c)
{
    if (c == w->killer || !c->open) /* what a broken one left may lie there for long */
        return sim_chance(w, w->p_slow_kill);
    return c != w->lane && c != w->control && sim_chance(w, w->p_slow_kill / 2);
}

static void valkey_step(struct sim *w)
{
    struct conn *c;

    for (uint64_t n = 1 + sim_random(w, 3); n > 0 && (c = any_conn(w, false)) != NULL; n--)
        if (!is_slow(w, c))
            valkey_serve(w, c);
}

static void tap_step(struct sim *w)
{
    for (uint64_t n = 1 + sim_random(w, 4); n > 0 && w->attached && w->tapped < w->records; n--)
        driver_tap(w);
    if (sim_chance(w, 70)) {
        driver_facts(w);
        seq_effects_end(w->seq);
        driver_decisions(w);
    }
}

static void log_step(struct sim *w)
{
    if (w->lost && !sim_chance(w, 10)) /* what was under way may still become known as committed */
        return;
    if (sim_chance(w, 60))
        driver_seal(w);
    if (w->log.durable < w->log.sealed && sim_chance(w, 50))
        driver_commit(w, w->log.durable + 1 + sim_random(w, w->log.sealed - w->log.durable));
}

static void rare_step(struct sim *w)
{
    uint64_t dice = sim_random(w, 100);

    if (dice < 40)
        snapshot(w);
    else if (dice < 55)
        valkey_forge(w);
    else if (w->p_async > 0)
        driver_set_sync(w, (int)sim_random(w, (uint64_t)w->sessions), !sim_chance(w, w->p_async));
}

static void group_step(struct sim *w)
{
    if (!w->lost) {
        if (w->p_lose > 0 && sim_random(w, 1000) < (uint64_t)w->p_lose)
            group_lose(w);
    } else if (sim_chance(w, w->p_return)) {
        group_end_of_loss(w);
    } else if (sim_chance(w, 30)) {
        group_tick(w);
    }
}

static void step(struct sim *w)
{
    uint64_t dice = sim_random(w, 100);
    struct conn *c;

    w->now_us += sim_random(w, 8000);
    if (dice < 27) {
        clients_issue(w, (int)sim_random(w, (uint64_t)w->sessions));
    } else if (dice < 48) {
        valkey_step(w);
    } else if (dice < 64) {
        for (uint64_t n = 1 + sim_random(w, 3); n > 0 && (c = any_conn(w, true)) != NULL; n--)
            driver_answer(w, c);
    } else if (dice < 78) {
        tap_step(w);
    } else if (dice < 93) {
        log_step(w);
    } else if (dice < 95) {
        if (w->lane_wanted)
            driver_open_lane(w);
    } else if (dice < 97) {
        rare_step(w);
    } else {
        driver_facts(w);
        seq_tick(w->seq, w->now_us);
        driver_decisions(w);
    }
    if (sim_chance(w, w->p_foreign))
        valkey_change(w);
    if (sim_chance(w, w->p_toggle))
        driver_set_sync(w, (int)sim_random(w, (uint64_t)w->sessions), sim_chance(w, 50));
    if (w->lane_wanted && !w->open)
        driver_open_lane(w);
    if (sim_chance(w, w->p_marker))
        driver_marker(w);
    driver_tracking(w);
    if (w->attached && sim_random(w, 200) < (uint64_t)w->p_fault)
        fault(w);
    group_step(w);
}

bool sim_run(struct sim *w, uint64_t seed, enum sim_profile profile, const char *without, bool trace,
             char why[SIM_WHY_BYTES])
{
    int steps;

    w->trace = trace;
    w->without = without;
    w->why = why;
    why[0] = '\0';
    reset(w, seed, profile);
    sim_start(w);
    steps = 40 + (int)sim_random(w, 300);
    for (int i = 0; i < steps && !w->violated; i++) {
        w->counts.steps++;
        step(w);
        check_snapshot(w);
        if (!w->violated && sim_chance(w, 10)) {
            check_crash(w);
            check_lag(w);
            check_clean(w);
        }
    }
    if (!w->violated)
        check_crash(w);
    if (!w->violated)
        sim_end(w);
    if (!w->violated)
        check_drained(w);
    sim_abandon(w);
    return !w->violated;
}

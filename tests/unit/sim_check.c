/* What must hold in the simulated world. */
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

/* How much of each history the rebuilt one has in common with Valkey's. */
static void common(const struct sim *w, const struct keyspace *rebuilt, int out[SIM_KEYS])
{
    for (int k = 0; k < SIM_KEYS; k++) {
        int n = 0;

        while (n < rebuilt->count[k] && n < w->valkey.count[k] && rebuilt->at[k][n].id == w->valkey.at[k][n].id &&
               rebuilt->at[k][n].saw == w->valkey.at[k][n].saw)
            n++;
        out[k] = n;
    }
}

static const char *history(struct sim *w, const struct keyspace *s, int key)
{
    char *text = w->text[1];
    int at = 0;

    text[0] = '\0';
    for (int i = 0; i < s->count[key] && at < SIM_TEXT_BYTES - 24; i++)
        at += snprintf(text + at, SIM_TEXT_BYTES - (size_t)at, "%s%d", i ? " " : "", s->at[key][i].id);
    return text;
}

static void check_promises(struct sim *w, const struct call *c, const struct keyspace *rebuilt,
                           const int same[SIM_KEYS])
{
    if (c->kind == OP_READ) {
        for (int k = 0; k < SIM_KEYS; k++)
            if (c->seen[k] > same[k])
                sim_violation(w, "read undone: %s, rebuilt %d: %s", call_text(w, c), k, history(w, rebuilt, k));
        return;
    }
    for (int i = 0; i < c->changes; i++)
        if (c->change[i].at >= same[c->change[i].key])
            sim_violation(w, "released and lost or moved: %s at %d of key %d, rebuilt: %s", call_text(w, c),
                          c->change[i].at, c->change[i].key, history(w, rebuilt, c->change[i].key));
}

/* Whether a write left this element of its (and not nothing, or just a tombstone). */
static bool left_element(const struct call *c, int32_t id)
{
    for (int i = 0; i < c->changes; i++)
        if (c->change[i].e.id == id)
            return true;
    return false;
}

/* A unit whole or not at all. What of a transaction Valkey would refuse, replay of its intent may not, while nobody
 * has been told. */
static bool is_torn(const struct call *c, int found)
{
    int whole = 0;

    if (found == 0)
        return false;
    if (c->kind == OP_CAPTURED) {
        for (int j = 0; j < c->changes; j++)
            whole += c->change[j].e.id > 0;
        return found != whole;
    }
    for (int j = 0; j < c->cmds; j++) {
        if (c->cmd[j].verb == ZPUSH || c->cmd[j].verb == GETPUSH)
            return false;
        whole += c->cmd[j].id > 0;
    }
    return found != whole;
}

/* Times each identified element stands in one key; and whether what never had an effect, and was answered so, has one
 * now. */
static void check_elements(struct sim *w, const struct keyspace *rebuilt)
{
    int found[SIM_CALLS_MAX] = {0};

    for (int k = 0; k < SIM_KEYS; k++) {
        memset(w->times[k], 0, (size_t)w->next_id);
        for (int i = 0; i < rebuilt->count[k]; i++) {
            int32_t id = rebuilt->at[k][i].id;
            struct call *c;

            if (id <= 0 || id >= w->next_id)
                continue;
            c = &w->call[w->owner[id]];
            if (++w->times[k][id] > 1)
                sim_violation(w, "applied twice: %s", call_text(w, c));
            found[c->number]++;
            if (c->state == CALL_RELEASED && c->executed && !left_element(c, id))
                sim_violation(w, "refused, and yet there: %s", call_text(w, c));
        }
    }
    for (int i = 0; i < w->calls; i++)
        if (is_torn(&w->call[i], found[i]))
            sim_violation(w, "a unit was torn: %s, %d of it", call_text(w, &w->call[i]), found[i]);
}

static void check_anonymous(struct sim *w, const struct keyspace *rebuilt)
{
    int room[SIM_KEYS] = {0};

    for (int i = 0; i < w->calls; i++) {
        const struct call *c = &w->call[i];

        if (c->kind != OP_WRITE || c->state == CALL_RELEASED)
            continue;
        for (int j = 0; j < c->cmds; j++)
            room[c->cmd[j].key] += c->cmd[j].id == ANONYMOUS && c->cmd[j].verb != DEL;
        for (int j = 0; j < c->changes; j++)
            room[c->change[j].key] -= c->change[j].e.id == ANONYMOUS;
    }
    for (int k = 0; k < SIM_KEYS; k++) {
        for (int i = 0; i < w->valkey.count[k]; i++)
            room[k] += w->valkey.at[k][i].id == ANONYMOUS;
        for (int i = 0; i < rebuilt->count[k]; i++)
            room[k] -= rebuilt->at[k][i].id == ANONYMOUS;
        if (room[k] < 0)
            sim_violation(w, "applied twice: anonymous writes to key %d: %s", k, history(w, rebuilt, k));
    }
}

void check_state(struct sim *w, const struct keyspace *rebuilt)
{
    int same[SIM_KEYS];

    common(w, rebuilt, same);
    for (int i = 0; i < w->calls && !w->violated; i++) {
        const struct call *c = &w->call[i];

        if ((c->state == CALL_RELEASED && c->sync && c->executed) || c->promised)
            check_promises(w, c, rebuilt, same);
    }
    if (!w->violated)
        check_elements(w, rebuilt);
    if (!w->violated)
        check_anonymous(w, rebuilt);
}

void check_crash(struct sim *w)
{
    uint64_t last = w->log.durable + sim_random(w, w->log.sealed - w->log.durable + 1);
    struct sim_rebuilt rebuilt;
    const char *why = sim_log_rebuild(&w->log, last, NULL, &w->rebuilt, &rebuilt);

    w->counts.crashes_looked_at++;
    if (why != NULL)
        sim_violation(w, "%s", why);
    else
        check_state(w, &w->rebuilt);
    for (int k = 0; w->violated && w->trace && k < SIM_KEYS; k++) {
        printf("  key %d: valkey  %s\n", k, history(w, &w->valkey, k));
        printf("         rebuilt %s\n", history(w, &w->rebuilt, k));
    }
    if (w->violated)
        TRACE(w, "(crash now, %llu of %llu entries survive)\n", (unsigned long long)last,
              (unsigned long long)w->log.sealed);
}

/* ---- snapshots ---- */

static bool tap_passed(const struct sim *w, uint64_t offset)
{
    return w->tapped == w->records || w->stream[w->tapped].end_offset > offset;
}

void check_snapshot(struct sim *w)
{
    struct sim_rebuilt rebuilt;
    uint64_t last;
    const char *why;

    if (w->snapshot == SNAPSHOT_FORKED && tap_passed(w, w->forked_offset) &&
        seq_map_offset(w->seq, w->forked_offset, &w->mark)) {
        TRACE(w, "snapshot: fork at %llu is entry %llu, %llu effects, log from %llu\n",
              (unsigned long long)w->forked_offset, (unsigned long long)w->mark.index,
              (unsigned long long)w->mark.effects, (unsigned long long)w->mark.log_from);
        w->snapshot = SNAPSHOT_MARKED;
        seq_watch_offsets(w->seq, false);
    }
    if (w->snapshot != SNAPSHOT_MARKED || w->mark.index > w->log.durable)
        return;
    last = w->mark.index + sim_random(w, w->log.sealed - w->mark.index + 1);
    w->counts.snapshots++;
    why = sim_log_rebuild(&w->log, last, NULL, &w->rebuilt, &rebuilt);
    keyspace_copy(&w->other, &w->forked);
    if (why == NULL)
        why = sim_log_rebuild(&w->log, last, &w->mark, &w->other, &rebuilt);
    if (why != NULL)
        sim_violation(w, "snapshot: %s", why);
    else if (!keyspace_equal(&w->rebuilt, &w->other))
        sim_violation(w,
                      "snapshot of entry %llu, %llu effects, and the log behind it give another state than the log",
                      (unsigned long long)w->mark.index, (unsigned long long)w->mark.effects);
}

/* ---- what the sequencer says of itself ---- */

void check_reopen(struct sim *w)
{
    struct sim_rebuilt rebuilt;
    const char *why = sim_log_rebuild(&w->log, w->log.durable, NULL, &w->rebuilt, &rebuilt);

    if (why != NULL)
        sim_violation(w, "%s", why);
    for (size_t i = 0; i < rebuilt.pending_count; i++)
        if (rebuilt.pending[i] <= w->last_forwarded)
            sim_violation(w, "the lane may open while forwarded intent %llu is not resolved and durable",
                          (unsigned long long)rebuilt.pending[i]);
}

/* Asked when the tap has read all there is, as the proof of a former leader's Valkey does. */
void check_clean(struct sim *w)
{
    struct sim_rebuilt rebuilt;
    uint64_t index;
    const char *why;

    if (!planted_clean(w, &index) || w->tapped < w->records)
        return;
    w->counts.clean++;
    if (index != w->log.durable)
        sim_violation(w, "clean at %llu, durable is %llu", (unsigned long long)index,
                      (unsigned long long)w->log.durable);
    why = sim_log_rebuild(&w->log, index, NULL, &w->rebuilt, &rebuilt);
    if (why != NULL || rebuilt.pending_count > 0 || !keyspace_equal(&w->rebuilt, &w->valkey))
        sim_violation(w, "called clean, but log and Valkey differ: %s",
                      why != NULL                 ? why
                      : rebuilt.pending_count > 0 ? "an intent is pending"
                                                  : "another state");
}

/* Whoever waits for a commit has been told that it will not come. WAIT has a time limit of its own. */
void check_expired(struct sim *w)
{
    uint64_t waits = 0;

    for (int i = 0; i < w->calls; i++) {
        const struct call *c = &w->call[i];

        if (c->state != CALL_OUT)
            continue;
        waits += c->wait;
        if (c->kind == OP_WRITE && c->log_index > w->log.durable)
            sim_violation(w, "the quorum is gone, and this waits for it: %s", call_text(w, c));
    }
    if (seq_figures(w->seq).waiting > waits)
        sim_violation(w, "the quorum is gone, and %llu wait for it",
                      (unsigned long long)(seq_figures(w->seq).waiting - waits));
}

void check_async(struct sim *w, const struct keyspace *rebuilt, uint64_t told)
{
    int same[SIM_KEYS];
    uint64_t lost = 0;

    common(w, rebuilt, same);
    for (int i = 0; i < w->calls; i++) {
        const struct call *c = &w->call[i];
        bool missing = false;

        if (c->sync || c->kind != OP_CAPTURED || c->state != CALL_RELEASED || c->valkey != w->valkeys ||
            c->process != w->processes) /* what an earlier process has told, this one cannot know */
            continue;
        for (int j = 0; j < c->changes; j++)
            missing = missing || c->change[j].at >= same[c->change[j].key];
        lost += missing;
    }
    w->counts.lost_async += lost;
    if (lost > told)
        sim_violation(w, "%llu answered async writes are lost, %llu were said to be", (unsigned long long)lost,
                      (unsigned long long)told);
}

/* ---- lag, and the end ---- */

void check_lag(struct sim *w)
{
    uint64_t oldest = seq_oldest_us(w->seq);

    for (int i = 0; w->attached && i < w->calls; i++) {
        const struct call *c = &w->call[i];
        uint64_t since = 0;

        if (c->attachment != w->attachment || c->state == CALL_FAILED)
            continue;
        if (c->kind == OP_WRITE && c->log_index > w->log.durable)
            since = c->accepted_us;
        else if (c->kind == OP_CAPTURED && c->came && call_is_written(c) && c->end_offset > w->durable_offset)
            since = c->came_us;
        if (since != 0 && (oldest == 0 || oldest > since))
            sim_violation(w, "lag: oldest is %llu, but %llu is not durable: %s", (unsigned long long)oldest,
                          (unsigned long long)since, call_text(w, c));
    }
}

static void check_order(struct sim *w)
{
    uint64_t last[SIM_SESSIONS] = {0};

    for (int i = 0; i < w->calls; i++) {
        const struct call *c = &w->call[i];

        if (!c->executed || c->state == CALL_FAILED)
            continue;
        if (c->executed_at < last[c->session])
            sim_violation(w, "out of its session's order: %s", call_text(w, c));
        last[c->session] = c->executed_at;
    }
}

void check_drained(struct sim *w)
{
    struct seq_figures f = seq_figures(w->seq);
    struct sim_rebuilt rebuilt;
    const char *why;

    for (int i = 0; i < w->calls; i++)
        if (w->call[i].state == CALL_OUT)
            sim_violation(w, "never answered: %s", call_text(w, &w->call[i]));
    if (f.pending_intents + f.tainted_keys + f.waiting + f.ops != 0 || f.tainted_all)
        sim_violation(w, "left over: %llu intents, %llu taints%s, %llu waiting, %llu ops",
                      (unsigned long long)f.pending_intents, (unsigned long long)f.tainted_keys,
                      f.tainted_all ? " (all)" : "", (unsigned long long)f.waiting, (unsigned long long)f.ops);
    if (keys_left(w))
        sim_violation(w, "left over: a key");
    if (seq_oldest_us(w->seq) != 0)
        sim_violation(w, "lag at rest: oldest is %llu", (unsigned long long)seq_oldest_us(w->seq));
    check_order(w);
    why = sim_log_rebuild(&w->log, w->log.durable, NULL, &w->rebuilt, &rebuilt);
    if (why != NULL || rebuilt.pending_count > 0 || !keyspace_equal(&w->rebuilt, &w->valkey))
        sim_violation(w, "at rest log and Valkey differ: %s", why != NULL ? why : "another state");
}

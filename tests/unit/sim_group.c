/* The group in the simulated world: as proxy/core_group.c does it when the log says lost, lead and follow.
 *
 *   lost ──▶ what waits for a commit is failed, now and on every tick; Valkey, tap and lane go on, the open batch
 *            grows; what is in flight may yet be committed
 *     ├─▶ lead, same: barriers have the indexes from the open batch's on; it has moved behind them
 *     └─▶ follow:     some of what was in flight is in the other leader's log, nothing of the open batch is. Its
 *                     Valkey is the log's state with the pending intents resolved; our sequencer is void
 *
 * The other node has a sequencer of its own; when it loses to us again, ours is the one that was void. */
#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

void group_tick(struct sim *w)
{
    if (!w->lost || !w->attached)
        return;
    driver_facts(w);
    if (!planted(w, "expire-on-lost"))
        seq_expire(w->seq, w->now_us + 1);
    driver_decisions(w);
    check_expired(w);
}

/* The tap was cut, or Valkey has died, just before: the node waits for its commits, and they will not come. */
static void lose_detached(struct sim *w)
{
    w->down = sim_chance(w, 60) ? DOWN_TAP : DOWN_VALKEY;
    TRACE(w, "%s, and\n", w->down == DOWN_TAP ? "the tap is cut" : "valkey is gone");
    sim_detach(w, w->down == DOWN_TAP);
    if (w->down == DOWN_VALKEY && sim_chance(w, 50))
        sim_close_out(w);
    w->closed_out = true;
    w->abandoned = true;
    buf_clear(&w->log.open);
    sim_forget(w, w->log.sealed);
}

void group_lose(struct sim *w)
{
    if (sim_chance(w, 10))
        lose_detached(w);
    TRACE(w, "the quorum is gone, %llu of %llu entries are durable\n", (unsigned long long)w->log.durable,
          (unsigned long long)w->log.sealed);
    w->lost = true;
    w->counts.losses++;
    group_tick(w);
}

/* ---- we lead again ---- */

/* What others than the sequencer have noted of the open batch: core_group.c's offsets, node_snapshot.c's mark. */
static void moved(struct sim *w, uint64_t from, uint64_t to)
{
    for (int i = 0; i < w->outcomes; i++)
        if (w->outcome[i].index >= from)
            w->outcome[i].index += to - from;
    for (int i = 0; i < w->calls; i++)
        if (w->call[i].log_index >= from)
            w->call[i].log_index += to - from;
    if (w->snapshot != SNAPSHOT_MARKED || planted(w, "mark-moved"))
        return;
    if (w->mark.index >= from)
        w->mark.index += to - from;
    if (w->mark.log_from >= from)
        w->mark.log_from += to - from;
}

static void come_up(struct sim *w)
{
    if (w->down == DOWN_TAP)
        sim_bridge(w);
    else if (w->down == DOWN_VALKEY)
        sim_rebuild(w);
}

static void begin_anew(struct sim *w)
{
    seq_void(w->seq);
    driver_facts(w);
    seq_committed(w->seq, w->log.durable);
    driver_decisions(w);
    driver_tracking(w);
}

static void lead_again(struct sim *w)
{
    uint64_t from = sim_log_open_index(&w->log), to;

    sim_log_barriers(&w->log, sim_chance(w, 80) ? 1 : (int)sim_random(w, 3));
    to = sim_log_open_index(&w->log);
    TRACE(w, "we lead again: the open batch moves from %llu to %llu\n", (unsigned long long)from,
          (unsigned long long)to);
    w->lost = false;
    w->counts.led_again++;
    if (w->abandoned) {
        w->abandoned = false;
        w->log.durable = to - 1;
        begin_anew(w);
        come_up(w);
        return;
    }
    if (planted(w, "committed-before-moved")) {
        w->log.durable = to - 1;
        seq_committed(w->seq, to - 1);
        driver_decisions(w);
    }
    moved(w, from, to);
    planted_move(w, to);
    driver_commit(w, to - 1);
    come_up(w);
}

/* ---- another one has led ---- */

static void other_leads(struct sim *w)
{
    if (sim_chance(w, 60)) {
        struct seq *s = w->away;

        w->away = w->seq;
        w->seq = s;
    }
    if (w->seq == NULL) {
        sim_new_sequencer(w);
        return;
    }
    w->nonce += 2;
    begin_anew(w);
}

static void follow(struct sim *w)
{
    uint64_t told = seq_answered(w->seq), last = w->log.durable + sim_random(w, w->log.sealed - w->log.durable + 1);
    struct sim_rebuilt rebuilt;
    const char *why;

    TRACE(w, "another node leads, %llu async writes may be lost\n", (unsigned long long)told);
    w->counts.followed++;
    if (w->attached)
        sim_detach(w, true);
    seq_void(w->seq);
    sim_survive(w, last);
    w->lost = w->abandoned = false;
    w->down = DOWN_NOT;
    why = sim_log_rebuild(&w->log, last, NULL, &w->rebuilt, &rebuilt);
    if (why != NULL)
        sim_violation(w, "%s", why);
    else
        check_async(w, &w->rebuilt, told);
    other_leads(w);
    w->closed_out = true; /* that was the other's Valkey */
    sim_rebuild(w);
}

void group_end_of_loss(struct sim *w)
{
    if (!w->lost)
        return;
    check_clean(w);
    if (w->violated)
        return;
    if (sim_chance(w, w->p_follow))
        follow(w);
    else
        lead_again(w);
}

/* Beginnings and ends in the simulated world: a tap that is cut, a Valkey or a Holdfast that dies, a rebuild, and the
 * quiet at the end. */
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

void sim_commit_all(struct sim *w)
{
    driver_seal(w);
    if (w->log.durable < w->log.sealed)
        driver_commit(w, w->log.sealed);
}

void sim_log_attachment(struct sim *w)
{
    struct buf body = {0};

    replay_attach_body(&body, w->offset, "replid", "run_id", false);
    frame_control(&w->log.open, CONTROL_ATTACH, buf_head(&body), body.len);
    buf_free(&body);
    sim_commit_all(w);
}

void sim_new_sequencer(struct sim *w)
{
    w->seq = seq_new();
    if (w->without != NULL)
        seq_without(w->seq, w->without);
    w->nonce += 2;
    driver_facts(w);
    if (w->log.durable > 0)
        seq_committed(w->seq, w->log.durable);
    driver_tracking(w);
}

void sim_attach(struct sim *w, bool bridged)
{
    struct replay *r;
    const struct replay_facts *facts;

    w->log.seen.first = 1;
    w->log.seen.last = w->log.durable;
    r = replay_new(&w->log.seen, NULL);
    while (replay_step(r, NULL, SIZE_MAX))
        ;
    facts = replay_facts(r);
    if (facts->damage != NULL)
        sim_violation(w, "%s", facts->damage);
    for (w->tapped = 0; w->tapped < w->records && w->stream[w->tapped].end_offset <= facts->offset; w->tapped++)
        ;
    if (w->tapped > 0 && w->stream[w->tapped - 1].db_after != facts->db)
        sim_violation(w, "the stream goes on in database %u, the log says %u", w->stream[w->tapped - 1].db_after,
                      facts->db);
    w->last_end_offset = w->durable_offset = facts->offset;
    w->control = conn_new(w);
    w->killer = conn_new(w);
    w->attached = true;
    w->attachment++;
    w->counts.attachments++;
    TRACE(w, "attached at %llu%s, %zu intents pending\n", (unsigned long long)facts->offset,
          bridged ? ", bridged" : "", facts->pending_count);
    driver_facts(w);
    seq_attach(w->seq, facts, bridged);
    driver_decisions(w);
    replay_free(r);
}

/* The worker closes everything, the sequencer lets go of everything; what Valkey has in its sockets may still run,
 * and is killed in the end. */
void sim_detach(struct sim *w, bool valkey_lives)
{
    w->attached = w->open = w->lane_wanted = false;
    w->snapshot = SNAPSHOT_NONE;
    driver_facts(w);
    seq_detach(w->seq);
    driver_decisions(w);
    for (int i = 0; i < w->calls; i++) {
        struct call *c = &w->call[i];

        if (c->state != CALL_OUT)
            continue;
        if (c->road != ROAD_ASYNC && c->road != ROAD_READ)
            sim_violation(w, "forgotten by a detachment: %s", call_text(w, c));
        c->state = CALL_FAILED;
        c->came = true;
        if (c->op != NULL)
            driver_drop(c);
    }
    for (int i = 0; i < w->conns; i++) {
        w->conn[i]->open = false;
        for (uint64_t n = sim_random(w, 4); valkey_lives && n > 0 && w->conn[i]->sent_count > 0; n--)
            if (w->conn[i] != w->control && w->conn[i] != w->killer)
                valkey_serve(w, w->conn[i]);
    }
    w->conns = 0;
    w->lane = w->control = w->killer = w->shared = NULL;
    for (int i = 0; i < SIM_SESSIONS; i++) {
        w->session[i].pinned = w->session[i].reads = NULL;
        w->session[i].unanswered = 0;
    }
}

void sim_forget(struct sim *w, uint64_t last)
{
    while (w->outcomes > 0 && w->outcome[w->outcomes - 1].index > last)
        w->outcomes--;
}

void sim_survive(struct sim *w, uint64_t last)
{
    TRACE(w, "%llu of %llu entries survive\n", (unsigned long long)last, (unsigned long long)w->log.sealed);
    sim_log_survive(&w->log, last);
    sim_forget(w, last);
}

static void restart(struct sim *w)
{
    TRACE(w, "holdfast is gone\n");
    w->lost = false;
    sim_survive(w, w->log.durable + sim_random(w, w->log.sealed - w->log.durable + 1));
    seq_free(w->seq);
    sim_new_sequencer(w);
    w->counts.restarts++;
    w->processes++;
}

void sim_start(struct sim *w)
{
    sim_new_sequencer(w);
    sim_log_attachment(w);
    sim_attach(w, false);
}

/* While the quorum is gone, the node waits until what has been appended is committed, or void. */
static bool must_wait(struct sim *w)
{
    return w->lost && (w->log.open.len > 0 || w->log.durable < w->log.sealed || sim_chance(w, 50));
}

void sim_tap_cut(struct sim *w, bool process_too)
{
    TRACE(w, "the tap is cut\n");
    sim_detach(w, true);
    if (process_too)
        restart(w);
    if (sim_chance(w, 30))
        valkey_change(w);
    if (must_wait(w)) {
        w->down = DOWN_TAP;
        return;
    }
    sim_bridge(w);
}

void sim_bridge(struct sim *w)
{
    sim_commit_all(w);
    w->down = DOWN_NOT;
    w->nonce += sim_chance(w, 50) ? 2 : 0; /* each attachment has its own; the same must do no harm either */
    sim_attach(w, true);
}

static void begin_again(struct sim *w, const struct keyspace *state)
{
    keyspace_copy(&w->valkey, state);
    memset(w->foreign, 0, sizeof w->foreign);
    w->records = w->tapped = 0;
    buf_clear(&w->bytes);
    w->offset += 1000;
    w->db = 0;
    w->outcomes = 0;
}

void sim_close_out(struct sim *w)
{
    w->closed_out = true;
    driver_facts(w);
    seq_close_out(w->seq);
    driver_decisions(w);
}

void sim_valkey_dies(struct sim *w, bool process_too)
{
    TRACE(w, "valkey is gone\n");
    w->counts.rebuilds++;
    sim_detach(w, false);
    w->closed_out = process_too;
    if (process_too)
        restart(w);
    if (w->lost) {
        w->down = DOWN_VALKEY;
        if (sim_chance(w, 50))
            sim_close_out(w);
        return;
    }
    sim_rebuild(w);
}

/* The node's part of a rebuild: an OUTCOME for what is pending, then state = log. */
void sim_rebuild(struct sim *w)
{
    struct sim_rebuilt rebuilt;
    const char *why;

    if (!w->closed_out)
        sim_close_out(w);
    w->down = DOWN_NOT;
    w->valkeys++;
    sim_commit_all(w);
    why = sim_log_rebuild(&w->log, w->log.durable, NULL, &w->rebuilt, &rebuilt);
    if (why != NULL) {
        sim_violation(w, "%s", why);
        return;
    }
    check_state(w, &w->rebuilt);
    if (rebuilt.pending_count > 0) {
        struct buf items = {0};

        for (size_t i = 0; i < rebuilt.pending_count; i++)
            item_try(&items, rebuilt.pending[i], 1);
        item_resolved(&items, rebuilt.pending[rebuilt.pending_count - 1]);
        frame_outcome(&w->log.open, rebuilt.facts.offset, &items);
        buf_free(&items);
        sim_commit_all(w);
    }
    begin_again(w, &w->rebuilt);
    sim_log_attachment(w);
    why = sim_log_rebuild(&w->log, w->log.durable, NULL, &w->rebuilt, &rebuilt);
    if (why != NULL || rebuilt.pending_count > 0 || !keyspace_equal(&w->rebuilt, &w->valkey))
        sim_violation(w, "after a rebuild log and Valkey differ: %s", why != NULL ? why : "another state");
    sim_attach(w, false);
}

/* ---- the end ---- */

static bool serve_all(struct sim *w)
{
    bool any = false;

    for (int i = 0; i < w->conns; i++) {
        struct conn *c = w->conn[i];

        for (; c->sent_count > 0; any = true)
            valkey_serve(w, c);
        for (; c->open && c->answered_count > 0; any = true)
            driver_answer(w, c);
    }
    for (; w->tapped < w->records; any = true)
        driver_tap(w);
    return any;
}

static void rest(struct sim *w)
{
    int quiet = 0;

    for (int round = 0; round < 200 && quiet < 4 && !w->violated; round++) {
        bool any = serve_all(w);

        driver_facts(w);
        seq_effects_end(w->seq);
        driver_decisions(w);
        if (w->lane_wanted) {
            driver_open_lane(w);
            any = true;
        }
        driver_seal(w);
        if (w->log.durable < w->log.sealed) {
            sim_commit_all(w);
            any = true;
        }
        driver_tracking(w);
        w->now_us += 60000;
        driver_facts(w);
        seq_tick(w->seq, w->now_us);
        driver_decisions(w);
        driver_marker(w);
        quiet = any ? 0 : quiet + 1;
    }
    if (quiet < 4)
        sim_violation(w, "it never comes to rest");
}

/* No more faults and no more clients: in a few rounds everything must be answered and durable; then nothing may be
 * touched any more and nothing is tainted, so that each read is released at once (but for one, after which the tap
 * has passed a marker in any case). */
void sim_end(struct sim *w)
{
    w->p_fault = w->p_lose = 0;
    group_end_of_loss(w);
    rest(w);
    w->session[0].sync = true;
    driver_tracking(w);
    for (int key = -1; key < SIM_KEYS && !w->violated; key++) {
        struct call *c = clients_read(w, key);

        if (key == -1)
            rest(w);
        if (c->state != CALL_RELEASED)
            sim_violation(w, "at rest a read of key %d has to wait", key);
    }
    if (!w->violated && clients_read(w, -1)->state != CALL_RELEASED)
        sim_violation(w, "at rest a read of all keys has to wait");
}

/* Whatever state the run ended in: everything is given back. */
void sim_abandon(struct sim *w)
{
    if (w->attached)
        sim_detach(w, false);
    seq_free(w->seq);
    if (w->away != NULL)
        seq_free(w->away);
    w->seq = w->away = NULL;
    for (int i = 0; i < w->calls; i++)
        keyset_clear(&w->call[i].keys);
}

/* The core's and the worker's part in the simulated world: facts to the sequencer, its decisions carried out. As
 * proxy/core.c does it, and as much at random as that may be. */
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

void driver_facts(struct sim *w)
{
    seq_log_open(w->seq, sim_log_open_index(&w->log));
}

/* ---- decisions ---- */

static void op_free(struct op *op)
{
    buf_free(&op->request);
    buf_free(&op->reply);
    keyset_clear(&op->keys);
    free(op->args);
    free(op);
}

static struct call *call_of(struct sim *w, const struct op *op)
{
    if (op->session != NULL)
        return (struct call *)(void *)op->session;
    for (int i = w->calls; i-- > 0;) /* the newest: a number whose intent was lost is given again */
        if (op->kind == OP_WRITE && w->call[i].seq == op->seq)
            return &w->call[i];
    return NULL;
}

static void came(struct sim *w, struct call *c)
{
    if (c->came)
        return;
    c->came = true;
    c->came_us = w->now_us;
    w->session[c->session].unanswered--;
}

static void promise(struct sim *w, const struct call *wait)
{
    w->counts.waits++;
    for (int i = 0; i < wait->number; i++) {
        struct call *c = &w->call[i];

        if (c->session == wait->session && !c->sync && c->kind == OP_CAPTURED && c->state == CALL_RELEASED &&
            c->valkey == w->valkeys)
            c->promised = true;
        if (c->kind == OP_WRITE && c->attachment == wait->attachment && c->log_index > w->log.durable)
            sim_violation(w, "WAIT was answered, and before it there was %s", call_text(w, c));
    }
}

static void released(struct sim *w, struct op *op)
{
    struct call *c = call_of(w, op);

    CHECK(c != NULL && op->session != NULL);
    if (!c->came && !c->wait)
        sim_violation(w, "released before its reply came: %s", call_text(w, c));
    if (c->state != CALL_OUT)
        sim_violation(w, "released, and answered before: %s", call_text(w, c));
    came(w, c);
    c->state = CALL_RELEASED;
    c->op = NULL;
    if (c->wait)
        promise(w, c);
    if (c->sync)
        *(c->kind == OP_READ ? &w->counts.released_reads : &w->counts.released_writes) += 1;
    TRACE(w, "  RELEASE %s\n", call_text(w, c));
    op_free(op);
}

static void failed(struct sim *w, struct op *op)
{
    struct call *c = call_of(w, op);

    CHECK(c != NULL && op->session != NULL);
    if (c->state != CALL_OUT)
        sim_violation(w, "failed, and answered before: %s", call_text(w, c));
    came(w, c);
    c->state = CALL_FAILED;
    c->op = NULL;
    w->counts.failed++;
    TRACE(w, "  FAIL %s\n", call_text(w, c));
    op_free(op);
}

static void forward(struct sim *w, struct op *op)
{
    struct call *c = call_of(w, op);

    CHECK(c != NULL);
    if (w->lane == NULL) {
        sim_violation(w, "forwarded although there is no lane: %s", call_text(w, c));
        return;
    }
    if (op->kind == OP_WRITE) {
        if (op->log_index > w->log.durable)
            sim_violation(w, "forwarded before its intent is durable: %s", call_text(w, c));
        if (op->seq <= w->last_forwarded)
            sim_violation(w, "forwarded out of order: %s", call_text(w, c));
        w->last_forwarded = op->seq;
    }
    c->op = op;
    c->conn = w->lane;
    conn_send(w, w->lane, (struct item){.what = SEND_CALL, .call = c});
    TRACE(w, "  FORWARD %s seq %llu\n", call_text(w, c), (unsigned long long)op->seq);
}

static void intent(struct sim *w, struct op *op, uint64_t index)
{
    struct call *c = call_of(w, op);

    CHECK(c != NULL && op->seq != 0);
    if (index != sim_log_open_index(&w->log) || op->log_index != index)
        sim_violation(w, "intent for entry %llu while %llu is open", (unsigned long long)index,
                      (unsigned long long)sim_log_open_index(&w->log));
    c->seq = op->seq;
    c->log_index = index;
    frame_intent(&w->log.open, op->seq, op->db, buf_head(&op->request), op->request.len);
    TRACE(w, "  INTENT %s seq %llu in entry %llu\n", call_text(w, c), (unsigned long long)op->seq,
          (unsigned long long)index);
}

static void trace_items(const struct buf *items)
{
    struct cursor c = cursor_of(buf_head(items), items->len);
    struct item_view i;

    while (item_next(&c, &i)) {
        if (i.kind == ITEM_REF)
            printf(" REF %llu+%llu", (unsigned long long)i.seq, (unsigned long long)i.count);
        else if (i.kind == ITEM_RESOLVED)
            printf(" RESOLVED %llu", (unsigned long long)i.seq);
        else
            printf(" RAW");
    }
    printf("\n");
}

static void count_transactions(struct sim *w, const struct buf *items)
{
    struct cursor c = cursor_of(buf_head(items), items->len);
    struct item_view i;

    while (item_next(&c, &i))
        for (int k = 0; i.kind == ITEM_REF && k < w->calls; k++) {
            uint64_t seq = w->call[k].seq;

            w->counts.transactions += w->call[k].cmds > 1 && seq >= i.seq && seq < i.seq + i.count;
        }
}

static void outcome(struct sim *w, struct seq_decision *d)
{
    if (d->index != sim_log_open_index(&w->log))
        sim_violation(w, "outcome for entry %llu while %llu is open", (unsigned long long)d->index,
                      (unsigned long long)sim_log_open_index(&w->log));
    if (d->end_offset < w->last_end_offset)
        sim_violation(w, "outcomes go back in the stream");
    w->last_end_offset = d->end_offset;
    count_transactions(w, &d->items);
    frame_outcome(&w->log.open, d->end_offset, &d->items);
    CHECK(w->outcomes < SIM_OUTCOMES_MAX);
    w->outcome[w->outcomes].index = d->index;
    w->outcome[w->outcomes++].end_offset = d->end_offset;
    if (w->trace) {
        printf("  OUTCOME in entry %llu to %llu:", (unsigned long long)d->index, (unsigned long long)d->end_offset);
        trace_items(&d->items);
    }
    buf_free(&d->items);
}

void driver_decisions(struct sim *w)
{
    struct seq_decision d;

    while (seq_next(w->seq, &d)) {
        switch (d.act) {
        case SEQ_INTENT:
            intent(w, d.op, d.index);
            break;
        case SEQ_OUTCOME:
            outcome(w, &d);
            break;
        case SEQ_URGE:
            break;
        case SEQ_FORWARD:
            forward(w, d.op);
            break;
        case SEQ_KILL:
            conn_send(w, w->killer, (struct item){.what = SEND_KILL, .number = d.number});
            break;
        case SEQ_REOPEN:
            if (w->lane != NULL)
                sim_violation(w, "told to open the lane that is open");
            check_reopen(w);
            w->lane_wanted = true;
            break;
        case SEQ_RELEASE:
            released(w, d.op);
            break;
        case SEQ_FAIL:
            failed(w, d.op);
            break;
        }
    }
}

/* ---- replies ---- */

/* A worker that is told that all is calm does not ask: then no read may be held, whatever it names. */
static void answered_read(struct sim *w, struct op *op)
{
    bool calm = seq_is_calm(w->seq);
    uint64_t before = seq_figures(w->seq).ops;

    op->accepted_us = w->now_us;
    seq_read(w->seq, op);
    CHECK(!calm || seq_figures(w->seq).ops == before);
    w->counts.calm += calm;
}

static void answered_call(struct sim *w, struct call *c)
{
    struct op *op = c->op;

    came(w, c);
    TRACE(w, "reply to %s%s\n", call_text(w, c), c->error ? ": error" : "");
    if (c->road == ROAD_ASYNC) {
        c->state = CALL_RELEASED;
        seq_async_end(w->seq, c->epoch, w->now_us);
        return;
    }
    if (op == NULL)
        return;
    op->error = c->error;
    c->op = NULL;
    if (c->road == ROAD_LANE) {
        seq_lane_reply(w->seq, op, w->now_us);
    } else if (c->road == ROAD_PINNED) {
        seq_end(w->seq, op, w->now_us);
    } else {
        answered_read(w, op);
    }
}

void driver_answer(struct sim *w, struct conn *c)
{
    struct item item = c->answered[c->answered_head];

    CHECK(c->answered_count > 0 && c->open);
    c->answered_head = (c->answered_head + 1) % SIM_ITEMS_MAX;
    c->answered_count--;
    driver_facts(w);
    if (item.what == SEND_CALL)
        answered_call(w, item.call);
    else if (item.what == SEND_KILL)
        seq_killed(w->seq, item.number);
    else if (item.refused)
        seq_marker_refused(w->seq);
    driver_decisions(w);
}

/* ---- markers and the tap ---- */

void driver_marker(struct sim *w)
{
    struct item item = {.what = SEND_MARKER};
    bool on_control;

    if (!w->attached || !seq_wants_marker(w->seq, &on_control))
        return;
    driver_facts(w);
    item.number = seq_marker_sent(w->seq, w->now_us, &item.resolves);
    TRACE(w, "marker %llu up to %llu on the %s\n", (unsigned long long)item.number, (unsigned long long)item.resolves,
          on_control ? "control connection" : "lane");
    conn_send(w, on_control ? w->control : w->lane, item);
    driver_decisions(w);
}

static void tap_effect(struct sim *w, const struct record *r);

/* The clause that is the tap's part: without it, a unit comes as its commands. */
static void tap_torn(struct sim *w, const struct record *unit)
{
    size_t at = unit->at, end = unit->at + unit->n, used;
    uint32_t db = unit->db_before;

    for (int i = -1; at < end; at += used) {
        struct arg words[SIM_WORDS_MAX];
        struct record r = *unit;
        const char *bytes = buf_head(&w->bytes) + at;

        (void)cmd_words(bytes, end - at, words, &used);
        if (i >= 0 && words[0].len == 6) /* SELECT */
            db = (uint32_t)(bytes[words[1].at] - '0');
        else if (++i > 0 && i <= unit->cmds) {
            r.unit = false;
            r.at = at;
            r.n = used;
            r.cmd[0] = unit->cmd[i - 1];
            r.cmds = 1;
            r.db_before = r.db_after = db;
            r.end_offset = unit->end_offset - (end - at - used);
            tap_effect(w, &r);
            driver_facts(w);
            seq_effects_end(w->seq);
            driver_decisions(w);
            if (sim_chance(w, 20))
                driver_seal(w);
        }
    }
}

static void tap_effect(struct sim *w, const struct record *r)
{
    struct keyset keys = {0};
    struct arg words[SIM_WORDS_MAX];
    struct argv single = {buf_head(&w->bytes) + r->at, r->n, words, 0};
    struct seq_effect e = {.db_before = r->db_before,
                           .db_after = r->db_after,
                           .bytes = single.bytes,
                           .n = r->n,
                           .single = r->unit ? NULL : &single,
                           .keys = &keys,
                           .end_offset = r->end_offset};
    size_t used;

    if (r->unit && w->without != NULL && strcmp(w->without, "units-whole") == 0) {
        tap_torn(w, r);
        return;
    }
    single.count = r->unit ? 0 : cmd_words(single.bytes, r->n, words, &used);
    for (int i = 0; seq_tracking(w->seq) && i < r->cmds; i++)
        cmd_keys(&keys, &r->cmd[i]);
    driver_facts(w);
    seq_effect(w->seq, &e);
    driver_decisions(w);
    keyset_clear(&keys);
}

void driver_tap(struct sim *w)
{
    struct record *r = &w->stream[w->tapped];

    CHECK(w->attached && w->tapped < w->records);
    w->tapped++;
    if (r->kind == RECORD_SILENT)
        return;
    TRACE(w, "tap: %s to %llu\n",
          r->kind == RECORD_MARKER ? "marker"
          : r->unit                ? "unit"
                                   : "effect",
          (unsigned long long)r->end_offset);
    if (r->kind == RECORD_MARKER && r->nonce == w->nonce) {
        bool seen;

        driver_facts(w);
        seq_stream_db(w->seq, r->db_after);
        seen = seq_marker_seen(w->seq, r->number, r->resolves, r->end_offset);
        driver_decisions(w);
        if (seen && r->resolves >= 100000)
            sim_violation(w, "a forged marker was taken for ours: %llu", (unsigned long long)r->number);
        if (seen)
            return;
    }
    tap_effect(w, r);
}

/* ---- the log ---- */

void driver_seal(struct sim *w)
{
    if (!w->lost && sim_log_seal(&w->log))
        TRACE(w, "log: entry %llu is sealed\n", (unsigned long long)w->log.sealed);
}

void driver_commit(struct sim *w, uint64_t index)
{
    w->log.durable = index;
    for (int i = 0; i < w->outcomes && w->outcome[i].index <= index; i++)
        w->durable_offset = w->outcome[i].end_offset;
    TRACE(w, "log: durable up to %llu\n", (unsigned long long)index);
    driver_facts(w);
    seq_committed(w->seq, index);
    driver_decisions(w);
}

/* ---- connections that open and break ---- */

void driver_open_lane(struct sim *w)
{
    w->lane_wanted = false;
    w->lane = conn_new(w);
    w->open = true;
    TRACE(w, "lane opened: client %llu\n", (unsigned long long)w->lane->id);
    driver_facts(w);
    seq_lane_opened(w->seq);
    driver_decisions(w);
}

void driver_drop(struct call *c)
{
    op_free(c->op);
    c->op = NULL;
}

static void break_call(struct sim *w, struct call *c)
{
    if (c->road == ROAD_PINNED) {
        seq_broken(w->seq, c->op, c->conn->id);
        return;
    }
    came(w, c);
    c->state = CALL_FAILED;
    if (c->road == ROAD_ASYNC)
        seq_async_end(w->seq, c->epoch, w->now_us);
    else
        driver_drop(c);
}

void driver_break(struct sim *w, struct conn *c)
{
    if (c->sent_count > 0) /* the rest never reached Valkey's socket; what did may still run */
        c->sent_count = (int)sim_random(w, (uint64_t)c->sent_count + 1);
    c->open = false;
    c->answered_count = 0;
    TRACE(w, "client %llu%s broke, %d commands left in its socket\n", (unsigned long long)c->id,
          c == w->lane ? ", the lane," : "", c->sent_count);
    driver_facts(w);
    if (c == w->lane) {
        w->lane = NULL;
        w->counts.lanes_broken++;
        seq_lane_broken(w->seq, c->id);
    } else {
        if (c == w->shared) {
            w->shared = NULL;
            seq_broken_async(w->seq, c->id);
        }
        for (int i = 0; i < w->sessions; i++) {
            if (w->session[i].pinned == c)
                w->session[i].pinned = NULL;
            if (w->session[i].reads == c)
                w->session[i].reads = NULL;
        }
        for (int i = 0; i < w->calls; i++)
            if (w->call[i].conn == c && !w->call[i].came)
                break_call(w, &w->call[i]);
    }
    driver_decisions(w);
}

/* ---- modes ---- */

void driver_tracking(struct sim *w)
{
    int sync = 0;

    for (int i = 0; i < w->sessions; i++)
        sync += w->session[i].sync;
    driver_facts(w);
    seq_track(w->seq, sync > 0);
    driver_decisions(w);
}

void driver_set_sync(struct sim *w, int session, bool sync)
{
    w->session[session].sync = sync;
    TRACE(w, "session %d is %s\n", session, sync ? "sync" : "async");
    driver_tracking(w);
}

/* The sequencer's entrances for writes, reads and commits; see sequencer.h for the rule and an example.
 *
 * Where an op can be (op->phase, set by seq_set_phase() alone), and what moves it on:
 *
 *   replayable:  QUEUED ──commit──▶ FORWARDED ──marker──▶ RESOLVED ──reply──▶ WAITING ──commit──▶ out
 *                (queue)            (unresolved)  └─(reply came before)────────▶ (waiting)
 *   lane captured: QUEUED ────────▶ FORWARDED (a marker's list) ─────────────▶ WAITING ───────▶ out
 *   pinned captured: FLIGHT ──reply──▶ MARKER (a marker's list) ──marker──▶ WAITING ──────────▶ out
 *   read:                              MARKER or WAITING, or straight out
 *
 * An op waits for ONE log index, found once: when the tap has passed everything that the op can have seen or done.
 * What happens to its keys later does not concern it, so a busy key cannot hold it for ever. */
#include <string.h>

#include "proxy/seq_internal.h"

#ifdef SEQ_CLAUSES
const char *const seq_clauses[] = {"cut-at-marker",
                                   "taint",
                                   "wait-for-marker",
                                   "captured-waits",
                                   "reads-wait",
                                   "reads-see-tap",
                                   "no-effect-taints",
                                   "taint-follows-data",
                                   "refused-waits",
                                   "equal-bytes",
                                   "skipped-taints",
                                   "units-whole",
                                   "kill-before-marker",
                                   "rewritten-in-time",
                                   NULL};

void seq_without(struct seq *s, const char *clause)
{
    for (int i = 0; seq_clauses[i] != NULL; i++)
        if (clause != NULL && strcmp(seq_clauses[i], clause) == 0)
            s->without = i;
}
#endif

void ring_push(struct ring *r, uint64_t index, uint64_t value)
{
    if (r->count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        struct dated *at = must_calloc(cap, sizeof *at);

        for (size_t i = 0; i < r->count; i++)
            at[i] = r->at[(r->head + i) & (r->cap - 1)];
        free(r->at);
        r->at = at;
        r->cap = cap;
        r->head = 0;
    }
    r->at[(r->head + r->count++) & (r->cap - 1)] = (struct dated){index, value};
}

struct dated *ring_first(struct ring *r)
{
    return r->count ? &r->at[r->head] : NULL;
}

void ring_pop(struct ring *r)
{
    CHECK(r->count > 0);
    r->head = (r->head + 1) & (r->cap - 1);
    r->count--;
}

void dates_push(struct ring *r, uint64_t index, uint64_t since_us)
{
    while (r->count > 0) {
        const struct dated *last = &r->at[(r->head + r->count - 1) & (r->cap - 1)];

        index = index > last->index ? index : last->index;
        if (last->since_us < since_us)
            break;
        r->count--; /* younger, and durable no later: the new one stands for both */
    }
    ring_push(r, index, since_us);
}

void ring_free(struct ring *r)
{
    free(r->at);
    memset(r, 0, sizeof *r);
}

struct seq *seq_new(void)
{
    struct seq *s = must_calloc(1, sizeof *s);

    TAILQ_INIT(&s->queue);
    TAILQ_INIT(&s->unresolved);
    TAILQ_INIT(&s->resolved);
    TAILQ_INIT(&s->flying);
    TAILQ_INIT(&s->waiting);
    TAILQ_INIT(&s->open_waiting);
    TAILQ_INIT(&s->pending_marker);
    TAILQ_INIT(&s->flights);
    TAILQ_INIT(&s->closing);
    TAILQ_INIT(&s->killing);
    s->next_seq = s->next_marker = 1;
    epochs_reset(s);
#ifdef SEQ_CLAUSES
    s->without = -1;
#endif
    return s;
}

void seq_free(struct seq *s)
{
    struct seq_decision d;

    CHECK(s->figures.ops == 0);
    while (seq_next(s, &d))
        buf_free(&d.items);
    keys_clear(s);
    markers_drop(s, UINT64_MAX);
    free(s->markers);
    for (size_t i = 0; i < s->epoch_count; i++)
        free(s->epochs[i].filter);
    buf_free(&s->items);
    ring_free(&s->open_taints);
    ring_free(&s->tainted);
    ring_free(&s->intent_dates);
    ring_free(&s->answer_dates);
    free(s->passed);
    free(s->out);
    free(s);
}

/* ---- decisions ---- */

struct seq_decision *seq_decide(struct seq *s, enum seq_act act, struct op *op)
{
    struct seq_decision *d;

    if (s->out_count == s->out_cap) {
        size_t cap = s->out_cap ? 2 * s->out_cap : 64;
        struct seq_decision *out = must_calloc(cap, sizeof *out);

        for (size_t i = 0; i < s->out_count; i++)
            out[i] = s->out[(s->out_head + i) & (s->out_cap - 1)];
        free(s->out);
        s->out = out;
        s->out_cap = cap;
        s->out_head = 0;
    }
    d = &s->out[(s->out_head + s->out_count++) & (s->out_cap - 1)];
    memset(d, 0, sizeof *d);
    d->act = act;
    d->op = op;
    d->index = s->open_index;
    return d;
}

bool seq_next(struct seq *s, struct seq_decision *out)
{
    if (s->out_count == 0)
        return false;
    *out = s->out[s->out_head];
    s->out_head = (s->out_head + 1) & (s->out_cap - 1);
    s->out_count--;
    return true;
}

void seq_set_phase(struct op *op, enum phase phase)
{
    CHECK(op->phase != PHASE_OUT || phase == PHASE_NEW);
    op->phase = (uint8_t)phase;
}

void seq_let_go(struct seq *s, struct op *op, enum seq_act act)
{
    CHECK(act == SEQ_RELEASE || act == SEQ_FAIL);
    seq_set_phase(op, PHASE_OUT);
    s->figures.ops--;
    if (!op->ghost) {
        seq_decide(s, act, op);
        return;
    }
    buf_free(&op->request);
    buf_free(&op->sent);
    buf_free(&op->reply);
    keyset_clear(&op->keys);
    free(op->args);
    free(op);
}

void seq_hold(struct seq *s, struct op *op, uint64_t need)
{
    op->need = need;
    if (need <= s->durable) {
        seq_let_go(s, op, SEQ_RELEASE);
        return;
    }
    seq_set_phase(op, PHASE_WAITING);
    if (need == NEED_OPEN) {
        TAILQ_INSERT_TAIL(&s->open_waiting, op, in_core);
        return;
    }
    TAILQ_INSERT_TAIL(&s->waiting, op, in_core);
    if (need >= s->open_index)
        seq_decide(s, SEQ_URGE, NULL);
}

static void enter(struct seq *s, struct op *op)
{
    op->marker = op->need = op->seq = op->log_index = op->came_us = 0;
    op->referred = op->rewritten = op->skipped = op->orphan = op->ghost = false;
    op->flight = NULL;
    op->phase = PHASE_NEW;
    s->figures.ops++;
}

/* ---- the log ---- */

void seq_log_open(struct seq *s, uint64_t open_index)
{
    CHECK(open_index >= s->open_index);
    CHECK(s->out_count == 0);
    s->open_index = open_index;
}

void seq_committed(struct seq *s, uint64_t index)
{
    struct op *op, *next;
    struct dated *d;

    CHECK(index >= s->durable);
    s->durable = index;
    while ((d = ring_first(&s->intent_dates)) != NULL && d->index <= index)
        ring_pop(&s->intent_dates);
    while ((d = ring_first(&s->answer_dates)) != NULL && d->index <= index)
        ring_pop(&s->answer_dates);
    taint_expire(s);
    lane_forward(s);
    for (op = TAILQ_FIRST(&s->waiting); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        if (op->need <= index) {
            TAILQ_REMOVE(&s->waiting, op, in_core);
            seq_let_go(s, op, SEQ_RELEASE);
        }
    }
    if (s->lane_recovering && s->recover_index != 0 && s->recover_index <= index) {
        s->lane_recovering = false;
        seq_decide(s, SEQ_REOPEN, NULL);
    }
}

/* ---- writes ---- */

void seq_write(struct seq *s, struct op *op, uint64_t now_us)
{
    CHECK(op->kind == OP_WRITE);
    enter(s, op);
    op->accepted_us = now_us;
    if (!s->attached) {
        seq_let_go(s, op, SEQ_FAIL);
        return;
    }
    op->seq = s->next_seq++;
    op->log_index = s->open_index;
    seq_set_phase(op, PHASE_QUEUED);
    TAILQ_INSERT_TAIL(&s->queue, op, in_core);
    if (s->intent_dates.count == 0 ||
        s->intent_dates.at[(s->intent_dates.head + s->intent_dates.count - 1) & (s->intent_dates.cap - 1)].index !=
            s->open_index)
        ring_push(&s->intent_dates, s->open_index, now_us);
    seq_decide(s, SEQ_INTENT, op);
}

void seq_lane_captured(struct seq *s, struct op *op, uint64_t now_us)
{
    CHECK(op->kind == OP_CAPTURED);
    enter(s, op);
    op->accepted_us = now_us;
    if (!s->attached) {
        seq_let_go(s, op, SEQ_FAIL);
        return;
    }
    seq_set_phase(op, PHASE_QUEUED);
    TAILQ_INSERT_TAIL(&s->queue, op, in_core);
    lane_forward(s);
}

/* An answer to a write that is not durable yet was read: from now on it counts for the lag. */
static void answered(struct seq *s, uint64_t now_us)
{
    if (s->unmarked_first_us == 0)
        s->unmarked_first_us = now_us;
}

void seq_begin(struct seq *s, struct op *op)
{
    CHECK(op->kind == OP_CAPTURED);
    enter(s, op);
    if (!s->attached) {
        seq_let_go(s, op, SEQ_FAIL);
        return;
    }
    op->flight = flight_new(s, &op->keys);
    seq_set_phase(op, PHASE_FLIGHT);
    TAILQ_INSERT_TAIL(&s->flying, op, in_core);
}

void seq_end(struct seq *s, struct op *op, uint64_t now_us)
{
    if (op->phase == PHASE_OUT)
        return;
    CHECK(op->phase == PHASE_FLIGHT);
    TAILQ_REMOVE(&s->flying, op, in_core);
    flight_close(s, op->flight);
    op->flight = NULL;
    op->came = true;
    op->came_us = now_us;
    answered(s, now_us);
    s->answered += !op->sync;
    if (!op->sync || !RULE(s, CAPTURED_WAITS)) {
        seq_let_go(s, op, SEQ_RELEASE);
        return;
    }
    seq_set_phase(op, PHASE_MARKER);
    op->marker = s->next_marker;
    TAILQ_INSERT_TAIL(&s->pending_marker, op, in_core);
    s->marker_wanted = true;
}

void seq_wait(struct seq *s, struct op *op)
{
    enter(s, op);
    if (!s->attached) {
        seq_let_go(s, op, SEQ_FAIL);
        return;
    }
    op->came = true;
    if (s->intent_dates.count > 0) /* the newest intent's entry, not the open one: that may stay empty */
        op->log_index =
            s->intent_dates.at[(s->intent_dates.head + s->intent_dates.count - 1) & (s->intent_dates.cap - 1)].index;
    op->marker = s->next_marker;
    seq_set_phase(op, PHASE_MARKER);
    TAILQ_INSERT_TAIL(&s->pending_marker, op, in_core);
    s->marker_wanted = true;
}

/* ---- async writes ---- */

uint64_t seq_epoch(const struct seq *s)
{
    return s->epochs[s->epoch_count - 1].number;
}

static struct epoch *epoch_at(struct seq *s, uint64_t number)
{
    for (size_t i = s->epoch_count; i-- > 0;)
        if (s->epochs[i].number == number)
            return &s->epochs[i];
    return NULL;
}

void seq_async_begin(struct seq *s, uint64_t epoch)
{
    struct epoch *e = epoch_at(s, epoch);

    if (e == NULL) /* of a Valkey that was lost */
        return;
    e->inflight++;
    e->used = true;
    if (!s->tracking)
        e->all = true;
}

void seq_async_end(struct seq *s, uint64_t epoch, uint64_t now_us)
{
    struct epoch *e = epoch_at(s, epoch);

    if (e == NULL)
        return;
    CHECK(e->inflight > 0);
    e->inflight--;
    s->answered++;
    answered(s, now_us);
}

/* ---- reads ---- */

/* The marker after which the tap has passed all that the read may have seen; 0 = it has already. Clause 4. */
static uint64_t read_marker(struct seq *s, const struct keyset *keys)
{
    uint64_t marker = 0;

    if (keys->all) {
        struct op *last = TAILQ_LAST(&s->unresolved, op_list);

        marker = last != NULL ? last->marker : 0;
    }
    for (uint32_t i = 0; i < keys->count; i++) {
        struct key *k;
        uint64_t hash = keyset_keys(keys)[i];

        HASH_FIND(hh, s->keys, &hash, sizeof hash, k);
        if (k != NULL && k->lane > 0 && k->lane_marker > marker)
            marker = k->lane_marker;
    }
    if (may_be_touched(s, keys)) {
        marker = s->next_marker;
        s->marker_wanted = true;
    }
    return marker;
}

void seq_read(struct seq *s, struct op *op)
{
    uint64_t marker;

    CHECK(op->kind == OP_READ);
    enter(s, op);
    if (!s->attached) {
        seq_let_go(s, op, SEQ_FAIL);
        return;
    }
    op->came = true;
    marker = RULE(s, READS_SEE_TAP) ? read_marker(s, &op->keys) : 0;
    if (!s->tracking) { /* its session became async while it was under way: nothing is known of keys, so it waits for
                           all that is before it */
        marker = s->next_marker;
        s->marker_wanted = true;
    }
    if (marker > s->seen_marker) {
        op->marker = marker;
        seq_set_phase(op, PHASE_MARKER);
        TAILQ_INSERT_TAIL(marker_ops(s, marker), op, in_core);
        return;
    }
    seq_hold(s, op, RULE(s, READS_WAIT) ? taint_need(s, &op->keys) : 0);
}

bool seq_is_calm(const struct seq *s)
{
    return s->attached && s->tracking && TAILQ_EMPTY(&s->unresolved) && keys_calm(s);
}

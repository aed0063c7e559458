/* The writer lane in the sequencer: forwarding, markers, broken lanes, attachment.
 *
 *   forwarded, in order:   w1  w2  c3  ▢7   w4  ▢8          (c3: captured; ▢n: marker n, sent after each flush)
 *   marker 7 resolves w2 and closes c3; marker 8 resolves w4. Seeing 8 stands for 7 too: a marker lost with a
 *   broken lane is made good by any later one.
 *
 * A broken lane:  lane_broken ─▶ KILL ─▶ killed ─▶ marker on the control connection ─▶ its OUTCOME durable ─▶ REOPEN.
 * Bytes of the old lane may run until the kill; so no marker may claim them executed before it, and none of them is
 * sent again. */
#include <string.h>

#include "proxy/canon.h"
#include "proxy/seq_internal.h"

static void forward_one(struct seq *s, struct op *op)
{
    op->marker = s->next_marker;
    seq_set_phase(op, PHASE_FORWARDED);
    s->marker_wanted = true;
    if (op->kind == OP_CAPTURED) {
        op->flight = flight_new(s, &op->keys);
        flight_close(s, op->flight);
        op->flight = NULL;
        TAILQ_INSERT_TAIL(&s->pending_marker, op, in_core);
    } else {
        TAILQ_INSERT_TAIL(&s->unresolved, op, in_core);
        if (s->cursor == NULL)
            s->cursor = op;
        for (uint32_t i = 0; i < op->keys.count; i++) {
            struct key *k = key_get(s, keyset_keys(&op->keys)[i]);

            k->lane++;
            k->lane_marker = s->next_marker;
        }
        CHECK(op->seq > s->last_forwarded);
        s->last_forwarded = op->seq;
    }
    seq_decide(s, SEQ_FORWARD, op);
}

void lane_forward(struct seq *s)
{
    struct op *op;

    if (!s->lane_open)
        return;
    while ((op = TAILQ_FIRST(&s->queue)) != NULL && (op->kind == OP_CAPTURED || op->log_index <= s->durable)) {
        TAILQ_REMOVE(&s->queue, op, in_core);
        forward_one(s, op);
    }
}

bool seq_lane_is_open(const struct seq *s)
{
    return s->lane_open;
}

void seq_lane_opened(struct seq *s)
{
    CHECK(s->attached && !s->lane_recovering && !s->lane_killing);
    s->lane_open = true;
    lane_forward(s);
}

struct op *op_ghost(struct seq *s, struct op *op)
{
    struct op *ghost = must_calloc(1, sizeof *ghost);

    *ghost = *op;
    memset(&ghost->reply, 0, sizeof ghost->reply);
    memset(&ghost->refusal, 0, sizeof ghost->refusal);
    ghost->session = NULL;
    ghost->ghost = true;
    memset(&op->request, 0, sizeof op->request);
    memset(&op->sent, 0, sizeof op->sent);
    op->args = NULL;
    op->arg_count = 0;
    memset(&op->keys, 0, sizeof op->keys);
    s->figures.ops++;
    return ghost;
}

/* ---- replies ---- */

void lane_write_came(struct seq *s, struct op *op)
{
    if (op->error)
        seq_hold(s, op, RULE(s, REFUSED_WAITS) ? op->need : 0);
    else
        seq_hold(s, op, taint_need(s, &op->keys));
}

/* The answer to a captured write of the lane: counts for the lag until it is durable. */
static void captured_answered(struct seq *s, struct op *op, uint64_t now_us)
{
    struct marker *m = op->phase == PHASE_FORWARDED ? marker_at(s, op->marker) : NULL;

    if (op->phase == PHASE_RESOLVED) {
        if (op->need > s->durable)
            dates_push(&s->answer_dates, op->need, now_us);
    } else if (m != NULL) {
        m->first_us = m->first_us != 0 ? m->first_us : now_us;
    } else if (s->unmarked_first_us == 0) {
        s->unmarked_first_us = now_us;
    }
}

#ifdef SEQ_CLAUSES
static void release_unmarked(struct seq *s, struct op *op)
{
    struct op *ghost = op_ghost(s, op);

    ghost->orphan = true;
    if (s->cursor == op)
        s->cursor = ghost;
    TAILQ_INSERT_BEFORE(op, ghost, in_core);
    TAILQ_REMOVE(&s->unresolved, op, in_core);
    seq_hold(s, op, taint_need(s, &ghost->keys));
}
#endif

void seq_lane_reply(struct seq *s, struct op *op, uint64_t now_us)
{
    if (op->phase == PHASE_OUT)
        return;
    op->came = true;
    op->came_us = now_us;
    if (op->kind == OP_CAPTURED)
        captured_answered(s, op, now_us);
    if (op->phase == PHASE_RESOLVED) {
        TAILQ_REMOVE(&s->resolved, op, in_core);
        if (op->kind == OP_CAPTURED)
            seq_hold(s, op, RULE(s, CAPTURED_WAITS) ? op->need : 0);
        else
            lane_write_came(s, op);
        return;
    }
    CHECK(op->phase == PHASE_FORWARDED);
    if (op->kind == OP_CAPTURED && !RULE(s, CAPTURED_WAITS)) {
        TAILQ_REMOVE(marker_ops(s, op->marker), op, in_core);
        seq_let_go(s, op, SEQ_RELEASE);
    }
#ifdef SEQ_CLAUSES
    if (op->kind == OP_WRITE && !op->error && !RULE(s, WAIT_FOR_MARKER))
        release_unmarked(s, op);
#endif
}

/* ---- markers ---- */

struct marker *marker_at(struct seq *s, uint64_t number)
{
    for (size_t i = 0; i < s->marker_count; i++) {
        struct marker *m = &s->markers[(s->marker_head + i) & (s->marker_cap - 1)];

        if (m->number == number)
            return m;
    }
    return NULL;
}

struct op_list *marker_ops(struct seq *s, uint64_t number)
{
    struct marker *m = marker_at(s, number);

    CHECK(m != NULL || number == s->next_marker);
    return m != NULL ? &m->ops : &s->pending_marker;
}

bool seq_wants_marker(const struct seq *s, bool *on_control)
{
    *on_control = !s->lane_open;
    return s->attached && s->marker_wanted && (s->lane_open || !s->lane_killing || !RULE(s, KILL_BEFORE_MARKER));
}

static struct marker *marker_push(struct seq *s)
{
    if (s->marker_count == s->marker_cap) {
        size_t cap = s->marker_cap ? 2 * s->marker_cap : 64;
        struct marker *ring = must_calloc(cap, sizeof *ring);

        for (size_t i = 0; i < s->marker_count; i++) {
            struct marker *from = &s->markers[(s->marker_head + i) & (s->marker_cap - 1)];

            ring[i] = *from;
            TAILQ_INIT(&ring[i].ops);
            TAILQ_CONCAT(&ring[i].ops, &from->ops, in_core);
        }
        free(s->markers);
        s->markers = ring;
        s->marker_cap = cap;
        s->marker_head = 0;
    }
    return &s->markers[(s->marker_head + s->marker_count++) & (s->marker_cap - 1)];
}

uint64_t seq_marker_sent(struct seq *s, uint64_t now_us, uint64_t *resolves)
{
    struct marker *m = marker_push(s);

    (void)now_us;
    m->number = s->next_marker++;
    m->resolves = *resolves = s->last_forwarded;
    m->first_us = s->unmarked_first_us;
    m->answered = s->answered;
    m->control = !s->lane_open;
    TAILQ_INIT(&m->ops);
    TAILQ_CONCAT(&m->ops, &s->pending_marker, in_core);
    s->unmarked_first_us = 0;
    s->marker_wanted = false;
    if (s->lane_recovering && s->recover_marker == 0)
        s->recover_marker = m->number;
    epochs_marker_sent(s, m->number);
    return m->number;
}

void seq_marker_refused(struct seq *s)
{
    if (s->attached)
        s->marker_wanted = true;
}

void markers_drop(struct seq *s, uint64_t up_to)
{
    while (s->marker_count > 0 && s->markers[s->marker_head].number <= up_to) {
        s->marker_head = (s->marker_head + 1) & (s->marker_cap - 1);
        s->marker_count--;
    }
}

/* Replay might do more than Valkey did where an effect was not seen, and goes on from what it read where data was
 * carried along: in sequence order, so that what an intent read from a key that an earlier one might change is
 * tainted too. */
static void walk_resolved(struct seq *s, uint64_t resolves)
{
    struct op *op;

    TAILQ_FOREACH(op, &s->unresolved, in_core)
    {
        bool dirty;

        if (op->seq > resolves)
            break;
        if (!op->referred)
            dirty = RULE(s, NO_EFFECT_TAINTS);
        else
            dirty = op->keys.count > 1 && taint_touches(s, &op->keys) && RULE(s, TAINT_FOLLOWS_DATA);
        if (dirty)
            taint_keys(s, &op->keys);
    }
}

static void resolve(struct seq *s, uint64_t resolves)
{
    struct op *op;

    while ((op = TAILQ_FIRST(&s->unresolved)) != NULL && op->seq <= resolves) {
        if (s->cursor == op)
            s->cursor = TAILQ_NEXT(op, in_core);
        TAILQ_REMOVE(&s->unresolved, op, in_core);
        s->skipped -= op->skipped;
        for (uint32_t i = 0; i < op->keys.count; i++) {
            struct key *k = key_get(s, keyset_keys(&op->keys)[i]);

            CHECK(k->lane > 0);
            k->lane--;
            k->skipped -= op->skipped;
            key_drop_if_clean(s, k);
        }
        op->need = s->last_cut_index;
        seq_set_phase(op, PHASE_RESOLVED);
        if (op->orphan)
            seq_let_go(s, op, SEQ_RELEASE);
        else if (op->came)
            lane_write_came(s, op);
        else
            TAILQ_INSERT_TAIL(&s->resolved, op, in_core);
    }
}

/* What runs after this marker has had no effect before it. Where a rewritten one was seen all the same, it was
 * another's (a script's SET beside a GETSET, or that of an equal write before it), and the OUTCOME that has it ends
 * here, without the intent. The intent's own effect may then be taken for that of a later one, equal to it, that was
 * refused, and replay would do both. So it has left none that we know. A REF, wherever it stands, takes its intent
 * out of what is pending: their number is right. */
static void forget_early(struct seq *s)
{
    for (struct op *op = TAILQ_FIRST(&s->unresolved); op != s->cursor; op = TAILQ_NEXT(op, in_core))
        if (op->rewritten && RULE(s, REWRITTEN_IN_TIME))
            op->referred = op->rewritten = false;
}

/* Those that waited for this marker. */
static void marker_passed(struct seq *s, struct marker *m)
{
    struct op *op;

    if (m->first_us != 0 && s->last_cut_index > s->durable)
        dates_push(&s->answer_dates, s->last_cut_index, m->first_us);
    if (s->answered_index <= s->durable) { /* one sample at a time: seq_answered() is an upper bound */
        s->answered_durable = s->answered_sample;
        s->answered_sample = m->answered;
        s->answered_index = s->last_cut_index;
    }
    while ((op = TAILQ_FIRST(&m->ops)) != NULL) {
        uint64_t need = s->last_cut_index;

        TAILQ_REMOVE(&m->ops, op, in_core);
        if (op->kind == OP_READ)
            need = !RULE(s, READS_WAIT) ? 0 : s->tracking ? taint_need(s, &op->keys) : need;
        else if (op->log_index > need)
            need = op->log_index; /* WAIT, behind intents that are not committed */
        if (op->came) {
            seq_hold(s, op, need);
        } else {
            op->need = need;
            seq_set_phase(op, PHASE_RESOLVED);
            TAILQ_INSERT_TAIL(&s->resolved, op, in_core);
        }
    }
}

/* A marker of the control connection that comes when the lane, opened meanwhile, has intents under way which it does
 * not resolve: some of their effects may be before it, and an OUTCOME that ends here would part them from their
 * resolution. The lane's next marker stands for this one too. */
static bool overtaken(const struct seq *s, const struct marker *m)
{
    const struct op *last = TAILQ_LAST(&s->unresolved, op_list);

    return m->control && last != NULL && last->seq > m->resolves;
}

bool seq_marker_seen(struct seq *s, uint64_t number, uint64_t resolves, uint64_t end_offset)
{
    struct marker *m = number > s->seen_marker ? marker_at(s, number) : NULL;

    if (!s->attached || m == NULL || m->resolves != resolves)
        return false;
    s->offset = end_offset;
    if (overtaken(s, m))
        return true;
    s->seen_marker = number;
    s->settling = false;
    walk_resolved(s, resolves);
    flights_seen(s, number);
    epochs_seen(s, number);
    outcome_cut(s, true, resolves);
    resolve(s, resolves);
    forget_early(s);
    while (s->marker_count > 0 && s->markers[s->marker_head].number <= number) {
        marker_passed(s, &s->markers[s->marker_head]);
        markers_drop(s, s->markers[s->marker_head].number);
    }
    if (s->lane_recovering && s->recover_marker != 0 && s->recover_marker <= number && s->recover_index == 0) {
        s->recover_index = s->last_cut_index;
        if (s->recover_index <= s->durable) {
            s->lane_recovering = false;
            seq_decide(s, SEQ_REOPEN, NULL);
        } else if (s->recover_index >= s->open_index) { /* an older entry is with the writer already */
            seq_decide(s, SEQ_URGE, NULL);
        }
    }
    return true;
}

/* ---- broken connections ---- */

static void fail_unanswered(struct seq *s, struct op_list *list)
{
    struct op *op, *next;

    for (op = TAILQ_FIRST(list); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        if (op->came || op->orphan || (op->phase != PHASE_FORWARDED && op->phase != PHASE_RESOLVED))
            continue;
        if (list == &s->unresolved) {
            struct op *ghost = op_ghost(s, op);

            ghost->orphan = true;
            if (s->cursor == op)
                s->cursor = ghost;
            TAILQ_INSERT_BEFORE(op, ghost, in_core);
        }
        TAILQ_REMOVE(list, op, in_core);
        seq_let_go(s, op, SEQ_FAIL);
    }
}

static void kill_client(struct seq *s, uint64_t client_id)
{
    struct flight *f;

    TAILQ_FOREACH(f, &s->killing, link)
    if (f->killing == client_id)
        return;
    seq_decide(s, SEQ_KILL, NULL)->number = client_id;
}

void seq_lane_broken(struct seq *s, uint64_t client_id)
{
    if (!s->attached)
        return;
    s->lane_open = false;
    s->lane_recovering = false;
    s->lane_killing = true;
    s->lane_client = client_id;
    s->recover_marker = s->recover_index = 0;
    fail_unanswered(s, &s->unresolved);
    fail_unanswered(s, &s->resolved);
    fail_unanswered(s, &s->pending_marker);
    for (size_t i = 0; i < s->marker_count; i++)
        fail_unanswered(s, &s->markers[(s->marker_head + i) & (s->marker_cap - 1)].ops);
    kill_client(s, client_id);
}

void seq_broken(struct seq *s, struct op *op, uint64_t client_id)
{
    if (op->phase == PHASE_OUT)
        return;
    CHECK(op->phase == PHASE_FLIGHT);
    kill_client(s, client_id);
    op->flight->killing = client_id;
    TAILQ_REMOVE(&s->flights, op->flight, link);
    TAILQ_INSERT_TAIL(&s->killing, op->flight, link);
    op->flight = NULL;
    TAILQ_REMOVE(&s->flying, op, in_core);
    seq_let_go(s, op, SEQ_FAIL);
}

void seq_broken_async(struct seq *s, uint64_t client_id)
{
    struct keyset all = {.all = true};
    struct flight *f;

    if (!s->attached)
        return;
    kill_client(s, client_id);
    f = flight_new(s, &all);
    f->killing = client_id;
    TAILQ_REMOVE(&s->flights, f, link);
    TAILQ_INSERT_TAIL(&s->killing, f, link);
}

void seq_killed(struct seq *s, uint64_t client_id)
{
    struct flight *f, *next;

    if (!s->attached)
        return;
    for (f = TAILQ_FIRST(&s->killing); f != NULL; f = next) {
        next = TAILQ_NEXT(f, link);
        if (f->killing != client_id)
            continue;
        TAILQ_REMOVE(&s->killing, f, link);
        TAILQ_INSERT_TAIL(&s->flights, f, link);
        flight_close(s, f);
    }
    if (s->lane_killing && s->lane_client == client_id) {
        s->lane_killing = false;
        s->lane_recovering = true;
        s->marker_wanted = true;
    }
}

/* The sequencer's life with one Valkey: attach, detach, and the closing OUTCOME before a rebuild. */
#include <string.h>

#include "proxy/canon.h"
#include "proxy/seq_internal.h"

static void canonical_name(char *out, size_t size, const struct op *op)
{
    const char *bytes = buf_head(&op->request);
    size_t n = op->args[0].len < size - 1 ? op->args[0].len : size - 1;

    for (size_t i = 0; i < n; i++) {
        char b = bytes[op->args[0].at + i];

        out[i] = (char)(b >= 'A' && b <= 'Z' ? b + ('a' - 'A') : b);
    }
    out[n] = '\0';
}

/* An intent of an earlier life that may yet appear in the stream: taken for forwarded, with nobody waiting. */
static void adopt_pending(struct seq *s, const struct replay_intent *intent)
{
    struct op *op = must_calloc(1, sizeof *op);
    char name[64];

    op->kind = OP_WRITE;
    op->orphan = op->ghost = true;
    op->seq = intent->seq;
    op->log_index = 1; /* as far back as the log is kept: truncation spares what is pending */
    op->db = intent->db;
    op->keys.all = true;
    buf_append(&op->request, intent->resp, intent->n);
    CHECK(!op->request.failed);
    op->unit = intent->n > sizeof OP_UNIT_HEAD && memcmp(intent->resp, OP_UNIT_HEAD, sizeof OP_UNIT_HEAD - 1) == 0;
    (void)argv_places(intent->resp, intent->n, NULL, &op->arg_count);
    op->args = must_calloc(op->arg_count, sizeof *op->args);
    (void)argv_places(intent->resp, intent->n, op->args, &op->arg_count);
    canonical_name(name, sizeof name, op);
    op->canon = canon_find(name);
    op_hash_effect(op);
    op->marker = s->next_marker;
    seq_set_phase(op, PHASE_FORWARDED);
    s->figures.ops++;
    TAILQ_INSERT_TAIL(&s->unresolved, op, in_core);
    if (s->cursor == NULL)
        s->cursor = op;
}

void seq_attach(struct seq *s, const struct replay_facts *facts, bool bridged)
{
    CHECK(!s->attached && s->figures.ops == 0);
    buf_clear(&s->items);
    s->ref_count = 0;
    if (s->entry_index !=
        s->open_index) /* others may have written OUTCOMEs since (a rebuild's): all of them are behind us */
        s->entry_index = s->cut_effects = 0;
    s->effects = s->cut_effects;
    s->attached = true;
    s->settling = bridged && facts->pending_count > 0;
    if (!bridged) /* this Valkey has nothing that the log has not */
        s->answered_durable = s->answered_sample = s->answered;
    s->offset = facts->offset;
    s->stream_db = s->logged_db = facts->db;
    if (facts->next_seq > s->next_seq)
        s->next_seq = facts->next_seq;
    /* They may have been resolved by an OUTCOME that was never committed. */
    if (facts->pending_count > 0 && s->last_resolved >= facts->pending[0].seq)
        s->last_resolved = facts->pending[0].seq - 1;
    for (size_t i = 0; bridged && i < facts->pending_count; i++)
        adopt_pending(s, &facts->pending[i]);
    s->last_forwarded = s->next_seq - 1; /* all older intents are resolved by the first marker */
    s->seen_marker = s->next_marker - 1;
    s->lane_open = s->lane_killing = false;
    s->lane_recovering = true;
    s->recover_marker = s->recover_index = 0;
    s->marker_wanted = true;
}

static void fail_all(struct seq *s, struct op_list *list)
{
    struct op *op;

    while ((op = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, op, in_core);
        op->flight = NULL;
        seq_let_go(s, op, op->orphan ? SEQ_RELEASE : SEQ_FAIL);
    }
}

void seq_detach(struct seq *s)
{
    s->attached = false;
    fail_all(s, &s->queue);
    fail_all(s, &s->unresolved);
    fail_all(s, &s->resolved);
    fail_all(s, &s->flying);
    for (size_t i = 0; i < s->marker_count; i++)
        fail_all(s, &s->markers[(s->marker_head + i) & (s->marker_cap - 1)].ops);
    fail_all(s, &s->pending_marker);
    fail_all(s, &s->waiting);
    fail_all(s, &s->open_waiting);
    CHECK(s->figures.ops == 0);
    s->cursor = NULL;
    s->skipped = 0;
    markers_drop(s, UINT64_MAX);
    keys_clear(s);
    epochs_reset(s);
    s->unmarked_first_us = 0;
    s->marker_wanted = s->lane_open = s->lane_recovering = s->lane_killing = false;
    s->intent_dates.count = s->answer_dates.count = 0;
    seq_watch_offsets(s, false);
}

void seq_close_out(struct seq *s)
{
    uint64_t before = s->last_cut_index;

    CHECK(!s->attached);
    if (s->settling) {
        /* The earlier life may have answered for these intents, knowing that they would be replayed; what was seen
         * since the bridge is too little to say which of them ran. So the log stays as that life left it. */
        buf_clear(&s->items);
        s->ref_count = 0;
        s->effects = s->cut_effects;
        s->settling = false;
    } else {
        outcome_cut(s, true, s->last_forwarded);
    }
    if (s->last_cut_index != before)
        seq_decide(s, SEQ_URGE, NULL);
}

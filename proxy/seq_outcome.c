/* From effects to OUTCOMEs: matching, cutting, and where a snapshot stands among them.
 *
 *   stream:   SET a 1     SPOP's SREM s x      INCR b     ▢7
 *   items:    REF w1      RAW "SREM s x"       REF w2     RESOLVED w3     ─▶ one OUTCOME, cut at the marker
 *
 * w3 left no effect: nobody may rely on what replay would make of it until this OUTCOME is durable. */
#include <string.h>

#include "log/base/hash.h"
#include "proxy/canon.h"
#include "proxy/seq_internal.h"

static void flush_ref(struct seq *s)
{
    if (s->ref_count > 0)
        item_ref(&s->items, s->ref_first, s->ref_count);
    s->ref_count = 0;
}

/* What of an effect an intent's bytes are compared with. Valkey writes the SELECT that a unit needs behind its MULTI;
 * a transaction's intent has none, and is replayed in its own database.
 *
 *   stream:  MULTI  SELECT 1  SET a 1  INCR b  EXEC
 *                             ──────── said ───────      */
struct said {
    const char *bytes;
    size_t n;
    uint64_t hash;
};

static size_t select_bytes(const char *bytes, size_t n)
{
    static const char head[] = "*2\r\n$6\r\nSELECT\r\n$";
    const char *end;

    if (n < sizeof head || memcmp(bytes, head, sizeof head - 1) != 0)
        return 0;
    end = memchr(bytes + sizeof head - 1, '\n', n - (sizeof head - 1)); /* of the length, then of the number */
    end = end != NULL ? memchr(end + 1, '\n', n - (size_t)(end + 1 - bytes)) : NULL;
    return end != NULL ? (size_t)(end + 1 - bytes) : 0;
}

static struct said said_by(const struct seq_effect *e)
{
    struct said s = {.bytes = e->bytes, .n = e->n};

    if (e->single == NULL && e->n > sizeof OP_UNIT_HEAD) {
        s.bytes += sizeof OP_UNIT_HEAD - 1;
        s.n -= sizeof OP_UNIT_HEAD - 1;
        s.n -= select_bytes(s.bytes, s.n);
        s.bytes = e->bytes + e->n - s.n;
    }
    s.hash = hash64(s.bytes, s.n, 0);
    return s;
}

static bool is_verbatim(const struct op *op, const struct seq_effect *e, const struct said *s)
{
    size_t n;
    const char *bytes = op_effect(op, &n);

    return op->unit == (e->single == NULL) && op->effect_hash == s->hash && n == s->n &&
           memcmp(bytes, s->bytes, n) == 0;
}

static bool is_effect_of(const struct op *op, const struct seq_effect *e, const struct said *s)
{
    struct argv intent = {buf_head(&op->request), op->request.len, op->args, op->arg_count};

    if (op->db != e->db_after || (op->db != e->db_before && e->single != NULL))
        return false;
    if (is_verbatim(op, e, s))
        return true;
    return op->canon != 0 && e->single != NULL && canon_effect_belongs(op->canon, &intent, e->single);
}

/* An intent that left no effect that we know as its own. If a later one of the same key is found all the same, equal
 * bytes may be this one's, and the later one's own effect yet to come. */
static void skip(struct seq *s, struct op *op)
{
    op->skipped = true;
    s->skipped++;
    for (uint32_t i = 0; i < op->keys.count; i++)
        key_get(s, keyset_keys(&op->keys)[i])->skipped++;
}

static bool behind_skipped(struct seq *s, const struct op *op)
{
    for (uint32_t i = 0; s->skipped > 0 && i < op->keys.count; i++)
        if (key_get(s, keyset_keys(&op->keys)[i])->skipped > 0)
            return true;
    return false;
}

/* The forwarded intent whose effect this is: in lane order, so those before it that were not matched left none. */
static struct op *match(struct seq *s, const struct seq_effect *e, bool *verbatim)
{
    struct said said;
    size_t looked = 0;

    if (s->cursor == NULL)
        return NULL;
    said = said_by(e);
    for (struct op *op = s->cursor; op != NULL && looked < SEQ_MATCH_LOOKAHEAD_MAX; looked++) {
        if (is_effect_of(op, e, &said)) {
            *verbatim = is_verbatim(op, e, &said);
            for (; s->cursor != op; s->cursor = TAILQ_NEXT(s->cursor, in_core))
                skip(s, s->cursor);
            s->cursor = TAILQ_NEXT(op, in_core);
            return op;
        }
        op = TAILQ_NEXT(op, in_core);
    }
    return NULL;
}

static void add_ref(struct seq *s, const struct op *op)
{
    if (s->ref_count > 0 && op->seq == s->ref_first + s->ref_count) {
        s->ref_count++;
        return;
    }
    flush_ref(s);
    s->ref_first = op->seq;
    s->ref_count = 1;
}

static void add_raw(struct seq *s, const struct seq_effect *e)
{
    flush_ref(s);
    item_raw(&s->items, e->db_before, e->db_after, e->bytes, e->n);
    s->figures.raws++;
}

/* Only equal bytes may be said by a REF. An effect that belongs to an intent in another form is said in its own: it
 * may be that of a later intent while this one was refused, and the refusal would come again in the replay of a REF
 * (`GETSET l v` on a list, then `SET l v`: both would leave `SET l v`). The intent counts as seen all the same:
 * alone, its replay has this effect. */
static void log_effect_of(struct seq *s, const struct op *op, const struct seq_effect *e)
{
    if (!op->rewritten) {
        add_ref(s, op);
        s->figures.refs++;
    } else {
        add_raw(s, e);
    }
}

/* The entry of the oldest intent that may be pending here: an accepted one, or one that comes before the OUTCOME
 * which is open now is cut. */
static uint64_t oldest_pending_index(const struct seq *s)
{
    const struct op *op = TAILQ_FIRST(&s->unresolved);

    if (op == NULL)
        op = TAILQ_FIRST(&s->queue);
    while (op != NULL && op->log_index == 0) /* captured: has no intent */
        op = TAILQ_NEXT(op, in_core);
    return op != NULL ? op->log_index : s->open_index;
}

static void note_passed(struct seq *s)
{
    if (!s->watching)
        return;
    if (s->passed_count == s->passed_cap) {
        s->passed_cap = s->passed_cap ? 2 * s->passed_cap : 1024;
        s->passed = must_realloc(s->passed, s->passed_cap * sizeof *s->passed);
    }
    s->passed[s->passed_count++] = (struct passed){s->offset, 0, s->effects, oldest_pending_index(s), s->next_seq};
}

void seq_stream_db(struct seq *s, uint32_t db)
{
    s->stream_db = db;
}

/* A bridge begins at the end of an OUTCOME and must know which database is selected there: an effect without bytes
 * says it. */
static void note_db(struct seq *s)
{
    if (s->stream_db == s->logged_db)
        return;
    item_raw(&s->items, s->stream_db, s->stream_db, "", 0);
    s->effects++;
    s->logged_db = s->stream_db;
}

void seq_effect(struct seq *s, const struct seq_effect *e)
{
    bool verbatim = false;
    struct op *op = match(s, e, &verbatim);

    s->offset = e->end_offset;
    s->stream_db = s->logged_db = e->db_after;
    s->effects++;
    if (op != NULL) {
        /* Others' equal bytes do harm only where a lane write of the key was passed over, so the second clause covers
         * the first; both stay. */
        bool dirty = (may_be_touched(s, &op->keys) || (behind_skipped(s, op) && RULE(s, SKIPPED_TAINTS))) &&
                     RULE(s, EQUAL_BYTES_TAINT);

        dirty = dirty || (op->keys.count > 1 && taint_touches(s, &op->keys) && RULE(s, TAINT_FOLLOWS_DATA));
        op->referred = true;
        op->rewritten = !verbatim;
        log_effect_of(s, op, e);
        if (dirty)
            taint_keys(s, &op->keys);
    } else {
        add_raw(s, e);
        if (RULE(s, TAINT))
            taint_keys(s, e->keys);
    }
    note_passed(s);
    if (!RULE(s, CUT_AT_MARKER))
        outcome_cut(s, false, 0);
}

void outcome_cut(struct seq *s, bool resolve, uint64_t resolves)
{
    struct seq_decision *d;
    struct op *op;

    flush_ref(s);
    if (resolve && resolves > s->last_resolved) {
        item_resolved(&s->items, resolves);
        s->last_resolved = resolves;
    }
    if (s->items.len == 0)
        return;
    note_db(s);
    CHECK(!s->items.failed);
    if (s->entry_index != s->open_index) { /* effects count from the start of their entry, over all its OUTCOMEs */
        uint64_t before = s->entry_index == 0 ? 0 : s->cut_effects;

        s->effects -= before;
        for (size_t i = s->passed_count; i-- > 0 && s->passed[i].index == 0;)
            s->passed[i].effects -= before;
        s->entry_index = s->open_index;
    }
    s->cut_effects = s->effects;
    for (size_t i = s->passed_count; i-- > 0 && s->passed[i].index == 0;)
        s->passed[i].index = s->open_index;
    d = seq_decide(s, SEQ_OUTCOME, NULL);
    buf_move(&d->items, &s->items);
    d->end_offset = s->offset;
    d->urgent = !TAILQ_EMPTY(&s->open_waiting);
    s->last_cut_index = s->open_index;
    s->figures.committed_offset = s->offset;
    taint_cut(s, s->open_index);
    while ((op = TAILQ_FIRST(&s->open_waiting)) != NULL) {
        TAILQ_REMOVE(&s->open_waiting, op, in_core);
        op->need = s->open_index;
        TAILQ_INSERT_TAIL(&s->waiting, op, in_core);
    }
}

void seq_effects_end(struct seq *s)
{
    if (s->attached && TAILQ_EMPTY(&s->unresolved))
        outcome_cut(s, false, 0);
}

/* ---- snapshots ---- */

void seq_watch_offsets(struct seq *s, bool watch)
{
    s->watching = watch;
    s->passed_count = 0;
    if (!watch) {
        free(s->passed);
        s->passed = NULL;
        s->passed_cap = 0;
    }
    if (watch) {
        note_passed(s); /* where we stand now */
        if (s->items.len == 0 && s->ref_count == 0)
            s->passed[0].index = s->entry_index ? s->entry_index : s->open_index;
    }
}

bool seq_map_offset(struct seq *s, uint64_t offset, struct snapshot_mark *mark)
{
    const struct passed *at = NULL;

    if (!s->watching)
        return false;
    for (size_t i = 0; i < s->passed_count && s->passed[i].offset <= offset; i++)
        at = &s->passed[i];
    if (at == NULL || at->index == 0)
        return false;
    mark->index = at->index;
    mark->effects = at->effects;
    mark->log_from = at->log_from < at->index ? at->log_from : at->index;
    mark->next_seq = at->next_seq;
    return true;
}

/* Inside the sequencer: shared by sequencer.c, seq_lane.c, seq_outcome.c and seq_keys.c, and by nobody else. */
#ifndef HF_SEQ_INTERNAL_H
#define HF_SEQ_INTERNAL_H

#include <uthash.h>

#include "log/base/diag.h"
#include "proxy/sequencer.h"

#define NEED_OPEN UINT64_MAX /* taint or need of what is in the open outcome: no index yet */

#ifdef SEQ_CLAUSES
enum clause {
    CUT_AT_MARKER,
    TAINT,
    WAIT_FOR_MARKER,
    CAPTURED_WAITS,
    READS_WAIT,
    READS_SEE_TAP,
    NO_EFFECT_TAINTS,
    TAINT_FOLLOWS_DATA,
    REFUSED_WAITS,
    EQUAL_BYTES_TAINT,
    SKIPPED_TAINTS,
    UNITS_WHOLE,
    KILL_BEFORE_MARKER,
    REWRITTEN_IN_TIME,
    CLAUSES
};
#define RULE(s, clause) ((s)->without != (int)(clause))
#else
#define RULE(s, clause) true
#endif

enum phase {
    PHASE_NEW,
    PHASE_QUEUED,    /* accepted; waits for its commit, or behind one that does: list queue */
    PHASE_FORWARDED, /* OP_WRITE on the lane, marker not seen: list unresolved. Lane captured: a marker's list */
    PHASE_RESOLVED,  /* marker seen, reply not read yet: list resolved */
    PHASE_FLIGHT,    /* captured, pinned, unanswered: list flying */
    PHASE_MARKER,    /* answered; waits for a marker: a marker's list */
    PHASE_WAITING,   /* waits for op->need: list waiting (or open_waiting) */
    PHASE_OUT        /* left the sequencer */
};

/* What may still take effect although it has no intent: keys of a captured write, from before it is sent until the
 * tap has passed a marker sent after its reply came (or after its connection was killed). */
struct flight {
    TAILQ_ENTRY(flight) link;
    struct keyset keys;
    uint64_t marker;  /* 0: not closed by any marker yet */
    uint64_t killing; /* client id that must be killed first */
};
TAILQ_HEAD(flight_list, flight);

struct key { /* one key hash with something to remember; gone when there is nothing */
    uint64_t hash;
    uint64_t taint;       /* log index until whose commit it is tainted, NEED_OPEN, 0 = clean */
    uint64_t lane_marker; /* marker that closes its newest forwarded lane write */
    uint32_t lane;        /* forwarded lane writes naming it, unresolved */
    uint32_t skipped;     /* of those: passed over when a later one's effect was found */
    uint32_t flying;      /* flights naming it */
    UT_hash_handle hh;
};

struct marker {
    uint64_t answered;                   /* async writes answered when it was sent */
    uint64_t number, resolves, first_us; /* first_us: oldest answer that this marker closes; 0 = none */
    bool control;                        /* sent on the control connection: it and the lane may overtake each other */
    struct op_list ops;
};

struct epoch { /* async writes of about 100 ms: how many are unanswered, and which keys they may touch */
    uint64_t number, inflight, marker; /* marker: sent after all were answered; 0 = none yet */
    bool used, all;
    uint8_t *filter; /* SEQ_FILTER_BITS; NULL while not tracking */
};

struct dated { /* a run of writes that become durable with entry `index`; since: age of the oldest */
    uint64_t index, since_us;
};
struct ring { /* FIFO of dated, or of (index, key hash) */
    struct dated *at;
    size_t head, count, cap;
};

struct passed { /* while a snapshot runs: after the effect ending at `offset`, `effects` effects of outcome `index`
                   were done */
    uint64_t offset, index, effects; /* index 0: not cut yet */
    uint64_t log_from, next_seq;     /* oldest intent pending there; sequence numbers are below */
};

struct seq {
    uint64_t next_seq, durable, open_index, last_cut_index;
    uint64_t next_marker, seen_marker, last_forwarded, last_resolved;
    bool settling; /* intents of an earlier life may yet appear in the stream, or not: no marker was seen since the
                      bridge */
    uint64_t answered, answered_durable, answered_sample, answered_index; /* async writes: all; seq_answered() */
    bool attached, lane_open, lane_recovering, lane_killing, marker_wanted, tracking;
    uint64_t lane_client, recover_marker, recover_index; /* 0 = not there yet */

    struct op_list queue, unresolved, resolved, flying, waiting, open_waiting, pending_marker;
    struct op *cursor; /* first of unresolved that may still match */
    size_t skipped;    /* unresolved ones before it that were passed over */
    struct flight_list flights, closing, killing;
    size_t flight_all; /* flights that may touch any key */

    struct marker *markers; /* ring */
    size_t marker_head, marker_count, marker_cap;
    uint64_t unmarked_first_us;
    struct epoch epochs[SEQ_EPOCHS_MAX];
    size_t epoch_count; /* the last one is open */

    struct buf items; /* the open outcome */
    uint64_t ref_first, ref_count, effects,
        offset;                        /* effects: of the entry that the open outcome will be in, so far */
    uint64_t entry_index, cut_effects; /* that entry, and its effects, as of the last cut */
    uint32_t stream_db, logged_db; /* selected in the stream at `offset`; what a reader of the log takes it to be */
    struct key *keys;
    uint64_t taint_all;
    struct ring open_taints, tainted, intent_dates,
        answer_dates; /* open_taints, tainted: since_us holds the key's hash */
    uint64_t last_taint_index;
    bool watching;
    struct passed *passed;
    size_t passed_count, passed_cap;

    struct seq_decision *out;
    size_t out_head, out_count, out_cap;
    struct seq_figures figures;
#ifdef SEQ_CLAUSES
    int without;
#endif
};

/* sequencer.c */
struct seq_decision *seq_decide(struct seq *s, enum seq_act act, struct op *op);
void seq_set_phase(struct op *op, enum phase phase);
void seq_let_go(struct seq *s, struct op *op,
                enum seq_act act); /* RELEASE or FAIL: op leaves; the caller has unlinked it */
void seq_hold(struct seq *s, struct op *op,
              uint64_t need); /* release now, or wait for need; the caller has unlinked it */
void ring_push(struct ring *r, uint64_t index, uint64_t value);
void dates_push(struct ring *r, uint64_t index,
                uint64_t since_us); /* keeps the ring rising in both, so that its first is the oldest */
struct dated *ring_first(struct ring *r);
void ring_pop(struct ring *r);
void ring_free(struct ring *r);

/* seq_keys.c */
struct key *key_get(struct seq *s, uint64_t hash);
void key_drop_if_clean(struct seq *s, struct key *k);
void taint_keys(struct seq *s, const struct keyset *keys);
bool taint_touches(const struct seq *s, const struct keyset *keys);
uint64_t taint_need(const struct seq *s, const struct keyset *keys); /* 0, an index above durable, or NEED_OPEN */
void taint_cut(struct seq *s, uint64_t index);
void taint_expire(struct seq *s);
void keys_clear(struct seq *s);
struct flight *flight_new(struct seq *s, const struct keyset *keys);
void flight_close(struct seq *s, struct flight *f); /* the next marker closes it */
void flights_seen(struct seq *s, uint64_t marker);
bool may_be_touched(const struct seq *s, const struct keyset *keys);
bool keys_calm(
    const struct seq *s); /* no key is remembered, no flight, no async write that a marker does not close */
void epochs_reset(struct seq *s);
void epochs_marker_sent(struct seq *s, uint64_t marker);
void epochs_seen(struct seq *s, uint64_t marker);

/* seq_lane.c */
void lane_forward(struct seq *s);                   /* what is committed, in order, while the lane is open */
void lane_write_came(struct seq *s, struct op *op); /* OP_WRITE, marker seen, reply here: release or hold */
struct op *op_ghost(struct seq *s,
                    struct op *op); /* takes op's request, arguments and place in the rule; op can then fail */
struct marker *marker_at(struct seq *s, uint64_t number); /* NULL if not in flight */
struct op_list *marker_ops(struct seq *s, uint64_t number);
void markers_drop(struct seq *s, uint64_t up_to);

/* seq_outcome.c */
void outcome_cut(struct seq *s, bool resolve,
                 uint64_t resolves); /* with RESOLVED if resolve; nothing if there is nothing to say */

#endif

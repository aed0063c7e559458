/* The sequencer: the release rule (design section 5). Pure: facts and the time go in, decisions come out; no socket,
 * no clock, no log.
 *
 *   facts  ─▶ seq_write, seq_committed, seq_lane_reply, seq_effect, seq_marker_seen, seq_read, ...
 *   decisions ◀─ seq_next(): append this intent, forward that one, send a marker, release this reply
 *
 * After every fact the driver drains seq_next() before it tells the next one; appended frames go into the log's open
 * batch, whose index the driver has told by seq_log_open() before.
 *
 * One sync SET and one GET beside it, in facts and decisions:
 *
 *   seq_write(w)          ─▶ INTENT w      (goes into entry 7)
 *   seq_committed(7)      ─▶ FORWARD w     (the driver, flushing the lane, sends marker 3: "executed up to w")
 *   seq_read(r)           ─▶               r names w's key, w is forwarded and unmarked: r waits for marker 3
 *   seq_effect(w's bytes) ─▶               REF w into the open outcome
 *   seq_lane_reply(w)     ─▶               waits for marker 3
 *   seq_marker_seen(3)    ─▶ OUTCOME {REF w, RESOLVED w}; RELEASE w, RELEASE r   (not urgent: nobody waits for it)
 */
#ifndef HF_SEQUENCER_H
#define HF_SEQUENCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/log.h"
#include "proxy/argv.h"
#include "proxy/keyset.h"
#include "proxy/op.h"
#include "proxy/replay.h"

struct seq;

enum seq_act {
    SEQ_INTENT,  /* append op's intent (op->seq, op->db, op->request) to the log, urgent; it must get index `index` */
    SEQ_OUTCOME, /* append an OUTCOME of `items` (the driver frees them), at index `index`; `urgent` */
    SEQ_URGE,    /* somebody waits for what is in the open batch: log_touch(urgent) */
    SEQ_FORWARD, /* send op on the writer lane */
    SEQ_KILL,    /* CLIENT KILL ID number; then seq_killed(number) */
    SEQ_REOPEN,  /* all that was forwarded is resolved and durable: a new writer lane may be opened; then
                    seq_lane_opened() */
    SEQ_RELEASE, /* op's reply may go to its client; op leaves the sequencer */
    SEQ_FAIL     /* op leaves the sequencer unanswered: answer -UNCERTAIN (writes) or -LOADING (reads) */
};
struct seq_decision {
    enum seq_act act;
    struct op *op;
    struct buf items;
    uint64_t end_offset, index, number;
    bool urgent;
};

struct seq_effect {
    uint32_t db_before, db_after;
    const char *bytes;
    size_t n;
    const struct argv *single; /* the command, unless it is a unit */
    const struct keyset *keys; /* that it names */
    uint64_t end_offset;
};

enum { SEQ_MATCH_LOOKAHEAD_MAX = 256, SEQ_EPOCHS_MAX = 64, SEQ_EPOCH_MS = 100, SEQ_FILTER_BITS = 1 << 14 };

struct seq *seq_new(void);
void seq_free(struct seq *s); /* frees what it made; ops it holds are the caller's: seq_detach() first */
bool seq_next(struct seq *s, struct seq_decision *out);

/* ---- attachment ---- */
/* A stream begins at facts->offset. The lane is closed until SEQ_REOPEN: a marker is wanted, which the driver sends
 * on the control connection (the probe); pending intents of facts (bridged) are taken for forwarded. Items not yet
 * cut are forgotten: they come again. */
void seq_attach(struct seq *s, const struct replay_facts *facts, bool bridged);
/* The tap or Valkey is gone: every op fails; what was seen and not yet cut is kept for seq_close_out(). */
void seq_detach(struct seq *s);
/* Before a rebuild: emits what was seen, with all that was forwarded resolved: it ran if its effect was seen, and
 * never will if not. */
void seq_close_out(struct seq *s);

/* ---- the log ---- */
void seq_log_open(struct seq *s, uint64_t open_index);
void seq_committed(struct seq *s, uint64_t index);
/* The open entry, whose index was promised, gets another one (log.h: lead(same)). */
void seq_log_moved(struct seq *s, uint64_t to);
/* Detached: another node has led; indexes and all that was seen and not committed mean nothing any more. */
void seq_void(struct seq *s);
/* Everything seen in the stream is in the log and committed, nothing is under way: the log up to entry *index says
 * all that Valkey has done. */
bool seq_is_clean(const struct seq *s, uint64_t *index);
bool seq_is_idle(const struct seq *s);      /* no op, and no async write unanswered */
uint64_t seq_answered(const struct seq *s); /* async writes answered and not durable: lost if the log is */

/* ---- writes ---- */
void seq_write(struct seq *s, struct op *op, uint64_t now_us); /* OP_WRITE */
void seq_lane_captured(struct seq *s, struct op *op,
                       uint64_t now_us); /* OP_CAPTURED for the writer lane: behind what is queued */
void seq_lane_reply(struct seq *s, struct op *op,
                    uint64_t now_us); /* op->reply, op->error are set; sets op->came. A ghost may be gone after it */
void seq_begin(struct seq *s, struct op *op);                /* OP_CAPTURED, pinned, about to be sent */
void seq_end(struct seq *s, struct op *op, uint64_t now_us); /* its reply came; async: released at once */
void seq_broken(struct seq *s, struct op *op,
                uint64_t client_id); /* its connection broke: op fails, its flight lasts until killed and marked */
void seq_broken_async(struct seq *s, uint64_t client_id); /* a shared lane with async writes unanswered broke */
void seq_killed(struct seq *s, uint64_t client_id);
void seq_wait(struct seq *s,
              struct op *op); /* WAIT: released when all that was answered or accepted before is durable */

/* ---- async writes, by epoch ---- */
uint64_t seq_epoch(const struct seq *s);
void seq_async_begin(struct seq *s, uint64_t epoch);
void seq_async_key(struct seq *s, uint64_t key);
void seq_async_all(struct seq *s);
void seq_async_end(struct seq *s, uint64_t epoch, uint64_t now_us);

/* ---- reads of sync sessions ---- */
void seq_read(struct seq *s, struct op *op); /* its reply came */
/* Nothing is under way or tainted: seq_read() would release any read at once. */
bool seq_is_calm(const struct seq *s);

/* ---- the lane and its markers ---- */
bool seq_lane_is_open(const struct seq *s);
void seq_lane_opened(struct seq *s);
void seq_lane_broken(struct seq *s,
                     uint64_t client_id); /* ─▶ FAIL for the unanswered, KILL; a marker is wanted once killed */
/* Whether a marker should be sent now, and can be. on_control: the lane is closed, send it on the control connection.
 */
bool seq_wants_marker(const struct seq *s, bool *on_control);
uint64_t seq_marker_sent(struct seq *s, uint64_t now_us,
                         uint64_t *resolves);  /* its number, and the m that it resolves */
void seq_marker_refused(struct seq *s);        /* -BUSY and the like: wanted again */
void seq_tick(struct seq *s, uint64_t now_us); /* every turn or so: closes epochs by age */

/* ---- the tap ---- */
void seq_effect(struct seq *s, const struct seq_effect *e);
/* The database that is selected in the stream after the message that comes next (a SELECT may stand before a marker).
 */
void seq_stream_db(struct seq *s, uint32_t db);
/* false: not one of ours that is due: treat it as an ordinary effect. */
bool seq_marker_seen(struct seq *s, uint64_t number, uint64_t resolves, uint64_t end_offset);
void seq_effects_end(
    struct seq *s); /* the tap has nothing more to read now: cut if nothing forwarded is unresolved */

/* ---- snapshots: offsets ---- */
void seq_watch_offsets(struct seq *s, bool watch);
/* The mark of an offset that the tap has passed since seq_watch_offsets(true). false: not cut yet. */
bool seq_map_offset(struct seq *s, uint64_t offset, struct snapshot_mark *mark);

/* ---- modes and figures ---- */
void seq_track(struct seq *s, bool tracking); /* some session is sync */
bool seq_tracking(const struct seq *s);
uint64_t seq_oldest_us(const struct seq *s); /* when the oldest write that is accepted and not durable was accepted
                                                (or answered); 0 = none */
/* Sync writes accepted before `before_us` and not committed fail (their clients get -UNCERTAIN); they stay in the
 * log. */
void seq_expire(struct seq *s, uint64_t before_us);
struct seq_figures {
    uint64_t pending_intents, tainted_keys, waiting, refs, raws, ops, committed_offset;
    bool tainted_all;
};
struct seq_figures seq_figures(const struct seq *s);

/* Test builds (-DSEQ_CLAUSES) can leave out one clause of the rule, to prove that the tests would notice. */
#ifdef SEQ_CLAUSES
void seq_without(struct seq *s, const char *clause);
extern const char *const seq_clauses[]; /* NULL-terminated */
#endif

#endif

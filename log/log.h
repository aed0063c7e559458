/* The door of the log: append, learn what is committed, read back, truncate.
 *
 * It knows numbers and bytes, not clients and not RESP. Today one node keeps it in LMDB; replication over peers
 * changes what "committed" takes, not this page.
 *
 *      log_append(frame) ──▶ open batch ──log_flush()──▶ writer thread: one LMDB transaction ──▶ committed(index)
 *                               ▲ fills while a commit is in flight                         (on the loop, in order)
 *
 * Every frame appended to the same open batch gets the same index, the index of the entry that the batch will become.
 * Indexes start at 1, have no gaps and never repeat. A batch is committed as a whole or not at all.
 *
 * Trouble: a full map or disk (MDB_MAP_FULL, ENOSPC, EDQUOT, log-size-max) leaves the batch where it is:
 * log_stalled() becomes true, the write is tried again every LOG_RETRY_MS and after each truncation, and nothing is
 * lost. Any other error of a commit (EIO, MDB_PANIC, a corrupt page) is final: failed() is called and the process
 * must stop at once. */
#ifndef HF_LOG_H
#define HF_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/hash.h"
#include "log/record.h"

struct diag;
struct loop;
struct log;

enum { LOG_RETRY_MS = 200, LOG_BATCH_BYTES_MAX = 64 * 1024 * 1024, LOG_IDLE_FLUSH_MS = 50 };

struct log_events {
    void (*committed)(void *arg, uint64_t index); /* entries up to index are durable; rising, never repeated */
    void (*stalled)(void *arg, bool stalled, const char *why); /* full / has room again */
    void (*failed)(void *arg, const char *why); /* the process must stop, without any further acknowledgement */
};

struct log_settings {
    const char *dir;         /* exists; the log makes <dir>/log/ and <dir>/snapshots/ */
    uint64_t size_max_bytes; /* log-size-max: what entries may take */
    const char *node;        /* recorded at creation; a different name later is refused */
};

/* Opens or creates. Checks every entry (checksums and chain) from the base to the end; damage is an error, never
 * repaired. NULL with a reason in why. The term is one more than the last process's. A second process on the same
 * directory is refused. */
struct log *log_open(struct loop *l, const struct diag *d, const struct log_settings *settings,
                     const struct log_events *events, void *arg, char *why, size_t why_size);
/* Stops the writer after the commit in flight; what was not flushed is dropped (nobody was told). Not from inside a
 * callback of the log; abandon an unfinished snapshot first. */
void log_close(struct log *l);

uint64_t log_term(const struct log *l);
/* Of the oldest entry kept (not truncated, nor about to be); last+1 if none. */
uint64_t log_first_index(const struct log *l);
uint64_t log_last_index(const struct log *l); /* newest entry durable here */
uint64_t log_committed(const struct log *l);
uint64_t log_open_index(const struct log *l);    /* the index that the open batch will get */
uint64_t log_bytes(const struct log *l);         /* taken by entries */
uint64_t log_pending_bytes(const struct log *l); /* in the open batch and the one in flight */
bool log_stalled(const struct log *l);

/* The open batch, to append frames to with frame_*() of record.h; call log_touch() afterwards. */
struct buf *log_batch(struct log *l);
/* urgent: somebody waits; the batch is committed at the next log_flush(). Otherwise it may wait for company up to
 * LOG_IDLE_FLUSH_MS. */
void log_touch(struct log *l, bool urgent);
/* At the end of each turn: starts a commit if none is in flight and the batch is urgent or old enough. Returns true
 * if it did. */
bool log_flush(struct log *l);

/* Commit timing for metrics: microseconds of each commit since the last call, at most `max`; returns the count. */
size_t log_take_commit_us(struct log *l, uint32_t *out, size_t max);

/* ---- reading, in pieces, so that the loop is not held up ---- */
/* Calls each() for up to `bytes_max` of entries from `from` on (at least one if there is one), committed ones only.
 * Returns the next index to ask for. each() borrows the view. Damage, and an index that was truncated, call failed()
 * and return 0. */
uint64_t log_read(struct log *l, uint64_t from, size_t bytes_max, void (*each)(void *arg, const struct entry_view *e),
                  void *arg);

/* ---- snapshots: an RDB file and its sidecar ---- */
struct snapshot_mark {
    uint64_t index;    /* the OUTCOMEs of entries below index are in the RDB ... */
    uint64_t effects;  /* ... and the first `effects` effects of the OUTCOMEs of entry `index` (REF n..m counts m-n+1,
                          RAW counts 1) */
    uint64_t log_from; /* replay reads the log from here: intents that were pending at the mark are no older */
    uint64_t next_seq; /* all sequence numbers at the mark are below */
    uint64_t rdb_bytes; /* filled by snapshot_finish() */
    uint64_t taken_ms;  /* wall clock */
};
struct snapshot_writer;
struct snapshot_writer *snapshot_begin(struct log *l, char *why, size_t why_size); /* into a temporary file */
bool snapshot_write(struct snapshot_writer *w, const void *bytes, size_t n); /* false: disk trouble; then abandon */
/* Durable (file, directory, sidecar with checksum of the RDB), then the newest; older ones are removed. The fsync
 * runs on the writer thread; done() on the loop. The writer is consumed. */
void snapshot_finish(struct snapshot_writer *w, const struct snapshot_mark *mark, void (*done)(void *arg, bool ok),
                     void *arg);
void snapshot_abandon(struct snapshot_writer *w);
/* The newest valid snapshot: true, its mark, and its path in path[] (open it at once: a newer one removes it). false
 * if there is none. A sidecar that does not match its file is damage: failed() is called. */
bool snapshot_newest(struct log *l, struct snapshot_mark *mark, char *path, size_t path_size);

/* Drops entries below `index` (on the writer thread, in pieces, between commits). The caller keeps index <= newest
 * mark's log_from. */
void log_truncate(struct log *l, uint64_t index);

#endif

/* The door of the log: append, learn what is committed, read back, truncate; and who leads.
 *
 * It knows numbers and bytes, not clients and not RESP. Its members are one node or several; with several, an entry
 * is committed when a majority of them, never all in one zone, has it on disk; this node says so when its own disk is
 * among them.
 *
 *      frames, touched   ──▶ open batch ──log_flush()──▶ own disk and peers, in parallel ──▶ committed(index)
 *                               ▲ fills while commits are in flight                           (on the loop, in order)
 *
 * Every frame appended to the same open batch gets the same index, the index of the entry that the batch will become.
 * Indexes start at 1, have no gaps and never repeat. A batch is committed as a whole or not at all.
 *
 * Roles, as the events tell them (a single member leads from the start, and for ever):
 *
 *      follow("") ──▶ follow("b") ──▶ lead ──▶ lost ──▶ lead again, same: the open batch goes on, moved
 *      (no leader)                              └─────▶ follow("c"): another one led; what was not committed is void
 *
 * Only a leader appends. Between lost() and the next lead() or follow() the open batch may still grow (a detached
 * node), but nothing of it leaves.
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
#include "log/members.h"
#include "log/peer_message.h"
#include "log/record.h"

struct diag;
struct histogram;
struct loop;
struct log;
struct stream;

enum { LOG_RETRY_MS = 200, LOG_BATCH_BYTES_MAX = 64 * 1024 * 1024, LOG_IDLE_FLUSH_MS = 50 };

struct log_events {
    void (*committed)(void *arg, uint64_t index); /* entries up to index are durable; rising, never repeated */
    void (*stalled)(void *arg, bool stalled, const char *why); /* full / has room again */
    void (*failed)(void *arg, const char *why); /* the process must stop, without any further acknowledgement */
    /* We lead. All that earlier leaders have committed is committed and durable here. same: we led before, nobody
     * else has since, nothing of ours was cut, and frames of the open batch now have index open_index instead of
     * what log_open_index() said before. */
    void (*lead)(void *arg, bool same, uint64_t open_index);
    void (*lost)(void *arg, const char *why); /* we led, and do not any more; nobody else is known to */
    /* Another node leads; "": nobody is known to, and we did not lead last. Repeated with every change. */
    void (*follow)(void *arg, const char *leader);
    /* A client of another node, relayed to us: the stream is the receiver's now. from: that node; extra: what it
     * said about the client (log_relay()). NULL: relays are refused. */
    void (*relayed)(void *arg, struct stream *s, const char *from, const void *extra, size_t n);
    /* Our log was replaced by a snapshot of another member and what follows it: whoever reads it begins anew. */
    void (*replaced)(void *arg);
    void (*snapshot)(void *arg); /* a newer snapshot came from another member (log_fetch_newer(), or the first one) */
    void (*members)(void *arg);  /* the group's composition, or what is known of a member, has changed */
};

/* Certificates of the peer links; all empty: plain connections, only accepted between loopback addresses. */
struct log_tls {
    const char *cert_file, *key_file, *ca_file;
};
struct log_settings {
    const char *dir;               /* exists; the log makes <dir>/log/ and <dir>/snapshots/ */
    uint64_t size_max_bytes;       /* log-size-max: what entries may take */
    const char *node;              /* recorded at creation; a different name later is refused */
    const char *cluster;           /* the group's name: peers must prove it */
    const struct members *members; /* as the settings name them; count 0: this node alone */
    bool log_only;                 /* this node has no Valkey */
    bool allow_single_az;
    unsigned election_ms; /* election-timeout */
    unsigned clock_skew_max_ms;
    struct log_tls tls;
    const char *listen; /* host:port of our peer port; NULL or "": our member's address */
};

/* Opens or creates. Checks every entry (checksums and chain) from the base to the end; damage is an error, never
 * repaired. NULL with a reason in why. The term is one more than the last process's. A second process on the same
 * directory is refused. */
struct log *log_open(struct loop *l, const struct diag *d, const struct log_settings *settings,
                     const struct log_events *events, void *arg, char *why, size_t why_size);
/* Stops the writer after the commit in flight; what was not flushed is dropped (nobody was told). Not from inside a
 * callback of the log; abandon an unfinished snapshot first. */
void log_close(struct log *l);

/* ---- the group ---- */
enum log_role { LOG_FOLLOWS, LOG_LEADS, LOG_LOST };
enum log_role log_role(const struct log *l);
bool log_alone(const struct log *l);         /* a group of one member, configured as such */
const char *log_leader(const struct log *l); /* name; "" if not known */
/* Leader in a group: may a read whose reply was read from Valkey at `at_ms` (log_boot_ms()) be answered now? Yes if
 * the lease is valid now, or leadership was proven for a moment not before at_ms. A lone member: always. */
bool log_may_read(const struct log *l, uint64_t at_ms);
/* log_may_read() says yes until then, if we go on leading without hearing more; 0: ask it. Alone: UINT64_MAX. */
uint64_t log_lease_end_boot_ms(const struct log *l);
uint64_t log_lease_ms_left(const struct log *l); /* 0: none; alone: UINT64_MAX */
/* The running hash after the newest committed entry: equal on all members that have committed as much. */
struct hash128 log_running(const struct log *l);
uint64_t log_boot_ms(void); /* CLOCK_BOOTTIME, read afresh */
/* LOST: gives up the open batch and what is not committed; returns how many bytes that was. */
uint64_t log_abandon(struct log *l);
/* Reads the certificates of the peer links again; links are made anew with them. What is there stays if they are no
 * good. */
void log_reload_tls(struct log *l);
/* What this node tells the others about itself; to be kept up to date. */
void log_tell(struct log *l, uint64_t fed_index, uint64_t valkey_keys);
void log_tell_draining(struct log *l, bool draining);
/* Hands leadership over: to `name`, or to the best one (NULL): a voter with a warm Valkey that has everything, rather
 * one that is not draining; of LOG_IN_SERVICE, no other; of LOG_ANYONE, in the end, one with any Valkey. The lease
 * ends at once. done() once: ok when another node leads, else with a reason, and we lead on. */
#define LOG_ANYONE     "*"
#define LOG_IN_SERVICE "!"
void log_transfer(struct log *l, const char *name, uint64_t timeout_ms,
                  void (*done)(void *arg, bool ok, const char *why), void *arg);
/* Whether log_transfer() to it could go well, as things stand; else why not. */
bool log_may_transfer(struct log *l, const char *name, const char **why);
struct log_member_status {
    struct member member;
    bool self, leader, connected;
    uint64_t match_index;    /* known to the leader; else 0 */
    uint64_t heard_ms_ago;   /* UINT64_MAX: never */
    struct peer_state state; /* what it said last */
    int64_t clock_skew_ms;   /* its wall clock less ours */
};
size_t log_members(const struct log *l, struct log_member_status *out, size_t max);
/* Membership at run time; on the leader. Steps (standby, catching up, voter; old one removed) are taken one by one;
 * done() at the end, with a reason if it failed; what was done until then stays. progress: log_members_busy(). */
/* In how many zones other than ours some member has the log up to index on disk (leader; alone 0). */
unsigned log_other_zones(const struct log *l, uint64_t index);
enum log_change { LOG_ADD, LOG_REMOVE, LOG_REPLACE };
void log_change_members(struct log *l, enum log_change what, const char *name,
                        void (*done)(void *arg, bool ok, const char *why), void *arg);
const char *log_members_busy(const struct log *l); /* what is under way, in words; NULL: nothing */
/* A connection to the leader for one client. done() once, also when it cannot be had: then s is NULL. The answer may
 * be cancelled until then. extra: at most LOG_RELAY_EXTRA_BYTES_MAX. */
enum { LOG_RELAY_EXTRA_BYTES_MAX = 4096 };
struct log_dial;
struct log_dial *log_relay(struct log *l, const void *extra, size_t n,
                           void (*done)(void *arg, struct stream *s, const char *why), void *arg);
void log_relay_cancel(struct log_dial *d);

/* ---- what is known ---- */
uint64_t log_term(const struct log *l);
/* Of the oldest entry kept (not truncated, nor about to be); last+1 if none. */
uint64_t log_first_index(const struct log *l);
uint64_t log_last_index(const struct log *l); /* newest entry durable here */
uint64_t log_committed(const struct log *l);
uint64_t log_open_index(const struct log *l);    /* the index that the open batch will get */
uint64_t log_bytes(const struct log *l);         /* taken by entries */
uint64_t log_pending_bytes(const struct log *l); /* in the open batch and the one in flight */
bool log_stalled(const struct log *l);
uint64_t log_disk_ms(const struct log *l); /* for how long the write that is under way has been */

/* Somebody waits for all that was appended. */
void log_hurry(struct log *l);
/* The open batch, to append frames to with frame_*() of record.h; call log_touch() afterwards. */
struct buf *log_batch(struct log *l);
/* urgent: somebody waits; the batch is committed at the next log_flush(). Otherwise it may wait for company up to
 * LOG_IDLE_FLUSH_MS. */
void log_touch(struct log *l, bool urgent);
/* At the end of each turn: starts a commit if none is in flight and the batch is urgent or old enough. Returns true
 * if it did. */
bool log_flush(struct log *l);

/* How long our own disk took for each write of entries, terms or cuts, until it was durable; since the start. */
const struct histogram *log_fsync_us(const struct log *l);

/* ---- reading, in pieces, so that the loop is not held up ---- */
/* Calls each() for up to `bytes_max` of entries from `from` on (at least one if there is one), committed ones only.
 * Returns the next index to ask for. each() borrows the view. Damage, and an index that was truncated, call failed()
 * and return 0. */
uint64_t log_read(struct log *l, uint64_t from, size_t bytes_max, void (*each)(void *arg, const struct entry_view *e),
                  void *arg);

/* ---- notes: small values that outlive the process ---- */
enum { LOG_NOTE_BYTES_MAX = 1024 };
/* done() when it is durable (or cannot be: ok = false). One at a time for each name; a later one replaces it. */
void log_note(struct log *l, const char *name, const void *bytes, size_t n, void (*done)(void *arg, bool ok),
              void *arg);
size_t log_noted(struct log *l, const char *name, void *out, size_t max); /* 0: nothing */

/* ---- snapshots: an RDB file and its sidecar ---- */
struct snapshot_mark {
    uint64_t index;    /* the OUTCOMEs of entries below index are in the RDB ... */
    uint64_t effects;  /* ... and the first `effects` effects of the OUTCOMEs of entry `index` (REF n..m counts m-n+1,
                          RAW counts 1) */
    uint64_t log_from; /* replay reads the log from here: intents that were pending at the mark are no older */
    uint64_t next_seq; /* all sequence numbers at the mark are below */
    uint64_t rdb_bytes; /* filled by snapshot_finish() */
    uint64_t taken_ms;  /* wall clock */
    /* What the log before log_from has said and replay must know: the attachment in force there, and the mode. */
    char replid[48], run_id[48]; /* empty: none */
    uint64_t offset;
    uint32_t db;
    int mode; /* enum durability, -1: never said */
};
struct snapshot_writer;
struct snapshot_writer *snapshot_begin(struct log *l, char *why, size_t why_size); /* into a temporary file */
bool snapshot_write(struct snapshot_writer *w, const void *bytes, size_t n); /* false: disk trouble; then abandon */
/* Durable (file, directory, sidecar with checksum of the RDB), then the newest; older ones are removed. The fsync
 * runs on the writer thread; done() on the loop. The writer is consumed by then. */
void snapshot_finish(struct snapshot_writer *w, const struct snapshot_mark *mark, void (*done)(void *arg, bool ok),
                     void *arg);
void snapshot_abandon(struct snapshot_writer *w);
void snapshot_disown(struct snapshot_writer *w); /* between snapshot_finish() and done(): goes on, nobody is told */
/* If another member has a newer one than ours: fetch it, in the background. For nodes whose Valkey is not to fork. */
void log_fetch_newer(struct log *l);
/* The newest valid snapshot: true, its mark, and its path in path[] (open it at once: a newer one removes it). false
 * if there is none. A sidecar that does not match its file is damage: failed() is called. */
bool snapshot_newest(struct log *l, struct snapshot_mark *mark, char *path, size_t path_size);
/* The same, opened: the RDB at its beginning, the caller's to close, and the hash that all of it has, which is not
 * compared here. */
bool snapshot_open_newest(struct log *l, struct snapshot_mark *mark, struct hash128 *hash, int *fd);

/* Drops entries below `index` (on the writer thread, in pieces, between commits). The caller keeps index <= newest
 * mark's log_from. */
void log_truncate(struct log *l, uint64_t index);

#endif

/* Inside the log: shared by log*.c only.
 *
 *   log.c          the door; the open batch; notes, reading
 *   log_truncate.c the log's beginning
 *   log_write.c    what is in memory and not on disk yet: jobs for the writer, stalled, failed
 *   log_group.c    consensus' host: entries, messages, roles; what the owner is told, and in which order
 *   log_clock.c    wall clocks
 *   log_begin.c    opening: a log that is there, a new one, a member that joins
 *   log_peers.c    what is known of the other members; links, states, relays
 *   log_change.c   handing leadership over; members added, removed, replaced
 *   log_fetch.c    snapshots from other members; log_serve.c: for them */
#ifndef HF_LOG_INTERNAL_H
#define HF_LOG_INTERNAL_H

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/metrics.h"
#include "log/consensus.h"
#include "log/log.h"
#include "log/peer.h"
#include "log/skew.h"
#include "log/store.h"
#include "log/tail.h"
#include "log/writer.h"

enum {
    LOG_WHY_BYTES = STORE_WHY_BYTES,
    LOG_JOB_RECORDS_MAX = 1024,                /* of one transaction */
    LOG_JOB_BYTES_MAX = 16 * 1024 * 1024,      /* likewise, unless a single record is larger */
    LOG_WAITING_BYTES_MAX = 128 * 1024 * 1024, /* received and not on disk yet: a follower takes no more */
    LOG_WINDOW_ALONE = 1,                      /* batches submitted and not committed: a disk has one queue ... */
    LOG_WINDOW_GROUP = 3,                      /* ... a network another */
    LOG_STATE_MS = 200,                        /* members tell each other about themselves so often */
    LOG_STATE_OLD_MS = 2000,                   /* what was said longer ago counts for nothing */
    LOG_KNOWN_MAX = 2 * MEMBERS_MAX            /* members and strangers that are remembered */
};

enum writing { WRITE_IDLE, WRITE_BUSY, WRITE_FAILED };

struct write_job {
    struct writer_job job;
    struct log *log;
    bool hard;
    unsigned hard_calls;
    struct store_hard hard_state;
    uint64_t cut_from;
    struct record *records[LOG_JOB_RECORDS_MAX];
    size_t count, bytes;
    bool installing; /* replaces the log by l->install */
    enum store_result result;
    struct store_state after;
    bool wants_fill;
    uint32_t took_us;
    char why[LOG_WHY_BYTES];
};

struct truncation {
    struct writer_job job;
    struct log *log;
    bool out;                    /* with the writer */
    uint64_t index;              /* what the writer works towards */
    uint64_t wanted;             /* what was last asked for; entries below do not exist for the loop any more */
    struct store_base base;      /* of the job */
    struct store_base next_base; /* of what is wanted */
    bool more;
    enum store_result result;
    struct store_state after;
    char why[LOG_WHY_BYTES];
};

struct fill {
    struct writer_job job;
    struct log *log;
    bool out;
};

struct submitted { /* a batch of ours that is not committed */
    uint64_t index, at_us;
    size_t bytes;
};

struct known { /* what a node has said about itself */
    struct member member;
    bool begun; /* its log has */
    bool up;    /* our link to it */
    struct peer_state state;
    uint64_t state_ms, heard_ms; /* 0: never */
    struct skew skew;
    bool skew_said, election_said;
};

struct install { /* a fetched snapshot that is to become our log's beginning */
    struct store_install store;
    struct store_base base;
    bool ready;
};

struct transfer {
    bool active, sent, cold; /* cold: whose Valkey is not warm will do in the end */
    uint64_t target, deadline_ms;
    char name[MEMBER_NAME_BYTES_MAX];
    void (*done)(void *arg, bool ok, const char *why);
    void *arg;
};

struct note;    /* log.c */
struct change;  /* log_change.c */
struct fetch;   /* log_fetch.c */
struct serving; /* log_serve.c */

struct log {
    struct loop *loop;
    const struct diag *diag;
    const struct log_events *events;
    void *arg;
    struct log_settings set;
    int lock_fd;
    struct store *store;
    struct writer *writer;
    struct snapshots *snapshots;
    struct loop_timer *idle_timer, *retry_timer;

    /* log_write.c */
    enum writing writing;
    bool told_stalled;
    struct store_state kept; /* on disk, as of the last job reported */
    struct tail *tail;
    uint64_t handed;             /* entries up to here are on disk or with the writer ... */
    uint64_t durable;            /* ... and up to here on disk, as the log has them now */
    bool hard_wanted, hard_owed; /* owed: there was no room even for that */
    unsigned hard_calls;         /* how often consensus asked for it: it is told as often */
    bool full;     /* the last write met a full disk: until the next try only a term, a vote or a cut is written */
    bool cut_owed; /* ... and there was no room even for that */
    struct store_hard hard;
    uint64_t cut_wanted; /* 0: none */
    struct write_job write;
    uint64_t write_since_ms;
    struct fill fill;
    uint64_t base_wait; /* this entry waits for the snapshot that it names; 0: none */

    /* log.c, log_truncate.c */
    struct buf open;
    bool urgent, waiting; /* of the open batch: flush at once; touched, with the idle timer running */
    uint64_t open_index;  /* what log_open_index() says */
    struct submitted submitted[LOG_WINDOW_GROUP];
    size_t submitted_count;
    struct truncation truncation;
    struct histogram fsync_us; /* the writer's thread measures (write_job.took_us), the loop adds when it is told */
    struct note *notes;        /* on their way to the disk */

    /* log_group.c */
    struct consensus *raft; /* NULL: the group has not begun, as far as we know */
    bool alone, delivering, sync_open;
    struct loop_timer *raft_timer, *state_timer;
    uint64_t raft_due_ms; /* what raft_timer is set to; 0 = not set */
    enum consensus_role raft_role;
    uint64_t raft_leader, raft_term;
    uint64_t raft_committed; /* as consensus said last */
    uint64_t committed;      /* as the owner was told last */
    uint64_t lead_index;     /* we lead once this is committed */
    uint64_t lead_since_ms;  /* monotonic; 0: we do not lead, in Raft's sense */
    bool led, foreign;       /* since follow(): we have told lead(); another leader's hand was on our log */
    bool lease_off;          /* some member's election-timeout is shorter than ours: no lease can be counted */
    bool submitting;         /* inside consensus_submit() */
    enum log_role role;
    char leader[MEMBER_NAME_BYTES_MAX]; /* as told */
    bool members_changed;
    char members_said[MEMBERS_MAX * (MEMBER_NAME_BYTES_MAX + 16)];
    uint64_t clock_heard_ms;  /* the newest wall clock that a leader has told us, or the end of our log has */
    uint64_t clock_logged_ms; /* monotonic: when ours went into the log */

    /* log_peers.c */
    struct peers *peers;
    struct tls *tls;
    struct member self;
    struct members configured; /* as the settings say; self with its id */
    char group[PEER_GROUP_BYTES];
    bool begun;
    struct peer_hello begin_wanted; /* before we have begun: the last hello, looked at on the next turn ... */
    struct buf begin_change;        /* ... with its configuration */
    struct buf first_change;        /* of the log's first entry, for HELLOs; empty: not known any more */
    struct known known[LOG_KNOWN_MAX];
    size_t known_count;
    struct peer_state told; /* what log_tell() said */

    struct transfer transfer;
    uint64_t yield_again_ms;
    struct diag_limit yields, fetches, fetching; /* as they are told */
    struct change *change;
    struct fetch *fetch;
    struct serving *servings;
    uint64_t serve_from; /* somebody is being sent entries from here on: not to be truncated; 0 = nobody is */
    struct install install;
};

/* The level of a line that comes again with every attempt (twice a second) to fetch a snapshot, or to have one sent.
 */
enum { FETCHES_TOLD_MAX = 4 };
static inline enum diag_level fetch_level(struct diag_limit *told, enum diag_level level)
{
    return diag_limited(told, clock_mono_ms(), FETCHES_TOLD_MAX, level);
}

/* ---- log.c ---- */
void log_fail(struct log *l, const char *why);
void log_committed_to(struct log *l, uint64_t index); /* the owner's side of a commit: figures */
void log_drop_open(struct log *l);

/* ---- log_truncate.c ---- */
void truncate_init(struct log *l);
void truncate_more(struct log *l);     /* what is wanted and not done yet */
void truncate_replaced(struct log *l); /* nothing is wanted of the log that is here now */
void truncate_free(struct log *l);

/* ---- log_write.c ---- */
void write_init(struct log *l);
void write_more(struct log *l); /* starts a job if none is out and there is something to write */
void write_retry(struct log *l);
void write_cut(struct log *l, uint64_t index);
void write_hard(struct log *l, uint64_t term, uint64_t vote);
bool write_now(struct log *l);       /* before there is a writer thread: everything, at once; false: failed or full */
void write_base_here(struct log *l); /* what base_wait waited for is durable */
void write_drop(struct log *l);      /* gives back what the job holds; the writer has ended */

/* ---- log_group.c ---- */
void group_start(struct log *l, const struct consensus_start *s, bool restarted);
void group_after(struct log *l); /* after every call of consensus: tells the owner, sets the timer, writes */
void group_message(struct log *l, const struct peer_message *m, struct record **records);
size_t group_records(struct log *l, const struct peer_message *m, uint64_t from, size_t max, size_t bytes_max,
                     struct record **out);
struct record *group_seal(struct log *l, struct buf *batch, enum record_type type, uint64_t index, uint64_t term);
uint64_t group_term_at(struct log *l, uint64_t index);
uint64_t group_names_base(const struct entry_view *e); /* what its CONTROL_BASE names; 0: it has none */

/* ---- log_clock.c ---- */
bool group_clock_is_past(struct log *l);
void group_log_clock(struct log *l); /* before a batch is sealed: now and then our wall clock goes with it */

/* ---- log_begin.c ---- */
bool begin_open(struct log *l, char *why, size_t why_size); /* everything up to a started, or waiting, group */
void begin_met(struct log *l, const struct peer_hello *h);  /* a member (NULL: none) was met: can the group begin? */

/* ---- log_peers.c ---- */
bool peers_open(struct log *l, char *why, size_t why_size);
void peers_close(struct log *l);
void peers_follow(struct log *l); /* dial whom the configuration names */
void peers_hello_again(struct log *l);
struct known *known_by_id(struct log *l, uint64_t id);
struct known *known_by_name(struct log *l, const char *name); /* the one who was met last under it */

/* ---- log_change.c ---- */
void change_tick(struct log *l); /* every LOG_STATE_MS or sooner, and when roles change */
void change_free(struct log *l);

/* ---- log_fetch.c ---- */
void fetch_wanted(struct log *l, uint64_t from, uint64_t last_index); /* consensus: our log is too far behind */
/* A record with CONTROL_BASE came: it counts when we have a snapshot that is not older than `base`. */
void fetch_base(struct log *l, uint64_t index, uint64_t base);
void fetch_tick(struct log *l);
void fetch_installed(struct log *l); /* the install job is durable */
void fetch_free(struct log *l);

/* ---- log_serve.c ---- */
void fetch_serve(struct log *l, struct stream *s, const struct peer_hello *h);
void serve_tick(struct log *l);
void serve_free(struct log *l);

#endif

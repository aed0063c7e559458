/* Private to node*.c: the node's insides. See node.h for its life.
 *
 *   node.c           door, state, timers, the way down (node_fail)
 *   node_control.c   the control connection: requests, CLIENT KILL, watching that it answers
 *   node_gather.c    what Valkey says about itself, and settings that we rely on
 *   node_attach.c    walk of the log, decision, ADOPTING and BRIDGING, hand-over to the core
 *   node_rebuild.c   REBUILDING
 *   node_follow.c    WAITING, FEEDING, FED: our Valkey as a replica of the log
 *   node_promote.c   PROMOTING; how a fed Valkey becomes a primary, after a rebuild, too
 *   node_prove.c     at the end of a leadership: that Valkey's state is the log's
 *   node_snapshot.c  an RDB through a tap into a snapshot: at run time, and for ADOPTING
 *   node_decide.c    the pure part */
#ifndef HF_NODE_INTERNAL_H
#define HF_NODE_INTERNAL_H

#include "log/base/buf.h"
#include "proxy/feed.h"
#include "proxy/node.h"

enum {
    NODE_RETRY_FIRST_MS = 50,
    NODE_RETRY_MS_MAX = 1000,
    NODE_REFUSED_RETRY_MS = 3000,
    NODE_TICK_MS = 100,
    NODE_PING_MS = 1000,
    NODE_REPEAT_MS = 60000,    /* the same complaint again */
    NODE_STATES_SAID_MAX = 20, /* changes of state in DIAG_LIMIT_MS: more is a Valkey that comes and goes */
    NODE_LOADING_MS = 100,
    NODE_WALK_BYTES = 1024 * 1024,
    NODE_BACKLOG_BYTES_MIN = 64 * 1024 * 1024,
    NODE_OUTPUT_HARD_BYTES_MIN = 256 * 1024 * 1024,
    NODE_OUTPUT_SOFT_BYTES_MIN = 64 * 1024 * 1024,
    NODE_ADDRESS_BYTES_MAX = 256,
    NODE_WHY_BYTES_MAX = 256,
    NODE_SETTING_BYTES_MAX = 256
};

/* What Valkey said when it was gathered. */
struct node_valkey {
    char run_id[48], version[32], server[16];
    char replid[48]; /* master_replid */
    bool is_replica, loading, cluster_enabled, lacks_commands, scripts;
    unsigned databases;
    char master_user[NODE_SETTING_BYTES_MAX], master_auth[NODE_SETTING_BYTES_MAX]; /* to be restored after a feed */
    char sync_delay[16];                                                           /* repl-diskless-sync-delay */
    uint64_t unexpected_errors;
    struct buf commands; /* raw reply of COMMAND */
};

/* A snapshot in the making: at run time (own tap), or while adopting (the tap of the stream). */
enum snapshot_phase { SNAPSHOT_NONE, SNAPSHOT_TAKING, SNAPSHOT_FINISHING };
struct node_snapshot {
    enum snapshot_phase phase;
    uint64_t number; /* figures.snapshots_begun */
    bool adopting;
    bool fed;        /* from a Valkey that is fed: the offset is the feed's */
    uint64_t life;   /* n->life when it was begun */
    struct tap *tap; /* of its own; NULL while adopting */
    struct snapshot_writer *writer;
    bool forked, received;
    uint64_t offset;     /* where Valkey forked */
    struct replay *walk; /* fed: looks for the place in the log */
    bool placed;         /* ... and has found it */
    uint64_t reminder;   /* entry that repeats the attachment, behind the mark's OUTCOME; 0 = not written yet */
    uint64_t bytes, active_ms, started_ms;
    struct snapshot_mark mark;
    uint64_t truncate_after,
        truncate_before; /* once entry `after` is committed: log_truncate(before); 0 = none waits */
    uint64_t retry_at_ms, pause_ms;
};

struct node {
    struct loop *loop;
    const struct diag *diag;
    const struct config *config;
    const struct certs *certs;
    struct log *log;
    const struct node_events *events;
    void *arg;
    enum node_state state;
    enum node_part part;
    bool snapshots_by_itself;
    uint64_t life; /* counts the ways down: what was begun in another life is not continued */
    struct spawn *spawn;
    void (*stopped)(void *arg);
    void *stopped_arg;

    struct loop_timer *tick, *retry, *work;
    void (*step)(struct node *n); /* what `work` does next */
    uint64_t wait_index;          /* ... once the log has committed this; 0 = at once */
    uint64_t pause_ms;
    char last_why[NODE_WHY_BYTES_MAX];
    uint64_t last_why_ms;
    struct diag_limit states_said;
    bool failing;         /* on the way down by node_fail() */
    char policy_said[32]; /* maxmemory-policy, if it was warned about */

    struct backend *control;
    struct request *refused_kills; /* node_control.c: to be sent again */
    unsigned answers_due;          /* of what is being gathered */
    struct node_valkey valkey;
    struct {
        char run_id[48];
        uint64_t errors; /* unexpected_error_replies of that process that were looked at */
        bool skipped;    /* it has skipped effects, and has not been loaded anew since */
    } doubt;
    uint64_t ping_ms;

    struct replay *walk; /* the last walk of the log; its facts */
    uint64_t walked_to;  /* log_committed() at its end */
    struct buf users;    /* node_users.c */
    uint64_t users_index;
    void (*walked)(struct node *n);
    bool bridge_failed; /* this Valkey does not continue the stream that the log knows */
    bool closed_out;    /* since detached */

    struct tap *tap;
    char replid[48];            /* of the stream that the tap follows */
    uint64_t offset;            /* where it was joined */
    uint64_t attach_index;      /* the entry that says so: the core takes over when it is committed */
    struct replay_facts joined; /* facts for attached() */

    struct feed *feed;
    struct checkpoints *checkpoints;
    struct {
        bool told;        /* REPLICAOF was answered */
        bool begun;       /* the log has: it says something */
        bool checking;    /* INFO is asked whether it is warm */
        bool distrusted;  /* it skipped commands again after a full sync: not warm until the next one */
        bool synced;      /* a sync has begun since it was seen to skip */
        bool partial;     /* the last sync was */
        uint64_t goal;    /* fed up to here: caught up */
        uint64_t excused; /* refusals explained by feed_tries() so far */
        uint64_t skips, retry_ms, retry_at_ms, clean_since_ms;
        struct replay *look; /* for `begun` */
    } follow;
    struct {
        bool valid, running; /* Valkey's state is the log's / that is being asked */
        struct feed_proof proof;
        struct loop_timer *poll;
        uint64_t goal, until_ms;
        bool asked; /* goal is known */
        void (*done)(void *arg, bool proven);
        void *arg;
    } prove;
    struct {
        uint64_t started_ms, said_ms, commands;
        uint64_t settled;        /* PROMOTING: what was appended before is committed with this entry */
        bool resolved, promoted; /* PROMOTING: the last entry is known; REPLICAOF NO ONE was sent */
        char why[NODE_WHY_BYTES_MAX];
        char saved_user[NODE_SETTING_BYTES_MAX], saved_auth[NODE_SETTING_BYTES_MAX];
    } rebuild;
    struct node_snapshot snapshot;
    struct node_figures figures;
};

/* ---- node.c ---- */
const char *node_address(const struct node *n);
void node_set_state(struct node *n, enum node_state to, const char *why);
/* The one way down: closes everything to Valkey, tells the core if it was attached, tries again after a pause. */
/* What goes wrong without a change of state; the same is not said with every attempt. */
void node_complain(struct node *n, const char *why);
void node_fail(struct node *n, const char *format, ...) __attribute__((format(printf, 2, 3)));
void node_try_again(struct node *n, uint64_t after_ms); /* the same, quietly */
/* Runs step on one of the next turns, once the log has committed `index` (0: at once). Replaces what waits. */
void node_after(struct node *n, uint64_t index, void (*step)(struct node *n));
void node_damaged(struct node *n, const char *what); /* the log contradicts itself: loudly, and for good */

/* ---- node_control.c ---- */
void node_connect(struct node *n);
void node_control_close(struct node *n);
void node_control_watch(struct node *n, uint64_t now_ms);
typedef void node_reply_fn(void *arg, const char *reply, size_t n);
void node_ask(struct node *n, node_reply_fn *reply, size_t count, const char *const *word); /* reply(n, ...) */
void node_kill_others(struct node *n); /* CLIENT KILL of all ordinary connections but ours */

/* ---- node_gather.c ---- */
void node_gather(struct node *n); /* then node_decide_now() */
bool node_info_field(const char *info, size_t n, const char *name, char *out, size_t size);
uint64_t node_info_number(const char *info, size_t n, const char *name);
void node_sync_delay(struct node *n, bool zero); /* repl-diskless-sync-delay to 0, or back */

/* ---- node_attach.c ---- */
void node_walk(struct node *n, void (*walked)(struct node *n));
void node_decide_now(struct node *n);
uint64_t node_settled_index(struct node *n); /* once this is committed, all that was appended is */
uint64_t node_append_attach(struct node *n, uint64_t offset, const char *replid, const char *run_id,
                            bool again); /* index */
void node_open_tap(struct node *n, const char *replid, uint64_t offset, uint32_t db);
void node_refuse(struct node *n, const char *reason);
struct valkey_identity *node_identity(const struct node *n); /* the caller's */
void node_hand_over(struct node *n);        /* ATTACH is committed and the tap is open: the core takes over */
void node_adopted(struct node *n, bool ok); /* the first snapshot is durable, or failed */

/* ---- node_follow.c ---- */
/* Valkey's count of refused effects is `errors` now: how many of the new ones nothing explains. */
uint64_t node_unexplained(struct node *n, uint64_t errors);

/* ---- node_rebuild.c ---- */
void node_rebuild(struct node *n, const char *why);
void node_rebuild_stop(struct node *n);
void node_rebuilt(struct node *n); /* handed over: figures */
void node_rebuild_began(struct node *n, const char *why);
void node_append_resolved(struct node *n, const struct replay_facts *facts); /* OUTCOME for the pending intents */
void node_on_progress(void *arg, double done, uint64_t commands);            /* of the feed */
/* masterauth = the feed's password, REPLICAOF the feed. */
void node_replicate(struct node *n, const char *ip, node_reply_fn *replied);

/* ---- node_follow.c ---- */
void node_wait(struct node *n, const char *why);
void node_follow(struct node *n);
void node_follow_on(struct node *n,
                    const struct feed_proof *proof); /* the state is CONNECTING, WAITING or ATTACHED */
bool node_is_ours(
    const struct node *n);             /* Valkey is a replica of an earlier feed of ours, and a checkpoint knows it */
void node_follow_more(struct node *n); /* the log has committed more */
void node_look(struct node *n);        /* every second: INFO */
void node_follow_stop(struct node *n);

/* ---- node_promote.c ---- */
void node_promote(struct node *n, const char *why);
void node_promote_more(struct node *n); /* the feed has sent all that is committed */
bool node_promote_undo(struct node *n); /* back to FEEDING; false: it is too late */
void node_promote_complete(void *arg);  /* the feed's Valkey has acknowledged everything: make it a primary */

/* ---- node_prove.c ---- */
void node_prove_void(struct node *n);
void node_prove_stop(struct node *n); /* the tap goes */
void node_demote(struct node *n); /* ATTACHED and proven: to a replica of ours by partial sync, if it still holds */

/* ---- node_snapshot.c ---- */
bool node_snapshot_open(struct node *n, bool adopting);
bool node_snapshot_bytes(struct node *n, const char *bytes, size_t size); /* false: abandoned */
void node_snapshot_finish(struct node *n);                                /* its mark is set */
void node_snapshot_abandon(struct node *n, const char *why);
void node_snapshot_free(struct node *n); /* abandoned before; one that is finishing does so by itself */
void node_snapshot_tick(struct node *n, uint64_t now_ms);

/* node_users.c */
void node_users_note(struct node *n, const struct replay_facts *facts); /* before a feed or a walk ends */

#endif

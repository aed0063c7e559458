/* The life of our Valkey: find it, prove it, rebuild it if it cannot be proven, follow its stream, watch it, start
 * it again.
 *
 *   CONNECTING ─▶ decide ─┬─ nothing logged yet ────────▶ ADOPTING   (RDB by the tap = snapshot) ─┐
 *                         ├─ same run_id as attached ───▶ BRIDGING   (tap, partial sync) ────────┼▶ ATTACHED
 *                         └─ anything else, no bridge ──▶ REBUILDING (feed, promotion, tap) ─────┘
 *
 *   ATTACHED ──tap cut──▶ CONNECTING      any state ──Valkey gone, hung, replaced──▶ CONNECTING
 *
 * That is the part of a leader's node (a lone one always leads). In a group the core tells which part to play:
 *
 *   CONNECTING ─▶ WAITING (no part yet) ─▶ NODE_LEADS: decide, as above
 *                    └─▶ NODE_FOLLOWS: FEEDING (full or partial, catching up) ─▶ FED (warm: a replica of the log)
 *   FED or FEEDING ──NODE_LEADS──▶ PROMOTING (pending intents resolved, fed to the end, REPLICAOF NO ONE) ─▶ ATTACHED
 *   ATTACHED ──NODE_FOLLOWS──▶ FEEDING: by partial sync if its state was proven (node_prove), else by full sync
 *
 * node_decide() is the pure part; the rest drives it. */
#ifndef HF_NODE_H
#define HF_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/log.h"
#include "proxy/message.h"
#include "proxy/replay.h"
#include "proxy/tap.h"

struct backend;
struct certs;
struct config;
struct diag;
struct loop;
struct node;

enum node_state {
    NODE_STARTING,
    NODE_CONNECTING,
    NODE_ADOPTING,
    NODE_BRIDGING,
    NODE_REBUILDING,
    NODE_ATTACHED,
    NODE_STOPPED,
    NODE_WAITING,
    NODE_FEEDING,
    NODE_FED,
    NODE_PROMOTING
};
enum node_part { NODE_UNDECIDED, NODE_LEADS, NODE_FOLLOWS };
const char *node_state_name(enum node_state s);

struct node_events {
    /* The stream is ours from here on: CONTROL_ATTACH is committed; replay facts are as of the attachment. rebuilt:
     * Valkey's state is exactly the log's and nothing is pending. Otherwise (bridged) pending intents of facts may
     * yet appear in the stream, or never: the core must have other connections killed (node has done it), send a
     * marker, and resolve them. identity is the core's now. */
    void (*attached)(void *arg, struct valkey_identity *identity, const struct replay_facts *facts, bool bridged);
    /* The tap was cut or Valkey is gone: forward nothing any more. Comes before anything of a new
     * attachment. */
    void (*detached)(void *arg, const char *why);
    /* Before a rebuild: everything that the core has seen and not yet appended must be appended now (sequencer's
     * closing OUTCOME); called once per rebuild, while detached. The node goes on when the log has committed it. */
    void (*close_out)(void *arg);
    void (*effect)(void *arg, const struct effect *e);
    /* true: a marker of ours, and the log had nothing to learn from it: what is proven of Valkey's state stays so. */
    bool (*message)(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                    const struct effect *e);
    /* A running snapshot: Valkey forked at this offset of the stream: return false until the tap has passed it,
     * then fill the mark. */
    bool (*map_offset)(void *arg, uint64_t offset, struct snapshot_mark *mark);
    void (*snapshot_started)(void *arg); /* start to remember offsets (sequencer) */
    void (*snapshot_ended)(void *arg, bool ok, const struct snapshot_mark *mark);
    void (*commands)(void *arg, const char *reply, size_t n); /* the COMMAND reply was read again */
    void (*failed)(void *arg, const char *why); /* the log contradicts itself: the process must stop. NULL: abort() */
    /* Following: our Valkey is warm and serves reads (identity is the core's now) / does not any more. NULL: not
     * told. */
    void (*fed)(void *arg, struct valkey_identity *identity);
    void (*unfed)(void *arg, const char *why);
    /* Is everything that the stream says up to this offset in the log, and committed? Then up to which entry. */
    bool (*clean)(void *arg, uint64_t offset, uint64_t *index);
};

/* certs NULL: no TLS. */
struct node *node_new(struct loop *l, const struct diag *d, const struct config *c, const struct certs *certs,
                      struct log *log, const struct node_events *events, void *arg);
void node_start(struct node *n); /* with NODE_LEADS as its part, unless node_play() said otherwise before */
/* Which part to play from now on; the same part again changes nothing. Falling from NODE_LEADS tells detached(). */
void node_play(struct node *n, enum node_part part);
/* Before a planned hand-over, when nothing is in flight any more: kills what other connections there are, lets the
 * tap read to the stream's end, asks clean(). proven: this Valkey's state is the log's up to an entry, remembered
 * until an effect comes; a later NODE_FOLLOWS then goes on by partial sync. */
void node_prove(struct node *n, void (*done)(void *arg, bool proven), void *arg);
bool node_warm(const struct node *n); /* FED, and what it has acknowledged is less than NODE_WARM_BYTES behind */
/* Ends a spawned Valkey, too (SIGTERM, then SIGKILL). */
void node_stop(struct node *n, void (*stopped)(void *arg), void *arg);
void node_free(struct node *n);
void node_committed(struct node *n, uint64_t index);
/* The log's open entry, which had the index `from`, gets another one (log.h: lead(same)). */
void node_log_moved(struct node *n, uint64_t from, uint64_t to);
enum node_state node_state(const struct node *n);
bool node_valkey_down(const struct node *n);
uint64_t node_tap_offset(const struct node *n);
void node_ack(struct node *n, uint64_t durable_offset);
void node_reload_commands(struct node *n);
/* The users that the log names, as far as this node has walked it, copied into *out if they are of a later entry than
 * *index, which is brought up to date. */
bool node_users(struct node *n, uint64_t *index, struct buf *out);
/* Starts one now if none runs; started by itself by snapshot-log-bytes, and when the log is full. */
void node_snapshot(struct node *n, const char *why);
/* Whether a leader's node takes snapshots by itself, as the log grows (true at first). A follower's does in any case.
 */
void node_snapshots(struct node *n, bool by_itself);
bool node_wants_snapshot(const struct node *n); /* more log lies behind the newest one than snapshot-log-bytes */
void node_snapshot_came(struct node *n);        /* one of another member is the newest now: truncates behind it */
/* Truncates behind the newest one what may go by now. Done by itself while there is a Valkey; a log grows without. */
void node_truncate(struct node *n);
/* CLIENT KILL ID on the control connection; done() with ok = Valkey answered (or says there is no such client). Not
 * called after detached(). */
void node_kill_client(struct node *n, uint64_t client_id, void (*done)(void *arg, uint64_t client_id, bool ok),
                      void *arg);
/* Sends a command on the control connection (e.g. a marker while the lane is closed). reply may be NULL. */
void node_send(struct node *n, const void *resp, size_t bytes, void (*reply)(void *arg, const char *reply, size_t n),
               void *arg);

struct node_figures {
    double rebuild_progress;
    uint64_t rebuilds, last_rebuild_unix_ms, last_rebuild_duration_ms, last_rebuild_commands;
    char last_rebuild_why[128];
    bool snapshot_running;
    uint64_t snapshot_index, snapshot_bytes, snapshot_unix_ms;
    uint64_t snapshots_begun; /* of our Valkey; each is numbered so before it forks */
    uint64_t snapshot_made;   /* the number of the last of them that became the newest */
    uint64_t fed_index; /* FED or FEEDING: entries up to here have been executed by our Valkey; else 0 */
    uint64_t feeds_full, feeds_partial;
    uint64_t valkey_keys; /* how many keys Valkey held when it was last looked at; UINT64_MAX: not known */
};
const struct node_figures *node_figures(const struct node *n);
/* The Valkey that was last spoken to, attached or fed; "" before. Until the next turn of the loop. */
const char *node_valkey_version(const struct node *n);
const char *node_valkey_run_id(const struct node *n);
/* The mode that the log names, as far as this node's Valkey has been fed; -1: none, or it is not fed. */
int node_fed_mode(const struct node *n);

/* ---- the pure part ---- */
struct node_facts {
    bool log_empty;    /* neither snapshot nor entry that says anything */
    bool log_attached; /* the log knows an attachment */
    bool same_run_id;  /* Valkey's run_id is that one's */
    bool is_replica;   /* role:slave */
    bool loading;
    bool cluster_enabled, lacks_commands;
    bool bridge_failed; /* partial sync was tried and refused since Valkey was found */
};
enum node_choice { CHOOSE_WAIT, CHOOSE_REFUSE, CHOOSE_ADOPT, CHOOSE_BRIDGE, CHOOSE_REBUILD };
enum node_choice node_decide(const struct node_facts *f, const char **reason);

#endif

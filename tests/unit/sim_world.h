/* Inside the simulator: shared by sim_sequencer.c (the schedule), sim_clients.c, sim_driver.c (the part of the core),
 * sim_backend.c (Valkey and its connections) and sim_check.c (what must hold). */
#ifndef HF_SIM_WORLD_H
#define HF_SIM_WORLD_H

#include "proxy/sequencer.h"
#include "tests/unit/sim_log.h"
#include "tests/unit/sim_sequencer.h"
#include "tests/unit/sim_valkey.h"

enum {
    SIM_SESSIONS = 4,
    SIM_CALLS_MAX = 160,
    SIM_CMDS_MAX = 3,
    SIM_CHANGES_MAX = 16,
    SIM_CONNS_MAX = 400,
    SIM_ITEMS_MAX = 512,
    SIM_STREAM_MAX = 4096,
    SIM_OUTCOMES_MAX = 4096,
    SIM_TEXT_BYTES = 400,
    SIM_FOREIGN_ID = 1000000
};

enum road { ROAD_LANE, ROAD_PINNED, ROAD_ASYNC, ROAD_READ, ROAD_NONE };
enum call_state { CALL_OUT, CALL_RELEASED, CALL_FAILED };

struct change { /* what an executed command did to the history */
    int key, at;
    struct element e;
};
struct call { /* one command of a client: the record lives as long as the run, struct op only until it is released */
    int number, session;
    enum op_kind kind;
    enum road road;
    bool sync, wait;
    struct cmd cmd[SIM_CMDS_MAX];
    int cmds;
    struct keyset keys; /* that it names */
    bool read_key[SIM_KEYS];
    bool refused, past, lazy; /* what Valkey will make of it */
    enum call_state state;
    bool came, executed, error, promised; /* promised: async, and a WAIT said that it is durable */
    uint64_t executed_at, end_offset, came_us, accepted_us, log_index, seq, epoch, attachment, valkey, process;
    struct change change[SIM_CHANGES_MAX];
    int changes;
    int seen[SIM_KEYS]; /* read: how much of each history */
    struct conn *conn;
    struct op *op; /* until its reply came; the sequencer's stand-in once the client was told -UNCERTAIN */
};

enum item_kind_sim { SEND_CALL, SEND_MARKER, SEND_KILL };
struct item {
    enum item_kind_sim what;
    struct call *call;
    uint64_t number, resolves;
    bool refused;
};
struct conn {
    uint64_t id;
    bool open; /* on our side */
    struct item sent[SIM_ITEMS_MAX], answered[SIM_ITEMS_MAX];
    int sent_head, sent_count, answered_head, answered_count;
};

enum record_kind { RECORD_EFFECT, RECORD_MARKER, RECORD_SILENT };
struct record { /* one piece of Valkey's replication stream */
    enum record_kind kind;
    size_t at, n; /* bytes */
    uint32_t db_before, db_after;
    bool unit;
    struct cmd cmd[SIM_CHANGES_MAX];
    int cmds;
    uint64_t end_offset, nonce, number, resolves;
};

struct sim {
    uint64_t random;
    bool trace, violated;
    char *why;
    const char *without;
    struct sim_counts counts;
    struct seq *seq;
    uint64_t now_us;

    /* what this schedule is made of, in percent */
    int keys, sessions, p_fault, p_async, p_anonymous, p_refused, p_past, p_lazy, p_two_keys, p_other, p_unit,
        p_foreign, p_all, p_marker, p_slow_kill, p_typed, p_rewritten;
    int p_toggle, p_wait, p_lose, p_return, p_follow; /* p_lose: in a thousand */
    int fault_from, fault_to;                         /* of the table in sim_sequencer.c */

    /* clients */
    struct call call[SIM_CALLS_MAX + 1]; /* the last one is clients_read()'s */
    int calls;
    int32_t next_id;
    int owner[SIM_CALLS_MAX * SIM_CMDS_MAX + 1]; /* id -> call */
    struct session_sim {
        bool sync;
        enum road road;
        int unanswered;
        struct conn *pinned, *reads;
    } session[SIM_SESSIONS];

    /* the group */
    bool lost;                                     /* no quorum: nothing of the open batch leaves */
    enum { DOWN_NOT, DOWN_TAP, DOWN_VALKEY } down; /* ... and what happened to our Valkey meanwhile */
    bool closed_out, abandoned;
    struct seq *away; /* of another node that led once */

    /* connections, Valkey */
    struct conn *conn[SIM_CONNS_MAX];
    int conns;
    uint64_t next_conn;
    struct conn *lane, *control, *killer, *shared; /* kills may be overtaken by markers, and the other way round */
    bool lane_wanted, open, attached;              /* open: clients are served */
    uint64_t attachment, valkeys, processes;       /* how many there were */
    struct keyspace valkey;
    bool foreign[SIM_KEYS][SIM_ELEMENTS_MAX]; /* Valkey's own change, no client's */
    uint64_t clock, nonce, offset;
    uint32_t db;
    struct record stream[SIM_STREAM_MAX];
    int records, tapped;
    struct buf bytes;

    /* log */
    struct sim_log log;
    struct {
        uint64_t index, end_offset;
    } outcome[SIM_OUTCOMES_MAX];
    int outcomes;
    uint64_t durable_offset, last_end_offset, last_forwarded;

    /* snapshot under way: Valkey as of its fork */
    enum { SNAPSHOT_NONE, SNAPSHOT_WATCHING, SNAPSHOT_FORKED, SNAPSHOT_MARKED } snapshot;
    struct keyspace forked, rebuilt, other;
    uint64_t forked_offset;
    struct snapshot_mark mark;

    char text[2][SIM_TEXT_BYTES]; /* of a call, of a history */
    uint8_t times[SIM_KEYS][SIM_CALLS_MAX * SIM_CMDS_MAX + 1];
};

/* sim_sequencer.c */
uint64_t sim_random(struct sim *w, uint64_t n); /* 0 .. n - 1 */
bool sim_chance(struct sim *w, int percent);
void sim_violation(struct sim *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define TRACE(w, ...)                                                                                                \
    do {                                                                                                             \
        if ((w)->trace)                                                                                              \
            printf(__VA_ARGS__);                                                                                     \
    } while (0)

/* sim_backend.c */
struct conn *conn_new(struct sim *w);
void conn_send(struct sim *w, struct conn *c, struct item item);
void valkey_serve(struct sim *w, struct conn *c); /* the next command of one connection */
void valkey_change(struct sim *w);                /* by itself: expiry, or a writer that goes around us */
void valkey_forge(struct sim *w);                 /* a message on the markers' channel that is none of ours */
bool call_is_written(const struct call *c);
const char *call_text(struct sim *w, const struct call *c);

/* sim_clients.c */
void clients_issue(struct sim *w, int session);
struct call *clients_read(struct sim *w, int key); /* one whose reply is there already; -1: of all keys */

/* sim_driver.c */
void driver_facts(struct sim *w);
void driver_decisions(struct sim *w);
void driver_answer(struct sim *w, struct conn *c); /* the next reply of one connection */
void driver_marker(struct sim *w);
void driver_tap(struct sim *w);
void driver_seal(struct sim *w);
void driver_commit(struct sim *w, uint64_t index);
void driver_open_lane(struct sim *w);
void driver_break(struct sim *w, struct conn *c);
void driver_set_sync(struct sim *w, int session, bool sync);
void driver_tracking(struct sim *w);
void driver_drop(struct call *c); /* the worker gives up an op that the sequencer does not have */

/* sim_group.c */
void group_lose(struct sim *w);        /* the quorum goes away */
void group_tick(struct sim *w);        /* while it is gone */
void group_end_of_loss(struct sim *w); /* it is back: we lead again, or another node has led */

/* sim_planted.c */
bool planted(const struct sim *w, const char *bug);
void planted_move(struct sim *w, uint64_t to); /* seq_log_moved(), but for what is planted */
bool keys_left(const struct sim *w);
bool planted_clean(const struct sim *w, uint64_t *index); /* seq_is_clean(), the same */

/* sim_attach.c */
void sim_commit_all(struct sim *w);
void sim_new_sequencer(struct sim *w);
void sim_attach(struct sim *w, bool bridged);
void sim_detach(struct sim *w, bool valkey_lives);
void sim_log_attachment(struct sim *w);
void sim_forget(struct sim *w, uint64_t last);  /* OUTCOMEs behind it */
void sim_survive(struct sim *w, uint64_t last); /* of the log, in another process or another node */
void sim_close_out(struct sim *w);
void sim_bridge(struct sim *w);
void sim_rebuild(struct sim *w);
void sim_start(struct sim *w);
void sim_tap_cut(struct sim *w, bool process_too);
void sim_valkey_dies(struct sim *w, bool process_too);
void sim_end(struct sim *w);
void sim_abandon(struct sim *w);

/* sim_check.c */
void check_crash(struct sim *w); /* what if everything crashed now? */
void check_state(struct sim *w, const struct keyspace *rebuilt);
void check_snapshot(struct sim *w);
void check_lag(struct sim *w);
void check_reopen(struct sim *w);
void check_clean(struct sim *w);
void check_expired(struct sim *w);
/* Of async writes that were answered, no more may be missing in what another leader has than were said to be. */
void check_async(struct sim *w, const struct keyspace *rebuilt, uint64_t told);
void check_drained(struct sim *w);

#endif

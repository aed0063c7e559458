/* The world of one simulated history: what raft_sim_*.c share. */
#ifndef HF_RAFT_SIM_WORLD_H
#define HF_RAFT_SIM_WORLD_H

#include <stddef.h>
#include <stdio.h>

#include "log/base/diag.h"
#include "log/consensus.h"
#include "tests/unit/raft_sim.h"

enum {
    RSIM_NODES_MAX = 16, /* data directories in one history, lost ones included */
    RSIM_CHANGE_BYTES_MAX = 1024,
    RSIM_RECENT = 3,
    RSIM_EVENTS_MAX = 3000000, /* more than any healthy history has: a timer that never ends */
    RSIM_MS = 1000
};

struct rsim_base {
    uint64_t index, term;
    struct hash128 running; /* after index */
    uint64_t change_index;
    size_t change_bytes;
    unsigned char change[RSIM_CHANGE_BYTES_MAX];
};

/* ---- the disk: what is durable, and what has been asked for ---- */
enum rsim_write_kind { WRITE_HARD_STATE, WRITE_CUT, WRITE_APPEND, WRITE_COMPACT, WRITE_INSTALL };
struct rsim_write {
    enum rsim_write_kind kind;
    uint64_t term, vote;          /* HARD_STATE */
    uint64_t index;               /* CUT: from here on; COMPACT: first entry kept */
    struct record *record;        /* APPEND; held */
    struct rsim_base *base;       /* COMPACT; owned */
    struct rsim_letter *snapshot; /* INSTALL: replaces everything; owned */
};
struct rsim_disk {
    uint64_t term, vote;
    struct rsim_base base;
    uint64_t first; /* index of at[0] */
    struct record **at;
    size_t count, room;
    struct rsim_write *queue; /* the first in_flight of them are being written */
    size_t queued, queue_room, in_flight;
};
/* What one transaction has made durable, on its way to the loop. */
struct rsim_done {
    unsigned hard_states;
    bool installed;
    size_t count;
    struct {
        uint64_t index, term;
    } persisted[];
};

/* ---- a node ---- */
struct rsim_node {
    struct rsim *w;
    unsigned slot;
    uint64_t id;
    bool up, lost; /* lost: its disk is gone, and so is it, for ever */
    bool founder;
    bool started; /* it has run before */
    unsigned incarnation;
    struct consensus *c;
    uint64_t clock_offset_ms, boot_offset_ms;
    int64_t drift_ppm;
    uint64_t paused_until_us, slow_until_us, campaign_until_us;
    /* the log in memory */
    struct tail *tail; /* entries below tail_first() are on disk */
    uint64_t first;
    struct rsim_base base;
    uint64_t committed;                        /* reported in this incarnation */
    uint64_t hand_over_to, hand_over_until_us; /* wanted as soon as that one has everything; clients wait meanwhile */
    bool installing, change_seen, campaign_wanted;
    struct rsim_letter *fetched; /* during consensus_install() */
    bool fetching;
    unsigned fetch_serial;
    uint64_t compact_every;
    uint64_t tick_us; /* when the scheduled tick is; 0: none */
    unsigned tick_serial;
    struct rsim_disk disk;
    /* the checker's memory, over all incarnations */
    uint64_t ever_committed;
    uint64_t *votes; /* by term */
    size_t votes_room;
};

/* ---- events ---- */
enum rsim_event_kind {
    EVENT_LEAVE,   /* a message leaves the queue of node `to` for node `number`: letter */
    EVENT_MESSAGE, /* to, from, letter */
    EVENT_DISK,    /* a transaction ends */
    EVENT_DURABLE, /* ... and the loop is told: done */
    EVENT_TICK,
    EVENT_CLIENT,
    EVENT_FETCHED, /* a snapshot: letter */
    EVENT_CHAOS,
    EVENT_OPERATE,
    EVENT_HEAL,
    EVENT_SWAP,
    EVENT_CRASH,
    EVENT_START /* a node that crashed */
};
struct rsim_letter {
    struct peer_message m;
    struct rsim_base *base; /* a snapshot, with the entries up to it that come with it; owned */
    size_t count;
    struct record *records[];
};
struct rsim_event {
    uint64_t at_us, serial;
    enum rsim_event_kind kind;
    unsigned to, from, incarnation, number;
    struct rsim_letter *letter;
    struct rsim_done *done;
};

struct rsim_options {
    unsigned nodes;
    bool membership;
    unsigned election_ms, heartbeat_ms;
    uint64_t latency_us, jitter_us, disk_us, client_us, chaos_us;
    unsigned loss_permille, twice_permille, drift_ppm;
    bool fifo, campaigns;
    unsigned batch, window, trail;
};
struct rsim_committed {
    struct hash128 running;
    uint64_t term, in_term; /* in_term: of the node that was the first to be told */
};
struct rsim_election {
    uint64_t term, id, at_us;
};

struct rsim {
    const struct rsim_plan *plan;
    struct rsim_options o;
    struct rsim_counts n;
    uint64_t random, now_us, serial;
    struct rsim_event *events; /* a heap */
    size_t event_count, event_room;
    struct rsim_node at[RSIM_NODES_MAX];
    unsigned nodes;
    struct record *founding; /* the group's first entry */
    struct members
        recent[RSIM_RECENT]; /* the last configurations that leaders made: some may still be on their way */
    unsigned recent_count;
    enum { LINK_OPEN, LINK_DROPS, LINK_HOLDS } link[RSIM_NODES_MAX][RSIM_NODES_MAX];
    uint64_t link_free_us[RSIM_NODES_MAX][RSIM_NODES_MAX]; /* FIFO */
    uint64_t link_busy_us[RSIM_NODES_MAX][RSIM_NODES_MAX]; /* until then messages wait in its queue */
    uint64_t heal_us;
    bool clients, calm; /* calm: no more faults */
    uint64_t payload;
    uint64_t probe_payload, probe_index; /* the newest committed entry with a payload above is at this index */
    /* the checker's */
    struct {
        struct hash128 running;
        uint64_t term, in_term; /* in_term: of the node that was told first */
    } * committed;              /* 1-based */
    uint64_t committed_count, committed_room;
    struct rsim_election *elections; /* by term */
    size_t election_count, election_room;
    bool failed;
    char *why;
};

/* raft_sim.c */
uint64_t rsim_random(struct rsim *w, uint64_t below); /* 0 .. below - 1; below > 0 */
bool rsim_chance(struct rsim *w, unsigned permille);
void rsim_push(struct rsim *w, struct rsim_event e);
void rsim_violation(struct rsim *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void rsim_note(struct rsim *w, uint64_t fact); /* into the digest */
void rsim_run_until(struct rsim *w, uint64_t until_us);
void rsim_letter_free(struct rsim_letter *l);
struct rsim_node *rsim_by_id(struct rsim *w, uint64_t id);
struct rsim_node *rsim_leader(struct rsim *w); /* up, awake, of the highest term; NULL: none */
#define TRACE(w, ...)                                                                                                \
    do {                                                                                                             \
        if ((w)->plan->trace) {                                                                                      \
            printf("%9.3f ", (double)(w)->now_us / 1000.0);                                                          \
            printf(__VA_ARGS__);                                                                                     \
            printf("\n");                                                                                            \
        }                                                                                                            \
    } while (0)

/* raft_sim_host.c */
uint64_t rsim_clock_ms(const struct rsim_node *n);
uint64_t rsim_boot_ms(const struct rsim_node *n);
struct record *rsim_record(struct hash128 before, enum record_type type, uint64_t index, uint64_t term,
                           uint64_t payload, const void *change, size_t change_bytes);
struct record *rsim_log_get(const struct rsim_node *n, uint64_t index); /* borrowed; NULL: not there */
/* Term of the entry at index, and the running hash after it; false: not known here. */
bool rsim_log_at(const struct rsim_node *n, uint64_t index, uint64_t *term, struct hash128 *running);
bool rsim_log_same(const struct rsim_node *n, uint64_t index, uint64_t term, struct hash128 running);
void rsim_node_start(struct rsim_node *n);
void rsim_node_crash(struct rsim_node *n);
void rsim_node_free(struct rsim_node *n);
/* After each call into consensus: the timer, a snapshot if it is time, and the checks. */
void rsim_node_settle(struct rsim_node *n);
void rsim_node_tick(struct rsim_node *n, unsigned serial);
void rsim_node_durable(struct rsim_node *n, const struct rsim_done *d);
void rsim_node_submit(struct rsim_node *n, unsigned count);

/* raft_sim_disk.c */
void rsim_disk_ask(struct rsim_node *n, struct rsim_write write); /* takes what it owns */
void rsim_disk_end(struct rsim_node *n);                          /* of the transaction in flight */
void rsim_disk_crash(struct rsim_node *n);
void rsim_disk_free(struct rsim_node *n);
void rsim_disk_append(struct rsim_disk *d, struct record *r); /* at once and durable: for a new group */
uint64_t rsim_disk_last(const struct rsim_disk *d);
struct record *rsim_disk_get(const struct rsim_disk *d, uint64_t index);

/* raft_sim_net.c */
void rsim_send(struct rsim_node *from, const struct peer_message *m);
void rsim_leave(struct rsim_node *from, struct rsim_event *e);
void rsim_deliver(struct rsim *w, struct rsim_event *e);
void rsim_fetch(struct rsim_node *n, uint64_t source_id);
void rsim_fetched(struct rsim *w, struct rsim_event *e);

/* raft_sim_chaos.c */
void rsim_chaos(struct rsim *w);
void rsim_crash(struct rsim_node *n, uint64_t down_us);
/* Sometimes a node crashes just then: while what it did is on its way to the disk. */
void rsim_at_risk(struct rsim_node *n, unsigned permille);
void rsim_open_links(struct rsim *w);
void rsim_swap(struct rsim *w, const struct rsim_node *behind);
/* As soon as that one has everything, but within an election timeout. */
void rsim_hand_over(struct rsim_node *leader, uint64_t to);
void rsim_try_hand_over(struct rsim_node *n);
void rsim_calm(struct rsim *w); /* heals everything, for good */

/* raft_sim_members.c */
struct rsim_node *rsim_add_node(struct rsim *w);  /* with an empty disk; NULL: too many */
void rsim_found(struct rsim *w, unsigned voters); /* the disks of a new group */
bool rsim_newest_members(const struct rsim_node *n, struct members *out, uint64_t *index);
void rsim_operate(struct rsim *w);
void rsim_forget_everything(struct rsim_node *n);

/* raft_sim_check.c */
void rsim_check_send(struct rsim_node *n, const struct peer_message *m);
void rsim_check_hard_state(struct rsim_node *n, uint64_t term, uint64_t vote);
void rsim_check_cut(struct rsim_node *n, uint64_t index);
void rsim_check_install(struct rsim_node *n, const struct rsim_base *base);
void rsim_check_committed(struct rsim_node *n, uint64_t index);
void rsim_check_role(struct rsim_node *n, enum consensus_role role, uint64_t term);
void rsim_check_node(struct rsim_node *n);
void rsim_check_leases(struct rsim *w);
void rsim_check_free(struct rsim *w);

/* raft_sim_end.c */
void rsim_end(struct rsim *w); /* heals, and requires that the group works and agrees */

#endif

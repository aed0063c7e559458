/* Inside the core: shared by core*.c only.
 *
 *   core.c          turns; the sequencer's decisions carried out
 *   core_lane.c     the writer lane, markers        core_gate.c     when writes are refused
 *   core_node.c     what the node tells             core_group.c    lead, lost, follow; handing over, making way
 *   core_answers.c  answers that wait for the lease, for zones, for a mode to be committed
 *   core_users.c    Valkey's users, for the group
 *   core_backup.c   snapshots for clients
 *   core_admin.c    actions of the admin port       core_status.c   figures */
#ifndef HF_CORE_INTERNAL_H
#define HF_CORE_INTERNAL_H

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/metrics.h"
#include "log/log.h"
#include "proxy/backend.h"
#include "proxy/command.h"
#include "proxy/core.h"
#include "proxy/core_admin.h"
#include "proxy/message.h"
#include "proxy/node.h"
#include "proxy/op.h"
#include "proxy/sequencer.h"

enum { CORE_TICK_MS = 20, LANE_RETRY_MS = 20, MARKER_RETRY_MS = 10, MARKER_NONCE_BYTES = 16 };

enum lane_state {
    LANE_CLOSED,     /* no connection */
    LANE_CONNECTING, /* handshake under way */
    LANE_OPEN        /* commands are forwarded on it */
};

struct core {
    struct loop *loop;
    const struct diag *diag;
    struct core_settings set;
    struct config *config;
    struct log *log;
    struct log_events log_events;
    struct node *node;
    struct seq *seq;
    struct command_table *commands;
    struct valkey_identity *identity; /* while attached */
    bool attached, worker_open, tracking_fresh;
    uint64_t sync_sessions;

    enum lane_state lane_state;
    struct backend *lane;
    bool lane_wanted; /* the sequencer said SEQ_REOPEN */
    struct loop_timer *lane_timer, *marker_timer, *tick;
    char marker_channel[64];
    uint64_t marker_term; /* of the attachment: a detached leader's campaigns do not change it */
    bool marker_paused;   /* one was refused: wait for marker_timer */

    uint64_t *ack_index, *ack_offset; /* ring: OUTCOMEs not yet committed and the stream offsets they end at */
    size_t ack_head, ack_count, ack_cap;
    uint64_t durable_offset;

    uint64_t reads_until_boot_ms; /* what the gate says */

    char stalled_why[128];
    struct diag_limit away_said;
    enum diag_level away_level; /* of going away this time */
    enum gate_refusal refusal;
    uint64_t refusing_since_ms, behind_since_ms;
    bool refusal_said;
    bool behind; /* the log is, and it was said, at this level */
    enum diag_level behind_level;
    struct diag_limit behind_said;
    uint64_t writes_sync, writes_captured, writes_async, writes_uncertain;
    struct histogram commit_us, forward_us, release_us;

    /* core_group.c */
    bool witness;                   /* valkey none: we lead only to hand over */
    bool leads;                     /* as the log has told: from lead() to follow(), also while lost */
    bool lost;                      /* we led and have no quorum: detached */
    bool kept;                      /* ... and were attached then: the open batch goes on if we lead again */
    bool unheard;                   /* effects have come since we stepped down: Valkey is ahead of the sequencer */
    bool leading, begun, may_begin; /* node_play(NODE_LEADS) was, or is to be, said; the log has begun */
    bool was_attached;              /* since lead() */
    bool going;                     /* a hand-over because we cannot serve is under way */
    uint64_t lost_index, complained_ms, away_again_ms, detached_ms, snapshots_ms, proving_until_ms;
    struct op_list lease_waiting, zone_waiting;
    struct mode_change { /* core_answers.c: said to the log, not committed yet */
        uint64_t index;  /* 0: none */
        enum durability mode;
        struct op *op;   /* who waits for it: a client ... */
        core_done *done; /* ... or the admin port; NULL: nobody, or was told UNCERTAIN */
        void *arg;
        uint64_t asked_us;
    } mode_change;

    /* core_users.c */
    struct buf users;       /* the group's, as lines of ACL LIST */
    uint64_t users_index;   /* their entry; 0: the log names none */
    uint64_t users_applied; /* the entry whose users our Valkey has, or is being given */
    struct buf users_good;  /* what of them is committed: if another node leads meanwhile, the rest may be void */
    uint64_t users_good_index;
    struct replay *users_walk; /* a follower's search for an entry that its feed begins behind */
    bool users_walked;
    bool users_applying;
    struct op_list users_waiting;

    struct hand_over {
        enum { HAND_NONE, HAND_LOOKING, HAND_HOLDING, HAND_PROVING, HAND_MOVING } phase;
        char to[MEMBER_NAME_BYTES_MAX]; /* or LOG_IN_SERVICE; "": the best one */
        uint64_t hold_until_ms, deadline_ms;
        core_done *done;
        void *arg;
    } hand_over;

    struct out_of_service { /* core_hand.c: drained for maintenance */
        bool on, said;      /* said: in the log, that we lead on */
        unsigned failures;  /* of handing over on that account */
        uint64_t again_ms;
        char why[128]; /* of the last one */
    } out;

    uint64_t elections, dropped_writes; /* leaderships begun; async writes given up on losing one */
    struct core_request *requests;      /* core_admin.c */
    struct backup_ticket *backups;      /* core_backup.c */

    void (*drained)(void *arg);
    void *drained_arg;
    uint64_t drain_until_ms;
    bool node_stopping;
};

/* core.c */
void core_facts(struct core *c);     /* before a fact: tell the sequencer which entry is open */
void core_decisions(struct core *c); /* after it: carry out what it decided */
void core_log_moved(struct core *c, uint64_t from, uint64_t to); /* the open batch has another index: log.h, lead() */
void core_post(struct core *c, enum message_kind kind, struct op *op, uint64_t number, void *pointer);

/* core_gate.c */
void core_refusal(struct core *c);

/* core_lane.c */
void lane_connect(struct core *c);
void lane_close(struct core *c);
void lane_send(struct core *c, struct op *op);
void lane_markers(struct core *c);          /* sends one if it is wanted and possible */
void core_lane_open_worker(struct core *c); /* if nothing is missing any more */
void lane_on_retry(void *arg);
void lane_on_marker_retry(void *arg);

/* core_answers.c */
bool core_in_zones(struct core *c, struct op *op); /* WAIT's half, durable; true: in as many zones as it asks for */
bool core_under_lease(struct core *c, struct op *op); /* true: answer it; false: it waits here now */
void core_answers_turn(struct core *c);
void core_answers_void(struct core *c);
void core_reads_turn(struct core *c); /* the gate's reads_until_boot_ms, as of the end of this turn */
void core_reads_until(struct core *c, uint64_t boot_ms);
void core_set_mode(struct core *c, struct op *op, enum durability mode);
void core_ask_mode(struct core *c, enum durability mode, core_done *done, void *arg); /* as core_set_mode() */
int core_logged_mode(const struct core *c); /* as the end of the log has it */
void core_mode_committed(struct core *c, uint64_t index);
void core_mode_moved(struct core *c, uint64_t from, uint64_t to);
void core_mode_unconfirmed(struct core *c); /* who waits is told; what was logged may still come into force */
void core_mode_void(struct core *c);        /* ... or not with us as the leader */

/* core_users.c */
void core_users_log(struct core *c, struct op *op); /* op->request: the lines */
void core_users_came(struct core *c);               /* our Valkey is there */
void core_users_gone(struct core *c);
void core_users_again(struct core *c); /* the entry that named them goes with the truncation */
void core_users_tick(struct core *c);
void core_users_moved(struct core *c, uint64_t from, uint64_t to);
void core_users_end(struct core *c);

/* core_backup.c */
void core_backup(struct core *c, struct backup_ticket *t); /* takes it */
void core_backup_tick(struct core *c);
void core_backup_void(struct core *c); /* this node leads no more */
void core_backup_end(struct core *c);

/* core_admin.c */
void core_admin_end(struct core *c); /* after log_close(): what has not been answered is now */

/* core_group.c */
void core_group_events(struct log_events *e);
bool core_group_settings(struct core *c, struct log_settings *s, struct members *m, char *why, size_t why_size);
void core_group_turn(struct core *c);
void core_group_tick(struct core *c);
void core_set_part(struct core *c, enum gate_part part);

/* core_hand.c */
void core_hand_turn(struct core *c);
void core_hand_over(struct core *c, const char *to, uint64_t timeout_ms, core_done *done, void *arg);
void core_out(struct core *c, bool on);        /* out of service, or back */
void core_out_tick(struct core *c);            /* we lead, and serve */
void core_fail(struct core *c, struct op *op); /* core.c */

/* core_node.c */
extern const struct node_events core_node_events;

#endif

/* What Holdfast knows about itself, as one plain struct: filled by core and worker, shown by INFO, /metrics, /status
 * and /readyz. Adding a figure = one field here and one row in status.c's table (name, type, help), from which all
 * four are made. */
#ifndef HF_STATUS_H
#define HF_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "log/base/metrics.h"

struct buf;

/* A member of the group, as this node knows it. The rows are in status_members.c. */
enum { STATUS_MEMBERS_MAX = 9, STATUS_NAME_BYTES_MAX = 65, STATUS_ADDRESS_BYTES_MAX = 160 };
struct status_member {
    char name[STATUS_NAME_BYTES_MAX], zone[STATUS_NAME_BYTES_MAX], address[STATUS_ADDRESS_BYTES_MAX];
    const char *role; /* "voter" "standby" "log-only" */
    bool self, leader;
    bool connected;        /* there is a link to it; of the node itself: true */
    uint64_t match_index;  /* what it holds of the log; known to the leader, else 0 */
    uint64_t heard_ms_ago; /* UINT64_MAX: never */
    uint64_t snapshot_index, fed_index;
    int64_t clock_skew_ms; /* its wall clock less ours */
    bool draining;
};

struct status {
    /* core */
    const char *state; /* node state: "starting" "connecting" "adopting" "bridging" "rebuilding" "probing" "serving"
                          "waiting" "feeding" "fed" "promoting" "log-only" "draining" */
    bool ready;        /* serving, and writes are accepted; or following, and relaying to a leader */
    bool draining;     /* taken out of service by the admin port; the state "draining" is the end of the process */
    /* the group */
    char node[STATUS_NAME_BYTES_MAX], zone[STATUS_NAME_BYTES_MAX], cluster[STATUS_NAME_BYTES_MAX];
    char role[16]; /* "leader", "follower"; "detached": led, lost its quorum, goes on; "none": no leader is known */
    char leader[STATUS_NAME_BYTES_MAX]; /* its name; "" = not known */
    bool single_zone;                   /* the loss of one zone can stop the group, or lose what it acknowledged */
    bool detached;
    uint64_t elections;      /* leaderships that began here */
    char log_hash[36];       /* running hash after log_committed: members that have committed as much agree */
    uint64_t lease_ms_left;  /* leader of a group: how long reads may go on without another answer of the quorum */
    uint64_t dropped_writes; /* async writes given up because another node was elected meanwhile */
    uint64_t fed_index;      /* our Valkey, as a follower, has executed the log up to here; 0 = not fed */
    uint64_t feeds_full, feeds_partial;
    char members_busy[128]; /* the change of membership under way, in words; "" = none */
    struct status_member members[STATUS_MEMBERS_MAX];
    size_t member_count;
    enum durability mode; /* server-wide */
    uint64_t lag_ms;      /* age of the oldest write accepted and not durable */
    uint64_t lag_max_ms;
    uint64_t term, log_index, log_committed, log_first_index, log_bytes, log_size_max_bytes, pending_bytes;
    bool log_stalled;
    char log_stalled_why[128];
    bool refusing_writes;
    uint64_t pending_intents; /* accepted, not resolved */
    uint64_t tainted_keys;    /* keys whose latest effect is not durable */
    bool tainted_all;
    uint64_t waiting_replies; /* held by the release rule */
    uint64_t writes_sync, writes_captured, writes_async;
    uint64_t writes_rejected;  /* refused with CLUSTERDOWN: never logged */
    uint64_t writes_uncertain; /* answered UNCERTAIN */
    uint64_t effects_ref, effects_raw;
    uint64_t tap_offset, tap_durable_offset;
    uint64_t rebuilds, last_rebuild_unix_ms, last_rebuild_duration_ms, last_rebuild_commands;
    char last_rebuild_why[128];
    double rebuild_progress; /* 0..1 while rebuilding */
    uint64_t snapshot_index, snapshot_bytes, snapshot_unix_ms;
    bool snapshot_running;
    char valkey_version[32], valkey_run_id[48];
    struct histogram commit_us;              /* intent accepted -> committed */
    struct histogram fsync_us;               /* a write of the log on our own disk */
    struct histogram forward_us, release_us; /* forwarded -> replied; accepted -> released */
    /* worker */
    uint64_t relays; /* clients that are relayed to the leader */
    uint64_t sessions, sessions_total, sessions_rejected, handshakes_failed, pinned, lanes, commands;
    uint64_t net_in_bytes, net_out_bytes;
    uint64_t start_unix_ms;
};

void status_info_section(const struct status *s, struct buf *out); /* "# Durability\r\nkey:value\r\n..." */
void status_metrics(const struct status *s, struct buf *out);      /* Prometheus text format, holdfast_ prefix */
void status_json(const struct status *s, const struct config *c, struct buf *out); /* one object */
/* One object: the group alone. busy: what is under way, in words (""); last: how the last action ended. */
void status_members_json(const struct status *s, const char *busy, const char *last, struct buf *out);

#endif

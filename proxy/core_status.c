/* The core's part of the status: read off sequencer, log and node when somebody asks; nothing is counted here. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proxy/core_internal.h"
#include "proxy/router.h"
#include "proxy/status.h"

static const char *state_name(const struct core *c)
{
    if (c->drained != NULL)
        return "draining";
    if (c->witness)
        return "log-only";
    if (node_state(c->node) != NODE_ATTACHED)
        return node_state_name(node_state(c->node));
    return c->worker_open ? "serving" : "probing";
}

static void log_part(struct core *c, struct status *s)
{
    s->term = log_term(c->log);
    s->log_index = log_last_index(c->log);
    s->log_committed = log_committed(c->log);
    s->log_first_index = log_first_index(c->log);
    s->log_bytes = log_bytes(c->log);
    s->log_size_max_bytes = c->config->log_size_max;
    s->pending_bytes = log_pending_bytes(c->log);
    s->log_stalled = log_stalled(c->log);
    (void)snprintf(s->log_stalled_why, sizeof s->log_stalled_why, "%s", c->stalled_why);
}

static void node_part(struct core *c, struct status *s)
{
    const struct node_figures *f = node_figures(c->node);

    s->rebuilds = f->rebuilds;
    s->last_rebuild_unix_ms = f->last_rebuild_unix_ms;
    s->last_rebuild_duration_ms = f->last_rebuild_duration_ms;
    s->last_rebuild_commands = f->last_rebuild_commands;
    (void)snprintf(s->last_rebuild_why, sizeof s->last_rebuild_why, "%s", f->last_rebuild_why);
    s->rebuild_progress = f->rebuild_progress;
    s->snapshot_index = f->snapshot_index;
    s->snapshot_bytes = f->snapshot_bytes;
    s->snapshot_unix_ms = f->snapshot_unix_ms;
    s->snapshot_running = f->snapshot_running;
    s->fed_index = f->fed_index;
    s->feeds_full = f->feeds_full;
    s->feeds_partial = f->feeds_partial;
    s->tap_offset = c->attached ? node_tap_offset(c->node) : 0;
    s->tap_durable_offset = c->durable_offset;
    (void)snprintf(s->valkey_version, sizeof s->valkey_version, "%s", node_valkey_version(c->node));
    (void)snprintf(s->valkey_run_id, sizeof s->valkey_run_id, "%s", node_valkey_run_id(c->node));
}

static void member_part(struct status_member *to, const struct log_member_status *from)
{
    const struct member *m = &from->member;

    _Static_assert(sizeof to->name >= sizeof m->name && sizeof to->address >= sizeof m->address, "nothing is cut");
    (void)snprintf(to->name, sizeof to->name, "%s", m->name);
    (void)snprintf(to->zone, sizeof to->zone, "%s", m->zone);
    (void)snprintf(to->address, sizeof to->address, "%s", m->address);
    to->role = m->role == MEMBER_STANDBY ? "standby" : m->log_only ? "log-only" : "voter";
    to->self = from->self;
    to->leader = from->leader;
    to->connected = from->connected || from->self;
    to->match_index = from->match_index;
    to->heard_ms_ago = from->self ? 0 : from->heard_ms_ago;
    to->snapshot_index = from->state.snapshot_index;
    to->fed_index = from->state.fed_index;
    to->clock_skew_ms = from->clock_skew_ms;
    to->draining = from->state.draining;
}

/* Could all voters that make a majority be in one zone? */
static bool single_zone(const struct log_member_status *at, size_t count)
{
    size_t voters = 0, most = 0;

    for (size_t i = 0; i < count; i++) {
        size_t same = 0;

        voters += at[i].member.role == MEMBER_VOTER;
        for (size_t j = 0; j < count; j++)
            same += at[j].member.role == MEMBER_VOTER && strcmp(at[i].member.zone, at[j].member.zone) == 0;
        most = same > most ? same : most;
    }
    return most * 2 >= voters; /* half of them gone, the rest is no majority either */
}

static const char *role_name(const struct core *c)
{
    switch (log_role(c->log)) {
    case LOG_LEADS:
        return "leader";
    case LOG_LOST:
        return c->worker_open ? "detached" : "none";
    case LOG_FOLLOWS:
        break;
    }
    return log_leader(c->log)[0] != '\0' ? "follower" : "none";
}

static void group_part(struct core *c, struct status *s)
{
    struct log_member_status members[STATUS_MEMBERS_MAX];
    const char *busy = log_members_busy(c->log);
    struct hash128 running = log_running(c->log);

    (void)snprintf(s->node, sizeof s->node, "%.64s", c->config->node);
    (void)snprintf(s->cluster, sizeof s->cluster, "%.64s", c->config->cluster);
    (void)snprintf(s->role, sizeof s->role, "%s", role_name(c));
    (void)snprintf(s->leader, sizeof s->leader, "%s", log_leader(c->log));
    (void)snprintf(s->members_busy, sizeof s->members_busy, "%s", busy != NULL ? busy : "");
    s->detached = strcmp(s->role, "detached") == 0;
    s->elections = c->elections;
    s->lease_ms_left = log_alone(c->log) ? 0 : log_lease_ms_left(c->log);
    (void)snprintf(s->log_hash, sizeof s->log_hash, "%016" PRIx64 "%016" PRIx64, running.high, running.low);
    s->dropped_writes = c->dropped_writes;
    s->zone[0] = '\0';
    s->member_count = log_members(c->log, members, STATUS_MEMBERS_MAX);
    for (size_t i = 0; i < s->member_count; i++) {
        member_part(&s->members[i], &members[i]);
        if (!members[i].self)
            continue;
        (void)snprintf(s->zone, sizeof s->zone, "%s", members[i].member.zone);
        s->members[i].snapshot_index = s->snapshot_index; /* the others hear of it by and by */
    }
    s->single_zone = single_zone(members, s->member_count);
}

/* A leader is ready when it accepts writes of every mode, and so has its majority; a follower, when what it relays
 * arrives: the leader is known, and there is a link to it. */
static bool is_ready(const struct core *c, const struct status *s)
{
    if (c->drained != NULL || c->out.on)
        return false;
    if (log_role(c->log) != LOG_FOLLOWS)
        return c->worker_open && c->refusal == WRITES_ACCEPTED;
    for (size_t i = 0; i < s->member_count; i++)
        if (s->members[i].leader && s->members[i].connected)
            return true;
    return false;
}

void core_status(struct core *c, struct status *s)
{
    struct seq_figures f = seq_figures(c->seq);
    uint64_t oldest = seq_oldest_us(c->seq), now = loop_now_us(c->loop);

    s->state = state_name(c);
    /* A follower's own mode is its file's, and takes no part; the log's is what holds for its clients. */
    s->mode =
        (enum durability)(node_fed_mode(c->node) >= 0 ? node_fed_mode(c->node) : atomic_load(&c->set.gate->mode));
    s->lag_ms = oldest != 0 && now > oldest ? (now - oldest) / 1000u : 0;
    s->lag_max_ms = (uint64_t)c->config->durability_lag_max_ms;
    /* Of a connection that chose no mode itself. */
    s->refusing_writes = route_refuses_writes(&(struct route_facts){.mode = s->mode, .refusal = c->refusal});
    s->pending_intents = f.pending_intents;
    s->tainted_keys = f.tainted_keys;
    s->tainted_all = f.tainted_all;
    s->waiting_replies = f.waiting;
    s->writes_sync = c->writes_sync;
    s->writes_captured = c->writes_captured;
    s->writes_async = c->writes_async;
    s->writes_uncertain = c->writes_uncertain;
    s->effects_ref = f.refs;
    s->effects_raw = f.raws;
    s->draining = c->out.on;
    s->commit_us = c->commit_us;
    s->fsync_us = *log_fsync_us(c->log);
    s->forward_us = c->forward_us;
    s->release_us = c->release_us;
    log_part(c, s);
    node_part(c, s);
    group_part(c, s);
    s->ready = is_ready(c, s);
}

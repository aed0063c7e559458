/* The core's part of the status. */
#include <stdio.h>
#include <string.h>

#include "proxy/core_internal.h"
#include "proxy/status.h"

static const char *state_name(const struct core *c)
{
    if (c->drained != NULL)
        return "draining";
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
    s->tap_offset = c->attached ? node_tap_offset(c->node) : 0;
    s->tap_durable_offset = c->durable_offset;
    if (c->identity != NULL) {
        (void)snprintf(s->valkey_version, sizeof s->valkey_version, "%s", c->identity->version);
        (void)snprintf(s->valkey_run_id, sizeof s->valkey_run_id, "%s", c->identity->run_id);
    }
}

void core_status(struct core *c, struct status *s)
{
    struct seq_figures f = seq_figures(c->seq);
    uint64_t oldest = seq_oldest_us(c->seq), now = loop_now_us(c->loop);

    s->state = state_name(c);
    s->mode = (enum durability)atomic_load(&c->set.gate->mode);
    s->lag_ms = oldest != 0 && now > oldest ? (now - oldest) / 1000u : 0;
    s->lag_max_ms = (uint64_t)c->config->durability_lag_max_ms;
    s->refusing_writes = c->refusal != WRITES_ACCEPTED;
    s->ready = c->worker_open && !s->refusing_writes && c->drained == NULL;
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
    s->commit_us = c->commit_us;
    s->forward_us = c->forward_us;
    s->release_us = c->release_us;
    log_part(c, s);
    node_part(c, s);
}

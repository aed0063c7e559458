/* Everything that Holdfast shows of itself, from one table.
 *
 *     row: field ─┬─▶ INFO       holdfast_<field>:<value>
 *                 ├─▶ /status    "<field>": <value>
 *                 └─▶ /metrics   holdfast_<metric> in base units, with HELP and TYPE
 *
 * The group's members have rows of their own in status_members.c.
 * A new figure = a field in status.h, a row here, a line in config/METRICS.md; `make check` names
 * what is missing. INFO and JSON keep the field's own unit, which is in its name; metrics have seconds and bytes, as
 * Prometheus asks. */
#include "proxy/status.h"

#include <inttypes.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/advice.h"
#include "proxy/status_internal.h"

#ifndef HOLDFAST_BUILD
#define HOLDFAST_BUILD "unknown"
#endif

enum figure_kind {
    FIGURE_COUNT,     /* uint64_t */
    FIGURE_MS,        /* uint64_t milliseconds; a metric in seconds */
    FIGURE_BOOL,      /* bool; 0 or 1 */
    FIGURE_RATIO,     /* double */
    FIGURE_STATE,     /* const char *, one of states[]; a metric with a label per state */
    FIGURE_ROLE,      /* char[], likewise of roles[] */
    FIGURE_MODE,      /* enum durability; likewise */
    FIGURE_TEXT,      /* char[]; no metric of its own */
    FIGURE_HISTOGRAM, /* struct histogram, microseconds; a metric in seconds */
};
struct figure {
    const char *key;
    size_t at;
    enum figure_kind kind;
    const char *type;   /* Prometheus: gauge, counter, histogram; NULL = no metric */
    const char *metric; /* without "holdfast_" */
    const char *help;
};

static const char *const states[] = {"starting",  "connecting", "adopting", "bridging", "rebuilding",
                                     "probing",   "serving",    "waiting",  "feeding",  "fed",
                                     "promoting", "log-only",   "draining"};
static const char *const roles[] = {"leader", "follower", "detached", "none"};
enum { STATE_COUNT = sizeof states / sizeof *states, ROLE_COUNT = sizeof roles / sizeof *roles };

#define ROW(field, kind, type, metric, help)                                                                         \
    {                                                                                                                \
#field, offsetof(struct status, field), FIGURE_##kind, type, metric, help                                    \
    }

static const struct figure figures[] = {
    ROW(state, STATE, "gauge", "state", "1 for the state the node is in."),
    ROW(ready, BOOL, "gauge", "ready", "1 if the node serves and accepts writes."),
    ROW(draining, BOOL, "gauge", "draining", "1 while it is taken out of service (ctl drain)."),
    ROW(node, TEXT, NULL, NULL, NULL),
    ROW(zone, TEXT, NULL, NULL, NULL),
    ROW(cluster, TEXT, NULL, NULL, NULL),
    ROW(role, ROLE, "gauge", "role", "1 for the part that the node plays in its group."),
    ROW(leader, TEXT, NULL, NULL, NULL),
    ROW(single_zone, BOOL, "gauge", "single_zone", "1 if the loss of one zone can stop or rob the group."),
    ROW(detached, BOOL, "gauge", "detached", "1 while an async leader goes on without its quorum."),
    ROW(elections, COUNT, "counter", "elections_total", "Leaderships that began here."),
    ROW(lease_ms_left, MS, "gauge", "lease_left_seconds", "How long the leader may still answer reads."),
    ROW(dropped_writes, COUNT, "counter", "dropped_writes_total", "Async writes given up because another node led."),
    ROW(fed_index, COUNT, "gauge", "fed_index", "The follower's Valkey has executed the log up to here."),
    ROW(feeds_full, COUNT, "counter", "feeds_full_total", "Times the follower's Valkey was loaded anew."),
    ROW(feeds_partial, COUNT, "counter", "feeds_partial_total", "Times the follower's Valkey went on where it was."),
    ROW(members_busy, TEXT, NULL, NULL, NULL),
    ROW(mode, MODE, "gauge", "durability_mode", "1 for the server-wide durability mode."),
    ROW(lag_ms, MS, "gauge", "lag_seconds", "Age of the oldest write that is accepted and not durable."),
    ROW(lag_max_ms, MS, "gauge", "lag_max_seconds", "durability-lag-max: writes are refused beyond it."),
    ROW(term, COUNT, "gauge", "log_term", "Term of the log: grows with each start."),
    ROW(log_index, COUNT, "gauge", "log_last_index", "Newest entry durable here."),
    ROW(log_committed, COUNT, "gauge", "log_committed_index", "Newest committed entry."),
    ROW(log_hash, TEXT, NULL, NULL, NULL),
    ROW(log_first_index, COUNT, "gauge", "log_first_index", "Oldest entry kept."),
    ROW(log_bytes, COUNT, "gauge", "log_bytes", "Disk taken by log entries."),
    ROW(log_size_max_bytes, COUNT, "gauge", "log_size_max_bytes", "log-size-max."),
    ROW(pending_bytes, COUNT, "gauge", "pending_bytes", "Accepted and not yet durable."),
    ROW(log_stalled, BOOL, "gauge", "log_stalled", "1 while the log is full and cannot be written."),
    ROW(log_stalled_why, TEXT, NULL, NULL, NULL),
    ROW(refusing_writes, BOOL, "gauge", "refusing_writes", "1 while writes are refused with CLUSTERDOWN."),
    ROW(pending_intents, COUNT, "gauge", "pending_intents", "Intents logged or being logged, and not resolved."),
    ROW(tainted_keys, COUNT, "gauge", "tainted_keys", "Keys whose latest effect is not durable."),
    ROW(tainted_all, BOOL, "gauge", "tainted_all", "1 while every key counts as tainted."),
    ROW(waiting_replies, COUNT, "gauge", "waiting_replies", "Replies held until they are safe to give."),
    ROW(writes_sync, COUNT, "counter", "writes_sync_total", "Writes of sync connections by way of the writer lane."),
    ROW(writes_captured, COUNT, "counter", "writes_captured_total", "Writes of sync connections that were captured."),
    ROW(writes_async, COUNT, "counter", "writes_async_total", "Writes of async and off connections."),
    ROW(writes_rejected, COUNT, "counter", "writes_rejected_total", "Writes refused with CLUSTERDOWN: never logged."),
    ROW(writes_uncertain, COUNT, "counter", "writes_uncertain_total", "Writes answered UNCERTAIN: may be applied."),
    ROW(effects_ref, COUNT, "counter", "effects_ref_total", "Effects logged as a reference to their intent."),
    ROW(effects_raw, COUNT, "counter", "effects_raw_total", "Effects logged in full."),
    ROW(tap_offset, COUNT, "gauge", "tap_offset_bytes", "Valkey's replication stream: read up to here."),
    ROW(tap_durable_offset, COUNT, "gauge", "tap_durable_offset_bytes",
        "Valkey's replication stream: durable up to here."),
    ROW(rebuilds, COUNT, "counter", "rebuilds_total", "Times Valkey was rebuilt from snapshot and log."),
    ROW(last_rebuild_unix_ms, MS, "gauge", "last_rebuild_timestamp_seconds",
        "When the last rebuild ended; 0 = never."),
    ROW(last_rebuild_duration_ms, MS, "gauge", "last_rebuild_duration_seconds", "How long the last rebuild took."),
    ROW(last_rebuild_commands, COUNT, "gauge", "last_rebuild_commands", "Effects replayed by the last rebuild."),
    ROW(last_rebuild_why, TEXT, NULL, NULL, NULL),
    ROW(rebuild_progress, RATIO, "gauge", "rebuild_progress_ratio", "0 to 1 while rebuilding."),
    ROW(snapshot_index, COUNT, "gauge", "snapshot_index", "Log index of the newest snapshot."),
    ROW(snapshot_bytes, COUNT, "gauge", "snapshot_bytes", "Size of the newest snapshot."),
    ROW(snapshot_unix_ms, MS, "gauge", "snapshot_timestamp_seconds", "When the newest snapshot was taken; 0 = none."),
    ROW(snapshot_running, BOOL, "gauge", "snapshot_running", "1 while a snapshot is being taken."),
    ROW(valkey_version, TEXT, NULL, NULL, NULL),
    ROW(valkey_run_id, TEXT, NULL, NULL, NULL),
    ROW(commit_us, HISTOGRAM, "histogram", "commit_seconds",
        "From a sync write's acceptance to the commit of its intent."),
    ROW(fsync_us, HISTOGRAM, "histogram", "fsync_seconds", "A write of the log, until it is durable on this disk."),
    ROW(forward_us, HISTOGRAM, "histogram", "forward_seconds", "From a write's forwarding to Valkey's reply."),
    ROW(release_us, HISTOGRAM, "histogram", "release_seconds",
        "From a sync write's acceptance to the release of its reply."),
    ROW(relays, COUNT, "gauge", "relays", "Clients connected that are relayed to the leader."),
    ROW(sessions, COUNT, "gauge", "connected_sessions", "Clients connected."),
    ROW(sessions_total, COUNT, "counter", "sessions_total", "Clients accepted since the start."),
    ROW(sessions_rejected, COUNT, "counter", "sessions_rejected_total", "Clients refused because of maxclients."),
    ROW(handshakes_failed, COUNT, "counter", "tls_handshakes_failed_total", "TLS handshakes of clients that failed."),
    ROW(pinned, COUNT, "gauge", "pinned_connections", "Connections to Valkey that belong to one client."),
    ROW(lanes, COUNT, "gauge", "lanes", "Connections to Valkey that clients share."),
    ROW(commands, COUNT, "counter", "commands_total", "Commands received from clients."),
    ROW(net_in_bytes, COUNT, "counter", "net_input_bytes_total", "Bytes received from clients."),
    ROW(net_out_bytes, COUNT, "counter", "net_output_bytes_total", "Bytes sent to clients."),
    ROW(start_unix_ms, MS, "gauge", "start_timestamp_seconds", "When this process started."),
};
enum { FIGURE_ROWS = sizeof figures / sizeof *figures };

/* ---------------------------------------------------------------- fields */

static uint64_t figure_count(const struct figure *f, const struct status *s)
{
    const char *field = (const char *)s + f->at;

    CHECK(f->kind == FIGURE_COUNT || f->kind == FIGURE_MS || f->kind == FIGURE_BOOL);
    return f->kind == FIGURE_BOOL ? *(const bool *)field : *(const uint64_t *)(const void *)field;
}

static double figure_ratio(const struct figure *f, const struct status *s)
{
    return *(const double *)(const void *)((const char *)s + f->at);
}

static const struct histogram *figure_histogram(const struct figure *f, const struct status *s)
{
    return (const struct histogram *)(const void *)((const char *)s + f->at);
}

static const char *figure_text(const struct figure *f, const struct status *s)
{
    switch (f->kind) {
    case FIGURE_STATE:
        return s->state != NULL ? s->state : "starting";
    case FIGURE_ROLE:
        return s->role[0] != '\0' ? s->role : "none";
    case FIGURE_MODE:
        return durability_name(s->mode);
    default:
        CHECK(f->kind == FIGURE_TEXT);
        return (const char *)s + f->at;
    }
}

/* ---------------------------------------------------------------- INFO */

/* INFO's lines end at CRLF: text from elsewhere must not bring its own. */
void append_one_line(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++)
        buf_append(out, (unsigned char)*text < ' ' ? " " : text, 1);
}

void status_info_section(const struct status *s, struct buf *out)
{
    buf_text(out, "# Durability\r\n");
    buf_printf(out, "holdfast_version:%s\r\n", HOLDFAST_VERSION);
    for (size_t i = 0; i < FIGURE_ROWS; i++) {
        const struct figure *f = &figures[i];
        const struct histogram *h;

        buf_printf(out, "holdfast_%s:", f->key);
        switch (f->kind) {
        case FIGURE_COUNT:
        case FIGURE_MS:
        case FIGURE_BOOL:
            buf_printf(out, "%" PRIu64, figure_count(f, s));
            break;
        case FIGURE_RATIO:
            buf_printf(out, "%.4f", figure_ratio(f, s));
            break;
        case FIGURE_STATE:
        case FIGURE_ROLE:
        case FIGURE_MODE:
        case FIGURE_TEXT:
            append_one_line(out, figure_text(f, s));
            break;
        case FIGURE_HISTOGRAM:
            h = figure_histogram(f, s);
            buf_printf(out, "count=%" PRIu64 ",sum=%" PRIu64 ",p50=%" PRIu64 ",p99=%" PRIu64 ",p99.9=%" PRIu64,
                       h->count, h->sum_us, histogram_quantile_us(h, 0.5), histogram_quantile_us(h, 0.99),
                       histogram_quantile_us(h, 0.999));
            break;
        }
        buf_text(out, "\r\n");
    }
    members_info(s, out);
}

/* ---------------------------------------------------------------- Prometheus */

void append_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (; *value != '\0'; value++) {
        if (*value == '\\' || *value == '"')
            buf_append(out, "\\", 1);
        buf_append(out, (unsigned char)*value < ' ' ? " " : value, 1);
    }
    buf_append(out, "\"", 1);
}

void append_head(struct buf *out, const char *metric, const char *type, const char *help)
{
    buf_printf(out, "# HELP holdfast_%s %s\n# TYPE holdfast_%s %s\n", metric, help, metric, type);
}

/* A set of labels of which one is 1. */
static void append_choice(struct buf *out, const char *metric, const char *label, const char *word, bool chosen)
{
    buf_printf(out, "holdfast_%s{", metric);
    append_label(out, label, word);
    buf_printf(out, "} %d\n", chosen);
}

static void append_histogram(struct buf *out, const char *metric, const struct histogram *h)
{
    uint64_t below = 0;

    for (int i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
        below += h->bucket[i];
        buf_printf(out, "holdfast_%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", metric, (double)histogram_bound_us(i) / 1e6,
                   below);
    }
    buf_printf(out, "holdfast_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", metric, h->count);
    buf_printf(out, "holdfast_%s_sum %.6f\nholdfast_%s_count %" PRIu64 "\n", metric, (double)h->sum_us / 1e6, metric,
               h->count);
}

static void append_metric(struct buf *out, const struct figure *f, const struct status *s)
{
    append_head(out, f->metric, f->type, f->help);
    switch (f->kind) {
    case FIGURE_COUNT:
    case FIGURE_BOOL:
        buf_printf(out, "holdfast_%s %" PRIu64 "\n", f->metric, figure_count(f, s));
        break;
    case FIGURE_MS: /* not through double: times since 1970 would lose digits to %g */
        buf_printf(out, "holdfast_%s %" PRIu64 ".%03" PRIu64 "\n", f->metric, figure_count(f, s) / 1000,
                   figure_count(f, s) % 1000);
        break;
    case FIGURE_RATIO:
        buf_printf(out, "holdfast_%s %.6g\n", f->metric, figure_ratio(f, s));
        break;
    case FIGURE_STATE:
        for (size_t i = 0; i < STATE_COUNT; i++)
            append_choice(out, f->metric, "state", states[i], strcmp(states[i], figure_text(f, s)) == 0);
        break;
    case FIGURE_ROLE:
        for (size_t i = 0; i < ROLE_COUNT; i++)
            append_choice(out, f->metric, "role", roles[i], strcmp(roles[i], figure_text(f, s)) == 0);
        break;
    case FIGURE_MODE:
        for (int mode = DURABILITY_OFF; mode <= DURABILITY_SYNC; mode++)
            append_choice(out, f->metric, "mode", durability_name((enum durability)mode),
                          s->mode == (enum durability)mode);
        break;
    case FIGURE_HISTOGRAM:
        append_histogram(out, f->metric, figure_histogram(f, s));
        break;
    case FIGURE_TEXT:
        break;
    }
}

/* The two figures that users of the cloud service watch, under the names that they have there (ElastiCache: lag in
 * milliseconds, writes refused because of it). */
static const struct {
    const char *name, *help;
    size_t at;
} known_names[] = {{"DurabilityLag", "holdfast_lag_seconds in milliseconds.", offsetof(struct status, lag_ms)},
                   {"DurabilityBufferExceededErrorCount", "holdfast_writes_rejected_total.",
                    offsetof(struct status, writes_rejected)}};

static uint64_t known_figure(const struct status *s, size_t i)
{
    return *(const uint64_t *)(const void *)((const char *)s + known_names[i].at);
}

void status_metrics(const struct status *s, struct buf *out)
{
    append_head(out, "build_info", "gauge", "1; what is running.");
    buf_text(out, "holdfast_build_info{");
    append_label(out, "version", HOLDFAST_VERSION);
    buf_text(out, ",");
    append_label(out, "build", HOLDFAST_BUILD);
    buf_text(out, "} 1\n");
    append_head(out, "valkey_info", "gauge", "1; the Valkey behind.");
    buf_text(out, "holdfast_valkey_info{");
    append_label(out, "version", s->valkey_version);
    buf_text(out, ",");
    append_label(out, "run_id", s->valkey_run_id);
    buf_text(out, "} 1\n");
    for (size_t i = 0; i < FIGURE_ROWS; i++)
        if (figures[i].type != NULL)
            append_metric(out, &figures[i], s);
    for (size_t i = 0; i < sizeof known_names / sizeof *known_names; i++) {
        buf_printf(out, "# HELP %s %s\n# TYPE %s untyped\n", known_names[i].name, known_names[i].help,
                   known_names[i].name);
        buf_printf(out, "%s %" PRIu64 "\n", known_names[i].name, known_figure(s, i));
    }
    members_metrics(s, out);
}

/* ---------------------------------------------------------------- JSON */

json_t *json_text(const char *text)
{
    json_t *value = json_string(text);

    return value != NULL ? value : json_string("(not UTF-8)");
}

void append_json(struct buf *out, json_t *root)
{
    char *text = json_dumps(root, JSON_INDENT(2));

    json_decref(root);
    if (text == NULL) {
        out->failed = true;
        return;
    }
    buf_text(out, text);
    buf_text(out, "\n");
    free(text);
}

static json_t *json_figure(const struct figure *f, const struct status *s)
{
    const struct histogram *h;

    switch (f->kind) {
    case FIGURE_COUNT:
    case FIGURE_MS:
        return json_integer((json_int_t)figure_count(f, s));
    case FIGURE_BOOL:
        return json_boolean(figure_count(f, s) != 0);
    case FIGURE_RATIO:
        return json_real(figure_ratio(f, s));
    case FIGURE_HISTOGRAM:
        h = figure_histogram(f, s);
        return json_pack("{s:I, s:I, s:I, s:I, s:I}", "count", (json_int_t)h->count, "sum", (json_int_t)h->sum_us,
                         "p50", (json_int_t)histogram_quantile_us(h, 0.5), "p99",
                         (json_int_t)histogram_quantile_us(h, 0.99), "p99.9",
                         (json_int_t)histogram_quantile_us(h, 0.999));
    case FIGURE_STATE:
    case FIGURE_ROLE:
    case FIGURE_MODE:
    case FIGURE_TEXT:
        break;
    }
    return json_text(figure_text(f, s));
}

static void add_setting(void *arg, const char *name, const char *value)
{
    (void)json_object_set_new(arg, name, json_text(value));
}

static json_t *problems_json(const struct status *s, const struct config *c)
{
    json_t *list = json_array();
    struct advices found;

    advice_of(s, (uint64_t)c->clock_skew_max_ms, &found);
    for (size_t i = 0; i < found.count; i++)
        (void)json_array_append_new(list, json_pack("{s:s, s:o, s:s}", "severity",
                                                    advice_severity_name(found.at[i].severity), "what",
                                                    json_text(found.at[i].what), "todo", found.at[i].todo));
    return list;
}

void status_json(const struct status *s, const struct config *c, struct buf *out)
{
    json_t *root = json_object(), *settings = json_object();

    (void)json_object_set_new(root, "version", json_string(HOLDFAST_VERSION));
    (void)json_object_set_new(root, "build", json_text(HOLDFAST_BUILD));
    for (size_t i = 0; i < FIGURE_ROWS; i++)
        (void)json_object_set_new(root, figures[i].key, json_figure(&figures[i], s));
    (void)json_object_set_new(root, "problems", problems_json(s, c));
    (void)json_object_set_new(root, "members", members_json(s));
    config_get(c, "*", add_setting, settings);
    (void)json_object_set_new(root, "settings", settings);
    append_json(out, root);
}

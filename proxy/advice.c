#include "proxy/advice.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SILENT_MS = 2000,         /* a member that is not heard so long is missing */
    BEHIND_ENTRIES = 10000,   /* a member that has so many entries less is catching up */
    LOG_FULL_PERCENT = 80,    /* of log-size-max */
    LAG_WARNING_PERCENT = 50, /* of durability-lag-max */
    LAG_WARNING_MS = 1000     /* milliseconds are usual */
};

static void add(struct advices *out, enum advice_severity severity, const char *todo, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add(struct advices *out, enum advice_severity severity, const char *todo, const char *format, ...)
{
    struct advice *a;
    va_list arguments;

    if (out->count == ADVICE_MAX)
        return;
    a = &out->at[out->count++];
    a->severity = severity;
    a->todo = todo;
    va_start(arguments, format);
    (void)vsnprintf(a->what, sizeof a->what, format, arguments);
    va_end(arguments);
}

static bool is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

static bool is_missing(const struct status_member *m)
{
    return !m->self && (!m->connected || m->heard_ms_ago > SILENT_MS);
}

/* ---- each part ---- */

static void quorum(const struct status *s, struct advices *out)
{
    static const char bring_back[] = "Start the members that are missing, or mend the network between them: service "
                                     "comes back by itself. No command makes a minority go on.";

    if (s->member_count <= 1)
        return;
    if (is(s->role, "none"))
        add(out, ADVICE_CRITICAL, bring_back, "No leader: reads and writes wait, then get CLUSTERDOWN.");
    if (s->detached)
        add(out, ADVICE_CRITICAL, bring_back,
            "The majority is lost. Sync connections are refused; async writes go on until the oldest that is not "
            "logged is %.1f s old (now %.1f s).",
            (double)s->lag_max_ms / 1000, (double)s->lag_ms / 1000);
}

static void missing_member(const struct status *s, const struct status_member *m, size_t missing, struct advices *out)
{
    static const char todo[] =
        "Start it. If its disk is lost: start it with an empty data directory, then holdfast ctl "
        "replace.";
    size_t voters = 0, majority;
    const char *last;

    for (size_t i = 0; i < s->member_count; i++)
        voters += !is(s->members[i].role, "standby");
    majority = voters / 2 + 1;
    last = voters - missing == majority ? " One more loss ends service." : "";

    if (m->heard_ms_ago == UINT64_MAX)
        add(out, ADVICE_WARNING, todo, "%s (%s) has not been heard since this node started.%s", m->name, m->zone,
            last);
    else
        add(out, ADVICE_WARNING, todo, "%s (%s) has not been heard for %.0f s.%s", m->name, m->zone,
            (double)m->heard_ms_ago / 1000, last);
}

static void members(const struct status *s, uint64_t clock_skew_max_ms, struct advices *out)
{
    size_t missing = 0;

    for (size_t i = 0; i < s->member_count; i++)
        missing += is_missing(&s->members[i]) && !is(s->members[i].role, "standby");
    for (size_t i = 0; i < s->member_count; i++) {
        const struct status_member *m = &s->members[i];

        if (is_missing(m) && !is(s->role, "follower")) /* a follower hears the leader alone */
            missing_member(s, m, missing, out);
        else if (!m->self && m->match_index != 0 && m->match_index + BEHIND_ENTRIES < s->log_committed)
            add(out, ADVICE_WARNING, "None, if it comes closer. Else look at its disk and its network.",
                "%s (%s) is %" PRIu64 " entries behind.", m->name, m->zone, s->log_committed - m->match_index);
        if (!m->self && (uint64_t)llabs(m->clock_skew_ms) > clock_skew_max_ms)
            add(out, ADVICE_WARNING, "Look at NTP on both: keys expire by the clock of the node that leads.",
                "The clock of %s (%s) differs from ours by %" PRId64 " ms.", m->name, m->zone, m->clock_skew_ms);
    }
}

static bool lags(const struct status *s)
{
    return s->lag_max_ms > 0 && (s->lag_ms > LAG_WARNING_MS || s->lag_ms * 100 > s->lag_max_ms * LAG_WARNING_PERCENT);
}

static void writes(const struct status *s, struct advices *out)
{
    bool group = s->member_count > 1;

    if (s->log_stalled)
        add(out, ADVICE_CRITICAL, "Make room where data-dir is, or raise log-size-max and restart.",
            "The log cannot be written: %s", s->log_stalled_why);
    if (s->refusing_writes)
        add(out, ADVICE_CRITICAL,
            group
                ? "Look at the members and their disks: it ends by itself when the log has caught up. Clients retry "
                  "with exponential backoff."
                : "Look at the disk: it ends by itself when the log has caught up. Clients retry with exponential "
                  "backoff.",
            "Writes are refused (CLUSTERDOWN): the oldest that is not durable is %.1f s old, the limit is %.1f s; "
            "%" PRIu64 " bytes are pending.",
            (double)s->lag_ms / 1000, (double)s->lag_max_ms / 1000, s->pending_bytes);
    else if (lags(s))
        add(out, ADVICE_WARNING, "Look at the disks: are they slow, or is more written than they take?",
            "The log lags by %.1f s; at %.1f s writes are refused.", (double)s->lag_ms / 1000,
            (double)s->lag_max_ms / 1000);
    if (s->dropped_writes > 0)
        add(out, ADVICE_WARNING, "The node's log says LOST with their number and age. The count ends with a restart.",
            "%" PRIu64 " async writes were given up here, since another node led while this one was cut off.",
            s->dropped_writes);
}

static void valkey(const struct status *s, struct advices *out)
{
    bool leads = is(s->role, "leader") || is(s->role, "detached");

    if (s->state == NULL || is(s->state, "serving") || is(s->state, "log-only") || is(s->state, "fed"))
        return;
    if (is(s->state, "draining"))
        add(out, ADVICE_WARNING, "None: it ends.", "This node is shutting down.");
    else if (is(s->state, "waiting") || is(s->state, "connecting"))
        add(out, leads ? ADVICE_CRITICAL : ADVICE_WARNING, "Is it running? This node's log says why it is not used.",
            "Valkey is not reachable: %s.",
            leads ? "clients get LOADING" : "this node cannot take over, its reader-port answers LOADING");
    else if (is(s->state, "rebuilding"))
        add(out, leads ? ADVICE_CRITICAL : ADVICE_WARNING, "None: it ends by itself.",
            "Valkey is being rebuilt from snapshot and log: %.0f %%.", s->rebuild_progress * 100);
    else
        add(out, ADVICE_WARNING, "None, unless it lasts.", "Valkey is not ready yet: %s.", s->state);
}

static void maintenance(const struct status *s, struct advices *out)
{
    static const char todo[] = "Stop it when its clients are gone, or holdfast ctl undrain.";

    if (!s->draining)
        return;
    if (s->member_count > 1 && (is(s->role, "leader") || is(s->role, "detached")))
        add(out, ADVICE_WARNING,
            "Bring another member back, in service and with a warm Valkey: it takes over then. Or ctl undrain.",
            "This node is draining, but leads on: nobody else can. Stop it and service ends.");
    else
        add(out, ADVICE_WARNING, todo,
            "This node is draining: out of service, /readyz says 503. Clients are served.");
}

static void storage(const struct status *s, struct advices *out)
{
    if (s->log_size_max_bytes > 0 && s->log_bytes / 100 > s->log_size_max_bytes / 100 / 100 * LOG_FULL_PERCENT)
        add(out, ADVICE_WARNING,
            "A snapshot makes room; it needs a warm Valkey: holdfast ctl snapshot, and see why none was taken.",
            "The log takes %" PRIu64 " MB of %" PRIu64 " MB (log-size-max).", s->log_bytes >> 20,
            s->log_size_max_bytes >> 20);
    if (s->member_count > 1 && s->single_zone)
        add(out, ADVICE_WARNING, "Give the members at least three zones, no majority in one.",
            "The loss of one zone can end service, or lose what was acknowledged.");
}

/* ---- the door ---- */

static int by_severity(const void *a, const void *b)
{
    const struct advice *x = a, *y = b;

    return (int)x->severity - (int)y->severity;
}

void advice_of(const struct status *s, uint64_t clock_skew_max_ms, struct advices *out)
{
    out->count = 0;
    quorum(s, out);
    writes(s, out);
    valkey(s, out);
    members(s, clock_skew_max_ms, out);
    storage(s, out);
    maintenance(s, out);
    qsort(out->at, out->count, sizeof *out->at, by_severity);
}

const char *advice_severity_name(enum advice_severity severity)
{
    return severity == ADVICE_CRITICAL ? "critical" : "warning";
}

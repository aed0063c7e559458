/* The group's members in INFO, /metrics and /status, from one table of rows.
 *
 *     INFO        holdfast_member0:name=a,zone=az-a,address=10.0.0.1:7000,role=voter,state=self,leader=1,...
 *     /metrics    holdfast_peer_up{peer="b",zone="az-b"} 1            the other members only
 *     /status     "members": [{"name": "a", ...}, ...]
 *
 * state is what a person looks for: self, online (there is a link) or down. */
#include "proxy/status_internal.h"

#include <inttypes.h>
#include <stddef.h>

#include "log/base/buf.h"
#include "log/base/diag.h"

enum peer_value {
    PEER_IS_COUNT, /* uint64_t */
    PEER_IS_MS,    /* uint64_t milliseconds, UINT64_MAX = none; a metric in seconds */
    PEER_IS_SKEW,  /* int64_t milliseconds; likewise */
    PEER_IS_BOOL
};
struct peer_figure {
    const char *key;
    size_t at;
    enum peer_value kind;
    const char *metric; /* without "holdfast_"; all are gauges */
    const char *help;
};

#define PEER(field, kind, metric, help)                                                                              \
    {                                                                                                                \
#field, offsetof(struct status_member, field), PEER_IS_##kind, metric, help                                  \
    }

static const struct peer_figure figures[] = {
    PEER(connected, BOOL, "peer_up", "1 while there is a link to the member."),
    PEER(leader, BOOL, "peer_leader", "1 if it leads, as far as this node knows."),
    PEER(match_index, COUNT, "peer_match_index", "The log that it holds; known to the leader."),
    PEER(heard_ms_ago, MS, "peer_heard_seconds", "Time since it was last heard."),
    PEER(snapshot_index, COUNT, "peer_snapshot_index", "Log index of its newest snapshot."),
    PEER(fed_index, COUNT, "peer_fed_index", "Its Valkey has executed the log up to here."),
    PEER(clock_skew_ms, SKEW, "peer_clock_skew_seconds", "Its wall clock less ours."),
    PEER(draining, BOOL, "peer_draining", "1 while it is taken out of service."),
};
enum { PEER_ROWS = sizeof figures / sizeof *figures };

/* ---------------------------------------------------------------- fields */

static int64_t peer_number(const struct peer_figure *f, const struct status_member *m)
{
    const char *field = (const char *)m + f->at;
    uint64_t count;

    switch (f->kind) {
    case PEER_IS_BOOL:
        return *(const bool *)field;
    case PEER_IS_SKEW:
        return *(const int64_t *)(const void *)field;
    case PEER_IS_COUNT:
    case PEER_IS_MS:
        break;
    }
    count = *(const uint64_t *)(const void *)field;
    return count > INT64_MAX ? -1 : (int64_t)count; /* -1: none */
}

static bool peer_known(const struct peer_figure *f, const struct status_member *m)
{
    return f->kind != PEER_IS_MS || peer_number(f, m) >= 0;
}

static const char *peer_state(const struct status_member *m)
{
    return m->self ? "self" : m->connected ? "online" : "down";
}

/* ---------------------------------------------------------------- the three faces */

/* As Valkey shows its replicas: slave0:ip=...,port=...,state=online,... */
void members_info(const struct status *s, struct buf *out)
{
    CHECK(s->member_count <= STATUS_MEMBERS_MAX);
    for (size_t i = 0; i < s->member_count; i++) {
        const struct status_member *m = &s->members[i];

        buf_printf(out, "holdfast_member%zu:name=", i);
        append_one_line(out, m->name);
        buf_text(out, ",zone=");
        append_one_line(out, m->zone);
        buf_text(out, ",address=");
        append_one_line(out, m->address);
        buf_printf(out, ",role=%s,state=%s", m->role, peer_state(m));
        for (size_t f = 0; f < PEER_ROWS; f++)
            if (figures[f].at != offsetof(struct status_member, connected)) /* state says it */
                buf_printf(out, ",%s=%" PRId64, figures[f].key, peer_number(&figures[f], m));
        buf_text(out, "\r\n");
    }
}

static void peer_metric(const struct peer_figure *f, const struct status_member *m, struct buf *out)
{
    int64_t n = peer_number(f, m);
    uint64_t size = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;

    buf_printf(out, "holdfast_%s{", f->metric);
    append_label(out, "peer", m->name);
    buf_text(out, ",");
    append_label(out, "zone", m->zone);
    if (f->kind == PEER_IS_MS || f->kind == PEER_IS_SKEW)
        buf_printf(out, "} %s%" PRIu64 ".%03" PRIu64 "\n", n < 0 ? "-" : "", size / 1000, size % 1000);
    else
        buf_printf(out, "} %" PRId64 "\n", n);
}

void members_metrics(const struct status *s, struct buf *out)
{
    for (size_t f = 0; f < PEER_ROWS; f++) {
        append_head(out, figures[f].metric, "gauge", figures[f].help);
        for (size_t i = 0; i < s->member_count; i++)
            if (!s->members[i].self && peer_known(&figures[f], &s->members[i]))
                peer_metric(&figures[f], &s->members[i], out);
    }
}

static json_t *member_json(const struct status_member *m)
{
    json_t *object = json_object();

    (void)json_object_set_new(object, "name", json_text(m->name));
    (void)json_object_set_new(object, "zone", json_text(m->zone));
    (void)json_object_set_new(object, "address", json_text(m->address));
    (void)json_object_set_new(object, "role", json_text(m->role));
    (void)json_object_set_new(object, "self", json_boolean(m->self));
    (void)json_object_set_new(object, "state", json_text(peer_state(m)));
    for (size_t f = 0; f < PEER_ROWS; f++) {
        int64_t n = peer_number(&figures[f], m);

        (void)json_object_set_new(object, figures[f].key,
                                  !peer_known(&figures[f], m)       ? json_null()
                                  : figures[f].kind == PEER_IS_BOOL ? json_boolean(n != 0)
                                                                    : json_integer((json_int_t)n));
    }
    return object;
}

json_t *members_json(const struct status *s)
{
    json_t *array = json_array();

    for (size_t i = 0; i < s->member_count; i++)
        (void)json_array_append_new(array, member_json(&s->members[i]));
    return array;
}

void status_members_json(const struct status *s, const char *busy, const char *last, struct buf *out)
{
    json_t *root = json_object();

    (void)json_object_set_new(root, "cluster", json_text(s->cluster));
    (void)json_object_set_new(root, "node", json_text(s->node));
    (void)json_object_set_new(root, "role", json_text(s->role[0] != '\0' ? s->role : "none"));
    (void)json_object_set_new(root, "leader", json_text(s->leader));
    (void)json_object_set_new(root, "term", json_integer((json_int_t)s->term));
    (void)json_object_set_new(root, "log_committed", json_integer((json_int_t)s->log_committed));
    (void)json_object_set_new(root, "log_hash", json_string(s->log_hash));
    (void)json_object_set_new(root, "busy", json_text(busy));
    (void)json_object_set_new(root, "last", json_text(last));
    (void)json_object_set_new(root, "members", members_json(s));
    append_json(out, root);
}

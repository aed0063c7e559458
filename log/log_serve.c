/* The sending end of a snapshot's transfer: answers what log_fetch.c asks, on a connection of its own, a piece at a
 * time, so that neither this loop nor the links notice.
 *
 *     ASK newer than i ─▶ HAVE sidecar │ NONE
 *     GET offset, n    ─▶ DATA
 *     GET_LOG          ─▶ LOG_BEGIN, RECORD ..., LOG_END     the entries that replay needs beside the RDB
 *
 *     frame: u32 length of what follows | u8 kind | body
 *
 * The file is held open, so a newer snapshot may take its place; the entries from log_from on are held by
 * l->serve_from: no truncation goes beyond it while somebody is served. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "log/log_fetch.h"
#include "log/log_internal.h"
#include "log/snapshot.h"

enum { SERVE_MAX = 4, SERVE_OUT_BYTES_MAX = 1024 * 1024, SERVE_SILENCE_MS_MAX = 30000 };

struct serving {
    struct serving *next;
    struct log *log;
    struct stream *stream;
    struct buf in;
    struct snapshot_source source;
    bool has_source, over;
    uint64_t at, to; /* entries that are being sent */
    uint64_t active_ms;
};

static void serving_free(void *object)
{
    struct serving *v = object;

    buf_free(&v->in);
    free(v);
}

static void pin(struct log *l)
{
    l->serve_from = 0;
    for (struct serving *v = l->servings; v != NULL; v = v->next)
        if (v->has_source && (l->serve_from == 0 || v->source.mark.log_from < l->serve_from))
            l->serve_from = v->source.mark.log_from;
}

static void serving_end(struct serving *v)
{
    struct serving **at = &v->log->servings;

    if (v->over)
        return;
    v->over = true;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    stream_close(v->stream);
    if (v->has_source)
        (void)close(v->source.fd);
    pin(v->log);
    loop_bury(v->log->loop, v, serving_free);
}

/* ---- answers ---- */

static void say(struct serving *v, enum fetch_kind kind, const void *body, size_t n)
{
    struct buf *out = stream_out(v->stream);

    buf_u32(out, (uint32_t)(n + 1));
    buf_u8(out, (uint8_t)kind);
    buf_append(out, body, n);
}

static void on_ask(struct serving *v, struct cursor *c)
{
    uint64_t newer_than = cursor_varint(c);
    struct log *l = v->log;

    if (v->has_source)
        (void)close(v->source.fd);
    v->has_source = snapshots_open_newest(l->snapshots, &v->source);
    if (v->has_source && (v->source.mark.index <= newer_than || v->source.mark.log_from < log_first_index(l))) {
        (void)close(v->source.fd);
        v->has_source = false;
    }
    pin(l);
    if (v->has_source)
        say(v, FETCH_HAVE, v->source.sidecar, v->source.sidecar_bytes);
    else
        say(v, FETCH_NONE, NULL, 0);
}

static bool on_get(struct serving *v, struct cursor *c)
{
    uint64_t offset = cursor_varint(c), n = cursor_varint(c);
    char *bytes;
    ssize_t got;

    if (c->bad || !v->has_source || n == 0 || n > FETCH_PIECE_BYTES_MAX)
        return false;
    bytes = malloc(n);
    CHECK(bytes != NULL);
    got = pread(v->source.fd, bytes, n, (off_t)offset);
    if (got > 0)
        say(v, FETCH_DATA, bytes, (size_t)got);
    free(bytes);
    return got > 0;
}

static bool send_one(void *arg, uint64_t index, const void *bytes, size_t n)
{
    struct serving *v = arg;

    if (index != v->at)
        return false;
    say(v, FETCH_RECORD, bytes, n);
    v->at++;
    return v->at <= v->to && stream_pending(v->stream) < SERVE_OUT_BYTES_MAX;
}

static void send_end(struct serving *v)
{
    struct buf body = {0}, change = {0};
    uint64_t change_index = consensus_committed_change(v->log->raft, &change);

    buf_varint(&body, v->to);
    buf_varint(&body, group_term_at(v->log, v->to));
    buf_varint(&body, change_index);
    buf_append(&body, buf_head(&change), change.len);
    say(v, FETCH_LOG_END, buf_head(&body), body.len);
    buf_free(&body);
    buf_free(&change);
    v->to = 0;
}

static bool pump(struct serving *v)
{
    char why[LOG_WHY_BYTES];

    while (v->to != 0 && stream_pending(v->stream) < SERVE_OUT_BYTES_MAX) {
        uint64_t before = v->at;

        if (v->at > v->to) {
            send_end(v);
            return true;
        }
        if (store_read_raw(v->log->store, v->at, v->to, SERVE_OUT_BYTES_MAX, send_one, v, why) != STORE_OK ||
            v->at == before)
            return false;
    }
    return true;
}

/* Up to the snapshot's mark, and to the newest change of members: the receiver must know it. */
static bool on_get_log(struct serving *v)
{
    struct log *l = v->log;
    struct buf body = {0};
    struct hash128 before;
    uint64_t term, change_index, from = v->source.mark.log_from;

    if (!v->has_source || v->to != 0 || l->raft == NULL || from < log_first_index(l) ||
        !store_at(l->store, from - 1, &term, &before))
        return false;
    change_index = consensus_committed_change(l->raft, &body);
    buf_clear(&body);
    v->at = from;
    v->to = v->source.mark.index > change_index ? v->source.mark.index : change_index;
    if (v->to > l->committed || v->to + 1 < from)
        return false;
    buf_varint(&body, from);
    buf_u64(&body, before.low);
    buf_u64(&body, before.high);
    say(v, FETCH_LOG_BEGIN, buf_head(&body), body.len);
    buf_free(&body);
    return pump(v);
}

/* ---- the connection ---- */

static bool on_frame(struct serving *v, const char *bytes, size_t n)
{
    struct cursor c = cursor_of(bytes, n);

    switch (cursor_u8(&c)) {
    case FETCH_ASK:
        on_ask(v, &c);
        return !c.bad;
    case FETCH_GET:
        return on_get(v, &c);
    case FETCH_GET_LOG:
        return on_get_log(v);
    default:
        return false;
    }
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct serving *v = arg;

    v->active_ms = clock_mono_ms();
    buf_append(&v->in, bytes, n);
    while (!v->over && v->in.len >= 4) {
        struct cursor c = cursor_of(buf_head(&v->in), v->in.len);
        uint32_t length = cursor_u32(&c);

        if (length == 0 || length > FETCH_ASK_BYTES_MAX || v->in.failed) {
            serving_end(v);
            return;
        }
        if (c.left < length)
            return;
        if (!on_frame(v, c.at, length)) {
            serving_end(v);
            return;
        }
        buf_consume(&v->in, 4 + (size_t)length);
    }
}

static void on_closed(void *arg, const char *why)
{
    (void)why;
    serving_end(arg);
}

static void on_sent(void *arg)
{
    struct serving *v = arg;

    v->active_ms = clock_mono_ms();
    if (!v->over && !pump(v))
        serving_end(v);
}

static const struct stream_events callbacks = {.data = on_data, .closed = on_closed, .sent = on_sent};

void fetch_serve(struct log *l, struct stream *s, const struct peer_hello *h)
{
    struct serving *v;
    size_t n = 0;

    for (v = l->servings; v != NULL; v = v->next)
        n++;
    if (n >= SERVE_MAX || l->raft == NULL) {
        stream_close(s);
        return;
    }
    v = must_calloc(1, sizeof *v);
    *v = (struct serving){.log = l, .stream = s, .next = l->servings, .active_ms = clock_mono_ms()};
    l->servings = v;
    diag_log(l->diag, fetch_level(&l->fetches, DIAG_NOTICE), "Node %s fetches a snapshot", h->member.name);
    stream_hand_over(s, &callbacks, v);
}

void serve_tick(struct log *l)
{
    struct serving *next;

    for (struct serving *v = l->servings; v != NULL; v = next) {
        next = v->next;
        if (clock_mono_ms() > v->active_ms + SERVE_SILENCE_MS_MAX)
            serving_end(v);
    }
}

void serve_free(struct log *l)
{
    while (l->servings != NULL)
        serving_end(l->servings);
}

/* The tap: a replica that keeps nothing. Life:
 *
 *     HANDSHAKE ─▶ PSYNC ─┬─ +CONTINUE ───────────────────────────────────────────────┬─▶ STREAM
 *      (AUTH PING         └─ +FULLRESYNC ─▶ RDB_HEADER ─┬─ $<len> ──▶ RDB_LENGTH ─────┤
 *       REPLCONF ...)                                   └─ $EOF:<40> ▶ RDB_MARK ──────┘   any state ──▶ DEAD
 *
 * What is easily got wrong, each seen on a real Valkey:
 *  - PSYNC is refused while replies are pending ("invalid with pending output"): sent after the last reply came.
 *  - Bare '\n' bytes are keep-alives before +FULLRESYNC and before the '$' of the RDB. The stream has none.
 *  - After the RDB there is no CRLF. The end of a diskless transfer is known by its 40 random bytes only, which may
 *    be cut anywhere between two reads, and the stream may follow at once in the same read.
 *  - A diskless transfer is followed by nothing until an ACK arrives that was sent after it ended: hence ACKs every
 *    second, from the beginning. Before PSYNC is answered Valkey ignores them without a reply.
 *  - ACK says what is durable, not what was read: it is what WAIT counts. */
#include "proxy/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "proxy/argv.h"
#include "proxy/tap_stream.h"

enum {
    ACK_EVERY_MS = 1000,
    ACK_EAGER_MS = 50,    /* after an RDB, until the stream begins ... */
    ACK_EAGER_MAX = 200,  /* ... or so many were said */
    LINE_BYTES_MAX = 512, /* a status or error line, an RDB header */
    MARK_BYTES = 40,      /* PSYNC: replication ids and EOF marks */
    WHY_BYTES_MAX = 640
};

enum tap_state { TAP_HANDSHAKE, TAP_PSYNC, TAP_RDB_HEADER, TAP_RDB_LENGTH, TAP_RDB_MARK, TAP_STREAM, TAP_DEAD };

struct tap {
    struct loop *loop;
    const struct diag *diag;
    enum tap_state state;
    bool closed; /* by the owner */
    bool rdb_only, paused;
    const struct tap_events *events;
    void *arg;
    struct stream *stream;
    struct loop_timer *ack_timer, *soon; /* soon: what must not happen inside a call of the owner */
    int eager;                           /* eager ACKs left */
    int replies_due;                     /* of the handshake */
    char replid[MARK_BYTES + 1];         /* to continue; "" = full sync */
    uint64_t offset;                     /* where the stream begins */
    uint32_t db;
    char line[LINE_BYTES_MAX];
    size_t line_n;
    uint64_t rdb_left;     /* RDB_LENGTH */
    char mark[MARK_BYTES]; /* RDB_MARK */
    struct buf window;     /* RDB_MARK: bytes that may be the beginning of the mark, and the read at hand */
    struct buf held;       /* bytes of the read during which the owner paused us */
    struct tap_stream *effects;
    uint64_t durable, asked; /* ACK; the offset up to which Valkey asked by GETACK, 0 = it did not */
    char why[WHY_BYTES_MAX];
};

static void tap_fail(struct tap *t, const char *why)
{
    if (t->state == TAP_DEAD)
        return;
    t->state = TAP_DEAD;
    diag_log(t->diag, DIAG_DEBUG, "Tap closed at offset %llu: %s", (unsigned long long)tap_offset(t), why);
    stream_close(t->stream);
    t->stream = NULL;
    loop_timer_stop(t->ack_timer);
    t->events->closed(t->arg, why);
}

/* ---- what we say ---- */

static void put_words(struct buf *out, size_t count, const char *const *word)
{
    argv_header(out, count);
    for (size_t i = 0; i < count; i++)
        argv_bulk(out, word[i], strlen(word[i]));
}

static void send_ack(struct tap *t)
{
    char number[24];

    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)t->durable);
    put_words(stream_out(t->stream), 3, (const char *const[]){"REPLCONF", "ACK", number});
}

static void on_ack_timer(void *arg)
{
    struct tap *t = arg;

    if (t->state == TAP_HANDSHAKE || t->state == TAP_DEAD)
        return;
    send_ack(t);
    if (t->eager > 0 && --t->eager == 0)
        loop_timer_every(t->ack_timer, ACK_EVERY_MS);
}

static void send_handshake(struct tap *t, const struct tap_settings *s)
{
    struct buf *out = stream_out(t->stream);

    if (s->password != NULL && s->password[0] != '\0') {
        if (s->user != NULL && s->user[0] != '\0')
            put_words(out, 3, (const char *const[]){"AUTH", s->user, s->password});
        else
            put_words(out, 2, (const char *const[]){"AUTH", s->password});
        t->replies_due++;
    }
    put_words(out, 1, (const char *const[]){"PING"});
    put_words(out, 3, (const char *const[]){"REPLCONF", "listening-port", "0"});
    put_words(out, 5, (const char *const[]){"REPLCONF", "capa", "eof", "capa", "psync2"});
    t->replies_due += 3;
    if (t->rdb_only) {
        put_words(out, 3, (const char *const[]){"REPLCONF", "rdb-only", "1"});
        t->replies_due++;
    }
}

static void send_psync(struct tap *t)
{
    char number[24];

    if (t->replid[0] == '\0') {
        put_words(stream_out(t->stream), 3, (const char *const[]){"PSYNC", "?", "-1"});
        return;
    }
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)t->offset + 1); /* the first byte wanted */
    put_words(stream_out(t->stream), 3, (const char *const[]){"PSYNC", t->replid, number});
}

/* ---- lines: replies and RDB headers ---- */

static void refuse_line(struct tap *t, const char *what)
{
    (void)snprintf(t->why, sizeof t->why, "%s: %s", what, t->line);
    tap_fail(t, t->why);
}

static void begin_stream(struct tap *t)
{
    t->effects = tap_stream_new(t->offset, t->db);
    t->state = TAP_STREAM;
}

static void on_psync_line(struct tap *t)
{
    static const char full[] = "+FULLRESYNC ", go_on[] = "+CONTINUE";
    char id[MARK_BYTES + 1];
    unsigned long long offset;

    if (strncmp(t->line, full, sizeof full - 1) == 0) {
        if (sscanf(t->line + sizeof full - 1, "%40s %llu", id, &offset) != 2 || strlen(id) != MARK_BYTES) {
            refuse_line(t, "PSYNC");
            return;
        }
        memcpy(t->replid, id, sizeof t->replid);
        t->offset = offset;
        t->db = 0;
        t->durable = 0;
        t->state = TAP_RDB_HEADER;
        if (t->events->full != NULL)
            t->events->full(t->arg, t->replid, t->offset);
    } else if (strncmp(t->line, go_on, sizeof go_on - 1) == 0 && t->replid[0] != '\0') {
        /* PSYNC2: the id may have changed meanwhile (a promotion); without one ours is still the current one. */
        if (sscanf(t->line + sizeof go_on - 1, " %40s", id) == 1 && strlen(id) == MARK_BYTES)
            memcpy(t->replid, id, sizeof t->replid);
        begin_stream(t);
        if (t->events->partial != NULL)
            t->events->partial(t->arg, t->replid);
    } else {
        refuse_line(t, "PSYNC");
    }
}

static void end_rdb(struct tap *t)
{
    buf_free(&t->window);
    if (t->rdb_only) {
        t->events->rdb_end(t->arg);
        tap_fail(t, "done");
        return;
    }
    begin_stream(t);
    send_ack(t); /* a diskless transfer waits for it; too early if Valkey has not seen its child's end: hence eager */
    t->eager = ACK_EAGER_MAX;
    loop_timer_every(t->ack_timer, ACK_EAGER_MS);
    t->events->rdb_end(t->arg);
}

static void on_rdb_line(struct tap *t)
{
    static const char eof[] = "$EOF:";
    char *end = NULL;
    unsigned long long n;

    if (strncmp(t->line, eof, sizeof eof - 1) == 0 && strlen(t->line) == sizeof eof - 1 + MARK_BYTES) {
        memcpy(t->mark, t->line + sizeof eof - 1, MARK_BYTES);
        t->state = TAP_RDB_MARK;
        return;
    }
    n = strtoull(t->line + 1, &end, 10);
    if (t->line[0] != '$' || t->line[1] < '0' || t->line[1] > '9' || *end != '\0') {
        refuse_line(t, "RDB");
        return;
    }
    t->rdb_left = n;
    t->state = TAP_RDB_LENGTH;
    if (n == 0)
        end_rdb(t);
}

static void on_line(struct tap *t)
{
    switch (t->state) {
    case TAP_HANDSHAKE:
        if (t->line[0] != '+') {
            refuse_line(t, "handshake");
        } else if (--t->replies_due == 0) {
            send_psync(t);
            t->state = TAP_PSYNC;
        }
        break;
    case TAP_PSYNC:
        on_psync_line(t);
        break;
    case TAP_RDB_HEADER:
        on_rdb_line(t);
        break;
    default:
        CHECK(t->state == TAP_HANDSHAKE); /* the other states have no lines */
    }
}

static size_t take_line(struct tap *t, const char *bytes, size_t n)
{
    const char *newline = memchr(bytes, '\n', n);
    size_t used = newline != NULL ? (size_t)(newline - bytes) + 1 : n;

    if (t->line_n == 0 && bytes[0] == '\n')
        return 1; /* keep-alive */
    if (t->line_n + used >= sizeof t->line) {
        tap_fail(t, "a line that is too long, instead of a replication stream");
        return n;
    }
    memcpy(t->line + t->line_n, bytes, used);
    t->line_n += used;
    if (newline == NULL)
        return used;
    t->line[t->line_n - 1 - (t->line_n > 1 && t->line[t->line_n - 2] == '\r')] = '\0';
    t->line_n = 0;
    on_line(t);
    return used;
}

/* ---- the RDB ---- */

static size_t take_rdb_length(struct tap *t, const char *bytes, size_t n)
{
    size_t used = n < t->rdb_left ? n : (size_t)t->rdb_left;

    t->rdb_left -= used;
    t->events->rdb(t->arg, bytes, used);
    if (t->rdb_left == 0 && t->state == TAP_RDB_LENGTH)
        end_rdb(t);
    return used;
}

/* window = at most MARK_BYTES - 1 bytes kept from before + this read. Whatever cannot be part of the mark is passed
 * on. */
static size_t take_rdb_mark(struct tap *t, const char *bytes, size_t n)
{
    size_t kept = t->window.len, pass, used = n;
    const char *head, *found;

    buf_append(&t->window, bytes, n);
    if (t->window.failed) {
        tap_fail(t, "out of memory for the RDB");
        return n;
    }
    head = buf_head(&t->window);
    found = memmem(head, t->window.len, t->mark, MARK_BYTES);
    if (found != NULL) {
        pass = (size_t)(found - head);
        used = pass + MARK_BYTES - kept;
    } else {
        pass = t->window.len < MARK_BYTES ? 0 : t->window.len - (MARK_BYTES - 1);
    }
    if (pass > 0)
        t->events->rdb(t->arg, head, pass);
    if (t->state != TAP_RDB_MARK)
        return n;
    if (found != NULL)
        end_rdb(t);
    else
        buf_consume(&t->window, pass);
    return used;
}

/* ---- the stream ---- */

static void on_getack(struct tap *t)
{
    t->asked = tap_stream_offset(t->effects);
    send_ack(t);
}

static size_t take_stream(struct tap *t, const char *bytes, size_t n)
{
    struct effect e;
    const struct argv *a;
    const char *why = "";
    size_t used;

    if (t->eager > 1)
        t->eager = 1; /* the stream has begun: one more, then every second */
    switch (tap_stream_next(t->effects, bytes, n, &used, &e, &why)) {
    case TAP_MORE:
        break;
    case TAP_EFFECT:
        t->events->effect(t->arg, &e);
        break;
    case TAP_MESSAGE:
        a = e.commands;
        t->events->message(t->arg, argv_at(a, 1), argv_len(a, 1), argv_at(a, 2), argv_len(a, 2), &e);
        break;
    case TAP_GETACK:
        on_getack(t);
        break;
    case TAP_BAD:
        (void)snprintf(t->why, sizeof t->why, "replication stream: %s", why);
        tap_fail(t, t->why);
        break;
    }
    return used;
}

/* ---- bytes come in ---- */

/* Takes bytes until they are used up, or the owner pauses or closes the tap in a callback. Returns how many. */
static size_t take(struct tap *t, const char *bytes, size_t n)
{
    size_t used = 0;

    while (used < n && t->state != TAP_DEAD && !t->paused) {
        const char *at = bytes + used;
        size_t left = n - used;

        switch (t->state) {
        case TAP_HANDSHAKE:
        case TAP_PSYNC:
        case TAP_RDB_HEADER:
            used += take_line(t, at, left);
            break;
        case TAP_RDB_LENGTH:
            used += take_rdb_length(t, at, left);
            break;
        case TAP_RDB_MARK:
            used += take_rdb_mark(t, at, left);
            break;
        case TAP_STREAM:
            used += take_stream(t, at, left);
            break;
        case TAP_DEAD:
            break;
        }
    }
    return used;
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct tap *t = arg;
    size_t used = take(t, bytes, n);

    if (t->state != TAP_DEAD && used < n)
        buf_append(&t->held, bytes + used, n - used); /* at most one read: the stream is paused */
    if (t->held.failed)
        tap_fail(t, "out of memory for held bytes");
}

static void on_closed(void *arg, const char *why)
{
    tap_fail(arg, why);
}

static const struct stream_events stream_callbacks = {.data = on_data, .closed = on_closed};

/* A failed connect, or the bytes held during a pause. */
static void on_soon(void *arg)
{
    struct tap *t = arg;

    if (t->state == TAP_DEAD)
        return;
    if (t->stream == NULL) {
        tap_fail(t, t->why);
        return;
    }
    if (t->paused)
        return;
    buf_consume(&t->held, take(t, buf_head(&t->held), t->held.len));
    if (t->state == TAP_DEAD || t->paused)
        return;
    CHECK(t->held.len == 0);
    buf_free(&t->held);
    stream_pause(t->stream, false);
}

/* ---- the door ---- */

struct tap *tap_new(struct loop *l, const struct diag *d, const struct tap_settings *s,
                    const struct tap_events *events, void *arg)
{
    struct tap *t = must_calloc(1, sizeof *t);

    CHECK(events->closed != NULL && events->rdb != NULL && events->rdb_end != NULL);
    CHECK(s->rdb_only || (events->effect != NULL && events->message != NULL));
    CHECK(s->replid == NULL || strlen(s->replid) == MARK_BYTES);
    t->loop = l;
    t->diag = d;
    t->events = events;
    t->arg = arg;
    t->rdb_only = s->rdb_only;
    if (s->replid != NULL) {
        memcpy(t->replid, s->replid, sizeof t->replid);
        t->offset = s->offset;
        t->durable = s->offset;
        t->db = s->db;
    }
    t->soon = loop_timer_new(l, on_soon, t);
    t->ack_timer = loop_timer_new(l, on_ack_timer, t);
    t->stream = stream_connect_either(l, s->address, s->tls, &stream_callbacks, t, t->why, sizeof t->why);
    if (t->stream == NULL) {
        loop_timer_once(t->soon, 0);
    } else {
        send_handshake(t, s);
        loop_timer_every(t->ack_timer, ACK_EVERY_MS);
    }
    return t;
}

static void release(void *object)
{
    struct tap *t = object;

    tap_stream_free(t->effects);
    buf_free(&t->window);
    buf_free(&t->held);
    free(t);
}

void tap_close(struct tap *t)
{
    if (t == NULL || t->closed)
        return;
    t->closed = true;
    t->state = TAP_DEAD;
    stream_close(t->stream);
    t->stream = NULL;
    loop_timer_free(t->ack_timer);
    loop_timer_free(t->soon);
    loop_bury(t->loop, t, release);
}

uint64_t tap_offset(const struct tap *t)
{
    return t->effects != NULL ? tap_stream_offset(t->effects) : t->offset;
}

void tap_ack(struct tap *t, uint64_t durable_offset)
{
    if (durable_offset <= t->durable)
        return;
    t->durable = durable_offset;
    if (t->asked == 0 || t->state != TAP_STREAM)
        return;
    send_ack(t);
    if (t->durable >= t->asked)
        t->asked = 0;
}

void tap_pause(struct tap *t, bool pause)
{
    if (t->paused == pause || t->state == TAP_DEAD)
        return;
    t->paused = pause;
    if (t->stream == NULL)
        return;
    if (pause)
        stream_pause(t->stream, true);
    else
        loop_timer_once(t->soon, 0); /* first what is held, then the socket */
}

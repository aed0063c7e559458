/* A connection to Valkey. Life:
 *
 *     CONNECTING ──run_id proven──▶ READY ──EOF, error, wrong answer──▶ DEAD ──backend_close()──▶ freed
 *          └───refused, wrong Valkey, bad password────────────────────────▲
 *
 * The handshake goes out in one write. Requests that are queued meanwhile are held back until its last reply: bytes
 * for one Valkey must never reach another, so nothing leaves before the run_id is proven.
 *
 * Replies carry no names; what belongs to what is told by order alone. So each request leaves one entry in a ring,
 * and each reply takes the oldest. Our own requests (handshake, SELECT, HELLO) leave an address inside own_mark[]:
 *
 *     sent:  AUTH SETNAME ID INFO │ SELECT 2  GET a  SELECT 0  SET c
 *     due:   auth name    id info │ use       op1    use       op2     ◀── replies, first in, first out */
#include "proxy/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "proxy/argv.h"
#include "proxy/resp.h"

enum { DUE_FIRST_CAP = 16, WHY_BYTES_MAX = 256, NAME_BYTES_MAX = 96 };

/* The cookies of our own requests: &own_mark[kind]. Only the addresses matter. */
enum own { OWN_AUTH, OWN_NAME, OWN_ID, OWN_STAYS, OWN_INFO, OWN_RESET, OWN_USE, OWN_KINDS };
static const char own_mark[OWN_KINDS];

enum backend_state { BACKEND_CONNECTING, BACKEND_READY, BACKEND_DEAD };

struct backend {
    struct loop *loop;
    const struct diag *diag;
    char name[NAME_BYTES_MAX];
    enum backend_state state;
    bool closed; /* by the owner */
    bool as_user;
    struct stream *stream;      /* NULL if it could not even be opened */
    struct loop_timer *failure; /* only then: reports it on the next turn */
    struct resp_splitter *splitter;
    const struct backend_events *events;
    void *arg;
    const void **due; /* ring of cookies */
    size_t due_head, due_count, due_cap;
    size_t owner_due; /* those that are not ours */
    uint64_t since_ms;
    struct buf held; /* requests queued before the handshake was answered */
    uint32_t db;     /* after all that was sent */
    int proto;
    uint64_t client_id;
    char expected[48], run_id[48], ip[64];
    char why[WHY_BYTES_MAX];
};

/* ---- the ring ---- */

static bool is_ours(const void *cookie)
{
    return (uintptr_t)cookie - (uintptr_t)own_mark < sizeof own_mark;
}

static void due_push(struct backend *b, const void *cookie)
{
    if (b->due_count == b->due_cap) {
        size_t cap = b->due_cap ? b->due_cap * 2 : DUE_FIRST_CAP;
        const void **ring = must_calloc(cap, sizeof *ring);

        for (size_t i = 0; i < b->due_count; i++)
            ring[i] = b->due[(b->due_head + i) & (b->due_cap - 1)];
        free((void *)b->due);
        b->due = ring;
        b->due_cap = cap;
        b->due_head = 0;
    }
    if (b->due_count == 0)
        b->since_ms = loop_now_ms(b->loop);
    b->due[(b->due_head + b->due_count++) & (b->due_cap - 1)] = cookie;
    if (!is_ours(cookie))
        b->owner_due++;
}

static void due_push_own(struct backend *b, enum own kind)
{
    due_push(b, &own_mark[kind]);
}

static const void *due_pop(struct backend *b)
{
    const void *cookie = b->due[b->due_head];

    CHECK(b->due_count > 0);
    b->due_head = (b->due_head + 1) & (b->due_cap - 1);
    b->due_count--;
    if (!is_ours(cookie)) {
        CHECK(b->owner_due > 0);
        b->owner_due--;
    }
    return cookie;
}

/* ---- the one way down ---- */

static void backend_fail(struct backend *b, const char *why)
{
    if (b->state == BACKEND_DEAD)
        return;
    b->state = BACKEND_DEAD;
    diag_log(b->diag, DIAG_DEBUG, "Connection %s to Valkey closed: %s", b->name, why);
    stream_close(b->stream);
    b->stream = NULL;
    b->events->closed(b->arg, why);
}

static void fail_reply(struct backend *b, const char *what, const char *reply, size_t n)
{
    size_t line = 0;

    while (line < n && reply[line] != '\r' && line < WHY_BYTES_MAX / 2)
        line++;
    if (line > 0 && reply[0] == '-')
        (void)snprintf(b->why, sizeof b->why, "%s: %.*s", what, (int)(line - 1), reply + 1);
    else
        (void)snprintf(b->why, sizeof b->why, "%s: unexpected reply of type '%c'", what, n > 0 ? reply[0] : '?');
    backend_fail(b, b->why);
}

/* ---- handshake ---- */

static void put_words(struct buf *out, size_t count, const char *const *word)
{
    argv_header(out, count);
    for (size_t i = 0; i < count; i++)
        argv_bulk(out, word[i], strlen(word[i]));
}

static void send_handshake(struct backend *b, const struct backend_settings *s, struct buf *out)
{
    if (s->password != NULL && s->password[0] != '\0') {
        if (s->user != NULL && s->user[0] != '\0')
            put_words(out, 3, (const char *const[]){"AUTH", s->user, s->password});
        else
            put_words(out, 2, (const char *const[]){"AUTH", s->password});
        due_push_own(b, OWN_AUTH);
    }
    put_words(out, 3, (const char *const[]){"CLIENT", "SETNAME", s->name});
    due_push_own(b, OWN_NAME);
    put_words(out, 2, (const char *const[]){"CLIENT", "ID"});
    due_push_own(b, OWN_ID);
    if (s->shared) {
        put_words(out, 3, (const char *const[]){"CLIENT", "NO-EVICT", "ON"});
        due_push_own(b, OWN_STAYS);
    }
    put_words(out, 2, (const char *const[]){"INFO", "server"});
    due_push_own(b, OWN_INFO);
    if (s->as_user) {
        put_words(out, 1, (const char *const[]){"RESET"});
        due_push_own(b, OWN_RESET);
    }
}

static void become_ready(struct backend *b)
{
    b->state = BACKEND_READY;
    if (b->held.failed) {
        backend_fail(b, "out of memory for held requests");
        return;
    }
    if (b->held.len > 0)
        stream_write(b->stream, buf_head(&b->held), b->held.len);
    buf_free(&b->held);
    if (b->events->ready != NULL)
        b->events->ready(b->arg);
}

static bool copy_run_id(struct backend *b, const char *info, size_t n)
{
    static const char field[] = "\r\nrun_id:";
    const char *at = memmem(info, n, field, sizeof field - 1);
    size_t left, len = 0;

    if (at == NULL)
        return false;
    at += sizeof field - 1;
    left = n - (size_t)(at - info);
    while (len < left && at[len] != '\r')
        len++;
    if (len == 0 || len >= sizeof b->run_id)
        return false;
    memcpy(b->run_id, at, len);
    b->run_id[len] = '\0';
    return true;
}

static void on_info(struct backend *b, const char *reply, size_t n)
{
    if (reply[0] != '$' || !copy_run_id(b, reply, n)) {
        fail_reply(b, "INFO server", reply, n);
        return;
    }
    if (b->expected[0] != '\0' && strcmp(b->expected, b->run_id) != 0) {
        (void)snprintf(b->why, sizeof b->why, "another Valkey: its run_id is %s, not %s", b->run_id, b->expected);
        backend_fail(b, b->why);
        return;
    }
    if (!b->as_user)
        become_ready(b);
}

/* The answer to a request of our own. */
static void on_own_reply(struct backend *b, enum own kind, const char *reply, size_t n)
{
    switch (kind) {
    case OWN_AUTH:
        if (reply[0] != '+')
            fail_reply(b, "AUTH", reply, n);
        break;
    case OWN_NAME:
        if (reply[0] != '+')
            fail_reply(b, "CLIENT SETNAME", reply, n);
        break;
    case OWN_ID:
        if (reply[0] != ':')
            fail_reply(b, "CLIENT ID", reply, n);
        else
            b->client_id = strtoull(reply + 1, NULL, 10); /* a whole line: ends at its CR */
        break;
    case OWN_STAYS: /* refused: it serves all the same */
        break;
    case OWN_INFO:
        on_info(b, reply, n);
        break;
    case OWN_RESET:
        if (reply[0] != '+')
            fail_reply(b, "RESET", reply, n);
        else
            become_ready(b);
        break;
    case OWN_USE:
        if (reply[0] == '-')
            fail_reply(b, "SELECT or HELLO", reply, n);
        break;
    case OWN_KINDS:
        CHECK(kind != OWN_KINDS);
    }
}

/* ---- callbacks of the stream ---- */

static bool on_each_reply(void *arg, const char *reply, size_t n)
{
    struct backend *b = arg;

    if (reply[0] == '>' || b->due_count == 0) { /* RESP3 push: out of band, answers no request */
        if (b->events->push != NULL)
            b->events->push(b->arg, reply, n);
        else if (reply[0] != '>')
            backend_fail(b, "a reply that nobody asked for");
    } else {
        const void *cookie = due_pop(b);

        b->since_ms = loop_now_ms(b->loop);
        if (is_ours(cookie))
            on_own_reply(b, (enum own)((uintptr_t)cookie - (uintptr_t)own_mark), reply, n);
        else
            b->events->reply(b->arg, (void *)cookie, reply, n);
    }
    return b->state != BACKEND_DEAD;
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct backend *b = arg;

    if (!resp_split(b->splitter, bytes, n, on_each_reply, b) && b->state != BACKEND_DEAD)
        backend_fail(b, "not RESP");
}

static void on_closed(void *arg, const char *why)
{
    backend_fail(arg, why);
}

static void on_connected(void *arg)
{
    struct backend *b = arg;

    if (!stream_local_address(b->stream, b->ip, sizeof b->ip))
        b->ip[0] = '\0';
}

static const struct stream_events stream_callbacks = {
    .data = on_data, .closed = on_closed, .connected = on_connected};

static void on_failure_timer(void *arg)
{
    struct backend *b = arg;

    backend_fail(b, b->why);
}

/* ---- the door ---- */

struct backend *backend_new(struct loop *l, const struct diag *d, const struct backend_settings *s,
                            const struct backend_events *events, void *arg)
{
    struct backend *b = must_calloc(1, sizeof *b);

    CHECK(events->reply != NULL && events->closed != NULL);
    b->loop = l;
    b->diag = d;
    b->events = events;
    b->arg = arg;
    (void)snprintf(b->name, sizeof b->name, "%s", s->name);
    b->as_user = s->as_user;
    b->proto = 2;
    (void)snprintf(b->expected, sizeof b->expected, "%s", s->run_id != NULL ? s->run_id : "");
    b->splitter = resp_splitter_new();
    b->stream = stream_connect_either(l, s->address, s->tls, &stream_callbacks, b, b->why, sizeof b->why);
    if (b->stream == NULL) { /* told on the next turn, so that closed() never comes from inside this call */
        b->failure = loop_timer_new(l, on_failure_timer, b);
        loop_timer_once(b->failure, 0);
        return b;
    }
    send_handshake(b, s, stream_out(b->stream));
    return b;
}

static void release(void *object)
{
    struct backend *b = object;

    resp_splitter_free(b->splitter);
    buf_free(&b->held);
    free((void *)b->due);
    free(b);
}

void backend_close(struct backend *b)
{
    if (b == NULL || b->closed)
        return;
    b->closed = true;
    b->state = BACKEND_DEAD;
    stream_close(b->stream);
    b->stream = NULL;
    loop_timer_free(b->failure);
    b->failure = NULL;
    loop_bury(b->loop, b, release);
}

/* Where requests go now; NULL if they go nowhere any more. */
static struct buf *out_of(struct backend *b)
{
    if (b->state == BACKEND_READY)
        return stream_out(b->stream);
    return b->state == BACKEND_CONNECTING ? &b->held : NULL;
}

void backend_use(struct backend *b, uint32_t db, int proto)
{
    struct buf *out = out_of(b);
    char number[16];

    if (out == NULL)
        return;
    if (proto != b->proto) {
        put_words(out, 2, (const char *const[]){"HELLO", proto == 3 ? "3" : "2"});
        due_push_own(b, OWN_USE);
        b->proto = proto;
    }
    if (db != b->db) {
        (void)snprintf(number, sizeof number, "%u", (unsigned)db);
        put_words(out, 2, (const char *const[]){"SELECT", number});
        due_push_own(b, OWN_USE);
        b->db = db;
    }
}

void backend_send(struct backend *b, const void *resp, size_t n, void *cookie)
{
    backend_send_many(b, resp, n, 1, cookie);
}

void backend_send_many(struct backend *b, const void *resp, size_t n, size_t replies, void *cookie)
{
    struct buf *out = out_of(b);

    CHECK(cookie != NULL && replies > 0 && !b->closed);
    for (size_t i = 0; i < replies; i++)
        due_push(b, cookie);
    if (out != NULL) /* else the cookie waits for backend_take_due() */
        buf_append(out, resp, n);
}

void backend_send_unanswered(struct backend *b, const void *resp, size_t n)
{
    struct buf *out = out_of(b);

    if (out != NULL)
        buf_append(out, resp, n);
}

void backend_note_db(struct backend *b, uint32_t db)
{
    b->db = db;
}

void backend_note_proto(struct backend *b, int proto)
{
    b->proto = proto;
}

bool backend_take_due(struct backend *b, void **cookie)
{
    while (b->due_count > 0) {
        const void *c = due_pop(b);

        if (is_ours(c))
            continue;
        while (b->due_count > 0 && b->due[b->due_head] == c)
            (void)due_pop(b);
        *cookie = (void *)c;
        return true;
    }
    return false;
}

bool backend_idle(const struct backend *b)
{
    return b->due_count == 0;
}

size_t backend_due(const struct backend *b)
{
    return b->owner_due;
}

bool backend_ready(const struct backend *b)
{
    return b->state == BACKEND_READY;
}

uint64_t backend_client_id(const struct backend *b)
{
    return b->client_id;
}

size_t backend_pending(const struct backend *b)
{
    return b->stream != NULL ? stream_pending(b->stream) + b->held.len : 0;
}

uint64_t backend_waiting_since_ms(const struct backend *b)
{
    return b->due_count > 0 ? b->since_ms : 0;
}

const char *backend_run_id(const struct backend *b)
{
    return b->run_id;
}

const char *backend_local_ip(const struct backend *b)
{
    return b->ip;
}

void backend_pause(struct backend *b, bool pause)
{
    if (b->stream != NULL)
        stream_pause(b->stream, pause);
}

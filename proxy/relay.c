/* The client's side of a relay: reading commands, waiting for a leader, giving up.
 *
 *                 ┌──────────────── lost, nothing to restore but the prelude ────────────────┐
 *                 ▼                                                                          │
 *     DOWN ──a command──▶ DIALLING ──▶ GREETING ──ready──▶ REPLAYING ──all +OK──▶ UP ────────┤
 *      │ ▲                   │            │                    │                             │
 *      │ └── not to be had ──┴────────────┴─── LOADING ────────┘                             │
 *      └─ this node leads ─▶ a session (relay_move.c)          FINISHING ◀── lost, with state ┘ ──▶ CLOSED
 *
 * Invariants: while UP, every request in the ring was sent, and `waiting` is empty; otherwise none was, and `waiting`
 * holds their bytes. A request in the ring gets exactly one answer: the leader's, -UNCERTAIN (it was sent), or
 * -CLUSTERDOWN (it was not). Only relay_run() parses, dials and moves; callbacks note what happened and kick. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/relay_internal.h"
#include "proxy/session.h"
#include "proxy/users.h"

static const char no_leader[] = "CLUSTERDOWN No leader: the command was not executed";
static const char discarded[] = "CLUSTERDOWN No leader: the transaction will be discarded";

/* ---- the ring ---- */

struct request *relay_oldest(struct relay *r)
{
    return r->count > 0 ? &r->ring[r->head] : NULL;
}

void relay_pop(struct relay *r)
{
    CHECK(r->count > 0);
    request_free(&r->ring[r->head]);
    r->head = (r->head + 1) & (r->cap - 1);
    if (--r->count == 0 && r->cap > 64) {
        free(r->ring);
        r->ring = NULL;
        r->cap = r->head = 0;
    }
}

static void push(struct relay *r, struct request q)
{
    if (r->count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 8;
        struct request *more = must_calloc(cap, sizeof *more);

        for (size_t i = 0; i < r->count; i++)
            more[i] = r->ring[(r->head + i) & (r->cap - 1)];
        free(r->ring);
        r->ring = more;
        r->cap = cap;
        r->head = 0;
    }
    r->ring[(r->head + r->count++) & (r->cap - 1)] = q;
}

static bool is_blocked(const struct relay *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->ring[(r->head + i) & (r->cap - 1)].blocks)
            return true;
    return false;
}

static bool blocks(const struct relay *r)
{
    return r->track.opaque || r->track.tx || is_blocked(r);
}

/* ---- to the client ---- */

void relay_say(struct relay *r, const char *bytes, size_t n)
{
    if (r->state == RELAY_CLOSED)
        return;
    stream_write(r->client, bytes, n);
    r->worker->out_bytes += n;
    if (stream_pending(r->client) >= RELAY_OUT_BYTES_MAX)
        relay_kick(r); /* relay_flow(): also when messages come without end */
}

void relay_error(struct relay *r, const char *text)
{
    struct buf line = {0};

    resp_error(&line, text);
    relay_say(r, buf_head(&line), line.len);
    buf_free(&line);
}

void relay_say_due(struct relay *r)
{
    struct request *q;

    while ((q = relay_oldest(r)) != NULL && q->kind == REQUEST_SAY) {
        relay_say(r, q->bytes, q->n);
        relay_pop(r);
    }
}

/* ---- commands without a leader ---- */

/* In a transaction that was begun without one. */
static void answer_void(struct relay *r, const struct request *q)
{
    if (q->kind == REQUEST_MULTI) {
        relay_error(r, "ERR MULTI calls can not be nested");
    } else if (q->kind == REQUEST_WATCH) {
        relay_error(r, "ERR WATCH inside MULTI is not allowed");
    } else if (q->kind == REQUEST_EXEC) {
        r->void_tx = false;
        relay_error(r, "EXECABORT Transaction discarded because of previous errors.");
    } else if (q->kind == REQUEST_DISCARD) {
        r->void_tx = false;
        relay_say(r, "+OK\r\n", 5);
    } else {
        relay_error(r, discarded);
    }
}

/* MULTI is taken, for were it refused, the rest of a pipeline could find a leader and run command by command. So is
 * SELECT, for what follows must not run in another database. */
static void expire(struct relay *r, struct request *q)
{
    if (q->kind == REQUEST_SAY) {
        relay_say(r, q->bytes, q->n);
    } else if (r->void_tx && q->kind != REQUEST_RESET && q->kind != REQUEST_QUIT) {
        answer_void(r, q);
    } else if (q->kind == REQUEST_MULTI) {
        r->void_tx = true;
        relay_say(r, "+OK\r\n", 5);
    } else if (q->kind == REQUEST_SETUP && q->select) {
        track_assume(&r->track, q);
        relay_say(r, "+OK\r\n", 5);
        if (r->state == RELAY_REPLAYING)
            r->broke = "the session has changed meanwhile";
    } else if (q->kind == REQUEST_QUIT) {
        relay_say(r, "+OK\r\n", 5);
    } else {
        r->void_tx = false;
        relay_error(r, no_leader);
    }
    if (r->waiting.len > 0)
        explicit_bzero(buf_head(&r->waiting), q->wire_bytes);
    buf_consume(&r->waiting, q->wire_bytes);
    relay_pop(r);
}

/* Those that have waited long enough, and all of a transaction that was begun so. */
static void expire_waiting(struct relay *r)
{
    uint64_t now = loop_now_ms(r->worker->loop), most = (uint64_t)r->worker->config->relay_timeout_ms;
    struct request *q;

    while (r->state < RELAY_UP && (q = relay_oldest(r)) != NULL &&
           (q->kind == REQUEST_SAY || r->void_tx || now - q->since_ms >= most))
        expire(r, q);
    if (r->count == 0)
        buf_free(&r->waiting);
}

/* ---- reading ---- */

static bool has_room(const struct relay *r)
{
    return r->count < RELAY_OPS_MAX && r->waiting.len < RELAY_WAITING_BYTES_MAX &&
           stream_pending(r->client) < RELAY_OUT_BYTES_MAX &&
           (r->link == NULL || stream_pending(r->link) < RELAY_LINK_BYTES_MAX);
}

static bool takes(const struct relay *r)
{
    return r->state < RELAY_FINISHING && !r->last && r->doom == NULL && r->broke == NULL && has_room(r);
}

static void take(struct relay *r, const struct argv *a)
{
    struct request q = request_of(a, loop_now_ms(r->worker->loop));

    r->worker->commands_total++;
    if (q.kind == REQUEST_HTTP) {
        worker_saw_http(r->worker);
        r->doom = "HTTP on the client port";
        request_free(&q);
        return;
    }
    r->last = q.kind == REQUEST_QUIT;
    if (r->state == RELAY_UP && !r->void_tx) {
        relay_send(r, a, &q);
        if (r->track.opaque)
            request_free(&q);
        else
            push(r, q);
        return;
    }
    buf_append(&r->waiting, a->bytes, a->n);
    if (r->waiting.failed)
        r->doom = "out of memory for a command";
    push(r, q);
    if (r->void_tx)
        expire(r, relay_oldest(r));
    else
        relays_watch(r->worker);
}

/* A stranger's requests are kept small; who must authenticate is known while our own Valkey is there. */
static bool is_stranger(const struct relay *r)
{
    const struct user_rights *rights;

    for (size_t i = 0; i < r->track.prelude_count; i++) {
        enum setup_key key = r->track.prelude[i].key;

        if (key == SETUP_AUTH || key == SETUP_HELLO_AUTH || key == SETUP_HELLO_AUTH_NAME)
            return false;
    }
    if (!users_known(r->worker->users))
        return false;
    rights = user_rights(users_default(r->worker->users));
    return !rights->on || !rights->nopass;
}

static void refuse(struct relay *r, const char *error)
{
    r->last = r->refused = true;
    push(r, request_say(error));
    relay_say_due(r); /* it may be its turn */
}

/* Returns how many bytes were used. */
static size_t parse(struct relay *r, const char *bytes, size_t n)
{
    bool strict = is_stranger(r);
    size_t at = 0;

    while (at < n && takes(r)) {
        const char *error = NULL;
        struct argv a;
        size_t used = 0;

        switch (resp_parse(r->worker->pool, &r->parser, bytes + at, n - at, &used, strict, &a, &error)) {
        case RESP_MORE:
            return n;
        case RESP_ERROR:
            refuse(r, error);
            return n;
        case RESP_COMMAND:
            at += used;
            take(r, &a);
            break;
        }
    }
    return r->last || r->state >= RELAY_FINISHING ? n : at;
}

static void parse_stash(struct relay *r)
{
    size_t used;

    if (r->stash.len > 0 && takes(r)) {
        used = parse(r, buf_head(&r->stash), r->stash.len);
        buf_consume(&r->stash, used);
    }
    if (r->stash.len == 0)
        buf_free(&r->stash);
}

void relay_flow(struct relay *r)
{
    bool slow = stream_pending(r->client) >= RELAY_OUT_BYTES_MAX, full = r->stash.len >= RELAY_STASH_BYTES_MAX;

    if (r->state >= RELAY_FINISHING)
        return;
    if (full && is_blocked(r)) { /* as a session's: its end must be noticed */
        full = r->stash.len > r->worker->limits.query_bytes_max;
        if (full) {
            r->doom = "query buffer limit overcome while blocked";
            relay_kick(r);
        }
    }
    stream_pause(r->client, r->last || slow || full);
    if (r->link != NULL)
        stream_pause(r->link, slow);
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct relay *r = arg;
    size_t used = 0;

    r->active_ms = loop_now_ms(r->worker->loop);
    r->worker->in_bytes += n;
    if (r->stash.len == 0)
        used = parse(r, bytes, n);
    buf_append(&r->stash, bytes + used, n - used);
    if (r->stash.failed)
        r->doom = "out of memory for a command";
    relay_kick(r);
}

/* ---- life ---- */

static void on_closed(void *arg, const char *why)
{
    relay_close(arg, why);
}

/* Either side has taken all: there is room. At the end of a turn, after which the loop waits: go on at once. */
void relay_on_sent(void *arg)
{
    struct relay *r = arg;

    if (r->state >= RELAY_FINISHING || r->broke != NULL)
        return;
    parse_stash(r);
    relay_flow(r);
    relay_kick(r);
}

/* As a session's (session.c): what was asked before is answered, but who waits for others is gone. */
static bool on_eof(void *arg)
{
    struct relay *r = arg;

    if (r->state >= RELAY_FINISHING)
        return r->state == RELAY_FINISHING;
    if (blocks(r) || (r->count == 0 && r->stash.len == 0))
        return false;
    r->eof = true;
    relay_kick(r);
    return true;
}

const struct stream_events relay_client_events = {
    .data = on_data, .closed = on_closed, .sent = relay_on_sent, .eof = on_eof};

void relay_kick(struct relay *r)
{
    if (r->runs || r->state == RELAY_CLOSED)
        return;
    r->runs = true;
    TAILQ_INSERT_TAIL(&r->worker->relay_run, r, in_run);
}

struct relay *relay_make(struct worker *w, bool unix_socket)
{
    struct relay *r = must_calloc(1, sizeof *r);

    r->worker = w;
    r->unix_socket = unix_socket;
    r->active_ms = loop_now_ms(w->loop);
    TAILQ_INSERT_TAIL(&w->relays, r, in_worker);
    w->relay_count++;
    return r;
}

struct relay *relay_new(struct worker *w, struct stream *client, bool unix_socket)
{
    struct relay *r = relay_make(w, unix_socket);

    w->sessions_total++;
    r->client = client;
    stream_hand_over(client, &relay_client_events, r);
    return r;
}

void relay_finish(struct relay *r)
{
    CHECK(r->link == NULL && r->count == 0);
    r->state = RELAY_FINISHING;
    stream_pause(r->client, true);
    stream_finish(r->client); /* closed("finished") follows */
}

static void release(void *object)
{
    free(object);
}

void relay_close(struct relay *r, const char *why)
{
    struct worker *w = r->worker;

    if (r->state == RELAY_CLOSED)
        return;
    diag_log(w->diag, DIAG_DEBUG, "Relayed client closed: %s", why);
    relay_drop_link(r);
    r->state = RELAY_CLOSED;
    stream_close(r->client);
    while (r->count > 0)
        relay_pop(r);
    free(r->ring);
    r->ring = NULL;
    resp_parser_drop(w->pool, r->parser);
    r->parser = NULL;
    if (r->waiting.len > 0)
        explicit_bzero(buf_head(&r->waiting), r->waiting.len);
    buf_free(&r->waiting);
    if (r->kept.len > 0)
        explicit_bzero(buf_head(&r->kept), r->kept.len);
    buf_free(&r->kept);
    buf_free(&r->stash);
    track_free(&r->track);
    if (r->runs)
        TAILQ_REMOVE(&w->relay_run, r, in_run);
    TAILQ_REMOVE(&w->relays, r, in_worker);
    w->relay_count--;
    loop_bury(w->loop, r, release);
}

/* ---- what can be done now ---- */

static void finish_if_done(struct relay *r)
{
    if (r->state >= RELAY_FINISHING || r->count > 0)
        return;
    if (r->refused || (!r->track.opaque && (r->last || (r->eof && r->stash.len == 0)))) {
        relay_drop_link(r);
        relay_finish(r);
    }
}

static void look_for_leader(struct relay *r)
{
    struct worker *w = r->worker;

    if (r->state != RELAY_DOWN || r->count == 0 || r->void_tx)
        return;
    if (atomic_load(&w->set.gate->part) == PART_FOLLOWS && loop_now_ms(w->loop) >= r->retry_ms)
        relay_dial(r);
}

void relay_run(struct relay *r)
{
    TAILQ_REMOVE(&r->worker->relay_run, r, in_run);
    r->runs = false;
    if (r->doom != NULL) {
        relay_close(r, r->doom);
        return;
    }
    if (r->state >= RELAY_FINISHING)
        return;
    if (r->broke != NULL)
        relay_lost(r, r->broke);
    if (r->state >= RELAY_FINISHING)
        return;
    if (worker_leads(r->worker) && relay_may_move(r)) {
        relay_to_session(r);
        return;
    }
    parse_stash(r);
    expire_waiting(r);
    look_for_leader(r);
    finish_if_done(r);
    relay_flow(r);
    if (r->doom != NULL || (r->broke != NULL && r->state < RELAY_FINISHING))
        relay_kick(r);
}

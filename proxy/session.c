/* The life of a session: accepted, reading, running commands, closing.
 *
 *   OPEN ──QUIT, protocol error, lost state──▶ FINISHING ──all answered and sent──▶ CLOSED
 *     └──────── EOF, error, limits, CLIENT KILL ──────────────────────────────────▶ CLOSED
 *
 * Invariants: while a command is held, nothing is parsed; what comes meanwhile goes to `stash`, and reading pauses
 * when that is full (not while it waits in BLPOP: its end must be noticed, or it takes something when it is gone); a
 * session is in the run queue at most once; everything that lets it go on (an answer, room, a connection) only kicks
 * it, and it runs from the worker's hook. */
#include <stdlib.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/backup.h"
#include "proxy/blocked.h"
#include "proxy/lane.h"
#include "proxy/pause.h"
#include "proxy/pinned.h"
#include "proxy/relay.h"
#include "proxy/session.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

/* ---- reading ---- */

static void held_free(struct held *h)
{
    if (h == NULL)
        return;
    buf_free(&h->request);
    free(h->args);
    free(h);
}

static void hold_command(struct session *s, const struct argv *a)
{
    struct held *h = must_calloc(1, sizeof *h);

    buf_append(&h->request, a->bytes, a->n);
    h->args = malloc(a->count * sizeof *h->args);
    if (h->request.failed || h->args == NULL) {
        held_free(h);
        s->doom = "out of memory for a command";
        session_kick(s);
        return;
    }
    memcpy(h->args, a->arg, a->count * sizeof *h->args);
    h->count = a->count;
    h->since_ms = loop_now_ms(s->worker->loop);
    s->held = h;
}

/* Parses and dispatches until a command has to wait. Returns how many bytes were used. */
static size_t parse(struct session *s, struct resp_parser **parser, const char *bytes, size_t n)
{
    struct worker *w = s->worker;
    size_t at = 0;

    while (at < n && s->state == SESSION_OPEN && s->held == NULL && s->doom == NULL && session_serves(s)) {
        bool strict = session_authentication(s) == AUTH_NEEDED;
        const char *error = NULL;
        struct argv a;
        size_t used = 0;

        switch (resp_parse(w->pool, parser, bytes + at, n - at, &used, strict, &a, &error)) {
        case RESP_MORE:
            return n;
        case RESP_ERROR:
            session_say(s, error);
            session_finish(s);
            return n;
        case RESP_COMMAND:
            at += used;
            if (session_dispatch(s, &a) == NOT_NOW)
                hold_command(s, &a);
            break;
        }
    }
    return s->state == SESSION_OPEN ? at : n;
}

static bool is_blocked(const struct session *s)
{
    struct op *op;

    TAILQ_FOREACH(op, &s->ops, in_session)
    {
        if (!op->came && task_of(op)->blocks)
            return true;
    }
    return false;
}

/* What it waits for depends on other clients: it may last for ever, and take something from them. */
static bool waits_for_others(const struct session *s)
{
    return s->channels + s->shard_channels > 0 || s->monitoring || s->tx != NULL || s->paused || is_blocked(s);
}

static void flow(struct session *s)
{
    bool full = s->stash.len >= SESSION_STASH_BYTES_MAX;

    if (full && is_blocked(s)) {
        full = s->stash.failed || s->stash.len > s->worker->limits.query_bytes_max;
        if (full) {
            s->doom = "query buffer limit overcome while blocked";
            session_kick(s);
        }
    }
    stream_pause(s->stream, full);
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct session *s = arg;
    size_t used = 0;

    s->active_ms = loop_now_ms(s->worker->loop);
    s->in_bytes += n;
    s->worker->in_bytes += n;
    if (s->held == NULL && s->stash.len == 0 && s->setup == NULL)
        used = parse(s, &s->parser, bytes, n);
    if (s->state != SESSION_OPEN)
        return;
    buf_append(&s->stash, bytes + used, n - used);
    flow(s);
}

static void setup_free(struct session *s)
{
    struct session_setup *setup = s->setup;

    if (setup == NULL)
        return;
    s->setup = NULL;
    resp_parser_drop(s->worker->pool, setup->parser);
    if (setup->commands.len > 0) /* passwords */
        explicit_bzero(buf_head(&setup->commands), setup->commands.len);
    buf_free(&setup->commands);
    free(setup);
}

/* What comes before the client's own bytes. */
static void run_setup(struct session *s)
{
    struct session_setup *setup = s->setup;
    size_t used;

    if (setup == NULL)
        return;
    used = parse(s, &setup->parser, buf_head(&setup->commands), setup->commands.len);
    if (s->state == SESSION_CLOSED)
        return;
    explicit_bzero(buf_head(&setup->commands), used);
    buf_consume(&setup->commands, used);
    if (setup->commands.len == 0 && s->held == NULL)
        setup_free(s);
}

void session_moved(struct session *s)
{
    CHECK(s->through != NULL && s->op_count == 0);
    s->last_word = relay_moved;
    session_finish(s);
}

/* This node leads no more. */
static void move(struct session *s)
{
    if (s->op_count > 0)
        return;
    if (s->through != NULL) {
        session_moved(s);
        return;
    }
    if (s->setup == NULL && s->user == NULL && s->tx == NULL && !s->watching && !s->tracking && !s->monitoring &&
        s->channels + s->shard_channels == 0 && !s->reply_off && !s->skip_next && !s->redirected_to)
        relay_of_session(s);
    else
        session_finish(s);
}

void session_run(struct session *s)
{
    struct held *h = s->held;

    if (s->doom != NULL) {
        session_close(s, s->doom);
        return;
    }
    if (s->state != SESSION_OPEN)
        return;
    if (!session_serves(s)) {
        if (s->moves)
            move(s);
        return;
    }
    s->hold = HOLD_NONE;
    if (h != NULL) {
        struct argv a = {buf_head(&h->request), h->request.len, h->args, h->count};

        if (session_dispatch(s, &a) == NOT_NOW)
            return;
        s->held = NULL;
        held_free(h);
        blocked_leave(s); /* if it was to block and got an error instead: what is held next is another command */
    }
    if (s->state == SESSION_OPEN)
        run_setup(s);
    if (s->state == SESSION_OPEN && s->stash.len > 0 && s->setup == NULL) {
        size_t used = parse(s, &s->parser, buf_head(&s->stash), s->stash.len);

        if (s->state != SESSION_OPEN)
            return;
        buf_consume(&s->stash, used);
    }
    if (s->state != SESSION_OPEN)
        return;
    if (s->stash.len == 0)
        buf_free(&s->stash);
    flow(s);
    if (s->eof && waits_for_others(s))
        session_close(s, "closed by the other end");
    else if (s->eof && s->held == NULL && s->stash.len == 0 && s->setup == NULL)
        session_finish(s);
}

void session_kick(struct session *s)
{
    if (s->runs || s->state == SESSION_CLOSED)
        return;
    s->runs = true;
    TAILQ_INSERT_TAIL(&s->worker->run, s, in_run);
}

void session_wait(struct session *s)
{
    if (s->waits || s->state == SESSION_CLOSED)
        return;
    s->waits = true;
    TAILQ_INSERT_TAIL(&s->worker->waiting, s, in_waiting);
}

/* ---- life ---- */

static void on_closed(void *arg, const char *why)
{
    struct session *s = arg;

    s->gone = true;
    session_close(s, why);
}

static void on_sent(void *arg)
{
    struct session *s = arg;

    s->soft_since_ms = 0;
    backup_sent(s);
    if (s->hold == HOLD_ROOM && !session_over_limit(s))
        session_kick(s);
}

/* The client has shut down its sending side (`printf ... | nc`): what it asked before is done and answered, as Valkey
 * does. A client that waits for others (blocked, subscribed) cannot be told from one that is gone, and must not take
 * anything any more. */
static bool on_eof(void *arg)
{
    struct session *s = arg;

    if (s->state != SESSION_OPEN || waits_for_others(s))
        return s->state == SESSION_FINISHING;
    if (s->op_count == 0 && s->held == NULL && s->stash.len == 0 && s->setup == NULL)
        return false;
    s->eof = true;
    if (s->held == NULL && s->stash.len == 0 && s->setup == NULL)
        session_finish(s);
    return true;
}

static bool on_fill(void *arg)
{
    struct session *s = arg;

    return s->backup != NULL && backup_fill(s);
}

static const struct stream_events session_events = {
    .data = on_data, .closed = on_closed, .sent = on_sent, .eof = on_eof, .fill = on_fill};

static struct session *make(struct worker *w, bool unix_socket)
{
    struct session *s = must_calloc(1, sizeof *s);

    s->worker = w;
    s->id = ++w->next_session_id;
    s->proto = 2;
    s->unix_socket = unix_socket;
    s->created_ms = s->active_ms = loop_now_ms(w->loop);
    s->reply_bytes = SESSION_REPLY_BYTES_FIRST;
    TAILQ_INIT(&s->ops);
    TAILQ_INSERT_TAIL(&w->sessions, s, in_worker);
    w->session_count++;
    return s;
}

struct session *session_new(struct worker *w, struct stream *stream, bool unix_socket, bool reader)
{
    struct session *s = make(w, unix_socket);

    w->sessions_total++;
    s->reader = reader;
    s->stream = stream;
    stream_hand_over(stream, &session_events, s);
    session_count_sync(s);
    return s;
}

void session_adopt(struct worker *w, struct stream *stream, bool unix_socket, struct session_setup *setup,
                   struct resp_parser **parser, struct buf *stash, bool eof)
{
    struct session *s = make(w, unix_socket);

    s->stream = stream;
    s->parser = *parser;
    *parser = NULL;
    buf_move(&s->stash, stash);
    s->eof = eof;
    if (setup->commands.failed || s->stash.failed)
        s->doom = "out of memory for a command";
    if (setup->commands.len > 0) {
        s->setup = must_calloc(1, sizeof *s->setup);
        s->setup->muted = setup->muted;
        buf_move(&s->setup->commands, &setup->commands);
    }
    stream_hand_over(stream, &session_events, s);
    session_count_sync(s);
    session_kick(s);
}

void session_relayed(struct worker *w, struct stream *stream, const char *from, const char *address)
{
    struct session *s = make(w, false);

    w->sessions_total++;
    s->stream = stream;
    s->through = must_strdup(from);
    s->address = must_strdup(address);
    stream_hand_over(stream, &session_events, s);
    session_count_sync(s);
    s->ready_owed = true;
    session_say_ready(s);
}

/* To the relay, once Valkey is open: until then its client's commands wait there, and not long. */
void session_say_ready(struct session *s)
{
    if (!s->ready_owed ||
        (!worker_open(s->worker) && loop_now_ms(s->worker->loop) < s->created_ms + READY_OWED_MS_MAX))
        return;
    s->ready_owed = false;
    stream_write(s->stream, relay_ready, strlen(relay_ready));
}

void session_finish(struct session *s)
{
    if (s->state == SESSION_CLOSED)
        return;
    s->state = SESSION_FINISHING;
    stream_pause(s->stream, true);
    if (s->op_count > 0)
        return;
    if (s->last_word != NULL)
        stream_write(s->stream, s->last_word, strlen(s->last_word));
    s->last_word = NULL;
    stream_finish(s->stream); /* closed("finished") follows */
}

static void release(void *object)
{
    struct session *s = object;

    free(s->name);
    free(s->lib_name);
    free(s->lib_ver);
    free(s->refusal);
    free(s->through);
    free(s->address);
    free(s);
}

/* What others still hold stays with them, without a session: a lane's cookie until its reply, the core's op until
 * RELEASE. */
static void abandon_tasks(struct session *s)
{
    struct op *op;

    while ((op = TAILQ_FIRST(&s->ops)) != NULL) {
        TAILQ_REMOVE(&s->ops, op, in_session);
        s->op_count--;
        op->session = NULL;
        if (task_of(op)->place == TASK_HERE)
            task_free(task_of(op));
    }
}

void session_close(struct session *s, const char *why)
{
    struct worker *w = s->worker;
    /* For its relay, a link that ends is the leader's trouble, unless it is told otherwise. */
    bool farewell = s->through != NULL && s->state == SESSION_OPEN && !s->gone && !s->moves && !w->draining;

    if (s->state == SESSION_CLOSED)
        return;
    s->state = SESSION_CLOSED;
    diag_log(w->diag, DIAG_VERBOSE, "Client id=%llu closed: %s", (unsigned long long)s->id, why);
    session_count_sync(s);
    if (farewell)
        relay_bye(s->stream, relay_farewell);
    else
        stream_close(s->stream);
    setup_free(s);
    s->backup = NULL;
    abandon_tasks(s);
    pinned_close(s, false);
    tx_end(s);
    resp_parser_drop(w->pool, s->parser);
    s->parser = NULL;
    buf_free(&s->stash);
    held_free(s->held);
    s->held = NULL;
    if (s->user != NULL)
        users_drop(w->users, s->user);
    s->user = NULL;
    pause_forget(s);
    blocked_leave(s);
    if (s->runs)
        TAILQ_REMOVE(&w->run, s, in_run);
    if (s->waits)
        TAILQ_REMOVE(&w->waiting, s, in_waiting);
    TAILQ_REMOVE(&w->sessions, s, in_worker);
    w->session_count--;
    loop_bury(w->loop, s, release);
}

void session_reset(struct session *s)
{
    CHECK(s->uncame == 0);
    pinned_close(s, false);
    tx_end(s);
    s->watching = s->tracking = s->monitoring = s->no_touch = s->no_evict = s->reply_off = s->skip_next = false;
    s->tracking_bcast = s->redirected_to = s->redirects = s->readonly = false;
    s->channels = s->patterns = s->shard_channels = 0;
    s->scripts = s->rdb_only = s->rdb_part = false;
    s->redirect_id = 0;
    s->proto = 2;
    s->db = 0;
    s->choice = CHOICE_DEFAULT;
    session_count_sync(s);
    free(s->name);
    s->name = NULL;
    if (s->user != NULL)
        users_drop(s->worker->users, s->user);
    s->user = NULL;
    s->authenticated = false;
}

void session_tick(struct session *s, uint64_t now_ms)
{
    const struct config *c = s->worker->config;
    bool pubsub = s->channels + s->shard_channels > 0;
    const struct output_limit *limit = &c->output_limit[pubsub ? OUTPUT_PUBSUB : OUTPUT_NORMAL];

    session_say_ready(s);
    backup_tick(s, now_ms);
    if (s->soft_since_ms != 0 && now_ms - s->soft_since_ms > limit->soft_seconds * 1000u) {
        session_close(s, "output buffer soft limit overcome");
        return;
    }
    if (s->op_count > 0 || now_ms - s->active_ms < IDLE_TRIM_MS)
        return;
    if (c->timeout_s > 0 && !pubsub && !s->monitoring && now_ms - s->active_ms > (uint64_t)c->timeout_s * 1000u) {
        session_close(s, "idle");
        return;
    }
    if (stream_pending(s->stream) == 0 && now_ms - s->active_ms < 2 * IDLE_TRIM_MS + WORKER_TICK_MS)
        buf_free(stream_out(s->stream));
}

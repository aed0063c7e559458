/* The worker: a hook of the loop, and the door to everything that faces clients.
 *
 * Each turn: the core's messages first, since they free connections and answer clients; then every session that was
 * kicked, until none is left.
 *
 *   TO_WORKER_OPEN      command table, lanes; sessions that waited go on
 *   TO_WORKER_SHUT      all connections to Valkey are closed; what they owed is answered with errors; sessions whose
 *                       state was in them end
 *   TO_WORKER_CAME      an op's reply came: the session's next command may go elsewhere
 *   TO_WORKER_RELEASE   the reply may go, or the op of a gone client is freed */
#include "proxy/worker.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "proxy/backup.h"
#include "proxy/blocked.h"
#include "proxy/canon.h"
#include "proxy/lane.h"
#include "proxy/listen.h"
#include "proxy/local.h"
#include "proxy/pause.h"
#include "proxy/pinned.h"
#include "proxy/relay.h"
#include "proxy/rights.h"
#include "proxy/scripts.h"
#include "proxy/stream_ids.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

enum { ARGS_MAX = 1024 * 1024, LINE_BYTES_MAX = 64 * 1024 };

void worker_post(struct worker *w, enum message_kind kind, struct op *op, uint64_t number)
{
    queue_push(w->set.to_core, (struct message){.kind = kind, .op = op, .number = number});
}

void worker_kick_waiting(struct worker *w)
{
    struct session *s;

    while ((s = TAILQ_FIRST(&w->waiting)) != NULL) {
        TAILQ_REMOVE(&w->waiting, s, in_waiting);
        s->waits = false;
        session_kick(s);
    }
}

void worker_reload_commands(struct worker *w)
{
    uint64_t now = loop_now_ms(w->loop);

    if (w->reload_asked_ms != 0 && now - w->reload_asked_ms < RELOAD_COMMANDS_MS_MIN)
        return;
    w->reload_asked_ms = now;
    worker_post(w, TO_CORE_RELOAD_COMMANDS, NULL, 0);
}

struct session *worker_find(struct worker *w, uint64_t id)
{
    struct session *s;

    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        if (s->id == id)
            return s;
    }
    return NULL;
}

void worker_saw_http(struct worker *w)
{
    diag_log(w->diag, diag_limited(&w->http_seen, loop_now_ms(w->loop), 1, DIAG_WARNING),
             "Possible SECURITY ATTACK detected: POST or Host: on the client port. Connection closed");
}

/* ---- Valkey comes and goes ---- */

/* Of another product the number says nothing. */
static unsigned version_of(const struct valkey_identity *v)
{
    return strcmp(v->server, "valkey") == 0 ? canon_version(v->version) : 0;
}

static void take_commands(struct worker *w, const char *reply, size_t n)
{
    char why[128];
    struct command_table *table = command_table_new(reply, n, why, sizeof why);
    struct session *s;

    if (table == NULL) {
        diag_log(w->diag, DIAG_WARNING, "COMMAND's reply cannot be read: %s", why);
        return;
    }
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        s->last = NULL;
    }
    local_forget(w);
    command_table_free(w->commands);
    w->commands = table;
    command_table_for(table, w->identity != NULL ? version_of(w->identity) : 0);
}

static void end_sessions_with_state(struct worker *w)
{
    struct session *s, *next;

    for (s = TAILQ_FIRST(&w->sessions); s != NULL; s = next) {
        bool state = (s->tx != NULL && !tx_is_here(s)) || session_stateful(s) || pinned_is_user(s);

        next = TAILQ_NEXT(s, in_worker);
        pinned_close(s, true);
        s->lane = NULL;
        if (state)
            session_finish(s);
    }
}

static void shut(struct worker *w)
{
    if (w->identity == NULL)
        return;
    lanes_shut(w->lanes);
    valkey_identity_free(w->identity);
    w->identity = NULL;
    end_sessions_with_state(w);
    users_shut(w->users);
    worker_kick_waiting(w);
}

/* SELECT is answered while Valkey is away, when nobody knows how many databases the next one has. A SELECT that it
 * refuses would let the command behind it run in another database, and break a shared lane. */
static void end_sessions_beyond(struct worker *w, unsigned databases)
{
    struct session *s;

    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        if (s->db < databases)
            continue;
        s->doom = "its database does not exist";
        session_kick(s);
    }
}

static void open_valkey(struct worker *w, struct valkey_identity *identity)
{
    struct session *s;

    shut(w);
    w->identity = identity;
    end_sessions_beyond(w, identity->databases);
    take_commands(w, identity->commands, identity->commands_bytes);
    if (!canon_tried(version_of(identity)))
        diag_log(
            w->diag, DIAG_WARNING,
            "%s %s is none of the versions that were tried: writes whose effect it may spell differently are logged "
            "after they have run, not before (proxy/canon.c)",
            identity->server, identity->version);
    lanes_open(w->lanes);
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        session_say_ready(s);
    }
}

/* ---- messages ---- */

static void on_release(struct worker *w, struct op *op)
{
    struct task *t = task_of(op);

    if (t->learns) {
        rights_logged(t);
        return;
    }
    if (t->peer != NULL || op->kind == OP_LOCAL) { /* the core's half of a WAIT, or of a CONFIG SET */
        if (t->on_reply != NULL)
            t->on_reply(t, buf_head(&op->reply), op->reply.len);
        else
            local_wait_durable(t);
        return;
    }
    CHECK(t->place == TASK_CORE);
    if (op->reply.len == 0 && op->session != NULL)
        resp_error(&op->reply, "UNCERTAIN Valkey was lost: the write may or may not have been applied");
    (void)w;
    session_release(t);
}

static void on_message(struct worker *w, const struct message *m)
{
    struct buf *reply = m->pointer;

    switch (m->kind) {
    case TO_WORKER_OPEN:
        open_valkey(w, m->pointer);
        break;
    case TO_WORKER_SHUT:
        diag_log(w->diag, DIAG_VERBOSE, "Connections to Valkey are closed: %s", (const char *)m->pointer);
        free(m->pointer);
        shut(w);
        break;
    case TO_WORKER_CAME:
        if (m->op->kind == OP_LOCAL)
            local_wait_reached(task_of(m->op));
        else
            session_came(task_of(m->op));
        break;
    case TO_WORKER_RELEASE:
        on_release(w, m->op);
        break;
    case TO_WORKER_BACKUP:
        backup_came(w, m->pointer);
        break;
    case TO_WORKER_COMMANDS:
        take_commands(w, buf_head(reply), reply->len);
        buf_free(reply);
        free(reply);
        break;
    default:
        CHECK(m->kind >= TO_WORKER_OPEN);
    }
}

/* Tasks whose END or BROKEN the core has surely read by now. */
static void cool_down(struct worker *w)
{
    struct task *t;

    while (w->set.to_core->count == 0 && (t = TAILQ_FIRST(&w->cooling)) != NULL) {
        TAILQ_REMOVE(&w->cooling, t, in_list);
        free(t);
    }
}

static void follow_mode(struct worker *w)
{
    int mode = atomic_load(&w->set.gate->mode);
    struct session *s;

    if (mode == w->last_mode)
        return;
    w->last_mode = mode;
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        session_count_sync(s);
    }
}

/* Sessions of a node that begins or ceases to lead; readers stay. About to cease, it only holds them up. */
static void follow_part(struct worker *w)
{
    int part = atomic_load(&w->set.gate->part);
    bool leads = part == PART_LEADS;
    struct session *s;

    if (part == w->last_sessions_part)
        return;
    w->last_sessions_part = part;
    if (part == PART_HANDS_OVER)
        return;
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        if (s->reader)
            continue;
        s->moves = !leads;
        session_kick(s);
    }
}

/* Before a hand-over the core wants to know when nothing is under way any more. */
static void tell_unanswered(struct worker *w)
{
    struct session *s;
    size_t n = 0;

    if (atomic_load_explicit(&w->set.gate->part, memory_order_relaxed) != PART_HANDS_OVER)
        return;
    blocked_release(w);
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        n += s->reader || s->backup != NULL ? 0 : s->op_count; /* a backup has nothing beside it */
    }
    atomic_store(&w->set.gate->unanswered, n < INT_MAX ? (int)n : INT_MAX);
}

static bool on_turn(void *arg)
{
    struct worker *w = arg;
    struct message m;
    struct session *s;
    bool worked = false;

    cool_down(w);
    follow_mode(w);
    follow_part(w);
    while (queue_pop(w->set.to_worker, &m)) {
        on_message(w, &m);
        worked = true;
    }
    while ((s = TAILQ_FIRST(&w->run)) != NULL) {
        TAILQ_REMOVE(&w->run, s, in_run);
        s->runs = false;
        session_run(s);
        worked = true;
    }
    worked = relays_run(w) || worked;
    worked = pause_settle(w) || worked;
    tell_unanswered(w);
    return worked || w->set.to_core->count > 0;
}

static void drain_step(struct worker *w, uint64_t now_ms)
{
    struct session *s, *next;
    bool idle = true;

    if (w->drained == NULL)
        return;
    blocked_release(w);
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        idle = idle && (s->backup != NULL || (s->op_count == 0 && stream_pending(s->stream) == 0));
    }
    idle = idle && relays_idle(w, now_ms);
    if (!idle && now_ms < w->drain_until_ms)
        return;
    for (s = TAILQ_FIRST(&w->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, in_worker);
        if (s->through != NULL && s->op_count == 0)
            session_moved(s);
        else
            session_close(s, "Holdfast is shutting down");
    }
    relays_close(w, "Holdfast is shutting down");
    w->drained(w->drained_arg);
    w->drained = NULL;
}

static void on_tick(void *arg)
{
    struct worker *w = arg;
    uint64_t now = loop_now_ms(w->loop);
    struct session *s, *next;

    worker_kick_waiting(w);
    users_tick(w->users);
    for (s = TAILQ_FIRST(&w->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, in_worker);
        session_tick(s, now);
    }
    relays_tick(w, now);
    drain_step(w, now);
}

/* WAIT's timeouts are in milliseconds: a finer tick, only while somebody waits. */
static void on_wait_tick(void *arg)
{
    struct worker *w = arg;

    local_wait_tick(w, loop_now_ms(w->loop));
    if (w->drained != NULL)
        blocked_release(w);
    if (!TAILQ_EMPTY(&w->waits))
        loop_timer_once(w->wait_tick, WAIT_TICK_MS);
}

/* ---- the door ---- */

static void take_limits(struct worker *w)
{
    w->limits.bulk_bytes_max = w->config->bulk_bytes_max;
    w->limits.query_bytes_max = w->config->query_bytes_max;
    w->limits.args_max = ARGS_MAX;
    w->limits.line_bytes_max = LINE_BYTES_MAX;
}

struct worker *worker_new(struct loop *l, const struct diag *d, const struct worker_settings *s, char *why,
                          size_t why_size)
{
    struct worker *w = must_calloc(1, sizeof *w);

    w->loop = l;
    w->diag = d;
    w->set = *s;
    w->config = s->config;
    w->ids = must_calloc(1, sizeof *w->ids);
    w->last_mode = atomic_load(&s->gate->mode);
    TAILQ_INIT(&w->sessions);
    TAILQ_INIT(&w->run);
    TAILQ_INIT(&w->relays);
    TAILQ_INIT(&w->relay_run);
    w->last_part = w->last_sessions_part = atomic_load(&s->gate->part);
    TAILQ_INIT(&w->waiting);
    TAILQ_INIT(&w->blockers);
    TAILQ_INIT(&w->free_tasks);
    TAILQ_INIT(&w->cooling);
    TAILQ_INIT(&w->waits);
    take_limits(w);
    if ((w->listen = listen_new(w, why, why_size)) == NULL) {
        free(w->ids);
        free(w);
        return NULL;
    }
    w->pool = resp_pool_new(&w->limits);
    w->lanes = lanes_new(w);
    w->users = users_new(w);
    w->scripts = scripts_new();
    w->tick = loop_timer_new(l, on_tick, w);
    loop_timer_every(w->tick, WORKER_TICK_MS);
    w->wait_tick = loop_timer_new(l, on_wait_tick, w);
    pause_init(w);
    w->relay_tick = loop_timer_new(l, relays_on_tick, w);
    loop_add_hook(l, on_turn, w);
    return w;
}

void worker_drain(struct worker *w, uint64_t timeout_ms, void (*done)(void *arg), void *arg)
{
    struct session *s;

    listen_pause(w->listen);
    w->draining = true;
    w->drained = done;
    w->drained_arg = arg;
    w->drain_until_ms = loop_now_ms(w->loop) + timeout_ms;
    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        stream_pause(s->stream, true);
    }
    relays_pause(w);
}

static void free_tasks(struct task_list *list)
{
    struct task *t;

    while ((t = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, t, in_list);
        free(t);
    }
}

void worker_free(struct worker *w)
{
    struct session *s;
    struct message m;

    while ((s = TAILQ_FIRST(&w->sessions)) != NULL)
        session_close(s, "Holdfast is shutting down");
    relays_close(w, "Holdfast is shutting down");
    lanes_free(w->lanes);
    while (queue_pop(w->set.to_worker, &m))
        if (m.kind == TO_WORKER_RELEASE)
            on_message(w, &m);
    listen_free(w->listen);
    users_free(w->users);
    scripts_free(w->scripts);
    resp_pool_free(w->pool);
    loop_timer_free(w->tick);
    loop_timer_free(w->wait_tick);
    loop_timer_free(w->pause.timer);
    loop_timer_free(w->relay_tick);
    command_table_free(w->commands);
    free(w->ids);
    valkey_identity_free(w->identity);
    free_tasks(&w->free_tasks);
    free_tasks(&w->cooling);
    free(w);
}

void worker_status(const struct worker *w, struct status *s)
{
    s->relays = w->relay_count;
    s->sessions = w->session_count;
    s->sessions_total = w->sessions_total;
    s->sessions_rejected = w->sessions_rejected;
    s->handshakes_failed = w->handshakes_failed;
    s->pinned = w->pinned_count;
    s->lanes = lanes_count(w->lanes);
    s->commands = w->commands_total;
    s->net_in_bytes = w->in_bytes;
    s->net_out_bytes = w->out_bytes;
    s->writes_rejected = w->writes_rejected;
}

void worker_reconfigure(struct worker *w)
{
    take_limits(w);
    if ((int)w->config->durability != atomic_load(&w->set.gate->mode))
        worker_post(w, TO_CORE_MODE, NULL, (uint64_t)w->config->durability);
}

/* MULTI to EXEC. A transaction is queued with us and goes to Valkey as one block, at EXEC (session_exec.c): it needs
 * no connection of its own.
 *
 *   MULTI       +OK, by us
 *   SET k v     +QUEUED, by us: known to Valkey, its number of arguments is right
 *   GET l       likewise
 *   EXEC        MULTI, SET, GET, EXEC leave in one piece, on the writer lane or a shared one; the last reply counts
 *
 * Some need the session's pinned connection, where Valkey queues: those of a restricted user (whose rights Valkey
 * looks at when it queues) or of a session with state (WATCH), and any that meets a command that is more than a read
 * or a write (SELECT, INFO, an unknown one): then what was queued here is queued there, and it goes on there.
 *
 *   WATCH k     pinned from here on
 *   MULTI       tx is made
 *   SET k v     queued by Valkey; its keys join tx->keys
 *   SELECT 3    likewise; the keys of what follows are in database 3, and so will the session be
 *   EXEC        captured: BEGIN with the union of the keys, END when the reply came; tx is gone
 *
 * While writes are refused, a queued write is refused at once and EXEC answers EXECABORT, as Valkey does when out of
 * memory. While there is no Valkey, MULTI is taken all the same, as by one that loads: were it refused, the rest of a
 * pipeline might find Valkey back and run command by command. */
#include <stdlib.h>
#include <string.h>

#include "proxy/pinned.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

static const char clusterdown[] = "CLUSTERDOWN The cluster is down and only accepts read commands";
static const char abort_clusterdown[] =
    "EXECABORT Transaction discarded because of: CLUSTERDOWN The cluster is down and only accepts read commands";
static const char abort_arity[] =
    "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
static const char abort_errors[] = "EXECABORT Transaction discarded because of previous errors.";

void tx_end(struct session *s)
{
    if (s->tx == NULL)
        return;
    keyset_clear(&s->tx->keys);
    buf_free(&s->tx->queued);
    free(s->tx);
    s->tx = NULL;
}

bool tx_is_here(const struct session *s)
{
    return s->tx != NULL && s->tx->place == TX_HERE;
}

static void tx_begin(struct session *s, enum tx_place place)
{
    CHECK(s->tx == NULL);
    s->tx = must_calloc(1, sizeof *s->tx);
    s->tx->place = place;
    s->tx->db = s->db;
}

static void answer_ok(struct session *s)
{
    session_answer(session_task(s, OP_LOCAL), "+OK\r\n", 5);
}

/* Valkey did not open a transaction after all (a restricted user). */
static void on_multi(struct task *t, const char *reply, size_t n)
{
    if (reply[0] == '-')
        tx_end(t->op.session);
    session_answer(t, reply, n);
}

static enum dispatch multi(struct session *s, const struct argv *a)
{
    struct task *t;
    bool nested = s->tx != NULL;

    if (!nested && session_full(s) && !session_stateful(s)) {
        tx_begin(s, TX_HERE);
        answer_ok(s);
        return DISPATCHED;
    }
    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, nested ? NULL : on_multi, &t) == NOT_NOW)
        return NOT_NOW;
    if (t == NULL || nested)
        return DISPATCHED;
    tx_begin(s, TX_VALKEY);
    if (!session_full(s))
        s->barrier = true; /* may be refused: what follows must not run unqueued */
    return DISPATCHED;
}

/* EXEC's answer is only looked at: an array means that all ran, SELECTs too. */
static void on_exec(struct task *t, const char *reply, size_t n)
{
    struct session *s = t->op.session;

    if (s == NULL || reply[0] != '*' || n < 2 || reply[1] == '-')
        return;
    s->db = (uint32_t)t->numbers[0];
    pinned_note_db(s, s->db);
}

static void on_discarded(struct task *t, const char *reply, size_t n)
{
    const char *text = t->context;

    (void)reply;
    (void)n;
    session_answer_error(t, text);
}

static enum dispatch abort_exec(struct session *s, const char *text)
{
    static const char discard[] = "*1\r\n$7\r\nDISCARD\r\n";
    static const struct arg place = {8, 7};
    struct argv a = {discard, sizeof discard - 1, &place, 1};
    struct task *t;

    if (session_to_pinned(s, OP_NEUTRAL, NULL, &a, on_discarded, &t) == NOT_NOW)
        return NOT_NOW;
    tx_end(s);
    s->watching = false;
    if (t != NULL)
        t->context = (void *)(uintptr_t)text;
    return DISPATCHED;
}

static enum dispatch exec(struct session *s, const struct route_facts *f)
{
    struct transaction *tx = s->tx;
    struct task *t;

    if (tx == NULL) {
        session_say(s, "ERR EXEC without MULTI");
        return DISPATCHED;
    }
    if (tx->refused)
        return abort_exec(s, abort_errors);
    if (tx->writes && route_refuses_writes(f)) {
        if (abort_exec(s, abort_clusterdown) == NOT_NOW)
            return NOT_NOW;
        s->worker->writes_rejected++;
        return DISPATCHED;
    }
    if (session_needs(s, VIA_PINNED) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    CHECK(pinned_ready(s, false)); /* it has carried MULTI; a lost one ends the session */
    t = session_task(s, s->reader ? OP_NEUTRAL : OP_CAPTURED);
    t->op.keys = tx->keys;
    memset(&tx->keys, 0, sizeof tx->keys);
    if (tx->selects) {
        t->on_reply = on_exec;
        t->numbers[0] = tx->db;
    }
    pinned_ask(s, t, f->args->bytes, f->args->n);
    s->barrier = tx->selects || s->barrier;
    tx_end(s);
    s->watching = false;
    return DISPATCHED;
}

static enum dispatch discard(struct session *s, const struct argv *a)
{
    struct task *t;

    if (s->tx == NULL) {
        session_say(s, "ERR DISCARD without MULTI");
        return DISPATCHED;
    }
    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, NULL, &t) == NOT_NOW)
        return NOT_NOW;
    tx_end(s);
    s->watching = false;
    return DISPATCHED;
}

static enum dispatch watch(struct session *s, const struct route_facts *f)
{
    bool unwatch = f->treatment == TREAT_UNWATCH;
    struct task *t;

    if (unwatch && !s->watching) {
        answer_ok(s);
        return DISPATCHED;
    }
    if (session_to_pinned(s, OP_NEUTRAL, NULL, f->args, NULL, &t) == NOT_NOW)
        return NOT_NOW;
    if (t != NULL && s->tx == NULL) /* inside MULTI Valkey refuses it */
        s->watching = !unwatch;
    return DISPATCHED;
}

void tx_begin_unserved(struct session *s)
{
    tx_begin(s, TX_UNSERVED);
    answer_ok(s);
}

enum dispatch tx_unserved(struct session *s, const struct route_facts *f)
{
    CHECK(s->tx != NULL && s->tx->place == TX_UNSERVED);
    switch (f->treatment) {
    case TREAT_MULTI:
        session_say(s, "ERR MULTI calls can not be nested");
        break;
    case TREAT_WATCH:
        session_say(s, "ERR WATCH inside MULTI is not allowed");
        break;
    case TREAT_EXEC:
        tx_end(s);
        session_say(s, abort_errors);
        break;
    case TREAT_DISCARD:
        tx_end(s);
        answer_ok(s);
        break;
    default:
        session_say(s, "LOADING Valkey is not available, the transaction will be discarded");
        break;
    }
    return DISPATCHED;
}

static bool is_known(const struct command *c, const struct argv *a)
{
    return c != NULL && ((c->flags & CMD_CONTAINER) == 0 || a->count == 1);
}

/* true: an error was answered. Its effects will be one unit of the stream, which must fit an entry of the log. */
static bool refuses(struct session *s, const struct route_facts *f, const struct route *r)
{
    struct transaction *tx = s->tx;
    bool writes = tx->writes || route_may_write(f);

    if (r->why == WHY_CLUSTERDOWN) {
        tx->refused = true;
        s->worker->writes_rejected++;
        session_say(s, clusterdown);
    } else if (tx->bytes + f->args->n > s->worker->limits.query_bytes_max) {
        tx->refused = true;
        session_say(s, "ERR transaction too large");
    } else if (writes && f->write_bytes_max != 0 && tx->bytes + f->args->n > f->write_bytes_max) {
        session_refuse(s, f, WHY_TOO_LARGE, NULL);
    } else {
        return false;
    }
    return true;
}

/* Keys that EXEC will touch, and whether it will write. */
static void note(struct session *s, const struct route_facts *f)
{
    struct transaction *tx = s->tx;
    const struct command *c = f->command;
    bool known = is_known(c, f->args);

    tx->commands++;
    tx->bytes += f->args->n;
    tx->writes = tx->writes || route_may_write(f);
    tx->pauses = tx->pauses || route_replicates(f);
    if (tx->place == TX_HERE)
        return; /* keys are looked for at EXEC */
    if (route_may_write(f) && !known)
        tx->keys.all = true;
    if (known && (c->flags & (CMD_WRITE | CMD_READONLY | CMD_SCRIPT | CMD_HAS_KEYS | CMD_MODULE)) != 0)
        command_keys(s->worker->commands, c, f->args, tx->db, &tx->keys);
}

/* A command that Valkey shall queue. */
static enum dispatch queue(struct session *s, const struct route_facts *f, const struct route *r)
{
    struct transaction *tx = s->tx;
    const struct argv *a = f->args;
    struct task *t;
    int64_t db;

    if (refuses(s, f, r))
        return DISPATCHED;
    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, NULL, &t) == NOT_NOW)
        return NOT_NOW;
    if (t == NULL)
        return DISPATCHED;
    if (argv_is(a, 0, "select") && a->count == 2) {
        tx->selects = true;
        if (argv_integer(a, 1, &db) && db >= 0 && s->worker->identity != NULL && db < s->worker->identity->databases)
            tx->db = (uint32_t)db;
    }
    note(s, f);
    return DISPATCHED;
}

/* Inside MULTI, Valkey itself must see a wrong number of arguments: it aborts at EXEC, and at once if it is EXEC's
 * own. */
static bool malformed(const struct route_facts *f)
{
    int arity = f->command != NULL ? f->command->arity : 0;

    return arity != 0 && (arity > 0 ? f->args->count != (size_t)arity : f->args->count < (size_t)-arity);
}

/* ---- queued with us ---- */

static void on_moved(struct task *t, const char *reply, size_t n)
{
    (void)reply;
    (void)n;
    session_answer(t, "", 0); /* its client has been answered, command by command */
}

/* What was queued here is queued again by Valkey, on the pinned connection. */
static enum dispatch to_valkey(struct session *s)
{
    struct transaction *tx = s->tx;
    struct command_table *table = s->worker->commands;
    struct tx_walk w = {.queued = &tx->queued};
    struct buf block = {0};
    bool skip = s->skip_next;
    struct task *t;

    if (session_needs(s, VIA_PINNED) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    if (!pinned_ready(s, false))
        return session_wait_ready(s);
    while (tx_walk_next(&w, table))
        if (w.command != NULL)
            command_keys(table, w.command, &w.args, tx->db, &tx->keys);
        else
            tx->keys.all = true;
    buf_text(&block, OP_UNIT_HEAD);
    buf_append(&block, buf_head(&tx->queued), tx->queued.len);
    s->skip_next = false;
    t = session_task(s, OP_NEUTRAL);
    s->skip_next = skip;
    t->op.more = (uint32_t)tx->commands;
    t->on_reply = on_moved;
    if (block.failed) {
        s->doom = "out of memory for a transaction";
        session_kick(s);
    }
    pinned_ask(s, t, buf_head(&block), block.len);
    buf_free(&block);
    buf_free(&tx->queued);
    tx->place = TX_VALKEY;
    return DISPATCHED;
}

/* More than a read or a write, or Valkey has something to say about it. */
static bool is_unusual(const struct route_facts *f)
{
    bool plain = f->treatment == TREAT_BY_FLAGS || f->treatment == TREAT_CAPTURED || argv_is(f->args, 0, "ping");

    return !plain || !is_known(f->command, f->args) || (f->command->flags & CMD_NO_MULTI) != 0;
}

static enum dispatch queue_here(struct session *s, const struct route_facts *f, const struct route *r)
{
    struct transaction *tx = s->tx;

    if (f->treatment == TREAT_BY_FLAGS && is_known(f->command, f->args) &&
        !session_check_arity(s, f->command, NULL, f->args)) {
        tx->refused = true;
        return DISPATCHED;
    }
    if (!session_full(s)) { /* Valkey might not take what was queued here */
        tx->refused = true;
        session_say(s, "NOPERM The rights of this user have changed since MULTI");
        return DISPATCHED;
    }
    if (is_unusual(f)) {
        enum dispatch moved = to_valkey(s);

        return tx_is_here(s) ? moved : tx_command(s, f, r); /* still here: it waits, or has been answered */
    }
    if (refuses(s, f, r))
        return DISPATCHED;
    buf_append(&tx->queued, f->args->bytes, f->args->n);
    if (tx->queued.failed) {
        tx->refused = true;
        session_say(s, "ERR out of memory for a transaction");
        return DISPATCHED;
    }
    note(s, f);
    session_answer(session_task(s, OP_LOCAL), "+QUEUED\r\n", 9);
    return DISPATCHED;
}

enum dispatch tx_abort(struct session *s, const char *text)
{
    tx_end(s);
    session_say(s, text);
    return DISPATCHED;
}

enum dispatch tx_here_end(struct session *s, const struct route_facts *f)
{
    struct transaction *tx = s->tx;

    if (malformed(f)) {
        if (f->treatment == TREAT_EXEC)
            return tx_abort(s, abort_arity);
        tx->refused = true;
        (void)session_check_arity(s, f->command, NULL, f->args);
        return DISPATCHED;
    }
    if (f->treatment == TREAT_DISCARD) {
        tx_end(s);
        answer_ok(s);
        return DISPATCHED;
    }
    if (tx->refused)
        return tx_abort(s, abort_errors);
    if (tx->writes && route_refuses_writes(f)) {
        s->worker->writes_rejected++;
        return tx_abort(s, abort_clusterdown);
    }
    if (tx->commands == 0) {
        tx_end(s);
        session_answer(session_task(s, OP_LOCAL), "*0\r\n", 4);
        return DISPATCHED;
    }
    return tx_exec_here(s, f);
}

enum dispatch tx_command(struct session *s, const struct route_facts *f, const struct route *r)
{
    if (tx_is_here(s))
        return queue_here(s, f, r);
    if (s->tx != NULL && malformed(f))
        return f->treatment == TREAT_EXEC ? discard(s, f->args) : queue(s, f, r);
    switch (f->treatment) {
    case TREAT_MULTI:
        return multi(s, f->args);
    case TREAT_EXEC:
        return exec(s, f);
    case TREAT_DISCARD:
        return discard(s, f->args);
    case TREAT_WATCH:
        return watch(s, f);
    case TREAT_UNWATCH:
        return s->tx != NULL ? queue(s, f, r) : watch(s, f);
    default:
        return queue(s, f, r);
    }
}

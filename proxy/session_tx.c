/* MULTI to EXEC. All of it runs on the pinned connection, as it comes; Valkey queues. We follow, to know what EXEC
 * may touch:
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
static const char abort_errors[] = "EXECABORT Transaction discarded because of previous errors.";

void tx_end(struct session *s)
{
    if (s->tx == NULL)
        return;
    keyset_clear(&s->tx->keys);
    free(s->tx);
    s->tx = NULL;
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

    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, nested ? NULL : on_multi, &t) == NOT_NOW)
        return NOT_NOW;
    if (t == NULL || nested)
        return DISPATCHED;
    s->tx = must_calloc(1, sizeof *s->tx);
    s->tx->db = s->db;
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
        struct task *ok = session_task(s, OP_LOCAL);

        session_answer(ok, "+OK\r\n", 5);
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
    struct task *t = session_task(s, OP_LOCAL);

    CHECK(s->tx == NULL);
    s->tx = must_calloc(1, sizeof *s->tx);
    s->tx->unserved = true;
    session_answer(t, "+OK\r\n", 5);
}

enum dispatch tx_unserved(struct session *s, const struct route_facts *f)
{
    CHECK(s->tx != NULL && s->tx->unserved);
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
        session_answer(session_task(s, OP_LOCAL), "+OK\r\n", 5);
        break;
    default:
        session_say(s, "LOADING Valkey is not available, the transaction will be discarded");
        break;
    }
    return DISPATCHED;
}

/* A command that Valkey shall queue. */
static enum dispatch queue(struct session *s, const struct route_facts *f, const struct route *r)
{
    struct transaction *tx = s->tx;
    const struct command *c = f->command;
    const struct argv *a = f->args;
    bool known = c != NULL && ((c->flags & CMD_CONTAINER) == 0 || a->count == 1);
    struct task *t;
    int64_t db;

    if (r->why == WHY_CLUSTERDOWN || tx->bytes > SESSION_TRANSACTION_BYTES_MAX) {
        tx->refused = true;
        s->worker->writes_rejected += r->why == WHY_CLUSTERDOWN ? 1 : 0;
        session_say(s, r->why == WHY_CLUSTERDOWN ? clusterdown : "ERR transaction too large");
        return DISPATCHED;
    }
    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, NULL, &t) == NOT_NOW)
        return NOT_NOW;
    if (t == NULL)
        return DISPATCHED;
    tx->commands++;
    tx->bytes += a->n;
    if (argv_is(a, 0, "select") && a->count == 2) {
        tx->selects = true;
        if (argv_integer(a, 1, &db) && db >= 0 && s->worker->identity != NULL && db < s->worker->identity->databases)
            tx->db = (uint32_t)db;
    }
    if (route_may_write(f)) {
        tx->writes = true;
        if (!known)
            tx->keys.all = true;
    }
    if (known && (c->flags & (CMD_WRITE | CMD_READONLY | CMD_SCRIPT | CMD_HAS_KEYS | CMD_MODULE)) != 0)
        command_keys(s->worker->commands, c, a, tx->db, &tx->keys);
    return DISPATCHED;
}

/* Inside MULTI, Valkey itself must see a wrong number of arguments: it aborts at EXEC, and at once if it is EXEC's
 * own. */
static bool malformed(const struct route_facts *f)
{
    int arity = f->command != NULL ? f->command->arity : 0;

    return arity != 0 && (arity > 0 ? f->args->count != (size_t)arity : f->args->count < (size_t)-arity);
}

enum dispatch tx_command(struct session *s, const struct route_facts *f, const struct route *r)
{
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

/* Who the client is and how it speaks: HELLO, AUTH, RESET, QUIT, PING, SELECT.
 *
 * AUTH goes to Valkey on a connection of the session's own, so that Valkey itself decides, counts and logs. After +OK
 * the rights of the user are asked; one who may do everything needs no connection of its own and gives it back:
 *
 *   AUTH alice pw ─▶ pinned: AUTH ─▶ +OK ─▶ control lane: ACL GETUSER alice ─▶ full? shared lanes : pinned ─▶ +OK
 *
 * The session takes no other command meanwhile. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/local.h"
#include "proxy/pinned.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

/* ---- HELLO's reply ---- */

static void hello_reply(struct session *s, struct buf *out)
{
    const struct valkey_identity *v = s->worker->identity;

    resp_map(out, 7, s->proto);
    resp_bulk_text(out, "server");
    resp_bulk_text(out, v != NULL && v->server[0] != '\0' ? v->server : "valkey");
    resp_bulk_text(out, "version");
    resp_bulk_text(out, v != NULL ? v->version : "0.0.0");
    resp_bulk_text(out, "proto");
    resp_integer(out, s->proto);
    resp_bulk_text(out, "id");
    resp_integer(out, (int64_t)s->id);
    resp_bulk_text(out, "mode");
    resp_bulk_text(out, "standalone");
    resp_bulk_text(out, "role");
    resp_bulk_text(out, "master");
    resp_bulk_text(out, "modules");
    resp_array(out, 0);
}

/* ---- AUTH, alone or in HELLO ---- */

enum { NOT_HELLO = 0 }; /* task->numbers[0]: HELLO's protocol, or this */

struct login { /* task->context, owned by it until the end */
    struct buf user;
    struct buf name; /* SETNAME of HELLO */
    bool set_name;
    int proto; /* of HELLO, or NOT_HELLO */
};

static void login_free(void *context)
{
    struct login *l = context;

    buf_free(&l->user);
    buf_free(&l->name);
    free(l);
}

static void set_name(struct session *s, const char *name, size_t n)
{
    free(s->name);
    s->name = NULL;
    if (n == 0)
        return;
    s->name = must_calloc(1, n + 1);
    memcpy(s->name, name, n);
}

/* Valkey accepted the password, and what the user may do is known. */
static void admit(struct session *s, struct task *t)
{
    struct login *l = t->context;
    struct buf reply = {0};

    t->context = NULL;
    if (session_full(s) && !session_stateful(s))
        pinned_close(s, false);
    if (l->proto == NOT_HELLO) {
        resp_status(&reply, "OK");
    } else {
        s->proto = (uint8_t)l->proto;
        t->op.proto = s->proto;
        if (l->set_name)
            set_name(s, buf_head(&l->name), l->name.len);
        pinned_use(s);
        hello_reply(s, &reply);
    }
    login_free(l);
    session_answer_buf(t, &reply);
}

/* The task that waits at the end of the FIFO: nothing came after it, since it is a barrier. */
static void on_rights(struct worker *w, uint64_t session_id)
{
    struct session *s = worker_find(w, session_id);
    struct op *op = s != NULL ? TAILQ_LAST(&s->ops, op_list) : NULL;

    if (op != NULL && task_of(op)->context != NULL && task_of(op)->place == TASK_HERE)
        admit(s, task_of(op));
}

static void on_auth(struct task *t, const char *reply, size_t n)
{
    struct session *s = t->op.session;
    struct login *l = t->context;
    struct user *user;

    t->place = TASK_HERE;
    if (reply[0] != '+') {
        login_free(l);
        t->context = NULL;
        session_answer(t, reply, n);
        return;
    }
    user = users_hold(s->worker->users, buf_head(&l->user), l->user.len);
    if (s->user != NULL)
        users_drop(s->worker->users, s->user);
    s->user = user;
    s->authenticated = true;
    pinned_authenticated(s);
    if (!user_ask(s->worker->users, user, on_rights, s->id)) /* not now: pinned is always right */
        admit(s, t);
}

/* Valkey forgets its refusal when the reply of an earlier command has not left yet: nothing goes right before it, not
 * even our SELECT, which the new user may not be allowed. */
static enum dispatch ask(struct session *s, const struct argv *a, struct task **out)
{
    *out = NULL;
    if (s->uncame > 0) /* as it is a barrier behind, it is one before */
        return session_hold(s, HOLD_CAME);
    if (!pinned_ready(s, !session_full(s)) || !pinned_settled(s))
        return session_wait_ready(s);
    return session_to_pinned(s, OP_NEUTRAL, NULL, a, on_auth, out);
}

static enum dispatch login(struct session *s, const struct argv *a, size_t at, bool with_user, struct login *l)
{
    struct buf command = {0};
    struct argv made = {NULL, 0, NULL, 0};
    struct task *t;
    enum dispatch done;

    buf_append(&l->user, with_user ? argv_at(a, at) : "default", with_user ? argv_len(a, at) : 7);
    argv_header(&command, with_user ? 3 : 2);
    argv_bulk(&command, "AUTH", 4);
    if (with_user)
        argv_bulk(&command, argv_at(a, at), argv_len(a, at));
    argv_bulk(&command, argv_at(a, at + (with_user ? 1 : 0)), argv_len(a, at + (with_user ? 1 : 0)));
    made.bytes = buf_head(&command);
    made.n = command.len;
    done = ask(s, &made, &t);
    buf_free(&command);
    if (done == NOT_NOW || t == NULL) {
        login_free(l);
        return done;
    }
    t->context = l;
    t->context_free = login_free;
    s->barrier = true;
    return DISPATCHED;
}

enum dispatch local_auth(struct session *s, const struct argv *a)
{
    if (a->count > 3)
        return local_error(s, "ERR syntax error");
    return login(s, a, 1, a->count == 3, must_calloc(1, sizeof(struct login)));
}

static bool good_name(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (name[i] < '!' || name[i] > '~')
            return false;
    return true;
}

enum dispatch local_hello(struct session *s, const struct argv *a)
{
    static const char bad_name[] = "ERR Client names cannot contain spaces, newlines or special characters.";
    int64_t proto = s->proto;
    size_t auth = 0, name = 0, i = 2;
    struct login *l;
    struct buf reply = {0};
    char text[192];

    if (a->count > 1 && !argv_integer(a, 1, &proto))
        return local_error(s, "ERR Protocol version is not an integer or out of range");
    if (proto < 2 || proto > 3)
        return local_error(s, "NOPROTO unsupported protocol version");
    while (i < a->count) {
        if (argv_is(a, i, "auth") && i + 2 < a->count) {
            auth = i + 1;
            i += 3;
        } else if (argv_is(a, i, "setname") && i + 1 < a->count) {
            name = i + 1;
            i += 2;
        } else {
            (void)snprintf(text, sizeof text, "ERR Syntax error in HELLO option '%.*s'",
                           (int)(argv_len(a, i) < 64 ? argv_len(a, i) : 64), argv_at(a, i));
            for (char *c = text; *c != '\0'; c++)
                *c = (char)(*c < ' ' ? ' ' : *c);
            return local_error(s, text);
        }
    }
    if (name != 0 && !good_name(argv_at(a, name), argv_len(a, name)))
        return local_error(s, bad_name);
    if (auth == 0 && session_authentication(s) == AUTH_NEEDED)
        return local_error(s,
                           "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
                           "<proto> AUTH <user> <pass> option can be used to authenticate the client and select the "
                           "RESP protocol version at the same time");
    if (auth != 0) {
        if (!worker_open(s->worker))
            return local_error(s, "LOADING Valkey is not available, Holdfast is waiting for it");
        l = must_calloc(1, sizeof *l);
        l->proto = (int)proto;
        l->set_name = name != 0;
        if (name != 0)
            buf_append(&l->name, argv_at(a, name), argv_len(a, name));
        return login(s, a, auth, true, l);
    }
    if (s->proto != proto && pinned_busy(s))
        return session_hold(s, HOLD_CAME);
    s->proto = (uint8_t)proto;
    if (name != 0)
        set_name(s, argv_at(a, name), argv_len(a, name));
    pinned_use(s);
    hello_reply(s, &reply);
    return local_reply(s, &reply);
}

/* ---- the rest ---- */

enum dispatch local_reset(struct session *s, const struct argv *a)
{
    (void)a;
    if (s->uncame > 0)
        return session_hold(s, HOLD_CAME);
    session_reset(s);
    session_answer(session_task(s, OP_LOCAL), "+RESET\r\n", 8);
    return DISPATCHED;
}

enum dispatch local_quit(struct session *s, const struct argv *a)
{
    struct task *t = session_task(s, OP_LOCAL);

    (void)a;
    if (s->redirected_to &&
        s->uncame == 0) /* Valkey is to know before the client does: others are told that it is gone */
        pinned_close(s, false);
    t->finish = true;
    s->state = SESSION_FINISHING;
    session_answer(t, "+OK\r\n", 5);
    return DISPATCHED;
}

/* A browser or a forged request to this port: close, as Valkey does. */
enum dispatch local_close(struct session *s, const struct argv *a)
{
    (void)a;
    worker_saw_http(s->worker);
    s->doom = "HTTP on the client port";
    session_kick(s);
    return DISPATCHED;
}

/* Valkey answers, since a client asks how *it* is (a busy script: -BUSY). A RESP2 connection with subscriptions is
 * not asked: its own may be in the middle of a command's stream of replies. */
enum dispatch local_ping(struct session *s, const struct argv *a)
{
    struct buf reply = {0};
    struct task *t;

    if (a->count > 2)
        return local_error(s, "ERR wrong number of arguments for 'ping' command");
    if (s->proto == 2 && s->channels + s->shard_channels > 0) {
        resp_array(&reply, 2);
        resp_bulk_text(&reply, "pong");
        resp_bulk(&reply, a->count == 2 ? argv_at(a, 1) : "", a->count == 2 ? argv_len(a, 1) : 0);
        return local_reply(s, &reply);
    }
    return session_forward(s, a, NULL, &t);
}

/* For a replica that could send its clients elsewhere; Holdfast never does. */
enum dispatch local_readonly(struct session *s, const struct argv *a)
{
    s->readonly = argv_is(a, 0, "readonly");
    return local_ok(s);
}

/* The connection that carries the next command learns of it in line. */
enum dispatch local_select(struct session *s, const struct argv *a)
{
    const struct valkey_identity *v = s->worker->identity;
    int64_t db;

    if (!argv_integer(a, 1, &db))
        return local_error(s, "ERR value is not an integer or out of range");
    if (db < 0 || db > INT32_MAX || (v != NULL && db >= v->databases))
        return local_error(s, "ERR DB index is out of range");
    s->db = (uint32_t)db;
    return local_ok(s);
}

/* A session's own connection: see pinned.h. What it owes when it ends:
 *
 *   captured op, BEGIN posted   BROKEN, with Valkey's client id: the core has the connection killed (a BLPOP must not
 *                               take anything any more) and answers the client itself, by RELEASE
 *   the same, Valkey is away    nothing: the core has let go of all its ops and releases them
 *   anything else               an error from us
 *
 * A connection that carried state ends its session with it, as a lost connection to Valkey would. */
#include "proxy/pinned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/loop.h"
#include "proxy/backend.h"
#include "proxy/certs.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

enum { NONCE_BYTES_MAX = 32, NAME_BYTES = 64 };

struct pinned {
    struct session *session;
    struct backend *backend;
    bool as_user;
    struct task *stream; /* the command whose replies are passed on; NULL = none */
    char nonce[NONCE_BYTES_MAX];
};

/* ---- streams ---- */

/* The word at the head of a push or a RESP2 message: the first bulk string of the array. */
static bool first_word(const char *push, size_t n, const char **word, size_t *len)
{
    const char *end = memchr(push, '\n', n);
    char *after;

    if (end == NULL || (size_t)(end - push) + 4 > n || end[1] != '$')
        return false;
    *len = (size_t)strtoul(end + 2, &after, 10); /* framed by the splitter: digits end at CR */
    if (after + 2 > push + n || *len > (size_t)(push + n - after - 2))
        return false;
    *word = after + 2;
    return true;
}

static bool word_is(const char *word, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(word, text, len) == 0;
}

/* "subscribe", "unsubscribe" and their kin end with the number of subscriptions that are left. */
static void count_channels(struct session *s, const char *push, size_t n)
{
    const char *word, *at;
    size_t len;
    uint32_t count;

    if (n < 5 || !first_word(push, n, &word, &len) || len < 9 || memcmp(word + len - 9, "subscribe", 9) != 0)
        return;
    at = memrchr(push, ':', n);
    if (at == NULL)
        return;
    count = (uint32_t)strtoul(at + 1, NULL, 10);
    if (word_is(word, len, "ssubscribe") || word_is(word, len, "sunsubscribe")) {
        s->shard_channels = count;
        return;
    }
    if (*word == 'p') /* Valkey counts both together; the others have stayed as they were */
        s->patterns = count - (s->channels - s->patterns);
    s->channels = count;
}

/* Our own business, which MONITOR sees pass: markers (nobody can subscribe to their channel), and what tells a
 * connection whose command comes next, or is the first that is said on it. A client's own SELECT and HELLO are
 * answered by us and never get there. */
static bool is_our_own(const struct session *s, const char *push, size_t n)
{
    static const char *const words[] = {"\"SELECT\" ", "\"HELLO\" ", "\"CLIENT\" \"SETNAME\" \"holdfast-",
                                        "\"CLIENT\" \"ID\"", "\"INFO\" \"server\"\r\n"};
    const char *channel = s->worker->set.marker_channel, *command;

    if (!s->monitoring)
        return false;
    if (channel != NULL && channel[0] != '\0' && memmem(push, n, channel, strlen(channel)) != NULL)
        return true;
    command = memmem(push, n, "] ", 2); /* "+1795915697.889 [0 127.0.0.1:42062] \"SELECT\" \"0\"" */
    if (command == NULL)
        return false;
    command += 2;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t length = strlen(words[i]);

        if ((size_t)(push + n - command) >= length && memcmp(command, words[i], length) == 0)
            return true;
    }
    return false;
}

/* The end of what a command of a stream says. A user may be allowed to subscribe and not to PING: then the refusal is
 * it. */
static bool is_pong(const struct pinned *p, const char *push, size_t n)
{
    static const char subscribed[] = "*2\r\n$4\r\npong\r\n"; /* a message is an array of three or four */
    static const char ping[] = "'ping' command\r\n";

    if (p->as_user && n > sizeof ping && push[0] == '-' &&
        memcmp(push + n - sizeof ping + 1, ping, sizeof ping - 1) == 0)
        return true; /* its user may not PING: that answer comes at the same place */
    if (n < sizeof subscribed || (push[0] != '$' && memcmp(push, subscribed, sizeof subscribed - 1) != 0))
        return false;
    return memmem(push, n, p->nonce, strlen(p->nonce)) != NULL;
}

/* Whether the session's invalidations go nowhere any more; what it is told has Valkey's id. */
static bool is_redirect_broken(const struct session *s, const char *push, size_t n)
{
    const char *word;
    size_t len;

    return s->redirect_id != 0 && push[0] == '>' && first_word(push, n, &word, &len) &&
           word_is(word, len, "tracking-redir-broken");
}

static void push_redirect_broken(struct session *s)
{
    char push[80];
    int n = snprintf(push, sizeof push, ">2\r\n$21\r\ntracking-redir-broken\r\n:%llu\r\n",
                     (unsigned long long)s->redirect_id);

    session_push(s, push, (size_t)n);
}

static void on_push(void *arg, const char *push, size_t n)
{
    struct pinned *p = arg;
    struct session *s = p->session;
    struct task *t = p->stream;

    if (t != NULL && is_pong(p, push, n)) {
        p->stream = NULL;
        session_answer(t, "", 0);
        return;
    }
    if (is_our_own(s, push, n))
        return;
    if (is_redirect_broken(s, push, n)) {
        push_redirect_broken(s);
        return;
    }
    count_channels(s, push, n);
    if (t == NULL || !t->mute || push[0] != '-') /* CLIENT REPLY OFF silences no confirmation, as in Valkey */
        session_push(s, push, n);
}

static void on_monitor_answer(struct task *t, const char *reply, size_t n)
{
    if (reply[0] == '-')
        t->op.session->monitoring = false;
    session_answer(t, reply, n);
}

/* ---- ending ---- */

static void settle(struct pinned *p, struct backend *b, bool shut)
{
    struct worker *w = p->session->worker;
    struct task_list owed = TAILQ_HEAD_INITIALIZER(owed);
    struct task *t;
    void *cookie;

    while (backend_take_due(b, &cookie)) {
        t = cookie;
        TAILQ_INSERT_TAIL(&owed, t, in_list);
    }
    if (p->stream != NULL)
        TAILQ_INSERT_TAIL(&owed, p->stream, in_list);
    p->stream = NULL;
    while ((t = TAILQ_FIRST(&owed)) != NULL) {
        TAILQ_REMOVE(&owed, t, in_list);
        if (t->place != TASK_BOTH) {
            task_broke(t, "LOADING The connection to Valkey broke, ask again");
            continue;
        }
        t->place = TASK_CORE;
        if (!shut)
            worker_post(w, TO_CORE_BROKEN, &t->op, backend_client_id(b));
    }
}

void pinned_close(struct session *s, bool shut)
{
    struct pinned *p = s->pinned;

    if (p == NULL)
        return;
    s->pinned = NULL;
    s->worker->pinned_count--;
    settle(p, p->backend, shut);
    backend_close(p->backend);
    loop_bury(s->worker->loop, p, free);
}

static void on_closed(void *arg, const char *why)
{
    struct pinned *p = arg;
    struct session *s = p->session;
    bool state = (s->tx != NULL && !tx_is_here(s)) || session_stateful(s) || (p->as_user && s->user != NULL);

    diag_log(s->worker->diag, DIAG_VERBOSE, "Connection of client id=%llu to Valkey: %s", (unsigned long long)s->id,
             why);
    s->refused = true;
    pinned_close(s, false);
    if (state)
        session_finish(s);
}

/* ---- callbacks ---- */

static void on_ready(void *arg)
{
    struct pinned *p = arg;

    p->session->refused = false;
    if (p->session->hold == HOLD_READY)
        session_kick(p->session);
}

static void on_reply(void *arg, void *cookie, const char *reply, size_t n)
{
    (void)arg;
    task_reply(cookie, reply, n);
}

static const struct backend_events pinned_events = {
    .ready = on_ready, .reply = on_reply, .push = on_push, .closed = on_closed};

/* ---- the door ---- */

bool pinned_ready(struct session *s, bool as_user)
{
    struct worker *w = s->worker;
    char name[NAME_BYTES];
    struct backend_settings settings = {.address = w->set.valkey_address,
                                        .user = w->config->valkey_user,
                                        .password = w->config->valkey_password,
                                        .tls = certs_valkey(w->set.certs),
                                        .name = name,
                                        .as_user = as_user};

    if (as_user && (s->pinned != NULL ? !s->pinned->as_user : s->user != NULL)) {
        /* Our own rights are not for it, and its own are lost with the connection that had them. */
        s->doom = "its rights have changed";
        session_kick(s);
        return false;
    }
    if (s->pinned != NULL)
        return backend_ready(s->pinned->backend);
    if (w->identity == NULL)
        return false;
    settings.run_id = w->identity->run_id;
    (void)snprintf(name, sizeof name, "holdfast-%.24s-session%llu", w->config->node, (unsigned long long)s->id);
    s->pinned = must_calloc(1, sizeof *s->pinned);
    s->pinned->session = s;
    s->pinned->as_user = as_user;
    s->pinned->backend = backend_new(w->loop, w->diag, &settings, &pinned_events, s->pinned);
    w->pinned_count++;
    return false;
}

bool pinned_connecting(const struct session *s)
{
    return s->pinned != NULL && !s->refused && !backend_ready(s->pinned->backend);
}

static void on_settled(struct task *t, const char *reply, size_t n)
{
    struct session *s = worker_find(t->worker, t->numbers[0]);

    (void)reply;
    (void)n;
    if (s != NULL && s->hold == HOLD_READY)
        session_kick(s);
    task_free(t);
}

bool pinned_settled(struct session *s)
{
    static const char ping[] = "*1\r\n$4\r\nPING\r\n";
    struct backend *b = s->pinned->backend;
    struct task *t;

    CHECK(backend_ready(b) && s->pinned->stream == NULL);
    backend_use(b, s->db, s->proto);
    if (backend_idle(b))
        return true;
    t = task_new(s->worker);
    t->internal = true;
    t->op.kind = OP_NEUTRAL;
    t->place = TASK_PINNED;
    t->on_reply = on_settled;
    t->numbers[0] = s->id;
    backend_send(b, ping, sizeof ping - 1, t);
    return false;
}

void pinned_ask(struct session *s, struct task *t, const char *resp, size_t n)
{
    struct backend *b = s->pinned->backend;

    CHECK(backend_ready(b) && s->pinned->stream == NULL);
    backend_use(b, t->op.db, t->op.proto);
    t->op.pinned = true;
    session_sent(s, t, t->op.kind == OP_CAPTURED ? TASK_BOTH : TASK_PINNED, VIA_PINNED);
    if (t->op.kind == OP_CAPTURED) {
        t->known = true;
        worker_post(s->worker, TO_CORE_BEGIN, &t->op, 0);
    }
    backend_send_many(b, resp, n, t->op.more + 1, t);
}

void pinned_stream(struct session *s, struct task *t, const char *resp, size_t n)
{
    struct pinned *p = s->pinned;
    struct buf ping = {0};

    CHECK(backend_ready(p->backend) && p->stream == NULL && backend_due(p->backend) == 0);
    (void)snprintf(p->nonce, sizeof p->nonce, "holdfast-%llx-%llx", (unsigned long long)s->id,
                   (unsigned long long)++s->worker->nonce);
    if (s->channels + s->shard_channels == 0 ||
        s->proto == 3) /* a subscribed RESP2 connection takes neither SELECT nor HELLO */
        backend_use(p->backend, t->op.db, t->op.proto);
    session_sent(s, t, TASK_PINNED, VIA_PINNED);
    s->barrier = true;
    p->stream = t;
    backend_send_unanswered(p->backend, resp, n);
    argv_encode(&ping, 2, (const char *const[]){"PING", p->nonce}, (const size_t[]){4, strlen(p->nonce)});
    backend_send_unanswered(p->backend, buf_head(&ping), ping.len);
    buf_free(&ping);
}

void pinned_monitor(struct session *s, struct task *t, const char *resp, size_t n)
{
    s->monitoring = true;
    t->on_reply = on_monitor_answer;
    pinned_ask(s, t, resp, n);
}

uint64_t pinned_client_id(const struct session *s)
{
    return s->pinned != NULL ? backend_client_id(s->pinned->backend) : 0;
}

void pinned_authenticated(struct session *s)
{
    CHECK(s->pinned != NULL);
    s->pinned->as_user = true;
}

bool pinned_is_user(const struct session *s)
{
    return s->pinned != NULL && s->pinned->as_user;
}

bool pinned_busy(const struct session *s)
{
    return s->pinned != NULL && (s->pinned->stream != NULL || backend_due(s->pinned->backend) > 0);
}

void pinned_use(struct session *s)
{
    if (s->pinned != NULL && backend_ready(s->pinned->backend) && s->pinned->stream == NULL)
        backend_use(s->pinned->backend, s->db, s->proto);
}

void pinned_note_db(struct session *s, uint32_t db)
{
    if (s->pinned != NULL)
        backend_note_db(s->pinned->backend, db);
}

/* Valkey's users, as far as we need them. One struct user per name in use, shared by its sessions.
 *
 * Rights are asked again every few seconds and after every command that may change them. When a user loses the right
 * to everything, sessions that shared lanes in its name are closed: what they are allowed now, only a connection of
 * their own could tell, and we do not have their password. The default user needs none, so its sessions just become
 * pinned. */
#include "proxy/users.h"

#include <hiredis/hiredis.h>
#include <string.h>
#include <uthash.h>

#include "log/base/loop.h"
#include "proxy/argv.h"
#include "proxy/lane.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

struct user {
    char *name;
    size_t holders;
    struct user_rights rights;
    bool known, asking;
    UT_hash_handle hh;
};
struct users {
    struct worker *worker;
    struct user *by_name, *standard; /* standard: "default" */
    uint64_t asked_ms;
    bool stale; /* ask again at the next tick */
};

/* ---- reading a reply ---- */

static bool text_is(const redisReply *r, const char *text)
{
    return r != NULL && r->str != NULL && strlen(text) == r->len && memcmp(r->str, text, r->len) == 0;
}

static const redisReply *field(const redisReply *r, const char *name)
{
    for (size_t i = 0; i + 1 < r->elements; i += 2)
        if (text_is(r->element[i], name))
            return r->element[i + 1];
    return NULL;
}

static bool has_element(const redisReply *r, const char *text)
{
    for (size_t i = 0; r != NULL && i < r->elements; i++)
        if (text_is(r->element[i], text))
            return true;
    return false;
}

static struct user_rights rights_of(const redisReply *r)
{
    struct user_rights out = {0};
    const redisReply *flags = field(r, "flags"), *selectors = field(r, "selectors");

    out.exists = true;
    out.on = has_element(flags, "on");
    out.nopass = has_element(flags, "nopass");
    out.full = text_is(field(r, "commands"), "+@all") && text_is(field(r, "keys"), "~*") &&
               text_is(field(r, "channels"), "&*") && (selectors == NULL || selectors->elements == 0);
    return out;
}

struct user_rights user_rights_of(const char *reply, size_t n)
{
    struct user_rights out = {0};
    redisReader *reader = redisReaderCreate();
    void *parsed = NULL;

    CHECK(reader != NULL);
    if (redisReaderFeed(reader, reply, n) == REDIS_OK && redisReaderGetReply(reader, &parsed) == REDIS_OK &&
        parsed != NULL) {
        const redisReply *r = parsed;

        if (r->type == REDIS_REPLY_ARRAY || r->type == REDIS_REPLY_MAP)
            out = rights_of(r);
    }
    if (parsed != NULL)
        freeReplyObject(parsed);
    redisReaderFree(reader);
    return out;
}

/* ---- asking ---- */

struct question { /* AUTH waits for the answer */
    struct users *users;
    struct user *user;
    void (*done)(struct worker *w, uint64_t session_id);
    uint64_t session_id;
};

static bool is_of(const struct session *s, const struct users *u, const struct user *user)
{
    return s->user == user || (s->user == NULL && user == u->standard && s->authenticated);
}

/* A write that Valkey is asked about first, and one of a user who may do everything: the latter must not overtake. */
static void hold_sessions_of(struct users *u, struct user *user)
{
    struct session *s;

    TAILQ_FOREACH(s, &u->worker->sessions, in_worker)
    {
        if (is_of(s, u, user) && s->uncame > 0)
            s->barrier = true;
    }
}

static void close_sessions_of(struct users *u, struct user *user)
{
    struct worker *w = u->worker;
    struct session *s;

    TAILQ_FOREACH(s, &w->sessions, in_worker)
    {
        if (!is_of(s, u, user))
            continue;
        if (user == u->standard && s->user == NULL && user->rights.on && user->rights.nopass && s->pinned == NULL)
            continue; /* pinned from now on */
        s->doom = "the rights of its user have changed";
        session_kick(s);
    }
}

static void learn(struct users *u, struct user *user, const char *reply, size_t n)
{
    bool was_full = user->known && user->rights.full, first = !user->known;

    if (reply[0] == '-') { /* not now: Valkey is busy or going away */
        u->stale = true;
        return;
    }
    user->rights = user_rights_of(reply, n);
    user->known = true;
    if (was_full && !user->rights.full)
        close_sessions_of(u, user);
    if (!was_full && user->rights.full)
        hold_sessions_of(u, user);
    if (first)
        worker_kick_waiting(u->worker);
}

static void on_answer(struct task *t, const char *reply, size_t n)
{
    struct question *q = t->context;
    struct users *u = q->users;

    q->user->asking = false;
    learn(u, q->user, reply, n);
    if (q->done != NULL)
        q->done(u->worker, q->session_id);
    users_drop(u, q->user);
    free(q);
    task_free(t);
}

bool user_ask(struct users *u, struct user *user, void (*done)(struct worker *w, uint64_t session_id),
              uint64_t session_id)
{
    struct lane *control = lanes_control(u->worker->lanes);
    struct buf command = {0};
    struct question *q;
    struct task *t;

    if (!lane_usable(control))
        return false;
    q = must_calloc(1, sizeof *q);
    *q = (struct question){u, user, done, session_id};
    user->holders++;
    user->asking = true;
    t = task_new(u->worker);
    t->internal = true;
    t->op.kind = OP_NEUTRAL;
    t->place = TASK_LANE;
    t->on_reply = on_answer;
    t->context = q;
    argv_encode(&command, 3, (const char *const[]){"ACL", "GETUSER", user->name},
                (const size_t[]){3, 7, strlen(user->name)});
    lane_ask(control, t, buf_head(&command), command.len);
    buf_free(&command);
    return true;
}

void users_ask(struct users *u)
{
    u->stale = true;
}

bool users_ask_now(struct users *u, void (*done)(struct worker *w, uint64_t session_id), uint64_t session_id)
{
    struct user *user, *next;

    u->stale = true;
    if (!lane_usable(lanes_control(u->worker->lanes)))
        return false;
    HASH_ITER(hh, u->by_name, user, next)
    {
        /* The control lane answers in order: with the last one all have been learned. */
        if (!user_ask(u, user, next == NULL ? done : NULL, session_id))
            return false;
    }
    u->stale = false;
    return true;
}

void users_tick(struct users *u)
{
    uint64_t now = loop_now_ms(u->worker->loop);
    struct user *user, *next;

    if (!worker_open(u->worker) || (!u->stale && now - u->asked_ms < USERS_ASK_EVERY_MS))
        return;
    if (!lane_usable(lanes_control(u->worker->lanes)))
        return;
    u->stale = false;
    u->asked_ms = now;
    HASH_ITER(hh, u->by_name, user, next)
    {
        if (!user->asking)
            (void)user_ask(u, user, NULL, 0);
    }
}

/* ---- the set ---- */

struct user *users_hold(struct users *u, const char *name, size_t n)
{
    struct user *user;

    HASH_FIND(hh, u->by_name, name, n, user);
    if (user == NULL) {
        user = must_calloc(1, sizeof *user);
        user->name = must_calloc(1, n + 1);
        memcpy(user->name, name, n);
        HASH_ADD_KEYPTR(hh, u->by_name, user->name, n, user);
    }
    user->holders++;
    return user;
}

void users_drop(struct users *u, struct user *user)
{
    CHECK(user->holders > 0);
    if (--user->holders > 0)
        return;
    HASH_DEL(u->by_name, user);
    free(user->name);
    free(user);
}

struct users *users_new(struct worker *w)
{
    struct users *u = must_calloc(1, sizeof *u);

    u->worker = w;
    u->standard = users_hold(u, "default", strlen("default"));
    u->stale = true;
    return u;
}

void users_free(struct users *u)
{
    users_drop(u, u->standard);
    CHECK(u->by_name == NULL);
    free(u);
}

void users_shut(struct users *u)
{
    u->stale = true;
    u->standard->known = false;
}

bool users_known(const struct users *u)
{
    return u->standard->known;
}

struct user *users_default(const struct users *u)
{
    return u->standard;
}

const char *user_name(const struct user *u)
{
    return u->name;
}

const struct user_rights *user_rights(const struct user *u)
{
    return &u->rights;
}

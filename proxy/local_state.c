/* Commands that change what the session's connection to Valkey is (subscriptions, MONITOR, tracking), and what we
 * ourselves remember of it (CLIENT REPLY, CLIENT DURABILITY). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/local.h"
#include "proxy/pinned.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

/* Passing replies on as they come needs all earlier answers to have left. */
static bool must_wait(struct session *s, enum dispatch *out)
{
    if (s->op_count > 0) {
        *out = session_hold(s, HOLD_EMPTY);
        return true;
    }
    if (pinned_ready(s, !session_full(s)))
        return false;
    *out = session_wait_ready(s);
    return true;
}

enum dispatch local_subscribe(struct session *s, const struct argv *a)
{
    enum dispatch out;

    if (must_wait(s, &out))
        return out;
    pinned_stream(s, session_task(s, OP_NEUTRAL), a->bytes, a->n);
    return DISPATCHED;
}

enum dispatch local_monitor(struct session *s, const struct argv *a)
{
    enum dispatch out;

    if (must_wait(s, &out))
        return out;
    pinned_monitor(s, session_task(s, OP_NEUTRAL), a->bytes, a->n);
    s->barrier = true;
    return DISPATCHED;
}

/* ---- tracking and flags: known once Valkey says OK ---- */

enum { TRACKING_ON = 0, TRACKING_REDIRECT = 1, TRACKING_BCAST = 2 }; /* task->numbers */

static void on_tracking(struct task *t, const char *reply, size_t n)
{
    struct session *s = t->op.session;

    if (reply[0] == '+') {
        s->tracking = t->numbers[TRACKING_ON] != 0;
        s->redirect_id = s->tracking ? t->numbers[TRACKING_REDIRECT] : 0;
        s->tracking_bcast = s->tracking && t->numbers[TRACKING_BCAST] != 0;
    }
    session_answer(t, reply, n);
}

static size_t redirect_at(const struct argv *a)
{
    size_t i = 3;

    while (i + 1 < a->count && !argv_is(a, i, "redirect"))
        i += argv_is(a, i, "prefix") ? 2 : 1;
    return i + 1 < a->count ? i + 1 : 0;
}

/* CLIENT TRACKING ON REDIRECT id: the id is ours; Valkey must hear its own. */
static void translate_redirect(const struct argv *a, size_t at, const struct session *other, struct buf *out)
{
    char number[24];

    argv_header(out, a->count);
    for (size_t i = 0; i < a->count; i++) {
        if (i != at || other == NULL) { /* what is no number Valkey itself refuses */
            argv_bulk(out, argv_at(a, i), argv_len(a, i));
            continue;
        }
        (void)snprintf(number, sizeof number, "%llu", (unsigned long long)pinned_client_id(other));
        argv_bulk(out, number, strlen(number));
    }
}

static bool has_word(const struct argv *a, const char *word)
{
    for (size_t i = 3; i < a->count; i++)
        if (argv_is(a, i, word))
            return true;
    return false;
}

enum dispatch local_client_tracking(struct session *s, const struct argv *a)
{
    static const char nobody[] = "ERR The client ID you want redirect to does not exist";
    size_t at = redirect_at(a);
    struct session *other = NULL;
    struct buf command = {0};
    enum dispatch done;
    struct task *t;
    int64_t id = 0;

    if (at != 0 && argv_integer(a, at, &id) && id != 0) {
        other = id > 0 ? worker_find(s->worker, (uint64_t)id) : NULL;
        if (other == NULL)
            return local_error(s, nobody);
        if (session_authentication(other) == AUTH_NEEDED) /* it has no rights yet, and so no connection */
            return local_error(s, nobody);
        if (session_authentication(other) == AUTH_UNKNOWN)
            return session_wait_ready(s);
        /* Who shall hear of invalid keys needs a connection to Valkey, and keeps it. */
        if (!pinned_ready(other, !session_full(other)))
            return session_wait_ready(s);
        pinned_use(other);
        other->redirected_to = true;
    }
    translate_redirect(a, at, other, &command);
    done = session_to_pinned(s, OP_NEUTRAL, NULL, &(struct argv){buf_head(&command), command.len, NULL, 0},
                             on_tracking, &t);
    buf_free(&command);
    if (done == DISPATCHED && t != NULL) {
        t->numbers[TRACKING_ON] = argv_is(a, 2, "on") ? 1 : 0;
        t->numbers[TRACKING_REDIRECT] = (uint64_t)id;
        t->numbers[TRACKING_BCAST] = has_word(a, "bcast") ? 1 : 0;
        s->barrier = true;
    }
    return done;
}

enum dispatch local_client_getredir(struct session *s, const struct argv *a)
{
    struct buf reply = {0};

    (void)a;
    resp_integer(&reply, s->tracking ? (int64_t)s->redirect_id : -1);
    return local_reply(s, &reply);
}

/* "... $8 redirect :<Valkey's id> $8 prefixes ...": with our id. */
static void on_trackinginfo(struct task *t, const char *reply, size_t n)
{
    static const char word[] = "$8\r\nredirect\r\n:";
    const char *at = memmem(reply, n, word, sizeof word - 1), *end;
    struct buf out = {0};

    if (at == NULL || (end = memchr(at + sizeof word, '\r', n - (size_t)(at - reply) - sizeof word)) == NULL ||
        t->op.session->redirect_id == 0) {
        session_answer(t, reply, n);
        return;
    }
    buf_append(&out, reply, (size_t)(at - reply) + sizeof word - 1);
    buf_printf(&out, "%llu", (unsigned long long)t->op.session->redirect_id);
    buf_append(&out, end, n - (size_t)(end - reply));
    session_answer_buf(t, &out);
}

enum dispatch local_client_trackinginfo(struct session *s, const struct argv *a)
{
    struct task *t;

    return session_forward(s, a, on_trackinginfo, &t);
}

static void on_flag(struct task *t, const char *reply, size_t n)
{
    struct session *s = t->op.session;

    if (reply[0] == '+' && t->numbers[1] != 0)
        s->no_touch = t->numbers[0] != 0;
    else if (reply[0] == '+')
        s->no_evict = t->numbers[0] != 0;
    session_answer(t, reply, n);
}

enum dispatch local_client_flag(struct session *s, const struct argv *a)
{
    struct task *t;

    if (session_to_pinned(s, OP_NEUTRAL, NULL, a, on_flag, &t) == NOT_NOW)
        return NOT_NOW;
    if (t != NULL) {
        t->numbers[0] = argv_is(a, 2, "on") ? 1 : 0;
        t->numbers[1] = argv_is(a, 1, "no-touch") ? 1 : 0;
        s->barrier = true;
    }
    return DISPATCHED;
}

/* ---- ours ---- */

/* OFF is not answered; SKIP neither, and drops the next command's answer. Commands take effect all the same. */
enum dispatch local_client_reply(struct session *s, const struct argv *a)
{
    struct task *t;

    if (argv_is(a, 2, "on")) {
        s->reply_off = s->skip_next = false;
        return local_ok(s);
    }
    if (!argv_is(a, 2, "off") && !argv_is(a, 2, "skip"))
        return local_error(s, "ERR syntax error");
    t = session_task(s, OP_LOCAL);
    t->mute = true;
    if (argv_is(a, 2, "off"))
        s->reply_off = true;
    else
        s->skip_next = !s->reply_off;
    session_answer(t, "", 0);
    return DISPATCHED;
}

enum dispatch local_client_durability(struct session *s, const struct argv *a)
{
    struct buf reply = {0};

    if (s->reader)
        return local_error(s, "ERR CLIENT DURABILITY is not available on reader-port, where nothing is written");
    if (a->count > 3)
        return local_error(s, "ERR wrong number of arguments for 'client|durability' command");
    if (a->count == 2 || argv_is(a, 2, "get")) {
        resp_bulk_text(&reply, durability_name(session_mode(s)));
        return local_reply(s, &reply);
    }
    if (argv_is(a, 2, "sync"))
        s->choice = CHOICE_SYNC;
    else if (argv_is(a, 2, "async"))
        s->choice = CHOICE_ASYNC;
    else if (argv_is(a, 2, "off"))
        s->choice = CHOICE_OFF;
    else if (argv_is(a, 2, "default"))
        s->choice = CHOICE_DEFAULT;
    else
        return local_error(s, "ERR CLIENT DURABILITY takes SYNC, ASYNC, OFF, DEFAULT or GET");
    session_count_sync(s);
    return local_ok(s);
}

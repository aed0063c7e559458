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

static void on_tracking(struct task *t, const char *reply, size_t n)
{
    if (reply[0] == '+')
        t->op.session->tracking = t->numbers[0] != 0;
    session_answer(t, reply, n);
}

/* CLIENT TRACKING ON REDIRECT id: the id is ours; Valkey must hear its own. */
static bool translate_redirect(struct session *s, const struct argv *a, struct buf *out)
{
    char number[24];
    struct session *other;
    int64_t id;

    argv_header(out, a->count);
    for (size_t i = 0; i < a->count; i++) {
        if (i < 4 || !argv_is(a, i - 1, "redirect")) {
            argv_bulk(out, argv_at(a, i), argv_len(a, i));
            continue;
        }
        other = argv_integer(a, i, &id) && id > 0 ? worker_find(s->worker, (uint64_t)id) : NULL;
        if (other == NULL || pinned_client_id(other) == 0)
            return false;
        (void)snprintf(number, sizeof number, "%llu", (unsigned long long)pinned_client_id(other));
        argv_bulk(out, number, strlen(number));
    }
    return !out->failed;
}

enum dispatch local_client_tracking(struct session *s, const struct argv *a)
{
    struct buf command = {0};
    enum dispatch done;
    struct task *t;

    if (!translate_redirect(s, a, &command)) {
        buf_free(&command);
        return local_error(s, "ERR The client ID you want redirect to does not exist");
    }
    done = session_to_pinned(s, OP_NEUTRAL, NULL, &(struct argv){buf_head(&command), command.len, NULL, 0},
                             on_tracking, &t);
    buf_free(&command);
    if (done == DISPATCHED && t != NULL) {
        t->numbers[0] = argv_is(a, 2, "on") ? 1 : 0;
        s->barrier = true;
    }
    return done;
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

/* ACL DRYRUN for commands that do not run on the user's own connection: see rights.h. The answer waits in the session
 * until its command is dispatched again, and is good for that one only. */
#include "proxy/rights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "proxy/acl_list.h"
#include "proxy/canon.h"
#include "proxy/lane.h"
#include "proxy/local.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

enum { TEXT_BYTES_MAX = 512 };

bool rights_refused(const char *reply, size_t n, char *text, size_t size)
{
    const char *line = memchr(reply, '\n', n);
    size_t length;

    if (n >= 3 && memcmp(reply, "+OK", 3) == 0)
        return false;
    if (reply[0] != '$' || line == NULL) { /* an error: no such user any more, or the lane broke */
        length = n > 3 ? n - 3 : 0;
        (void)snprintf(text, size, "%.*s", (int)(length < size ? length : size - 1), reply + 1);
        return true;
    }
    line++;
    length = n - (size_t)(line - reply) >= 2 ? n - (size_t)(line - reply) - 2 : 0;
    if (memmem(line, length, " has no permissions to run the ", 31) != NULL)
        (void)snprintf(text, size, "NOPERM %.*s", (int)(length < size ? length : size - 1), line);
    else
        (void)snprintf(text, size, "NOPERM No permissions to access a %s",
                       length > 8 && memcmp(line + length - 8, " channel", 8) == 0 ? "channel" : "key");
    for (char *c = text; *c != '\0'; c++)
        *c = (char)(*c == '\r' || *c == '\n' ? ' ' : *c);
    return true;
}

void rights_question(struct buf *out, const char *user, const struct argv *a)
{
    argv_header(out, a->count + 3);
    argv_bulk(out, "ACL", 3);
    argv_bulk(out, "DRYRUN", 6);
    argv_bulk(out, user, strlen(user));
    for (size_t i = 0; i < a->count; i++)
        argv_bulk(out, argv_at(a, i), argv_len(a, i));
}

/* ---- rights that change ---- */

static void answer_kept(struct task *t)
{
    struct buf reply = {0};

    buf_move(&reply, &t->extra);
    session_answer_buf(t, &reply);
}

/* What was done is not in the log, and the log's users are the truth for the next leader. */
static void answer_unlogged(struct task *t)
{
    if (t->op.sync)
        session_answer_error(t, "UNCERTAIN Valkey has done it, and it may be lost when another node leads");
    else
        answer_kept(t);
}

/* The client's task waits at the end of its FIFO: it is a barrier. */
static struct task *learner(struct worker *w, uint64_t session_id)
{
    struct session *s = worker_find(w, session_id);
    struct op *op = s != NULL ? TAILQ_LAST(&s->ops, op_list) : NULL;

    return op != NULL && task_of(op)->learns ? task_of(op) : NULL;
}

void rights_logged(struct task *half)
{
    struct task *t = half->peer;
    bool logged = !half->op.error;

    task_free(half); /* unties them */
    if (t == NULL)
        return;
    if (logged)
        answer_kept(t);
    else
        answer_unlogged(t);
}

/* What ACL LIST says goes into the log, for the other nodes. The answer of an async client does not wait for that. */
static void on_users(struct task *question, const char *reply, size_t n)
{
    struct worker *w = question->worker;
    struct task *t = learner(w, question->numbers[0]), *half = task_new(w);
    const char *own = w->config->valkey_user[0] != '\0' ? w->config->valkey_user : "default";

    task_free(question);
    if (!acl_list_lines(reply, n, own, &half->op.request)) {
        diag_log(w->diag, DIAG_WARNING, "Users that were changed are not in the log: ACL LIST was refused");
        task_free(half);
        if (t != NULL)
            answer_unlogged(t);
        return;
    }
    half->op.kind = OP_LOCAL;
    half->place = TASK_CORE;
    half->learns = true;
    if (t != NULL && t->op.sync) {
        half->peer = t;
        t->peer = half;
    }
    worker_post(w, TO_CORE_USERS, &half->op, 0);
    if (t != NULL && !t->op.sync)
        answer_kept(t);
}

/* Also when the client is gone: what it changed is to be logged all the same. */
static void on_learned(struct worker *w, uint64_t session_id)
{
    struct lane *control = lanes_control(w->lanes);
    static const char list[] = "*2\r\n$3\r\nACL\r\n$4\r\nLIST\r\n";
    struct task *t = learner(w, session_id), *question;

    if (!lane_usable(control) || (t != NULL && t->op.session->reader)) {
        if (t != NULL)
            answer_unlogged(t); /* on reader-port, where nothing is promised, that is what was kept */
        return;
    }
    question = task_new(w);
    question->internal = true;
    question->op.kind = OP_NEUTRAL;
    question->place = TASK_LANE;
    question->on_reply = on_users;
    question->numbers[0] = session_id;
    lane_ask(control, question, list, sizeof list - 1);
}

void local_answer_learned(struct task *t, const char *reply, size_t n)
{
    if (t->op.session == NULL) { /* its client has gone: what was done is to be known and logged all the same */
        (void)users_ask_now(t->worker->users, on_learned, 0);
        task_free(t);
        return;
    }
    buf_clear(&t->extra);
    buf_append(&t->extra, reply, n);
    t->place = TASK_HERE;
    if (n > 0 && reply[0] == '-') { /* nothing has changed */
        answer_kept(t);
        return;
    }
    t->learns = true;
    if (!users_ask_now(t->worker->users, on_learned, t->op.session->id))
        answer_unlogged(t);
}

/* ---- writes ---- */

static void on_may_write(struct task *t, const char *reply, size_t n)
{
    char text[TEXT_BYTES_MAX];

    t->checked = false;
    if (rights_refused(reply, n, text, sizeof text)) {
        session_answer_error(t, text);
        return;
    }
    t->on_reply = NULL;
    t->place = TASK_CORE;
    worker_post(t->worker, TO_CORE_WRITE, &t->op, 0);
}

/* Of this form there is an intent, and it names its keys. */
static bool is_replayable(struct session *s, const struct command *c, const struct argv *a, uint64_t now_ms)
{
    struct buf intent = {0};
    struct keyset keys = {0};
    bool fits;

    command_keys(s->worker->commands, c, a, s->db, &keys);
    fits = !keys.all && canon_intent(c->canon, a, now_ms, &intent) != CANON_NO;
    keyset_clear(&keys);
    buf_free(&intent);
    return fits;
}

enum dispatch rights_write(struct session *s, const struct command *c, const struct argv *a)
{
    struct lane *control = lanes_control(s->worker->lanes);
    uint64_t now_ms =
        clock_wall_ms(); /* of both looks: what is still to come for one must not be past for the other */
    struct buf question = {0};
    enum canon_result form;
    struct task *t;

    if (!is_replayable(s, c, a, now_ms))
        return session_to_pinned(s, OP_CAPTURED, c, a, NULL, &t);
    if (session_needs(s, VIA_WRITER) != HOLD_NONE)
        return session_hold(s, HOLD_CAME);
    if (s->worker->identity == NULL || !lane_usable(control))
        return session_wait_ready(s);
    t = session_task(s, OP_CAPTURED);
    t->op.accepted_us = loop_now_us(s->worker->loop);
    rights_question(&question, user_name(s->user != NULL ? s->user : users_default(s->worker->users)), a);
    form = session_intent(s, t, c, a, now_ms);
    if (t->op.request.failed || t->op.sent.failed || question.failed) {
        session_answer_error(t, "ERR out of memory for the command");
    } else if (form == CANON_NO) { /* cannot be: it was looked at */
        session_answer_error(t, "TRYAGAIN The command was not executed");
    } else if (!session_intent_fits(s, t)) {
        session_answer_error(t, session_too_large);
    } else {
        t->checked = true;
        t->on_reply = on_may_write;
        session_sent(s, t, TASK_LANE, VIA_WRITER);
        lane_ask(control, t, buf_head(&question), question.len);
    }
    buf_free(&question);
    return DISPATCHED;
}

/* ---- commands that we answer ---- */

static void on_answer(struct task *t, const char *reply, size_t n)
{
    struct session *s = worker_find(t->worker, t->numbers[0]);
    char text[TEXT_BYTES_MAX];

    if (s != NULL && s->rights == RIGHTS_ASKED) {
        s->rights = RIGHTS_GIVEN;
        if (rights_refused(reply, n, text, sizeof text)) {
            s->rights = RIGHTS_REFUSED;
            s->refusal = must_strdup(text);
        }
        session_kick(s);
    }
    task_free(t);
}

static enum dispatch ask(struct session *s, const struct argv *a)
{
    struct lane *control = lanes_control(s->worker->lanes);
    struct buf question = {0};
    struct task *t;

    if (!lane_usable(control))
        return session_wait_ready(s);
    rights_question(&question, user_name(s->user != NULL ? s->user : users_default(s->worker->users)), a);
    if (question.failed) {
        buf_free(&question);
        return local_error(s, "ERR out of memory for the command");
    }
    t = task_new(s->worker);
    t->internal = true;
    t->op.kind = OP_NEUTRAL;
    t->place = TASK_LANE;
    t->on_reply = on_answer;
    t->numbers[0] = s->id;
    s->rights = RIGHTS_ASKED;
    lane_ask(control, t, buf_head(&question), question.len);
    buf_free(&question);
    return session_hold(s, HOLD_RIGHTS);
}

/* What concerns nobody but this connection. */
static bool is_own(const struct local_row *row)
{
    return row->run != local_client_list && row->run != local_client_kill && row->run != local_client_pause &&
           row->run != local_client_unpause && row->run != local_client_unblock && row->run != local_proxy &&
           row->run != local_sync;
}

/* For these the user's own connection carries what Valkey itself looks at. */
static bool is_forwarded(const struct local_row *row)
{
    return row->run == local_info || row->run == local_config_get || row->run == local_acl ||
           row->run == local_module || row->run == local_role || row->run == local_debug || row->run == local_ping;
}

/* Valkey lets everybody do these, or has not got them. PROXY tells what INFO tells. */
static bool is_free(const struct local_row *row)
{
    return is_forwarded(row) || row->treatment == TREAT_AUTH || row->treatment == TREAT_QUIT ||
           row->treatment == TREAT_RESET || row->run == local_hello || row->run == local_close ||
           row->run == local_client_durability;
}

enum dispatch rights_ask(struct session *s, const struct route_facts *f, const struct local_row *row, bool *may)
{
    static const char info_bytes[] = "INFO";
    static const struct arg info_arg = {0, 4};
    static const struct argv info = {info_bytes, 4, &info_arg, 1};
    enum dispatch done;

    *may = f->full || !s->authenticated || is_free(row);
    if (*may)
        return DISPATCHED;
    if (!worker_open(s->worker)) {
        *may = is_own(row);
        return *may ? DISPATCHED : local_error(s, "LOADING Valkey is not available, Holdfast is waiting for it");
    }
    switch (s->rights) {
    case RIGHTS_NONE:
        return ask(s, row->run == local_proxy ? &info : f->args);
    case RIGHTS_ASKED:
        return session_hold(s, HOLD_RIGHTS);
    case RIGHTS_GIVEN:
        s->rights = RIGHTS_NONE;
        *may = true;
        return DISPATCHED;
    case RIGHTS_REFUSED:
        break;
    }
    s->rights = RIGHTS_NONE;
    done = local_error(s, s->refusal);
    free(s->refusal);
    s->refusal = NULL;
    return done;
}

/* CLIENT LIST, KILL, UNBLOCK: over all clients of Holdfast, by Holdfast's ids. Valkey's own list would show our
 * connections. At the node that leads these are all clients of the group: those of the other nodes are relayed. */
#include <stdio.h>
#include <string.h>

#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/pinned.h"
#include "proxy/relay.h"
#include "proxy/worker_state.h"

enum dispatch local_client_list(struct session *s, const struct argv *a)
{
    struct client_filter f = {0};
    struct buf text = {0};
    struct session *other;
    char why[192];
    int64_t id;

    if (a->count == 3)
        return local_error(s, "ERR syntax error");
    if (!client_filter_parse(&f, a, 2, why, sizeof why)) {
        bool ids = argv_is(a, 2, "id") && strstr(why, "client-id") != NULL;

        return local_error(s, ids ? "ERR Invalid client ID" : why);
    }
    if (client_filter_is_ids(&f)) {
        for (size_t i = f.conditions[0].at; i < a->count; i++)
            if (argv_integer(a, i, &id) && (other = worker_find(s->worker, (uint64_t)id)) != NULL)
                client_describe(other, &text);
        return client_reply_text(s, &text);
    }
    TAILQ_FOREACH(other, &s->worker->sessions, in_worker)
    {
        if (!(f.skip_me && other == s) && client_filter_matches(&f, a, other))
            client_describe(other, &text);
    }
    return client_reply_text(s, &text);
}

/* CLIENT KILL addr: as CLIENT KILL ADDR addr SKIPME no, with another answer. */
static bool is_old_target(const struct session *s, const struct argv *a)
{
    char address[CLIENT_ADDRESS_BYTES];

    client_address(s, address, sizeof address);
    return strlen(address) == argv_len(a, 2) && memcmp(address, argv_at(a, 2), argv_len(a, 2)) == 0;
}

static void kill_me(struct session *s, struct task *t)
{
    t->finish = true;
    s->last_word = s->through != NULL ? relay_farewell : NULL;
    s->state = SESSION_FINISHING;
}

enum dispatch local_client_kill(struct session *s, const struct argv *a)
{
    struct client_filter f = {.skip_me = true};
    struct session *other, *next;
    struct buf reply = {0};
    int64_t killed = 0;
    bool me = false, old = a->count == 3;
    char why[192];
    struct task *t;

    if (!old && !client_filter_parse(&f, a, 2, why, sizeof why))
        return local_error(s, why);
    for (other = TAILQ_FIRST(&s->worker->sessions); other != NULL; other = next) {
        next = TAILQ_NEXT(other, in_worker);
        if (old ? !is_old_target(other, a) : (other == s && f.skip_me) || !client_filter_matches(&f, a, other))
            continue;
        killed++;
        if (other == s)
            me = true;
        else
            session_close(other, "killed by CLIENT KILL");
    }
    if (old && killed == 0)
        return local_error(s, "ERR No such client");
    if (old)
        resp_status(&reply, "OK");
    else
        resp_integer(&reply, killed);
    t = session_task(s, OP_LOCAL);
    if (me)
        kill_me(s, t);
    session_answer_buf(t, &reply);
    return DISPATCHED;
}

/* What waits in WAIT or WAITAOF waits with us. */
static struct task *waiting_task(struct session *s)
{
    struct op *op;

    TAILQ_FOREACH(op, &s->ops, in_session)
    {
        if (op->kind == OP_LOCAL && !op->came && task_of(op)->blocks)
            return task_of(op);
    }
    return NULL;
}

/* The other session blocks on its own connection: that one's id is Valkey's. */
enum dispatch local_client_unblock(struct session *s, const struct argv *a)
{
    struct session *other;
    struct buf command = {0};
    char number[24];
    bool error = a->count == 4 && argv_is(a, 3, "error");
    enum dispatch done;
    struct task *t;
    int64_t id;

    if (a->count > 4)
        return local_bad_subcommand(s, a);
    if (a->count == 4 && !argv_is(a, 3, "timeout") && !error)
        return local_error(s, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    if (!argv_integer(a, 2, &id))
        return local_error(s, "ERR value is not an integer or out of range");
    other = id > 0 ? worker_find(s->worker, (uint64_t)id) : NULL;
    if (other != NULL && (t = waiting_task(other)) != NULL) {
        local_wait_unblock(t, error);
        session_answer(session_task(s, OP_LOCAL), ":1\r\n", 4);
        return DISPATCHED;
    }
    if (other == NULL || !pinned_busy(other) || pinned_client_id(other) == 0) {
        session_answer(session_task(s, OP_LOCAL), ":0\r\n", 4);
        return DISPATCHED;
    }
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)pinned_client_id(other));
    argv_encode(&command, 4, (const char *const[]){"CLIENT", "UNBLOCK", number, error ? "ERROR" : "TIMEOUT"},
                (const size_t[]){6, 7, strlen(number), error ? 5 : 7});
    done = session_to_control(s, buf_head(&command), command.len, NULL, &t);
    buf_free(&command);
    return done;
}

/* Shared lanes. Whose reply comes next is told by order alone (backend.h); this file keeps the connections open and
 * settles what a broken one owes:
 *
 *   async writes   KILL for the connection first (bytes in Valkey's socket still run), then ASYNC_END for each;
 *                  their clients get -UNCERTAIN
 *   anything else  an error that invites to ask again
 *
 * While Valkey is away (shut) there is nothing to kill and the core forgets its epochs by itself. */
#include "proxy/lane.h"

#include <stdio.h>
#include <string.h>

#include "log/base/loop.h"
#include "proxy/backend.h"
#include "proxy/certs.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

enum lane_state { LANE_CLOSED, LANE_CONNECTING, LANE_OPEN };
enum { LANES_PER_PROTO_MAX = 64, LANE_NAME_BYTES = 64 };

struct lane {
    struct lanes *lanes;
    struct backend *backend;
    enum lane_state state;
    bool congested;
    uint8_t proto;
    uint64_t retry_ms;
    struct loop_timer *retry;
    char name[LANE_NAME_BYTES];
};

struct lanes {
    struct worker *worker;
    size_t per_proto, next;
    struct lane control;
    struct lane lane[2][LANES_PER_PROTO_MAX]; /* [0]: RESP2, [1]: RESP3 */
    struct lane scripts[2];                   /* for sessions that run scripts: likewise */
};

static void lane_open(struct lane *l);

/* ---- what a dead connection owes ---- */

static void settle(struct lane *l, struct backend *b, bool shut)
{
    struct worker *w = l->lanes->worker;
    struct task_list owed = TAILQ_HEAD_INITIALIZER(owed);
    struct task *t;
    bool writes = false;
    void *cookie;

    while (backend_take_due(b, &cookie)) {
        t = cookie;
        TAILQ_INSERT_TAIL(&owed, t, in_list);
        writes = writes || t->async_write;
    }
    if (writes && !shut)
        worker_post(w, TO_CORE_KILL, NULL, backend_client_id(b));
    while ((t = TAILQ_FIRST(&owed)) != NULL) {
        TAILQ_REMOVE(&owed, t, in_list);
        if (t->async_write)
            task_broke(t, "UNCERTAIN The connection to Valkey broke: the write may or may not have been applied");
        else if (t->op.kind == OP_READ || t->checked || shut)
            task_broke(t, "LOADING The connection to Valkey broke, ask again");
        else
            task_broke(t, "UNCERTAIN The connection to Valkey broke: the command may or may not have been executed");
    }
}

/* ---- callbacks ---- */

static void on_ready(void *arg)
{
    struct lane *l = arg;

    l->state = LANE_OPEN;
    l->retry_ms = LANE_RETRY_MS_MIN;
    l->congested = false;
    backend_use(l->backend, 0, l->proto);
    worker_kick_waiting(l->lanes->worker);
}

static void on_reply(void *arg, void *cookie, const char *reply, size_t n)
{
    struct lane *l = arg;

    task_reply(cookie, reply, n);
    if (l->congested && backend_pending(l->backend) < LANE_PENDING_BYTES_MAX / 2) {
        l->congested = false;
        worker_kick_waiting(l->lanes->worker);
    }
}

static void on_closed(void *arg, const char *why)
{
    struct lane *l = arg;
    struct worker *w = l->lanes->worker;
    struct backend *b = l->backend;

    diag_log(w->diag,
             l->state == LANE_OPEN && atomic_load(&w->set.gate->part) != PART_HANDS_OVER
                 ? diag_limited(&w->lanes_lost, loop_now_ms(w->loop), 1, DIAG_NOTICE)
                 : DIAG_VERBOSE, /* when Valkey goes, all of them do */
             "Lane %s: %s", l->name, why);
    l->state = LANE_CLOSED;
    l->backend = NULL;
    settle(l, b, false);
    backend_close(b);
    loop_timer_once(l->retry, l->retry_ms);
    l->retry_ms = l->retry_ms * 2 > LANE_RETRY_MS_MAX ? LANE_RETRY_MS_MAX : l->retry_ms * 2;
}

static void on_retry(void *arg)
{
    struct lane *l = arg;

    if (l->lanes->worker->identity != NULL && l->state == LANE_CLOSED)
        lane_open(l);
}

static const struct backend_events lane_events = {.ready = on_ready, .reply = on_reply, .closed = on_closed};

static void lane_open(struct lane *l)
{
    struct worker *w = l->lanes->worker;
    struct backend_settings s = {.address = w->set.valkey_address,
                                 .user = w->config->valkey_user,
                                 .password = w->config->valkey_password,
                                 .tls = certs_valkey(w->set.certs),
                                 .name = l->name,
                                 .run_id = w->identity->run_id,
                                 .shared = true};

    CHECK(l->state == LANE_CLOSED);
    l->state = LANE_CONNECTING;
    l->backend = backend_new(w->loop, w->diag, &s, &lane_events, l);
}

static void lane_shut(struct lane *l)
{
    struct backend *b = l->backend;

    loop_timer_stop(l->retry);
    l->state = LANE_CLOSED;
    l->backend = NULL;
    if (b == NULL)
        return;
    settle(l, b, true);
    backend_close(b);
}

/* ---- the door ---- */

static void init(struct lanes *ls, struct lane *l, uint8_t proto, const char *what, size_t number)
{
    l->lanes = ls;
    l->proto = proto;
    l->retry_ms = LANE_RETRY_MS_MIN;
    l->retry = loop_timer_new(ls->worker->loop, on_retry, l);
    (void)snprintf(l->name, sizeof l->name, "holdfast-%.24s-%s%zu", ls->worker->config->node, what, number);
}

struct lanes *lanes_new(struct worker *w)
{
    struct lanes *ls = must_calloc(1, sizeof *ls);
    int want = w->config->read_lanes;

    ls->worker = w;
    ls->per_proto = want < 1 ? 1 : want > LANES_PER_PROTO_MAX ? LANES_PER_PROTO_MAX : (size_t)want;
    init(ls, &ls->control, 2, "control", 0);
    for (size_t i = 0; i < ls->per_proto; i++) {
        init(ls, &ls->lane[0][i], 2, "lane", i);
        init(ls, &ls->lane[1][i], 3, "lane3-", i);
    }
    init(ls, &ls->scripts[0], 2, "scripts", 2);
    init(ls, &ls->scripts[1], 3, "scripts", 3);
    return ls;
}

static void each_lane(struct lanes *ls, void (*f)(struct lane *l))
{
    f(&ls->control);
    f(&ls->scripts[0]);
    f(&ls->scripts[1]);
    for (size_t i = 0; i < ls->per_proto; i++) {
        f(&ls->lane[0][i]);
        f(&ls->lane[1][i]);
    }
}

void lanes_open(struct lanes *ls)
{
    each_lane(ls, lane_open);
}

void lanes_shut(struct lanes *ls)
{
    each_lane(ls, lane_shut);
}

static void free_timer(struct lane *l)
{
    loop_timer_free(l->retry);
}

void lanes_free(struct lanes *ls)
{
    lanes_shut(ls);
    each_lane(ls, free_timer);
    free(ls);
}

size_t lanes_count(const struct lanes *ls)
{
    size_t open = ls->control.state == LANE_OPEN ? 1 : 0;

    open += (size_t)(ls->scripts[0].state == LANE_OPEN) + (size_t)(ls->scripts[1].state == LANE_OPEN);
    for (size_t i = 0; i < ls->per_proto; i++)
        open += (size_t)(ls->lane[0][i].state == LANE_OPEN) + (size_t)(ls->lane[1][i].state == LANE_OPEN);
    return open;
}

struct lane *lanes_control(struct lanes *ls)
{
    return &ls->control;
}

/* A session keeps its lane while that is open; otherwise it takes the next one, open ones first. */
struct lane *lanes_of(struct lanes *ls, struct session *s)
{
    struct lane *row = ls->lane[s->proto == 3 ? 1 : 0], *scripts = &ls->scripts[s->proto == 3 ? 1 : 0];

    if (s->scripts)
        return scripts->state == LANE_OPEN ? scripts : NULL;
    if (s->lane != NULL && s->lane->proto == s->proto && s->lane->state == LANE_OPEN)
        return s->lane;
    for (size_t i = 0; i < ls->per_proto; i++) {
        struct lane *l = &row[ls->next++ % ls->per_proto];

        if (l->state == LANE_OPEN)
            return l;
    }
    return NULL;
}

bool lane_usable(const struct lane *l)
{
    return l->state == LANE_OPEN && !l->congested;
}

void lane_ask(struct lane *l, struct task *t, const char *resp, size_t n)
{
    CHECK(l->state == LANE_OPEN);
    backend_use(l->backend, t->op.db, l->proto);
    backend_send_many(l->backend, resp, n, t->op.more + 1, t);
    if (backend_pending(l->backend) > LANE_PENDING_BYTES_MAX)
        l->congested = true;
}

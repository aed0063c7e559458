/* The node's frame: its door, its state, its timers, and the one way down.
 *
 * Everything that touches Valkey hangs off four connections, each of which may go at any time:
 *
 *     control (backend)   asks, sets, kills, PINGs        tap        the stream
 *     feed                REBUILDING, or it follows       snapshot's tap: an RDB now and then
 *
 * Whichever goes, and whatever else goes wrong, node_fail() closes them all and begins anew at CONNECTING: there is
 * no half-way repair. The log alone says where to go on, so the way up is the same after any trouble, and after a
 * restart.
 *
 * Slow things (walking the log, waiting for a commit) are one function pointer, `step`, run by the work timer. */
#include "proxy/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/backend.h"
#include "proxy/feed.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/node_internal.h"
#include "proxy/spawn.h"
#include "proxy/tap.h"

const char *node_state_name(enum node_state s)
{
    static const char *const name[] = {
        [NODE_STARTING] = "starting", [NODE_CONNECTING] = "connecting", [NODE_ADOPTING] = "adopting",
        [NODE_BRIDGING] = "bridging", [NODE_REBUILDING] = "rebuilding", [NODE_ATTACHED] = "attached",
        [NODE_STOPPED] = "stopped",   [NODE_WAITING] = "waiting",       [NODE_FEEDING] = "feeding",
        [NODE_FED] = "fed",           [NODE_PROMOTING] = "promoting"};

    return name[s];
}

void node_set_state(struct node *n, enum node_state to, const char *why)
{
#define TO(state) (1u << (state))
    static const unsigned down = TO(NODE_CONNECTING) | TO(NODE_STOPPED);
    static const unsigned allowed[] = {
        [NODE_STARTING] = TO(NODE_CONNECTING) | TO(NODE_STOPPED),
        [NODE_CONNECTING] =
            TO(NODE_ADOPTING) | TO(NODE_BRIDGING) | TO(NODE_REBUILDING) | TO(NODE_WAITING) | TO(NODE_FEEDING),
        [NODE_WAITING] = TO(NODE_ADOPTING) | TO(NODE_BRIDGING) | TO(NODE_REBUILDING) | TO(NODE_FEEDING),
        [NODE_ADOPTING] = TO(NODE_ATTACHED),
        [NODE_BRIDGING] = TO(NODE_REBUILDING) | TO(NODE_ATTACHED),
        [NODE_REBUILDING] = TO(NODE_ATTACHED),
        [NODE_ATTACHED] = TO(NODE_FEEDING),
        [NODE_FEEDING] = TO(NODE_FED) | TO(NODE_PROMOTING),
        [NODE_FED] = TO(NODE_FEEDING) | TO(NODE_PROMOTING),
        [NODE_PROMOTING] = TO(NODE_ATTACHED) | TO(NODE_FEEDING),
        [NODE_STOPPED] = 0,
    };

    CHECK(n->state != NODE_STOPPED && ((allowed[n->state] | down) & TO(to)) != 0);
    if (n->state != to)
        diag_log(n->diag,
                 diag_limited(&n->states_said, loop_now_ms(n->loop), NODE_STATES_SAID_MAX,
                              n->failing ? DIAG_WARNING : DIAG_NOTICE),
                 "Valkey at %s: %s -> %s: %s", node_address(n), node_state_name(n->state), node_state_name(to), why);
    n->state = to;
#undef TO
}

const char *node_address(const struct node *n)
{
    return n->spawn != NULL ? spawn_socket(n->spawn) : n->config->valkey;
}

/* ---- down ---- */

static void close_all(struct node *n, const char *why)
{
    n->step = NULL;
    loop_timer_stop(n->work);
    loop_timer_stop(n->retry);
    node_prove_stop(n);
    tap_close(n->tap);
    n->tap = NULL;
    node_snapshot_abandon(n, why);
    node_follow_stop(n);
    node_rebuild_stop(n);
    node_control_close(n);
}

static void go_down(struct node *n, enum node_state to, const char *why)
{
    bool was_attached = n->state == NODE_ATTACHED, was_fed = n->state == NODE_FED;

    close_all(n, why);
    n->life++;
    node_set_state(n, to, why);
    if (was_attached) {
        n->closed_out = false;
        n->events->detached(n->arg, why);
    }
    if (was_fed && n->events->unfed != NULL)
        n->events->unfed(n->arg, why);
}

void node_try_again(struct node *n, uint64_t after_ms)
{
    go_down(n, NODE_CONNECTING, "trying again");
    loop_timer_once(n->retry, after_ms);
}

/* The same complaint is not repeated with every attempt. */
void node_complain(struct node *n, const char *why)
{
    uint64_t now = loop_now_ms(n->loop);

    if (strcmp(why, n->last_why) == 0 && now < n->last_why_ms + NODE_REPEAT_MS)
        return;
    n->last_why_ms = now;
    (void)snprintf(n->last_why, sizeof n->last_why, "%s", why);
    diag_log(n->diag, DIAG_WARNING, "Valkey at %s: %s", node_address(n), why);
}

void node_fail(struct node *n, const char *format, ...)
{
    char why[NODE_WHY_BYTES_MAX];
    va_list args;

    if (n->state == NODE_STOPPED || n->state == NODE_STARTING)
        return;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (n->state == NODE_CONNECTING)
        node_complain(n, why); /* else the change of state says it */
    n->failing = true;
    go_down(n, NODE_CONNECTING, why);
    n->failing = false;
    loop_timer_once(n->retry, n->pause_ms);
    n->pause_ms = n->pause_ms * 2 < NODE_RETRY_MS_MAX ? n->pause_ms * 2 : NODE_RETRY_MS_MAX;
}

void node_damaged(struct node *n, const char *what)
{
    if (n->events->failed != NULL) {
        n->events->failed(n->arg, what);
        return;
    }
    diag_log(n->diag, DIAG_WARNING, "The log cannot be replayed: %s", what);
    diag_check_failed("the log can be replayed", __FILE__, __LINE__);
}

/* ---- time ---- */

static void on_work(void *arg)
{
    struct node *n = arg;
    void (*step)(struct node *) = n->step;

    if (step == NULL || log_committed(n->log) < n->wait_index)
        return;
    n->step = NULL;
    step(n);
}

void node_after(struct node *n, uint64_t index, void (*step)(struct node *n))
{
    n->step = step;
    n->wait_index = index;
    loop_timer_once(n->work, 0);
}

void node_committed(struct node *n, uint64_t index)
{
    if (n->step != NULL && index >= n->wait_index)
        loop_timer_once(n->work, 0); /* not from inside the log's callback */
    node_follow_more(n);
}

/* Whatever waits for the open entry, or has noted a place in it. */
void node_log_moved(struct node *n, uint64_t from, uint64_t to)
{
    struct node_snapshot *s = &n->snapshot;
    uint64_t *const noted[] = {&n->wait_index,    &n->attach_index, &n->rebuild.settled, &s->mark.index,
                               &s->mark.log_from, &s->reminder,     &s->truncate_after};

    for (size_t i = 0; i < sizeof noted / sizeof *noted; i++)
        if (*noted[i] >= from)
            *noted[i] += to - from;
}

static void on_retry(void *arg)
{
    struct node *n = arg;

    if (n->state == NODE_CONNECTING && n->control == NULL)
        node_connect(n);
}

static void on_tick(void *arg)
{
    struct node *n = arg;
    uint64_t now = loop_now_ms(n->loop);

    if (n->state == NODE_STARTING || n->state == NODE_STOPPED)
        return;
    node_control_watch(n, now);
    if (n->state == NODE_ATTACHED || n->state == NODE_FED || n->state == NODE_FEEDING || n->state == NODE_PROMOTING)
        node_snapshot_tick(n, now);
}

/* ---- the part to play ---- */

static void lead(struct node *n)
{
    if (n->state == NODE_WAITING)
        node_gather(n); /* what it said before may be old */
    else if ((n->state == NODE_FEEDING || n->state == NODE_FED) && n->feed != NULL)
        node_promote(n, "it leads");
    else if (n->state == NODE_FEEDING)
        node_try_again(n, 0); /* on its way from a primary to a replica: it is a primary still */
}

static void follow(struct node *n)
{
    switch (n->state) {
    case NODE_WAITING:
        if (n->part == NODE_FOLLOWS)
            node_gather(n);
        break;
    case NODE_ATTACHED:
        if (n->part == NODE_FOLLOWS && n->prove.valid)
            node_demote(n);
        else
            node_try_again(n, 0);
        break;
    case NODE_PROMOTING:
        if (!node_promote_undo(n))
            node_try_again(n, 0);
        break;
    case NODE_ADOPTING:
    case NODE_BRIDGING:
    case NODE_REBUILDING:
        node_try_again(n, 0);
        break;
    case NODE_CONNECTING:
        if (n->step != NULL) /* it waits for an entry that may never come; what it looks at next is the part */
            node_after(n, 0, n->step);
        break;
    case NODE_STARTING:
    case NODE_FEEDING:
    case NODE_FED:
    case NODE_STOPPED:
        break;
    }
}

void node_play(struct node *n, enum node_part part)
{
    if (n->part == part)
        return;
    n->part = part;
    if (part == NODE_LEADS)
        lead(n);
    else
        follow(n);
}

/* ---- the door ---- */

struct node *node_new(struct loop *l, const struct diag *d, const struct config *c, const struct certs *certs,
                      struct log *log, const struct node_events *events, void *arg)
{
    struct node *n = must_calloc(1, sizeof *n);
    struct snapshot_mark mark;
    char path[4096];

    n->loop = l;
    n->diag = d;
    n->config = c;
    n->certs = certs;
    n->log = log;
    n->events = events;
    n->arg = arg;
    n->state = NODE_STARTING;
    n->part = NODE_LEADS;
    n->snapshots_by_itself = true;
    n->checkpoints = checkpoints_new(log);
    n->figures.valkey_keys = UINT64_MAX;
    n->pause_ms = NODE_RETRY_FIRST_MS;
    n->tick = loop_timer_new(l, on_tick, n);
    n->retry = loop_timer_new(l, on_retry, n);
    n->work = loop_timer_new(l, on_work, n);
    if (snapshot_newest(log, &mark, path, sizeof path)) {
        n->figures.snapshot_index = mark.index;
        n->figures.snapshot_bytes = mark.rdb_bytes;
        n->figures.snapshot_unix_ms = mark.taken_ms;
    }
    return n;
}

void node_start(struct node *n)
{
    CHECK(n->state == NODE_STARTING);
    if (n->config->valkey_spawn)
        n->spawn = spawn_new(n->loop, n->diag, n->config, NULL, NULL);
    node_set_state(n, NODE_CONNECTING, "started");
    loop_timer_every(n->tick, NODE_TICK_MS);
    if (n->config->valkey_spawn && n->spawn == NULL)
        node_fail(n, "valkey-server cannot be started");
    else
        node_connect(n);
}

static void on_stopped(void *arg)
{
    struct node *n = arg;

    n->stopped(n->stopped_arg);
}

void node_stop(struct node *n, void (*stopped)(void *arg), void *arg)
{
    if (n->state != NODE_STOPPED)
        go_down(n, NODE_STOPPED, "stopping");
    n->stopped = stopped;
    n->stopped_arg = arg;
    if (n->spawn != NULL) {
        spawn_stop(n->spawn, on_stopped, n);
        return;
    }
    loop_timer_free(n->retry);
    n->retry = loop_timer_new(n->loop, on_stopped, n); /* told on the next turn, as with a spawned one */
    loop_timer_once(n->retry, 0);
}

static void release(void *object)
{
    struct node *n = object;

    buf_free(&n->valkey.commands);
    free(n);
}

void node_free(struct node *n)
{
    if (n == NULL)
        return;
    close_all(n, "stopped");
    node_snapshot_free(n);
    n->state = NODE_STOPPED;
    replay_free(n->walk);
    n->walk = NULL;
    replay_free(n->follow.look);
    n->follow.look = NULL;
    checkpoints_free(n->checkpoints);
    n->checkpoints = NULL;
    buf_free(&n->users);
    spawn_free(n->spawn);
    loop_timer_free(n->tick);
    loop_timer_free(n->retry);
    loop_timer_free(n->work);
    loop_bury(n->loop, n, release);
}

enum node_state node_state(const struct node *n)
{
    return n->state;
}

bool node_valkey_down(const struct node *n)
{
    return n->control == NULL || !backend_ready(n->control);
}

uint64_t node_tap_offset(const struct node *n)
{
    return n->tap != NULL ? tap_offset(n->tap) : 0;
}

void node_ack(struct node *n, uint64_t durable_offset)
{
    if (n->tap != NULL && n->state == NODE_ATTACHED)
        tap_ack(n->tap, durable_offset);
}

const struct node_figures *node_figures(const struct node *n)
{
    return &n->figures;
}

const char *node_valkey_version(const struct node *n)
{
    return n->valkey.version;
}

const char *node_valkey_run_id(const struct node *n)
{
    return n->valkey.run_id;
}

/* The end of a leadership, planned: this Valkey's state is the log's, and so it goes on as a replica without a full
 * sync.
 *
 *   node_prove()   others killed; INFO: the stream's end; the tap reads up to it; clean(): all is committed ─▶ proven
 *   ...            an effect in the stream: void. Pings of Valkey only move the offset
 *   node_demote()  others killed once more; INFO: the end again; the tap stands there, without an effect
 *                  ─▶ REPLICAOF, and the feed continues Valkey's own stream from exactly there, else a full sync
 *
 * Whatever comes in between, a client that is faster than us or a PING, moves the offset that Valkey asks for, and
 * then the feed does not find it proven. */
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/feed.h"
#include "proxy/node_internal.h"
#include "proxy/tap.h"

enum { PROVE_MS_MAX = 2000, DEMOTE_MS_MAX = 200, POLL_MS = 2 };

static void prove_end(struct node *n, bool proven)
{
    void (*done)(void *arg, bool proven) = n->prove.done;

    n->prove.running = false;
    n->prove.done = NULL;
    if (n->prove.poll != NULL)
        loop_timer_stop(n->prove.poll);
    if (done != NULL)
        done(n->prove.arg, proven);
}

void node_prove_void(struct node *n)
{
    n->prove.valid = false;
}

void node_prove_stop(struct node *n)
{
    bool running = n->prove.running;

    n->prove.valid = false;
    loop_timer_free(n->prove.poll);
    n->prove.poll = NULL;
    if (running)
        prove_end(n, false);
}

/* ---- proving ---- */

static void prove_look(struct node *n)
{
    struct feed_proof *p = &n->prove.proof;

    if (!n->prove.asked || tap_offset(n->tap) < n->prove.goal)
        return;
    *p = (struct feed_proof){.offset = tap_offset(n->tap)};
    if (!n->events->clean(n->arg, p->offset, &p->index))
        return;
    (void)snprintf(p->replid, sizeof p->replid, "%s", n->replid);
    n->prove.valid = true;
    prove_end(n, true);
}

static void demote_now(struct node *n)
{
    struct feed_proof proof = n->prove.proof;
    bool valid = n->prove.valid && tap_offset(n->tap) == n->prove.goal;

    proof.offset = n->prove.goal;
    n->prove.running = false;
    node_prove_stop(n);
    tap_close(n->tap);
    n->tap = NULL;
    node_follow_on(n, valid ? &proof : NULL);
}

static void on_poll(void *arg)
{
    struct node *n = arg;
    bool late = loop_now_ms(n->loop) >= n->prove.until_ms;

    if (!n->prove.running)
        return;
    if (n->state == NODE_ATTACHED) {
        if (late)
            prove_end(n, false);
        else
            prove_look(n);
    } else if (late || !n->prove.valid || (n->prove.asked && tap_offset(n->tap) >= n->prove.goal)) {
        demote_now(n);
    }
}

static void on_end(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (!n->prove.running)
        return;
    n->prove.goal = node_info_number(reply, size, "master_repl_offset");
    n->prove.asked = true;
    n->valkey.unexpected_errors = node_info_number(reply, size, "unexpected_error_replies");
    on_poll(n);
}

static void ask_end(struct node *n, uint64_t ms_max)
{
    n->prove.running = true;
    n->prove.asked = false;
    n->prove.until_ms = loop_now_ms(n->loop) + ms_max;
    if (n->prove.poll == NULL)
        n->prove.poll = loop_timer_new(n->loop, on_poll, n);
    loop_timer_every(n->prove.poll, POLL_MS);
    node_kill_others(n);
    node_ask(n, on_end, 3, (const char *const[]){"INFO", "replication", "stats"});
}

void node_prove(struct node *n, void (*done)(void *arg, bool proven), void *arg)
{
    if (n->state != NODE_ATTACHED || n->events->clean == NULL || n->prove.running) {
        done(arg, false);
        return;
    }
    n->prove.valid = false;
    n->prove.done = done;
    n->prove.arg = arg;
    ask_end(n, PROVE_MS_MAX);
}

/* ---- demotion ---- */

void node_demote(struct node *n)
{
    static const char why[] = "it does not lead any more, and its state is the log's";

    if (n->prove.running)
        prove_end(n, false);
    node_snapshot_abandon(n, why);
    n->life++;
    node_follow_stop(n);
    node_set_state(n, NODE_FEEDING, why);
    n->closed_out = false;
    n->events->detached(n->arg, why);
    if (n->state == NODE_FEEDING && n->feed == NULL)
        ask_end(n, DEMOTE_MS_MAX);
}

/* Requests of the admin port: each is remembered until the log or the node is done with it.
 *
 *     admin_actions.c ─▶ core_transfer() ... ─▶ request ─▶ core_group.c, log, node ─ done ─▶ end_request() ─▶ answer
 *                            └─ not the leader, or alone: answered at once, with where to ask
 *
 * At the end of the process those that are left are answered "the node is stopping". */
#include "proxy/core_admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/core_internal.h"

enum { TRANSFER_TIMEOUT_MS = 3 * 1000, LOOK_MS = 20, OUT_LOOK_MS_MAX = 15 * 1000 };

struct core_request {
    struct core *core;
    struct core_request *next;
    core_done *done;
    void *arg;
    struct loop_timer *look; /* is it done yet? */
    uint64_t newest_ms;      /* snapshots: when the newest one before was taken */
    uint64_t until_ms;       /* draining: longer than any hand-over takes */
    unsigned failures;       /* draining: before this request */
};

static struct core_request *request_new(struct core *c, core_done *done, void *arg)
{
    struct core_request *r = must_calloc(1, sizeof *r);

    *r = (struct core_request){.core = c, .next = c->requests, .done = done, .arg = arg};
    c->requests = r;
    return r;
}

static void release_request(void *object)
{
    struct core_request *r = object;

    loop_timer_free(r->look);
    free(r);
}

static void end_request(void *arg, bool ok, const char *why)
{
    struct core_request *r = arg, **at = &r->core->requests;

    while (*at != r) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = r->next;
    r->done(r->arg, ok, why != NULL ? why : "");
    loop_bury(r->core->loop, r, release_request); /* its own timer may have called */
}

void core_admin_end(struct core *c)
{
    while (c->requests != NULL) {
        struct core_request *r = c->requests;

        c->requests = r->next;
        r->done(r->arg, false, "the node is stopping");
        release_request(r);
    }
}

/* Only the leader can hand over or change the group; a follower says where to ask. */
static bool leads(const struct core *c, core_done *done, void *arg)
{
    char why[160] = "this node is alone: there is no group";

    if (!log_alone(c->log) && log_role(c->log) == LOG_LEADS)
        return true;
    if (!log_alone(c->log) && log_leader(c->log)[0] != '\0' && log_role(c->log) == LOG_FOLLOWS)
        (void)snprintf(why, sizeof why, "this node does not lead: ask the leader, %s", log_leader(c->log));
    else if (!log_alone(c->log))
        (void)snprintf(why, sizeof why, "no leader is known: a majority of the members is needed");
    done(arg, false, why);
    return false;
}

/* Why it would only hand leadership over again. NULL: it would not. */
static const char *no_leader(const struct core *c, const char *name)
{
    struct log_member_status members[MEMBERS_MAX];
    size_t n = log_members(c->log, members, MEMBERS_MAX);

    for (size_t i = 0; i < n; i++) {
        if (strcmp(members[i].member.name, name) != 0)
            continue;
        return members[i].member.log_only  ? "it is log-only: it has no Valkey to serve with"
               : members[i].state.draining ? "it is draining: undrain it first"
                                           : NULL;
    }
    return NULL;
}

void core_transfer(struct core *c, const char *to, core_done *done, void *arg)
{
    if (!leads(c, done, arg))
        return;
    if (to != NULL && no_leader(c, to) != NULL)
        done(arg, false, no_leader(c, to));
    else
        core_hand_over(c, to, TRANSFER_TIMEOUT_MS, end_request, request_new(c, done, arg));
}

void core_change_members(struct core *c, enum log_change what, const char *name, core_done *done, void *arg)
{
    if (leads(c, done, arg))
        log_change_members(c->log, what, name, end_request, request_new(c, done, arg));
}

void core_mode(struct core *c, enum durability mode, core_done *done, void *arg)
{
    if (log_alone(c->log) || leads(c, done, arg))
        core_ask_mode(c, mode, end_request, request_new(c, done, arg));
}

/* ---- out of service ---- */

static void on_look_out(void *arg)
{
    struct core_request *r = arg;
    struct core *c = r->core;
    bool lost = c->lost && !c->going && c->hand_over.phase == HAND_NONE; /* not on the way to another leader */
    char why[256];

    if (!c->out.on) {
        end_request(r, false, "it was ended meanwhile");
    } else if (log_alone(c->log) || !c->leads) {
        end_request(r, true, NULL);
    } else if (lost || c->out.failures != r->failures || loop_now_ms(c->loop) >= r->until_ms) {
        (void)snprintf(why, sizeof why, "out of service, but it leads on until another one can: %s",
                       lost                             ? "a majority of the members cannot be reached"
                       : c->out.failures != r->failures ? c->out.why
                                                        : "its Valkey is not ready");
        end_request(r, false, why);
    } else {
        loop_timer_once(r->look, LOOK_MS);
    }
}

void core_take_out(struct core *c, bool out, core_done *done, void *arg)
{
    struct core_request *r;

    core_out(c, out);
    if (!out) {
        done(arg, true, "");
        return;
    }
    r = request_new(c, done, arg);
    r->failures = c->out.failures;
    r->until_ms = loop_now_ms(c->loop) + OUT_LOOK_MS_MAX;
    r->look = loop_timer_new(c->loop, on_look_out, r);
    loop_timer_once(r->look, 0);
}

/* ---- snapshots ---- */

static void on_look_snapshot(void *arg)
{
    struct core_request *r = arg;
    const struct node_figures *f = node_figures(r->core->node);
    bool ok = f->snapshot_unix_ms > r->newest_ms;

    if (f->snapshot_running)
        loop_timer_once(r->look, LOOK_MS);
    else
        end_request(r, ok, ok ? "" : "it was given up: the node's log says why");
}

void core_snapshot(struct core *c, core_done *done, void *arg)
{
    struct core_request *r;

    if (!c->witness)
        node_snapshot(c->node, "asked for at the admin port");
    if (c->witness || !node_figures(c->node)->snapshot_running) {
        done(arg, false, c->witness ? "this node has no Valkey" : "Valkey's state is not proven at present");
        return;
    }
    r = request_new(c, done, arg);
    r->newest_ms = node_figures(c->node)->snapshot_unix_ms;
    r->look = loop_timer_new(c->loop, on_look_snapshot, r);
    loop_timer_once(r->look, LOOK_MS);
}

/* A planned hand-over: nothing in flight, our Valkey's state proven, then leadership moves.
 *
 *   LOOKING (is there anybody?) ─▶ HOLDING (sessions begin nothing new; what is under way ends) ─▶ PROVING ─▶ MOVING
 *                                                                                                          │
 *   another node leads: our clients are relayed to it        it came to nothing: we lead on  ◀────────────┘
 *
 * And a node that is drained (taken out of service by the admin port): it hands over as soon as somebody who is in
 * service can take over, and until then leads on. Nobody loses anything by it: clients are served or relayed, new
 * ones too; only /readyz says that they had better go elsewhere. It ends when it is told, or with the process. */
#include <stdio.h>
#include <string.h>

#include "proxy/core_internal.h"

enum {
    OUT_MS = 2000,        /* for handing over because we are drained ... */
    OUT_AGAIN_MS = 10000, /* ... and before it is tried again: clients are held up by it */
    LOOK_MS_MAX = 1500,   /* for a member that has just caught up to be heard of */
    HOLD_MS_MAX = 60,     /* of a planned hand-over: what is under way may end */
};

static void hand_end(struct core *c, bool ok, const char *why)
{
    struct hand_over h = c->hand_over;

    c->hand_over = (struct hand_over){0};
    if (!ok && c->leads)
        core_set_part(c, PART_LEADS);
    if (ok)
        diag_log(c->diag, DIAG_NOTICE, "Leadership is handed over");
    else
        diag_log(c->diag, DIAG_WARNING, "Leadership is not handed over: %s", why);
    if (h.done != NULL)
        h.done(h.arg, ok, why);
}

static void on_moved(void *arg, bool ok, const char *why)
{
    struct core *c = arg;

    if (c->hand_over.phase == HAND_MOVING)
        hand_end(c, ok, why);
}

static void move(struct core *c)
{
    struct hand_over *h = &c->hand_over;
    uint64_t now = loop_now_ms(c->loop);

    h->phase = HAND_MOVING;
    log_transfer(c->log, h->to[0] ? h->to : NULL, h->deadline_ms > now ? h->deadline_ms - now : 0, on_moved, c);
}

static void on_proven(void *arg, bool proven)
{
    struct core *c = arg;

    if (c->hand_over.phase != HAND_PROVING)
        return;
    if (!proven)
        diag_log(c->diag, DIAG_NOTICE, "Our Valkey's state cannot be proven: it will be fed anew");
    move(c);
}

/* Nobody is held up for nothing: first there must be somebody to take over. */
static void look(struct core *c)
{
    struct hand_over *h = &c->hand_over;
    const char *why = "";

    if (log_may_transfer(c->log, h->to[0] ? h->to : NULL, &why)) {
        h->phase = HAND_HOLDING;
        h->hold_until_ms = loop_now_ms(c->loop) + HOLD_MS_MAX;
        atomic_store(&c->set.gate->unanswered, 1); /* until the worker has looked */
        core_set_part(c, PART_HANDS_OVER);
    } else if (loop_now_ms(c->loop) >= h->hold_until_ms) {
        hand_end(c, false, why);
    }
}

void core_hand_turn(struct core *c)
{
    struct hand_over *h = &c->hand_over;
    uint64_t now = loop_now_ms(c->loop);
    bool idle = seq_is_idle(c->seq) && log_pending_bytes(c->log) == 0 && seq_oldest_us(c->seq) == 0 &&
                c->set.to_core->count == 0 && atomic_load(&c->set.gate->unanswered) == 0;

    if (h->phase != HAND_NONE && h->phase != HAND_MOVING && (!c->leads || c->lost)) {
        hand_end(c, false, "leadership was lost meanwhile");
        return;
    }
    if (h->phase == HAND_PROVING && (!c->attached || now >= h->hold_until_ms + HOLD_MS_MAX)) {
        move(c);
        return;
    }
    if (h->phase == HAND_LOOKING)
        look(c);
    if (h->phase != HAND_HOLDING)
        return;
    if (!idle && now < h->hold_until_ms) { /* no waiting for company now */
        log_hurry(c->log);
        seq_tick(c->seq, loop_now_us(c->loop) + SEQ_EPOCH_MS * 1000u);
        return;
    }
    h->phase = HAND_PROVING;
    if (idle && c->attached)
        node_prove(c->node, on_proven, c);
    else
        move(c);
}

void core_hand_over(struct core *c, const char *to, uint64_t timeout_ms, core_done *done, void *arg)
{
    struct hand_over *h = &c->hand_over;

    if (log_alone(c->log) || !c->leads || h->phase != HAND_NONE) {
        done(arg, false,
             log_alone(c->log) ? "this node is alone"
             : c->leads        ? "a hand-over is under way"
                               : "this node does not lead");
        return;
    }
    *h = (struct hand_over){.phase = HAND_LOOKING, .done = done, .arg = arg};
    (void)snprintf(h->to, sizeof h->to, "%s", to != NULL ? to : "");
    h->deadline_ms = loop_now_ms(c->loop) + timeout_ms;
    h->hold_until_ms = loop_now_ms(c->loop) + (timeout_ms < LOOK_MS_MAX ? timeout_ms : LOOK_MS_MAX);
    if (h->to[0] && strcmp(h->to, LOG_IN_SERVICE) != 0)
        diag_log(c->diag, DIAG_NOTICE, "Handing leadership over to %s", h->to);
    else
        diag_log(c->diag, DIAG_NOTICE, "Handing leadership over");
    core_hand_turn(c);
}

/* ---- out of service ---- */

static void on_out(void *arg, bool ok, const char *why)
{
    struct core *c = arg;
    struct out_of_service *o = &c->out;

    if (ok) {
        o->said = false;
        return;
    }
    o->failures++;
    o->again_ms = loop_now_ms(c->loop) + OUT_AGAIN_MS;
    (void)snprintf(o->why, sizeof o->why, "%s", why);
    if (o->on && !o->said && c->leads)
        diag_log(c->diag, DIAG_WARNING, "This node is drained, but leads on until another one can: %s", why);
    o->said = true;
}

/* The first attempt waits for somebody to turn up; later ones are made when there is somebody. */
void core_out_tick(struct core *c)
{
    struct out_of_service *o = &c->out;
    const char *why;

    if (!o->on || c->drained != NULL || !c->attached || c->going || c->hand_over.phase != HAND_NONE ||
        loop_now_ms(c->loop) < o->again_ms)
        return;
    if (!o->said || log_may_transfer(c->log, LOG_IN_SERVICE, &why))
        core_hand_over(c, LOG_IN_SERVICE, OUT_MS, on_out, c);
}

void core_out(struct core *c, bool on)
{
    if (on && !c->out.on)
        diag_log(c->diag, DIAG_NOTICE,
                 "Draining: taken out of service by the admin port. Clients are served, /readyz answers 503");
    else if (!on && c->out.on)
        diag_log(c->diag, DIAG_NOTICE, "Draining ends: back in service, by the admin port");
    c->out = (struct out_of_service){.on = on, .failures = c->out.failures};
    log_tell_draining(c->log, on);
}

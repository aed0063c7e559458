/* A planned hand-over: nothing in flight, our Valkey's state proven, then leadership moves.
 *
 *   LOOKING (is there anybody?) ─▶ HOLDING (sessions begin nothing new; what is under way ends) ─▶ PROVING ─▶ MOVING
 *                                                                                                          │
 *   another node leads: our clients are relayed to it        it came to nothing: we lead on  ◀────────────┘ */
#include <stdio.h>
#include <string.h>

#include "proxy/core_internal.h"

enum {
    LOOK_MS_MAX = 1500, /* for a member that has just caught up to be heard of */
    HOLD_MS_MAX = 60,   /* of a planned hand-over: what is under way may end */
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
    diag_log(c->diag, DIAG_NOTICE, "Handing leadership over%s%s", h->to[0] ? " to " : "", h->to);
    core_hand_turn(c);
}

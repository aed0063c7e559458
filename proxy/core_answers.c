/* Answers that depend on the group, when the release rule has let them go:
 *
 *   reads of sync clients, and captured   under the lease. The op carries when its reply was in our hands; if the
 *   writes that may only have read        lease has run out since, it waits here for a proof that we led later than
 *                                         that, or for the news that we lead no more
 *   WAIT                                  until enough zones have everything, or its time is over
 *   CONFIG SET durability, POST /mode     until its log entry is committed; the mode is in force from then on, not
 *                                         before, or writes would be answered by a rule that a failover takes back */
#include <string.h>

#include "proxy/core_internal.h"
#include "proxy/resp.h"

/* ---- the lease ---- */

bool core_under_lease(struct core *c, struct op *op)
{
    if (log_alone(c->log) || !op->sync || (op->kind != OP_READ && op->kind != OP_CAPTURED) ||
        log_may_read(c->log, op->came_boot_ms))
        return true;
    TAILQ_INSERT_TAIL(&c->lease_waiting, op, in_core);
    return false;
}

static void lease_turn(struct core *c)
{
    struct op *op, *next;
    bool leads = log_role(c->log) == LOG_LEADS;

    for (op = TAILQ_FIRST(&c->lease_waiting); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        if (leads && !log_may_read(c->log, op->came_boot_ms))
            continue;
        TAILQ_REMOVE(&c->lease_waiting, op, in_core);
        if (leads)
            core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
        else
            core_fail(c, op);
    }
}

/* ---- reads that need not come here ---- */

void core_reads_until(struct core *c, uint64_t boot_ms)
{
    if (c->reads_until_boot_ms == boot_ms)
        return;
    c->reads_until_boot_ms = boot_ms;
    atomic_store(&c->set.gate->reads_until_boot_ms, boot_ms);
}

/* Before this turn's output leaves: what is forwarded now shows in no reply that the worker has yet, and no other
 * node has been told to lead. */
void core_reads_turn(struct core *c)
{
    core_reads_until(c, c->leads && c->set.to_core->count == 0 && seq_is_calm(c->seq) ? log_lease_end_boot_ms(c->log)
                                                                                      : 0);
}

/* ---- WAIT ---- */

bool core_in_zones(struct core *c, struct op *op)
{
    if (log_alone(c->log))
        return true;
    op->need = log_committed(c->log);
    op->db = log_other_zones(c->log, op->need);
    if (op->db >= op->canon)
        return true;
    core_post(c, TO_WORKER_CAME, op, 0, NULL);
    TAILQ_INSERT_TAIL(&c->zone_waiting, op, in_core);
    return false;
}

static void zones_turn(struct core *c)
{
    struct op *op, *next;

    for (op = TAILQ_FIRST(&c->zone_waiting); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        op->db = log_other_zones(c->log, op->need);
        if (op->db < op->canon && c->leads && (op->forwarded_us == 0 || loop_now_us(c->loop) < op->forwarded_us))
            continue;
        TAILQ_REMOVE(&c->zone_waiting, op, in_core);
        core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
    }
}

/* Another leadership's lease proves nothing for what was read before it. */
void core_answers_void(struct core *c)
{
    struct op *op;

    while ((op = TAILQ_FIRST(&c->lease_waiting)) != NULL) {
        TAILQ_REMOVE(&c->lease_waiting, op, in_core);
        core_fail(c, op);
    }
}

/* ---- CONFIG SET durability ---- */

/* error: as a client gets it; the admin port does without its first word. */
static void answer_mode(struct core *c, struct mode_change *m, const char *error)
{
    struct mode_change who = *m;

    m->op = NULL;
    m->done = NULL;
    if (who.done != NULL)
        who.done(who.arg, error == NULL, error != NULL ? error + strcspn(error, " ") + 1 : "");
    if (who.op == NULL)
        return;
    if (error != NULL)
        resp_error(&who.op->reply, error);
    core_post(c, TO_WORKER_RELEASE, who.op, 0, NULL);
}

/* One at a time: each is short, unless the log stands still. */
static void set_mode(struct core *c, struct mode_change *asked)
{
    uint8_t byte = (uint8_t)asked->mode;

    if (!c->leads) {
        answer_mode(c, asked, "CLUSTERDOWN This node does not lead any more: the mode was not changed");
        return;
    }
    if (c->lost) {
        answer_mode(c, asked, "CLUSTERDOWN A majority of the members cannot be reached: the mode was not changed");
        return;
    }
    if (c->mode_change.index != 0) {
        answer_mode(c, asked, "TRYAGAIN Another change of the mode is not durable yet: it was not changed again");
        return;
    }
    frame_control(log_batch(c->log), CONTROL_MODE, &byte, 1);
    c->mode_change = *asked;
    c->mode_change.index = log_open_index(c->log);
    c->mode_change.asked_us = loop_now_us(c->loop);
    log_touch(c->log, true);
}

void core_set_mode(struct core *c, struct op *op, enum durability mode)
{
    set_mode(c, &(struct mode_change){.mode = mode, .op = op});
}

void core_ask_mode(struct core *c, enum durability mode, core_done *done, void *arg)
{
    set_mode(c, &(struct mode_change){.mode = mode, .done = done, .arg = arg});
}

int core_logged_mode(const struct core *c)
{
    return c->mode_change.index != 0 ? (int)c->mode_change.mode : atomic_load(&c->set.gate->mode);
}

void core_mode_committed(struct core *c, uint64_t index)
{
    struct mode_change change = c->mode_change;

    if (change.index == 0 || index < change.index)
        return;
    c->mode_change = (struct mode_change){0};
    c->config->durability = change.mode;
    atomic_store(&c->set.gate->mode, (int)change.mode);
    diag_log(c->diag, DIAG_NOTICE, "Durability mode: %s", durability_name(change.mode));
    answer_mode(c, &change, NULL);
}

void core_mode_moved(struct core *c, uint64_t from, uint64_t to)
{
    if (c->mode_change.index >= from)
        c->mode_change.index += to - from;
}

void core_mode_unconfirmed(struct core *c)
{
    answer_mode(c, &c->mode_change,
                "UNCERTAIN The change of the mode was accepted but not confirmed, it may still come into force");
}

void core_mode_void(struct core *c)
{
    core_mode_unconfirmed(c);
    c->mode_change = (struct mode_change){0};
}

static void mode_turn(struct core *c)
{
    uint64_t max_us = (uint64_t)c->config->durability_lag_max_ms * 1000u;

    if (c->mode_change.index != 0 && loop_now_us(c->loop) >= c->mode_change.asked_us + max_us)
        core_mode_unconfirmed(c);
}

void core_answers_turn(struct core *c)
{
    lease_turn(c);
    zones_turn(c);
    mode_turn(c);
}

/* Answers that depend on the group, when the release rule has let them go:
 *
 *   reads of sync clients, and captured   under the lease. The op carries when its reply was in our hands; if the
 *   writes that may only have read        lease has run out since, it waits here for a proof that we led later than
 *                                         that, or for the news that we lead no more
 *   WAIT                                  until enough zones have everything, or its time is over */
#include "proxy/core_internal.h"

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

void core_answers_turn(struct core *c)
{
    lease_turn(c);
    zones_turn(c);
}

/* The end of a history: all faults are over, all nodes are up that have a disk. Within a bounded time somebody leads,
 * an entry that was submitted after the healing is committed on every member, and then all logs are equal. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>

enum {
    HEAL_ELECTIONS_MAX = 60,
    HEAL_MS_MAX = 12 * 1000 /* a lost word about a snapshot is repeated after ten seconds */
};

static bool all_have(struct rsim *w, uint64_t index)
{
    const struct rsim_node *leader = rsim_leader(w);
    const struct members *m;

    if (leader == NULL || index == 0)
        return false;
    m = consensus_members(leader->c);
    for (size_t i = 0; i < m->count; i++) {
        const struct rsim_node *n = rsim_by_id(w, m->at[i].id);

        if (!n->lost && (!n->up || n->installing || n->committed < index))
            return false;
    }
    return true;
}

static bool run_until_all_have(struct rsim *w, uint64_t until_us, uint64_t *index)
{
    while (!w->failed && w->now_us < until_us) {
        rsim_run_until(w, w->now_us + 10 * RSIM_MS);
        if (*index == 0)
            *index = w->probe_index;
        if (all_have(w, *index))
            return true;
    }
    return false;
}

static void describe(struct rsim *w)
{
    for (unsigned i = 0; i < w->nodes; i++) {
        const struct rsim_node *n = &w->at[i];

        if (n->up)
            TRACE(w,
                  "  %u (%" PRIx64 "): role %d term %" PRIu64 " leader %" PRIx64 " last %" PRIu64 " commit %" PRIu64
                  " committed %" PRIu64 "%s, %zu members",
                  i, n->id, (int)consensus_role(n->c), consensus_term(n->c), consensus_leader(n->c),
                  consensus_last(n->c), consensus_commit(n->c), n->committed, n->installing ? " installing" : "",
                  consensus_members(n->c)->count);
    }
}

static void check_equal(struct rsim *w)
{
    const struct rsim_node *leader = rsim_leader(w);
    const struct members *m = consensus_members(leader->c);
    uint64_t last = tail_last(leader->tail);

    for (size_t i = 0; i < m->count; i++) {
        const struct rsim_node *n = rsim_by_id(w, m->at[i].id);

        if (n->lost)
            continue;
        if (tail_last(n->tail) != last || rsim_disk_last(&n->disk) != last)
            rsim_violation(w, "the log of %u ends with %" PRIu64 ", the leader's with %" PRIu64, n->slot,
                           tail_last(n->tail), last);
        for (uint64_t k = n->base.index; k <= last && !w->failed; k++)
            if (k > 0 && !rsim_log_same(n, k, w->committed[k].term, w->committed[k].running))
                rsim_violation(w, "the log of %u differs at %" PRIu64, n->slot, k);
    }
}

/* Half of the time those who do not belong to the group any more keep talking. */
static void stop_strangers(struct rsim *w)
{
    const struct rsim_node *leader = rsim_leader(w);
    struct members m;

    if (leader == NULL || rsim_chance(w, 500))
        return;
    m = *consensus_members(leader->c);
    for (unsigned i = 0; i < w->nodes; i++)
        if (w->at[i].up && members_by_id(&m, w->at[i].id) == NULL && !consensus_changing(leader->c)) {
            rsim_node_crash(&w->at[i]);
            w->at[i].lost = true;
        }
}

void rsim_end(struct rsim *w)
{
    uint64_t healed_us = w->now_us,
             limit_us = ((uint64_t)w->o.election_ms * HEAL_ELECTIONS_MAX + HEAL_MS_MAX) * RSIM_MS, index = 0;

    TRACE(w, "all faults are over");
    rsim_calm(w);
    w->probe_payload = w->payload;
    w->probe_index = 0;
    stop_strangers(w);
    if (!run_until_all_have(w, healed_us + limit_us, &index)) {
        describe(w);
        if (w->plan->checks == RSIM_CONSEQUENCES)
            return;
        rsim_violation(w, "nothing new was committed on all members within %" PRIu64 " ms after the healing",
                       limit_us / RSIM_MS);
        return;
    }
    w->n.heal_ms_max = (w->now_us - healed_us) / RSIM_MS;
    w->clients = false;
    rsim_run_until(w, w->now_us + (uint64_t)w->o.election_ms * 2 * RSIM_MS);
    index = rsim_leader(w) != NULL ? tail_last(rsim_leader(w)->tail) : 0;
    if (w->plan->checks == RSIM_CONSEQUENCES)
        return;
    if (index == 0 || !run_until_all_have(w, w->now_us + limit_us, &index)) {
        describe(w);
        rsim_violation(w, "not all members have the whole log at the end");
    } else if (!w->failed) {
        check_equal(w);
    }
}

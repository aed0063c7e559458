/* What goes wrong: every now and then one fault, with a bias to the leader. Several can be under way at once. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>

static uint64_t elections_us(struct rsim *w, unsigned tenths)
{
    return (uint64_t)w->o.election_ms * RSIM_MS * tenths / 10;
}

/* The leader, or anybody. */
static struct rsim_node *victim(struct rsim *w)
{
    struct rsim_node *n = rsim_chance(w, 500) ? rsim_leader(w) : NULL;

    return n != NULL ? n : &w->at[rsim_random(w, w->nodes)];
}

/* ---- crashes ---- */

void rsim_crash(struct rsim_node *n, uint64_t down_us)
{
    struct rsim *w = n->w;

    if (!n->up)
        return;
    rsim_node_crash(n);
    if (w->plan->bug == RSIM_AMNESIA && rsim_chance(w, 300))
        rsim_forget_everything(n);
    w->n.restarts++;
    rsim_push(
        w, (struct rsim_event){
               .at_us = w->now_us + 1 + down_us, .kind = EVENT_START, .to = n->slot, .incarnation = n->incarnation});
}

void rsim_at_risk(struct rsim_node *n, unsigned permille)
{
    struct rsim *w = n->w;

    if (!w->calm && rsim_chance(w, permille))
        rsim_push(w, (struct rsim_event){.at_us = w->now_us + rsim_random(w, 2 * w->o.disk_us),
                                         .kind = EVENT_CRASH,
                                         .to = n->slot,
                                         .incarnation = n->incarnation});
}

static uint64_t down_us(struct rsim *w)
{
    return rsim_random(w, rsim_chance(w, 500) ? elections_us(w, 1) : elections_us(w, 60));
}

static void crash_one(struct rsim *w)
{
    rsim_crash(victim(w), down_us(w));
}

/* Each with its own time down, so that they come back one by one. */
static void crash_some(struct rsim *w, unsigned permille)
{
    for (unsigned i = 0; i < w->nodes; i++)
        if (rsim_chance(w, permille))
            rsim_crash(&w->at[i], down_us(w));
}

/* ---- links ---- */

static void cut_link(struct rsim *w, unsigned from, unsigned to, bool hold)
{
    if (from != to)
        w->link[from][to] = hold ? LINK_HOLDS : LINK_DROPS;
}

static void isolate(struct rsim *w, const struct rsim_node *n, bool in, bool out)
{
    bool hold = rsim_chance(w, 400);

    for (unsigned i = 0; i < w->nodes; i++) {
        if (in)
            cut_link(w, i, n->slot, hold);
        if (out)
            cut_link(w, n->slot, i, hold);
    }
}

static void split(struct rsim *w)
{
    bool hold = rsim_chance(w, 400), side[RSIM_NODES_MAX];

    for (unsigned i = 0; i < w->nodes; i++)
        side[i] = rsim_chance(w, 500);
    for (unsigned a = 0; a < w->nodes; a++)
        for (unsigned b = 0; b < w->nodes; b++)
            if (side[a] != side[b])
                cut_link(w, a, b, hold);
}

/* Everybody sees a majority, nobody the same one: each node loses those opposite of it on a ring. */
static void ring_of_majorities(struct rsim *w)
{
    unsigned near = w->nodes / 4 + (w->nodes / 4 == 0);
    bool hold = rsim_chance(w, 400);

    for (unsigned a = 0; a < w->nodes; a++)
        for (unsigned b = 0; b < w->nodes; b++) {
            unsigned there = (b + w->nodes - a) % w->nodes, back = (a + w->nodes - b) % w->nodes;

            if (a != b && there > near && back > near)
                cut_link(w, a, b, hold);
        }
    if (w->nodes <= 3) { /* of three each sees two already: one pair is cut */
        unsigned a = (unsigned)rsim_random(w, w->nodes), b = (a + 1) % w->nodes;

        cut_link(w, a, b, hold);
        cut_link(w, b, a, hold);
    }
}

static void cut_some(struct rsim *w)
{
    static const char *const names[] = {"isolated", "deaf", "mute", "one way", "a pair", "split", "ring"};
    struct rsim_node *n = victim(w), *other = &w->at[rsim_random(w, w->nodes)];
    unsigned what = (unsigned)rsim_random(w, sizeof names / sizeof *names);
    bool hold = rsim_chance(w, 400);

    w->heal_us = w->now_us + elections_us(w, 5) + rsim_random(w, elections_us(w, 60));
    w->n.cuts++;
    TRACE(w, "cut: %s, %u and %u, until %.3f", names[what], n->slot, other->slot, (double)w->heal_us / RSIM_MS);
    switch (what) {
    case 0:
        isolate(w, n, true, true);
        break;
    case 1:
        isolate(w, n, true, false);
        break;
    case 2:
        isolate(w, n, false, true);
        break;
    case 3:
        cut_link(w, n->slot, other->slot, hold);
        break;
    case 4:
        cut_link(w, n->slot, other->slot, hold);
        cut_link(w, other->slot, n->slot, hold);
        break;
    case 5:
        split(w);
        break;
    default:
        ring_of_majorities(w);
        break;
    }
    rsim_push(w, (struct rsim_event){.at_us = w->heal_us, .kind = EVENT_HEAL});
}

void rsim_open_links(struct rsim *w)
{
    TRACE(w, "links open");
    for (unsigned a = 0; a < w->nodes; a++)
        for (unsigned b = 0; b < w->nodes; b++)
            w->link[a][b] = LINK_OPEN;
}

/* ---- the rest ---- */

static void pause_one(struct rsim *w)
{
    struct rsim_node *n = victim(w);

    if (!n->up)
        return;
    n->paused_until_us = w->now_us + elections_us(w, 3) + rsim_random(w, elections_us(w, 40));
    w->n.pauses++;
    TRACE(w, "%u pauses until %.3f", n->slot, (double)n->paused_until_us / RSIM_MS);
}

static void slow_disk(struct rsim *w)
{
    struct rsim_node *n = victim(w);

    n->slow_until_us = w->now_us + rsim_random(w, elections_us(w, 50));
    w->n.slow_disks++;
    TRACE(w, "%u has a slow disk until %.3f", n->slot, (double)n->slow_until_us / RSIM_MS);
}

/* Clients wait until the other has everything, or the time for it is over. */
void rsim_try_hand_over(struct rsim_node *n)
{
    struct rsim *w = n->w;
    uint64_t to = n->hand_over_to;
    enum consensus_answer answer;

    if (consensus_role(n->c) != CONSENSUS_LEADER || n->hand_over_until_us <= w->now_us) {
        n->hand_over_to = 0;
        return;
    }
    if (consensus_transferring(n->c) || consensus_match(n->c, to) != consensus_last(n->c))
        return;
    answer = consensus_transfer(n->c, to);
    w->n.transfers += answer == CONSENSUS_OK;
    TRACE(w, "%u hands over to %" PRIx64 ": %d", n->slot, to, (int)answer);
    if (answer == CONSENSUS_OK && consensus_lease_end_ms(n->c) > rsim_boot_ms(n))
        rsim_violation(w, "node %u hands over and keeps its lease", n->slot);
}

void rsim_hand_over(struct rsim_node *leader, uint64_t to)
{
    leader->hand_over_to = to;
    leader->hand_over_until_us = leader->w->now_us + elections_us(leader->w, 10);
    rsim_node_settle(leader);
}

static void transfer(struct rsim *w)
{
    struct rsim_node *leader = rsim_leader(w);
    struct members m;
    const struct member *to;

    if (leader == NULL)
        return;
    m = *consensus_members(leader->c);
    to = &m.at[rsim_random(w, m.count)];
    if (to->role == MEMBER_VOTER && to->id != leader->id)
        rsim_hand_over(leader, to->id);
}

static void cut_leader_off(struct rsim *w, struct rsim_node *leader, uint64_t for_us)
{
    isolate(w, leader, true, true);
    w->n.cuts++;
    w->heal_us = w->now_us + for_us;
    rsim_push(w, (struct rsim_event){.at_us = w->heal_us, .kind = EVENT_HEAL});
}

/* A follower that has lost all memory of the leader's last heartbeat just when that leader is cut off: what the lease
 * must survive. */
static void cut_and_restart(struct rsim *w)
{
    struct rsim_node *leader = rsim_leader(w);

    if (leader == NULL)
        return;
    cut_leader_off(w, leader, rsim_random(w, elections_us(w, 50)));
    for (unsigned i = 0; i < w->nodes; i++)
        if (&w->at[i] != leader && rsim_chance(w, 700))
            rsim_crash(&w->at[i], rsim_random(w, elections_us(w, 2)));
}

/* Somebody misses a while, and comes back just when the leader goes and all others crash: whoever is elected then
 * needs what those others have promised. First half; rsim_swap() is the second. */
static void leave_one_behind(struct rsim *w)
{
    struct rsim_node *n = &w->at[rsim_random(w, w->nodes)];

    isolate(w, n, true, true);
    w->n.cuts++;
    w->heal_us = w->now_us + elections_us(w, 5) + rsim_random(w, elections_us(w, 20));
    rsim_push(w, (struct rsim_event){.at_us = w->heal_us, .kind = EVENT_SWAP, .to = n->slot});
}

void rsim_swap(struct rsim *w, const struct rsim_node *behind)
{
    struct rsim_node *leader = rsim_leader(w);

    if (w->calm || w->heal_us > w->now_us)
        return;
    rsim_open_links(w);
    if (leader == NULL || leader == behind)
        return;
    TRACE(w, "%u is back, %u is cut off, the others crash", behind->slot, leader->slot);
    cut_leader_off(w, leader, elections_us(w, 10) + rsim_random(w, elections_us(w, 50)));
    for (unsigned i = 0; i < w->nodes; i++)
        if (&w->at[i] != leader && &w->at[i] != behind)
            rsim_crash(&w->at[i], rsim_random(w, elections_us(w, 2)));
}

void rsim_chaos(struct rsim *w)
{
    unsigned what = (unsigned)rsim_random(w, 1000);

    if (w->calm)
        return;
    rsim_push(w,
              (struct rsim_event){.at_us = w->now_us + 1 + rsim_random(w, elections_us(w, 40)), .kind = EVENT_CHAOS});
    if (what < 180)
        crash_one(w);
    else if (what < 220)
        crash_some(w, 400);
    else if (what < 240)
        crash_some(w, 1000);
    else if (what < 480)
        cut_some(w);
    else if (what < 560)
        pause_one(w);
    else if (what < 620)
        slow_disk(w);
    else if (what < 700)
        transfer(w);
    else if (what < 760)
        cut_and_restart(w);
    else if (what < 820)
        leave_one_behind(w);
}

void rsim_calm(struct rsim *w)
{
    w->calm = true;
    w->heal_us = 0;
    rsim_open_links(w);
    for (unsigned i = 0; i < w->nodes; i++) {
        struct rsim_node *n = &w->at[i];

        n->slow_until_us = 0; /* a pause ends by itself */
        if (!n->up && !n->lost)
            rsim_node_start(n);
    }
}

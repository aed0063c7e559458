/* The group's operator: founds it, then adds (as standby), promotes, demotes, removes, replaces.
 *
 * Changes go through whoever leads, at any moment, also in the middle of a partition. What the operator sees to is
 * only that the group could live on: of the voters of each configuration that is still around, a majority must have
 * its disk. A lost disk comes back as a new member with a new id; the old one is removed when somebody gets to it. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>
#include <string.h>

enum { VOTERS_MAX = 5, GROUP_MAX = 7, NEAR_ENTRIES = 20 };

struct rsim_node *rsim_add_node(struct rsim *w)
{
    struct rsim_node *n = &w->at[w->nodes];

    if (w->nodes == RSIM_NODES_MAX)
        return NULL;
    n->w = w;
    n->slot = w->nodes++;
    n->id = 1 + (rsim_random(w, UINT64_MAX / RSIM_NODES_MAX - 1) * RSIM_NODES_MAX + n->slot); /* unique */
    n->clock_offset_ms = 1000 + rsim_random(w, 1000000);
    n->boot_offset_ms = n->clock_offset_ms + rsim_random(w, 1000000);
    if (w->o.drift_ppm > 0)
        n->drift_ppm = (int64_t)rsim_random(w, 2 * w->o.drift_ppm) - (int64_t)w->o.drift_ppm;
    n->compact_every = 10 + rsim_random(w, 60);
    n->disk.first = 1;
    return n;
}

static void member_of(const struct rsim_node *n, enum member_role role, struct member *m)
{
    *m = (struct member){.id = n->id, .role = role};
    (void)snprintf(m->name, sizeof m->name, "n%u", n->slot);
    (void)snprintf(m->zone, sizeof m->zone, "z%u", n->slot % 3);
    (void)snprintf(m->address, sizeof m->address, "h%u:1", n->slot);
}

/* The first entry is the group's configuration, byte for byte the same on each disk. */
void rsim_found(struct rsim *w, unsigned voters)
{
    struct members m = {.count = voters};
    struct buf change = {0};
    struct record *first;

    for (unsigned i = 0; i < voters; i++)
        member_of(rsim_add_node(w), MEMBER_VOTER, &m.at[i]);
    consensus_encode(&m, &change);
    first = rsim_record((struct hash128){0, 0}, RECORD_CHANGE, 1, 1, 0, buf_head(&change), change.len);
    for (unsigned i = 0; i < voters; i++) {
        w->at[i].founder = true;
        w->at[i].disk.term = 1;
        rsim_disk_append(&w->at[i].disk, record_hold(first));
    }
    w->founding = first;
    buf_free(&change);
    for (unsigned i = 0; i < voters; i++)
        rsim_node_start(&w->at[i]);
}

static bool decode(struct rsim *w, const void *bytes, size_t n, struct members *out)
{
    if (consensus_decode(bytes, n, out))
        return true;
    rsim_violation(w, "a configuration of ours cannot be decoded");
    return false;
}

/* Of the log in memory, or of the disk if the node is down. false: none there. */
bool rsim_newest_members(const struct rsim_node *n, struct members *out, uint64_t *index)
{
    const struct rsim_base *base = n->up ? &n->base : &n->disk.base;
    uint64_t first = n->up ? n->first : n->disk.first;
    uint64_t last = n->up ? tail_last(n->tail) : rsim_disk_last(&n->disk);

    for (uint64_t i = last; i >= first && i > 0; i--) {
        const struct record *r = n->up ? rsim_log_get(n, i) : rsim_disk_get(&n->disk, i);
        const void *change;
        size_t bytes;

        CHECK(r != NULL);
        if (r->type != RECORD_CHANGE)
            continue;
        *index = i;
        change = record_change(r, &bytes);
        return decode(n->w, change, bytes, out);
    }
    *index = base->change_index;
    return base->index > 0 && decode(n->w, base->change, base->change_bytes, out);
}

/* ---- what the operator may do ---- */

static bool can_live(struct rsim *w, const struct members *m, const struct rsim_node *without)
{
    size_t alive = 0;

    for (size_t i = 0; i < m->count; i++) {
        const struct rsim_node *n = rsim_by_id(w, m->at[i].id);

        alive += m->at[i].role == MEMBER_VOTER && n != NULL && !n->lost && n != without;
    }
    return members_voters(m) > 0 && alive >= members_quorum(m);
}

static bool change(struct rsim *w, struct rsim_node *leader, const struct members *to, const char *what,
                   const struct rsim_node *whom)
{
    enum consensus_answer answer;

    if (!can_live(w, to, NULL))
        return false;
    answer = consensus_change(leader->c, to);
    TRACE(w, "%u is asked to %s %u: %d", leader->slot, what, whom->slot, (int)answer);
    if (answer == CONSENSUS_OK) {
        w->n.changes++;
        w->recent[w->recent_count++ % RSIM_RECENT] = *to;
    }
    rsim_node_settle(leader);
    return answer == CONSENSUS_OK;
}

static void add(struct rsim *w, struct rsim_node *leader, struct rsim_node *whom)
{
    struct members to = *consensus_members(leader->c);

    if (to.count >= GROUP_MAX)
        return;
    member_of(whom, MEMBER_STANDBY, &to.at[to.count++]);
    (void)change(w, leader, &to, "add", whom);
}

static void set_role(struct rsim *w, struct rsim_node *leader, struct rsim_node *whom, enum member_role role)
{
    struct members to = *consensus_members(leader->c);

    members_by_id(&to, whom->id)->role = role;
    (void)change(w, leader, &to, role == MEMBER_VOTER ? "promote" : "demote", whom);
}

static void remove_member(struct rsim *w, struct rsim_node *leader, struct rsim_node *whom)
{
    struct members to = *consensus_members(leader->c);
    struct member *m = members_by_id(&to, whom->id);
    size_t at = (size_t)(m - to.at);

    memmove(m, m + 1, (to.count - at - 1) * sizeof *m);
    to.count--;
    (void)change(w, leader, &to, "remove", whom);
}

/* Nobody in the group who has lost its disk waits for long; somebody new waits until it has caught up. */
static struct rsim_node *somebody(struct rsim *w, const struct members *m)
{
    if (rsim_chance(w, 500))
        for (size_t i = 0; i < m->count; i++) {
            struct rsim_node *n = rsim_by_id(w, m->at[i].id);

            if (n->lost || m->at[i].role == MEMBER_STANDBY)
                return n;
        }
    return &w->at[rsim_random(w, w->nodes)];
}

static void operate(struct rsim *w, struct rsim_node *leader)
{
    struct members m = *consensus_members(leader->c);
    size_t voters = members_voters(&m);
    struct rsim_node *whom;
    const struct member *as;

    if (m.count < 4 && rsim_chance(w, 300)) {
        whom = rsim_add_node(w);
        if (whom != NULL) {
            rsim_node_start(whom);
            add(w, leader, whom);
        }
        return;
    }
    whom = somebody(w, &m);
    as = members_by_id(&m, whom->id);
    if (as == NULL && !whom->lost)
        add(w, leader, whom);
    else if (as == NULL)
        return;
    else if (whom->lost)
        remove_member(w, leader, whom);
    else if (as->role == MEMBER_STANDBY && voters < VOTERS_MAX &&
             consensus_match(leader->c, whom->id) + NEAR_ENTRIES > consensus_last(leader->c))
        set_role(w, leader, whom, MEMBER_VOTER);
    else if (as->role == MEMBER_STANDBY && rsim_chance(w, 100))
        remove_member(w, leader, whom);
    else if (as->role == MEMBER_VOTER && voters > 2 && whom == leader && rsim_chance(w, 800))
        rsim_hand_over(leader, m.at[rsim_random(w, m.count)].id); /* first, it may be removed afterwards */
    else if (as->role == MEMBER_VOTER && voters > 2 && rsim_chance(w, 200))
        set_role(w, leader, whom, MEMBER_STANDBY);
    else if (as->role == MEMBER_VOTER && voters > 2 && rsim_chance(w, 500))
        remove_member(w, leader, whom);
}

/* ---- lost disks ---- */

/* Of the configurations that any log holds, and of those that may still be in a message. */
static bool can_do_without(struct rsim *w, const struct rsim_node *n)
{
    for (unsigned i = 0; i < RSIM_RECENT && i < w->recent_count; i++)
        if (!can_live(w, &w->recent[i], n))
            return false;
    for (unsigned i = 0; i < w->nodes; i++) {
        struct members m;
        uint64_t index;

        if (!w->at[i].lost && rsim_newest_members(&w->at[i], &m, &index) && !can_live(w, &m, n))
            return false;
    }
    return true;
}

/* Somebody's disk is gone for good; it comes back empty, as somebody else. */
static void lose_disk(struct rsim *w)
{
    struct rsim_node *n = &w->at[rsim_random(w, w->nodes)], *replacement;

    if (n->lost || !can_do_without(w, n))
        return;
    TRACE(w, "%u loses its disk", n->slot);
    rsim_node_crash(n);
    w->n.lost_disks++;
    n->lost = true;
    replacement = rsim_add_node(w);
    if (replacement != NULL)
        rsim_node_start(replacement);
}

/* The bug: it comes back as its old self, with what it was founded with. */
void rsim_forget_everything(struct rsim_node *n)
{
    TRACE(n->w, "%u has forgotten everything", n->slot);
    n->w->n.lost_disks++;
    rsim_disk_free(n);
    n->disk = (struct rsim_disk){.first = 1};
    if (n->founder) {
        n->disk.term = 1;
        rsim_disk_append(&n->disk, record_hold(n->w->founding));
    }
    n->ever_committed = 0;
    n->started = false;
}

void rsim_operate(struct rsim *w)
{
    struct rsim_node *leader = rsim_leader(w);

    if (w->calm)
        return;
    rsim_push(w,
              (struct rsim_event){.at_us = w->now_us + 1 + rsim_random(w, (uint64_t)w->o.election_ms * 2 * RSIM_MS),
                                  .kind = EVENT_OPERATE});
    if (rsim_chance(w, 40))
        lose_disk(w);
    else if (leader != NULL)
        operate(w, leader);
}

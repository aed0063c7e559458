/* What an administrator, or a leader that has to go, asks of the group: leadership handed over; members added,
 * removed, replaced. Machines that are looked at after every call of consensus and every LOG_STATE_MS.
 *
 *   transfer   submits stop ─▶ the target has everything (match == last) ─▶ TimeoutNow ─▶ another one leads
 *   add        STANDBY ─▶ caught up ─▶ VOTER
 *   remove     gone
 *   replace    remove the id that had the name, then add the stranger that proves it
 *
 * One configuration change at a time, each alone in its entry. It takes the index that the open batch would get, so
 * it waits until that is empty: who waits for the batch must not be answered for the change. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/log_internal.h"

enum {
    CATCH_UP_ENTRIES = 64,
    CHANGE_MS_MAX = 10 * 60 * 1000,
    MEET_MS_MAX = 5000,
    TRANSFER_COLD_MS = 300,
    YIELD_MS = 500
};

/* ---- leadership ---- */

static void transfer_end(struct log *l, bool ok, const char *why)
{
    struct transfer t = l->transfer;

    l->transfer = (struct transfer){0};
    if (t.done != NULL)
        t.done(t.arg, ok, why);
}

static bool is_name(const char *name)
{
    return name[0] != '\0' && strcmp(name, LOG_IN_SERVICE) != 0;
}

/* May it lead: the one of this name, or ("") any with a warm Valkey; cold: with any. */
static bool fits(struct log *l, const struct member *m, const char *name, bool cold)
{
    const struct known *k = known_by_id(l, m->id);

    if (m->id == l->self.id || m->role != MEMBER_VOTER || k == NULL || !k->up ||
        (is_name(name) && strcmp(m->name, name) != 0))
        return false;
    if (is_name(name))
        return true;
    if (name[0] && k->state.draining)
        return false;
    if (cold)
        return !m->log_only;
    return !m->log_only && k->state.fed_index > 0 && clock_mono_ms() - k->state_ms < LOG_STATE_OLD_MS;
}

/* Who has a warm Valkey and has everything; after a while, who has any Valkey and everything. Who is draining, last.
 */
static uint64_t best(struct log *l, const char *name, bool cold)
{
    const struct members *m = consensus_members(l->raft);
    uint64_t id = 0, fed = 0;
    bool draining = false;

    for (size_t i = 0; i < m->count; i++) {
        const struct known *k = known_by_id(l, m->at[i].id);

        if (!fits(l, &m->at[i], name, cold) || consensus_match(l->raft, m->at[i].id) != consensus_last(l->raft))
            continue;
        if (id != 0 && (k->state.draining != draining ? k->state.draining : k->state.fed_index <= fed))
            continue;
        id = m->at[i].id;
        fed = k->state.fed_index;
        draining = k->state.draining;
    }
    return id;
}

static void transfer_tick(struct log *l)
{
    struct transfer *t = &l->transfer;
    uint64_t now = clock_mono_ms();

    if (!t->active)
        return;
    if (l->raft_role != CONSENSUS_LEADER) {
        if (l->role == LOG_FOLLOWS && l->leader[0] != '\0')
            transfer_end(l, true, "");
        else if (now >= t->deadline_ms)
            transfer_end(l, false, "nobody has taken over in time");
        return;
    }
    if (t->sent && consensus_transferring(l->raft))
        return;
    t->sent = false; /* it was too early, or the target did not answer */
    if (now >= t->deadline_ms) {
        transfer_end(l, false, "no member that has everything took over in time");
        return;
    }
    t->target = best(l, t->name, t->cold && now + TRANSFER_COLD_MS >= t->deadline_ms);
    if (t->target != 0)
        t->sent = consensus_transfer(l->raft, t->target) == CONSENSUS_OK;
}

/* The others have committed our barrier, but our own disk does not take it (it is full, or slow; or we still lack the
 * data that the log begins with): we would lead for ever, and never serve. */
static void yield_tick(struct log *l)
{
    uint64_t now = clock_mono_ms(), target;

    if (l->alone || l->raft_role != CONSENSUS_LEADER || l->role == LOG_LEADS || l->lead_since_ms == 0 ||
        now < l->lead_since_ms + YIELD_MS || now < l->yield_again_ms || l->raft_committed >= l->lead_index ||
        consensus_commit(l->raft) < l->lead_index || consensus_transferring(l->raft))
        return;
    l->yield_again_ms = now + YIELD_MS;
    target = best(l, "", true);
    if (target == 0 || consensus_transfer(l->raft, target) != CONSENSUS_OK)
        return;
    diag_log(l->diag, diag_limited(&l->yields, now, 1, DIAG_WARNING),
             "This node was elected, but cannot write its log: another one is to lead");
}

bool log_may_transfer(struct log *l, const char *name, const char **why)
{
    const struct members *m = l->raft != NULL ? consensus_members(l->raft) : &l->configured;
    bool found = false;

    for (size_t i = 0; i < m->count; i++)
        found = found || fits(l, &m->at[i], name != NULL ? name : "", false);
    *why = name != NULL && is_name(name) ? "that member is not connected, or no voter"
           : name != NULL && name[0]     ? "no other member that is connected, and not drained, has a warm Valkey"
                                         : "no other member that is connected has a warm Valkey";
    return found;
}

void log_transfer(struct log *l, const char *name, uint64_t timeout_ms,
                  void (*done)(void *arg, bool ok, const char *why), void *arg)
{
    const struct members *m = l->raft != NULL ? consensus_members(l->raft) : &l->configured;
    struct members copy = *m;
    const char *why = NULL;
    bool cold = name != NULL && strcmp(name, LOG_ANYONE) == 0;

    if (cold)
        name = NULL;
    if (l->alone)
        why = "this node is alone";
    else if (l->role != LOG_LEADS)
        why = "this node does not lead";
    else if (l->transfer.active)
        why = "a hand-over is under way";
    else if (name != NULL && is_name(name) && members_by_name(&copy, name) == NULL)
        why = "there is no such member";
    else if (name != NULL && strcmp(name, l->self.name) == 0)
        why = "this node leads already";
    if (why != NULL) {
        done(arg, false, why);
        return;
    }
    l->transfer = (struct transfer){
        .active = true, .cold = cold, .deadline_ms = clock_mono_ms() + timeout_ms, .done = done, .arg = arg};
    (void)snprintf(l->transfer.name, sizeof l->transfer.name, "%s", name != NULL ? name : "");
    group_after(l);
}

/* Who hands over hears of it before the next state would be said. */
void log_tell_draining(struct log *l, bool draining)
{
    l->told.draining = draining;
    if (l->state_timer != NULL && !l->alone)
        loop_timer_once(l->state_timer, 0);
}

/* ---- membership ---- */

enum step { STEP_MEET, STEP_REMOVE, STEP_STANDBY, STEP_CATCH_UP, STEP_VOTER, STEP_END };

struct change {
    enum log_change what;
    enum step step;
    char name[MEMBER_NAME_BYTES_MAX];
    struct member newcomer;
    uint64_t match, old_id, deadline_ms, meet_until_ms, term;
    bool proposed; /* this step's configuration is on its way */
    char words[160];
    void (*done)(void *arg, bool ok, const char *why);
    void *arg;
};

static void change_end(struct log *l, bool ok, const char *why)
{
    struct change *c = l->change;

    l->change = NULL;
    diag_log(l->diag, ok ? DIAG_NOTICE : DIAG_WARNING, "Members: %s %s%s%s",
             c->what == LOG_ADD      ? "add"
             : c->what == LOG_REMOVE ? "remove"
                                     : "replace",
             c->name, ok ? ": done" : ": ", ok ? "" : why);
    if (c->done != NULL)
        c->done(c->arg, ok, why);
    free(c);
}

static void go_to(struct change *c, enum step step, const char *words)
{
    c->step = step;
    c->proposed = false;
    (void)snprintf(c->words, sizeof c->words, "%s: %s", c->name, words);
}

static void remove_id(struct members *m, uint64_t id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->at[i].id == id) {
            memmove(&m->at[i], &m->at[i + 1], (m->count - i - 1) * sizeof m->at[0]);
            m->count--;
            return;
        }
}

/* The configuration that this step wants. */
static struct members wanted(struct log *l, const struct change *c)
{
    struct members m = *consensus_members(l->raft);
    struct member *found = members_by_id(&m, c->newcomer.id);

    if (c->step == STEP_STANDBY && found == NULL && m.count < MEMBERS_MAX) {
        m.at[m.count] = c->newcomer;
        m.at[m.count++].role = MEMBER_STANDBY;
    } else if (c->step == STEP_VOTER && found != NULL) {
        found->role = MEMBER_VOTER;
    } else if (c->step == STEP_REMOVE) {
        remove_id(&m, c->old_id);
    }
    return m;
}

/* A configuration counts from when it is appended: one whose majority is away ends the service. */
static bool quorum_is_there(struct log *l, const struct members *m)
{
    uint64_t now = clock_mono_ms();
    size_t there = 0;

    for (size_t i = 0; i < m->count; i++) {
        const struct known *k = known_by_id(l, m->at[i].id);

        if (m->at[i].role == MEMBER_VOTER &&
            (m->at[i].id == l->self.id || (k != NULL && k->up && now <= k->heard_ms + LOG_STATE_OLD_MS)))
            there++;
    }
    return there >= members_quorum(m);
}

/* True once the step's configuration is committed. */
/* One voter alone is what a single node promises. A group that came down to that would go on acknowledging, in one
 * zone and on one disk, what its clients take for more. */
static bool may_be(const struct log *l, const struct members *m, char *why, size_t why_size)
{
    if (l->set.allow_single_az)
        return true;
    if (members_voters(m) > 1 || members_voters(consensus_members(l->raft)) <= 1)
        return members_safe(m, why, why_size);
    (void)snprintf(
        why, why_size,
        "a single voter would be left: what is acknowledged would be in one zone (allow-single-az yes overrules)");
    return false;
}

static bool propose(struct log *l)
{
    struct change *c = l->change;
    struct members m;
    char why[256];

    if (consensus_changing(l->raft))
        return false;
    if (c->proposed)
        return true;
    if (l->open.len > ENTRY_HEADER_BYTES) { /* its index is promised */
        l->urgent = l->waiting = true;
        (void)log_flush(l); /* and if it does, we have been here again meanwhile */
        return false;
    }
    m = wanted(l, c);
    if (!may_be(l, &m, why, sizeof why) && c->step != STEP_STANDBY) {
        change_end(l, false, why);
        return false;
    }
    if (c->step != STEP_STANDBY && !quorum_is_there(l, &m)) {
        change_end(l, false, "too few of the voters that would be left can be reached: they could commit nothing");
        return false;
    }
    switch (consensus_change(l->raft, &m)) {
    case CONSENSUS_OK:
        c->proposed = true;
        l->open_index = tail_last(l->tail) + 1;
        break;
    case CONSENSUS_REFUSED:
        change_end(l, false, "the configuration was refused");
        break;
    case CONSENSUS_BUSY:
    case CONSENSUS_NOT_LEADER:
        break;
    }
    return false;
}

/* The newcomer may have been started a moment ago. */
static void meet(struct log *l)
{
    struct change *c = l->change;
    struct members m = *consensus_members(l->raft);
    const struct known *k = known_by_name(l, c->name);
    uint64_t now = clock_mono_ms();

    if (k != NULL && now <= k->heard_ms + LOG_STATE_OLD_MS && members_by_id(&m, k->member.id) == NULL) {
        c->newcomer = k->member;
        go_to(c, c->what == LOG_ADD ? STEP_STANDBY : STEP_REMOVE, c->what == LOG_ADD ? "is added" : "is removed");
    } else if (now >= c->meet_until_ms) {
        change_end(l, false,
                   k != NULL && members_by_id(&m, k->member.id) != NULL
                       ? "it is a member, with the data directory that it had"
                       : "no node of that name is connected: start it with the same members, cluster and "
                         "certificates");
    }
}

static void catch_up(struct log *l)
{
    struct change *c = l->change;
    uint64_t match = consensus_match(l->raft, c->newcomer.id);

    if (match > c->match) /* as long as it moves there is time */
        c->deadline_ms = clock_mono_ms() + CHANGE_MS_MAX;
    c->match = match;
    if (match + CATCH_UP_ENTRIES >= consensus_last(l->raft))
        go_to(c, STEP_VOTER, "becomes a voter");
}

static void change_step(struct log *l)
{
    struct change *c = l->change;

    switch (c->step) {
    case STEP_MEET:
        meet(l);
        break;
    case STEP_STANDBY:
        if (propose(l))
            go_to(c, STEP_CATCH_UP, "gets the log");
        break;
    case STEP_CATCH_UP:
        catch_up(l);
        break;
    case STEP_VOTER:
        if (propose(l))
            go_to(c, STEP_END, "done");
        break;
    case STEP_REMOVE:
        if (propose(l))
            go_to(c, c->what == LOG_REPLACE ? STEP_STANDBY : STEP_END, "is added");
        break;
    case STEP_END:
        change_end(l, true, "");
        break;
    }
}

void change_tick(struct log *l)
{
    enum step before;

    transfer_tick(l);
    yield_tick(l);
    while (l->change != NULL) {
        if (l->role != LOG_LEADS || l->raft_term != l->change->term) {
            change_end(l, false, "leadership was lost meanwhile; look at the members and ask the new leader");
        } else if (clock_mono_ms() >= l->change->deadline_ms) {
            change_end(l, false, "it took too long");
        } else {
            before = l->change->step;
            change_step(l);
            if (l->change == NULL || l->change->step == before)
                return;
        }
    }
}

static const char *prepare(struct log *l, struct change *c)
{
    struct members m = *consensus_members(l->raft);
    struct member *member = members_by_name(&m, c->name);

    if (c->what != LOG_REMOVE && member != NULL && member->role == MEMBER_STANDBY) { /* begun by an earlier leader */
        c->newcomer = *member;
        go_to(c, STEP_CATCH_UP, "gets the log");
        return NULL;
    }
    if (c->what == LOG_ADD && member != NULL)
        return "there is a member of that name: remove or replace it";
    if (c->what != LOG_ADD && member == NULL)
        return "there is no such member";
    if (c->what != LOG_ADD && member->id == l->self.id)
        return "this node leads: hand leadership over first";
    c->old_id = member != NULL ? member->id : 0;
    c->meet_until_ms = clock_mono_ms() + MEET_MS_MAX;
    go_to(c, c->what == LOG_REMOVE ? STEP_REMOVE : STEP_MEET, c->what == LOG_REMOVE ? "is removed" : "is looked for");
    return NULL;
}

void log_change_members(struct log *l, enum log_change what, const char *name,
                        void (*done)(void *arg, bool ok, const char *why), void *arg)
{
    struct change *c;
    const char *why = NULL;

    if (l->alone)
        why = "this node is alone: name its members in the settings";
    else if (l->role != LOG_LEADS)
        why = "this node does not lead";
    else if (l->change != NULL || l->transfer.active)
        why = "another change is under way";
    if (why != NULL) {
        done(arg, false, why);
        return;
    }
    c = must_calloc(1, sizeof *c);
    *c = (struct change){.what = what, .done = done, .arg = arg, .term = l->raft_term};
    c->deadline_ms = clock_mono_ms() + CHANGE_MS_MAX;
    (void)snprintf(c->name, sizeof c->name, "%s", name);
    why = prepare(l, c);
    if (why != NULL) {
        free(c);
        done(arg, false, why);
        return;
    }
    l->change = c;
    group_after(l);
}

const char *log_members_busy(const struct log *l)
{
    if (l->transfer.active)
        return "leadership is being handed over";
    return l->change != NULL ? l->change->words : NULL;
}

void change_free(struct log *l)
{
    free(l->change);
    l->change = NULL;
}

/* A node: struct consensus_host as the store does it.
 *
 * The log in memory is the product's tail (log/tail.h), with the disk below it: after a start everything is on disk
 * and the tail is empty. What consensus asks for is done in memory at once and goes to the disk in the same order.
 * Records are the product's, too (log/record.h): sealed by whoever leads, checked by whoever receives. */
#include "tests/unit/raft_sim_world.h"

#include <inttypes.h>
#include <string.h>

static const char *const role_names[] = {"follower", "candidate", "leader"};

static uint64_t drifted_ms(const struct rsim_node *n)
{
    int64_t now = (int64_t)n->w->now_us;

    return (uint64_t)(now + now / 1000000 * n->drift_ppm + now % 1000000 * n->drift_ppm / 1000000) / RSIM_MS;
}

uint64_t rsim_clock_ms(const struct rsim_node *n)
{
    return n->clock_offset_ms + drifted_ms(n);
}

uint64_t rsim_boot_ms(const struct rsim_node *n)
{
    return n->boot_offset_ms + drifted_ms(n);
}

/* ---- the log in memory ---- */

struct record *rsim_record(struct hash128 before, enum record_type type, uint64_t index, uint64_t term,
                           uint64_t payload, const void *change, size_t change_bytes)
{
    struct buf b = {0};
    struct hash128 running;

    entry_begin(&b);
    if (type == RECORD_CHANGE)
        frame_control(&b, CONTROL_MEMBERS, change, change_bytes);
    else if (type == RECORD_BARRIER)
        frame_control(&b, CONTROL_BARRIER, NULL, 0);
    else
        frame_intent(&b, payload, 0, "*1\r\n$1\r\nx\r\n", 11);
    running = entry_seal(&b, index, term, before);
    return record_new(&b, type, index, term, running);
}

struct record *rsim_log_get(const struct rsim_node *n, uint64_t index)
{
    if (index < n->first || index > tail_last(n->tail))
        return NULL;
    return index >= tail_first(n->tail) ? tail_get(n->tail, index) : rsim_disk_get(&n->disk, index);
}

bool rsim_log_at(const struct rsim_node *n, uint64_t index, uint64_t *term, struct hash128 *running)
{
    const struct record *r = rsim_log_get(n, index);

    *term = r != NULL ? r->term : index == n->base.index ? n->base.term : 0;
    *running = r != NULL ? r->running : n->base.running;
    return r != NULL || index == n->base.index;
}

bool rsim_log_same(const struct rsim_node *n, uint64_t index, uint64_t term, struct hash128 running)
{
    struct hash128 ours;
    uint64_t our_term;

    return rsim_log_at(n, index, &our_term, &ours) && our_term == term && ours.low == running.low &&
           ours.high == running.high;
}

/* ---- struct consensus_host ---- */

static uint64_t host_now_ms(void *arg)
{
    return rsim_clock_ms(arg);
}

static uint64_t host_boot_ms(void *arg)
{
    return rsim_boot_ms(arg);
}

static void tell_early(struct rsim_node *n, unsigned hard_states, const struct record *r)
{
    struct rsim_done *d = must_calloc(1, sizeof *d + sizeof d->persisted[0]);

    d->hard_states = hard_states;
    if (r != NULL) {
        d->count = 1;
        d->persisted[0].index = r->index;
        d->persisted[0].term = r->term;
    }
    rsim_push(
        n->w,
        (struct rsim_event){
            .at_us = n->w->now_us, .kind = EVENT_DURABLE, .to = n->slot, .incarnation = n->incarnation, .done = d});
}

static void host_hard_state(void *arg, uint64_t term, uint64_t vote)
{
    struct rsim_node *n = arg;

    TRACE(n->w, "%u term %" PRIu64 " vote %" PRIx64, n->slot, term, vote);
    rsim_disk_ask(n, (struct rsim_write){.kind = WRITE_HARD_STATE, .term = term, .vote = vote});
    rsim_at_risk(n, 50);
    if (n->w->plan->bug == RSIM_VOTE_FORGOTTEN)
        tell_early(n, 1, NULL);
}

static void host_cut(void *arg, uint64_t index)
{
    struct rsim_node *n = arg;
    struct hash128 before = {0, 0};
    uint64_t term;

    TRACE(n->w, "%u cuts from %" PRIu64 " (last %" PRIu64 ")", n->slot, index, tail_last(n->tail));
    rsim_check_cut(n, index);
    if (index == 0 || index > tail_last(n->tail)) {
        rsim_violation(n->w, "node %u is to cut from %" PRIu64 ", its log ends with %" PRIu64, n->slot, index,
                       tail_last(n->tail));
        return;
    }
    n->w->n.entries_cut += tail_last(n->tail) - index + 1;
    if (index > 1 && !rsim_log_at(n, index - 1, &term, &before)) {
        rsim_violation(n->w, "node %u is to cut from %" PRIu64 ", below its log", n->slot, index);
        return;
    }
    tail_cut(n->tail, index, before);
    n->change_seen = true;
    rsim_disk_ask(n, (struct rsim_write){.kind = WRITE_CUT, .index = index});
}

/* A record that was made by another goes into the chain only where it belongs. */
static bool fits(struct rsim_node *n, const struct consensus_entry *e)
{
    struct entry_view view;
    const struct record *r = e->record;

    if (e->index != tail_last(n->tail) + 1) {
        rsim_violation(n->w, "node %u is to append %" PRIu64 " after %" PRIu64, n->slot, e->index,
                       tail_last(n->tail));
        return false;
    }
    if (r == NULL)
        return true;
    if (r->index != e->index || r->term != e->term || r->type != e->type) {
        rsim_violation(n->w, "node %u is to append a record of another entry at %" PRIu64, n->slot, e->index);
        return false;
    }
    if (entry_open(buf_head(&r->bytes), r->bytes.len, r->index, tail_running(n->tail), &view) != ENTRY_OK) {
        rsim_violation(n->w, "node %u is to append %" PRIu64 ", which does not chain with its log", n->slot,
                       e->index);
        return false;
    }
    return true;
}

static void host_append(void *arg, const struct consensus_entry *e)
{
    struct rsim_node *n = arg;
    struct record *r = e->record;

    if (n->w->failed || !fits(n, e))
        return;
    if (r != NULL)
        (void)record_hold(r);
    else
        r = rsim_record(tail_running(n->tail), e->type, e->index, e->term, 0, e->change, e->change_bytes);
    if (e->type == RECORD_CHANGE) {
        n->change_seen = true;
        TRACE(n->w, "%u appends a change at %" PRIu64, n->slot, e->index);
        rsim_at_risk(n, 50);
    }
    tail_append(n->tail, r);
    rsim_disk_ask(n, (struct rsim_write){.kind = WRITE_APPEND, .record = record_hold(r)});
    if (n->w->plan->bug == RSIM_ACK_EARLY)
        tell_early(n, 0, r);
}

static uint64_t host_term_at(void *arg, uint64_t index)
{
    struct hash128 running;
    uint64_t term;

    return index > 0 && rsim_log_at(arg, index, &term, &running) ? term : 0;
}

static void host_send(void *arg, const struct peer_message *m)
{
    rsim_check_send(arg, m);
    rsim_send(arg, m);
}

static void host_committed(void *arg, uint64_t index)
{
    struct rsim_node *n = arg;

    if (n->w->plan->bug != RSIM_NO_QUORUM || index > n->committed)
        rsim_check_committed(n, index);
}

static void host_role(void *arg, enum consensus_role role, uint64_t term, uint64_t leader)
{
    struct rsim_node *n = arg;

    TRACE(n->w, "%u is %s in %" PRIu64 ", leader %" PRIx64, n->slot, role_names[role], term, leader);
    rsim_check_role(n, role, term);
    if (role == CONSENSUS_LEADER)
        rsim_at_risk(n, 50);
}

static void host_members(void *arg, const struct members *m, bool committed)
{
    struct rsim_node *n = arg;

    TRACE(n->w, "%u has %zu members, %zu voters%s", n->slot, m->count, members_voters(m),
          committed ? ", committed" : "");
    n->change_seen = true;
}

static void host_need_snapshot(void *arg, uint64_t leader, uint64_t last_index)
{
    struct rsim_node *n = arg;

    TRACE(n->w, "%u needs a snapshot of %" PRIx64 ", %" PRIu64 " or later", n->slot, leader, last_index);
    rsim_fetch(n, leader);
}

static void host_install(void *arg, uint64_t index, uint64_t term)
{
    struct rsim_node *n = arg;
    struct rsim_letter *l = n->fetched;

    TRACE(n->w, "%u installs %" PRIu64 " of term %" PRIu64 " (last %" PRIu64 ")", n->slot, index, term,
          tail_last(n->tail));
    if (l == NULL || l->base->index != index || l->base->term != term) {
        rsim_violation(n->w, "node %u is to install another snapshot than was given", n->slot);
        return;
    }
    rsim_check_install(n, l->base);
    n->fetched = NULL;
    n->base = *l->base;
    n->installing = n->change_seen = true;
    n->first = index + 1; /* what comes with it is read when it is on disk */
    tail_reset(n->tail, index + 1, n->base.running);
    n->w->n.installs++;
    rsim_disk_ask(n, (struct rsim_write){.kind = WRITE_INSTALL, .snapshot = l});
    rsim_at_risk(n, 50);
}

static void host_failed(void *arg, const char *why)
{
    struct rsim_node *n = arg;

    rsim_violation(n->w, "node %u: %s", n->slot, why);
}

static const struct consensus_host host = {
    .now_ms = host_now_ms,
    .boot_ms = host_boot_ms,
    .hard_state = host_hard_state,
    .cut = host_cut,
    .append = host_append,
    .term_at = host_term_at,
    .send = host_send,
    .committed = host_committed,
    .role = host_role,
    .members = host_members,
    .need_snapshot = host_need_snapshot,
    .install = host_install,
    .failed = host_failed,
};

/* ---- life ---- */

/* What the log holds, for consensus_start(); the caller frees it. */
static struct consensus_entry *entries_of(const struct rsim_disk *d)
{
    struct consensus_entry *all = must_calloc(d->count + 1, sizeof *all);

    for (size_t i = 0; i < d->count; i++) {
        struct record *r = d->at[i];

        all[i] = (struct consensus_entry){.index = r->index, .term = r->term, .type = r->type};
        if (r->type == RECORD_CHANGE)
            all[i].change = record_change(r, &all[i].change_bytes);
    }
    return all;
}

void rsim_node_start(struct rsim_node *n)
{
    struct rsim *w = n->w;
    struct rsim_disk *d = &n->disk;
    bool careless = w->plan->bug == RSIM_LEASE_LONG;
    struct consensus_settings settings = {.id = n->id,
                                          .election_ms = w->o.election_ms,
                                          .heartbeat_ms = w->o.heartbeat_ms,
                                          .lease_margin_percent = careless ? 0 : 10,
                                          .seed = (unsigned)rsim_random(w, UINT32_MAX),
                                          .restarted = n->started && !careless};
    struct consensus_entry *entries = entries_of(d);
    struct consensus_start start = {.term = d->term,
                                    .vote = d->vote,
                                    .base = {.index = d->base.index,
                                             .term = d->base.term,
                                             .change_index = d->base.change_index,
                                             .change = d->base.change,
                                             .change_bytes = d->base.change_bytes},
                                    .first = d->first,
                                    .entries = entries,
                                    .count = d->count};

    TRACE(w, "%u starts: term %" PRIu64 ", log %" PRIu64 "..%" PRIu64 ", base %" PRIu64, n->slot, d->term, d->first,
          rsim_disk_last(d), d->base.index);
    n->up = n->started = n->change_seen = true;
    n->incarnation++;
    n->first = d->first;
    n->base = d->base;
    n->committed = 0;
    n->installing = n->campaign_wanted = n->fetching = false;
    n->tick_us = n->campaign_until_us = n->paused_until_us = 0;
    n->tail = tail_new(rsim_disk_last(d) + 1, d->count > 0 ? d->at[d->count - 1]->running : d->base.running);
    n->hand_over_to = 0;
    n->c = consensus_new(&settings, &host, n);
#ifdef CONSENSUS_GUARDS
    consensus_without(n->c, w->plan->without);
#endif
    consensus_start(n->c, &start);
    free(entries);
    rsim_node_settle(n);
}

void rsim_node_crash(struct rsim_node *n)
{
    if (!n->up)
        return;
    TRACE(n->w, "%u crashes", n->slot);
    n->up = false;
    n->incarnation++;
    n->w->n.crashes++;
    consensus_free(n->c);
    tail_free(n->tail);
    n->c = NULL;
    n->tail = NULL;
    rsim_disk_crash(n);
}

void rsim_node_free(struct rsim_node *n)
{
    if (n->up) {
        consensus_free(n->c);
        tail_free(n->tail);
    }
    rsim_disk_free(n);
    free(n->votes);
}

/* ---- its loop ---- */

static void schedule(struct rsim_node *n)
{
    uint64_t due = consensus_due_ms(n->c), now = rsim_clock_ms(n), at;

    at = n->w->now_us + (due > now ? (due - now) * RSIM_MS : 0);
    if (n->tick_us != 0 && n->tick_us <= at)
        return;
    n->tick_us = at > 0 ? at : 1;
    rsim_push(n->w, (struct rsim_event){.at_us = at + rsim_random(n->w, RSIM_MS),
                                        .kind = EVENT_TICK,
                                        .to = n->slot,
                                        .incarnation = n->incarnation,
                                        .number = ++n->tick_serial});
}

/* Now and then what is committed goes into a snapshot, and the log is truncated behind it. */
static void compact(struct rsim_node *n)
{
    struct rsim_base *base;
    struct buf change = {0};
    uint64_t index, change_index, first;

    if (n->installing || n->committed < n->base.index + n->compact_every)
        return;
    index = n->base.index + 1 + rsim_random(n->w, n->committed - n->base.index);
    change_index = consensus_committed_change(n->c, &change);
    first = index + 1 > n->w->o.trail ? index + 1 - n->w->o.trail : 1;
    if (first < n->first)
        first = n->first;
    base = must_calloc(1, sizeof *base);
    base->index = index;
    CHECK(rsim_log_at(n, index, &base->term, &base->running));
    base->change_index = change_index;
    base->change_bytes = change.len;
    CHECK(change.len <= sizeof base->change);
    memcpy(base->change, buf_head(&change), change.len);
    buf_free(&change);
    if (change_index > index || !consensus_compact(n->c, index, first)) {
        free(base);
        return;
    }
    TRACE(n->w, "%u compacts: base %" PRIu64 ", log from %" PRIu64, n->slot, index, first);
    n->w->n.compactions++;
    n->base = *base;
    n->first = first;
    rsim_disk_ask(n, (struct rsim_write){.kind = WRITE_COMPACT, .index = first, .base = base});
    rsim_at_risk(n, 1);
}

void rsim_node_settle(struct rsim_node *n)
{
    if (n->w->failed)
        return;
    compact(n);
    if (n->hand_over_to != 0)
        rsim_try_hand_over(n);
    if (n->campaign_wanted) {
        n->campaign_wanted = false;
        n->campaign_until_us = n->w->now_us + (uint64_t)n->w->o.election_ms * 2 * RSIM_MS;
        consensus_campaign_first(n->c, true);
    } else if (n->campaign_until_us != 0 && n->campaign_until_us <= n->w->now_us) {
        n->campaign_until_us = 0;
        consensus_campaign_first(n->c, false);
    }
    schedule(n);
    rsim_check_node(n);
}

void rsim_node_tick(struct rsim_node *n, unsigned serial)
{
    if (serial != n->tick_serial)
        return;
    n->tick_us = 0;
    if (consensus_due_ms(n->c) <= rsim_clock_ms(n))
        consensus_tick(n->c);
    rsim_node_settle(n);
}

static void persisted(struct rsim_node *n, uint64_t index, uint64_t term)
{
    const struct record *r = tail_get(n->tail, index);

    if (r != NULL && r->term == term && rsim_disk_last(&n->disk) >= index)
        tail_durable(n->tail, index);
    consensus_persisted(n->c, index, term);
    if (n->w->plan->bug == RSIM_NO_QUORUM && consensus_role(n->c) == CONSENSUS_LEADER && index > n->committed &&
        tail_last(n->tail) >= index)
        rsim_check_committed(n, index);
}

void rsim_node_durable(struct rsim_node *n, const struct rsim_done *d)
{
    for (unsigned i = 0; i < d->hard_states; i++)
        consensus_hard_state_durable(n->c);
    if (d->installed) {
        n->installing = false;
        n->first = n->disk.first;
        consensus_installed(n->c);
    }
    for (size_t i = 0; i < d->count && !n->w->failed; i++)
        persisted(n, d->persisted[i].index, d->persisted[i].term);
    rsim_node_settle(n);
}

void rsim_node_submit(struct rsim_node *n, unsigned count)
{
    for (unsigned i = 0; i < count && n->hand_over_to == 0 && !n->w->failed; i++) {
        struct record *r;
        enum consensus_answer answer;

        if (consensus_role(n->c) != CONSENSUS_LEADER)
            break;
        r = rsim_record(tail_running(n->tail), RECORD_COMMAND, tail_last(n->tail) + 1, consensus_term(n->c),
                        ++n->w->payload, NULL, 0);
        answer = consensus_submit(n->c, r, n->w->o.window);
        record_drop(r);
        if (answer != CONSENSUS_OK)
            break;
    }
    rsim_node_settle(n);
}

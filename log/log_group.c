/* Consensus' host: what raft_step() wants done is done here, and what has come of it is told to the owner.
 *
 *   peers, writer, timer, door ─▶ consensus_*() ─▶ on_append, on_send, on_role ... (note, or pass on)
 *                              └▶ group_after()  ─▶ lead / lost / follow, then committed, one by one
 *
 * Consensus' callbacks only note: nothing of the owner runs inside of raft_step(). group_after() comes after every
 * call and tells what has changed, in an order that the owner can rely on:
 *
 *   1. roles before commits: entries of another leader are never reported to one who believes to lead;
 *   2. commits before lead(): what a new leader makes of the log's end must be made of all of it;
 *   3. but lead(same) before the commit of the barrier that made it true: the barrier has taken the index that the
 *      open batch had (see open_index), and who waits for that batch must not be answered for the barrier.
 *
 * We lead, for the owner, once the barrier is committed: then all that earlier leaders have committed is here. And
 * once our wall clock is not behind the one that the leader before us has told, or clock-skew-max has passed: a key
 * that was seen expired must not come back. A clock that is wrong by hours must not stop the group, though. */
#include "log/log_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"

enum { HEARTBEATS_PER_ELECTION = 10, LEASE_MARGIN_PERCENT = 20 };

/* ---- entries ---- */

struct record *group_seal(struct log *l, struct buf *batch, enum record_type type, uint64_t index, uint64_t term)
{
    struct hash128 running;

    CHECK(index == tail_last(l->tail) + 1);
    running = entry_seal(batch, index, term, tail_running(l->tail));
    return record_new(batch, type, index, term, running);
}

static void append_own(struct log *l, const struct consensus_entry *e)
{
    struct buf batch = {0};

    entry_begin(&batch);
    frame_control(&batch, e->type == RECORD_CHANGE ? CONTROL_MEMBERS : CONTROL_BARRIER, e->change, e->change_bytes);
    CHECK(!batch.failed);
    tail_append(l->tail, group_seal(l, &batch, e->type, e->index, e->term));
}

uint64_t group_names_base(const struct entry_view *e)
{
    struct cursor frames = e->frames;
    struct frame_view f;

    while (frame_next(&frames, &f))
        if (f.kind == FRAME_CONTROL && f.control == CONTROL_BASE)
            return cursor_varint(&f.body);
    return 0;
}

/* From a leader. That our logs agree up to here is Raft's promise; the running hash says whether it was kept. */
static void append_foreign(struct log *l, const struct consensus_entry *e)
{
    struct entry_view view;
    char why[LOG_WHY_BYTES];
    uint64_t base;
    enum entry_error error =
        entry_open(buf_head(&e->record->bytes), e->record->bytes.len, e->index, tail_running(l->tail), &view);

    l->foreign = true;
    if (error != ENTRY_OK) {
        (void)snprintf(why, sizeof why, "entry %llu from the leader does not continue our log: %s",
                       (unsigned long long)e->index, entry_error_text(error));
        log_fail(l, why);
        return;
    }
    tail_append(l->tail, record_hold(e->record));
    if (e->type == RECORD_COMMAND && (base = group_names_base(&view)) != 0)
        fetch_base(l, e->index, base);
}

static void on_append(void *arg, const struct consensus_entry *e)
{
    struct log *l = arg;

    if (l->writing == WRITE_FAILED)
        return;
    if (e->record == NULL)
        append_own(l, e);
    else if (l->submitting)
        tail_append(l->tail, record_hold(e->record));
    else
        append_foreign(l, e);
}

static void on_cut(void *arg, uint64_t index)
{
    struct log *l = arg;

    if (index > tail_last(l->tail) || l->writing == WRITE_FAILED)
        return;
    diag_log(l->diag, DIAG_NOTICE, "Entries %llu to %llu, never committed, are replaced by the leader's",
             (unsigned long long)index, (unsigned long long)tail_last(l->tail));
    l->foreign = true;
    if (l->base_wait >= index)
        l->base_wait = 0;
    write_cut(l, index);
}

uint64_t group_term_at(struct log *l, uint64_t index)
{
    const struct record *r = tail_get(l->tail, index);
    struct hash128 running;
    uint64_t term = 0;

    if (r != NULL)
        return r->term;
    if (index > tail_last(l->tail))
        return 0; /* the disk may still have one that was cut */
    return store_at(l->store, index, &term, &running) ? term : 0;
}

static uint64_t on_term_at(void *arg, uint64_t index)
{
    return group_term_at(arg, index);
}

/* ---- messages ---- */

static void on_send(void *arg, const struct peer_message *m)
{
    struct log *l = arg;
    struct peer_message copy = *m;

    copy.wall_ms = clock_wall_ms();
    if (l->peers != NULL)
        peers_send(l->peers, &copy);
}

/* A disk that is full or does not answer: what the leader sends is heard, but its entries wait with him. */
static bool may_take(const struct log *l)
{
    return tail_bytes(l->tail) <= (uint64_t)TAIL_BYTES_MAX + LOG_WAITING_BYTES_MAX;
}

void group_message(struct log *l, const struct peer_message *message, struct record **records)
{
    struct peer_message copy = *message, *m = &copy;
    struct consensus_entry *entries;
    size_t count;

    if (l->raft == NULL || l->writing == WRITE_FAILED)
        return;
    if (m->kind == PEER_APPEND && !may_take(l))
        m->append.count = 0;
    count = m->kind == PEER_APPEND ? m->append.count : 0;
    entries = must_calloc(count + 1, sizeof *entries);
    for (size_t i = 0; i < count; i++) {
        entries[i] = (struct consensus_entry){
            .index = records[i]->index, .term = records[i]->term, .type = records[i]->type, .record = records[i]};
        if (records[i]->type == RECORD_CHANGE)
            entries[i].change = record_change(records[i], &entries[i].change_bytes);
    }
    consensus_receive(l->raft, m, entries);
    if (m->kind == PEER_APPEND && m->peer == consensus_leader(l->raft) && m->wall_ms > l->clock_heard_ms)
        l->clock_heard_ms = m->wall_ms;
    free(entries);
    group_after(l);
}

struct reading {
    struct record **out;
    size_t count, max;
};

static bool take_raw(void *arg, uint64_t index, const void *bytes, size_t n)
{
    struct reading *r = arg;
    struct entry_view e;
    struct buf copy = {0};

    if (entry_check(bytes, n, &e) != ENTRY_OK || e.index != index)
        return false;
    buf_append(&copy, bytes, n);
    CHECK(!copy.failed);
    r->out[r->count++] = record_new(&copy, entry_type(&e), index, e.term, e.running);
    return r->count < r->max;
}

size_t group_records(struct log *l, const struct peer_message *m, uint64_t from, size_t max, size_t bytes_max,
                     struct record **out)
{
    struct reading read = {.out = out, .max = max};
    char why[LOG_WHY_BYTES];
    struct record *r;
    size_t bytes = 0;
    uint64_t last = tail_first(l->tail) - 1; /* what the disk has behind that may be about to be cut */

    if (l->raft == NULL || m->term != l->raft_term || l->raft_role != CONSENSUS_LEADER || from < log_first_index(l))
        return 0;
    while (read.count < max && bytes < bytes_max && (r = tail_get(l->tail, from + read.count)) != NULL) {
        out[read.count++] = record_hold(r);
        bytes += r->bytes.len;
    }
    if (read.count > 0 || from > last || l->writing == WRITE_FAILED)
        return read.count;
    if (store_read_raw(l->store, from, last, bytes_max, take_raw, &read, why) == STORE_BROKEN)
        log_fail(l, why);
    return read.count;
}

/* ---- what else consensus says ---- */

static uint64_t on_now_ms(void *arg)
{
    (void)arg;
    return clock_mono_ms(); /* not the turn's: a follower's promise counts from when it has read the message */
}

static uint64_t on_boot_ms(void *arg)
{
    (void)arg;
    return clock_boot_ms();
}

static void on_hard_state(void *arg, uint64_t term, uint64_t vote)
{
    write_hard(arg, term, vote);
}

static void on_committed(void *arg, uint64_t index)
{
    struct log *l = arg;

    if (index > l->raft_committed)
        l->raft_committed = index;
}

static void on_role(void *arg, enum consensus_role role, uint64_t term, uint64_t leader)
{
    struct log *l = arg;

    if (role != CONSENSUS_LEADER || term != l->raft_term)
        l->lead_since_ms = 0;
    l->raft_role = role;
    l->raft_term = term;
    l->raft_leader = leader;
}

/* On each node, once for each set: also when a change that was not committed is taken back. */
static void say_members(struct log *l, const struct members *m)
{
    char text[sizeof l->members_said];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < m->count && n < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s%s%s", i > 0 ? ", " : "", m->at[i].name,
                              m->at[i].role == MEMBER_VOTER ? "" : " (standby)",
                              m->at[i].log_only ? " (log-only)" : "");
    if (l->alone || strcmp(text, l->members_said) == 0)
        return;
    (void)snprintf(l->members_said, sizeof l->members_said, "%s", text);
    diag_log(l->diag, DIAG_NOTICE, "Members of the group, as the log says: %s", text);
}

static void on_members(void *arg, const struct members *m, bool committed)
{
    struct log *l = arg;

    (void)committed;
    say_members(l, m);
    l->members_changed = true;
}

static void on_need_snapshot(void *arg, uint64_t leader, uint64_t last_index)
{
    fetch_wanted(arg, leader, last_index);
}

static void on_install(void *arg, uint64_t index, uint64_t term)
{
    struct log *l = arg;
    const struct store_install *i = &l->install.store;

    (void)term;
    CHECK(i->base != NULL && i->base->index == index);
    l->install.ready = true;
    l->foreign = true;
    l->base_wait = 0;
    tail_reset(l->tail, index + 1, i->count > 0 ? i->records[i->count - 1]->running : i->before);
    l->handed = l->durable = index;
    l->cut_wanted = 0;
}

static void on_raft_failed(void *arg, const char *why)
{
    log_fail(arg, why);
}

static const struct consensus_host host = {.now_ms = on_now_ms,
                                           .boot_ms = on_boot_ms,
                                           .hard_state = on_hard_state,
                                           .cut = on_cut,
                                           .append = on_append,
                                           .term_at = on_term_at,
                                           .send = on_send,
                                           .committed = on_committed,
                                           .role = on_role,
                                           .members = on_members,
                                           .need_snapshot = on_need_snapshot,
                                           .install = on_install,
                                           .failed = on_raft_failed};

/* ---- telling the owner ---- */

static bool may_lead(struct log *l)
{
    if (l->raft_role != CONSENSUS_LEADER || l->role == LOG_LEADS)
        return false;
    if (l->lead_since_ms == 0) {
        l->lead_since_ms = clock_mono_ms();
        l->lead_index = consensus_last(l->raft); /* with the barrier, if there is one */
    }
    return l->raft_committed >= l->lead_index && group_clock_is_past(l);
}

static void tell_lead(struct log *l)
{
    bool same = l->led && !l->foreign;

    l->role = LOG_LEADS;
    l->led = true;
    l->foreign = false;
    (void)snprintf(l->leader, sizeof l->leader, "%s", l->self.name);
    if (!same)
        log_drop_open(l);
    l->open_index = tail_last(l->tail) + 1;
    if (l->sync_open)
        return;
    consensus_campaign_first(l->raft, false);
    diag_log(l->diag, DIAG_NOTICE, "This node leads in term %llu from entry %llu on%s",
             (unsigned long long)l->raft_term, (unsigned long long)l->open_index, same ? ", as it did before" : "");
    if (l->events->lead != NULL)
        l->events->lead(l->arg, same, l->open_index);
}

static void tell_lost(struct log *l)
{
    const char *why = l->transfer.active ? "another one is to" : "a majority of the members does not answer";

    l->role = LOG_LOST;
    l->leader[0] = '\0';
    consensus_campaign_first(l->raft, true);
    diag_log(l->diag, l->transfer.active ? DIAG_NOTICE : DIAG_WARNING, "This node leads no longer: %s", why);
    if (l->events->lost != NULL)
        l->events->lost(l->arg, why);
}

static const char *leader_name(struct log *l)
{
    const struct members *m = consensus_members(l->raft);
    const struct known *k = known_by_id(l, l->raft_leader);

    for (size_t i = 0; i < m->count; i++)
        if (m->at[i].id == l->raft_leader)
            return m->at[i].name;
    return k != NULL ? k->member.name : "";
}

static bool follows_another(struct log *l)
{
    const char *name = l->raft_leader == l->self.id ? "" : leader_name(l);

    if (l->raft_role == CONSENSUS_LEADER ||
        (l->role != LOG_FOLLOWS && (l->raft_leader == 0 || l->raft_leader == l->self.id)))
        return false;
    return l->role != LOG_FOLLOWS || strcmp(name, l->leader) != 0;
}

static void tell_follow(struct log *l)
{
    bool stepped_down = l->role != LOG_FOLLOWS;

    l->role = LOG_FOLLOWS;
    l->led = l->foreign = false;
    (void)snprintf(l->leader, sizeof l->leader, "%s", l->raft_leader == l->self.id ? "" : leader_name(l));
    diag_log(l->diag, DIAG_NOTICE,
             l->leader[0] ? "Node %s leads in term %llu%s" : "%sNo leader is known in term %llu%s", l->leader,
             (unsigned long long)l->raft_term, stepped_down ? ": this node steps down" : "");
    if (l->events->follow != NULL)
        l->events->follow(l->arg, l->leader);
    if (stepped_down)
        log_drop_open(l); /* after the owner has had the chance to say what is lost */
    l->submitted_count = 0;
    consensus_campaign_first(l->raft, false);
}

static bool tell_committed(struct log *l)
{
    uint64_t to = l->raft_committed;

    if (l->role == LOG_LOST && to >= l->open_index) /* the barrier that may make us lead again */
        to = l->open_index - 1;
    if (to <= l->committed)
        return false;
    l->committed = to;
    log_committed_to(l, to);
    if (!l->sync_open)
        l->events->committed(l->arg, to);
    return true;
}

static bool tell_members(struct log *l)
{
    if (!l->members_changed)
        return false;
    l->members_changed = false;
    peers_follow(l);
    if (l->events->members != NULL && !l->sync_open)
        l->events->members(l->arg);
    return true;
}

static bool tell_one(struct log *l)
{
    if (l->writing == WRITE_FAILED || (l->sync_open && !l->alone)) /* whoever opens us does not have us yet */
        return false;
    if (may_lead(l)) {
        if (l->role == LOG_LOST && l->foreign)
            tell_follow(l); /* another one led, too shortly for its name to reach us */
        else if (l->role == LOG_LOST || !tell_committed(l))
            tell_lead(l);
        return true;
    }
    if (l->role == LOG_LEADS && l->raft_role != CONSENSUS_LEADER) {
        tell_lost(l);
        return true;
    }
    if (follows_another(l)) {
        tell_follow(l);
        return true;
    }
    return tell_committed(l) || tell_members(l);
}

/* ---- time ---- */

static void arm(struct log *l)
{
    uint64_t due = consensus_due_ms(l->raft), now = clock_mono_ms();

    if (l->alone || l->writing == WRITE_FAILED || (l->raft_due_ms != 0 && l->raft_due_ms <= due))
        return;
    l->raft_due_ms = due;
    loop_timer_once(l->raft_timer, due > now ? due - now : 0);
}

static void on_raft_timer(void *arg)
{
    struct log *l = arg;

    l->raft_due_ms = 0;
    if (l->raft == NULL || l->writing == WRITE_FAILED)
        return;
    if (clock_mono_ms() >= consensus_due_ms(l->raft))
        consensus_tick(l->raft);
    group_after(l);
}

void group_after(struct log *l)
{
    if (l->delivering || l->raft == NULL)
        return;
    l->delivering = true;
    while (tell_one(l))
        continue;
    l->delivering = false;
    arm(l);
    change_tick(l);
    write_more(l);
}

/* ---- the start ---- */

void group_start(struct log *l, const struct consensus_start *s, bool restarted)
{
    struct consensus_settings settings = {.id = l->self.id,
                                          .election_ms = l->set.election_ms,
                                          .heartbeat_ms = l->set.election_ms / HEARTBEATS_PER_ELECTION,
                                          .lease_margin_percent = LEASE_MARGIN_PERCENT,
                                          .seed = (unsigned)(l->self.id ^ clock_mono_us()),
                                          .restarted = restarted};

    CHECK(l->raft == NULL);
    l->raft = consensus_new(&settings, &host, l);
    l->raft_timer = loop_timer_new(l->loop, on_raft_timer, l);
    l->committed = s->base.index;
    consensus_start(l->raft, s);
    group_after(l);
}

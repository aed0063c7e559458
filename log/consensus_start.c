/* Where a consensus begins and ends; see consensus.h.
 *
 *     consensus_new()    settings; libraft's own set, the rest zeroed
 *     consensus_start()  term, vote, base and entries of the disk ─▶ RAFT_START ─▶ follower
 *                            └─ the only voter ─▶ leader at once, in a term of its own (ONE TERM, ONE LEADER)
 *     consensus_free()
 *
 * Restarted: no vote requests are answered for one election timeout, since libraft has forgotten its leader, and the
 * first campaign is one more timeout away (consensus_patient()). */
#include <string.h>

#include "log/base/diag.h"
#include "log/consensus_internal.h"

#ifdef CONSENSUS_GUARDS
const char *const consensus_guards[] = {"split",         "prev",     "install", "stale-result", "timer", "commit",
                                        "configuration", "rejected", "hint",    "window",       NULL};

void consensus_without(struct consensus *c, const char *guard)
{
    c->without = -1;
    for (int i = 0; consensus_guards[i] != NULL; i++)
        if (guard != NULL && strcmp(consensus_guards[i], guard) == 0)
            c->without = i;
}

struct raft *consensus_raft(struct consensus *c)
{
    return &c->raft;
}
#endif

struct consensus *consensus_new(const struct consensus_settings *s, const struct consensus_host *h, void *arg)
{
    struct consensus *c = must_calloc(1, sizeof *c);

    CHECK(s->id > 0 && s->election_ms >= 2 && s->heartbeat_ms > 0 && s->lease_margin_percent < 100);
    c->set = *s;
    c->host = *h;
    c->arg = arg;
    c->contact.self = s->id;
    c->contact.election_ms = s->election_ms;
    c->contact.margin_percent = s->lease_margin_percent;
#ifdef CONSENSUS_GUARDS
    c->without = -1;
#endif
    /* T1: raft_init() leaves fields unset; they are zero here. */
    CHECK(raft_init(&c->raft, NULL, NULL, s->id, "self") == 0);
    c->raft.tracer = NULL; /* else each step formats a line of trace */
    raft_seed(&c->raft, s->seed);
    raft_set_election_timeout(&c->raft, s->election_ms);
    raft_set_heartbeat_timeout(&c->raft, s->heartbeat_ms);
    raft_set_install_snapshot_timeout(&c->raft, SNAPSHOT_RETRY_MS);
    raft_set_max_inflight_entries(&c->raft, INFLIGHT_ENTRIES_MAX);
    raft_set_pre_vote(&c->raft, true);
    return c;
}

void consensus_free(struct consensus *c)
{
    if (c == NULL)
        return;
    raft_close(&c->raft, NULL);
    if (c->installing)
        raft_configuration_close(&c->install.configuration);
    free(c->scratch);
    free(c);
}

/* The newest configuration of what is stored; also checks all of them. false: one is damaged. */
static bool stored_members(const struct consensus_start *s, struct members *out)
{
    memset(out, 0, sizeof *out);
    if (s->base.index != 0 && !consensus_decode(s->base.change, s->base.change_bytes, out))
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (s->entries[i].type == RECORD_CHANGE &&
            !consensus_decode(s->entries[i].change, s->entries[i].change_bytes, out))
            return false;
    return s->count == 0 || s->base.index != 0 || s->entries[0].type == RECORD_CHANGE;
}

static bool is_only_voter(const struct members *m, uint64_t id)
{
    bool voter = false;

    for (size_t i = 0; i < m->count; i++)
        voter |= m->at[i].id == id && m->at[i].role == MEMBER_VOTER;
    return voter && members_voters(m) == 1;
}

static struct raft_entry *start_entries(const struct consensus_start *s, void *token)
{
    struct raft_entry *es = raft_calloc(s->count + 1, sizeof *es);

    CHECK(es != NULL);
    for (size_t i = 0; i < s->count; i++) {
        const struct consensus_entry *e = &s->entries[i];

        es[i] = (struct raft_entry){.term = e->term, .type = (enum raft_entry_type)e->type, .batch = token};
        if (e->type == RECORD_CHANGE)
            es[i].buf = (struct raft_buffer){(void *)(uintptr_t)e->change, e->change_bytes};
    }
    return es;
}

void consensus_start(struct consensus *c, const struct consensus_start *s)
{
    struct raft_event ev = {.type = RAFT_START};
    struct raft_snapshot_metadata base = {.index = s->base.index, .term = s->base.term};
    struct raft_buffer bytes = {(void *)(uintptr_t)s->base.change, s->base.change_bytes};
    struct members stored;
    void *token = raft_malloc(1);
    uint64_t last = s->first + s->count - 1;

    CHECK(token != NULL && s->first > 0 && c->last == 0);
    if (!stored_members(s, &stored)) {
        raft_free(token);
        fail(c, "a stored configuration of the group is damaged");
        return;
    }
    ev.start.term = s->term;
    ev.start.voted_for = s->vote;
    if (is_only_voter(&stored, c->set.id)) { /* ONE TERM, ONE LEADER (T16): it will lead at once */
        ev.start.term = s->term + 1;
        ev.start.voted_for = c->set.id;
        hard_state(c, ev.start.term, ev.start.voted_for);
    }
    if (s->base.index != 0) {
        CHECK(raft_configuration_decode(&bytes, &base.configuration) == 0); /* libraft takes it over */
        base.configuration_index = s->base.change_index;
        ev.start.metadata = &base;
    }
    ev.start.start_index = s->first;
    ev.start.entries = start_entries(s, token);
    ev.start.n_entries = (unsigned)s->count;
    c->last = c->durable = last > s->base.index ? last : s->base.index;
#ifdef CONSENSUS_GUARDS
    c->started_last = c->last;
#endif
    c->changed = stored.count > 0;
    if (c->set.restarted)
        c->contact.restart_until_ms = clock_ms(c) + c->set.election_ms;
    if (step(c, &ev, NULL) != 0)
        return; /* libraft has freed both */
    raft_free(ev.start.entries);
    raft_free(token);
    consensus_patient(c, c->set.restarted);
    settle(c);
}

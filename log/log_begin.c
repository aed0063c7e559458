/* How a group begins, and how a node finds out which one it belongs to.
 *
 *   alone (no members in the settings)   one voter, itself: leads before log_open() returns
 *   a log that is there                  START with what it holds
 *   a new log, in a group                waits, with an id of its own, until it has met others:
 *       nobody's log has begun, all configured members were met     the first of them by name writes entry 1 (all of
 *                                                                    them, as voters, with their ids) and says so
 *       somebody's has, and its entry 1 names our id                 we write that same entry, and are a voter
 *       somebody's has, and it does not                              we are a stranger: an empty log, no vote, until
 *                                                                    an administrator adds us
 *
 * So a member that lost its disk comes back with another id and is a stranger: it can neither vote as its old self
 * nor begin a second group, since any one member that remembers is enough to tell it. For the first beginning all
 * members must be there: from then on a majority will do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "log/log_internal.h"

/* ---- the log that is there ---- */

struct gathering {
    struct consensus_entry *entries;
    size_t count, cap;
    struct log *log;
};

static void gather_entry(void *arg, uint64_t index, uint64_t term, enum record_type type, const void *change,
                         size_t change_bytes)
{
    struct gathering *g = arg;
    void *copy = NULL;

    if (g->count == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 1024;
        g->entries = must_realloc(g->entries, g->cap * sizeof *g->entries);
    }
    if (type == RECORD_CHANGE) {
        copy = must_calloc(1, change_bytes + 1);
        memcpy(copy, change, change_bytes);
        if (index == 1)
            buf_append(&g->log->first_change, change, change_bytes);
    }
    g->entries[g->count++] = (struct consensus_entry){
        .index = index, .term = term, .type = type, .change = copy, .change_bytes = copy != NULL ? change_bytes : 0};
}

static void gathering_free(struct gathering *g)
{
    for (size_t i = 0; i < g->count; i++)
        free((void *)g->entries[i].change);
    free(g->entries);
}

/* The loop knows what is on disk, and nothing else is under way. */
static void take_stored(struct log *l)
{
    l->kept = store_state(l->store);
    tail_reset(l->tail, l->kept.last + 1, l->kept.running);
    l->handed = l->durable = l->kept.last;
}

/* The group's id is there. */
static bool has_begun(const struct log *l)
{
    static const char none[PEER_GROUP_BYTES];
    struct store_identity id = store_identity(l->store);

    return memcmp(id.cluster, none, sizeof none) != 0;
}

/* ---- the data to begin with ---- */

struct base_search {
    uint64_t index; /* of the entry that names it; 0: none does */
};

static void look_for_base(void *arg, const struct entry_view *e)
{
    struct base_search *s = arg;

    if (s->index == 0 && group_names_base(e) != 0)
        s->index = e->index;
}

/* An entry with CONTROL_BASE counts only together with that snapshot. Stopped between the two, this node has never
 * said that it has the entry, nor any behind it: it gets them again, and then the snapshot. */
static bool cut_baseless(struct log *l, char *why)
{
    struct store_snapshot newest;
    struct base_search search = {0};
    struct store_write cut = {0};
    uint64_t next = l->kept.first;

    if (store_get_snapshot(l->store, &newest, why) != STORE_OK)
        return false;
    while (newest.serial == 0 && search.index == 0 && next <= l->kept.last)
        if (store_read(l->store, &next, l->kept.last, LOG_JOB_BYTES_MAX, look_for_base, &search, why) != STORE_OK)
            return false;
    if (search.index == 0)
        return true;
    cut.cut_from = search.index;
    if (store_write(l->store, &cut, why) != STORE_OK)
        return false;
    take_stored(l);
    return true;
}

/* What a sole voter has on disk is committed: said so at once, there is no barrier that would say it. */
static void all_committed(struct log *l, struct consensus_start *s)
{
    if (l->kept.last == 0 || l->kept.last <= s->base.index)
        return;
    for (size_t i = 0; i < s->count; i++)
        if (s->entries[i].type == RECORD_CHANGE) {
            s->base.change_index = s->entries[i].index;
            s->base.change = s->entries[i].change;
            s->base.change_bytes = s->entries[i].change_bytes;
        }
    s->base.index = l->kept.last;
    s->base.term = group_term_at(l, l->kept.last);
}

/* A group that was shrunk to us, or never had another voter. */
static bool only_voter(const struct log *l, const struct consensus_start *s)
{
    const void *change = s->base.change;
    size_t n = s->base.change_bytes;
    struct members m;
    const struct member *self;

    for (size_t i = 0; i < s->count; i++)
        if (s->entries[i].type == RECORD_CHANGE) {
            change = s->entries[i].change;
            n = s->entries[i].change_bytes;
        }
    if (change == NULL || !consensus_decode(change, n, &m))
        return false;
    self = members_by_id(&m, l->self.id);
    return self != NULL && self->role == MEMBER_VOTER && members_voters(&m) == 1;
}

static bool start_stored(struct log *l, struct store_hard hard, char *why)
{
    const struct store_base *b = store_base(l->store);
    struct gathering g = {.log = l};
    struct consensus_start s = {.term = hard.term, .vote = hard.vote, .first = l->kept.first};

    if (store_walk(l->store, gather_entry, &g, why) != STORE_OK) {
        gathering_free(&g);
        return false;
    }
    if (b->index > 0)
        s.base = (struct consensus_base){b->index, b->term, b->change_index, buf_head(&b->change), b->change.len};
    s.entries = g.entries;
    s.count = g.count;
    if (l->alone || only_voter(l, &s))
        all_committed(l, &s);
    group_start(l, &s, hard.term > 0);
    gathering_free(&g);
    return true;
}

/* ---- entry 1 ---- */

/* The entry first, then the group's id, which makes it count: killed in between, nobody has been told of either, and
 * the next beginning takes the entry's place. */
static bool put_first(struct log *l, const void *change, size_t n, const char group[PEER_GROUP_BYTES], char *why)
{
    struct store_hard hard = {1, 0};
    struct store_write w = {.hard = &hard, .cut_from = 1, .count = 1};
    struct buf batch = {0};
    struct record *r;
    bool ok;

    tail_reset(l->tail, 1, l->kept.before);
    entry_begin(&batch);
    frame_control(&batch, CONTROL_MEMBERS, change, n);
    CHECK(!batch.failed);
    r = group_seal(l, &batch, RECORD_CHANGE, 1, 1);
    w.records = &r;
    ok = store_write(l->store, &w, why) == STORE_OK && store_put_cluster(l->store, group, why) == STORE_OK;
    if (ok) {
        take_stored(l);
        memcpy(l->group, group, sizeof l->group);
    }
    record_drop(r);
    return ok;
}

static void random_bytes(char *out, size_t n)
{
    CHECK(getrandom(out, n, 0) == (ssize_t)n);
}

/* ---- alone ---- */

static bool open_alone(struct log *l, char *why, size_t why_size)
{
    struct members m = {.count = 1};
    struct store_hard hard = store_hard(l->store);
    struct buf change = {0};
    char group[PEER_GROUP_BYTES];
    bool ok = true;

    m.at[0] = l->self;
    if (!has_begun(l)) {
        consensus_encode(&m, &change);
        random_bytes(group, sizeof group);
        ok = put_first(l, buf_head(&change), change.len, group, why);
        buf_free(&change);
        hard.term = 0; /* consensus makes it 1: each process of a lone node has a term of its own */
    }
    if (!ok || !start_stored(l, hard, why))
        return false;
    if (consensus_members(l->raft)->count != 1 || consensus_members(l->raft)->at[0].id != l->self.id) {
        (void)snprintf(why, why_size, "the log belongs to a group of %zu members: name them with `member`",
                       consensus_members(l->raft)->count);
        return false;
    }
    if (!write_now(l) || l->role != LOG_LEADS) {
        (void)snprintf(why, why_size, "the log has no room to begin with: %s", l->write.why);
        return false;
    }
    return true;
}

/* ---- in a group ---- */

static bool open_member(struct log *l, char *why, size_t why_size)
{
    struct store_identity id = store_identity(l->store);

    (void)why_size;
    if (!has_begun(l)) {
        diag_log(l->diag, DIAG_NOTICE, "The log is new: waiting for the other members");
        return true;
    }
    memcpy(l->group, id.cluster, sizeof l->group);
    l->begun = true;
    return cut_baseless(l, why) && start_stored(l, store_hard(l->store), why);
}

static bool name_self(struct log *l, char *why, size_t why_size)
{
    struct member *m;

    l->configured = *l->set.members;
    m = members_by_name(&l->configured, l->set.node);
    if (m == NULL) {
        (void)snprintf(why, why_size, "node '%s' is not among the members", l->set.node);
        return false;
    }
    m->id = store_member_id(l->store);
    l->self = *m;
    if (members_safe(&l->configured, why, why_size))
        return true;
    if (!l->set.allow_single_az)
        return false;
    diag_log(l->diag, DIAG_WARNING, "UNSAFE, allowed by allow-single-az: %s", why);
    return true;
}

bool begin_open(struct log *l, char *why, size_t why_size)
{
    l->alone = l->set.members == NULL || l->set.members->count == 0;
    if (l->set.election_ms == 0)
        l->set.election_ms = 1000; /* a lone node never counts it */
    if (!has_begun(l) && l->kept.last > 1) {
        (void)snprintf(why, why_size, "the log has %llu entries, but does not say of which group",
                       (unsigned long long)l->kept.last);
        return false;
    }
    if (!l->alone)
        return name_self(l, why, why_size) && open_member(l, why, why_size);
    l->self = (struct member){.id = store_member_id(l->store), .role = MEMBER_VOTER};
    (void)snprintf(l->self.name, sizeof l->self.name, "%s", l->set.node);
    (void)snprintf(l->self.zone, sizeof l->self.zone, "az-1");
    (void)snprintf(l->self.address, sizeof l->self.address, "127.0.0.1:1");
    tail_keep(l->tail, 0); /* nobody else needs them */
    return open_alone(l, why, why_size);
}

/* ---- meeting others ---- */

static void begun(struct log *l, const char *how)
{
    struct consensus_start s = {.first = 1};
    char why[LOG_WHY_BYTES] = "";

    diag_log(l->diag, DIAG_NOTICE, "%s", how);
    l->begun = true;
    if (l->kept.last > 0) {
        if (!start_stored(l, store_hard(l->store), why)) {
            log_fail(l, why);
            return;
        }
    } else {
        group_start(l, &s, false);
    }
    peers_hello_again(l);
}

static void begin_new(struct log *l)
{
    struct members m = l->configured;
    struct buf change = {0};
    char group[PEER_GROUP_BYTES], why[LOG_WHY_BYTES] = "";

    random_bytes(group, sizeof group);
    consensus_encode(&m, &change);
    if (put_first(l, buf_head(&change), change.len, group, why)) {
        buf_free(&change);
        begun(l, "All members are here and none has a log: this node begins the group");
    } else {
        buf_free(&change);
        log_fail(l, why);
    }
}

/* All configured members have been met with logs that have not begun, and we are the first of them by name. */
static bool ours_to_begin(struct log *l)
{
    for (size_t i = 0; i < l->configured.count; i++) {
        struct member *m = &l->configured.at[i];
        const struct known *k = known_by_name(l, m->name);

        if (strcmp(m->name, l->self.name) == 0)
            continue;
        if (k == NULL || k->begun || strcmp(m->name, l->self.name) < 0)
            return false;
        m->id = k->member.id;
    }
    return true;
}

static bool names_us(const struct log *l, const struct peer_hello *h)
{
    struct members m;

    return h->configuration.len > 0 && consensus_decode(buf_head(&h->configuration), h->configuration.len, &m) &&
           members_by_id(&m, l->self.id) != NULL;
}

/* As a stranger: what an interrupted beginning has left is void (put_first). */
static bool join(struct log *l, const char group[PEER_GROUP_BYTES], char *why)
{
    struct store_write cut = {.cut_from = 1};

    if (store_write(l->store, &cut, why) != STORE_OK || store_put_cluster(l->store, group, why) != STORE_OK)
        return false;
    take_stored(l);
    return true;
}

void begin_met(struct log *l, const struct peer_hello *h)
{
    static const char none[PEER_GROUP_BYTES];
    char why[LOG_WHY_BYTES] = "";

    if (l->begun || l->writing == WRITE_FAILED)
        return;
    if (h == NULL || memcmp(h->group, none, sizeof none) == 0) {
        if (ours_to_begin(l))
            begin_new(l);
        return;
    }
    if (names_us(l, h)) {
        if (put_first(l, buf_head(&h->configuration), h->configuration.len, h->group, why))
            begun(l, "The group has begun, with this node as a member");
        else
            log_fail(l, why);
        return;
    }
    if (!join(l, h->group, why)) {
        log_fail(l, why);
        return;
    }
    memcpy(l->group, h->group, sizeof l->group);
    begun(l, "The group exists and does not know this node's data directory: it takes part once it is added "
             "(holdfast ctl add, or replace for a lost disk)");
}

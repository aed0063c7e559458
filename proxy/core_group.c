/* What leading and following mean for clients and for our Valkey.
 *
 *   log says            here
 *   lead                our Valkey is to be the primary; once it is attached, the worker opens
 *   lost                detached: Valkey, tap and lanes go on, async clients are served until the lag says otherwise;
 *                       sync clients are refused, and what they wait for is answered: UNCERTAIN
 *   lead, same          as if nothing had happened; the open batch, which has grown meanwhile, is logged now
 *   follow              what was not committed is void: step down, our Valkey becomes a fed replica
 *
 * Before the log has begun, it is the Valkey with data in it that has to begin it, wherever that is. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "proxy/core_internal.h"
#include "proxy/replay.h"
#include "proxy/resp.h"

enum {
    AWAY_MS = 3000,     /* for handing over because our Valkey is gone, or because we have none */
    PROVE_MS_MAX = 500, /* a former leader's Valkey has to show that it may be fed on */
    GONE_MS = 100,      /* our Valkey has not answered for so long ... */
    GONE_MS_MAX = 1000, /* ... or answers, and has not been attached again */
    DISK_MS_MAX = 1000, /* a write of the log that takes longer */
    COMPLAIN_MS = 10000,
    SNAPSHOTS_MS = 500,
    WALK_BYTES = 64 * 1024
};

/* ---- the start ---- */

bool core_group_settings(struct core *c, struct log_settings *s, struct members *m, char *why, size_t why_size)
{
    const struct config *f = c->config;

    for (size_t i = 0; i < f->member_count; i++) {
        if (i == MEMBERS_MAX || !member_parse(f->member[i], &m->at[i], why, why_size))
            return false;
        m->count++;
    }
    c->witness = strcmp(f->valkey, "none") == 0;
    s->members = m;
    s->cluster = f->cluster;
    s->log_only = c->witness;
    s->allow_single_az = f->allow_single_az;
    s->election_ms = (unsigned)f->election_timeout_ms;
    s->clock_skew_max_ms = (unsigned)f->clock_skew_max_ms;
    s->listen = f->peer_listen;
    if (f->peer_tls)
        s->tls = (struct log_tls){f->peer_tls_cert_file, f->peer_tls_key_file, f->peer_tls_ca_cert_file};
    atomic_store(&c->set.gate->part, m->count == 0 ? PART_LEADS : PART_NONE);
    return true;
}

/* ---- the log's roles ---- */

void core_set_part(struct core *c, enum gate_part part)
{
    atomic_store(&c->set.gate->part, part);
}

static bool has_begun(struct core *c)
{
    struct snapshot_mark mark;
    char path[4096];
    bool snapshot = snapshot_newest(c->log, &mark, path, sizeof path), begun;
    struct replay *r = replay_new(c->log, snapshot ? &mark : NULL);

    /* A snapshot that nothing was said after is of a beginning that failed; and as long as nothing is said, elections
     * alone make the log longer. What a log says it says near its beginning. */
    while (!replay_facts(r)->anything && replay_step(r, NULL, WALK_BYTES))
        continue;
    begun = replay_facts(r)->anything || replay_facts(r)->damage != NULL;
    replay_free(r);
    return begun;
}

static void go_away(struct core *c, const char *to, const char *why);
static void step_down(struct core *c);

static void complain(struct core *c, const char *why)
{
    uint64_t now = loop_now_ms(c->loop);

    if (c->complained_ms != 0 && now < c->complained_ms + COMPLAIN_MS)
        return;
    c->complained_ms = now;
    diag_log(c->diag, DIAG_WARNING, "%s", why);
}

/* Which Valkey the log begins with. True: ours. */
static bool may_begin(struct core *c)
{
    struct log_member_status m[MEMBERS_MAX];
    size_t n = log_members(c->log, m, MEMBERS_MAX), full = 0;
    uint64_t ours = node_figures(c->node)->valkey_keys;
    const char *other = NULL;

    if (ours == UINT64_MAX && !c->witness)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (m[i].self || m[i].state.log_only || m[i].member.log_only)
            continue;
        if (!m[i].connected || m[i].state.valkey_keys == UINT64_MAX) {
            complain(c, "The log has not begun: waiting to learn what the other members' Valkeys hold");
            return false;
        }
        if (m[i].state.valkey_keys > 0) {
            full++;
            other = m[i].member.name;
        }
    }
    if (full == 0)
        return true;
    if (full > 1 || (ours > 0 && !c->witness))
        complain(c,
                 "THE LOG CANNOT BEGIN: more than one member's Valkey holds data. Empty all but the one whose data "
                 "are to be kept");
    else
        go_away(c, other, "its Valkey holds the data to begin with");
    return false;
}

/* Elected, but drained: somebody in service is to lead before our Valkey becomes the primary. If that fails, we do.
 */
static bool makes_room(struct core *c)
{
    const char *why;

    if (!c->out.on || c->going)
        return c->out.on && c->going;
    if (loop_now_ms(c->loop) < c->away_again_ms || !log_may_transfer(c->log, LOG_IN_SERVICE, &why))
        return false;
    go_away(c, LOG_IN_SERVICE, "this node is drained");
    return c->going;
}

static void lead_now(struct core *c)
{
    c->leading = true;
    if (c->witness) {
        go_away(c, LOG_ANYONE, "this node has no Valkey");
        return;
    }
    if (!c->begun && !(c->begun = has_begun(c)) && !may_begin(c))
        return;
    if (makes_room(c))
        return;
    c->begun = true;
    c->may_begin = true;
    node_play(c->node, NODE_LEADS);
}

static void on_lead(void *arg, bool same, uint64_t open_index)
{
    struct core *c = arg;

    c->elections++;
    c->proving_until_ms = 0;
    if (!same)
        core_answers_void(c);
    if (!same &&
        c->attached) { /* another one's hand was on the log; or it led shortly, and our Valkey is being proven */
        if (c->leads)
            step_down(c);
        node_play(c->node, NODE_UNDECIDED); /* before we lead: the sequencer knows other indexes than the log */
    }
    c->lost = false;
    c->leads = true;
    c->was_attached = c->attached || (same && c->kept);
    core_set_part(c, PART_LEADS);
    if (same && c->kept) {
        core_log_moved(c, c->lost_index, open_index);
        diag_log(c->diag, DIAG_NOTICE, "Nobody else has led: what has gathered is logged now");
        return;
    }
    if (!c->attached) {
        core_mode_void(c);
        (void)log_abandon(c->log);
        seq_void(c->seq);
        core_facts(c);
        seq_committed(c->seq, log_committed(c->log));
    }
    lead_now(c);
}

static void on_lost(void *arg, const char *why)
{
    struct core *c = arg;
    uint64_t now = loop_now_us(c->loop);

    (void)why;
    core_reads_until(c, 0);
    c->lost = true;
    c->lost_index = log_open_index(c->log);
    c->kept = c->attached;
    core_mode_unconfirmed(c);
    if (!c->attached) {
        c->leading = c->may_begin = false;
        node_play(c->node, NODE_UNDECIDED);
        core_mode_void(c);
        (void)log_abandon(c->log);
        core_set_part(c, PART_NONE);
        return;
    }
    core_facts(c);
    seq_expire(c->seq, now + 1);
    core_decisions(c);
    core_refusal(c);
}

static void step_down(struct core *c)
{
    uint64_t age_us = seq_oldest_us(c->seq), now = loop_now_us(c->loop), answered = seq_answered(c->seq);
    uint64_t bytes = log_abandon(c->log);

    core_mode_void(c);
    core_backup_void(c);
    if (answered > 0) {
        c->dropped_writes += answered;
        diag_log(c->diag, DIAG_WARNING,
                 "LOST: another node has led meanwhile; %" PRIu64 " answered writes of async clients, the oldest "
                 "%" PRIu64 " ms old, are given up (%" PRIu64 " bytes)",
                 answered, age_us != 0 && now > age_us ? (now - age_us) / 1000 : 0, bytes);
    }
    core_reads_until(c, 0);
    c->ack_count = 0; /* their indexes are another leader's now */
    c->leads = c->leading = c->may_begin = c->lost = false;
}

static void follow_now(struct core *c)
{
    c->proving_until_ms = 0;
    node_play(c->node, NODE_FOLLOWS);
    if (c->attached)
        return;
    (void)log_abandon(c->log); /* what came while our Valkey was being proven */
    seq_void(c->seq);
}

static void on_demoted(void *arg, bool proven)
{
    struct core *c = arg;

    (void)proven;
    if (c->proving_until_ms != 0)
        follow_now(c);
}

/* We led, and all that our Valkey has done is committed: if that is so to the last byte of its stream, it need not be
 * fed from the beginning. */
static bool prove_first(struct core *c)
{
    uint64_t index;

    if (c->hand_over.phase == HAND_MOVING || !c->attached || !seq_is_clean(c->seq, &index))
        return false;
    c->proving_until_ms = loop_now_ms(c->loop) + PROVE_MS_MAX;
    node_prove(c->node, on_demoted, c);
    return true;
}

static void on_follow(void *arg, const char *leader)
{
    struct core *c = arg;
    bool led = c->leads, proving = c->proving_until_ms != 0;

    core_set_part(c, leader[0] != '\0' ? PART_FOLLOWS : PART_NONE);
    if (led) {
        proving = prove_first(c);
        step_down(c);
    }
    if (!proving)
        follow_now(c);
}

static void on_relayed(void *arg, struct stream *s, const char *from, const void *extra, size_t n)
{
    struct core *c = arg;

    if (c->set.relayed == NULL)
        stream_close(s);
    else
        c->set.relayed(c->set.arg, s, from, extra, n);
}

/* The node has read what is not there any more. */
static void on_replaced(void *arg)
{
    struct core *c = arg;

    node_play(c->node, NODE_UNDECIDED);
    if (log_role(c->log) == LOG_FOLLOWS)
        node_play(c->node, NODE_FOLLOWS);
}

static void on_snapshot(void *arg)
{
    struct core *c = arg;

    node_snapshot_came(c->node);
}

void core_group_events(struct log_events *e)
{
    e->replaced = on_replaced;
    e->snapshot = on_snapshot;
    e->lead = on_lead;
    e->lost = on_lost;
    e->follow = on_follow;
    e->relayed = on_relayed;
}

/* ---- leaving because we cannot serve ---- */

static void on_away(void *arg, bool ok, const char *why)
{
    struct core *c = arg;

    c->going = false;
    if (ok)
        return;
    c->away_again_ms = loop_now_ms(c->loop) + AWAY_MS;
    diag_log(c->diag, c->away_level == DIAG_NOTICE ? DIAG_WARNING : c->away_level,
             "Leadership stays here all the same: %s", why);
}

static void go_away(struct core *c, const char *to, const char *why)
{
    if (c->going || loop_now_ms(c->loop) < c->away_again_ms)
        return;
    c->going = true;
    c->away_level = diag_limited(&c->away_said, loop_now_ms(c->loop), 1, DIAG_NOTICE); /* tried again and again */
    diag_log(c->diag, c->away_level, "Leadership should be elsewhere: %s", why);
    log_transfer(c->log, to, AWAY_MS, on_away, c);
}

/* Why another node should lead, if one can: our Valkey is gone (if only the tap was cut, we are back in a moment),
 * or our disk does not take what the others' do. NULL: no reason. */
static const char *unfit(struct core *c)
{
    if (log_stalled(c->log))
        return "our disk is full";
    if (log_disk_ms(c->log) > DISK_MS_MAX)
        return "our disk does not answer";
    if (!c->attached && c->was_attached &&
        loop_now_ms(c->loop) >= c->detached_ms + (node_valkey_down(c->node) ? GONE_MS : GONE_MS_MAX))
        return "our Valkey is gone";
    return NULL;
}

static void make_way(struct core *c)
{
    struct log_member_status m[MEMBERS_MAX];
    const char *why = unfit(c);
    size_t n;

    if (why == NULL)
        return;
    n = log_members(c->log, m, MEMBERS_MAX);
    for (size_t i = 0; i < n; i++)
        if (!m[i].self && m[i].connected && m[i].state.fed_index > 0 && m[i].member.role == MEMBER_VOTER) {
            go_away(c, NULL, why);
            return;
        }
}

void core_group_turn(struct core *c)
{
    core_answers_turn(c);
    if (!log_alone(c->log))
        core_hand_turn(c);
}

/* The leader's Valkey does not fork while another one can: its snapshots come from there. So do those of a node that
 * has no Valkey, or has lost it: its log would grow until it is full, and then it is as good as gone. */
static void snapshots(struct core *c)
{
    struct log_member_status m[MEMBERS_MAX];
    size_t n;
    bool others = false;

    node_truncate(c->node);
    if (!c->leads && !node_valkey_down(c->node)) /* a witness's is always down */
        return;
    n = log_members(c->log, m, MEMBERS_MAX);
    for (size_t i = 0; i < n; i++)
        others = others || (!m[i].self && m[i].connected && m[i].state.fed_index > 0);
    node_snapshots(c->node, !others);
    if (node_wants_snapshot(c->node))
        log_fetch_newer(c->log);
}

void core_group_tick(struct core *c)
{
    const struct node_figures *f = node_figures(c->node);

    if (log_alone(c->log))
        return;
    log_tell(c->log,
             c->attached          ? log_committed(c->log)
             : node_warm(c->node) ? f->fed_index
                                  : 0,
             c->witness ? 0 : f->valkey_keys);
    if (c->proving_until_ms != 0 && loop_now_ms(c->loop) >= c->proving_until_ms)
        follow_now(c);
    if (loop_now_ms(c->loop) >= c->snapshots_ms) {
        c->snapshots_ms = loop_now_ms(c->loop) + SNAPSHOTS_MS;
        snapshots(c);
    }
    if (c->lost && c->attached) { /* nothing that waits for a commit will see it soon */
        core_facts(c);
        seq_expire(c->seq, loop_now_us(c->loop) + 1);
        core_decisions(c);
    }
    if (!c->leads || c->lost)
        return;
    if (c->witness || !c->may_begin) {
        lead_now(c);
    } else {
        make_way(c);
        core_out_tick(c);
    }
}

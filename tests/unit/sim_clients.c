/* The simulated clients: what they ask, by chance, and on which way each command goes. */
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

static struct cmd push(struct sim *w, struct call *c, enum verb verb)
{
    struct cmd cmd = {.verb = verb, .key = (int)sim_random(w, (uint64_t)w->keys)};

    if (verb == PUSHLEN || verb == SORTPUSH) {
        int last = w->keys < SIM_KEYS ? w->keys : SIM_KEYS - 1; /* both keys in database 0 */

        if (last < 2) {
            cmd.verb = PUSH;
        } else {
            cmd.key = (int)sim_random(w, (uint64_t)last);
            cmd.source = (cmd.key + 1 + (int)sim_random(w, (uint64_t)last - 1)) % last;
        }
    }
    if (cmd.verb == DEL || sim_chance(w, w->p_anonymous))
        return cmd;
    cmd.id = w->next_id++;
    w->owner[cmd.id] = c->number;
    return cmd;
}

/* A transaction of replayable writes: one intent. Its keys are in the first one's database. */
static void make_transaction(struct sim *w, struct call *c)
{
    int cmds = 2 + (int)sim_random(w, SIM_CMDS_MAX - 1);

    for (int i = 0; i < cmds; i++) {
        uint64_t dice = sim_random(w, 100);
        enum verb verb = dice < 60 ? PUSH : dice < 75 ? PUSHLEN : dice < 85 ? GETPUSH : DEL;
        struct cmd cmd = push(w, c, sim_chance(w, w->p_typed) ? ZPUSH : verb);

        if (i > 0 && sim_key_db(cmd.key) != sim_key_db(c->cmd[0].key))
            continue;
        c->cmd[c->cmds++] = cmd;
        cmd_keys(&c->keys, &cmd);
    }
    if (sim_chance(w, 20)) /* it also reads some other key, which is not in the intent */
        keyset_add(&c->keys, sim_key_hash((int)sim_random(w, (uint64_t)w->keys)));
}

static void make_replayable(struct sim *w, struct call *c)
{
    uint64_t dice = sim_random(w, 100);
    enum verb verb = dice < 68 ? PUSH : dice < 78 ? PUSHAT : dice < 85 ? GETPUSH : DEL;

    c->kind = OP_WRITE;
    c->road = ROAD_LANE;
    if (sim_chance(w, w->p_unit / 2)) {
        make_transaction(w, c);
        return;
    }
    if (sim_chance(w, w->p_two_keys))
        verb = PUSHLEN;
    else if (sim_chance(w, w->p_other))
        verb = OTHERPUSH;
    else if (sim_chance(w, w->p_rewritten))
        verb = GETPUSH;
    else if (sim_chance(w, w->p_typed))
        verb = sim_chance(w, 70) ? ZPUSH : GETPUSH;
    c->cmd[c->cmds++] = push(w, c, verb);
    c->past = c->cmd[0].verb == PUSHAT && sim_chance(w, w->p_past);
    cmd_keys(&c->keys, &c->cmd[0]);
}

static void make_captured(struct sim *w, struct call *c, enum road road)
{
    int cmds = sim_chance(w, w->p_unit) ? 2 + (int)sim_random(w, SIM_CMDS_MAX - 1) : 1;

    c->kind = OP_CAPTURED;
    c->road = road;
    for (int i = 0; i < cmds; i++) {
        uint64_t dice = sim_random(w, 100);
        enum verb verb = dice < 60 ? PUSH : dice < 80 ? PUSHLEN : DEL;

        if (verb == PUSH && sim_chance(w, w->p_typed))
            verb = ZPUSH;
        if (sim_chance(w, w->p_all))
            verb = sim_chance(w, 50) ? SORTPUSH : PUSHALL;
        c->cmd[c->cmds++] = push(w, c, verb);
        cmd_keys(&c->keys, &c->cmd[i]);
    }
    if (sim_chance(w, 2 * w->p_all)) { /* a script: its keys cannot be told */
        keyset_clear(&c->keys);
        c->keys.all = true;
    }
}

static void make_read(struct sim *w, struct call *c)
{
    bool all = sim_chance(w, 10);

    c->kind = OP_READ;
    c->road = ROAD_READ;
    c->keys.all = all;
    for (int k = 0; k < SIM_KEYS; k++)
        c->read_key[k] = all;
    for (int i = all ? 0 : 1 + (int)sim_random(w, 2); i > 0; i--) {
        int key = (int)sim_random(w, (uint64_t)w->keys);

        if (!c->read_key[key])
            keyset_add(&c->keys, sim_key_hash(key));
        c->read_key[key] = true;
    }
}

static void make(struct sim *w, struct call *c)
{
    uint64_t dice = sim_random(w, 100);

    if (dice < (uint64_t)w->p_wait) {
        c->kind = OP_LOCAL;
        c->road = ROAD_NONE;
        c->wait = true;
    } else if (!c->sync) {
        make_captured(w, c, dice < 75 ? ROAD_ASYNC : ROAD_PINNED);
    } else if (dice < 45) {
        make_replayable(w, c);
    } else if (dice < 57) {
        make_captured(w, c, ROAD_LANE);
    } else if (dice < 70) {
        make_captured(w, c, ROAD_PINNED);
    } else {
        make_read(w, c);
    }
    c->refused = c->kind != OP_READ && !c->wait && sim_chance(w, w->p_refused);
    c->lazy = c->kind != OP_READ && sim_chance(w, w->p_lazy);
}

static struct op *op_new(struct call *c)
{
    struct op *op = must_calloc(1, sizeof *op);
    size_t used;

    CHECK(c->cmds > 0 || c->kind != OP_WRITE);
    op->session = (struct session *)(void *)c;
    op->kind = c->kind;
    op->sync = c->sync;
    op->pinned = c->road == ROAD_PINNED;
    keyset_add_all(&op->keys, &c->keys);
    if (c->kind != OP_WRITE)
        return op;
    op->db = sim_key_db(c->cmd[0].key);
    op->unit = c->cmds > 1;
    if (op->unit)
        cmd_name(&op->request, "MULTI", NULL);
    for (int i = 0; i < c->cmds; i++)
        cmd_encode(&op->request, &c->cmd[i]);
    if (op->unit)
        cmd_name(&op->request, "EXEC", NULL);
    else
        op->canon = (uint16_t)(c->cmd[0].verb == GETPUSH ? 2 : 1);
    op->args = must_calloc(SIM_WORDS_MAX, sizeof *op->args);
    op->arg_count = cmd_words(buf_head(&op->request), op->request.len, op->args, &used);
    op_hash_effect(op);
    return op;
}

static void send_async(struct sim *w, struct call *c)
{
    c->epoch = seq_epoch(w->seq);
    seq_async_begin(w->seq, c->epoch);
    if (seq_tracking(w->seq)) {
        for (uint32_t i = 0; i < c->keys.count; i++)
            seq_async_key(w->seq, keyset_keys(&c->keys)[i]);
        if (c->keys.all)
            seq_async_all(w->seq);
    }
    if (w->shared == NULL)
        w->shared = conn_new(w);
    c->conn = w->shared;
    conn_send(w, w->shared, (struct item){.what = SEND_CALL, .call = c});
}

static void send_own(struct sim *w, struct call *c, struct conn **own)
{
    if (*own == NULL)
        *own = conn_new(w);
    c->conn = *own;
    conn_send(w, *own, (struct item){.what = SEND_CALL, .call = c});
}

static void issue(struct sim *w, struct call *c)
{
    struct session_sim *s = &w->session[c->session];

    driver_facts(w);
    if (c->road != ROAD_ASYNC)
        c->op = op_new(c);
    if (c->wait) {
        seq_wait(w->seq, c->op);
    } else if (c->road == ROAD_ASYNC) {
        send_async(w, c);
    } else if (c->road == ROAD_READ) {
        send_own(w, c, &s->reads);
    } else if (c->road == ROAD_PINNED) {
        seq_begin(w->seq, c->op);
        send_own(w, c, &s->pinned);
    } else if (c->kind == OP_WRITE) {
        seq_write(w->seq, c->op, w->now_us);
    } else {
        seq_lane_captured(w->seq, c->op, w->now_us);
    }
    driver_decisions(w);
}

void clients_issue(struct sim *w, int session)
{
    struct session_sim *s = &w->session[session];
    struct call *c = &w->call[w->calls];

    if (!w->open || w->calls == SIM_CALLS_MAX || s->unanswered > 5)
        return;
    if (w->lost && s->sync && !sim_chance(w, 10)) /* refused, but for what was on its way to the core */
        return;
    memset(c, 0, sizeof *c);
    c->number = w->calls;
    c->session = session;
    c->sync = s->sync;
    c->accepted_us = w->now_us;
    c->attachment = w->attachment;
    c->valkey = w->valkeys;
    c->process = w->processes;
    make(w, c);
    if (s->unanswered > 0 && (c->road != s->road || c->wait)) { /* clause 5: it would go to another connection */
        keyset_clear(&c->keys);
        return;
    }
    w->calls++;
    w->counts.commands++;
    s->road = c->road;
    s->unanswered++;
    TRACE(w, "client: %s\n", call_text(w, c));
    issue(w, c);
}

struct call *clients_read(struct sim *w, int key)
{
    struct call *c = &w->call[SIM_CALLS_MAX];

    memset(c, 0, sizeof *c);
    c->number = SIM_CALLS_MAX;
    c->kind = OP_READ;
    c->road = ROAD_READ;
    c->sync = c->came = true;
    c->keys.all = key < 0;
    if (key >= 0)
        keyset_add(&c->keys, sim_key_hash(key));
    driver_facts(w);
    seq_read(w->seq, op_new(c));
    driver_decisions(w);
    return c;
}

/* The simulated Valkey: connections that it reads in turn, the history of its keys, its replication stream. */
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "tests/unit/sim_world.h"

struct conn *conn_new(struct sim *w)
{
    struct conn *c;

    CHECK(w->conns < SIM_CONNS_MAX);
    if (w->conn[w->conns] == NULL)
        w->conn[w->conns] = must_calloc(1, sizeof *c);
    c = w->conn[w->conns++];
    c->id = ++w->next_conn;
    c->open = true;
    c->sent_head = c->sent_count = c->answered_head = c->answered_count = 0;
    return c;
}

void conn_send(struct sim *w, struct conn *c, struct item item)
{
    (void)w;
    CHECK(c->open && c->sent_count < SIM_ITEMS_MAX);
    c->sent[(c->sent_head + c->sent_count++) % SIM_ITEMS_MAX] = item;
}

static void answer(struct conn *c, struct item item)
{
    if (!c->open)
        return;
    CHECK(c->answered_count < SIM_ITEMS_MAX);
    c->answered[(c->answered_head + c->answered_count++) % SIM_ITEMS_MAX] = item;
}

/* ---- the stream ---- */

static struct record *record_new(struct sim *w, enum record_kind kind)
{
    struct record *r;

    CHECK(w->records < SIM_STREAM_MAX);
    r = &w->stream[w->records++];
    memset(r, 0, sizeof *r);
    r->kind = kind;
    r->at = w->bytes.len;
    r->db_before = r->db_after = w->db;
    return r;
}

static void record_done(struct sim *w, struct record *r)
{
    r->n = w->bytes.len - r->at;
    w->offset += r->n;
    r->end_offset = w->offset;
}

static void put_select(struct sim *w, uint32_t db)
{
    char text[4] = {(char)('0' + db), '\0'};

    if (w->db == db)
        return;
    cmd_name(&w->bytes, "SELECT", text);
    w->db = db;
}

static void select_db(struct sim *w, uint32_t db)
{
    struct record *r;

    if (w->db == db)
        return;
    r = record_new(w, RECORD_SILENT);
    put_select(w, db);
    r->db_after = db;
    record_done(w, r);
}

static void emit(struct sim *w, const struct cmd *cmd, int n)
{
    struct record *r;

    if (sim_chance(w, 5)) {
        r = record_new(w, RECORD_SILENT);
        cmd_name(&w->bytes, "PING", NULL);
        record_done(w, r);
    }
    if (n == 0)
        return;
    select_db(w, cmd[0].verb == PUSHALL ? w->db : sim_key_db(cmd[0].key));
    r = record_new(w, RECORD_EFFECT);
    r->unit = n > 1;
    if (r->unit)
        cmd_name(&w->bytes, "MULTI", NULL);
    for (int i = 0; i < n; i++) {
        r->cmd[r->cmds++] = cmd[i];
        put_select(w, cmd[i].verb == PUSHALL ? w->db : sim_key_db(cmd[i].key));
        cmd_encode(&w->bytes, &cmd[i]);
    }
    if (r->unit)
        cmd_name(&w->bytes, "EXEC", NULL);
    r->db_after = w->db;
    record_done(w, r);
}

static void emit_marker(struct sim *w, uint64_t nonce, uint64_t number, uint64_t resolves)
{
    struct record *r;

    select_db(w, sim_chance(w, 90) ? w->db : 1 - w->db); /* Valkey selects the sender's database for a message too */
    r = record_new(w, RECORD_MARKER);
    cmd_name(&w->bytes, "SPUBLISH", "marker");
    r->nonce = nonce;
    r->number = number;
    r->resolves = resolves;
    record_done(w, r);
}

/* ---- execution ---- */

static void execute_cmd(struct sim *w, struct call *c, const struct cmd *cmd)
{
    int before[SIM_KEYS];

    memcpy(before, w->valkey.count, sizeof before);
    keyspace_apply(&w->valkey, cmd);
    for (int k = 0; k < SIM_KEYS; k++) {
        for (int at = before[k]; at < w->valkey.count[k]; at++) {
            w->foreign[k][at] = c == NULL;
            if (c == NULL)
                continue;
            CHECK(c->changes < SIM_CHANGES_MAX);
            c->change[c->changes++] = (struct change){k, at, w->valkey.at[k][at]};
        }
    }
}

static void read_keys(struct sim *w, struct call *c)
{
    for (int k = 0; k < SIM_KEYS; k++) {
        int n = c->read_key[k] ? w->valkey.count[k] : 0;

        while (n > 0 && w->foreign[k][n - 1]) /* design section 5: what Valkey does of its own accord needs no wait */
            n--;
        c->seen[k] = n;
    }
}

static void execute(struct sim *w, struct call *c)
{
    struct cmd effect[SIM_CHANGES_MAX];
    int n = 0;

    CHECK(!c->executed);
    c->executed = true;
    c->executed_at = ++w->clock;
    if (c->kind == OP_READ) {
        read_keys(w, c);
        return;
    }
    c->error = c->refused;
    for (int i = 0; i < c->cmds && !c->refused; i++) {
        struct cmd e = cmd_effect(&c->cmd[i]);
        struct cmd gone = {.verb = DEL, .key = c->cmd[i].key};
        bool expired = c->lazy || (c->past && sim_chance(w, 50));

        if (expired && e.verb != DEL && e.verb != PUSHALL && keyspace_has(&w->valkey, gone.key)) {
            execute_cmd(w, c, &gone);
            effect[n++] = gone;
        }
        if (c->past || (e.verb == DEL && !keyspace_has(&w->valkey, e.key)))
            continue;
        if (keyspace_refuses(&w->valkey, &c->cmd[i])) { /* in a unit the others are executed all the same */
            c->error = c->cmds == 1;
            w->counts.refused++;
            continue;
        }
        execute_cmd(w, c, &e);
        effect[n++] = e;
    }
    emit(w, effect, n);
    c->end_offset = w->offset;
    TRACE(w, "    valkey: %s%s at %llu, %d effects\n", call_text(w, c), c->error ? " refused" : "",
          (unsigned long long)w->offset, n);
}

void valkey_serve(struct sim *w, struct conn *c)
{
    struct item item = c->sent[c->sent_head];

    CHECK(c->sent_count > 0);
    c->sent_head = (c->sent_head + 1) % SIM_ITEMS_MAX;
    c->sent_count--;
    switch (item.what) {
    case SEND_CALL:
        execute(w, item.call);
        break;
    case SEND_MARKER:
        item.refused = w->p_fault > 0 && sim_chance(w, 4);
        if (!item.refused)
            emit_marker(w, w->nonce, item.number, item.resolves);
        TRACE(w, "    valkey: marker %llu up to %llu%s\n", (unsigned long long)item.number,
              (unsigned long long)item.resolves, item.refused ? " refused" : "");
        break;
    case SEND_KILL:
        for (int i = 0; i < w->conns; i++)
            if (w->conn[i]->id == item.number)
                w->conn[i]->sent_count = 0;
        TRACE(w, "    valkey: killed client %llu\n", (unsigned long long)item.number);
        break;
    }
    answer(c, item);
}

void valkey_change(struct sim *w)
{
    struct cmd c = {.verb = sim_chance(w, 60) ? DEL : PUSH, .key = (int)sim_random(w, (uint64_t)w->keys)};

    if (c.verb == DEL && !keyspace_has(&w->valkey, c.key))
        return;
    c.id = c.verb == DEL ? 0 : SIM_FOREIGN_ID + w->next_id++;
    execute_cmd(w, NULL, &c);
    emit(w, &c, 1);
    TRACE(w, "    valkey: by itself %s on key %d\n", c.verb == DEL ? "DEL" : "PUSH", c.key);
}

void valkey_forge(struct sim *w)
{
    w->counts.forged++;
    emit_marker(w, sim_chance(w, 80) ? w->nonce : w->nonce + 1, sim_random(w, 40), 100000 + sim_random(w, 10));
}

bool call_is_written(const struct call *c)
{
    return c->changes > 0;
}

const char *call_text(struct sim *w, const struct call *c)
{
    static const char *const verb[VERBS] = {"PUSH", "PUSHLEN",  "PUSHAT",  "GETPUSH", "OTHERPUSH",
                                            "DEL",  "SORTPUSH", "PUSHALL", "ZPUSH"};
    static const char *const road[] = {"lane", "pinned", "async", "reads", "-"};
    char *text = w->text[0];
    int at = snprintf(text, SIM_TEXT_BYTES, "call %d (s%d %s %s%s)", c->number, c->session, road[c->road],
                      c->kind == OP_WRITE  ? "R"
                      : c->kind == OP_READ ? "read"
                      : c->wait            ? "WAIT"
                                           : "captured",
                      c->sync ? "" : " async");

    for (int i = 0; i < c->cmds && at < SIM_TEXT_BYTES; i++)
        at += snprintf(text + at, SIM_TEXT_BYTES - (size_t)at, " [%s %d<-%d id %d]", verb[c->cmd[i].verb],
                       c->cmd[i].key, c->cmd[i].source, c->cmd[i].id);
    if (c->kind == OP_READ && at < SIM_TEXT_BYTES)
        (void)snprintf(text + at, SIM_TEXT_BYTES - (size_t)at, " {%d%d%d%d} saw %d %d %d %d", c->read_key[0],
                       c->read_key[1], c->read_key[2], c->read_key[3], c->seen[0], c->seen[1], c->seen[2],
                       c->seen[3]);
    return text;
}

/* The router's decisions, with Valkey 8.0.1's own command table (tests/unit/data) and the table of local.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/buf.h"
#include "proxy/command.h"
#include "proxy/local.h"
#include "proxy/router.h"
#include "proxy/worker_state.h"

enum { ARGS_MAX = 16, REPLY_BYTES_MAX = 1024 * 1024 };
static struct worker *worker;

static int set_up(void **state)
{
    static const char *const places[] = {"tests/unit/data/command-8.0.1.resp",
                                         "../../tests/unit/data/command-8.0.1.resp"};
    char *bytes = malloc(REPLY_BYTES_MAX), why[200] = "";
    FILE *f = NULL;
    size_t n;

    (void)state;
    for (size_t i = 0; f == NULL && i < sizeof places / sizeof *places; i++)
        f = fopen(places[i], "rb");
    assert_non_null(f);
    n = fread(bytes, 1, REPLY_BYTES_MAX, f);
    (void)fclose(f);
    worker = calloc(1, sizeof *worker);
    worker->commands = command_table_new(bytes, n, why, sizeof why);
    free(bytes);
    return worker->commands == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    command_table_free(worker->commands);
    free(worker);
    return 0;
}

/* ---- one decision ---- */

static const struct route_facts sync_session = {.mode = DURABILITY_SYNC, .full = true, .gate = GATE_OPEN};
static const struct route_facts async_session = {.mode = DURABILITY_ASYNC, .full = true, .gate = GATE_OPEN};

static struct route ask_both(struct route_facts f, const char *words, bool *replicates)
{
    char text[512], *save = NULL;
    struct arg arg[ARGS_MAX];
    struct argv a = {text, 0, arg, 0};

    (void)snprintf(text, sizeof text, "%s", words);
    a.n = strlen(text);
    for (char *w = strtok_r(text, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        assert_true(a.count < ARGS_MAX);
        arg[a.count++] = (struct arg){(size_t)(w - text), strlen(w)};
    }
    f.args = &a;
    f.treatment = local_find(worker, &a, &f.command)->treatment;
    assert_ptr_equal(f.command, command_find(worker->commands, &a)); /* as remembered by its name's bytes, if it is */
    assert_int_equal(f.treatment, local_row(worker, f.command, &a)->treatment);
    f.marker_channel = "holdfast-marker:";
    if (replicates != NULL)
        *replicates = route_replicates(&f);
    return route_command(&f);
}

static struct route ask(struct route_facts f, const char *words)
{
    return ask_both(f, words, NULL);
}

static void expect(struct route_facts f, const char *words, enum route_to to, enum op_kind kind)
{
    struct route r = ask(f, words);

    if (r.to != to || (to != ROUTE_REFUSE && r.kind != kind) ||
        (to != ROUTE_MULTI && to != ROUTE_REFUSE && r.why != WHY_NOT))
        fail_msg("%s: to %d kind %d why %d", words, (int)r.to, (int)r.kind, (int)r.why);
}

static void expect_refused(struct route_facts f, const char *words, enum route_why why)
{
    struct route r = ask(f, words);

    if (r.to != ROUTE_REFUSE || r.why != why)
        fail_msg("%s: to %d why %d", words, (int)r.to, (int)r.why);
}

/* ---- by flags ---- */

static void reads_share_lanes(void **state)
{
    static const char *const reads[] = {
        "GET k",       "MGET a b",          "LRANGE l 0 -1",  "SCAN 0", "DBSIZE",           "XREAD STREAMS x 0",
        "EVAL_RO x 0", "OBJECT ENCODING k", "MEMORY USAGE k", "DUMP k", "SORT_RO k BY w_*", "EXISTS k"};
    static const char *const neutral[] = {"ECHO x",   "TIME",          "PUBLISH c m",     "SPUBLISH c m",
                                          "COMMAND",  "COMMAND COUNT", "SCRIPT EXISTS x", "CONFIG REWRITE",
                                          "LASTSAVE", "SAVE",          "BGREWRITEAOF"};

    (void)state;
    for (size_t i = 0; i < sizeof reads / sizeof *reads; i++) {
        expect(sync_session, reads[i], ROUTE_LANE, OP_READ);
        expect(async_session, reads[i], ROUTE_LANE, OP_READ);
    }
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++) {
        expect(sync_session, neutral[i], ROUTE_LANE, OP_NEUTRAL);
        expect(async_session, neutral[i], ROUTE_LANE, OP_NEUTRAL);
    }
}

static void writes_go_by_mode(void **state)
{
    static const char *const replayable[] = {"SET k v",    "INCR k",      "DEL a b",        "LPUSH l x",
                                             "HSET h f v", "EXPIRE k 10", "SORT l STORE d", "XADD x * f v"};
    static const char *const captured[] = {
        "SPOP s",          "EVAL x 1 k",    "FCALL f 0",   "PFCOUNT p",
        "FLUSHALL",        "SWAPDB 0 1",    "PFCOUNT p q", "XREADGROUP GROUP g c STREAMS x >",
        "FUNCTION LOAD x", "FUNCTION FLUSH"};

    (void)state;
    for (size_t i = 0; i < sizeof replayable / sizeof *replayable; i++) {
        expect(sync_session, replayable[i], ROUTE_WRITE, OP_WRITE);
        expect(async_session, replayable[i], ROUTE_ASYNC, OP_CAPTURED);
    }
    for (size_t i = 0; i < sizeof captured / sizeof *captured; i++) {
        expect(sync_session, captured[i], ROUTE_WRITER, OP_CAPTURED);
        expect(async_session, captured[i], ROUTE_ASYNC, OP_CAPTURED);
    }
    expect(sync_session, "SCRIPT LOAD x", ROUTE_WRITER, OP_CAPTURED);
    expect(async_session, "SCRIPT LOAD x", ROUTE_LANE, OP_NEUTRAL);
    expect(sync_session, "SCRIPT KILL", ROUTE_CONTROL, OP_NEUTRAL);
}

static void what_blocks_is_pinned(void **state)
{
    (void)state;
    expect(sync_session, "BLPOP l 0", ROUTE_PINNED, OP_CAPTURED);
    expect(async_session, "BLPOP l 0", ROUTE_PINNED, OP_CAPTURED);
    expect(sync_session, "XREAD BLOCK 0 STREAMS x $", ROUTE_PINNED, OP_READ);
    expect(sync_session, "XREADGROUP GROUP g c BLOCK 0 STREAMS x >", ROUTE_PINNED, OP_CAPTURED);
}

static void what_is_unknown_is_a_pinned_write(void **state)
{
    (void)state;
    expect(sync_session, "NOSUCH a", ROUTE_PINNED, OP_CAPTURED);
    expect(async_session, "NOSUCH", ROUTE_PINNED, OP_CAPTURED);
    expect(async_session, "XGROUP NOSUCH x", ROUTE_PINNED, OP_CAPTURED);
    expect(sync_session, "CLIENT NOSUCH", ROUTE_PINNED, OP_CAPTURED); /* for Valkey's own error */
}

/* ---- by state ---- */

static void state_and_restricted_users_are_pinned(void **state)
{
    struct route_facts watching = sync_session, restricted = async_session;

    (void)state;
    watching.stateful = true;
    restricted.full = false;
    expect(watching, "GET k", ROUTE_PINNED, OP_READ);
    expect(watching, "SET k v", ROUTE_PINNED, OP_CAPTURED);
    expect(watching, "ECHO x", ROUTE_PINNED, OP_NEUTRAL);
    expect(restricted, "GET k", ROUTE_PINNED, OP_READ);
    expect(restricted, "SET k v", ROUTE_PINNED, OP_CAPTURED);
    expect(restricted, "SCRIPT LOAD x", ROUTE_PINNED, OP_CAPTURED);
    expect(restricted, "SCRIPT KILL", ROUTE_PINNED, OP_NEUTRAL);
    restricted.mode = DURABILITY_SYNC; /* what is replayable is authorised, then takes the writer lane */
    expect(restricted, "SET k v", ROUTE_WRITE, OP_WRITE);
    expect(restricted, "SPOP s", ROUTE_PINNED, OP_CAPTURED);
    expect(restricted, "EVAL x 0", ROUTE_PINNED, OP_CAPTURED);
    expect(restricted, "GET k", ROUTE_PINNED, OP_READ);
    restricted.stateful = true;
    expect(restricted, "SET k v", ROUTE_PINNED, OP_CAPTURED);
}

static void inside_multi_valkey_queues(void **state)
{
    struct route_facts f = sync_session;

    (void)state;
    f.in_multi = true;
    expect(f, "SET k v", ROUTE_MULTI, OP_NEUTRAL);
    expect(f, "PING", ROUTE_MULTI, OP_NEUTRAL);
    expect(f, "SELECT 1", ROUTE_MULTI, OP_NEUTRAL);
    expect(f, "NOSUCH", ROUTE_MULTI, OP_NEUTRAL);
    expect(f, "EXEC", ROUTE_PINNED, OP_CAPTURED);
    expect(f, "DISCARD", ROUTE_PINNED, OP_NEUTRAL);
    expect(f, "MULTI", ROUTE_PINNED, OP_NEUTRAL);
    expect(f, "QUIT", ROUTE_LOCAL, OP_LOCAL);
    expect(f, "RESET", ROUTE_LOCAL, OP_LOCAL);
    expect_refused(f, "SUBSCRIBE a", WHY_IN_MULTI);
    expect_refused(f, "AUTH x", WHY_IN_MULTI);
    expect_refused(f, "CLIENT TRACKING ON", WHY_IN_MULTI);
    expect_refused(f, "REPLICAOF NO ONE", WHY_NOT_AVAILABLE);
    f.refusal = WRITES_REFUSED_LAG;
    assert_int_equal(ask(f, "SET k v").why, WHY_CLUSTERDOWN);
    assert_int_equal(ask(f, "GET k").why, WHY_NOT);
    f.gate = GATE_SHUT;
    expect_refused(f, "GET k", WHY_LOADING);
}

static void subscribed_and_monitoring_allow_little(void **state)
{
    struct route_facts subscribed = sync_session, monitoring = sync_session;

    (void)state;
    subscribed.subscribed = true;
    monitoring.monitoring = true;
    expect_refused(subscribed, "GET k", WHY_SUBSCRIBED);
    expect_refused(subscribed, "HELLO 3", WHY_SUBSCRIBED);
    expect_refused(subscribed, "AUTH x", WHY_SUBSCRIBED);
    expect_refused(subscribed, "SELECT 1", WHY_SUBSCRIBED);
    expect(subscribed, "PING", ROUTE_LOCAL, OP_LOCAL);
    expect(subscribed, "SSUBSCRIBE a", ROUTE_PINNED, OP_NEUTRAL);
    expect_refused(monitoring, "GET k", WHY_MONITORING);
    expect(monitoring, "QUIT", ROUTE_LOCAL, OP_LOCAL);
}

/* ---- refusals ---- */

static void reader_port_reads(void **state)
{
    static const char *const refused[] = {"SET k v",
                                          "SPOP s",
                                          "EVAL x 0",
                                          "EVALSHA x 0",
                                          "FCALL f 0",
                                          "PFCOUNT k",
                                          "BLPOP l 0",
                                          "FLUSHALL",
                                          "FUNCTION LOAD x",
                                          "NOSUCH x",
                                          "PUBLISH c m",
                                          "GETEX k",
                                          "GETDEL k",
                                          "EVAL #!lua\nx 0",
                                          "FUNCTION FLUSH",
                                          "SORT k",
                                          "XREADGROUP G",
                                          "CONFIG NOSUCH",
                                          "EVAL #!lua\tflags=allow-stale,no-writesx\nx 0",
                                          "EVAL #!lua\nflags=no-writes 0"};
    static const char *const lanes[] = {"GET k",
                                        "MGET a b",
                                        "EVAL_RO x 0",
                                        "FCALL_RO f 0",
                                        "SCAN 0",
                                        "SORT_RO k",
                                        "EVAL #!lua\tflags=allow-stale,no-writes\nx 0",
                                        "SCRIPT LOAD x",
                                        "TIME"};
    struct route_facts f = async_session;

    (void)state;
    f.mode = DURABILITY_OFF;
    f.reader = true;
    for (int behind = 0; behind < 2; behind++) {
        f.refusal = behind ? WRITES_REFUSED_BUFFER : WRITES_ACCEPTED;
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            expect_refused(f, refused[i], WHY_READONLY);
        for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++)
            assert_int_equal(ask(f, lanes[i]).to, ROUTE_LANE);
    }
    f.full = false;
    expect(f, "SCRIPT LOAD x", ROUTE_PINNED, OP_NEUTRAL);
    expect(f, "GET k", ROUTE_PINNED, OP_READ);
    f.in_multi = true;
    expect_refused(f, "SET k v", WHY_READONLY);
    expect(f, "GET k", ROUTE_MULTI, OP_NEUTRAL);
    f.in_multi = false;
    f.gate = GATE_SHUT;
    expect_refused(f, "GET k", WHY_LOADING);
    expect_refused(f, "SET k v", WHY_LOADING);
}

static void refused_while_behind(void **state)
{
    static const char *const writes[] = {"SET k v",   "SPOP s",    "EVAL x 0", "EVALSHA x 0",     "FCALL f 0",
                                         "PFCOUNT k", "BLPOP l 0", "FLUSHALL", "FUNCTION LOAD x", "NOSUCH x"};
    static const char *const others[] = {"GET k",
                                         "EVAL_RO x 0",
                                         "FCALL_RO f 0",
                                         "PUBLISH c m",
                                         "PING",
                                         "INFO",
                                         "MULTI",
                                         "EXEC",
                                         "WATCH k",
                                         "SUBSCRIBE a",
                                         "CONFIG SET durability off"};
    struct route_facts f = sync_session;

    (void)state;
    f.refusal = WRITES_REFUSED_LOG_FULL; /* which an async session may outlast */
    expect_refused(f, "SET k v", WHY_CLUSTERDOWN);
    f.mode = DURABILITY_ASYNC;
    assert_int_not_equal(ask(f, "SET k v").to, ROUTE_REFUSE);
    f.mode = DURABILITY_SYNC;
    f.refusal = WRITES_REFUSED_BUFFER;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
            expect_refused(f, writes[i], WHY_CLUSTERDOWN);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            assert_int_not_equal(ask(f, others[i]).to, ROUTE_REFUSE);
        f.mode = DURABILITY_ASYNC;
    }
    f.mode = DURABILITY_OFF; /* no bound in time, but in memory and in the log */
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
        expect_refused(f, writes[i], WHY_CLUSTERDOWN);
    f.refusal = WRITES_REFUSED_LAG;
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++)
        assert_int_not_equal(ask(f, writes[i]).to, ROUTE_REFUSE);
}

static void writes_that_no_entry_can_hold(void **state)
{
    struct route_facts f = sync_session;

    (void)state;
    f.write_bytes_max = 40;
    assert_int_not_equal(ask(f, "SET k v").to, ROUTE_REFUSE);
    expect_refused(f, "SET k vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv", WHY_TOO_LARGE);
    assert_int_not_equal(ask(f, "GET kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk").to, ROUTE_REFUSE);
}

static void loading_while_valkey_is_away(void **state)
{
    static const char *const away[] = {"GET k", "SET k v",     "PING",   "INFO",
                                       "MULTI", "SUBSCRIBE a", "AUTH x", "WAIT 1 1"};
    static const char *const ours[] = {
        "HELLO 3",   "QUIT", "RESET", "SELECT 1", "CLIENT ID", "CLIENT SETNAME a", "CLIENT DURABILITY SYNC",
        "PROXY INFO"};
    struct route_facts f = sync_session;

    (void)state;
    f.gate = GATE_SHUT;
    for (size_t i = 0; i < sizeof away / sizeof *away; i++)
        expect_refused(f, away[i], WHY_LOADING);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        expect(f, ours[i], ROUTE_LOCAL, OP_LOCAL);
}

static void never_available(void **state)
{
    static const char *const no[] = {
        "REPLICAOF NO ONE",  "slaveof no one",          "FAILOVER",    "PSYNC ? -1",   "DEBUG SLEEP 1", "SHUTDOWN",
        "MIGRATE h 1 k 0 1", "CLIENT IMPORT-SOURCE ON", "PFDEBUG x y", "CLUSTER RESET"};

    (void)state;
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        expect_refused(sync_session, no[i], WHY_NOT_AVAILABLE);
        expect_refused(async_session, no[i], WHY_NOT_AVAILABLE);
    }
    expect(sync_session, "SYNC", ROUTE_LOCAL, OP_LOCAL); /* for a backup; local_sync() refuses the rest */
    expect(sync_session, "REPLCONF rdb-only 1", ROUTE_LOCAL, OP_LOCAL);
}

static void marker_channel_is_ours(void **state)
{
    struct route_facts f = sync_session;

    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        expect_refused(f, "PUBLISH holdfast-marker:x m", WHY_MARKER_CHANNEL);
        expect_refused(f, "spublish holdfast-marker: m", WHY_MARKER_CHANNEL);
        expect_refused(f, "SUBSCRIBE a holdfast-marker:1", WHY_MARKER_CHANNEL);
        expect_refused(f, "SSUBSCRIBE holdfast-marker:1", WHY_MARKER_CHANNEL);
        f.in_multi = true;
    }
    expect(sync_session, "PUBLISH holdfast m", ROUTE_LANE, OP_NEUTRAL);
}

static void scripts_that_hide_writes(void **state)
{
    (void)state;
    expect_refused(sync_session, "EVAL redis.set_repl(redis.REPL_NONE) 0", WHY_SET_REPL);
    expect_refused(sync_session, "SCRIPT LOAD server.set_repl(0)", WHY_SET_REPL);
    expect_refused(sync_session, "FUNCTION LOAD REPLACE server.set_repl(0)", WHY_SET_REPL);
    expect_refused(async_session, "EVAL redis.set_repl(redis.REPL_NONE) 0", WHY_SET_REPL); /* EVALSHA comes later */
    expect(async_session, "EVAL redis.call 0", ROUTE_ASYNC, OP_CAPTURED);
    expect(sync_session, "SET set_repl set_repl", ROUTE_WRITE, OP_WRITE);
}

static void scripts_without_writes_are_reads(void **state)
{
    struct route_facts known = sync_session, known_async = async_session, refused = sync_session;

    (void)state;
    known.no_writes = known_async.no_writes = true;
    refused.refusal = WRITES_REFUSED_LAG;
    expect(sync_session, "EVAL_RO x 0", ROUTE_LANE, OP_READ);
    expect(sync_session, "FCALL_RO f 0", ROUTE_LANE, OP_READ);
    expect(sync_session, "EVALSHA x 0", ROUTE_WRITER, OP_CAPTURED);
    expect(known, "EVALSHA x 0", ROUTE_LANE, OP_READ);
    expect(known_async, "EVALSHA x 0", ROUTE_LANE, OP_READ);
    expect_refused(refused, "EVALSHA x 0", WHY_CLUSTERDOWN);
    refused.no_writes = true;
    expect(refused, "EVALSHA x 0", ROUTE_LANE, OP_READ);
    known.full = false;
    expect(known, "EVALSHA x 0", ROUTE_PINNED, OP_READ);
}

/* Every row's name is one that Valkey lists, or one that we know it does not. */
/* As in Valkey: what may write, and what is sent to replicas. */
static void client_pause_holds_up_writes(void **state)
{
    static const char *const held[] = {"set a 1",      "spop s",          "blpop l 0",         "publish c x",
                                       "spublish c x", "pfcount h",       "eval x 0",          "evalsha x 0",
                                       "fcall f 0",    "function load x", "no.such.command a", "restore k 0 x",
                                       "xadd s * a b", "flushall",        "sort l store m",    "function flush"};
    static const char *const free_[] = {"get a",       "ping",          "eval_ro x 0", "fcall_ro f 0",
                                        "subscribe c", "multi",         "info",        "config set a b",
                                        "client list", "watch k",       "wait 1 0",    "select 1",
                                        "client id",   "acl setuser u", "proxy info",  "script load x"};
    bool replicates;

    (void)state;
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        (void)ask_both(sync_session, held[i], &replicates);
        if (!replicates)
            fail_msg("%s is not held up", held[i]);
    }
    for (size_t i = 0; i < sizeof free_ / sizeof *free_; i++) {
        (void)ask_both(sync_session, free_[i], &replicates);
        if (replicates)
            fail_msg("%s is held up", free_[i]);
    }
}

static void rows_have_names_of_valkey(void **state)
{
    static const char *const ours[] = {
        "post", "host:", "client|durability", "client|capa", "client|import-source", "client|*", "proxy"};
    size_t count;
    const struct local_row *rows = local_rows(&count);

    (void)state;
    for (size_t i = 0; i < count; i++) {
        char words[128];
        bool known = false;
        struct arg arg[2];
        struct argv a = {words, 0, arg, 1};
        const struct command *c;
        char *bar;

        for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
            known = known || strcmp(ours[k], rows[i].name) == 0;
        if (known)
            continue;
        (void)snprintf(words, sizeof words, "%s", rows[i].name);
        a.n = strlen(words);
        arg[0] = (struct arg){0, a.n};
        if ((bar = strchr(words, '|')) != NULL) {
            arg[0].len = (size_t)(bar - words);
            arg[1] = (struct arg){arg[0].len + 1, a.n - arg[0].len - 1};
            a.count = 2;
        }
        c = command_find(worker->commands, &a);
        if (c == NULL || strcmp(c->name, rows[i].name) != 0)
            fail_msg("%s is not a command", rows[i].name);
        if (rows[i].arity != 0 && rows[i].arity != c->arity)
            fail_msg("%s has arity %d, not %d", rows[i].name, c->arity, rows[i].arity);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_share_lanes),
        cmocka_unit_test(writes_go_by_mode),
        cmocka_unit_test(what_blocks_is_pinned),
        cmocka_unit_test(what_is_unknown_is_a_pinned_write),
        cmocka_unit_test(state_and_restricted_users_are_pinned),
        cmocka_unit_test(inside_multi_valkey_queues),
        cmocka_unit_test(subscribed_and_monitoring_allow_little),
        cmocka_unit_test(reader_port_reads),
        cmocka_unit_test(refused_while_behind),
        cmocka_unit_test(writes_that_no_entry_can_hold),
        cmocka_unit_test(loading_while_valkey_is_away),
        cmocka_unit_test(never_available),
        cmocka_unit_test(marker_channel_is_ours),
        cmocka_unit_test(scripts_that_hide_writes),
        cmocka_unit_test(scripts_without_writes_are_reads),
        cmocka_unit_test(client_pause_holds_up_writes),
        cmocka_unit_test(rows_have_names_of_valkey),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

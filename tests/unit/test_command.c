/* The command table, made from Valkey 8.0.1's answer to COMMAND (tests/unit/data), and the keys that arguments name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/buf.h"
#include "proxy/canon.h"
#include "proxy/command.h"

enum { ARGS_MAX = 16, REPLY_BYTES_MAX = 1024 * 1024 };

static struct command_table *table;

static size_t read_reply(char *bytes)
{
    static const char *const places[] = {"tests/unit/data/command-8.0.1.resp",
                                         "../../tests/unit/data/command-8.0.1.resp"};
    FILE *f = NULL;
    size_t n;

    for (size_t i = 0; f == NULL && i < sizeof places / sizeof *places; i++)
        f = fopen(places[i], "rb");
    assert_non_null(f);
    n = fread(bytes, 1, REPLY_BYTES_MAX, f);
    (void)fclose(f);
    return n;
}

static int set_up(void **state)
{
    char *bytes = malloc(REPLY_BYTES_MAX), why[200] = "";
    size_t n = read_reply(bytes);

    (void)state;
    table = command_table_new(bytes, n, why, sizeof why);
    assert_string_equal(why, "");
    free(bytes);
    return table == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    command_table_free(table);
    return 0;
}

struct words {
    char text[512];
    struct arg arg[ARGS_MAX];
    struct argv a;
};

static const struct argv *words(struct words *w, const char *text)
{
    size_t at = 0;

    (void)snprintf(w->text, sizeof w->text, "%s", text);
    w->a = (struct argv){w->text, strlen(w->text), w->arg, 0};
    while (at < w->a.n) {
        size_t n = strcspn(w->text + at, " ");

        w->arg[w->a.count++] = (struct arg){at, n};
        at += n + 1;
    }
    return &w->a;
}

static const struct command *find(const char *text)
{
    struct words w;

    return command_find(table, words(&w, text));
}

static void finds(void **state)
{
    (void)state;
    assert_int_equal(command_table_count(table), 373);
    assert_string_equal(find("GeT k")->name, "get");
    assert_string_equal(find("client setname x")->name, "client|setname");
    assert_string_equal(find("CLIENT nope")->name, "client");
    assert_string_equal(find("CLIENT")->name, "client");
    assert_null(find("client|setname x"));
    assert_string_equal(find("client set|name")->name, "client");
    assert_null(find("nope"));
    assert_null(find("getgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetgetget"));
    assert_int_equal(find("get")->arity, 2);
    assert_int_equal(find("mget")->arity, -2);
}

static void flags(void **state)
{
    (void)state;
    assert_true(find("set")->flags & CMD_WRITE);
    assert_true(find("get")->flags & CMD_READONLY);
    assert_true(find("set")->flags & CMD_HAS_KEYS);
    assert_false(find("set")->flags & CMD_KEYS_OPEN);
    assert_true(find("sort")->flags & CMD_KEYS_OPEN);
    assert_true(find("sort_ro")->flags & CMD_KEYS_OPEN);
    assert_true(find("migrate")->flags & CMD_KEYS_OPEN);
    assert_false(find("zunionstore")->flags & CMD_KEYS_OPEN);
    assert_true(find("client")->flags & CMD_CONTAINER);
    assert_true(find("evalsha_ro")->flags & CMD_SCRIPT);
    assert_true(find("fcall")->flags & CMD_SCRIPT);
    assert_true(find("publish")->flags & CMD_MAY_REPLICATE);
    assert_true(find("eval")->flags & CMD_MAY_REPLICATE);
    assert_false(find("get")->flags & CMD_MAY_REPLICATE);
    assert_true(find("pfcount")->flags & CMD_MAY_REPLICATE);
    assert_false(find("spublish c m")->flags & CMD_HAS_KEYS);
    assert_true(find("hello")->flags & CMD_NO_AUTH);
    assert_true(find("subscribe")->flags & CMD_PUBSUB);
    assert_true(find("xgroup create")->flags & CMD_WRITE);
    assert_int_equal(find("set")->canon, canon_find("set"));
    assert_int_equal(find("xgroup create")->canon, canon_find("xgroup|create"));
    assert_int_equal(find("spop")->canon, 0);
    assert_true(find("set")->canon != 0);
}

static void blocks(void **state)
{
    static const struct {
        const char *text;
        bool blocks;
    } cases[] = {{"BLPOP l 0", true},
                 {"XREAD STREAMS x 0", false},
                 {"XREAD COUNT 1 block 0 STREAMS x $", true},
                 {"LPOP l", false},
                 {"XREADGROUP GROUP g c STREAMS block 0", false},
                 {"XREADGROUP GROUP g c BLOCK 5 STREAMS x >", true},
                 {"BZMPOP 0 1 z MIN", true}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct words w;
        const struct argv *a = words(&w, cases[i].text);

        assert_int_equal(command_blocks(command_find(table, a), a), cases[i].blocks);
    }
}

static bool has(const struct keyset *k, uint64_t hash)
{
    for (uint32_t i = 0; i < k->count; i++)
        if (keyset_keys(k)[i] == hash)
            return true;
    return false;
}

/* want: keys in order of no meaning, "name" in database 0 or "name@n"; "*" for all; "" for none. */
static void expect_keys(const char *text, const char *want)
{
    struct words w, expected;
    const struct argv *a = words(&w, text), *e = words(&expected, want);
    const struct command *c = command_find(table, a);
    struct keyset k = {0};

    assert_non_null(c);
    command_keys(table, c, a, 0, &k);
    if (k.all != (strcmp(want, "*") == 0))
        fail_msg("%s: all is %d", text, k.all);
    if (!k.all && k.count < e->count)
        fail_msg("%s: %u keys, not %zu", text, (unsigned)k.count, e->count);
    for (size_t i = 0; !k.all && i < e->count; i++) {
        const char *at = argv_at(e, i), *database = memchr(at, '@', argv_len(e, i));
        size_t n = database != NULL ? (size_t)(database - at) : argv_len(e, i);

        if (!has(&k, key_hash(database != NULL ? (uint32_t)atoi(database + 1) : 0, at, n)))
            fail_msg("%s: no %.*s", text, (int)n, at);
    }
    if (!k.all && strchr(want, '@') == NULL && k.count != e->count)
        fail_msg("%s: %u keys, not %zu", text, (unsigned)k.count, e->count);
    keyset_clear(&k);
}

static const char *const key_cases[][2] = {
    {"GET k", "k"},
    {"SET k v GET", "k"},
    {"MGET a b c d", "a b c d"},
    {"MSET a 1 b 2", "a b"},
    {"DEL a b", "a b"},
    {"PING", ""},
    {"BITOP AND d a b", "d a b"},
    {"ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"},
    {"ZUNIONSTORE d 3 a b", "*"},
    {"ZUNIONSTORE d x a", "*"},
    {"LMPOP 2 a b LEFT", "a b"},
    {"BLMPOP 0 2 a b LEFT", "a b"},
    {"BLPOP a b 0", "a b"},
    {"SINTERCARD 2 a b LIMIT 1", "a b"},
    {"XREAD COUNT 2 STREAMS a b 0 0", "a b"},
    {"XREADGROUP GROUP g c STREAMS a b > >", "a b"},
    {"XREAD COUNT 1", "*"},
    {"XREADGROUP GROUP STREAMS c STREAMS a >", "a"},
    {"XREAD STREAMS STREAMS 0", "*"},
    {"XGROUP CREATE x g 0", "x"},
    {"OBJECT ENCODING k", "k"},
    {"GEORADIUS g 1 2 5 km", "g"},
    {"GEORADIUS g 1 2 5 km STORE d", "g d"},
    {"GEORADIUS g 1 2 5 km STORE d STORE e", "*"},
    {"GEORADIUS g 1 2 5 km STORE d STOREDIST e", "g d e"},
    {"GEORADIUS g 1 2 5 km STORE", "*"},
    {"SORT l", "l"},
    {"SORT l LIMIT 0 5 desc ALPHA STORE d", "l d"},
    {"SORT l STORE store", "l store"},
    {"SORT l BY w_* STORE d", "*"},
    {"SORT l GET # STORE d", "*"},
    {"SORT l STORE d STORE e", "*"},
    {"SORT l STORE", "*"},
    {"SORT l LIMIT 0 STORE d", "*"},
    {"SORT", "*"},
    {"EVAL x 1 k", "*"},
    {"EVAL_RO x 0", "*"},
    {"FCALL f 1 k", "*"},
    {"FLUSHALL", "*"},
    {"SWAPDB 0 1", "*"},
    {"KEYS x", "*"},
    {"SCAN 0", "*"},
    {"DBSIZE", "*"},
    {"RANDOMKEY", "*"},
    {"COPY a b", "a b"},
    {"COPY a b REPLACE", "a b"},
    {"COPY a b DB 3", "a b@3"},
    {"COPY a b db 3 replace", "a b@3"},
    {"COPY a b DB 3 DB 4", "*"},
    {"COPY a b DB x", "*"},
    {"COPY a b DB", "*"},
    {"COPY a", "*"},
    {"COPY a b FOO", "*"},
    {"MOVE k 5", "k k@5"},
    {"MOVE k x", "*"},
    {"MOVE k", "*"},
    {"RENAME a b", "a b"},
    {"PUBLISH c m", ""},
    {"SPUBLISH c m", ""},
    {"GET", "*"},
    {"MIGRATE h 1 k 0 100 KEYS a b", "*"},
    {"PFCOUNT a b", "a b"},
    {"PFMERGE d a b", "d a b"},
    {"SMOVE a b m", "a b"},
    {"RESTORE k 0 x", "k"},
    {"WATCH a b", "a b"},
    {"CLIENT SETNAME x", ""},
    {"MEMORY USAGE k", "k"},
    {"LCS a b", "a b"},
    {"SUBSCRIBE c", ""},
    {"MULTI", ""},
};

static void keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof key_cases / sizeof *key_cases; i++)
        expect_keys(key_cases[i][0], key_cases[i][1]);
}

static void bad_tables(void **state)
{
    static const char *const bad[] = {
        "",
        "*1\r\n",
        "-NOPERM no\r\n",
        "+OK\r\n",
        "*0\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n*1\r\n$3\r\nget\r\n",
        "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n:1\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n"};
    /* RESP3, an unknown module command with a search from the end, and one with an unknown way to search */
    static const char good[] = "*1\r\n*10\r\n$5\r\nM.GET\r\n:2\r\n~2\r\n+write\r\n+module\r\n:1\r\n:1\r\n:1\r\n~"
                               "0\r\n*0\r\n*1\r\n%3\r\n$5\r\nflags\r\n~1\r\n+RW\r\n"
                               "$12\r\nbegin_search\r\n%2\r\n$4\r\ntype\r\n$5\r\nother\r\n$4\r\nspec\r\n%0\r\n$"
                               "9\r\nfind_keys\r\n%0\r\n*0\r\n";
    struct command_table *t;
    struct words w;
    char why[200];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        why[0] = 0;
        assert_null(command_table_new(bad[i], strlen(bad[i]), why, sizeof why));
        assert_true(why[0] != 0);
    }
    t = command_table_new(good, strlen(good), why, sizeof why);
    assert_non_null(t);
    assert_true(command_find(t, words(&w, "m.get k"))->flags & CMD_KEYS_OPEN);
    assert_true(command_find(t, words(&w, "m.get k"))->flags & CMD_MODULE);
    command_table_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds), cmocka_unit_test(flags),      cmocka_unit_test(blocks),
        cmocka_unit_test(keys),  cmocka_unit_test(bad_tables),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

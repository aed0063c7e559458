/* The replayable table without a server: what is taken, how it is spelt, where it is refused.
 * tests/e2e/test_canon_stream.py asks Valkey. */
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

enum { ARGS_MAX = 16 };
static const uint64_t now_ms = 1795173900000;

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

static enum canon_result intent(const char *name, const char *text, struct buf *out)
{
    struct words w;

    assert_int_not_equal(canon_find(name), 0);
    return canon_intent(canon_find(name), words(&w, text), now_ms, out);
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(canon_find("spop"), 0);
    assert_int_equal(canon_find("xgroup"), 0);
    assert_int_equal(canon_find("SET"), 0);
    assert_int_not_equal(canon_find("xgroup|create"), 0);
    assert_int_not_equal(canon_find("set"), canon_find("setnx"));
}

static void same(void **state)
{
    static const char *const cases[][2] = {
        {"set", "SET k v"},
        {"set", "set k v NX"},
        {"set", "SET k v XX GET"},
        {"set", "SET k v KEEPTTL"},
        {"set", "SET k v PXAT 1795173900001"},
        {"incr", "INCR k"},
        {"mset", "MSET a 1 b 2"},
        {"del", "DEL a b c"},
        {"pexpireat", "PEXPIREAT k 1795173900001 GT"},
        {"getex", "GETEX k PERSIST"},
        {"lmpop", "LMPOP 2 a b LEFT COUNT 3"},
        {"xadd", "XADD x MAXLEN = 5 1-1 f v"},
        {"zadd", "ZADD z NX CH 1 a 2 b"},
        {"copy", "COPY a b DB 3 REPLACE"},
    };
    struct buf out = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (intent(cases[i][0], cases[i][1], &out) != CANON_SAME)
            fail_msg("%s", cases[i][1]);
    assert_int_equal(out.len, 0);
    buf_free(&out);
}

static void rewritten(void **state)
{
    static const char *const cases[][3] = {
        {"set", "SET k v EX 100", "SET k v PXAT 1795174000000"},
        {"set", "set k v nx px 5 get", "set k v nx PXAT 1795173900005 get"},
        {"set", "SET k v EXAT 1795173901 XX", "SET k v PXAT 1795173901000 XX"},
        {"setex", "setex k 100 v", "SET k v PXAT 1795174000000"},
        {"psetex", "PSETEX k 100 v", "SET k v PXAT 1795173900100"},
        {"expire", "expire k 100 gt", "PEXPIREAT k 1795174000000 gt"},
        {"pexpire", "PEXPIRE k 100", "PEXPIREAT k 1795173900100"},
        {"expireat", "EXPIREAT k 1795173901 NX", "PEXPIREAT k 1795173901000 NX"},
        {"getex", "getex k ex 1", "getex k PXAT 1795173901000"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0}, want = {0};
        struct words w;
        const struct argv *a = words(&w, cases[i][2]);

        assert_int_equal(intent(cases[i][0], cases[i][1], &out), CANON_REWRITTEN);
        argv_header(&want, a->count);
        for (size_t j = 0; j < a->count; j++)
            argv_bulk(&want, argv_at(a, j), argv_len(a, j));
        assert_int_equal(out.len, want.len);
        assert_memory_equal(buf_head(&out), buf_head(&want), want.len);
        buf_free(&out);
        buf_free(&want);
    }
}

static void refused(void **state)
{
    static const char *const cases[][2] = {
        {"set", "SET k v EX 0"},
        {"set", "SET k v EX -5"},
        {"set", "SET k v EX 9223372036854775807"},
        {"set", "SET k v PX 9223372036854775807"},
        {"set", "SET k v PXAT 1795173900000"},
        {"set", "SET k v EXAT 1795173900"},
        {"set", "SET k v EX"},
        {"set", "SET k v EX 5 EX 5"},
        {"set", "SET k v KEEPTTL EX 5"},
        {"set", "SET k v NX XX"},
        {"set", "SET k v IFEQ o GET"},
        {"set", "SET k"},
        {"setex", "SETEX k 0 v"},
        {"expire", "EXPIRE k 0"},
        {"expire", "EXPIRE k 5 NX GT"},
        {"pexpireat", "PEXPIREAT k 1795173900000"},
        {"incrby", "INCRBY k 1.5"},
        {"mset", "MSET a 1 b"},
        {"lpop", "LPOP l 0"},
        {"xadd", "XADD x * f v"},
        {"xadd", "XADD x 5-* f v"},
        {"xadd", "XADD x 5 f v"},
        {"xadd", "XADD x MAXLEN ~ 5 5-1 f v"},
        {"xtrim", "XTRIM x MAXLEN ~ 5"},
        {"lmpop", "LMPOP 3 a b LEFT"},
        {"lmpop", "LMPOP 9223372036854775807 a LEFT"},
        {"zunionstore", "ZUNIONSTORE d 9223372036854775807 a"},
        {"copy", "COPY a b DB 1 DB 2"},
        {"geosearchstore", "GEOSEARCHSTORE d g FROMLONLAT 1 2 BYRADIUS 5 km COUNT 1 ANY"},
    };
    struct buf out = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (intent(cases[i][0], cases[i][1], &out) != CANON_NO)
            fail_msg("%s", cases[i][1]);
    assert_int_equal(out.len, 0);
    assert_int_equal(canon_intent(0, &(struct argv){0}, now_ms, &out), CANON_NO);
    buf_free(&out);
}

static void belongs(void **state)
{
    static const struct {
        const char *name, *intent, *effect;
        bool belongs;
    } cases[] = {
        {"getdel", "GETDEL k", "DEL k", true},
        {"getdel", "GETDEL k", "UNLINK k", true},
        {"getdel", "GETDEL k", "DEL j", false},
        {"set", "SET k v GET", "SET k v", true},
        {"set", "set k v XX get", "set k v XX", true},
        {"set", "SET k v XX GET", "SET k v", false},
        {"set", "SET k v", "SET k v", false},
        {"getset", "GETSET k v", "SET k v", true},
        {"getset", "GETSET k v", "SET k w", false},
        {"getex", "GETEX k PXAT 77", "PEXPIREAT k 77", true},
        {"getex", "GETEX k PXAT 77", "PEXPIREAT k 78", false},
        {"getex", "GETEX k PERSIST", "PERSIST k", true},
        {"incrbyfloat", "INCRBYFLOAT k 1.5", "SET k 3 KEEPTTL", true},
        {"incrbyfloat", "INCRBYFLOAT k 1.5", "SET j 3 KEEPTTL", false},
        {"incrbyfloat", "INCRBYFLOAT k 1.5", "SET k 3", false},
        {"geoadd", "GEOADD g NX 1 2 a 3 4 b", "zadd g NX 11 a 12 b", true},
        {"geoadd", "GEOADD g 1 2 a 3 4 b", "zadd g 11 a", false},
        {"geoadd", "GEOADD g 1 2 a", "zadd g 11 b", false},
        {"lmpop", "LMPOP 2 a b RIGHT COUNT 5", "RPOP b 3", true},
        {"lmpop", "LMPOP 2 a b RIGHT COUNT 5", "RPOP b 6", false},
        {"lmpop", "LMPOP 2 a b RIGHT", "RPOP c 1", false},
        {"lmpop", "LMPOP 2 a b RIGHT", "LPOP b 1", false},
        {"zmpop", "ZMPOP 1 z MAX", "ZPOPMAX z 1", true},
        {"incr", "INCR k", "DECR k", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct words w, e;

        if (canon_effect_belongs(canon_find(cases[i].name), words(&w, cases[i].intent), words(&e, cases[i].effect)) !=
            cases[i].belongs)
            fail_msg("%s / %s", cases[i].intent, cases[i].effect);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),   cmocka_unit_test(same),    cmocka_unit_test(rewritten),
        cmocka_unit_test(refused), cmocka_unit_test(belongs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

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
        {"expire", "EXPIRE k 0", "UNLINK k"},
        {"pexpire", "PEXPIRE k -5", "UNLINK k"},
        {"expireat", "EXPIREAT k 1795173899", "UNLINK k"},
        {"pexpireat", "PEXPIREAT k 1795173899000", "UNLINK k"},
        {"set", "SET k v IFEQ o EX 1 GET", "SET k v IFEQ o PXAT 1795173901000 GET"},
        {"xadd", "XADD x NOMKSTREAM MAXLEN ~ 5 5-1 f v", "XADD x NOMKSTREAM MAXLEN = 5 5-1 f v"},
        {"msetex", "MSETEX 2 a 1 b 2 NX EX 1", "MSETEX 2 a 1 b 2 NX PXAT 1795173901000"},
        {"restore", "RESTORE k 100 x REPLACE", "RESTORE k 1795173900100 x REPLACE ABSTTL"},
        {"hexpire", "hexpire h 1 nx FIELDS 2 f g", "HPEXPIREAT h 1795173901000 nx FIELDS 2 f g"},
        {"hsetex", "HSETEX h PX 5 FIELDS 1 f v", "HSETEX h PXAT 1795173900005 FIELDS 1 f v"},
        {"hgetex", "HGETEX h EX 1 FIELDS 1 f", "HGETEX h PXAT 1795173901000 FIELDS 1 f"},
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
        {"set", "SET k v IFEQ o IFEQ p"},
        {"set", "SET k v IFEQ o NX"},
        {"set", "SET k v IFEQ"},
        {"xadd", "XADD x NOMKSTREAM MAXLEN ~ 5 * f v"},
        {"xadd", "XADD x MAXLEN ~ 5 LIMIT 9 5-1 f v"},
        {"sort", "SORT l BY w STORE d"},
        {"sort", "SORT l STORE d STORE e"},
        {"georadius", "GEORADIUS g 1 2 5 km STORE d STOREDIST e"},
        {"hexpire", "HEXPIRE h 0 FIELDS 1 f"},
        {"hexpire", "HEXPIRE h 5 FIELDS 2 f"},
        {"hsetex", "HSETEX h FNX FIELDS 1 f v"},
        {"hgetex", "HGETEX h FIELDS 1 f"},
        {"hgetdel", "HGETDEL h FIELDS 9223372036854775807 f"},
        {"msetex", "MSETEX 9223372036854775807 a 1"},
        {"restore", "RESTORE k 5 x ABSTTL"},
        {"expire", "EXPIRE k -1 NX"},
        {"expireat", "EXPIREAT k 1795173899 XX"},
        {"pexpireat", "PEXPIREAT k 1795173899001"},
        {"set", "SET k"},
        {"setex", "SETEX k 0 v"},
        {"expire", "EXPIRE k 5 NX GT"},
        {"pexpireat", "PEXPIREAT k 1795173900000"},
        {"incrby", "INCRBY k 1.5"},
        {"mset", "MSET a 1 b"},
        {"lpop", "LPOP l 0"},
        {"xadd", "XADD x * f v"},
        {"xadd", "XADD x 5-* f v"},
        {"xadd", "XADD x 5 f v"},
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

static void put(struct buf *out, const char *text)
{
    struct words w;
    const struct argv *a = words(&w, text);

    argv_header(out, a->count);
    for (size_t i = 0; i < a->count; i++)
        argv_bulk(out, argv_at(a, i), argv_len(a, i));
}

/* XADD with `*`: what is logged, and what Valkey is sent. */
static void chosen_ids(void **state)
{
    static const char *const cases[][3] = {
        {"xadd x * f v", "XADD x 7-8 f v", "x 7-8 f v"},
        {"XADD x NOMKSTREAM * f v", "XADD x NOMKSTREAM 7-8 f v", "x NOMKSTREAM 7-8 f v"},
        {"XADD x MAXLEN ~ 9 * f v g w", "XADD x MAXLEN = 9 7-8 f v g w", "x MAXLEN = 9 7-8 f v g w"},
        {"XADD x NOMKSTREAM MINID 5 * f *", "XADD x NOMKSTREAM MINID 5 7-8 f *", "x NOMKSTREAM MINID 5 7-8 f *"},
    };
    static const char *const not [] = {"XADD x 5-* f v", "XADD x * f",     "XADD x MAXLEN ~ 9 LIMIT 5 * f v",
                                       "XADD x 5-1 f v", "XADD x * f v g", "XADD x MAXLEN * f v"};
    uint16_t xadd = canon_find("xadd");
    struct words w;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf logged = {0}, sent = {0}, want = {0}, tail = {0};

        assert_true(canon_wants_id(xadd, words(&w, cases[i][0])));
        canon_with_id(&w.a, (struct stream_id){7, 8}, &logged, &sent);
        put(&want, cases[i][1]);
        assert_int_equal(logged.len, want.len);
        assert_memory_equal(buf_head(&logged), buf_head(&want), want.len);
        put(&tail, cases[i][2]);
        tail.start += 4; /* without its header */
        tail.len -= 4;
        assert_true(sent.len > tail.len);
        assert_memory_equal(buf_head(&sent) + sent.len - tail.len, buf_head(&tail), tail.len);
        assert_non_null(memmem(buf_head(&sent), sent.len, "$4\r\nEVAL\r\n", 10));
        tail.start -= 4;
        buf_free(&logged);
        buf_free(&sent);
        buf_free(&want);
        buf_free(&tail);
    }
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        if (canon_wants_id(xadd, words(&w, not [i])))
            fail_msg("%s", not [i]);
    assert_false(canon_wants_id(0, words(&w, "XADD x * f v")));
    assert_false(canon_wants_id(canon_find("set"), words(&w, "SET x *")));
}

static void ids_rise(void **state)
{
    struct stream_ids *t = calloc(1, sizeof *t);
    struct stream_id id;

    (void)state;
    id = stream_ids_next(t, 5, 100);
    assert_true(id.ms == 100 && id.seq == 0);
    id = stream_ids_next(t, 5, 100);
    assert_true(id.ms == 100 && id.seq == 1);
    id = stream_ids_next(t, 5, 90); /* the clock went back */
    assert_true(id.ms == 100 && id.seq == 2);
    id = stream_ids_next(t, 6, 90); /* another stream */
    assert_true(id.ms == 90 && id.seq == 0);
    id = stream_ids_next(t, 5, 101);
    assert_true(id.ms == 101 && id.seq == 0);
    id = stream_ids_next(t, 5 + STREAM_IDS_MAX, 101); /* takes 5's place, nothing of its ids */
    assert_true(id.ms == 101 && id.seq == 0);
    id = stream_ids_next(t, 5, 101);
    assert_true(id.ms == 101 && id.seq == 0);
    t->at[7].key = 7;
    t->at[7].last = (struct stream_id){200, UINT64_MAX};
    id = stream_ids_next(t, 7, 100);
    assert_true(id.ms == 201 && id.seq == 0);
    id = stream_ids_next(t, 0, 100); /* a hash of 0 is a key, too */
    assert_true(id.ms == 100 && id.seq == 0);
    id = stream_ids_next(t, 0, 100);
    assert_true(id.ms == 100 && id.seq == 1);
    free(t);
}

static void versions(void **state)
{
    uint16_t set = canon_find("set"), getdel = canon_find("getdel"), hash = canon_find("hincrbyfloat");
    struct buf out = {0};
    struct words w;

    (void)state;
    assert_int_equal(canon_version("8.1.3"), 801);
    assert_int_equal(canon_version("10.0.0-rc1"), 1000);
    assert_int_equal(canon_version("unstable"), 0);
    assert_true(canon_tried(800) && canon_tried(801) && canon_tried(901) && !canon_tried(900) && !canon_tried(0));
    assert_int_equal(canon_for(0, 801), 0);
    assert_int_equal(canon_for(set, 801), set);
    assert_int_equal(canon_for(getdel, 901), getdel);
    assert_int_equal(canon_for(getdel, 902), 0);
    assert_int_equal(canon_for(getdel, 0), 0);
    assert_int_equal(canon_for(hash, 801), hash);
    assert_int_equal(canon_for(hash, 901), 0);
    assert_int_equal(canon_for(canon_find("incr"), 902), canon_find("incr"));
    set = canon_for(set, 902);
    assert_int_equal(canon_intent(set, words(&w, "SET k v XX"), now_ms, &out), CANON_SAME);
    assert_int_equal(canon_intent(set, words(&w, "SET k v GET"), now_ms, &out), CANON_NO);
    assert_false(canon_effect_belongs(set, words(&w, "SET k v GET"), words(&w, "SET k v")));
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),    cmocka_unit_test(same),     cmocka_unit_test(rewritten),
        cmocka_unit_test(refused),  cmocka_unit_test(belongs),  cmocka_unit_test(chosen_ids),
        cmocka_unit_test(ids_rise), cmocka_unit_test(versions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The table of replayable writes.
 *
 * A row is taken only if three things hold, each tried against a real Valkey by tests/e2e/test_canon_stream.py:
 *   1. its effect depends on its arguments and on the keys that it names, on nothing else (no clock, no chance,
 *      no connection state);
 *   2. what Valkey puts in its stream is the canonical intent, byte for byte, or an effect that a belongs_*
 *      function recognises;
 *   3. the intent, executed by a replica (which expires nothing by itself), does what the primary did.
 *
 * Left out, on purpose: SPOP, XREADGROUP, XCLAIM, XAUTOCLAIM (chance, or the clock); all that blocks; scripts and
 * functions; FLUSH*, SWAPDB, SORT with BY or GET (keys not named); conditions on the fields of a hash that expire;
 * PFCOUNT (a read, nearly always); what a form refuses.
 *
 * HINCRBYFLOAT holds up to 8.1 only: since 9.0 fields of a hash expire, of an expired one it leaves HSET as of a live
 * one, and a replica would count on from the old value. (HINCRBY of such a hash is not left verbatim.) */
#include "proxy/canon.h"

#include <stdio.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/canon_internal.h"

#define INT(i) (1u << (i))

/* name, fewest arguments, most (0: any), their step, which must be integers, form, effect. Counts include the
 * name(s). */
#define CANON_ROWS(ROW)                                                                                              \
    ROW("set", 3, 0, 1, 0, form_set, belongs_set)                                                                    \
    ROW("setnx", 3, 3, 1, 0, form_same, belongs_never)                                                               \
    ROW("setex", 4, 4, 1, 0, form_setex, belongs_never)                                                              \
    ROW("psetex", 4, 4, 1, 0, form_psetex, belongs_never)                                                            \
    ROW("getset", 3, 3, 1, 0, form_same, belongs_getset)                                                             \
    ROW("getdel", 2, 2, 1, 0, form_same, belongs_deleted)                                                            \
    ROW("delifeq", 3, 3, 1, 0, form_same, belongs_deleted)                                                           \
    ROW("getex", 3, 4, 1, 0, form_getex, belongs_getex)                                                              \
    ROW("mset", 3, 0, 2, 0, form_same, belongs_never)                                                                \
    ROW("msetnx", 3, 0, 2, 0, form_same, belongs_never)                                                              \
    ROW("msetex", 4, 0, 1, INT(1), form_msetex, belongs_never)                                                       \
    ROW("restore", 4, 0, 1, INT(2), form_restore, belongs_never)                                                     \
    ROW("append", 3, 3, 1, 0, form_same, belongs_never)                                                              \
    ROW("setrange", 4, 4, 1, INT(2), form_same, belongs_never)                                                       \
    ROW("setbit", 4, 4, 1, INT(2) | INT(3), form_same, belongs_never)                                                \
    ROW("bitop", 4, 0, 1, 0, form_bitop, belongs_never)                                                              \
    ROW("bitfield", 5, 0, 1, 0, form_bitfield, belongs_never)                                                        \
    ROW("incr", 2, 2, 1, 0, form_same, belongs_never)                                                                \
    ROW("decr", 2, 2, 1, 0, form_same, belongs_never)                                                                \
    ROW("incrby", 3, 3, 1, INT(2), form_same, belongs_never)                                                         \
    ROW("decrby", 3, 3, 1, INT(2), form_same, belongs_never)                                                         \
    ROW("incrbyfloat", 3, 3, 1, 0, form_same, belongs_incrbyfloat)                                                   \
    ROW("del", 2, 0, 1, 0, form_same, belongs_never)                                                                 \
    ROW("unlink", 2, 0, 1, 0, form_same, belongs_never)                                                              \
    ROW("persist", 2, 2, 1, 0, form_same, belongs_never)                                                             \
    ROW("expire", 3, 4, 1, INT(2), form_expire, belongs_never)                                                       \
    ROW("pexpire", 3, 4, 1, INT(2), form_pexpire, belongs_never)                                                     \
    ROW("expireat", 3, 4, 1, INT(2), form_expireat, belongs_never)                                                   \
    ROW("pexpireat", 3, 4, 1, INT(2), form_pexpireat, belongs_never)                                                 \
    ROW("rename", 3, 3, 1, 0, form_same, belongs_never)                                                              \
    ROW("renamenx", 3, 3, 1, 0, form_same, belongs_never)                                                            \
    ROW("copy", 3, 6, 1, 0, form_copy, belongs_never)                                                                \
    ROW("move", 3, 3, 1, INT(2), form_same, belongs_never)                                                           \
    ROW("lpush", 3, 0, 1, 0, form_same, belongs_never)                                                               \
    ROW("rpush", 3, 0, 1, 0, form_same, belongs_never)                                                               \
    ROW("lpushx", 3, 0, 1, 0, form_same, belongs_never)                                                              \
    ROW("rpushx", 3, 0, 1, 0, form_same, belongs_never)                                                              \
    ROW("lpop", 2, 3, 1, INT(2), form_pop, belongs_never)                                                            \
    ROW("rpop", 2, 3, 1, INT(2), form_pop, belongs_never)                                                            \
    ROW("linsert", 5, 5, 1, 0, form_linsert, belongs_never)                                                          \
    ROW("lset", 4, 4, 1, INT(2), form_same, belongs_never)                                                           \
    ROW("lrem", 4, 4, 1, INT(2), form_same, belongs_never)                                                           \
    ROW("ltrim", 4, 4, 1, INT(2) | INT(3), form_same, belongs_never)                                                 \
    ROW("lmove", 5, 5, 1, 0, form_lmove, belongs_never)                                                              \
    ROW("rpoplpush", 3, 3, 1, 0, form_same, belongs_never)                                                           \
    ROW("lmpop", 4, 0, 1, INT(1), form_lmpop, belongs_lmpop)                                                         \
    ROW("sadd", 3, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("srem", 3, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("smove", 4, 4, 1, 0, form_same, belongs_never)                                                               \
    ROW("sinterstore", 3, 0, 1, 0, form_same, belongs_never)                                                         \
    ROW("sunionstore", 3, 0, 1, 0, form_same, belongs_never)                                                         \
    ROW("sdiffstore", 3, 0, 1, 0, form_same, belongs_never)                                                          \
    ROW("hset", 4, 0, 2, 0, form_same, belongs_never)                                                                \
    ROW("hmset", 4, 0, 2, 0, form_same, belongs_never)                                                               \
    ROW("hsetnx", 4, 4, 1, 0, form_same, belongs_never)                                                              \
    ROW("hincrby", 4, 4, 1, INT(3), form_same, belongs_never)                                                        \
    ROW("hincrbyfloat", 4, 4, 1, 0, form_same, belongs_hincrbyfloat)                                                 \
    ROW("hexpire", 6, 0, 1, INT(2), form_hexpire, belongs_never)                                                     \
    ROW("hpexpire", 6, 0, 1, INT(2), form_hpexpire, belongs_never)                                                   \
    ROW("hexpireat", 6, 0, 1, INT(2), form_hexpireat, belongs_never)                                                 \
    ROW("hpexpireat", 6, 0, 1, INT(2), form_hpexpireat, belongs_never)                                               \
    ROW("hpersist", 5, 0, 1, INT(3), form_hfields, belongs_never)                                                    \
    ROW("hgetdel", 5, 0, 1, INT(3), form_hfields, belongs_never)                                                     \
    ROW("hgetex", 6, 0, 1, 0, form_hgetex, belongs_hgetex)                                                           \
    ROW("hsetex", 6, 0, 1, 0, form_hsetex, belongs_never)                                                            \
    ROW("hdel", 3, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("zadd", 4, 0, 1, 0, form_zadd, belongs_never)                                                                \
    ROW("zincrby", 4, 4, 1, 0, form_same, belongs_never)                                                             \
    ROW("zrem", 3, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("zpopmin", 2, 3, 1, INT(2), form_pop, belongs_never)                                                         \
    ROW("zpopmax", 2, 3, 1, INT(2), form_pop, belongs_never)                                                         \
    ROW("zmpop", 4, 0, 1, INT(1), form_zmpop, belongs_zmpop)                                                         \
    ROW("zremrangebyscore", 4, 4, 1, 0, form_same, belongs_never)                                                    \
    ROW("zremrangebyrank", 4, 4, 1, INT(2) | INT(3), form_same, belongs_never)                                       \
    ROW("zremrangebylex", 4, 4, 1, 0, form_same, belongs_never)                                                      \
    ROW("zunionstore", 4, 0, 1, INT(2), form_zstore, belongs_never)                                                  \
    ROW("zinterstore", 4, 0, 1, INT(2), form_zstore, belongs_never)                                                  \
    ROW("zdiffstore", 4, 0, 1, INT(2), form_zstore, belongs_never)                                                   \
    ROW("zrangestore", 5, 0, 1, 0, form_zrangestore, belongs_never)                                                  \
    ROW("geoadd", 5, 0, 1, 0, form_geoadd, belongs_geoadd)                                                           \
    ROW("georadius", 8, 0, 1, 0, form_georadius, belongs_never)                                                      \
    ROW("georadiusbymember", 7, 0, 1, 0, form_georadius, belongs_never)                                              \
    ROW("sort", 4, 0, 1, 0, form_sort, belongs_never)                                                                \
    ROW("geosearchstore", 8, 0, 1, 0, form_geosearchstore, belongs_never)                                            \
    ROW("pfadd", 2, 0, 1, 0, form_same, belongs_never)                                                               \
    ROW("pfmerge", 2, 0, 1, 0, form_same, belongs_never)                                                             \
    ROW("xadd", 5, 0, 1, 0, form_xadd, belongs_never)                                                                \
    ROW("xdel", 3, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("xtrim", 4, 5, 1, 0, form_xtrim, belongs_never)                                                              \
    ROW("xack", 4, 0, 1, 0, form_same, belongs_never)                                                                \
    ROW("xsetid", 3, 7, 1, 0, form_xsetid, belongs_never)                                                            \
    ROW("xgroup|create", 5, 8, 1, 0, form_xgroup_create, belongs_never)                                              \
    ROW("xgroup|setid", 5, 7, 1, 0, form_xgroup_setid, belongs_never)                                                \
    ROW("xgroup|destroy", 4, 4, 1, 0, form_same, belongs_never)                                                      \
    ROW("xgroup|createconsumer", 5, 5, 1, 0, form_same, belongs_never)                                               \
    ROW("xgroup|delconsumer", 5, 5, 1, 0, form_same, belongs_never)

static const struct canon_row {
    const char *name;
    size_t min, max, step;
    unsigned integers;
    canon_form form;
    canon_belongs belongs;
} rows[] = {
#define ROW(name, min, max, step, integers, form, belongs) {name, min, max, step, integers, form, belongs},
    CANON_ROWS(ROW)
#undef ROW
};

/* Valkeys that tests/e2e/test_canon_stream.py was run against. */
static const unsigned tried[] = {800, 801, 901};
static const struct {
    const char *name;
    unsigned up_to;
} ends[] = {{"hincrbyfloat", 801}};

enum {
    ROWS = sizeof rows / sizeof *rows,
    INTEGERS_MAX = 4,
    VERBATIM_ONLY = 0x8000 /* in a number: forms whose effect would be another are captured */
};

uint16_t canon_find(const char *name)
{
    for (uint16_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return (uint16_t)(i + 1);
    return 0;
}

/* NULL: 0, not in the table. */
static const struct canon_row *row_of(uint16_t canon)
{
    size_t number = canon & (VERBATIM_ONLY - 1u);

    CHECK(number <= ROWS);
    return number == 0 ? NULL : &rows[number - 1];
}

unsigned canon_version(const char *text)
{
    unsigned major, minor;

    return sscanf(text, "%3u.%2u.", &major, &minor) == 2 ? major * 100 + minor : 0;
}

bool canon_tried(unsigned version)
{
    for (size_t i = 0; i < sizeof tried / sizeof *tried; i++)
        if (tried[i] == version)
            return true;
    return false;
}

uint16_t canon_for(uint16_t canon, unsigned version)
{
    const struct canon_row *row = row_of(canon);

    if (row == NULL)
        return 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (version > ends[i].up_to && strcmp(row->name, ends[i].name) == 0)
            return 0;
    if (row->belongs == belongs_never || canon_tried(version))
        return canon;
    return row->form == form_set ? canon | VERBATIM_ONLY : 0;
}

bool canon_wants_id(uint16_t canon, const struct argv *a)
{
    const struct canon_row *row = row_of(canon);

    return row != NULL && row->form == form_xadd && xadd_wants_id(a);
}

enum canon_result canon_intent(uint16_t canon, const struct argv *a, uint64_t now_ms, struct buf *out)
{
    const struct canon_row *row = row_of(canon);
    int64_t ignored;

    if (row == NULL)
        return CANON_NO;
    for (size_t i = 3; (canon & VERBATIM_ONLY) != 0 && i < a->count; i++)
        if (argv_is(a, i, "get"))
            return CANON_NO;
    if (a->count < row->min || (row->max != 0 && a->count > row->max) || (a->count - row->min) % row->step != 0)
        return CANON_NO;
    for (size_t i = 0; row->integers != 0 && i < INTEGERS_MAX && i < a->count; i++)
        if ((row->integers & INT(i)) != 0 && !argv_integer(a, i, &ignored))
            return CANON_NO;
    return row->form(&(struct canon_call){a, now_ms, out});
}

bool canon_effect_belongs(uint16_t canon, const struct argv *intent, const struct argv *effect)
{
    const struct canon_row *row = row_of(canon);

    return row != NULL && (canon & VERBATIM_ONLY) == 0 && row->belongs(intent, effect);
}

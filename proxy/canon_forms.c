/* Which forms of a replayable command are taken. Most: as they are. Those with an expiry are spelt with an absolute
 * time, in milliseconds, as Valkey does for its stream:
 *
 *     SET k v EX 100 NX   ─▶  SET k v PXAT 1795173900374 NX      (Valkey itself would drop the NX: not the intent)
 *     EXPIRE k 100 GT     ─▶  PEXPIREAT k 1795173900374 GT
 *     GETEX k EX 100      ─▶  GETEX k PXAT 1795173900374
 *
 * An option that is not known here makes the form CANON_NO: captured is always right. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/base/buf.h"
#include "proxy/canon_internal.h"

enum { STREAM_ID_DIGITS_MAX = 19 };

enum canon_result form_same(const struct canon_call *c)
{
    (void)c;
    return CANON_SAME;
}

static enum canon_result same_if(bool ok)
{
    return ok ? CANON_SAME : CANON_NO;
}

/* ---- expiries ---- */

struct unit {
    const char *word;
    bool seconds, relative;
};
static const struct unit units[] = {
    {"ex", true, true}, {"px", false, true}, {"exat", true, false}, {"pxat", false, false}};

static const struct unit *unit_at(const struct argv *a, size_t i)
{
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        if (argv_is(a, i, units[u].word))
            return &units[u];
    return NULL;
}

/* The moment that argument i names, in ms; false if it is no number, too large, or not safely in the future. */
static bool moment(const struct canon_call *c, size_t i, const struct unit *u, int64_t *ms)
{
    int64_t now = (int64_t)c->now_ms;

    if (!argv_integer(c->a, i, ms) || *ms <= 0 || c->now_ms > INT64_MAX / 2)
        return false;
    if (u->seconds && __builtin_mul_overflow(*ms, INT64_C(1000), ms))
        return false;
    if (u->relative && __builtin_add_overflow(*ms, now, ms))
        return false;
    return *ms >= now + CANON_EXPIRY_MARGIN_MS && *ms > now;
}

static void put_number(struct buf *out, int64_t v)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRId64, v);

    argv_bulk(out, text, (size_t)n);
}

static void put_arg(struct buf *out, const struct argv *a, size_t i)
{
    argv_bulk(out, argv_at(a, i), argv_len(a, i));
}

/* The arguments, with `PXAT ms` in the place of the unit and number at i. */
static enum canon_result put_pxat(const struct canon_call *c, size_t at, int64_t ms)
{
    argv_header(c->out, c->a->count);
    for (size_t i = 0; i < c->a->count; i++) {
        if (i == at)
            argv_bulk(c->out, "PXAT", 4);
        else if (i == at + 1)
            put_number(c->out, ms);
        else
            put_arg(c->out, c->a, i);
    }
    return CANON_REWRITTEN;
}

/* SET k v [NX|XX] [GET] [KEEPTTL | EX n | PX n | EXAT n | PXAT n], or SET k v IFEQ old alone. */
enum canon_result form_set(const struct canon_call *c)
{
    const struct argv *a = c->a;
    const struct unit *unit = NULL;
    bool nx = false, xx = false, keep = false;
    size_t at = 0;
    int64_t ms = 0;

    if (a->count == 3)
        return CANON_SAME;
    if (a->count == 5 && argv_is(a, 3, "ifeq"))
        return CANON_SAME;
    for (size_t i = 3; i < a->count; i++) {
        if (argv_is(a, i, "nx")) {
            nx = true;
        } else if (argv_is(a, i, "xx")) {
            xx = true;
        } else if (argv_is(a, i, "keepttl")) {
            keep = true;
        } else if (argv_is(a, i, "get")) {
            continue;
        } else if (unit == NULL && (unit = unit_at(a, i)) != NULL) {
            at = i++;
            if (i >= a->count || !moment(c, i, unit, &ms))
                return CANON_NO;
        } else {
            return CANON_NO;
        }
    }
    if ((nx && xx) || (keep && unit != NULL))
        return CANON_NO;
    return unit == NULL || (!unit->seconds && !unit->relative) ? CANON_SAME : put_pxat(c, at, ms);
}

static enum canon_result set_until(const struct canon_call *c, const struct unit *u)
{
    int64_t ms;

    if (!moment(c, 2, u, &ms))
        return CANON_NO;
    argv_header(c->out, 5);
    argv_bulk(c->out, "SET", 3);
    put_arg(c->out, c->a, 1);
    put_arg(c->out, c->a, 3);
    argv_bulk(c->out, "PXAT", 4);
    put_number(c->out, ms);
    return CANON_REWRITTEN;
}

enum canon_result form_setex(const struct canon_call *c)
{
    return set_until(c, &units[0]);
}

enum canon_result form_psetex(const struct canon_call *c)
{
    return set_until(c, &units[1]);
}

enum canon_result form_getex(const struct canon_call *c)
{
    const struct unit *u;
    int64_t ms;

    if (c->a->count == 3)
        return same_if(argv_is(c->a, 2, "persist"));
    u = unit_at(c->a, 2);
    if (u == NULL || !moment(c, 3, u, &ms))
        return CANON_NO;
    return u->seconds || u->relative ? put_pxat(c, 2, ms) : CANON_SAME;
}

/* The option stays behind the time, where Valkey leaves it. */
static enum canon_result expire_at(const struct canon_call *c, const struct unit *u)
{
    const struct argv *a = c->a;
    int64_t ms;

    if (!moment(c, 2, u, &ms))
        return CANON_NO;
    if (a->count == 4 && !argv_is(a, 3, "nx") && !argv_is(a, 3, "xx") && !argv_is(a, 3, "gt") && !argv_is(a, 3, "lt"))
        return CANON_NO;
    if (!u->seconds && !u->relative)
        return CANON_SAME;
    argv_header(c->out, a->count);
    argv_bulk(c->out, "PEXPIREAT", 9);
    put_arg(c->out, a, 1);
    put_number(c->out, ms);
    if (a->count == 4)
        put_arg(c->out, a, 3);
    return CANON_REWRITTEN;
}

enum canon_result form_expire(const struct canon_call *c)
{
    return expire_at(c, &units[0]);
}

enum canon_result form_pexpire(const struct canon_call *c)
{
    return expire_at(c, &units[1]);
}

enum canon_result form_expireat(const struct canon_call *c)
{
    return expire_at(c, &units[2]);
}

enum canon_result form_pexpireat(const struct canon_call *c)
{
    return expire_at(c, &units[3]);
}

/* ---- strings and keys ---- */

enum canon_result form_copy(const struct canon_call *c)
{
    const struct argv *a = c->a;
    bool db = false, replace = false;
    int64_t other;

    for (size_t i = 3; i < a->count; i++) {
        if (!replace && argv_is(a, i, "replace")) {
            replace = true;
        } else if (!db && argv_is(a, i, "db") && argv_integer(a, i + 1, &other) && other >= 0) {
            db = true;
            i++;
        } else {
            return CANON_NO;
        }
    }
    return CANON_SAME;
}

enum canon_result form_bitop(const struct canon_call *c)
{
    if (argv_is(c->a, 1, "not"))
        return same_if(c->a->count == 4);
    return same_if(argv_is(c->a, 1, "and") || argv_is(c->a, 1, "or") || argv_is(c->a, 1, "xor"));
}

/* One that only reads is nothing for the writer lane. */
enum canon_result form_bitfield(const struct canon_call *c)
{
    for (size_t i = 2; i < c->a->count; i++)
        if (argv_is(c->a, i, "set") || argv_is(c->a, i, "incrby"))
            return CANON_SAME;
    return CANON_NO;
}

/* ---- lists ---- */

enum canon_result form_pop(const struct canon_call *c)
{
    int64_t count = 1;

    return same_if(c->a->count == 2 || (argv_integer(c->a, 2, &count) && count > 0));
}

enum canon_result form_linsert(const struct canon_call *c)
{
    return same_if(argv_is(c->a, 2, "before") || argv_is(c->a, 2, "after"));
}

enum canon_result form_lmove(const struct canon_call *c)
{
    for (size_t i = 3; i < 5; i++)
        if (!argv_is(c->a, i, "left") && !argv_is(c->a, i, "right"))
            return CANON_NO;
    return CANON_SAME;
}

/* numkeys key ... <one|other> [COUNT n] */
static enum canon_result multi_pop(const struct argv *a, const char *one, const char *other)
{
    int64_t keys, count;
    size_t at;

    if (!argv_integer(a, 1, &keys) || keys < 1 || keys > (int64_t)a->count)
        return CANON_NO;
    at = 2 + (size_t)keys;
    if (!argv_is(a, at, one) && !argv_is(a, at, other))
        return CANON_NO;
    if (a->count == at + 1)
        return CANON_SAME;
    return same_if(a->count == at + 3 && argv_is(a, at + 1, "count") && argv_integer(a, at + 2, &count) && count > 0);
}

enum canon_result form_lmpop(const struct canon_call *c)
{
    return multi_pop(c->a, "left", "right");
}

enum canon_result form_zmpop(const struct canon_call *c)
{
    return multi_pop(c->a, "min", "max");
}

/* ---- sorted sets ---- */

static bool is_one_of(const struct argv *a, size_t i, const char *const *words)
{
    for (; *words != NULL; words++)
        if (argv_is(a, i, *words))
            return true;
    return false;
}

enum canon_result form_zadd(const struct canon_call *c)
{
    static const char *const options[] = {"nx", "xx", "gt", "lt", "ch", "incr", NULL};
    bool incr = false;
    size_t i = 2;

    for (; is_one_of(c->a, i, options); i++)
        incr = incr || argv_is(c->a, i, "incr");
    if (c->a->count - i < 2 || (c->a->count - i) % 2 != 0)
        return CANON_NO;
    return same_if(!incr || c->a->count - i == 2);
}

enum canon_result form_zstore(const struct canon_call *c)
{
    static const char *const options[] = {"weights", "aggregate", NULL};
    size_t count = c->a->count, at;
    int64_t keys;

    if (!argv_integer(c->a, 2, &keys) || keys < 1 || keys > (int64_t)count - 3)
        return CANON_NO;
    at = 3 + (size_t)keys;
    return same_if(at == count || is_one_of(c->a, at, options));
}

enum canon_result form_zrangestore(const struct canon_call *c)
{
    static const char *const options[] = {"byscore", "bylex", "rev", NULL};
    int64_t ignored;

    for (size_t i = 5; i < c->a->count; i++) {
        if (is_one_of(c->a, i, options))
            continue;
        if (!argv_is(c->a, i, "limit") || !argv_integer(c->a, i + 1, &ignored) ||
            !argv_integer(c->a, i + 2, &ignored))
            return CANON_NO;
        i += 2;
    }
    return CANON_SAME;
}

enum canon_result form_geoadd(const struct canon_call *c)
{
    static const char *const options[] = {"nx", "xx", "ch", NULL};
    size_t i = 2;

    while (is_one_of(c->a, i, options))
        i++;
    return same_if(c->a->count - i >= 3 && (c->a->count - i) % 3 == 0);
}

/* COUNT n ANY takes what comes first: not a function of the content alone. */
enum canon_result form_geosearchstore(const struct canon_call *c)
{
    for (size_t i = 3; i < c->a->count; i++)
        if (argv_is(c->a, i, "any"))
            return CANON_NO;
    return CANON_SAME;
}

/* ---- streams ---- */

static size_t decimal_digits(const char *s, size_t n)
{
    size_t i = 0;

    while (i < n && s[i] >= '0' && s[i] <= '9')
        i++;
    return i == 0 || i > STREAM_ID_DIGITS_MAX || (i > 1 && s[0] == '0') ? 0 : i;
}

/* Exactly "ms-seq", both given: what Valkey leaves as it is. */
static bool is_full_id(const struct argv *a, size_t i)
{
    size_t n, first, second;
    const char *s;

    if (i >= a->count)
        return false;
    s = argv_at(a, i);
    n = argv_len(a, i);
    first = decimal_digits(s, n);
    if (first == 0 || first >= n || s[first] != '-')
        return false;
    second = decimal_digits(s + first + 1, n - first - 1);
    return second > 0 && first + 1 + second == n;
}

/* MAXLEN [=] n, or MINID [=] id, at i: how many arguments; 0: something else, or approximate. */
static size_t exact_trim(const struct argv *a, size_t i)
{
    bool maxlen = argv_is(a, i, "maxlen");
    size_t at = argv_is(a, i + 1, "=") ? i + 2 : i + 1;
    int64_t n;

    if (!maxlen && !argv_is(a, i, "minid"))
        return 0;
    if (maxlen ? !argv_integer(a, at, &n) || n < 0 : !is_full_id(a, at))
        return 0;
    return at + 1 - i;
}

enum canon_result form_xadd(const struct canon_call *c)
{
    size_t i = 2;

    if (argv_is(c->a, i, "nomkstream"))
        i++;
    i += exact_trim(c->a, i);
    if (!is_full_id(c->a, i))
        return CANON_NO;
    i++;
    return same_if(c->a->count - i >= 2 && (c->a->count - i) % 2 == 0);
}

enum canon_result form_xtrim(const struct canon_call *c)
{
    size_t n = exact_trim(c->a, 2);

    return same_if(n > 0 && n + 2 == c->a->count);
}

/* [MKSTREAM] [ENTRIESREAD n] to the end. */
static bool group_options(const struct argv *a, size_t i, bool mkstream)
{
    int64_t n;

    for (; i < a->count; i++) {
        if (mkstream && argv_is(a, i, "mkstream"))
            continue;
        if (!argv_is(a, i, "entriesread") || !argv_integer(a, i + 1, &n))
            return false;
        i++;
    }
    return true;
}

static bool is_group_id(const struct argv *a, size_t i)
{
    return argv_is(a, i, "$") || argv_is(a, i, "0") || is_full_id(a, i);
}

enum canon_result form_xgroup_create(const struct canon_call *c)
{
    return same_if(is_group_id(c->a, 4) && group_options(c->a, 5, true));
}

enum canon_result form_xgroup_setid(const struct canon_call *c)
{
    return same_if(is_group_id(c->a, 4) && group_options(c->a, 5, false));
}

/* XSETID key id [ENTRIESADDED n MAXDELETEDID id] */
enum canon_result form_xsetid(const struct canon_call *c)
{
    const struct argv *a = c->a;
    int64_t n;

    if (!is_full_id(a, 2) || a->count == 3)
        return same_if(is_full_id(a, 2));
    return same_if(a->count == 7 && argv_is(a, 3, "entriesadded") && argv_integer(a, 4, &n) &&
                   argv_is(a, 5, "maxdeletedid") && is_full_id(a, 6));
}

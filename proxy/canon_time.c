/* Forms with an expiry: spelt with an absolute time, in milliseconds, as Valkey does for its stream.
 *
 *     SET k v EX 100 NX   ─▶  SET k v PXAT 1795173900374 NX      (Valkey itself would drop the NX: not the intent)
 *     EXPIRE k 100 GT     ─▶  PEXPIREAT k 1795173900374 GT
 *     GETEX k EX 100      ─▶  GETEX k PXAT 1795173900374
 *     EXPIRE k -1         ─▶  UNLINK k                           (answered alike: whether there was one)
 *     RESTORE k 100 x     ─▶  RESTORE k 1795173900374 x ABSTTL
 *     HEXPIRE h 9 FIELDS 1 f  ─▶  HPEXPIREAT h 1795173900374 FIELDS 1 f */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/base/buf.h"
#include "proxy/canon_internal.h"

struct unit {
    const char *word;
    bool seconds, relative;
};
static const struct unit units[] = {
    {"ex", true, true}, {"px", false, true}, {"exat", true, false}, {"pxat", false, false}};

static const char *const conditions[] = {"nx", "xx", "gt", "lt", NULL};

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

/* SET k v [NX | XX | IFEQ old] [GET] [KEEPTTL | EX n | PX n | EXAT n | PXAT n] */
enum canon_result form_set(const struct canon_call *c)
{
    const struct argv *a = c->a;
    const struct unit *unit = NULL;
    bool nx = false, xx = false, ifeq = false, keep = false;
    size_t at = 0;
    int64_t ms = 0;

    if (a->count == 3)
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
        } else if (!ifeq && argv_is(a, i, "ifeq") && i + 1 < a->count) {
            ifeq = true;
            i++;
        } else if (unit == NULL && (unit = unit_at(a, i)) != NULL) {
            at = i++;
            if (i >= a->count || !moment(c, i, unit, &ms))
                return CANON_NO;
        } else {
            return CANON_NO;
        }
    }
    if (nx + xx + ifeq > 1 || (keep && unit != NULL))
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

/* A moment so far back that Valkey deletes the key at once, whatever its clock says. */
static bool long_past(const struct canon_call *c, size_t i, const struct unit *u)
{
    int64_t n, now = (int64_t)c->now_ms;

    if (!argv_integer(c->a, i, &n) || n < INT32_MIN)
        return false;
    return u->relative ? n <= 0 : n <= (now - CANON_PAST_MARGIN_MS) / (u->seconds ? 1000 : 1);
}

/* The option stays behind the time, where Valkey leaves it. */
static enum canon_result expire_at(const struct canon_call *c, const struct unit *u)
{
    const struct argv *a = c->a;
    int64_t ms;

    if (a->count == 3 && long_past(c, 2, u)) {
        argv_header(c->out, 2);
        argv_bulk(c->out, "UNLINK", 6);
        put_arg(c->out, a, 1);
        return CANON_REWRITTEN;
    }
    if (!moment(c, 2, u, &ms))
        return CANON_NO;
    if (a->count == 4 && !is_one_of(a, 3, conditions))
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

/* [EX n | PX n | EXAT n | PXAT n | KEEPTTL] at i, or nothing: *n arguments; *unit NULL if there is no time. */
static bool time_option(const struct canon_call *c, size_t i, size_t *n, const struct unit **unit, int64_t *ms)
{
    *unit = unit_at(c->a, i);
    if (*unit == NULL) {
        *n = argv_is(c->a, i, "keepttl") ? 1 : 0;
        return true;
    }
    *n = 2;
    return moment(c, i + 1, *unit, ms);
}

static enum canon_result with_time(const struct canon_call *c, size_t at, const struct unit *unit, int64_t ms)
{
    return unit == NULL || (!unit->seconds && !unit->relative) ? CANON_SAME : put_pxat(c, at, ms);
}

/* MSETEX numkeys key value ... [NX|XX] [time] */
enum canon_result form_msetex(const struct canon_call *c)
{
    static const char *const exists[] = {"nx", "xx", NULL};
    const struct unit *unit;
    int64_t keys, ms = 0;
    size_t at, n;

    if (!argv_integer(c->a, 1, &keys) || keys < 1 || keys > (int64_t)c->a->count / 2)
        return CANON_NO;
    at = 2 + 2 * (size_t)keys;
    if (is_one_of(c->a, at, exists))
        at++;
    if (!time_option(c, at, &n, &unit, &ms) || at + n != c->a->count)
        return CANON_NO;
    return with_time(c, at, unit, ms);
}

/* RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME n] [FREQ n] */
enum canon_result form_restore(const struct canon_call *c)
{
    const struct argv *a = c->a;
    struct unit unit = {.relative = true};
    int64_t ttl, n, ms;

    for (size_t i = 4; i < a->count; i++) {
        if (argv_is(a, i, "absttl"))
            unit.relative = false;
        else if ((argv_is(a, i, "idletime") || argv_is(a, i, "freq")) && argv_integer(a, i + 1, &n))
            i++;
        else if (!argv_is(a, i, "replace"))
            return CANON_NO;
    }
    if (argv_integer(a, 2, &ttl) && ttl == 0)
        return CANON_SAME;
    if (!moment(c, 2, &unit, &ms))
        return CANON_NO;
    if (!unit.relative)
        return CANON_SAME;
    argv_header(c->out, a->count + 1);
    for (size_t i = 0; i < a->count; i++) {
        if (i == 2)
            put_number(c->out, ms);
        else
            put_arg(c->out, a, i);
    }
    argv_bulk(c->out, "ABSTTL", 6);
    return CANON_REWRITTEN;
}

/* ---- fields of a hash that expire ---- */

/* FIELDS n, and n times `step` arguments to the end. */
static bool fields_at(const struct argv *a, size_t i, size_t step)
{
    int64_t n;

    return argv_is(a, i, "fields") && argv_integer(a, i + 1, &n) && n > 0 && n < (int64_t)a->count &&
           a->count == i + 2 + (size_t)n * step;
}

/* H[P]EXPIRE[AT] key time [NX|XX|GT|LT] FIELDS n field ... */
static enum canon_result hexpire_at(const struct canon_call *c, const struct unit *u)
{
    int64_t ms;

    if (!moment(c, 2, u, &ms) || !fields_at(c->a, is_one_of(c->a, 3, conditions) ? 4 : 3, 1))
        return CANON_NO;
    if (!u->seconds && !u->relative)
        return CANON_SAME;
    argv_header(c->out, c->a->count);
    argv_bulk(c->out, "HPEXPIREAT", 10);
    put_arg(c->out, c->a, 1);
    put_number(c->out, ms);
    for (size_t i = 3; i < c->a->count; i++)
        put_arg(c->out, c->a, i);
    return CANON_REWRITTEN;
}

enum canon_result form_hexpire(const struct canon_call *c)
{
    return hexpire_at(c, &units[0]);
}

enum canon_result form_hpexpire(const struct canon_call *c)
{
    return hexpire_at(c, &units[1]);
}

enum canon_result form_hexpireat(const struct canon_call *c)
{
    return hexpire_at(c, &units[2]);
}

enum canon_result form_hpexpireat(const struct canon_call *c)
{
    return hexpire_at(c, &units[3]);
}

/* HSETEX key [time] FIELDS n field value ...; conditions look at what has expired, and Valkey drops them. */
enum canon_result form_hsetex(const struct canon_call *c)
{
    const struct unit *unit;
    int64_t ms = 0;
    size_t n;

    if (!time_option(c, 2, &n, &unit, &ms) || !fields_at(c->a, 2 + n, 2))
        return CANON_NO;
    return with_time(c, 2, unit, ms);
}

/* HGETEX key <time | PERSIST> FIELDS n field ...; without either it only reads. */
enum canon_result form_hgetex(const struct canon_call *c)
{
    const struct unit *unit;
    int64_t ms = 0;
    size_t n;

    if (argv_is(c->a, 2, "persist"))
        return same_if(fields_at(c->a, 3, 1));
    if (!time_option(c, 2, &n, &unit, &ms) || unit == NULL || !fields_at(c->a, 4, 1))
        return CANON_NO;
    return with_time(c, 2, unit, ms);
}

/* HPERSIST, HGETDEL key FIELDS n field ... */
enum canon_result form_hfields(const struct canon_call *c)
{
    return same_if(fields_at(c->a, 2, 1));
}

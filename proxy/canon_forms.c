/* Which forms of a replayable command are taken: strings, keys, lists, hashes, sorted sets. Most as they are. Those
 * with an expiry are in canon_time.c, streams in canon_streams.c.
 *
 * An option that is not known here makes the form CANON_NO: captured is always right. */
#include "proxy/canon_internal.h"

enum canon_result form_same(const struct canon_call *c)
{
    (void)c;
    return CANON_SAME;
}

enum canon_result same_if(bool ok)
{
    return ok ? CANON_SAME : CANON_NO;
}

bool is_one_of(const struct argv *a, size_t i, const char *const *words)
{
    for (; *words != NULL; words++)
        if (argv_is(a, i, *words))
            return true;
    return false;
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

/* GEORADIUS[BYMEMBER] ... STORE|STOREDIST key, once: Valkey's parser and its key specs disagree on more. */
enum canon_result form_georadius(const struct canon_call *c)
{
    static const char *const words[] = {"store", "storedist", NULL};
    size_t stores = 0;

    for (size_t i = 1; i < c->a->count; i++) {
        if (argv_is(c->a, i, "any"))
            return CANON_NO;
        if (is_one_of(c->a, i, words))
            stores += i >= 5 && i + 1 < c->a->count ? 1 : 2;
    }
    return same_if(stores == 1);
}

/* SORT key [LIMIT a n] [ASC|DESC] [ALPHA] STORE key; BY and GET name other keys, and without STORE it only reads. */
enum canon_result form_sort(const struct canon_call *c)
{
    static const char *const options[] = {"asc", "desc", "alpha", NULL};
    const struct argv *a = c->a;
    bool store = false;
    int64_t n;

    for (size_t i = 2; i < a->count; i++) {
        if (is_one_of(a, i, options))
            continue;
        if (argv_is(a, i, "limit") && argv_integer(a, i + 1, &n) && argv_integer(a, i + 2, &n)) {
            i += 2;
        } else if (!store && argv_is(a, i, "store") && i + 1 < a->count) {
            store = true;
            i++;
        } else {
            return CANON_NO;
        }
    }
    return same_if(store);
}

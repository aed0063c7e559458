/* Effects that Valkey spells differently from the intent, although the intent is canonical:
 *
 *     GETDEL k              DEL k                       GETSET k v           SET k v
 *     GETEX k PXAT ms       PEXPIREAT k ms              SET k v NX GET       SET k v NX
 *     INCRBYFLOAT k 1.5     SET k 4 KEEPTTL             GEOADD g 1 2 a       zadd g 3378080408407459 a
 *     LMPOP 2 k l LEFT      LPOP l 1                    HINCRBYFLOAT h f 1   HSET h f 4
 *     HGETEX h PXAT ms FIELDS 1 f                       HPEXPIREAT h ms FIELDS 1 f
 *
 * Values that Valkey computed are not computed again here: the form and the keys must agree. */
#include <string.h>

#include "proxy/canon_internal.h"

static bool same_arg(const struct argv *a, size_t i, const struct argv *b, size_t j)
{
    return i < a->count && j < b->count && argv_len(a, i) == argv_len(b, j) &&
           memcmp(argv_at(a, i), argv_at(b, j), argv_len(a, i)) == 0;
}

bool belongs_never(const struct argv *intent, const struct argv *effect)
{
    (void)intent;
    (void)effect;
    return false;
}

/* SET ... GET: without the GET; all else is as it was. */
bool belongs_set(const struct argv *intent, const struct argv *effect)
{
    size_t j = 3;

    if (effect->count < 3 || effect->count >= intent->count || !argv_is(effect, 0, "set") ||
        !same_arg(intent, 1, effect, 1) || !same_arg(intent, 2, effect, 2))
        return false;
    for (size_t i = 3; i < intent->count; i++) {
        if (argv_is(intent, i, "get"))
            continue;
        if (!same_arg(intent, i, effect, j++))
            return false;
    }
    return j == effect->count;
}

bool belongs_getset(const struct argv *intent, const struct argv *effect)
{
    return effect->count == 3 && argv_is(effect, 0, "set") && same_arg(intent, 1, effect, 1) &&
           same_arg(intent, 2, effect, 2);
}

/* UNLINK with lazyfree-lazy-user-del. */
bool belongs_deleted(const struct argv *intent, const struct argv *effect)
{
    return effect->count == 2 && (argv_is(effect, 0, "del") || argv_is(effect, 0, "unlink")) &&
           same_arg(intent, 1, effect, 1);
}

bool belongs_getex(const struct argv *intent, const struct argv *effect)
{
    if (!same_arg(intent, 1, effect, 1))
        return false;
    if (argv_is(intent, 2, "persist"))
        return effect->count == 2 && argv_is(effect, 0, "persist");
    return effect->count == 3 && argv_is(effect, 0, "pexpireat") && same_arg(intent, 3, effect, 2);
}

bool belongs_incrbyfloat(const struct argv *intent, const struct argv *effect)
{
    return effect->count == 4 && argv_is(effect, 0, "set") && argv_is(effect, 3, "keepttl") &&
           same_arg(intent, 1, effect, 1);
}

bool belongs_hincrbyfloat(const struct argv *intent, const struct argv *effect)
{
    return effect->count == 4 && argv_is(effect, 0, "hset") && same_arg(intent, 1, effect, 1) &&
           same_arg(intent, 2, effect, 2);
}

/* All fields, as asked: a replica, for which none has expired, would take all of them. */
bool belongs_hgetex(const struct argv *intent, const struct argv *effect)
{
    bool persist = argv_is(intent, 2, "persist");
    size_t i = persist ? 3 : 4, j = persist ? 2 : 3;

    if (!argv_is(effect, 0, persist ? "hpersist" : "hpexpireat") || !same_arg(intent, 1, effect, 1))
        return false;
    if (!persist && !same_arg(intent, 3, effect, 2))
        return false;
    if (!argv_is(effect, j, "fields") || effect->count - j != intent->count - i)
        return false;
    for (i++, j++; j < effect->count; i++, j++)
        if (!same_arg(intent, i, effect, j))
            return false;
    return true;
}

/* [options] lon lat member ... ─▶ [options] score member ... */
bool belongs_geoadd(const struct argv *intent, const struct argv *effect)
{
    size_t i = 2, j;

    if (!argv_is(effect, 0, "zadd") || !same_arg(intent, 1, effect, 1))
        return false;
    while (argv_is(intent, i, "nx") || argv_is(intent, i, "xx") || argv_is(intent, i, "ch")) {
        if (!same_arg(intent, i, effect, i))
            return false;
        i++;
    }
    for (j = i; i + 2 < intent->count; i += 3, j += 2)
        if (!same_arg(intent, i + 2, effect, j + 1))
            return false;
    return i == intent->count && j == effect->count;
}

/* <pop> key n of one of the keys, in the direction asked for, and no more than asked for. */
static bool popped(const struct argv *intent, const struct argv *effect, const char *first_word,
                   const char *first_pop, const char *other_pop)
{
    int64_t keys, asked = 1, count;
    size_t at;

    if (effect->count != 3 || !argv_integer(intent, 1, &keys) || keys < 1 || keys > (int64_t)intent->count ||
        !argv_integer(effect, 2, &count))
        return false;
    at = 2 + (size_t)keys;
    if (!argv_is(effect, 0, argv_is(intent, at, first_word) ? first_pop : other_pop))
        return false;
    if (intent->count > at + 1 && !argv_integer(intent, at + 2, &asked))
        return false;
    for (size_t i = 2; i < at; i++)
        if (same_arg(intent, i, effect, 1))
            return count >= 1 && count <= asked;
    return false;
}

bool belongs_lmpop(const struct argv *intent, const struct argv *effect)
{
    return popped(intent, effect, "left", "lpop", "rpop");
}

bool belongs_zmpop(const struct argv *intent, const struct argv *effect)
{
    return popped(intent, effect, "min", "zpopmin", "zpopmax");
}

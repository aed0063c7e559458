/* Which keys do these arguments name? Valkey's own key specs, followed as Valkey does (getKeysUsingKeySpecs), and
 * wherever that leaves a doubt the answer is "all", which only makes somebody wait longer.
 *
 *     ZUNIONSTORE d 2 a b WEIGHTS 1 2      index 1, range 0   ─▶ d
 *                                          index 2, keynum    ─▶ a b
 *     GEORADIUS g 1 2 5 km STORE d         index 1, range 0   ─▶ g
 *                                          keyword STORE      ─▶ d   (twice: Valkey's parser takes the last,
 *                                                                     its key specs the first: all)
 *     COPY a b DB 3                        b is in database 3
 *     SORT l LIMIT 0 5 STORE d             its key specs say: unknown. Without BY and GET: l d */
#include "proxy/command_internal.h"

struct found {
    int64_t first, last, step;
};

/* The argument behind the keyword; 0: it is not there (then the spec names nothing). False: it is there twice. */
static bool find_keyword(const struct key_spec *s, const struct argv *a, int64_t *begin)
{
    *begin = 0;
    for (size_t i = (size_t)s->from; i < a->count; i++) {
        if (!argv_is(a, i, s->keyword))
            continue;
        if (*begin != 0)
            return false;
        *begin = (int64_t)i + 1;
    }
    return true;
}

/* False: the arguments do not fit the spec. step 0: nothing to add. */
static bool apply(const struct key_spec *s, const struct argv *a, struct found *f)
{
    int64_t count = (int64_t)a->count, begin = s->from, number;

    *f = (struct found){0};
    if (s->by_keyword) {
        if (!find_keyword(s, a, &begin))
            return false;
        if (begin == 0)
            return true;
    }
    f->step = s->step;
    if (s->by_number) {
        int64_t at = begin + s->number_at;

        if (at >= count || !argv_integer(a, (size_t)at, &number) || number < 0 || number > count)
            return false;
        if (number == 0) {
            f->step = 0;
            return true;
        }
        f->first = begin + s->first;
        f->last = f->first + (number - 1) * s->step;
    } else {
        f->first = begin;
        if (s->last >= 0)
            f->last = begin + s->last;
        else
            f->last = s->limit > 1 ? begin + (count - begin) / s->limit + s->last : count + s->last;
    }
    return f->first < count && f->last < count && f->last >= f->first;
}

static void add_key(const struct argv *a, size_t i, uint32_t db, struct keyset *out)
{
    keyset_add(out, key_hash(db, argv_at(a, i), argv_len(a, i)));
}

/* COPY a b [DB n] [REPLACE]: the destination. A database that is not plainly one: every key. */
static void copy_destination(const struct argv *a, uint32_t db, struct keyset *out)
{
    int64_t other = db;
    bool seen = false;

    for (size_t i = 3; i < a->count; i++) {
        if (argv_is(a, i, "replace"))
            continue;
        if (seen || !argv_is(a, i, "db") || !argv_integer(a, i + 1, &other) || other < 0 || other > INT32_MAX) {
            out->all = true;
            return;
        }
        seen = true;
        i++;
    }
    if ((uint32_t)other != db) /* else the key specs have said it */
        add_key(a, 2, (uint32_t)other, out);
}

static void move_destination(const struct argv *a, struct keyset *out)
{
    int64_t other;

    if (!argv_integer(a, 2, &other) || other < 0 || other > INT32_MAX)
        out->all = true;
    else
        add_key(a, 1, (uint32_t)other, out);
}

/* SORT key [LIMIT a n] [ASC|DESC] [ALPHA] [STORE key], and nothing else. */
static bool sort_keys(const struct argv *a, uint32_t db, struct keyset *out)
{
    size_t store = 0;

    for (size_t i = 2; i < a->count; i++) {
        if (argv_is(a, i, "limit") && i + 2 < a->count)
            i += 2;
        else if (store == 0 && argv_is(a, i, "store") && i + 1 < a->count)
            store = ++i;
        else if (!argv_is(a, i, "asc") && !argv_is(a, i, "desc") && !argv_is(a, i, "alpha"))
            return false;
    }
    if (a->count < 2)
        return false;
    add_key(a, 1, db, out);
    if (store != 0)
        add_key(a, store, db, out);
    return true;
}

void command_keys(const struct command_table *t, const struct command *c, const struct argv *a, uint32_t db,
                  struct keyset *out)
{
    const struct command_entry *e = (const struct command_entry *)c;
    bool touches = (c->flags & (CMD_WRITE | CMD_READONLY)) != 0;
    uint32_t before = out->count;

    (void)t;
    if (e->only_key != 0 && e->only_key < a->count) {
        add_key(a, e->only_key, db, out);
        return;
    }
    if (e->sort && sort_keys(a, db, out))
        return;
    if ((c->flags & (CMD_KEYS_OPEN | CMD_SCRIPT | CMD_MODULE)) != 0) {
        out->all = true;
        return;
    }
    if ((e->other_db == OTHER_DB_COPY || e->other_db == OTHER_DB_MOVE) && a->count < 3) {
        out->all = true;
        return;
    }
    for (size_t i = 0; i < e->specs; i++) {
        struct found f;

        if (!apply(&e->spec[i], a, &f)) {
            out->all = true;
            return;
        }
        for (int64_t k = f.first; f.step > 0 && k <= f.last; k += f.step)
            add_key(a, (size_t)k, db, out);
    }
    if (e->other_db == OTHER_DB_COPY)
        copy_destination(a, db, out);
    if (e->other_db == OTHER_DB_MOVE)
        move_destination(a, out);
    if (out->count == before && touches)
        out->all = true;
}

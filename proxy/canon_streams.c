/* Forms of streams. An id is taken if it is whole; `*` is replaced by an id of our choice (canon_with_id).
 *
 *     XADD x MAXLEN ~ 100 * f v   intent:  XADD x MAXLEN = 100 1795173900374-0 f v
 *                                 sent:    EVAL "...XADD..." 1 x MAXLEN = 100 1795173900374-0 f v
 *
 * The stream may already hold a greater id (another writer's, or the clock went back), and then Valkey refuses ours.
 * The client who said `*` must not see that, and what comes behind it on the lane must not overtake it. So what is
 * sent is a script that adds with our id and, refused, adds with `*` at the same moment. A script of one write is
 * that write alone in Valkey's stream: the intent byte for byte, or an XADD with another id, which is nobody's intent
 * and so RAW; then the intent has left no effect, and the reply waits for the OUTCOME, as for any that was refused.
 *
 * "~" leaves to Valkey how much it trims, by how it keeps a stream in memory; "=" is one of the permitted answers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/canon_internal.h"

enum { STREAM_ID_DIGITS_MAX = 19 };

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

static bool is_trim_id(const struct argv *a, size_t i)
{
    return is_full_id(a, i) || (i < a->count && decimal_digits(argv_at(a, i), argv_len(a, i)) == argv_len(a, i));
}

/* MAXLEN [=|~] n, or MINID [=|~] id, at i: how many arguments; 0: something else. */
static size_t trim(const struct argv *a, size_t i, size_t *tilde)
{
    bool maxlen = argv_is(a, i, "maxlen");
    size_t at = i + 1;
    int64_t n;

    *tilde = argv_is(a, at, "~") ? at : 0;
    if (*tilde != 0 || argv_is(a, at, "="))
        at++;
    if (!maxlen && !argv_is(a, i, "minid"))
        return 0;
    if (maxlen ? !argv_integer(a, at, &n) || n < 0 : !is_trim_id(a, at))
        return 0;
    return at + 1 - i;
}

struct xadd {
    size_t tilde, id; /* places; tilde 0: there is none */
};

/* XADD key [NOMKSTREAM] [trim] id field value ...; LIMIT, or another order of the options, is not understood here. */
static bool parse_xadd(const struct argv *a, struct xadd *x)
{
    x->id = argv_is(a, 2, "nomkstream") ? 3 : 2;
    x->id += trim(a, x->id, &x->tilde);
    return a->count >= x->id + 3 && (a->count - x->id) % 2 == 1;
}

/* The arguments from `from` on, with the id given (NULL: as it is), and "=" for "~". */
static void put_xadd(struct buf *out, const struct argv *a, const struct xadd *x, size_t from, const char *id)
{
    for (size_t i = from; i < a->count; i++) {
        if (i == x->tilde && x->tilde != 0)
            argv_bulk(out, "=", 1);
        else if (i == x->id && id != NULL)
            argv_bulk(out, id, strlen(id));
        else
            argv_bulk(out, argv_at(a, i), argv_len(a, i));
    }
}

enum canon_result form_xadd(const struct canon_call *c)
{
    struct xadd x;

    if (!parse_xadd(c->a, &x) || !is_full_id(c->a, x.id))
        return CANON_NO;
    if (x.tilde == 0)
        return CANON_SAME;
    argv_header(c->out, c->a->count);
    put_xadd(c->out, c->a, &x, 0, NULL);
    return CANON_REWRITTEN;
}

bool xadd_wants_id(const struct argv *a)
{
    struct xadd x;

    return a->count <= CANON_ID_ARGS_MAX && parse_xadd(a, &x) && argv_is(a, x.id, "*");
}

void canon_with_id(const struct argv *a, struct stream_id id, struct buf *intent, struct buf *sent)
{
    char text[48], script[256];
    struct xadd x;

    CHECK(parse_xadd(a, &x));
    (void)snprintf(text, sizeof text, "%" PRIu64 "-%" PRIu64, id.ms, id.seq);
    argv_header(intent, a->count);
    argv_bulk(intent, "XADD", 4); /* as the script says it */
    put_xadd(intent, a, &x, 1, text);
    (void)snprintf(
        script, sizeof script,
        "local r=redis.pcall('XADD',KEYS[1],unpack(ARGV)) if type(r)=='table' and r.err then ARGV[%zu]='*' "
        "r=redis.pcall('XADD',KEYS[1],unpack(ARGV)) end return r",
        x.id - 1);
    argv_header(sent, a->count + 2);
    argv_bulk(sent, "EVAL", 4);
    argv_bulk(sent, script, strlen(script));
    argv_bulk(sent, "1", 1);
    put_xadd(sent, a, &x, 1, text);
}

enum canon_result form_xtrim(const struct canon_call *c)
{
    size_t tilde, n = trim(c->a, 2, &tilde);

    return same_if(n > 0 && tilde == 0 && n + 2 == c->a->count);
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

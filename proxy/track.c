/* Reading requests for what they change in a session: see track.h.
 *
 * A request changes the facts when it is sent, to the worse (MULTI has perhaps been executed), and when its reply
 * comes, to the better (EXEC has certainly). What began later than the reply's request stays: MULTI, EXEC, MULTI sent
 * in one go, and the reply of EXEC comes: MULTI is open again. */
#include "proxy/track.h"

#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"

/* ---- requests ---- */

static void wipe(char *bytes, size_t n)
{
    if (bytes == NULL)
        return;
    explicit_bzero(bytes, n);
    free(bytes);
}

void request_free(struct request *q)
{
    wipe(q->bytes, q->n);
    q->bytes = NULL;
}

struct request request_say(const char *text)
{
    struct request q = {.kind = REQUEST_SAY, .n = strlen(text) + 3};

    q.bytes = must_calloc(1, q.n);
    q.bytes[0] = '-';
    memcpy(q.bytes + 1, text, q.n - 3);
    memcpy(q.bytes + q.n - 2, "\r\n", 2);
    return q;
}

static enum setup_key hello_key(const struct argv *a)
{
    bool auth = false, name = false;
    size_t i = 2;

    while (i < a->count) {
        if (argv_is(a, i, "auth")) {
            auth = true;
            i += 3;
        } else {
            name = name || argv_is(a, i, "setname");
            i += 2;
        }
    }
    if (auth)
        return name ? SETUP_HELLO_AUTH_NAME : SETUP_HELLO_AUTH;
    return name ? SETUP_HELLO_NAME : SETUP_HELLO;
}

static bool is_setup_of_client(const struct argv *a, enum setup_key *key)
{
    static const struct {
        const char *word;
        enum setup_key key;
    } subcommands[] = {{"setname", SETUP_NAME},
                       {"durability", SETUP_DURABILITY},
                       {"no-evict", SETUP_NO_EVICT},
                       {"no-touch", SETUP_NO_TOUCH},
                       {"capa", SETUP_CAPA}};

    for (size_t i = 0; i < sizeof subcommands / sizeof *subcommands; i++)
        if (argv_is(a, 1, subcommands[i].word)) {
            *key = subcommands[i].key;
            return a->count > 2 && !argv_is(a, 2, "get"); /* DURABILITY GET only asks */
        }
    if (!argv_is(a, 1, "setinfo"))
        return false;
    *key = argv_is(a, 2, "lib-ver") ? SETUP_LIB_VER : SETUP_LIB_NAME;
    return true;
}

static bool is_setup(const struct argv *a, enum setup_key *key)
{
    if (argv_is(a, 0, "client"))
        return is_setup_of_client(a, key);
    if (argv_is(a, 0, "select"))
        *key = SETUP_SELECT;
    else if (argv_is(a, 0, "hello"))
        *key = hello_key(a);
    else if (argv_is(a, 0, "auth"))
        *key = SETUP_AUTH;
    else if (argv_is(a, 0, "readonly") || argv_is(a, 0, "readwrite"))
        *key = SETUP_READONLY;
    else
        return false;
    return !argv_is(a, 0, "hello") || a->count > 1;
}

static bool is_one_of(const struct argv *a, const char *const *words)
{
    for (; *words != NULL; words++)
        if (argv_is(a, 0, *words))
            return true;
    return false;
}

static enum request_kind kind_of_client(const struct argv *a)
{
    if (argv_is(a, 1, "reply") && !argv_is(a, 2, "on"))
        return REQUEST_OPAQUE;
    if (argv_is(a, 1, "tracking"))
        return argv_is(a, 2, "off") ? REQUEST_TRACKING_OFF : REQUEST_TRACKING_ON;
    return REQUEST_PLAIN;
}

static enum request_kind kind_of(const struct argv *a, enum setup_key *key)
{
    /* Any number of replies, or pushes instead of them; and in RESP2 messages look like replies. */
    static const char *const opaque[] = {"subscribe",  "unsubscribe",  "psubscribe", "punsubscribe",
                                         "ssubscribe", "sunsubscribe", "monitor",    "psync",
                                         "sync",       "replconf",     NULL};
    static const struct {
        const char *word;
        enum request_kind kind;
    } kinds[] = {{"multi", REQUEST_MULTI}, {"exec", REQUEST_EXEC},       {"discard", REQUEST_DISCARD},
                 {"watch", REQUEST_WATCH}, {"unwatch", REQUEST_UNWATCH}, {"reset", REQUEST_RESET},
                 {"quit", REQUEST_QUIT},   {"post", REQUEST_HTTP},       {"host:", REQUEST_HTTP}};

    if (is_setup(a, key))
        return REQUEST_SETUP;
    if (argv_is(a, 0, "discard") && a->count > 1)
        return REQUEST_PLAIN; /* refused, and MULTI stays open; after such an EXEC it does not */
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (argv_is(a, 0, kinds[i].word))
            return kinds[i].kind;
    if (is_one_of(a, opaque))
        return REQUEST_OPAQUE;
    return argv_is(a, 0, "client") ? kind_of_client(a) : REQUEST_PLAIN;
}

static bool may_block(const struct argv *a)
{
    static const char *const words[] = {"blpop",  "brpop",  "blmove", "brpoplpush", "bzpopmin", "bzpopmax",
                                        "blmpop", "bzmpop", "wait",   "waitaof",    NULL};

    if (is_one_of(a, words))
        return true;
    if (!argv_is(a, 0, "xread") && !argv_is(a, 0, "xreadgroup"))
        return false;
    for (size_t i = 1; i < a->count; i++)
        if (argv_is(a, i, "block"))
            return true;
    return false;
}

struct request request_of(const struct argv *a, uint64_t now_ms)
{
    struct request q = {.since_ms = now_ms, .wire_bytes = a->n, .blocks = may_block(a)};
    int64_t db;

    q.kind = kind_of(a, &q.key);
    q.select = q.kind == REQUEST_SETUP && q.key == SETUP_SELECT && a->count == 2 && argv_integer(a, 1, &db) &&
               db >= 0 && db <= INT32_MAX;
    if (q.kind != REQUEST_SETUP || a->n > PRELUDE_BYTES_MAX)
        return q;
    q.n = a->n;
    q.bytes = must_calloc(1, a->n);
    memcpy(q.bytes, a->bytes, a->n);
    return q;
}

/* ---- the prelude ---- */

static void prelude_remove(struct track *t, size_t i)
{
    t->prelude_bytes -= t->prelude[i].n;
    wipe(t->prelude[i].bytes, t->prelude[i].n);
    t->prelude_count--;
    memmove(&t->prelude[i], &t->prelude[i + 1], (t->prelude_count - i) * sizeof *t->prelude);
}

static void prelude_clear(struct track *t)
{
    while (t->prelude_count > 0)
        prelude_remove(t, t->prelude_count - 1);
    t->prelude_too_long = false;
}

void track_assume(struct track *t, struct request *q)
{
    for (size_t i = 0; i < t->prelude_count; i++)
        if (t->prelude[i].key == q->key) {
            prelude_remove(t, i);
            break;
        }
    if (q->bytes == NULL || t->prelude_bytes + q->n > PRELUDE_BYTES_MAX || t->prelude_count == PRELUDE_COMMANDS_MAX) {
        t->prelude_too_long = true;
        return;
    }
    t->prelude[t->prelude_count++] = (struct setup){q->key, q->bytes, q->n};
    t->prelude_bytes += q->n;
    q->bytes = NULL;
}

void track_prelude(const struct track *t, struct buf *out)
{
    for (size_t i = 0; i < t->prelude_count; i++)
        buf_append(out, t->prelude[i].bytes, t->prelude[i].n);
}

void track_free(struct track *t)
{
    prelude_clear(t);
}

/* ---- facts ---- */

void track_sent(struct track *t, struct request *q)
{
    t->sent++;
    switch (q->kind) {
    case REQUEST_SETUP:
        t->setups++;
        t->changed_inside = t->changed_inside || t->tx;
        break;
    case REQUEST_MULTI:
        if (t->tx) { /* nested: refused, and it changes nothing */
            q->kind = REQUEST_PLAIN;
            break;
        }
        t->tx = true;
        t->tx_at = t->sent;
        break;
    case REQUEST_WATCH:
        t->watching = true;
        t->watch_at = t->sent;
        break;
    case REQUEST_TRACKING_ON:
        t->tracking = true;
        t->tracking_at = t->sent;
        break;
    case REQUEST_OPAQUE:
        t->opaque = true;
        break;
    default:
        break;
    }
}

static void on_reset(struct track *t)
{
    prelude_clear(t);
    t->changed_inside = false;
    t->tx = t->tx && t->tx_at > t->answered;
    t->watching = t->watching && t->watch_at > t->answered;
    t->tracking = t->tracking && t->tracking_at > t->answered;
}

void track_answered(struct track *t, struct request *q, const char *reply, size_t n)
{
    bool error = n > 0 && reply[0] == '-', queued = n > 2 && memcmp(reply, "+QU", 3) == 0;

    t->answered++;
    CHECK(t->answered <= t->sent);
    switch (q->kind) {
    case REQUEST_SETUP:
        CHECK(t->setups > 0);
        t->setups--;
        if (!error && !queued)
            track_assume(t, q);
        break;
    case REQUEST_MULTI:
        if (error && t->tx_at == t->answered)
            t->tx = false;
        break;
    case REQUEST_EXEC:
    case REQUEST_DISCARD: /* an error says that there was no MULTI or that it is gone, but for LOADING */
        if (n > 8 && memcmp(reply, "-LOADING", 8) == 0)
            break;
        t->tx = t->tx && t->tx_at > t->answered;
        t->watching = t->watching && t->watch_at > t->answered;
        break;
    case REQUEST_UNWATCH:
        if (!error && !queued)
            t->watching = t->watching && t->watch_at > t->answered;
        break;
    case REQUEST_TRACKING_OFF:
        if (!error && !queued)
            t->tracking = t->tracking && t->tracking_at > t->answered;
        break;
    case REQUEST_RESET:
        if (!error)
            on_reset(t);
        break;
    default:
        break;
    }
}

void track_unsent(struct track *t)
{
    if (t->tx && t->tx_at > t->answered)
        t->tx = false; /* what was there before a WATCH or TRACKING is not remembered: they stay */
    t->sent = t->answered;
    t->setups = 0;
}

bool track_restorable(const struct track *t)
{
    return !t->opaque && !t->tx && !t->watching && !t->tracking && !t->changed_inside && !t->prelude_too_long &&
           t->setups == 0;
}

/* The filters of CLIENT LIST and CLIENT KILL: a table of what can be asked about a session. All that Valkey has up to
 * 9.x is understood, whatever the version behind. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "proxy/argv.h"
#include "proxy/client.h"
#include "proxy/worker_state.h"

struct value {
    const char *text;
    size_t n;
    int64_t number;
};

struct client_kind {
    const char *name;
    bool number;  /* an integer, not below `least` */
    bool not_too; /* there is NOT-... of it */
    int64_t least;
    const char *no_number, *too_small;
    bool (*matches)(const struct session *s, const struct value *v);
};

static bool same(const struct value *v, const char *text)
{
    return text != NULL && strlen(text) == v->n && memcmp(v->text, text, v->n) == 0;
}

static bool is_id(const struct session *s, const struct value *v)
{
    return s->id == (uint64_t)v->number;
}

static bool is_type(const struct session *s, const struct value *v)
{
    if (strncasecmp(v->text, "normal", v->n) == 0)
        return !client_is_pubsub(s);
    if (strncasecmp(v->text, "pubsub", v->n) == 0)
        return client_is_pubsub(s);
    return false; /* primaries and replicas connect to Valkey, not to us */
}

static bool is_user(const struct session *s, const struct value *v)
{
    return same(v, client_user(s));
}

static bool is_address(const struct session *s, const struct value *v)
{
    char text[CLIENT_ADDRESS_BYTES];

    client_address(s, text, sizeof text);
    return same(v, text);
}

static bool is_local_address(const struct session *s, const struct value *v)
{
    char text[CLIENT_ADDRESS_BYTES];

    client_local_address(s, text, sizeof text);
    return same(v, text);
}

static bool is_ip(const struct session *s, const struct value *v)
{
    char text[CLIENT_ADDRESS_BYTES], *end, *from = text;

    client_address(s, text, sizeof text);
    if ((end = strrchr(text, ':')) != NULL)
        *end = '\0';
    if (text[0] == '[' && end != NULL && end > text + 1 && end[-1] == ']') {
        end[-1] = '\0';
        from++;
    }
    return same(v, from);
}

static bool is_name(const struct session *s, const struct value *v)
{
    return same(v, s->name != NULL ? s->name : "");
}

static bool is_lib_name(const struct session *s, const struct value *v)
{
    return same(v, s->lib_name != NULL ? s->lib_name : "");
}

static bool is_lib_ver(const struct session *s, const struct value *v)
{
    return same(v, s->lib_ver != NULL ? s->lib_ver : "");
}

static bool is_db(const struct session *s, const struct value *v)
{
    return (int64_t)s->db == v->number;
}

static bool is_old(const struct session *s, const struct value *v)
{
    return (int64_t)((loop_now_ms(s->worker->loop) - s->created_ms) / 1000u) >= v->number;
}

static bool is_idle(const struct session *s, const struct value *v)
{
    return (int64_t)((loop_now_ms(s->worker->loop) - s->active_ms) / 1000u) >= v->number;
}

static bool has_flags(const struct session *s, const struct value *v)
{
    char flags[CLIENT_FLAGS_BYTES];

    client_flags(s, flags);
    for (size_t i = 0; i < v->n; i++)
        if (strchr(flags, v->text[i]) == NULL)
            return false;
    return true;
}

static bool has_capa(const struct session *s, const struct value *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->text[i] != 'r' || !s->redirects)
            return false;
    return true;
}

static const char syntax[] = "ERR syntax error", no_integer[] = "ERR value is not an integer or out of range";
static const char id_least[] = "ERR client-id should be greater than 0";
static const char no_age[] = "ERR maxage is not an integer or out of range",
                  age_least[] = "ERR maxage should be greater than 0";
static const char no_idle[] = "ERR idle is not an integer or out of range",
                  idle_least[] = "ERR idle should be greater than 0";
static const char db_bad[] = "ERR DB index is out of range";

static const struct client_kind kinds[] = {
    {"id", true, true, 1, id_least, id_least, is_id},        {"type", false, true, 0, NULL, NULL, is_type},
    {"user", false, true, 0, NULL, NULL, is_user},           {"addr", false, true, 0, NULL, NULL, is_address},
    {"laddr", false, true, 0, NULL, NULL, is_local_address}, {"ip", false, true, 0, NULL, NULL, is_ip},
    {"name", false, true, 0, NULL, NULL, is_name},           {"flags", false, true, 0, NULL, NULL, has_flags},
    {"lib-name", false, true, 0, NULL, NULL, is_lib_name},   {"lib-ver", false, true, 0, NULL, NULL, is_lib_ver},
    {"capa", false, true, 0, NULL, NULL, has_capa},          {"db", true, true, 0, no_integer, db_bad, is_db},
    {"maxage", true, false, 1, no_age, age_least, is_old},   {"idle", true, false, 1, no_idle, idle_least, is_idle},
};

static const struct client_kind *find(const struct argv *a, size_t i, bool *negated)
{
    char name[32];

    *negated = argv_len(a, i) > 4 && strncasecmp(argv_at(a, i), "not-", 4) == 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        (void)snprintf(name, sizeof name, "%s%s", *negated ? "not-" : "", kinds[k].name);
        if (argv_is(a, i, name) && (kinds[k].not_too || !*negated))
            return &kinds[k];
    }
    return NULL;
}

static bool is_client_type(const struct argv *a, size_t i)
{
    static const char *const types[] = {"normal", "pubsub", "master", "primary", "replica", "slave"};

    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++)
        if (argv_is(a, i, types[k]))
            return true;
    return false;
}

/* NULL, or what is wrong with a value. */
static const char *check(const struct client_kind *k, const struct argv *a, size_t i, char *why, size_t why_size)
{
    int64_t number;

    if (k->number && !argv_integer(a, i, &number))
        return k->no_number;
    if (k->number && number < k->least)
        return k->too_small;
    if (strcmp(k->name, "type") != 0 || is_client_type(a, i))
        return NULL;
    (void)snprintf(why, why_size, "ERR Unknown client type '%.*s'",
                   (int)(client_is_word(a, i) && argv_len(a, i) < 100 ? argv_len(a, i) : 0), argv_at(a, i));
    return why;
}

static bool fail(char *why, size_t size, const char *text)
{
    if (text != why)
        (void)snprintf(why, size, "%s", text);
    return false;
}

/* ID takes all the numbers that follow. */
static size_t values(const struct client_kind *k, const struct argv *a, size_t at)
{
    int64_t number;
    size_t n = 1;

    while (k == &kinds[0] && at + n < a->count && argv_integer(a, at + n, &number))
        n++;
    return n;
}

bool client_filter_parse(struct client_filter *f, const struct argv *a, size_t at, char *why, size_t why_size)
{
    const char *error;
    bool negated;

    while (at < a->count) {
        const struct client_kind *k = find(a, at, &negated);
        struct client_condition *c = &f->conditions[f->count];

        if (k == NULL && argv_is(a, at, "skipme") && at + 1 < a->count &&
            (argv_is(a, at + 1, "yes") || argv_is(a, at + 1, "no"))) {
            f->skip_me = argv_is(a, at + 1, "yes");
            at += 2;
            continue;
        }
        if (k == NULL || at + 1 >= a->count || f->count == CLIENT_CONDITIONS_MAX)
            return fail(why, why_size, syntax);
        *c = (struct client_condition){k, negated, at + 1, values(k, a, at + 1)};
        for (size_t i = c->at; i < c->at + c->count; i++)
            if ((error = check(k, a, i, why, why_size)) != NULL)
                return fail(why, why_size, error);
        at = c->at + c->count;
        f->count++;
    }
    return true;
}

bool client_filter_matches(const struct client_filter *f, const struct argv *a, const struct session *s)
{
    for (size_t i = 0; i < f->count; i++) {
        const struct client_condition *c = &f->conditions[i];
        bool one = false;

        for (size_t k = c->at; k < c->at + c->count && !one; k++) {
            struct value v = {argv_at(a, k), argv_len(a, k), 0};

            if (c->kind->number)
                (void)argv_integer(a, k, &v.number);
            one = c->kind->matches(s, &v);
        }
        if (one == c->negated)
            return false;
    }
    return true;
}

bool client_filter_is_ids(const struct client_filter *f)
{
    return f->count == 1 && f->conditions[0].kind == &kinds[0] && !f->conditions[0].negated && !f->skip_me;
}

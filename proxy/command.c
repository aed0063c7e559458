/* Reads Valkey's answer to COMMAND into a hash table by lower-case name; subcommands are entries of their own,
 * "client|setname".
 *
 *     [name, arity, [flags], first, last, step, [ACL categories], [tips], [key specs], [subcommands: the same again]]
 *     key spec: {notes, flags: [...], begin_search: {type, spec: {...}}, find_keys: {type, spec: {...}}}
 *
 * A map comes as an array of names and values in RESP2, as a map in RESP3: hiredis gives both as one list. What
 * cannot be understood in a key spec makes the command CMD_KEYS_OPEN, which is always safe. */
#include <ctype.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "proxy/canon.h"
#include "proxy/command_internal.h"

#if HIREDIS_MAJOR < 1
#error "hiredis 1.0 or later is needed: make deps"
#endif

enum {
    FIELD_NAME,
    FIELD_ARITY,
    FIELD_FLAGS,
    FIELD_SPECS = 8,
    FIELD_SUBCOMMANDS = 9,
    FIELDS_MIN = 10,
    ELEMENTS_MAX = 1024 * 1024
};

static const struct {
    const char *name;
    uint32_t flag;
} flag_names[] = {
    {"write", CMD_WRITE},       {"readonly", CMD_READONLY},
    {"blocking", CMD_BLOCKING}, {"may_replicate", CMD_MAY_REPLICATE},
    {"admin", CMD_ADMIN},       {"pubsub", CMD_PUBSUB},
    {"noscript", CMD_NOSCRIPT}, {"movablekeys", CMD_MOVABLEKEYS},
    {"no_multi", CMD_NO_MULTI}, {"no_auth", CMD_NO_AUTH},
    {"module", CMD_MODULE},
};

static const char *const script_names[] = {"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"};
/* Valkey marks these may_replicate in its own table, and does not say so in COMMAND (8.0). */
static const char *const may_replicate_names[] = {"eval", "evalsha", "fcall", "publish", "spublish", "pfcount"};
/* They show what FUNCTION LOAD has changed, and Valkey does not call them reads. (FUNCTION STATS answers while a
 * script runs, when nothing that it would have to wait for comes.) */
static const char *const read_names[] = {"function|list", "function|dump"};

enum {
    CMD_NOT_PLAIN = CMD_WRITE | CMD_BLOCKING | CMD_MAY_REPLICATE | CMD_ADMIN | CMD_PUBSUB | CMD_CONTAINER |
                    CMD_SCRIPT | CMD_MODULE | CMD_FUNCTION
};

/* ---- the reply's tree ---- */

static bool is_list(const redisReply *r)
{
    return r != NULL && (r->type == REDIS_REPLY_ARRAY || r->type == REDIS_REPLY_MAP || r->type == REDIS_REPLY_SET);
}

static bool is_text(const redisReply *r)
{
    return r != NULL && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS);
}

static bool text_is(const redisReply *r, const char *word)
{
    return is_text(r) && strcmp(r->str, word) == 0;
}

static bool list_has(const redisReply *list, const char *word)
{
    for (size_t i = 0; is_list(list) && i < list->elements; i++)
        if (text_is(list->element[i], word))
            return true;
    return false;
}

static const redisReply *member(const redisReply *map, const char *name)
{
    for (size_t i = 0; is_list(map) && i + 1 < map->elements; i += 2)
        if (text_is(map->element[i], name))
            return map->element[i + 1];
    return NULL;
}

static bool member_number(const redisReply *map, const char *name, int64_t *out)
{
    const redisReply *r = member(map, name);

    if (r == NULL || r->type != REDIS_REPLY_INTEGER || r->integer < INT32_MIN || r->integer > INT32_MAX)
        return false;
    *out = r->integer;
    return true;
}

/* ---- key specs ---- */

static bool read_begin(struct key_spec *s, const redisReply *begin)
{
    const redisReply *type = member(begin, "type"), *spec = member(begin, "spec"), *word;

    if (text_is(type, "index"))
        return member_number(spec, "index", &s->from) && s->from > 0;
    word = member(spec, "keyword");
    if (!text_is(type, "keyword") || !is_text(word) || word->len >= sizeof s->keyword)
        return false;
    s->by_keyword = true;
    memcpy(s->keyword, word->str, word->len + 1);
    return member_number(spec, "startfrom", &s->from) && s->from > 0; /* a search from the end: not told here */
}

static bool read_find(struct key_spec *s, const redisReply *find)
{
    const redisReply *type = member(find, "type"), *spec = member(find, "spec");

    if (!member_number(spec, "keystep", &s->step) || s->step < 1)
        return false;
    if (text_is(type, "range"))
        return member_number(spec, "lastkey", &s->last) && member_number(spec, "limit", &s->limit) && s->limit >= 0 &&
               (s->limit == 0 || s->last == -1);
    s->by_number = true;
    return text_is(type, "keynum") && member_number(spec, "keynumidx", &s->number_at) && s->number_at >= 0 &&
           member_number(spec, "firstkey", &s->first) && s->first >= 0;
}

/* "variable_flags" (SET, BITFIELD ...) says that how a key is used depends on the arguments, not which it is. */
static void read_specs(struct command_entry *e, const redisReply *specs)
{
    uint32_t *flags = &e->command.flags;

    for (size_t i = 0; is_list(specs) && i < specs->elements; i++) {
        const redisReply *spec = specs->element[i], *spec_flags = member(spec, "flags");
        struct key_spec s = {0};

        if (list_has(spec_flags, "not_key"))
            continue;
        *flags |= CMD_HAS_KEYS;
        if ((*flags & CMD_WRITE) == 0 &&
            (list_has(spec_flags, "RW") || list_has(spec_flags, "OW") || list_has(spec_flags, "RM")))
            *flags |= CMD_MAY_REPLICATE; /* a "read" that can change its key: PFCOUNT */
        if (list_has(spec_flags, "incomplete") || e->specs == KEY_SPECS_MAX ||
            !read_begin(&s, member(spec, "begin_search")) || !read_find(&s, member(spec, "find_keys")))
            *flags |= CMD_KEYS_OPEN;
        else
            e->spec[e->specs++] = s;
    }
}

/* One spec: at an index, one argument. (What names no keys by other flags is told by those.) */
static size_t find_only_key(const struct command_entry *e)
{
    const struct key_spec *s = &e->spec[0];

    if (e->specs != 1 || e->sort || e->other_db != OTHER_DB_NONE || s->by_keyword || s->by_number || s->last != 0 ||
        s->step < 1 || s->from < 1 || (e->command.flags & (CMD_KEYS_OPEN | CMD_SCRIPT | CMD_MODULE)) != 0)
        return 0;
    return (size_t)s->from;
}

/* ---- entries ---- */

static void read_flags(struct command_entry *e, const redisReply *flags)
{
    for (size_t i = 0; i < sizeof flag_names / sizeof *flag_names; i++)
        if (list_has(flags, flag_names[i].name))
            e->command.flags |= flag_names[i].flag;
    for (size_t i = 0; i < sizeof script_names / sizeof *script_names; i++)
        if (strcmp(e->command.name, script_names[i]) == 0)
            e->command.flags |= CMD_SCRIPT;
    for (size_t i = 0; i < sizeof may_replicate_names / sizeof *may_replicate_names; i++)
        if (strcmp(e->command.name, may_replicate_names[i]) == 0)
            e->command.flags |= CMD_MAY_REPLICATE;
    for (size_t i = 0; i < sizeof read_names / sizeof *read_names; i++)
        if (strcmp(e->command.name, read_names[i]) == 0)
            e->command.flags |= CMD_READONLY;
    if (strncmp(e->command.name, "function|", 9) == 0)
        e->command.flags |= CMD_FUNCTION;
    if (strcmp(e->command.name, "copy") == 0)
        e->other_db = OTHER_DB_COPY;
    if (strcmp(e->command.name, "move") == 0)
        e->other_db = OTHER_DB_MOVE;
    e->sort = strcmp(e->command.name, "sort") == 0;
}

static bool add_entry(struct command_table *t, const redisReply *r)
{
    struct command_entry *e, *old;
    const redisReply *name;
    size_t n;

    if (!is_list(r) || r->elements < FIELDS_MIN || !is_text(r->element[FIELD_NAME]) ||
        r->element[FIELD_ARITY]->type != REDIS_REPLY_INTEGER || !is_list(r->element[FIELD_FLAGS]))
        return false;
    name = r->element[FIELD_NAME];
    if (name->len == 0 || name->len >= sizeof e->command.name || name->len != strlen(name->str))
        return false;
    e = must_calloc(1, sizeof *e);
    for (n = 0; n < name->len; n++)
        e->command.name[n] = (char)tolower((unsigned char)name->str[n]);
    HASH_FIND(hh, t->by_name, e->command.name, n, old);
    if (old != NULL) {
        free(e);
        return false;
    }
    e->command.arity = (int)r->element[FIELD_ARITY]->integer;
    e->command.canon = canon_find(e->command.name);
    read_flags(e, r->element[FIELD_FLAGS]);
    read_specs(e, r->element[FIELD_SPECS]);
    if ((e->command.flags & CMD_MOVABLEKEYS) != 0 && e->specs == 0)
        e->command.flags |= CMD_KEYS_OPEN;
    e->only_key = find_only_key(e);
    if (is_list(r->element[FIELD_SUBCOMMANDS]) && r->element[FIELD_SUBCOMMANDS]->elements > 0)
        e->command.flags |= CMD_CONTAINER;
    if ((e->command.flags & (CMD_READONLY | CMD_NOT_PLAIN)) == CMD_READONLY)
        e->command.flags |= CMD_PLAIN_READ;
    HASH_ADD_KEYPTR(hh, t->by_name, e->command.name, n, e);
    t->count++;
    return true;
}

static bool add_all(struct command_table *t, const redisReply *all)
{
    for (size_t i = 0; i < all->elements; i++) {
        const redisReply *command = all->element[i], *subs;

        if (!add_entry(t, command))
            return false;
        subs = command->element[FIELD_SUBCOMMANDS];
        for (size_t j = 0; is_list(subs) && j < subs->elements; j++)
            if (!add_entry(t, subs->element[j]))
                return false;
    }
    return t->count > 0;
}

struct command_table *command_table_new(const char *reply, size_t n, char *why, size_t why_size)
{
    struct command_table *t = NULL;
    redisReader *reader = redisReaderCreate();
    void *tree = NULL;

    CHECK(reader != NULL);
    reader->maxelements = ELEMENTS_MAX;
    if (redisReaderFeed(reader, reply, n) != REDIS_OK || redisReaderGetReply(reader, &tree) != REDIS_OK ||
        tree == NULL) {
        (void)snprintf(why, why_size, "the answer to COMMAND is not complete RESP");
    } else if (!is_list(tree)) {
        (void)snprintf(why, why_size, "COMMAND was refused: %.100s",
                       ((redisReply *)tree)->str ? ((redisReply *)tree)->str : "?");
    } else {
        t = must_calloc(1, sizeof *t);
        if (!add_all(t, tree)) {
            (void)snprintf(why, why_size, "the answer to COMMAND has an unknown form (entry %zu)", t->count);
            command_table_free(t);
            t = NULL;
        }
    }
    freeReplyObject(tree);
    redisReaderFree(reader);
    return t;
}

void command_table_for(struct command_table *t, unsigned version)
{
    struct command_entry *e, *next;

    HASH_ITER(hh, t->by_name, e, next)
    {
        e->command.canon = canon_for(e->command.canon, version);
    }
}

void command_table_free(struct command_table *t)
{
    struct command_entry *e, *next;

    if (t == NULL)
        return;
    HASH_ITER(hh, t->by_name, e, next)
    {
        HASH_DEL(t->by_name, e);
        free(e);
    }
    free(t);
}

size_t command_table_count(const struct command_table *t)
{
    return t->count;
}

/* ---- asking ---- */

/* Lower case into name at `at`; 0 if it does not fit or could not be one name ("client|id" as one argument names
 * nothing). */
static size_t put_name(char name[static 64], size_t at, const struct argv *a, size_t i)
{
    size_t n = argv_len(a, i);
    const char *s = argv_at(a, i);

    if (n == 0 || at + n >= 64)
        return 0;
    for (size_t j = 0; j < n; j++) {
        if (s[j] == '|' || s[j] == 0)
            return 0;
        name[at + j] = s[j] >= 'A' && s[j] <= 'Z' ? (char)(s[j] + ('a' - 'A')) : s[j];
    }
    return at + n;
}

const struct command *command_find(const struct command_table *t, const struct argv *a)
{
    struct command_entry *e = NULL, *sub = NULL;
    char name[64];
    size_t n;

    if (a->count == 0 || (n = put_name(name, 0, a, 0)) == 0)
        return NULL;
    HASH_FIND(hh, t->by_name, name, n, e);
    if (e == NULL || (e->command.flags & CMD_CONTAINER) == 0 || a->count < 2 || n + 1 >= sizeof name)
        return e != NULL ? &e->command : NULL;
    name[n] = '|';
    n = put_name(name, n + 1, a, 1);
    if (n > 0)
        HASH_FIND(hh, t->by_name, name, n, sub);
    return sub != NULL ? &sub->command : &e->command;
}

/* XREAD and XREADGROUP carry the flag, and block only with BLOCK (among the options, which end at STREAMS). A
 * module's command may keep its client waiting as long as it likes, and no flag says so: what stands behind it on a
 * shared connection would wait with it. */
bool command_blocks(const struct command *c, const struct argv *a)
{
    if ((c->flags & CMD_MODULE) != 0)
        return true;
    if ((c->flags & CMD_BLOCKING) == 0)
        return false;
    if (strcmp(c->name, "xread") != 0 && strcmp(c->name, "xreadgroup") != 0)
        return true;
    for (size_t i = 1; i < a->count && !argv_is(a, i, "streams"); i++)
        if (argv_is(a, i, "block"))
            return true;
    return false;
}

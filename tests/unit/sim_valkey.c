#include "tests/unit/sim_valkey.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "proxy/canon.h"

static const char *const key_name[SIM_KEYS] = {"a", "b", "c", "a"}; /* the last one is in another database */
static const char *const verb_name[VERBS] = {"PUSH", "PUSHLEN",  "PUSHAT",  "GETPUSH", "OTHERPUSH",
                                             "DEL",  "SORTPUSH", "PUSHALL", "ZPUSH"};
enum { CANON_PLAIN = 1, CANON_GETPUSH = 2 };

uint32_t sim_key_db(int key)
{
    return key == SIM_KEYS - 1 ? 1 : 0;
}

uint64_t sim_key_hash(int key)
{
    return key_hash(sim_key_db(key), key_name[key], 1);
}

/* ---- RESP ---- */

static void put_word(struct buf *out, const char *word)
{
    size_t n = strlen(word);

    buf_text(out, "$");
    buf_decimal(out, (int64_t)n);
    buf_text(out, "\r\n");
    buf_append(out, word, n);
    buf_text(out, "\r\n");
}

static void put_count(struct buf *out, int n)
{
    buf_text(out, "*");
    buf_decimal(out, n);
    buf_text(out, "\r\n");
}

void cmd_name(struct buf *out, const char *word, const char *argument)
{
    put_count(out, argument != NULL ? 2 : 1);
    put_word(out, word);
    if (argument != NULL)
        put_word(out, argument);
}

void cmd_encode(struct buf *out, const struct cmd *c)
{
    bool source = c->verb == PUSHLEN || c->verb == SORTPUSH;
    char id[16];

    (void)snprintf(id, sizeof id, "%d", c->id);
    put_count(out, 1 + (c->verb != PUSHALL) + source + (c->verb != DEL));
    put_word(out, verb_name[c->verb]);
    if (c->verb != PUSHALL)
        put_word(out, key_name[c->key]);
    if (source)
        put_word(out, key_name[c->source]);
    if (c->verb != DEL)
        put_word(out, id);
}

static size_t take_number(struct cursor *c, char mark)
{
    size_t value = 0;
    uint8_t b = cursor_u8(c);

    if (b != (uint8_t)mark)
        c->bad = true;
    while ((b = cursor_u8(c)) >= '0' && b <= '9')
        value = value * 10 + (size_t)(b - '0');
    if (b != '\r' || cursor_u8(c) != '\n')
        c->bad = true;
    return value;
}

size_t cmd_words(const char *bytes, size_t n, struct arg *words, size_t *used)
{
    struct cursor c = cursor_of(bytes, n);
    size_t count = take_number(&c, '*');

    for (size_t i = 0; i < count && i < SIM_WORDS_MAX; i++) {
        words[i].len = take_number(&c, '$');
        words[i].at = n - c.left;
        (void)cursor_bytes(&c, words[i].len + 2);
    }
    *used = n - c.left;
    return c.bad || count > SIM_WORDS_MAX ? 0 : count;
}

static bool word_is(const char *bytes, const struct arg *w, const char *text)
{
    return w->len == strlen(text) && memcmp(bytes + w->at, text, w->len) == 0;
}

static int find_key(const char *bytes, const struct arg *w, uint32_t db)
{
    for (int k = 0; k < SIM_KEYS; k++)
        if (sim_key_db(k) == db && word_is(bytes, w, key_name[k]))
            return k;
    return -1;
}

static bool parse(const char *bytes, const struct arg *w, size_t words, uint32_t db, struct cmd *out)
{
    size_t next = 1;

    for (out->verb = PUSH; out->verb < VERBS && !word_is(bytes, &w[0], verb_name[out->verb]); out->verb++)
        ;
    if (out->verb == VERBS)
        return false;
    out->key = out->source = 0;
    if (out->verb != PUSHALL)
        out->key = next < words ? find_key(bytes, &w[next++], db) : -1;
    if (out->verb == PUSHLEN || out->verb == SORTPUSH)
        out->source = next < words ? find_key(bytes, &w[next++], db) : -1;
    out->id = 0;
    if (out->verb != DEL && next < words)
        out->id = (int32_t)strtol(bytes + w[next++].at, NULL, 10);
    return next == words && out->key >= 0 && out->source >= 0;
}

void cmd_keys(struct keyset *out, const struct cmd *c)
{
    if (c->verb == PUSHALL || c->verb == SORTPUSH)
        out->all = true;
    if (c->verb != PUSHALL)
        keyset_add(out, sim_key_hash(c->key));
    if (c->verb == PUSHLEN)
        keyset_add(out, sim_key_hash(c->source));
}

struct cmd cmd_effect(const struct cmd *c)
{
    struct cmd effect = *c;

    if (c->verb == GETPUSH || c->verb == OTHERPUSH)
        effect.verb = PUSH;
    return effect;
}

/* ---- the replayable table, in the place of canon.c ---- */

uint16_t canon_find(const char *name)
{
    if (strcmp(name, "getpush") == 0)
        return CANON_GETPUSH;
    return CANON_PLAIN;
}

bool canon_effect_belongs(uint16_t canon, const struct argv *intent, const struct argv *effect)
{
    struct cmd a, b;

    if (canon != CANON_GETPUSH || !parse(effect->bytes, effect->arg, effect->count, 0, &b) || b.verb != PUSH)
        return false;
    CHECK(parse(intent->bytes, intent->arg, intent->count, 0, &a)); /* a transaction is in no table */
    return a.key == b.key && a.id == b.id;
}

/* ---- keys ---- */

void keyspace_clear(struct keyspace *k)
{
    memset(k->count, 0, sizeof k->count);
    k->full = false;
}

void keyspace_copy(struct keyspace *to, const struct keyspace *from)
{
    for (int i = 0; i < SIM_KEYS; i++) {
        memcpy(to->at[i], from->at[i], (size_t)from->count[i] * sizeof *from->at[i]);
        to->count[i] = from->count[i];
    }
    to->full = from->full;
}

bool keyspace_equal(const struct keyspace *a, const struct keyspace *b)
{
    for (int i = 0; i < SIM_KEYS; i++)
        if (a->count[i] != b->count[i] || memcmp(a->at[i], b->at[i], (size_t)a->count[i] * sizeof *a->at[i]) != 0)
            return false;
    return true;
}

bool keyspace_has(const struct keyspace *k, int key)
{
    return k->count[key] > 0 && k->at[key][k->count[key] - 1].id != TOMBSTONE;
}

static int32_t type_of(const struct keyspace *k, int key)
{
    return keyspace_has(k, key) ? k->at[key][k->count[key] - 1].type : TYPE_STRING;
}

bool keyspace_refuses(const struct keyspace *k, const struct cmd *c)
{
    if (c->verb == GETPUSH)
        return type_of(k, c->key) == TYPE_SORTED_SET;
    return c->verb == ZPUSH && keyspace_has(k, c->key) && type_of(k, c->key) == TYPE_STRING;
}

static void append(struct keyspace *k, int key, int32_t id, int32_t saw, int32_t type)
{
    if (k->count[key] == SIM_ELEMENTS_MAX) {
        k->full = true;
        return;
    }
    k->at[key][k->count[key]++] = (struct element){id, saw, type};
}

void keyspace_apply(struct keyspace *k, const struct cmd *c)
{
    bool source = c->verb == PUSHLEN || c->verb == SORTPUSH;

    if (keyspace_refuses(k, c))
        return;
    if (c->verb == PUSHALL) {
        for (int i = 0; i < SIM_KEYS; i++)
            append(k, i, c->id, -1, type_of(k, i));
    } else if (c->verb != DEL) {
        append(k, c->key, c->id, source ? k->count[c->source] : -1, c->verb == ZPUSH ? TYPE_SORTED_SET : TYPE_STRING);
    } else if (keyspace_has(k, c->key)) {
        append(k, c->key, TOMBSTONE, -1, TYPE_STRING);
    }
}

bool keyspace_replay(struct keyspace *k, uint32_t db, const char *bytes, size_t n)
{
    struct arg w[SIM_WORDS_MAX];
    size_t used;

    for (size_t at = 0; at < n; at += used) {
        const char *here = bytes + at;
        size_t words = cmd_words(here, n - at, w, &used);
        struct cmd c;

        if (words == 0)
            return false;
        if (word_is(here, &w[0], "SELECT"))
            db = (uint32_t)strtoul(here + w[1].at, NULL, 10);
        else if (word_is(here, &w[0], "MULTI") || word_is(here, &w[0], "EXEC") || word_is(here, &w[0], "SPUBLISH"))
            continue;
        else if (parse(here, w, words, db, &c))
            keyspace_apply(k, &c);
        else
            return false;
    }
    return true;
}

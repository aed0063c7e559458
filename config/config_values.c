/* The values' syntax, from text and to text, by the kind that a setting's row names. Reasons are worded as Valkey
 * words them, so that tools and people recognise them. */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config_table.h"
#include "log/base/diag.h"

bool setting_takes_several(const struct setting *s)
{
    return s->kind == KIND_BIND || s->kind == KIND_WORDS || s->kind == KIND_OUTPUT_LIMIT || s->kind == KIND_MEMBER;
}

/* ---------------------------------------------------------------- values from text */

static bool parse_number(const char *text, int base, long long *out)
{
    char *end;

    /* strtoll would skip spaces and take a '+' */
    if (!isdigit((unsigned char)text[0]) && !(text[0] == '-' && isdigit((unsigned char)text[1])))
        return false;
    errno = 0;
    *out = strtoll(text, &end, base);
    return errno == 0 && *end == '\0';
}

/* A run of digits, then one of the units: as many as `value` holds before the unit is applied. */
static bool parse_with_unit(const char *text, const struct setting_word *units, long long *out)
{
    size_t digits = strspn(text, "0123456789");
    char number[24];

    if (digits == 0 || digits >= sizeof number)
        return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    for (; units->word != NULL; units++)
        if (strcasecmp(units->word, text + digits) == 0)
            return parse_number(number, 10, out) && !__builtin_mul_overflow(*out, (long long)units->value, out);
    return false;
}

static bool parse_memory(const char *text, long long *out)
{
    static const struct setting_word units[] = {{"", 1},           {"b", 1},        {"k", 1000},
                                                {"kb", 1024},      {"m", 1000000},  {"mb", 1 << 20},
                                                {"g", 1000000000}, {"gb", 1 << 30}, {NULL, 0}};

    return parse_with_unit(text, units, out);
}

static bool parse_duration(const char *text, long long *out)
{
    static const struct setting_word units[] = {{"", 1000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};

    return parse_with_unit(text, units, out);
}

static void show_duration(long long ms, char *out, size_t out_size)
{
    (void)snprintf(out, out_size, ms % 1000 ? "%lldms" : "%lld", ms % 1000 ? ms : ms / 1000);
}

static bool within(const struct setting *s, long long value, char *why, size_t why_size)
{
    char low[32], high[32];

    if (value >= s->min && value <= s->max)
        return true;
    if (s->kind == KIND_DURATION) {
        show_duration(s->min, low, sizeof low);
        show_duration(s->max, high, sizeof high);
        (void)snprintf(why, why_size, "argument must be between %s and %s inclusive", low, high);
    } else {
        (void)snprintf(why, why_size,
                       s->kind == KIND_OCTAL ? "argument must be between %llo and %llo inclusive"
                                             : "argument must be between %lld and %lld inclusive",
                       s->min, s->max);
    }
    return false;
}

static bool parse_numeric(const struct setting *s, void *field, const char *text, char *why, size_t why_size)
{
    const char *reason;
    long long value = 0;
    bool ok;

    switch (s->kind) {
    case KIND_MEMORY:
        ok = parse_memory(text, &value);
        reason = "argument must be a memory value";
        break;
    case KIND_DURATION:
        ok = parse_duration(text, &value);
        reason = "argument must be a duration: seconds (10 or 10s) or milliseconds (500ms)";
        break;
    case KIND_OCTAL:
        ok = parse_number(text, 8, &value);
        reason = "argument couldn't be parsed as an octal number";
        break;
    default:
        ok = parse_number(text, 10, &value);
        reason = "argument couldn't be parsed into an integer";
        break;
    }
    if (!ok) {
        (void)snprintf(why, why_size, "%s", reason);
        return false;
    }
    if (!within(s, value, why, why_size))
        return false;
    if (s->kind == KIND_MEMORY)
        *(uint64_t *)field = (uint64_t)value;
    else
        *(int *)field = (int)value;
    return true;
}

static bool parse_word(const struct setting *s, void *field, const char *text, char *why, size_t why_size)
{
    size_t used;

    for (const struct setting_word *w = s->words; w->word != NULL; w++)
        if (strcasecmp(w->word, text) == 0) {
            _Static_assert(sizeof(enum durability) == sizeof(int) && sizeof(enum diag_level) == sizeof(int) &&
                               sizeof(enum diag_format) == sizeof(int) && sizeof(enum diag_stamp) == sizeof(int) &&
                               sizeof(enum tls_auth_clients) == sizeof(int),
                           "as KIND_WORD");
            memcpy(field, &w->value, sizeof w->value);
            return true;
        }
    used = (size_t)snprintf(why, why_size, "argument(s) must be one of the following: ");
    for (const struct setting_word *w = s->words; w->word != NULL && used < why_size; w++)
        used += (size_t)snprintf(why + used, why_size - used, "%s%s", w->word, w[1].word != NULL ? ", " : "");
    return false;
}

static bool parse_words(const struct setting *s, unsigned *field, int argc, char *const *argv, char *why,
                        size_t why_size)
{
    unsigned bits = 0;
    int bit = 0;

    for (int i = 0; i < argc; i++) { /* on a command line, one argument may hold several */
        char text[CONFIG_TEXT_MAX], *save = NULL;

        (void)snprintf(text, sizeof text, "%s", argv[i]);
        for (char *word = strtok_r(text, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
            if (!parse_word(s, &bit, word, why, why_size))
                return false;
            bits |= (unsigned)bit;
        }
    }
    *field = bits;
    return true;
}

static bool parse_bool(const struct setting *s, void *field, const char *text, char *why, size_t why_size)
{
    if (s->max == SETTING_ALSO_ON_OFF && (strcasecmp(text, "on") == 0 || strcasecmp(text, "off") == 0))
        text = strcasecmp(text, "on") == 0 ? "yes" : "no";
    if (strcasecmp(text, "yes") != 0 && strcasecmp(text, "no") != 0) {
        (void)snprintf(why, why_size, "argument must be 'yes' or 'no'");
        return false;
    }
    *(bool *)field = strcasecmp(text, "yes") == 0;
    return true;
}

static bool parse_text(const struct setting *s, char *field, const char *text, char *why, size_t why_size)
{
    if (strlen(text) >= CONFIG_TEXT_MAX) {
        (void)snprintf(why, why_size, "argument is too long (at most %d bytes)", CONFIG_TEXT_MAX - 1);
        return false;
    }
    if (s->check != NULL && !s->check(text, why, why_size))
        return false;
    (void)snprintf(field, CONFIG_TEXT_MAX, "%s", text);
    return true;
}

/* As in Valkey, `bind ""` means: listen on no TCP address. */
static bool parse_bind(struct config *c, int argc, char *const *argv, char *why, size_t why_size)
{
    if (argc > CONFIG_BIND_MAX) {
        (void)snprintf(why, why_size, "Too many bind addresses specified.");
        return false;
    }
    for (int i = 0; i < argc; i++)
        if (strlen(argv[i]) >= CONFIG_TEXT_MAX) {
            (void)snprintf(why, why_size, "argument is too long (at most %d bytes)", CONFIG_TEXT_MAX - 1);
            return false;
        }
    c->bind_count = argc == 1 && argv[0][0] == '\0' ? 0 : (size_t)argc;
    memset(c->bind, 0, sizeof c->bind);
    for (size_t i = 0; i < c->bind_count; i++)
        (void)snprintf(c->bind[i], CONFIG_TEXT_MAX, "%s", argv[i]);
    return true;
}

static const struct setting_word output_class_words[] = {{"normal", OUTPUT_NORMAL},
                                                         {"replica", OUTPUT_REPLICA},
                                                         {"slave", OUTPUT_REPLICA},
                                                         {"pubsub", OUTPUT_PUBSUB},
                                                         {NULL, 0}};

static bool parse_output_limit(struct config *c, int argc, char *const *argv, char *why, size_t why_size)
{
    struct output_limit limit[OUTPUT_CLASSES];

    memcpy(limit, c->output_limit, sizeof limit);
    if (argc == 0 || argc % 4 != 0) {
        (void)snprintf(why, why_size, "Wrong number of arguments in buffer limit configuration.");
        return false;
    }
    for (int i = 0; i < argc; i += 4) {
        const struct setting_word *w = output_class_words;
        long long hard, soft, seconds;

        while (w->word != NULL && strcasecmp(w->word, argv[i]) != 0)
            w++;
        if (w->word == NULL) {
            (void)snprintf(why, why_size, "Invalid client class specified in buffer limit configuration.");
            return false;
        }
        if (!parse_memory(argv[i + 1], &hard) || !parse_memory(argv[i + 2], &soft) ||
            !parse_number(argv[i + 3], 10, &seconds) || seconds < 0) {
            (void)snprintf(why, why_size,
                           "Error in hard, soft or soft_seconds setting in buffer limit configuration.");
            return false;
        }
        limit[w->value] = (struct output_limit){(uint64_t)hard, (uint64_t)soft, (uint64_t)seconds};
    }
    memcpy(c->output_limit, limit, sizeof limit);
    return true;
}

bool setting_parse(const struct setting *s, struct config *c, int argc, char *const *argv, char *why, size_t why_size)
{
    void *field = (char *)c + s->at;

    if (argc < 1 || (argc > 1 && !setting_takes_several(s))) {
        (void)snprintf(why, why_size, "wrong number of arguments");
        return false;
    }
    switch (s->kind) {
    case KIND_BOOL:
        return parse_bool(s, field, argv[0], why, why_size);
    case KIND_WORD:
        return parse_word(s, field, argv[0], why, why_size);
    case KIND_WORDS:
        return parse_words(s, field, argc, argv, why, why_size);
    case KIND_TEXT:
        return parse_text(s, field, argv[0], why, why_size);
    case KIND_BIND:
        return parse_bind(c, argc, argv, why, why_size);
    case KIND_OUTPUT_LIMIT:
        return parse_output_limit(c, argc, argv, why, why_size);
    case KIND_MEMBER:
        return config_members_parse(c, argc, argv, why, why_size);
    case KIND_INT:
    case KIND_OCTAL:
    case KIND_MEMORY:
    case KIND_DURATION:
        break;
    }
    return parse_numeric(s, field, argv[0], why, why_size);
}

/* ---------------------------------------------------------------- values to text */

static void show_several(const struct setting *s, const struct config *c, char *out, size_t out_size)
{
    static const struct {
        const char *word;
        enum output_class class;
    } order[] = {
        {"normal", OUTPUT_NORMAL}, {"slave", OUTPUT_REPLICA}, {"pubsub", OUTPUT_PUBSUB}}; /* as Valkey shows it */
    size_t used = 0;

    out[0] = '\0';
    if (s->kind == KIND_WORDS)
        for (const struct setting_word *w = s->words; w->word != NULL && used < out_size; w++) {
            if ((*(const unsigned *)((const char *)c + s->at) & (unsigned)w->value) != 0)
                used += (size_t)snprintf(out + used, out_size - used, "%s%s", used > 0 ? " " : "", w->word);
        }
    else if (s->kind == KIND_BIND)
        for (size_t i = 0; i < c->bind_count && used < out_size; i++)
            used += (size_t)snprintf(out + used, out_size - used, "%s%s", i ? " " : "", c->bind[i]);
    else
        for (size_t i = 0; i < OUTPUT_CLASSES && used < out_size; i++) {
            const struct output_limit *l = &c->output_limit[order[i].class];

            used += (size_t)snprintf(out + used, out_size - used, "%s%s %llu %llu %llu", i ? " " : "", order[i].word,
                                     (unsigned long long)l->hard_bytes, (unsigned long long)l->soft_bytes,
                                     (unsigned long long)l->soft_seconds);
        }
}

void setting_show(const struct setting *s, const struct config *c, char *out, size_t out_size)
{
    const void *field = (const char *)c + s->at;

    switch (s->kind) {
    case KIND_BOOL:
        (void)snprintf(out, out_size, "%s", *(const bool *)field ? "yes" : "no");
        break;
    case KIND_INT:
        (void)snprintf(out, out_size, "%d", *(const int *)field);
        break;
    case KIND_OCTAL:
        (void)snprintf(out, out_size, "%o", (unsigned)*(const int *)field);
        break;
    case KIND_MEMORY:
        (void)snprintf(out, out_size, "%llu", (unsigned long long)*(const uint64_t *)field);
        break;
    case KIND_DURATION:
        show_duration(*(const int *)field, out, out_size);
        break;
    case KIND_WORD:
        out[0] = '\0';
        for (const struct setting_word *w = s->words; w->word != NULL; w++)
            if (memcmp(&w->value, field, sizeof w->value) == 0)
                (void)snprintf(out, out_size, "%s", w->word);
        break;
    case KIND_TEXT:
        (void)snprintf(out, out_size, "%s", (const char *)field);
        break;
    case KIND_WORDS:
    case KIND_BIND:
    case KIND_OUTPUT_LIMIT:
        show_several(s, c, out, out_size);
        break;
    case KIND_MEMBER:
        config_members_show(c, out, out_size);
        break;
    }
}

bool setting_equal(const struct setting *s, const struct config *a, const struct config *b)
{
    char text_a[SETTING_VALUE_MAX], text_b[SETTING_VALUE_MAX];

    setting_show(s, a, text_a, sizeof text_a);
    setting_show(s, b, text_b, sizeof text_b);
    return strcmp(text_a, text_b) == 0;
}

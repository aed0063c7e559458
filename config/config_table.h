/* Between the files of config/ only: the table's rows, and how a row's value is parsed and shown. */
#ifndef HF_CONFIG_TABLE_H
#define HF_CONFIG_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

enum setting_kind {
    KIND_BOOL,
    KIND_INT,
    KIND_OCTAL,
    KIND_MEMORY,   /* uint64_t bytes: 100, 1k, 1kb, 1m, 1mb, 1g, 1gb */
    KIND_DURATION, /* int milliseconds: 10, 10s, 500ms */
    KIND_WORD,     /* an enum */
    KIND_WORDS,    /* unsigned: a bit for each word; "" for none; takes several arguments */
    KIND_TEXT,     /* char[CONFIG_TEXT_MAX] */
    KIND_BIND,     /* takes several arguments, as do output limits */
    KIND_OUTPUT_LIMIT,
    KIND_MEMBER, /* each one given is added */
};
enum setting_flags { SETTING_RUNTIME = 1, SETTING_SENSITIVE = 2 };
enum { SETTING_ALSO_ON_OFF = 1 }; /* max of a KIND_BOOL that takes on and off, too */

struct setting_word {
    const char *word;
    int value;
};
struct setting {
    const char *name;
    enum setting_kind kind;
    size_t at, size; /* of the field in struct config */
    const char *default_text;
    int flags;
    long long min, max; /* KIND_INT, KIND_OCTAL, KIND_MEMORY: bytes, KIND_DURATION: milliseconds */
    const struct setting_word *words;
    bool (*check)(const char *text, char *why, size_t why_size);
};

enum { SETTING_ARGS_MAX = 64, SETTING_VALUE_MAX = CONFIG_BIND_MAX * (CONFIG_TEXT_MAX + 1) };

const struct setting *setting_at(size_t i);           /* NULL past the last */
const struct setting *setting_find(const char *name); /* without case; NULL if there is none */

/* config_values.c */
bool setting_takes_several(const struct setting *s);
/* Sets the field. false with a reason in Valkey's words; c is then unchanged. */
bool setting_parse(const struct setting *s, struct config *c, int argc, char *const *argv, char *why,
                   size_t why_size);
void setting_show(const struct setting *s, const struct config *c, char *out,
                  size_t out_size); /* in full, secrets too */
bool setting_equal(const struct setting *s, const struct config *a, const struct config *b);

/* config_members.c. The check is of the whole settings: false with a reason. */
bool config_host_port_ok(const char *text); /* something, a colon, a port */
bool config_members_parse(struct config *c, int argc, char *const *argv, char *why, size_t why_size);
void config_members_show(const struct config *c, char *out, size_t out_size);
bool config_members_check(const struct config *c, struct buf *why);

bool config_tls_protocols_ok(const char *text, char *why, size_t why_size); /* config_tls.c */

/* config_file.c. `from` names the place for messages. */
bool config_read_all(struct config *c, int argc, char **argv, struct buf *err);

#endif

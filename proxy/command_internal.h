/* Shared by command.c (reads the table) and command_keys.c (finds keys with it). */
#ifndef HF_COMMAND_INTERNAL_H
#define HF_COMMAND_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/command.h"

#define HASH_FUNCTION(bytes, n, hash) ((hash) = (unsigned)hash64((bytes), (n), 0))
#include <uthash.h>

enum { KEY_SPECS_MAX = 8, KEYWORD_BYTES_MAX = 32 };

/* Where keys are, as Valkey's key specs say it: where to begin, and which arguments from there. */
struct key_spec {
    bool by_keyword; /* begin behind this word, looked for from argument `from` on; else at argument `from` */
    char keyword[KEYWORD_BYTES_MAX];
    int64_t from;
    bool by_number; /* argument begin + number_at holds how many keys there are, the first at begin + first */
    int64_t number_at, first;
    int64_t last,
        limit; /* else up to begin + last, or, if negative, counted from the end; limit: of 1/limit of the rest */
    int64_t step;
};

/* Commands with a key in another database. */
enum other_db { OTHER_DB_NONE, OTHER_DB_COPY, OTHER_DB_MOVE };

struct command_entry {
    struct command command; /* first: a struct command * of this table is a struct command_entry * */
    struct key_spec spec[KEY_SPECS_MAX];
    size_t specs;
    enum other_db other_db;
    size_t only_key; /* not 0: this argument is its one key, whatever the others are */
    bool sort; /* SORT: its key specs leave STORE open, which can be told where BY and GET are missing */
    UT_hash_handle hh;
};

struct command_table {
    struct command_entry *by_name;
    size_t count;
};

#endif

/* The command table, made from Valkey's own COMMAND reply: what is a write, what blocks, which arguments are keys.
 * Pure: built from the reply's bytes, asked with parsed arguments. */
#ifndef HF_COMMAND_H
#define HF_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/argv.h"
#include "proxy/keyset.h"

struct command_table;

enum command_flag {
    CMD_WRITE = 1 << 0,
    CMD_READONLY = 1 << 1,
    CMD_BLOCKING = 1 << 2,
    CMD_MAY_REPLICATE = 1 << 3,
    CMD_ADMIN = 1 << 4,
    CMD_PUBSUB = 1 << 5,
    CMD_NOSCRIPT = 1 << 6,
    CMD_MOVABLEKEYS = 1 << 7,
    CMD_NO_MULTI = 1 << 8,
    CMD_CONTAINER = 1 << 9, /* has subcommands */
    CMD_SCRIPT = 1 << 10,   /* EVAL, EVALSHA, FCALL and their _RO forms: may touch keys that they do not name */
    CMD_KEYS_OPEN =
        1 << 11, /* its key specs are incomplete, unknown or variable: the keys cannot be told from the arguments */
    CMD_HAS_KEYS = 1 << 12, /* has at least one key spec that is a key (not not_key) */
    CMD_NO_AUTH = 1 << 13,
    CMD_MODULE = 1 << 14,
    CMD_FUNCTION = 1 << 15,  /* FUNCTION LOAD and its like */
    CMD_PLAIN_READ = 1 << 16 /* a read, and nothing else is special about it: GET, HGET, LRANGE ... */
};

struct command {
    char name[64]; /* lower case; subcommands as "client|setname" */
    int arity;     /* as COMMAND says: -n = at least n, counting the name(s) */
    uint32_t flags;
    uint16_t canon; /* index + 1 into the replayable table of canon.h; 0 = not there */
};

/* Takes the raw RESP2 or RESP3 reply of COMMAND. NULL if it cannot be read (reason in why). */
struct command_table *command_table_new(const char *reply, size_t n, char *why, size_t why_size);
/* Replayable is only what is so with that version of Valkey (canon_for). */
void command_table_for(struct command_table *t, unsigned version);
void command_table_free(struct command_table *t);
size_t command_table_count(const struct command_table *t);

/* The command (or subcommand) that the arguments name; NULL if Valkey did not list it. For a container with an
 * unknown subcommand: the container. */
const struct command *command_find(const struct command_table *t, const struct argv *a);

/* Adds the keys that the arguments name, hashed with db. Sets out->all when they cannot all be told (CMD_KEYS_OPEN,
 * CMD_SCRIPT, bad arguments) or the command is a write that names none. Reads without keys: out->all as well if
 * CMD_READONLY. */
void command_keys(const struct command_table *t, const struct command *c, const struct argv *a, uint32_t db,
                  struct keyset *out);

/* Whether this call may block: flag blocking, and for XREAD/XREADGROUP only with BLOCK; a module's always. */
bool command_blocks(const struct command *c, const struct argv *a);

#endif

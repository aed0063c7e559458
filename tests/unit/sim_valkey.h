/* A Valkey for the simulator: keys that hold their whole history, a few commands in real RESP, a primary's and a
 * replica's way to run them.
 *
 *   PUSH k e            appends e, answers the length: a reply says where in the history its write stands
 *   PUSHLEN k s e       appends (e, length of s): carries data from key to key, as COPY, LMOVE and ...STORE do
 *   PUSHAT k e          carries an expiry: a primary past it does nothing, or deletes; a replica appends
 *   GETPUSH k e         reaches the stream as PUSH k e, and the table says so (as SET ... GET does)
 *   OTHERPUSH k e       the same, but the table does not know
 *   DEL k               deletes: appends a tombstone unless the key is missing already
 *   SORTPUSH k s e      as PUSHLEN, but s is not among the keys it names (SORT ... BY ... STORE)
 *   PUSHALL e           touches every key and names none (FLUSHALL)
 *   ZPUSH k e           appends, and makes a sorted set of a key that is missing; refused (WRONGTYPE) by any other
 *
 * The pushes overwrite, as SET does: the key is a string afterwards. GETPUSH has to read first, so a sorted set
 * refuses it. A replica refuses what a primary would have refused in the same state.
 *
 * Element 0 is anonymous: all pushes of it onto one key are equal, byte for byte. */
#ifndef HF_SIM_VALKEY_H
#define HF_SIM_VALKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "proxy/argv.h"
#include "proxy/keyset.h"

enum { SIM_KEYS = 4, SIM_ELEMENTS_MAX = 1024, SIM_WORDS_MAX = 6, TOMBSTONE = -1, ANONYMOUS = 0 };

enum verb { PUSH, PUSHLEN, PUSHAT, GETPUSH, OTHERPUSH, DEL, SORTPUSH, PUSHALL, ZPUSH, VERBS };

struct cmd {
    enum verb verb;
    int key, source;
    int32_t id;
};
enum key_type { TYPE_STRING, TYPE_SORTED_SET };
struct element {
    int32_t id, saw; /* saw: length of the source, -1 = there is none */
    int32_t type;    /* of the key from now on */
};
struct keyspace {
    struct element at[SIM_KEYS][SIM_ELEMENTS_MAX];
    int count[SIM_KEYS];
    bool full; /* more than a correct run can hold */
};

uint32_t sim_key_db(int key);
uint64_t sim_key_hash(int key);
void cmd_encode(struct buf *out, const struct cmd *c);
void cmd_name(struct buf *out, const char *word, const char *argument); /* SELECT n, MULTI, EXEC */
void cmd_keys(struct keyset *out, const struct cmd *c);                 /* those that it names */
struct cmd cmd_effect(const struct cmd *c);                             /* as Valkey's stream says it */
size_t cmd_words(const char *bytes, size_t n, struct arg *words, size_t *used);

void keyspace_clear(struct keyspace *k);
void keyspace_copy(struct keyspace *to, const struct keyspace *from);
bool keyspace_has(const struct keyspace *k, int key);
bool keyspace_refuses(const struct keyspace *k, const struct cmd *c);
void keyspace_apply(struct keyspace *k, const struct cmd *c); /* as a replica does */
bool keyspace_replay(struct keyspace *k, uint32_t db, const char *bytes,
                     size_t n); /* a stream; false = not a stream that we know */
bool keyspace_equal(const struct keyspace *a, const struct keyspace *b);

#endif

/* The keys that a command or an effect names, as 64-bit hashes of (database, name).
 *
 * Hashes stand for keys wherever the release rule asks "the same key?". Two keys with one hash only make somebody
 * wait longer, never shorter: every use of a keyset is on the safe side when sets grow. */
#ifndef HF_KEYSET_H
#define HF_KEYSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/hash.h"

enum { KEYSET_INLINE = 3 };

struct keyset {
    bool all; /* names no keys, or not all of them: stands for every key */
    uint32_t count;
    uint32_t cap; /* 0: the keys are in `few` */
    union {
        uint64_t few[KEYSET_INLINE];
        uint64_t *many;
    };
};

/* A zeroed keyset is empty. */
void keyset_add_many(struct keyset *k, uint64_t key);         /* keyset_add() when `few` is full */
static inline void keyset_add(struct keyset *k, uint64_t key) /* duplicates are kept: sets are small */
{
    if (k->cap == 0 && k->count < KEYSET_INLINE)
        k->few[k->count++] = key;
    else
        keyset_add_many(k, key);
}
void keyset_add_all(struct keyset *k, const struct keyset *other);
void keyset_clear(struct keyset *k); /* empty again; memory released */
static inline const uint64_t *keyset_keys(const struct keyset *k)
{
    return k->cap ? k->many : k->few;
}
static inline uint64_t key_hash(uint32_t db, const char *name, size_t n)
{
    return hash64(name, n, db + 1);
}

#endif

#include "proxy/keyset.h"

#include <string.h>

#include "log/base/diag.h"

void keyset_add_many(struct keyset *k, uint64_t key)
{
    if (k->cap == 0 && k->count == KEYSET_INLINE) {
        uint64_t *many = must_calloc(4 * KEYSET_INLINE, sizeof *many);

        memcpy(many, k->few, sizeof k->few);
        k->many = many;
        k->cap = 4 * KEYSET_INLINE;
    } else if (k->cap != 0 && k->count == k->cap) {
        k->cap *= 2;
        k->many = must_realloc(k->many, k->cap * sizeof *k->many);
    }
    if (k->cap != 0)
        k->many[k->count++] = key;
    else
        k->few[k->count++] = key;
}

void keyset_add_all(struct keyset *k, const struct keyset *other)
{
    k->all = k->all || other->all;
    for (uint32_t i = 0; i < other->count; i++)
        keyset_add(k, keyset_keys(other)[i]);
}

void keyset_clear(struct keyset *k)
{
    if (k->cap != 0)
        free(k->many);
    memset(k, 0, sizeof *k);
}

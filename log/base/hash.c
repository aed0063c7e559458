#include "log/base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "log/base/diag.h"

uint64_t hash64(const void *bytes, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, n, seed);
}

struct hash128 hash128(const void *bytes, size_t n, uint64_t seed)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(bytes, n, seed);

    return (struct hash128){h.low64, h.high64};
}

struct hasher *hasher_new(void)
{
    XXH3_state_t *state = XXH3_createState();

    CHECK(state != NULL);
    (void)XXH3_64bits_reset(state);
    return (struct hasher *)state;
}

void hasher_add(struct hasher *h, const void *bytes, size_t n)
{
    (void)XXH3_64bits_update((XXH3_state_t *)h, bytes, n);
}

uint64_t hasher_value(const struct hasher *h)
{
    return XXH3_64bits_digest((const XXH3_state_t *)h);
}

/* XXH3's state is the same for both widths. */
struct hash128 hasher_value128(const struct hasher *h)
{
    XXH128_hash_t value = XXH3_128bits_digest((const XXH3_state_t *)h);

    return (struct hash128){value.low64, value.high64};
}

void hasher_free(struct hasher *h)
{
    (void)XXH3_freeState((XXH3_state_t *)h);
}

/* XXH3 (libxxhash), the project's one hash: checksums of records, the log's running hash, key hashes. */
#ifndef HF_HASH_H
#define HF_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *bytes, size_t n, uint64_t seed);

struct hash128 {
    uint64_t low, high;
};
struct hash128 hash128(const void *bytes, size_t n, uint64_t seed);

/* hash64() and hash128() with seed 0, of bytes that come in pieces. The result is the caller's: hasher_free(). */
struct hasher;
struct hasher *hasher_new(void);
void hasher_add(struct hasher *h, const void *bytes, size_t n);
uint64_t hasher_value(const struct hasher *h); /* of all added so far */
struct hash128 hasher_value128(const struct hasher *h);
void hasher_free(struct hasher *h);            /* NULL is fine */

#endif

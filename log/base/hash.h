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

#endif

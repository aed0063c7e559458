/* A store with a few records, written by hand. */
#ifndef HF_STORE_SMALL_H
#define HF_STORE_SMALL_H

#include "tests/unit/store_model.h"

struct small {
    struct store_fixture f;
    struct record *at[200]; /* what was written last, by index */
    struct hash128 running;
    uint64_t last;
};

void small_new(struct small *s);
void small_free(struct small *s);
/* Records from..from+count-1, behind one with this running hash; kept in at[], `last` and `running` follow. */
struct record **small_make(struct small *s, uint64_t from, size_t count, uint64_t term, struct hash128 before);
void small_append(struct small *s, size_t count, uint64_t term);
void small_expect(struct small *s, uint64_t first, uint64_t last); /* these are there, as in at[] */
void store_ok(enum store_result r, const char *why);

#endif

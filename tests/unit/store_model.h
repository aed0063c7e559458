/* A store beside a naive model of it: random steps, each one call that changes the store, and a comparison of all
 * that can be asked. The steps follow from the seed alone, so that a model can be driven without a store. */
#ifndef HF_STORE_MODEL_H
#define HF_STORE_MODEL_H

#include "log/store.h"

enum { MODEL_ENTRIES_MAX = 100000, MODEL_SIZE_MAX_BYTES = 64 * 1024 * 1024 };

struct model {
    uint64_t random;
    uint64_t first, last;
    struct hash128 before;
    uint64_t before_term;
    struct record *at[MODEL_ENTRIES_MAX]; /* first .. last */
    struct store_hard hard;
    struct store_base base;
    struct store_snapshot snapshot;
    char note[16];
    size_t note_bytes;
    uint64_t calls[8]; /* of each kind of step, for who wants to know that all were made */
};

struct model *model_new(uint64_t seed);
void model_free(struct model *m);
uint64_t model_chance(struct model *m, uint64_t n);
struct hash128 model_running(const struct model *m, uint64_t index); /* after it; index >= first - 1 */

/* A sealed record: its frames follow from index, term and size. */
struct record *model_record(uint64_t index, uint64_t term, struct hash128 previous, size_t n);

/* The next step; also done to the store if there is one (CHECKed by asserts to be OK). */
void model_step(struct model *m, struct store *s);
/* Whether the store is what the model says. Nothing is asserted: the caller may have another model to try. */
bool model_matches(const struct model *m, struct store *s);
/* As model_matches(), when the store has just been opened: what it says of the start, too. */
bool model_matches_opened(const struct model *m, struct store *s);

/* A directory of its own, and the store in it. */
struct store_fixture {
    char dir[128];
    struct store *s;
    char why[STORE_WHY_BYTES];
};
void store_fixture_new(struct store_fixture *f);
void store_fixture_open(struct store_fixture *f); /* (again) */
void store_fixture_close(struct store_fixture *f);
void store_fixture_remove(struct store_fixture *f);

#endif

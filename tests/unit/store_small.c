#include "tests/unit/store_small.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

void small_new(struct small *s)
{
    memset(s, 0, sizeof *s);
    store_fixture_new(&s->f);
    store_fixture_open(&s->f);
}

void small_free(struct small *s)
{
    for (size_t i = 0; i < sizeof s->at / sizeof s->at[0]; i++)
        record_drop(s->at[i]);
    store_fixture_remove(&s->f);
}

struct record **small_make(struct small *s, uint64_t from, size_t count, uint64_t term, struct hash128 before)
{
    for (size_t i = 0; i < count; i++) {
        record_drop(s->at[from + i]);
        s->at[from + i] = model_record(from + i, term, before, 500);
        before = s->at[from + i]->running;
    }
    s->last = from + count - 1;
    s->running = before;
    return &s->at[from];
}

void store_ok(enum store_result r, const char *why)
{
    if (r != STORE_OK)
        fail_msg("%s", why);
}

void small_append(struct small *s, size_t count, uint64_t term)
{
    struct record **records = small_make(s, s->last + 1, count, term, s->running);

    store_ok(store_write(s->f.s, &(struct store_write){.records = records, .count = count}, s->f.why), s->f.why);
}

void small_expect(struct small *s, uint64_t first, uint64_t last)
{
    struct store_state now = store_state(s->f.s);

    assert_int_equal(now.first, first);
    assert_int_equal(now.last, last);
    for (uint64_t i = first; i <= last; i++) {
        struct hash128 running;
        uint64_t term;

        assert_true(store_at(s->f.s, i, &term, &running));
        assert_int_equal(term, s->at[i]->term);
        assert_true(running.low == s->at[i]->running.low && running.high == s->at[i]->running.high);
    }
}

/* tail.h: random calls against a naive model (an array of all records ever appended), and what holders keep. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "log/tail.h"

enum { STEPS = 20000, SEEDS = 12, MODEL_MAX = 200000, HELD_MAX = 64 };

static uint64_t random_state;

static uint64_t chance(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

static struct record *make(uint64_t index, uint64_t term, struct hash128 before, size_t n, enum control what)
{
    struct buf batch = {0};
    struct hash128 running;
    char *body = calloc(1, n + 1);

    assert_non_null(body);
    entry_begin(&batch);
    frame_control(&batch, what, body, n);
    running = entry_seal(&batch, index, term, before);
    free(body);
    return record_new(&batch, what == CONTROL_MEMBERS ? RECORD_CHANGE : RECORD_COMMAND, index, term, running);
}

struct model {
    uint64_t next, first, durable; /* first: the oldest that must be answered for by the tail */
    struct hash128 running;        /* before next */
    size_t *sizes;                 /* of index i at i */
    struct hash128 *after;
    struct record **records;
};

static uint64_t model_bytes(const struct model *m, uint64_t from, uint64_t to)
{
    uint64_t sum = 0;

    for (uint64_t i = from; i <= to; i++)
        sum += m->sizes[i];
    return sum;
}

static void model_evict(struct model *m)
{
    uint64_t sum = m->durable >= m->first ? model_bytes(m, m->first, m->durable) : 0;

    while (sum > TAIL_BYTES_MAX)
        sum -= m->sizes[m->first++];
}

static void compare(const struct tail *t, const struct model *m)
{
    assert_int_equal(tail_first(t), m->first);
    assert_int_equal(tail_last(t), m->next - 1);
    assert_true(tail_running(t).low == m->running.low && tail_running(t).high == m->running.high);
    assert_int_equal(tail_bytes(t), model_bytes(m, m->first, m->next - 1));
    assert_null(tail_get(t, m->first - 1));
    assert_null(tail_get(t, m->next));
    assert_null(tail_get(t, UINT64_MAX));
    for (int i = 0; i < 4 && m->first < m->next; i++) {
        uint64_t index = m->first + chance(m->next - m->first);

        assert_ptr_equal(tail_get(t, index), m->records[index]);
        assert_int_equal(tail_get(t, index)->index, index);
    }
}

static void append(struct tail *t, struct model *m, uint64_t term)
{
    size_t n = chance(20) == 0 ? (size_t)chance(4 * 1024 * 1024) : (size_t)chance(3000);
    struct record *r = make(m->next, term, m->running, n, CONTROL_CLOCK);

    m->sizes[m->next] = r->bytes.len;
    m->after[m->next] = m->running = r->running;
    m->records[m->next++] = r;
    tail_append(t, r);
}

static void cut(struct tail *t, struct model *m, uint64_t from)
{
    m->running = m->after[from - 1];
    tail_cut(t, from, from > m->first ? (struct hash128){0, 0} : m->running);
    m->next = from;
    if (m->first > from)
        m->first = from;
    if (m->durable >= from)
        m->durable = from - 1;
}

static void one_step(struct tail *t, struct model *m, uint64_t *term, struct record **held)
{
    uint64_t what = chance(100), live = m->next - m->first;

    if (what < 55) {
        append(t, m, *term);
    } else if (what < 90) {
        uint64_t index = m->durable + chance(m->next - m->durable);

        if (chance(8) == 0)
            index = chance(m->next); /* an older report changes nothing */
        tail_durable(t, index);
        if (index > m->durable)
            m->durable = index;
        model_evict(m);
    } else if (what < 92) {
        ++*term;
        cut(t, m, m->next - chance(live + 1));
    } else if (what == 92 && m->first > 3 && chance(10) == 0) {
        ++*term;
        cut(t, m, m->first - chance(3));
    } else if (what == 93 && chance(20) == 0) {
        m->first = m->next += chance(5);
        m->durable = m->next - 1;
        m->after[m->durable] = m->running = (struct hash128){chance(1000), 7};
        tail_reset(t, m->next, m->running);
    } else if (live > 0) {
        size_t at = (size_t)chance(HELD_MAX);

        record_drop(held[at]);
        held[at] = record_hold(tail_get(t, m->first + chance(live)));
    }
}

/* What is held outlives eviction, cuts and the tail; its bytes stay what they were. */
static void check_held(struct record **held)
{
    for (size_t i = 0; i < HELD_MAX; i++) {
        struct entry_view e;

        if (held[i] == NULL)
            continue;
        assert_int_equal(entry_check(buf_head(&held[i]->bytes), held[i]->bytes.len, &e), ENTRY_OK);
        assert_true(e.index == held[i]->index && e.term == held[i]->term);
        assert_int_equal(held[i]->holders, 1);
        record_drop(held[i]);
    }
}

static void run(uint64_t seed)
{
    struct model m = {.next = 1, .first = 1};
    struct record *held[HELD_MAX] = {0};
    struct tail *t = tail_new(1, m.running);
    uint64_t term = 1;

    random_state = seed * 0x9e3779b97f4a7c15u + 1;
    m.sizes = calloc(MODEL_MAX, sizeof *m.sizes);
    m.after = calloc(MODEL_MAX, sizeof *m.after);
    m.records = calloc(MODEL_MAX, sizeof *m.records);
    assert_true(m.sizes != NULL && m.after != NULL && m.records != NULL);
    for (int i = 0; i < STEPS / SEEDS; i++) {
        one_step(t, &m, &term, held);
        compare(t, &m);
    }
    tail_free(t);
    for (size_t i = 0; i < HELD_MAX; i++) /* one record may have been held in two places */
        for (size_t j = i + 1; held[i] != NULL && j < HELD_MAX; j++)
            if (held[i] == held[j]) {
                record_drop(held[j]);
                held[j] = NULL;
            }
    check_held(held);
    free(m.sizes);
    free(m.after);
    free(m.records);
}

static void test_against_a_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run(seed);
}

static void test_what_is_not_durable_stays(void **state)
{
    struct tail *t = tail_new(5, (struct hash128){1, 2});
    struct hash128 running = {1, 2};
    const size_t n = 1024 * 1024;

    (void)state;
    assert_true(tail_first(t) == 5 && tail_last(t) == 4 && tail_bytes(t) == 0);
    for (uint64_t i = 5; i < 85; i++) {
        struct record *r = make(i, 1, running, n, CONTROL_CLOCK);

        running = r->running;
        tail_append(t, r);
    }
    assert_int_equal(tail_first(t), 5);
    tail_durable(t, 30);
    assert_int_equal(tail_first(t), 5);
    tail_durable(t, 84);
    assert_true(tail_first(t) > 50 && tail_last(t) == 84 && tail_bytes(t) <= TAIL_BYTES_MAX);
    assert_true(tail_bytes(t) > TAIL_BYTES_MAX - 2 * n);
    tail_keep(t, 3 * n);
    assert_true(tail_first(t) == 83 && tail_last(t) == 84); /* a little over two fit: each has a header, too */
    tail_keep(t, 0);
    assert_true(tail_first(t) == 85 && tail_last(t) == 84 && tail_bytes(t) == 0);
    tail_cut(t, 10, (struct hash128){3, 4});
    assert_true(tail_first(t) == 10 && tail_last(t) == 9 && tail_running(t).low == 3);
    tail_free(t);
    tail_free(NULL);
}

static void test_a_change_tells_its_configuration(void **state)
{
    struct record *change = make(1, 1, (struct hash128){0, 0}, 11, CONTROL_MEMBERS);
    struct record *other = make(2, 1, change->running, 11, CONTROL_CLOCK);
    static const char zeros[11];
    size_t n = 0;

    (void)state;
    assert_memory_equal(record_change(change, &n), zeros, 11);
    assert_int_equal(n, 11);
    assert_null(record_change(other, &n));
    assert_int_equal(n, 0);
    record_drop(record_hold(change));
    record_drop(change);
    record_drop(other);
    record_drop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_model),
        cmocka_unit_test(test_what_is_not_durable_stays),
        cmocka_unit_test(test_a_change_tells_its_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

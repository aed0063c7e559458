/* buf.h: what goes in comes out, whatever the order of growing and consuming; reading never leaves the bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"

static void test_empty(void **state)
{
    struct buf b = {0};

    (void)state;
    assert_null(buf_head(&b));
    buf_append(&b, NULL, 0);
    buf_consume(&b, 0);
    buf_clear(&b);
    assert_true(buf_reserve(&b, 0));
    assert_int_equal(b.len, 0);
    assert_false(b.failed);
    buf_free(&b);
    buf_free(&b);
}

/* Against a plain array, in random steps. */
static void test_random_steps(void **state)
{
    enum { STEPS = 200000, MODEL_MAX = 1 << 20 };
    unsigned char *model = malloc(MODEL_MAX);
    size_t from = 0, to = 0;
    struct buf b = {0};
    unsigned seed = 1;

    (void)state;
    assert_non_null(model);
    for (int i = 0; i < STEPS; i++) {
        size_t n = (size_t)rand_r(&seed) % ((size_t)rand_r(&seed) % 700 + 1);

        if (rand_r(&seed) % 2 == 0 && to + n <= MODEL_MAX) {
            for (size_t k = 0; k < n; k++)
                model[to + k] = (unsigned char)rand_r(&seed);
            buf_append(&b, model + to, n);
            to += n;
        } else {
            n = n < b.len ? n : b.len;
            buf_consume(&b, n);
            from += n;
        }
        assert_int_equal(b.len, to - from);
        assert_true(b.len == 0 || memcmp(buf_head(&b), model + from, b.len) == 0);
        if (to + 1000 > MODEL_MAX) {
            memmove(model, model + from, to - from);
            to -= from;
            from = 0;
        }
    }
    assert_true(b.cap <= 4 * (size_t)MODEL_MAX);
    buf_free(&b);
    free(model);
}

/* A queue that is filled and drained for ever stays small. */
static void test_queue_does_not_grow(void **state)
{
    struct buf b = {0};
    char bytes[1000] = {0};

    (void)state;
    buf_append(&b, bytes, sizeof bytes);
    for (int i = 0; i < 100000; i++) {
        buf_append(&b, bytes, sizeof bytes);
        buf_consume(&b, sizeof bytes);
    }
    assert_int_equal(b.len, sizeof bytes);
    assert_true(b.cap <= 16 * sizeof bytes);
    buf_free(&b);
}

static void test_numbers(void **state)
{
    static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, 1ull << 62, UINT64_MAX};
    struct buf b = {0};
    struct cursor c;

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        buf_varint(&b, values[i]);
        buf_u64(&b, values[i]);
        buf_u32(&b, (uint32_t)values[i]);
        buf_u8(&b, (uint8_t)values[i]);
    }
    c = cursor_of(buf_head(&b), b.len);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        assert_true(cursor_varint(&c) == values[i]);
        assert_true(cursor_u64(&c) == values[i]);
        assert_true(cursor_u32(&c) == (uint32_t)values[i]);
        assert_true(cursor_u8(&c) == (uint8_t)values[i]);
    }
    assert_false(c.bad);
    assert_int_equal(c.left, 0);
    buf_clear(&b);
    buf_u32(&b, 0x01020304);
    assert_memory_equal(buf_head(&b), "\4\3\2\1", 4);
    buf_free(&b);
}

static void test_text(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_decimal(&b, INT64_MIN);
    buf_text(&b, " ");
    buf_decimal(&b, INT64_MAX);
    buf_text(&b, " ");
    buf_decimal(&b, 0);
    buf_printf(&b, " %s%d%c", "x", -5, 0);
    buf_decimal(&b, -10);
    assert_int_equal(b.len, 50);
    assert_memory_equal(buf_head(&b), "-9223372036854775808 9223372036854775807 0 x-5\0-10", 50);
    buf_free(&b);
}

static void test_bad_varints(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"", 0},
        {"\x80", 1},
        {"\x80\x00", 2}, /* not the shortest form */
        {"\xff\x00", 2},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10}, /* 65 bits */
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x01", 11},
        {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 10},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cursor c = cursor_of(bad[i].bytes, bad[i].n);

        assert_true(cursor_varint(&c) == 0);
        assert_true(c.bad);
    }
}

static void test_cursor_is_sticky(void **state)
{
    struct cursor c = cursor_of("abc", 3);

    (void)state;
    assert_null(cursor_bytes(&c, 4));
    assert_true(c.bad);
    assert_null(cursor_bytes(&c, 1));
    assert_int_equal(cursor_u8(&c), 0);
    assert_int_equal(c.left, 3);
    c = cursor_of("abc", 3);
    assert_null(cursor_bytes(&c, SIZE_MAX));
    c = cursor_of(NULL, 0);
    assert_null(cursor_bytes(&c, 0));
    assert_false(c.bad);
}

/* volatile: the compiler would warn of the size. */
static volatile size_t huge = SIZE_MAX / 2;

static void test_no_memory_is_sticky(void **state)
{
    struct buf b = {0}, moved = {0};

    (void)state;
    buf_text(&b, "abc");
    assert_false(buf_reserve(&b, huge));
    assert_true(b.failed);
    assert_null(buf_tail(&b, SIZE_MAX));
    buf_text(&b, "d");
    assert_int_equal(b.len, 4);
    assert_true(b.failed);
    buf_move(&moved, &b);
    assert_true(moved.failed);
    assert_false(b.failed);
    assert_null(b.data);
    buf_clear(&moved);
    assert_false(moved.failed);
    buf_free(&moved);
}

static void test_move_frees_the_target(void **state)
{
    struct buf a = {0}, b = {0};

    (void)state;
    buf_text(&a, "old");
    buf_text(&b, "new");
    buf_move(&a, &b);
    assert_int_equal(a.len, 3);
    assert_memory_equal(buf_head(&a), "new", 3);
    assert_int_equal(b.len, 0);
    buf_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_random_steps),
        cmocka_unit_test(test_queue_does_not_grow),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_bad_varints),
        cmocka_unit_test(test_cursor_is_sticky),
        cmocka_unit_test(test_no_memory_is_sticky),
        cmocka_unit_test(test_move_frees_the_target),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

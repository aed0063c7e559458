/* record.h: entries, frames, items; every single flipped bit is found. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "log/record.h"

static const struct hash128 start = {0, 0};

static void build(struct buf *batch)
{
    struct buf items = {0};

    entry_begin(batch);
    frame_intent(batch, 41, 3, "*1\r\n$4\r\nPING\r\n", 14);
    frame_intent(batch, UINT64_MAX, UINT32_MAX, "", 0);
    item_ref(&items, 40, 2);
    item_raw(&items, 0, 9, "*1\r\n$8\r\nFLUSHALL\r\n", 18);
    item_raw(&items, 9, 9, "", 0);
    item_resolved(&items, 300);
    frame_outcome(batch, 1ull << 40, &items);
    frame_outcome(batch, 0, &(struct buf){0});
    frame_control(batch, CONTROL_MODE, "\2", 1);
    frame_control(batch, CONTROL_START, NULL, 0);
    buf_free(&items);
}

static void check_items(struct cursor items)
{
    struct item_view i;

    assert_true(item_next(&items, &i));
    assert_true(i.kind == ITEM_REF && i.seq == 40 && i.count == 2);
    assert_true(item_next(&items, &i));
    assert_true(i.kind == ITEM_RAW && i.db_before == 0 && i.db_after == 9 && i.resp_bytes == 18);
    assert_memory_equal(i.resp, "*1\r\n$8\r\nFLUSHALL\r\n", 18);
    assert_true(item_next(&items, &i));
    assert_true(i.kind == ITEM_RAW && i.db_before == 9 && i.resp_bytes == 0);
    assert_true(item_next(&items, &i));
    assert_true(i.kind == ITEM_RESOLVED && i.seq == 300);
    assert_false(item_next(&items, &i));
    assert_false(items.bad);
}

static void test_round_trip(void **state)
{
    struct buf batch = {0};
    struct entry_view e;
    struct frame_view f;
    struct hash128 running;

    (void)state;
    build(&batch);
    running = entry_seal(&batch, 7, 2, start);
    assert_int_equal(entry_open(buf_head(&batch), batch.len, 7, start, &e), ENTRY_OK);
    assert_true(e.index == 7 && e.term == 2 && e.running.low == running.low && e.running.high == running.high);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_INTENT && f.seq == 41 && f.db == 3 && f.resp_bytes == 14);
    assert_memory_equal(f.resp, "*1\r\n$4\r\nPING\r\n", 14);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_INTENT && f.seq == UINT64_MAX && f.db == UINT32_MAX && f.resp_bytes == 0);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_OUTCOME && f.end_offset == 1ull << 40);
    check_items(f.items);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_OUTCOME && f.items.left == 0);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_CONTROL && f.control == CONTROL_MODE && cursor_u8(&f.body) == 2 && f.body.left == 0);
    assert_true(frame_next(&e.frames, &f));
    assert_true(f.kind == FRAME_CONTROL && f.control == CONTROL_START && f.body.left == 0);
    assert_false(frame_next(&e.frames, &f));
    assert_false(e.frames.bad);
    buf_free(&batch);
}

static void test_every_flipped_bit_is_found(void **state)
{
    struct buf batch = {0};
    struct entry_view e;

    (void)state;
    build(&batch);
    (void)entry_seal(&batch, 7, 2, start);
    for (size_t bit = 0; bit < batch.len * 8; bit++) {
        char *byte = buf_head(&batch) + bit / 8;

        *byte = (char)(*byte ^ (1 << bit % 8));
        assert_int_not_equal(entry_open(buf_head(&batch), batch.len, 7, start, &e), ENTRY_OK);
        *byte = (char)(*byte ^ (1 << bit % 8));
    }
    assert_int_equal(entry_open(buf_head(&batch), batch.len, 7, start, &e), ENTRY_OK);
    buf_free(&batch);
}

/* Each length is given memory of its own, so that a read beyond it is seen by the sanitizer. */
static void test_every_cut_is_found(void **state)
{
    struct buf batch = {0};
    struct entry_view e;

    (void)state;
    build(&batch);
    (void)entry_seal(&batch, 7, 2, start);
    for (size_t n = 0; n < batch.len; n++) {
        char *copy = malloc(n + 1);

        assert_non_null(copy);
        memcpy(copy, buf_head(&batch), n);
        assert_int_equal(entry_open(copy, n, 7, start, &e), n < ENTRY_HEADER_BYTES ? ENTRY_SHORT : ENTRY_LENGTH);
        free(copy);
    }
    buf_u8(&batch, 0);
    assert_int_equal(entry_open(buf_head(&batch), batch.len, 7, start, &e), ENTRY_LENGTH);
    buf_free(&batch);
}

static void test_chain(void **state)
{
    struct buf a = {0}, b = {0};
    struct hash128 first, second, swapped;
    struct entry_view e;

    (void)state;
    build(&a);
    first = entry_seal(&a, 1, 1, start);
    build(&b);
    second = entry_seal(&b, 2, 1, first);
    assert_true(first.low != second.low); /* equal frames, another place in the chain */
    assert_int_equal(entry_open(buf_head(&b), b.len, 2, first, &e), ENTRY_OK);
    assert_int_equal(entry_open(buf_head(&b), b.len, 2, start, &e), ENTRY_CHAIN);
    assert_int_equal(entry_open(buf_head(&b), b.len, 3, first, &e), ENTRY_INDEX);
    swapped = (struct hash128){first.high, first.low};
    assert_int_equal(entry_open(buf_head(&b), b.len, 2, swapped, &e), ENTRY_CHAIN);
    assert_int_equal(entry_running(buf_head(&b), b.len, &first), ENTRY_OK);
    assert_true(first.low == second.low && first.high == second.high);
    assert_int_equal(entry_running(buf_head(&b), 47, &first), ENTRY_SHORT);
    (void)entry_seal(&b, 2, 1, start); /* sealing again takes nothing from the first time */
    assert_int_equal(entry_open(buf_head(&b), b.len, 2, start, &e), ENTRY_OK);
    buf_free(&a);
    buf_free(&b);
}

/* entry_check() finds every flipped bit without the entry before, and does not mind the place. */
static void test_check_without_the_chain(void **state)
{
    const struct hash128 before = {11, 12};
    struct buf batch = {0};
    struct entry_view e;
    struct hash128 running;

    (void)state;
    build(&batch);
    running = entry_seal(&batch, 9, 4, before);
    assert_int_equal(entry_check(buf_head(&batch), batch.len, &e), ENTRY_OK);
    assert_true(e.index == 9 && e.term == 4 && e.running.low == running.low && e.running.high == running.high);
    assert_true(entry_chain(&e, before).low == running.low && entry_chain(&e, start).low != running.low);
    assert_true(e.frames.left == batch.len - ENTRY_HEADER_BYTES);
    for (size_t bit = 0; bit < batch.len * 8; bit++) {
        char *byte = buf_head(&batch) + bit / 8;

        *byte = (char)(*byte ^ (1 << bit % 8));
        assert_int_not_equal(entry_check(buf_head(&batch), batch.len, &e), ENTRY_OK);
        *byte = (char)(*byte ^ (1 << bit % 8));
    }
    for (size_t n = 0; n < batch.len; n++)
        assert_int_equal(entry_check(buf_head(&batch), n, &e), n < ENTRY_HEADER_BYTES ? ENTRY_SHORT : ENTRY_LENGTH);
    assert_int_equal(entry_stated(buf_head(&batch), ENTRY_HEADER_BYTES, &e), ENTRY_OK);
    assert_true(e.index == 9 && e.term == 4 && e.frames.left == 0);
    assert_int_equal(entry_stated(buf_head(&batch), 47, &e), ENTRY_SHORT);
    buf_free(&batch);
}

static enum record_type type_of(void (*frames)(struct buf *batch), const void **change, size_t *n)
{
    static struct buf batch; /* what *change points into; stays reachable */
    struct entry_view e;

    buf_free(&batch);
    entry_begin(&batch);
    frames(&batch);
    (void)entry_seal(&batch, 1, 1, start);
    assert_int_equal(entry_check(buf_head(&batch), batch.len, &e), ENTRY_OK);
    *change = entry_change(&e, n);
    assert_true(e.frames.left == batch.len - ENTRY_HEADER_BYTES); /* the view was not walked */
    return entry_type(&e);
}

static void frames_barrier(struct buf *batch)
{
    frame_control(batch, CONTROL_BARRIER, NULL, 0);
}

static void frames_members(struct buf *batch)
{
    frame_control(batch, CONTROL_MEMBERS, "abc", 3);
}

static void frames_command(struct buf *batch)
{
    frame_control(batch, CONTROL_CLOCK, "\1", 1);
    frame_control(batch, CONTROL_MEMBERS, "abc", 3);
}

static void frames_mode(struct buf *batch)
{
    frame_control(batch, CONTROL_MODE, "\2", 1);
    frame_intent(batch, 1, 0, "", 0);
}

static void frames_none(struct buf *batch)
{
    (void)batch;
}

static void frames_malformed(struct buf *batch)
{
    buf_append(batch, "\x03\x00", 2);
}

static void test_types(void **state)
{
    const void *change;
    size_t n;

    (void)state;
    assert_true(type_of(frames_mode, &change, &n) == RECORD_COMMAND && change == NULL && n == 0);
    assert_true(type_of(frames_barrier, &change, &n) == RECORD_BARRIER && change == NULL && n == 0);
    assert_true(type_of(frames_members, &change, &n) == RECORD_CHANGE && n == 3);
    assert_memory_equal(change, "abc", 3);
    assert_true(type_of(frames_command, &change, &n) == RECORD_COMMAND && change == NULL);
    assert_true(type_of(frames_none, &change, &n) == RECORD_COMMAND && change == NULL);
    assert_true(type_of(frames_malformed, &change, &n) == RECORD_COMMAND && change == NULL);
    (void)type_of(frames_none, &change, &n);
}

static void test_malformed_frames(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\x00\x00", 2},                                      /* kind 0 */
        {"\x04\x00", 2},                                      /* unknown kind */
        {"\x01", 1},                                          /* no length */
        {"\x01\x05\x01\x01", 4},                              /* longer than what is there */
        {"\x01\x00", 2},                                      /* no sequence number */
        {"\x01\x01\x01", 3},                                  /* no database */
        {"\x01\x07\x01\x80\x80\x80\x80\x80\x01", 9},          /* database beyond 32 bits */
        {"\x02\x00", 2},                                      /* no offset */
        {"\x03\x00", 2},                                      /* no control */
        {"\x03\x01\x00", 3},                                  /* control 0 */
        {"\x03\x01\x63", 3},                                  /* unknown control */
        {"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, /* length 2^64-1 */
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cursor c = cursor_of(bad[i].bytes, bad[i].n);
        struct frame_view f;

        assert_false(frame_next(&c, &f));
        assert_true(c.bad);
        assert_false(frame_next(&c, &f));
    }
}

static void test_malformed_items(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"\x00", 1},
        {"\x09\x01", 2},
        {"\x01\x05\x00", 3}, /* REF of none */
        {"\x01\x05", 2},
        {"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02", 12}, /* REF beyond 2^64 */
        {"\x02\x00\x00\x05"
         "abcd",
         8},
        {"\x02\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13},
        {"\x03", 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cursor c = cursor_of(bad[i].bytes, bad[i].n);
        struct item_view v;

        assert_false(item_next(&c, &v));
        assert_true(c.bad);
    }
}

/* Random bytes never read outside, never loop for ever. */
static void test_random_bytes(void **state)
{
    unsigned seed = 7;

    (void)state;
    for (int round = 0; round < 200000; round++) {
        size_t n = (size_t)rand_r(&seed) % 40;
        char *bytes = malloc(n + 1);
        struct cursor c;
        struct frame_view f;
        struct item_view v;

        assert_non_null(bytes);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)(rand_r(&seed) % 5 ? rand_r(&seed) % 6 : rand_r(&seed));
        c = cursor_of(bytes, n);
        while (frame_next(&c, &f))
            if (f.kind == FRAME_OUTCOME)
                while (item_next(&f.items, &v))
                    assert_true(v.kind != ITEM_RAW || v.resp_bytes <= n);
        free(bytes);
    }
}

static void test_no_memory_is_handed_on(void **state)
{
    struct buf batch = {0}, items = {.failed = true};

    (void)state;
    entry_begin(&batch);
    frame_outcome(&batch, 1, &items);
    assert_true(batch.failed);
    buf_free(&batch);
}

static void test_every_error_has_a_text(void **state)
{
    (void)state;
    for (int e = ENTRY_OK; e <= ENTRY_CHAIN; e++)
        assert_true(strlen(entry_error_text((enum entry_error)e)) > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_flipped_bit_is_found),
        cmocka_unit_test(test_every_cut_is_found),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_check_without_the_chain),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_malformed_frames),
        cmocka_unit_test(test_malformed_items),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_no_memory_is_handed_on),
        cmocka_unit_test(test_every_error_has_a_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

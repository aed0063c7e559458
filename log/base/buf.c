#include "log/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"

enum { BUF_BYTES_MIN = 256, DECIMAL_BYTES_MAX = 20, VARINT_BYTES_MAX = 10 };

char *buf_head(const struct buf *b)
{
    return b->data == NULL ? NULL : b->data + b->start;
}

/* Growing doubles, so that appending costs a constant per byte. A consumed front is reclaimed instead when it is at
 * least as long as what is left: each byte moved was then paid for by a byte consumed. */
static bool make_room(struct buf *b, size_t extra)
{
    size_t need, cap;
    char *data;

    if (extra > SIZE_MAX / 4 - b->len) {
        b->failed = true;
        return false;
    }
    need = b->len + extra;
    if (b->data != NULL && need <= b->cap && b->start >= b->len) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
        return true;
    }
    cap = b->cap < BUF_BYTES_MIN ? BUF_BYTES_MIN : b->cap * 2;
    if (cap < need)
        cap = need;
    if (b->start == 0) {
        data = realloc(b->data, cap);
    } else {
        data = malloc(cap);
        if (data != NULL) {
            memcpy(data, b->data + b->start, b->len);
            free(b->data);
        }
    }
    if (data == NULL) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->start = 0;
    b->cap = cap;
    return true;
}

bool buf_reserve(struct buf *b, size_t extra)
{
    if (extra <= b->cap - b->start - b->len && b->data != NULL)
        return true;
    return make_room(b, extra);
}

char *buf_tail(struct buf *b, size_t extra)
{
    return buf_reserve(b, extra) ? b->data + b->start + b->len : NULL;
}

void buf_grew(struct buf *b, size_t n)
{
    CHECK(n <= b->cap - b->start - b->len);
    b->len += n;
}

void buf_append_growing(struct buf *b, const void *bytes, size_t n)
{
    char *to = buf_tail(b, n);

    if (to == NULL)
        return;
    memcpy(to, bytes, n);
    b->len += n;
}

void buf_text(struct buf *b, const char *text)
{
    buf_append(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list arguments, again;
    char *to;
    int n;

    va_start(arguments, format);
    va_copy(again, arguments);
    n = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    CHECK(n >= 0);
    to = buf_tail(b, (size_t)n + 1);
    if (to != NULL) {
        (void)vsnprintf(to, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void buf_u8(struct buf *b, uint8_t v)
{
    char *to = buf_tail(b, 1);

    if (to == NULL)
        return;
    to[0] = (char)v;
    b->len++;
}

static void fixed(struct buf *b, uint64_t v, size_t n)
{
    char *to = buf_tail(b, n);

    if (to == NULL)
        return;
    for (size_t i = 0; i < n; i++)
        to[i] = (char)(uint8_t)(v >> (8 * i));
    b->len += n;
}

void buf_u32(struct buf *b, uint32_t v)
{
    fixed(b, v, 4);
}

void buf_u64(struct buf *b, uint64_t v)
{
    fixed(b, v, 8);
}

void buf_varint(struct buf *b, uint64_t v)
{
    char *to = buf_tail(b, VARINT_BYTES_MAX);
    size_t n = 0;

    if (to == NULL)
        return;
    for (; v >= 0x80; v >>= 7)
        to[n++] = (char)(uint8_t)(v | 0x80);
    to[n++] = (char)(uint8_t)v;
    b->len += n;
}

void buf_decimal(struct buf *b, int64_t v)
{
    char digits[DECIMAL_BYTES_MAX];
    size_t at = sizeof digits;
    uint64_t left = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

    do {
        digits[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (v < 0)
        digits[--at] = '-';
    buf_append(b, digits + at, sizeof digits - at);
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len);
    b->start += n;
    b->len -= n;
    if (b->len == 0)
        b->start = 0;
}

void buf_move(struct buf *to, struct buf *b)
{
    CHECK(to != b);
    free(to->data);
    *to = *b;
    *b = (struct buf){0};
}

struct cursor cursor_of(const void *bytes, size_t n)
{
    return (struct cursor){.at = bytes, .left = n};
}

const char *cursor_bytes(struct cursor *c, size_t n)
{
    const char *at = c->at;

    if (c->bad || n > c->left) {
        c->bad = true;
        return NULL;
    }
    if (n > 0)
        c->at += n;
    c->left -= n;
    return at;
}

static uint64_t read_fixed(struct cursor *c, size_t n)
{
    const char *at = cursor_bytes(c, n);
    uint64_t v = 0;

    if (at == NULL)
        return 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)(uint8_t)at[i] << (8 * i);
    return v;
}

uint8_t cursor_u8(struct cursor *c)
{
    return (uint8_t)read_fixed(c, 1);
}

uint32_t cursor_u32(struct cursor *c)
{
    return (uint32_t)read_fixed(c, 4);
}

uint64_t cursor_u64(struct cursor *c)
{
    return read_fixed(c, 8);
}

/* Only the shortest form counts, so that equal values are equal bytes; ten bytes hold 64 bits, the tenth at most one.
 */
uint64_t cursor_varint(struct cursor *c)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte = cursor_u8(c);

        if (c->bad)
            return 0;
        if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0))
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    c->bad = true;
    return 0;
}

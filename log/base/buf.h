/* A growable run of bytes, and a checked cursor to read one. All pointer arithmetic of the project is here and in
 * buf.c.
 *
 *     data                                cap
 *     |--consumed--|--------len--------|--free--|
 *                  buf_head()                         */
#ifndef HF_BUF_H
#define HF_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct buf {
    char *data;
    size_t start, len, cap; /* the content is data[start .. start+len) */
    bool failed; /* sticky: an append found no memory; the content is then incomplete. Test once, at the end */
};

/* A zeroed struct buf is an empty buffer. */
static inline void buf_free(struct buf *b) /* releases memory; the buffer is empty and usable again */
{
    if (b->data != NULL)
        free(b->data);
    *b = (struct buf){0};
}
static inline void buf_clear(struct buf *b) /* empties, keeps memory */
{
    b->start = b->len = 0;
    b->failed = false;
}
char *buf_head(const struct buf *b);           /* first byte; valid until the next change; NULL if never filled */
bool buf_reserve(struct buf *b, size_t extra); /* room for `extra` more bytes; false (and failed) if none */
char *buf_tail(struct buf *b, size_t extra);   /* reserve, then where the next byte goes; NULL on failure */
void buf_grew(struct buf *b, size_t n);        /* n bytes were written at buf_tail() */
void buf_append_growing(struct buf *b, const void *bytes, size_t n);      /* buf_append() when there is no room */
static inline void buf_append(struct buf *b, const void *bytes, size_t n) /* bytes must not be inside b */
{
    if (n == 0)
        return;
    if (b->data == NULL || n > b->cap - b->start - b->len) {
        buf_append_growing(b, bytes, n);
        return;
    }
    memcpy(b->data + b->start + b->len, bytes, n);
    b->len += n;
}
void buf_text(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_u8(struct buf *b, uint8_t v);
void buf_u32(struct buf *b, uint32_t v); /* little endian, as all fixed numbers of the record formats */
void buf_u64(struct buf *b, uint64_t v);
void buf_varint(struct buf *b, uint64_t v);   /* LEB128, at most 10 bytes */
void buf_decimal(struct buf *b, int64_t v);   /* as text, no padding */
void buf_consume(struct buf *b, size_t n);    /* drops n bytes from the front; n <= len */
void buf_move(struct buf *to, struct buf *b); /* `to` (freed first) takes b's memory; b is empty after */

/* Reads forward; a read past the end sets `bad` (sticky) and yields 0 or NULL. Borrows the bytes. */
struct cursor {
    const char *at;
    size_t left;
    bool bad;
};
struct cursor cursor_of(const void *bytes, size_t n);
uint8_t cursor_u8(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
uint64_t cursor_varint(struct cursor *c);
const char *cursor_bytes(struct cursor *c, size_t n); /* points into the borrowed bytes */

#endif

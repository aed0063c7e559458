/* Writing replies to clients: the few types that we make ourselves. */
#include <string.h>

#include "proxy/resp.h"

static void line(struct buf *out, char prefix, const char *text)
{
    buf_u8(out, (uint8_t)prefix);
    buf_text(out, text);
    buf_append(out, "\r\n", 2);
}

static void number(struct buf *out, char prefix, int64_t v)
{
    buf_u8(out, (uint8_t)prefix);
    buf_decimal(out, v);
    buf_append(out, "\r\n", 2);
}

void resp_error(struct buf *out, const char *text)
{
    line(out, '-', text);
}

void resp_status(struct buf *out, const char *text)
{
    line(out, '+', text);
}

void resp_integer(struct buf *out, int64_t v)
{
    number(out, ':', v);
}

void resp_bulk(struct buf *out, const void *bytes, size_t n)
{
    argv_bulk(out, bytes, n);
}

void resp_bulk_text(struct buf *out, const char *text)
{
    argv_bulk(out, text, strlen(text));
}

void resp_null(struct buf *out, int proto)
{
    buf_text(out, proto >= 3 ? "_\r\n" : "$-1\r\n");
}

void resp_array(struct buf *out, size_t count)
{
    number(out, '*', (int64_t)count);
}

void resp_map(struct buf *out, size_t pairs, int proto)
{
    if (proto >= 3)
        number(out, '%', (int64_t)pairs);
    else
        number(out, '*', (int64_t)(2 * pairs));
}

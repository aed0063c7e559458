/* Shared by resp.c (parses requests), resp_pool.c (keeps the parsers) and resp_split.c (delimits replies). */
#ifndef HF_RESP_INTERNAL_H
#define HF_RESP_INTERNAL_H

#include <hiredis/hiredis.h>
#include <hiredis/read.h>

#include "proxy/resp.h"

#if HIREDIS_MAJOR < 1
#error "hiredis 1.0 or later is needed: make deps"
#endif

enum parser_state { BETWEEN, MULTIBULK, INLINE };

struct resp_parser {
    enum parser_state state;
    redisReader *reader; /* NULL: made when needed */
    size_t ahead;
    struct buf canon, line;
    struct arg *arg;
    size_t count, cap;
    bool header_seen, strict;
    const struct resp_limits *limits;
    const char *refused; /* set by a callback that refuses what it was given */
    struct resp_parser *next;
};

struct resp_pool {
    const struct resp_limits *limits;
    struct resp_parser *spare;
    size_t spares;
    struct resp_parser *lent; /* given back, but its last command is still borrowed */
    char error[64];
};

static inline size_t resp_pending(const redisReader *r)
{
    return r->len - r->pos;
}

/* A length or count as we would write it: 1 to 9 digits, no leading zero, CRLF. Returns its bytes with the CRLF; 0:
 * it is written otherwise, or not complete. */
static inline size_t resp_plain_number(const char *s, size_t n, size_t *value)
{
    size_t at = 0, v = 0;

    while (at < n && at < 9 && s[at] >= '0' && s[at] <= '9')
        v = v * 10 + (size_t)(s[at++] - '0');
    if (at == 0 || (s[0] == '0' && at > 1) || at + 2 > n || s[at] != '\r' || s[at + 1] != '\n')
        return 0;
    *value = v;
    return at + 2;
}

/* A whole "$n CRLF bytes CRLF" at s, n plain; 0: not that. *at: where its bytes begin, *len: how many. */
static inline size_t resp_plain_bulk(const char *s, size_t n, size_t *at, size_t *len)
{
    size_t header;

    if (n < 1 || s[0] != '$' || (header = resp_plain_number(s + 1, n - 1, len)) == 0)
        return 0;
    *at = header + 1;
    if (n - *at < *len + 2 || s[*at + *len] != '\r' || s[*at + *len + 1] != '\n')
        return 0;
    return *at + *len + 2;
}

struct resp_parser *resp_parser_take(struct resp_pool *pool);
void resp_parser_spare(struct resp_pool *pool, struct resp_parser *p); /* back to the pool, whatever state it is in */
void resp_parser_clear(struct resp_parser *p); /* nothing is borrowed any more: no arguments, no large buffers */
void resp_reader_clear(struct resp_parser *p); /* the reader is empty, or gone; not inside a command */

#endif

/* Shared by resp.c (parses requests) and resp_pool.c (keeps the parsers). */
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

struct resp_parser *resp_parser_take(struct resp_pool *pool);
void resp_parser_spare(struct resp_pool *pool, struct resp_parser *p); /* back to the pool, whatever state it is in */
void resp_parser_clear(struct resp_parser *p); /* nothing is borrowed any more: no arguments, no large buffers */
void resp_reader_clear(struct resp_parser *p); /* the reader is empty, or gone; not inside a command */

#endif

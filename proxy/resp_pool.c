/* Parsers, kept for the next connection that needs one: a connection holds a parser only while a command is
 * incomplete.
 *
 * A parser that is given back with a command still lent out (RESP_COMMAND, and nothing behind it) stays as it is
 * until the pool is asked again. */
#include <hiredis/sds.h>
#include <stdlib.h>

#include "log/base/diag.h"
#include "proxy/resp_internal.h"

enum {
    KEEP_BYTES_MAX = 64 * 1024, /* a longer buffer is released, not kept for the next command */
    POOL_PARSERS_MAX = 64
};

struct resp_pool *resp_pool_new(const struct resp_limits *limits)
{
    struct resp_pool *pool = must_calloc(1, sizeof *pool);

    pool->limits = limits;
    return pool;
}

static void parser_free(struct resp_parser *p)
{
    redisReaderFree(p->reader);
    buf_free(&p->canon);
    buf_free(&p->line);
    free(p->arg);
    free(p);
}

void resp_pool_free(struct resp_pool *pool)
{
    if (pool == NULL)
        return;
    resp_pool_trim(pool);
    while (pool->spare != NULL) {
        struct resp_parser *p = pool->spare;

        pool->spare = p->next;
        parser_free(p);
    }
    free(pool);
}

/* Between commands only, and when nothing is borrowed from p any more. */
void resp_parser_clear(struct resp_parser *p)
{
    if (p->canon.cap > KEEP_BYTES_MAX)
        buf_free(&p->canon);
    if (p->line.cap > KEEP_BYTES_MAX)
        buf_free(&p->line);
    if (p->cap > KEEP_BYTES_MAX / sizeof *p->arg) {
        free(p->arg);
        p->arg = NULL;
        p->cap = 0;
    }
    p->count = 0;
}

void resp_reader_clear(struct resp_parser *p)
{
    redisReader *r = p->reader;

    if (r == NULL)
        return;
    CHECK(p->state != MULTIBULK);
    if (r->err != 0 || sdsalloc(r->buf) > KEEP_BYTES_MAX) {
        redisReaderFree(r);
        p->reader = NULL;
    } else {
        sdsclear(r->buf);
        r->pos = r->len = 0;
        r->ridx = -1;
        r->reply = NULL;
    }
    p->ahead = 0;
}

void resp_parser_spare(struct resp_pool *pool, struct resp_parser *p)
{
    p->state = BETWEEN;
    p->refused = NULL;
    resp_reader_clear(p);
    buf_clear(&p->line);
    resp_parser_clear(p);
    if (pool->spares == POOL_PARSERS_MAX) {
        parser_free(p);
        return;
    }
    p->next = pool->spare;
    pool->spare = p;
    pool->spares++;
}

void resp_pool_trim(struct resp_pool *pool)
{
    if (pool->lent != NULL)
        resp_parser_spare(pool, pool->lent);
    pool->lent = NULL;
}

struct resp_parser *resp_parser_take(struct resp_pool *pool)
{
    struct resp_parser *p = pool->spare;

    if (p == NULL) {
        p = must_calloc(1, sizeof *p);
        p->limits = pool->limits;
        return p;
    }
    pool->spare = p->next;
    pool->spares--;
    return p;
}

void resp_parser_drop(struct resp_pool *pool, struct resp_parser *parser)
{
    if (parser == NULL)
        return;
    resp_parser_spare(pool, parser);
}

size_t resp_parser_bytes(const struct resp_parser *p)
{
    if (p == NULL)
        return 0;
    return sizeof *p + p->canon.cap + p->line.cap + p->cap * sizeof *p->arg +
           (p->reader != NULL && p->reader->buf != NULL ? sizeof *p->reader + sdsalloc(p->reader->buf) : 0);
}

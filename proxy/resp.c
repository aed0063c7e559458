/* Requests: hiredis' reader frames multibulk commands for us, lines (inline commands) we frame ourselves.
 *
 *     *2 $3 GET $1 a  *1 $4 PI            one read of a client
 *     └── command 1 ┘ └ begun ──▶ the rest of it comes later
 *
 * Each argument is copied once, in the callback that hiredis makes for it, to where it stands in the canonical
 * command. So what is handed out never depends on how a client's bytes were spelt or cut. A command that is there as
 * a whole and is spelt canonically to the last byte needs no reader: it is copied as it is (most are; it takes a
 * third of the time).
 *
 * The reader is fed ahead, a slice at a time: after a command, `ahead` bytes of what the caller will pass again (he
 * was told that they were not used) are already inside. They are a copy only: at a command's boundary they can be
 * dropped at any time.
 *
 * States, and what may be trusted in each:
 *     BETWEEN    the next byte begins a command; the reader holds `ahead` bytes and no begun command
 *     MULTIBULK  the reader is inside a command; canon and arg hold the complete arguments
 *     INLINE     line holds a line's beginning; the reader is empty
 *
 * hiredis has no limits of its own on bytes: after each slice (at most 16 KiB) we look at what it is waiting for. */
#include <hiredis/sds.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "proxy/resp_internal.h"

enum {
    SLICE_BYTES = 4096,      /* the reader moves its rest for each KiB that it has consumed: small is fast */
    SLICE_BYTES_MAX = 16384, /* inside a long argument nothing is moved */
    STRICT_ARGS_MAX = 10,
    STRICT_BULK_BYTES_MAX = 16384,
    HEADER_BYTES_MAX = 24, /* of a valid one: $, 19 digits, CRLF */
    ARGS_MIN = 16
};

/* ---- what hiredis calls; any non-NULL result means "go on" ---- */

static void *refuse(struct resp_parser *p, const char *why)
{
    p->refused = why;
    return NULL;
}

static bool note_arg(struct resp_parser *p, const char *bytes, size_t n)
{
    if (p->count == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : ARGS_MIN;
        struct arg *more = realloc(p->arg, cap * sizeof *more);

        if (more == NULL)
            return false;
        p->arg = more;
        p->cap = cap;
    }
    argv_bulk(&p->canon, bytes, n);
    p->arg[p->count++] = (struct arg){p->canon.len - n - 2, n};
    return !p->canon.failed;
}

static void *on_string(const redisReadTask *task, char *bytes, size_t n)
{
    struct resp_parser *p = task->privdata;

    if (task->type != REDIS_REPLY_STRING)
        return NULL;
    if (n > p->limits->bulk_bytes_max)
        return refuse(p, "ERR Protocol error: invalid bulk length");
    if (p->strict && n > STRICT_BULK_BYTES_MAX)
        return refuse(p, "ERR Protocol error: unauthenticated bulk length");
    if (bytes[n] != '\r' || bytes[n + 1] != '\n') /* hiredis has seen that they are there, not what they are */
        return refuse(p, "ERR Protocol error: invalid CRLF in request");
    if (!note_arg(p, bytes, n))
        return refuse(p, "ERR out of memory");
    return p;
}

static void *on_array(const redisReadTask *task, size_t count)
{
    struct resp_parser *p = task->privdata;

    if (task->parent != NULL)
        return NULL; /* arguments are bulk strings: depth 1 only */
    p->header_seen = true;
    if (p->strict && count > STRICT_ARGS_MAX)
        return refuse(p, "ERR Protocol error: unauthenticated multibulk length");
    argv_header(&p->canon, count);
    return p;
}

static void *on_nil(const redisReadTask *task)
{
    return task->parent == NULL ? task->privdata : NULL; /* *-1 is an empty request, $-1 an error */
}

static void *on_integer(const redisReadTask *task, long long v)
{
    (void)task;
    (void)v;
    return NULL;
}

static void *on_double(const redisReadTask *task, double v, char *bytes, size_t n)
{
    (void)task;
    (void)v;
    (void)bytes;
    (void)n;
    return NULL;
}

static void *on_bool(const redisReadTask *task, int v)
{
    (void)task;
    (void)v;
    return NULL;
}

/* hiredis takes a pointer to non-const, and only reads it. */
static redisReplyObjectFunctions *callbacks(void)
{
    static const redisReplyObjectFunctions functions = {on_string, on_array, on_integer, on_double,
                                                        on_nil,    on_bool,  NULL};

    return (redisReplyObjectFunctions *)(uintptr_t)&functions;
}

/* ---- multibulk commands ---- */

static const char *expected_bulk(struct resp_pool *pool, char got)
{
    if (got == '\r' || got == '\n')
        got = ' '; /* as Valkey does with every error text */
    (void)snprintf(pool->error, sizeof pool->error, "ERR Protocol error: expected '$', got '%c'", got);
    return pool->error;
}

/* The byte of a type that hiredis knows; for one it does not know, the byte is in its error text, quoted as
 * sdssplitargs reads. */
static char type_byte(const redisReader *r)
{
    static const char bytes[] = {
        [REDIS_REPLY_STRING] = '$', [REDIS_REPLY_ARRAY] = '*', [REDIS_REPLY_INTEGER] = ':', [REDIS_REPLY_NIL] = '_',
        [REDIS_REPLY_STATUS] = '+', [REDIS_REPLY_ERROR] = '-', [REDIS_REPLY_DOUBLE] = ',',  [REDIS_REPLY_BOOL] = '#',
        [REDIS_REPLY_MAP] = '%',    [REDIS_REPLY_SET] = '~',   [REDIS_REPLY_ATTR] = '|',    [REDIS_REPLY_PUSH] = '>',
        [REDIS_REPLY_BIGNUM] = '(', [REDIS_REPLY_VERB] = '=',
    };
    static const char got_text[] = "got ";
    int type = r->task[1]->type, count = 0;
    const char *quoted;
    sds *words;
    char byte = '?';

    if (type > 0 && (size_t)type < sizeof bytes)
        return bytes[type];
    quoted = strstr(r->errstr, got_text);
    if (quoted == NULL)
        return byte;
    words = sdssplitargs(quoted + sizeof got_text - 1, &count);
    if (words != NULL && count > 0)
        byte = words[0][0];
    sdsfreesplitres(words, count);
    return byte;
}

/* After an error of the reader: what Valkey would have said. */
static const char *reader_error(struct resp_pool *pool, struct resp_parser *p)
{
    if (p->refused != NULL)
        return p->refused;
    if (!p->header_seen)
        return "ERR Protocol error: invalid multibulk length";
    if (p->reader->task[1]->type == REDIS_REPLY_STRING)
        return "ERR Protocol error: invalid bulk length";
    return expected_bulk(pool, type_byte(p->reader));
}

/* A bulk's header, complete at the front of what the reader has pending. */
static bool bulk_header(const redisReader *r, size_t *length)
{
    size_t at = 0, n = resp_pending(r) < HEADER_BYTES_MAX ? resp_pending(r) : HEADER_BYTES_MAX;
    const char *s = r->buf + r->pos;

    *length = 0;
    for (; at < n && s[at] >= '0' && s[at] <= '9'; at++)
        *length = *length * 10 + (size_t)(s[at] - '0');
    return at + 2 <= n && s[at] == '\r' && s[at + 1] == '\n';
}

/* What the reader waits for must be what Valkey would wait for. NULL: it is. */
static const char *incomplete_error(struct resp_pool *pool, struct resp_parser *p)
{
    const struct resp_limits *limits = p->limits;
    const redisReader *r = p->reader;
    bool in_bulk;
    size_t length;

    if (p->canon.len + resp_pending(r) > limits->query_bytes_max)
        return "ERR Protocol error: too big request";
    if (!p->header_seen)
        return resp_pending(r) > limits->line_bytes_max ? "ERR Protocol error: too big mbulk count string" : NULL;
    in_bulk = r->ridx == 1 && r->task[1]->type == REDIS_REPLY_STRING;
    if (!in_bulk)
        return r->task[1]->type > 0 ? expected_bulk(pool, type_byte(r)) : NULL;
    if (!bulk_header(r, &length)) /* the reader has seen no CRLF yet, or it would have complained */
        return resp_pending(r) > limits->line_bytes_max ? "ERR Protocol error: too big bulk count string" : NULL;
    if (length > limits->bulk_bytes_max)
        return "ERR Protocol error: invalid bulk length";
    if (p->strict && length > STRICT_BULK_BYTES_MAX)
        return "ERR Protocol error: unauthenticated bulk length";
    return NULL;
}

static bool multibulk_begin(struct resp_parser *p, size_t n)
{
    if (p->ahead > n)
        resp_reader_clear(p); /* the caller passes less than before */
    if (p->reader == NULL) {
        p->reader = redisReaderCreateWithFunctions(callbacks());
        if (p->reader == NULL)
            return false;
        p->reader->privdata = p;
        p->ahead = 0;
    }
    p->reader->maxelements = (long long)p->limits->args_max;
    p->state = MULTIBULK;
    p->header_seen = false;
    return true;
}

static enum resp_result multibulk(struct resp_pool *pool, struct resp_parser *p, const char *bytes, size_t n,
                                  size_t *used, const char **error)
{
    redisReader *r = p->reader;
    size_t fed = p->ahead;

    p->ahead = 0;
    for (bool first = fed == 0;; first = true) {
        void *token = NULL;

        if (first) {
            size_t slice = resp_pending(r) >= SLICE_BYTES ? SLICE_BYTES_MAX : SLICE_BYTES;

            if (fed == n) {
                *used = n;
                return RESP_MORE;
            }
            slice = slice < n - fed ? slice : n - fed;
            if (redisReaderFeed(r, bytes + fed, slice) != REDIS_OK) {
                *error = "ERR out of memory";
                return RESP_ERROR;
            }
            fed += slice;
        }
        if (redisReaderGetReply(r, &token) != REDIS_OK) {
            *error = reader_error(pool, p);
            return RESP_ERROR;
        }
        if (token != NULL) {
            p->ahead = resp_pending(r);
            *used = fed - p->ahead;
            return RESP_COMMAND;
        }
        *error = incomplete_error(pool, p);
        if (*error != NULL)
            return RESP_ERROR;
    }
}

/* ---- multibulk commands that are whole and written as we would write them ---- */

/* Its arguments' places into p->arg; returns its bytes, 0 if it is anything else. Nothing is refused here: what does
 * not fit in every respect is left to the reader, with its limits and its words. */
static size_t plain_command(struct resp_parser *p, const char *s, size_t n)
{
    size_t max = n < p->limits->query_bytes_max ? n : p->limits->query_bytes_max, at, count, place, len, end;

    if (p->strict || max < 1 || (at = resp_plain_number(s + 1, max - 1, &count)) == 0 || count == 0 ||
        count > p->cap || count > p->limits->args_max)
        return 0;
    at++;
    for (size_t i = 0; i < count; i++) {
        end = resp_plain_bulk(s + at, max - at, &place, &len);
        if (end == 0 || len > p->limits->bulk_bytes_max)
            return 0;
        p->arg[i] = (struct arg){at + place, len};
        at += end;
    }
    p->count = count;
    return at;
}

/* It is its own canonical form. Between commands only. */
static bool take_plain(struct resp_parser *p, const char *bytes, size_t n, size_t *used)
{
    size_t end = plain_command(p, bytes, n);

    if (end == 0)
        return false;
    if (p->ahead > 0)
        resp_reader_clear(p);
    buf_append(&p->canon, bytes, end);
    *used = end;
    return true;
}

/* ---- inline commands ---- */

static bool line_split(struct resp_parser *p)
{
    int count = 0;
    sds *words = sdssplitargs(buf_head(&p->line), &count);
    bool ok = words != NULL;

    if (!ok)
        return false;
    if (count > 0)
        argv_header(&p->canon, (size_t)count);
    for (int i = 0; ok && i < count; i++)
        ok = note_arg(p, words[i], sdslen(words[i]));
    sdsfreesplitres(words, count);
    return ok;
}

static enum resp_result inline_line(struct resp_parser *p, const char *bytes, size_t n, size_t *used,
                                    const char **error)
{
    const char *newline = memchr(bytes, '\n', n);
    size_t take_n = newline != NULL ? (size_t)(newline - bytes) + 1 : n, line_n;
    char *line;

    *used = take_n;
    *error = "ERR Protocol error: too big inline request";
    if (take_n > p->limits->line_bytes_max || p->line.len + take_n > p->limits->line_bytes_max)
        return RESP_ERROR;
    buf_append(&p->line, bytes, take_n);
    if (newline == NULL && !p->line.failed)
        return RESP_MORE;
    buf_u8(&p->line, 0);
    if (p->line.failed)
        return RESP_ERROR;
    line = buf_head(&p->line);
    line_n = p->line.len - 2;
    if (line_n > 0 && line[line_n - 1] == '\r')
        line_n--;
    line[line_n] = 0;
    if (strlen(line) != line_n) /* Valkey never looks behind a NUL: it would wait until the line is too big */
        return RESP_ERROR;
    *error = "ERR Protocol error: unbalanced quotes in request";
    return line_split(p) ? RESP_COMMAND : RESP_ERROR;
}

/* ---- the door ---- */

/* A new command begins. Nothing is borrowed any more. */
static void clear(struct resp_parser *p)
{
    resp_parser_clear(p);
    buf_clear(&p->canon);
    buf_clear(&p->line);
}

static bool begin(struct resp_parser *p, const char *bytes, size_t n)
{
    if (bytes[0] == '*')
        return multibulk_begin(p, n);
    resp_reader_clear(p);
    p->state = INLINE;
    return true;
}

static void end(struct resp_pool *pool, struct resp_parser **parser, bool borrowed)
{
    struct resp_parser *p = *parser;

    *parser = NULL;
    if (borrowed)
        pool->lent = p;
    else
        resp_parser_spare(pool, p);
}

enum resp_result resp_parse(struct resp_pool *pool, struct resp_parser **parser, const char *bytes, size_t n,
                            size_t *used, bool strict, struct argv *out, const char **error)
{
    enum resp_result result = RESP_MORE;
    struct resp_parser *p;
    size_t at = 0;

    resp_pool_trim(pool);
    *used = 0;
    if (*parser == NULL)
        *parser = resp_parser_take(pool);
    p = *parser;
    p->strict = strict;
    while (at < n && result == RESP_MORE) {
        size_t step = 0;

        *error = "ERR out of memory";
        if (p->state == BETWEEN)
            clear(p);
        if (p->state == BETWEEN && bytes[at] == '*' && take_plain(p, bytes + at, n - at, &step))
            result = RESP_COMMAND;
        else if (p->state == BETWEEN && !begin(p, bytes + at, n - at))
            result = RESP_ERROR;
        else if (p->state == MULTIBULK)
            result = multibulk(pool, p, bytes + at, n - at, &step, error);
        else
            result = inline_line(p, bytes + at, n - at, &step, error);
        at += step;
        if (result == RESP_COMMAND) {
            p->state = BETWEEN;
            if (p->count == 0)
                result = RESP_MORE; /* Valkey answers nothing to an empty request */
            else if (p->canon.len > p->limits->query_bytes_max || p->canon.failed) {
                *error = "ERR Protocol error: too big request";
                result = RESP_ERROR;
            }
        }
    }
    *used = at;
    if (result == RESP_COMMAND)
        *out = (struct argv){buf_head(&p->canon), p->canon.len, p->arg, p->count};
    if (result == RESP_ERROR) {
        p->state = BETWEEN;
        end(pool, parser, false);
    } else if (p->state == BETWEEN && at == n) {
        end(pool, parser, result == RESP_COMMAND);
    }
    return result;
}

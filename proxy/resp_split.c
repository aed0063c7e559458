/* Delimits replies: hiredis' reader without callbacks says where each ends, the bytes themselves are lent on as they
 * came. Most replies are one bulk string, status or integer, and whole: those are told at a glance, which takes a
 * quarter of the reader's time (a fifth of all that a pipelined GET takes); the reader gets what is left.
 *
 *     bytes of one call   |....end of r1|r2........|r3....|r4 ...
 *     partial  |r1 ...        └ joined      └ lent    └ lent   └ copied to partial
 *
 * The reader is fed the same bytes, in slices: it moves the rest of its buffer forward for each KiB that it has
 * consumed. After a reply, end = fed - (reader's bytes not consumed).
 *
 * Valkey puts the text of a Lua error into an error line as it is, line feeds included: EVAL "error('a\nb')". hiredis
 * refuses such a line. A client must not be able to cut a lane that others share, so a reply that hiredis refuses is
 * delimited again, by its headers alone; the reader starts afresh behind it. */
#include <hiredis/sds.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "proxy/resp_internal.h"

enum {
    PLAIN_LINE_BYTES_MAX = 64,        /* a status that is longer is the reader's, as is ... */
    PLAIN_DIGITS_MAX = 18,            /* ... an integer of more digits */
    SLICE_BYTES = 4096,               /* between replies */
    SLICE_BYTES_MAX = 16384,          /* inside a long one */
    KEEP_BYTES_MAX = 64 * 1024,       /* a longer buffer is released after its reply */
    DEPTH_MAX = 8192,                 /* nesting; Lua's stack ends that of a script's reply at about 4000 */
    LINE_BYTES_MAX = 64 * 1024 * 1024 /* a reply line: a script may put anything into an error */
};

struct resp_splitter {
    redisReader *reader;
    struct buf partial; /* what came of a reply that is not complete */
    bool in_line; /* the reader waits for a CRLF, and none of its bytes is a LF: no need to ask it before one comes */
    bool refused; /* the reader has refused the reply in partial, which is not complete */
};

static void reader_afresh(struct resp_splitter *s)
{
    redisReaderFree(s->reader);
    s->reader = redisReaderCreateWithFunctions(NULL);
    CHECK(s->reader != NULL);
    s->in_line = false;
}

struct resp_splitter *resp_splitter_new(void)
{
    struct resp_splitter *s = must_calloc(1, sizeof *s);

    reader_afresh(s);
    return s;
}

void resp_splitter_free(struct resp_splitter *s)
{
    if (s == NULL)
        return;
    redisReaderFree(s->reader);
    buf_free(&s->partial);
    free(s);
}

/* One reply is complete: bytes[start..end), behind what is in partial. */
static bool give(struct resp_splitter *s, const char *bytes, size_t start, size_t end,
                 bool (*each)(void *arg, const char *reply, size_t n), void *arg, bool *go_on)
{
    const char *reply = bytes + start;
    size_t n = end - start;

    if (s->partial.len > 0) {
        buf_append(&s->partial, reply, n);
        if (s->partial.failed)
            return false;
        reply = buf_head(&s->partial);
        n = s->partial.len;
    }
    if (n < 3 || memcmp(reply + n - 2, "\r\n", 2) != 0)
        return false; /* hiredis skips the two bytes after a bulk unseen */
    *go_on = each(arg, reply, n);
    if (s->partial.cap > KEEP_BYTES_MAX)
        buf_free(&s->partial);
    else
        buf_clear(&s->partial);
    return true;
}

/* ---- replies that hiredis refuses ---- */

enum headers { HEADERS_WRONG, HEADERS_MORE, HEADERS_WHOLE };

/* How many elements follow a header (0 for a plain line), and how many bytes. */
static bool header_follows(const char *line, uint64_t *elements, uint64_t *bytes)
{
    long long n;

    if (line[0] == '\0' || strchr("*~>%$=!+-:_#,(", line[0]) == NULL)
        return false;
    n = strchr("*~>%$=!", line[0]) != NULL ? strtoll(line + 1, NULL, 10) : 0;
    if (n < -1 || n > INT64_MAX / 4)
        return false;
    *elements = *bytes = 0;
    if (n < 0)
        return true;
    if (strchr("$=!", line[0]) != NULL)
        *bytes = (uint64_t)n + 2;
    else
        *elements = (uint64_t)n * (line[0] == '%' ? 2 : 1);
    return true;
}

/* The end of the reply at the start of bytes; lines end at their first CRLF, whatever else is in them. */
static enum headers delimit(const char *bytes, size_t n, size_t *end)
{
    uint64_t left = 1, elements, skip;
    size_t at = 0;

    while (left > 0) {
        const char *crlf = memmem(bytes + at, n - at, "\r\n", 2);

        if (crlf == NULL)
            return HEADERS_MORE;
        if (!header_follows(bytes + at, &elements, &skip))
            return HEADERS_WRONG;
        at = (size_t)(crlf - bytes) + 2;
        if (skip > n - at)
            return HEADERS_MORE;
        at += skip;
        if (elements > UINT64_MAX / 2 - left)
            return HEADERS_WRONG;
        left += elements - 1;
    }
    *end = at;
    return HEADERS_WHOLE;
}

/* The refused reply is what partial holds and bytes[start..n) go on with. *next: where the one behind it begins, n if
 * it is not complete. */
static bool give_refused(struct resp_splitter *s, const char *bytes, size_t start, size_t n, size_t *next,
                         bool (*each)(void *arg, const char *reply, size_t n), void *arg, bool *go_on)
{
    size_t before = s->partial.len, end = 0;
    enum headers found;

    buf_append(&s->partial, bytes + start, n - start);
    if (s->partial.failed)
        return false;
    found = delimit(buf_head(&s->partial), s->partial.len, &end);
    s->refused = found == HEADERS_MORE;
    *next = n;
    if (found != HEADERS_WHOLE)
        return found == HEADERS_MORE;
    CHECK(end > before);
    *next = start + (end - before);
    s->partial.len = before; /* give() appends what belongs to it */
    reader_afresh(s);
    return give(s, bytes, start, *next, each, arg, go_on);
}

/* Whether the reader's objection is the one that we know better. */
static bool is_refused_line(const redisReader *r)
{
    return r->err == REDIS_ERR_PROTOCOL && strcmp(r->errstr, "Bad simple string value") == 0;
}

/* ---- replies that need no reader ---- */

/* "+OK", ":12", "$-1": printable text between the first byte and the first CRLF. */
static size_t plain_line(const char *s, size_t n)
{
    size_t at = 1, max = s[0] == ':' ? 1 + PLAIN_DIGITS_MAX : PLAIN_LINE_BYTES_MAX;

    while (at < n && at < max && (s[0] == ':' ? s[at] >= '0' && s[at] <= '9' : s[at] >= ' '))
        at++;
    return at > 1 && at + 2 <= n && s[at] == '\r' && s[at + 1] == '\n' ? at + 2 : 0;
}

/* The length of the reply at s, if it is whole and of a plain kind; 0: ask the reader. */
static size_t plain_reply(const char *s, size_t n)
{
    static const char nil[] = "$-1\r\n";
    size_t at, len, end;

    switch (s[0]) {
    case '$':
        end = resp_plain_bulk(s, n, &at, &len);
        return end == 0 && n >= sizeof nil - 1 && memcmp(s, nil, sizeof nil - 1) == 0 ? sizeof nil - 1 : end;
    case '_':
        return n >= 3 && s[1] == '\r' && s[2] == '\n' ? 3 : 0;
    case '+':
    case ':':
        return plain_line(s, n);
    default:
        return 0;
    }
}

/* The reader is at the end of a reply; what it was fed beyond that is ours to feed again. */
static void take_plain(struct resp_splitter *s, const char *bytes, size_t n, size_t *start, size_t *fed,
                       bool (*each)(void *arg, const char *reply, size_t n), void *arg, bool *go_on)
{
    size_t from = *start, end;

    while (*go_on && *start < n && (end = plain_reply(bytes + *start, n - *start)) > 0) {
        *go_on = each(arg, bytes + *start, end);
        *start += end;
    }
    if (*start == from)
        return;
    if (resp_pending(s->reader) > 0) {
        sdsclear(s->reader->buf);
        s->reader->pos = s->reader->len = 0;
    }
    *fed = *start;
}

/* ---- all of them ---- */

/* After a call that gave nothing: what the reader waits for must stay within limits. */
static bool incomplete_is_sane(struct resp_splitter *s)
{
    const redisReader *r = s->reader;

    s->in_line = resp_pending(r) >= SLICE_BYTES && memchr(r->buf + r->pos, '\n', resp_pending(r)) == NULL;
    return r->ridx < DEPTH_MAX && !(s->in_line && resp_pending(r) > LINE_BYTES_MAX);
}

/* Takes what the reader has been fed of bytes[..*fed); may move *fed back, behind a reply that it refused. */
static bool take_replies(struct resp_splitter *s, const char *bytes, size_t n, size_t *start, size_t *fed,
                         bool (*each)(void *arg, const char *reply, size_t n), void *arg, bool *go_on)
{
    while (*go_on) {
        void *token = NULL;
        size_t end;

        if (redisReaderGetReply(s->reader, &token) != REDIS_OK) {
            if (!is_refused_line(s->reader) || !give_refused(s, bytes, *start, n, fed, each, arg, go_on))
                return false;
            *start = *fed;
            return true;
        }
        if (token == NULL)
            return incomplete_is_sane(s);
        end = *fed - resp_pending(s->reader);
        if (!give(s, bytes, *start, end, each, arg, go_on))
            return false;
        *start = end;
        take_plain(s, bytes, n, start, fed, each, arg, go_on);
    }
    return true;
}

bool resp_split(struct resp_splitter *s, const char *bytes, size_t n,
                bool (*each)(void *arg, const char *reply, size_t n), void *arg)
{
    size_t fed = 0, start = 0;
    bool go_on = true;

    if (s->refused) {
        if (!give_refused(s, bytes, 0, n, &fed, each, arg, &go_on))
            return false;
        start = fed;
    }
    if (go_on && s->partial.len == 0 && !s->refused)
        take_plain(s, bytes, n, &start, &fed, each, arg, &go_on);
    while (go_on && fed < n) {
        size_t slice = resp_pending(s->reader) >= SLICE_BYTES ? SLICE_BYTES_MAX : SLICE_BYTES;

        if (slice > n - fed)
            slice = n - fed;
        if (redisReaderFeed(s->reader, bytes + fed, slice) != REDIS_OK)
            return false;
        fed += slice;
        if (s->in_line && memchr(bytes + fed - slice, '\n', slice) == NULL) {
            if (resp_pending(s->reader) > LINE_BYTES_MAX)
                return false;
            continue;
        }
        if (!take_replies(s, bytes, n, &start, &fed, each, arg, &go_on))
            return false;
    }
    if (!go_on)
        return true;
    buf_append(&s->partial, bytes + start, n - start);
    return !s->partial.failed;
}

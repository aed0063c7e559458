/* Delimits replies: hiredis' reader without callbacks says where each ends, the bytes themselves are lent on as they
 * came.
 *
 *     bytes of one call   |....end of r1|r2........|r3....|r4 ...
 *     partial  |r1 ...        └ joined      └ lent    └ lent   └ copied to partial
 *
 * The reader is fed the same bytes, in slices: it moves the rest of its buffer forward for each KiB that it has
 * consumed. After a reply, end = fed - (reader's bytes not consumed). */
#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <hiredis/sds.h>
#include <string.h>

#include "log/base/diag.h"
#include "proxy/resp.h"

#if HIREDIS_MAJOR < 1
#error "hiredis 1.0 or later is needed: make deps"
#endif

enum {
    SLICE_BYTES = 4096,               /* between replies */
    SLICE_BYTES_MAX = 16384,          /* inside a long one */
    KEEP_BYTES_MAX = 64 * 1024,       /* a longer buffer is released after its reply */
    DEPTH_MAX = 128,                  /* nesting; Valkey's own replies stay below 10 */
    LINE_BYTES_MAX = 64 * 1024 * 1024 /* a reply line: a script may put anything into an error */
};

struct resp_splitter {
    redisReader *reader;
    struct buf partial; /* what came of a reply that is not complete */
    bool in_line; /* the reader waits for a CRLF, and none of its bytes is a LF: no need to ask it before one comes */
};

struct resp_splitter *resp_splitter_new(void)
{
    struct resp_splitter *s = must_calloc(1, sizeof *s);

    s->reader = redisReaderCreateWithFunctions(NULL);
    CHECK(s->reader != NULL);
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

static size_t pending(const redisReader *r)
{
    return r->len - r->pos;
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

/* After a call that gave nothing: what the reader waits for must stay within limits. */
static bool incomplete_is_sane(struct resp_splitter *s)
{
    const redisReader *r = s->reader;

    s->in_line = pending(r) >= SLICE_BYTES && memchr(r->buf + r->pos, '\n', pending(r)) == NULL;
    return r->ridx < DEPTH_MAX && !(s->in_line && pending(r) > LINE_BYTES_MAX);
}

bool resp_split(struct resp_splitter *s, const char *bytes, size_t n,
                bool (*each)(void *arg, const char *reply, size_t n), void *arg)
{
    redisReader *r = s->reader;
    size_t fed = 0, start = 0;
    bool go_on = true;

    while (fed < n) {
        size_t slice = pending(r) >= SLICE_BYTES ? SLICE_BYTES_MAX : SLICE_BYTES;

        if (slice > n - fed)
            slice = n - fed;
        if (redisReaderFeed(r, bytes + fed, slice) != REDIS_OK)
            return false;
        fed += slice;
        if (s->in_line && memchr(bytes + fed - slice, '\n', slice) == NULL) {
            if (pending(r) > LINE_BYTES_MAX)
                return false;
            continue;
        }
        for (;;) {
            void *token = NULL;
            size_t end;

            if (redisReaderGetReply(r, &token) != REDIS_OK)
                return false;
            if (token == NULL)
                break;
            end = fed - pending(r);
            if (!give(s, bytes, start, end, each, arg, &go_on))
                return false;
            if (!go_on)
                return true;
            start = end;
        }
        if (!incomplete_is_sane(s))
            return false;
    }
    buf_append(&s->partial, bytes + start, n - start);
    return !s->partial.failed;
}

/* The request parser and the reply splitter on any bytes: how they are cut must not matter, and canonical bytes must
 * mean the same again.
 *
 * The input's first byte seeds the cuts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/resp.h"

static const struct resp_limits limits = {4096, 16384, 64, 512};

struct cuts {
    uint32_t random; /* 0: no cuts */
};

static size_t next_cut(struct cuts *c, size_t left)
{
    size_t n;

    if (c->random == 0)
        return left;
    c->random = c->random * 1664525u + 1013904223u;
    n = 1 + (c->random >> 24) % ((c->random >> 8) % 3 == 0 ? 200 : 6);
    return n < left ? n : left;
}

static bool same_arguments(const struct argv *a, const struct argv *b)
{
    bool same = a->count == b->count;

    for (size_t i = 0; same && i < a->count; i++)
        same = argv_len(a, i) == argv_len(b, i) && memcmp(argv_at(a, i), argv_at(b, i), argv_len(a, i)) == 0;
    return same;
}

/* The canonical form of a command is one command with the same arguments, and its own canonical form. */
static void check_canonical(const struct argv *a)
{
    static const struct resp_limits wide = {1u << 20, 1u << 20, 1u << 20, 1u << 20};
    struct resp_pool *pool = resp_pool_new(&wide);
    struct resp_parser *parser = NULL;
    struct argv again;
    const char *error;
    size_t used;

    CHECK(a->count > 0);
    CHECK(resp_parse(pool, &parser, a->bytes, a->n, &used, false, &again, &error) == RESP_COMMAND);
    CHECK(used == a->n);
    CHECK(parser == NULL);
    CHECK(again.n == a->n && memcmp(again.bytes, a->bytes, a->n) == 0);
    CHECK(same_arguments(a, &again));
    resp_pool_free(pool);
}

/* All commands' canonical bytes, then a mark of the error, if any. */
static void parse(const char *bytes, size_t n, struct cuts cuts, bool strict, struct buf *out)
{
    struct resp_pool *pool = resp_pool_new(&limits);
    struct resp_parser *parser = NULL;
    enum resp_result result = RESP_MORE;
    size_t at = 0;

    while (at < n && result != RESP_ERROR) {
        size_t end = at + next_cut(&cuts, n - at);

        while (at < end && result != RESP_ERROR) {
            struct argv a;
            const char *error = NULL;
            size_t used = 0;

            result = resp_parse(pool, &parser, bytes + at, end - at, &used, strict, &a, &error);
            CHECK(used <= end - at);
            at += used;
            CHECK(result != RESP_MORE || at == end);
            if (result == RESP_COMMAND) {
                check_canonical(&a);
                buf_append(out, a.bytes, a.n);
            } else if (result == RESP_ERROR) {
                CHECK(error != NULL && parser == NULL);
                buf_text(
                    out,
                    "-"); /* which error may depend on the cuts: a header line can be both too long and no number */
            }
            CHECK(resp_parser_bytes(parser) < 256 * 1024);
        }
    }
    resp_parser_drop(pool, parser);
    resp_pool_free(pool);
}

static bool collect(void *arg, const char *reply, size_t n)
{
    buf_append(arg, reply, n);
    buf_u32(arg, (uint32_t)n);
    return true;
}

static bool split(const char *bytes, size_t n, struct cuts cuts, struct buf *out)
{
    struct resp_splitter *s = resp_splitter_new();
    bool ok = true;

    for (size_t at = 0, step; ok && at < n; at += step) {
        step = next_cut(&cuts, n - at);
        ok = resp_split(s, bytes + at, step, collect, out);
    }
    resp_splitter_free(s);
    return ok;
}

static void compare(const struct buf *a, const struct buf *b)
{
    CHECK(a->len == b->len);
    CHECK(a->len == 0 || memcmp(buf_head(a), buf_head(b), a->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    struct buf whole = {0}, cut = {0};
    struct cuts none = {0}, some;
    bool strict;

    if (size < 2)
        return 0;
    some.random = data[0] * 2654435761u | 1;
    strict = data[0] % 2 != 0;
    parse(bytes + 1, size - 1, none, strict, &whole);
    parse(bytes + 1, size - 1, some, strict, &cut);
    compare(&whole, &cut);
    buf_clear(&whole);
    buf_clear(&cut);
    if (split(bytes + 1, size - 1, none, &whole) && split(bytes + 1, size - 1, some, &cut))
        compare(&whole, &cut); /* else the limit on depth may have been passed inside of a slice */
    buf_free(&whole);
    buf_free(&cut);
    return 0;
}

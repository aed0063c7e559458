/* The pure protocol code for test scripts, over stdin and stdout.
 *
 *   canon_cli                    answers RESP requests:
 *       intent NOW_MS VERSION arg... the canonical RESP as a bulk string, or null if this form is to be captured
 * (with that version of Valkey, "8.1.3") with_id MS-SEQ arg...        XADD with `*`: [intent, what is sent], or null
 * if it cannot be given an id belongs N arg... arg...      :1 if the effect (after the N arguments of the intent)
 * belongs to it, else :0 canon_cli parse [strict]     reads all of stdin as one client's bytes: prints each command's
 * canonical RESP, then -error if one came */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/canon.h"
#include "proxy/resp.h"

enum { READ_BYTES = 65536 };

static void flush(struct buf *out)
{
    CHECK(fwrite(buf_head(out), 1, out->len, stdout) == out->len);
    CHECK(fflush(stdout) == 0);
    buf_clear(out);
}

/* The arguments from i on, as an argv of the same bytes. */
static struct argv rest(const struct argv *a, size_t i)
{
    CHECK(i <= a->count);
    return (struct argv){a->bytes, a->n, a->arg + i, a->count - i};
}

static uint16_t find(const struct argv *a)
{
    char name[128];
    uint16_t plain;

    if (a->count == 0)
        return 0;
    (void)snprintf(name, sizeof name, "%.*s", (int)argv_len(a, 0), argv_at(a, 0));
    for (char *s = name; *s; s++)
        *s = *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s;
    plain = canon_find(name);
    if (plain != 0 || a->count < 2)
        return plain;
    (void)snprintf(name + strlen(name), sizeof name - strlen(name), "|%.*s", (int)argv_len(a, 1), argv_at(a, 1));
    for (char *s = name; *s; s++)
        *s = *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s;
    return canon_find(name);
}

static void with_id(const struct argv *a, struct buf *out)
{
    struct argv command = rest(a, 2);
    struct buf intent = {0}, sent = {0};
    struct stream_id id;
    char *after;

    if (!canon_wants_id(find(&command), &command)) {
        resp_null(out, 2);
        return;
    }
    id.ms = strtoull(argv_at(a, 1), &after, 10);
    id.seq = strtoull(after + 1, NULL, 10);
    canon_with_id(&command, id, &intent, &sent);
    argv_header(out, 2);
    resp_bulk(out, buf_head(&intent), intent.len);
    resp_bulk(out, buf_head(&sent), sent.len);
    buf_free(&intent);
    buf_free(&sent);
}

static void answer(const struct argv *a, struct buf *out)
{
    int64_t n = 0;

    if (argv_is(a, 0, "intent") && argv_integer(a, 1, &n) && a->count > 3) {
        struct argv command = rest(a, 3);
        struct buf canonical = {0};
        uint16_t canon = canon_for(find(&command), canon_version(argv_at(a, 2)));
        enum canon_result result = canon_intent(canon, &command, (uint64_t)n, &canonical);

        if (result == CANON_SAME) {
            argv_header(&canonical, command.count);
            for (size_t i = 0; i < command.count; i++)
                argv_bulk(&canonical, argv_at(&command, i), argv_len(&command, i));
        }
        if (result == CANON_NO)
            resp_null(out, 2);
        else
            resp_bulk(out, buf_head(&canonical), canonical.len);
        buf_free(&canonical);
    } else if (argv_is(a, 0, "with_id") && a->count > 2) {
        with_id(a, out);
    } else if (argv_is(a, 0, "belongs") && argv_integer(a, 1, &n) && n >= 0 && (size_t)n + 2 <= a->count) {
        struct argv intent = rest(a, 2), effect = rest(a, 2 + (size_t)n);

        intent.count = (size_t)n;
        resp_integer(out, canon_effect_belongs(find(&intent), &intent, &effect));
    } else {
        resp_error(out, "ERR intent NOW_MS arg... or belongs N arg... arg...");
    }
}

int main(int argc, char **argv)
{
    static const struct resp_limits limits = {512u << 20, 1u << 30, 1024 * 1024, 64 * 1024};
    bool parse_only = argc > 1 && strcmp(argv[1], "parse") == 0, strict = argc > 2;
    struct resp_pool *pool = resp_pool_new(&limits);
    struct resp_parser *parser = NULL;
    struct buf out = {0};
    char *bytes = must_calloc(1, READ_BYTES);
    ssize_t n;
    bool open = true;

    while (open && (n = read(0, bytes, READ_BYTES)) > 0) {
        for (size_t at = 0; open && at < (size_t)n;) {
            struct argv a;
            const char *error;
            size_t used;
            enum resp_result result =
                resp_parse(pool, &parser, bytes + at, (size_t)n - at, &used, strict, &a, &error);

            at += used;
            if (result == RESP_ERROR) {
                resp_error(&out, error);
                open = false;
            }
            if (result == RESP_COMMAND && parse_only)
                buf_append(&out, a.bytes, a.n);
            else if (result == RESP_COMMAND)
                answer(&a, &out);
        }
        flush(&out);
    }
    resp_parser_drop(pool, parser);
    resp_pool_free(pool);
    buf_free(&out);
    free(bytes);
    return 0;
}

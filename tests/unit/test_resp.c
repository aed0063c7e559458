/* The request parser (framing, limits, errors, pooling), the reply splitter, the reply writers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/buf.h"
#include "proxy/resp.h"

static const struct resp_limits usual = {512u << 20, 1u << 30, 1024 * 1024, 64 * 1024};

/* Parses everything in pieces of `piece` bytes; appends canonical commands to out, then "-error\r\n" if there was
 * one. */
static void parse_all(const struct resp_limits *limits, const char *bytes, size_t n, size_t piece, bool strict,
                      struct buf *out)
{
    struct resp_pool *pool = resp_pool_new(limits);
    struct resp_parser *parser = NULL;
    enum resp_result result = RESP_MORE;
    size_t at = 0;

    while (at < n && result != RESP_ERROR) {
        size_t end = at + piece < n ? at + piece : n;

        while (at < end) {
            struct argv a = {0};
            const char *error = NULL;
            size_t used = 0;

            result = resp_parse(pool, &parser, bytes + at, end - at, &used, strict, &a, &error);
            assert_true(used <= end - at);
            at += used;
            if (result == RESP_COMMAND) {
                buf_append(out, a.bytes, a.n);
                assert_true(a.count > 0);
                for (size_t i = 0; i < a.count; i++)
                    assert_true(a.arg[i].at + a.arg[i].len + 2 <= a.n);
            }
            if (result == RESP_MORE)
                assert_int_equal(at, end);
            if (result == RESP_ERROR) {
                resp_error(out, error);
                assert_null(parser);
                break;
            }
        }
    }
    resp_parser_drop(pool, parser);
    resp_pool_free(pool);
}

static void expect_n(const struct resp_limits *limits, const char *in, size_t n, bool strict, const char *want)
{
    static const size_t pieces[] = {1, 2, 3, 7, 16, 1000, 5000, SIZE_MAX / 2};

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct buf out = {0};

        if (n > 5000 && pieces[i] < 16)
            continue;
        parse_all(limits, in, n, pieces[i], strict, &out);
        buf_u8(&out, 0);
        assert_string_equal(buf_head(&out), want);
        buf_free(&out);
    }
}

static void expect(const char *in, const char *want)
{
    expect_n(&usual, in, strlen(in), false, want);
}

#define GET_A     "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
#define PING      "*1\r\n$4\r\nPING\r\n"
#define BAD(text) "-ERR Protocol error: " text "\r\n"

static void multibulk_and_inline(void **state)
{
    (void)state;
    expect(GET_A, GET_A);
    expect(GET_A GET_A PING, GET_A GET_A PING);
    expect("PING\r\n" GET_A "PING\n" GET_A, PING GET_A PING GET_A);
    expect("get \"a b\" 'c\\'' \"\\x41\\n\"\r\n", "*4\r\n$3\r\nget\r\n$3\r\na b\r\n$2\r\nc'\r\n$2\r\nA\n\r\n");
    expect("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
    expect_n(&usual, "*1\r\n$3\r\na\0b\r\nPING\r\n", 19, false, "*1\r\n$3\r\na");
}

static void empty_requests(void **state)
{
    (void)state;
    expect("*0\r\n*-1\r\n\r\n\n   \r\n" GET_A "*0\r\n" PING, GET_A PING);
    expect("*0\r\n+OK\r\n", "*1\r\n$3\r\n+OK\r\n"); /* as a line, as Valkey does: never as a reply */
    expect("", "");
}

static void refused(void **state)
{
    (void)state;
    expect(GET_A "*x\r\n", GET_A BAD("invalid multibulk length"));
    expect("*3000000000\r\n", BAD("invalid multibulk length"));
    expect("*1048577\r\n", BAD("invalid multibulk length"));
    expect("*\r\n", BAD("invalid multibulk length"));
    expect("*+1\r\n", BAD("invalid multibulk length"));
    expect("*99999999999999999999999\r\n", BAD("invalid multibulk length"));
    expect("*1\r\n$-1\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$+3\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$03\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$ 3\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$2147483648\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$9223372036854775807\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$18446744073709551617\r\n", BAD("invalid bulk length"));
    expect("*1\r\n$536870913\r\n", BAD("invalid bulk length"));
    expect("*2\r\n$3\r\nGET\r\n:1\r\n", BAD("expected '$', got ':'"));
    expect("*2\r\n$3\r\nGET\r\n:x\r\n", BAD("expected '$', got ':'"));
    expect("*1\r\nPING\r\n", BAD("expected '$', got 'P'"));
    expect("*1\r\n\"\r\n", BAD("expected '$', got '\"'"));
    expect("*1\r\n*1\r\n$1\r\na\r\n", BAD("expected '$', got '*'"));
    expect("*1\r\n%1\r\n", BAD("expected '$', got '%'"));
    expect("*1\r\n_\r\n", BAD("expected '$', got '_'"));
    expect("*1\r\n#t\r\n", BAD("expected '$', got '#'"));
    expect("*1\r\n,1.5\r\n", BAD("expected '$', got ','"));
    expect("*1\r\n=5\r\ntxt:a\r\n", BAD("expected '$', got '='"));
    expect("*1\r\n\r\n", BAD("expected '$', got ' '"));
    expect(GET_A "*1\r\n\x81\r\n", GET_A BAD("expected '$', got '\x81'"));
    expect("*1\r\n$3\r\nabcxy", BAD("invalid CRLF in request"));
    expect("*1\r\n$3\r\nabc\rx", BAD("invalid CRLF in request"));
    expect("*1\r\n$3\r\nabc\nxx", BAD("invalid CRLF in request"));
    expect("set \"a\r\n", BAD("unbalanced quotes in request"));
    expect("set \"a\"b\r\n", BAD("unbalanced quotes in request"));
    expect_n(&usual, "PI\0NG\r\n", 7, false, BAD("too big inline request"));
}

static void expect_long(char fill, const char *begin, const char *want)
{
    size_t n = strlen(begin) + usual.line_bytes_max + 1;
    char *long_line = malloc(n);

    assert_non_null(long_line);
    memset(long_line, fill, n);
    memcpy(long_line, begin, strlen(begin));
    expect_n(&usual, long_line, n, false, want);
    free(long_line);
}

static void long_lines(void **state)
{
    (void)state;
    expect_long('x', "", BAD("too big inline request"));
    expect_long('1', "*", BAD("too big mbulk count string"));
    expect_long('1', "*1\r\n$", BAD("too big bulk count string"));
    expect_long('\r', "*1\r\n$", BAD("too big bulk count string"));
}

static void limits_are_kept(void **state)
{
    struct resp_limits small = {10, 100, 5, 64 * 1024};
    char big[400];

    (void)state;
    expect_n(&small, "*1\r\n$11\r\n", 9, false, BAD("invalid bulk length"));
    expect_n(&small, "*6\r\n", 4, false, BAD("invalid multibulk length"));
    small.bulk_bytes_max = 1000;
    (void)snprintf(big, sizeof big, "*2\r\n$3\r\nGET\r\n$200\r\n%0200d\r\n", 1);
    expect_n(&small, big, strlen(big), false, BAD("too big request"));
    expect_n(&usual, "*11\r\n", 5, true, BAD("unauthenticated multibulk length"));
    expect_n(&usual, "*1\r\n$16385\r\n", 12, true, BAD("unauthenticated bulk length"));
    expect_n(&usual, GET_A, strlen(GET_A), true, GET_A);
}

/* Announced sizes cost nothing; big buffers are released; an idle connection holds no parser. */
static void memory(void **state)
{
    struct resp_pool *pool = resp_pool_new(&usual);
    struct resp_parser *parser = NULL;
    struct argv a;
    struct buf in = {0};
    const char *error, *announced = "*1048576\r\n$536870912\r\nabc";
    size_t used;

    (void)state;
    assert_int_equal(resp_parse(pool, &parser, announced, strlen(announced), &used, false, &a, &error), RESP_MORE);
    assert_non_null(parser);
    assert_true(resp_parser_bytes(parser) < 4096);
    resp_parser_drop(pool, parser);
    parser = NULL;
    argv_header(&in, 1);
    buf_printf(&in, "$1000000\r\n%01000000d\r\n", 7);
    assert_int_equal(resp_parse(pool, &parser, buf_head(&in), 500000, &used, false, &a, &error), RESP_MORE);
    assert_true(resp_parser_bytes(parser) >= 499000 && resp_parser_bytes(parser) < 1500000);
    assert_int_equal(resp_parse(pool, &parser, buf_head(&in) + 500000, in.len - 500000, &used, false, &a, &error),
                     RESP_COMMAND);
    assert_null(parser);
    assert_int_equal(used, in.len - 500000);
    assert_memory_equal(a.bytes, buf_head(&in), in.len);
    resp_pool_trim(pool);
    assert_int_equal(resp_parse(pool, &parser, "*1\r\n", 4, &used, false, &a, &error), RESP_MORE);
    assert_true(resp_parser_bytes(parser) < 100000);
    resp_parser_drop(pool, parser);
    buf_free(&in);
    resp_pool_free(pool);
}

/* A caller that passes less than the rest: what was fed ahead is forgotten, nothing is lost or doubled. */
static void rest_in_small_pieces(void **state)
{
    static const char in[] = GET_A PING GET_A;
    struct resp_pool *pool = resp_pool_new(&usual);
    struct resp_parser *parser = NULL;
    struct argv a;
    struct buf out = {0};
    const char *error;
    size_t used, at = 0, n = sizeof in - 1;

    (void)state;
    assert_int_equal(resp_parse(pool, &parser, in, n, &used, false, &a, &error), RESP_COMMAND);
    buf_append(&out, a.bytes, a.n);
    for (at = used; at < n; at += used) {
        if (resp_parse(pool, &parser, in + at, 1, &used, false, &a, &error) == RESP_COMMAND)
            buf_append(&out, a.bytes, a.n);
    }
    assert_null(parser);
    assert_int_equal(out.len, n);
    assert_memory_equal(buf_head(&out), in, n);
    buf_free(&out);
    resp_pool_free(pool);
}

static bool collect(void *arg, const char *reply, size_t n)
{
    struct buf *out = arg;

    buf_append(out, reply, n);
    buf_text(out, "|");
    return true;
}

static bool stop(void *arg, const char *reply, size_t n)
{
    (void)reply;
    (void)n;
    ++*(int *)arg;
    return false;
}

static bool split_in(const char *in, size_t n, size_t piece, struct buf *out)
{
    struct resp_splitter *s = resp_splitter_new();
    bool ok = true;

    for (size_t at = 0; ok && at < n; at += piece)
        ok = resp_split(s, in + at, piece < n - at ? piece : n - at, collect, out);
    resp_splitter_free(s);
    return ok;
}

static void replies(void **state)
{
    static const char *const all[] = {"+OK\r\n",
                                      "-ERR x\r\n",
                                      ":1\r\n",
                                      "$-1\r\n",
                                      "$0\r\n\r\n",
                                      "$3\r\na\r\n\r\n",
                                      "*-1\r\n",
                                      "*0\r\n",
                                      "*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
                                      "%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
                                      "~1\r\n_\r\n",
                                      ">2\r\n+message\r\n$1\r\nx\r\n",
                                      "#t\r\n",
                                      ",1.5\r\n",
                                      "(123\r\n",
                                      "=5\r\ntxt:a\r\n",
                                      "_\r\n"};
    struct buf in = {0}, want = {0};

    (void)state;
    for (int round = 0; round < 400; round++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            buf_text(&in, all[i]);
            buf_text(&want, all[i]);
            buf_text(&want, "|");
        }
    for (size_t piece = 1; piece < 70000; piece = piece * 3 + 1) {
        struct buf out = {0};

        assert_true(split_in(buf_head(&in), in.len, piece, &out));
        assert_int_equal(out.len, want.len);
        assert_memory_equal(buf_head(&out), buf_head(&want), want.len);
        buf_free(&out);
    }
    buf_free(&in);
    buf_free(&want);
}

static void big_reply(void **state)
{
    size_t n = 64u << 20;
    struct buf in = {0}, out = {0};

    (void)state;
    buf_printf(&in, "*2\r\n:1\r\n$%zu\r\n", n);
    memset(buf_tail(&in, n), 'x', n);
    buf_grew(&in, n);
    buf_text(&in, "\r\n");
    assert_true(split_in(buf_head(&in), in.len, 65536, &out));
    assert_int_equal(out.len, in.len + 1);
    assert_memory_equal(buf_head(&out), buf_head(&in), in.len);
    buf_free(&out);
    assert_true(split_in(buf_head(&in), in.len, in.len, &out));
    assert_int_equal(out.len, in.len + 1);
    buf_free(&out);
    buf_free(&in);
}

static void long_reply_line(void **state)
{
    size_t n = 8u << 20;
    struct buf in = {0}, out = {0};

    (void)state;
    buf_text(&in, "-ERR ");
    memset(buf_tail(&in, n), 'x', n);
    buf_grew(&in, n);
    buf_text(&in, "\r\n+OK\r\n");
    assert_true(split_in(buf_head(&in), in.len, 1000, &out)); /* quadratic scanning would take many seconds */
    assert_int_equal(out.len, in.len + 2);
    buf_free(&out);
    buf_free(&in);
}

/* A Lua error's text comes as it is: EVAL "error('a\\nb')". */
static void line_feed_in_an_error(void **state)
{
    static const char *const all[] = {
        "-ERR user_script:1: a\nb script: 20\r\n",
        "+OK\r\n",
        "-\n\r\n",
        "$3\r\na\nb\r\n",
        "*3\r\n:1\r\n-ERR a\nb\rc\r\n%1\r\n$2\r\n\r\n\r\n*2\r\n$-1\r\n-x\n\r\n",
        ":7\r\n",
        "-ERR \r \n \r\n",
        "*1\r\n-a\nb\r\n",
    };
    struct buf in = {0}, want = {0};

    (void)state;
    for (int round = 0; round < 200; round++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            buf_text(&in, all[i]);
            buf_text(&want, all[i]);
            buf_text(&want, "|");
        }
    for (size_t piece = 1; piece < 70000; piece = piece * 2 + 1) {
        struct buf out = {0};

        assert_true(split_in(buf_head(&in), in.len, piece, &out));
        assert_int_equal(out.len, want.len);
        assert_memory_equal(buf_head(&out), buf_head(&want), want.len);
        buf_free(&out);
    }
    buf_free(&in);
    buf_free(&want);
}

static void not_resp(void **state)
{
    static const char *const bad[] = {"*2\r\n-a\nb\r\nx\r\n", "*2\r\n-a\nb\r\n$-2\r\n",
                                      "HTTP/1.1 200\r\n", "+OK\r\nx", "$3\r\nabcxy", ":a\r\n", "*-2\r\n", "|1\r\n"};
    struct buf deep = {0}, out = {0};
    struct resp_splitter *s = resp_splitter_new();
    int calls = 0;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(split_in(bad[i], strlen(bad[i]), 100, &out));
    for (int i = 0; i < 100000; i++)
        buf_text(&deep, "*1\r\n");
    assert_false(split_in(buf_head(&deep), deep.len, 50000, &out));
    assert_true(resp_split(s, "+a\r\n+b\r\n", 8, stop, &calls));
    assert_int_equal(calls, 1);
    resp_splitter_free(s);
    buf_free(&deep);
    buf_free(&out);
}

static void writers(void **state)
{
    struct buf out = {0};

    (void)state;
    resp_error(&out, "ERR no");
    resp_status(&out, "OK");
    resp_integer(&out, -5);
    resp_bulk(&out, "a\0b", 3);
    resp_bulk_text(&out, "");
    resp_null(&out, 2);
    resp_null(&out, 3);
    resp_array(&out, 2);
    resp_map(&out, 2, 2);
    resp_map(&out, 2, 3);
    assert_memory_equal(buf_head(&out),
                        "-ERR no\r\n+OK\r\n:-5\r\n$3\r\na\0b\r\n$0\r\n\r\n$-1\r\n_\r\n*2\r\n*4\r\n%2\r\n", out.len);
    buf_free(&out);
}

static void numbers(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t v;
    } cases[] = {{"0", true, 0},
                 {"-0", false, 0},
                 {"00", false, 0},
                 {"+1", false, 0},
                 {" 1", false, 0},
                 {"1 ", false, 0},
                 {"", false, 0},
                 {"-", false, 0},
                 {"-1", true, -1},
                 {"9223372036854775807", true, INT64_MAX},
                 {"9223372036854775808", false, 0},
                 {"-9223372036854775808", true, INT64_MIN},
                 {"-9223372036854775809", false, 0},
                 {"18446744073709551616", false, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arg one = {0, strlen(cases[i].text)};
        struct argv a = {cases[i].text, one.len, &one, 1};
        int64_t v = 0;

        assert_int_equal(argv_integer(&a, 0, &v), cases[i].ok);
        if (cases[i].ok)
            assert_true(v == cases[i].v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multibulk_and_inline),
        cmocka_unit_test(empty_requests),
        cmocka_unit_test(refused),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(memory),
        cmocka_unit_test(rest_in_small_pieces),
        cmocka_unit_test(replies),
        cmocka_unit_test(big_reply),
        cmocka_unit_test(long_reply_line),
        cmocka_unit_test(line_feed_in_an_error), cmocka_unit_test(not_resp),
        cmocka_unit_test(writers),
        cmocka_unit_test(numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

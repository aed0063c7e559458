/* The tap against a scripted Valkey: what it answers to PSYNC is cut into pieces of every size, and must be told as
 * the same story.
 *
 * A piece is sent only when the one before has been read (SIOCOUTQ), so the cuts are where the test puts them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <event2/event.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/tap.h"

enum { WAIT_MS_MAX = 20000 };

#define ID1  "0123456789abcdef0123456789abcdef01234567"
#define ID2  "fedcba9876543210fedcba9876543210fedcba98"
#define MARK "mmmm567890mmmm567890mmmm567890mmmm567890"

struct fake {
    struct loop *loop;
    char path[64];
    int listener, fd;
    struct loop_timer *timer, *timeout;
    const char *password;
    struct buf in;     /* what the tap said */
    int said_at;       /* lines of `in` answered */
    struct buf script; /* sent after PSYNC */
    size_t piece;
    bool psync, ready, timed_out;
    struct tap *tap;
    struct buf story;
    size_t rdb_bytes;
    const char *until; /* stop when the story ends so */
    int pause_every, effects;
    bool do_close;
};

static const struct diag quiet = {.level = DIAG_NOTHING};

/* ---- the story ---- */

static void check_end(struct fake *k)
{
    size_t n = strlen(k->until);

    if (k->story.len >= n && memcmp(buf_head(&k->story) + k->story.len - n, k->until, n) == 0)
        loop_stop(k->loop);
}

static void flush_rdb(struct fake *k)
{
    if (k->rdb_bytes > 0)
        buf_printf(&k->story, "rdb %zu\n", k->rdb_bytes);
    k->rdb_bytes = 0;
}

static void on_full(void *arg, const char *replid, uint64_t offset)
{
    struct fake *k = arg;

    buf_printf(&k->story, "full %.4s %llu\n", replid, (unsigned long long)offset);
    check_end(k);
}

static void on_rdb(void *arg, const char *bytes, size_t n)
{
    struct fake *k = arg;

    assert_true(n > 0);
    for (size_t i = 0; i < n; i++) /* the RDB of the script counts its bytes */
        assert_int_equal((unsigned char)bytes[i], (k->rdb_bytes + i) % 251);
    k->rdb_bytes += n;
}

static void on_rdb_end(void *arg)
{
    struct fake *k = arg;

    flush_rdb(k);
    buf_text(&k->story, "rdb end\n");
    check_end(k);
}

static void on_partial(void *arg, const char *replid)
{
    struct fake *k = arg;

    buf_printf(&k->story, "partial %.4s\n", replid);
    check_end(k);
}

static void tell(struct fake *k, const char *what, const struct effect *e)
{
    buf_printf(&k->story, "%s db %u-%u at %llu bytes %zu:", what, e->db_before, e->db_after,
               (unsigned long long)e->end_offset, e->n);
    for (size_t i = 0; i < e->command_count; i++) {
        for (size_t j = 0; j < e->commands[i].count; j++)
            buf_printf(&k->story, " %.*s",
                       (int)(argv_len(&e->commands[i], j) < 20 ? argv_len(&e->commands[i], j) : 20),
                       argv_at(&e->commands[i], j));
        buf_text(&k->story, ";");
    }
    buf_text(&k->story, "\n");
    k->effects++;
    if (k->pause_every > 0 && k->effects % k->pause_every == 0)
        tap_pause(k->tap, true);
    check_end(k);
}

static void on_effect(void *arg, const struct effect *e)
{
    tell(arg, e->unit ? "unit" : "effect", e);
}

static void on_message(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                       const struct effect *e)
{
    struct fake *k = arg;

    buf_printf(&k->story, "(%.*s=%.*s) ", (int)channel_n, channel, (int)payload_n, payload);
    tell(k, "message", e);
}

static void on_closed(void *arg, const char *why)
{
    struct fake *k = arg;

    buf_printf(&k->story, "closed: %s\n", why);
    loop_stop(k->loop);
}

static const struct tap_events callbacks = {.full = on_full,
                                            .rdb = on_rdb,
                                            .rdb_end = on_rdb_end,
                                            .partial = on_partial,
                                            .effect = on_effect,
                                            .message = on_message,
                                            .closed = on_closed};

/* ---- the fake Valkey ---- */

static void send_all(struct fake *k, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(k->fd, text, n, MSG_NOSIGNAL);

        if (sent < 0 && errno == EPIPE)
            return;
        assert_true(sent > 0);
        text += sent;
        n -= (size_t)sent;
    }
}

static bool said(const struct fake *k, const char *word)
{
    return k->in.len > 0 && memmem(buf_head(&k->in), k->in.len, word, strlen(word)) != NULL;
}

static int count_said(const struct fake *k, const char *word)
{
    const char *at = buf_head(&k->in), *end = at + k->in.len;
    int n = 0;

    while (at != NULL && (at = memmem(at, (size_t)(end - at), word, strlen(word))) != NULL) {
        at += strlen(word);
        n++;
    }
    return n;
}

static void answer(struct fake *k)
{
    static const char *const expected[] = {"AUTH", "PING", "listening-port", "psync2", "rdb-only"};

    for (; k->said_at < 5; k->said_at++) {
        if (!said(k, expected[k->said_at])) {
            if (k->said_at == 0 && k->password == NULL)
                continue;
            return;
        }
        assert_false(said(k, "PSYNC")); /* not before all is answered */
        send_all(k, k->said_at == 1 ? "+PONG\r\n" : "+OK\r\n", k->said_at == 1 ? 7 : 5);
    }
}

static void serve(struct fake *k)
{
    char bytes[4096];
    ssize_t n;
    int unread = 0;
    size_t piece;

    if (k->fd < 0 && (k->fd = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        return;
    while ((n = recv(k->fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
        buf_append(&k->in, bytes, (size_t)n);
    if (k->pause_every > 0)
        tap_pause(k->tap, false);
    answer(k);
    if (!said(k, "PSYNC") || ioctl(k->fd, SIOCOUTQ, &unread) != 0 || unread > 0)
        return;
    piece = k->piece < k->script.len ? k->piece : k->script.len;
    if (piece > 0) {
        send_all(k, buf_head(&k->script), piece);
        buf_consume(&k->script, piece);
    } else if (k->do_close) {
        (void)shutdown(k->fd, SHUT_RDWR);
    }
}

static void on_turn(void *arg) /* as often as the loop turns */
{
    struct fake *k = arg;

    serve(k);
    loop_timer_once(k->timer, 0);
}

static void on_timeout(void *arg)
{
    struct fake *k = arg;

    k->timed_out = true;
    loop_stop(k->loop);
}

static void open_fake(struct fake *k)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    *k = (struct fake){.fd = -1, .piece = 1 << 20};
    k->loop = loop_new();
    (void)snprintf(k->path, sizeof k->path, "/tmp/holdfast-tap-%d.sock", (int)getpid());
    (void)unlink(k->path);
    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s", k->path);
    k->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(k->listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(k->listener, 4), 0);
    k->timer = loop_timer_new(k->loop, on_turn, k);
    k->timeout = loop_timer_new(k->loop, on_timeout, k);
    loop_timer_once(k->timeout, WAIT_MS_MAX);
}

static void run(struct fake *k, struct tap_settings s, const char *until)
{
    k->until = until;
    k->said_at = s.password == NULL ? 1 : 0;
    k->password = s.password;
    s.address = k->path;
    loop_timer_once(k->timer, 0);
    k->tap = tap_new(k->loop, &quiet, &s, &callbacks, k);
    loop_run(k->loop);
    flush_rdb(k);
    buf_u8(&k->story, 0);
    if (k->timed_out)
        fail_msg("no end: %s", buf_head(&k->story));
}

static void close_fake(struct fake *k)
{
    tap_close(k->tap);
    loop_timer_free(k->timer);
    loop_timer_free(k->timeout);
    loop_free(k->loop);
    (void)close(k->listener);
    if (k->fd >= 0)
        (void)close(k->fd);
    (void)unlink(k->path);
    buf_free(&k->in);
    buf_free(&k->script);
    buf_free(&k->story);
}

static void put_rdb(struct buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_u8(b, (uint8_t)(i % 251));
}

/* "SET a 1|SELECT 3": one command each, in RESP. */
static void put_stream(struct buf *b, const char *commands)
{
    char copy[2048], *rest = NULL;

    (void)snprintf(copy, sizeof copy, "%s", commands);
    for (char *c = strtok_r(copy, "|", &rest); c != NULL; c = strtok_r(NULL, "|", &rest)) {
        char *inner = NULL;
        int count = 1;

        for (const char *p = c; *p; p++)
            count += *p == ' ';
        buf_printf(b, "*%d\r\n", count);
        for (char *w = strtok_r(c, " ", &inner); w != NULL; w = strtok_r(NULL, " ", &inner))
            buf_printf(b, "$%zu\r\n%s\r\n", strlen(w), w);
    }
}

/* ---- tests ---- */

static const size_t pieces[] = {1, 2, 3, 7, 39, 40, 41, 64, 1000, 1 << 20};
enum { PIECES = sizeof pieces / sizeof *pieces };

static const char stream[] =
    "SET a 1|SELECT 3|SET b 2|PING|MULTI|INCR c|SELECT 4|INCR d|SPUBLISH in unit|EXEC|SPUBLISH mark 7|MULTI|EXEC|"
    "zadd g 1 x|SET end 1";
static const char stream_story[] = "effect db 0-0 at 127 bytes 27: SET a 1;\n"
                                   "effect db 3-3 at 177 bytes 27: SET b 2;\n"
                                   "unit db 3-4 at 321 bytes 130: INCR c; SELECT 4; INCR d; SPUBLISH in unit;\n"
                                   "(mark=7) message db 4-4 at 356 bytes 35: SPUBLISH mark 7;\n"
                                   "unit db 4-4 at 385 bytes 29:\n"
                                   "effect db 4-4 at 420 bytes 35: zadd g 1 x;\n"
                                   "effect db 4-4 at 449 bytes 29: SET end 1;\n";

static void check_story(const struct fake *k, const char *begin)
{
    char expected[4096];

    (void)snprintf(expected, sizeof expected, "%s%s", begin, stream_story);
    assert_string_equal(buf_head(&k->story), expected);
}

static void with_length_and_mark(void **state)
{
    (void)state;
    for (size_t form = 0; form < 2; form++)
        for (size_t i = 0; i < PIECES; i++) {
            struct fake k;

            open_fake(&k);
            k.piece = pieces[i];
            buf_text(&k.script, "\n\n+FULLRESYNC " ID1 " 100\r\n\n\n\n");
            buf_text(&k.script, form == 0 ? "$700\r\n" : "$EOF:" MARK "\r\n");
            put_rdb(&k.script, 700);
            if (form == 1)
                buf_text(&k.script, MARK);
            put_stream(&k.script, stream);
            run(&k, (struct tap_settings){0}, "SET end 1;\n");
            check_story(&k, "full 0123 100\nrdb 700\nrdb end\n");
            assert_int_equal(tap_offset(k.tap), 449);
            assert_false(said(&k, "AUTH"));
            k.until = "-";
            loop_timer_once(k.timeout, 5);
            loop_run(k.loop);
            assert_true(said(&k, "REPLCONF\r\n$3\r\nACK\r\n$1\r\n0")); /* at the end of the RDB, not with the timer */
            close_fake(&k);
        }
}

/* Bytes that begin like the mark, and a mark of which the RDB ends in a prefix. */
static void near_marks(void **state)
{
    (void)state;
    for (size_t i = 0; i < PIECES; i++) {
        struct fake k;
        size_t n = 0;
        char mark[41];

        /* The RDB's bytes count up: a mark that is such a run, but for its last byte, looks like its beginning
         * again and again. */
        for (; n < 39; n++)
            mark[n] = (char)('A' + n);
        mark[39] = '!';
        mark[40] = '\0';
        open_fake(&k);
        k.piece = pieces[i];
        buf_printf(&k.script, "+FULLRESYNC " ID1 " 100\r\n$EOF:%s\r\n", mark);
        put_rdb(&k.script, 1000);
        buf_text(&k.script, mark);
        put_stream(&k.script, stream);
        run(&k, (struct tap_settings){0}, "SET end 1;\n");
        check_story(&k, "full 0123 100\nrdb 1000\nrdb end\n");
        close_fake(&k);
    }
}

static void partial(void **state)
{
    (void)state;
    for (size_t i = 0; i < PIECES; i++) {
        struct fake k;

        open_fake(&k);
        k.piece = pieces[i];
        k.pause_every = i % 2 ? 1 : 0; /* the owner stops after each effect */
        buf_text(&k.script, "\n+CONTINUE " ID2 "\r\n");
        put_stream(&k.script, stream);
        run(&k, (struct tap_settings){.replid = ID1, .offset = 100, .password = "p"}, "SET end 1;\n");
        check_story(&k, "partial fedc\n");
        assert_true(said(&k, "PSYNC\r\n$40\r\n" ID1 "\r\n$3\r\n101\r\n"));
        assert_true(said(&k, "$4\r\nAUTH\r\n$1\r\np"));
        close_fake(&k);
    }
}

static void rdb_only(void **state)
{
    struct fake k;

    (void)state;
    open_fake(&k);
    buf_text(&k.script, "+FULLRESYNC " ID1 " 5\r\n$EOF:" MARK "\r\n");
    put_rdb(&k.script, 300);
    buf_text(&k.script, MARK);
    run(&k, (struct tap_settings){.rdb_only = true}, "-");
    assert_string_equal(buf_head(&k.story), "full 0123 5\nrdb 300\nrdb end\nclosed: done\n");
    assert_true(said(&k, "rdb-only\r\n$1\r\n1"));
    close_fake(&k);
}

/* ACK: at once when asked, what is durable; again when that moves, as long as what was asked for is not reached. */
static void acknowledges(void **state)
{
    struct fake k;

    (void)state;
    open_fake(&k);
    buf_text(&k.script, "+CONTINUE\r\n");
    put_stream(&k.script, "SET a 1|REPLCONF GETACK *|SET end 1");
    run(&k, (struct tap_settings){.replid = ID1, .offset = 100}, "SET end 1;\n");
    tap_ack(k.tap, 120);
    tap_ack(k.tap, 110); /* never back */
    tap_ack(k.tap, 164); /* the end of GETACK */
    tap_ack(k.tap, 193); /* not asked any more: said with the timer */
    k.until = "-";
    loop_timer_once(k.timeout, 1300);
    loop_run(k.loop);
    assert_int_equal(count_said(&k, "ACK\r\n$3\r\n100"), 1);
    assert_int_equal(count_said(&k, "ACK\r\n$3\r\n120"), 1);
    assert_int_equal(count_said(&k, "ACK\r\n$3\r\n110"), 0);
    assert_int_equal(count_said(&k, "ACK\r\n$3\r\n164"), 1);
    assert_int_equal(count_said(&k, "ACK\r\n$3\r\n193"), 1);
    close_fake(&k);
}

static void refused(const char *script, struct tap_settings s, const char *story)
{
    struct fake k;

    open_fake(&k);
    k.do_close = true;
    buf_text(&k.script, script);
    run(&k, s, "-");
    assert_non_null(strstr(buf_head(&k.story), story));
    close_fake(&k);
}

static void refusals(void **state)
{
    static const struct tap_settings go_on = {.replid = ID1, .offset = 100};

    (void)state;
    refused("-NOMASTERLINK Can't SYNC\r\n", (struct tap_settings){0}, "closed: PSYNC: -NOMASTERLINK Can't SYNC");
    refused("+CONTINUE\r\n", (struct tap_settings){0}, "closed: PSYNC: +CONTINUE");
    refused("+FULLRESYNC short 1\r\n", (struct tap_settings){0}, "closed: PSYNC: +FULLRESYNC short");
    refused("+FULLRESYNC " ID1 " 1\r\n-ERR no\r\n", (struct tap_settings){0}, "closed: RDB: -ERR no");
    refused("+FULLRESYNC " ID1 " 1\r\n$10\r\n", (struct tap_settings){0}, "closed by the other end");
    refused("+CONTINUE\r\n*1\r\n$4\r\nEXEC\r\n", go_on, "closed: replication stream: EXEC without MULTI");
    refused("+CONTINUE\r\n*1\r\n$5\r\nMULTI\r\n*1\r\n$5\r\nMULTI\r\n", go_on, "MULTI inside MULTI");
    refused("+CONTINUE\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n-1\r\n", go_on, "bad SELECT");
    refused("+CONTINUE\r\n*1\r\n$x\r\n", go_on, "closed: replication stream: ");
    refused("+CONTINUE\r\nSET a 1\r\n", go_on, "not in canonical form");
}

static void nobody(void **state)
{
    struct fake k;

    (void)state;
    open_fake(&k);
    (void)unlink(k.path);
    run(&k, (struct tap_settings){0}, "-");
    assert_string_equal(buf_head(&k.story), "closed: No such file or directory\n");
    close_fake(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(with_length_and_mark),
                                       cmocka_unit_test(near_marks),
                                       cmocka_unit_test(partial),
                                       cmocka_unit_test(rdb_only),
                                       cmocka_unit_test(acknowledges),
                                       cmocka_unit_test(refusals),
                                       cmocka_unit_test(nobody)};

    return cmocka_run_group_tests_name("tap", tests, NULL, NULL);
}

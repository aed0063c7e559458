/* Whom a TLS stream refuses, with the reasons that both ends give; and files that are no good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/loop.h"
#include "tests/unit/tls_place.h"

/* ---- who is refused ---- */

static void refused(struct place *p, struct tls *client, struct tls *server, const char *client_why,
                    const char *server_why)
{
    struct pair x;

    pair_connect(p, &x, client, server, "b.test");
    if (!place_run(p, both_closed, &x))
        fail_msg("not refused: %s", server_why);
    assert_false(x.client.connected && x.server.connected);
    if (strstr(x.client.why, client_why) == NULL || strstr(x.server.why, server_why) == NULL)
        fail_msg("client: %s; server: %s", x.client.why, x.server.why);
    assert_int_equal(x.client.in.len + x.server.in.len, 0);
    assert_false(stream_peer_is(x.client.stream, "b.test") && stream_peer_is(x.server.stream, "a.test"));
    pair_close(&x);
}

/* The certificate `name` on either side. As a client's it is refused by the server, after the client believes that
 * all is well (TLS 1.3): so the client hears of it by an alert. */
static void bad_certificate(struct place *p, const char *name, const char *why, const char *alert)
{
    char text[256];

    (void)snprintf(text, sizeof text, "the other end refused TLS: %s", alert);
    refused(p, place_good(p, name), place_good(p, "b"), text, why);
    refused(p, place_good(p, "a"), place_good(p, name), why, text);
}

static void test_bad_certificates(void **state)
{
    struct place *p = *state;
    const char *both = "DNS:a.test,DNS:b.test";

    place_cert(p, "expired", (struct tls_wish){.issuer = p->ca, .san = both, .begins_s = -7200, .ends_s = -3600});
    bad_certificate(p, "expired", "the other end's certificate has expired", "certificate expired");
    place_cert(p, "early", (struct tls_wish){.issuer = p->ca, .san = both, .begins_s = 3600, .ends_s = 7200});
    bad_certificate(p, "early", "the other end's certificate is not yet valid", "bad certificate");
    place_cert(p, "foreign", (struct tls_wish){.issuer = p->other, .san = both});
    bad_certificate(p, "foreign", "the other end's certificate is not signed by our CA", "unknown CA");
    place_cert(p, "self", (struct tls_wish){.san = both});
    bad_certificate(p, "self", "the other end's certificate is self-signed", "unknown CA");
    place_cert(p, "server-only", (struct tls_wish){.issuer = p->ca, .san = both, .eku = "serverAuth"});
    refused(p, place_good(p, "server-only"), place_good(p, "b"), "the other end refused TLS: unsupported certificate",
            "the other end's certificate is not meant for this use (clientAuth)");
    place_cert(p, "client-only", (struct tls_wish){.issuer = p->ca, .san = both, .eku = "clientAuth"});
    refused(p, place_good(p, "a"), place_good(p, "client-only"),
            "the other end's certificate is not meant for this use (serverAuth)",
            "the other end refused TLS: unsupported certificate");
}

static void test_wrong_name(void **state)
{
    struct place *p = *state;

    place_cert(p, "wild", (struct tls_wish){.issuer = p->ca, .san = "DNS:*.test"});
    place_cert(p, "b.test",
               (struct tls_wish){.issuer = p->ca, .san = "DNS:other.test"}); /* a common name counts for nothing */
    refused(p, place_good(p, "b"), place_good(p, "a"), "the other end's certificate is not for b.test",
            "the other end refused TLS: bad certificate");
    refused(p, place_good(p, "a"), place_good(p, "wild"), "the other end's certificate is not for b.test",
            "bad certificate");
    refused(p, place_good(p, "a"), place_good(p, "b.test"), "the other end's certificate is not for b.test",
            "bad certificate");
}

static void test_no_certificate(void **state)
{
    char why[256];
    struct tls *client = place_context(*state, "", "ca", false, true, why);

    assert_non_null(client);
    refused(*state, client, place_good(*state, "b"), "the other end refused TLS: unknown",
            "the other end has shown no certificate");
}

static void test_old_version(void **state)
{
    struct place *p = *state;
    char command[1024], certificate[TLS_PATH_BYTES_MAX], key[TLS_PATH_BYTES_MAX];
    struct end e;
    int port, fd = listen_anywhere(&port);
    struct tls *t = place_good(p, "b");

    place_path(p, "a", ".crt", certificate);
    place_path(p, "a", ".key", key);
    end_init(p, &e, 3);
    (void)snprintf(command, sizeof command,
                   "openssl s_client -tls1_2 -connect 127.0.0.1:%d -cert %s -key %s </dev/null >/dev/null 2>&1 &",
                   port, certificate, key);
    assert_int_equal(system(command), 0);
    e.stream = stream_accepted_tls(p->loop, accept(fd, NULL, NULL), t, &end_events, &e);
    assert_true(place_run(p, one_closed, &e));
    assert_string_equal(e.why, "the other end speaks no TLS version that is accepted here");
    stream_close(e.stream);
    loop_timer_free(e.unpause);
    (void)close(fd);
    tls_free(t);
}

static void test_not_tls(void **state)
{
    struct place *p = *state;
    struct pair x;

    pair_connect(p, &x, NULL, place_good(p, "b"), "");
    stream_write(x.client.stream, "GET / HTTP/1.1\r\n\r\n", 18);
    assert_true(place_run(p, one_closed, &x.server));
    assert_string_equal(x.server.why, "the other end does not speak TLS");
    pair_close(&x);
    pair_connect(p, &x, NULL, place_good(p, "b"), "");
    place_pass(p, 20);
    stream_close(x.client.stream);
    x.client.stream = NULL;
    assert_true(place_run(p, one_closed, &x.server));
    assert_string_equal(x.server.why, "closed by the other end during the TLS handshake");
    pair_close(&x);
}

static void test_stalled(void **state)
{
    struct place *p = *state;
    struct pair x, y;

    pair_connect(p, &x, NULL, place_good(p, "b"), ""); /* says nothing; and a server that says nothing */
    pair_connect(p, &y, place_good(p, "a"), NULL, "b.test");
    place_pass(p, HANDSHAKE_MS_MAX - 500);
    assert_false(x.server.closed || y.client.closed);
    place_pass(p, 1000);
    assert_true(x.server.closed && y.client.closed);
    assert_string_equal(x.server.why, "no TLS handshake in time");
    assert_string_equal(y.client.why, "no TLS handshake in time");
    pair_close(&x);
    pair_close(&y);
}

static void test_peer_is(void **state)
{
    struct pair x;

    place_cert(*state, "names",
               (struct tls_wish){.issuer = ((struct place *)*state)->ca,
                                 .san = "DNS:*.wild,DNS:one.test,DNS:two.test,DNS:a.b.test"});
    pair_connect(*state, &x, place_good(*state, "names"), place_good(*state, "b"), "b.test");
    assert_false(stream_peer_is(x.server.stream, "one.test"));
    assert_true(place_run(*state, both_connected, &x));
    assert_true(stream_peer_is(x.server.stream, "one.test"));
    assert_true(stream_peer_is(x.server.stream, "two.test"));
    assert_true(stream_peer_is(x.client.stream, "b.test"));
    assert_false(stream_peer_is(x.server.stream, "b.test"));
    assert_false(stream_peer_is(x.server.stream, "names")); /* the common name */
    assert_false(stream_peer_is(x.server.stream, "x.wild"));
    assert_false(stream_peer_is(x.server.stream, "*.wild") && false);
    assert_false(stream_peer_is(x.server.stream, ".test"));
    assert_false(stream_peer_is(x.server.stream, "test"));
    assert_false(stream_peer_is(x.server.stream, "b.one.test"));
    assert_false(stream_peer_is(x.server.stream, ""));
    pair_close(&x);
}

/* ---- files ---- */

static void copy_file(struct place *p, const char *from, const char *to, long bytes)
{
    char path[TLS_PATH_BYTES_MAX], text[16384];
    FILE *f;
    size_t n;

    place_path(p, from, "", path);
    f = fopen(path, "r");
    n = fread(text, 1, sizeof text, f);
    (void)fclose(f);
    place_path(p, to, "", path);
    f = fopen(path, bytes < 0 ? "a" : "w");
    assert_int_equal(fwrite(text, 1, bytes > 0 ? (size_t)bytes : n, f), bytes > 0 ? (size_t)bytes : n);
    (void)fclose(f);
}

static void test_files(void **state)
{
    struct place *p = *state;
    char why[256];

    assert_null(place_context(p, "nobody", "ca", true, true, why));
    assert_non_null(strstr(why, "nobody.crt: "));
    assert_null(place_context(p, "a", "no-ca", true, true, why));
    assert_non_null(strstr(why, "no-ca.crt: "));
    assert_null(place_context(p, "a", "", true, true, why));
    assert_null(place_context(p, "", "ca", true, true, why));
    copy_file(p, "a.crt", "mixed.crt", 0);
    copy_file(p, "b.key", "mixed.key", 0);
    assert_null(place_context(p, "mixed", "ca", true, true, why));
    assert_non_null(strstr(why, "mixed.key: "));
    assert_non_null(strstr(why, "mismatch"));
}

/* What is not whole, or does not belong together, leaves what was there in force. */
static void test_reload(void **state)
{
    static const struct {
        const char *from, *to;
        long bytes;
    } bad[] = {{"b.crt", "x.crt", 0}, {"b.crt", "x.crt", 200}, {"ca.crt", "x.crt", 1}, {"a.key", "x.key", 100}};
    struct place *p = *state;
    char why[256];
    struct pair x;
    struct tls *t;

    copy_file(p, "a.crt", "x.crt", 0);
    copy_file(p, "a.key", "x.key", 0);
    t = place_good(p, "x");
    assert_true(tls_reload(t, why, sizeof why));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        copy_file(p, bad[i].from, bad[i].to, bad[i].bytes);
        assert_false(tls_reload(t, why, sizeof why));
        copy_file(p, "a.crt", "x.crt", 0);
        copy_file(p, "a.key", "x.key", 0);
    }
    pair_connect(p, &x, t, place_good(p, "b"), "b.test");
    assert_true(place_run(p, both_connected, &x));
    assert_true(stream_peer_is(x.server.stream, "a.test"));
    copy_file(p, "b.crt", "x.crt", 0);
    copy_file(p, "b.key", "x.key", 0);
    assert_true(tls_reload(t, why, sizeof why));
    stream_write(x.client.stream, "on", 2); /* an old connection goes on */
    x.client.to_send = 2;
    assert_true(place_run(p, all_arrived, &x));
    x.client_tls = NULL;
    pair_close(&x);
    pair_connect(p, &x, t, place_good(p, "b"), "b.test");
    assert_true(place_run(p, both_connected, &x));
    assert_true(stream_peer_is(x.server.stream, "b.test"));
    pair_close(&x);
}

/* A new CA, node by node: first everybody believes both, then certificates change, one after the other. */
/* A revocation list beside the CA counts for that CA's certificates, on both ends, also when it is overdue, or
 * from a clock ahead of ours; a CA without one
 * revokes nobody. */
static void test_revoked(void **state)
{
    static const long due_s[] = {3600, -60, 10000};
    struct place *p = *state;
    struct pair x;
    char why[256];

    place_cert(p, "gone", (struct tls_wish){.issuer = p->ca, .san = "DNS:a.test,DNS:b.test"});
    place_cert(p, "theirs", (struct tls_wish){.issuer = p->other, .san = "DNS:a.test"});
    for (size_t k = 0; k < sizeof due_s / sizeof *due_s; k++) {
        copy_file(p, "ca.crt", "listed.crt", 0);
        copy_file(p, "other-ca.crt", "listed.crt", -1);
        tls_revoke(p->ca, p->dir, "gone", "listed", due_s[k]);
        refused(p, place_good(p, "gone"), place_context(p, "b", "listed", true, true, why),
                "the other end refused TLS: certificate revoked", "the other end's certificate has been revoked");
        refused(p, place_context(p, "a", "listed", true, true, why), place_good(p, "gone"),
                "the other end's certificate has been revoked", "the other end refused TLS: certificate revoked");
        pair_connect(p, &x, place_context(p, "a", "listed", true, true, why),
                     place_context(p, "b", "listed", true, true, why), "b.test");
        assert_true(place_run(p, both_connected, &x));
        pair_close(&x);
        pair_connect(p, &x, place_context(p, "theirs", "listed", true, true, why),
                     place_context(p, "b", "listed", true, true, why), "b.test");
        assert_true(place_run(p, both_connected, &x));
        pair_close(&x);
    }
    copy_file(p, "ca.crt", "foreign-list.crt", 0); /* one that our CA has not signed revokes nobody of ours */
    tls_revoke(p->other, p->dir, "gone", "foreign-list", 3600);
    pair_connect(p, &x, place_good(p, "gone"), place_context(p, "b", "foreign-list", true, true, why), "b.test");
    assert_true(place_run(p, both_connected, &x));
    pair_close(&x);
}

static void test_rollover(void **state)
{
    struct place *p = *state;
    struct pair x;
    char why[256];

    copy_file(p, "ca.crt", "both.crt", 0);
    copy_file(p, "other-ca.crt", "both.crt", -1);
    place_cert(p, "new", (struct tls_wish){.issuer = p->other, .san = "DNS:b.test"});
    pair_connect(p, &x, place_context(p, "a", "both", true, true, why),
                 place_context(p, "new", "both", true, true, why), "b.test");
    assert_true(place_run(p, both_connected, &x));
    pair_close(&x);
    pair_connect(p, &x, place_context(p, "new", "both", true, true, why),
                 place_context(p, "b", "both", true, true, why), "b.test");
    assert_true(place_run(p, both_connected, &x));
    pair_close(&x);
    refused(p, place_good(p, "a"), place_context(p, "new", "both", true, true, why), "is not signed by our CA",
            "unknown CA");
    copy_file(p, "other-ca.crt", "both.crt", 0);
    copy_file(p, "ca.crt", "half.crt", 0);
    copy_file(p, "other-ca.crt", "half.crt", 300); /* starts anew, and is cut */
    assert_null(place_context(p, "a", "half", true, true, why));
}

#define T(f) cmocka_unit_test_setup_teardown(f, place_open, place_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_bad_certificates), T(test_wrong_name), T(test_no_certificate), T(test_old_version),
        T(test_not_tls),          T(test_stalled),    T(test_peer_is),        T(test_files),
        T(test_reload),           T(test_rollover),   T(test_revoked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

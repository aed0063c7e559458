/* What a TLS context can be told: versions, ciphers, names, passphrases, directories of CAs; changing it; and a port
 * that takes whoever speaks TLS and whoever does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/loop.h"
#include "tests/unit/tls_place.h"

struct files {
    char cert[TLS_PATH_BYTES_MAX], key[TLS_PATH_BYTES_MAX], ca[TLS_PATH_BYTES_MAX];
};

static struct tls_settings of(struct place *p, const char *name, struct files *f)
{
    place_path(p, name, ".crt", f->cert);
    place_path(p, name, ".key", f->key);
    place_path(p, "ca", ".crt", f->ca);
    return (struct tls_settings){.cert_file = f->cert, .key_file = f->key, .ca_file = f->ca};
}

static struct tls *made(const struct tls_settings *s)
{
    char why[256] = "";
    struct tls *t = tls_new(s, why, sizeof why);

    if (t == NULL)
        fail_msg("%s", why);
    return t;
}

static void not_made(const struct tls_settings *s, const char *reason)
{
    char why[256] = "";

    assert_null(tls_new(s, why, sizeof why));
    if (strstr(why, reason) == NULL)
        fail_msg("'%s' is not in '%s'", reason, why);
}

/* Which of the two see the other; both contexts are freed. */
static void expect(struct place *p, struct tls *client, struct tls *server, const char *name, const char *client_why,
                   const char *server_why)
{
    struct pair x;

    pair_connect(p, &x, client, server, name);
    if (client_why == NULL) {
        if (!place_run(p, both_connected, &x))
            fail_msg("client: %s; server: %s", x.client.why, x.server.why);
    } else {
        if (!place_run(p, both_closed, &x))
            fail_msg("not refused: %s", client_why);
        if (strstr(x.client.why, client_why) == NULL || strstr(x.server.why, server_why) == NULL)
            fail_msg("client: %s; server: %s", x.client.why, x.server.why);
    }
    pair_close(&x);
}

static void test_versions(void **state)
{
    static const struct {
        const char *text;
        unsigned versions;
    } good[] = {{"", 0},
                {"  ", 0},
                {"TLSv1.2", TLS_VERSION_12},
                {"tlsv1.3", TLS_VERSION_13},
                {" TLSv1.3  TLSv1.2 ", TLS_VERSION_12 | TLS_VERSION_13}};
    static const char *const bad[] = {"TLSv1.1", "TLSv1", "SSLv3", "TLSv1.2,TLSv1.3", "TLSv1.2x", "TLSv1.", "1.3"};
    struct place *p = *state;
    struct files f, g;
    struct tls_settings server = of(p, "b", &f), client = of(p, "a", &g);
    unsigned versions = 77;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(tls_versions(good[i].text, &versions));
        assert_int_equal(versions, good[i].versions);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(tls_versions(bad[i], &versions));
    for (unsigned s = 0; s <= 3; s++)
        for (unsigned c = 0; c <= 3; c++) {
            bool fits = s == 0 || c == 0 || (s & c) != 0;

            server.versions = s;
            client.versions = c;
            expect(p, made(&client), made(&server), "b.test", fits ? NULL : "", "");
        }
}

static void test_ciphers(void **state)
{
    struct place *p = *state;
    struct files f, g;
    struct tls_settings server = of(p, "b", &f), client = of(p, "a", &g);

    server.ciphers = "no-such-cipher";
    not_made(&server, "no-such-cipher: ");
    server.ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384";
    server.suites = "TLS_NO_SUCH_SUITE";
    not_made(&server, "TLS_NO_SUCH_SUITE: ");
    server.suites = "TLS_AES_256_GCM_SHA384";
    expect(p, made(&client), made(&server), "b.test", NULL, NULL);
    client.suites = "TLS_AES_128_GCM_SHA256";
    client.versions = TLS_VERSION_13;
    expect(p, made(&client), made(&server), "b.test", "the other end refused TLS: ", "no shared cipher");
    client.versions = TLS_VERSION_12;
    expect(p, made(&client), made(&server), "b.test", NULL, NULL);
    client.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256";
    expect(p, made(&client), made(&server), "b.test", "the other end refused TLS: ", "no shared cipher");
}

/* Addresses are looked up among the certificate's addresses, names among its names; a wildcard only where it may be.
 */
static void test_names(void **state)
{
    struct place *p = *state;
    struct files f, g;
    struct tls_settings server, client = of(p, "a", &g);
    const char *no = "the other end refused TLS: bad certificate";

    place_cert(p, "names",
               (struct tls_wish){.issuer = p->ca, .san = "IP:127.0.0.1,IP:::1,DNS:*.wild.test,DNS:10.0.0.1"});
    server = of(p, "names", &f);
    expect(p, made(&client), made(&server), "127.0.0.1", NULL, NULL);
    expect(p, made(&client), made(&server), "::1", NULL, NULL);
    expect(p, made(&client), made(&server), "127.0.0.2", "the other end's certificate is not for 127.0.0.2", no);
    expect(p, made(&client), made(&server), "10.0.0.1", "the other end's certificate is not for 10.0.0.1", no);
    expect(p, made(&client), made(&server), "x.wild.test", "the other end's certificate is not for x.wild.test", no);
    client.wildcards = true;
    expect(p, made(&client), made(&server), "x.wild.test", NULL, NULL);
    expect(p, made(&client), made(&server), "x.y.wild.test", "the other end's certificate is not for", no);
    expect(p, made(&client), made(&server), "", NULL, NULL);
    client.server_name = "x.wild.test";
    {
        struct tls *t = made(&client);

        assert_string_equal(tls_server_name(t), "x.wild.test");
        tls_free(t);
    }
}

static void shell(const char *format, const char *a, const char *b)
{
    char command[1024];

    (void)snprintf(command, sizeof command, format, a, b);
    assert_int_equal(system(command), 0);
}

/* Without one, nobody is asked on the terminal: that would wait for ever. */
static void test_passphrase(void **state)
{
    struct place *p = *state;
    char hidden[TLS_PATH_BYTES_MAX];
    struct files f;
    struct tls_settings s = of(p, "a", &f);

    place_path(p, "hidden", ".key", hidden);
    shell("openssl pkcs8 -topk8 -v2 aes-256-cbc -passout pass:sesame -in '%s' -out '%s'", f.key, hidden);
    s.key_file = hidden;
    not_made(&s, "hidden.key: ");
    s.key_pass = "salami";
    not_made(&s, "hidden.key: ");
    s.key_pass = "sesame";
    tls_free(made(&s));
}

static void test_directory(void **state)
{
    struct place *p = *state;
    char dir[TLS_PATH_BYTES_MAX];
    struct files f, g;
    struct tls_settings server = of(p, "b", &f), client = of(p, "a", &g);

    place_path(p, "authorities", "", dir);
    server.ca_file = "";
    server.ca_dir = dir;
    server.peer_must_prove = true;
    not_made(&server, "authorities: no such directory");
    assert_int_equal(mkdir(dir, 0700), 0);
    expect(p, made(&client), made(&server), "b.test", "the other end refused TLS: unknown CA",
           "is not signed by our CA");
    shell("cp '%s' '%s'", f.ca, dir);
    shell("openssl rehash '%s' %s", dir, "");
    expect(p, made(&client), made(&server), "b.test", NULL, NULL);
}

/* An accepting end that does not insist: none is fine, a bad one is not. */
static void test_optional(void **state)
{
    struct place *p = *state;
    struct files f, g;
    struct tls_settings server = of(p, "b", &f), client = of(p, "a", &g), nobody = {.ca_file = f.ca};

    expect(p, made(&client), made(&server), "b.test", NULL, NULL);
    expect(p, made(&nobody), made(&server), "b.test", NULL, NULL);
    place_cert(p, "foreign", (struct tls_wish){.issuer = p->other, .san = "DNS:a.test"});
    client = of(p, "foreign", &g);
    expect(p, made(&client), made(&server), "b.test", "the other end refused TLS: unknown CA",
           "is not signed by our CA");
    server.ca_file = "";
    expect(p, made(&client), made(&server), "b.test", NULL, NULL);
    server.ca_file = f.ca;
    server.peer_must_prove = true;
    expect(p, made(&nobody), made(&server), "b.test", "the other end refused TLS: ", "has shown no certificate");
}

static void test_change(void **state)
{
    struct place *p = *state;
    struct files f, g, late;
    struct tls_settings s = of(p, "b", &f), client = of(p, "a", &g), old;
    struct tls *t = made(&s);
    char why[256];

    assert_null(tls_out_of_date(t));
    place_cert(p, "late",
               (struct tls_wish){.issuer = p->ca, .san = "DNS:b.test", .begins_s = -7200, .ends_s = -3600});
    old = of(p, "late", &late);
    assert_false(tls_change(t, &old, why, sizeof why));
    assert_non_null(strstr(why, "late.crt: it has expired"));
    place_cert(p, "late", (struct tls_wish){.issuer = p->ca, .san = "DNS:b.test", .begins_s = 3600, .ends_s = 7200});
    assert_false(tls_change(t, &old, why, sizeof why));
    assert_non_null(strstr(why, "late.crt: it is not yet valid"));
    {
        struct tls *early = made(&old); /* at the start it is taken: the caller warns */

        assert_string_equal(tls_out_of_date(early), "it is not yet valid");
        tls_free(early);
    }
    s.suites = "TLS_NO_SUCH_SUITE";
    assert_false(tls_change(t, &s, why, sizeof why));
    s.suites = "TLS_AES_256_GCM_SHA384";
    s.versions = TLS_VERSION_13;
    assert_true(tls_change(t, &s, why, sizeof why));
    assert_true(tls_reload(t, why, sizeof why)); /* with what was given last */
    client.suites = "TLS_AES_128_GCM_SHA256";
    client.versions = TLS_VERSION_13;
    expect(p, made(&client), t, "b.test", "the other end refused TLS: ", "no shared cipher");
}

/* ---- plain or TLS, by the first byte ---- */

static void either_connect(struct place *p, struct pair *x, struct tls *client, struct tls *offered)
{
    char address[64], why[256];
    int port, fd = listen_anywhere(&port), accepted;

    memset(x, 0, sizeof *x);
    end_init(p, &x->client, 1);
    end_init(p, &x->server, 2);
    x->client_tls = client;
    x->server_tls = offered;
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", port);
    x->client.stream = stream_connect_either(p->loop, address, client, &end_events, &x->client, why, sizeof why);
    assert_non_null(x->client.stream);
    accepted = accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    (void)close(fd);
    x->server.stream = stream_accepted_either(p->loop, accepted, offered, &end_events, &x->server);
}

static bool server_connected(void *pair)
{
    return ((struct pair *)pair)->server.connected;
}

static bool five_arrived(void *pair)
{
    return ((struct pair *)pair)->server.in.len == 5;
}

static void test_either(void **state)
{
    struct place *p = *state;
    struct pair x;

    for (int secret = 0; secret <= 1; secret++) {
        either_connect(p, &x, secret ? place_good(p, "a") : NULL, place_good(p, "b"));
        stream_write(x.client.stream, "hello", 5);
        assert_true(place_run(p, server_connected, &x));
        assert_true(place_run(p, five_arrived, &x));
        assert_memory_equal(buf_head(&x.server.in), "hello", 5);
        assert_int_equal(stream_is_tls(x.server.stream), secret);
        pair_close(&x);
    }
    either_connect(p, &x, place_good(p, "a"), NULL);
    assert_true(place_run(p, both_closed, &x));
    assert_string_equal(x.server.why, "it speaks TLS, and there is no certificate for that");
    pair_close(&x);
    either_connect(p, &x, NULL, place_good(p, "b"));
    place_pass(p, 20);
    assert_false(x.server.connected);
    stream_close(x.client.stream);
    x.client.stream = NULL;
    assert_true(place_run(p, one_closed, &x.server));
    assert_string_equal(x.server.why, "closed by the other end");
    pair_close(&x);
}

static void test_either_silent(void **state)
{
    struct place *p = *state;
    struct pair x;

    either_connect(p, &x, NULL, place_good(p, "b"));
    place_pass(p, HANDSHAKE_MS_MAX - 500);
    assert_false(x.server.closed);
    place_pass(p, 1000);
    assert_true(x.server.closed);
    assert_string_equal(x.server.why, "it has said nothing");
    pair_close(&x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, place_open, place_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_versions), T(test_ciphers), T(test_names),  T(test_passphrase),    T(test_directory),
        T(test_optional), T(test_change),  T(test_either), T(test_either_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

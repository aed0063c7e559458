#include "tests/unit/tls_place.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"

enum { WAIT_MS_MAX = 20000 };

uint64_t end_random(struct end *e, uint64_t n)
{
    e->random ^= e->random << 13;
    e->random ^= e->random >> 7;
    e->random ^= e->random << 17;
    return (e->random >> 11) % n;
}

/* ---- the place ---- */

static bool on_turn(void *arg)
{
    struct place *p = arg;

    if (p->until != NULL && p->until(p->arg)) {
        p->until = NULL;
        loop_stop(p->loop);
    }
    return false;
}

static void on_limit(void *arg)
{
    struct place *p = arg;

    p->timed_out = true;
    loop_stop(p->loop);
}

bool place_run(struct place *p, bool (*until)(void *arg), void *arg)
{
    p->until = until;
    p->arg = arg;
    p->timed_out = false;
    loop_timer_once(p->limit, WAIT_MS_MAX);
    loop_run(p->loop);
    loop_timer_stop(p->limit);
    p->until = NULL;
    return !p->timed_out;
}

static void on_passed(void *arg)
{
    loop_stop(arg);
}

void place_pass(struct place *p, uint64_t ms)
{
    struct loop_timer *t = loop_timer_new(p->loop, on_passed, p->loop);

    loop_timer_once(t, ms);
    loop_run(p->loop);
    loop_timer_free(t);
}

void place_cert(struct place *p, const char *name, struct tls_wish wish)
{
    if (wish.san == NULL)
        wish.san = "DNS:a.test,DNS:localhost,IP:127.0.0.1";
    tls_make(p->dir, name, &wish);
}

int place_open(void **state)
{
    struct place *p = calloc(1, sizeof *p);

    (void)snprintf(p->dir, sizeof p->dir, "/tmp/hf_tls.XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    p->loop = loop_new();
    p->limit = loop_timer_new(p->loop, on_limit, p);
    loop_add_hook(p->loop, on_turn, p);
    p->ca = tls_issuer_new(p->dir, "ca");
    p->other = tls_issuer_new(p->dir, "other-ca");
    place_cert(p, "a", (struct tls_wish){.issuer = p->ca});
    place_cert(p, "b", (struct tls_wish){.issuer = p->ca, .san = "DNS:b.test"});
    *state = p;
    return 0;
}

int place_close(void **state)
{
    struct place *p = *state;
    char command[128];

    loop_timer_free(p->limit);
    place_pass(p, 0);
    loop_free(p->loop);
    tls_issuer_free(p->ca);
    tls_issuer_free(p->other);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", p->dir);
    assert_int_equal(system(command), 0);
    free(p);
    return 0;
}

void place_path(struct place *p, const char *name, const char *ending, char out[TLS_PATH_BYTES_MAX])
{
    (void)snprintf(out, TLS_PATH_BYTES_MAX, "%s/%s%s", p->dir, name, ending);
}

struct tls *place_context(struct place *p, const char *name, const char *ca, bool prove, bool only13, char why[256])
{
    char certificate[TLS_PATH_BYTES_MAX] = "", key[TLS_PATH_BYTES_MAX] = "", ca_file[TLS_PATH_BYTES_MAX] = "";
    struct tls_settings s = {.cert_file = certificate,
                             .key_file = key,
                             .ca_file = ca_file,
                             .peer_must_prove = prove,
                             .versions = only13 ? TLS_VERSION_13 : 0};

    if (name[0] != '\0') {
        place_path(p, name, ".crt", certificate);
        place_path(p, name, ".key", key);
    }
    if (ca[0] != '\0')
        place_path(p, ca, ".crt", ca_file);
    return tls_new(&s, why, 256);
}

struct tls *place_good(struct place *p, const char *name)
{
    char why[256] = "";
    struct tls *t = place_context(p, name, "ca", true, true, why);

    if (t == NULL)
        fail_msg("%s: %s", name, why);
    return t;
}

/* ---- an end ---- */

static void on_unpause(void *arg)
{
    struct end *e = arg;

    stream_pause(e->stream, false);
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct end *e = arg;

    assert_true(n > 0 && e->connected && !e->closed);
    buf_append(&e->in, bytes, n);
    e->reads++;
    if (e->pauses && end_random(e, 8) == 0) {
        stream_pause(e->stream, true);
        loop_timer_once(e->unpause, end_random(e, 3));
    }
}

void end_on_closed(void *arg, const char *why)
{
    struct end *e = arg;

    assert_false(e->closed);
    e->closed = true;
    (void)snprintf(e->why, sizeof e->why, "%s", why);
}

static void on_connected(void *arg)
{
    struct end *e = arg;

    assert_false(e->connected);
    e->connected = true;
}

static bool on_eof(void *arg)
{
    struct end *e = arg;

    e->at_eof = true;
    return e->keep_half;
}

const struct stream_events end_events = {
    .data = on_data, .closed = end_on_closed, .connected = on_connected, .eof = on_eof};

int listen_anywhere(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

void end_init(struct place *p, struct end *e, uint64_t seed)
{
    *e = (struct end){.place = p, .random = seed * 2654435761u + 88172645463325252u};
    e->unpause = loop_timer_new(p->loop, on_unpause, e);
}

void pair_connect(struct place *p, struct pair *x, struct tls *client, struct tls *server, const char *name)
{
    char address[64], why[256];
    int port, fd = listen_anywhere(&port), accepted;

    memset(x, 0, sizeof *x);
    end_init(p, &x->client, 1);
    end_init(p, &x->server, 2);
    x->client_tls = client;
    x->server_tls = server;
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", port);
    if (client != NULL)
        x->client.stream =
            stream_connect_tls(p->loop, address, client, name, &end_events, &x->client, why, sizeof why);
    else
        x->client.stream = stream_connect(p->loop, address, &end_events, &x->client, why, sizeof why);
    assert_non_null(x->client.stream);
    accepted = accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    (void)close(fd);
    if (server != NULL)
        x->server.stream = stream_accepted_tls(p->loop, accepted, server, &end_events, &x->server);
    else
        x->server.stream = stream_accepted(p->loop, accepted, &end_events, &x->server);
    x->server.connected = server == NULL;
}

void pair_close(struct pair *x)
{
    struct end *ends[] = {&x->client, &x->server};

    for (int i = 0; i < 2; i++) {
        stream_close(ends[i]->stream);
        loop_timer_free(ends[i]->unpause);
        buf_free(&ends[i]->in);
    }
    tls_free(x->client_tls);
    if (x->server_tls != x->client_tls)
        tls_free(x->server_tls);
}

bool both_connected(void *arg)
{
    struct pair *x = arg;

    return x->client.connected && x->server.connected;
}

bool one_closed(void *arg)
{
    return ((struct end *)arg)->closed;
}

bool both_closed(void *arg)
{
    struct pair *x = arg;

    return x->client.closed && x->server.closed;
}

void pair_good(struct place *p, struct pair *x)
{
    struct tls *client = place_good(p, "a"), *server = place_good(p, "b");

    pair_connect(p, x, client, server, "b.test");
    if (!place_run(p, both_connected, x))
        fail_msg("client: %s, server: %s", x->client.why, x->server.why);
}

bool all_arrived(void *arg)
{
    struct pair *x = arg;

    return x->client.in.len == x->server.to_send && x->server.in.len == x->client.to_send;
}

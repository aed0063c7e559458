/* Listening, by Valkey's rules: an address with '-' before it may be missing on this machine, '*' is every address of
 * IPv4, '::*' of IPv6.
 *
 * Each callback accepts a few connections and goes back to the loop, so that established clients are served first.
 * When there are no more descriptors (EMFILE), accepting pauses and a timer tries again: a level-triggered event
 * would spin. Likewise when no more TLS handshakes may begin (handshake.h), which then holds up the ports without TLS
 * for a moment, too. */
#include "proxy/listen.h"

#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/stream.h"
#include "proxy/handshake.h"
#include "proxy/relay.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

enum {
    LISTEN_SOCKETS_MAX = CONFIG_BIND_MAX * 4 + 1,
    ACCEPTS_PER_TURN_MAX = 64,
    TLS_ACCEPTS_PER_TURN_MAX = 16,
    ACCEPT_RETRY_MS = 20
};

struct port { /* what one is for */
    int number;
    bool unix_socket, reader, tls;
};
struct socket_event {
    struct listen *listen;
    struct event *event;
    int fd;
    struct port port;
};
struct listen {
    struct worker *worker;
    struct socket_event sockets[LISTEN_SOCKETS_MAX];
    size_t count;
    struct loop_timer *retry;
    struct handshakes *handshakes;
    char path[CONFIG_TEXT_MAX]; /* Unix socket to remove; "" = none */
};

static void keepalive(int fd, int seconds)
{
    int on = 1, interval = seconds / 3 > 0 ? seconds / 3 : 1, probes = 3;

    if (seconds == 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

/* In the middle of nothing, somebody who speaks TLS would not understand. */
static void reject(struct worker *w, int fd, bool tls)
{
    static const char text[] = "-ERR max number of clients reached\r\n";

    w->sessions_rejected++;
    if (!tls)
        (void)send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)close(fd);
}

static void set_accepting(struct listen *l, bool accepting)
{
    for (size_t i = 0; i < l->count; i++) {
        if (accepting)
            (void)event_add(l->sockets[i].event, NULL);
        else
            (void)event_del(l->sockets[i].event);
    }
}

static void on_retry(void *arg)
{
    set_accepting(arg, true);
}

static void pause_a_moment(struct listen *l)
{
    set_accepting(l, false);
    loop_timer_once(l->retry, ACCEPT_RETRY_MS);
}

/* The stream is set aside, or has just got through its handshake. */
static void take_client(struct worker *w, struct stream *s, const struct port *p)
{
    if (p->reader || worker_leads(w))
        (void)session_new(w, s, p->unix_socket, p->reader);
    else
        (void)relay_new(w, s, p->unix_socket);
}

static void on_handshake_done(void *arg, struct stream *s, bool reader)
{
    struct listen *l = arg;

    take_client(l->worker, s, &(struct port){.reader = reader, .tls = true});
}

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
    struct socket_event *e = arg;
    struct worker *w = e->listen->worker;
    struct handshakes *h = e->listen->handshakes;

    (void)what;
    for (int i = 0; i < (e->port.tls ? TLS_ACCEPTS_PER_TURN_MAX : ACCEPTS_PER_TURN_MAX); i++) {
        int client;

        if (e->port.tls && !handshakes_room(h)) {
            pause_a_moment(e->listen);
            return;
        }
        client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            diag_log(w->diag, diag_limited(&w->accepts_failed, loop_now_ms(w->loop), 1, DIAG_WARNING),
                     "Accepting client connection: %s", strerror(errno));
            pause_a_moment(e->listen);
        }
        if (client < 0)
            return; /* EAGAIN, or a connection that is gone already */
        if (worker_clients(w) + handshakes_count(h) >= (size_t)w->config->maxclients || w->draining) {
            reject(w, client, e->port.tls);
            continue;
        }
        if (!e->port.unix_socket)
            keepalive(client, w->config->tcp_keepalive_s);
        if (e->port.tls)
            handshakes_begin(h, client, e->port.reader);
        else
            take_client(w, stream_accepted(w->loop, client, NULL, NULL), &e->port);
    }
}

static void add_socket(struct listen *l, int fd, const struct port *p)
{
    struct socket_event *e = &l->sockets[l->count++];

    CHECK(l->count <= LISTEN_SOCKETS_MAX);
    e->listen = l;
    e->fd = fd;
    e->port = *p;
    e->event = event_new(loop_base(l->worker->loop), fd, EV_READ | EV_PERSIST, on_connection, e);
    CHECK(e->event != NULL);
    (void)event_add(e->event, NULL);
}

static int bind_one(const struct addrinfo *a, int backlog)
{
    int one = 1, error, fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, backlog) == 0)
        return fd;
    error = errno;
    (void)close(fd);
    errno = error;
    return -1;
}

static bool may_be_missing(int error)
{
    return error == EADDRNOTAVAIL || error == EAFNOSUPPORT || error == EPROTONOSUPPORT || error == ENOPROTOOPT;
}

static bool bind_address(struct listen *l, const char *address, const struct port *p, char *why, size_t why_size)
{
    const struct config *c = l->worker->config;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    bool optional = address[0] == '-';
    const char *host = optional ? address + 1 : address;
    char port[16];
    int rc, fd, error;

    (void)snprintf(port, sizeof port, "%d", p->number);
    hints.ai_family = strcmp(host, "*") == 0 ? AF_INET : strchr(host, ':') != NULL ? AF_INET6 : AF_UNSPEC;
    if (strcmp(host, "*") == 0 || strcmp(host, "::*") == 0)
        rc = getaddrinfo(NULL, port, &hints, &found);
    else
        rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        (void)snprintf(why, why_size, "Could not create server TCP listening socket %s:%s: %s", host, port,
                       gai_strerror(rc));
        return optional;
    }
    fd = bind_one(found, c->tcp_backlog);
    error = errno;
    freeaddrinfo(found);
    if (fd >= 0) {
        add_socket(l, fd, p);
        return true;
    }
    (void)snprintf(why, why_size, "Could not create server TCP listening socket %s:%s: bind: %s", host, port,
                   strerror(error));
    return optional && may_be_missing(error);
}

static bool bind_unix(struct listen *l, char *why, size_t why_size)
{
    const struct config *c = l->worker->config;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = -1;

    if (strlen(c->unixsocket) >= sizeof to.sun_path) {
        (void)snprintf(why, why_size, "Failed opening Unix socket: path too long");
        return false;
    }
    memcpy(to.sun_path, c->unixsocket, strlen(c->unixsocket) + 1);
    (void)unlink(to.sun_path); /* left behind by a killed process */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        (c->unixsocketperm != 0 && chmod(to.sun_path, (mode_t)c->unixsocketperm) != 0) ||
        listen(fd, c->tcp_backlog) != 0) {
        (void)snprintf(why, why_size, "Failed opening Unix socket: bind: %s", strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    (void)snprintf(l->path, sizeof l->path, "%s", to.sun_path);
    add_socket(l, fd, &(struct port){.unix_socket = true});
    return true;
}

static bool bind_port(struct listen *l, const struct port *p, char *why, size_t why_size)
{
    const struct config *c = l->worker->config;

    for (size_t i = 0; p->number != 0 && i < c->bind_count; i++)
        if (!bind_address(l, c->bind[i], p, why, why_size))
            return false;
    return true;
}

struct listen *listen_new(struct worker *w, char *why, size_t why_size)
{
    struct listen *l = must_calloc(1, sizeof *l);
    const struct config *c = w->config;
    const struct port ports[] = {{.number = c->port},
                                 {.number = c->reader_port, .reader = true},
                                 {.number = c->tls_port, .tls = true},
                                 {.number = c->tls_reader_port, .reader = true, .tls = true}};
    bool ok = true;

    l->worker = w;
    l->retry = loop_timer_new(w->loop, on_retry, l);
    l->handshakes = handshakes_new(w, on_handshake_done, l);
    why[0] = '\0';
    for (size_t i = 0; ok && i < sizeof ports / sizeof *ports; i++)
        ok = bind_port(l, &ports[i], why, why_size);
    if (ok && c->unixsocket[0] != '\0')
        ok = bind_unix(l, why, why_size);
    if (ok && l->count == 0) {
        if (why[0] == '\0')
            (void)snprintf(why, why_size, "Configured to not listen anywhere");
        ok = false;
    }
    if (ok)
        return l;
    listen_free(l);
    return NULL;
}

void listen_pause(struct listen *l)
{
    loop_timer_stop(l->retry);
    set_accepting(l, false);
    handshakes_close(l->handshakes);
}

void listen_free(struct listen *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->count; i++) {
        event_free(l->sockets[i].event);
        (void)close(l->sockets[i].fd);
    }
    if (l->path[0] != '\0')
        (void)unlink(l->path);
    loop_timer_free(l->retry);
    handshakes_free(l->handshakes);
    free(l);
}

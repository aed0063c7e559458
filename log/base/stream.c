/* A stream on the loop. Life:
 *
 *     CONNECTING ──connected──▶ OPEN ──EOF, error──▶ DEAD ──stream_close()──▶ (freed at the end of the turn)
 *          └───────failed──────────────────────────▶ DEAD
 *     OPEN ──stream_finish()──▶ FINISHING ──all sent, or peer gone──▶ DEAD
 *
 * A write that fails is noticed while the loop flushes; closed() is then called from a zero timer, never from inside
 * a call of the owner. */
#include "log/base/stream.h"

#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream_loop.h"

enum { OUT_KEEP_BYTES_MAX = 32 * 1024, WHY_BYTES_MAX = 96 };

enum stream_state { CONNECTING, OPEN, FINISHING, DEAD };

struct stream {
    struct loop *loop;
    int fd;
    enum stream_state state;
    bool paused, closed, in_dirty, blocked, eof;
    struct stream *next_dirty;
    struct event *read_event, *write_event;
    const struct stream_events *events;
    void *arg;
    struct buf out;
    char *why; /* set while a closed() is due */
};

struct stream *stream_link_dirty(struct stream *s, struct stream *next)
{
    if (s->in_dirty)
        return next;
    s->in_dirty = true;
    s->next_dirty = next;
    return s;
}

struct stream *stream_unlink_dirty(struct stream *s)
{
    s->in_dirty = false;
    return s->next_dirty;
}

static void want_read(struct stream *s)
{
    if (!s->paused && !s->eof && s->state == OPEN)
        (void)event_add(s->read_event, NULL);
    else
        (void)event_del(s->read_event);
}

/* Tells the owner once; from a callback of the loop. */
static void die(struct stream *s, const char *why)
{
    if (s->state == DEAD || s->closed)
        return;
    s->state = DEAD;
    (void)event_del(s->read_event);
    (void)event_del(s->write_event);
    s->events->closed(s->arg, why);
}

/* The same from inside the loop's flush: by way of the write event, made active at once. */
static void die_soon(struct stream *s, const char *why)
{
    if (s->why != NULL || s->state == DEAD)
        return;
    s->why = must_strdup(why);
    (void)event_del(s->read_event);
    event_active(s->write_event, EV_WRITE, 1);
}

static void end_of_input(struct stream *s)
{
    s->eof = true;
    want_read(s);
    if (s->events->eof == NULL || !s->events->eof(s->arg))
        die(s, "closed by the other end");
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;
    char *scratch = loop_scratch(s->loop);
    ssize_t n;

    (void)what;
    if (s->closed || s->state != OPEN || s->paused)
        return;
    n = read(fd, scratch, LOOP_SCRATCH_BYTES);
    if (n > 0)
        s->events->data(s->arg, scratch, (size_t)n);
    else if (n == 0)
        end_of_input(s);
    else if (errno != EAGAIN && errno != EINTR)
        die(s, strerror(errno));
}

static void on_connected(struct stream *s)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0) {
        die(s, strerror(error));
        return;
    }
    s->state = OPEN;
    want_read(s);
    if (s->out.len > 0)
        loop_mark_dirty(s->loop, s);
    if (s->events->connected != NULL)
        s->events->connected(s->arg);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    (void)what;
    if (s->closed)
        return;
    if (s->why != NULL) {
        die(s, s->why);
    } else if (s->state == CONNECTING) {
        on_connected(s);
    } else {
        s->blocked = false;
        loop_mark_dirty(s->loop, s);
    }
}

static void all_sent(struct stream *s)
{
    if (s->out.cap > OUT_KEEP_BYTES_MAX || s->state == FINISHING)
        buf_free(&s->out);
    if (s->state == FINISHING)
        die_soon(s, "finished");
    else if (s->events->sent != NULL)
        s->events->sent(s->arg);
}

void stream_flush(struct stream *s)
{
    ssize_t n;

    if (s->closed || s->blocked || (s->state != OPEN && s->state != FINISHING) || s->why != NULL)
        return;
    if (s->out.failed) {
        die_soon(s, "out of memory for output");
        return;
    }
    if (s->out.len == 0) {
        all_sent(s);
        return;
    }
    n = send(s->fd, buf_head(&s->out), s->out.len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        die_soon(s, strerror(errno));
        return;
    }
    if (n > 0)
        buf_consume(&s->out, (size_t)n);
    if (s->out.len == 0) {
        all_sent(s);
    } else {
        s->blocked = true;
        (void)event_add(s->write_event, NULL);
    }
}

static struct stream *stream_new(struct loop *l, int fd, enum stream_state state, const struct stream_events *events,
                                 void *arg)
{
    struct stream *s = must_calloc(1, sizeof *s);
    int one = 1;

    (void)evutil_make_socket_nonblocking(fd);
    (void)evutil_make_socket_closeonexec(fd);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails harmlessly on a Unix socket */
    s->loop = l;
    s->fd = fd;
    s->state = state;
    s->events = events;
    s->arg = arg;
    s->read_event = event_new(loop_base(l), fd, EV_READ | EV_PERSIST, on_readable, s);
    s->write_event = event_new(loop_base(l), fd, EV_WRITE, on_writable, s);
    CHECK(s->read_event != NULL && s->write_event != NULL);
    return s;
}

struct stream *stream_accepted(struct loop *l, int fd, const struct stream_events *events, void *arg)
{
    struct stream *s = stream_new(l, fd, OPEN, events, arg);

    want_read(s);
    return s;
}

static int connect_unix(const char *path, char *why, size_t why_size)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof to.sun_path) {
        (void)snprintf(why, why_size, "socket path too long");
        return -1;
    }
    memcpy(to.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        (void)close(fd);
        return -1;
    }
    return fd;
}

static int connect_tcp(const char *address, char *why, size_t why_size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    const char *colon = strrchr(address, ':');
    char host[256];
    size_t n;
    int fd, rc;

    if (colon == NULL || (n = (size_t)(colon - address)) >= sizeof host) {
        (void)snprintf(why, why_size, "not host:port");
        return -1;
    }
    if (n >= 2 && address[0] == '[' && address[n - 1] == ']')
        (void)snprintf(host, sizeof host, "%.*s", (int)(n - 2), address + 1);
    else
        (void)snprintf(host, sizeof host, "%.*s", (int)n, address);
    if ((rc = getaddrinfo(host, colon + 1, &hints, &found)) != 0) {
        (void)snprintf(why, why_size, "%s", gai_strerror(rc));
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        (void)close(fd);
        fd = -1;
    } else if (fd < 0) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
    }
    freeaddrinfo(found);
    return fd;
}

struct stream *stream_connect(struct loop *l, const char *address, const struct stream_events *events, void *arg,
                              char *why, size_t why_size)
{
    struct stream *s;
    int fd = address[0] == '/' ? connect_unix(address, why, why_size) : connect_tcp(address, why, why_size);

    if (fd < 0)
        return NULL;
    s = stream_new(l, fd, CONNECTING, events, arg);
    (void)event_add(s->write_event, NULL);
    return s;
}

static void release(void *object)
{
    struct stream *s = object;

    event_free(s->read_event);
    event_free(s->write_event);
    (void)close(s->fd);
    buf_free(&s->out);
    free(s->why);
    free(s);
}

void stream_close(struct stream *s)
{
    if (s == NULL || s->closed)
        return;
    s->closed = true;
    s->state = DEAD;
    (void)event_del(s->read_event);
    (void)event_del(s->write_event);
    loop_bury(s->loop, s, release);
}

void stream_finish(struct stream *s)
{
    if (s->state != OPEN)
        return;
    s->state = FINISHING;
    (void)event_del(s->read_event);
    loop_mark_dirty(s->loop, s);
}

struct buf *stream_out(struct stream *s)
{
    loop_mark_dirty(s->loop, s);
    return &s->out;
}

void stream_write(struct stream *s, const void *bytes, size_t n)
{
    buf_append(&s->out, bytes, n);
    loop_mark_dirty(s->loop, s);
}

size_t stream_pending(const struct stream *s)
{
    return s->out.len;
}

void stream_pause(struct stream *s, bool pause)
{
    if (s->paused == pause)
        return;
    s->paused = pause;
    want_read(s);
}

static bool address_text(const struct sockaddr_storage *a, socklen_t size, bool with_port, char *out, size_t out_size)
{
    char host[256], port[16];

    if (a->ss_family == AF_UNIX || getnameinfo((const struct sockaddr *)a, size, host, sizeof host, port, sizeof port,
                                               NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return false;
    if (!with_port)
        (void)snprintf(out, out_size, "%s", host);
    else
        (void)snprintf(out, out_size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return true;
}

bool stream_local_address(const struct stream *s, char *out, size_t size)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;

    return getsockname(s->fd, (struct sockaddr *)&a, &n) == 0 && address_text(&a, n, false, out, size);
}

bool stream_remote_address(const struct stream *s, char *out, size_t size)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;

    if (getpeername(s->fd, (struct sockaddr *)&a, &n) == 0 && address_text(&a, n, true, out, size))
        return true;
    (void)snprintf(out, size, "unix");
    return false;
}

int stream_fd(const struct stream *s)
{
    return s->fd;
}

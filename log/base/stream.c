/* A stream on the loop. Life:
 *
 *     CONNECTING ──connected──▶ OPEN ──EOF, error──▶ DEAD ──stream_close()──▶ (freed at the end of the turn)
 *          │  └─TLS──▶ HANDSHAKE ──done──▶ OPEN
 *          └──failed──────┴────────────────────────▶ DEAD
 *     OPEN ──stream_finish()──▶ FINISHING ──all sent, or peer gone──▶ DEAD
 *
 * A write that fails is noticed while the loop flushes; closed() is then called from a zero timer, never from inside
 * a call of the owner. While a stream is set aside (no owner: events is NULL) it waits: `why` keeps a death, `early`
 * the bytes that were given back. */
#include "log/base/stream.h"

#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/address.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream_internal.h"
#include "log/base/stream_loop.h"
#include "log/base/stream_tls.h"
#include "log/base/tls.h"

bool stream_link_dirty(struct stream *s, struct stream *last)
{
    if (s->in_dirty)
        return false;
    s->in_dirty = true;
    s->next_dirty = NULL;
    if (last != NULL)
        last->next_dirty = s;
    return true;
}

struct stream *stream_unlink_dirty(struct stream *s)
{
    s->in_dirty = false;
    return s->next_dirty;
}

struct stream *stream_link_kicked(struct stream *s, struct stream *next)
{
    if (s->in_kicked)
        return next;
    s->in_kicked = true;
    s->next_kicked = next;
    return s;
}

struct stream *stream_unlink_kicked(struct stream *s)
{
    s->in_kicked = false;
    return s->next_kicked;
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
    s->read_event = event_new(loop_base(l), fd, EV_READ | EV_PERSIST, stream_on_readable, s);
    s->write_event = event_new(loop_base(l), fd, EV_WRITE, stream_on_writable, s);
    CHECK(s->read_event != NULL && s->write_event != NULL);
    return s;
}

static void on_deadline(void *arg)
{
    stream_die(arg, ((struct stream *)arg)->state == PEEKING ? "it has said nothing" : "no TLS handshake in time");
}

static void set_deadline(struct stream *s)
{
    s->deadline = loop_timer_new(s->loop, on_deadline, s);
    loop_timer_once(s->deadline, HANDSHAKE_MS_MAX);
}

void stream_start_tls(struct stream *s, const struct tls *tls, bool accepting, const char *name)
{
    s->tls = stream_tls_new(tls, s->fd, accepting, name);
    if (s->deadline == NULL)
        set_deadline(s);
}

struct stream *stream_accepted(struct loop *l, int fd, const struct stream_events *events, void *arg)
{
    struct stream *s = stream_new(l, fd, OPEN, events, arg);

    stream_want_read(s);
    return s;
}

struct stream *stream_accepted_tls(struct loop *l, int fd, struct tls *tls, const struct stream_events *events,
                                   void *arg)
{
    struct stream *s = stream_new(l, fd, HANDSHAKE, events, arg);

    stream_start_tls(s, tls, true, "");
    stream_want_read(s);
    return s;
}

struct stream *stream_accepted_either(struct loop *l, int fd, struct tls *tls, const struct stream_events *events,
                                      void *arg)
{
    struct stream *s = stream_new(l, fd, PEEKING, events, arg);

    s->offered = tls;
    set_deadline(s);
    stream_want_read(s);
    return s;
}

bool stream_is_tls(const struct stream *s)
{
    return s->tls != NULL;
}

struct stream *stream_connect(struct loop *l, const char *address, const struct stream_events *events, void *arg,
                              char *why, size_t why_size)
{
    int fd = address_connect(address, why, why_size);
    struct stream *s;

    if (fd < 0)
        return NULL;
    s = stream_new(l, fd, CONNECTING, events, arg);
    (void)event_add(s->write_event, NULL);
    return s;
}

struct stream *stream_connect_tls(struct loop *l, const char *address, struct tls *tls, const char *name,
                                  const struct stream_events *events, void *arg, char *why, size_t why_size)
{
    struct stream *s = stream_connect(l, address, events, arg, why, why_size);

    if (s != NULL)
        stream_start_tls(s, tls, false, name);
    return s;
}

struct stream *stream_connect_either(struct loop *l, const char *address, struct tls *tls,
                                     const struct stream_events *events, void *arg, char *why, size_t why_size)
{
    if (tls == NULL)
        return stream_connect(l, address, events, arg, why, why_size);
    return stream_connect_tls(l, address, tls, tls_server_name(tls), events, arg, why, why_size);
}

static void release(void *object)
{
    struct stream *s = object;

    event_free(s->read_event);
    event_free(s->write_event);
    stream_tls_free(s->tls);
    (void)close(s->fd);
    buf_free(&s->out);
    buf_free(&s->early);
    free(s->why);
    free(s);
}

void stream_close(struct stream *s)
{
    if (s == NULL || s->closed)
        return;
    if (s->tls != NULL && s->state == OPEN && s->out.len == 0)
        stream_tls_bye(s->tls);
    s->closed = true;
    s->state = DEAD;
    loop_timer_free(s->deadline);
    s->deadline = NULL;
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

bool stream_peer_is(const struct stream *s, const char *name)
{
    return s->tls != NULL && stream_tls_peer_is(s->tls, name);
}

void stream_set_aside(struct stream *s, const void *unused, size_t n)
{
    CHECK(s->events != NULL && s->early.len == 0 && !s->closed);
    s->events = NULL;
    buf_append(&s->early, unused, n);
    if (s->early.failed)
        stream_die_soon(s, "out of memory for input");
    stream_want_read(s);
}

void stream_hand_over(struct stream *s, const struct stream_events *events, void *arg)
{
    CHECK(!s->closed);
    s->events = events;
    s->arg = arg;
    stream_want_read(s);
    if (s->early.len > 0)
        stream_kick(s); /* also if it has died since */
    if (s->why != NULL)
        event_active(s->write_event, EV_WRITE, 1);
    else if (s->out.len > 0)
        loop_mark_dirty(s->loop, s);
}

struct buf *stream_out(struct stream *s)
{
    if (!s->in_dirty)
        loop_mark_dirty(s->loop, s);
    return &s->out;
}

void stream_write(struct stream *s, const void *bytes, size_t n)
{
    buf_append(stream_out(s), bytes, n);
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
    stream_want_read(s);
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

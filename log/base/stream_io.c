/* Reading and writing a stream when its socket is ready. One read a turn; all output with one write at its end.
 *
 * With TLS, bytes may be ready inside OpenSSL while the socket has none, so that epoll stays silent. Two rules keep
 * them from being forgotten: reading goes on until OpenSSL itself asks for the socket, and whenever reading begins
 * again (handshake done, unpaused, handed over) the read event is made active by hand: stream_kick(). That is done at
 * the end of the turn: whoever has much to say does not keep the others from theirs. */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream_internal.h"
#include "log/base/stream_loop.h"
#include "log/base/stream_tls.h"

enum { OUT_KEEP_BYTES_MAX = 32 * 1024, TLS_TURN_BYTES_MAX = 256 * 1024, TLS_FIRST_BYTE = 0x16 /* a handshake */ };

void stream_kick(struct stream *s)
{
    loop_kick(s->loop, s);
}

void stream_wake(struct stream *s)
{
    if (!s->closed)
        event_active(s->read_event, EV_READ, 1);
}

static bool reading(const struct stream *s)
{
    return s->state == OPEN && !s->paused && !s->eof && s->events != NULL && s->why == NULL;
}

void stream_want_read(struct stream *s)
{
    if (!reading(s) && s->state != HANDSHAKE && s->state != PEEKING && !s->write_on_read) {
        (void)event_del(s->read_event);
        return;
    }
    (void)event_add(s->read_event, NULL);
    if (s->tls != NULL || s->early.len > 0)
        stream_kick(s);
}

/* Tells the owner once; from a callback of the loop. */
void stream_die(struct stream *s, const char *why)
{
    if (s->state == DEAD || s->closed)
        return;
    (void)event_del(s->read_event);
    (void)event_del(s->write_event);
    if (s->events == NULL) {
        if (s->why == NULL)
            s->why = must_strdup(why);
        return;
    }
    s->state = DEAD;
    s->events->closed(s->arg, why);
}

/* The same from inside the loop's flush: by way of the write event, made active at once. */
void stream_die_soon(struct stream *s, const char *why)
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
    stream_want_read(s);
    if (s->events->eof == NULL || !s->events->eof(s->arg))
        stream_die(s, "closed by the other end");
}

static void read_early(struct stream *s)
{
    struct buf early = {0};

    buf_move(&early, &s->early);
    stream_kick(s); /* what follows them */
    s->events->data(s->arg, buf_head(&early), early.len);
    buf_free(&early);
}

static void read_plain(struct stream *s)
{
    char *scratch = loop_scratch(s->loop);
    ssize_t n = read(s->fd, scratch, LOOP_SCRATCH_BYTES);

    if (n > 0)
        s->events->data(s->arg, scratch, (size_t)n);
    else if (n == 0)
        end_of_input(s);
    else if (errno != EAGAIN && errno != EINTR)
        stream_die(s, strerror(errno));
}

static void read_tls(struct stream *s)
{
    for (size_t total = 0, n = 0; total < TLS_TURN_BYTES_MAX; total += n) {
        enum tls_io io = stream_tls_read(s->tls, loop_scratch(s->loop), LOOP_SCRATCH_BYTES, &n);

        if (n > 0)
            s->events->data(s->arg, loop_scratch(s->loop), n);
        if (s->closed || s->early.len > 0 || !reading(s))
            return; /* what else there is shows itself again when reading goes on */
        switch (io) {
        case TLS_IO_DONE:
            break;
        case TLS_IO_WANT_READ:
            return;
        case TLS_IO_WANT_WRITE:
            (void)event_add(s->write_event, NULL); /* then stream_on_writable() reads again */
            return;
        case TLS_IO_EOF:
            end_of_input(s);
            return;
        case TLS_IO_FAILED:
            stream_die(s, stream_tls_why(s->tls));
            return;
        }
    }
    stream_kick(s); /* the others' turn */
}

static void opened(struct stream *s)
{
    s->state = OPEN;
    loop_timer_free(s->deadline);
    s->deadline = NULL;
    stream_want_read(s);
    if (s->out.len > 0)
        loop_mark_dirty(s->loop, s);
    if (s->events != NULL && s->events->connected != NULL)
        s->events->connected(s->arg);
}

static void handshake(struct stream *s)
{
    switch (stream_tls_handshake(s->tls)) {
    case TLS_IO_DONE:
        opened(s);
        break;
    case TLS_IO_WANT_READ:
        (void)event_add(s->read_event, NULL);
        break;
    case TLS_IO_WANT_WRITE:
        (void)event_add(s->write_event, NULL);
        break;
    case TLS_IO_EOF:
    case TLS_IO_FAILED:
        stream_die(s, stream_tls_why(s->tls));
        break;
    }
}

static void peek(struct stream *s)
{
    unsigned char first;
    ssize_t n = recv(s->fd, &first, 1, MSG_PEEK);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        stream_die(s, n == 0 ? "closed by the other end" : strerror(errno));
    } else if (first != TLS_FIRST_BYTE) {
        opened(s);
    } else if (s->offered == NULL) {
        stream_die(s, "it speaks TLS, and there is no certificate for that");
    } else {
        s->state = HANDSHAKE;
        stream_start_tls(s, s->offered, true, "");
        s->offered = NULL;
        handshake(s);
    }
}

void stream_on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    (void)what;
    if (s->closed)
        return;
    if (s->early.len > 0 && s->events != NULL && !s->paused) {
        read_early(s);
        return;
    }
    if (s->why != NULL)
        return;
    if (s->tls != NULL)
        stream_tls_readable(s->tls);
    if (s->state == HANDSHAKE) {
        handshake(s);
        return;
    }
    if (s->state == PEEKING) {
        peek(s);
        return;
    }
    if (s->write_on_read) {
        s->write_on_read = s->blocked = false;
        loop_mark_dirty(s->loop, s);
    }
    if (!reading(s))
        return;
    if (s->tls != NULL)
        read_tls(s);
    else
        read_plain(s);
}

static void on_connected(struct stream *s)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0) {
        stream_die(s, strerror(error));
    } else if (s->tls != NULL) {
        s->state = HANDSHAKE;
        handshake(s);
    } else {
        opened(s);
    }
}

void stream_on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    (void)what;
    if (s->closed)
        return;
    if (s->why != NULL) {
        stream_die(s, s->why);
    } else if (s->state == CONNECTING) {
        on_connected(s);
    } else if (s->state == HANDSHAKE) {
        handshake(s);
    } else {
        s->blocked = false;
        loop_mark_dirty(s->loop, s);
        if (s->tls != NULL && reading(s))
            stream_kick(s); /* a read may have waited for this */
    }
}

static void all_sent(struct stream *s)
{
    if (s->out.cap > OUT_KEEP_BYTES_MAX || s->state == FINISHING)
        buf_free(&s->out);
    if (s->state == FINISHING) {
        if (s->tls != NULL)
            stream_tls_bye(s->tls);
        stream_die_soon(s, "finished");
    } else if (s->events != NULL && s->events->sent != NULL) {
        s->events->sent(s->arg);
    }
}

/* Both: one turn's worth. True: the kernel took it all, or as much as it could. */
static bool send_plain(struct stream *s)
{
    ssize_t n = send(s->fd, buf_head(&s->out), s->out.len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        stream_die_soon(s, strerror(errno));
        return false;
    }
    if (n > 0)
        buf_consume(&s->out, (size_t)n);
    return true;
}

static bool send_tls(struct stream *s)
{
    size_t n;

    for (size_t total = 0; s->out.len > 0 && total < TLS_TURN_BYTES_MAX; total += n) {
        switch (stream_tls_write(s->tls, buf_head(&s->out), s->out.len, &n)) {
        case TLS_IO_DONE:
            buf_consume(&s->out, n);
            break;
        case TLS_IO_WANT_WRITE:
            return true;
        case TLS_IO_WANT_READ:
            s->write_on_read = true;
            stream_want_read(s);
            return true;
        case TLS_IO_EOF:
        case TLS_IO_FAILED:
            stream_die_soon(s, stream_tls_why(s->tls));
            return false;
        }
    }
    return true;
}

/* Marked as dirty while it appends, so that it is not flushed again for that. */
static bool fill(struct stream *s)
{
    bool more;

    if (s->state != OPEN || s->events == NULL || s->events->fill == NULL)
        return false;
    s->in_dirty = true;
    more = s->events->fill(s->arg);
    s->in_dirty = false;
    return more;
}

void stream_flush(struct stream *s)
{
    bool more;

    if (s->closed || s->blocked || (s->state != OPEN && s->state != FINISHING) || s->why != NULL)
        return;
    more = fill(s);
    if (s->closed)
        return;
    if (s->out.failed) {
        stream_die_soon(s, "out of memory for output");
        return;
    }
    if (s->out.len > 0 && !(s->tls != NULL ? send_tls(s) : send_plain(s)))
        return;
    if (s->out.len == 0 && !more) {
        all_sent(s);
        return;
    }
    s->blocked = true;
    if (!s->write_on_read)
        (void)event_add(s->write_event, NULL);
}

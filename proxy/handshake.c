/* The list of handshakes, oldest first, and what the log says of those that fail: who and why, but not so much of it
 * that somebody who tries doors could fill a disk. Who leaves without a word (a health check) is told at `verbose`.
 */
#include "proxy/handshake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "log/base/stream.h"
#include "proxy/certs.h"
#include "proxy/worker_state.h"

enum { ADDRESS_BYTES = 112 };

struct handshake {
    TAILQ_ENTRY(handshake) in_list;
    struct handshakes *all;
    struct stream *stream;
    bool reader;
    uint64_t began_ms;
    char from[ADDRESS_BYTES]; /* afterwards, the socket may not know it any more */
};
struct handshakes {
    struct worker *worker;
    void (*done)(void *arg, struct stream *s, bool reader);
    void *arg;
    TAILQ_HEAD(, handshake) list;
    size_t count, lines, untold;
    struct loop_timer *window; /* runs while lines are counted */
};

static void end(struct handshake *one)
{
    TAILQ_REMOVE(&one->all->list, one, in_list);
    one->all->count--;
    free(one);
}

static void on_window(void *arg)
{
    struct handshakes *h = arg;

    if (h->untold > 0)
        diag_log(h->worker->diag, DIAG_WARNING, "Error accepting client connections: %zu more in the last %d seconds",
                 h->untold, HANDSHAKE_LINES_MS / 1000);
    h->lines = h->untold = 0;
}

static void tell(const struct handshake *one, const char *why)
{
    struct handshakes *h = one->all;
    bool silent = strncmp(why, "closed by the other end", strlen("closed by the other end")) == 0;

    h->worker->handshakes_failed++;
    if (silent) {
        diag_log(h->worker->diag, DIAG_VERBOSE, "Error accepting a client connection: %s (addr=%s)", why, one->from);
        return;
    }
    if (h->lines == HANDSHAKE_LINES_MAX) {
        h->untold++;
        return;
    }
    if (h->lines++ == 0)
        loop_timer_once(h->window, HANDSHAKE_LINES_MS);
    diag_log(h->worker->diag, DIAG_WARNING, "Error accepting a client connection: %s (addr=%s)", why, one->from);
}

static void give_up(struct handshake *one, const char *why)
{
    tell(one, why);
    stream_close(one->stream);
    end(one);
}

/* ---- callbacks of the stream ---- */

static void on_connected(void *arg)
{
    struct handshake *one = arg;
    struct handshakes *h = one->all;
    struct stream *s = one->stream;
    bool reader = one->reader;

    end(one);
    h->done(h->arg, s, reader);
}

static void on_closed(void *arg, const char *why)
{
    give_up(arg, why);
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    (void)arg;
    (void)bytes;
    (void)n;
    CHECK(n == 0); /* the stream has another owner by then */
}

static const struct stream_events events = {.data = on_data, .closed = on_closed, .connected = on_connected};

/* ---- the door ---- */

struct handshakes *handshakes_new(struct worker *w, void (*done)(void *arg, struct stream *s, bool reader), void *arg)
{
    struct handshakes *h = must_calloc(1, sizeof *h);

    h->worker = w;
    h->done = done;
    h->arg = arg;
    TAILQ_INIT(&h->list);
    h->window = loop_timer_new(w->loop, on_window, h);
    return h;
}

bool handshakes_room(struct handshakes *h)
{
    struct handshake *oldest = TAILQ_FIRST(&h->list);

    if (h->count < HANDSHAKES_MAX)
        return true;
    if (loop_now_ms(h->worker->loop) < oldest->began_ms + HANDSHAKE_GRACE_MS)
        return false;
    give_up(oldest, "too many TLS handshakes at once, and this one is slow");
    return true;
}

void handshakes_begin(struct handshakes *h, int fd, bool reader)
{
    struct handshake *one = must_calloc(1, sizeof *one);

    one->all = h;
    one->reader = reader;
    one->began_ms = loop_now_ms(h->worker->loop);
    TAILQ_INSERT_TAIL(&h->list, one, in_list);
    h->count++;
    one->stream = stream_accepted_tls(h->worker->loop, fd, certs_clients(h->worker->set.certs), &events, one);
    (void)stream_remote_address(one->stream, one->from, sizeof one->from);
}

size_t handshakes_count(const struct handshakes *h)
{
    return h->count;
}

void handshakes_close(struct handshakes *h)
{
    struct handshake *one;

    while ((one = TAILQ_FIRST(&h->list)) != NULL) {
        stream_close(one->stream);
        end(one);
    }
}

void handshakes_free(struct handshakes *h)
{
    if (h == NULL)
        return;
    handshakes_close(h);
    loop_timer_free(h->window);
    free(h);
}

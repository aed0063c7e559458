/* A connection for one purpose: dialled, proven, and handed to whoever asked for it. It is not tried again.
 *
 * When another node begins to lead, thousands of clients are relayed to it at once. Each connection costs both ends a
 * TLS handshake, so at most PEER_DIALS_MAX are under way; the others wait their turn, for PEER_DIAL_WAIT_MS_MAX. All
 * at once, none would be done before its deadline. */
#include <stdlib.h>
#include <utlist.h>

#include "log/peer_internal.h"

struct peer_dial {
    struct peers *peers;
    struct peer_conn *conn;     /* NULL: waits */
    struct loop_timer *timeout; /* of the waiting */
    struct peer_dial *prev, *next;
    struct member to;
    enum peer_purpose purpose;
    struct buf extra;
    void (*done)(void *arg, struct stream *s, const char *why);
    void *arg;
};

static void start(struct peer_dial *d);

static void release(void *object)
{
    struct peer_dial *d = object;

    buf_free(&d->extra);
    free(d);
}

/* The one door out; the next one's turn. */
static void end(struct peer_dial *d)
{
    struct peers *p = d->peers;

    if (d->conn != NULL) {
        DL_DELETE(p->dials, d);
        p->dial_count--;
    } else {
        DL_DELETE(p->waiting, d);
    }
    loop_timer_free(d->timeout);
    loop_bury(p->loop, d, release);
    if (p->waiting != NULL && p->dial_count < PEER_DIALS_MAX)
        start(p->waiting);
}

static void on_ready(void *arg, const struct peer_hello *h)
{
    struct peer_dial *d = arg;
    struct stream *s = conn_take(d->conn);

    (void)h;
    end(d);
    d->done(d->arg, s, NULL);
}

static void on_closed(void *arg, const char *why, bool refused)
{
    struct peer_dial *d = arg;

    (void)refused;
    end(d);
    d->done(d->arg, NULL, why);
}

static void on_timeout(void *arg)
{
    struct peer_dial *d = arg;

    end(d);
    d->done(d->arg, NULL, "too many connections to members are being made");
}

static const struct peer_conn_events conn_callbacks = {.ready = on_ready, .closed = on_closed};

static void start(struct peer_dial *d)
{
    struct peers *p = d->peers;

    loop_timer_stop(d->timeout);
    DL_DELETE(p->waiting, d);
    DL_APPEND(p->dials, d);
    p->dial_count++;
    d->conn = conn_dial(p, &d->to, d->purpose, buf_head(&d->extra), d->extra.len, &conn_callbacks, d);
}

struct peer_dial *peers_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                             size_t n, void (*done)(void *arg, struct stream *s, const char *why), void *arg)
{
    struct peer_dial *d = must_calloc(1, sizeof *d);

    CHECK((purpose == PEER_FETCH || purpose == PEER_RELAY) && n <= PEER_EXTRA_BYTES_MAX);
    d->peers = p;
    d->to = *to;
    d->purpose = purpose;
    buf_append(&d->extra, extra, n);
    CHECK(!d->extra.failed);
    d->done = done;
    d->arg = arg;
    d->timeout = loop_timer_new(p->loop, on_timeout, d);
    DL_APPEND(p->waiting, d);
    if (p->dial_count < PEER_DIALS_MAX)
        start(d);
    else
        loop_timer_once(d->timeout, PEER_DIAL_WAIT_MS_MAX);
    return d;
}

void peer_dial_cancel(struct peer_dial *d)
{
    conn_close(d->conn);
    end(d);
}

/* A connection for one purpose: dialled, proven, and handed to whoever asked for it. It is not tried again. */
#include <stdlib.h>

#include "log/peer_internal.h"

struct peer_dial {
    struct peers *peers;
    struct peer_conn *conn;
    struct peer_dial **place, *next;
    void (*done)(void *arg, struct stream *s, const char *why);
    void *arg;
};

static void remove_dial(struct peer_dial *d)
{
    *d->place = d->next;
    if (d->next != NULL)
        d->next->place = d->place;
    loop_bury(d->peers->loop, d, free);
}

static void on_ready(void *arg, const struct peer_hello *h)
{
    struct peer_dial *d = arg;
    struct stream *s = conn_take(d->conn);

    (void)h;
    remove_dial(d);
    d->done(d->arg, s, NULL);
}

static void on_closed(void *arg, const char *why, bool refused)
{
    struct peer_dial *d = arg;

    (void)refused;
    remove_dial(d);
    d->done(d->arg, NULL, why);
}

static const struct peer_conn_events conn_callbacks = {.ready = on_ready, .closed = on_closed};

struct peer_dial *peers_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                             size_t n, void (*done)(void *arg, struct stream *s, const char *why), void *arg)
{
    struct peer_dial *d = must_calloc(1, sizeof *d);

    CHECK(purpose == PEER_FETCH || purpose == PEER_RELAY);
    d->peers = p;
    d->done = done;
    d->arg = arg;
    d->next = p->dials;
    d->place = &p->dials;
    if (d->next != NULL)
        d->next->place = &d->next;
    p->dials = d;
    d->conn = conn_dial(p, to, purpose, extra, n, &conn_callbacks, d);
    return d;
}

void peer_dial_cancel(struct peer_dial *d)
{
    conn_close(d->conn);
    remove_dial(d);
}

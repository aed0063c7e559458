/* Between the files of the peer links only:
 *
 *   peer.c         the door; listening; what is said once a minute
 *   peer_link.c    our link to a member: dialling again, the queue, entries in pieces, silence
 *   peer_accept.c  who has connected to us
 *   peer_dial.c    connections for one purpose
 *   peer_conn.c    beneath these three: one connection, until both sides know each other, and its frames */
#ifndef HF_PEER_INTERNAL_H
#define HF_PEER_INTERNAL_H

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/resolve.h"
#include "log/base/stream.h"
#include "log/peer.h"

enum {
    PEER_DIAL_MS_MAX = 2000,     /* connecting, TLS and HELLO of one that we dial */
    PEER_GREETING_MS_MAX = 5000, /* TLS and HELLO of one that has connected to us */
    PEER_FAREWELL_MS_MAX = 1000, /* for a REFUSE to leave */
    PEER_STRANGERS_MAX = 256,    /* connections to us that have not said HELLO; the oldest makes room ... */
    PEER_STRANGER_MS_MIN = 250,  /* ... once it has had so long; until then newcomers wait in the backlog */
    PEER_DIALS_MAX = 32,         /* for one purpose, under way at once; the others wait */
    PEER_DIAL_WAIT_MS_MAX = 10000,
    PEER_INBOUND_MAX = 8 * MEMBERS_MAX, /* links to us; the oldest makes room */
    PEER_CHECK_MS = 500,
    PEER_STEADY_MS = 1000,  /* a link that was up for so long is dialled again without delay */
    PEER_REPEAT_MS = 60000, /* the same complaint is logged once in this time */
    PEER_COMPLAINTS_MAX = 32,
    PEER_WHY_BYTES_MAX = 512,
    PEER_REMOTE_BYTES_MAX = 64
};
_Static_assert(PEER_OUT_BYTES_MAX >= PEER_PIECE_BYTES_MAX, "a piece fits what may be unsent");

struct peer_conn;
struct peer_inbound;
struct peer_link;

struct complaints {
    struct {
        uint64_t hash, at_ms;
    } said[PEER_COMPLAINTS_MAX];
};
struct listener;
struct peers {
    struct loop *loop;
    const struct diag *diag;
    char *cluster;
    struct member self;
    struct tls *tls; /* borrowed; NULL: plain */
    const struct peers_events *events;
    void *arg;
    struct listener *listener;
    struct peer_link *links[MEMBERS_MAX];
    size_t link_count;
    struct peer_inbound *inbound; /* newest first */
    size_t strangers, inbound_links;
    struct peer_dial *dials, *waiting; /* under way; not begun */
    size_t dial_count;                 /* under way */
    struct loop_timer *check;
    struct resolver *resolver;
    struct complaints of_links, of_strangers;
    uint64_t random;
};

/* Logs `what` about `who`, unless it has been said lately. */
void peers_complain(struct peers *p, struct complaints *c, const char *who, const char *what);
uint64_t peers_random(struct peers *p, uint64_t below);

/* ---- peer_conn.c ---- */
struct peer_conn_events {
    /* Both sides have proven who they are, met() has agreed. Not LINK: conn_take() is called in here. */
    void (*ready)(void *arg, const struct peer_hello *h);
    void (*closed)(void *arg, const char *why,
                   bool refused); /* once; the connection is gone. Never after conn_close() */
    bool (*fill)(void *arg);      /* as a stream's; NULL: nothing */
};
/* Never NULL; what fails at once is told by closed(), later. */
struct peer_conn *conn_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                            size_t n, const struct peer_conn_events *events, void *arg);
struct peer_conn *conn_accept(struct peers *p, int fd, const struct peer_conn_events *events,
                              void *arg); /* takes fd */
void conn_close(struct peer_conn *c);     /* NULL is fine */
/* The stream, set aside for its next owner; the connection is gone. */
struct stream *conn_take(struct peer_conn *c);
struct stream *conn_stream(const struct peer_conn *c);
const char *conn_remote(const struct peer_conn *c); /* address without port */

/* ---- peer_link.c ---- */
struct peer_link *link_new(struct peers *p, const struct member *m);
void link_free(struct peer_link *k);
void link_hurry(struct peer_link *k); /* if it waits to dial again: now */
bool link_is_named(const struct peer_link *k, const char *name);
bool link_is_to(const struct peer_link *k, const struct member *m); /* may go on being used for this member */
uint64_t link_id(const struct peer_link *k);                        /* 0: not up */
void link_send(struct peer_link *k, const struct peer_message *m);
void link_check(struct peer_link *k);

/* ---- peer_accept.c ---- */
struct listener *listener_new(struct peers *p, const char *address, char *why, size_t why_size);
void listener_free(struct listener *l); /* with all that has connected; NULL is fine */

#endif

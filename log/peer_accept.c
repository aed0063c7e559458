/* Who has connected to us: strangers until their HELLO, then links (FETCH and RELAY are handed over at once).
 *
 * Bounded: at most PEER_STRANGERS_MAX strangers, each with PEER_GREETING_MS_MAX to say who it is. When there are so
 * many, newcomers wait in the kernel's backlog until the oldest has had PEER_STRANGER_MS_MIN, and then takes its
 * leave: a crowd of members, come to be relayed to a new leader, is let in one after the other, and silent
 * connections cannot shut members out. At most PEER_INBOUND_MAX links. A member that has dialled again while its last
 * connection seems to live takes the place of that one: its frames must not come after newer ones. */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/address.h"
#include "log/peer_internal.h"

enum { BACKLOG = 1024, ACCEPTS_PER_TURN_MAX = 16, ACCEPT_RETRY_MS = 100, CROWD_RETRY_MS = 10 };

struct listener {
    struct peers *peers;
    int fd;
    struct event *event;
    struct loop_timer *retry; /* of accepting, after a pause: a level-triggered event would spin */
};
struct peer_inbound {
    struct peers *peers;
    struct peer_conn *conn;
    struct peer_inbound **place, *next;
    uint64_t id; /* 0: a stranger */
    uint64_t since_ms;
    char name[MEMBER_NAME_BYTES_MAX];
};

static void remove_inbound(struct peer_inbound *b)
{
    if (b->id == 0)
        b->peers->strangers--;
    else
        b->peers->inbound_links--;
    *b->place = b->next;
    if (b->next != NULL)
        b->next->place = b->place;
    loop_bury(b->peers->loop, b, free);
}

static void drop(struct peer_inbound *b)
{
    conn_close(b->conn);
    remove_inbound(b);
}

/* The oldest stranger (id 0), or the oldest link. */
static struct peer_inbound *oldest(struct peers *p, bool stranger)
{
    struct peer_inbound *found = NULL;

    for (struct peer_inbound *b = p->inbound; b != NULL; b = b->next)
        if ((b->id == 0) == stranger)
            found = b;
    return found;
}

static void replace_older(struct peers *p, uint64_t id)
{
    struct peer_inbound *b = p->inbound, *next;

    for (; b != NULL; b = next) {
        next = b->next;
        if (b->id == id)
            drop(b);
    }
    if (p->inbound_links >= PEER_INBOUND_MAX)
        drop(oldest(p, false));
}

static void on_ready(void *arg, const struct peer_hello *h)
{
    struct peer_inbound *b = arg;
    struct peers *p = b->peers;
    struct stream *s;

    if (h->purpose == PEER_LINK) {
        replace_older(p, h->member.id);
        p->strangers--;
        p->inbound_links++;
        b->id = h->member.id;
        (void)snprintf(b->name, sizeof b->name, "%s", h->member.name);
        return;
    }
    s = conn_take(b->conn);
    remove_inbound(b);
    p->events->accepted(p->arg, s, h);
}

static void on_closed(void *arg, const char *why, bool refused)
{
    struct peer_inbound *b = arg;
    struct peers *p = b->peers;
    char who[PEER_REMOTE_BYTES_MAX + 32];

    if (b->id == 0) {
        (void)snprintf(who, sizeof who, "connection from %s", conn_remote(b->conn));
        peers_complain(p, &p->of_strangers, who, why);
    } else if (refused) {
        (void)snprintf(who, sizeof who, "link from %s", b->name);
        peers_complain(p, &p->of_strangers, who, why);
    } else {
        diag_log(p->diag, DIAG_VERBOSE, "peer link from %s: closed: %s", b->name, why);
    }
    remove_inbound(b);
}

static const struct peer_conn_events conn_callbacks = {.ready = on_ready, .closed = on_closed};

static void accepted(struct peers *p, int fd)
{
    struct peer_inbound *b;

    if (p->tls == NULL && !address_remote_is_loopback(fd)) {
        peers_complain(p, &p->of_strangers, "connection", "not from a loopback address, and there is no TLS");
        (void)close(fd);
        return;
    }
    b = must_calloc(1, sizeof *b);
    b->peers = p;
    b->next = p->inbound;
    b->place = &p->inbound;
    if (b->next != NULL)
        b->next->place = &b->next;
    p->inbound = b;
    b->since_ms = loop_now_ms(p->loop);
    p->strangers++;
    b->conn = conn_accept(p, fd, &conn_callbacks, b);
}

static bool has_room(struct peers *p)
{
    struct peer_inbound *b;

    if (p->strangers < PEER_STRANGERS_MAX)
        return true;
    b = oldest(p, true);
    if (loop_now_ms(p->loop) - b->since_ms < PEER_STRANGER_MS_MIN)
        return false;
    drop(b);
    return true;
}

static void pause_accepting(struct listener *l, uint64_t ms)
{
    (void)event_del(l->event);
    loop_timer_once(l->retry, ms);
}

static void on_retry(void *arg)
{
    struct listener *l = arg;

    (void)event_add(l->event, NULL);
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    struct listener *l = arg;

    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN_MAX; i++) {
        int peer;

        if (!has_room(l->peers)) {
            pause_accepting(l, CROWD_RETRY_MS);
            return;
        }
        peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (peer < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            peers_complain(l->peers, &l->peers->of_strangers, "accepting", strerror(errno));
            pause_accepting(l, ACCEPT_RETRY_MS);
        }
        if (peer < 0)
            return; /* EAGAIN, or a connection that is gone already */
        accepted(l->peers, peer);
    }
}

struct listener *listener_new(struct peers *p, const char *address, char *why, size_t why_size)
{
    struct listener *l;
    char reason[128];
    int fd = address_listen(address, BACKLOG, reason, sizeof reason);

    if (fd < 0) {
        (void)snprintf(why, why_size, "cannot listen for members on %s: %s", address, reason);
        return NULL;
    }
    l = must_calloc(1, sizeof *l);
    l->peers = p;
    l->fd = fd;
    l->retry = loop_timer_new(p->loop, on_retry, l);
    l->event = event_new(loop_base(p->loop), fd, EV_READ | EV_PERSIST, on_acceptable, l);
    CHECK(l->event != NULL);
    (void)event_add(l->event, NULL);
    return l;
}

static void release(void *object)
{
    struct listener *l = object;

    event_free(l->event);
    free(l);
}

void listener_free(struct listener *l)
{
    if (l == NULL)
        return;
    while (l->peers->inbound != NULL)
        drop(l->peers->inbound);
    (void)event_del(l->event);
    (void)close(l->fd);
    loop_timer_free(l->retry);
    loop_bury(l->peers->loop, l, release);
}

/* One connection between members, until both know whom they talk to; then its frames.
 *
 *   dialled:   CONNECTING (first its name is looked up) ─connected, HELLO▶─▶ GREETING ─◀HELLO─▶ READY
 *   accepted:  GREETING ─HELLO▶ (theirs), ◀HELLO (ours)─▶ READY
 *   either:    ─refused, REFUSE sent─▶ LEAVING ─all sent─▶ CLOSED           any ─error─▶ CLOSED
 *
 * Who they are: with TLS, the certificate that the handshake has checked must be for "NAME.CLUSTER", with the names
 * of their HELLO; one that we dial was already held to the name that we meant. Without TLS, both ends must be on this
 * machine's loopback, and the names are believed.
 *
 * Bytes are taken from a read as they are; only a frame that is not whole is copied aside, so the buffer grows with
 * what has arrived, never with what a length announces. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log/base/address.h"
#include "log/peer_internal.h"

enum { IN_KEEP_BYTES_MAX = 1024 * 1024, CLUSTER_BYTES_MAX = 256, PEER_NAME_BYTES_MAX = 512 };

enum conn_state { CONN_CONNECTING, CONN_GREETING, CONN_READY, CONN_LEAVING, CONN_CLOSED };

struct peer_conn {
    struct peers *peers;
    struct stream *stream; /* NULL: not yet, could not even begin to connect, or taken */
    struct lookup *lookup; /* of the name that is dialled; NULL: none under way */
    enum conn_state state;
    bool dialled, refused;
    enum peer_purpose purpose;
    struct member meant; /* dialled */
    struct buf extra;    /* dialled */
    uint64_t id;         /* proven, when READY */
    const struct peer_conn_events *events;
    void *arg;
    struct buf in;
    struct cursor rest; /* while ready() runs: bytes behind the HELLO */
    struct loop_timer *deadline;
    char remote[PEER_REMOTE_BYTES_MAX];
    char why[PEER_WHY_BYTES_MAX]; /* LEAVING; or a dial that failed at once */
};

/* ---- the end ---- */

static void release(void *object)
{
    struct peer_conn *c = object;

    buf_free(&c->in);
    buf_free(&c->extra);
    free(c);
}

/* The one door out. */
static void end(struct peer_conn *c)
{
    CHECK(c->state != CONN_CLOSED);
    c->state = CONN_CLOSED;
    lookup_cancel(c->lookup);
    c->lookup = NULL;
    stream_close(c->stream);
    c->stream = NULL;
    loop_timer_free(c->deadline);
    loop_bury(c->peers->loop, c, release);
}

void conn_close(struct peer_conn *c)
{
    if (c != NULL && c->state != CONN_CLOSED)
        end(c);
}

static void fail(struct peer_conn *c, const char *why, bool refused)
{
    end(c);
    c->events->closed(c->arg, why, refused);
}

struct stream *conn_take(struct peer_conn *c)
{
    struct stream *s = c->stream;

    CHECK(c->state == CONN_READY);
    stream_set_aside(s, c->rest.at, c->rest.left);
    c->stream = NULL;
    end(c);
    return s;
}

/* Tells the other side why. Whoever has not proven a name yet learns no more than that. */
static void refuse(struct peer_conn *c, const char *why)
{
    struct buf *out = stream_out(c->stream);
    size_t at;

    (void)snprintf(c->why, sizeof c->why, "%s", why);
    c->refused = true;
    c->state = CONN_LEAVING;
    at = wire_begin(out);
    buf_append(out, why, strnlen(why, WIRE_TEXT_BYTES_MAX - 1));
    wire_end(out, at, WIRE_REFUSE);
    loop_timer_once(c->deadline, PEER_FAREWELL_MS_MAX);
    stream_finish(c->stream);
}

/* ---- greeting ---- */

static void say_hello(struct peer_conn *c)
{
    struct peers *p = c->peers;
    struct buf *out = stream_out(c->stream);
    struct peer_hello *own = must_calloc(1, sizeof *own);
    size_t at = wire_begin(out);

    p->events->hello(p->arg, own);
    own->purpose = c->purpose;
    own->member = p->self;
    own->extra_bytes = c->extra.len;
    if (c->extra.len > 0)
        memcpy(own->extra, buf_head(&c->extra), c->extra.len);
    wire_hello(out, own, p->cluster);
    wire_end(out, at, WIRE_HELLO);
    buf_free(&own->configuration);
    free(own);
}

static bool proven(const struct peer_conn *c, const struct peer_hello *h, char *why, size_t why_size)
{
    char name[PEER_NAME_BYTES_MAX];

    if (c->peers->tls == NULL)
        return true;
    (void)snprintf(name, sizeof name, "%s.%s", h->member.name, c->peers->cluster);
    if (stream_peer_is(c->stream, name))
        return true;
    (void)snprintf(why, why_size, "its certificate is not for %.300s, the name that it gives", name);
    return false;
}

static bool is_meant(const struct peer_conn *c, const struct peer_hello *h, char *why, size_t why_size)
{
    const struct peers *p = c->peers;

    if (c->dialled && strcmp(h->member.name, c->meant.name) != 0)
        (void)snprintf(why, why_size, "it is %s, not %s", h->member.name, c->meant.name);
    else if (c->dialled && c->meant.id != 0 && h->member.id != c->meant.id)
        (void)snprintf(why, why_size,
                       "%s has another data directory than the member of this name (%016llx, not %016llx)",
                       h->member.name, (unsigned long long)h->member.id, (unsigned long long)c->meant.id);
    else if (h->member.id == p->self.id || strcmp(h->member.name, p->self.name) == 0)
        (void)snprintf(why, why_size, "it has the name or the data directory's id of %s itself", p->self.name);
    else if (c->dialled && h->purpose != c->purpose)
        (void)snprintf(why, why_size, "its HELLO answers another one");
    else
        return true;
    return false;
}

static bool check_hello(struct peer_conn *c, const struct wire_frame *f, struct peer_hello *h, char *why,
                        size_t why_size)
{
    const struct peers *p = c->peers;
    char cluster[CLUSTER_BYTES_MAX];
    uint32_t version;

    if (!wire_hello_open(f->body, f->body_bytes, h, cluster, sizeof cluster, &version)) {
        (void)snprintf(why, why_size, "a malformed HELLO");
        return false;
    }
    if (version != PEER_VERSION) {
        (void)snprintf(why, why_size, "version %u of the peer protocol; %s speaks %d", version, p->self.name,
                       PEER_VERSION);
        return false;
    }
    if (strcmp(cluster, p->cluster) != 0) {
        (void)snprintf(why, why_size, "cluster %s; %s belongs to %s", cluster, p->self.name, p->cluster);
        return false;
    }
    return proven(c, h, why, why_size) && is_meant(c, h, why, why_size) && p->events->met(p->arg, h, why, why_size);
}

static void greeted(struct peer_conn *c, const struct wire_frame *f)
{
    struct peer_hello *h = must_calloc(1, sizeof *h);
    char why[PEER_WHY_BYTES_MAX] = "";
    bool good = check_hello(c, f, h, why, sizeof why);

    if (c->state == CONN_CLOSED) {
        /* met() has led to this link not being wanted any more */
    } else if (!good) {
        if (c->dialled && c->purpose != PEER_LINK)
            fail(c, why, true); /* the other side has handed its end over already */
        else
            refuse(c, why);
    } else {
        c->id = h->member.id;
        c->purpose = h->purpose;
        if (!c->dialled)
            say_hello(c);
        loop_timer_stop(c->deadline);
        c->state = CONN_READY;
        c->events->ready(c->arg, h);
    }
    buf_free(&h->configuration);
    free(h);
}

/* ---- frames ---- */

static void message(struct peer_conn *c, const struct wire_frame *f)
{
    struct peers *p = c->peers;
    size_t max = wire_records_max(f->body, f->body_bytes);
    struct record **records = max > 0 ? malloc(max * sizeof *records) : NULL;
    struct peer_message m;

    if (max > 0 && records == NULL) {
        fail(c, "out of memory for entries", false);
        return;
    }
    if (wire_message_open(f->body, f->body_bytes, &m, records, max)) {
        m.peer = c->id;
        p->events->message(p->arg, &m, records);
        for (size_t i = 0; m.kind == PEER_APPEND && i < m.append.count; i++)
            record_drop(records[i]);
    } else {
        fail(c, "a malformed message", true);
    }
    free(records);
}

static void frame(struct peer_conn *c, const struct wire_frame *f)
{
    char text[WIRE_TEXT_BYTES_MAX], why[PEER_WHY_BYTES_MAX];

    if (f->kind == WIRE_REFUSE) {
        wire_text(f->body, f->body_bytes, text);
        (void)snprintf(why, sizeof why, "refused by the other end: %s", text);
        fail(c, why, true);
    } else if (c->state == CONN_GREETING && f->kind == WIRE_HELLO) {
        greeted(c, f);
    } else if (c->state == CONN_READY && f->kind == WIRE_MESSAGE && !c->dialled) {
        message(c, f);
    } else {
        fail(c, c->state == CONN_GREETING ? "no HELLO, but another frame" : "a frame that does not belong here",
             true);
    }
}

static bool listening(const struct peer_conn *c)
{
    return c->state == CONN_GREETING || c->state == CONN_READY;
}

static void take_frames(struct peer_conn *c, struct cursor *at)
{
    while (listening(c)) {
        size_t max = c->state == CONN_GREETING ? WIRE_HELLO_BYTES_MAX : PEER_FRAME_BYTES_MAX;
        const char *why;
        struct wire_frame f;

        switch (wire_next(at, max, &f, &why)) {
        case WIRE_PART:
            return;
        case WIRE_BAD:
            fail(c, why, true);
            return;
        case WIRE_FRAME:
            c->rest = *at;
            frame(c, &f);
            break;
        }
    }
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct peer_conn *c = arg;
    struct cursor at = cursor_of(bytes, n);
    bool copied = c->in.len > 0;

    if (!listening(c))
        return;
    if (copied) {
        buf_append(&c->in, bytes, n);
        at = cursor_of(buf_head(&c->in), c->in.len);
    }
    if (!c->in.failed)
        take_frames(c, &at);
    if (!listening(c))
        return;
    if (copied)
        buf_consume(&c->in, c->in.len - at.left);
    else
        buf_append(&c->in, at.at, at.left);
    if (c->in.failed)
        fail(c, "out of memory for what it sends", false);
    else if (c->in.len == 0 && c->in.cap > IN_KEEP_BYTES_MAX)
        buf_free(&c->in);
}

/* ---- the stream ---- */

static void on_connected(void *arg)
{
    struct peer_conn *c = arg;

    if (!c->dialled)
        return;
    c->state = CONN_GREETING;
    say_hello(c);
}

static void on_closed(void *arg, const char *why)
{
    struct peer_conn *c = arg;

    fail(c, c->why[0] != '\0' ? c->why : why, c->refused);
}

static bool on_fill(void *arg)
{
    struct peer_conn *c = arg;

    return c->state == CONN_READY && c->events->fill != NULL && c->events->fill(c->arg);
}

static const struct stream_events stream_callbacks = {
    .data = on_data, .closed = on_closed, .connected = on_connected, .fill = on_fill};

static void on_deadline(void *arg)
{
    struct peer_conn *c = arg;

    if (c->why[0] != '\0')
        fail(c, c->why, c->refused);
    else if (c->lookup != NULL)
        fail(c, "its name is not resolved in time", false);
    else
        fail(c, c->state == CONN_CONNECTING ? "no connection in time" : "no HELLO in time", false);
}

/* The other end's machine may be gone without a word, and a link to us carries nothing from us. */
static void keepalive(int fd)
{
    int on = 1, idle_s = 5, interval_s = 2, probes = 3;

    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

/* After a cut the kernel would wait ever longer before it tries the path again, up to two minutes. (TCP_RTO_MAX_MS,
 * from Linux 6.15 on; without it the link is dialled anew after PEER_SILENCE_MS_MAX.) */
static void retry_soon(int fd)
{
    int option = 44, ms = 1000;

    (void)setsockopt(fd, IPPROTO_TCP, option, &ms, sizeof ms);
}

static struct peer_conn *conn_new(struct peers *p, const struct peer_conn_events *events, void *arg)
{
    struct peer_conn *c = must_calloc(1, sizeof *c);

    c->peers = p;
    c->events = events;
    c->arg = arg;
    c->deadline = loop_timer_new(p->loop, on_deadline, c);
    return c;
}

/* Without TLS, what is dialled must be on this machine. False with a reason. */
static bool begin(struct peer_conn *c, const char *numeric)
{
    struct peers *p = c->peers;
    char name[PEER_NAME_BYTES_MAX];
    struct sockaddr_storage a;

    if (p->tls != NULL) {
        (void)snprintf(name, sizeof name, "%s.%s", c->meant.name, p->cluster);
        c->stream = stream_connect_tls(p->loop, numeric, p->tls, name, &stream_callbacks, c, c->why, sizeof c->why);
    } else if (address_numeric(numeric, &a) && address_is_loopback(&a)) {
        c->stream = stream_connect(p->loop, numeric, &stream_callbacks, c, c->why, sizeof c->why);
    } else {
        (void)snprintf(c->why, sizeof c->why, "without TLS, members are dialled on loopback addresses only");
    }
    if (c->stream == NULL)
        return false;
    keepalive(stream_fd(c->stream));
    retry_soon(stream_fd(c->stream));
    return true;
}

static void on_resolved(void *arg, const char *numeric, const char *why)
{
    struct peer_conn *c = arg;
    char text[PEER_WHY_BYTES_MAX];

    c->lookup = NULL;
    if (numeric != NULL && begin(c, numeric))
        return;
    (void)snprintf(text, sizeof text, "%s", numeric != NULL ? c->why : why);
    fail(c, text, false);
}

struct peer_conn *conn_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                            size_t n, const struct peer_conn_events *events, void *arg)
{
    struct peer_conn *c = conn_new(p, events, arg);
    char host[ADDRESS_HOST_BYTES_MAX], port[ADDRESS_PORT_BYTES_MAX];
    struct sockaddr_storage a;

    CHECK(n <= PEER_EXTRA_BYTES_MAX);
    c->dialled = true;
    c->state = CONN_CONNECTING;
    c->purpose = purpose;
    c->meant = *to;
    buf_append(&c->extra, extra, n);
    CHECK(!c->extra.failed);
    loop_timer_once(c->deadline, PEER_DIAL_MS_MAX);
    if (!address_split(to->address, host, port))
        (void)snprintf(c->why, sizeof c->why, "its address, %s, is not host:port", to->address);
    else if (!address_numeric(to->address, &a))
        c->lookup = resolver_ask(p->resolver, to->address, on_resolved, c);
    else
        (void)begin(c, to->address);
    if (c->why[0] != '\0')
        loop_timer_once(c->deadline, 0); /* tells it */
    return c;
}

struct peer_conn *conn_accept(struct peers *p, int fd, const struct peer_conn_events *events, void *arg)
{
    struct peer_conn *c = conn_new(p, events, arg);
    char *colon;

    c->state = CONN_GREETING;
    if (p->tls != NULL)
        c->stream = stream_accepted_tls(p->loop, fd, p->tls, &stream_callbacks, c);
    else
        c->stream = stream_accepted(p->loop, fd, &stream_callbacks, c);
    keepalive(fd);
    retry_soon(fd);
    (void)stream_remote_address(c->stream, c->remote, sizeof c->remote);
    colon = strrchr(c->remote, ':');
    if (colon != NULL)
        *colon = '\0';
    loop_timer_once(c->deadline, PEER_GREETING_MS_MAX);
    return c;
}

struct stream *conn_stream(const struct peer_conn *c)
{
    return c->stream;
}

const char *conn_remote(const struct peer_conn *c)
{
    return c->remote;
}

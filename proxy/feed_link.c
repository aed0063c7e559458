/* The feed's connection, plain or TLS, as Valkey dials (its tls-replication). A stranger may find the port first. It
 * has to know the password; as long as nobody has said it, a newcomer takes the place of one who has been silent for
 * GREETING_MS_MAX.
 *
 * What PSYNC is answered, in order:
 *   our id, and the offset at which our own replay stands     +CONTINUE at once
 *   Valkey's own id, at exactly the offset that was proven    found: the end of the entry         +CONTINUE <our id>
 *   the id of a checkpoint, an offset behind it               found: by counting bytes from it    +CONTINUE
 *   anything else, or not found                               +FULLRESYNC, with a new id
 *
 * While looking, bare '\n' keep Valkey waiting (as a primary does that prepares an RDB). After a restart the log may
 * not know yet that what it holds is committed; what Valkey was fed has been, so we wait for it. */
#include <event2/listener.h>
#include <event2/util.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/log.h"
#include "proxy/argv.h"
#include "proxy/feed_internal.h"

enum { KEEP_WAITING_MS = 1000, FIND_BYTES = 1024 * 1024 };

static void find_stop(struct feed *f)
{
    replay_free(f->find.walk);
    f->find.walk = NULL;
}

void feed_drop_stream(struct feed *f)
{
    stream_close(f->stream);
    f->stream = NULL;
    resp_parser_drop(f->pool, f->parser);
    f->parser = NULL;
    f->authenticated = false;
    find_stop(f);
}

void feed_left(struct feed *f, const char *why)
{
    feed_drop_stream(f);
    feed_source_stop(f);
    if (f->state == FEED_CLOSED)
        return;
    if (f->checkpoints == NULL || f->finishing) {
        (void)snprintf(f->why, sizeof f->why, "Valkey left the feed: %.200s", why);
        feed_fail(f, f->why);
        return;
    }
    f->state = FEED_LISTENING;
    f->waiting_ms = loop_now_ms(f->loop);
    evconnlistener_enable(f->listener);
    if (f->events->left != NULL)
        f->events->left(f->arg, why);
}

/* ---- looking for a place ---- */

static void find_begin(struct feed *f, struct replay *walk, const char *replid, uint64_t offset)
{
    f->find.walk = walk;
    f->find.offset = offset;
    f->find.from_last = log_last_index(f->log);
    f->find.began_ms = f->find.said_ms = loop_now_ms(f->loop);
    (void)snprintf(f->find.replid, sizeof f->find.replid, "%s", replid);
    f->state = FEED_FINDING;
    loop_timer_once(f->pump, 0);
}

static void find_proven(struct feed *f)
{
    struct snapshot_mark mark;
    char path[4096];
    bool any = snapshot_newest(f->log, &mark, path, sizeof path);
    struct replay *walk = replay_new(f->log, any ? &mark : NULL);

    f->find.proven = true;
    feed_random_hex(f->replid, FEED_ID_BYTES);
    replay_seek_index(walk, f->proof.index);
    find_begin(f, walk, f->replid, f->proof.offset);
}

static void find_from(struct feed *f, const struct checkpoint *k, uint64_t offset)
{
    struct replay *walk = replay_new_at(f->log, &k->place);

    f->find.proven = false;
    replay_seek_bytes(walk, offset - k->offset);
    find_begin(f, walk, k->replid, offset);
}

static void find_end(struct feed *f, enum replay_search result, struct replay_place *place)
{
    if (f->find.proven)
        place->db = REPLAY_DB_NONE; /* what Valkey, a primary until now, has selected is not known */
    f->has_proof = false;
    find_stop(f);
    if (result == REPLAY_FOUND)
        feed_begin_partial(f, f->find.replid, f->find.offset, place);
    else
        feed_begin_full(f);
}

void feed_find_step(struct feed *f)
{
    uint64_t now = loop_now_ms(f->loop);
    bool more = replay_step(f->find.walk, NULL, FIND_BYTES);
    const struct replay_facts *facts = replay_facts(f->find.walk);
    struct replay_place place = {0};
    enum replay_search result = replay_sought(f->find.walk, &place);

    if (result != REPLAY_FOUND && facts->damage != NULL) {
        (void)snprintf(f->why, sizeof f->why, "%s", facts->damage);
        feed_fail(f, f->why);
        return;
    }
    if (result != REPLAY_SEEKING || facts->cut ||
        (!more && (log_committed(f->log) >= f->find.from_last || now >= f->find.began_ms + FEED_FINDING_MS_MAX))) {
        find_end(f, result, &place);
        return;
    }
    if (now >= f->find.said_ms + KEEP_WAITING_MS) {
        f->find.said_ms = now;
        stream_write(f->stream, "\n", 1);
    }
    if (more)
        loop_timer_once(f->pump, 0); /* else feed_more(), or the tick */
}

/* ---- what the replica says ---- */

static bool same_bytes(const char *a, size_t n, const char *secret, size_t secret_n)
{
    unsigned char differ = 0;

    if (n != secret_n)
        return false;
    for (size_t i = 0; i < n; i++) /* no early exit: how much was right is nobody's business */
        differ |= (unsigned char)(a[i] ^ secret[i]);
    return differ == 0;
}

static void on_auth(struct feed *f, const struct argv *a)
{
    size_t last = a->count - 1;

    if (a->count < 2 || !same_bytes(argv_at(a, last), argv_len(a, last), f->password, FEED_PASSWORD_BYTES)) {
        feed_drop_stream(f);
        f->state = FEED_LISTENING;
        return;
    }
    f->authenticated = true;
    if (f->tls_expected && !stream_is_tls(f->stream))
        diag_log(f->diag, DIAG_WARNING, "Feed: Valkey has dialled without TLS: its tls-replication is no");
    evconnlistener_disable(f->listener);
    resp_status(stream_out(f->stream), "OK");
}

static void on_replconf(struct feed *f, const struct argv *a)
{
    int64_t ack;

    if (!argv_is(a, 1, "ACK"))
        resp_status(stream_out(f->stream), "OK");
    else if (argv_integer(a, 2, &ack) && ack >= 0)
        feed_on_ack(f, (uint64_t)ack);
}

/* PSYNC <replid> <offset of the first byte wanted>; "? -1" for a full sync. */
static void on_psync(struct feed *f, const struct argv *a)
{
    const struct checkpoint *k;
    struct replay_place place;
    int64_t wanted;
    uint64_t offset;
    char id[48];

    if (f->checkpoints == NULL || f->full_next || a->count != 3 || argv_len(a, 1) >= sizeof id ||
        !argv_integer(a, 2, &wanted) || wanted < 1) {
        feed_begin_full(f);
        return;
    }
    memcpy(id, argv_at(a, 1), argv_len(a, 1));
    id[argv_len(a, 1)] = '\0';
    offset = (uint64_t)wanted - 1;
    if (f->replay != NULL && f->offset == offset && strcmp(id, f->replid) == 0) {
        replay_place(f->replay, &place);
        feed_begin_partial(f, id, offset, &place);
    } else if (f->has_proof && strcmp(id, f->proof.replid) == 0 && offset == f->proof.offset) {
        find_proven(f);
    } else if ((k = checkpoints_for(f->checkpoints, id, f->run_id, offset)) != NULL) {
        find_from(f, k, offset);
    } else {
        feed_begin_full(f);
    }
}

static void on_command(struct feed *f, const struct argv *a)
{
    if (argv_is(a, 0, "PING"))
        resp_status(stream_out(f->stream), "PONG");
    else if (argv_is(a, 0, "AUTH"))
        on_auth(f, a);
    else if (!f->authenticated)
        feed_drop_stream(f);
    else if (argv_is(a, 0, "REPLCONF"))
        on_replconf(f, a);
    else if (argv_is(a, 0, "PSYNC") && f->state == FEED_GREETING)
        on_psync(f, a);
    else
        resp_error(stream_out(f->stream), "ERR not here");
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct feed *f = arg;
    size_t used = 0;

    f->active_ms = loop_now_ms(f->loop);
    for (size_t at = 0; at < n && f->state != FEED_CLOSED && f->stream != NULL; at += used) {
        struct argv a;
        const char *error = "";
        enum resp_result result =
            resp_parse(f->pool, &f->parser, bytes + at, n - at, &used, !f->authenticated, &a, &error);

        if (result == RESP_COMMAND) {
            on_command(f, &a);
        } else if (result == RESP_ERROR && f->authenticated) {
            feed_left(f, error);
        } else if (result == RESP_ERROR) {
            feed_drop_stream(f);
        } else {
            return;
        }
    }
}

static void on_closed(void *arg, const char *why)
{
    struct feed *f = arg;

    if (!f->authenticated && !f->greeted && f->state == FEED_GREETING && !f->complained) {
        f->complained = true;
        diag_log(f->diag, DIAG_WARNING, "Feed: a connection, which may have been Valkey's, did not come about: %s",
                 why);
    }
    if (f->state == FEED_COMPLETE || !f->authenticated) { /* it was promoted; a stranger */
        feed_drop_stream(f);
        if (f->state == FEED_GREETING)
            f->state = FEED_LISTENING;
        return;
    }
    feed_left(f, why);
}

static void on_sent(void *arg)
{
    struct feed *f = arg;

    f->active_ms = loop_now_ms(f->loop);
    if (f->choked && (f->state == FEED_SNAPSHOT || f->state == FEED_STREAM))
        loop_timer_once(f->pump, 0); /* not without need: looking for more makes the stream say `sent` again */
}

static void on_connected(void *arg)
{
    ((struct feed *)arg)->greeted = true;
}

static const struct stream_events stream_callbacks = {
    .data = on_data, .closed = on_closed, .connected = on_connected, .sent = on_sent};

/* ---- the port ---- */

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int size, void *arg)
{
    struct feed *f = arg;
    uint64_t now = loop_now_ms(f->loop);

    (void)listener;
    (void)from;
    (void)size;
    if (f->state > FEED_GREETING || f->authenticated ||
        (f->stream != NULL && now < f->accepted_ms + FEED_GREETING_MS_MAX)) {
        (void)close(fd);
        return;
    }
    if (f->stream != NULL)
        feed_drop_stream(f);
    f->stream = stream_accepted_either(f->loop, fd, f->tls, &stream_callbacks, f);
    f->greeted = false;
    f->accepted_ms = now;
    f->active_ms = now;
    f->state = FEED_GREETING;
}

bool feed_listen(struct feed *f, const char *ip, char *why, size_t why_size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE}, *found = NULL;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    int rc = getaddrinfo(ip[0] ? ip : "127.0.0.1", "0", &hints, &found);

    if (rc != 0) {
        (void)snprintf(why, why_size, "cannot listen on %s: %s", ip, gai_strerror(rc));
        return false;
    }
    f->listener =
        evconnlistener_new_bind(loop_base(f->loop), on_accept, f, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 4,
                                found->ai_addr, (int)found->ai_addrlen);
    freeaddrinfo(found);
    if (f->listener == NULL ||
        getsockname(evconnlistener_get_fd(f->listener), (struct sockaddr *)&bound, &size) != 0) {
        (void)snprintf(why, why_size, "cannot listen on %s: %s", ip, strerror(errno));
        return false;
    }
    f->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)&bound)->sin_port);
    return true;
}

void feed_unlisten(struct feed *f)
{
    if (f->listener != NULL)
        evconnlistener_free(f->listener);
    f->listener = NULL;
}

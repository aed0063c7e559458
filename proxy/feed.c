/* The feed plays primary to one replica: our own Valkey, told REPLICAOF us. Life of its connection:
 *
 *     LISTENING ─▶ GREETING ──PSYNC──▶ SNAPSHOT ─▶ STREAM ─▶ WAITING ──ACK──▶ COMPLETE
 *                  (PING AUTH          (+FULLRESYNC,  (replay)   (GETACK was
 *                   REPLCONF)           the RDB)                  the last)          any ──▶ CLOSED
 *
 *     what goes out:   +FULLRESYNC <id> 0  $<len>  RDB bytes │ SELECT 0  SET ...   ...  │ REPLCONF GETACK *
 *     offset:                                                0 ─────────────────────── goal ──────────── end
 *
 * GETACK makes Valkey answer at once, with the offset before that command: `goal`. When it says so it has executed
 * all that we sent, and it counts GETACK as well: the stream ends for both at feed_offset().
 *
 * Work is done in pieces, one per turn, and only while less than OUT_BYTES_MAX waits to be sent; so the loop is
 * never held up and a slow Valkey slows the reading of file and log.
 *
 * A stranger may find the port first. It has to know the password; as long as nobody has said it, a newcomer takes
 * the place of one who has been silent for GREETING_MS_MAX. */
#include "proxy/feed.h"

#include <errno.h>
#include <event2/listener.h>
#include <event2/util.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/log.h"
#include "proxy/argv.h"
#include "proxy/replay.h"
#include "proxy/resp.h"

enum {
    ID_BYTES = 40,
    PASSWORD_BYTES = sizeof FEED_PASSWORD_PREFIX - 1 + 32,
    PIECE_BYTES = 256 * 1024,    /* of file or log, per turn */
    OUT_BYTES_MAX = 1024 * 1024, /* beyond it we wait for Valkey */
    CONNECT_MS_MAX = 15000,      /* until Valkey has said the password */
    GREETING_MS_MAX = 1000,
    SILENCE_MS_MAX = 60000, /* neither takes bytes nor says anything: repl-timeout's default */
    TICK_MS = 250,
    WHY_BYTES_MAX = 256
};

enum feed_state {
    FEED_LISTENING,
    FEED_GREETING,
    FEED_SNAPSHOT,
    FEED_STREAM,
    FEED_WAITING,
    FEED_COMPLETE,
    FEED_CLOSED
};

/* An RDB without keys, for a log that begins at nothing. The checksum of zeros means "not computed". */
static const unsigned char empty_rdb[] = {'R', 'E', 'D', 'I', 'S', '0', '0', '1', '1', 0xff, 0, 0, 0, 0, 0, 0, 0, 0};

struct feed {
    struct loop *loop;
    const struct diag *diag;
    struct log *log;
    enum feed_state state;
    bool closed; /* by the owner */
    const struct feed_events *events;
    void *arg;
    struct evconnlistener *listener;
    int port;
    char password[PASSWORD_BYTES + 1], replid[ID_BYTES + 1];
    struct stream *stream;
    bool authenticated;
    uint64_t accepted_ms, started_ms, active_ms;
    struct loop_timer *tick, *pump;
    struct resp_limits limits;
    struct resp_pool *pool;
    struct resp_parser *parser;
    int file; /* the snapshot, -1 = none */
    uint64_t file_left, rdb_bytes;
    struct replay *replay;
    uint64_t offset, goal;
    size_t out_before; /* pending at the last tick: to see whether Valkey takes bytes */
    char why[WHY_BYTES_MAX];
};

static void feed_fail(struct feed *f, const char *why)
{
    if (f->state == FEED_CLOSED)
        return;
    f->state = FEED_CLOSED;
    diag_log(f->diag, DIAG_DEBUG, "Feed closed: %s", why);
    f->events->closed(f->arg, why);
}

static void drop_stream(struct feed *f)
{
    stream_close(f->stream);
    f->stream = NULL;
    resp_parser_drop(f->pool, f->parser);
    f->parser = NULL;
    f->authenticated = false;
}

/* ---- sending ---- */

static void start_transfer(struct feed *f)
{
    stream_out(f->stream); /* marks it as having something to say */
    buf_printf(stream_out(f->stream), "+FULLRESYNC %s 0\r\n$%llu\r\n", f->replid, (unsigned long long)f->rdb_bytes);
    if (f->file < 0)
        stream_write(f->stream, empty_rdb, sizeof empty_rdb);
    f->state = FEED_SNAPSHOT;
    loop_timer_once(f->pump, 0);
}

static bool pump_file(struct feed *f)
{
    struct buf *out = stream_out(f->stream);
    size_t want = f->file_left < PIECE_BYTES ? (size_t)f->file_left : PIECE_BYTES;
    char *tail;
    ssize_t n;

    if (want == 0) {
        f->state = FEED_STREAM;
        return true;
    }
    tail = buf_tail(out, want);
    if (tail == NULL) {
        feed_fail(f, "out of memory for the snapshot");
        return false;
    }
    n = read(f->file, tail, want);
    if (n <= 0) {
        (void)snprintf(f->why, sizeof f->why, "cannot read the snapshot: %s",
                       n < 0 ? strerror(errno) : "it is shorter than its sidecar says");
        feed_fail(f, f->why);
        return false;
    }
    buf_grew(out, (size_t)n);
    f->file_left -= (uint64_t)n;
    return true;
}

static bool pump_stream(struct feed *f)
{
    static const char getack[] = "*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";
    struct buf *out = stream_out(f->stream);
    size_t before = out->len;
    bool more = replay_step(f->replay, out, PIECE_BYTES);

    if (replay_facts(f->replay)->damage != NULL || out->failed) {
        feed_fail(f, out->failed ? "out of memory for the replay" : replay_facts(f->replay)->damage);
        return false;
    }
    f->offset += out->len - before;
    if (!more) {
        f->goal = f->offset;
        buf_append(out, getack, sizeof getack - 1);
        f->offset += sizeof getack - 1;
        f->state = FEED_WAITING;
    }
    return true;
}

static void tell_progress(struct feed *f)
{
    double log_bytes_all = (double)log_bytes(f->log), total = (double)f->rdb_bytes + log_bytes_all;
    double done = (double)(f->rdb_bytes - f->file_left) + replay_progress(f->replay) * log_bytes_all;

    if (f->events->progress != NULL && f->state != FEED_LISTENING && f->state != FEED_GREETING)
        f->events->progress(f->arg, total > 0 ? done / total : 1, replay_facts(f->replay)->commands);
}

/* One piece per turn. Goes on by itself, or when `sent` says that there is room again. */
static void on_pump(void *arg)
{
    struct feed *f = arg;
    bool ok = true;

    if (f->stream == NULL || stream_pending(f->stream) > OUT_BYTES_MAX)
        return;
    if (f->state == FEED_SNAPSHOT)
        ok = pump_file(f);
    else if (f->state == FEED_STREAM)
        ok = pump_stream(f);
    if (ok && (f->state == FEED_SNAPSHOT || f->state == FEED_STREAM))
        loop_timer_once(f->pump, 0);
}

static void on_sent(void *arg)
{
    struct feed *f = arg;

    f->active_ms = loop_now_ms(f->loop);
    if (f->state == FEED_SNAPSHOT || f->state == FEED_STREAM)
        loop_timer_once(f->pump, 0);
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

    if (a->count < 2 || !same_bytes(argv_at(a, last), argv_len(a, last), f->password, PASSWORD_BYTES)) {
        drop_stream(f);
        return;
    }
    f->authenticated = true;
    evconnlistener_disable(f->listener);
    resp_status(stream_out(f->stream), "OK");
}

static void on_replconf(struct feed *f, const struct argv *a)
{
    int64_t ack;

    if (!argv_is(a, 1, "ACK")) {
        resp_status(stream_out(f->stream), "OK");
        return;
    }
    if (f->state == FEED_WAITING && argv_integer(a, 2, &ack) && ack >= 0 && (uint64_t)ack >= f->goal) {
        f->state = FEED_COMPLETE;
        tell_progress(f);
        if (f->state == FEED_COMPLETE)
            f->events->complete(f->arg);
    }
}

static void on_command(struct feed *f, const struct argv *a)
{
    if (argv_is(a, 0, "PING"))
        resp_status(stream_out(f->stream), "PONG");
    else if (argv_is(a, 0, "AUTH"))
        on_auth(f, a);
    else if (!f->authenticated)
        drop_stream(f);
    else if (argv_is(a, 0, "REPLCONF"))
        on_replconf(f, a);
    else if (argv_is(a, 0, "PSYNC") && f->state == FEED_GREETING)
        start_transfer(f); /* whatever it asks for: our id is new, so it is always a full sync */
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
            feed_fail(f, error);
        } else if (result == RESP_ERROR) {
            drop_stream(f);
        } else {
            return;
        }
    }
}

static void on_closed(void *arg, const char *why)
{
    struct feed *f = arg;
    bool ours = f->authenticated;

    drop_stream(f);
    if (f->state == FEED_COMPLETE)
        return; /* it was promoted */
    if (ours) {
        (void)snprintf(f->why, sizeof f->why, "Valkey left the feed: %s", why);
        feed_fail(f, f->why);
    } else if (f->state == FEED_GREETING) {
        f->state = FEED_LISTENING;
    }
}

static const struct stream_events stream_callbacks = {.data = on_data, .closed = on_closed, .sent = on_sent};

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int size, void *arg)
{
    struct feed *f = arg;
    uint64_t now = loop_now_ms(f->loop);

    (void)listener;
    (void)from;
    (void)size;
    if (f->state > FEED_GREETING || f->authenticated ||
        (f->stream != NULL && now < f->accepted_ms + GREETING_MS_MAX)) {
        (void)close(fd);
        return;
    }
    if (f->stream != NULL)
        drop_stream(f);
    f->stream = stream_accepted(f->loop, fd, &stream_callbacks, f);
    f->accepted_ms = now;
    f->active_ms = now;
    f->state = FEED_GREETING;
}

/* ---- time ---- */

static void on_tick(void *arg)
{
    struct feed *f = arg;
    uint64_t now = loop_now_ms(f->loop);
    size_t pending = f->stream != NULL ? stream_pending(f->stream) : 0;

    if (f->state == FEED_CLOSED || f->state == FEED_COMPLETE)
        return;
    if (pending < f->out_before)
        f->active_ms = now;
    f->out_before = pending;
    tell_progress(f);
    if (!f->authenticated && now >= f->started_ms + CONNECT_MS_MAX)
        feed_fail(f, "Valkey did not come to be fed");
    else if (f->authenticated && now >= f->active_ms + SILENCE_MS_MAX)
        feed_fail(f, "Valkey neither takes the feed nor answers");
    else if (f->state == FEED_SNAPSHOT || f->state == FEED_STREAM)
        on_pump(f);
}

/* ---- the door ---- */

static void random_hex(char *out, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    unsigned char bytes[ID_BYTES];
    ssize_t got = getrandom(bytes, n, 0);

    CHECK(n <= sizeof bytes && got == (ssize_t)n);
    for (size_t i = 0; i < n; i++)
        out[i] = digit[bytes[i] & 15];
    out[n] = '\0';
}

static bool listen_on(struct feed *f, const char *ip, char *why, size_t why_size)
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

static bool open_source(struct feed *f, char *why, size_t why_size)
{
    struct snapshot_mark mark;
    struct stat st;
    char path[4096];

    f->file = -1;
    f->rdb_bytes = sizeof empty_rdb;
    if (!snapshot_newest(f->log, &mark, path, sizeof path)) {
        f->replay = replay_new(f->log, NULL);
        return true;
    }
    f->replay = replay_new(f->log, &mark);
    f->file = open(path, O_RDONLY | O_CLOEXEC);
    if (f->file < 0 || fstat(f->file, &st) != 0 || (uint64_t)st.st_size != mark.rdb_bytes) {
        (void)snprintf(why, why_size, "snapshot %s: %s", path, f->file < 0 ? strerror(errno) : "wrong size");
        return false;
    }
    f->rdb_bytes = mark.rdb_bytes;
    f->file_left = mark.rdb_bytes;
    return true;
}

static void release(void *object)
{
    struct feed *f = object;

    resp_pool_free(f->pool);
    free(f);
}

struct feed *feed_new(struct loop *l, const struct diag *d, struct log *log, const char *ip,
                      const struct feed_events *events, void *arg, char *why, size_t why_size)
{
    struct feed *f = must_calloc(1, sizeof *f);

    CHECK(events->complete != NULL && events->closed != NULL);
    f->loop = l;
    f->diag = d;
    f->log = log;
    f->events = events;
    f->arg = arg;
    f->limits = (struct resp_limits){
        .bulk_bytes_max = 65536, .query_bytes_max = 65536, .args_max = 64, .line_bytes_max = 65536};
    f->pool = resp_pool_new(&f->limits);
    f->started_ms = loop_now_ms(l);
    memcpy(f->password, FEED_PASSWORD_PREFIX, sizeof FEED_PASSWORD_PREFIX - 1);
    random_hex(f->password + sizeof FEED_PASSWORD_PREFIX - 1, 32);
    random_hex(f->replid, ID_BYTES);
    f->tick = loop_timer_new(l, on_tick, f);
    f->pump = loop_timer_new(l, on_pump, f);
    if (!open_source(f, why, why_size) || !listen_on(f, ip, why, why_size)) {
        feed_close(f);
        return NULL;
    }
    loop_timer_every(f->tick, TICK_MS);
    return f;
}

void feed_close(struct feed *f)
{
    if (f == NULL || f->closed)
        return;
    f->closed = true;
    f->state = FEED_CLOSED;
    drop_stream(f);
    if (f->listener != NULL)
        evconnlistener_free(f->listener);
    f->listener = NULL;
    if (f->file >= 0)
        (void)close(f->file);
    replay_free(f->replay);
    f->replay = NULL;
    loop_timer_free(f->tick);
    loop_timer_free(f->pump);
    loop_bury(f->loop, f, release);
}

int feed_port(const struct feed *f)
{
    return f->port;
}

const char *feed_password(const struct feed *f)
{
    return f->password;
}

const char *feed_replid(const struct feed *f)
{
    return f->replid;
}

uint64_t feed_offset(const struct feed *f)
{
    return f->offset;
}

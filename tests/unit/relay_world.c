/* See relay_world.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/relay_world.h"

enum { SETTLE_MS = 3 };

static const struct status *on_status(void *arg)
{
    struct relay_world *w = arg;

    return &w->status;
}

static void answer_dial(void *arg)
{
    struct relay_world *w = arg;
    void (*done)(void *arg, struct stream *s, const char *why) = w->done;
    int pair[2];

    w->done = NULL;
    if (done == NULL)
        return;
    if (w->answer == REFUSED) {
        done(w->done_arg, NULL, "refused");
        return;
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    if (w->leader >= 0)
        (void)close(w->leader);
    w->leader = pair[0];
    (void)fcntl(pair[0], F_SETFL, O_NONBLOCK);
    done(w->done_arg, stream_accepted(w->loop, pair[1], NULL, NULL), NULL);
    if (w->answer == ACCEPTED)
        assert_int_equal(write(pair[0], relay_ready, strlen(relay_ready)), strlen(relay_ready));
}

static struct log_dial *on_dial(void *arg, const void *extra, size_t n,
                                void (*done)(void *arg, struct stream *s, const char *why), void *done_arg)
{
    struct relay_world *w = arg;

    assert_null(w->done);
    assert_true(n <= sizeof w->extra);
    memcpy(w->extra, extra, n);
    w->extra_n = n;
    w->dials++;
    w->done = done;
    w->done_arg = done_arg;
    if (w->answer != NO_ANSWER)
        loop_timer_once(w->answer_later, 0);
    return (struct log_dial *)w;
}

static void on_cancel(struct log_dial *d)
{
    struct relay_world *w = (struct relay_world *)d;

    assert_non_null(w->done);
    w->done = NULL;
    w->cancelled++;
}

static void on_stop(void *arg)
{
    struct relay_world *w = arg;

    loop_stop(w->loop);
}

/* The core's part: it takes what it is told. */
static bool on_core_turn(void *arg)
{
    struct relay_world *w = arg;
    struct message m;

    while (queue_pop(&w->to_core, &m))
        continue;
    return false;
}

struct relay_world *relay_world_new(enum gate_part first)
{
    struct relay_world *w = must_calloc(1, sizeof *w);
    struct worker_settings s = {.config = &w->config,
                                .valkey_address = "/nowhere",
                                .gate = &w->gate,
                                .to_core = &w->to_core,
                                .to_worker = &w->to_worker,
                                .status = on_status,
                                .arg = w,
                                .relay = {on_dial, on_cancel, w}};
    char why[256];

    w->diag.level = DIAG_NOTHING;
    config_defaults(&w->config);
    w->config.port = 0;
    w->config.relay_timeout_ms = 150;
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/hf-relay-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(w->config.unixsocket, sizeof w->config.unixsocket, "%s/sock", w->dir);
    w->loop = loop_new();
    w->leader = -1;
    w->stop = loop_timer_new(w->loop, on_stop, w);
    w->answer_later = loop_timer_new(w->loop, answer_dial, w);
    atomic_store(&w->gate.part, first);
    w->worker = worker_new(w->loop, &w->diag, &s, why, sizeof why);
    assert_non_null(w->worker);
    loop_add_hook(w->loop, on_core_turn, w);
    return w;
}

void relay_world_free(struct relay_world *w)
{
    worker_free(w->worker); /* its hook stays: no turn after this */
    if (w->leader >= 0)
        (void)close(w->leader);
    loop_timer_free(w->stop);
    loop_timer_free(w->answer_later);
    loop_free(w->loop);
    queue_free(&w->to_core);
    queue_free(&w->to_worker);
    (void)rmdir(w->dir);
    free(w);
}

void rw_turns(struct relay_world *w, unsigned ms)
{
    loop_timer_once(w->stop, ms);
    loop_run(w->loop);
}

void rw_part(struct relay_world *w, enum gate_part p)
{
    atomic_store(&w->gate.part, p);
    rw_turns(w, SETTLE_MS);
}

void rw_open_valkey(struct relay_world *w)
{
    static const char commands[] = "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n"
                                   "*0\r\n*0\r\n*0\r\n*0\r\n";
    struct valkey_identity *v = must_calloc(1, sizeof *v);

    (void)snprintf(v->run_id, sizeof v->run_id, "0123456789012345678901234567890123456789");
    (void)snprintf(v->version, sizeof v->version, "8.0.1");
    v->databases = 16;
    v->commands = must_strdup(commands);
    v->commands_bytes = sizeof commands - 1;
    atomic_store(&w->gate.state, GATE_OPEN);
    queue_push(&w->to_worker, (struct message){.kind = TO_WORKER_OPEN, .pointer = v});
    rw_turns(w, SETTLE_MS);
}

int rw_client_new(struct relay_world *w)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(to.sun_path, sizeof to.sun_path, "%s/sock", w->dir);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    rw_turns(w, SETTLE_MS);
    return fd;
}

void rw_say_bytes(struct relay_world *w, int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

        if (sent < 0)
            assert_int_equal(errno, EAGAIN);
        bytes += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
        rw_turns(w, 1);
    }
    rw_turns(w, SETTLE_MS);
}

void rw_say(struct relay_world *w, int fd, const char *text)
{
    rw_say_bytes(w, fd, text, strlen(text));
}

const char *rw_hear(struct relay_world *w, int fd)
{
    ssize_t n = 1;

    w->read_n = 0;
    w->ended = false;
    rw_turns(w, SETTLE_MS);
    while (n > 0 && w->read_n < READ_BYTES_MAX) {
        n = read(fd, w->read + w->read_n, READ_BYTES_MAX - w->read_n);
        w->read_n += n > 0 ? (size_t)n : 0;
        w->ended = n == 0 || (n < 0 && errno == ECONNRESET);
    }
    w->read[w->read_n] = '\0';
    return w->read;
}

void rw_expect(struct relay_world *w, int fd, const char *text)
{
    assert_string_equal(rw_hear(w, fd), text);
}

void rw_expect_open(struct relay_world *w, int fd)
{
    rw_expect(w, fd, "");
    assert_false(w->ended);
}

void rw_expect_closed(struct relay_world *w, int fd)
{
    rw_expect(w, fd, "");
    assert_true(w->ended);
    (void)close(fd);
}

void rw_expect_count(struct relay_world *w, int fd, const char *code, size_t count)
{
    const char *at = rw_hear(w, fd);
    size_t found = 0;

    for (; *at == '-'; found++) {
        assert_memory_equal(at + 1, code, strlen(code));
        at = strstr(at, "\r\n");
        assert_non_null(at);
        at += 2;
    }
    assert_int_equal(*at, '\0');
    assert_int_equal(found, count);
}

void rw_hang_up(struct relay_world *w)
{
    assert_true(w->leader >= 0);
    (void)close(w->leader);
    w->leader = -1;
    rw_turns(w, SETTLE_MS);
}

/* The admin port over a real socket: a child serves, the test asks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "log/base/buf.h"
#include "log/base/loop.h"
#include "proxy/admin.h"
#include "proxy/status.h"

struct server {
    pid_t pid;
    int port, stop;
};

struct child;
struct fake { /* what the admin port works for */
    struct status *status;
    struct child *child;
};

static const struct status *fill(void *arg)
{
    return ((struct fake *)arg)->status;
}

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), port = -1;

    if (bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && getsockname(fd, (struct sockaddr *)&at, &n) == 0)
        port = ntohs(at.sin_port);
    (void)close(fd);
    return port;
}

/* An action of "later" is done after a while, of "never" nothing more is heard. */
struct late {
    struct loop_timer *timer;
    admin_done *done;
    void *arg;
};
struct child {
    struct loop *loop;
    int stop_fd;
    uint64_t polls;
    struct late late;
};
enum { POLL_MS = 20, POLLS_MAX = 120 * 1000 / POLL_MS };

static void look_for_stop(void *arg)
{
    struct child *k = arg;
    char x;

    if (read(k->stop_fd, &x, 1) >= 0 || ++k->polls == POLLS_MAX)
        loop_stop(k->loop);
}

static void on_late(void *arg)
{
    struct late *late = arg;

    late->done(late->arg, true, "");
}

static void transfer(void *arg, const char *to, admin_done *done, void *done_arg)
{
    struct child *k = ((struct fake *)arg)->child;
    struct late *late = &k->late;

    if (to != NULL && strcmp(to, "never") == 0)
        return;
    if (to == NULL || strcmp(to, "later") != 0) {
        done(done_arg, to == NULL, to != NULL ? to : "");
        return;
    }
    *late = (struct late){loop_timer_new(k->loop, on_late, late), done, done_arg};
    loop_timer_once(late->timer, 100);
}

static void change_members(void *arg, enum log_change what, const char *name, admin_done *done, void *done_arg)
{
    char why[64];

    (void)arg;
    (void)snprintf(why, sizeof why, "%d \"%s\"", (int)what, name);
    done(done_arg, false, why);
}

static void snapshot(void *arg, admin_done *done, void *done_arg)
{
    (void)arg;
    done(done_arg, true, "");
}

static void set_mode(void *arg, enum durability mode, admin_done *done, void *done_arg)
{
    (void)arg;
    done(done_arg, mode != DURABILITY_OFF, durability_name(mode));
}

static void drain(void *arg, bool out, admin_done *done, void *done_arg)
{
    ((struct fake *)arg)->status->draining = out;
    ((struct fake *)arg)->status->ready = !out;
    done(done_arg, true, "");
}

static const struct admin_actions actions = {transfer, change_members, snapshot, set_mode, drain};

_Noreturn static void serve(int port, struct status *s, int ready_fd, int stop_fd)
{
    struct loop *l = loop_new();
    struct child k = {.loop = l, .stop_fd = stop_fd};
    struct fake f = {s, &k};
    struct loop_timer *t = loop_timer_new(l, look_for_stop, &k);
    struct config c;
    struct admin *a;
    char why[256] = "";

    config_defaults(&c);
    c.admin_port = port;
    if (s->pending_bytes == 1)
        (void)snprintf(c.admin_token, sizeof c.admin_token, "open sesame");
    a = admin_new(l, NULL, &c, fill, &actions, &f, why, sizeof why);
    if (a == NULL) {
        fprintf(stderr, "%s\n", why);
        _exit(2);
    }
    (void)!write(ready_fd, "x", 1);
    loop_timer_every(t, POLL_MS);
    loop_run(l);
    admin_free(a);
    loop_timer_free(k.late.timer);
    loop_timer_free(t);
    loop_free(l);
    exit(0);
}

static void start(struct server *v, struct status *s)
{
    int ready[2], stop[2];
    char x;

    v->port = free_port();
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe2(stop, O_NONBLOCK), 0);
    v->pid = fork();
    assert_true(v->pid >= 0);
    if (v->pid == 0)
        serve(v->port, s, ready[1], stop[0]);
    (void)close(ready[1]);
    (void)close(stop[0]);
    v->stop = stop[1];
    assert_int_equal(read(ready[0], &x, 1), 1);
    (void)close(ready[0]);
}

static void finish(const struct server *v)
{
    int status = 0;

    assert_int_equal(write(v->stop, "x", 1), 1); /* it ends by itself, so that leaks are looked for */
    (void)close(v->stop);
    assert_int_equal(waitpid(v->pid, &status, 0), v->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int dial(const struct server *v)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)v->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

/* Sends a request, returns everything up to the end of the connection as text, valid until the next call. */
static const char *ask(const struct server *v, struct buf *reply, const char *request, size_t n)
{
    int fd = dial(v);
    char piece[4096];
    ssize_t got;

    assert_int_equal(send(fd, request, n, MSG_NOSIGNAL), n);
    buf_clear(reply);
    while ((got = recv(fd, piece, sizeof piece, 0)) > 0)
        buf_append(reply, piece, (size_t)got);
    (void)close(fd);
    buf_append(reply, "", 1);
    return buf_head(reply);
}

static const char *get(const struct server *v, struct buf *reply, const char *method, const char *path)
{
    char request[256];
    int n = snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", method, path);

    return ask(v, reply, request, (size_t)n);
}

static void has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("'%s' is not in:\n%s", part, text);
}

static void pages(void **state)
{
    struct status s = {.state = "serving", .ready = true, .lag_ms = 5};
    struct buf r = {0};
    struct server v;
    const char *head;

    (void)state;
    start(&v, &s);
    has(get(&v, &r, "GET", "/healthz"), "HTTP/1.1 200 OK\r\n");
    has(get(&v, &r, "GET", "/healthz"), "\r\n\r\nok\n");
    has(get(&v, &r, "GET", "/readyz"), "\r\n\r\nok\n");
    has(get(&v, &r, "GET", "/metrics?x=y"), "\nholdfast_lag_seconds 0.005\n");
    has(get(&v, &r, "GET", "/metrics"), "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
    has(get(&v, &r, "GET", "/status"), "\"state\": \"serving\"");
    has(get(&v, &r, "GET", "/nothing"), "HTTP/1.1 404 ");
    has(get(&v, &r, "GET", "/"), "Content-Security-Policy: default-src 'none'");
    has(get(&v, &r, "GET", "/"), "<title>Holdfast</title>");
    has(get(&v, &r, "GET", "/"), "</html>");
    has(get(&v, &r, "GET", "/history"), "\"every_ms\": 1000, \"fields\": [\"unix_ms\", \"lag_ms\"");
    has(get(&v, &r, "GET", "/history?since=99999999999999"), "\"samples\": []}");
    has(get(&v, &r, "GET", "/history?since=%zz&&&since"), "\"samples\": [");
    has(get(&v, &r, "GET", "/status"), "\"problems\": []");
    has(get(&v, &r, "POST", "/status"), "HTTP/1.1 405 ");
    has(get(&v, &r, "POST", "/status"), "Allow: GET, HEAD\r\n");
    has(get(&v, &r, "DELETE", "/nothing"), "HTTP/1.1 405 ");
    head = get(&v, &r, "HEAD", "/healthz");
    has(head, "HTTP/1.1 200 OK\r\n");
    has(head, "Content-Length: 3\r\n");
    assert_string_equal(strstr(head, "\r\n\r\n"), "\r\n\r\n"); /* no body */
    finish(&v);
    buf_free(&r);
}

static void readyz_names_the_reason(void **state)
{
    static const struct {
        struct status status;
        const char *says;
    } cases[] = {
        {{.state = "rebuilding", .role = "leader", .rebuild_progress = 0.5}, "not serving: rebuilding (50 %)\n"},
        {{.state = "serving", .role = "leader", .log_stalled = true, .log_stalled_why = "no space left"},
         "the log is stalled: no space left\n"},
        {{.state = "serving", .role = "leader", .refusing_writes = true, .lag_ms = 12000, .lag_max_ms = 10000},
         "writes are refused: the oldest write not durable is 12000 ms old"},
        {{.state = "serving", .role = "detached", .detached = true}, "the majority of the members is lost: sync"},
        {{.state = "fed", .role = "follower", .leader = "b"}, "there is no link to the leader, b\n"},
        {{.state = "fed", .role = "none"}, "no leader is known\n"},
        {{.state = "draining", .role = "follower", .leader = "b"}, "shutting down\n"},
        {{.state = "serving", .role = "leader", .draining = true, .member_count = 3},
         "draining: out of service until ctl undrain or a restart; it still leads\n"}};
    struct buf r = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct status s = cases[i].status;
        struct server v;

        start(&v, &s);
        has(get(&v, &r, "GET", "/readyz"), "HTTP/1.1 503 ");
        has(strstr(get(&v, &r, "GET", "/readyz"), "\r\n\r\n") + 4, cases[i].says);
        has(get(&v, &r, "GET", "/healthz"), "HTTP/1.1 200 OK\r\n");
        finish(&v);
    }
    buf_free(&r);
}

static void actions_are_handed_on(void **state)
{
    struct status s = {.state = "serving", .ready = true};
    struct buf r = {0};
    struct server v;

    (void)state;
    start(&v, &s);
    has(get(&v, &r, "POST", "/transfer"), "HTTP/1.1 200 OK\r\n");
    has(get(&v, &r, "POST", "/transfer"), "\r\n\r\n{\"ok\":true}\n");
    has(get(&v, &r, "POST", "/transfer?to=b"), "HTTP/1.1 409 ");
    has(get(&v, &r, "POST", "/transfer?to=b"), "\r\n\r\n{\"ok\":false,\"error\":\"b\"}\n");
    has(get(&v, &r, "GET", "/members"), "\"last\": \"transfer b: failed: b\"");
    has(get(&v, &r, "POST", "/transfer?to=later"), "{\"ok\":true}");
    has(get(&v, &r, "POST", "/snapshot"), "{\"ok\":true}");
    has(get(&v, &r, "POST", "/members/add?name=c"), "{\"ok\":false,\"error\":\"0 \\\"c\\\"\"}");
    has(get(&v, &r, "POST", "/members/remove?name=c"), "\"1 ");
    has(get(&v, &r, "POST", "/members/replace?x=y&name=c"), "\"2 ");
    has(get(&v, &r, "GET", "/members"), "\"last\": \"replace c: failed: 2 \\\"c\\\"\"");
    has(get(&v, &r, "POST", "/mode?durability=sync"), "{\"ok\":true}");
    has(get(&v, &r, "POST", "/mode?durability=async"), "{\"ok\":true}");
    has(get(&v, &r, "POST", "/mode?durability=off"), "{\"ok\":false,\"error\":\"off\"}");
    has(get(&v, &r, "GET", "/members"), "\"last\": \"mode off: failed: off\"");
    has(get(&v, &r, "POST", "/drain"), "{\"ok\":true}");
    has(get(&v, &r, "GET", "/readyz"), "HTTP/1.1 503 ");
    has(get(&v, &r, "GET", "/readyz"), "\r\n\r\ndraining: out of service");
    has(get(&v, &r, "GET", "/metrics"), "\nholdfast_draining 1\n");
    has(get(&v, &r, "POST", "/undrain"), "{\"ok\":true}");
    has(get(&v, &r, "GET", "/readyz"), "HTTP/1.1 200 ");
    finish(&v);
    buf_free(&r);
}

static void actions_are_guarded(void **state)
{
    static const char from_a_page[] = "POST /transfer HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n"
                                      "Connection: close\r\nContent-Length: 0\r\n\r\n";
    struct status s = {.state = "serving", .ready = true};
    struct buf r = {0};
    struct server v;

    (void)state;
    start(&v, &s);
    has(get(&v, &r, "GET", "/transfer"), "HTTP/1.1 405 ");
    has(get(&v, &r, "GET", "/transfer"), "Allow: POST\r\n");
    has(get(&v, &r, "POST", "/members"), "HTTP/1.1 405 ");
    has(get(&v, &r, "POST", "/members/add"), "HTTP/1.1 400 ");
    has(get(&v, &r, "POST", "/members/add?name="), "HTTP/1.1 400 ");
    has(get(&v, &r, "POST", "/members/add?name=a%20b"), "\"name is not a node's name\"");
    has(get(&v, &r, "POST", "/transfer?to=%"), "HTTP/1.1 400 ");
    has(get(&v, &r, "POST", "/mode"), "HTTP/1.1 400 ");
    has(get(&v, &r, "POST", "/mode?durability=always"), "?durability= is sync, async or off");
    has(get(&v, &r, "GET", "/drain"), "HTTP/1.1 405 ");
    has(ask(&v, &r, from_a_page, sizeof from_a_page - 1), "HTTP/1.1 403 ");
    finish(&v);
    buf_free(&r);
}

static const char *as(const struct server *v, struct buf *reply, const char *path, const char *authorization)
{
    char request[2048];
    int n = snprintf(request, sizeof request,
                     "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n"
                     "Authorization: %s\r\n\r\n",
                     path, authorization);

    return ask(v, reply, request, (size_t)n);
}

static void a_token_is_asked_for(void **state)
{
    static const char *const wrong[] = {"Bearer open",
                                        "Bearer open sesame!",
                                        "Bearer ",
                                        "Bearer",
                                        "",
                                        "open sesame",
                                        "Basic b3BlbiBzZXNhbWU=",     /* no colon */
                                        "Basic YTpvcGVuIHNlc2FtZQ",   /* a:open sesame, cut */
                                        "Basic YTpPcGVuIHNlc2FtZQ==", /* a:Open sesame */
                                        "Basic ====",
                                        "Basic !!!!",
                                        "Basic ",
                                        "Digest open sesame"};
    static const char *const asks[] = {"/", "/metrics", "/status", "/history", "/members", "/nothing"};
    struct status s = {.state = "serving", .ready = true, .pending_bytes = 1};
    struct buf r = {0};
    struct server v;
    char long_one[1500];

    (void)state;
    start(&v, &s);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++)
        has(get(&v, &r, "GET", asks[i]), "HTTP/1.1 401 ");
    has(get(&v, &r, "GET", "/"), "WWW-Authenticate: Basic realm=");
    has(get(&v, &r, "POST", "/transfer"), "HTTP/1.1 401 ");
    has(get(&v, &r, "POST", "/drain"), "HTTP/1.1 401 ");
    has(get(&v, &r, "POST", "/mode?durability=off"), "HTTP/1.1 401 ");
    has(get(&v, &r, "GET", "/healthz"), "200 OK");
    has(get(&v, &r, "GET", "/readyz"), "200 OK");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        has(as(&v, &r, "/transfer", wrong[i]), "HTTP/1.1 401 ");
    memset(long_one, 'A', sizeof long_one);
    memcpy(long_one, "Basic ", 6);
    long_one[6 + 1400] = '\0';
    has(as(&v, &r, "/transfer", long_one), "HTTP/1.1 401 ");
    has(as(&v, &r, "/transfer", "Bearer open sesame"), "{\"ok\":true}");
    has(as(&v, &r, "/transfer", "bearer open sesame"), "{\"ok\":true}");
    has(as(&v, &r, "/transfer", "Basic YTpvcGVuIHNlc2FtZQ=="), "{\"ok\":true}"); /* a:open sesame */
    finish(&v);
    buf_free(&r);
}

/* Actions under way when the port is freed, one with its client gone: nothing is left behind. */
static void actions_end_with_the_port(void **state)
{
    static const char never[] = "POST /transfer?to=never HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    struct status s = {.state = "serving", .ready = true};
    struct buf r = {0};
    struct server v;
    int waiting, gone;

    (void)state;
    start(&v, &s);
    waiting = dial(&v);
    gone = dial(&v);
    assert_int_equal(send(waiting, never, sizeof never - 1, MSG_NOSIGNAL), sizeof never - 1);
    assert_int_equal(send(gone, never, sizeof never - 1, MSG_NOSIGNAL), sizeof never - 1);
    has(get(&v, &r, "GET", "/healthz"), "200 OK");
    (void)close(gone);
    has(get(&v, &r, "GET", "/healthz"), "200 OK");
    for (int i = 0; i < 14; i++) {
        int fd = dial(&v);

        assert_int_equal(send(fd, never, sizeof never - 1, MSG_NOSIGNAL), sizeof never - 1);
        has(get(&v, &r, "GET", "/healthz"), "200 OK");
        (void)close(fd);
    }
    has(get(&v, &r, "POST", "/snapshot"), "too many actions are under way");
    has(get(&v, &r, "GET", "/members"), "\"busy\": \"transfer never\"");
    finish(&v);
    (void)close(waiting);
    buf_free(&r);
}

static void too_large_is_refused(void **state)
{
    struct status s = {.state = "serving", .ready = true};
    struct buf r = {0}, request = {0};
    struct server v;

    (void)state;
    start(&v, &s);
    buf_text(&request, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ");
    for (int i = 0; i < 16 * 1024; i++)
        buf_append(&request, "a", 1);
    buf_text(&request, "\r\n\r\n");
    assert_null(strstr(ask(&v, &r, buf_head(&request), request.len), "200 OK"));
    buf_clear(&request);
    buf_text(&request, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    assert_null(strstr(ask(&v, &r, buf_head(&request), request.len), "200 OK"));
    buf_clear(&request);
    buf_text(&request, "no http at all\r\n\r\n");
    assert_null(strstr(ask(&v, &r, buf_head(&request), request.len), "200 OK"));
    has(get(&v, &r, "GET", "/healthz"), "200 OK"); /* still alive */
    finish(&v);
    buf_free(&r);
    buf_free(&request);
}

static void a_taken_port_is_an_error(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t n = sizeof at;
    struct loop *l = loop_new();
    struct config c;
    char why[256] = "";

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    config_defaults(&c);
    c.admin_port = ntohs(at.sin_port);
    assert_null(admin_new(l, NULL, &c, fill, &actions, NULL, why, sizeof why));
    has(why, "admin port: can't listen on 127.0.0.1 port ");
    loop_free(l);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages),
        cmocka_unit_test(readyz_names_the_reason),
        cmocka_unit_test(actions_are_handed_on),
        cmocka_unit_test(actions_are_guarded),
        cmocka_unit_test(a_token_is_asked_for),
        cmocka_unit_test(actions_end_with_the_port),
        cmocka_unit_test(too_large_is_refused),
        cmocka_unit_test(a_taken_port_is_an_error),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

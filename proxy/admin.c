/* The admin port: pages over libevent's evhttp.
 *
 *     /          a page for people (page.html), which asks for /status and /history once a second
 *     /healthz   200 while the loop turns            for "restart me if not"
 *     /readyz    200, or 503 and the reason          for "send me traffic"
 *     /metrics   Prometheus text                     /status   JSON, for people and tools
 *     /members   JSON: the group                     /history   JSON: the last ten minutes; ?since=<unix ms>
 *     POST /transfer, ...: admin_actions.c
 *
 * GET and HEAD change nothing. Requests are small by nature, so headers and bodies are bounded tightly; a connection
 * that says nothing is closed after ADMIN_TIMEOUT_S. */

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "config/config.h"
#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/admin_history.h"
#include "proxy/admin_internal.h"
#include "proxy/page.h"
#include "proxy/status.h"

enum {
    ADMIN_HEADER_BYTES_MAX = 8 * 1024,
    ADMIN_BODY_BYTES_MAX = 4 * 1024,
    ADMIN_INPUT_BYTES_MAX = 16 * 1024,
    ADMIN_TIMEOUT_S = 10
};

void admin_answer(struct evhttp_request *request, int code, const char *type, const struct buf *body)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
    struct evbuffer *bytes = evhttp_request_get_output_buffer(request);
    bool failed = body->failed;

    (void)evhttp_add_header(headers, "Content-Type", type);
    (void)evhttp_add_header(headers, "Cache-Control", "no-store");
    (void)evhttp_add_header(headers, "Connection", "close"); /* one request each: nobody can pile up answers */
    if (evhttp_request_get_command(request) ==
        EVHTTP_REQ_HEAD) { /* RFC 9110, 9.3.2: the length, not the body; evhttp would send it */
        char length[24];

        (void)snprintf(length, sizeof length, "%zu", body->len);
        (void)evhttp_add_header(headers, "Content-Length", length);
    } else if (!failed && body->len > 0) {
        failed = evbuffer_add(bytes, buf_head(body), body->len) != 0;
    }
    evhttp_send_reply(request, failed ? HTTP_INTERNAL : code, NULL, NULL);
}

static void healthz(const struct admin *a, struct evhttp_request *request)
{
    struct buf body = {0};

    (void)a;
    buf_text(&body, "ok\n");
    admin_answer(request, HTTP_OK, "text/plain; charset=utf-8", &body);
    buf_free(&body);
}

static void why_not_ready(const struct status *s, struct buf *out)
{
    if (s->state != NULL && strcmp(s->state, "draining") == 0) {
        buf_text(out, "shutting down");
    } else if (s->draining) {
        buf_printf(out, "draining: out of service until ctl undrain or a restart%s",
                   s->member_count > 1 && strcmp(s->role, "leader") == 0 ? "; it still leads" : "");
    } else if (strcmp(s->role, "follower") == 0) {
        buf_printf(out, "there is no link to the leader, %s", s->leader);
    } else if (strcmp(s->role, "none") == 0) {
        buf_text(out, "no leader is known");
    } else if (s->state == NULL || strcmp(s->state, "serving") != 0) {
        buf_printf(out, "not serving: %s", s->state != NULL ? s->state : "starting");
        if (s->state != NULL && strcmp(s->state, "rebuilding") == 0)
            buf_printf(out, " (%.0f %%)", s->rebuild_progress * 100);
    } else if (s->log_stalled) {
        buf_printf(out, "the log is stalled: %s", s->log_stalled_why);
    } else if (s->detached) {
        buf_text(out, "the majority of the members is lost: sync writes and reads are refused");
    } else if (s->refusing_writes) {
        buf_printf(out,
                   "writes are refused: the oldest write not durable is %" PRIu64
                   " ms old (durability-lag-max %" PRIu64 " ms), %" PRIu64 " bytes are pending",
                   s->lag_ms, s->lag_max_ms, s->pending_bytes);
    } else {
        buf_text(out, "not ready");
    }
    buf_text(out, "\n");
}

static void readyz(const struct admin *a, struct evhttp_request *request)
{
    const struct status *s = a->fill(a->arg);
    struct buf body = {0};

    if (s->ready)
        buf_text(&body, "ok\n");
    else
        why_not_ready(s, &body);
    admin_answer(request, s->ready ? HTTP_OK : HTTP_SERVUNAVAIL, "text/plain; charset=utf-8", &body);
    buf_free(&body);
}

static void metrics(const struct admin *a, struct evhttp_request *request)
{
    struct buf body = {0};

    status_metrics(a->fill(a->arg), &body);
    admin_answer(request, HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", &body);
    buf_free(&body);
}

static void status_page(const struct admin *a, struct evhttp_request *request)
{
    struct buf body = {0};

    status_json(a->fill(a->arg), a->config, &body);
    admin_answer(request, HTTP_OK, "application/json", &body);
    buf_free(&body);
}

static void members_page(const struct admin *a, struct evhttp_request *request)
{
    const struct status *s = a->fill(a->arg);
    const char *busy = s->members_busy[0] != '\0' ? s->members_busy : admin_busy(a);
    struct buf body = {0};

    status_members_json(s, busy, a->last, &body);
    admin_answer(request, HTTP_OK, "application/json", &body);
    buf_free(&body);
}

static void front_page(const struct admin *a, struct evhttp_request *request)
{
    static const char policy[] = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                 "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";
    struct buf body = {0};

    (void)a;
    (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Security-Policy", policy);
    buf_append(&body, page_html, page_html_bytes());
    admin_answer(request, HTTP_OK, "text/html; charset=utf-8", &body);
    buf_free(&body);
}

static void history_page(const struct admin *a, struct evhttp_request *request)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(request)), *since = NULL;
    struct evkeyvalq pairs;
    struct buf body = {0};

    TAILQ_INIT(&pairs);
    if (query != NULL && evhttp_parse_query_str(query, &pairs) == 0)
        since = evhttp_find_header(&pairs, "since");
    history_json(a->history, since != NULL ? strtoull(since, NULL, 10) : 0, &body);
    evhttp_clear_headers(&pairs);
    admin_answer(request, HTTP_OK, "application/json", &body);
    buf_free(&body);
}

static const struct {
    const char *path;
    void (*page)(const struct admin *a, struct evhttp_request *request);
} pages[] = {{"/", front_page},     {"/history", history_page}, {"/healthz", healthz},     {"/readyz", readyz},
             {"/metrics", metrics}, {"/status", status_page},   {"/members", members_page}};

static void refuse(struct evhttp_request *request, int code, const char *text)
{
    struct buf body = {0};

    buf_text(&body, text);
    admin_answer(request, code, "text/plain; charset=utf-8", &body);
    buf_free(&body);
}

static void on_request(struct evhttp_request *request, void *arg)
{
    struct admin *a = arg;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
    const char *path = uri != NULL ? evhttp_uri_get_path(uri) : NULL;
    enum evhttp_cmd_type method = evhttp_request_get_command(request);

    if (path != NULL && strcmp(path, "/healthz") != 0 && strcmp(path, "/readyz") != 0 && !admin_may(a, request)) {
        admin_ask_who(request);
        return;
    }
    if (path != NULL && admin_action(a, path, request))
        return;
    if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
        (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Allow", "GET, HEAD");
        refuse(request, HTTP_BADMETHOD, "only GET and HEAD\n");
        return;
    }
    for (size_t i = 0; path != NULL && i < sizeof pages / sizeof *pages; i++)
        if (strcmp(path, pages[i].path) == 0) {
            pages[i].page(a, request);
            return;
        }
    refuse(request, HTTP_NOTFOUND,
           "no such page; there are /, /metrics, /status, /history, /members, /healthz, /readyz\n");
}

/* Without a mark evhttp would read whatever comes, while an answer is on its way. */
static struct bufferevent *new_connection(struct event_base *base, void *arg)
{
    struct bufferevent *b = bufferevent_socket_new(base, -1, 0);

    (void)arg;
    if (b != NULL)
        bufferevent_setwatermark(b, EV_READ, 0, ADMIN_INPUT_BYTES_MAX);
    return b;
}

struct admin *admin_new(struct loop *l, const struct diag *d, const struct config *c,
                        const struct status *(*fill)(void *arg), const struct admin_actions *actions, void *arg,
                        char *why, size_t why_size)
{
    struct admin *a = must_calloc(1, sizeof *a);

    CHECK(c->admin_port > 0 && c->admin_port <= UINT16_MAX);
    a->loop = l;
    a->diag = d;
    a->config = c;
    a->actions = actions;
    a->fill = fill;
    a->arg = arg;
    a->http = evhttp_new(loop_base(l));
    CHECK(a->http != NULL);
    evhttp_set_max_headers_size(a->http, ADMIN_HEADER_BYTES_MAX);
    evhttp_set_max_body_size(a->http, ADMIN_BODY_BYTES_MAX);
    evhttp_set_timeout(a->http, ADMIN_TIMEOUT_S);
    /* All methods come to us: evhttp would answer the others itself, with 501 where 405 is right. */
    evhttp_set_allowed_methods(a->http, UINT16_MAX);
    evhttp_set_gencb(a->http, on_request, a);
    evhttp_set_bevcb(a->http, new_connection, NULL);
    if (evhttp_bind_socket_with_handle(a->http, c->admin_bind, (uint16_t)c->admin_port) == NULL) {
        (void)snprintf(why, why_size, "admin port: can't listen on %s port %d: %s", c->admin_bind, c->admin_port,
                       strerror(errno));
        evhttp_free(a->http);
        free(a);
        return NULL;
    }
    a->history = history_new(l, fill, arg);
    diag_log(d, DIAG_NOTICE, "Admin port: http://%s:%d/ and /metrics, /status, /members, /healthz, /readyz",
             c->admin_bind, c->admin_port);
    return a;
}

void admin_free(struct admin *a)
{
    if (a == NULL)
        return;
    admin_actions_end(a);
    history_free(a->history);
    evhttp_free(a->http);
    free(a);
}

/* The request is all that this process does meanwhile, so its loop runs until the answer has come. */
#include "proxy/ctl_http.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"

enum { ASK_BODY_BYTES_MAX = 4 * 1024 * 1024, HOST_BYTES_MAX = 256, TOKEN_BYTES_MAX = 1100 };

struct asking {
    struct event_base *base;
    struct ctl_answer *answer;
    bool answered;
};

static void on_answer(struct evhttp_request *request, void *arg)
{
    struct asking *a = arg;
    struct evbuffer *body = request != NULL ? evhttp_request_get_input_buffer(request) : NULL;

    if (body != NULL && evhttp_request_get_response_code(request) != 0) {
        size_t n = evbuffer_get_length(body);

        a->answered = true;
        a->answer->code = evhttp_request_get_response_code(request);
        if (n > 0)
            buf_append(&a->answer->body, evbuffer_pullup(body, -1), n);
    }
    (void)event_base_loopbreak(a->base);
}

/* "[::1]:9121" and "localhost:9121" */
static bool split(const char *address, char host[HOST_BYTES_MAX], unsigned short *port)
{
    const char *colon = strrchr(address, ':');
    size_t n = colon != NULL ? (size_t)(colon - address) : 0;
    long number = colon != NULL ? strtol(colon + 1, NULL, 10) : 0;

    if (n == 0 || n >= HOST_BYTES_MAX || number <= 0 || number > 65535)
        return false;
    if (address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    (void)snprintf(host, HOST_BYTES_MAX, "%.*s", (int)n, address);
    *port = (unsigned short)number;
    return true;
}

bool ctl_ask(const char *address, const char *token, bool post, const char *path, int timeout_s,
             struct ctl_answer *answer, char *why, size_t why_size)
{
    struct asking a = {.answer = answer};
    struct evhttp_connection *connection;
    struct evhttp_request *request;
    char host[HOST_BYTES_MAX], bearer[TOKEN_BYTES_MAX];
    unsigned short port;

    *answer = (struct ctl_answer){0};
    if (!split(address, host, &port)) {
        (void)snprintf(why, why_size, "%s is not HOST:PORT", address);
        return false;
    }
    a.base = event_base_new();
    CHECK(a.base != NULL);
    connection = evhttp_connection_base_new(a.base, NULL, host, port);
    request = evhttp_request_new(on_answer, &a);
    CHECK(connection != NULL && request != NULL);
    evhttp_connection_set_timeout(connection, timeout_s);
    evhttp_connection_set_max_body_size(connection, ASK_BODY_BYTES_MAX);
    (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Host", address);
    (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Connection", "close");
    if (token != NULL && token[0] != '\0') {
        (void)snprintf(bearer, sizeof bearer, "Bearer %s", token);
        (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Authorization", bearer);
    }
    if (evhttp_make_request(connection, request, post ? EVHTTP_REQ_POST : EVHTTP_REQ_GET, path) == 0)
        (void)event_base_dispatch(a.base);
    evhttp_connection_free(connection);
    event_base_free(a.base);
    if (!a.answered)
        (void)snprintf(why, why_size, "no answer from the admin port at %s (--admin HOST:PORT names another)",
                       address);
    return a.answered;
}

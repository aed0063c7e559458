/* The control connection: requests with their answers, and the watch over a Valkey that hangs.
 *
 * Each request leaves a small record as its cookie; the answer finds its function there. When the connection goes,
 * the records are freed without a call: node_fail() has told everybody already. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/argv.h"
#include "proxy/backend.h"
#include "proxy/certs.h"
#include "proxy/node_internal.h"
#include "proxy/spawn.h"

enum { NAME_BYTES_MAX = 320 };

struct request {
    struct request *next; /* in node->refused_kills */
    node_reply_fn *reply; /* NULL: nobody wants to know */
    void *arg;
    /* node_kill_client() */
    void (*killed)(void *arg, uint64_t client_id, bool ok);
    uint64_t client_id;
};

static void on_ready(void *arg)
{
    node_gather(arg);
}

static bool begins(const char *reply, size_t n, const char *text)
{
    return n >= strlen(text) && memcmp(reply, text, strlen(text)) == 0;
}

/* ":1", ":0", or "-ERR No such client": gone in each case. While a script runs Valkey kills nobody, and what waits
 * for this kill would wait for ever: asked again. */
static void on_killed(struct node *n, struct request *r, const char *reply, size_t size)
{
    if (begins(reply, size, "-BUSY") || begins(reply, size, "-LOADING")) {
        r->next = n->refused_kills;
        n->refused_kills = r;
        return;
    }
    if (reply[0] == '-' && !begins(reply, size, "-ERR No such client"))
        node_fail(n, "CLIENT KILL was refused: %.*s", (int)(size < 80 ? size - 2 : 80), reply + 1);
    else
        r->killed(r->arg, r->client_id, true);
    free(r);
}

static void on_reply(void *arg, void *cookie, const char *reply, size_t n)
{
    struct request *r = cookie;

    if (r->killed != NULL) {
        on_killed(arg, r, reply, n);
        return;
    }
    if (r->reply != NULL)
        r->reply(r->arg, reply, n);
    free(r);
}

static void on_closed(void *arg, const char *why)
{
    struct node *n = arg;

    node_fail(n, "%s", why);
}

static const struct backend_events control_events = {.ready = on_ready, .reply = on_reply, .closed = on_closed};

void node_connect(struct node *n)
{
    char name[NAME_BYTES_MAX];
    struct backend_settings s = {.address = node_address(n),
                                 .user = n->config->valkey_user,
                                 .password = n->config->valkey_password,
                                 .tls = certs_valkey(n->certs),
                                 .name = name,
                                 .run_id = "",
                                 .shared = true};

    (void)snprintf(name, sizeof name, "holdfast-%s-control", n->config->node);
    n->control = backend_new(n->loop, n->diag, &s, &control_events, n);
}

void node_control_close(struct node *n)
{
    struct request *r;
    void *cookie;

    while ((r = n->refused_kills) != NULL) {
        n->refused_kills = r->next;
        free(r);
    }
    if (n->control == NULL)
        return;
    while (backend_take_due(n->control, &cookie))
        free(cookie);
    backend_close(n->control);
    n->control = NULL;
}

static void send_request(struct node *n, const void *resp, size_t bytes, struct request what)
{
    struct request *r;

    if (n->control == NULL)
        return;
    r = must_calloc(1, sizeof *r);
    *r = what;
    backend_send(n->control, resp, bytes, r);
}

void node_ask(struct node *n, node_reply_fn *reply, size_t count, const char *const *word)
{
    struct buf out = {0};

    argv_header(&out, count);
    for (size_t i = 0; i < count; i++)
        argv_bulk(&out, word[i], strlen(word[i]));
    CHECK(!out.failed);
    send_request(n, buf_head(&out), out.len, (struct request){.reply = reply, .arg = n});
    buf_free(&out);
}

void node_send(struct node *n, const void *resp, size_t bytes, void (*reply)(void *arg, const char *reply, size_t n),
               void *arg)
{
    send_request(n, resp, bytes, (struct request){.reply = reply, .arg = arg});
}

void node_kill_client(struct node *n, uint64_t client_id, void (*done)(void *arg, uint64_t client_id, bool ok),
                      void *arg)
{
    struct buf out = {0};
    char number[24];
    const char *const word[] = {"CLIENT", "KILL", "ID", number};

    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)client_id);
    argv_header(&out, 4);
    for (size_t i = 0; i < 4; i++)
        argv_bulk(&out, word[i], strlen(word[i]));
    send_request(n, buf_head(&out), out.len, (struct request){.killed = done, .arg = arg, .client_id = client_id});
    buf_free(&out);
}

static void kill_again(struct node *n)
{
    struct request *r, *refused = n->refused_kills;

    n->refused_kills = NULL;
    while ((r = refused) != NULL) {
        refused = r->next;
        node_kill_client(n, r->client_id, r->killed, r->arg);
        free(r);
    }
}

static void on_kill_reply(void *arg, const char *reply, size_t size)
{
    if (size > 0 && reply[0] == '-')
        node_fail(arg, "CLIENT KILL was refused: %.*s", (int)(size < 80 ? size - 2 : 80), reply + 1);
}

void node_kill_others(struct node *n)
{
    node_ask(n, on_kill_reply, 6, (const char *const[]){"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
    node_ask(n, on_kill_reply, 6, (const char *const[]){"CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"});
}

static void on_commands(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (reply[0] == '*' && (n->state == NODE_ATTACHED || n->state == NODE_FED) && n->events->commands != NULL)
        n->events->commands(n->arg, reply, size);
}

void node_reload_commands(struct node *n)
{
    if (n->state == NODE_ATTACHED || n->state == NODE_FED)
        node_ask(n, on_commands, 1, (const char *const[]){"COMMAND"});
}

/* Whether Valkey still answers. Any answer will do, an error as well: what counts is that its loop turns. */
void node_control_watch(struct node *n, uint64_t now_ms)
{
    uint64_t since;

    if (n->control == NULL)
        return;
    kill_again(n);
    since = backend_waiting_since_ms(n->control);
    if (since > 0 && now_ms >= since + (uint64_t)n->config->valkey_timeout_ms) {
        if (n->spawn != NULL)
            spawn_kill(n->spawn); /* it will be started again */
        node_fail(n, "Valkey does not answer");
    } else if (since == 0 && now_ms >= n->ping_ms + NODE_PING_MS && backend_ready(n->control)) {
        n->ping_ms = now_ms;
        if (n->state == NODE_WAITING || n->state == NODE_FEEDING || n->state == NODE_FED)
            node_look(n);
        else
            node_ask(n, NULL, 1, (const char *const[]){"PING"});
    }
}

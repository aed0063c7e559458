/* CLIENT: what concerns the client's own connection, and the line that describes one. All of them: local_clients.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/client.h"
#include "proxy/local.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

const char *client_user(const struct session *s)
{
    return user_name(s->user != NULL ? s->user : users_default(s->worker->users));
}

void client_address(const struct session *s, char *out, size_t size)
{
    if (s->address != NULL)
        (void)snprintf(out, size, "%s", s->address);
    else if (s->unix_socket || !stream_remote_address(s->stream, out, size))
        (void)snprintf(out, size, "%s:0", s->worker->config->unixsocket);
}

static int local_port(const struct session *s)
{
    const struct config *c = s->worker->config;

    if (s->through == NULL && stream_is_tls(s->stream))
        return s->reader ? c->tls_reader_port : c->tls_port;
    return s->reader ? c->reader_port : c->port;
}

void client_local_address(const struct session *s, char *out, size_t size)
{
    char ip[CLIENT_IP_BYTES];

    if (s->unix_socket || !stream_local_address(s->stream, ip, sizeof ip))
        (void)snprintf(out, size, "%s:0", s->worker->config->unixsocket);
    else
        (void)snprintf(out, size, strchr(ip, ':') != NULL ? "[%s]:%d" : "%s:%d", ip, local_port(s));
}

bool client_is_pubsub(const struct session *s)
{
    return s->channels + s->shard_channels > 0;
}

void client_flags(const struct session *s, char out[CLIENT_FLAGS_BYTES])
{
    size_t n = 0;

    if (s->monitoring)
        out[n++] = 'O';
    if (client_is_pubsub(s))
        out[n++] = 'P';
    if (s->tx != NULL)
        out[n++] = 'x';
    if (session_blocked(s))
        out[n++] = 'b';
    if (s->tracking)
        out[n++] = 't';
    if (s->tracking && s->redirect_id != 0 && worker_find(s->worker, s->redirect_id) == NULL)
        out[n++] = 'R';
    if (s->tracking && s->tracking_bcast)
        out[n++] = 'B';
    if (s->state == SESSION_FINISHING)
        out[n++] = 'c';
    if (s->unix_socket)
        out[n++] = 'U';
    if (s->readonly)
        out[n++] = 'r';
    if (s->no_evict)
        out[n++] = 'e';
    if (s->no_touch)
        out[n++] = 'T';
    if (n == 0)
        out[n++] = 'N';
    out[n] = '\0';
}

/* Valkey has `capa` since 8.1. */
static bool lists_capa(const struct worker *w)
{
    unsigned major = 0, minor = 0;

    if (w->identity != NULL)
        (void)sscanf(w->identity->version, "%u.%u", &major, &minor);
    return major > 8 || (major == 8 && minor > 0);
}

static void describe_buffers(const struct session *s, struct buf *out)
{
    size_t unsent = stream_pending(s->stream);

    buf_printf(out, "qbuf=%zu qbuf-free=%zu argv-mem=%zu multi-mem=%zu rbs=%zu rbp=%zu obl=%zu oll=%u omem=%zu ",
               s->stash.len + resp_parser_bytes(s->parser), s->stash.cap - s->stash.len,
               s->held != NULL ? s->held->request.len : 0, s->tx != NULL ? s->tx->bytes : 0,
               stream_out(s->stream)->cap, stream_out(s->stream)->cap, unsent, s->op_count, unsent);
    buf_printf(out, "tot-mem=%zu events=%s ", session_memory(s), unsent > 0 ? "rw" : "r");
}

void client_describe(const struct session *s, struct buf *out)
{
    uint64_t now = loop_now_ms(s->worker->loop);
    char address[CLIENT_ADDRESS_BYTES], ours[CLIENT_ADDRESS_BYTES], flags[CLIENT_FLAGS_BYTES];
    bool redirects = s->redirects;

    client_address(s, address, sizeof address);
    client_local_address(s, ours, sizeof ours);
    client_flags(s, flags);
    buf_printf(out, "id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu flags=%s ", (unsigned long long)s->id,
               address, ours, stream_fd(s->stream), s->name != NULL ? s->name : "",
               (unsigned long long)((now - s->created_ms) / 1000u),
               (unsigned long long)((now - s->active_ms) / 1000u), flags);
    if (lists_capa(s->worker))
        buf_printf(out, "capa=%s ", redirects ? "r" : "");
    buf_printf(out, "db=%u sub=%u psub=%u ssub=%u multi=%lld watch=%d ", s->db, s->channels - s->patterns,
               s->patterns, s->shard_channels, s->tx != NULL ? (long long)s->tx->commands : -1LL,
               s->watching ? 1 : 0);
    describe_buffers(s, out);
    buf_printf(out, "cmd=%s user=%s redir=%lld resp=%u lib-name=%s lib-ver=%s ",
               s->last != NULL ? s->last->name : "NULL", client_user(s),
               s->tracking ? (long long)s->redirect_id : -1LL, s->proto, s->lib_name != NULL ? s->lib_name : "",
               s->lib_ver != NULL ? s->lib_ver : "");
    buf_printf(out, "tot-net-in=%llu tot-net-out=%llu tot-cmds=%llu durability=%s\n", (unsigned long long)s->in_bytes,
               (unsigned long long)s->out_bytes, (unsigned long long)s->commands, durability_name(session_mode(s)));
}

/* In RESP3 Valkey sends texts for people as verbatim strings. */
enum dispatch client_reply_text(struct session *s, struct buf *text)
{
    struct buf reply = {0};

    if (s->proto == 3)
        buf_printf(&reply, "=%zu\r\ntxt:", text->len + 4);
    else
        buf_printf(&reply, "$%zu\r\n", text->len);
    buf_append(&reply, buf_head(text), text->len);
    buf_append(&reply, "\r\n", 2);
    reply.failed = reply.failed || text->failed;
    buf_free(text);
    return local_reply(s, &reply);
}

/* ---- this connection ---- */

enum dispatch local_client_id(struct session *s, const struct argv *a)
{
    struct buf reply = {0};

    (void)a;
    resp_integer(&reply, (int64_t)s->id);
    return local_reply(s, &reply);
}

enum dispatch local_client_getname(struct session *s, const struct argv *a)
{
    struct buf reply = {0};

    (void)a;
    if (s->name != NULL)
        resp_bulk_text(&reply, s->name);
    else
        resp_null(&reply, s->proto);
    return local_reply(s, &reply);
}

bool client_is_word(const struct argv *a, size_t i)
{
    for (size_t k = 0; k < argv_len(a, i); k++)
        if (argv_at(a, i)[k] < '!' || argv_at(a, i)[k] > '~')
            return false;
    return true;
}

static void set_text(char **field, const struct argv *a, size_t i)
{
    free(*field);
    *field = NULL;
    if (argv_len(a, i) == 0)
        return;
    *field = must_calloc(1, argv_len(a, i) + 1);
    memcpy(*field, argv_at(a, i), argv_len(a, i));
}

enum { CLIENT_TEXT_BYTES_MAX = 1024 }; /* what an idle session may cost by its names */

enum dispatch local_client_setname(struct session *s, const struct argv *a)
{
    if (!client_is_word(a, 2))
        return local_error(s, "ERR Client names cannot contain spaces, newlines or special characters.");
    if (argv_len(a, 2) > CLIENT_TEXT_BYTES_MAX)
        return local_error(s, "ERR Client names cannot be longer than 1024 bytes");
    set_text(&s->name, a, 2);
    return local_ok(s);
}

enum dispatch local_client_setinfo(struct session *s, const struct argv *a)
{
    bool lib_name = argv_is(a, 2, "lib-name");
    char text[160];

    if (!lib_name && !argv_is(a, 2, "lib-ver")) {
        (void)snprintf(text, sizeof text, "ERR Unrecognized option '%.*s'",
                       (int)(client_is_word(a, 2) && argv_len(a, 2) < 100 ? argv_len(a, 2) : 0), argv_at(a, 2));
        return local_error(s, text);
    }
    if (!client_is_word(a, 3) || argv_len(a, 3) > CLIENT_TEXT_BYTES_MAX) {
        (void)snprintf(text, sizeof text, "ERR %s cannot contain spaces, newlines or special characters.",
                       lib_name ? "lib-name" : "lib-ver");
        return local_error(s, text);
    }
    set_text(lib_name ? &s->lib_name : &s->lib_ver, a, 3);
    return local_ok(s);
}

enum dispatch local_client_info(struct session *s, const struct argv *a)
{
    struct buf text = {0};

    (void)a;
    client_describe(s, &text);
    return client_reply_text(s, &text);
}

enum dispatch local_client_capa(struct session *s, const struct argv *a)
{
    for (size_t i = 2; i < a->count; i++)
        s->redirects = s->redirects || argv_is(a, i, "redirect");
    return local_ok(s);
}

static const char *const help_lines[] = {
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CACHING (YES|NO)",
    "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
    "CAPA <option> [options...]",
    "    The client claims its some capability options. Options are:",
    "    * REDIRECT",
    "      The client can handle redirection during primary and replica failover in standalone mode.",
    "DURABILITY (SYNC|ASYNC|OFF|DEFAULT|GET)",
    "    What a reply to a write of this connection promises.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|PRIMARY|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "    * MAXAGE <maxage>",
    "      Kill connections older than the specified age.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|PRIMARY|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "    Control server assisted client side caching.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
    "HELP",
    "    Print this help."};

enum dispatch local_client_help(struct session *s, const struct argv *a)
{
    struct buf reply = {0};

    (void)a;
    resp_array(&reply, sizeof help_lines / sizeof help_lines[0]);
    for (size_t i = 0; i < sizeof help_lines / sizeof help_lines[0]; i++)
        resp_status(&reply, help_lines[i]);
    return local_reply(s, &reply);
}

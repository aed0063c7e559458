/* CLIENT: the clients of Holdfast, by Holdfast's ids. Valkey's own list would show our connections. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/local.h"
#include "proxy/pinned.h"
#include "proxy/relay.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

enum { ADDRESS_BYTES = 128 };

static const char *user_of(const struct session *s)
{
    return user_name(s->user != NULL ? s->user : users_default(s->worker->users));
}

static void remote_address(const struct session *s, char *out, size_t size)
{
    if (s->address != NULL)
        (void)snprintf(out, size, "%s", s->address);
    else if (s->unix_socket || !stream_remote_address(s->stream, out, size))
        (void)snprintf(out, size, "%s:0", s->worker->config->unixsocket);
}

static void local_address(const struct session *s, char *out, size_t size)
{
    char ip[ADDRESS_BYTES - 16];

    if (s->unix_socket || !stream_local_address(s->stream, ip, sizeof ip))
        (void)snprintf(out, size, "%s:0", s->worker->config->unixsocket);
    else
        (void)snprintf(out, size, strchr(ip, ':') != NULL ? "[%s]:%d" : "%s:%d", ip,
                       s->reader ? s->worker->config->reader_port : s->worker->config->port);
}

static bool is_pubsub(const struct session *s)
{
    return s->channels + s->shard_channels > 0;
}

static void flags_of(const struct session *s, char out[16])
{
    size_t n = 0;

    if (s->monitoring)
        out[n++] = 'O';
    if (is_pubsub(s))
        out[n++] = 'P';
    if (s->tx != NULL)
        out[n++] = 'x';
    if (pinned_busy(s))
        out[n++] = 'b';
    if (s->tracking)
        out[n++] = 't';
    if (s->unix_socket)
        out[n++] = 'U';
    if (s->no_evict)
        out[n++] = 'e';
    if (s->no_touch)
        out[n++] = 'T';
    if (n == 0)
        out[n++] = 'N';
    out[n] = '\0';
}

static void describe(const struct session *s, struct buf *out)
{
    uint64_t now = loop_now_ms(s->worker->loop);
    char address[ADDRESS_BYTES + CONFIG_TEXT_MAX], ours[ADDRESS_BYTES + CONFIG_TEXT_MAX], flags[16];

    remote_address(s, address, sizeof address);
    local_address(s, ours, sizeof ours);
    flags_of(s, flags);
    buf_printf(out, "id=%llu addr=%s laddr=%s fd=%d name=%s age=%llu idle=%llu flags=%s capa= db=%u ",
               (unsigned long long)s->id, address, ours, stream_fd(s->stream), s->name != NULL ? s->name : "",
               (unsigned long long)((now - s->created_ms) / 1000u),
               (unsigned long long)((now - s->active_ms) / 1000u), flags, s->db);
    buf_printf(out, "sub=%u psub=0 ssub=%u multi=%lld watch=%d qbuf=%zu qbuf-free=0 argv-mem=0 multi-mem=%zu ",
               s->channels, s->shard_channels, s->tx != NULL ? (long long)s->tx->commands : -1LL, s->watching ? 1 : 0,
               s->stash.len + resp_parser_bytes(s->parser), s->tx != NULL ? s->tx->bytes : 0);
    buf_printf(out, "rbs=0 rbp=0 obl=%zu oll=%u omem=%zu tot-mem=%zu events=r cmd=%s user=%s redir=-1 resp=%u ",
               stream_pending(s->stream), s->op_count, stream_pending(s->stream), session_memory(s),
               s->last != NULL ? s->last->name : "NULL", user_of(s), s->proto);
    buf_printf(out, "lib-name=%s lib-ver=%s tot-net-in=%llu tot-net-out=%llu tot-cmds=%llu durability=%s\n",
               s->lib_name != NULL ? s->lib_name : "", s->lib_ver != NULL ? s->lib_ver : "",
               (unsigned long long)s->in_bytes, (unsigned long long)s->out_bytes, (unsigned long long)s->commands,
               durability_name(session_mode(s)));
}

/* In RESP3 Valkey sends texts for people as verbatim strings. */
static enum dispatch reply_text(struct session *s, struct buf *text)
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

static bool is_word(const struct argv *a, size_t i)
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
    if (!is_word(a, 2))
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
                       (int)(is_word(a, 2) && argv_len(a, 2) < 100 ? argv_len(a, 2) : 0), argv_at(a, 2));
        return local_error(s, text);
    }
    if (!is_word(a, 3) || argv_len(a, 3) > CLIENT_TEXT_BYTES_MAX) {
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
    describe(s, &text);
    return reply_text(s, &text);
}

enum dispatch local_client_capa(struct session *s, const struct argv *a)
{
    (void)a;
    return local_ok(s);
}

enum dispatch local_client_help(struct session *s, const struct argv *a)
{
    static const char *const lines[] = {
        "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CACHING (YES|NO)",
        "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
        "DURABILITY (SYNC|ASYNC|OFF|DEFAULT|GET)",
        "    What a reply to a write of this connection promises.",
        "GETNAME",
        "    Return the name of the current connection.",
        "ID",
        "    Return the ID of the current connection.",
        "INFO",
        "    Return information about the current client connection.",
        "KILL <ip:port>",
        "    Kill connection made from <ip:port>.",
        "KILL (ID|ADDR|LADDR|USER|TYPE|SKIPME|MAXAGE) <value> [...]",
        "    Kill connections to Holdfast.",
        "LIST [TYPE (NORMAL|PRIMARY|REPLICA|PUBSUB)] [ID <id> ...]",
        "    Return information about connections to Holdfast.",
        "REPLY (ON|OFF|SKIP)",
        "    Control the replies sent to the current connection.",
        "SETNAME <name>",
        "    Assign the name <name> to the current connection.",
        "SETINFO (LIB-NAME|LIB-VER) <value>",
        "    Set client meta attr.",
        "TRACKING (ON|OFF) [...]",
        "    Control server assisted client side caching.",
        "UNBLOCK <clientid> [TIMEOUT|ERROR]",
        "    Unblock the specified blocked client.",
        "NO-EVICT (ON|OFF), NO-TOUCH (ON|OFF)",
        "    As in Valkey.",
        "HELP",
        "    Print this help."};
    struct buf reply = {0};

    (void)a;
    resp_array(&reply, sizeof lines / sizeof lines[0]);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        resp_status(&reply, lines[i]);
    return local_reply(s, &reply);
}

/* ---- all connections ---- */

enum client_type { TYPE_ANY, TYPE_NORMAL, TYPE_PUBSUB, TYPE_NOBODY, TYPE_BAD };

static enum client_type type_of(const struct argv *a, size_t i)
{
    if (argv_is(a, i, "normal"))
        return TYPE_NORMAL;
    if (argv_is(a, i, "pubsub"))
        return TYPE_PUBSUB;
    if (argv_is(a, i, "master") || argv_is(a, i, "primary") || argv_is(a, i, "replica") || argv_is(a, i, "slave"))
        return TYPE_NOBODY; /* they connect to Valkey, not to us */
    return TYPE_BAD;
}

static bool is_type(const struct session *s, enum client_type type)
{
    return type == TYPE_ANY || (type == TYPE_PUBSUB && is_pubsub(s)) || (type == TYPE_NORMAL && !is_pubsub(s));
}

static enum dispatch bad_type(struct session *s, const struct argv *a, size_t i)
{
    char text[160];

    (void)snprintf(text, sizeof text, "ERR Unknown client type '%.*s'",
                   (int)(is_word(a, i) && argv_len(a, i) < 100 ? argv_len(a, i) : 0), argv_at(a, i));
    return local_error(s, text);
}

enum dispatch local_client_list(struct session *s, const struct argv *a)
{
    enum client_type type = TYPE_ANY;
    struct buf text = {0};
    struct session *other;
    int64_t id;

    if (a->count > 3 && argv_is(a, 2, "id")) {
        for (size_t i = 3; i < a->count; i++) {
            if (!argv_integer(a, i, &id) || id <= 0) {
                buf_free(&text);
                return local_error(s, "ERR Invalid client ID");
            }
            if ((other = worker_find(s->worker, (uint64_t)id)) != NULL)
                describe(other, &text);
        }
        return reply_text(s, &text);
    }
    if (a->count == 4 && argv_is(a, 2, "type")) {
        if ((type = type_of(a, 3)) == TYPE_BAD)
            return bad_type(s, a, 3);
    } else if (a->count != 2) {
        return local_error(s, "ERR syntax error");
    }
    TAILQ_FOREACH(other, &s->worker->sessions, in_worker)
    {
        if (is_type(other, type))
            describe(other, &text);
    }
    return reply_text(s, &text);
}

struct kill {
    int64_t id, max_age_s;
    const char *address, *local, *user;
    size_t address_n, local_n, user_n;
    enum client_type type;
    bool skip_me;
};

static bool same_text(const char *want, size_t n, const char *text)
{
    return want == NULL || (strlen(text) == n && memcmp(text, want, n) == 0);
}

static bool matches(const struct session *s, const struct kill *k)
{
    char address[ADDRESS_BYTES + CONFIG_TEXT_MAX], ours[ADDRESS_BYTES + CONFIG_TEXT_MAX];

    remote_address(s, address, sizeof address);
    local_address(s, ours, sizeof ours);
    return (k->id == 0 || (uint64_t)k->id == s->id) && same_text(k->address, k->address_n, address) &&
           same_text(k->local, k->local_n, ours) && same_text(k->user, k->user_n, user_of(s)) &&
           is_type(s, k->type) &&
           (k->max_age_s == 0 || (int64_t)((loop_now_ms(s->worker->loop) - s->created_ms) / 1000u) >= k->max_age_s);
}

/* NULL, or the error. */
static const char *parse_kill(const struct argv *a, struct kill *k)
{
    if (a->count % 2 != 0)
        return "ERR syntax error";
    for (size_t i = 2; i < a->count; i += 2) {
        if (argv_is(a, i, "id")) {
            if (!argv_integer(a, i + 1, &k->id) || k->id <= 0)
                return "ERR client-id should be greater than 0";
        } else if (argv_is(a, i, "maxage")) {
            if (!argv_integer(a, i + 1, &k->max_age_s))
                return "ERR maxage is not an integer or out of range";
            if (k->max_age_s <= 0)
                return "ERR maxage should be greater than 0";
        } else if (argv_is(a, i, "type")) {
            if ((k->type = type_of(a, i + 1)) == TYPE_BAD)
                return "ERR Unknown client type";
        } else if (argv_is(a, i, "addr")) {
            k->address = argv_at(a, i + 1);
            k->address_n = argv_len(a, i + 1);
        } else if (argv_is(a, i, "laddr")) {
            k->local = argv_at(a, i + 1);
            k->local_n = argv_len(a, i + 1);
        } else if (argv_is(a, i, "user")) {
            k->user = argv_at(a, i + 1);
            k->user_n = argv_len(a, i + 1);
        } else if (argv_is(a, i, "skipme") && (argv_is(a, i + 1, "yes") || argv_is(a, i + 1, "no"))) {
            k->skip_me = argv_is(a, i + 1, "yes");
        } else {
            return "ERR syntax error";
        }
    }
    return NULL;
}

enum dispatch local_client_kill(struct session *s, const struct argv *a)
{
    struct kill k = {.skip_me = a->count != 3, .type = TYPE_ANY};
    struct session *other, *next;
    struct buf reply = {0};
    int64_t killed = 0;
    bool me = false;
    struct task *t;
    const char *error = NULL;

    if (a->count == 3) {
        k.address = argv_at(a, 2);
        k.address_n = argv_len(a, 2);
    } else if ((error = parse_kill(a, &k)) != NULL) {
        return local_error(s, error);
    }
    for (other = TAILQ_FIRST(&s->worker->sessions); other != NULL; other = next) {
        next = TAILQ_NEXT(other, in_worker);
        if (!matches(other, &k) || (other == s && k.skip_me))
            continue;
        killed++;
        if (other == s)
            me = true;
        else
            session_close(other, "killed by CLIENT KILL");
    }
    if (a->count == 3 && killed == 0)
        return local_error(s, "ERR No such client");
    if (a->count == 3)
        resp_status(&reply, "OK");
    else
        resp_integer(&reply, killed);
    t = session_task(s, OP_LOCAL);
    if (me) {
        t->finish = true;
        s->last_word = s->through != NULL ? relay_farewell : NULL;
        s->state = SESSION_FINISHING;
    }
    session_answer_buf(t, &reply);
    return DISPATCHED;
}

/* The other session blocks on its own connection: that one's id is Valkey's. */
enum dispatch local_client_unblock(struct session *s, const struct argv *a)
{
    struct session *other;
    struct buf command = {0};
    char number[24];
    const char *how = "TIMEOUT";
    enum dispatch done;
    struct task *t;
    int64_t id;

    if (a->count > 4 || (a->count == 4 && !argv_is(a, 3, "timeout") && !argv_is(a, 3, "error")))
        return local_error(s, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    if (!argv_integer(a, 2, &id))
        return local_error(s, "ERR value is not an integer or out of range");
    other = id > 0 ? worker_find(s->worker, (uint64_t)id) : NULL;
    if (other == NULL || !pinned_busy(other) || pinned_client_id(other) == 0) {
        session_answer(session_task(s, OP_LOCAL), ":0\r\n", 4);
        return DISPATCHED;
    }
    if (a->count == 4 && argv_is(a, 3, "error"))
        how = "ERROR";
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)pinned_client_id(other));
    argv_encode(&command, 4, (const char *const[]){"CLIENT", "UNBLOCK", number, how},
                (const size_t[]){6, 7, strlen(number), strlen(how)});
    done = session_to_control(s, buf_head(&command), command.len, NULL, &t);
    buf_free(&command);
    return done;
}

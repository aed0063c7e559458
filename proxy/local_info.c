/* INFO with our section, PROXY, and the commands after which we look at something again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/local.h"
#include "proxy/pause.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

/* ---- INFO ---- */

static void text_header(struct buf *out, size_t n, int proto)
{
    if (proto == 3)
        buf_printf(out, "=%zu\r\ntxt:", n + 4); /* RESP3 verbatim string */
    else
        buf_printf(out, "$%zu\r\n", n);
}

static void our_section(const struct session *s, struct buf *out)
{
    struct worker *w = s->worker;

    status_info_section(w->set.status(w->set.arg), out);
    if (s->through != NULL)
        buf_printf(out, "holdfast_relayed_through:%s\r\n", s->through);
}

/* Lines of Valkey's text that would speak of our connections to it where a client means its own: what is to be there
 * instead. false: the line stays. Counts of what is blocked, subscribed or tracked are right as they are: such a
 * client has a connection of its own to Valkey. */
static bool our_line(const struct session *s, const char *line, size_t n, struct buf *out)
{
    static const char *const names[] = {"tcp_port:", "connected_clients:", "maxclients:", "connected_slaves:"};
    static const char blocked[] = "blocked_clients:";
    const struct config *c = s->worker->config;
    uint64_t values[] = {(uint64_t)(s->reader ? c->reader_port : c->port), s->worker->session_count,
                         (uint64_t)c->maxclients, 0};

    if (n > 6 && memcmp(line, "slave", 5) == 0 && line[5] >= '0' && line[5] <= '9') /* our tap is nobody's replica */
        return true;
    if (n > sizeof blocked && memcmp(line, blocked, sizeof blocked - 1) == 0) { /* by Valkey, and by CLIENT PAUSE */
        uint64_t theirs = strtoull(line + sizeof blocked - 1, NULL, 10);        /* ends at its CR */

        buf_printf(out, "%s%llu\r\n", blocked, (unsigned long long)(theirs + pause_held(s->worker)));
        return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (n < strlen(names[i]) || memcmp(line, names[i], strlen(names[i])) != 0)
            continue;
        buf_printf(out, "%s%llu\r\n", names[i], (unsigned long long)values[i]);
        return true;
    }
    return false;
}

static void our_lines(const struct session *s, const char *text, size_t n, struct buf *out)
{
    while (n > 0) {
        const char *end = memchr(text, '\n', n);
        size_t line = end != NULL ? (size_t)(end - text) + 1 : n;

        if (!our_line(s, text, line, out))
            buf_append(out, text, line);
        text += line;
        n -= line;
    }
}

/* Valkey's text, "$n\r\n...\r\n" or "=n\r\ntxt:...\r\n", with lines of ours, and our section behind if it was asked
 * for. */
static void on_info(struct task *t, const char *reply, size_t n)
{
    const char *end = memchr(reply, '\n', n);
    size_t header = end != NULL ? (size_t)(end - reply) + 1 : 0;
    struct buf text = {0}, out = {0};
    bool verbatim = reply[0] == '=';

    if ((reply[0] != '$' && !verbatim) || header + 2 > n) {
        session_answer(t, reply, n);
        return;
    }
    header += verbatim ? 4 : 0;
    our_lines(t->op.session, reply + header, n - header - 2, &text);
    if (t->numbers[0] != 0 && text.len > 0)
        buf_text(&text, "\r\n"); /* an empty line between sections */
    if (t->numbers[0] != 0)
        our_section(t->op.session, &text);
    text_header(&out, text.len, t->op.proto);
    buf_append(&out, buf_head(&text), text.len);
    buf_append(&out, "\r\n", 2);
    out.failed = out.failed || text.failed;
    buf_free(&text);
    session_answer_buf(t, &out);
}

enum dispatch local_info(struct session *s, const struct argv *a)
{
    bool ours = a->count == 1, theirs = a->count == 1;
    struct buf section = {0}, out = {0};
    struct task *t;

    for (size_t i = 1; i < a->count; i++) {
        bool durability = argv_is(a, i, "durability");

        ours = ours || durability || argv_is(a, i, "default") || argv_is(a, i, "all") || argv_is(a, i, "everything");
        theirs = theirs || !durability;
    }
    if (theirs || !session_full(s)) {
        if (session_forward(s, a, on_info, &t) == NOT_NOW)
            return NOT_NOW;
        if (t != NULL)
            t->numbers[0] = ours ? 1 : 0;
        return DISPATCHED;
    }
    our_section(s, &section);
    text_header(&out, section.len, s->proto);
    buf_append(&out, buf_head(&section), section.len);
    buf_append(&out, "\r\n", 2);
    buf_free(&section);
    return local_reply(s, &out);
}

/* "*3 master :offset" and the replicas, of which our tap would be one: a client that looks for replicas to read from
 * must not find it. */
static void on_role(struct task *t, const char *reply, size_t n)
{
    static const char head[] = "*3\r\n$6\r\nmaster\r\n:";
    const char *end;
    struct buf out = {0};

    if (n < sizeof head || memcmp(reply, head, sizeof head - 1) != 0 ||
        (end = memchr(reply + sizeof head, '\n', n - sizeof head)) == NULL) {
        session_answer(t, reply, n);
        return;
    }
    buf_append(&out, reply, (size_t)(end + 1 - reply));
    resp_array(&out, 0);
    session_answer_buf(t, &out);
}

enum dispatch local_role(struct session *s, const struct argv *a)
{
    struct task *t;

    return session_forward(s, a, on_role, &t);
}

/* ---- PROXY ---- */

static const char *treatment_name(enum treatment t)
{
    switch (t) {
    case TREAT_ALWAYS:
    case TREAT_LOCAL:
    case TREAT_RESET:
    case TREAT_QUIT:
        return "answered by Holdfast";
    case TREAT_REFUSED:
        return "refused";
    case TREAT_CAPTURED:
    case TREAT_EXEC:
        return "captured";
    case TREAT_CONTROL:
    case TREAT_BY_FLAGS:
        return "forwarded";
    default:
        return "own connection";
    }
}

static void proxy_commands(const struct worker *w, struct buf *out)
{
    size_t count;
    const struct local_row *rows = local_rows(&count);
    char line[256], name[64];

    resp_array(out, count);
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "%s", rows[i].name);
        for (char *c = name; *c != '\0'; c++)
            *c = (char)(*c == '|' ? ' ' : *c);
        (void)snprintf(line, sizeof line, "%s: %s%s%s", name, treatment_name(local_treatment(w, &rows[i])),
                       rows[i].note[0] != '\0' ? " - " : "", rows[i].note);
        resp_bulk_text(out, line);
    }
}

enum dispatch local_proxy(struct session *s, const struct argv *a)
{
    static const char *const help[] = {"PROXY <subcommand>. Subcommands are:",
                                       "COMMANDS",
                                       "    Commands that Holdfast does not simply forward.",
                                       "INFO",
                                       "    Holdfast's own figures.",
                                       "HELP",
                                       "    Print this help."};
    struct buf out = {0}, section = {0};

    if (argv_is(a, 1, "commands") && a->count == 2) {
        proxy_commands(s->worker, &out);
    } else if (argv_is(a, 1, "info") && a->count == 2) {
        our_section(s, &section);
        text_header(&out, section.len, s->proto);
        buf_append(&out, buf_head(&section), section.len);
        buf_append(&out, "\r\n", 2);
        buf_free(&section);
    } else if (argv_is(a, 1, "help") && a->count == 2) {
        resp_array(&out, sizeof help / sizeof help[0]);
        for (size_t i = 0; i < sizeof help / sizeof help[0]; i++)
            resp_status(&out, help[i]);
    } else {
        return local_error(s, "ERR unknown subcommand or wrong number of arguments. Try PROXY HELP.");
    }
    return local_reply(s, &out);
}

/* ---- forwarded, with a thought afterwards ---- */

enum dispatch local_whoami(struct session *s, const struct argv *a)
{
    struct buf reply = {0};
    const struct user *u = s->user != NULL ? s->user : users_default(s->worker->users);

    (void)a;
    resp_bulk_text(&reply, user_name(u));
    return local_reply(s, &reply);
}

static void on_acl(struct task *t, const char *reply, size_t n)
{
    local_answer_learned(t, reply, n);
}

bool local_is_own_user(const struct worker *w, const char *name, size_t n)
{
    const char *own = w->config->valkey_user[0] != '\0' ? w->config->valkey_user : "default";

    return strlen(own) == n && memcmp(own, name, n) == 0;
}

/* A changed password or fewer rights would lock Holdfast out of its Valkey at the next connection. */
enum dispatch local_acl(struct session *s, const struct argv *a)
{
    struct task *t;

    for (size_t i = 2; i < (argv_is(a, 1, "setuser") ? 3 : a->count); i++)
        if (!(argv_is(a, 1, "deluser") && argv_is(a, i, "default")) && /* nobody can delete that one */
            local_is_own_user(s->worker, argv_at(a, i), argv_len(a, i)))
            return local_error(s, "ERR Holdfast itself logs in to Valkey as this user: it cannot be changed through "
                                  "Holdfast. Give Holdfast a user of its own (valkey-user)");

    if (session_forward(s, a, on_acl, &t) == NOT_NOW)
        return NOT_NOW;
    if (t != NULL)
        s->barrier = t->internal = true; /* its outcome concerns us, whether the client stays or not */
    return DISPATCHED;
}

static void on_module(struct task *t, const char *reply, size_t n)
{
    worker_reload_commands(t->worker);
    session_answer(t, reply, n);
}

enum dispatch local_module(struct session *s, const struct argv *a)
{
    struct task *t;

    return session_forward(s, a, on_module, &t);
}

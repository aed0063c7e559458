/* INFO with our section, PROXY, and the commands after which we look at something again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/local.h"
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

/* Valkey's text, "$n\r\n...\r\n" or "=n\r\ntxt:...\r\n", with our section behind. */
static void on_info(struct task *t, const char *reply, size_t n)
{
    const char *end = memchr(reply, '\n', n);
    size_t header = end != NULL ? (size_t)(end - reply) + 1 : 0;
    struct buf section = {0}, out = {0};
    bool verbatim = reply[0] == '=';

    if ((reply[0] != '$' && !verbatim) || header + 2 > n) {
        session_answer(t, reply, n);
        return;
    }
    header += verbatim ? 4 : 0;
    if (n > header + 2)
        buf_text(&section, "\r\n"); /* an empty line between sections */
    our_section(t->op.session, &section);
    text_header(&out, n - header - 2 + section.len, t->op.proto);
    buf_append(&out, reply + header, n - header - 2);
    buf_append(&out, buf_head(&section), section.len);
    buf_append(&out, "\r\n", 2);
    buf_free(&section);
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
    if (theirs || !session_full(s))
        return session_forward(s, a, ours ? on_info : NULL, &t);
    our_section(s, &section);
    text_header(&out, section.len, s->proto);
    buf_append(&out, buf_head(&section), section.len);
    buf_append(&out, "\r\n", 2);
    buf_free(&section);
    return local_reply(s, &out);
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

static void proxy_commands(struct buf *out)
{
    size_t count;
    const struct local_row *rows = local_rows(&count);
    char line[256], name[64];

    resp_array(out, count);
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof name, "%s", rows[i].name);
        for (char *c = name; *c != '\0'; c++)
            *c = (char)(*c == '|' ? ' ' : *c);
        (void)snprintf(line, sizeof line, "%s: %s%s%s", name, treatment_name(rows[i].treatment),
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
        proxy_commands(&out);
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
    users_ask(t->worker->users);
    session_answer(t, reply, n);
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
        if (local_is_own_user(s->worker, argv_at(a, i), argv_len(a, i)))
            return local_error(s, "ERR Holdfast itself logs in to Valkey as this user: it cannot be changed through "
                                  "Holdfast. Give Holdfast a user of its own (valkey-user)");

    return session_forward(s, a, on_acl, &t);
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

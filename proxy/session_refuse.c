/* What a session says to commands that it does not carry out: refusals of the router, wrong numbers of arguments,
 * strangers. Worded as Valkey words them, where Valkey has the case. */
#include <stdio.h>
#include <string.h>

#include "proxy/local.h"
#include "proxy/session.h"
#include "proxy/worker_state.h"

enum { ERROR_BYTES_MAX = 512, UNKNOWN_WORDS_BYTES_MAX = 128 /* as in Valkey */ };

const char session_too_large[] =
    "ERR the command is larger than the log takes: an eighth of log-size-max, and 64mb in a group";

const char *session_loading_text(const struct worker *w, char *out, size_t size)
{
    int percent = atomic_load(&w->set.gate->progress_percent);
    int state = atomic_load(&w->set.gate->state);

    if (w->draining || state == GATE_DRAINING)
        (void)snprintf(out, size, "LOADING Holdfast is shutting down");
    else if (state != GATE_OPEN && percent > 0)
        (void)snprintf(out, size, "LOADING Holdfast is rebuilding Valkey from its log (%d%%)", percent);
    else
        (void)snprintf(out, size, "LOADING Valkey is not available, Holdfast is waiting for it");
    return out;
}

/* As Valkey quotes arguments in its errors: cut short, line ends made harmless. */
static void quote(char *out, size_t size, const struct argv *a, size_t i, size_t most)
{
    size_t n = argv_len(a, i) < most ? argv_len(a, i) : most;

    n = n < size ? n : size - 1;
    memcpy(out, argv_at(a, i), n);
    out[n] = '\0';
    for (size_t k = 0; k < n; k++)
        if (out[k] == '\r' || out[k] == '\n' || out[k] == '\0')
            out[k] = ' ';
}

void session_refuse(struct session *s, const struct route_facts *f, enum route_why why, const struct local_row *row)
{
    char text[ERROR_BYTES_MAX], name[128], loading[128];

    if (s->tx != NULL)
        s->tx->refused = true; /* as Valkey does: EXEC must not run the rest */
    quote(name, sizeof name, f->args, 0, sizeof name);
    switch (why) {
    case WHY_LOADING:
        (void)snprintf(text, sizeof text, "%s", session_loading_text(s->worker, loading, sizeof loading));
        break;
    case WHY_CLUSTERDOWN:
        s->worker->writes_rejected++;
        (void)snprintf(text, sizeof text, "CLUSTERDOWN The cluster is down and only accepts read commands");
        break;
    case WHY_READONLY:
        (void)snprintf(text, sizeof text, "READONLY You can't write against a read only replica.");
        break;
    case WHY_NOT_AVAILABLE:
        (void)snprintf(text, sizeof text, "ERR %s is not available through Holdfast: %s%s", name, row->note,
                       local_guard(row) != 0 ? ". The setting allow-guarded-commands can allow it" : "");
        break;
    case WHY_SUBSCRIBED:
        (void)snprintf(text, sizeof text,
                       "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                       "allowed in this context",
                       f->command != NULL ? f->command->name : name);
        break;
    case WHY_MONITORING:
        (void)snprintf(text, sizeof text, "ERR only PING, QUIT and RESET are available while MONITOR runs");
        break;
    case WHY_MARKER_CHANNEL:
        (void)snprintf(text, sizeof text, "NOPERM this channel is reserved for Holdfast");
        break;
    case WHY_TOO_LARGE:
        (void)snprintf(text, sizeof text, "%s", session_too_large);
        break;
    case WHY_SET_REPL:
        (void)snprintf(text, sizeof text,
                       "ERR scripts with set_repl are not available through Holdfast: "
                       "writes hidden from replicas cannot be made durable");
        break;
    case WHY_IN_MULTI:
    case WHY_NOT:
        (void)snprintf(text, sizeof text, "ERR '%s' is not available inside MULTI through Holdfast", name);
        break;
    }
    session_say(s, text);
}

bool session_check_arity(struct session *s, const struct command *c, const struct local_row *row,
                         const struct argv *a)
{
    int arity = c != NULL ? c->arity : row->arity;
    const char *name = c != NULL ? c->name : row->name;
    char text[ERROR_BYTES_MAX];

    if (arity == 0 || (arity > 0 ? a->count == (size_t)arity : a->count >= (size_t)-arity))
        return true;
    (void)snprintf(text, sizeof text, "ERR wrong number of arguments for '%s' command", name);
    session_say(s, text);
    return false;
}

void session_say_stranger(struct session *s, const struct command *c, const struct local_row *row,
                          const struct argv *a)
{
    char text[ERROR_BYTES_MAX], word[UNKNOWN_WORDS_BYTES_MAX + 1];
    size_t used;

    if (row->treatment != TREAT_BY_FLAGS || (c != NULL && ((c->flags & CMD_CONTAINER) == 0 || a->count == 1))) {
        session_say(s, "NOAUTH Authentication required.");
        return;
    }
    if (c != NULL) {
        quote(word, sizeof word, a, 1, UNKNOWN_WORDS_BYTES_MAX);
        used = (size_t)snprintf(text, sizeof text, "ERR unknown subcommand '%s'. Try ", word);
        for (const char *n = c->name; *n != '\0'; n++)
            text[used++] = (char)(*n >= 'a' && *n <= 'z' ? *n - 32 : *n);
        (void)snprintf(text + used, sizeof text - used, " HELP.");
        session_say(s, text);
        return;
    }
    quote(word, sizeof word, a, 0, UNKNOWN_WORDS_BYTES_MAX);
    used = (size_t)snprintf(text, sizeof text, "ERR unknown command '%s', with args beginning with: ", word);
    for (size_t i = 1, words = 0; i < a->count && words < UNKNOWN_WORDS_BYTES_MAX; i++) {
        quote(word, sizeof word, a, i, UNKNOWN_WORDS_BYTES_MAX - words);
        used += (size_t)snprintf(text + used, sizeof text - used, "'%s' ", word);
        words += strlen(word) + 3;
    }
    session_say(s, text);
}

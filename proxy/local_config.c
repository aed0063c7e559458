/* CONFIG GET and SET over two sets of settings: ours and Valkey's. A name that both know is ours.
 *
 *   CONFIG GET max*       Valkey is asked; its pairs, without those that are ours, and then ours
 *   CONFIG SET a 1 b 2    ours are tried on a copy; then Valkey is told its own; only if it says OK do ours take
 *                         effect: all or nothing
 *   ... durability async  the last to be done: it is the group's. The core logs it, puts it into force when it is
 *                         committed, and only then is the client answered. The client's task and the core's half of
 *                         it are tied as those of a WAIT (local_wait.c) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proxy/certs.h"
#include "proxy/local.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

enum { NAME_BYTES = 128, VALUE_BYTES = 4096, BACKLOG_BYTES_MIN = 64 << 20, PATTERNS_MAX = 64 };

/* ---- GET ---- */

struct merge {
    struct buf pairs;
    size_t count;
    char seen[128][48]; /* ours, already given for an earlier pattern */
    size_t seen_count;
};

static void add_pair(void *arg, const char *name, const char *value)
{
    struct merge *m = arg;

    for (size_t i = 0; i < m->seen_count; i++)
        if (strcmp(m->seen[i], name) == 0)
            return;
    if (m->seen_count < sizeof m->seen / sizeof m->seen[0])
        (void)snprintf(m->seen[m->seen_count++], sizeof m->seen[0], "%s", name);
    resp_bulk_text(&m->pairs, name);
    resp_bulk_text(&m->pairs, value);
    m->count++;
}

/* One bulk string of a reply that the splitter has framed. */
static bool next_bulk(struct cursor *c, const char **text, size_t *n)
{
    const char *end = memchr(c->at, '\n', c->left);

    if (c->left == 0 || *c->at != '$' || end == NULL)
        return false;
    *n = (size_t)strtoul(c->at + 1, NULL, 10);
    (void)cursor_bytes(c, (size_t)(end - c->at) + 1);
    *text = cursor_bytes(c, *n);
    (void)cursor_bytes(c, 2);
    return !c->bad;
}

static bool is_ours(const char *name, size_t n)
{
    char text[NAME_BYTES];

    if (n >= sizeof text)
        return false;
    memcpy(text, name, n);
    text[n] = '\0';
    return config_known(text);
}

/* Valkey's pairs without ours; false if the reply is not what we know. */
static bool take_pairs(struct merge *m, const char *reply, size_t n)
{
    struct cursor c = cursor_of(reply, n);
    const char *end = memchr(reply, '\n', n), *name, *value;
    size_t pairs, name_n, value_n;

    if (end == NULL || (reply[0] != '*' && reply[0] != '%'))
        return false;
    pairs = (size_t)strtoul(reply + 1, NULL, 10) / (reply[0] == '*' ? 2 : 1);
    (void)cursor_bytes(&c, (size_t)(end - reply) + 1);
    for (size_t i = 0; i < pairs; i++) {
        if (!next_bulk(&c, &name, &name_n) || !next_bulk(&c, &value, &value_n))
            return false;
        if (is_ours(name, name_n))
            continue;
        resp_bulk(&m->pairs, name, name_n);
        resp_bulk(&m->pairs, value, value_n);
        m->count++;
    }
    return true;
}

static void on_config_get(struct task *t, const char *reply, size_t n)
{
    struct merge *m;
    struct buf out = {0};
    const char *at = buf_head(&t->extra);
    size_t left = t->extra.len;

    if (reply[0] == '-') {
        session_answer(t, reply, n);
        return;
    }
    m = must_calloc(1, sizeof *m);
    if (!take_pairs(m, reply, n)) {
        session_answer(t, reply, n);
    } else {
        while (left > 0) { /* the patterns, each ended by a NUL */
            config_get(t->worker->config, at, add_pair, m);
            left -= strlen(at) + 1;
            at += strlen(at) + 1;
        }
        resp_map(&out, m->count, t->op.proto);
        buf_append(&out, buf_head(&m->pairs), m->pairs.len);
        session_answer_buf(t, &out);
    }
    buf_free(&m->pairs);
    free(m);
}

enum dispatch local_config_get(struct session *s, const struct argv *a)
{
    char pattern[NAME_BYTES];
    struct buf patterns = {0};
    enum dispatch done;
    struct task *t;

    for (size_t i = 2; i < a->count && i < PATTERNS_MAX; i++)
        if (argv_text(a, i, pattern, sizeof pattern))
            buf_append(&patterns, pattern, strlen(pattern) + 1);
    done = session_forward(s, a, on_config_get, &t);
    if (done == DISPATCHED && t != NULL)
        buf_move(&t->extra, &patterns);
    buf_free(&patterns);
    return done;
}

/* ---- SET ---- */

/* What Holdfast relies on in Valkey. NULL: may be set. */
static const char *objection(const struct worker *w, const char *name, const char *value)
{
    static const char *const kept[] = {"replica",      "slave",   "primary",   "master",         "repl-",
                                       "min-replicas", "min-sla", "databases", "cluster-",       "rename-command",
                                       "protected-",   "tls-",    "aclfile",   "dual-channel-r", "import-mode"};
    static const char *const persistence[] = {"save",       "appendonly",     "dir",
                                              "dbfilename", "appendfilename", "appenddirname"};
    char *unit;
    double bytes;

    for (size_t i = 0; i < sizeof persistence / sizeof persistence[0]; i++)
        if (strcasecmp(name, persistence[i]) == 0 && value[0] != '\0' && strcasecmp(value, "no") != 0 &&
            (w->config->guards_allowed & GUARD_PERSISTENCE) == 0)
            return "Holdfast's log is what persists. The setting allow-guarded-commands can allow it (persistence)";
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (strncasecmp(name, kept[i], strlen(kept[i])) == 0 && strcasecmp(name, "repl-backlog-size") != 0)
            return "Holdfast relies on it";
    if (strcasecmp(name, "requirepass") == 0 && local_is_own_user(w, "default", strlen("default")))
        return "Holdfast logs in as the default user: give it one of its own first (valkey-user)";
    if (strcasecmp(name, "repl-backlog-size") == 0) {
        bytes = strtod(value, &unit);
        bytes *= strncasecmp(unit, "g", 1) == 0   ? 1 << 30
                 : strncasecmp(unit, "m", 1) == 0 ? 1 << 20
                 : strncasecmp(unit, "k", 1) == 0 ? 1 << 10
                                                  : 1;
        if (!(bytes >= BACKLOG_BYTES_MIN))
            return "Holdfast needs at least 64mb";
    }
    return NULL;
}

static enum dispatch set_failed(struct session *s, const char *name, const char *why)
{
    char text[512];

    if (strncmp(why, "Unknown option", 14) == 0)
        (void)snprintf(text, sizeof text, "ERR %s - '%.128s'", why, name);
    else
        (void)snprintf(text, sizeof text, "ERR CONFIG SET failed (possibly related to argument '%.128s') - %.256s",
                       name, why);
    return local_error(s, text);
}

/* As in Valkey, a file's name that is the same again has the file read again. */
static bool is_of_tls(const char *name)
{
    return strncasecmp(name, "tls-", 4) == 0 || strncasecmp(name, "valkey-tls-", 11) == 0;
}

static bool is_mode(const char *name)
{
    return strcasecmp(name, "durability") == 0;
}

static void say_change(void *arg, const char *name, const char *before, const char *after)
{
    const struct worker *w = arg;

    diag_log(w->diag, DIAG_NOTICE, "CONFIG SET %s: \"%s\" -> \"%s\"", name, before, after);
}

/* ours: name NUL value NUL ... The mode among them is left for the core: *mode, if it is there. */
static bool apply(struct worker *w, const struct buf *ours, enum durability *mode)
{
    const char *at = buf_head(ours), *value;
    struct config *trial = must_calloc(1, sizeof *trial), *before = must_calloc(1, sizeof *before);
    size_t left = ours->len, n;
    bool has_mode = false, certificates = false;
    char why[256];

    *before = *trial = *w->config;
    while (left > 0) {
        value = at + strlen(at) + 1;
        n = strlen(at) + strlen(value) + 2;
        if (!config_set(is_mode(at) ? trial : w->config, at, value, true, why, sizeof why))
            diag_log(w->diag, DIAG_WARNING, "CONFIG SET %s: %s", at, why); /* it was tried on a copy: cannot be */
        has_mode = has_mode || is_mode(at);
        certificates = certificates || is_of_tls(at);
        left -= n;
        at += n;
    }
    *mode = trial->durability;
    config_differences(before, w->config, say_change, w);
    free(before);
    free(trial);
    if (certificates && w->set.certs != NULL)
        certs_reload(w->set.certs, w->config);
    worker_reconfigure(w);
    return has_mode;
}

/* RELEASE of the half that the core had. */
static void on_mode(struct task *half, const char *error, size_t n)
{
    struct task *t = half->peer;
    struct buf reply = {0};

    if (n > 0)
        buf_append(&reply, error, n);
    else
        resp_status(&reply, "OK");
    task_free(half); /* unties them */
    if (t != NULL)
        session_answer_buf(t, &reply);
    else
        buf_free(&reply);
}

static void ask_mode(struct task *t, enum durability mode)
{
    struct task *half = task_new(t->worker);

    half->op.kind = OP_LOCAL;
    half->place = TASK_CORE;
    half->on_reply = on_mode;
    half->peer = t;
    t->peer = half;
    t->place = TASK_HERE;
    worker_post(t->worker, TO_CORE_MODE, &half->op, (uint64_t)mode);
}

static void on_config_set(struct task *t, const char *reply, size_t n)
{
    enum durability mode;

    if (reply[0] == '+') {
        bool has_mode = apply(t->worker, &t->extra, &mode);

        if (t->numbers[0] != 0) { /* never both: local_config_set() */
            local_answer_learned(t, reply, n);
            return;
        }
        if (has_mode) {
            ask_mode(t, mode);
            return;
        }
    }
    session_answer(t, reply, n);
}

/* Sorts the pairs into ours (tried on a copy) and Valkey's. false: an error was answered. */
static bool sort_pairs(struct session *s, const struct argv *a, struct buf *ours, struct buf *theirs, size_t *count)
{
    struct config *trial = must_calloc(1, sizeof *trial);
    char name[NAME_BYTES], value[VALUE_BYTES], why[256];
    bool ok = true, certificates = false;

    *trial = *s->worker->config;
    for (size_t i = 2; ok && i < a->count; i += 2) {
        bool plain = argv_text(a, i + 1, value, sizeof value);
        const char *no = NULL;

        if (!argv_text(a, i, name, sizeof name)) {
            (void)set_failed(s, "", "Unknown option or number of arguments for CONFIG SET");
            ok = false;
        } else if (s->reader && strcasecmp(name, "durability") == 0) {
            (void)set_failed(s, name, "the mode is the group's: set it by way of port");
            ok = false;
        } else if (config_known(name)) {
            if (!plain)
                (void)snprintf(why, sizeof why, "value too long");
            if (!plain || !config_set(trial, name, value, true, why, sizeof why)) {
                (void)set_failed(s, name, why);
                ok = false;
            }
            certificates = certificates || is_of_tls(name);
            buf_append(ours, name, strlen(name) + 1);
            buf_append(ours, value, plain ? strlen(value) + 1 : 0);
        } else if ((no = objection(s->worker, name, plain ? value : "")) != NULL) {
            (void)set_failed(s, name, no);
            ok = false;
        } else {
            argv_bulk(theirs, argv_at(a, i), argv_len(a, i));
            argv_bulk(theirs, argv_at(a, i + 1), argv_len(a, i + 1));
            *count += 2;
        }
    }
    if (ok && certificates && (!config_tls_check(trial, why, sizeof why) || !certs_try(trial, why, sizeof why))) {
        (void)snprintf(value, sizeof value, "Unable to update TLS configuration: %s", why);
        (void)set_failed(s, name, value);
        ok = false;
    }
    free(trial);
    return ok;
}

static enum dispatch set_theirs(struct session *s, const struct buf *theirs, size_t count, struct buf *ours,
                                bool passwords)
{
    struct buf command = {0};
    enum dispatch done;
    struct task *t;

    argv_header(&command, count + 2);
    argv_bulk(&command, "CONFIG", 6);
    argv_bulk(&command, "SET", 3);
    buf_append(&command, buf_head(theirs), theirs->len);
    done = session_forward(s, &(struct argv){buf_head(&command), command.len, NULL, 0}, on_config_set, &t);
    if (done == DISPATCHED && t != NULL) {
        buf_move(&t->extra, ours);
        t->numbers[0] = passwords ? 1 : 0;
        s->barrier = true; /* what comes after it goes by the new mode, or password */
    }
    buf_free(&command);
    return done;
}

static enum dispatch set_ours(struct session *s, const struct buf *ours)
{
    enum durability mode;
    struct task *t;

    if (!apply(s->worker, ours, &mode))
        return local_ok(s);
    t = session_task(s, OP_LOCAL);
    session_sent(s, t, TASK_HERE, VIA_NONE);
    s->barrier = true;
    ask_mode(t, mode);
    return DISPATCHED;
}

enum dispatch local_config_set(struct session *s, const struct argv *a)
{
    struct buf ours = {0}, theirs = {0};
    enum dispatch done = DISPATCHED;
    bool passwords = false, has_mode = false;
    size_t count = 0;

    if (a->count % 2 != 0)
        return local_error(s, "ERR wrong number of arguments for 'config|set' command");
    for (size_t i = 2; i < a->count; i += 2) {
        passwords = passwords || argv_is(a, i, "requirepass");
        has_mode = has_mode || argv_is(a, i, "durability");
    }
    if (passwords && has_mode)
        return set_failed(s, "durability", "not together with requirepass: each is waited for");
    if (sort_pairs(s, a, &ours, &theirs, &count)) {
        if (count > 0) {
            done = set_theirs(s, &theirs, count, &ours, passwords);
        } else {
            done = set_ours(s, &ours);
        }
    }
    buf_free(&ours);
    buf_free(&theirs);
    return done;
}

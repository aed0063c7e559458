/* The one table of commands with a treatment of their own. Everything that is not here goes by Valkey's flags
 * (router.c).
 *
 * Names are matched as Valkey's COMMAND gives them; a cache from struct command to its row makes that one comparison.
 * CLIENT subcommands that are not here are refused: they change the connection that carries them, which is not the
 * client's. */
#include "proxy/local.h"

#include <stdio.h>
#include <string.h>

#include "proxy/worker_state.h"

#define REFUSED(name, why)                                                                                           \
    {                                                                                                                \
        name, TREAT_REFUSED, 0, false, NULL, why                                                                     \
    }
#define SUBSCRIBING(name, arity)                                                                                     \
    {                                                                                                                \
        name, TREAT_SUBSCRIBE, arity, false, local_subscribe, "on the session's own connection"                      \
    }
#define FORWARDED(name, note)                                                                                        \
    {                                                                                                                \
        name, TREAT_BY_FLAGS, 0, true, NULL, note                                                                    \
    }

static const char replicates[] = "Holdfast replicates";
static const char own_connection[] = "on the session's own connection";
static const char ours[] = "of this connection to Holdfast";

static const struct local_row rows[] = {
    {"auth", TREAT_AUTH, -2, false, local_auth, "by Valkey; users without full rights get a connection of their own"},
    {"hello", TREAT_ALWAYS, -1, false, local_hello, ours},
    {"reset", TREAT_RESET, 1, false, local_reset, ours},
    {"quit", TREAT_QUIT, -1, false, local_quit, ours},
    {"ping", TREAT_LOCAL, -1, true, local_ping, "by Valkey; -LOADING while it is away"},
    {"select", TREAT_ALWAYS, 2, true, local_select, ours},
    {"readonly", TREAT_ALWAYS, 1, true, local_readonly, "noted, without effect"},
    {"readwrite", TREAT_ALWAYS, 1, true, local_readonly, "noted, without effect"},
    {"post", TREAT_ALWAYS, -1, false, local_close, "HTTP: the connection is closed"},
    {"host:", TREAT_ALWAYS, -1, false, local_close, "HTTP: the connection is closed"},

    {"multi", TREAT_MULTI, 1, false, NULL, "queued with Holdfast, or on the session's own connection"},
    {"exec", TREAT_EXEC, 1, false, NULL, "one block; on a sync connection one intent, or captured"},
    {"discard", TREAT_DISCARD, 1, false, NULL, "queued with Holdfast, or on the session's own connection"},
    {"watch", TREAT_WATCH, -2, false, NULL, own_connection},
    {"unwatch", TREAT_UNWATCH, 1, true, NULL, own_connection},
    SUBSCRIBING("subscribe", -2),
    SUBSCRIBING("unsubscribe", -1),
    SUBSCRIBING("psubscribe", -2),
    SUBSCRIBING("punsubscribe", -1),
    SUBSCRIBING("ssubscribe", -2),
    SUBSCRIBING("sunsubscribe", -1),
    {"monitor", TREAT_MONITOR, 1, false, local_monitor, "without Holdfast's markers"},

    {"script|load", TREAT_CAPTURED, 3, true, NULL, "captured on a sync connection"},
    {"script|flush", TREAT_CAPTURED, -2, true, NULL, "captured on a sync connection"},
    {"script|kill", TREAT_CONTROL, 2, false, NULL, "past the busy script"},
    {"function|kill", TREAT_CONTROL, 2, false, NULL, "past the busy function"},
    {"function|load", TREAT_CAPTURED, -3, true, NULL, "captured"},
    {"function|delete", TREAT_CAPTURED, 3, true, NULL, "captured"},
    {"function|flush", TREAT_CAPTURED, -2, true, NULL, "captured"},
    {"function|restore", TREAT_CAPTURED, -3, true, NULL, "captured"},

    {"client|id", TREAT_ALWAYS, 2, true, local_client_id, ours},
    {"client|getname", TREAT_ALWAYS, 2, false, local_client_getname, ours},
    {"client|setname", TREAT_ALWAYS, 3, true, local_client_setname, ours},
    {"client|setinfo", TREAT_ALWAYS, 4, true, local_client_setinfo, ours},
    {"client|info", TREAT_ALWAYS, 2, false, local_client_info, ours},
    {"client|list", TREAT_ALWAYS, -2, false, local_client_list, "the connections to Holdfast"},
    {"client|kill", TREAT_ALWAYS, -3, false, local_client_kill, "the connections to Holdfast"},
    {"client|help", TREAT_ALWAYS, 2, false, local_client_help, ""},
    {"client|capa", TREAT_ALWAYS, -3, true, local_client_capa,
     "noted, without effect: the role of a node is not seen by its clients"},
    {"client|reply", TREAT_ALWAYS, 3, false, local_client_reply, ours},
    {"client|durability", TREAT_ALWAYS, -2, false, local_client_durability,
     "SYNC, ASYNC, OFF or DEFAULT for this connection; GET"},
    {"client|unblock", TREAT_LOCAL, -3, false, local_client_unblock, "by Holdfast's ids"},
    {"client|tracking", TREAT_STATE, -3, false, local_client_tracking,
     "on the session's own connection; REDIRECT takes Holdfast's ids"},
    {"client|caching", TREAT_STATE, 3, false, NULL, own_connection},
    {"client|getredir", TREAT_ALWAYS, 2, false, local_client_getredir, ours},
    {"client|trackinginfo", TREAT_STATE, 2, false, local_client_trackinginfo,
     "on the session's own connection; ids are Holdfast's"},
    {"client|no-touch", TREAT_STATE, 3, false, local_client_flag, own_connection},
    {"client|no-evict", TREAT_STATE, 3, false, local_client_flag, own_connection},
    {"client|pause", TREAT_ALWAYS, -3, false, local_client_pause,
     "the clients of Holdfast, at the node that leads; Valkey itself goes on, and expires keys"},
    {"client|unpause", TREAT_ALWAYS, 2, false, local_client_unpause, "see CLIENT PAUSE"},
    REFUSED("client|import-source", "imports must pass through the log"),
    REFUSED("client|*", "unknown to this version of Holdfast"),

    {"config|get", TREAT_LOCAL, -3, true, local_config_get, "Valkey's settings and Holdfast's; Holdfast's win"},
    {"config|set", TREAT_LOCAL, -4, false, local_config_set,
     "both, all or nothing; not those that Holdfast relies on"},
    {"info", TREAT_LOCAL, -1, true, local_info,
     "Valkey's, with a section Durability; port, number of clients and maxclients are Holdfast's, replicas are not "
     "shown"},
    {"role", TREAT_LOCAL, 1, true, local_role, "Valkey's, without Holdfast among the replicas"},
    {"proxy", TREAT_ALWAYS, -2, false, local_proxy, "COMMANDS, INFO, HELP"},
    {"acl|whoami", TREAT_LOCAL, 2, true, local_whoami, ours},
    {"acl|setuser", TREAT_LOCAL, -3, false, local_acl, "by Valkey; holds from its answer on"},
    {"acl|deluser", TREAT_LOCAL, -3, false, local_acl, "by Valkey; holds from its answer on"},
    {"acl|load", TREAT_LOCAL, 2, false, local_acl, "by Valkey; holds from its answer on"},
    {"module|load", TREAT_LOCAL, -3, false, local_module, "by Valkey; the commands are read again"},
    {"module|loadex", TREAT_LOCAL, -3, false, local_module, "by Valkey; the commands are read again"},
    {"module|unload", TREAT_LOCAL, 3, false, local_module, "by Valkey; the commands are read again"},
    FORWARDED("config|rewrite", "Valkey's file; Holdfast's is never written"),
    FORWARDED("config|resetstat", "Valkey's figures; Holdfast's go on"),
    FORWARDED("slowlog|get", "at the node that leads; its clients are Holdfast's connections"),
    FORWARDED("acl|log", "at the node that leads; its clients are Holdfast's connections"),
    FORWARDED("acl|save", "the file of the Valkey that leads"),
    {"wait", TREAT_LOCAL, 3, false, local_wait,
     "other zones in which this connection's writes are durable; not inside MULTI, where Valkey would count our tap"},
    {"waitaof", TREAT_LOCAL, 4, false, local_waitaof, "the log instead of the append-only file; not inside MULTI"},

    {"replconf", TREAT_LOCAL, -1, false, local_replconf, "capa and rdb-only, for SYNC; the rest is refused"},
    {"sync", TREAT_LOCAL, 1, false, local_sync,
     "after REPLCONF rdb-only 1: a snapshot of the node that leads, of this node by reader-port; else refused"},
    REFUSED("replicaof", replicates),
    REFUSED("slaveof", replicates),
    REFUSED("failover", replicates),
    REFUSED("psync", replicates),
    {"debug", TREAT_REFUSED, 0, false, local_debug, "it can change or stop Valkey behind the log's back"},
    REFUSED("pfdebug", "it is for Valkey's own tests"),
    REFUSED("shutdown", "stop Holdfast instead"),
    REFUSED("migrate", "Valkey stands still while it moves keys elsewhere"),
    REFUSED("restore-asking", "it belongs to cluster mode"),
    REFUSED("cluster|addslots", "it belongs to cluster mode"),
    REFUSED("cluster|addslotsrange", "it belongs to cluster mode"),
    REFUSED("cluster|delslots", "it belongs to cluster mode"),
    REFUSED("cluster|delslotsrange", "it belongs to cluster mode"),
    REFUSED("cluster|failover", "it belongs to cluster mode"),
    REFUSED("cluster|flushslots", "it belongs to cluster mode"),
    REFUSED("cluster|forget", "it belongs to cluster mode"),
    REFUSED("cluster|meet", "it belongs to cluster mode"),
    REFUSED("cluster|replicate", "it belongs to cluster mode"),
    REFUSED("cluster|reset", "it belongs to cluster mode"),
    REFUSED("cluster|set-config-epoch", "it belongs to cluster mode"),
    REFUSED("cluster|bumpepoch", "it belongs to cluster mode"),
    REFUSED("cluster|setslot", "it belongs to cluster mode"),
};
/* Refused, unless allow-guarded-commands says otherwise. */
static const struct {
    const char *name;
    unsigned guards;
    enum treatment allowed;
} guarded[] = {{"debug", GUARD_DEBUG | GUARD_DEBUG_UNSAFE, TREAT_LOCAL},
               {"pfdebug", GUARD_DEBUG, TREAT_BY_FLAGS},
               {"shutdown", GUARD_SHUTDOWN, TREAT_BY_FLAGS},
               {"migrate", GUARD_MIGRATE, TREAT_BY_FLAGS}};

unsigned local_guard(const struct local_row *row)
{
    for (size_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++)
        if (strcmp(guarded[i].name, row->name) == 0)
            return guarded[i].guards;
    return GUARD_NONE;
}

enum treatment local_treatment(const struct worker *w, const struct local_row *row)
{
    if (row->treatment != TREAT_REFUSED || w->config == NULL || w->config->guards_allowed == 0)
        return row->treatment;
    for (size_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++)
        if (strcmp(guarded[i].name, row->name) == 0 && (guarded[i].guards & w->config->guards_allowed) != 0)
            return guarded[i].allowed;
    return TREAT_REFUSED;
}

static const struct local_row by_flags = {"", TREAT_BY_FLAGS, 0, true, NULL, ""};

const struct local_row *local_rows(size_t *count)
{
    *count = sizeof rows / sizeof rows[0];
    return rows;
}

static const struct local_row *find(const char *name)
{
    const struct local_row *any = NULL;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].name);

        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
        if (rows[i].name[n - 1] == '*' && strncmp(rows[i].name, name, n - 1) == 0)
            any = &rows[i];
    }
    return any != NULL ? any : &by_flags;
}

/* "client", "SetName" ─▶ "client|setname". What Valkey does not list is looked for with and without its second word.
 */
static const struct local_row *find_by_args(const struct argv *a)
{
    char name[128], one[64], two[64];
    const struct local_row *row = &by_flags;

    if (a->count == 0 || !argv_text(a, 0, one, sizeof one) || strchr(one, '|') != NULL)
        return row; /* "config|get" is no command: unknown to Valkey, too */
    for (char *c = one; *c != '\0'; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
    if (a->count > 1 && argv_text(a, 1, two, sizeof two)) {
        for (char *c = two; *c != '\0'; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        (void)snprintf(name, sizeof name, "%s|%s", one, two);
        row = find(name);
    }
    return row->treatment == TREAT_BY_FLAGS || row->name[strlen(row->name) - 1] == '*' ? find(one) : row;
}

const struct local_row *local_row(struct worker *w, const struct command *c, const struct argv *a)
{
    struct row_cache *slot;

    /* Not in Valkey's table: CLIENT DURABILITY, PROXY, HTTP, or anything while Valkey is away. */
    if (c == NULL || ((c->flags & CMD_CONTAINER) != 0 && a->count > 1))
        return find_by_args(a);
    slot = &w->rows[((uintptr_t)c >> 4) * 0x9E3779B97F4A7C15u >> 54];
    if (slot->command != c) {
        slot->command = c;
        slot->row = find(c->name);
    }
    return slot->row;
}

const struct local_row *local_find(struct worker *w, const struct argv *a, const struct command **c)
{
    size_t n = a->count > 0 ? argv_len(a, 0) : 0;
    struct name_cache *slot = NULL;
    uint64_t name = 0;
    const struct local_row *row;

    if (n > 0 && n <= sizeof name) {
        memcpy(&name, argv_at(a, 0), n);
        slot = &w->names[(name * 0x9E3779B97F4A7C15u) >> 58];
        if (slot->n == n && slot->name == name) {
            *c = slot->command;
            return slot->row;
        }
    }
    *c = w->commands != NULL ? command_find(w->commands, a) : NULL;
    row = local_row(w, *c, a);
    if (slot != NULL && *c != NULL && ((*c)->flags & CMD_CONTAINER) == 0 && strchr((*c)->name, '|') == NULL)
        *slot = (struct name_cache){name, n, *c, row};
    return row;
}

void local_forget(struct worker *w)
{
    memset(w->names, 0, sizeof w->names);
    memset(w->rows, 0, sizeof w->rows);
}

/* ---- shared by the answers ---- */

enum dispatch local_ok(struct session *s)
{
    session_answer(session_task(s, OP_LOCAL), "+OK\r\n", 5);
    return DISPATCHED;
}

enum dispatch local_error(struct session *s, const char *text)
{
    session_say(s, text);
    return DISPATCHED;
}

enum dispatch local_bad_subcommand(struct session *s, const struct argv *a)
{
    char text[256], command[64], word[132];

    if (!argv_text(a, 0, command, sizeof command))
        command[0] = '\0';
    for (char *c = command; *c != '\0'; c++)
        *c = (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
    (void)snprintf(word, sizeof word, "%.*s", argv_len(a, 1) < 128 ? (int)argv_len(a, 1) : 128, argv_at(a, 1));
    (void)snprintf(text, sizeof text, "ERR unknown subcommand or wrong number of arguments for '%s'. Try %s HELP.",
                   word, command);
    return local_error(s, text);
}

enum dispatch local_reply(struct session *s, struct buf *reply)
{
    session_answer_buf(session_task(s, OP_LOCAL), reply);
    return DISPATCHED;
}

bool argv_text(const struct argv *a, size_t i, char *out, size_t size)
{
    size_t n;

    if (i >= a->count || (n = argv_len(a, i)) >= size || memchr(argv_at(a, i), '\0', n) != NULL)
        return false;
    memcpy(out, argv_at(a, i), n);
    out[n] = '\0';
    return true;
}

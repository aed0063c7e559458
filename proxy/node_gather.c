/* What Valkey says about itself: asked in one pipeline when the control connection is ready, decided on when the
 * last answer is in.
 *
 * Settings that we rely on and may raise are raised here: a backlog large enough to bridge a restart of ours, and
 * an output limit that does not cut the tap at once. What cannot be set (a managed Valkey) is only warned about. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/node_internal.h"

/* ---- reading answers ---- */

bool node_info_field(const char *info, size_t n, const char *name, char *out, size_t size)
{
    char key[64];
    int key_n = snprintf(key, sizeof key, "\n%s:", name);
    const char *at = memmem(info, n, key, (size_t)key_n);
    size_t left, len = 0;

    out[0] = '\0';
    if (at == NULL)
        return false;
    at += key_n;
    left = n - (size_t)(at - info);
    while (len < left && at[len] != '\r' && at[len] != '\n')
        len++;
    if (len >= size)
        return false;
    memcpy(out, at, len);
    out[len] = '\0';
    return true;
}

uint64_t node_info_number(const char *info, size_t n, const char *name)
{
    char text[32];

    return node_info_field(info, n, name, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

/* The next bulk string of a flat array. */
static bool next_bulk(struct cursor *c, const char **at, size_t *size)
{
    size_t value = 0;
    uint8_t b = cursor_u8(c);

    if (b != '$')
        return false;
    while ((b = cursor_u8(c)) >= '0' && b <= '9' && value < INT32_MAX)
        value = value * 10 + (size_t)(b - '0');
    (void)cursor_u8(c); /* \n */
    *at = cursor_bytes(c, value);
    *size = value;
    (void)cursor_bytes(c, 2);
    return !c->bad && b == '\r';
}

static bool is(const char *at, size_t size, const char *word)
{
    return size == strlen(word) && memcmp(at, word, size) == 0;
}

/* ---- settings ---- */

static void on_set(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (reply[0] == '-')
        diag_log(n->diag, DIAG_WARNING, "Valkey at %s refused a setting: %.*s", node_address(n),
                 (int)(size < 120 ? size - 2 : 120), reply + 1);
}

static void set(struct node *n, const char *name, const char *value)
{
    node_ask(n, on_set, 4, (const char *const[]){"CONFIG", "SET", name, value});
}

static void raise_backlog(struct node *n, const char *now)
{
    char value[24];

    if (strtoull(now, NULL, 10) >= NODE_BACKLOG_BYTES_MIN)
        return;
    (void)snprintf(value, sizeof value, "%d", NODE_BACKLOG_BYTES_MIN);
    diag_log(n->diag, DIAG_NOTICE, "Valkey at %s: raising repl-backlog-size from %s to %s", node_address(n), now,
             value);
    set(n, "repl-backlog-size", value);
}

/* "normal 0 0 0 slave 268435456 67108864 60 pubsub ...": 0 is no limit. */
static void raise_output_limit(struct node *n, const char *now)
{
    unsigned long long hard, soft, seconds;
    const char *at = strstr(now, "slave ");
    char value[96];

    if (at == NULL)
        at = strstr(now, "replica ");
    if (at == NULL || sscanf(strchr(at, ' '), " %llu %llu %llu", &hard, &soft, &seconds) != 3)
        return;
    if ((hard == 0 || hard >= NODE_OUTPUT_HARD_BYTES_MIN) && (soft == 0 || soft >= NODE_OUTPUT_SOFT_BYTES_MIN))
        return;
    if (hard != 0 && hard < NODE_OUTPUT_HARD_BYTES_MIN)
        hard = NODE_OUTPUT_HARD_BYTES_MIN;
    if (soft != 0 && soft < NODE_OUTPUT_SOFT_BYTES_MIN)
        soft = NODE_OUTPUT_SOFT_BYTES_MIN;
    (void)snprintf(value, sizeof value, "replica %llu %llu %llu", hard, soft, seconds > 60 ? seconds : 60);
    diag_log(n->diag, DIAG_NOTICE, "Valkey at %s: raising client-output-buffer-limit to %s", node_address(n), value);
    set(n, "client-output-buffer-limit", value);
}

void node_sync_delay(struct node *n, bool zero)
{
    if (strcmp(n->valkey.sync_delay, "0") == 0 || n->valkey.sync_delay[0] == '\0')
        return;
    set(n, "repl-diskless-sync-delay", zero ? "0" : n->valkey.sync_delay);
}

static void look_at_policy(struct node *n, const char *now)
{
    if (strcmp(now, "noeviction") != 0 && strcmp(now, n->policy_said) != 0)
        diag_log(n->diag, DIAG_WARNING,
                 "Valkey at %s: maxmemory-policy is %s: evicted keys are deleted durably; noeviction is advised",
                 node_address(n), now);
    (void)snprintf(n->policy_said, sizeof n->policy_said, "%.*s", (int)sizeof n->policy_said - 1, now);
}

static void take_setting(struct node *n, const char *name, size_t name_n, const char *value, size_t value_n)
{
    struct node_valkey *v = &n->valkey;
    char text[512];

    (void)snprintf(text, sizeof text, "%.*s", (int)value_n, value);
    if (is(name, name_n, "databases"))
        v->databases = (unsigned)strtoul(text, NULL, 10);
    else if (is(name, name_n, "masteruser") || is(name, name_n, "primaryuser"))
        (void)snprintf(v->master_user, sizeof v->master_user, "%.*s", (int)sizeof v->master_user - 1, text);
    else if (is(name, name_n, "masterauth") || is(name, name_n, "primaryauth"))
        (void)snprintf(v->master_auth, sizeof v->master_auth, "%.*s", (int)sizeof v->master_auth - 1, text);
    else if (is(name, name_n, "repl-backlog-size"))
        raise_backlog(n, text);
    else if (is(name, name_n, "client-output-buffer-limit"))
        raise_output_limit(n, text);
    else if (is(name, name_n, "repl-diskless-sync-delay"))
        (void)snprintf(v->sync_delay, sizeof v->sync_delay, "%.*s", (int)sizeof v->sync_delay - 1, text);
    else if (is(name, name_n, "maxmemory-policy"))
        look_at_policy(n, text);
}

/* ---- answers ---- */

static void answered(struct node *n)
{
    CHECK(n->answers_due > 0);
    if (--n->answers_due == 0)
        node_decide_now(n);
}

static bool refused(struct node *n, const char *what, const char *reply, size_t size, char type)
{
    if (reply[0] == type)
        return false;
    node_fail(n, "%s: %.*s", what, (int)(size < 120 ? size - 2 : 120), reply + 1);
    return true;
}

/* A checkpoint proves how far a Valkey has come, not that it has skipped nothing on its way. What it skipped while
 * nobody looked (an earlier process of ours, a control connection that was lost) shows in the counter alone; then
 * only a full sync makes its state the log's. */
static void doubt(struct node *n)
{
    const struct node_valkey *v = &n->valkey;
    uint64_t known = strcmp(n->doubt.run_id, v->run_id) == 0 ? n->doubt.errors : 0;

    if (n->feed == NULL && (n->doubt.skipped || v->unexpected_errors > known) &&
        checkpoints_newest(n->checkpoints) != NULL) {
        diag_log(n->diag, DIAG_NOTICE,
                 "Valkey at %s may have skipped effects of the log: it is loaded anew if it follows",
                 node_address(n));
        checkpoints_wipe(n->checkpoints, NULL, NULL);
    }
    (void)snprintf(n->doubt.run_id, sizeof n->doubt.run_id, "%s", v->run_id);
    n->doubt.errors = v->unexpected_errors;
}

static void on_info(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;
    struct node_valkey *v = &n->valkey;
    char text[64];

    if (refused(n, "INFO", reply, size, '$'))
        return;
    (void)node_info_field(reply, size, "run_id", v->run_id, sizeof v->run_id);
    if (node_info_field(reply, size, "valkey_version", v->version, sizeof v->version) ||
        node_info_field(reply, size, "redis_version", v->version, sizeof v->version))
        (void)snprintf(v->server, sizeof v->server, "%s",
                       node_info_field(reply, size, "server_name", text, sizeof text) && strcmp(text, "valkey") == 0
                           ? "valkey"
                           : "redis");
    (void)node_info_field(reply, size, "master_replid", v->replid, sizeof v->replid);
    v->is_replica = node_info_field(reply, size, "role", text, sizeof text) && strcmp(text, "master") != 0;
    v->loading = node_info_number(reply, size, "loading") + node_info_number(reply, size, "async_loading") > 0;
    v->cluster_enabled = node_info_number(reply, size, "cluster_enabled") > 0;
    v->unexpected_errors = node_info_number(reply, size, "unexpected_error_replies");
    doubt(n);
    if (v->run_id[0] == '\0')
        node_fail(n, "INFO names no run_id");
    else
        answered(n);
}

static void on_settings(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;
    struct cursor c = cursor_of(reply, size);
    const char *name, *value;
    size_t name_n, value_n;

    if (refused(n, "CONFIG GET", reply, size, '*'))
        return;
    while (c.left > 0 && cursor_u8(&c) != '\n') /* past the array's header */
        continue;
    while (c.left > 0 && next_bulk(&c, &name, &name_n) && next_bulk(&c, &value, &value_n))
        take_setting(n, name, name_n, value, value_n);
    if (n->valkey.databases == 0)
        node_fail(n, "CONFIG GET does not tell the number of databases");
    else
        answered(n);
}

static void on_commands(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (refused(n, "COMMAND", reply, size, '*'))
        return;
    buf_clear(&n->valkey.commands);
    buf_append(&n->valkey.commands, reply, size);
    if (n->valkey.commands.failed)
        node_fail(n, "out of memory for COMMAND's reply");
    else
        answered(n);
}

static void on_command_info(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    if (refused(n, "COMMAND INFO", reply, size, '*'))
        return;
    if (size < 6 || reply[5] == '-' || reply[4] == '_') /* "*1\r\n*-1\r\n", or a null of another form */
        n->valkey.lacks_commands = true;
    answered(n);
}

/* Refused for good: forbidden, or built without Lua. Anything else passes (MASTERDOWN, BUSY). */
static void on_script(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;

    n->valkey.scripts =
        reply[0] != '-' || (size > 5 && memcmp(reply, "-ERR ", 5) != 0 && memcmp(reply, "-NOPE", 5) != 0);
    answered(n);
}

void node_gather(struct node *n)
{
    static const char *const needed[] = {"SPUBLISH", "ACL|DRYRUN", "CLIENT|KILL"};
    struct buf commands = n->valkey.commands; /* its memory is used again */

    if (n->answers_due > 0)
        return; /* under way; what is decided then is decided with what is known then */
    n->valkey = (struct node_valkey){.commands = commands};
    n->answers_due = 7;
    node_ask(n, on_info, 6,
             (const char *const[]){"INFO", "server", "replication", "persistence", "cluster", "stats"});
    node_ask(n, on_settings, 9,
             (const char *const[]){"CONFIG", "GET", "databases", "masteruser", "masterauth", "repl-backlog-size",
                                   "client-output-buffer-limit", "maxmemory-policy", "repl-diskless-sync-delay"});
    node_ask(n, on_commands, 1, (const char *const[]){"COMMAND"});
    node_ask(n, on_script, 3, (const char *const[]){"EVAL", "return 1", "0"});
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        node_ask(n, on_command_info, 3, (const char *const[]){"COMMAND", "INFO", needed[i]});
}

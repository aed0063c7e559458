/* holdfast ctl: reads and acts by way of a node's admin port, and shows it to people.
 *
 *     holdfast ctl --admin 127.0.0.1:9121 members
 *     NAME  ZONE  ADDRESS         ROLE   STATE   LEADER  LOG  VALKEY  SNAPSHOT  HEARD   SKEW
 *     a     az-a  127.0.0.1:7001  voter  self    yes     42   -       -         -       0 ms
 *     b     az-b  127.0.0.1:7002  voter  online  -       42   42      17        31 ms   1 ms
 *
 * --json prints what the admin port said. Scripts look at the exit code: 0 done, 1 refused or failed, 2 wrong usage,
 * 3 no answer. */
#include "proxy/ctl.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "proxy/ctl_http.h"

enum {
    COLUMNS = 11,
    ROWS_MAX = 16,
    CELL_BYTES = 168,
    PATH_BYTES = 160,
    POLL_S = 1,
    HTTP_DONE = 200,
    HTTP_BUSY = 202
};

static const char usage[] =
    "Usage: holdfast ctl [--admin HOST:PORT] [--token TOKEN] [--json] COMMAND\n\n"
    "  ready               whether this node serves, as an exit code, and why not\n"
    "  status              this node: role, state, log, lag, Valkey, and the group\n"
    "  members             the group as this node knows it\n"
    "  transfer [NAME]     hand leadership over: to NAME, or to the best follower\n"
    "  add NAME            make a node a member: it catches up as a standby, then votes\n"
    "  remove NAME         take a member out\n"
    "  replace NAME        a member that lost its disk comes back under its name: its old self is taken out\n"
    "  snapshot            take a snapshot of this node's Valkey now\n\n"
    "--admin is a node's admin-bind and admin-port, 127.0.0.1:9121 unless given; --token its admin-token, else what\n"
    "HOLDFAST_ADMIN_TOKEN holds, which others cannot read. What changes the group is asked of the leader. NAME has\n"
    "its member line in the settings of all nodes. --json prints what the admin port said.\n"
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no answer.\n";

struct ctl {
    const char *admin, *token;
    bool json;
};

/* ---------------------------------------------------------------- asking */

static bool ask(const struct ctl *c, bool post, const char *path, struct ctl_answer *answer)
{
    char why[512];

    if (ctl_ask(c->admin, c->token, post, path, answer, why, sizeof why))
        return true;
    fprintf(stderr, "holdfast ctl: %s\n", why);
    return false;
}

/* The answer as an object, NULL if it is none. */
static json_t *object_of(const struct ctl_answer *answer)
{
    json_t *object = json_loadb(buf_head(&answer->body), answer->body.len, 0, NULL);

    if (!json_is_object(object)) {
        fprintf(stderr, "holdfast ctl: this is no answer of a Holdfast admin port: HTTP %d\n", answer->code);
        json_decref(object);
        return NULL;
    }
    return object;
}

static void print_body(const struct ctl_answer *answer)
{
    (void)fwrite(buf_head(&answer->body), 1, answer->body.len, stdout);
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value != NULL ? value : "";
}

static int64_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static bool yes(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* ---------------------------------------------------------------- tables */

struct table {
    char cell[ROWS_MAX][COLUMNS][CELL_BYTES];
    size_t rows;
};

static void set_count(char cell[CELL_BYTES], const json_t *object, const char *key, const char *unit)
{
    const json_t *value = json_object_get(object, key);

    if (json_is_integer(value) && (json_integer_value(value) != 0 || unit[0] != '\0'))
        (void)snprintf(cell, CELL_BYTES, "%" PRId64 "%s", (int64_t)json_integer_value(value), unit);
    else
        (void)snprintf(cell, CELL_BYTES, "-");
}

static void add_member(struct table *t, const json_t *m)
{
    char(*row)[CELL_BYTES] = t->cell[t->rows++];
    static const char *const texts[] = {"name", "zone", "address", "role", "state"};

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        (void)snprintf(row[i], CELL_BYTES, "%s", text(m, texts[i]));
    (void)snprintf(row[5], CELL_BYTES, "%s", yes(m, "leader") ? "yes" : "-");
    set_count(row[6], m, "match_index", "");
    set_count(row[7], m, "fed_index", "");
    set_count(row[8], m, "snapshot_index", "");
    if (yes(m, "self"))
        (void)snprintf(row[9], CELL_BYTES, "-");
    else
        set_count(row[9], m, "heard_ms_ago", " ms");
    set_count(row[10], m, "clock_skew_ms", " ms");
}

static void print_table(const struct table *t)
{
    int width[COLUMNS] = {0};

    for (size_t r = 0; r < t->rows; r++)
        for (size_t k = 0; k < COLUMNS; k++)
            if ((int)strlen(t->cell[r][k]) > width[k])
                width[k] = (int)strlen(t->cell[r][k]);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t k = 0; k < COLUMNS; k++)
            if (k + 1 < COLUMNS)
                printf("%-*s  ", width[k], t->cell[r][k]);
            else
                printf("%s\n", t->cell[r][k]);
}

static void print_members(const json_t *members)
{
    static const char *const titles[COLUMNS] = {"NAME", "ZONE",   "ADDRESS",  "ROLE",  "STATE", "LEADER",
                                                "LOG",  "VALKEY", "SNAPSHOT", "HEARD", "SKEW"};
    struct table t = {.rows = 1};
    const json_t *m;
    size_t i;

    for (size_t k = 0; k < COLUMNS; k++)
        (void)snprintf(t.cell[0][k], CELL_BYTES, "%s", titles[k]);
    json_array_foreach(members, i, m) if (t.rows < ROWS_MAX) add_member(&t, m);
    if (t.rows == 1)
        printf("no members: this node is alone\n");
    else
        print_table(&t);
}

/* ---------------------------------------------------------------- reading */

static int show_members(const struct ctl *c)
{
    struct ctl_answer answer;
    json_t *object;

    if (!ask(c, false, "/members", &answer))
        return CTL_UNREACHABLE;
    object = c->json ? NULL : object_of(&answer);
    if (c->json)
        print_body(&answer);
    else if (object != NULL) {
        print_members(json_object_get(object, "members"));
        if (text(object, "busy")[0] != '\0')
            printf("under way: %s\n", text(object, "busy"));
        if (text(object, "last")[0] != '\0')
            printf("last: %s\n", text(object, "last"));
    }
    buf_free(&answer.body);
    json_decref(object);
    return c->json || object != NULL ? CTL_OK : CTL_FAILED;
}

static void print_valkey(const json_t *s)
{
    time_t now = time(NULL), taken = (time_t)(number(s, "snapshot_unix_ms") / 1000);

    printf("Valkey      %s%s", text(s, "valkey_version")[0] != '\0' ? text(s, "valkey_version") : "none",
           yes(s, "snapshot_running") ? ", a snapshot is being taken" : "");
    if (taken > 0)
        printf(", newest snapshot at entry %" PRId64 ", %lld s ago", number(s, "snapshot_index"),
               (long long)(now > taken ? now - taken : 0));
    printf("\n");
}

static void print_status(const json_t *s, const char *readiness)
{
    const json_t *problem;
    size_t i;

    printf("node        %s%s%s of %s, version %s\n", text(s, "node"), text(s, "zone")[0] != '\0' ? " in " : "",
           text(s, "zone"), text(s, "cluster"), text(s, "version"));
    printf("role        %s", text(s, "role"));
    if (strcmp(text(s, "role"), "follower") == 0)
        printf(" of %s", text(s, "leader"));
    printf(", term %" PRId64 "\n", number(s, "term"));
    printf("state       %s, %s%s\n", text(s, "state"),
           yes(s, "ready") ? "ready" : "not ready: ", yes(s, "ready") ? "" : readiness);
    printf("durability  %s, oldest write not durable %" PRId64 " ms (at most %" PRId64 " ms), %" PRId64
           " bytes pending\n",
           text(s, "mode"), number(s, "lag_ms"), number(s, "lag_max_ms"), number(s, "pending_bytes"));
    printf("log         entries %" PRId64 " to %" PRId64 ", committed %" PRId64 ", %" PRId64 " of %" PRId64
           " bytes\n",
           number(s, "log_first_index"), number(s, "log_index"), number(s, "log_committed"), number(s, "log_bytes"),
           number(s, "log_size_max_bytes"));
    print_valkey(s);
    printf("clients     %" PRId64 "\n", number(s, "sessions"));
    if (yes(s, "single_zone") && json_array_size(json_object_get(s, "members")) <= 1)
        printf("warning     the loss of one zone can stop this group, or lose what it has acknowledged\n");
    json_array_foreach(json_object_get(s, "problems"), i, problem)
    {
        printf("%-11s %s\n            %s\n", text(problem, "severity"), text(problem, "what"), text(problem, "todo"));
    }
    printf("\n");
    print_members(json_object_get(s, "members"));
}

static int show_status(const struct ctl *c)
{
    struct ctl_answer answer, readiness;
    json_t *object;

    if (!ask(c, false, "/status", &answer))
        return CTL_UNREACHABLE;
    object = c->json ? NULL : object_of(&answer);
    if (c->json) {
        print_body(&answer);
    } else if (object != NULL && ask(c, false, "/readyz", &readiness)) {
        buf_append(&readiness.body, "", 1);
        ((char *)buf_head(&readiness.body))[strcspn(buf_head(&readiness.body), "\n")] = '\0';
        print_status(object, buf_head(&readiness.body));
        buf_free(&readiness.body);
    }
    buf_free(&answer.body);
    json_decref(object);
    return c->json || object != NULL ? CTL_OK : CTL_FAILED;
}

static int show_ready(const struct ctl *c)
{
    struct ctl_answer answer;
    int code;

    if (!ask(c, false, "/readyz", &answer))
        return CTL_UNREACHABLE;
    print_body(&answer);
    code = answer.code == HTTP_DONE ? CTL_OK : CTL_FAILED;
    buf_free(&answer.body);
    return code;
}

/* ---------------------------------------------------------------- acting */

/* It takes longer than a request may: look until it has ended, then how. */
static int wait_for_end(const struct ctl *c, const char *what)
{
    size_t n = strlen(what);
    int code = CTL_FAILED;
    bool busy = true;

    fprintf(stderr, "%s: under way\n", what);
    while (busy) {
        struct ctl_answer answer;
        json_t *object;

        (void)sleep(POLL_S);
        if (!ask(c, false, "/members", &answer))
            return CTL_UNREACHABLE;
        object = object_of(&answer);
        busy = object != NULL && text(object, "busy")[0] != '\0';
        if (!busy && object != NULL) {
            printf("%s\n", text(object, "last"));
            if (strncmp(text(object, "last"), what, n) == 0 && strcmp(text(object, "last") + n, ": done") == 0)
                code = CTL_OK;
        }
        buf_free(&answer.body);
        json_decref(object);
    }
    return code;
}

static int act(const struct ctl *c, const char *path)
{
    struct ctl_answer answer;
    int code = CTL_FAILED;
    json_t *object;

    if (!ask(c, true, path, &answer))
        return CTL_UNREACHABLE;
    object = object_of(&answer);
    if (answer.code == HTTP_DONE)
        code = CTL_OK;
    if (c->json) {
        print_body(&answer);
        code = answer.code == HTTP_BUSY ? CTL_OK : code;
    } else if (object != NULL && answer.code == HTTP_BUSY) {
        code = wait_for_end(c, text(object, "busy"));
    } else if (object != NULL && code == CTL_OK) {
        printf("done\n");
    } else if (object != NULL) {
        fprintf(stderr, "holdfast ctl: %s\n", text(object, "error"));
    }
    buf_free(&answer.body);
    json_decref(object);
    return code;
}

/* ---------------------------------------------------------------- the command line */

static const struct command {
    const char *word, *path;
    int names_min, names_max;
} commands[] = {{"ready", NULL, 0, 0},
                {"status", NULL, 0, 0},
                {"members", NULL, 0, 0},
                {"transfer", "/transfer?to=", 0, 1},
                {"add", "/members/add?name=", 1, 1},
                {"remove", "/members/remove?name=", 1, 1},
                {"replace", "/members/replace?name=", 1, 1},
                {"snapshot", "/snapshot", 0, 0}};

static int run(const struct ctl *c, const struct command *command, const char *name)
{
    char path[PATH_BYTES];
    int length;

    if (strcmp(command->word, "ready") == 0)
        return show_ready(c);
    if (strcmp(command->word, "status") == 0)
        return show_status(c);
    if (command->path == NULL)
        return show_members(c);
    if (name != NULL && !config_name_ok(name)) { /* so it needs no escaping */
        fprintf(stderr, "holdfast ctl: %s is not a node's name\n", name);
        return CTL_USAGE;
    }
    length = name != NULL ? (int)strlen(command->path) : (int)strcspn(command->path, "?");
    (void)snprintf(path, sizeof path, "%.*s%s", length, command->path, name != NULL ? name : "");
    return act(c, path);
}

int ctl_main(int argc, char **argv)
{
    struct ctl c = {.admin = "127.0.0.1:9121", .token = getenv("HOLDFAST_ADMIN_TOKEN")};
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            c.json = true;
        } else if (strcmp(argv[i], "--admin") == 0 && i + 1 < argc) {
            c.admin = argv[++i];
        } else if (strcmp(argv[i], "--token") == 0 && i + 1 < argc) {
            c.token = argv[++i];
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return CTL_OK;
        } else {
            break;
        }
    }
    for (size_t k = 0; i < argc && k < sizeof commands / sizeof *commands; k++)
        if (strcmp(argv[i], commands[k].word) == 0 && argc - i - 1 >= commands[k].names_min &&
            argc - i - 1 <= commands[k].names_max)
            return run(&c, &commands[k], argc - i > 1 ? argv[i + 1] : NULL);
    fputs(usage, stderr);
    return CTL_USAGE;
}

/* holdfast ctl: reads and acts by way of a node's admin port. This file: the command line, asking, acting; what it
 * shows is in ctl_show.c, the live view in ctl_top.c.
 *
 *     holdfast ctl --admin 127.0.0.1:9121 members          GET /members, as a table
 *     holdfast ctl transfer b                              POST /transfer?to=b ─▶ "done", or the reason and 1
 *     holdfast ctl top --interval 5
 *
 * --json prints what the admin port said. Scripts look at the exit code: 0 done, 1 refused or failed, 2 wrong usage,
 * 3 no answer. */
#include "proxy/ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "proxy/ctl_internal.h"

enum {
    PATH_BYTES = 160,
    POLL_S = 1,
    ASK_TIMEOUT_S = 45, /* longer than the admin port lets an action take before it answers 202 */
    HTTP_DONE = 200,
    HTTP_BUSY = 202,
    INTERVAL_S_MAX = 3600,
    COUNT_MAX = 1000 * 1000,
    WORDS_MAX = 3 /* one more than any command takes */
};
static const double INTERVAL_S_MIN = 0.1;

static const char usage[] =
    "Usage: holdfast ctl [--admin HOST:PORT] [--token TOKEN] [--json] COMMAND\n\n"
    "  ready               whether this node serves, as an exit code, and why not\n"
    "  status              this node: role, state, log, lag, Valkey, and the group\n"
    "  members             the group as this node knows it\n"
    "  top                 lag, rates, latency and the group, live; q or Ctrl-C ends it. [--interval SECONDS]\n"
    "                      [--count N]\n"
    "  mode [MODE]         the durability mode of the group; sets it to sync, async or off\n"
    "  transfer [NAME]     hand leadership over: to NAME, or to the best follower\n"
    "  drain               take this node out of service: leadership goes to another, /readyz says 503, clients are\n"
    "                      served until they go; until undrain, or a restart\n"
    "  undrain             back in service\n"
    "  add NAME            make a node a member: it catches up as a standby, then votes\n"
    "  remove NAME         take a member out\n"
    "  replace NAME        a member that lost its disk comes back under its name: its old self is taken out\n"
    "  snapshot            take a snapshot of this node's Valkey now\n\n"
    "--admin is a node's admin-bind and admin-port, 127.0.0.1:9121 unless given; --token its admin-token, else what\n"
    "HOLDFAST_ADMIN_TOKEN holds, which others cannot read. What changes the group is asked of the leader. NAME has\n"
    "its member line in the settings of all nodes. --json prints what the admin port said.\n"
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no answer.\n";

/* ---------------------------------------------------------------- asking */

bool ctl_request(const struct ctl *c, bool post, const char *path, struct ctl_answer *answer)
{
    char why[512];

    if (ctl_ask(c->admin, c->token, post, path, ASK_TIMEOUT_S, answer, why, sizeof why))
        return true;
    fprintf(stderr, "holdfast ctl: %s\n", why);
    return false;
}

json_t *ctl_object(const struct ctl_answer *answer)
{
    json_t *object = json_loadb(buf_head(&answer->body), answer->body.len, 0, NULL);

    if (!json_is_object(object)) {
        fprintf(stderr, "holdfast ctl: this is no answer of a Holdfast admin port: HTTP %d\n", answer->code);
        json_decref(object);
        return NULL;
    }
    return object;
}

void ctl_print_body(const struct ctl_answer *answer)
{
    (void)fwrite(buf_head(&answer->body), 1, answer->body.len, stdout);
}

const char *ctl_text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value != NULL ? value : "";
}

int64_t ctl_number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

bool ctl_yes(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
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
        if (!ctl_request(c, false, "/members", &answer))
            return CTL_UNREACHABLE;
        object = ctl_object(&answer);
        busy = object != NULL && ctl_text(object, "busy")[0] != '\0';
        if (!busy && object != NULL) {
            printf("%s\n", ctl_text(object, "last"));
            if (strncmp(ctl_text(object, "last"), what, n) == 0 &&
                strcmp(ctl_text(object, "last") + n, ": done") == 0)
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

    if (!ctl_request(c, true, path, &answer))
        return CTL_UNREACHABLE;
    object = ctl_object(&answer);
    if (answer.code == HTTP_DONE)
        code = CTL_OK;
    if (c->json) {
        ctl_print_body(&answer);
        code = answer.code == HTTP_BUSY ? CTL_OK : code;
    } else if (object != NULL && answer.code == HTTP_BUSY) {
        code = wait_for_end(c, ctl_text(object, "busy"));
    } else if (object != NULL && code == CTL_OK) {
        printf("done\n");
    } else if (object != NULL) {
        fprintf(stderr, "holdfast ctl: %s\n", ctl_text(object, "error"));
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
                {"snapshot", "/snapshot", 0, 0},
                {"mode", "/mode?durability=", 0, 1},
                {"drain", "/drain", 0, 0},
                {"undrain", "/undrain", 0, 0},
                {"top", NULL, 0, 0}};

static int run(const struct ctl *c, const struct command *command, const char *name)
{
    char path[PATH_BYTES];
    int length;

    if (strcmp(command->word, "ready") == 0)
        return ctl_show_ready(c);
    if (strcmp(command->word, "status") == 0)
        return ctl_show_status(c);
    if (strcmp(command->word, "members") == 0)
        return ctl_show_members(c);
    if (strcmp(command->word, "top") == 0)
        return ctl_top(c);
    if (strcmp(command->word, "mode") == 0 && name == NULL)
        return ctl_show_mode(c);
    if (name != NULL && !config_name_ok(name)) { /* so it needs no escaping */
        fprintf(stderr, "holdfast ctl: %s is not a node's name\n", name);
        return CTL_USAGE;
    }
    length = name != NULL ? (int)strlen(command->path) : (int)strcspn(command->path, "?");
    (void)snprintf(path, sizeof path, "%.*s%s", length, command->path, name != NULL ? name : "");
    return act(c, path);
}

/* One that takes a value. false: it is none of these, or has none. */
static bool take_option(struct ctl *c, const char *name, const char *value)
{
    char *end = NULL;
    double n;

    if (value == NULL)
        return false;
    if (strcmp(name, "--admin") == 0)
        c->admin = value;
    else if (strcmp(name, "--token") == 0)
        c->token = value;
    if (strcmp(name, "--admin") == 0 || strcmp(name, "--token") == 0)
        return true;
    n = strtod(value, &end);
    if (end == value || *end != '\0')
        return false;
    if (strcmp(name, "--interval") == 0 && n >= INTERVAL_S_MIN && n <= INTERVAL_S_MAX)
        c->interval_ms = (unsigned)(n * 1000);
    else if (strcmp(name, "--count") == 0 && n >= 1 && n <= COUNT_MAX)
        c->count = (unsigned)n;
    else
        return false;
    return true;
}

int ctl_main(int argc, char **argv)
{
    struct ctl c = {.admin = "127.0.0.1:9121", .token = getenv("HOLDFAST_ADMIN_TOKEN"), .interval_ms = 1000};
    const char *words[WORDS_MAX] = {0};
    int count = 0;
    bool good = true;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return CTL_OK;
        }
        if (strcmp(argv[i], "--json") == 0)
            c.json = true;
        else if (argv[i][0] == '-' && take_option(&c, argv[i], i + 1 < argc ? argv[i + 1] : NULL))
            i++;
        else if (argv[i][0] != '-' && count < WORDS_MAX)
            words[count++] = argv[i];
        else
            good = false;
    }
    for (size_t k = 0; good && count > 0 && k < sizeof commands / sizeof *commands; k++)
        if (strcmp(words[0], commands[k].word) == 0 && count - 1 >= commands[k].names_min &&
            count - 1 <= commands[k].names_max)
            return run(&c, &commands[k], words[1]);
    fputs(usage, stderr);
    return CTL_USAGE;
}

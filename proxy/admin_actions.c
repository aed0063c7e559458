/* What a POST to the admin port does: hand leadership over, change the members or the durability mode, take a
 * snapshot, take the node out of service.
 *
 *     POST ──▶ action ──▶ core ... later ... done ──▶ 200 {"ok": true}, or 409 {"ok": false, "error": "..."}
 *                  └─ longer than ADMIN_ACTION_WAIT_MS ──▶ 202 {"ok": null, "busy": "..."}, and it goes on
 *
 * An action lives from its request until the core is done with it; its request may be answered before (202), and its
 * client may be gone (evhttp keeps the request for us, and drops the answer). How the last one ended stands in GET
 * /members.
 *
 * Who may: admin_auth.c. And only programs: a browser may be led by any web page to POST here, but then it sends an
 * Origin (RFC 6454, 7.3), and is refused. */
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <jansson.h>

#include "config/config.h"
#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/admin_internal.h"

enum {
    ADMIN_ACTIONS_MAX = 16,
    ADMIN_ACTION_WAIT_MS = 30 * 1000,
    HTTP_ACCEPTED = 202,
    HTTP_FORBIDDEN = 403,
    HTTP_CONFLICT = 409
};

struct action {
    struct admin *admin;
    struct action *next;
    struct evhttp_request *request; /* NULL: answered */
    struct loop_timer *wait;
    char what[128]; /* in words: "add c" */
};

/* ---------------------------------------------------------------- answers */

static void answer_json(struct evhttp_request *request, int code, json_t *ok, const char *key, const char *text)
{
    json_t *object = json_object();
    struct buf body = {0};
    char *dump;

    (void)json_object_set_new(object, "ok", ok);
    if (key != NULL)
        (void)json_object_set_new(object, key, json_string(text));
    dump = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (dump != NULL)
        buf_printf(&body, "%s\n", dump);
    else
        body.failed = true;
    free(dump);
    admin_answer(request, code, "application/json", &body);
    buf_free(&body);
}

static void refuse(struct evhttp_request *request, int code, const char *why)
{
    answer_json(request, code, json_false(), "error", why);
}

/* ---------------------------------------------------------------- the life of an action */

static void release_action(void *object)
{
    struct action *a = object;

    loop_timer_free(a->wait);
    free(a);
}

static void unlink_action(struct action *a)
{
    struct action **at = &a->admin->actions_open;

    while (*at != a) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = a->next;
    a->admin->actions_count--;
}

static void on_done(void *arg, bool ok, const char *why)
{
    struct action *a = arg;
    struct admin *admin = a->admin;
    struct evhttp_request *request = a->request;

    (void)snprintf(admin->last, sizeof admin->last, ok ? "%s: done" : "%s: failed: %s", a->what, why);
    diag_log(admin->diag, ok ? DIAG_NOTICE : DIAG_WARNING, "Admin port: %s", admin->last);
    unlink_action(a);
    a->request = NULL;
    loop_timer_stop(a->wait);
    loop_bury(admin->loop, a, release_action); /* it may be done before it has returned from its start */
    if (request == NULL)
        return;
    if (ok)
        answer_json(request, HTTP_OK, json_true(), NULL, NULL);
    else
        refuse(request, HTTP_CONFLICT, why);
}

static void on_wait(void *arg)
{
    struct action *a = arg;
    struct evhttp_request *request = a->request;

    a->request = NULL;
    if (request != NULL)
        answer_json(request, HTTP_ACCEPTED, json_null(), "busy", a->what);
}

const char *admin_busy(const struct admin *admin)
{
    return admin->actions_open != NULL ? admin->actions_open->what : "";
}

void admin_actions_end(struct admin *admin)
{
    while (admin->actions_open != NULL) {
        struct action *a = admin->actions_open;

        unlink_action(a);
        if (a->request != NULL)
            refuse(a->request, HTTP_SERVUNAVAIL, "the node is stopping");
        release_action(a);
    }
}

/* ---------------------------------------------------------------- which there are */

enum kind { TRANSFER, ADD, REMOVE, REPLACE, SNAPSHOT, MODE, DRAIN, UNDRAIN };

static const struct row {
    const char *path, *word, *parameter;
    bool needed; /* the parameter */
    enum kind kind;
} rows[] = {{"/transfer", "transfer", "to", false, TRANSFER},
            {"/members/add", "add", "name", true, ADD},
            {"/members/remove", "remove", "name", true, REMOVE},
            {"/members/replace", "replace", "name", true, REPLACE},
            {"/snapshot", "snapshot", NULL, false, SNAPSHOT},
            {"/mode", "mode", "durability", true, MODE},
            {"/drain", "drain", NULL, false, DRAIN},
            {"/undrain", "undrain", NULL, false, UNDRAIN}};

static bool read_mode(const char *word, enum durability *mode)
{
    for (int m = DURABILITY_OFF; m <= DURABILITY_SYNC; m++)
        if (strcmp(word, durability_name((enum durability)m)) == 0) {
            *mode = (enum durability)m;
            return true;
        }
    return false;
}

static void start(struct action *a, enum kind kind, const char *name)
{
    const struct admin_actions *to = a->admin->actions;
    void *arg = a->admin->arg;
    enum durability mode = DURABILITY_SYNC;

    switch (kind) {
    case TRANSFER:
        to->transfer(arg, name, on_done, a);
        break;
    case ADD:
        to->change_members(arg, LOG_ADD, name, on_done, a);
        break;
    case REMOVE:
        to->change_members(arg, LOG_REMOVE, name, on_done, a);
        break;
    case REPLACE:
        to->change_members(arg, LOG_REPLACE, name, on_done, a);
        break;
    case SNAPSHOT:
        to->snapshot(arg, on_done, a);
        break;
    case MODE:
        CHECK(read_mode(name, &mode));
        to->mode(arg, mode, on_done, a);
        break;
    case DRAIN:
    case UNDRAIN:
        to->drain(arg, kind == DRAIN, on_done, a);
        break;
    }
}

static void begin(struct admin *admin, const struct row *row, struct evhttp_request *request, const char *name)
{
    struct action *a = must_calloc(1, sizeof *a);

    a->admin = admin;
    a->request = request;
    (void)snprintf(a->what, sizeof a->what, "%s%s%s", row->word, name != NULL ? " " : "", name != NULL ? name : "");
    a->wait = loop_timer_new(admin->loop, on_wait, a);
    a->next = admin->actions_open;
    admin->actions_open = a;
    admin->actions_count++;
    diag_log(admin->diag, DIAG_NOTICE, "Admin port: %s asked for", a->what);
    loop_timer_once(a->wait, ADMIN_ACTION_WAIT_MS);
    start(a, row->kind, name);
}

/* Its one parameter, if it takes one. false: it was answered. name points into params. */
static bool read_name(const struct row *row, struct evhttp_request *request, struct evkeyvalq *params,
                      const char **name)
{
    const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(request));
    enum durability mode;
    char why[128];

    if (query != NULL && evhttp_parse_query_str(query, params) != 0) {
        refuse(request, HTTP_BADREQUEST, "the query cannot be read");
        return false;
    }
    *name = row->parameter != NULL ? evhttp_find_header(params, row->parameter) : NULL;
    if (row->kind == MODE && *name != NULL && read_mode(*name, &mode))
        return true;
    if (row->kind == MODE)
        (void)snprintf(why, sizeof why, "?durability= is sync, async or off");
    else if (*name == NULL && row->needed)
        (void)snprintf(why, sizeof why, "?%s=NAME is missing", row->parameter);
    else if (*name != NULL && !config_name_ok(*name))
        (void)snprintf(why, sizeof why, "%s is not a node's name", row->parameter);
    else
        return true;
    refuse(request, HTTP_BADREQUEST, why);
    return false;
}

bool admin_action(struct admin *admin, const char *path, struct evhttp_request *request)
{
    struct evkeyvalq params = {0};
    const struct row *row = NULL;
    const char *name;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].path, path) == 0)
            row = &rows[i];
    if (row == NULL)
        return false;
    TAILQ_INIT(&params);
    if (evhttp_request_get_command(request) != EVHTTP_REQ_POST) {
        (void)evhttp_add_header(evhttp_request_get_output_headers(request), "Allow", "POST");
        refuse(request, HTTP_BADMETHOD, "only POST");
    } else if (evhttp_find_header(evhttp_request_get_input_headers(request), "Origin") != NULL) {
        refuse(request, HTTP_FORBIDDEN, "not from a web page");
    } else if (admin->actions_count >= ADMIN_ACTIONS_MAX) {
        refuse(request, HTTP_SERVUNAVAIL, "too many actions are under way");
    } else if (read_name(row, request, &params, &name)) {
        begin(admin, row, request, name);
    }
    evhttp_clear_headers(&params);
    return true;
}

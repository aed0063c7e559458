/* Between admin.c and admin_actions.c only. */
#ifndef HF_ADMIN_INTERNAL_H
#define HF_ADMIN_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/admin.h"

struct action;
struct buf;
struct evhttp;
struct evhttp_request;

struct admin {
    struct loop *loop;
    const struct diag *diag;
    struct evhttp *http;
    struct history *history;
    const struct config *config;
    const struct admin_actions *actions;
    const struct status *(*fill)(void *arg);
    void *arg;
    struct action *actions_open; /* under way */
    size_t actions_count;
    char last[256]; /* how the last action ended, in words; "" = none yet */
};

void admin_answer(struct evhttp_request *request, int code, const char *type, const struct buf *body);
/* Takes a request for an action: it is answered, now or later. false: there is no such action. */
bool admin_action(struct admin *admin, const char *path, struct evhttp_request *request);
const char *admin_busy(const struct admin *admin); /* an action under way, in words; "" = none */
void admin_actions_end(struct admin *admin);
bool admin_may(const struct admin *a, struct evhttp_request *request); /* it has the token, or needs none */
void admin_ask_who(struct evhttp_request *request);                    /* 401 */

#endif

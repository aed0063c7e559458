/* The admin port over HTTP (libevent's evhttp): pages to read, and actions. */
#ifndef HF_ADMIN_H
#define HF_ADMIN_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "log/log.h"

struct admin;
struct diag;
struct loop;
struct status;

/* What a POST asks for. done() comes once for each, at once or at any later time, with a reason unless ok; what has
 * not come when the admin port is freed must not come any more: let go of the core first. */
typedef void admin_done(void *arg, bool ok, const char *why);
struct admin_actions {
    void (*transfer)(void *arg, const char *to, admin_done *done, void *done_arg); /* to may be NULL: the best one */
    void (*change_members)(void *arg, enum log_change what, const char *name, admin_done *done, void *done_arg);
    void (*snapshot)(void *arg, admin_done *done, void *done_arg);
    void (*mode)(void *arg, enum durability mode, admin_done *done, void *done_arg);
    void (*drain)(void *arg, bool out, admin_done *done, void *done_arg); /* out of service, or back */
};

/* fill() brings *status up to date before each answer; it and the actions get arg. NULL with a reason if the port
 * cannot be bound. admin-port 0: do not call. */
struct admin *admin_new(struct loop *l, const struct diag *d, const struct config *c,
                        const struct status *(*fill)(void *arg), const struct admin_actions *actions, void *arg,
                        char *why, size_t why_size);
void admin_free(struct admin *a);

#endif

/* The admin port: /metrics, /status, /healthz, /readyz over HTTP (libevent's evhttp). Read-only for now. */
#ifndef HF_ADMIN_H
#define HF_ADMIN_H

#include <stddef.h>

struct admin;
struct config;
struct diag;
struct loop;
struct status;

/* fill() brings *status up to date before each answer. NULL with a reason if the port cannot be bound. admin-port 0:
 * do not call. */
struct admin *admin_new(struct loop *l, const struct diag *d, const struct config *c,
                        const struct status *(*fill)(void *arg), void *arg, char *why, size_t why_size);
void admin_free(struct admin *a);

#endif

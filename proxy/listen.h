/* The listeners: TCP on every bind address, a Unix socket; accepting. */
#ifndef HF_LISTEN_H
#define HF_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

struct listen;
struct worker;

/* NULL with a reason in why. */
struct listen *listen_new(struct worker *w, char *why, size_t why_size);
void listen_pause(struct listen *l);
void listen_free(struct listen *l); /* NULL is fine */

#endif

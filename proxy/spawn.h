/* valkey-spawn: our own valkey-server in <data-dir>/valkey, on a Unix socket, started, watched, started again. */
#ifndef HF_SPAWN_H
#define HF_SPAWN_H

#include <stdbool.h>

struct config;
struct diag;
struct loop;
struct spawn;

/* Starts valkey-server, or takes over the one that a killed predecessor left (its socket answers; who it is, the
 * kernel says). When the process ends, starts it again after a pause of 100 ms doubling to 5 s. exited() is
 * informative; may be NULL. NULL if the directory cannot be made (the reason is in the log). */
struct spawn *spawn_new(struct loop *l, const struct diag *d, const struct config *c,
                        void (*exited)(void *arg, int status), void *arg);
const char *spawn_socket(const struct spawn *s); /* address to connect to */
void spawn_kill(struct spawn *s);                /* SIGKILL: it hangs; it will be started again */
void spawn_stop(struct spawn *s, void (*stopped)(void *arg), void *arg); /* SIGTERM, SIGKILL after 5 s; no restart */
void spawn_free(struct spawn *s);

#endif

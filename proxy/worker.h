/* The worker: everything that faces clients: listeners, sessions, routing, shared lanes for reads (and async writes),
 * pinned connections.
 *
 * Speaks with the core only through the two queues of message.h; runs as a hook of the loop. */
#ifndef HF_WORKER_H
#define HF_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct certs;
struct config;
struct diag;
struct gate;
struct loop;
struct queue;
struct status;
struct worker;

/* The way to the leader for a client of ours: a stream that worker_relayed() gets on the leader's node. done() once,
 * unless cancelled; s == NULL: not to be had, why. extra is copied. NULL as dial: there is none. */
struct log_dial;
struct stream;
struct relay_door {
    struct log_dial *(*dial)(void *arg, const void *extra, size_t n,
                             void (*done)(void *arg, struct stream *s, const char *why), void *done_arg);
    void (*cancel)(struct log_dial *d);
    void *arg;
};

struct worker_settings {
    struct config *config;      /* shared; CONFIG SET changes it */
    struct certs *certs;        /* NULL: no TLS */
    const char *valkey_address; /* where lanes connect to (the spawned one's socket, or config->valkey) */
    struct gate *gate;
    struct queue *to_core, *to_worker;
    const struct status *(*status)(void *arg); /* brings the status up to date and lends it (INFO) */
    void *arg;
    struct relay_door relay;
    const char *marker_channel; /* prefix of the markers' channel: clients may not publish there, and never see it */
};
/* Binds and listens. NULL with Valkey's kind of reason in why ("Could not create server TCP listening socket ...").
 */
struct worker *worker_new(struct loop *l, const struct diag *d, const struct worker_settings *s, char *why,
                          size_t why_size);
/* Stops accepting and reading; calls done() when no op is left, or after timeout_ms; then every session is closed. */
void worker_drain(struct worker *w, uint64_t timeout_ms, void (*done)(void *arg), void *arg);
void worker_free(struct worker *w);
/* A client of another node, by way of its relay. Takes the stream; extra: what that node says of the client. */
void worker_relayed(struct worker *w, struct stream *stream, const char *from, const void *extra, size_t n);
/* Fills the worker's part of a status. */
void worker_status(const struct worker *w, struct status *s);
/* After a reload of settings. */
void worker_reconfigure(struct worker *w);

#endif

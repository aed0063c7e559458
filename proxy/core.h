/* The core: owns the log, the node and the sequencer, and carries out what the sequencer decides.
 *
 *      to_core ─▶ core ─▶ sequencer ─▶ decisions ─▶ log, writer lane, to_worker
 *      log committed ─▶   ▲
 *      tap, lane replies ─┘
 */
#ifndef HF_CORE_H
#define HF_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct certs;
struct config;
struct core;
struct diag;
struct gate;
struct log_dial;
struct loop;
struct queue;
struct status;
struct stream;
struct stream;

#define MARKER_CHANNEL_PREFIX "__holdfast__:"

struct core_settings {
    struct config *config;
    struct certs *certs; /* NULL: no TLS */
    const char *valkey_address;
    struct gate *gate;
    struct queue *to_core, *to_worker;
    void (*failed)(void *arg, const char *why); /* the process must end at once, without another answer */
    /* A client of another node, relayed to us: worker_relayed(). NULL: refused. */
    void (*relayed)(void *arg, struct stream *s, const char *from, const void *extra, size_t n);
    void *arg;
};
/* Opens the log and starts to look for Valkey. NULL with a reason. */
struct core *core_new(struct loop *l, const struct diag *d, const struct core_settings *s, char *why,
                      size_t why_size);
/* After the worker has drained: waits until all that was answered is durable (at most timeout_ms), then lets go of
 * Valkey (ends a spawned one) and calls done(). */
void core_drain(struct core *c, uint64_t timeout_ms, void (*done)(void *arg), void *arg);
void core_reconfigure(struct core *c); /* after a reload of settings */
void core_free(struct core *c);
/* The door of worker_settings.relay: a connection to the leader for one client. */
struct log_dial *core_relay(void *core, const void *extra, size_t n,
                            void (*done)(void *arg, struct stream *s, const char *why), void *arg);
void core_relay_cancel(struct log_dial *d);
void core_status(struct core *c, struct status *s); /* fills the core's part */

#endif

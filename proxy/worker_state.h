/* Private to the worker's files: what hangs off the worker. */
#ifndef HF_WORKER_STATE_H
#define HF_WORKER_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/command.h"
#include "proxy/message.h"
#include "proxy/resp.h"
#include "proxy/session.h"
#include "proxy/status.h"
#include "proxy/worker.h"

struct lanes;
struct listen;
struct local_row;
struct relay;
struct scripts;
struct stream_ids;
struct users;

enum {
    WORKER_TICK_MS = 100,
    WAIT_TICK_MS = 5,
    WORKER_FREE_TASKS_MAX = 4096,
    ROW_CACHE_SIZE = 1024,        /* power of two, several times the number of commands */
    NAME_CACHE_SIZE = 64,         /* power of two */
    IDLE_TRIM_MS = 1000,          /* an idle session's buffers are freed after so long */
    RELOAD_COMMANDS_MS_MIN = 1000 /* at most one TO_CORE_RELOAD_COMMANDS in this time */
};

struct row_cache {
    const struct command *command;
    const struct local_row *row;
};

struct pause {         /* CLIENT PAUSE: pause.h */
    uint64_t until_ms; /* 0: none */
    bool all;
    size_t settling; /* sessions whose PAUSE waits for writes under way */
    TAILQ_HEAD(, session) held;
    struct loop_timer *timer;
};

struct name_cache { /* by the very bytes of a command's name, at most eight, as a client has sent them */
    uint64_t name;
    size_t n; /* 0: empty */
    const struct command *command;
    const struct local_row *row;
};

struct worker {
    struct loop *loop;
    const struct diag *diag;
    struct worker_settings set;
    struct config *config;
    struct resp_limits limits;
    struct resp_pool *pool;
    struct listen *listen;
    struct loop_timer *tick, *wait_tick;
    TAILQ_HEAD(, session) sessions, run, waiting, blockers;
    TAILQ_HEAD(, relay) relays, relay_run;
    size_t session_count, relay_count;
    size_t backups; /* under way: backup.h */
    struct loop_timer *relay_tick; /* while commands wait for a leader */
    bool relay_ticking, last_open;
    char leader[CONFIG_TEXT_MAX]; /* as last seen; "" = not known */
    int last_part, last_sessions_part;
    struct valkey_identity *identity; /* while open; NULL = Valkey is not there */
    struct stream_ids *ids;           /* of XADD with `*` */
    struct command_table *commands;   /* kept while Valkey is away, for arities and names */
    struct row_cache rows[ROW_CACHE_SIZE];
    struct name_cache names[NAME_CACHE_SIZE];
    struct lanes *lanes;
    struct users *users;
    struct scripts *scripts;
    struct task_list free_tasks, cooling; /* cooling: the core may still read a message about it */
    size_t free_count, task_count;
    struct task_list waits; /* WAIT, WAITAOF with a deadline */
    uint64_t next_session_id, sync_sessions, reload_asked_ms, nonce;
    int last_mode;
    struct pause pause;
    bool draining, blocker_unread; /* blocker_unread: see blocked.c */
    void (*drained)(void *arg);
    void *drained_arg;
    uint64_t drain_until_ms, released_ms;
    uint64_t sessions_total, sessions_rejected, pinned_count, commands_total, in_bytes, out_bytes, writes_rejected;
    uint64_t handshakes_failed; /* of TLS */
    struct diag_limit accepts_failed, http_seen, relays_refused, lanes_lost;
};

void worker_post(struct worker *w, enum message_kind kind, struct op *op, uint64_t number);
void worker_kick_waiting(struct worker *w); /* a connection became ready: all that wait for one try again */
void worker_reload_commands(struct worker *w);
void worker_saw_http(struct worker *w); /* a browser, or a forged request, on a port for clients */
struct session *worker_find(struct worker *w, uint64_t id); /* session by id; NULL */

static inline bool worker_leads(const struct worker *w)
{
    return atomic_load_explicit(&w->set.gate->part, memory_order_relaxed) == PART_LEADS;
}

static inline size_t worker_clients(const struct worker *w)
{
    return w->session_count + w->relay_count;
}

static inline bool worker_open(const struct worker *w)
{
    return w->identity != NULL && atomic_load(&w->set.gate->state) == GATE_OPEN;
}

#endif

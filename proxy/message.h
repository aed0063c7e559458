/* The two queues between worker and core: the only way in which they speak.
 *
 *      worker ──to_core──▶ core          one loop today; a lock-free ring between threads later
 *      worker ◀─to_worker─ core
 *
 * An op travels with its messages: from WRITE, LANE, BEGIN or READ on the core may use it until it sends RELEASE for
 * it, which gives it back for good. (BEGIN of a captured op: until RELEASE after END or BROKEN.) Plain values
 * (epochs, key hashes) are sent for async writes, which the worker keeps to itself. */
#ifndef HF_MESSAGE_H
#define HF_MESSAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/hash.h"

struct op;

enum message_kind {
    /* to the core */
    TO_CORE_WRITE,  /* op: OP_WRITE, sync: log its intent, forward on the writer lane, release when safe */
    TO_CORE_LANE,   /* op: OP_CAPTURED, sync, stateless, full rights: run it on the writer lane; release when safe */
    TO_CORE_BEGIN,  /* op: OP_CAPTURED about to be sent on the session's pinned connection (sync or async) */
    TO_CORE_END,    /* op: its reply has come (op->reply, op->came, op->error). async: RELEASE follows at once */
    TO_CORE_BROKEN, /* op (BEGIN was sent): its connection broke or was given up unanswered; number = Valkey's client
                       id of that connection */
    TO_CORE_KILL, /* number = client id of a connection of ours that broke with async writes unanswered (each of them
                     gets ASYNC_END later: now) */
    TO_CORE_READ, /* op: OP_READ, sync: the reply has come; release when nothing it may have seen can be undone */
    TO_CORE_ASYNC_BEGIN, /* number = epoch (gate_epoch) of an async write about to be sent on a shared lane */
    TO_CORE_ASYNC_KEY,   /* number = hash of a key that it may touch; sent only while gate->tracking; op = NULL */
    TO_CORE_ASYNC_ALL,   /* it may touch any key; likewise */
    TO_CORE_ASYNC_END,   /* number = the same epoch: its reply has come, or its connection broke and KILL was sent
                            before */
    TO_CORE_WAIT, /* op: WAIT / WAITAOF: release when all writes of this session accepted before are durable; number =
                     session id */
    TO_CORE_USERS, /* op: OP_LOCAL, request = Valkey's users (acl_list.h): log them, release when that is durable, or
                      with `error` if it will not be */
    TO_CORE_MODE, /* number = enum durability: server-wide mode asked by CONFIG SET. op: OP_LOCAL, release when it is
                     committed and in force, with an error as its reply when it is not; NULL: nobody waits (SIGHUP) */
    TO_CORE_SYNC_SESSIONS,   /* number = how many sessions are in sync mode now (server-wide mode included) */
    TO_CORE_RELOAD_COMMANDS, /* an unknown command was seen, or modules changed */
    TO_CORE_BACKUP,          /* pointer = struct backup_ticket *, the core's until it comes back */
    /* to the worker */
    TO_WORKER_OPEN, /* pointer = struct valkey_identity *, the worker's now: Valkey is ours, forward */
    TO_WORKER_SHUT, /* pointer = malloc'd text (free it): forward nothing, close all connections to Valkey; ops in the
                       worker's hands fail; ops that the core has come back by RELEASE */
    TO_WORKER_CAME, /* op: its reply has come from Valkey (not released yet): the next command may go to another
                       connection */
    TO_WORKER_RELEASE,  /* op: the reply in op->reply may go to the client */
    TO_WORKER_COMMANDS, /* pointer = struct buf *, the raw COMMAND reply, the worker's now: build the table anew */
    TO_WORKER_BACKUP    /* pointer = struct backup_ticket *, the worker's again: a file, or why not */
};

struct message {
    enum message_kind kind;
    struct op *op;
    uint64_t number;
    void *pointer;
};

struct queue {
    struct message *ring;
    size_t head, count, cap;
};
void queue_push(struct queue *q, struct message m);
bool queue_pop(struct queue *q, struct message *out);
void queue_free(struct queue *q);

/* What Valkey told about itself; sent with OPEN. */
struct valkey_identity {
    char run_id[48];
    char version[32];
    char server[16]; /* "valkey" or "redis", for HELLO */
    unsigned databases;
    bool scripts;   /* it runs EVAL */
    char *commands; /* raw COMMAND reply */
    size_t commands_bytes;
};
void valkey_identity_free(struct valkey_identity *v);

/* A client's SYNC: see backup.h. */
struct backup_ticket {
    struct backup_ticket *next; /* in the core's hands */
    uint64_t session;           /* its id */
    bool own; /* of this node, whatever part it plays (reader-port); else only as long as it leads */
    /* the core's answer */
    int fd; /* the snapshot's RDB at its beginning, the holder's to close; -1: none, why */
    uint64_t bytes, index;
    struct hash128 hash;
    char why[160]; /* an error, without '-' and CRLF */
    /* the core's part */
    uint64_t after;                      /* a snapshot with a higher number was begun after SYNC came */
    uint64_t begin_until_ms, attempt_ms; /* how long a snapshot that does not begin is tried again, and when */
};
void backup_ticket_free(struct backup_ticket *t); /* closes fd */

/* Published by the core, read by the worker at any time: plain atomics. */
enum gate_state { GATE_SHUT, GATE_OPEN, GATE_DRAINING };
/* LOG_FULL concerns sync sessions only: an async one goes on until the lag says otherwise. A session in mode off is
 * refused by BUFFER and LOG_SIZE alone: it has no bound in time, but memory and the log end for it, too. */
enum gate_refusal {
    WRITES_ACCEPTED,
    WRITES_REFUSED_LAG,
    WRITES_REFUSED_BUFFER,
    WRITES_REFUSED_LOG_SIZE, /* what is left of log-size-max is kept for OUTCOMEs: without them no snapshot makes room
                              */
    WRITES_REFUSED_LOG_FULL,
    WRITES_REFUSED_NO_QUORUM /* detached: sync sessions are refused reads and writes; async ones go on until the lag
                                says otherwise */
};
/* Which part this node plays in its group. Alone it leads. */
enum gate_part {
    PART_NONE,  /* no leader is known (or it is being elected): clients' commands wait a while, then CLUSTERDOWN */
    PART_LEADS, /* sessions are served here (state says whether Valkey is open) */
    PART_HANDS_OVER, /* leads, and is about to stop: sessions begin nothing new */
    PART_FOLLOWS     /* another node leads: clients are relayed to it; OPEN: our Valkey is warm, reader-port serves */
};
struct gate {
    _Atomic int state;      /* enum gate_state */
    _Atomic int part;       /* enum gate_part */
    _Atomic int unanswered; /* while part is HANDS_OVER: commands that sessions have begun; told by the worker */
    _Atomic int refusal;    /* enum gate_refusal */
    _Atomic int mode;       /* enum durability, server-wide */
    _Atomic int tracking;   /* some session is sync: async writes must name their keys */
    _Atomic uint64_t epoch; /* the open epoch of async writes */
    /* Until this moment (CLOCK_BOOTTIME, read after the reply was) the core would release any sync read at once, so
     * that it need not be asked: nothing is under way or tainted, the lease lasts. 0: ask. It relies on one loop:
     * what a worker posts is with the core before the same turn's output leaves. */
    _Atomic uint64_t reads_until_boot_ms;
    _Atomic int progress_percent; /* of a rebuild, for -LOADING */
};

#endif

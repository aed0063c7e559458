/* An op: one command of one session on its way through Holdfast, until its reply is the client's.
 *
 * The worker makes it and frees it. While the core has it (between a message to the core and the release that
 * answers), only the core changes the fields of its part. A client that goes away leaves the op behind with session =
 * NULL. */
#ifndef HF_OP_H
#define HF_OP_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/queue.h>

#include "log/base/buf.h"
#include "log/base/hash.h"
#include "proxy/argv.h"
#include "proxy/keyset.h"

struct session;
struct backend;
struct command;

enum op_kind {
    OP_LOCAL,   /* answered by us */
    OP_NEUTRAL, /* Valkey answers; neither reads nor writes keys (PING, INFO, PUBLISH ...) */
    OP_READ,    /* reads keys */
    OP_WRITE,   /* replayable: intent ahead, writer lane (sync only) */
    OP_CAPTURED /* any other write; and every write of an async connection */
};

struct op {
    TAILQ_ENTRY(op) in_session; /* the session's FIFO: answers leave in this order */
    TAILQ_ENTRY(op) in_core;    /* whatever list of the core holds it */
    struct session *session;
    enum op_kind kind;
    bool sync;     /* the release rule applies */
    bool came;     /* the reply has come from Valkey (or was made by us) */
    bool released; /* the reply may go to the client */
    bool error;    /* the reply is an error */
    bool pinned;   /* runs on the session's own connection */
    uint8_t proto; /* 2 or 3: form of the reply */
    uint32_t db;
    uint16_t canon; /* entry in the replayable table (OP_WRITE) */
    struct keyset keys;
    struct buf request; /* canonical RESP, for those that wait before they are sent */
    struct buf sent;    /* what Valkey gets in its place: a transaction with its reads, an XADD script; else empty */
    uint32_t more;      /* replies before the one that is the answer: a transaction's +OK and +QUEUED */
    struct buf refusal; /* the first of those that is an error: why EXEC fails */
    bool unit;          /* OP_WRITE: request is MULTI ... EXEC, and so is its effect */
    struct arg *args;   /* owned copy of the argument places inside request; NULL unless OP_WRITE */
    size_t arg_count;
    struct buf reply; /* whole, once `came`, if it could not go out at once */
    uint64_t accepted_us;
    uint64_t came_boot_ms; /* sync reads: CLOCK_BOOTTIME when the reply was in our hands */
    /* the core's part */
    uint64_t seq;         /* OP_WRITE: sequence number */
    uint64_t log_index;   /* OP_WRITE: entry of the intent */
    uint64_t effect_hash; /* OP_WRITE: op_hash_effect() */
    uint64_t marker;      /* the marker that closes it; 0 = none sent yet */
    uint64_t need;        /* log index that must be committed before release */
    uint64_t came_us;
    uint64_t forwarded_us;
    uint8_t phase;         /* sequencer.c's enum */
    bool referred;         /* its effect was seen and matched ... */
    bool rewritten;        /* ... in another form than its own, so that it is still pending in the log */
    bool skipped;          /* the effect of a later one was found: it seems to have left none */
    struct flight *flight; /* OP_CAPTURED: what is known of it while it may take effect (seq_keys.h) */
    bool ghost;            /* made by the sequencer, freed by it: nobody else sees it but to forward it */
    bool orphan;           /* stands in for an op whose client was answered already: no reply will come for it */
};
TAILQ_HEAD(op_list, op);

/* Where the effect of an OP_WRITE is compared from: behind MULTI, where Valkey's stream may have a SELECT. */
#define OP_UNIT_HEAD "*1\r\n$5\r\nMULTI\r\n"
#define OP_UNIT_END  "*1\r\n$4\r\nEXEC\r\n"
static inline const char *op_effect(const struct op *op, size_t *n)
{
    size_t head = op->unit ? sizeof OP_UNIT_HEAD - 1 : 0;

    *n = op->request.len - head;
    return buf_head(&op->request) + head;
}
static inline void op_hash_effect(struct op *op)
{
    size_t n;
    const char *bytes = op_effect(op, &n);

    op->effect_hash = hash64(bytes, n, 0);
}

/* One of the replies before the answer of a transaction. */
static inline void op_take_more(struct op *op, const char *reply, size_t n)
{
    op->more--;
    if (reply[0] == '-' && op->refusal.len == 0 && !op->ghost)
        buf_append(&op->refusal, reply, n);
}
/* Valkey refused at EXEC what it would have refused to queue (no memory, busy, too few replicas): the client is told
 * why, as it is when that is so at its EXEC. The client has heard +QUEUED to each. false: the reply is the answer. */
static inline bool op_exec_refused(const struct op *op, const char *reply, size_t n, struct buf *answer)
{
    static const char abort[] = "-EXECABORT ", because[] = "-EXECABORT Transaction discarded because of: ";

    if (op->refusal.len == 0 || op->refusal.failed || n < sizeof abort || memcmp(reply, abort, sizeof abort - 1) != 0)
        return false;
    buf_append(answer, because, sizeof because - 1);
    buf_append(answer, buf_head(&op->refusal) + 1, op->refusal.len - 1);
    return true;
}

#endif

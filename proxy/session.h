/* A session: one client's connection, its requests on their way, its state. And a task: a session's op with what only
 * the worker knows of it.
 *
 *   bytes ─▶ resp_parse ─▶ dispatch ─▶ task in the FIFO ─▶ (Valkey, core) ─▶ answer ─▶ stream
 *
 *   ops (FIFO):   GET a (answered)   SET b (at the core)   GET c (on a lane)    answers leave from the left, in order
 *   held:         the next command, parsed, that may not start yet
 *   stash:        bytes read but not parsed, since a command is held
 *
 * An idle session holds none of it: no parser, no buffers, no connection. */
#ifndef HF_SESSION_H
#define HF_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "log/base/buf.h"
#include "proxy/argv.h"
#include "proxy/canon.h"
#include "proxy/command.h"
#include "proxy/op.h"
#include "proxy/router.h"

struct lane;
struct pinned;
struct resp_parser;
struct stream;
struct task;
struct user;
struct worker;

enum {
    SESSION_OPS_MAX = 1024,                /* in flight; beyond it, reading stops */
    SESSION_INFLIGHT_BYTES_MAX = 32 << 20, /* of requests that we keep */
    SESSION_REPLIES_BYTES_MAX = 64 << 20,  /* of replies that are to be expected; as it seems, once some have come */
    SESSION_REPLY_BYTES_FIRST = 512 << 10, /* what the first one may have */
    SESSION_STASH_BYTES_MAX = 64 << 10,    /* read ahead of a held command, unless blocked; one read more at most */
    SESSION_OUT_BYTES_MAX = 1 << 20,       /* unsent replies; beyond it, reading stops */
    SESSION_HOLD_MS_MAX = 1000             /* how long a command waits for a connection before it gets -LOADING */
};

enum task_place {
    TASK_HERE,   /* with us: answered, or about to be */
    TASK_LANE,   /* a lane owes its reply */
    TASK_PINNED, /* the pinned connection owes it */
    TASK_BOTH,   /* the pinned connection owes it, and the core knows (BEGIN) */
    TASK_CORE    /* the core has it until RELEASE */
};

/* Takes Valkey's reply and calls session_answer() with what the client shall see, now or later. */
typedef void task_reply_fn(struct task *t, const char *reply, size_t n);

struct task {
    struct op op; /* first: an op of ours is a task */
    struct worker *worker;
    enum task_place place;
    bool waited;      /* counted in session->uncame */
    bool mute;        /* CLIENT REPLY: its answer is dropped */
    bool setup;       /* repeats what another connection of the client has done: an error ends the session */
    bool finish;      /* close the connection once it has been answered */
    bool async_write; /* ASYNC_BEGIN was posted: ASYNC_END is owed */
    bool known;       /* BEGIN was posted once: the core may still read it */
    bool internal;    /* our own question: on_reply is called although there is no session */
    bool blocks;      /* may wait for other clients (BLPOP, WAIT) */
    bool in_waits;    /* is in worker->waits */
    bool checked;     /* a write that Valkey is asked about (rights.h): nothing has been done yet */
    bool learns;      /* answered when the rights of users have been read again */
    uint64_t epoch;
    size_t held_bytes;                   /* counted in session->inflight_bytes */
    task_reply_fn *on_reply;             /* NULL: the reply is the answer */
    void *context;                       /* of on_reply */
    void (*context_free)(void *context); /* NULL: context is borrowed */
    struct buf extra;                    /* of on_reply */
    struct buf behind;                   /* pushes that came after its reply: they leave after it */
    struct task *peer;                   /* WAIT, CONFIG SET durability: the other half */
    uint64_t deadline_ms;                /* WAIT: 0 = none */
    uint64_t numbers[3];                 /* WAIT: what was asked, and reached */
    TAILQ_ENTRY(task) in_list;
};
TAILQ_HEAD(task_list, task);

static inline struct task *task_of(struct op *op)
{
    return (struct task *)op;
}

enum hold {
    HOLD_NONE,
    HOLD_CAME,   /* until Valkey has answered all earlier commands */
    HOLD_EMPTY,  /* until the client has been answered all earlier commands */
    HOLD_READY,  /* until a connection is there */
    HOLD_ROOM,   /* until there is room: fewer ops, fewer unsent bytes */
    HOLD_PAUSE,  /* CLIENT PAUSE (pause.h) */
    HOLD_SETTLE, /* CLIENT PAUSE itself: until the writes under way have come */
    HOLD_RIGHTS  /* until Valkey has said whether its user may (rights.h) */
};

struct held { /* a parsed command, owned */
    struct buf request;
    struct arg *args;
    size_t count;
    uint64_t since_ms;
};

enum authentication {
    AUTH_UNKNOWN, /* the default user's rights have not been read yet */
    AUTH_NEEDED,
    AUTH_DONE
};

enum rights { RIGHTS_NONE, RIGHTS_ASKED, RIGHTS_GIVEN, RIGHTS_REFUSED }; /* of the held command: rights.h */

enum session_state {
    SESSION_OPEN,
    SESSION_FINISHING, /* takes no more commands; closes when all were answered */
    SESSION_CLOSED
};

enum via { VIA_NONE, VIA_LANE, VIA_WRITER, VIA_PINNED, VIA_CONTROL };

enum choice { CHOICE_DEFAULT, CHOICE_OFF, CHOICE_ASYNC, CHOICE_SYNC };

enum tx_place {
    TX_HERE,    /* queued with us; Valkey hears of it at EXEC */
    TX_VALKEY,  /* queued by Valkey, on the pinned connection */
    TX_UNSERVED /* begun while there was no Valkey: nothing is queued anywhere, EXEC will be aborted */
};
struct transaction { /* MULTI to EXEC */
    enum tx_place place;
    struct buf queued;  /* TX_HERE: the commands, canonical RESP */
    struct keyset keys; /* TX_VALKEY: what EXEC may touch */
    uint64_t commands;
    size_t bytes;
    uint32_t db;  /* after the SELECTs that were queued */
    bool writes;  /* something that may write was queued */
    bool pauses;  /* something that CLIENT PAUSE WRITE holds was queued */
    bool refused; /* an error was answered to a queued command: EXEC must not run the rest */
    bool selects;
};

/* What a session that is taken over has to do before anything else: commands, the first `muted` of them without
 * answers. */
struct session_setup {
    struct buf commands;
    struct resp_parser *parser;
    size_t muted;
};

struct session {
    TAILQ_ENTRY(session) in_worker, in_run, in_waiting, in_paused, in_blocking;
    struct worker *worker;
    struct stream *stream;
    uint64_t id;
    enum session_state state;
    bool runs, waits;  /* is in the worker's run queue, waiting list */
    bool paused;       /* is in the worker's list of those that CLIENT PAUSE holds up */
    bool settles;      /* its own CLIENT PAUSE waits for writes under way */
    bool counted_sync; /* counted in worker->sync_sessions */
    bool in_blockers;  /* see blocked.h */
    bool refused;      /* its newest attempt at a connection of its own has failed */
    bool authenticated;
    bool reply_off, skip_next; /* CLIENT REPLY */
    bool eof;                  /* the client sends no more, but may wait for answers */
    bool scripts;              /* has run one: it shares lanes with others that have */
    bool barrier;              /* nothing more starts until Valkey has answered what was sent */
    bool no_touch, no_evict;
    bool watching, tracking, monitoring;
    bool tracking_bcast;
    bool redirected_to; /* CLIENT TRACKING REDIRECT of another session names its connection to Valkey */
    bool redirects;     /* CLIENT CAPA REDIRECT */
    bool readonly;      /* READONLY: shown, without effect */
    bool unix_socket;
    bool rdb_only, rdb_part; /* REPLCONF rdb-only 1; ... rdb-filter-only */
    bool reader; /* came by reader-port: reads from the Valkey of this node, whatever part the node plays */
    bool moves;  /* this node leads no more: nothing starts; when all was answered it becomes a relay, or ends */
    bool gone;   /* the other end has closed */
    enum choice choice;
    enum rights rights;
    char *refusal; /* RIGHTS_REFUSED: the error */
    enum hold hold;
    enum via via; /* where the newest command went */
    uint8_t proto;
    uint32_t db;
    struct op_list ops;
    uint32_t op_count, uncame;
    uint32_t channels, patterns, shard_channels; /* subscriptions, as Valkey counted them; patterns are in channels,
                                                    too */
    uint64_t redirect_id;                        /* CLIENT TRACKING REDIRECT; 0 = none */
    size_t inflight_bytes;
    struct resp_parser *parser;
    struct buf stash;
    struct held *held;
    struct lane *lane; /* the shared one that this session sticks to */
    struct pinned *pinned;
    struct transaction *tx; /* in MULTI */
    struct user *user;
    char *name, *lib_name, *lib_ver;
    const char *last_word;   /* to its relay (relay.h), when it finishes */
    char *through, *address; /* relayed by that node; the client's address there. NULL: came to us */
    struct session_setup *setup;
    struct task *backup;        /* SYNC, at the head of the FIFO, nothing behind it: backup.h */
    const char *doom;           /* why it is to be closed at the next run; NULL = not */
    const struct command *last; /* for CLIENT LIST; forgotten when the table changes */
    bool ready_owed;            /* a relay's link that has not been told that it may speak */
    uint64_t created_ms, active_ms;
    size_t behind_bytes;    /* pushes that wait behind replies */
    size_t reply_bytes;     /* of a reply, smoothed */
    uint64_t soft_since_ms; /* output above the soft limit since then */
    uint64_t in_bytes, out_bytes, commands;
};

/* ---- life: session.c; what is true now: session_facts.c ---- */
struct session *session_new(struct worker *w, struct stream *stream, bool unix_socket, bool reader);
/* On a connection that was a relay's. Takes all of it: stream, setup's memory, parser, stash. */
void session_adopt(struct worker *w, struct stream *stream, bool unix_socket, struct session_setup *setup,
                   struct resp_parser **parser, struct buf *stash, bool eof);
/* For a client of another node. Takes the stream. */
void session_relayed(struct worker *w, struct stream *stream, const char *from, const char *address);
enum {
    READY_OWED_MS_MAX = 500
}; /* a relay waits so long for Valkey to be open here; then its clients hear LOADING */
void session_say_ready(struct session *s);
void session_close(struct session *s, const char *why);
void session_finish(struct session *s); /* closes when all that was asked has been answered */
/* A relayed one, nothing unanswered: its relay is to ask the next leader, also for what has come and was not begun.
 */
void session_moved(struct session *s);
void session_kick(struct session *s);       /* have it run in this turn */
void session_run(struct session *s);        /* dispatches what is held and stashed, as far as it goes */
void session_wait(struct session *s);       /* put on the waiting list: kicked when a connection becomes ready */
void session_count_sync(struct session *s); /* after mode or choice changed */
enum durability session_mode(const struct session *s);
bool session_serves(const struct session *s);   /* this node may run its commands now */
bool session_stateful(const struct session *s); /* has state in its own connection */
/* Waits for other clients, for the log in WAIT, or for the end of CLIENT PAUSE. */
bool session_blocked(const struct session *s);
size_t session_memory(const struct session *s);
enum authentication session_authentication(struct session *s);
bool session_full(const struct session *s); /* its user may do everything: shared lanes may carry its commands */
void session_reset(struct session *s);      /* as RESET: like a new connection; nothing may be under way */
void session_tick(struct session *s, uint64_t now_ms); /* timeout, soft limit, memory of the idle */

/* ---- tasks and answers: session_answer.c ---- */
struct task *task_new(struct worker *w);
void task_free(struct task *t); /* not in any FIFO */
struct task *session_task(struct session *s,
                          enum op_kind kind); /* appended to the FIFO; db, proto, sync of the session */
void session_sent(struct session *s, struct task *t, enum task_place place, enum via via);
void session_came(struct task *t); /* Valkey has answered it (or never will) */
void session_answer(struct task *t, const char *reply,
                    size_t n); /* the answer is complete and may go. Frees t at some time */
void session_answer_error(struct task *t, const char *text);        /* text without '-' and CRLF */
void session_answer_buf(struct task *t, struct buf *reply);         /* frees reply's memory */
void session_release(struct task *t);                               /* the same, the answer is in op.reply */
void session_say(struct session *s, const char *text);              /* a task of its own with this error */
void session_write(struct session *s, const char *bytes, size_t n); /* to the client, now: whole replies */
void session_push(struct session *s, const char *bytes,
                  size_t n); /* one that came on its own connection: in its place */
/* The reply of a lane or pinned connection has come. */
void task_reply(struct task *t, const char *reply, size_t n);
/* Its connection broke; text is the error for its client. The caller has told the core. */
void task_broke(struct task *t, const char *text);

/* ---- commands: session_dispatch.c ---- */
enum dispatch { DISPATCHED, NOT_NOW }; /* NOT_NOW: s->hold says until when; nothing was done */
enum dispatch session_dispatch(struct session *s, const struct argv *a);
bool session_over_limit(const struct session *s);
enum dispatch session_hold(struct session *s, enum hold why); /* NOT_NOW */
enum dispatch session_wait_ready(
    struct session *s); /* no connection yet: NOT_NOW, or after SESSION_HOLD_MS_MAX an error */
/* What must be waited for before a command may go there (clause 5 of the release rule); HOLD_NONE: go. */
enum hold session_needs(const struct session *s, enum via via);
/* One command to a place, as OP_READ, OP_NEUTRAL or OP_CAPTURED. NOT_NOW: not yet. The task in *out may be NULL'd by
 * the answer: use it at once. */
enum dispatch session_to_lane(struct session *s, enum op_kind kind, const struct command *c, const struct argv *a,
                              task_reply_fn *on_reply, struct task **out);
enum dispatch session_to_pinned(struct session *s, enum op_kind kind, const struct command *c, const struct argv *a,
                                task_reply_fn *on_reply, struct task **out);
enum dispatch session_to_control(struct session *s, const char *resp, size_t n, task_reply_fn *on_reply,
                                 struct task **out);
/* The shared lane that the session's next command would go to. HOLD_CAME, HOLD_READY: not now. */
enum hold session_lane(struct session *s, struct lane **out);
/* A write of an async session: to that lane, now. op.keys: what it may touch, if worker's gate says tracking. */
void session_send_async(struct session *s, struct lane *l, struct task *t, const char *bytes, size_t n);
/* op.request (and op.sent) to the writer lane, by way of the core. */
void session_send_writer(struct session *s, struct task *t);
/* canon_intent() of a command into t's op: kind, canon, request, args; the keys of its canonical form are added.
 * CANON_NO: nothing was done. */
enum canon_result session_intent(struct session *s, struct task *t, const struct command *c, const struct argv *a,
                                 uint64_t now_ms);
bool session_intent_fits(const struct session *s, const struct task *t); /* into the log, as it was made canonical */
extern const char session_too_large[];                                   /* what is answered if not */
/* The way of a command that reads nothing and writes nothing: a lane, or pinned for sessions with state or without
 * full rights. */
enum dispatch session_forward(struct session *s, const struct argv *a, task_reply_fn *on_reply, struct task **out);

/* ---- refusals: session_refuse.c ---- */
struct local_row;
const char *session_loading_text(const struct worker *w, char *out, size_t size); /* why there is no Valkey */
void session_refuse(struct session *s, const struct route_facts *f, enum route_why why, const struct local_row *row);
/* false: an error was answered. */
bool session_check_arity(struct session *s, const struct command *c, const struct local_row *row,
                         const struct argv *a);
/* A stranger gets no connection to Valkey: what it would say about an unknown command is said here. */
void session_say_stranger(struct session *s, const struct command *c, const struct local_row *row,
                          const struct argv *a);

/* ---- transactions: session_tx.c, session_exec.c ---- */
enum dispatch tx_command(struct session *s, const struct route_facts *f, const struct route *r);
/* MULTI while there is no Valkey, and what follows up to EXEC. */
void tx_begin_unserved(struct session *s);
enum dispatch tx_unserved(struct session *s, const struct route_facts *f);
/* EXEC and DISCARD of a transaction that is queued with us. */
enum dispatch tx_here_end(struct session *s, const struct route_facts *f);
enum dispatch tx_abort(struct session *s, const char *text);
enum dispatch tx_exec_here(struct session *s, const struct route_facts *f);
bool tx_is_here(const struct session *s);
/* The commands of tx->queued, one after the other, to the last: that frees what the walk has made. */
struct tx_walk {
    const struct buf *queued;
    size_t at, cap;
    struct arg *places;
    struct argv args;
    const struct command *command; /* NULL: Valkey does not list it any more */
};
bool tx_walk_next(struct tx_walk *w, const struct command_table *table);
void tx_end(struct session *s);

#endif

/* The router: from one command and the state of its session to the place where it runs. Pure: facts in, route out.
 *
 *   GET k           async or sync   ─▶ ROUTE_LANE, read            a lane shared by many sessions
 *   SET k v         sync            ─▶ ROUTE_WRITE                 log first, then the writer lane
 *   SET k v         async, off      ─▶ ROUTE_ASYNC                 the session's shared lane, at once
 *   SPOP s          sync            ─▶ ROUTE_WRITER                captured, on the writer lane
 *   SET k v         restricted user ─▶ ROUTE_WRITE                 after ACL DRYRUN (rights.h); what is captured is
 * pinned BLPOP l 0       any             ─▶ ROUTE_PINNED, captured      the session's own connection SET k v watching
 * ─▶ ROUTE_PINNED, captured CLIENT SETNAME  any             ─▶ ROUTE_LOCAL SET k v         lag too great   ─▶
 * ROUTE_REFUSE, WHY_CLUSTERDOWN */
#ifndef HF_ROUTER_H
#define HF_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "proxy/argv.h"
#include "proxy/command.h"
#include "proxy/message.h"
#include "proxy/op.h"

/* How a command of the table in local.c differs from what its flags say. */
enum treatment {
    TREAT_BY_FLAGS, /* not in the table */
    TREAT_ALWAYS,   /* answered by us, also while there is no Valkey (HELLO, QUIT, SELECT, CLIENT ID ...) */
    TREAT_LOCAL,    /* answered by us, perhaps with Valkey's help (PING, INFO, CONFIG GET, WAIT ...) */
    TREAT_REFUSED,  /* not available through Holdfast */
    TREAT_CAPTURED, /* changes what scripts do: in a sync session through the writer lane (SCRIPT LOAD ...) */
    TREAT_CONTROL,  /* must not queue behind a busy script: the control lane (SCRIPT KILL, FUNCTION KILL) */
    TREAT_STATE,    /* needs the session's own connection (CLIENT TRACKING, CLIENT NO-TOUCH ...) */
    TREAT_MULTI,
    TREAT_EXEC,
    TREAT_DISCARD,
    TREAT_WATCH,
    TREAT_UNWATCH,
    TREAT_SUBSCRIBE, /* all six (un)subscribing commands */
    TREAT_MONITOR,
    TREAT_AUTH,
    TREAT_RESET,
    TREAT_QUIT
};

struct route_facts {
    const struct command *command; /* NULL: Valkey did not list it */
    const struct argv *args;
    enum treatment treatment;
    enum durability mode;    /* the session's */
    bool in_multi, stateful; /* stateful: watching, tracking, subscribed (RESP3) ...: everything runs pinned */
    bool full;               /* the user may do everything: shared lanes may carry its commands */
    bool subscribed;         /* RESP2: only a few commands are allowed */
    bool monitoring;
    bool no_writes; /* EVALSHA of a script that is known to promise it (scripts.h) */
    bool reader;    /* came by reader-port: nothing that may write */
    enum gate_state gate;
    enum gate_refusal refusal;
    uint64_t write_bytes_max; /* a write larger than this finds no room in the log; 0 = no limit */
    const char *marker_channel;
};

/* A larger write of a restricted user runs on its own connection: to ask whether it may, all of it is sent. */
enum { ROUTE_ASK_BYTES_MAX = 64 << 10 };

enum route_to {
    ROUTE_LOCAL,   /* our own answer */
    ROUTE_REFUSE,  /* an error: why */
    ROUTE_LANE,    /* kind: OP_READ or OP_NEUTRAL */
    ROUTE_CONTROL, /* kind: OP_NEUTRAL */
    ROUTE_ASYNC,   /* a write of an async session, on its shared lane */
    ROUTE_WRITE,   /* by intent if this form is replayable; else as ROUTE_WRITER */
    ROUTE_WRITER,  /* captured, on the writer lane */
    ROUTE_PINNED,  /* kind: OP_READ, OP_NEUTRAL or OP_CAPTURED */
    ROUTE_MULTI    /* inside MULTI: to be queued by Valkey */
};
enum route_why {
    WHY_NOT,
    WHY_LOADING,
    WHY_CLUSTERDOWN,
    WHY_NOT_AVAILABLE, /* the table says why */
    WHY_SUBSCRIBED,
    WHY_MONITORING,
    WHY_MARKER_CHANNEL,
    WHY_SET_REPL,
    WHY_TOO_LARGE,
    WHY_READONLY,
    WHY_IN_MULTI
};
struct route {
    enum route_to to;
    enum op_kind kind;
    enum route_why why;
};
struct route route_command(const struct route_facts *f);

/* Whether it is a write or may turn out to be one: what is refused while the log is behind. */
bool route_may_write(const struct route_facts *f);

/* Whether CLIENT PAUSE ... WRITE holds it up: may write, or speaks to replicas (PUBLISH). EXEC is the caller's. */
bool route_replicates(const struct route_facts *f);

/* Whether writes of this session are refused now. */
bool route_refuses_writes(const struct route_facts *f);

#endif

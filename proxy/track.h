/* What a relay must know of a client's session without serving it: how many replies are owed, and whether the session
 * could be set up again on another connection. Pure: requests and replies in, facts out.
 *
 *     sent:      HELLO 3   SELECT 2   GET a   MULTI   SET b 1   EXEC
 *     answered:  %...      +OK        $1 x    +OK
 *     prelude:   [HELLO 3] [SELECT 2]                             restorable: no, until EXEC has been answered
 *
 * The prelude holds the setup commands that succeeded, in order; one that makes an earlier one void replaces it, so a
 * client that selects databases all day stays below PRELUDE_BYTES_MAX. It holds passwords: it is wiped when freed. */
#ifndef HF_TRACK_H
#define HF_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/argv.h"

struct buf;

enum { PRELUDE_BYTES_MAX = 4096, PRELUDE_COMMANDS_MAX = 24 };

enum request_kind {
    REQUEST_PLAIN,
    REQUEST_SETUP,   /* joins the prelude when it has succeeded */
    REQUEST_MULTI,   /* outside of MULTI */
    REQUEST_EXEC,    /* ends MULTI and WATCH */
    REQUEST_DISCARD, /* likewise */
    REQUEST_WATCH,
    REQUEST_UNWATCH,
    REQUEST_TRACKING_ON, /* CLIENT TRACKING: Valkey remembers keys for this connection */
    REQUEST_TRACKING_OFF,
    REQUEST_RESET,
    REQUEST_QUIT,
    REQUEST_OPAQUE, /* from here on nobody can tell how many replies are owed */
    REQUEST_HTTP,   /* POST, Host: close at once, as Valkey does */
    REQUEST_SAY     /* not a request: an answer of our own that waits for its turn */
};

/* Which setup commands make each other void. */
enum setup_key {
    SETUP_AUTH,
    SETUP_HELLO,
    SETUP_HELLO_NAME,
    SETUP_HELLO_AUTH,
    SETUP_HELLO_AUTH_NAME,
    SETUP_SELECT,
    SETUP_NAME,
    SETUP_LIB_NAME,
    SETUP_LIB_VER,
    SETUP_DURABILITY,
    SETUP_NO_EVICT,
    SETUP_NO_TOUCH,
    SETUP_CAPA,
    SETUP_READONLY
};

struct request {
    enum request_kind kind;
    enum setup_key key; /* REQUEST_SETUP */
    bool blocks;        /* may wait for other clients (BLPOP, WAIT) */
    bool kept;          /* its bytes are kept, by the owner */
    bool select;        /* SELECT with a number that could be right */
    char *bytes;        /* REQUEST_SETUP: the command; REQUEST_SAY: the answer. NULL: none, or too long */
    size_t n;
    size_t wire_bytes; /* of the command */
    uint64_t since_ms;
};
/* Reads a command. The result owns its bytes: request_free(). */
struct request request_of(const struct argv *a, uint64_t now_ms);
struct request request_say(const char *text); /* an error, without '-' and CRLF */
void request_free(struct request *q);         /* wipes */

struct setup {
    enum setup_key key;
    char *bytes;
    size_t n;
};
struct track {
    struct setup prelude[PRELUDE_COMMANDS_MAX];
    size_t prelude_count, prelude_bytes;
    bool prelude_too_long;
    uint64_t sent, answered; /* replies are numbered as their requests were */
    uint64_t setups;         /* setup commands among those without a reply */
    bool tx, watching, tracking;
    uint64_t tx_at, watch_at, tracking_at; /* the newest request that began it */
    bool changed_inside;                   /* MULTI held setup commands: what they did is not known */
    bool opaque;
};
void track_sent(struct track *t, struct request *q);
/* The reply to q, which was the oldest one without. */
void track_answered(struct track *t, struct request *q, const char *reply, size_t n);
/* Of what was sent, that which has no reply was not executed: as if it had not been sent. */
void track_unsent(struct track *t);
/* The session is what its prelude says, and nothing else (besides requests that have no reply yet). */
bool track_restorable(const struct track *t);
/* Takes a setup command into the prelude as if it had succeeded. */
void track_assume(struct track *t, struct request *q);
void track_prelude(const struct track *t, struct buf *out); /* appends the commands */
void track_free(struct track *t);                           /* wipes */

#endif

/* The replayable writes: those whose effect is a function of their arguments and of the keys they name, as one
 * explicit table, with the canonical form in which each is logged, sent to Valkey, and found again in Valkey's
 * stream.
 *
 *   client: SETEX k 10 v   ─▶ canonical (logged and sent): SET k v PXAT 1795173900374
 *   Valkey's stream:                                       SET k v PXAT 1795173900374      = the intent: a REF
 *
 *   client: GETDEL k       ─▶ canonical: GETDEL k          stream: DEL k  = "belongs to it" (canon_effect_belongs)
 *
 * Anything not here, and any form of it that this page is not sure about (odd arguments, past expiries, options
 * unknown to us), is captured instead: captured is always right. Pure: the wall clock comes in. */
#ifndef HF_CANON_H
#define HF_CANON_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/argv.h"
#include "proxy/stream_ids.h"

struct buf;

/* Number for struct command.canon: 0 if the lower-case name (with "|sub") is not in the table. */
uint16_t canon_find(const char *name);

/* "8.1.3" is 801; 0 if it is not to be told. */
unsigned canon_version(const char *text);
bool canon_tried(unsigned version);
/* The number for that version of Valkey; 0: captured there. Forms whose effect is the intent byte for byte are
 * replayable with any: what has been seen is what replicas do. Those whose effect "belongs" need one that was
 * tried. */
uint16_t canon_for(uint16_t canon, unsigned version);

enum canon_result {
    CANON_NO,       /* this form is not replayable: capture it */
    CANON_SAME,     /* the arguments are canonical as they are */
    CANON_REWRITTEN /* the canonical RESP was appended to out */
};
/* now_ms: wall clock, for relative expiries. The client's reply is the same for both forms. Relative expiries that
 * are not in the future by at least CANON_EXPIRY_MARGIN_MS, non-integers, overflow: CANON_NO. */
enum canon_result canon_intent(uint16_t canon, const struct argv *a, uint64_t now_ms, struct buf *out);
enum { CANON_EXPIRY_MARGIN_MS = 1, CANON_PAST_MARGIN_MS = 1000 };

/* XADD with `*`: replayable with an id of our choice (stream_ids.h), which must be greater than any that was chosen
 * for this key before. *intent is logged, *sent is what Valkey gets: see canon_streams.c. */
bool canon_wants_id(uint16_t canon, const struct argv *a);
void canon_with_id(const struct argv *a, struct stream_id id, struct buf *intent, struct buf *sent);
enum { CANON_ID_ARGS_MAX = 1000 }; /* more than that a script cannot hand on */

/* Whether an effect (arguments of one command of Valkey's stream) is the one that this intent leaves, although its
 * bytes differ from the intent's (equal bytes are found by comparing them, before this is asked). Command names
 * compare without case. */
bool canon_effect_belongs(uint16_t canon, const struct argv *intent, const struct argv *effect);

#endif

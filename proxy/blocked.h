/* Clients that block (BLPOP, XREAD BLOCK ...): each on its session's own connection, in the order in which they came.
 */
#ifndef HF_BLOCKED_H
#define HF_BLOCKED_H

#include <stdbool.h>

struct session;
struct worker;

/* Whether a blocking command of the session may be sent now. No: it waits behind an earlier one whose connection is
 * not there yet, and is kicked when that has gone. */
bool blocked_turn(struct session *s);
void blocked_queue(struct session *s); /* its connection is not there yet: those that come later wait for it */
void blocked_leave(struct session *s); /* it goes, or is answered, or has ended */
/* Valkey ends every wait: the clients hear -UNBLOCKED, nothing was taken. Call it again while any is left. */
void blocked_release(struct worker *w);

#endif

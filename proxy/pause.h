/* CLIENT PAUSE and UNPAUSE, over all sessions of this node. Valkey knows nothing of it, so our own lanes go on.
 *
 *   PAUSE 5000 WRITE ─▶ what may write, and what replicas would hear (PUBLISH), is held from now on
 *                       +OK, once the writes that were under way have come from Valkey
 *   5 s, or UNPAUSE  ─▶ those that were held go on, in the order in which they were
 *
 * As in Valkey: the later end counts, ALL outlives WRITE, clients in MONITOR are never paused, and ALL holds up
 * everything else, UNPAUSE too. */
#ifndef HF_PAUSE_H
#define HF_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

struct route_facts;
struct session;
struct worker;

void pause_init(struct worker *w);
/* Whether this command has to wait; then the session is on the list, and is kicked when the pause ends. */
bool pause_holds(struct session *s, const struct route_facts *f);
void pause_forget(struct session *s); /* the session ends */
/* Each turn: answers PAUSE when nothing that it must wait for is under way. true: somebody was kicked. */
bool pause_settle(struct worker *w);
uint64_t pause_held(const struct worker *w); /* how many sessions it holds */

#endif

/* What another node leads: entries of a log, made from a seed, and the state that they describe. */
#ifndef HF_FOLLOW_LOG_H
#define HF_FOLLOW_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "tests/unit/node_world.h"

struct leader { /* another one's sequencer, as far as the log shows it */
    uint64_t x; /* of the random numbers; not 0 */
    uint64_t seq, offset;
    uint64_t pending[64]; /* sequence numbers */
    size_t pending_count;
};

/* So many entries, of intents, effects verbatim and not, units, over four databases; committed. Leaves some intents
 * pending. */
void lead_entries(struct world *w, struct leader *l, size_t entries);
void lead_raw(struct world *w, const char *resp); /* one effect in database 0, committed */
/* As a leader does that is to begin the log with what its Valkey holds, and leads no more before the log can say so:
 * there is a snapshot. */
void adopt_in_vain(struct world *w);
/* The state that the log describes, made by a rebuild of the twin. */
void replayed_digest(struct world *w, char *out);
void expect_replayed(struct world *w); /* our Valkey's state is that */

#endif

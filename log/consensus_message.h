/* Messages as libraft has them, and as the peers exchange them. Pure; knows libraft's types, does not drive it. */
#ifndef HF_CONSENSUS_MESSAGE_H
#define HF_CONSENSUS_MESSAGE_H

#include <raft.h>
#include <stdbool.h>

#include "log/consensus.h"
#include "log/peer_message.h"

/* Kind, term and all the fields that libraft fills in; the rest of *out stays as it is. */
void message_from_raft(const struct raft_message *in, struct peer_message *out);
/* An APPEND gets no entries here. PEER_INSTALL and PEER_STATE have no counterpart: false. */
bool message_to_raft(const struct peer_message *in, struct raft_message *out);
/* Is this an APPEND as a leader makes it? libraft checks nothing: what is not would be undefined behaviour in it. */
bool message_append_sound(const struct peer_message *m, const struct consensus_entry *entries);

#endif

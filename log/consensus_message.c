/* See consensus_message.h. */
#include <string.h>

#include "log/consensus_message.h"

enum { /* libraft's versions, which its own transport would carry */
       VOTE_REQUEST_VERSION = 2,
       VOTE_RESULT_VERSION = 2, /* below 2 libraft takes a late pre-vote for a vote */
       APPEND_RESULT_VERSION = 2,
       FEATURES = 1
};

void message_from_raft(const struct raft_message *in, struct peer_message *out)
{
    out->peer = in->server_id;
    switch (in->type) {
    case RAFT_APPEND_ENTRIES:
        out->kind = PEER_APPEND;
        out->term = in->append_entries.term;
        out->append.prev_index = in->append_entries.prev_log_index;
        out->append.prev_term = in->append_entries.prev_log_term;
        out->append.commit = in->append_entries.leader_commit;
        out->append.count = in->append_entries.n_entries;
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        out->kind = PEER_APPEND_RESULT;
        out->term = in->append_entries_result.term;
        out->append_result.rejected = in->append_entries_result.rejected;
        out->append_result.last_index = in->append_entries_result.last_log_index;
        break;
    case RAFT_REQUEST_VOTE:
        out->kind = PEER_VOTE_REQUEST;
        out->term = in->request_vote.term;
        out->vote_request.last_index = in->request_vote.last_log_index;
        out->vote_request.last_term = in->request_vote.last_log_term;
        out->vote_request.pre_vote = in->request_vote.pre_vote;
        out->vote_request.disrupt_leader = in->request_vote.disrupt_leader;
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        out->kind = PEER_VOTE;
        out->term = in->request_vote_result.term;
        out->vote.granted = in->request_vote_result.vote_granted;
        out->vote.pre_vote = in->request_vote_result.pre_vote;
        break;
    case RAFT_INSTALL_SNAPSHOT: /* its conf and data are not filled in: the peer fetches them */
        out->kind = PEER_INSTALL;
        out->term = in->install_snapshot.term;
        out->install.last_index = in->install_snapshot.last_index;
        out->install.last_term = in->install_snapshot.last_term;
        break;
    case RAFT_TIMEOUT_NOW:
        out->kind = PEER_TIMEOUT_NOW;
        out->term = in->timeout_now.term;
        out->timeout_now.last_index = in->timeout_now.last_log_index;
        out->timeout_now.last_term = in->timeout_now.last_log_term;
        break;
    }
}

bool message_to_raft(const struct peer_message *in, struct raft_message *out)
{
    memset(out, 0, sizeof *out);
    out->server_id = in->peer;
    out->server_address = "peer"; /* must not be NULL; ours are found by id */
    switch (in->kind) {
    case PEER_APPEND:
        out->type = RAFT_APPEND_ENTRIES;
        out->append_entries.term = in->term;
        out->append_entries.prev_log_index = in->append.prev_index;
        out->append_entries.prev_log_term = in->append.prev_term;
        out->append_entries.leader_commit = in->append.commit;
        return true;
    case PEER_APPEND_RESULT:
        out->type = RAFT_APPEND_ENTRIES_RESULT;
        out->append_entries_result.version = APPEND_RESULT_VERSION;
        out->append_entries_result.features = FEATURES;
        out->append_entries_result.term = in->term;
        out->append_entries_result.rejected = in->append_result.rejected;
        out->append_entries_result.last_log_index = in->append_result.last_index;
        return true;
    case PEER_VOTE_REQUEST:
        out->type = RAFT_REQUEST_VOTE;
        out->request_vote.version = VOTE_REQUEST_VERSION;
        out->request_vote.term = in->term;
        out->request_vote.candidate_id = in->peer;
        out->request_vote.last_log_index = in->vote_request.last_index;
        out->request_vote.last_log_term = in->vote_request.last_term;
        out->request_vote.disrupt_leader = in->vote_request.disrupt_leader;
        out->request_vote.pre_vote = in->vote_request.pre_vote;
        return true;
    case PEER_VOTE:
        out->type = RAFT_REQUEST_VOTE_RESULT;
        out->request_vote_result.version = VOTE_RESULT_VERSION;
        out->request_vote_result.features = FEATURES;
        out->request_vote_result.term = in->term;
        out->request_vote_result.vote_granted = in->vote.granted;
        out->request_vote_result.pre_vote = in->vote.pre_vote;
        return true;
    case PEER_TIMEOUT_NOW:
        out->type = RAFT_TIMEOUT_NOW;
        out->timeout_now.term = in->term;
        out->timeout_now.last_log_index = in->timeout_now.last_index;
        out->timeout_now.last_log_term = in->timeout_now.last_term;
        return true;
    case PEER_INSTALL:
    case PEER_STATE:
        break;
    }
    return false;
}

bool message_append_sound(const struct peer_message *m, const struct consensus_entry *entries)
{
    uint64_t term = m->append.prev_term;
    struct members decoded;

    if ((m->append.prev_index == 0) != (term == 0) || m->append.prev_index > UINT64_MAX - m->append.count)
        return false;
    for (uint32_t i = 0; i < m->append.count; i++) {
        const struct consensus_entry *e = &entries[i];

        if (e->index != m->append.prev_index + 1 + i || e->term == 0 || e->term < term)
            return false;
        if (e->type < RECORD_COMMAND || e->type > RECORD_CHANGE)
            return false;
        if (e->type == RECORD_CHANGE && !consensus_decode(e->change, e->change_bytes, &decoded))
            return false;
        term = e->term;
    }
    return term <= m->term; /* no leader has entries of a later term: its link has mixed two terms */
}

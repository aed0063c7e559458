/* Which users the log names (CONTROL_USERS), as far as this node has read it: by a walk, or by what is fed. */
#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/feed.h"
#include "proxy/node_internal.h"

void node_users_note(struct node *n, const struct replay_facts *facts)
{
    if (facts == NULL || facts->users == NULL || facts->users_index <= n->users_index)
        return;
    buf_clear(&n->users);
    buf_append(&n->users, facts->users, facts->users_bytes);
    CHECK(!n->users.failed);
    n->users_index = facts->users_index;
}

bool node_users(struct node *n, uint64_t *index, struct buf *out)
{
    if (n->walk != NULL)
        node_users_note(n, replay_facts(n->walk));
    if (n->feed != NULL)
        node_users_note(n, feed_facts(n->feed));
    if (n->users_index <= *index)
        return false;
    buf_clear(out);
    buf_append(out, buf_head(&n->users), n->users.len);
    CHECK(!out->failed);
    *index = n->users_index;
    return true;
}

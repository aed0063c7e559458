/* How a Valkey that is fed becomes the primary: at the end of a rebuild, and (PROMOTING) when a follower's node
 * leads.
 *
 *   drained      all that is committed has gone out; so the feed's replay knows which intents are pending
 *   resolve      if there are some, one entry: CONTROL_ATTACH of nobody, OUTCOME {TRY each, RESOLVED last}
 *   finish       that goes out as it is committed; GETACK; acknowledged
 *   promote      REPLICAOF NO ONE; masterauth restored; INFO: replid2 is the feed's up to exactly its end
 *   join         ATTACH is appended, and the tap opened meanwhile, by partial sync with the feed's id and offset
 *   hand over    when both are there
 *
 * Before the resolving entry nothing has to be made void: an attachment that the log knows is another Valkey's, and
 * without the entry that one may still go on.
 *
 * A crash at any point leaves a log that says "attached to nobody" or to another Valkey, so that the next start does
 * not trust this one: an OUTCOME made for intents that a Valkey has perhaps executed, perhaps not, must never be
 * followed by its own stream. */
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/feed.h"
#include "proxy/node_internal.h"
#include "proxy/tap.h"

/* ---- join ---- */

static bool skipped(struct node *n, uint64_t errors)
{
    errors = node_unexplained(n, errors);
    if (errors == 0)
        return false;
    diag_log(n->diag, DIAG_WARNING,
             "REPLAY SKIPPED COMMANDS: Valkey refused %llu of the log's effects; its state is not the log's. "
             "Is it older than the one that wrote the log, or does it have fewer databases or modules?",
             (unsigned long long)errors);
    return true;
}

static void on_promoted(void *arg, const char *reply, size_t size)
{
    struct node *n = arg;
    char role[16], id[48], id2[48];
    uint64_t end = feed_offset(n->feed);

    (void)node_info_field(reply, size, "role", role, sizeof role);
    (void)node_info_field(reply, size, "master_replid", id, sizeof id);
    (void)node_info_field(reply, size, "master_replid2", id2, sizeof id2);
    if (strcmp(role, "master") != 0 || strcmp(id2, feed_replid(n->feed)) != 0 ||
        node_info_number(reply, size, "second_repl_offset") != end + 1) {
        node_fail(n, "Valkey was promoted elsewhere than at the feed's end (role %s, offset %llu, not %llu)", role,
                  (unsigned long long)node_info_number(reply, size, "second_repl_offset"),
                  (unsigned long long)end + 1);
        return;
    }
    if (skipped(n, node_info_number(reply, size, "unexpected_error_replies")) && n->state == NODE_PROMOTING) {
        node_fail(n, "Valkey has skipped effects of the log: it is rebuilt");
        return;
    }
    (void)snprintf(n->replid, sizeof n->replid, "%s", id);
    n->joined.db = 0; /* after a promotion Valkey writes a SELECT first */
    n->attach_index = node_append_attach(n, end, id, n->valkey.run_id, false);
    node_open_tap(n, feed_replid(n->feed), end, 0);
}

/* ---- promote ---- */

static void on_set(void *arg, const char *reply, size_t size)
{
    if (reply[0] == '-')
        node_fail(arg, "a promotion's command was refused: %.*s", (int)(size < 120 ? size - 2 : 120), reply + 1);
}

void node_promote_complete(void *arg)
{
    struct node *n = arg;

    n->rebuild.commands = n->figures.last_rebuild_commands;
    n->rebuild.promoted = true;
    node_ask(n, on_set, 3, (const char *const[]){"REPLICAOF", "NO", "ONE"});
    node_ask(n, on_set, 6,
             (const char *const[]){"CONFIG", "SET", "masteruser", n->rebuild.saved_user, "masterauth",
                                   n->rebuild.saved_auth});
    node_ask(n, on_promoted, 3, (const char *const[]){"INFO", "replication", "stats"});
}

/* ---- a follower's ---- */

void node_promote_more(struct node *n)
{
    const struct replay_facts *facts;
    uint64_t index = log_committed(n->log);

    if (n->rebuild.resolved || index < n->rebuild.settled || !feed_drained(n->feed))
        return;
    facts = feed_facts(n->feed);
    n->rebuild.resolved = true;
    n->joined = *facts;
    node_users_note(n, facts);
    if (facts->pending_count > 0) {
        index = node_append_attach(n, 0, "", "", false);
        node_append_resolved(n, facts);
    }
    n->joined.pending = NULL;
    n->joined.pending_count = 0;
    feed_finish(n->feed, index);
}

void node_promote(struct node *n, const char *why)
{
    bool was_fed = n->state == NODE_FED;

    node_set_state(n, NODE_PROMOTING, why);
    node_rebuild_began(n, was_fed ? "promoted: it was warm" : "promoted when it had caught up");
    n->rebuild.resolved = n->rebuild.promoted = false;
    n->rebuild.settled = log_pending_bytes(n->log) > 0 ? node_settled_index(n)
                                                       : 0; /* an earlier promotion's entry may still be on its way */
    if (was_fed && n->events->unfed != NULL)
        n->events->unfed(n->arg, "it is promoted");
    if (n->state == NODE_PROMOTING)
        node_promote_more(n);
}

bool node_promote_undo(struct node *n)
{
    if (n->rebuild.promoted || n->feed == NULL)
        return false;
    feed_unfinish(n->feed);
    node_set_state(n, NODE_FEEDING, "it does not lead any more");
    n->follow.goal = log_committed(n->log);
    return true;
}

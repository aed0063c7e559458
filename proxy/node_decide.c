/* What to do with the Valkey that was found. In order, the first row that fits:
 *
 *   Valkey ...                                  log ...            choice    because
 *   is cluster-enabled, or lacks commands       any                REFUSE    markers would not come through
 *   is loading its own data                     any                WAIT      it answers nothing yet
 *   is somebody's replica                       empty              REFUSE    adopting would fork somebody else's data
 *   any                                         empty              ADOPT     what it holds is where the log begins
 *   any                                         no attachment      REBUILD   nothing proves its state
 *   has another run_id                          attachment         REBUILD   restarted or replaced: unknown state
 *   is somebody's replica                       attachment         REBUILD   it follows somebody else's writes now
 *   does not continue the stream                attachment         REBUILD   effects in between are lost
 *   any other                                   attachment         BRIDGE    every effect since is in its backlog
 *
 * A Valkey whose state cannot be proven is rebuilt, never trusted. */
#include "proxy/node.h"

static enum node_choice choose(enum node_choice choice, const char **reason, const char *why)
{
    *reason = why;
    return choice;
}

enum node_choice node_decide(const struct node_facts *f, const char **reason)
{
    if (f->cluster_enabled)
        return choose(CHOOSE_REFUSE, reason,
                      "Valkey is cluster-enabled: markers would not reach its replication stream");
    if (f->lacks_commands)
        return choose(CHOOSE_REFUSE, reason, "Valkey lacks SPUBLISH, ACL DRYRUN or CLIENT KILL");
    if (f->loading)
        return choose(CHOOSE_WAIT, reason, "Valkey is loading its data");
    if (f->log_empty && f->is_replica)
        return choose(
            CHOOSE_REFUSE, reason,
            "Valkey is a replica of somebody else: promote it (REPLICAOF NO ONE) if its data are to be adopted");
    if (f->log_empty)
        return choose(CHOOSE_ADOPT, reason, "the log is empty");
    if (!f->log_attached)
        return choose(CHOOSE_REBUILD, reason, "nothing in the log proves that Valkey's state is the log's");
    if (!f->same_run_id)
        return choose(CHOOSE_REBUILD, reason, "Valkey was restarted or replaced");
    if (f->is_replica)
        return choose(CHOOSE_REBUILD, reason, "Valkey was made a replica of somebody else");
    if (f->bridge_failed)
        return choose(CHOOSE_REBUILD, reason, "Valkey's backlog does not reach back to what the log has");
    return choose(CHOOSE_BRIDGE, reason, "the same Valkey still holds the rest of the stream");
}

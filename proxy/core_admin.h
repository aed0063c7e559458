/* What the admin port asks of the core. done() comes once for each, at once or at any later time, with a reason
 * unless ok; at the latest from core_free(). */
#ifndef HF_CORE_ADMIN_H
#define HF_CORE_ADMIN_H

#include <stdbool.h>

#include "config/config.h"
#include "log/log.h"

struct core;
typedef void core_done(void *arg, bool ok, const char *why);

/* Leadership to `to`, or to the best one (NULL). */
void core_transfer(struct core *c, const char *to, core_done *done, void *arg);
void core_change_members(struct core *c, enum log_change what, const char *name, core_done *done, void *arg);
/* A snapshot of this node's Valkey; of one that is under way already, its end. */
void core_snapshot(struct core *c, core_done *done, void *arg);

/* The durability mode of the whole group, as CONFIG SET durability: done when it is committed and in force. */
void core_mode(struct core *c, enum durability mode, core_done *done, void *arg);
/* Out of service for maintenance, or back: core_hand.c. Done when this node does not lead any more; it is out of
 * service, too, when that cannot be. */
void core_take_out(struct core *c, bool out, core_done *done, void *arg);

#endif

/* Whether a user may run a command that Holdfast answers itself, or carries on a connection with rights of its own:
 * Valkey is asked (ACL DRYRUN) before anything happens. Commands on the user's own connection need no such question.
 *
 *   alice: SET k v     ─▶ control lane: ACL DRYRUN alice SET k v ─▶ +OK: logged, and forwarded on the writer lane
 *   alice: CLIENT LIST ─▶ held, control lane: ACL DRYRUN alice CLIENT LIST ─▶ +OK: dispatched again, answered
 *                                                                         ─▶ text: -NOPERM ... */
#ifndef HF_RIGHTS_H
#define HF_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/session.h"

struct local_row;
struct route_facts;

/* DISPATCHED with *may true: go on. DISPATCHED: it was refused. NOT_NOW: it is being asked. */
enum dispatch rights_ask(struct session *s, const struct route_facts *f, const struct local_row *row, bool *may);
/* A replayable write of a restricted user's sync session. Later ones follow at once: the answers come in order. */
enum dispatch rights_write(struct session *s, const struct command *c, const struct argv *a);
/* -NOPERM ..., as Valkey words it, from the answer of ACL DRYRUN. false: it was +OK. Pure. */
bool rights_refused(const char *reply, size_t n, char *text, size_t size);
/* RELEASE of TO_CORE_USERS; frees it. */
void rights_logged(struct task *half);
/* ACL DRYRUN user args..., appended. */
void rights_question(struct buf *out, const char *user, const struct argv *a);

#endif

/* Valkey's users as text: what ACL LIST shows, a line for each, and the commands that make one set of them another.
 *
 *     user default on nopass ~* &* +@all
 *     user alice on #5e88... ~a:* resetchannels -@all +get (~b:* resetchannels -@all +set)
 *
 * Holdfast's own user belongs to a node, not to the group: its line is never taken, changed or removed. Pure. */
#ifndef HF_ACL_LIST_H
#define HF_ACL_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct buf;

/* The reply of ACL LIST as lines, without `own`; appended. false: it is none. */
bool acl_list_lines(const char *reply, size_t n, const char *own, struct buf *out);
/* Calls each() with commands (RESP) that turn the users of `have` into those of `want`: SETUSER where a line differs,
 * DELUSER where there is none. Returns how many. */
size_t acl_list_change(const char *have, size_t have_n, const char *want, size_t want_n, const char *own,
                       void (*each)(void *arg, const char *resp, size_t n), void *arg);

#endif

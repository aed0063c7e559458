/* What we know of Valkey's users: who may do everything, and so may share lanes. Asked of Valkey (ACL GETUSER) on the
 * control lane.
 *
 * full: "+@all" as the only command rule, "~*", "&*", no selectors. Anybody else runs on a connection
 * authenticated as that user. */
#ifndef HF_USERS_H
#define HF_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session;
struct task;
struct user;
struct users;
struct worker;

enum { USERS_ASK_EVERY_MS = 5000 };

struct user_rights {
    bool exists, on, nopass, full;
};

struct users *users_new(struct worker *w);
void users_free(struct users *u);
void users_shut(struct users *u); /* what is known may change while Valkey is away */
void users_ask(struct users *u);  /* asks for all of them again, soon */
/* Asks for all of them now; then calls done() with the session's id. false: cannot now. */
bool users_ask_now(struct users *u, void (*done)(struct worker *w, uint64_t session_id), uint64_t session_id);
void users_tick(struct users *u);
bool users_known(const struct users *u); /* the default user's rights have been read since Valkey came */
struct user *users_default(const struct users *u);
struct user *users_hold(struct users *u, const char *name, size_t n); /* one reference more; made if there is none */
void users_drop(struct users *u, struct user *user);
const char *user_name(const struct user *u);
const struct user_rights *user_rights(const struct user *u);
/* Asks Valkey for this user's rights, then calls done() (may be NULL), with the session's id, since that may be gone
 * by then. false: cannot now. */
bool user_ask(struct users *u, struct user *user, void (*done)(struct worker *w, uint64_t session_id),
              uint64_t session_id);

/* Reads the reply of ACL GETUSER. Pure. */
struct user_rights user_rights_of(const char *reply, size_t n);

#endif

/* A session's own connection to Valkey: for state (MULTI, WATCH, subscriptions, tracking), for what blocks, for
 * restricted users.
 *
 * Two ways to use it. As a pipeline: one command, one reply (pinned_ask). As a stream: (un)subscribing and MONITOR
 * have any number of replies; what comes is passed on, until the answer to a PING with a nonce tells that the command
 * is done:
 *
 *   SUBSCRIBE a b, PING n17  ─▶   subscribe a 1 │ subscribe b 2 │ message a x │ pong n17
 *                                 ───────── passed on to the client ──────────   done
 *
 * The PONG of a connection that is still subscribed is an array (RESP2). */
#ifndef HF_PINNED_H
#define HF_PINNED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct argv;
struct pinned;
struct session;
struct task;

/* Opens it if there is none. as_user: unauthenticated, for AUTH or the default user; else with our own rights. false:
 * not ready yet. */
bool pinned_ready(struct session *s, bool as_user);
bool pinned_connecting(
    const struct session *s); /* it is being made, and no attempt has failed since it was last there */
/* Sends; op.kind OP_CAPTURED: BEGIN is posted before. */
void pinned_ask(struct session *s, struct task *t, const char *resp, size_t n);
/* The connection is in the session's database and protocol, and nothing on it is unanswered. false: it is under way,
 * the session is kicked if it waits for READY. */
bool pinned_settled(struct session *s);
/* As a stream; nothing may be due. The answer to t is empty, once all replies were passed on. */
void pinned_stream(struct session *s, struct task *t, const char *resp, size_t n);
void pinned_monitor(struct session *s, struct task *t, const char *resp, size_t n);
/* Gives it up: captured ops unanswered are BROKEN for the core (unless shut), tasks of a living session are answered
 * with errors. */
void pinned_close(struct session *s, bool shut);
uint64_t pinned_client_id(const struct session *s); /* Valkey's id; 0 = none */
bool pinned_is_user(const struct session *s);       /* it has the rights of the session's user, not ours */
void pinned_authenticated(struct session *s);       /* AUTH succeeded on it */
void pinned_use(struct session *s); /* database and protocol of the session, now (it may receive pushes) */
void pinned_note_db(struct session *s, uint32_t db); /* EXEC ran a SELECT */
bool pinned_busy(const struct session *s);           /* owes a reply */

#endif

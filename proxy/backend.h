/* One connection to Valkey: handshake, pipelined requests, replies in order.
 *
 * Handshake: AUTH (if a password is set), CLIENT SETNAME holdfast-<node>-<what>, CLIENT ID, INFO server; the run_id
 * must be the expected one ("" takes any), so that no connection to a different Valkey is ever used. as_user: then
 * RESET, so that the connection is an ordinary client's, for the session to authenticate by itself. Requests may be
 * queued before ready(): they are sent after the handshake.
 *
 *     out:  [SELECT 2] GET a   GET b   [SELECT 0] SET c
 *     due:   internal  op1     op2      internal   op3        one cookie per reply due, first in, first out */
#ifndef HF_BACKEND_H
#define HF_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct buf;
struct diag;
struct loop;
struct tls;

struct backend_settings {
    const char *address, *user, *password; /* borrowed during backend_new() only */
    const char *name;                      /* CLIENT SETNAME; no spaces */
    struct tls *tls;                       /* NULL: plain */
    const char *run_id;                    /* expected; "" = any */
    bool as_user;
    bool shared; /* by many clients: maxmemory-clients must not evict it */
};
struct backend_events {
    void (*ready)(void *arg); /* may be NULL */
    void (*reply)(void *arg, void *cookie, const char *reply, size_t n);
    /* A RESP3 push, or a reply that nobody asked for (what follows SUBSCRIBE in RESP2); may be NULL: then the
     * latter closes the connection. */
    void (*push)(void *arg, const char *push, size_t n);
    void (*closed)(void *arg, const char *why); /* at most once; unanswered cookies: backend_take_due() */
};
struct backend *backend_new(struct loop *l, const struct diag *d, const struct backend_settings *s,
                            const struct backend_events *events, void *arg);
void backend_close(struct backend *b); /* freed at the end of the turn; NULL is fine */

/* Makes the connection's database and protocol these, by SELECT and HELLO in line, if they differ. An error answer
 * to them closes the connection. */
void backend_use(struct backend *b, uint32_t db, int proto);
/* One command (canonical RESP) with one reply due. cookie must not be NULL. */
void backend_send(struct backend *b, const void *resp, size_t n, void *cookie);
/* Several commands in one, with so many replies due, each with this cookie. */
void backend_send_many(struct backend *b, const void *resp, size_t n, size_t replies, void *cookie);
/* Bytes without a reply of their own. */
void backend_send_unanswered(struct backend *b, const void *resp, size_t n);
/* After the session changed them itself (AUTH, SELECT inside MULTI, HELLO, RESET on a pinned connection). */
void backend_note_db(struct backend *b, uint32_t db);
void backend_note_proto(struct backend *b, int proto);
/* Oldest unanswered cookie, removed; internal ones are skipped, and what backend_send_many() has added is one. */
bool backend_take_due(struct backend *b, void **cookie);
bool backend_idle(const struct backend *b);  /* nothing is unanswered, our own words included */
size_t backend_due(const struct backend *b); /* unanswered cookies */
bool backend_ready(const struct backend *b);
uint64_t backend_client_id(const struct backend *b); /* Valkey's id of this connection; 0 before the handshake */
size_t backend_pending(const struct backend *b);     /* unsent bytes */
/* Loop time at which the oldest unanswered request was sent or the last reply came (our own included); 0 = nothing
 * is due. */
uint64_t backend_waiting_since_ms(const struct backend *b);
const char *backend_run_id(const struct backend *b);
const char *backend_local_ip(const struct backend *b); /* our end's address, "" for a Unix socket */
void backend_pause(struct backend *b, bool pause);     /* stop reading replies */

#endif

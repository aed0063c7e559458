/* Shared lanes: a few connections to Valkey that carry the stateless commands of all sessions with full rights.
 *
 * Reads and, for async sessions, writes. Each session sticks to one lane, so that its commands run in its order. One
 * more, the control lane, never carries scripts or large replies: the worker's own questions, SCRIPT KILL, CLIENT
 * UNBLOCK. And one for all sessions that have run a script: while one runs for long, Valkey answers everybody else
 * with -BUSY, and so it must be possible to ask it; only on the script's own lane nothing comes before its end.
 *
 *   CLOSED ──open──▶ CONNECTING ──handshake──▶ OPEN ──broke──▶ CLOSED, again after 10 ms doubling to 1 s */
#ifndef HF_LANE_H
#define HF_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct argv;
struct lane;
struct lanes;
struct session;
struct task;
struct worker;

enum { LANE_PENDING_BYTES_MAX = 64 << 20, LANE_RETRY_MS_MIN = 10, LANE_RETRY_MS_MAX = 1000 };

struct lanes *lanes_new(struct worker *w);
void lanes_open(struct lanes *l); /* Valkey is there (worker->identity) */
void lanes_shut(struct lanes *l); /* all are closed; what they owe is answered with errors; no ASYNC_END */
void lanes_free(struct lanes *l);
size_t lanes_count(const struct lanes *l); /* open ones */
struct lane *lanes_control(struct lanes *l);
/* The session's lane for its protocol; chosen when it has none. NULL while Valkey is away. */
struct lane *lanes_of(struct lanes *l, struct session *s);
bool lane_usable(const struct lane *l); /* open, and not congested */
/* Sends the task's command; the lane then owes it. t->async_write: as a write. */
void lane_ask(struct lane *l, struct task *t, const char *resp, size_t n);

#endif

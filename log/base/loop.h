/* The event loop: libevent's base, run turn by turn.
 *
 * One turn = wait for events, run their callbacks, run the turn hooks (in the order they were added) until none asks
 * for more, write what the streams have to say (one system call each), free what was closed. Callbacks therefore
 * only note what happened; work of all connections that were ready together is done, and sent, together. */
#ifndef HF_LOOP_H
#define HF_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct loop;
struct stream;

struct loop *loop_new(void);
void loop_free(struct loop *l);
struct event_base *loop_base(struct loop *l);

/* A hook returns true if it did something that other hooks may have to answer: then all run once more. */
typedef bool loop_hook_fn(void *arg);
void loop_add_hook(struct loop *l, loop_hook_fn *hook, void *arg);

void loop_run(struct loop *l); /* until loop_stop() */
void loop_stop(struct loop *l);
uint64_t loop_now_us(struct loop *l); /* monotonic, read once a turn, after waiting */
uint64_t loop_now_ms(struct loop *l);

/* Frees `object` with `release` at the end of the turn: no callback frees its own object. */
void loop_bury(struct loop *l, void *object, void (*release)(void *object));

/* A repeating or single timer. The result is the caller's: loop_timer_free(). */
struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *l, void (*fire)(void *arg), void *arg);
void loop_timer_once(struct loop_timer *t, uint64_t after_ms); /* rearms; replaces an earlier setting */
void loop_timer_every(struct loop_timer *t, uint64_t every_ms);
void loop_timer_stop(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t); /* NULL is fine */

/* For streams: have this one written at the end of the turn. */
void loop_mark_dirty(struct loop *l, struct stream *s);
void loop_kick(struct loop *l, struct stream *s);
char *loop_scratch(struct loop *l); /* LOOP_SCRATCH_BYTES for one read; good until the callback returns */
enum { LOOP_SCRATCH_BYTES = 64 * 1024 };

#endif

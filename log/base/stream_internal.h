/* Between stream.c (a stream's life and its door) and stream_io.c (what happens when its socket is ready) only. */
#ifndef HF_STREAM_INTERNAL_H
#define HF_STREAM_INTERNAL_H

#include <event2/util.h>
#include <stdbool.h>

#include "log/base/buf.h"
#include "log/base/stream.h"

struct event;
struct loop_timer;
struct stream_tls;

enum stream_state { CONNECTING, PEEKING /* for the first byte */, HANDSHAKE, OPEN, FINISHING, DEAD };

struct stream {
    struct loop *loop;
    int fd;
    enum stream_state state;
    bool paused, closed, in_dirty, blocked, eof;
    bool write_on_read; /* TLS must read before it can write on */
    struct stream *next_dirty;
    bool in_kicked;
    struct stream *next_kicked;
    struct event *read_event, *write_event;
    const struct stream_events *events; /* NULL: set aside */
    void *arg;
    struct buf out;
    struct buf early;       /* given back by the last owner, for the next */
    char *why;              /* set while a closed() is due */
    struct stream_tls *tls; /* NULL: plain */
    struct tls *offered;    /* PEEKING: what to speak if the other side speaks TLS; borrowed until then */
    struct loop_timer *deadline;
};

void stream_start_tls(struct stream *s, const struct tls *tls, bool accepting, const char *name);

/* Callbacks of the two events. */
void stream_on_readable(evutil_socket_t fd, short what, void *stream);
void stream_on_writable(evutil_socket_t fd, short what, void *stream);
void stream_want_read(struct stream *s);                 /* after a change of what reading depends on */
void stream_kick(struct stream *s);                      /* read in the next turn, whatever the socket says */
void stream_die(struct stream *s, const char *why);      /* tells the owner, once; from a callback of the loop */
void stream_die_soon(struct stream *s, const char *why); /* from anywhere: by way of the write event */

#endif

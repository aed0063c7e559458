/* A connected, non-blocking byte stream (TCP or Unix socket) on the loop.
 *
 * Reading: the owner's data() gets the bytes of one read, which it must use or copy at once. Writing: the owner
 * appends to stream_out() (or stream_write()); the loop sends everything at the end of the turn. TLS lives behind the
 * same door: what data() gets and stream_out() takes is the plain text. */
#ifndef HF_STREAM_H
#define HF_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "log/base/buf.h"

struct loop;
struct stream;
struct tls;

struct stream_events {
    void (*data)(void *arg, const char *bytes, size_t n); /* n > 0 */
    void (*closed)(void *arg, const char *why); /* at most once, never from inside a call of the owner; by EOF, an
                                                   error or a failed connect. The owner must still stream_close() */
    void (*connected)(void *arg);               /* for stream_connect() only; may be NULL */
    void (*sent)(void *arg);                    /* all output has left; may be NULL */
    bool (*eof)(void *arg); /* the peer sends no more: true = it may still be waiting for output, do not call closed()
                               now (it follows when writing fails, or by stream_finish()); NULL = closed() at once */
    bool (*fill)(void *arg); /* the turn's output is about to leave: the last moment to append to it; asked each time
                                the stream is written. true = ask again when this has left. It may stream_close(), and
                                must not have anything else done to the stream. NULL = never asked */
};
enum { HANDSHAKE_MS_MAX = 5000 }; /* of TLS, with the connecting before it */

/* "host:port", "[v6]:port" or a path beginning with '/'. Numeric addresses and names (resolved at once). Returns NULL
 * only with a reason in why[why_size]; a refused connection is reported by closed(). */
struct stream *stream_connect(struct loop *l, const char *address, const struct stream_events *events, void *arg,
                              char *why, size_t why_size);
/* The same through TLS: connected() and data() come after the handshake, which has HANDSHAKE_MS_MAX; closed() says
 * why it failed. name: what the server's certificate must be for, a DNS name or an address ("" = only the CA is
 * checked). The context may be freed. */
struct stream *stream_connect_tls(struct loop *l, const char *address, struct tls *tls, const char *name,
                                  const struct stream_events *events, void *arg, char *why, size_t why_size);
/* TLS with the name that the context keeps; tls NULL: plain. */
struct stream *stream_connect_either(struct loop *l, const char *address, struct tls *tls,
                                     const struct stream_events *events, void *arg, char *why, size_t why_size);
struct stream *stream_accepted_tls(struct loop *l, int fd, struct tls *tls, const struct stream_events *events,
                                   void *arg); /* takes fd; connected() is called, too */
/* Plain or TLS, as the first byte says, which must come within HANDSHAKE_MS_MAX, with the handshake if there is one;
 * connected() is called, too. tls NULL: plain only. */
struct stream *stream_accepted_either(struct loop *l, int fd, struct tls *tls, const struct stream_events *events,
                                      void *arg);
bool stream_is_tls(const struct stream *s);
/* Whether the other side's certificate (checked against the CA) is for this DNS name, without wildcards. */
bool stream_peer_is(const struct stream *s, const char *name);
/* A stream that changes hands: the old owner sets it aside with what it was given and has not used, which is copied;
 * the new one takes over. In between nothing is read and nothing is told; what the old owner has written is sent. The
 * new owner gets those bytes, what comes after them, and a closed() that fell between, all in later turns. */
void stream_set_aside(struct stream *s, const void *unused, size_t n);
void stream_hand_over(struct stream *s, const struct stream_events *events, void *arg);
struct stream *stream_accepted(struct loop *l, int fd, const struct stream_events *events, void *arg); /* takes fd */
void stream_close(struct stream *s); /* no callback follows; freed at the end of the turn; NULL is fine */
/* Stops reading; calls closed(arg, "finished") once all output has left (or the peer has gone). */
void stream_finish(struct stream *s);

struct buf *stream_out(struct stream *s); /* append here; the stream is then written at the end of the turn */
void stream_write(struct stream *s, const void *bytes, size_t n);
size_t stream_pending(const struct stream *s);   /* bytes not yet taken by the kernel */
void stream_pause(struct stream *s, bool pause); /* stop / go on reading */
bool stream_local_address(const struct stream *s, char *out,
                          size_t size); /* "ip" of our end; false for a Unix socket */
bool stream_remote_address(const struct stream *s, char *out, size_t size); /* "ip:port" or the path */
int stream_fd(const struct stream *s);

#endif

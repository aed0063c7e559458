/* Between stream.c, stream_tls.c and tls.c only: one connection's TLS on a socket. It knows OpenSSL and the
 * descriptor, no events and no owner: stream.c calls it when the socket is ready, and waits for what it asks for. */
#ifndef HF_STREAM_TLS_H
#define HF_STREAM_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct ssl_ctx_st;
struct stream_tls;
struct tls;

enum { TLS_READ_BYTES = 64 * 1024 }; /* of the socket, with one call */

struct ssl_ctx_st *tls_context(const struct tls *t); /* what OpenSSL uses; borrowed */
bool tls_wildcards(const struct tls *t);

enum tls_io {
    TLS_IO_DONE,
    TLS_IO_WANT_READ,  /* again when the socket is readable */
    TLS_IO_WANT_WRITE, /* again when it is writable */
    TLS_IO_EOF,        /* the other side said that it sends no more */
    TLS_IO_FAILED      /* for good: stream_tls_why() */
};
/* name: of the server that is dialled, or its address; "" = none to check. */
struct stream_tls *stream_tls_new(const struct tls *t, int fd, bool accepting, const char *name);
void stream_tls_free(struct stream_tls *t); /* NULL is fine */

void stream_tls_readable(struct stream_tls *t); /* the loop says so: reading the socket may yield bytes again */
enum tls_io stream_tls_handshake(struct stream_tls *t);
/* Reads until `size` bytes are there or there are no more. *n counts in every case: bytes come before the verdict. */
enum tls_io stream_tls_read(struct stream_tls *t, char *to, size_t size, size_t *n);
/* DONE: some were taken. After WANT_* the next call must begin with the same bytes (they may have moved). */
enum tls_io stream_tls_write(struct stream_tls *t, const char *from, size_t size, size_t *n);
void stream_tls_bye(struct stream_tls *t); /* tells the other side that we send no more, if it can be told at once */
const char *stream_tls_why(const struct stream_tls *t);
bool stream_tls_peer_is(const struct stream_tls *t, const char *name);

#endif

/* Two ends of a TLS connection on one loop, and certificates for them, for unit tests. */
#ifndef HF_TLS_PLACE_H
#define HF_TLS_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/stream.h"
#include "log/base/tls.h"
#include "tests/unit/tls_files.h"

struct loop;
struct loop_timer;

struct place {
    char dir[64];
    struct loop *loop;
    struct loop_timer *limit;
    struct tls_issuer *ca, *other;
    bool (*until)(void *arg);
    void *arg;
    bool timed_out;
};

/* One end of a connection. */
struct end {
    struct place *place;
    struct stream *stream;
    struct buf in;
    bool connected, closed, at_eof, keep_half, pauses;
    char why[256];
    size_t reads, to_send, sent;
    uint64_t random;
    struct loop_timer *unpause;
};
struct pair {
    struct end client, server;
    struct tls *client_tls, *server_tls;
};

/* Setup and teardown of a test: a directory with CAs "ca" and "other-ca", and certificates "a" (a.test) and "b". */
int place_open(void **state);
int place_close(void **state);
bool place_run(struct place *p, bool (*until)(void *arg), void *arg); /* false: not within WAIT_MS_MAX */
void place_pass(struct place *p, uint64_t ms);
void place_cert(struct place *p, const char *name, struct tls_wish wish); /* no san: as a's */
void place_path(struct place *p, const char *name, const char *ending, char out[TLS_PATH_BYTES_MAX]);
/* name "": no certificate; ca "": nothing is asked of the other side. NULL with a reason. */
struct tls *place_context(struct place *p, const char *name, const char *ca, bool prove, bool only13, char why[256]);
struct tls *place_good(struct place *p, const char *name); /* as a member's */

extern const struct stream_events end_events;
void end_init(struct place *p, struct end *e, uint64_t seed);
void end_on_closed(void *arg, const char *why);
uint64_t end_random(struct end *e, uint64_t n);

/* The contexts are the pair's; the client asks for `name`. A NULL context: that end speaks plain. */
void pair_connect(struct place *p, struct pair *x, struct tls *client, struct tls *server, const char *name);
void pair_good(struct place *p, struct pair *x); /* a to b, connected */
void pair_close(struct pair *x);
int listen_anywhere(int *port);

/* For place_run(). */
bool both_connected(void *pair);
bool both_closed(void *pair);
bool all_arrived(void *pair);
bool one_closed(void *end);

#endif

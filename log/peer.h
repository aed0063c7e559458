/* The links between members: TLS 1.3 with certificates on both ends, framing, reconnecting, bounded queues. Knows
 * messages and records as bytes, nothing of Raft's rules.
 *
 * Each node dials each other member: the connection that a node dials carries what it has to say, answers come on the
 * other's own. So each direction is one FIFO stream, and a one-way cut is just that. Beside these links there are
 * connections for one purpose: a snapshot being fetched, a client being relayed.
 *
 *      a ══LINK══▶ b      HELLO ▶, ◀ HELLO, then frames ▶ only
 *      a ◀══LINK══ b
 *      a ══FETCH═▶ b      HELLO ▶, ◀ HELLO, then the bytes of log_fetch.h, both ways
 *      a ══RELAY═▶ b      HELLO ▶, ◀ HELLO, then a client's RESP, both ways
 *
 * A peer must prove with its certificate to be DNS name "NODE.CLUSTER" for the names that its HELLO says; the one
 * dialled must also be who was meant. HELLOs carry a version; one who speaks another is refused with a reason.
 *
 *   frame:  u32 length of what follows | u8 kind | u64 hash64 of the body, seeded with the kind | body
 *
 * All numbers are little endian. The bodies are drawn in wire.c.
 *
 * A link that cannot keep up loses messages, it never makes the sender wait: at most PEER_QUEUE_MESSAGES_MAX wait
 * (the oldest go), and an APPEND's entries are read from the log only when less than PEER_OUT_BYTES_MAX is unsent. */
#ifndef HF_PEER_H
#define HF_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/members.h"
#include "log/peer_message.h"
#include "log/tail.h"

struct diag;
struct loop;
struct peers;
struct stream;
struct tls;

enum {
    PEER_VERSION = 1,
    PEER_FRAME_BYTES_MAX = 1024 * 1024 * 1024, /* what clients can have in flight; memory comes with the bytes */
    PEER_OUT_BYTES_MAX = 2 * 1024 * 1024,
    PEER_PIECE_BYTES_MAX = 512 * 1024, /* entries of one APPEND on the wire, unless a single one is larger */
    PEER_QUEUE_MESSAGES_MAX = 4096,
    PEER_RETRY_FIRST_MS = 20,
    PEER_RETRY_MS_MAX = 1000,
    PEER_SILENCE_MS_MAX = 5000, /* a link that takes no bytes for so long is dialled anew */
    PEER_GROUP_BYTES = 16,
    PEER_EXTRA_BYTES_MAX = 4096
};

enum peer_purpose { PEER_LINK = 1, PEER_FETCH = 2, PEER_RELAY = 3 };

struct peer_hello {
    enum peer_purpose purpose;
    struct member member;         /* id, name, zone, address, log_only: as it says, name proven */
    char group[PEER_GROUP_BYTES]; /* all zero: its log has not begun */
    struct buf configuration;     /* of its log's first entry, when it has begun; at most a few KB */
    char extra[PEER_EXTRA_BYTES_MAX];
    size_t extra_bytes;
};

struct peers_settings {
    const char *cluster;
    struct member self;
    const char *listen; /* host:port; usually self.address */
    struct tls *tls;    /* NULL: plain; then only loopback addresses are dialled and accepted */
};

struct peers_events {
    /* Says what we are now: group and configuration (appended to; the caller frees). */
    void (*hello)(void *arg, struct peer_hello *own);
    /* A member's name has been proven to us, by whichever connection. false: refused, `why` says so (wrong group,
     * unknown id ...): the connection is closed, dialled again later. */
    bool (*met)(void *arg, const struct peer_hello *h, char *why, size_t why_size);
    /* Frames of a link; records have passed entry_check() (checksum, length) but not the chain. Borrowed. */
    void (*message)(void *arg, const struct peer_message *m, struct record **records);
    /* Entries from `from` on, of an APPEND that may leave now: hold them into out[], at most max, until bytes_max is
     * passed; returns how many; 0: the message is out of date, drop it. */
    size_t (*records)(void *arg, const struct peer_message *m, uint64_t from, size_t max, size_t bytes_max,
                      struct record **out);
    void (*link)(void *arg, uint64_t id, bool up, const char *why);            /* ours to that member */
    void (*accepted)(void *arg, struct stream *s, const struct peer_hello *h); /* FETCH, RELAY: the receiver's now */
};
extern const char peers_unwanted[]; /* `why` of a link that we have ended ourselves: nothing is wrong */

/* NULL with a reason (cannot listen, ...). */
struct peers *peers_new(struct loop *l, const struct diag *d, const struct peers_settings *s,
                        const struct peers_events *events, void *arg, char *why, size_t why_size);
void peers_free(struct peers *p); /* NULL is fine; nobody is told anything, dials are cancelled */
/* Whom to keep a link to (self is skipped). Members are told apart by name and id; id 0 takes whoever proves the
 * name. */
void peers_set(struct peers *p, const struct members *m);
void peers_send(struct peers *p, const struct peer_message *m); /* to m->peer; dropped if there is no link */
/* The member of this name has just been met: if our link to it waits to be dialled again, it is dialled now. */
void peers_hurry(struct peers *p, const char *name);
bool peers_up(const struct peers *p, uint64_t id);

/* A connection for one purpose to the member of this name. done() once: with a stream that is the receiver's (its
 * events go nowhere until stream_hand_over()), or NULL and why. */
struct peer_dial;
struct peer_dial *peers_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                             size_t n, void (*done)(void *arg, struct stream *s, const char *why), void *arg);
void peer_dial_cancel(struct peer_dial *d); /* before done() */

/* ---- the codec, pure: log/wire.c ---- */
enum wire_kind {
    WIRE_HELLO = 1,
    WIRE_MESSAGE = 2,
    WIRE_REFUSE = 3 /* instead of a HELLO, or later: why the connection is closed, as text */
};
enum { WIRE_FRAME_HEADER_BYTES = 13, WIRE_HELLO_BYTES_MAX = 16 * 1024, WIRE_TEXT_BYTES_MAX = 256 };
enum wire_state { WIRE_FRAME, WIRE_PART, WIRE_BAD };
struct wire_frame {
    enum wire_kind kind;
    const char *body; /* borrowed */
    size_t body_bytes;
};

/* A frame around what is appended to `out` in between. begin returns what end wants to know. */
size_t wire_begin(struct buf *out);
void wire_end(struct buf *out, size_t at, enum wire_kind kind);
/* The frame at c, which is moved behind it. PART: it is not all here yet; c stays. BAD: longer than bytes_max, of no
 * known kind, or damaged: why says which. */
enum wire_state wire_next(struct cursor *c, size_t bytes_max, struct wire_frame *out, const char **why);

void wire_message(struct buf *out, const struct peer_message *m, struct record *const *records, size_t count);
/* How many records a body may hold, to make room for them: never more than its bytes allow. */
size_t wire_records_max(const void *body, size_t n);
/* Of a frame's body. records: filled with up to `max` new references (checked); false: malformed, nothing is held.
 * out->peer is not on the wire: 0. */
bool wire_message_open(const void *body, size_t n, struct peer_message *out, struct record **records, size_t max);
void wire_hello(struct buf *out, const struct peer_hello *h, const char *cluster);
/* False: malformed. If *version is not PEER_VERSION, nothing else is filled. out->configuration is the caller's:
 * buf_free(), also on false. */
bool wire_hello_open(const void *body, size_t n, struct peer_hello *out, char *cluster, size_t cluster_size,
                     uint32_t *version);
/* What a REFUSE says, fit for a log line. */
void wire_text(const void *body, size_t n, char out[WIRE_TEXT_BYTES_MAX]);

#endif

/* The feed: Holdfast as the primary of its Valkey. An RDB (the newest snapshot, or an empty one), then the replayed
 * log, for as long as it follows: whatever the log commits goes out at once.
 *
 * Listens on an ephemeral port of the address under which Valkey is talked to; takes one connection, which must
 * AUTH with the feed's one-time password (set by CONFIG SET masterauth before REPLICAOF). When the connection breaks,
 * Valkey may come again: what it asks for by PSYNC is continued if the log proves it, else it gets a full sync. */
#ifndef HF_FEED_H
#define HF_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every feed's password begins so: one found in Valkey's masterauth was left by a feed that died, and is worth
 * nothing. */
#define FEED_PASSWORD_PREFIX "holdfast-feed-"

struct checkpoints;
struct diag;
struct feed;
struct log;
struct loop;
struct replay_facts;
struct tls;

/* A Valkey that was a primary: at this offset of its own stream its state is the log's up to the end of an entry. */
struct feed_proof {
    char replid[48];
    uint64_t offset, index;
};
struct feed_settings {
    const char *ip;                  /* where to listen ("" = 127.0.0.1) */
    const char *run_id;              /* of the Valkey that is to come */
    struct checkpoints *checkpoints; /* borrowed. NULL: for one rebuild; no partial sync, a break is the end */
    const struct feed_proof *proof;  /* NULL: none */
    struct tls *tls;                 /* for a Valkey that dials with TLS (tls-replication); NULL: plain only */
    bool tls_expected;               /* a plain connection is worth a warning */
};
struct feed_events {                                             /* all but closed() may be NULL */
    void (*progress)(void *arg, double done, uint64_t commands); /* now and then */
    void (*began)(void *arg, bool partial);   /* Valkey was answered: it continues, or gets an RDB */
    void (*left)(void *arg, const char *why); /* the connection broke; it may come again */
    void (*drained)(void *arg);               /* all that is committed has gone out */
    void (*acked)(void *arg, uint64_t index); /* Valkey has executed all of the log up to this entry; rising */
    void (*complete)(void *arg); /* feed_finish(): Valkey has acknowledged everything: the offset of feed_offset() */
    void (*closed)(void *arg, const char *why); /* the end, or nobody came in time; at most once */
};
/* NULL with a reason. */
struct feed *feed_new(struct loop *l, const struct diag *d, struct log *log, const struct feed_settings *settings,
                      const struct feed_events *events, void *arg, char *why, size_t why_size);
void feed_close(struct feed *f);
void feed_more(struct feed *f); /* the log has committed more */
/* What is committed up to index, then Valkey is asked to acknowledge: complete(). From now on a break is the end. */
void feed_finish(struct feed *f, uint64_t index);
void feed_unfinish(struct feed *f); /* goes on as before feed_finish(); not once it is complete */
/* Valkey's state is not what it should be: the connection is closed, and when it comes again it gets a full sync. */
void feed_resync(struct feed *f);
int feed_port(const struct feed *f);
const char *feed_password(const struct feed *f);
const char *feed_replid(const struct feed *f); /* 40 hex digits; another one after each full sync */
uint64_t feed_tries(const struct feed *f);     /* how many of the effects sent Valkey may have refused, rightly */
uint64_t feed_offset(const struct feed *f);    /* of the end of what was sent */
uint64_t feed_behind(const struct feed *f);    /* bytes, about: sent and not acknowledged, or not sent yet */
bool feed_drained(const struct feed *f);       /* all that is committed has gone out */
/* As of what has gone out; NULL while no stream has begun. Complete after drained(). */
const struct replay_facts *feed_facts(const struct feed *f);

#endif

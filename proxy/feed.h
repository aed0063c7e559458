/* The feed: Holdfast as the primary of its Valkey, to rebuild it: RDB (the newest snapshot, or an empty one), then
 * the replayed log.
 *
 * Listens on an ephemeral port of the address under which Valkey is talked to; takes one connection, which must
 * AUTH with the feed's one-time password (set by CONFIG SET masterauth before REPLICAOF). */
#ifndef HF_FEED_H
#define HF_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every feed's password begins so: one found in Valkey's masterauth was left by a feed that died, and is worth
 * nothing. */
#define FEED_PASSWORD_PREFIX "holdfast-feed-"

struct diag;
struct feed;
struct log;
struct loop;

struct feed_events {
    void (*progress)(void *arg, double done, uint64_t commands); /* now and then */
    void (*complete)(void *arg);                /* Valkey has acknowledged everything: the offset of feed_offset() */
    void (*closed)(void *arg, const char *why); /* the connection broke, or nobody came in time; at most once */
};
/* ip: where to listen ("" = 127.0.0.1). NULL with a reason. */
struct feed *feed_new(struct loop *l, const struct diag *d, struct log *log, const char *ip,
                      const struct feed_events *events, void *arg, char *why, size_t why_size);
void feed_close(struct feed *f);
int feed_port(const struct feed *f);
const char *feed_password(const struct feed *f);
const char *feed_replid(const struct feed *f); /* 40 hex digits, new for each feed */
uint64_t feed_offset(const struct feed *f);    /* bytes of stream sent (offsets begin at feed's own start) */

#endif

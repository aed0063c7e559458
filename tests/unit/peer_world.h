/* Several ends of peer links in one process, on one loop, for unit tests. */
#ifndef HF_PEER_WORLD_H
#define HF_PEER_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/diag.h"
#include "log/base/stream.h"
#include "log/peer.h"

struct loop;
struct world;

/* By these names, where a test's world is called w. */
#define A (&w->nodes[0])
#define B (&w->nodes[1])
#define C (&w->nodes[2])

enum { WORLD_NODES_MAX = 4, WORLD_RECORDS_MAX = 3000, WORLD_WAIT_MS_MAX = 30000 };

struct node {
    struct world *world;
    struct peers *peers; /* NULL: down */
    struct member self;
    const char *cluster;
    struct tls *tls;
    bool (*refuse)(const struct peer_hello *h);
    size_t ups, downs, messages, entries, met;
    uint64_t next_index, last_term; /* of APPENDs received: they must follow one another */
    uint64_t next_mark;             /* of other messages: their wall_ms must rise */
    size_t marks, gaps;
    struct stream *taken; /* RELAY or FETCH that was accepted */
    bool keep_no_taken;   /* until their other end closes, nobody reads them */
    char extra[PEER_EXTRA_BYTES_MAX];
    size_t extra_bytes;
    char why[512]; /* the last link that went down */
};

struct world {
    char dir[128];
    struct loop *loop;
    struct loop_timer *limit;
    struct diag diag;
    struct node nodes[WORLD_NODES_MAX];
    struct record *records[WORLD_RECORDS_MAX + 1]; /* by index: what every node's log holds */
    size_t record_count;
    bool (*until)(struct world *w, void *arg);
    void *arg;
    bool timed_out;
    bool tls;
    uint64_t random;
};

void world_open(struct world *w, bool tls);
void world_close(struct world *w);
/* Runs until that is so; false after WORLD_WAIT_MS_MAX. */
bool world_run(struct world *w, bool (*until)(struct world *w, void *arg), void *arg);
void world_pass(struct world *w, uint64_t ms);
/* Names a, b, c ...; ids 101, 102 ...; addresses on loopback. */
void node_make(struct world *w, size_t i);
void peer_node_start(struct node *n);
void peer_node_stop(struct node *n);
void node_knows(struct node *n, size_t count, ...);               /* peers_set() with these nodes (struct node *) */
size_t world_said(struct world *w, const char *text);             /* lines of the log that hold it */
bool world_says(struct world *w, const char *text, size_t lines); /* runs until there are so many; false: never */
void world_records(struct world *w, size_t count, size_t bytes_max);
uint64_t world_random(struct world *w, uint64_t below);

void send_mark(struct node *from, struct node *to, uint64_t mark); /* a small message; marks must arrive in order */
void send_append(struct node *from, struct node *to, uint64_t prev, uint32_t count);
bool world_three(struct world *w);          /* a, b and c started, all six links up */
bool a_to_b(struct world *w, void *arg);    /* the link is up */
bool a_lost_b(struct world *w, void *arg);  /* a link of a's that was up is up no more: b's, where no other can be */
bool has_marks(struct world *w, void *arg); /* b has so many (size_t *) */

/* A connection of the test's own, which speaks bytes. */
struct raw {
    struct stream *stream;
    struct buf in;
    bool open, closed, keep_quiet;
};
extern const struct stream_events raw_events;
void raw_open(struct world *w, struct raw *r, struct node *to);
void raw_close(struct raw *r);
bool raw_is_closed(struct world *w, void *raw);
void hello_of(struct buf *out, const struct node *n, enum peer_purpose purpose, uint32_t version); /* a frame */

#endif

/* Between relay.c, relay_link.c and relay_move.c only. */
#ifndef HF_RELAY_INTERNAL_H
#define HF_RELAY_INTERNAL_H

#include <sys/queue.h>

#include "proxy/relay.h"
#include "proxy/track.h"
#include "proxy/worker_state.h"

enum relay_state {
    RELAY_DOWN,      /* no link; commands wait */
    RELAY_DIALLING,  /* asked for one */
    RELAY_GREETING,  /* it is there; the leader has not said "ready" */
    RELAY_REPLAYING, /* the prelude was sent; its replies are ours */
    RELAY_UP,        /* commands are sent as they come */
    RELAY_FINISHING, /* no link, all was answered: closes when that has left */
    RELAY_CLOSED
};

struct relay {
    TAILQ_ENTRY(relay) in_worker, in_run;
    struct worker *worker;
    enum relay_state state;
    bool runs, unix_socket;
    bool eof;      /* the client sends no more, but waits for answers */
    bool last;     /* nothing more is read: QUIT, a protocol error */
    bool refused;  /* a protocol error: closes when it was told */
    bool moved;    /* the leader hands over: what it has not answered it has not executed */
    bool rejected; /* the leader does not take the client */
    bool backup;   /* the leader sends it a file, and does so whoever leads by now: backup.h */
    bool void_tx;  /* MULTI was taken while there was no leader: EXEC will be refused */
    struct stream *client, *link;
    struct log_dial *dial;
    struct resp_parser *parser;
    struct resp_splitter *splitter;
    struct buf stash;     /* read, not parsed */
    struct buf kept;      /* commands that were sent, oldest first, as far as they are marked so */
    struct buf waiting;   /* commands not sent, canonical */
    struct request *ring; /* without a reply, oldest first; while UP all were sent, otherwise none */
    size_t head, count, cap;
    struct track track;
    size_t replaying;  /* replies to the prelude that are still owed */
    char *leader;      /* as it was known when the link was dialled */
    const char *doom;  /* to be closed at the next run */
    const char *broke; /* the link is to be given up at the next run */
    uint64_t retry_ms, stale_ms, active_ms;
};

/* relay.c */
void relay_kick(struct relay *r);
void relay_run(struct relay *r); /* takes it from the run queue and does what can be done */
void relay_say(struct relay *r, const char *bytes, size_t n); /* to the client */
void relay_error(struct relay *r, const char *text);          /* likewise: text without '-' and CRLF */
struct request *relay_oldest(struct relay *r);                /* NULL: none */
void relay_pop(struct relay *r);
void relay_say_due(struct relay *r); /* answers of our own whose turn it is */
void relay_finish(struct relay *r);
struct relay *relay_make(struct worker *w, bool unix_socket);
void relay_flow(struct relay *r); /* pauses and goes on reading, both sides */
void relay_on_sent(void *arg);    /* of both streams */
extern const struct stream_events relay_client_events;

/* relay_link.c */
void relay_dial(struct relay *r);
void relay_drop_link(struct relay *r); /* closes it, or stops dialling; what was sent is the caller's to answer */
void relay_lost(struct relay *r, const char *why); /* the same, and answers for it */
void relay_send(struct relay *r, const struct argv *a, struct request *q);

/* relay_move.c */
bool relay_may_move(const struct relay *r);
void relay_to_session(struct relay *r); /* r is gone afterwards */

#endif

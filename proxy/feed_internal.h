/* Private to feed*.c: the feed's insides. See feed.c for its life.
 *
 *   feed.c            door, state, time, the end
 *   feed_link.c       the connection: strangers, password, what Valkey says, PSYNC
 *   feed_source.c     what goes out: snapshot, stream, PING and GETACK; what was acknowledged
 *   feed_checkpoint.c which place of the log belongs to which offset, durably */
#ifndef HF_FEED_INTERNAL_H
#define HF_FEED_INTERNAL_H

#include "proxy/feed.h"
#include "proxy/feed_checkpoint.h"
#include "proxy/replay.h"
#include "proxy/resp.h"

enum {
    FEED_ID_BYTES = 40,
    FEED_PASSWORD_BYTES = sizeof FEED_PASSWORD_PREFIX - 1 + 32,
    FEED_PIECE_BYTES = 256 * 1024,    /* of file or log, per turn */
    FEED_OUT_BYTES_MAX = 1024 * 1024, /* beyond it we wait for Valkey */
    FEED_CONNECT_MS_MAX = 15000,      /* until Valkey has said the password */
    FEED_GREETING_MS_MAX = 1000,
    FEED_SILENCE_MS_MAX = 60000, /* neither takes bytes nor says anything: repl-timeout's default */
    FEED_FINDING_MS_MAX = 10000, /* for entries that were committed once and are not known to be, now */
    FEED_TICK_MS = 250,
    FEED_PING_MS = 5000, /* without anything else to say; repl-timeout is at least twice of it */
    FEED_CHECKPOINT_MS = 10000,
    FEED_CHECKPOINT_BYTES = 16 * 1024 * 1024,
    FEED_PLACES_MAX = 1024,
    FEED_WHY_BYTES_MAX = 256
};

enum feed_state {
    FEED_LISTENING,
    FEED_GREETING,
    FEED_FINDING,
    FEED_SNAPSHOT,
    FEED_STREAM,
    FEED_COMPLETE,
    FEED_CLOSED
};
enum feed_extra { EXTRA_NOTHING, EXTRA_PING, EXTRA_GETACK };

struct feed {
    struct loop *loop;
    const struct diag *diag;
    struct log *log;
    enum feed_state state;
    bool closed; /* by the owner */
    const struct feed_events *events;
    void *arg;
    struct checkpoints *checkpoints;
    char run_id[48];
    struct feed_proof proof;
    uint64_t tries; /* intents sent that Valkey may refuse */
    bool choked;    /* the pump waits until Valkey has taken what was sent */
    bool has_proof, full_next;
    char why[FEED_WHY_BYTES_MAX];

    /* ---- feed_link.c ---- */
    struct evconnlistener *listener;
    int port;
    char password[FEED_PASSWORD_BYTES + 1], replid[48];
    struct stream *stream;
    bool authenticated;
    struct tls *tls;
    bool tls_expected;
    bool greeted;    /* its first bytes were in order */
    bool complained; /* of a handshake that failed */
    uint64_t accepted_ms, waiting_ms, active_ms;
    struct loop_timer *tick, *pump;
    struct resp_limits limits;
    struct resp_pool *pool;
    struct resp_parser *parser;
    size_t out_before; /* pending at the last tick: to see whether Valkey takes bytes */
    struct {           /* FINDING: the place that Valkey asks for */
        struct replay *walk;
        bool proven; /* by feed_proof: at the end of an entry, not by bytes */
        uint64_t offset;
        uint64_t from_last; /* log_last_index() when it was begun */
        uint64_t began_ms, said_ms;
        char replid[48];
    } find;

    /* ---- feed_source.c ---- */
    int file; /* the snapshot, -1 = none */
    uint64_t file_left, rdb_bytes;
    struct replay *replay;
    uint64_t offset; /* of the end of what has gone out */
    bool heard;      /* an ACK, since the stream began */
    uint64_t acked, fed_index;
    struct feed_place {
        uint64_t offset, index;
    } place[FEED_PLACES_MAX]; /* not acknowledged yet; rising */
    size_t places;
    bool held;             /* nothing goes out until a checkpoint is durable */
    enum feed_extra extra; /* ... and then this, first */
    bool ack_wanted;       /* GETACK at the end of what is committed */
    uint64_t said_ms;      /* when something went out last */
    uint64_t checkpoint_ms;
    bool finishing, asked, wiped;
    uint64_t finish_index, goal;
};

/* ---- feed.c ---- */
void feed_fail(struct feed *f, const char *why);
void feed_random_hex(char *out, size_t n);

/* ---- feed_link.c ---- */
bool feed_listen(struct feed *f, const char *ip, char *why, size_t why_size);
void feed_unlisten(struct feed *f);
void feed_drop_stream(struct feed *f);
void feed_left(struct feed *f, const char *why); /* the connection is gone */
void feed_find_step(struct feed *f);

/* ---- feed_source.c ---- */
void feed_begin_full(struct feed *f);
void feed_begin_partial(struct feed *f, const char *replid, uint64_t offset, const struct replay_place *place);
void feed_on_pump(void *arg);
void feed_on_ack(struct feed *f, uint64_t offset);
void feed_source_tick(struct feed *f, uint64_t now_ms);
void feed_source_stop(struct feed *f); /* the connection is gone */
double feed_progress(const struct feed *f);

#endif

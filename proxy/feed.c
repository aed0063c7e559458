/* The feed's life. It plays primary to one replica: our own Valkey, told REPLICAOF us.
 *
 *     LISTENING ─▶ GREETING ─PSYNC─▶ FINDING ─┬──▶ SNAPSHOT ─────▶ STREAM ──feed_finish(), ACK──▶ COMPLETE
 *         ▲        (PING AUTH        (proof?) │    (+FULLRESYNC,     ▲  │
 *         │         REPLCONF)                 └──▶ (+CONTINUE) ──────┘  │                       any ──▶ CLOSED
 *         └───────────────── the connection breaks ─────────────────────┘
 *
 * A feed without checkpoints is for one rebuild: no partial sync, and a break is the end.
 *
 * The bytes are in feed_source.c, the connection in feed_link.c, the proofs in feed_checkpoint.c. */
#include "proxy/feed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/log.h"
#include "proxy/feed_internal.h"

void feed_fail(struct feed *f, const char *why)
{
    if (f->state == FEED_CLOSED)
        return;
    f->state = FEED_CLOSED;
    diag_log(f->diag, DIAG_DEBUG, "Feed closed: %s", why);
    f->events->closed(f->arg, why);
}

void feed_random_hex(char *out, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    unsigned char bytes[FEED_ID_BYTES];
    ssize_t got = getrandom(bytes, n, 0);

    CHECK(n <= sizeof bytes && got == (ssize_t)n);
    for (size_t i = 0; i < n; i++)
        out[i] = digit[bytes[i] & 15];
    out[n] = '\0';
}

static void tell_progress(struct feed *f)
{
    if (f->events->progress != NULL && (f->state == FEED_SNAPSHOT || f->state == FEED_STREAM))
        f->events->progress(f->arg, feed_progress(f), replay_facts(f->replay)->commands);
}

static void on_tick(void *arg)
{
    struct feed *f = arg;
    uint64_t now = loop_now_ms(f->loop);
    size_t pending = f->stream != NULL ? stream_pending(f->stream) : 0;

    if (f->state == FEED_CLOSED || f->state == FEED_COMPLETE)
        return;
    if (pending < f->out_before)
        f->active_ms = now;
    f->out_before = pending;
    tell_progress(f);
    if (f->state == FEED_CLOSED)
        return;
    if (!f->authenticated && now >= f->waiting_ms + FEED_CONNECT_MS_MAX) {
        feed_fail(f, "Valkey did not come to be fed");
    } else if (f->authenticated && f->state != FEED_FINDING && now >= f->active_ms + FEED_SILENCE_MS_MAX) {
        feed_left(f, "it neither takes the feed nor answers");
    } else {
        feed_on_pump(f);
        if (f->state != FEED_CLOSED)
            feed_source_tick(f, now);
    }
}

/* ---- the door ---- */

static void release(void *object)
{
    struct feed *f = object;

    resp_pool_free(f->pool);
    free(f);
}

static void take_settings(struct feed *f, const struct feed_settings *s)
{
    f->checkpoints = s->checkpoints;
    memcpy(f->run_id, s->run_id, strnlen(s->run_id, sizeof f->run_id - 1));
    f->tls = s->tls;
    f->tls_expected = s->tls_expected;
    f->has_proof = s->proof != NULL;
    if (f->has_proof)
        f->proof = *s->proof;
}

struct feed *feed_new(struct loop *l, const struct diag *d, struct log *log, const struct feed_settings *settings,
                      const struct feed_events *events, void *arg, char *why, size_t why_size)
{
    struct feed *f = must_calloc(1, sizeof *f);

    CHECK(events->closed != NULL);
    f->loop = l;
    f->diag = d;
    f->log = log;
    f->events = events;
    f->arg = arg;
    f->file = -1;
    take_settings(f, settings);
    f->limits = (struct resp_limits){
        .bulk_bytes_max = 65536, .query_bytes_max = 65536, .args_max = 64, .line_bytes_max = 65536};
    f->pool = resp_pool_new(&f->limits);
    f->waiting_ms = loop_now_ms(l);
    memcpy(f->password, FEED_PASSWORD_PREFIX, sizeof FEED_PASSWORD_PREFIX - 1);
    feed_random_hex(f->password + sizeof FEED_PASSWORD_PREFIX - 1, 32);
    feed_random_hex(f->replid, FEED_ID_BYTES);
    f->tick = loop_timer_new(l, on_tick, f);
    f->pump = loop_timer_new(l, feed_on_pump, f);
    if (!feed_listen(f, settings->ip, why, why_size)) {
        feed_close(f);
        return NULL;
    }
    loop_timer_every(f->tick, FEED_TICK_MS);
    return f;
}

void feed_close(struct feed *f)
{
    if (f == NULL || f->closed)
        return;
    f->closed = true;
    f->state = FEED_CLOSED;
    feed_drop_stream(f);
    feed_source_stop(f);
    feed_unlisten(f);
    replay_free(f->replay);
    f->replay = NULL;
    loop_timer_free(f->tick);
    loop_timer_free(f->pump);
    loop_bury(f->loop, f, release);
}

void feed_more(struct feed *f)
{
    if (f->state == FEED_STREAM || f->state == FEED_FINDING)
        loop_timer_once(f->pump, 0);
}

void feed_resync(struct feed *f)
{
    f->full_next = true;
    f->has_proof = false;
    if (f->checkpoints != NULL)
        checkpoints_wipe(f->checkpoints, NULL, NULL);
    if (f->authenticated)
        feed_left(f, "it is to begin anew");
}

int feed_port(const struct feed *f)
{
    return f->port;
}

const char *feed_password(const struct feed *f)
{
    return f->password;
}

const char *feed_replid(const struct feed *f)
{
    return f->replid;
}

uint64_t feed_tries(const struct feed *f)
{
    return f->tries;
}

uint64_t feed_offset(const struct feed *f)
{
    return f->offset;
}

uint64_t feed_behind(const struct feed *f)
{
    uint64_t first = log_first_index(f->log), last = log_committed(f->log), walked;
    uint64_t sent = f->heard ? f->offset - f->acked : f->offset, left = 0;

    if (f->replay == NULL || (f->state != FEED_STREAM && f->state != FEED_COMPLETE))
        return UINT64_MAX;
    walked = replay_walked(f->replay);
    if (last >= first && walked < last)
        left = (uint64_t)((double)log_bytes(f->log) * (double)(last - walked) / (double)(last + 1 - first));
    return sent + left;
}

const struct replay_facts *feed_facts(const struct feed *f)
{
    return f->replay != NULL && (f->state == FEED_STREAM || f->state == FEED_COMPLETE) ? replay_facts(f->replay)
                                                                                       : NULL;
}

bool feed_drained(const struct feed *f)
{
    return f->state == FEED_STREAM && !f->held && replay_walked(f->replay) >= log_committed(f->log);
}

/* A ring of samples. What only grows (counters, histograms) is kept as the difference to the sample before, so that a
 * sample says what happened in its second:
 *
 *   status:   writes 1000, 1040 ...   release_us buckets      ─▶  sample: 40 writes, their p50 and p99 */
#include "proxy/admin_history.h"

#include <inttypes.h>
#include <stddef.h>

#include "log/base/buf.h"
#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/status.h"

/* Whose quantiles a sample has. "p50_us" and "p99_us" without a name are those of release_us. */
static const struct {
    const char *prefix;
    size_t at; /* in struct status */
} latencies[] = {{"", offsetof(struct status, release_us)},
                 {"commit_", offsetof(struct status, commit_us)},
                 {"fsync_", offsetof(struct status, fsync_us)},
                 {"forward_", offsetof(struct status, forward_us)}};
enum { LATENCIES = sizeof latencies / sizeof *latencies };

struct sample {
    uint64_t unix_ms, lag_ms, pending_bytes, commands, writes, rejected, uncertain, sessions;
    struct {
        uint64_t p50, p99;
    } us[LATENCIES];
    bool refusing;
};
struct history {
    struct loop_timer *timer;
    const struct status *(*fill)(void *arg);
    void *arg;
    struct sample at[HISTORY_SAMPLES];
    uint64_t taken; /* at[taken % HISTORY_SAMPLES] is the next */
    uint64_t commands, writes, rejected, uncertain;
    struct histogram before[LATENCIES];
};

static uint64_t rise(uint64_t *before, uint64_t now)
{
    uint64_t by = now > *before ? now - *before : 0;

    *before = now;
    return by;
}

static void quantiles(struct history *h, const struct status *s, struct sample *to)
{
    for (size_t k = 0; k < LATENCIES; k++) {
        const struct histogram *now = (const void *)((const char *)s + latencies[k].at);
        struct histogram *before = &h->before[k], second = {.count = now->count - before->count};

        for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
            second.bucket[i] = now->bucket[i] - before->bucket[i];
        to->us[k].p50 = histogram_quantile_us(&second, 0.5);
        to->us[k].p99 = histogram_quantile_us(&second, 0.99);
        *before = *now;
    }
}

static void take(void *arg)
{
    struct history *h = arg;
    const struct status *s = h->fill(h->arg);
    struct sample *to = &h->at[h->taken % HISTORY_SAMPLES];

    *to = (struct sample){.unix_ms = clock_wall_ms(),
                          .lag_ms = s->lag_ms,
                          .pending_bytes = s->pending_bytes,
                          .sessions = s->sessions + s->relays,
                          .refusing = s->refusing_writes};
    to->commands = rise(&h->commands, s->commands);
    to->writes = rise(&h->writes, s->writes_sync + s->writes_captured + s->writes_async);
    to->rejected = rise(&h->rejected, s->writes_rejected);
    to->uncertain = rise(&h->uncertain, s->writes_uncertain);
    quantiles(h, s, to);
    h->taken++;
}

struct history *history_new(struct loop *l, const struct status *(*fill)(void *arg), void *arg)
{
    struct history *h = must_calloc(1, sizeof *h);

    h->fill = fill;
    h->arg = arg;
    h->timer = loop_timer_new(l, take, h);
    loop_timer_every(h->timer, HISTORY_EVERY_MS);
    return h;
}

void history_free(struct history *h)
{
    if (h == NULL)
        return;
    loop_timer_free(h->timer);
    free(h);
}

static void sample_json(const struct sample *s, struct buf *out)
{
    buf_printf(out, "[%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64, s->unix_ms,
               s->lag_ms, s->pending_bytes, s->commands, s->writes, s->rejected, s->uncertain);
    for (size_t k = 0; k < LATENCIES; k++)
        buf_printf(out, ",%" PRId64 ",%" PRId64, (int64_t)s->us[k].p50, (int64_t)s->us[k].p99); /* -1: no bound */
    buf_printf(out, ",%" PRIu64 ",%d]", s->sessions, s->refusing);
}

void history_json(const struct history *h, uint64_t since_unix_ms, struct buf *out)
{
    uint64_t first = h->taken > HISTORY_SAMPLES ? h->taken - HISTORY_SAMPLES : 0;
    const char *comma = "";

    buf_printf(out,
               "{\"every_ms\": %d, \"fields\": [\"unix_ms\", \"lag_ms\", \"pending_bytes\", \"commands\", "
               "\"writes\", \"rejected\", \"uncertain\", ",
               HISTORY_EVERY_MS);
    for (size_t k = 0; k < LATENCIES; k++)
        buf_printf(out, "\"%sp50_us\", \"%sp99_us\", ", latencies[k].prefix, latencies[k].prefix);
    buf_text(out, "\"sessions\", \"refusing\"], \"samples\": [");
    for (uint64_t i = first; i < h->taken; i++) {
        const struct sample *s = &h->at[i % HISTORY_SAMPLES];

        if (s->unix_ms <= since_unix_ms)
            continue;
        buf_text(out, comma);
        sample_json(s, out);
        comma = ",";
    }
    buf_text(out, "]}\n");
}

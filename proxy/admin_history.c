/* A ring of samples. What only grows (counters, histograms) is kept as the difference to the sample before, so that a
 * sample says what happened in its second:
 *
 *   status:   writes 1000, 1040 ...   release_us buckets      ─▶  sample: 40 writes, their p50 and p99 */
#include "proxy/admin_history.h"

#include <inttypes.h>

#include "log/base/buf.h"
#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "proxy/status.h"

struct sample {
    uint64_t unix_ms, lag_ms, pending_bytes, commands, writes, rejected, uncertain, p50_us, p99_us, sessions;
    bool refusing;
};
struct history {
    struct loop_timer *timer;
    const struct status *(*fill)(void *arg);
    void *arg;
    struct sample at[HISTORY_SAMPLES];
    uint64_t taken; /* at[taken % HISTORY_SAMPLES] is the next */
    uint64_t commands, writes, rejected, uncertain;
    struct histogram release_us;
};

static uint64_t rise(uint64_t *before, uint64_t now)
{
    uint64_t by = now > *before ? now - *before : 0;

    *before = now;
    return by;
}

static void quantiles(struct history *h, const struct histogram *now, struct sample *to)
{
    struct histogram second = {.count = now->count - h->release_us.count};

    for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
        second.bucket[i] = now->bucket[i] - h->release_us.bucket[i];
    to->p50_us = histogram_quantile_us(&second, 0.5);
    to->p99_us = histogram_quantile_us(&second, 0.99);
    h->release_us = *now;
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
    quantiles(h, &s->release_us, to);
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

void history_json(const struct history *h, uint64_t since_unix_ms, struct buf *out)
{
    uint64_t first = h->taken > HISTORY_SAMPLES ? h->taken - HISTORY_SAMPLES : 0;
    const char *comma = "";

    buf_printf(out,
               "{\"every_ms\": %d, \"fields\": [\"unix_ms\", \"lag_ms\", \"pending_bytes\", \"commands\", "
               "\"writes\", \"rejected\", \"uncertain\", \"p50_us\", \"p99_us\", \"sessions\", \"refusing\"], "
               "\"samples\": [",
               HISTORY_EVERY_MS);
    for (uint64_t i = first; i < h->taken; i++) {
        const struct sample *s = &h->at[i % HISTORY_SAMPLES];

        if (s->unix_ms <= since_unix_ms)
            continue;
        buf_printf(out, "%s[%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64, comma, s->unix_ms, s->lag_ms,
                   s->pending_bytes, s->commands, s->writes);
        buf_printf(out, ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%d]", s->rejected, s->uncertain,
                   s->p50_us, s->p99_us, s->sessions, s->refusing);
        comma = ",";
    }
    buf_text(out, "]}\n");
}

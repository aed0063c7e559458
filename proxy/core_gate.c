/* The gate: what the worker reads before it accepts a write. How old and how large what is not durable may become,
 * and what is said when it is too much.
 *
 *   lag, bytes, log ─▶ refusal_now() ─▶ gate->refusal ─▶ the worker answers CLUSTERDOWN
 *
 * Each refusal ends lower than it began, so that it does not flicker: the lag at a tenth of its limit, bytes at half.
 */
#include "proxy/core_internal.h"

#include "log/log.h"

enum {
    PENDING_LOG_SHARE = 8, /* what waits to be committed takes at most this part of log-size-max */
    ROOM_LOG_SHARE = 4,    /* writes are refused when less than this part of it is left */
    BEHIND_MS = 1000,      /* the oldest write that is not durable, to be told; half of durability-lag-max at most */
    BEHIND_END_SHARE = 4
};

/* A batch is one entry of the log and must fit. */
static uint64_t pending_max(const struct core *c)
{
    uint64_t share = c->config->log_size_max / PENDING_LOG_SHARE;

    if (!log_alone(c->log) && share > LOG_BATCH_BYTES_MAX) /* and on a link between members */
        share = LOG_BATCH_BYTES_MAX;
    return c->config->durability_buffer_max < share ? c->config->durability_buffer_max : share;
}

/* A log without any room takes no OUTCOME, so no snapshot becomes valid and nothing can be truncated, for ever.
 * Writes end before that; what is under way finds room, and a snapshot follows. */
static bool log_too_long(const struct core *c, uint64_t pending)
{
    uint64_t max = c->config->log_size_max, used = log_bytes(c->log) + pending;

    return used > max - max / ROOM_LOG_SHARE || (c->refusal == WRITES_REFUSED_LOG_SIZE && used > max / 2);
}

static enum gate_refusal refusal_now(const struct core *c, uint64_t lag_us, uint64_t pending)
{
    uint64_t max_us = (uint64_t)c->config->durability_lag_max_ms * 1000u, max = pending_max(c);

    /* No later than on_tick() gives the oldest up: who was told UNCERTAIN must find the gate shut. */
    if (lag_us >= max_us || (c->refusal == WRITES_REFUSED_LAG && lag_us > max_us / 10))
        return WRITES_REFUSED_LAG;
    if (pending > max || (c->refusal == WRITES_REFUSED_BUFFER && pending > max / 2))
        return WRITES_REFUSED_BUFFER;
    if (log_too_long(c, pending))
        return WRITES_REFUSED_LOG_SIZE;
    if (c->lost)
        return WRITES_REFUSED_NO_QUORUM;
    return log_stalled(c->log) ? WRITES_REFUSED_LOG_FULL : WRITES_ACCEPTED;
}

static const char *refusal_text(const struct core *c, enum gate_refusal why)
{
    switch (why) {
    case WRITES_REFUSED_LAG:
        return "the oldest one that is not durable is older than durability-lag-max";
    case WRITES_REFUSED_BUFFER:
        return "more is not yet durable than durability-buffer-max or log-size-max allow";
    case WRITES_REFUSED_LOG_SIZE:
        return "the log nears log-size-max, a snapshot must make room";
    case WRITES_REFUSED_NO_QUORUM:
        return "a majority of the members cannot be reached";
    case WRITES_REFUSED_LOG_FULL:
    case WRITES_ACCEPTED:
        break;
    }
    return c->stalled_why;
}

/* One line when writes are refused, or for another reason than before, and one when that is over. */
static void say_refusal(struct core *c, enum gate_refusal want, uint64_t lag_us, uint64_t pending)
{
    uint64_t now = loop_now_ms(c->loop);

    if (want == WRITES_REFUSED_NO_QUORUM || (want == WRITES_ACCEPTED && !c->refusal_said))
        return; /* the log has said that this node leads no longer, and says when one does */
    if (!c->refusal_said)
        c->refusing_since_ms = now;
    c->refusal_said = want != WRITES_ACCEPTED;
    if (want != WRITES_ACCEPTED)
        diag_log(c->diag, DIAG_WARNING, "Writes are refused: %s (lag %llu ms, %llu bytes not yet durable)",
                 refusal_text(c, want), (unsigned long long)(lag_us / 1000), (unsigned long long)pending);
    else if (!c->leads)
        diag_log(c->diag, DIAG_NOTICE, "Writes are another node's to accept: this one leads no longer");
    else
        diag_log(c->diag, DIAG_NOTICE,
                 "Writes are accepted again: the log has caught up (they were refused for %llu ms)",
                 (unsigned long long)(now - c->refusing_since_ms));
}

static const char *behind_cause(const struct core *c, uint64_t disk_ms_max)
{
    if (log_stalled(c->log))
        return c->stalled_why;
    if (log_disk_ms(c->log) > disk_ms_max)
        return "our disk does not answer";
    if (!log_alone(c->log) && log_pending_bytes(c->log) > 0)
        return "a majority of the members has not confirmed it";
    return "Valkey or this process is slow";
}

/* Before anything is refused: that what is written does not become durable, and what it waits for. */
static void say_behind(struct core *c, uint64_t lag_us)
{
    uint64_t max_us = (uint64_t)c->config->durability_lag_max_ms * 1000u, begin_us = BEHIND_MS * 1000u;
    enum diag_level level;

    if (begin_us > max_us / 2)
        begin_us = max_us / 2;
    if (!c->behind && lag_us >= begin_us) {
        c->behind = true;
        c->behind_since_ms = loop_now_ms(c->loop) - lag_us / 1000;
        c->behind_level = diag_limited(&c->behind_said, loop_now_ms(c->loop), 1, DIAG_WARNING);
        diag_log(
            c->diag, c->behind_level,
            "The log falls behind: the oldest write has not been durable for %llu ms, %s (durability-lag-max %d ms)",
            (unsigned long long)(lag_us / 1000), behind_cause(c, begin_us / 2000), c->config->durability_lag_max_ms);
    } else if (c->behind && lag_us < begin_us / BEHIND_END_SHARE) {
        level = c->behind_level == DIAG_WARNING ? DIAG_NOTICE : c->behind_level;
        c->behind = false;
        diag_log(c->diag, level,
                 c->leads ? "The log keeps up again, after %llu ms"
                          : "What was not durable is not this node's any more, after %llu ms",
                 (unsigned long long)(loop_now_ms(c->loop) - c->behind_since_ms));
    }
}

void core_refusal(struct core *c)
{
    uint64_t oldest = seq_oldest_us(c->seq), now = loop_now_us(c->loop);
    uint64_t lag_us = oldest != 0 && now > oldest ? now - oldest : 0;
    uint64_t pending = log_pending_bytes(c->log);
    enum gate_refusal want = refusal_now(c, lag_us, pending);

    say_behind(c, lag_us);
    if (want == c->refusal)
        return;
    say_refusal(c, want, lag_us, pending);
    c->refusal = want;
    atomic_store(&c->set.gate->refusal, (int)want);
}

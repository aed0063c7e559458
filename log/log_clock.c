/* Wall clocks. Valkey expires keys by its own clock, so a new leader's must not be behind the last one's: a key that
 * was seen expired would be seen again.
 *
 *     leader ─▶ its clock with every message, and in the log once a second while it writes
 *                                                                             └─▶ followers remember the newest
 *     new leader: serves once its own clock is past that, or clock-skew-max later, with an alarm
 *
 * The alarm instead of waiting on: a clock that is wrong by hours must not stop the group. */
#include "log/base/clock.h"
#include "log/log_internal.h"

enum {
    CLOCK_EVERY_MS = 1000, /* a leader that writes logs its wall clock so often */
    CLOCK_ENTRIES = 256    /* of the log's end are looked at for one */
};

void group_log_clock(struct log *l)
{
    struct buf body = {0};

    if (l->alone || (l->clock_logged_ms != 0 && clock_mono_ms() < l->clock_logged_ms + CLOCK_EVERY_MS))
        return;
    l->clock_logged_ms = clock_mono_ms();
    buf_varint(&body, clock_wall_ms());
    frame_control(&l->open, CONTROL_CLOCK, buf_head(&body), body.len);
    buf_free(&body);
}

static void take_clock(void *arg, const struct entry_view *e)
{
    struct log *l = arg;
    struct cursor frames = e->frames;
    struct frame_view f;
    uint64_t wall;

    while (frame_next(&frames, &f))
        if (f.kind == FRAME_CONTROL && f.control == CONTROL_CLOCK &&
            (wall = cursor_varint(&f.body)) > l->clock_heard_ms)
            l->clock_heard_ms = wall;
}

/* Nobody has led since this process began: what the last leader logged is all that is known. */
static void look_for_clock(struct log *l)
{
    uint64_t last = l->kept.last, from = last > CLOCK_ENTRIES ? last - CLOCK_ENTRIES : 1;
    char why[LOG_WHY_BYTES];

    from = from > l->kept.first ? from : l->kept.first;
    while (from <= last && store_read(l->store, &from, last, SIZE_MAX, take_clock, l, why) == STORE_OK)
        continue;
}

bool group_clock_is_past(struct log *l)
{
    uint64_t wall = clock_wall_ms(), waited = clock_mono_ms() - l->lead_since_ms;

    if (l->clock_heard_ms == 0 && !l->alone)
        look_for_clock(l);
    if (wall >= l->clock_heard_ms)
        return true;
    if (waited < l->set.clock_skew_max_ms)
        return false;
    diag_log(l->diag, DIAG_WARNING,
             "CLOCK SKEW: the leader before this node was %llu ms ahead of it; keys that had expired there may be "
             "seen again",
             (unsigned long long)(l->clock_heard_ms - wall));
    l->clock_heard_ms = wall;
    return true;
}

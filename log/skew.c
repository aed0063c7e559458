#include "log/skew.h"

void skew_heard(struct skew *s, int64_t difference_ms, uint64_t now_ms)
{
    if (s->since_ms != 0 && now_ms - s->since_ms >= SKEW_WINDOW_MS)
        s->ms = s->most; /* the window that has ended */
    if (s->since_ms == 0 || now_ms - s->since_ms >= SKEW_WINDOW_MS) {
        s->since_ms = now_ms;
        s->most = difference_ms;
    } else if (difference_ms > s->most) {
        s->most = difference_ms;
    }
    if (difference_ms > s->ms)
        s->ms = difference_ms;
}

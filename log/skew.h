/* How far another member's wall clock is off ours, from the time that its messages carry. Pure.
 *
 * A message takes time, and more when one of us is stalled: its clock seems behind by that much, and never ahead. So
 * the truth is the most that was seen in a while:
 *
 *   heard, ms:   -3   -2 │ -1900 (we were stalled)   -2   -4 │        skew: -2, -2
 *
 * A window must end before it counts, but for what makes the clock seem further ahead than we thought. */
#ifndef HF_SKEW_H
#define HF_SKEW_H

#include <stdint.h>

enum { SKEW_WINDOW_MS = 1000 };

struct skew { /* zeroed: nothing heard yet */
    uint64_t since_ms;
    int64_t most;
    int64_t ms; /* what we take it for */
};

/* difference_ms: its wall clock as it was sent, less ours as it came. now_ms: monotonic, not 0. */
void skew_heard(struct skew *s, int64_t difference_ms, uint64_t now_ms);

#endif

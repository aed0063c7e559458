/* What is wrong with a node and its group, in words, and what to do about it. Pure: from the status alone.
 *
 *   member c is silent for 12 s  ─▶  warning   "c (az-c) has not been heard for 12 s: one more loss ends service"
 *                                              "Start it, or see README, Operations: a lost disk"
 *
 * Shown on the admin port's page and in /status ("problems"), by holdfast ctl status, worst first. */
#ifndef HF_ADVICE_H
#define HF_ADVICE_H

#include <stddef.h>

#include "proxy/status.h"

enum advice_severity {
    ADVICE_CRITICAL,
    ADVICE_WARNING
}; /* service is refused; it will be, or less is left to lose */
enum { ADVICE_MAX = 32, ADVICE_TEXT_BYTES_MAX = 256 };

struct advice {
    enum advice_severity severity;
    char what[ADVICE_TEXT_BYTES_MAX];
    const char *todo;
};
struct advices {
    struct advice at[ADVICE_MAX];
    size_t count;
};

void advice_of(const struct status *s, uint64_t clock_skew_max_ms, struct advices *out);
const char *advice_severity_name(enum advice_severity severity);

#endif

/* Histograms with fixed, logarithmic buckets: adding costs a few instructions, and they can be shown as Prometheus
 * buckets. */
#ifndef HF_METRICS_H
#define HF_METRICS_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 24 }; /* upper bounds 2^i * 8 microseconds, i = 0..22; the last one is unbounded */

struct histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS]; /* not cumulative */
    uint64_t count, sum_us;
};
void histogram_add(struct histogram *h, uint64_t us);
uint64_t histogram_bound_us(int bucket);                             /* UINT64_MAX for the last */
uint64_t histogram_quantile_us(const struct histogram *h, double q); /* upper bound of the bucket that holds it */

#endif

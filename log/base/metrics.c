#include "log/base/metrics.h"

#include "log/base/diag.h"

enum { FIRST_BOUND_US = 8 };

uint64_t histogram_bound_us(int bucket)
{
    CHECK(bucket >= 0 && bucket < HISTOGRAM_BUCKETS);
    return bucket == HISTOGRAM_BUCKETS - 1 ? UINT64_MAX : (uint64_t)FIRST_BOUND_US << bucket;
}

void histogram_add(struct histogram *h, uint64_t us)
{
    int bucket = 0;

    /* The smallest i with us <= 8 * 2^i: bounds are inclusive, as Prometheus' `le`. */
    if (us > FIRST_BOUND_US)
        bucket = 64 - __builtin_clzll((us - 1) / FIRST_BOUND_US);
    if (bucket >= HISTOGRAM_BUCKETS)
        bucket = HISTOGRAM_BUCKETS - 1;
    h->bucket[bucket]++;
    h->count++;
    h->sum_us += us;
}

uint64_t histogram_quantile_us(const struct histogram *h, double q)
{
    double wanted = q * (double)h->count;
    uint64_t seen = 0;

    if (h->count == 0)
        return 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > 0 && (double)seen >= wanted)
            return histogram_bound_us(i);
    }
    return histogram_bound_us(HISTOGRAM_BUCKETS - 1);
}

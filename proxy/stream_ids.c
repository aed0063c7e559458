/* See stream_ids.h. */
#include "proxy/stream_ids.h"

struct stream_id stream_ids_next(struct stream_ids *t, uint64_t key, uint64_t now_ms)
{
    uint64_t hash = key != 0 ? key : 1;
    struct stream_id *last = &t->at[hash % STREAM_IDS_MAX].last, id = {now_ms, 0};

    if (t->at[hash % STREAM_IDS_MAX].key == hash && last->ms >= now_ms) {
        id = *last;
        if (++id.seq == 0)
            id.ms++;
    }
    t->at[hash % STREAM_IDS_MAX].key = hash;
    *last = id;
    return id;
}

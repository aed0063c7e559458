/* Snapshots from other members. */
#include "log/base/stream.h"
#include "log/log_internal.h"

void fetch_wanted(struct log *l, uint64_t from, uint64_t last_index)
{
    (void)l;
    (void)from;
    (void)last_index;
}

void fetch_base(struct log *l, const struct record *r)
{
    (void)l;
    (void)r;
}

void fetch_serve(struct log *l, struct stream *s, const struct peer_hello *h)
{
    (void)l;
    (void)h;
    stream_close(s);
}

void fetch_tick(struct log *l)
{
    (void)l;
}

void fetch_installed(struct log *l)
{
    (void)l;
}

void fetch_free(struct log *l)
{
    (void)l;
}

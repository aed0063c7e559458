/* Until peer.c and tls.c are here. */
#include "log/base/tls.h"
#include "log/peer.h"
#include "log/base/stream.h"
#define W __attribute__((weak))
W struct peers *peers_new(struct loop *l, const struct diag *d, const struct peers_settings *s,
                          const struct peers_events *events, void *arg, char *why, size_t why_size)
{
    (void)l;
    (void)d;
    (void)s;
    (void)events;
    (void)arg;
    (void)why;
    (void)why_size;
    return NULL;
}
W void peers_free(struct peers *p)
{
    (void)p;
}
W void peers_set(struct peers *p, const struct members *m)
{
    (void)p;
    (void)m;
}
W void peers_send(struct peers *p, const struct peer_message *m)
{
    (void)p;
    (void)m;
}
W struct peer_dial *peers_dial(struct peers *p, const struct member *to, enum peer_purpose purpose, const void *extra,
                               size_t n, void (*done)(void *arg, struct stream *s, const char *why), void *arg)
{
    (void)p;
    (void)to;
    (void)purpose;
    (void)extra;
    (void)n;
    (void)done;
    (void)arg;
    return NULL;
}
W void peer_dial_cancel(struct peer_dial *d)
{
    (void)d;
}
W struct tls *tls_new(const struct tls_settings *s, char *why, size_t why_size)
{
    (void)s;
    (void)why;
    (void)why_size;
    return NULL;
}
W void tls_free(struct tls *t)
{
    (void)t;
}

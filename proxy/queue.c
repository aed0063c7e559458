/* The message rings between worker and core (message.h): they grow, because what they carry is bounded by the ops'
 * own limits. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "proxy/message.h"

void queue_push(struct queue *q, struct message m)
{
    if (q->count == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 256;
        struct message *ring = must_calloc(cap, sizeof *ring);

        for (size_t i = 0; i < q->count; i++)
            ring[i] = q->ring[(q->head + i) & (q->cap - 1)];
        free(q->ring);
        q->ring = ring;
        q->cap = cap;
        q->head = 0;
    }
    q->ring[(q->head + q->count++) & (q->cap - 1)] = m;
}

bool queue_pop(struct queue *q, struct message *out)
{
    if (q->count == 0)
        return false;
    *out = q->ring[q->head];
    q->head = (q->head + 1) & (q->cap - 1);
    q->count--;
    return true;
}

void queue_free(struct queue *q)
{
    free(q->ring);
    memset(q, 0, sizeof *q);
}

void valkey_identity_free(struct valkey_identity *v)
{
    if (v == NULL)
        return;
    free(v->commands);
    free(v);
}

void backup_ticket_free(struct backup_ticket *t)
{
    if (t->fd >= 0)
        (void)close(t->fd);
    free(t);
}

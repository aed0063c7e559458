/* The door of the peer links, and what its parts share. The parts are named in peer_internal.h. */
#include "log/peer.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "log/base/clock.h"
#include "log/base/hash.h"
#include "log/peer_internal.h"

const char peers_unwanted[] = "not wanted any more";

/* ---- shared ---- */

/* At most PEER_COMPLAINTS_MAX different lines in PEER_REPEAT_MS: strangers cannot fill the log. */
void peers_complain(struct peers *p, struct complaints *c, const char *who, const char *what)
{
    uint64_t now = loop_now_ms(p->loop), hash = hash64(what, strlen(what), hash64(who, strlen(who), 0));
    size_t free_at = PEER_COMPLAINTS_MAX;

    for (size_t i = 0; i < PEER_COMPLAINTS_MAX; i++) {
        bool lately = c->said[i].at_ms != 0 && now - c->said[i].at_ms < PEER_REPEAT_MS;

        if (lately && c->said[i].hash == hash)
            return;
        if (!lately)
            free_at = i;
    }
    if (free_at == PEER_COMPLAINTS_MAX)
        return;
    c->said[free_at].hash = hash;
    c->said[free_at].at_ms = now;
    diag_log(p->diag, DIAG_WARNING, "peer %s: %s", who, what);
}

uint64_t peers_random(struct peers *p, uint64_t below)
{
    p->random ^= p->random << 13; /* xorshift64 */
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random % below;
}

/* ---- the door ---- */

static void on_check(void *arg)
{
    struct peers *p = arg;

    for (size_t i = 0; i < p->link_count; i++)
        link_check(p->links[i]);
}

struct peers *peers_new(struct loop *l, const struct diag *d, const struct peers_settings *s,
                        const struct peers_events *events, void *arg, char *why, size_t why_size)
{
    struct peers *p = must_calloc(1, sizeof *p);

    p->loop = l;
    p->diag = d;
    p->cluster = must_strdup(s->cluster);
    p->self = s->self;
    p->tls = s->tls;
    p->events = events;
    p->arg = arg;
    if (getrandom(&p->random, sizeof p->random, 0) != (ssize_t)sizeof p->random)
        p->random = clock_mono_us();
    p->random |= 1;
    p->resolver = resolver_new(l);
    p->check = loop_timer_new(l, on_check, p);
    loop_timer_every(p->check, PEER_CHECK_MS);
    p->listener = listener_new(p, s->listen, why, why_size);
    if (p->listener != NULL)
        return p;
    peers_free(p);
    return NULL;
}

static void release(void *object)
{
    struct peers *p = object;

    free(p->cluster);
    free(p);
}

void peers_free(struct peers *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->link_count; i++)
        link_free(p->links[i]);
    p->link_count = 0;
    while (p->waiting != NULL)
        peer_dial_cancel(p->waiting);
    while (p->dials != NULL)
        peer_dial_cancel(p->dials);
    listener_free(p->listener);
    resolver_free(p->resolver);
    loop_timer_free(p->check);
    loop_bury(p->loop, p, release);
}

static bool is_self(const struct peers *p, const struct member *m)
{
    return strcmp(m->name, p->self.name) == 0 || (m->id != 0 && m->id == p->self.id);
}

static bool wanted(const struct peers *p, const struct peer_link *k, const struct members *m)
{
    for (size_t i = 0; i < m->count; i++)
        if (!is_self(p, &m->at[i]) && link_is_to(k, &m->at[i]))
            return true;
    return false;
}

static bool has_link(const struct peers *p, const struct member *m)
{
    for (size_t i = 0; i < p->link_count; i++)
        if (link_is_to(p->links[i], m))
            return true;
    return false;
}

void peers_set(struct peers *p, const struct members *m)
{
    uint64_t gone[MEMBERS_MAX];
    size_t kept = 0, gone_count = 0;

    CHECK(m->count <= MEMBERS_MAX);
    for (size_t i = 0; i < p->link_count; i++) {
        if (wanted(p, p->links[i], m)) {
            p->links[kept++] = p->links[i];
            continue;
        }
        if (link_id(p->links[i]) != 0)
            gone[gone_count++] = link_id(p->links[i]);
        link_free(p->links[i]);
    }
    p->link_count = kept;
    for (size_t i = 0; i < m->count; i++)
        if (!is_self(p, &m->at[i]) && !has_link(p, &m->at[i]) && p->link_count < MEMBERS_MAX)
            p->links[p->link_count++] = link_new(p, &m->at[i]);
    for (size_t i = 0; i < gone_count; i++)
        p->events->link(p->arg, gone[i], false, peers_unwanted);
}

void peers_hurry(struct peers *p, const char *name)
{
    for (size_t i = 0; i < p->link_count; i++)
        if (link_is_named(p->links[i], name))
            link_hurry(p->links[i]);
}

static struct peer_link *link_to(const struct peers *p, uint64_t id)
{
    for (size_t i = 0; i < p->link_count; i++)
        if (id != 0 && link_id(p->links[i]) == id)
            return p->links[i];
    return NULL;
}

void peers_send(struct peers *p, const struct peer_message *m)
{
    struct peer_link *k = link_to(p, m->peer);

    if (k != NULL)
        link_send(k, m);
}

bool peers_up(const struct peers *p, uint64_t id)
{
    return link_to(p, id) != NULL;
}

/* What is true of a session now: its mode, who it is, whether its commands may run here. */
#include <stdatomic.h>

#include "log/base/stream.h"
#include "proxy/session.h"
#include "proxy/users.h"
#include "proxy/worker_state.h"

bool session_serves(const struct session *s)
{
    return !s->moves && (s->reader || worker_leads(s->worker));
}

enum durability session_mode(const struct session *s)
{
    if (s->reader) /* it promises nothing, and nothing waits for the log */
        return DURABILITY_OFF;
    switch (s->choice) {
    case CHOICE_OFF:
        return DURABILITY_OFF;
    case CHOICE_ASYNC:
        return DURABILITY_ASYNC;
    case CHOICE_SYNC:
        return DURABILITY_SYNC;
    case CHOICE_DEFAULT:
        break;
    }
    return (enum durability)atomic_load_explicit(&s->worker->set.gate->mode, memory_order_relaxed);
}

void session_count_sync(struct session *s)
{
    struct worker *w = s->worker;
    bool sync = s->state != SESSION_CLOSED && session_mode(s) == DURABILITY_SYNC;

    if (sync == s->counted_sync)
        return;
    s->counted_sync = sync;
    w->sync_sessions += sync ? 1u : UINT64_MAX;
    worker_post(w, TO_CORE_SYNC_SESSIONS, NULL, w->sync_sessions);
}

bool session_stateful(const struct session *s)
{
    return s->watching || s->tracking || s->no_touch || s->no_evict || s->monitoring || s->redirected_to ||
           s->channels + s->shard_channels > 0;
}

/* Authenticated stays so, as in Valkey, when the default user gets a password later. */
enum authentication session_authentication(struct session *s)
{
    const struct user_rights *r;

    if (s->authenticated)
        return AUTH_DONE;
    if (!users_known(s->worker->users))
        return AUTH_UNKNOWN;
    r = user_rights(users_default(s->worker->users));
    if (!r->on || !r->nopass)
        return AUTH_NEEDED;
    s->authenticated = true;
    return AUTH_DONE;
}

bool session_full(const struct session *s)
{
    const struct user *u = s->user != NULL ? s->user : users_default(s->worker->users);

    return s->authenticated && user_rights(u)->full;
}

bool session_blocked(const struct session *s)
{
    const struct op *op;

    if (s->paused)
        return true;
    TAILQ_FOREACH(op, &s->ops, in_session)
    {
        if (!op->came && ((const struct task *)op)->blocks)
            return true;
    }
    return false;
}

size_t session_memory(const struct session *s)
{
    return sizeof *s + s->stash.cap + resp_parser_bytes(s->parser) + stream_pending(s->stream) + s->inflight_bytes +
           s->op_count * sizeof(struct task) + (s->tx != NULL ? s->tx->queued.cap : 0);
}

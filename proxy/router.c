/* The router's decisions, in the order in which they are made:
 *
 *   1. the state of the connection (MONITOR, RESP2 subscriptions) allows a few commands only
 *   2. refused commands, and arguments that nobody may use (the markers' channel, redis.set_repl in sync mode); by
 *      reader-port, whatever may write
 *   3. what we answer without Valkey
 *   4. no Valkey: LOADING
 *   5. writes while the log is behind: CLUSTERDOWN (never in mode off). Nothing has been logged or forwarded yet.
 *   6. MULTI: everything else is queued by Valkey
 *   7. where it runs: a command that needs or finds connection state, or belongs to a restricted user, is pinned; of
 *      the others, reads go to shared lanes, writes by mode
 *
 * What Valkey's flags do not say clearly is taken for a write: a captured write is always right, only slower. */
#include "proxy/router.h"

#include <string.h>

#include "proxy/scripts.h"

static bool has_flag(const struct route_facts *f, uint32_t flag)
{
    return f->command != NULL && (f->command->flags & flag) != 0;
}

/* A container command whose subcommand Valkey did not list; alone, the container is itself a command (COMMAND). */
static bool unknown(const struct route_facts *f)
{
    return f->command == NULL || (has_flag(f, CMD_CONTAINER) && f->args->count > 1);
}

/* A script without writes is a read: Valkey holds it to that, PFCOUNT included. */
static bool promises_no_writes(const struct route_facts *f)
{
    if (!argv_is(f->args, 0, "eval"))
        return f->no_writes;
    return f->args->count > 1 && script_promises_no_writes(argv_at(f->args, 1), argv_len(f->args, 1));
}

bool route_may_write(const struct route_facts *f)
{
    if (f->treatment == TREAT_CAPTURED)
        return true;
    if (f->treatment != TREAT_BY_FLAGS)
        return false;
    if (unknown(f) || has_flag(f, CMD_WRITE))
        return true;
    if (has_flag(f, CMD_SCRIPT))
        return !has_flag(f, CMD_READONLY) && !promises_no_writes(f);
    /* PFCOUNT may rewrite its key; PUBLISH has no key and changes nothing. */
    return has_flag(f, CMD_MAY_REPLICATE) && has_flag(f, CMD_HAS_KEYS);
}

static bool begins_with(const struct argv *a, size_t i, const char *prefix)
{
    size_t n = strlen(prefix);

    return n > 0 && i < a->count && argv_len(a, i) >= n && memcmp(argv_at(a, i), prefix, n) == 0;
}

static bool names_marker_channel(const struct route_facts *f)
{
    if (f->treatment != TREAT_SUBSCRIBE) /* of the others, only PUBLISH and SPUBLISH speak on channels */
        return has_flag(f, CMD_PUBSUB) && begins_with(f->args, 1, f->marker_channel);
    for (size_t i = 1; i < f->args->count; i++)
        if (begins_with(f->args, i, f->marker_channel))
            return true;
    return false;
}

/* redis.set_repl() and server.set_repl() hide a script's writes from replicas, and so from the log. In every mode:
 * what one session loads another runs by EVALSHA or FCALL, which do not show it. */
static bool hides_writes(const struct route_facts *f)
{
    static const char word[] = "set_repl";

    if (f->command == NULL || (!has_flag(f, CMD_SCRIPT | CMD_FUNCTION) && f->treatment != TREAT_CAPTURED))
        return false;
    for (size_t i = 1; i < f->args->count; i++)
        if (memmem(argv_at(f->args, i), argv_len(f->args, i), word, sizeof word - 1) != NULL)
            return true;
    return false;
}

bool route_replicates(const struct route_facts *f)
{
    if (f->treatment != TREAT_BY_FLAGS && f->treatment != TREAT_CAPTURED)
        return false;
    if (has_flag(f, CMD_SCRIPT))
        return !has_flag(f, CMD_READONLY) && !promises_no_writes(f);
    return (f->treatment == TREAT_BY_FLAGS && unknown(f)) || has_flag(f, CMD_WRITE | CMD_MAY_REPLICATE);
}

/* Stricter than a replica, which refuses a script's writes while it runs: here it must be known before. PFCOUNT may
 * rewrite its key. SCRIPT LOAD changes no data. */
static bool reader_may_not(const struct route_facts *f)
{
    if (f->treatment == TREAT_CAPTURED)
        return has_flag(f, CMD_WRITE);
    if (f->treatment != TREAT_BY_FLAGS)
        return false;
    if (has_flag(f, CMD_SCRIPT))
        return !has_flag(f, CMD_READONLY) && !promises_no_writes(f);
    return unknown(f) || has_flag(f, CMD_WRITE | CMD_MAY_REPLICATE);
}

static struct route to(enum route_to where, enum op_kind kind)
{
    return (struct route){.to = where, .kind = kind};
}

static struct route refuse(enum route_why why)
{
    return (struct route){.to = ROUTE_REFUSE, .kind = OP_LOCAL, .why = why};
}

static bool allowed_while_subscribed(const struct route_facts *f)
{
    return f->treatment == TREAT_SUBSCRIBE || f->treatment == TREAT_QUIT || f->treatment == TREAT_RESET ||
           argv_is(f->args, 0, "ping");
}

static enum route_why objection(const struct route_facts *f)
{
    bool leaving = f->treatment == TREAT_QUIT || f->treatment == TREAT_RESET;

    if (f->monitoring && !leaving && !argv_is(f->args, 0, "ping"))
        return WHY_MONITORING;
    if (f->subscribed && !allowed_while_subscribed(f))
        return WHY_SUBSCRIBED;
    if (f->treatment == TREAT_REFUSED)
        return WHY_NOT_AVAILABLE;
    if (names_marker_channel(f))
        return WHY_MARKER_CHANNEL;
    if (hides_writes(f))
        return WHY_SET_REPL;
    if (f->reader)
        return f->gate == GATE_OPEN && reader_may_not(f) ? WHY_READONLY : WHY_NOT;
    if (f->write_bytes_max != 0 && f->args->n > f->write_bytes_max && route_may_write(f))
        return WHY_TOO_LARGE;
    return WHY_NOT;
}

static bool is_transaction(enum treatment t)
{
    return t == TREAT_MULTI || t == TREAT_EXEC || t == TREAT_DISCARD || t == TREAT_WATCH || t == TREAT_UNWATCH;
}

bool route_refuses_writes(const struct route_facts *f)
{
    if (f->reader)
        return false;
    switch (f->refusal) {
    case WRITES_ACCEPTED:
        return false;
    case WRITES_REFUSED_LOG_FULL: /* an async session goes on until the lag is too great */
    case WRITES_REFUSED_NO_QUORUM:
        return f->mode == DURABILITY_SYNC;
    case WRITES_REFUSED_LAG:
        return f->mode != DURABILITY_OFF;
    case WRITES_REFUSED_BUFFER: /* mode off has no bound in time, but memory and log end for it, too */
    case WRITES_REFUSED_LOG_SIZE:
        break;
    }
    return true;
}

static struct route in_multi(const struct route_facts *f)
{
    switch (f->treatment) {
    case TREAT_QUIT:
    case TREAT_RESET:
        return to(ROUTE_LOCAL, OP_LOCAL);
    case TREAT_AUTH: /* they change what the connection is, at EXEC, where we could not follow */
    case TREAT_SUBSCRIBE:
    case TREAT_MONITOR:
    case TREAT_STATE:
    case TREAT_CONTROL:
        return refuse(WHY_IN_MULTI);
    default:
        break;
    }
    if (f->gate != GATE_OPEN)
        return refuse(WHY_LOADING);
    return to(ROUTE_MULTI, OP_NEUTRAL);
}

static struct route write_route(const struct route_facts *f, bool blocks)
{
    bool replayable = has_flag(f, CMD_WRITE) && f->command->canon != 0;

    if (f->stateful || blocks || unknown(f))
        return to(ROUTE_PINNED, OP_CAPTURED);
    if (!f->full && (f->mode != DURABILITY_SYNC || !replayable || f->args->n > ROUTE_ASK_BYTES_MAX))
        return to(ROUTE_PINNED, OP_CAPTURED);
    if (f->mode != DURABILITY_SYNC)
        return to(ROUTE_ASYNC, OP_CAPTURED);
    if (replayable)
        return to(ROUTE_WRITE, OP_WRITE);
    return to(ROUTE_WRITER, OP_CAPTURED);
}

static struct route by_flags(const struct route_facts *f)
{
    bool reads = has_flag(f, CMD_READONLY) || (has_flag(f, CMD_SCRIPT) && promises_no_writes(f));
    enum op_kind kind = reads ? OP_READ : OP_NEUTRAL;
    bool blocks = f->command != NULL && command_blocks(f->command, f->args);

    if (!f->reader && route_may_write(f)) {
        if (f->treatment == TREAT_CAPTURED && f->mode != DURABILITY_SYNC && f->full && !f->stateful &&
            !has_flag(f, CMD_WRITE))
            return to(ROUTE_LANE, OP_NEUTRAL); /* SCRIPT LOAD: changes no data; order with EVALSHA is the lane's */
        return write_route(f, blocks);
    }
    if (!f->full || f->stateful || blocks)
        return to(ROUTE_PINNED, kind);
    return to(ROUTE_LANE, kind);
}

/* Most commands, by a short way to what the steps below come to. */
static bool plainly_read(const struct route_facts *f)
{
    return f->treatment == TREAT_BY_FLAGS && has_flag(f, CMD_PLAIN_READ) && f->full && f->gate == GATE_OPEN &&
           !f->stateful && !f->in_multi && !f->subscribed && !f->monitoring;
}

struct route route_command(const struct route_facts *f)
{
    enum route_why why;

    if (plainly_read(f))
        return to(ROUTE_LANE, OP_READ);
    why = objection(f);
    if (why != WHY_NOT)
        return refuse(why);
    if (f->in_multi && !is_transaction(f->treatment)) {
        struct route r = in_multi(f);

        if (r.to == ROUTE_MULTI && route_refuses_writes(f) && route_may_write(f))
            r.why = WHY_CLUSTERDOWN; /* the caller remembers it: EXEC must fail */
        return r;
    }
    if (f->treatment == TREAT_ALWAYS || f->treatment == TREAT_QUIT || f->treatment == TREAT_RESET)
        return to(ROUTE_LOCAL, OP_LOCAL);
    if (f->gate != GATE_OPEN)
        return refuse(WHY_LOADING);
    if (route_refuses_writes(f) && route_may_write(f))
        return refuse(WHY_CLUSTERDOWN);
    switch (f->treatment) {
    case TREAT_LOCAL:
    case TREAT_AUTH:
        return to(ROUTE_LOCAL, OP_LOCAL);
    case TREAT_CONTROL:
        return to(f->full ? ROUTE_CONTROL : ROUTE_PINNED, OP_NEUTRAL);
    case TREAT_STATE:
    case TREAT_MULTI:
    case TREAT_DISCARD:
    case TREAT_WATCH:
    case TREAT_UNWATCH:
    case TREAT_SUBSCRIBE:
    case TREAT_MONITOR:
        return to(ROUTE_PINNED, OP_NEUTRAL);
    case TREAT_EXEC:
        return to(ROUTE_PINNED, OP_CAPTURED);
    default:
        return by_flags(f);
    }
}

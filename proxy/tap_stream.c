/* The replication stream is a sequence of commands. What Valkey executed as one (a transaction of several writes, a
 * script) stands between MULTI and EXEC and is one effect here, a unit:
 *
 *     SELECT 3 │ SET a 1 │ PING │ MULTI  INCR b  SELECT 4  INCR c  EXEC │ SPUBLISH ch m │ REPLCONF GETACK *
 *              │ effect  │      │ unit: db 3 before, 4 after             │ message       │ getack
 *
 * Valkey writes the SELECT that a unit needs *inside* it, after MULTI, so a unit's first database is often wrong
 * for its first command and right only with the SELECTs that it holds: a unit is kept and replayed as a whole, from
 * the database it was met in.
 *
 * Offsets: every byte counts, also those of SELECT, PING and GETACK, which are consumed here. A command is canonical
 * RESP in Valkey's stream; its bytes are what the parser made of its arguments, and if these were not as many as were
 * taken, the stream is not what we think it is: TAP_BAD. */
#include "proxy/tap_stream.h"

#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "proxy/resp.h"

enum {
    UNIT_FIRST_CAP = 16,
    UNIT_KEEP_BYTES_MAX = 1024 * 1024, /* memory kept between units */
    UNIT_BYTES_MAX = 0x7f000000,       /* must fit a frame of the log: FRAME_BYTES_MAX */
    STREAM_ARGS_MAX = 0x7fffffff,      /* Valkey wrote them: its clients' limit of 1M arguments does not apply */
    STREAM_LINE_BYTES_MAX = 64 * 1024
};

struct unit_command {
    size_t at, n;           /* in unit.bytes */
    size_t first_arg, args; /* in unit.arg */
};

struct unit {
    bool open;
    uint32_t db_before;
    struct buf bytes; /* MULTI ... EXEC */
    struct arg *arg;
    size_t arg_count, arg_cap;
    struct unit_command *command;
    struct argv *argv; /* made at EXEC, when nothing moves any more */
    size_t command_count, command_cap;
};

struct tap_stream {
    struct resp_limits limits;
    struct resp_pool *pool;
    struct resp_parser *parser;
    struct argv argv; /* the last single command */
    size_t taken;     /* raw bytes of the command being read */
    uint64_t offset;
    uint32_t db;
    struct unit unit;
};

struct tap_stream *tap_stream_new(uint64_t offset, uint32_t db)
{
    struct tap_stream *s = must_calloc(1, sizeof *s);

    s->limits = (struct resp_limits){.bulk_bytes_max = UNIT_BYTES_MAX,
                                     .query_bytes_max = UNIT_BYTES_MAX,
                                     .args_max = STREAM_ARGS_MAX,
                                     .line_bytes_max = STREAM_LINE_BYTES_MAX};
    s->pool = resp_pool_new(&s->limits);
    s->offset = offset;
    s->db = db;
    return s;
}

void tap_stream_free(struct tap_stream *s)
{
    if (s == NULL)
        return;
    resp_parser_drop(s->pool, s->parser);
    resp_pool_free(s->pool);
    buf_free(&s->unit.bytes);
    free(s->unit.arg);
    free(s->unit.command);
    free(s->unit.argv);
    free(s);
}

uint64_t tap_stream_offset(const struct tap_stream *s)
{
    return s->offset;
}

/* ---- units ---- */

static void unit_open(struct unit *u, const struct argv *a, uint32_t db)
{
    u->open = true;
    u->db_before = db;
    u->arg_count = 0;
    u->command_count = 0;
    if (u->bytes.cap > UNIT_KEEP_BYTES_MAX)
        buf_free(&u->bytes);
    buf_clear(&u->bytes);
    buf_append(&u->bytes, a->bytes, a->n);
}

static size_t grown(size_t cap, size_t needed)
{
    size_t c = cap ? cap : UNIT_FIRST_CAP;

    while (c < needed)
        c *= 2;
    return c;
}

/* false: too large, or no memory. */
static bool unit_add(struct unit *u, const struct argv *a)
{
    struct unit_command *c;

    if (u->bytes.len + a->n > UNIT_BYTES_MAX)
        return false;
    if (u->command_count == u->command_cap) {
        u->command_cap = grown(u->command_cap, u->command_count + 1);
        u->command = must_realloc(u->command, u->command_cap * sizeof *u->command);
        u->argv = must_realloc(u->argv, u->command_cap * sizeof *u->argv);
    }
    if (u->arg_count + a->count > u->arg_cap) {
        size_t cap = grown(u->arg_cap, u->arg_count + a->count);
        struct arg *arg = realloc(u->arg, cap * sizeof *arg); /* a size that the stream named */

        if (arg == NULL)
            return false;
        u->arg = arg;
        u->arg_cap = cap;
    }
    c = &u->command[u->command_count++];
    *c = (struct unit_command){.at = u->bytes.len, .n = a->n, .first_arg = u->arg_count, .args = a->count};
    memcpy(u->arg + u->arg_count, a->arg, a->count * sizeof *a->arg);
    u->arg_count += a->count;
    buf_append(&u->bytes, a->bytes, a->n);
    return !u->bytes.failed;
}

static void unit_close(struct unit *u, const struct argv *exec, struct effect *e)
{
    buf_append(&u->bytes, exec->bytes, exec->n);
    for (size_t i = 0; i < u->command_count; i++) {
        const struct unit_command *c = &u->command[i];

        u->argv[i] = (struct argv){
            .bytes = buf_head(&u->bytes) + c->at, .n = c->n, .arg = u->arg + c->first_arg, .count = c->args};
    }
    u->open = false;
    e->db_before = u->db_before;
    e->bytes = buf_head(&u->bytes);
    e->n = u->bytes.len;
    e->commands = u->argv;
    e->command_count = u->command_count;
    e->unit = true;
}

/* ---- one command ---- */

static enum tap_item bad(const char **why, const char *text)
{
    *why = text;
    return TAP_BAD;
}

static bool take_select(struct tap_stream *s)
{
    int64_t db;

    if (s->argv.count != 2 || !argv_integer(&s->argv, 1, &db) || db < 0 || db > INT32_MAX)
        return false;
    s->db = (uint32_t)db;
    return true;
}

static enum tap_item in_unit(struct tap_stream *s, struct effect *e, const char **why)
{
    const struct argv *a = &s->argv;

    if (argv_is(a, 0, "MULTI"))
        return bad(why, "MULTI inside MULTI in the replication stream");
    if (argv_is(a, 0, "EXEC")) {
        unit_close(&s->unit, a, e);
        e->db_after = s->db;
        e->end_offset = s->offset;
        return s->unit.bytes.failed ? bad(why, "out of memory for a transaction") : TAP_EFFECT;
    }
    if (argv_is(a, 0, "PING") || argv_is(a, 0, "REPLCONF"))
        return TAP_MORE; /* Valkey writes none here; they would not be part of the transaction */
    if (argv_is(a, 0, "SELECT") && !take_select(s))
        return bad(why, "bad SELECT in the replication stream");
    return unit_add(&s->unit, a) ? TAP_MORE : bad(why, "a transaction in the replication stream is too large");
}

static enum tap_item on_command(struct tap_stream *s, struct effect *e, const char **why)
{
    const struct argv *a = &s->argv;

    if (s->unit.open)
        return in_unit(s, e, why);
    if (argv_is(a, 0, "SELECT"))
        return take_select(s) ? TAP_MORE : bad(why, "bad SELECT in the replication stream");
    if (argv_is(a, 0, "PING"))
        return TAP_MORE;
    if (argv_is(a, 0, "REPLCONF"))
        return argv_is(a, 1, "GETACK") ? TAP_GETACK : TAP_MORE;
    if (argv_is(a, 0, "MULTI")) {
        unit_open(&s->unit, a, s->db);
        return TAP_MORE;
    }
    if (argv_is(a, 0, "EXEC"))
        return bad(why, "EXEC without MULTI in the replication stream");
    *e = (struct effect){.db_before = s->db,
                         .db_after = s->db,
                         .bytes = a->bytes,
                         .n = a->n,
                         .commands = a,
                         .command_count = 1,
                         .end_offset = s->offset};
    return argv_is(a, 0, "SPUBLISH") && a->count == 3 ? TAP_MESSAGE : TAP_EFFECT;
}

enum tap_item tap_stream_next(struct tap_stream *s, const char *bytes, size_t n, size_t *used, struct effect *e,
                              const char **why)
{
    enum tap_item item = TAP_MORE;

    *used = 0;
    while (item == TAP_MORE && *used < n) {
        enum resp_result result;
        size_t step = 0;

        result = resp_parse(s->pool, &s->parser, bytes + *used, n - *used, &step, false, &s->argv, why);
        if (result == RESP_ERROR)
            return TAP_BAD;
        *used += step;
        s->taken += step;
        s->offset += step;
        if (result == RESP_MORE)
            break;
        if (s->argv.n != s->taken)
            return bad(why, "a command of the replication stream is not in canonical form");
        s->taken = 0;
        item = on_command(s, e, why);
    }
    return item;
}

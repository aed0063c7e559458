/* A backup's way through the worker: see backup.h.
 *
 *   SYNC ─▶ WAITING ─ the core's ticket ─┬─▶ SENDING ─ the last byte has left ─▶ the connection is closed
 *                                        └─ refused ─▶ an error; the session goes on
 *
 * SYNC is a task of its session like any other, at the head of the FIFO, and nothing starts behind it; it has to wait
 * until nothing is before it. It is not counted where Holdfast waits for what is unanswered (a hand-over, the end of
 * the process): the file may be long, its reader slow, and nothing depends on it. It outlives a change of leaders:
 * the file is what it is.
 *
 * The output limits of clients do not concern it: no more than two pieces are in the stream. The last piece leaves
 * only when all of the file has hashed to what its sidecar says: from a damaged one nobody gets a whole backup. */
#include "proxy/backup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/hash.h"
#include "log/base/stream.h"
#include "proxy/local.h"
#include "proxy/relay.h"
#include "proxy/worker_state.h"

struct backup {
    struct worker *worker;
    bool sending;
    int fd; /* -1: none yet */
    uint64_t bytes, at;
    struct hash128 hash; /* that the whole must have */
    struct hasher *hasher;
    uint64_t active_ms; /* the last sign of life; the last progress */
    uint64_t taken;     /* bytes that the client's side had taken when that was seen */
};

static void backup_free(void *context)
{
    struct backup *b = context;

    CHECK(b->worker->backups > 0);
    b->worker->backups--;
    if (b->fd >= 0)
        (void)close(b->fd);
    hasher_free(b->hasher);
    free(b);
}

static struct backup *backup_of(const struct session *s)
{
    return s->backup != NULL ? s->backup->context : NULL;
}

/* ---- what is asked ---- */

static enum dispatch refuse_option(struct session *s, const char *name)
{
    char text[256];

    (void)snprintf(text, sizeof text,
                   "ERR REPLCONF %.64s is not available through Holdfast: it replicates by itself. rdb-only 1, for a "
                   "backup of everything, is",
                   name);
    return local_error(s, text);
}

/* A part of the data is refused, and so is the SYNC that would then give all of it. */
enum dispatch local_replconf(struct session *s, const struct argv *a)
{
    for (size_t i = 1; i < a->count; i += 2) {
        char name[65] = "";

        if (argv_is(a, i, "rdb-only") && (argv_is(a, i + 1, "1") || argv_is(a, i + 1, "0"))) {
            s->rdb_only = argv_is(a, i + 1, "1");
        } else if (!argv_is(a, i, "capa") || i + 1 == a->count) {
            (void)argv_text(a, i, name, sizeof name);
            s->rdb_part = s->rdb_part || argv_is(a, i, "rdb-filter-only");
            return refuse_option(s, name);
        }
    }
    return a->count > 1 ? local_ok(s) : refuse_option(s, "without options");
}

static const char *objection(const struct session *s)
{
    if (s->rdb_part)
        return "ERR SYNC is not available through Holdfast: a backup is of everything, not of a part";
    if (!s->rdb_only)
        return "ERR SYNC is not available through Holdfast: it replicates by itself. For a backup REPLCONF "
               "rdb-only 1 comes first, as valkey-cli --rdb does it";
    if (session_stateful(s) || s->reply_off || s->skip_next)
        return "ERR SYNC needs a connection without subscriptions, tracking, WATCH or CLIENT REPLY OFF";
    if (s->worker->backups >= BACKUPS_MAX)
        return "ERR too many backups are under way";
    return NULL;
}

enum dispatch local_sync(struct session *s, const struct argv *a)
{
    const char *why = objection(s);
    struct backup_ticket *ticket;
    struct backup *b;
    struct task *t;

    (void)a;
    if (why != NULL)
        return local_error(s, why);
    if (s->op_count > 0)
        return session_hold(s, HOLD_EMPTY);
    t = session_task(s, OP_LOCAL);
    b = must_calloc(1, sizeof *b);
    *b = (struct backup){.worker = s->worker, .fd = -1, .active_ms = loop_now_ms(s->worker->loop)};
    s->worker->backups++;
    t->context = b;
    t->context_free = backup_free;
    session_sent(s, t, TASK_HERE, VIA_NONE);
    s->barrier = true;
    s->backup = t;
    ticket = must_calloc(1, sizeof *ticket);
    *ticket = (struct backup_ticket){.session = s->id, .own = s->reader, .fd = -1};
    queue_push(s->worker->set.to_core, (struct message){.kind = TO_CORE_BACKUP, .pointer = ticket});
    return DISPATCHED;
}

/* ---- to the client ---- */

/* Bytes that are no reply. */
static void put(struct session *s, const char *bytes, size_t n)
{
    struct buf *out = stream_out(s->stream);

    if (s->through != NULL) {
        buf_text(out, relay_bytes);
        buf_printf(out, "$%zu\r\n", n);
    }
    buf_append(out, bytes, n);
    if (s->through != NULL)
        buf_text(out, "\r\n");
    s->out_bytes += n;
    s->worker->out_bytes += n;
}

static void refused(struct session *s, const char *why)
{
    struct task *t = s->backup;

    s->backup = NULL;
    session_answer_error(t, why);
}

void backup_came(struct worker *w, struct backup_ticket *ticket)
{
    struct session *s = worker_find(w, ticket->session);
    struct backup *b = s != NULL ? backup_of(s) : NULL;
    char header[32];

    if (b == NULL || b->sending) {
        backup_ticket_free(ticket);
        return;
    }
    if (ticket->fd < 0) {
        refused(s, ticket->why);
        backup_ticket_free(ticket);
        return;
    }
    b->fd = ticket->fd;
    ticket->fd = -1;
    b->bytes = ticket->bytes;
    b->hash = ticket->hash;
    b->hasher = hasher_new();
    b->sending = true;
    b->active_ms = loop_now_ms(w->loop);
    diag_log(w->diag, DIAG_NOTICE,
             "Backup to client id=%" PRIu64 ": the snapshot at entry %" PRIu64 ", %" PRIu64 " bytes", s->id,
             ticket->index, b->bytes);
    backup_ticket_free(ticket);
    (void)snprintf(header, sizeof header, "$%" PRIu64 "\r\n", b->bytes);
    put(s, header, strlen(header));
}

/* The next piece, in *n bytes of memory of its own. NULL: the file is not what it was. */
static char *read_piece(struct backup *b, size_t *n)
{
    size_t want = b->bytes - b->at < BACKUP_PIECE_BYTES ? (size_t)(b->bytes - b->at) : BACKUP_PIECE_BYTES;
    char *piece = malloc(want);
    ssize_t got = piece != NULL ? pread(b->fd, piece, want, (off_t)b->at) : -1;
    struct hash128 whole;

    if (got > 0) {
        hasher_add(b->hasher, piece, (size_t)got);
        b->at += (uint64_t)got;
        whole = hasher_value128(b->hasher);
        *n = (size_t)got;
        if (b->at < b->bytes || (whole.low == b->hash.low && whole.high == b->hash.high))
            return piece;
    }
    free(piece);
    return NULL;
}

bool backup_fill(struct session *s)
{
    struct backup *b = backup_of(s);
    char *piece;
    size_t n;

    if (b == NULL || !b->sending || b->at == b->bytes || s->doom != NULL)
        return false;
    if (stream_pending(s->stream) >= BACKUP_PIECE_BYTES)
        return true;
    piece = read_piece(b, &n);
    if (piece == NULL) {
        diag_log(s->worker->diag, DIAG_WARNING,
                 "Backup to client id=%" PRIu64 " given up: the snapshot's file is not whole", s->id);
        s->doom = "its backup cannot be read";
        session_kick(s);
        return false;
    }
    put(s, piece, n);
    free(piece);
    return b->at < b->bytes;
}

void backup_sent(struct session *s)
{
    struct backup *b = backup_of(s);
    struct task *t = s->backup;

    if (b == NULL || !b->sending || b->at < b->bytes)
        return;
    s->backup = NULL;
    if (s->through != NULL)
        s->last_word = relay_farewell;
    t->finish = true;
    session_answer(t, "", 0);
}

void backup_tick(struct session *s, uint64_t now_ms)
{
    struct backup *b = backup_of(s);
    size_t unsent = stream_pending(s->stream);
    uint64_t taken;

    if (b == NULL)
        return;
    taken = b->at > unsent ? b->at - unsent : 0;
    if (b->sending && taken != b->taken) {
        b->taken = taken;
        b->active_ms = now_ms;
    } else if (b->sending && now_ms - b->active_ms >= BACKUP_SILENCE_MS_MAX) {
        s->doom = "it takes nothing of its backup";
        session_kick(s);
    } else if (!b->sending && unsent == 0 && now_ms - b->active_ms >= BACKUP_ALIVE_MS) {
        b->active_ms = now_ms;
        put(s, "\n", 1);
    }
}

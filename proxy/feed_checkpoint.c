/* Between two checkpoints a feed's stream is a pure function of the log: what Valkey asks for, an offset, is found by
 * making the stream again from the checkpoint before it and counting bytes. Two kinds of bytes are not in the log,
 * PING and GETACK. Each of them is sent only when a checkpoint *behind* it is durable, and nothing is sent between
 * the two:
 *
 *     offset    0 ............. 700 ┃ PING ┃ 714 .......... 2100 ┃ PING ┃ 2114 .....
 *     noted     A{0}                       B{714, extra 14}             C{2114, extra 14}
 *                                          durable before the PING is   (B and C are kept)
 *
 *     Valkey says 700: B is durable, but the PING was not sent, or not read: A proves it, if it is kept.
 *     Valkey says 714 or more: from B.    Between 700 and 714: it cannot be; no proof.
 *
 * A crash between note and PING loses nothing: Valkey then is at 700 or before, which is A's. An offset before the
 * older checkpoint's, another id, another run of Valkey, or a log that was truncated meanwhile: no proof, a full
 * sync.
 *
 * The note (log_note), little endian:  u8 version | u8 count | count times: replid, run_id as u8 n, bytes | varint
 * offset, extra, db + 1 | the mark: varint index, effects, log_from, next_seq, offset, db, mode + 1 | replid, run_id.
 * The version changes whenever the stream made of the same log would be another one. */
#include "proxy/feed_checkpoint.h"

#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/log.h"

enum { NOTE_VERSION = 1, KEPT = 2 };
static const char note_name[] = "feed";

struct note { /* outlives its owner: done() of the log comes anyway */
    struct checkpoints *owner;
};

enum request_kind { NOTHING, ADD, WIPE, DROPPED };
struct request {
    enum request_kind kind;
    struct checkpoint checkpoint;
    void (*done)(void *arg, bool ok);
    void *arg;
};

struct checkpoints {
    struct log *log;
    struct checkpoint kept[KEPT]; /* the newest first */
    size_t count;
    struct note *note; /* NULL: none on its way */
    struct request flying, queued;
};

/* ---- bytes ---- */

static void put_text(struct buf *b, const char *text)
{
    buf_u8(b, (uint8_t)strlen(text));
    buf_append(b, text, strlen(text));
}

static bool take_text(struct cursor *c, char *out, size_t size)
{
    size_t n = cursor_u8(c);
    const char *at = cursor_bytes(c, n);

    if (at == NULL || n >= size)
        return false;
    memcpy(out, at, n);
    out[n] = '\0';
    return true;
}

static void put_checkpoint(struct buf *b, const struct checkpoint *k)
{
    const struct snapshot_mark *m = &k->place.mark;

    put_text(b, k->replid);
    put_text(b, k->run_id);
    buf_varint(b, k->offset);
    buf_varint(b, k->extra);
    buf_varint(b, (uint64_t)(k->place.db + 1));
    buf_varint(b, m->index);
    buf_varint(b, m->effects);
    buf_varint(b, m->log_from);
    buf_varint(b, m->next_seq);
    buf_varint(b, m->offset);
    buf_varint(b, m->db);
    buf_varint(b, (uint64_t)(m->mode + 1));
    put_text(b, m->replid);
    put_text(b, m->run_id);
}

static bool take_checkpoint(struct cursor *c, struct checkpoint *k)
{
    struct snapshot_mark *m = &k->place.mark;

    *k = (struct checkpoint){0};
    if (!take_text(c, k->replid, sizeof k->replid) || !take_text(c, k->run_id, sizeof k->run_id))
        return false;
    k->offset = cursor_varint(c);
    k->extra = (uint32_t)cursor_varint(c);
    k->place.db = (int64_t)cursor_varint(c) - 1;
    m->index = cursor_varint(c);
    m->effects = cursor_varint(c);
    m->log_from = cursor_varint(c);
    m->next_seq = cursor_varint(c);
    m->offset = cursor_varint(c);
    m->db = (uint32_t)cursor_varint(c);
    m->mode = (int)cursor_varint(c) - 1;
    return take_text(c, m->replid, sizeof m->replid) && take_text(c, m->run_id, sizeof m->run_id) && !c->bad;
}

static void read_note(struct checkpoints *c)
{
    char bytes[LOG_NOTE_BYTES_MAX];
    struct cursor at = cursor_of(bytes, log_noted(c->log, note_name, bytes, sizeof bytes));
    size_t count;

    if (at.left < 2 || cursor_u8(&at) != NOTE_VERSION)
        return;
    count = cursor_u8(&at);
    for (size_t i = 0; i < count && i < KEPT; i++, c->count++)
        if (!take_checkpoint(&at, &c->kept[i]))
            return;
}

/* ---- writing ---- */

static void on_noted(void *arg, bool ok);

static void fly(struct checkpoints *c, const struct request *r)
{
    struct buf b = {0};
    size_t added = r->kind == ADD ? 1 : 0, old = c->count + added <= KEPT ? c->count : KEPT - added;

    c->flying = *r;
    if (old + added > 0) {
        buf_u8(&b, NOTE_VERSION);
        buf_u8(&b, (uint8_t)(old + added));
    }
    if (added > 0)
        put_checkpoint(&b, &r->checkpoint);
    for (size_t i = 0; i < old; i++)
        put_checkpoint(&b, &c->kept[i]);
    CHECK(!b.failed && b.len <= LOG_NOTE_BYTES_MAX);
    c->note = must_calloc(1, sizeof *c->note);
    c->note->owner = c;
    log_note(c->log, note_name, b.len > 0 ? buf_head(&b) : "", b.len, on_noted, c->note);
    buf_free(&b);
}

static void keep(struct checkpoints *c, const struct checkpoint *k)
{
    memmove(c->kept + 1, c->kept, (KEPT - 1) * sizeof *c->kept);
    c->kept[0] = *k;
    if (c->count < KEPT)
        c->count++;
}

static void on_noted(void *arg, bool ok)
{
    struct note *note = arg;
    struct checkpoints *c = note->owner;
    struct request done, next;

    free(note);
    if (c == NULL)
        return;
    c->note = NULL;
    done = c->flying;
    next = c->queued;
    c->flying.kind = c->queued.kind = NOTHING;
    if (done.kind == ADD && ok)
        keep(c, &done.checkpoint);
    if (next.kind != NOTHING)
        fly(c, &next);
    if (done.kind != DROPPED && done.done != NULL)
        done.done(done.arg, ok);
}

static void ask(struct checkpoints *c, const struct request *r)
{
    if (c->note != NULL)
        c->queued = *r;
    else
        fly(c, r);
}

void checkpoints_add(struct checkpoints *c, const struct checkpoint *k, void (*done)(void *arg, bool ok), void *arg)
{
    ask(c, &(struct request){ADD, *k, done, arg});
}

void checkpoints_wipe(struct checkpoints *c, void (*done)(void *arg, bool ok), void *arg)
{
    c->count = 0;
    c->flying.kind = DROPPED;
    ask(c, &(struct request){.kind = WIPE, .done = done, .arg = arg});
}

/* ---- the door ---- */

struct checkpoints *checkpoints_new(struct log *log)
{
    struct checkpoints *c = must_calloc(1, sizeof *c);

    c->log = log;
    read_note(c);
    return c;
}

void checkpoints_free(struct checkpoints *c)
{
    if (c != NULL && c->note != NULL)
        c->note->owner = NULL;
    free(c);
}

bool checkpoints_busy(const struct checkpoints *c)
{
    return c->note != NULL;
}

void checkpoints_unhook(struct checkpoints *c)
{
    c->flying.done = NULL;
    c->queued.done = NULL;
    if (c->queued.kind == ADD)
        c->queued.kind = NOTHING;
}

const struct checkpoint *checkpoints_newest(const struct checkpoints *c)
{
    return c->count > 0 ? &c->kept[0] : NULL;
}

const struct checkpoint *checkpoints_for(const struct checkpoints *c, const char *replid, const char *run_id,
                                         uint64_t offset)
{
    uint64_t end = UINT64_MAX; /* up to where the stream from this one on is the log's */

    for (size_t i = 0; i < c->count; i++) {
        const struct checkpoint *k = &c->kept[i];

        if (strcmp(k->replid, replid) != 0 || strcmp(k->run_id, run_id) != 0)
            return NULL;
        if (offset >= k->offset)
            return offset <= end && k->place.mark.log_from >= log_first_index(c->log) ? k : NULL;
        end = k->offset - k->extra;
    }
    return NULL;
}

uint64_t checkpoints_log_from(const struct checkpoints *c)
{
    uint64_t from = UINT64_MAX;

    for (size_t i = 0; i < c->count; i++)
        if (c->kept[i].place.mark.log_from < from)
            from = c->kept[i].place.mark.log_from;
    return from;
}

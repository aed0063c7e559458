/* Snapshots from other members: the receiving end.
 *
 *   why                                        from whom                   what, and then
 *   our log is too far behind (Raft says so)   the leader                  RDB and entries replace our log
 *   an entry names the data to begin with      whoever has it              RDB: the entry counts as durable
 *   ours is old, and our Valkey is not to fork the member with the newest  RDB: the log can be truncated behind it
 *
 *   DIALLING ─▶ ASKED ─▶ FILE (GET/DATA, one piece under way) ─▶ ENTRIES ─▶ CHECKING ─▶ ENDING
 *
 * A transfer that breaks goes on where it stopped, also after a restart (snapshot.h); it is begun again by
 * fetch_tick() as long as its reason lasts. Nothing of ours changes before everything is here and checked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/clock.h"
#include "log/base/stream.h"
#include "log/log_fetch.h"
#include "log/log_internal.h"
#include "log/snapshot.h"

enum { SILENCE_MS_MAX = 10000, RETRY_MS = 500, NEWER_EVERY_MS = 3000, RECORDS_MAX = 1 << 20 };

enum fetch_state {
    FETCH_IDLE,
    FETCH_DIALLING,
    FETCH_ASKED,
    FETCH_FILE,
    FETCH_ENTRIES,
    FETCH_CHECKING,
    FETCH_READY, /* but nobody leads whom we could follow to it */
    FETCH_ENDING
};
enum fetch_why { WHY_BEHIND, WHY_BASE, WHY_NEWER };

struct fetch {
    struct log *log;
    enum fetch_state state;
    enum fetch_why why;
    struct peer_dial *dial;
    struct stream *stream;
    struct buf in;
    struct snapshot_receiver *receiver;
    uint64_t offset; /* of the file: next to ask for */
    struct record **records;
    size_t count, cap;
    uint64_t first;
    struct hash128 before, running;
    struct buf change;
    uint64_t base_index, base_term, change_index;
    struct store_snapshot record; /* READY */
    uint64_t active_ms, again_ms;
    /* reasons that last */
    uint64_t behind_from;       /* the leader that says so; 0 = none */
    uint64_t base_index_wanted; /* by base_wait */
    bool newer_wanted;
};

static struct fetch *fetch_of(struct log *l)
{
    if (l->fetch == NULL) {
        l->fetch = must_calloc(1, sizeof *l->fetch);
        l->fetch->log = l;
    }
    return l->fetch;
}

/* ---- the end ---- */

static void drop_records(struct fetch *f)
{
    for (size_t i = 0; i < f->count; i++)
        record_drop(f->records[i]);
    free(f->records);
    f->records = NULL;
    f->count = f->cap = 0;
}

static void drop_connection(struct fetch *f)
{
    if (f->dial != NULL)
        peer_dial_cancel(f->dial);
    f->dial = NULL;
    if (f->stream != NULL)
        stream_close(f->stream);
    f->stream = NULL;
    buf_free(&f->in);
}

static void stop(struct fetch *f, const char *why)
{
    if (f->state == FETCH_IDLE || f->state >= FETCH_CHECKING)
        return; /* a callback is due */
    if (why != NULL)
        diag_log(f->log->diag, fetch_level(&f->log->fetching, DIAG_WARNING), "Fetching a snapshot: %s", why);
    drop_connection(f);
    drop_records(f);
    if (f->receiver != NULL)
        snapshot_receive_end(f->receiver, true);
    f->receiver = NULL;
    f->state = FETCH_IDLE;
    f->again_ms = clock_mono_ms() + RETRY_MS;
}

/* ---- asking ---- */

static void ask(struct fetch *f, enum fetch_kind kind, uint64_t a, uint64_t b, int numbers)
{
    struct buf body = {0};

    if (numbers > 0)
        buf_varint(&body, a);
    if (numbers > 1)
        buf_varint(&body, b);
    buf_u32(stream_out(f->stream), (uint32_t)(body.len + 1));
    buf_u8(stream_out(f->stream), (uint8_t)kind);
    buf_append(stream_out(f->stream), buf_head(&body), body.len);
    buf_free(&body);
}

static void on_checked(void *arg, bool ok, struct store_snapshot record, const char *why);

static void next_piece(struct fetch *f)
{
    uint64_t missing = snapshot_receive_missing(f->receiver);

    if (missing > 0) {
        ask(f, FETCH_GET, f->offset, missing < FETCH_PIECE_BYTES_MAX ? missing : FETCH_PIECE_BYTES_MAX, 2);
        return;
    }
    if (f->why == WHY_BEHIND) {
        f->state = FETCH_ENTRIES;
        ask(f, FETCH_GET_LOG, 0, 0, 0);
        return;
    }
    drop_connection(f);
    f->state = FETCH_CHECKING;
    snapshot_receive_check(f->receiver, on_checked, f);
}

/* ---- what comes ---- */

static void on_have(struct fetch *f, struct cursor *c)
{
    char why[LOG_WHY_BYTES] = "";

    f->receiver = snapshots_receive(f->log->snapshots, c->at, c->left, &f->offset, why, sizeof why);
    if (f->receiver == NULL) {
        stop(f, why);
        return;
    }
    diag_log(f->log->diag, fetch_level(&f->log->fetching, DIAG_NOTICE),
             "Fetching the snapshot of entry %llu: %llu bytes, %llu of them are here",
             (unsigned long long)snapshot_receive_mark(f->receiver)->index,
             (unsigned long long)snapshot_receive_mark(f->receiver)->rdb_bytes, (unsigned long long)f->offset);
    f->state = FETCH_FILE;
    next_piece(f);
}

static void on_piece(struct fetch *f, struct cursor *c)
{
    if (!snapshot_receive_write(f->receiver, c->at, c->left)) {
        stop(f, "a piece cannot be written");
        return;
    }
    f->offset += c->left;
    next_piece(f);
}

static bool on_record(struct fetch *f, struct cursor *c)
{
    struct buf bytes = {0};
    struct entry_view e;

    if (f->count == RECORDS_MAX || entry_open(c->at, c->left, f->first + f->count, f->running, &e) != ENTRY_OK)
        return false;
    if (f->count == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->records = must_realloc(f->records, f->cap * sizeof(struct record *));
    }
    buf_append(&bytes, c->at, c->left);
    CHECK(!bytes.failed);
    f->running = e.running;
    f->records[f->count] = record_new(&bytes, entry_type(&e), f->first + f->count, e.term, e.running);
    f->count++;
    return true;
}

static bool on_log_end(struct fetch *f, struct cursor *c)
{
    struct members m;

    f->base_index = cursor_varint(c);
    f->base_term = cursor_varint(c);
    f->change_index = cursor_varint(c);
    if (c->bad || f->base_index + 1 != f->first + f->count || f->change_index > f->base_index ||
        f->base_index < snapshot_receive_mark(f->receiver)->index || !consensus_decode(c->at, c->left, &m))
        return false;
    if ((f->count > 0 && f->records[f->count - 1]->term != f->base_term) || f->base_index < f->log->committed)
        return false;
    buf_clear(&f->change);
    buf_append(&f->change, c->at, c->left);
    drop_connection(f);
    f->state = FETCH_CHECKING;
    snapshot_receive_check(f->receiver, on_checked, f);
    return true;
}

static bool on_frame(struct fetch *f, const char *bytes, size_t n)
{
    struct cursor c = cursor_of(bytes, n);

    switch (cursor_u8(&c)) {
    case FETCH_HAVE:
        if (f->state == FETCH_ASKED)
            on_have(f, &c);
        return true;
    case FETCH_NONE:
        stop(f, f->why == WHY_NEWER ? NULL : "the other node has none that would help");
        return true;
    case FETCH_DATA:
        if (f->state == FETCH_FILE)
            on_piece(f, &c);
        return true;
    case FETCH_LOG_BEGIN:
        f->first = cursor_varint(&c);
        f->before.low = cursor_u64(&c);
        f->before.high = cursor_u64(&c);
        f->running = f->before;
        return !c.bad && f->state == FETCH_ENTRIES && f->count == 0 && f->first > 0 &&
               f->first == snapshot_receive_mark(f->receiver)->log_from;
    case FETCH_RECORD:
        return f->state == FETCH_ENTRIES && on_record(f, &c);
    case FETCH_LOG_END:
        return f->state == FETCH_ENTRIES && on_log_end(f, &c);
    default:
        return false;
    }
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct fetch *f = arg;

    f->active_ms = clock_mono_ms();
    buf_append(&f->in, bytes, n);
    while (f->stream != NULL && f->in.len >= 4) {
        struct cursor c = cursor_of(buf_head(&f->in), f->in.len);
        uint32_t length = cursor_u32(&c);

        if (length == 0 || length > FETCH_FRAME_BYTES_MAX || f->in.failed) {
            stop(f, "the other node makes no sense");
            return;
        }
        if (c.left < length)
            return;
        if (!on_frame(f, c.at, length)) {
            stop(f, "the other node makes no sense");
            return;
        }
        if (f->stream != NULL)
            buf_consume(&f->in, 4 + (size_t)length);
    }
}

static void on_closed(void *arg, const char *why)
{
    stop(arg, why);
}

static const struct stream_events callbacks = {.data = on_data, .closed = on_closed};

/* ---- all is here ---- */

static void look_at_base(struct log *l, struct fetch *f);

static void ended(struct fetch *f)
{
    drop_records(f);
    f->receiver = NULL;
    f->state = FETCH_IDLE;
}

static void on_finished(void *arg, bool ok)
{
    struct fetch *f = arg;
    struct log *l = f->log;

    f->receiver = NULL;
    ended(f);
    if (!ok)
        return;
    diag_log(l->diag, DIAG_NOTICE, "The snapshot is here");
    look_at_base(l, f);
    if (l->events->snapshot != NULL)
        l->events->snapshot(l->arg);
}

static void install(struct fetch *f, struct store_snapshot record)
{
    struct log *l = f->log;
    struct consensus_base base = {f->base_index, f->base_term, f->change_index, buf_head(&f->change), f->change.len};

    l->install.base =
        (struct store_base){.index = f->base_index, .term = f->base_term, .change_index = f->change_index};
    buf_append(&l->install.base.change, buf_head(&f->change), f->change.len);
    l->install.store = (struct store_install){.first = f->first,
                                              .before = f->before,
                                              .records = f->records,
                                              .count = f->count,
                                              .base = &l->install.base,
                                              .snapshot = record};
    f->state = FETCH_ENDING;
    if (!consensus_install(l->raft, &base)) {
        buf_free(&l->install.base.change);
        f->state = FETCH_READY;
        f->record = record;
        if (l->raft_leader != 0) { /* else all of it is good under the next one, too */
            snapshot_receive_end(f->receiver, false);
            ended(f);
        }
    }
    group_after(l);
}

static void on_checked(void *arg, bool ok, struct store_snapshot record, const char *why)
{
    struct fetch *f = arg;

    if (!ok) {
        diag_log(f->log->diag, fetch_level(&f->log->fetching, DIAG_WARNING), "Fetching a snapshot: %s", why);
        snapshot_receive_end(f->receiver, false);
        ended(f);
        f->again_ms = clock_mono_ms() + RETRY_MS;
    } else if (f->why == WHY_BEHIND) {
        install(f, record);
    } else {
        f->state = FETCH_ENDING;
        snapshot_receive_finish(f->receiver, on_finished, f);
    }
}

void fetch_installed(struct log *l)
{
    struct fetch *f = l->fetch;
    uint64_t index = l->install.base.index;

    CHECK(f != NULL && f->state == FETCH_ENDING);
    snapshot_receive_installed(f->receiver);
    l->install.ready = false;
    truncate_replaced(l);
    buf_free(&l->install.base.change);
    buf_free(&l->first_change); /* our log does not begin at 1 any more */
    ended(f);
    f->behind_from = 0;
    diag_log(l->diag, DIAG_NOTICE, "The log was replaced by another member's snapshot up to entry %llu",
             (unsigned long long)index);
    if (l->events->replaced != NULL)
        l->events->replaced(l->arg);
    consensus_installed(l->raft);
}

/* ---- beginning ---- */

static uint64_t newest_index(struct log *l)
{
    struct snapshot_mark mark;
    char path[4096];

    return snapshot_newest(l, &mark, path, sizeof path) ? mark.index : 0;
}

static void on_stream(void *arg, struct stream *s, const char *why)
{
    struct fetch *f = arg;
    uint64_t newer_than = 0;

    f->dial = NULL;
    if (s == NULL) {
        stop(f, why);
        return;
    }
    f->stream = s;
    f->state = FETCH_ASKED;
    f->active_ms = clock_mono_ms();
    stream_hand_over(s, &callbacks, f);
    if (f->why == WHY_BASE)
        newer_than = f->base_index_wanted - 1;
    else if (f->why == WHY_NEWER)
        newer_than = newest_index(f->log);
    ask(f, FETCH_ASK, newer_than, 0, 1);
}

static void start(struct fetch *f, enum fetch_why why, uint64_t from)
{
    struct log *l = f->log;
    struct members m = *consensus_members(l->raft);
    const struct member *to = members_by_id(&m, from);

    if (to == NULL && known_by_id(l, from) != NULL)
        to = &known_by_id(l, from)->member;
    f->again_ms = clock_mono_ms() + (why == WHY_NEWER ? NEWER_EVERY_MS : RETRY_MS);
    if (to == NULL || l->peers == NULL)
        return;
    f->why = why;
    f->state = FETCH_DIALLING;
    f->active_ms = clock_mono_ms();
    f->dial = peers_dial(l->peers, to, PEER_FETCH, "", 0, on_stream, f);
    if (f->dial == NULL)
        f->state = FETCH_IDLE;
}

void fetch_wanted(struct log *l, uint64_t from, uint64_t last_index)
{
    (void)last_index;
    fetch_of(l)->behind_from = from;
    loop_timer_once(l->state_timer, 0);
}

void fetch_base(struct log *l, uint64_t index, uint64_t base)
{
    struct fetch *f = fetch_of(l);

    if (newest_index(l) >= base)
        return; /* it is here already */
    if (l->base_wait == 0 || base > f->base_index_wanted)
        f->base_index_wanted = base;
    if (l->base_wait == 0)
        l->base_wait = index;
    loop_timer_once(l->state_timer, 0); /* not from inside of consensus */
}

/* It may have come by another way, or from one who leads no more. */
static void look_at_base(struct log *l, struct fetch *f)
{
    if (l->base_wait != 0 && newest_index(l) >= f->base_index_wanted)
        write_base_here(l);
}

static uint64_t who_has_newer(struct log *l)
{
    uint64_t best = newest_index(l), id = 0;

    for (size_t i = 0; i < l->known_count; i++)
        if (l->known[i].up && l->known[i].state.snapshot_index > best) {
            best = l->known[i].state.snapshot_index;
            id = l->known[i].member.id;
        }
    return id;
}

void log_fetch_newer(struct log *l)
{
    fetch_of(l)->newer_wanted = true;
}

void fetch_tick(struct log *l)
{
    struct fetch *f = l->fetch;
    uint64_t now = clock_mono_ms(), id;

    serve_tick(l);
    if (f == NULL || l->raft == NULL)
        return;
    if (f->state != FETCH_IDLE && f->state < FETCH_CHECKING && now > f->active_ms + SILENCE_MS_MAX)
        stop(f, "nothing came for too long");
    look_at_base(l, f);
    if (f->why == WHY_NEWER && (f->behind_from != 0 || l->base_wait != 0))
        stop(f, NULL);
    if (f->behind_from != 0 && f->behind_from != l->raft_leader)
        f->behind_from = 0; /* the next leader will say so again */
    if (f->state == FETCH_READY && l->raft_leader != 0)
        install(f, f->record);
    if (f->state != FETCH_IDLE || now < f->again_ms)
        return;
    if (f->behind_from != 0) {
        start(f, WHY_BEHIND, f->behind_from);
    } else if (l->base_wait != 0) {
        if ((id = who_has_newer(l)) != 0)
            start(f, WHY_BASE, id);
    } else if (f->newer_wanted) {
        f->newer_wanted = false;
        if ((id = who_has_newer(l)) != 0)
            start(f, WHY_NEWER, id);
    }
}

void fetch_free(struct log *l)
{
    struct fetch *f = l->fetch;

    serve_free(l);
    if (f == NULL)
        return;
    drop_connection(f);
    drop_records(f);
    buf_free(&f->change);
    free(f);
    l->fetch = NULL;
}

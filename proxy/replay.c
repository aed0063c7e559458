/* The walk. What each frame does, and what is different before the snapshot's mark ("in the RDB"):
 *
 *   frame or item      after the mark                           before it
 *   INTENT             remembered                               remembered (it may be REFed after the mark)
 *   REF, TRY n..m      each intent's bytes go out, forgotten    forgotten; unknown ones: resolved earlier, nothing
 *   RAW                goes out                                 nothing
 *   RESOLVED m         all up to m forgotten                    the same
 *   CONTROL_ATTACH     remembered                               the same
 *
 * The mark may lie inside an OUTCOME (Valkey forks anywhere): effects of entry mark.index are counted, in order,
 * over all of its OUTCOMEs, and the first mark.effects of them are before it.
 *
 *   mark {7, 2}:   5 INTENT 1,2,3   6 OUTCOME REF 1   7 OUTCOME RAW x, RAW y ┃ REF 2..3, RESOLVED 3
 *                                    (in the RDB)              (in the RDB)  ┃ goes out
 *
 * Intents come in rising sequence numbers, and go mostly in the same order: an array with a head index. Those that
 * were REFed out of order stay as holes (resp == NULL) until the head passes them.
 *
 * A RAW of no bytes is no command; it only says which database is selected there (db after).
 *
 * Damage: a checksummed log can only contradict itself by a mistake of its writer. Then the state that it describes
 * is not known, and the walk stops for good: facts.damage. */
#include "proxy/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "log/base/diag.h"
#include "log/record.h"
#include "proxy/argv.h"
#include "proxy/replay_internal.h"

enum { INTENTS_FIRST_CAP = 64, SELECT_BYTES_MAX = 64 };

void replay_attach_body(struct buf *body, uint64_t offset, const char *replid, const char *run_id, bool again)
{
    CHECK(strlen(replid) < UINT8_MAX && strlen(run_id) < UINT8_MAX);
    buf_varint(body, offset);
    buf_u8(body, (uint8_t)strlen(replid));
    buf_append(body, replid, strlen(replid));
    buf_u8(body, (uint8_t)strlen(run_id));
    buf_append(body, run_id, strlen(run_id));
    if (again)
        buf_u8(body, 1);
}

static void damage(struct replay *r, const char *what, uint64_t number)
{
    if (r->facts.damage != NULL)
        return;
    (void)snprintf(r->why, sizeof r->why, "entry %llu of the log contradicts what is before it: %s %llu",
                   (unsigned long long)r->entry, what, (unsigned long long)number);
    r->facts.damage = r->why;
}

/* ---- pending intents ---- */

static void forget(struct replay_intent *i)
{
    free((void *)i->resp);
    i->resp = NULL;
}

static void drop_holes(struct replay *r)
{
    while (r->head < r->count && r->intent[r->head].resp == NULL)
        r->head++;
    if (r->head == r->count)
        r->head = r->count = 0;
}

static void make_room(struct replay *r)
{
    size_t live = r->count - r->head;

    if (r->count < r->cap)
        return;
    if (r->head > 0 && live <= r->cap / 2) {
        memmove(r->intent, r->intent + r->head, live * sizeof *r->intent);
        r->head = 0;
        r->count = live;
        return;
    }
    r->cap = r->cap ? r->cap * 2 : INTENTS_FIRST_CAP;
    r->intent = must_realloc(r->intent, r->cap * sizeof *r->intent);
}

static void remember(struct replay *r, const struct frame_view *f)
{
    char *copy;

    if (f->seq <= r->last_seq) {
        damage(r, "intent out of sequence:", f->seq);
        return;
    }
    r->last_seq = f->seq;
    make_room(r);
    copy = malloc(f->resp_bytes ? f->resp_bytes : 1);
    CHECK(copy != NULL); /* an entry of this size is in memory already */
    memcpy(copy, f->resp, f->resp_bytes);
    r->intent[r->count++] =
        (struct replay_intent){.seq = f->seq, .index = r->entry, .db = f->db, .resp = copy, .n = f->resp_bytes};
    if (f->seq >= r->facts.next_seq)
        r->facts.next_seq = f->seq + 1;
}

static struct replay_intent *find(struct replay *r, uint64_t seq)
{
    size_t low = r->head, high = r->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (r->intent[middle].seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == r->count || r->intent[low].seq != seq || r->intent[low].resp == NULL)
        return NULL;
    return &r->intent[low];
}

/* What the log says here is older than what the mark has told. */
static bool before_mark(const struct replay *r)
{
    return r->mark_tells && (r->entry < r->mark.index || (r->entry == r->mark.index && r->effects < r->mark.effects));
}

/* ---- effects ---- */

static void put_select(struct replay *r, uint32_t db)
{
    char select[SELECT_BYTES_MAX], number[16];
    int n;

    if (r->out_db == (int64_t)db)
        return;
    (void)snprintf(number, sizeof number, "%u", (unsigned)db);
    n = snprintf(select, sizeof select, "*2\r\n$6\r\nSELECT\r\n$%zu\r\n%s\r\n", strlen(number), number);
    if (r->out != NULL)
        buf_append(r->out, select, (size_t)n);
    r->out_db = db;
    replay_passed(r, (size_t)n, r->effects - 1);
}

/* The effect at hand, counted already. */
static void put(struct replay *r, uint32_t db_before, uint32_t db_after, const char *resp, size_t n)
{
    if (n > 0)
        put_select(r, db_before);
    r->facts.db = db_after;
    if (n == 0)
        return;
    r->facts.commands++;
    if (r->out != NULL)
        buf_append(r->out, resp, n);
    r->out_db = db_after;
    replay_passed(r, n, r->effects);
}

/* Counts one effect; true if it is in the snapshot already. */
static bool in_snapshot(struct replay *r)
{
    uint64_t place = r->effects++;

    if (!r->has_mark || r->entry > r->mark.index)
        return false;
    return r->entry < r->mark.index || place < r->mark.effects;
}

/* A transaction's commands are refused one by one. */
static uint64_t commands_of(const struct replay_intent *i)
{
    uint64_t n = 0;

    for (size_t at = 0, args; at < i->n; n++)
        at += argv_places(i->resp + at, i->n - at, NULL, &args);
    return n;
}

static void on_ref(struct replay *r, const struct item_view *item)
{
    for (uint64_t k = 0; k < item->count && r->facts.damage == NULL; k++) {
        bool skip = in_snapshot(r);
        struct replay_intent *i = find(r, item->seq + k);

        if (i == NULL) {
            if (!skip) /* in the snapshot, and its intent older than log_from: nothing is owed */
                damage(r, "REF of an intent that is not pending:", item->seq + k);
            continue;
        }
        if (!skip) {
            put(r, i->db, i->db, i->resp, i->n);
            r->facts.tries += item->kind == ITEM_TRY && r->out != NULL ? commands_of(i) : 0;
        } else if (!r->mark_tells)
            r->facts.db = i->db;
        forget(i);
    }
    drop_holes(r);
}

static void on_resolved(struct replay *r, uint64_t seq)
{
    while (r->head < r->count && r->intent[r->head].seq <= seq)
        forget(&r->intent[r->head++]);
    drop_holes(r);
    if (seq >= r->facts.next_seq)
        r->facts.next_seq = seq + 1;
}

static void on_outcome(struct replay *r, struct frame_view *f)
{
    struct item_view item;

    while (r->facts.damage == NULL && item_next(&f->items, &item)) {
        switch (item.kind) {
        case ITEM_REF:
        case ITEM_TRY:
            on_ref(r, &item);
            break;
        case ITEM_RAW:
            if (!in_snapshot(r))
                put(r, item.db_before, item.db_after, item.resp, item.resp_bytes);
            else if (!r->mark_tells)
                r->facts.db = item.db_after;
            break;
        case ITEM_RESOLVED:
            on_resolved(r, item.seq);
            break;
        }
    }
    if (f->items.bad)
        damage(r, "malformed outcome at effect", r->effects);
    if (!before_mark(r))
        r->facts.offset = f->end_offset;
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

static void on_attach(struct replay *r, struct cursor *c)
{
    uint64_t offset = cursor_varint(c);
    char before[sizeof r->facts.run_id];
    bool again, same_place;

    memcpy(before, r->facts.run_id, sizeof before);
    if (!take_text(c, r->facts.replid, sizeof r->facts.replid) ||
        !take_text(c, r->facts.run_id, sizeof r->facts.run_id)) {
        damage(r, "malformed attachment at offset", offset);
        return;
    }
    again = c->left > 0 && cursor_u8(c) == 1;
    r->facts.attached = r->facts.run_id[0] != '\0';
    same_place = strcmp(before, r->facts.run_id) == 0 && offset == r->facts.offset; /* only the id has changed */
    if (!same_place && (!again || offset > r->facts.offset)) {
        r->facts.offset = offset;
        r->facts.db = 0; /* after a full sync, a fork or a promotion Valkey writes a SELECT first */
    }
}

static void on_users(struct replay *r, struct cursor *body)
{
    size_t n = body->left;

    buf_clear(&r->users);
    buf_append(&r->users, cursor_bytes(body, n), n);
    CHECK(!r->users.failed);
    r->facts.users = n > 0 ? buf_head(&r->users) : "";
    r->facts.users_bytes = n;
    r->facts.users_index = r->entry;
}

static void on_control(struct replay *r, struct frame_view *f)
{
    if (before_mark(r) && f->control != CONTROL_USERS && (f->control != CONTROL_MODE || r->mark.mode >= 0))
        return;
    switch (f->control) {
    case CONTROL_ATTACH:
        on_attach(r, &f->body);
        break;
    case CONTROL_MODE:
        r->facts.mode = cursor_u8(&f->body);
        break;
    case CONTROL_USERS:
        on_users(r, &f->body);
        break;
    case CONTROL_START:
    case CONTROL_SNAPSHOT:
    case CONTROL_BARRIER:
    case CONTROL_MEMBERS:
    case CONTROL_CLOCK:
    case CONTROL_BASE:
        break;
    }
}

static void on_entry(void *arg, const struct entry_view *e)
{
    struct replay *r = arg;
    struct cursor frames = e->frames;
    struct frame_view f;

    if (r->seek.what != SEEK_NOTHING && r->seek.result != REPLAY_SEEKING)
        return;
    r->entry = e->index;
    r->effects = 0;
    while (r->facts.damage == NULL && frame_next(&frames, &f)) {
        if (f.kind == FRAME_INTENT)
            remember(r, &f);
        else if (f.kind == FRAME_OUTCOME)
            on_outcome(r, &f);
        else
            on_control(r, &f);
        if (f.kind != FRAME_CONTROL || f.control == CONTROL_ATTACH)
            r->facts.anything = true;
    }
    if (frames.bad)
        damage(r, "malformed frame in entry", e->index);
    if (r->seek.what == SEEK_INDEX && r->entry == r->seek.goal)
        replay_found(r, r->entry + 1, 0);
}

/* ---- the door ---- */

static void tell_from_mark(struct replay *r, const struct snapshot_mark *mark)
{
    struct replay_facts *f = &r->facts;

    r->mark_tells = true;
    f->attached = f->anything = mark->run_id[0] != '\0';
    memcpy(f->replid, mark->replid, sizeof f->replid);
    memcpy(f->run_id, mark->run_id, sizeof f->run_id);
    f->offset = mark->offset;
    f->db = mark->db;
    f->mode = mark->mode;
}

struct replay *replay_new(struct log *log, const struct snapshot_mark *mark)
{
    struct replay *r = must_calloc(1, sizeof *r);

    r->log = log;
    r->facts.next_seq = 1;
    r->facts.mode = -1;
    r->out_db = REPLAY_DB_NONE;
    r->first = log_first_index(log);
    if (mark != NULL) {
        r->mark = *mark;
        r->has_mark = true;
        if (mark->next_seq > r->facts.next_seq)
            r->facts.next_seq = mark->next_seq;
        if (mark->log_from > r->first)
            r->first = mark->log_from;
        else if (mark->log_from < r->first)
            damage(r, "the log begins after the snapshot needs it, at", r->first);
        if (mark->run_id[0] != '\0')
            tell_from_mark(r, mark);
        else if (mark->mode > 0)
            r->facts.mode = mark->mode;
    } else if (r->first > 1) {
        damage(r, "no snapshot, and the log begins at", r->first);
    }
    r->next = r->first;
    return r;
}

struct replay *replay_new_at(struct log *log, const struct replay_place *place)
{
    struct replay *r = replay_new(log, &place->mark);

    tell_from_mark(r, &place->mark);
    r->out_db = place->db;
    return r;
}

void replay_free(struct replay *r)
{
    if (r == NULL)
        return;
    for (size_t i = r->head; i < r->count; i++)
        free((void *)r->intent[i].resp);
    free(r->intent);
    buf_free(&r->users);
    free(r);
}

bool replay_step(struct replay *r, struct buf *out, size_t bytes_max)
{
    uint64_t next;

    if (r->facts.damage != NULL || r->facts.cut || r->next > log_committed(r->log))
        return false;
    if (r->next < log_first_index(r->log)) {
        r->facts.cut = true;
        return false;
    }
    if (r->seek.what != SEEK_NOTHING && r->seek.result != REPLAY_SEEKING)
        return false;
    r->out = out;
    next = log_read(r->log, r->next, bytes_max, on_entry, r);
    r->out = NULL;
    if (next <= r->next) { /* the log has said why, and failed */
        damage(r, "cannot read entry", r->next);
        return false;
    }
    r->next = next;
    return r->facts.damage == NULL && r->next <= log_committed(r->log);
}

double replay_progress(const struct replay *r)
{
    uint64_t end = log_committed(r->log) + 1;

    if (end <= r->first || r->next >= end)
        return 1;
    return (double)(r->next - r->first) / (double)(end - r->first);
}

/* Pending intents without their holes: packed to the front of the array, where facts.pending can point. */
static void pack(struct replay *r)
{
    size_t to = r->head;

    for (size_t i = r->head; i < r->count; i++)
        if (r->intent[i].resp != NULL)
            r->intent[to++] = r->intent[i];
    r->count = to;
}

const struct replay_facts *replay_facts(const struct replay *r)
{
    struct replay *self = (struct replay *)r; /* packing changes the form, not what it says */

    pack(self);
    self->facts.pending = r->intent == NULL ? NULL : r->intent + r->head;
    self->facts.pending_count = r->count - r->head;
    return &r->facts;
}

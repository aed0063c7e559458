/* The file <dir>/log/data.mdb, an LMDB environment, with the file ahead of it; and how its entries change.
 *
 *     database "entries"   index (native size_t, MDB_INTEGERKEY) -> one entry of record.h; in order, no gaps
 *     database "meta"      small values, by name: store_meta.c
 *
 * Invariants:
 *   1. The keys of "entries" are begin.first .. last, all of them; the running hashes chain from begin's to the
 *      newest.
 *   2. Each change is one transaction, with all that follows from it: term and vote, a cut and what comes in place of
 *      what was cut; a whole log that replaces ours, with its snapshot; a piece of a truncation, with the new begin.
 *   3. A transaction counts only when mdb_txn_commit() has returned 0: data by fdatasync, the meta page by O_DSYNC.
 *      `state` and its like change only then, so a call that failed may be made again. A small write of entries alone
 *      counts when it is in the file ahead (store_ahead.c): one wait instead of two. It comes into LMDB with the next
 *      transaction, at the latest when that file is full.
 *   4. What the base covers is committed: it is never cut.
 *
 *     begin.first                      base.index                    last
 *     |──── kept for who lags ─────────|──────── may be cut ─────────|
 *     └ goes by store_truncate_to()    └ moves with it                └ store_write()
 *
 * Example: a follower holds 1..9 and its base is at 4. The new leader's log differs from 8 on: store_write({cut_from
 * 8, records 8, 9, 10}). Killed at any moment, the log is 1..9 as before, or 1..10 as the leader has it. */
#include "log/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

enum { TRUNCATE_ENTRIES_MAX = 1024, TRUNCATE_BYTES_MAX = 16 * 1024 * 1024 };

struct store_state store_state(const struct store *s)
{
    return s->state;
}

static enum store_result size_max_reached(const struct store *s, uint64_t bytes, char *why)
{
    (void)snprintf(why, STORE_WHY_BYTES, "log-size-max reached: %" PRIu64 " bytes are taken, %" PRIu64 " are wanted",
                   s->state.bytes, bytes);
    return STORE_FULL;
}

static uint64_t cost_of(const struct store *s, struct record *const *records, size_t count)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += store_cost(s, records[i]->bytes.len);
    return bytes;
}

/* Records that do not follow one another, or not what is there, are a mistake of ours: peers' were checked before. */
static void check_record(const struct record *r, uint64_t index, struct hash128 previous)
{
    struct entry_view e;

    CHECK(r->index == index);
    CHECK(entry_open(buf_head(&r->bytes), r->bytes.len, index, previous, &e) == ENTRY_OK);
    CHECK(e.term == r->term);
    CHECK(e.running.low == r->running.low && e.running.high == r->running.high);
}

static void check_records(struct record *const *records, size_t count, uint64_t index, struct hash128 previous)
{
    for (size_t i = 0; i < count; i++) {
        check_record(records[i], index + i, previous);
        previous = records[i]->running;
    }
}

/* Behind the last entry; `after` is kept in step. */
static int put_records(struct store *s, MDB_txn *txn, struct record *const *records, size_t count,
                       struct store_state *after)
{
    int rc = 0;

    for (size_t i = 0; i < count && rc == 0; i++) {
        size_t number = after->last + 1;
        MDB_val key = {sizeof number, &number}, data = {records[i]->bytes.len, buf_head(&records[i]->bytes)};

        CHECK(records[i]->index == number);
        rc = mdb_put(txn, s->entries, &key, &data, MDB_APPEND | MDB_NOOVERWRITE);
        after->last = number;
        after->running = records[i]->running;
        after->bytes += store_cost(s, data.mv_size);
    }
    return rc;
}

/* ---- write ---- */

struct writing {
    const struct store_write *write;
    uint64_t cut_bytes, cut_from; /* what the cut takes away; cut_from: last + 1 if nothing */
    struct hash128 before;        /* running hash before cut_from */
    struct store_state after;
};

/* Removes the newest entries, down to cut_from. */
static int cut_work(struct store *s, MDB_txn *txn, struct writing *w)
{
    MDB_val key, data;
    MDB_cursor *at;
    size_t number;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    while (rc == 0 && w->after.last >= w->cut_from) {
        if ((rc = mdb_cursor_get(at, &key, &data, MDB_LAST)) != 0)
            break;
        memcpy(&number, key.mv_data, sizeof number);
        if (number != w->after.last) {
            rc = MDB_CORRUPTED;
            break;
        }
        w->after.bytes -= store_cost(s, data.mv_size);
        w->after.last--;
        rc = mdb_cursor_del(at, 0);
    }
    mdb_cursor_close(at);
    w->after.running = w->before;
    return rc;
}

static int write_work(struct store *s, MDB_txn *txn, void *context)
{
    struct writing *w = context;
    int rc;

    w->after = s->state;
    rc = ahead_put(s, txn);
    if (rc == 0 && w->write->hard != NULL)
        rc = store_put_hard(s, txn, w->write->hard);
    if (rc == 0 && w->cut_from <= s->state.last)
        rc = cut_work(s, txn, w);
    return rc == 0 ? put_records(s, txn, w->write->records, w->write->count, &w->after) : rc;
}

/* What a cut will find: the hash before it, and how much goes. */
static int cut_look(struct store *s, MDB_txn *txn, void *context)
{
    struct writing *w = context;
    size_t number = w->cut_from - 1;
    MDB_val key = {sizeof number, &number}, data;
    MDB_cursor *at;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    w->before = s->state.before;
    if (w->cut_from > s->state.first) {
        if (mdb_cursor_get(at, &key, &data, MDB_SET_KEY) != 0 ||
            entry_running(data.mv_data, data.mv_size, &w->before) != ENTRY_OK)
            rc = MDB_CORRUPTED;
    }
    if (rc == 0)
        rc = mdb_cursor_get(at, &key, &data, w->cut_from > s->state.first ? MDB_NEXT : MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(at, &key, &data, MDB_NEXT))
        w->cut_bytes += store_cost(s, data.mv_size);
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static void check_hard(const struct store_hard *from, const struct store_hard *to)
{
    CHECK(to->term >= from->term);
    CHECK(to->term > from->term || from->vote == 0 || to->vote == from->vote); /* no second vote in one term */
}

/* Durable with one wait. */
static int write_ahead(struct store *s, const struct writing *w, uint64_t bytes)
{
    const struct record *last = w->write->records[w->write->count - 1];
    int rc = ahead_append(s, w->write->records, w->write->count);

    if (rc != 0)
        return rc;
    s->state.last = last->index;
    s->state.running = last->running;
    s->state.bytes += bytes;
    return 0;
}

static int run_write(struct store *s, struct writing *w, uint64_t bytes)
{
    int rc;

    if (ahead_takes(s, w->write, bytes))
        return write_ahead(s, w, bytes);
    if (w->write->count > 0)
        rc = store_transact_entries(s, bytes + ahead_cost(s), write_work, w);
    else
        rc = store_transact_small(s, write_work, w);
    if (rc != 0)
        return rc;
    ahead_settled(s);
    if (w->write->hard != NULL)
        s->hard = *w->write->hard;
    s->freed = s->freed || w->cut_from <= s->state.last;
    s->state = w->after;
    return 0;
}

enum store_result store_write(struct store *s, const struct store_write *write, char *why)
{
    struct writing w = {.write = write, .cut_from = s->state.last + 1, .before = s->state.running};
    uint64_t bytes = cost_of(s, write->records, write->count);
    int rc = 0;

    if (write->hard != NULL)
        check_hard(&s->hard, write->hard);
    if (write->cut_from != 0 && write->cut_from <= s->state.last) {
        CHECK(write->cut_from > s->base.index && write->cut_from >= s->state.first);
        w.cut_from = write->cut_from;
        rc = ahead_settle(s); /* it may be what is cut */
        if (rc == 0)
            rc = store_look(s, cut_look, &w);
    }
    if (rc == 0) {
        check_records(write->records, write->count, w.cut_from, w.before);
        if (write->count > 0 && s->state.bytes - w.cut_bytes + bytes > s->size_max_bytes)
            return size_max_reached(s, bytes, why);
        rc = run_write(s, &w, bytes);
    }
    return rc == 0 ? STORE_OK : store_trouble(rc, "cannot write to the log", why);
}

/* ---- install ---- */

struct installing {
    const struct store_install *install;
    struct store_state after;
};

/* Without entries, the one before the first is the base's. */
static uint64_t before_term(const struct store_install *i)
{
    return i->count > 0 ? i->before_term : i->base->term;
}

static int install_work(struct store *s, MDB_txn *txn, void *context)
{
    struct installing *w = context;
    const struct store_install *i = w->install;
    int rc = mdb_drop(txn, s->entries, 0);

    w->after = (struct store_state){
        .first = i->first, .last = i->first - 1, .before = i->before, .running = i->before, .bytes = 0};
    if (rc == 0)
        rc = put_records(s, txn, i->records, i->count, &w->after);
    if (rc == 0)
        rc = store_put_begin(s, txn, &(struct store_begin){i->first, i->before, before_term(i)});
    if (rc == 0)
        rc = store_put_base(s, txn, i->base);
    return rc == 0 ? store_put_snapshot_record(s, txn, &i->snapshot) : rc;
}

enum store_result store_install(struct store *s, const struct store_install *i, char *why)
{
    struct installing w = {.install = i};
    uint64_t bytes = cost_of(s, i->records, i->count);
    int rc;

    CHECK(i->first > 0 && i->base->index + 1 == i->first + i->count);
    CHECK(i->base->index >= s->base.index);
    CHECK(i->count == 0 || i->records[i->count - 1]->term == i->base->term);
    check_records(i->records, i->count, i->first, i->before);
    if (bytes > s->size_max_bytes)
        return size_max_reached(s, bytes, why);
    rc = ahead_settle(s);
    if (rc == 0)
        rc = i->count > 0 ? store_transact_entries(s, bytes, install_work, &w)
                          : store_transact_small(s, install_work, &w);
    if (rc != 0)
        return store_trouble(rc, "cannot replace the log", why);
    s->state = w.after;
    s->before_term = before_term(i);
    s->base = (struct store_point){i->base->index, i->base->term};
    s->freed = true;
    return STORE_OK;
}

/* ---- truncate ---- */

struct truncation {
    uint64_t index;
    const struct store_base *base; /* NULL: unchanged */
    struct store_state after;
    uint64_t before_term;
};

/* Removes a piece from the front, and keeps `after` in step. */
static int remove_piece(struct store *s, MDB_cursor *at, struct truncation *t)
{
    struct store_state *after = &t->after;
    uint64_t removed_bytes = 0;
    struct entry_view e;
    MDB_val key, data;
    size_t number;
    int rc = 0;

    for (int n = 0; n < TRUNCATE_ENTRIES_MAX && removed_bytes < TRUNCATE_BYTES_MAX && after->first < t->index; n++) {
        if ((rc = mdb_cursor_get(at, &key, &data, MDB_FIRST)) != 0)
            break;
        memcpy(&number, key.mv_data, sizeof number);
        if (number != after->first || entry_stated(data.mv_data, data.mv_size, &e) != ENTRY_OK) {
            rc = MDB_CORRUPTED;
            break;
        }
        removed_bytes += store_cost(s, data.mv_size);
        after->before = e.running;
        t->before_term = e.term;
        after->first++;
        if ((rc = mdb_cursor_del(at, 0)) != 0)
            break;
    }
    after->bytes -= removed_bytes;
    return rc;
}

static int truncate_work(struct store *s, MDB_txn *txn, void *context)
{
    struct truncation *t = context;
    MDB_cursor *at;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    t->after = s->state;
    t->before_term = s->before_term;
    rc = remove_piece(s, at, t);
    mdb_cursor_close(at);
    if (rc == 0 && t->base != NULL)
        rc = store_put_base(s, txn, t->base);
    return rc != 0 ? rc
                   : store_put_begin(s, txn, &(struct store_begin){t->after.first, t->after.before, t->before_term});
}

static enum store_result remove_front(struct store *s, struct truncation *t, bool *more, char *why)
{
    int rc = ahead_settle(s);

    if (rc == 0)
        rc = store_transact_small(s, truncate_work, t);
    if (rc != 0)
        return store_trouble(rc, "cannot truncate the log", why);
    s->freed = s->freed || t->after.first > s->state.first;
    s->state = t->after;
    s->before_term = t->before_term;
    if (t->base != NULL)
        s->base = (struct store_point){t->base->index, t->base->term};
    *more = t->after.first < t->index;
    return STORE_OK;
}

enum store_result store_truncate_to(struct store *s, uint64_t index, const struct store_base *base, bool *more,
                                    char *why)
{
    struct truncation t = {.index = index};

    CHECK(base->index >= s->base.index && base->index <= s->state.last);
    CHECK(index <= base->index + 1);
    *more = false;
    if (base->index > s->base.index)
        t.base = base;
    if (index <= s->state.first && t.base == NULL)
        return STORE_OK;
    return remove_front(s, &t, more, why);
}

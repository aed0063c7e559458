/* Looking at entries: checked in place and in chain (store_read), checked alone (store_read_raw), or by what their
 * headers state (store_at, store_walk: opening has checked them all).
 *
 * The views that each() gets borrow LMDB's memory: they are gone when the call returns. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "log/store_internal.h"

static enum store_result looked(int rc, char *why)
{
    if (rc == 0)
        return STORE_OK;
    if (why[0] == '\0')
        (void)store_trouble(rc, "cannot read the log", why);
    return STORE_BROKEN;
}

static int damaged(uint64_t index, enum entry_error error, char *why)
{
    (void)snprintf(why, STORE_WHY_BYTES, "the log is damaged: entry %" PRIu64 ": %s", index, entry_error_text(error));
    return MDB_CORRUPTED;
}

/* ---- in chain ---- */

struct reading {
    uint64_t *next, last;
    size_t bytes, bytes_max; /* read so far, and at most */
    void (*each)(void *arg, const struct entry_view *e);
    void *arg;
    char *why;
};

/* The running hash before entry `index`: what the entry before it states, or where the log begins. */
static int running_before(struct store *s, MDB_txn *txn, uint64_t index, struct hash128 *out, char *why)
{
    size_t number = index - 1;
    MDB_val key = {sizeof number, &number}, data;
    struct store_begin begin;
    int rc = store_get_begin(s, txn, &begin);

    if (rc != 0)
        return rc;
    *out = begin.before;
    if (begin.first == index)
        return 0;
    if (index < begin.first) {
        (void)snprintf(why, STORE_WHY_BYTES, "log entry %" PRIu64 " is wanted, but the log begins at %" PRIu64, index,
                       begin.first);
        return MDB_NOTFOUND;
    }
    rc = mdb_get(txn, s->entries, &key, &data);
    if (rc == 0 && entry_running(data.mv_data, data.mv_size, out) != ENTRY_OK)
        rc = MDB_CORRUPTED;
    return rc;
}

static int read_work(struct store *s, MDB_txn *txn, void *context)
{
    struct reading *r = context;
    size_t number = *r->next;
    MDB_val key = {sizeof number, &number}, data;
    MDB_cursor *at;
    struct entry_view e;
    enum entry_error error;
    int rc = running_before(s, txn, *r->next, &e.running, r->why);

    if (rc != 0 || (rc = mdb_cursor_open(txn, s->entries, &at)) != 0)
        return rc;
    rc = mdb_cursor_get(at, &key, &data, MDB_SET_KEY);
    for (; rc == 0 && *r->next <= r->last && r->bytes < r->bytes_max;
         rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) {
        error = entry_open(data.mv_data, data.mv_size, *r->next, e.running, &e);
        if (error != ENTRY_OK) {
            rc = damaged(*r->next, error, r->why);
            break;
        }
        r->each(r->arg, &e);
        r->bytes += data.mv_size;
        ++*r->next;
    }
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND && *r->next > r->last ? 0 : rc;
}

/* Entries ahead of LMDB, from *next on, each checked in chain behind the one before it. `running`: before *next. */
static int read_ahead(struct store *s, struct reading *r, struct hash128 running)
{
    struct buf copy = {0};
    struct entry_view e;
    int rc = 0;

    while (rc == 0 && *r->next <= r->last && r->bytes < r->bytes_max && ahead_copy(s, *r->next, &copy)) {
        enum entry_error error = entry_open(buf_head(&copy), copy.len, *r->next, running, &e);

        if (error != ENTRY_OK) {
            rc = damaged(*r->next, error, r->why);
            break;
        }
        running = e.running;
        r->each(r->arg, &e);
        r->bytes += copy.len;
        ++*r->next;
    }
    buf_free(&copy);
    return rc;
}

/* What is ahead may be settled between two looks: then the next look at LMDB finds it. */
enum store_result store_read(struct store *s, uint64_t *next, uint64_t last, size_t bytes_max,
                             void (*each)(void *arg, const struct entry_view *e), void *arg, char *why)
{
    struct reading r = {
        .next = next, .last = last, .bytes_max = bytes_max > 0 ? bytes_max : 1, .each = each, .arg = arg, .why = why};
    bool missing = false;
    int rc = 0;

    why[0] = '\0';
    while (rc == 0 && *next <= last && r.bytes < r.bytes_max) {
        uint64_t from = *next, term;
        struct hash128 running;

        if (store_at(s, from - 1, &term, &running))
            rc = read_ahead(s, &r, running);
        if (rc == 0 && *next == from)
            rc = store_look(s, read_work, &r);
        if (rc == MDB_NOTFOUND && why[0] == '\0' && (*next > from || !missing)) {
            missing = *next == from; /* once: settled meanwhile, perhaps */
            rc = 0;
        }
    }
    return looked(rc, why);
}

/* ---- one by one ---- */

struct raw_reading {
    uint64_t next, last;
    size_t bytes, bytes_max;
    bool wanted; /* each() wants more */
    bool (*each)(void *arg, uint64_t index, const void *bytes, size_t n);
    void *arg;
    char *why;
};

static int give_raw(struct raw_reading *r, const void *bytes, size_t n)
{
    struct entry_view e;
    enum entry_error error = entry_check(bytes, n, &e);

    if (error == ENTRY_OK && e.index != r->next)
        error = ENTRY_INDEX;
    if (error != ENTRY_OK)
        return damaged(r->next, error, r->why);
    r->wanted = r->each(r->arg, r->next, bytes, n);
    r->bytes += n;
    r->next++;
    return 0;
}

static bool wants_more(const struct raw_reading *r)
{
    return r->wanted && r->next <= r->last && r->bytes < r->bytes_max;
}

static int read_raw_work(struct store *s, MDB_txn *txn, void *context)
{
    struct raw_reading *r = context;
    size_t number = r->next;
    MDB_val key = {sizeof number, &number}, data;
    MDB_cursor *at;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(at, &key, &data, MDB_SET_KEY);
    while (rc == 0 && wants_more(r)) {
        rc = give_raw(r, data.mv_data, data.mv_size);
        if (rc == 0)
            rc = mdb_cursor_get(at, &key, &data, MDB_NEXT);
    }
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum store_result store_read_raw(struct store *s, uint64_t from, uint64_t last, size_t bytes_max,
                                 bool (*each)(void *arg, uint64_t index, const void *bytes, size_t n), void *arg,
                                 char *why)
{
    struct raw_reading r = {.next = from,
                            .last = last,
                            .bytes_max = bytes_max > 0 ? bytes_max : 1,
                            .wanted = true,
                            .each = each,
                            .arg = arg,
                            .why = why};
    struct buf copy = {0};
    int rc = 0, idle = 0; /* looks in vain: what is ahead may be settled between two */

    why[0] = '\0';
    while (rc == 0 && wants_more(&r) && idle < 2) {
        uint64_t before = r.next;

        while (rc == 0 && wants_more(&r) && ahead_copy(s, r.next, &copy))
            rc = give_raw(&r, buf_head(&copy), copy.len);
        if (rc == 0 && wants_more(&r))
            rc = store_look(s, read_raw_work, &r);
        idle = r.next > before ? 0 : idle + 1;
    }
    buf_free(&copy);
    return looked(rc, why);
}

/* ---- what headers state ---- */

struct place {
    uint64_t index, term;
    struct hash128 running;
};

static int at_work(struct store *s, MDB_txn *txn, void *context)
{
    struct place *p = context;
    size_t number = p->index;
    MDB_val key = {sizeof number, &number}, data;
    struct store_begin begin;
    struct entry_view e;
    int rc = store_get_begin(s, txn, &begin);

    if (rc != 0)
        return rc;
    if (p->index + 1 == begin.first) {
        p->term = begin.before_term;
        p->running = begin.before;
        return 0;
    }
    rc = mdb_get(txn, s->entries, &key, &data);
    if (rc == 0 && (entry_stated(data.mv_data, data.mv_size, &e) != ENTRY_OK || e.index != p->index))
        rc = MDB_CORRUPTED;
    if (rc == 0) {
        p->term = e.term;
        p->running = e.running;
    }
    return rc;
}

bool store_at(struct store *s, uint64_t index, uint64_t *term, struct hash128 *running)
{
    struct place p = {.index = index};
    struct entry_view e;

    if (ahead_stated(s, index, &e)) {
        p.term = e.term;
        p.running = e.running;
    } else if (store_look(s, at_work, &p) != 0) {
        return false;
    }
    *term = p.term;
    *running = p.running;
    return true;
}

struct walking {
    void (*each)(void *arg, uint64_t index, uint64_t term, enum record_type type, const void *change,
                 size_t change_bytes);
    void *arg;
};

static int walk_one(const struct walking *w, const void *bytes, size_t n)
{
    struct entry_view e;
    const void *change;
    size_t change_n;

    if (entry_stated(bytes, n, &e) != ENTRY_OK)
        return MDB_CORRUPTED;
    change = entry_change(&e, &change_n);
    w->each(w->arg, e.index, e.term, entry_type(&e), change, change_n);
    return 0;
}

static int walk_work(struct store *s, MDB_txn *txn, void *context)
{
    MDB_val key, data;
    MDB_cursor *at;
    int rc = mdb_cursor_open(txn, s->entries, &at);

    if (rc != 0)
        return rc;
    while ((rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) == 0)
        if ((rc = walk_one(context, data.mv_data, data.mv_size)) != 0)
            break;
    mdb_cursor_close(at);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum store_result store_walk(struct store *s,
                             void (*each)(void *arg, uint64_t index, uint64_t term, enum record_type type,
                                          const void *change, size_t change_bytes),
                             void *arg, char *why)
{
    struct walking w = {each, arg};
    struct buf copy = {0};
    int rc;

    why[0] = '\0';
    rc = store_look(s, walk_work, &w);
    for (uint64_t i = s->ahead.first; rc == 0 && ahead_copy(s, i, &copy); i++)
        rc = walk_one(&w, buf_head(&copy), copy.len);
    buf_free(&copy);
    return looked(rc, why);
}

#include "tests/unit/store_model.h"

#include <ftw.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "log/base/diag.h"

enum { RECORDS_MAX = 40, MEMORY_BYTES_MIN = 512 * 1024 * 1024 };

/* ---- records ---- */

struct record *model_record(uint64_t index, uint64_t term, struct hash128 previous, size_t n)
{
    struct buf batch = {0}, body = {0};
    uint64_t x = index * 0x9e3779b97f4a7c15u + term;
    struct hash128 running;
    enum record_type type = index % 9 == 1 ? RECORD_CHANGE : index % 9 == 2 ? RECORD_BARRIER : RECORD_COMMAND;

    while (body.len < n) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        buf_u64(&body, x);
    }
    entry_begin(&batch);
    if (type == RECORD_CHANGE)
        frame_control(&batch, CONTROL_MEMBERS, buf_head(&body), body.len);
    else if (type == RECORD_BARRIER)
        frame_control(&batch, CONTROL_BARRIER, NULL, 0);
    else
        frame_intent(&batch, index, 0, buf_head(&body), body.len);
    running = entry_seal(&batch, index, term, previous);
    buf_free(&body);
    return record_new(&batch, type, index, term, running);
}

static size_t size_of(struct model *m)
{
    static const size_t sizes[] = {0, 20, 100, 1950, 2100, 5000, 9000, 40000};

    return sizes[model_chance(m, sizeof sizes / sizeof sizes[0])];
}

/* ---- the model ---- */

uint64_t model_chance(struct model *m, uint64_t n)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (m->random >> 11) % n;
}

struct model *model_new(uint64_t seed)
{
    struct model *m = must_calloc(1, sizeof *m);

    m->random = seed * 0x9e3779b97f4a7c15u + 1;
    m->first = 1;
    return m;
}

static void drop_range(struct model *m, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        record_drop(m->at[i]);
        m->at[i] = NULL;
    }
}

void model_free(struct model *m)
{
    drop_range(m, m->first, m->last);
    buf_free(&m->base.change);
    free(m);
}

struct hash128 model_running(const struct model *m, uint64_t index)
{
    return index + 1 == m->first ? m->before : m->at[index]->running;
}

static uint64_t term_of(const struct model *m, uint64_t index)
{
    return index + 1 == m->first ? m->before_term : m->at[index]->term;
}

static void done(struct store *s, enum store_result r, const char *why)
{
    if (s != NULL && r != STORE_OK)
        fail_msg("%s", why);
}

/* ---- the steps ---- */

static void cut_model(struct model *m, uint64_t from)
{
    drop_range(m, from, m->last);
    m->last = from - 1;
}

/* Half of the steps: a term or vote now and then, a cut now and then, records mostly. */
static void step_write(struct model *m, struct store *s, char *why)
{
    struct record *records[RECORDS_MAX];
    struct store_write w = {.records = records};
    struct hash128 previous;
    uint64_t from = m->last + 1, floor = m->base.index + 1 > m->first ? m->base.index + 1 : m->first;

    if (model_chance(m, 4) == 0) {
        if (m->hard.vote != 0 || model_chance(m, 2) == 0)
            m->hard = (struct store_hard){m->hard.term + 1, 0};
        else
            m->hard.vote = 1 + model_chance(m, 3);
        w.hard = &m->hard;
    }
    if (model_chance(m, 6) == 0 && floor <= m->last + 1) {
        from = floor + model_chance(m, m->last + 2 - floor);
        if (m->last - floor > 30 && from < m->last - 30)
            from = m->last - model_chance(m, 30);
        w.cut_from = from + (model_chance(m, 8) == 0 && from == m->last + 1 ? 5 : 0); /* beyond the end: nothing */
    }
    previous = model_running(m, from - 1);
    w.count = model_chance(m, 5) == 0 ? 0 : 1 + (model_chance(m, 10) == 0 ? model_chance(m, RECORDS_MAX) : 0);
    for (size_t i = 0; i < w.count; i++) {
        records[i] = model_record(from + i, m->hard.term, previous, size_of(m));
        previous = records[i]->running;
    }
    done(s, s == NULL ? STORE_OK : store_write(s, &w, why), why);
    cut_model(m, from);
    for (size_t i = 0; i < w.count; i++)
        m->at[++m->last] = records[i];
}

static void set_base(struct model *m, uint64_t index, uint64_t term)
{
    m->base.index = index;
    m->base.term = term;
    m->base.change_index = index / 2;
    buf_clear(&m->base.change);
    buf_printf(&m->base.change, "configuration of %llu", (unsigned long long)index);
}

static void step_truncate(struct model *m, struct store *s, char *why)
{
    uint64_t kept = m->last + 1 - m->first, index;
    bool more = false;

    if (kept > 0 && m->base.index < m->last) {
        uint64_t base = m->base.index + 1 + model_chance(m, m->last - m->base.index);

        if (base + 1 >= m->first)
            set_base(m, base, term_of(m, base));
    }
    index = m->first + model_chance(m, kept + 1);
    if (index > m->base.index + 1)
        index = m->base.index + 1;
    if (index + 1000 < m->last) /* in one piece */
        index = m->first;
    if (m->base.index == 0)
        return;
    done(s, s == NULL ? STORE_OK : store_truncate_to(s, index, &m->base, &more, why), why);
    assert_false(more);
    if (index <= m->first)
        return;
    m->before = model_running(m, index - 1);
    m->before_term = term_of(m, index - 1);
    drop_range(m, m->first, index - 1);
    m->first = index;
}

/* Over a longer log, over a shorter one, with entries and without. */
static void step_install(struct model *m, struct store *s, char *why)
{
    struct record *records[RECORDS_MAX];
    size_t count = model_chance(m, 3) == 0 ? 0 : model_chance(m, RECORDS_MAX);
    uint64_t first = m->base.index + 1 + model_chance(m, 60), term = m->hard.term;
    struct hash128 before = {model_chance(m, 1000), 5};
    struct store_install i = {.first = first, .before_term = term, .before = before, .records = records};

    for (i.count = 0; i.count < count; i.count++) {
        records[i.count] = model_record(first + i.count, term, before, size_of(m));
        before = records[i.count]->running;
    }
    drop_range(m, m->first, m->last);
    m->first = first;
    m->before = i.before;
    m->before_term = term;
    for (size_t k = 0; k < count; k++)
        m->at[first + k] = records[k];
    m->last = first + count - 1;
    set_base(m, m->last, term);
    m->snapshot = (struct store_snapshot){m->snapshot.serial + 1, model_chance(m, 1000)};
    i.base = &m->base;
    i.snapshot = m->snapshot;
    done(s, s == NULL ? STORE_OK : store_install(s, &i, why), why);
}

static void step_note(struct model *m, struct store *s, char *why)
{
    m->note_bytes = (size_t)model_chance(m, sizeof m->note + 1);
    memset(m->note, (int)model_chance(m, 256), m->note_bytes);
    done(s, s == NULL ? STORE_OK : store_put_note(s, "test", m->note, m->note_bytes, why), why);
}

static void step_snapshot(struct model *m, struct store *s, char *why)
{
    m->snapshot = (struct store_snapshot){m->snapshot.serial + 1, model_chance(m, 1000)};
    done(s, s == NULL ? STORE_OK : store_put_snapshot(s, m->snapshot, why), why);
}

void model_step(struct model *m, struct store *s)
{
    static void (*const steps[])(struct model * m, struct store * s, char *why) = {
        step_write, step_truncate, step_install, step_note, step_snapshot,
    };
    static const uint64_t weights[] = {80, 12, 3, 3, 2};
    char why[STORE_WHY_BYTES] = "";
    uint64_t dice = model_chance(m, 100);
    size_t i = 0;

    assert_true(m->last + 2 * RECORDS_MAX + 100 < MODEL_ENTRIES_MAX);
    for (; dice >= weights[i]; i++)
        dice -= weights[i];
    m->calls[i]++;
    steps[i](m, s, why);
}

/* ---- comparison ---- */

struct comparing {
    const struct model *m;
    uint64_t next;
    bool ok;
};

static void compare_entry(void *arg, const struct entry_view *e)
{
    struct comparing *c = arg;
    const struct record *r = c->next <= c->m->last ? c->m->at[c->next] : NULL;

    c->ok = c->ok && r != NULL && e->index == c->next && e->term == r->term && e->running.low == r->running.low &&
            e->frames.left == r->bytes.len - ENTRY_HEADER_BYTES;
    c->next++;
}

static bool compare_raw(void *arg, uint64_t index, const void *bytes, size_t n)
{
    struct comparing *c = arg;
    const struct record *r = index <= c->m->last ? c->m->at[index] : NULL;

    c->ok = c->ok && index == c->next && r != NULL && r->bytes.len == n && memcmp(buf_head(&r->bytes), bytes, n) == 0;
    c->next++;
    return true;
}

static bool same_entries(const struct model *m, struct store *s)
{
    struct comparing c = {m, m->first, true};
    char why[STORE_WHY_BYTES];
    uint64_t next = m->first;

    while (c.ok && next <= m->last)
        if (store_read(s, &next, m->last, 100000, compare_entry, &c, why) != STORE_OK)
            return false;
    if (!c.ok || c.next != m->last + 1)
        return false;
    c.next = m->first;
    while (c.ok && c.next <= m->last) {
        uint64_t from = c.next;

        if (store_read_raw(s, from, m->last, 100000, compare_raw, &c, why) != STORE_OK || c.next == from)
            return false;
    }
    return c.ok;
}

static bool same_places(const struct model *m, struct store *s)
{
    struct hash128 running;
    uint64_t term;

    for (uint64_t i = m->first - 1; i <= m->last; i++) {
        struct hash128 expected = model_running(m, i);

        if (!store_at(s, i, &term, &running) || term != term_of(m, i) || running.low != expected.low ||
            running.high != expected.high)
            return false;
    }
    return !store_at(s, m->last + 1, &term, &running) &&
           (m->first < 2 || !store_at(s, m->first - 2, &term, &running));
}

static bool same_meta(const struct model *m, struct store *s)
{
    char note[sizeof m->note], why[STORE_WHY_BYTES];
    struct store_snapshot snapshot;

    return store_get_snapshot(s, &snapshot, why) == STORE_OK && snapshot.serial == m->snapshot.serial &&
           snapshot.check == m->snapshot.check && store_get_note(s, "test", note, sizeof note) == m->note_bytes &&
           memcmp(note, m->note, m->note_bytes) == 0 && store_get_note(s, "other", note, sizeof note) == 0;
}

bool model_matches(const struct model *m, struct store *s)
{
    struct store_state now = store_state(s);
    struct hash128 running = model_running(m, m->last);

    return now.first == m->first && now.last == m->last && now.before.low == m->before.low &&
           now.running.low == running.low && now.running.high == running.high && same_entries(m, s) &&
           same_places(m, s) && same_meta(m, s);
}

static void walk_entry(void *arg, uint64_t index, uint64_t term, enum record_type type, const void *change, size_t n)
{
    struct comparing *c = arg;
    const struct record *r = index <= c->m->last ? c->m->at[index] : NULL;
    size_t expected_bytes = 0;
    const void *expected = r == NULL ? NULL : record_change(r, &expected_bytes);

    c->ok = c->ok && index == c->next && r != NULL && r->term == term && r->type == type && n == expected_bytes &&
            (expected == NULL) == (change == NULL) && (n == 0 || memcmp(change, expected, n) == 0);
    c->next++;
}

bool model_matches_opened(const struct model *m, struct store *s)
{
    struct comparing c = {m, m->first, true};
    struct store_hard hard = store_hard(s);
    const struct store_base *base = store_base(s);
    char why[STORE_WHY_BYTES];

    return model_matches(m, s) && hard.term == m->hard.term && hard.vote == m->hard.vote &&
           base->index == m->base.index && base->term == m->base.term && base->change_index == m->base.change_index &&
           base->change.len == m->base.change.len &&
           (base->change.len == 0 ||
            memcmp(buf_head(&base->change), buf_head(&m->base.change), base->change.len) == 0) &&
           store_walk(s, walk_entry, &c, why) == STORE_OK && c.ok && c.next == m->last + 1;
}

/* ---- a directory ---- */

void store_fixture_open(struct store_fixture *f)
{
    store_fixture_close(f);
    f->s = store_open(f->dir, "node-1", MODEL_SIZE_MAX_BYTES, true, f->why, sizeof f->why);
    if (f->s == NULL)
        fail_msg("%s", f->why);
}

/* In memory if there is room: nothing here depends on the disk's speed, and tens of thousands of commits do. */
static const char *fast_directory(void)
{
    static const char memory[] = "/dev/shm";
    const char *tmp = getenv("TMPDIR");
    struct statvfs room;

    if (access(memory, W_OK) == 0 && statvfs(memory, &room) == 0 && room.f_bavail * room.f_frsize > MEMORY_BYTES_MIN)
        return memory;
    return tmp != NULL ? tmp : "/tmp";
}

void store_fixture_new(struct store_fixture *f)
{
    *f = (struct store_fixture){.s = NULL};
    (void)snprintf(f->dir, sizeof f->dir, "%s/holdfast-store-XXXXXX", fast_directory());
    assert_non_null(mkdtemp(f->dir));
}

void store_fixture_close(struct store_fixture *f)
{
    if (f->s != NULL)
        store_close(f->s);
    f->s = NULL;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

void store_fixture_remove(struct store_fixture *f)
{
    store_fixture_close(f);
    assert_int_equal(nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* The meta database: small values beside the entries, each read back strictly: what is longer, shorter or missing is
 * MDB_CORRUPTED or MDB_NOTFOUND, never a guess.
 *
 *     identity   u32 format | 16 bytes the group's id, zero until it was begun | u64 member id | node name
 *     hard       u64 term | u64 vote
 *     begin      u64 first index kept | 16 bytes running hash before it | u64 term before it
 *     base       u64 index | u64 term | u64 index of the configuration | the configuration (rest)
 *     ahead      u64 the lap whose frames count (store_ahead.c)
 *     snapshot   u64 serial | u64 hash64 of its sidecar
 *     note:NAME  bytes */
#include <string.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

enum { KEY_BYTES_MAX = 128 };

static const char note_prefix[] = "note:";

/* ---- put and get ---- */

static int put(struct store *s, MDB_txn *txn, const char *name, struct buf *value)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data = {value->len, buf_head(value)};
    int rc;

    CHECK(!value->failed);
    rc = mdb_put(txn, s->meta, &key, &data, 0);
    buf_free(value);
    return rc;
}

static int get(struct store *s, MDB_txn *txn, const char *name, struct cursor *out)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, data;
    int rc = mdb_get(txn, s->meta, &key, &data);

    if (rc == 0)
        *out = cursor_of(data.mv_data, data.mv_size);
    return rc;
}

static int whole(const struct cursor *c)
{
    return c->bad || c->left > 0 ? MDB_CORRUPTED : 0;
}

int store_put_identity(struct store *s, MDB_txn *txn, const char *cluster, uint64_t member, const void *node,
                       size_t n)
{
    struct buf b = {0};

    buf_u32(&b, STORE_FORMAT);
    buf_append(&b, cluster, STORE_CLUSTER_BYTES);
    buf_u64(&b, member);
    buf_append(&b, node, n);
    return put(s, txn, "identity", &b);
}

int store_get_identity(struct store *s, MDB_txn *txn, uint32_t *format, struct cursor *rest)
{
    int rc = get(s, txn, "identity", rest);

    if (rc == 0)
        *format = cursor_u32(rest);
    return rc == 0 && rest->bad ? MDB_CORRUPTED : rc;
}

int store_put_begin(struct store *s, MDB_txn *txn, const struct store_begin *begin)
{
    struct buf b = {0};

    buf_u64(&b, begin->first);
    buf_u64(&b, begin->before.low);
    buf_u64(&b, begin->before.high);
    buf_u64(&b, begin->before_term);
    return put(s, txn, "begin", &b);
}

int store_get_begin(struct store *s, MDB_txn *txn, struct store_begin *out)
{
    struct cursor c;
    int rc = get(s, txn, "begin", &c);

    if (rc != 0)
        return rc;
    out->first = cursor_u64(&c);
    out->before.low = cursor_u64(&c);
    out->before.high = cursor_u64(&c);
    out->before_term = cursor_u64(&c);
    return whole(&c);
}

int store_put_base(struct store *s, MDB_txn *txn, const struct store_base *base)
{
    struct buf b = {0};

    buf_u64(&b, base->index);
    buf_u64(&b, base->term);
    buf_u64(&b, base->change_index);
    buf_append(&b, buf_head(&base->change), base->change.len);
    return put(s, txn, "base", &b);
}

int store_get_base(struct store *s, MDB_txn *txn, struct store_base *out)
{
    struct cursor c;
    int rc = get(s, txn, "base", &c);

    if (rc != 0)
        return rc;
    out->index = cursor_u64(&c);
    out->term = cursor_u64(&c);
    out->change_index = cursor_u64(&c);
    if (c.bad)
        return MDB_CORRUPTED;
    buf_clear(&out->change);
    buf_append(&out->change, c.at, c.left);
    CHECK(!out->change.failed);
    return 0;
}

int store_put_lap(struct store *s, MDB_txn *txn, uint64_t lap)
{
    struct buf b = {0};

    buf_u64(&b, lap);
    return put(s, txn, "ahead", &b);
}

int store_get_lap(struct store *s, MDB_txn *txn, uint64_t *lap)
{
    struct cursor c;
    int rc = get(s, txn, "ahead", &c);

    if (rc != 0)
        return rc;
    *lap = cursor_u64(&c);
    return whole(&c);
}

int store_put_hard(struct store *s, MDB_txn *txn, const struct store_hard *h)
{
    struct buf b = {0};

    buf_u64(&b, h->term);
    buf_u64(&b, h->vote);
    return put(s, txn, "hard", &b);
}

int store_get_hard(struct store *s, MDB_txn *txn, struct store_hard *out)
{
    struct cursor c;
    int rc = get(s, txn, "hard", &c);

    if (rc != 0)
        return rc;
    out->term = cursor_u64(&c);
    out->vote = cursor_u64(&c);
    return whole(&c);
}

/* ---- the group's id ---- */

static int cluster_work(struct store *s, MDB_txn *txn, void *context)
{
    const char *cluster = context, *node;
    char name[KEY_BYTES_MAX];
    struct cursor c;
    uint32_t format = 0;
    uint64_t member;
    size_t n;
    int rc = store_get_identity(s, txn, &format, &c);

    if (rc != 0)
        return rc;
    (void)cursor_bytes(&c, STORE_CLUSTER_BYTES);
    member = cursor_u64(&c);
    n = c.left;
    if (c.bad || n > sizeof name)
        return MDB_CORRUPTED;
    node = cursor_bytes(&c, n);
    memcpy(name, node, n); /* LMDB's own memory must not be put back into it */
    return store_put_identity(s, txn, cluster, member, name, n);
}

static int current_cluster_work(struct store *s, MDB_txn *txn, void *context)
{
    struct cursor c;
    uint32_t format = 0;
    const char *cluster;
    int rc = store_get_identity(s, txn, &format, &c);

    if (rc != 0)
        return rc;
    cluster = cursor_bytes(&c, STORE_CLUSTER_BYTES);
    if (cluster == NULL)
        return MDB_CORRUPTED;
    memcpy(context, cluster, STORE_CLUSTER_BYTES);
    return 0;
}

enum store_result store_put_cluster(struct store *s, const char cluster[STORE_CLUSTER_BYTES], char *why)
{
    static const char none[STORE_CLUSTER_BYTES];
    char now[STORE_CLUSTER_BYTES], wanted[STORE_CLUSTER_BYTES];
    int rc = store_look(s, current_cluster_work, now);

    memcpy(wanted, cluster, sizeof wanted);
    if (rc == 0 && memcmp(now, wanted, sizeof now) == 0)
        return STORE_OK;
    CHECK(rc != 0 || memcmp(now, none, sizeof now) == 0);
    if (rc == 0)
        rc = store_transact_small(s, cluster_work, wanted);
    return rc == 0 ? STORE_OK : store_trouble(rc, "cannot record the group's id", why);
}

/* ---- the snapshot's record ---- */

int store_put_snapshot_record(struct store *s, MDB_txn *txn, const struct store_snapshot *snapshot)
{
    struct buf b = {0};

    buf_u64(&b, snapshot->serial);
    buf_u64(&b, snapshot->check);
    return put(s, txn, "snapshot", &b);
}

static int put_snapshot_work(struct store *s, MDB_txn *txn, void *context)
{
    return store_put_snapshot_record(s, txn, context);
}

enum store_result store_put_snapshot(struct store *s, struct store_snapshot snapshot, char *why)
{
    int rc = store_transact_small(s, put_snapshot_work, &snapshot);

    return rc == 0 ? STORE_OK : store_trouble(rc, "cannot record the snapshot", why);
}

static int get_snapshot_work(struct store *s, MDB_txn *txn, void *context)
{
    struct store_snapshot *out = context;
    struct cursor c;
    int rc = get(s, txn, "snapshot", &c);

    if (rc != 0)
        return rc;
    out->serial = cursor_u64(&c);
    out->check = cursor_u64(&c);
    return whole(&c);
}

enum store_result store_get_snapshot(struct store *s, struct store_snapshot *out, char *why)
{
    int rc;

    *out = (struct store_snapshot){0, 0};
    rc = store_look(s, get_snapshot_work, out);
    if (rc == 0 || rc == MDB_NOTFOUND)
        return STORE_OK;
    (void)store_trouble(rc, "cannot read the snapshot's record", why);
    return STORE_BROKEN;
}

/* ---- notes ---- */

struct note {
    char key[KEY_BYTES_MAX];
    const void *bytes; /* put */
    void *out;         /* get */
    size_t n, max;
};

static struct note note_of(const char *name)
{
    struct note note = {.n = 0};

    CHECK(strlen(name) > 0 && strlen(name) + sizeof note_prefix <= sizeof note.key);
    memcpy(note.key, note_prefix, sizeof note_prefix - 1);
    memcpy(note.key + sizeof note_prefix - 1, name, strlen(name) + 1);
    return note;
}

static int put_note_work(struct store *s, MDB_txn *txn, void *context)
{
    const struct note *note = context;
    MDB_val key = {strlen(note->key), (void *)(uintptr_t)note->key};
    MDB_val data = {note->n, (void *)(uintptr_t)note->bytes};
    int rc = note->n > 0 ? mdb_put(txn, s->meta, &key, &data, 0) : mdb_del(txn, s->meta, &key, NULL);

    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum store_result store_put_note(struct store *s, const char *name, const void *bytes, size_t n, char *why)
{
    struct note note = note_of(name);
    int rc;

    CHECK(n <= STORE_NOTE_BYTES_MAX);
    note.bytes = bytes;
    note.n = n;
    rc = store_transact_small(s, put_note_work, &note);
    return rc == 0 ? STORE_OK : store_trouble(rc, "cannot write a note", why);
}

static int get_note_work(struct store *s, MDB_txn *txn, void *context)
{
    struct note *note = context;
    struct cursor c;
    int rc = get(s, txn, note->key, &c);

    if (rc != 0)
        return rc;
    note->n = c.left < note->max ? c.left : note->max;
    memcpy(note->out, c.at, note->n);
    return 0;
}

size_t store_get_note(struct store *s, const char *name, void *out, size_t max)
{
    struct note note = note_of(name);

    note.out = out;
    note.max = max;
    return store_look(s, get_note_work, &note) == 0 ? note.n : 0;
}

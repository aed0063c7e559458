/* Opening the store: the environment, the identity, a look at every entry.
 *
 *     what is found                         what is done
 *     nothing, and nothing ever was         the log is created, with a member id of its own
 *     nothing, though a log was here        refused
 *     another node's, another format        refused
 *     the file is shorter than its pages    refused
 *     an entry that fails entry_open()      refused; never "repaired" by cutting off what follows
 *     a base beyond the last entry, or of   refused
 *       another term than the entry there
 *     all well                              opened; nothing is written
 *
 * A refusal leaves everything as it was. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store_internal.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "indexes are LMDB's integer keys");

enum { READERS_MAX = 8, PATH_BYTES_MAX = 4096 };

/* Everything that a log has from its first moment on. */
static int create(struct store *s, MDB_txn *txn, const char *node)
{
    static const char no_cluster[STORE_CLUSTER_BYTES];
    const struct store_base base = {.index = 0};
    int rc;

    while (s->member_id == 0)
        if (getrandom(&s->member_id, sizeof s->member_id, 0) != sizeof s->member_id)
            return errno;
    rc = store_put_identity(s, txn, no_cluster, s->member_id, node, strlen(node));
    if (rc == 0)
        rc = store_put_hard(s, txn, &(struct store_hard){0, 0});
    if (rc == 0)
        rc = store_put_begin(s, txn, &(struct store_begin){.first = 1});
    if (rc == 0)
        rc = ahead_begin(s, txn);
    return rc == 0 ? store_put_base(s, txn, &base) : rc;
}

static bool check_identity(struct store *s, uint32_t format, struct cursor c, const char *node, char *why,
                           size_t why_size)
{
    const char *cluster;

    if (format != STORE_FORMAT) {
        (void)snprintf(why, why_size,
                       "the log has format %" PRIu32 ", this program knows format %d only; its data are unchanged",
                       format, STORE_FORMAT);
        return false;
    }
    cluster = cursor_bytes(&c, STORE_CLUSTER_BYTES);
    s->member_id = cursor_u64(&c);
    if (c.bad || s->member_id == 0) {
        (void)snprintf(why, why_size, "the log is damaged: its identity is not readable");
        return false;
    }
    memcpy(s->identity.cluster, cluster, STORE_CLUSTER_BYTES);
    if (c.left != strlen(node) || memcmp(c.at, node, c.left) != 0) {
        (void)snprintf(why, why_size, "the log belongs to node '%.*s', this node is called '%s'", (int)c.left, c.at,
                       node);
        return false;
    }
    return true;
}

static bool failed_to(const char *what, int rc, char *why, size_t why_size)
{
    (void)snprintf(why, why_size, "%s: %s", what, mdb_strerror(rc));
    return false;
}

bool store_sync_directory(const char *path, char *why, size_t why_size)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok)
        (void)snprintf(why, why_size, "cannot sync directory %s: %s", path, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    return ok;
}

/* Opens or creates the databases; leaves what is there as it is. */
static bool open_databases(struct store *s, const char *dir, const char *node, bool may_create, char *why,
                           size_t why_size)
{
    MDB_txn *txn;
    struct cursor identity;
    uint32_t format = 0;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);

    if (rc != 0)
        return failed_to("cannot begin a transaction", rc, why, why_size);
    rc = mdb_dbi_open(txn, "entries", MDB_CREATE | MDB_INTEGERKEY, &s->entries);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &s->meta);
    if (rc == 0)
        rc = store_get_identity(s, txn, &format, &identity);
    if (rc == 0 && !check_identity(s, format, identity, node, why, why_size)) {
        mdb_txn_abort(txn);
        return false;
    }
    if (rc == MDB_NOTFOUND && !may_create) {
        mdb_txn_abort(txn);
        (void)snprintf(why, why_size, "the log's data are missing, although there was a log here");
        return false;
    }
    if ((rc == 0 || rc == MDB_NOTFOUND) && !ahead_open_file(s, dir, rc == MDB_NOTFOUND, why, why_size)) {
        mdb_txn_abort(txn);
        return false;
    }
    if (rc == MDB_NOTFOUND)
        rc = create(s, txn, node);
    if (rc != 0)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    return rc == 0 ? true : failed_to("cannot open the log's databases", rc, why, why_size);
}

/* Walks all entries; the state follows from them. */
static bool verify_entries(struct store *s, MDB_cursor *at, char *why, size_t why_size)
{
    struct store_state *state = &s->state;
    struct entry_view e;
    enum entry_error error;
    MDB_val key, data;
    size_t index;
    int rc = mdb_cursor_get(at, &key, &data, MDB_FIRST);

    state->last = state->first - 1;
    state->running = state->before;
    for (; rc == 0; rc = mdb_cursor_get(at, &key, &data, MDB_NEXT)) {
        CHECK(key.mv_size == sizeof index);
        memcpy(&index, key.mv_data, sizeof index);
        if (index != state->last + 1) {
            (void)snprintf(why, why_size, "the log is damaged: entry %" PRIu64 " is missing, %zu comes instead",
                           state->last + 1, index);
            return false;
        }
        error = entry_open(data.mv_data, data.mv_size, index, state->running, &e);
        if (error != ENTRY_OK) {
            (void)snprintf(why, why_size, "the log is damaged: entry %zu: %s", index, entry_error_text(error));
            return false;
        }
        state->last = index;
        state->running = e.running;
        state->bytes += store_cost(s, data.mv_size);
    }
    return rc == MDB_NOTFOUND ? true : failed_to("cannot read the log", rc, why, why_size);
}

/* The base speaks of an entry that is kept, or of the one before the first. */
static bool verify_base(struct store *s, MDB_txn *txn, char *why, size_t why_size)
{
    const struct store_base *base = &s->opened_base;
    size_t number = base->index;
    MDB_val key = {sizeof number, &number}, data;
    struct entry_view e = {.term = s->before_term};
    bool ok = base->index == 0 || (base->index + 1 >= s->state.first && base->index <= s->state.last);

    if (ok && base->index >= s->state.first)
        ok = mdb_get(txn, s->entries, &key, &data) == 0 && entry_stated(data.mv_data, data.mv_size, &e) == ENTRY_OK &&
             e.term == base->term;
    if (!ok)
        (void)snprintf(why, why_size,
                       "the log is damaged: its base, entry %" PRIu64 " of term %" PRIu64
                       ", does not agree with its entries %" PRIu64 " to %" PRIu64,
                       base->index, base->term, s->state.first, s->state.last);
    return ok;
}

static int read_meta(struct store *s, MDB_txn *txn)
{
    struct store_begin begin = {0};
    int rc = store_get_begin(s, txn, &begin);

    if (rc == 0)
        rc = begin.first > 0 ? store_get_hard(s, txn, &s->hard) : MDB_CORRUPTED;
    if (rc == 0)
        rc = store_get_base(s, txn, &s->opened_base);
    if (rc == 0)
        rc = store_get_lap(s, txn, &s->ahead.lap);
    s->state.first = begin.first;
    s->state.before = begin.before;
    s->before_term = begin.before_term;
    s->opened_hard = s->hard;
    s->base = (struct store_point){s->opened_base.index, s->opened_base.term};
    return rc;
}

static bool verify(struct store *s, char *why, size_t why_size)
{
    MDB_txn *txn = NULL;
    MDB_cursor *at = NULL;
    bool ok = false;
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);

    if (rc == 0)
        rc = read_meta(s, txn);
    if (rc == 0)
        rc = mdb_cursor_open(txn, s->entries, &at);
    if (rc != 0)
        (void)failed_to("cannot read the log", rc, why, why_size);
    else
        ok = verify_entries(s, at, why, why_size) && verify_base(s, txn, why, why_size) &&
             ahead_load(s, why, why_size);
    if (at != NULL)
        mdb_cursor_close(at);
    if (txn != NULL)
        mdb_txn_abort(txn);
    return ok;
}

/* A file shorter than LMDB's last used page would end in SIGBUS at the first look beyond its end. */
static bool measure(struct store *s, char *why, size_t why_size)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat file;
    int rc;

    if ((rc = mdb_env_get_fd(s->env, &s->fd)) != 0 || (rc = mdb_env_info(s->env, &info)) != 0 ||
        (rc = mdb_env_stat(s->env, &stat)) != 0 || (rc = fstat(s->fd, &file) == 0 ? 0 : errno) != 0)
        return failed_to("cannot examine the log's file", rc, why, why_size);
    s->page_bytes = stat.ms_psize;
    s->map_bytes = info.me_mapsize;
    s->allocated_bytes = (uint64_t)file.st_size;
    if (s->allocated_bytes < (info.me_last_pgno + 1) * s->page_bytes) {
        (void)snprintf(why, why_size, "the log is damaged: its file has been cut off at %" PRIu64 " bytes",
                       s->allocated_bytes);
        return false;
    }
    rc = store_allocate(s, s->map_bytes + STORE_RESERVE_BYTES);
    if (rc != 0 && (!store_is_full(rc) || s->allocated_bytes < s->map_bytes))
        return failed_to("cannot allocate the log's file", rc, why, why_size);
    return true;
}

/* The map covers what the file has, less the reserve; growing comes with need. */
static bool open_environment(struct store *s, const char *dir, char *why, size_t why_size)
{
    char path[PATH_BYTES_MAX], data[PATH_BYTES_MAX];
    uint64_t map_bytes = STORE_MAP_BYTES_MIN;
    struct stat file;
    int rc;

    if (snprintf(path, sizeof path, "%s/log", dir) >= PATH_BYTES_MAX - 16) {
        (void)snprintf(why, why_size, "the directory's name is too long");
        return false;
    }
    (void)snprintf(data, sizeof data, "%s/log/data.mdb", dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return failed_to(path, errno, why, why_size);
    if (stat(data, &file) == 0 && (uint64_t)file.st_size > STORE_MAP_BYTES_MIN + STORE_RESERVE_BYTES)
        map_bytes = (uint64_t)file.st_size / STORE_RESERVE_BYTES * STORE_RESERVE_BYTES - STORE_RESERVE_BYTES;
    if ((rc = mdb_env_create(&s->env)) != 0 || (rc = mdb_env_set_maxdbs(s->env, 2)) != 0 ||
        (rc = mdb_env_set_maxreaders(s->env, READERS_MAX)) != 0 ||
        (rc = mdb_env_set_mapsize(s->env, map_bytes)) != 0 || (rc = mdb_env_open(s->env, path, MDB_NOTLS, 0600)) != 0)
        return failed_to(data, rc, why, why_size);
    return measure(s, why, why_size) && store_sync_directory(path, why, why_size) &&
           store_sync_directory(dir, why, why_size);
}

struct store *store_open(const char *dir, const char *node, uint64_t size_max_bytes, bool may_create, char *why,
                         size_t why_size)
{
    struct store *s = must_calloc(1, sizeof *s);

    CHECK(size_max_bytes <= UINT64_MAX / 4);
    s->size_max_bytes = size_max_bytes;
    CHECK(pthread_rwlock_init(&s->map_lock, NULL) == 0 && pthread_mutex_init(&s->ahead.lock, NULL) == 0);
    s->ahead.fd = -1;
    s->opened = open_environment(s, dir, why, why_size) && open_databases(s, dir, node, may_create, why, why_size) &&
                verify(s, why, why_size);
    if (s->opened)
        return s;
    store_close(s);
    return NULL;
}

void store_close(struct store *s)
{
    if (s->opened && !s->ahead.spoilt)
        (void)ahead_settle(s); /* so that the next start finds less to read; if not, it finds it there */
    ahead_close(s);
    if (s->env != NULL)
        mdb_env_close(s->env);
    (void)pthread_rwlock_destroy(&s->map_lock);
    (void)pthread_mutex_destroy(&s->ahead.lock);
    buf_free(&s->opened_base.change);
    free(s);
}

struct store_identity store_identity(const struct store *s)
{
    return s->identity;
}

struct store_hard store_hard(const struct store *s)
{
    return s->opened_hard;
}

const struct store_base *store_base(const struct store *s)
{
    return &s->opened_base;
}

uint64_t store_member_id(const struct store *s)
{
    return s->member_id;
}

/* A snapshot is two files, named by a serial number that rises and is never used twice:
 *
 *     snapshots/00000007.rdb    the RDB as Valkey wrote it
 *     snapshots/00000007.mark   its sidecar: lines of "name value", the last one the hash64 of all lines before it
 *
 * and a record in the log's meta database, "7 is the newest, its sidecar hashes to X". The record is what counts:
 *
 *     step                                          crash after it: what the next start finds
 *     1 7.rdb.tmp is written                        6 is the newest; 7.rdb.tmp is removed
 *     2 fsync, renamed 7.rdb, directory fsync       6 is the newest; 7.rdb is removed
 *     3 7.mark likewise                             6 is the newest; 7.* are removed
 *     4 record "7" committed                        7 is the newest; 6.* are removed
 *     5 6.* removed                                 7 is the newest
 *
 * The recorded snapshot must be there and agree with its sidecar, byte by byte (XXH3), when it is first asked for;
 * anything else is damage. Only files with other serials are ever removed.
 *
 * The loop writes into the page cache and has the kernel start on each STEP_BYTES at once; the writer thread then
 * waits for them a step at a time, so that commits pass in between and the last fsync is short. */
#include "log/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/store.h"
#include "log/writer.h"

enum {
    STEP_BYTES = 8 * 1024 * 1024,
    READ_BYTES = 1024 * 1024,
    PATH_BYTES_MAX = 4096,
    MARK_BYTES_MAX = 1024,
    SERIAL_DIGITS = 8
};

struct snapshots {
    char dir[PATH_BYTES_MAX];
    const struct diag *diag;
    struct store *store;
    struct writer *writer;
    void (*broken)(void *arg, const char *why);
    void *arg;
    uint64_t next_serial;
    struct store_snapshot newest; /* as recorded; serial 0: none */
    bool verified;                /* the newest has been compared with its sidecar, or was written by this process */
    struct snapshot_writer *active; /* at most one is being written */
};

enum snapshot_stage { WRITING, FINISHING };

struct snapshot_writer {
    struct writer_job job;
    struct snapshots *owner;
    enum snapshot_stage stage;
    uint64_t serial, written_bytes, synced_bytes;
    int fd;
    bool failed;
    struct hasher *hasher;
    struct snapshot_mark mark;
    void (*done)(void *arg, bool ok);
    void *arg;
    enum store_result result;
    struct store_snapshot record;
    char why[STORE_WHY_BYTES];
};

/* ---- names ---- */

static void name_of(const struct snapshots *s, uint64_t serial, const char *end, char *out)
{
    int n = snprintf(out, PATH_BYTES_MAX, "%s/%0*" PRIu64 "%s", s->dir, SERIAL_DIGITS, serial, end);

    CHECK(n > 0 && n < PATH_BYTES_MAX);
}

/* The serial of one of our files' names, 0 of any other name. */
static uint64_t serial_of(const char *name)
{
    static const char *const ends[] = {".rdb", ".mark", ".rdb.tmp", ".mark.tmp"};
    size_t digits = strspn(name, "0123456789");

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (digits >= SERIAL_DIGITS && digits < 20 && strcmp(name + digits, ends[i]) == 0)
            return strtoull(name, NULL, 10);
    return 0;
}

static bool sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int saved = errno;

    if (fd >= 0)
        (void)close(fd);
    errno = saved;
    return ok;
}

/* Removes every snapshot file but those of serial `keep`; returns the highest serial seen. */
static uint64_t remove_others(const struct snapshots *s, uint64_t keep)
{
    DIR *d = opendir(s->dir);
    uint64_t highest = keep;
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        uint64_t serial = serial_of(e->d_name);
        bool temporary = strstr(e->d_name, ".tmp") != NULL;

        if (serial > highest)
            highest = serial;
        if (serial != 0 && (serial != keep || temporary) && unlinkat(dirfd(d), e->d_name, 0) != 0)
            diag_log(s->diag, DIAG_WARNING, "cannot remove snapshot file %s: %s", e->d_name, strerror(errno));
    }
    if (d != NULL)
        (void)closedir(d);
    return highest;
}

/* ---- the sidecar ---- */

struct sidecar {
    struct snapshot_mark mark;
    uint64_t rdb_hash;
};

/* Into out[MARK_BYTES_MAX]; returns the length. */
static size_t sidecar_write(const struct sidecar *c, char *out)
{
    const struct snapshot_mark *m = &c->mark;
    int n = snprintf(out, MARK_BYTES_MAX,
                     "holdfast-snapshot 1\nindex %" PRIu64 "\neffects %" PRIu64 "\nlog-from %" PRIu64
                     "\nnext-seq %" PRIu64 "\ntaken-ms %" PRIu64 "\nrdb-bytes %" PRIu64 "\nrdb-xxh3 %016" PRIx64 "\n",
                     m->index, m->effects, m->log_from, m->next_seq, m->taken_ms, m->rdb_bytes, c->rdb_hash);
    int sum = snprintf(out + n, MARK_BYTES_MAX - (size_t)n, "check %016" PRIx64 "\n", hash64(out, (size_t)n, 0));

    CHECK(n > 0 && sum > 0 && n + sum < MARK_BYTES_MAX);
    return (size_t)(n + sum);
}

/* Strict: what was read must be what would be written. */
static bool sidecar_parse(const char *text, size_t n, struct sidecar *c)
{
    struct snapshot_mark *m = &c->mark;
    char again[MARK_BYTES_MAX];

    return sscanf(text,
                  "holdfast-snapshot 1\nindex %" SCNu64 "\neffects %" SCNu64 "\nlog-from %" SCNu64
                  "\nnext-seq %" SCNu64 "\ntaken-ms %" SCNu64 "\nrdb-bytes %" SCNu64 "\nrdb-xxh3 %" SCNx64 "\n",
                  &m->index, &m->effects, &m->log_from, &m->next_seq, &m->taken_ms, &m->rdb_bytes,
                  &c->rdb_hash) == 7 &&
           sidecar_write(c, again) == n && memcmp(text, again, n) == 0;
}

/* ---- reading ---- */

static bool read_sidecar(const struct snapshots *s, struct sidecar *out, char *why)
{
    char path[PATH_BYTES_MAX], text[MARK_BYTES_MAX];
    ssize_t n = -1;
    int fd;

    name_of(s, s->newest.serial, ".mark", path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        n = read(fd, text, sizeof text - 1);
    if (n < 0)
        (void)snprintf(why, STORE_WHY_BYTES, "cannot read the newest snapshot's sidecar: %s", strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    if (n < 0)
        return false;
    text[n] = '\0';
    if (hash64(text, (size_t)n, 0) != s->newest.check || !sidecar_parse(text, (size_t)n, out)) {
        (void)snprintf(why, STORE_WHY_BYTES, "the newest snapshot's sidecar is damaged");
        return false;
    }
    return true;
}

static bool hash_file(int fd, uint64_t *bytes, uint64_t *hash)
{
    struct hasher *h = hasher_new();
    char *memory = must_calloc(1, READ_BYTES);
    ssize_t n;

    *bytes = 0;
    while ((n = read(fd, memory, READ_BYTES)) > 0 || (n < 0 && errno == EINTR)) {
        if (n < 0)
            continue;
        hasher_add(h, memory, (size_t)n);
        *bytes += (uint64_t)n;
    }
    *hash = hasher_value(h);
    hasher_free(h);
    free(memory);
    return n == 0;
}

/* The size always, the content once. */
static bool check_rdb(struct snapshots *s, const char *path, const struct sidecar *c, char *why)
{
    uint64_t bytes = 0, hash = c->rdb_hash;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fstat(fd, &st) == 0;

    if (ok && s->verified)
        bytes = (uint64_t)st.st_size;
    else if (ok)
        ok = hash_file(fd, &bytes, &hash);
    if (!ok)
        (void)snprintf(why, STORE_WHY_BYTES, "cannot read the newest snapshot: %s", strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    if (ok && (bytes != c->mark.rdb_bytes || hash != c->rdb_hash)) {
        (void)snprintf(why, STORE_WHY_BYTES, "the newest snapshot is damaged: it does not agree with its sidecar");
        ok = false;
    }
    s->verified = ok;
    return ok;
}

bool snapshots_newest(struct snapshots *s, struct snapshot_mark *mark, char *path, size_t path_size)
{
    char rdb[PATH_BYTES_MAX], why[STORE_WHY_BYTES];
    struct sidecar c;

    if (s->newest.serial == 0)
        return false;
    name_of(s, s->newest.serial, ".rdb", rdb);
    if (!read_sidecar(s, &c, why) || !check_rdb(s, rdb, &c, why)) {
        s->broken(s->arg, why);
        return false;
    }
    CHECK(strlen(rdb) < path_size);
    memcpy(path, rdb, strlen(rdb) + 1);
    *mark = c.mark;
    return true;
}

/* ---- writing ---- */

struct snapshot_writer *snapshots_begin(struct snapshots *s, char *why, size_t why_size)
{
    char path[PATH_BYTES_MAX];
    struct snapshot_writer *w;
    int fd;

    if (s->active != NULL) {
        (void)snprintf(why, why_size, "a snapshot is being written already");
        return NULL;
    }
    name_of(s, s->next_serial, ".rdb.tmp", path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        (void)snprintf(why, why_size, "cannot create %s: %s", path, strerror(errno));
        return NULL;
    }
    w = must_calloc(1, sizeof *w);
    w->owner = s;
    w->serial = s->next_serial++;
    w->fd = fd;
    w->hasher = hasher_new();
    s->active = w;
    return w;
}

static bool write_all(int fd, const char *bytes, size_t n)
{
    struct cursor c = cursor_of(bytes, n);

    while (c.left > 0) {
        ssize_t done = write(fd, c.at, c.left);

        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0)
            (void)cursor_bytes(&c, (size_t)done);
    }
    return true;
}

/* Waiting takes a write error off the descriptor, so that the fsync would not report it again: it counts here. */
static bool sync_range(struct snapshot_writer *w, uint64_t from, uint64_t bytes, unsigned flags)
{
    return sync_file_range(w->fd, (off_t)from, (off_t)bytes, flags) == 0 || errno == ENOSYS || errno == EINVAL ||
           errno == ESPIPE;
}

bool snapshot_write(struct snapshot_writer *w, const void *bytes, size_t n)
{
    uint64_t step = w->written_bytes / STEP_BYTES;

    CHECK(w->stage == WRITING);
    if (w->failed)
        return false;
    if (!write_all(w->fd, bytes, n)) {
        w->failed = true;
        return false;
    }
    hasher_add(w->hasher, bytes, n);
    w->written_bytes += n;
    if (w->written_bytes / STEP_BYTES > step &&
        !sync_range(w, step * STEP_BYTES, w->written_bytes - step * STEP_BYTES, SYNC_FILE_RANGE_WRITE))
        w->failed = true;
    return !w->failed;
}

/* The one end of a snapshot_writer. */
static void release(struct snapshot_writer *w, bool remove)
{
    char path[PATH_BYTES_MAX];

    if (remove) {
        name_of(w->owner, w->serial, ".rdb.tmp", path);
        (void)unlink(path);
        name_of(w->owner, w->serial, ".mark.tmp", path);
        (void)unlink(path);
        name_of(w->owner, w->serial, ".mark", path);
        (void)unlink(path);
        name_of(w->owner, w->serial, ".rdb", path);
        (void)unlink(path);
    }
    w->owner->active = NULL;
    if (w->fd >= 0)
        (void)close(w->fd);
    hasher_free(w->hasher);
    free(w);
}

void snapshot_abandon(struct snapshot_writer *w)
{
    CHECK(w->stage == WRITING);
    release(w, true);
}

static bool rename_durably(const struct snapshots *s, uint64_t serial, const char *from_end, const char *to_end)
{
    char from[PATH_BYTES_MAX], to[PATH_BYTES_MAX];

    name_of(s, serial, from_end, from);
    name_of(s, serial, to_end, to);
    return rename(from, to) == 0 && sync_directory(s->dir);
}

static bool write_sidecar(struct snapshot_writer *w)
{
    struct sidecar c = {.mark = w->mark, .rdb_hash = hasher_value(w->hasher)};
    char path[PATH_BYTES_MAX], text[MARK_BYTES_MAX];
    size_t n = sidecar_write(&c, text);
    int fd;
    bool ok;

    name_of(w->owner, w->serial, ".mark.tmp", path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ok = fd >= 0 && write_all(fd, text, n) && fsync(fd) == 0;
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    w->record = (struct store_snapshot){w->serial, hash64(text, n, 0)};
    return ok && rename_durably(w->owner, w->serial, ".mark.tmp", ".mark");
}

/* On the writer thread: steps 2 and 3 of the table above, after waiting for what the kernel has begun to write. */
static bool make_durable(struct snapshot_writer *w, bool *again)
{
    const unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;

    *again = w->written_bytes - w->synced_bytes > STEP_BYTES;
    if (*again) {
        w->synced_bytes += STEP_BYTES;
        return sync_range(w, w->synced_bytes - STEP_BYTES, STEP_BYTES, wait);
    }
    return fsync(w->fd) == 0 && rename_durably(w->owner, w->serial, ".rdb.tmp", ".rdb") && write_sidecar(w);
}

static bool finish(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;
    bool again;

    if (!make_durable(w, &again)) {
        (void)snprintf(w->why, sizeof w->why, "cannot write the snapshot: %s", strerror(errno));
        w->result = STORE_FULL; /* nothing depends on it yet: dropped, not fatal */
        return true;
    }
    if (again)
        return false;
    w->result = store_put_snapshot(w->owner->store, w->record, w->why); /* step 4 */
    return true;
}

static bool clean(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;

    (void)remove_others(w->owner, w->serial);
    return true;
}

static void end(struct snapshot_writer *w, bool ok, bool remove)
{
    void (*done)(void *arg, bool ok) = w->done;
    void *arg = w->arg;

    release(w, remove);
    done(arg, ok);
}

static void cleaned(struct writer_job *j)
{
    end((struct snapshot_writer *)j, true, false);
}

/* The old files go only after the loop has stopped to name them as the newest. */
static void finished(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;
    struct snapshots *s = w->owner;

    if (w->result == STORE_OK) {
        s->newest = w->record;
        s->verified = true;
        w->job = (struct writer_job){.run = clean, .done = cleaned};
        writer_submit(s->writer, &w->job, WRITER_BACKGROUND);
        return;
    }
    diag_log(s->diag, DIAG_WARNING, "snapshot dropped: %s", w->why);
    if (w->result == STORE_BROKEN)
        s->broken(s->arg, w->why);
    end(w, false, w->result == STORE_FULL);
}

void snapshot_finish(struct snapshot_writer *w, const struct snapshot_mark *mark, void (*done)(void *arg, bool ok),
                     void *arg)
{
    CHECK(w->stage == WRITING && !w->failed);
    w->stage = FINISHING;
    w->mark = *mark;
    w->mark.rdb_bytes = w->written_bytes;
    w->done = done;
    w->arg = arg;
    w->job = (struct writer_job){.run = finish, .done = finished};
    writer_submit(w->owner->writer, &w->job, WRITER_BACKGROUND);
}

/* ---- opening ---- */

bool snapshots_exist(const char *dir)
{
    char path[PATH_BYTES_MAX];
    bool found = false;
    struct dirent *e;
    DIR *d;

    (void)snprintf(path, sizeof path, "%s/snapshots", dir); /* too long a name is refused elsewhere */
    d = opendir(path);
    while (d != NULL && (e = readdir(d)) != NULL)
        found = found || (serial_of(e->d_name) != 0 && strstr(e->d_name, ".tmp") == NULL);
    if (d != NULL)
        (void)closedir(d);
    return found;
}

struct snapshots *snapshots_open(const char *dir, const struct diag *d, struct store *store, struct writer *w,
                                 void (*broken)(void *arg, const char *why), void *arg, char *why, size_t why_size)
{
    struct snapshots *s = must_calloc(1, sizeof *s);
    char trouble[STORE_WHY_BYTES];

    *s = (struct snapshots){.diag = d, .store = store, .writer = w, .broken = broken, .arg = arg};
    if (snprintf(s->dir, sizeof s->dir, "%s/snapshots", dir) >= PATH_BYTES_MAX - 32)
        (void)snprintf(why, why_size, "the directory's name is too long");
    else if ((mkdir(s->dir, 0700) != 0 && errno != EEXIST) || !sync_directory(dir))
        (void)snprintf(why, why_size, "cannot make %s: %s", s->dir, strerror(errno));
    else if (store_get_snapshot(store, &s->newest, trouble) != STORE_OK)
        (void)snprintf(why, why_size, "%s", trouble);
    else {
        s->next_serial = remove_others(s, s->newest.serial) + 1;
        return s;
    }
    free(s);
    return NULL;
}

void snapshots_close(struct snapshots *s)
{
    if (s->active != NULL)
        release(s->active, s->active->record.serial == 0);
    free(s);
}

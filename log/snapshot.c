/* A snapshot is two files, named by a serial number that rises and is never used twice:
 *
 *     snapshots/00000007.rdb    the RDB as Valkey wrote it
 *     snapshots/00000007.mark   its sidecar: snapshot_mark.c
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
 * A snapshot of another member takes the same way, from fetch-HASH.part (snapshot_receive.c); its record may be part
 * of a larger transaction, that replaces the log.
 *
 * The recorded snapshot must be there and agree with its sidecar, byte by byte (XXH3), when it is first asked for;
 * anything else is damage. Only files with other serials are ever removed, and in a running process only those with
 * lower ones. A record with a lower serial never follows one with a higher: what was begun before the newest came is
 * dropped, for the log may not reach back to it any more. */
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
#include "log/snapshot_internal.h"

enum { READ_BYTES = 1024 * 1024, SERIAL_DIGITS = 8 };

/* ---- files ---- */

void snapshot_name(const struct snapshots *s, uint64_t serial, const char *end, char *out)
{
    int n = snprintf(out, SNAPSHOT_PATH_BYTES_MAX, "%s/%0*" PRIu64 "%s", s->dir, SERIAL_DIGITS, serial, end);

    CHECK(n > 0 && n < SNAPSHOT_PATH_BYTES_MAX);
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

bool snapshot_sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int saved = errno;

    if (fd >= 0)
        (void)close(fd);
    errno = saved;
    return ok;
}

/* Waiting takes a write error off the descriptor, so that the fsync would not report it again: it counts here. */
bool snapshot_sync_range(int fd, uint64_t from, uint64_t bytes, unsigned flags)
{
    return sync_file_range(fd, (off_t)from, (off_t)bytes, flags) == 0 || errno == ENOSYS || errno == EINVAL ||
           errno == ESPIPE;
}

bool snapshot_write_all(int fd, const char *bytes, size_t n)
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

/* Removes snapshot files of serials below `keep`, and above it if `all`; returns the highest serial seen. */
static uint64_t remove_others(const struct snapshots *s, uint64_t keep, bool all)
{
    DIR *d = opendir(s->dir);
    uint64_t highest = keep;
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        uint64_t serial = serial_of(e->d_name);
        bool old = serial < keep || (all && (serial != keep || strstr(e->d_name, ".tmp") != NULL));

        if (serial > highest)
            highest = serial;
        if (serial != 0 && old && unlinkat(dirfd(d), e->d_name, 0) != 0)
            diag_log(s->diag, DIAG_WARNING, "Cannot remove snapshot file %s: %s", e->d_name, strerror(errno));
    }
    if (d != NULL)
        (void)closedir(d);
    return highest;
}

void snapshot_remove_older(const struct snapshots *s, uint64_t keep)
{
    (void)remove_others(s, keep, false);
}

enum store_result snapshot_record(struct snapshots *s, struct store_snapshot record, char *why)
{
    struct store_snapshot newest;

    if (store_get_snapshot(s->store, &newest, why) != STORE_OK)
        return STORE_BROKEN;
    if (newest.serial >= record.serial) {
        (void)snprintf(why, STORE_WHY_BYTES, "a newer snapshot has come meanwhile");
        return STORE_FULL;
    }
    return store_put_snapshot(s->store, record, why);
}

/* ---- reading ---- */

/* The newest one's; its text in text[SNAPSHOT_SIDECAR_BYTES_MAX]. */
static bool read_sidecar(const struct snapshots *s, struct sidecar *out, char *text, size_t *bytes, char *why)
{
    char path[SNAPSHOT_PATH_BYTES_MAX];
    ssize_t n = -1;
    int fd;

    snapshot_name(s, s->newest.serial, ".mark", path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        n = read(fd, text, SNAPSHOT_SIDECAR_BYTES_MAX);
    if (n < 0)
        (void)snprintf(why, STORE_WHY_BYTES, "cannot read the newest snapshot's sidecar: %s", strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    if (n < 0)
        return false;
    if (hash64(text, (size_t)n, 0) != s->newest.check || !sidecar_parse(text, (size_t)n, out)) {
        (void)snprintf(why, STORE_WHY_BYTES, "the newest snapshot's sidecar is damaged");
        return false;
    }
    *bytes = (size_t)n;
    return true;
}

static bool hash_file(int fd, uint64_t *bytes, struct hash128 *hash)
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
    *hash = hasher_value128(h);
    hasher_free(h);
    free(memory);
    return n == 0;
}

/* The size always, the content if `content`. */
static bool check_rdb(int fd, bool content, const struct sidecar *c, char *why)
{
    struct hash128 hash = c->rdb_hash;
    uint64_t bytes = 0;
    struct stat st;
    bool ok = fd >= 0 && fstat(fd, &st) == 0;

    if (ok && content)
        ok = hash_file(fd, &bytes, &hash);
    else if (ok)
        bytes = (uint64_t)st.st_size;
    if (!ok) {
        (void)snprintf(why, STORE_WHY_BYTES, "cannot read the newest snapshot: %s", strerror(errno));
        return false;
    }
    if (bytes != c->mark.rdb_bytes || hash.low != c->rdb_hash.low || hash.high != c->rdb_hash.high) {
        (void)snprintf(why, STORE_WHY_BYTES, "the newest snapshot is damaged: it does not agree with its sidecar");
        return false;
    }
    return true;
}

bool snapshots_newest(struct snapshots *s, struct snapshot_mark *mark, char *path, size_t path_size)
{
    char rdb[SNAPSHOT_PATH_BYTES_MAX], text[SNAPSHOT_SIDECAR_BYTES_MAX], why[STORE_WHY_BYTES];
    struct sidecar c;
    size_t n;
    int fd;

    if (s->newest.serial == 0)
        return false;
    snapshot_name(s, s->newest.serial, ".rdb", rdb);
    fd = open(rdb, O_RDONLY | O_CLOEXEC);
    s->verified = read_sidecar(s, &c, text, &n, why) && check_rdb(fd, !s->verified, &c, why);
    if (fd >= 0)
        (void)close(fd);
    if (!s->verified) {
        s->broken(s->arg, why);
        return false;
    }
    CHECK(strlen(rdb) < path_size);
    memcpy(path, rdb, strlen(rdb) + 1);
    *mark = c.mark;
    return true;
}

bool snapshots_open_newest(struct snapshots *s, struct snapshot_source *out)
{
    char rdb[SNAPSHOT_PATH_BYTES_MAX], why[STORE_WHY_BYTES];
    struct sidecar c;

    if (s->newest.serial == 0)
        return false;
    snapshot_name(s, s->newest.serial, ".rdb", rdb);
    out->fd = open(rdb, O_RDONLY | O_CLOEXEC);
    if (!read_sidecar(s, &c, out->sidecar, &out->sidecar_bytes, why) || !check_rdb(out->fd, false, &c, why)) {
        if (out->fd >= 0)
            (void)close(out->fd);
        s->broken(s->arg, why);
        return false;
    }
    out->mark = c.mark;
    out->rdb_hash = c.rdb_hash;
    return true;
}

/* ---- opening ---- */

bool snapshots_exist(const char *dir)
{
    char path[SNAPSHOT_PATH_BYTES_MAX];
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
    if (snprintf(s->dir, sizeof s->dir, "%s/snapshots", dir) >= SNAPSHOT_PATH_BYTES_MAX - 64)
        (void)snprintf(why, why_size, "the directory's name is too long");
    else if ((mkdir(s->dir, 0700) != 0 && errno != EEXIST) || !snapshot_sync_directory(dir))
        (void)snprintf(why, why_size, "cannot make %s: %s", s->dir, strerror(errno));
    else if (store_get_snapshot(store, &s->newest, trouble) != STORE_OK)
        (void)snprintf(why, why_size, "%s", trouble);
    else {
        s->next_serial = remove_others(s, s->newest.serial, true) + 1;
        return s;
    }
    free(s);
    return NULL;
}

void snapshots_close(struct snapshots *s)
{
    if (s->active != NULL)
        snapshot_writer_drop(s->active);
    if (s->received != NULL)
        snapshot_receiver_drop(s->received);
    free(s);
}

/* A disk that forgets, when the power fails, what was not synced: an LD_PRELOAD library that keeps what is needed to
 * undo it. After the process was killed, tests/e2e/group.py (power_fail()) undoes.
 *
 * HOLDFAST_POWER_UNDO names a directory, HOLDFAST_POWER_UNDER the directories (a:b:c) whose files are meant. Before
 * each write to such a file, what stands there is appended to <undo>/<inode>; when a sync of the file has succeeded,
 * that is emptied: what was written until then stays. Writes to descriptors with O_DSYNC are durable at once and
 * need no undoing (LMDB's meta page: its commit point). A kill in the middle of a sync counts as before it.
 *
 *     record:  u64 offset | u64 length of the file | u32 bytes that stood there | u32 bytes of the path
 *              | path | bytes
 *
 * Only one thread writes to a file at a time here, so records need no lock; changes of a directory itself are not
 * undone. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PATH_BYTES_MAX = 4096, COPY_BYTES_MAX = 1 << 20, OWN_FD_MIN = 3 };

struct head {
    uint64_t offset, file_bytes;
    uint32_t n, path_bytes;
};

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    if (f == NULL)
        abort();
    return f;
}

static ssize_t real_write(int fd, const void *bytes, size_t n)
{
    return ((ssize_t(*)(int, const void *, size_t))real("write"))(fd, bytes, n);
}

static bool is_under(const char *path, const char *directories)
{
    for (const char *d = directories; *d != '\0';) {
        size_t n = strcspn(d, ":");

        if (n > 0 && strncmp(path, d, n) == 0 && path[n] == '/')
            return true;
        d += n + (d[n] == ':');
    }
    return false;
}

/* The path of a regular file that is meant. */
static bool is_meant(int fd, struct stat *st, char path[PATH_BYTES_MAX])
{
    const char *under = getenv("HOLDFAST_POWER_UNDER");
    char link[64];
    ssize_t n;

    if (fd < OWN_FD_MIN || under == NULL || fstat(fd, st) != 0 || !S_ISREG(st->st_mode))
        return false;
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, PATH_BYTES_MAX - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return is_under(path, under);
}

static int open_undo(const struct stat *st, int flags)
{
    const char *directory = getenv("HOLDFAST_POWER_UNDO");
    char path[PATH_BYTES_MAX];

    if (directory == NULL)
        return -1;
    (void)snprintf(path, sizeof path, "%s/%llu", directory, (unsigned long long)st->st_ino);
    return open(path, flags | O_CLOEXEC, 0600);
}

static void put(int fd, const void *bytes, size_t n)
{
    if (real_write(fd, bytes, n) != (ssize_t)n)
        abort();
}

/* Remembers what stands at [at, at + n). */
static void remember(int fd, off_t at, size_t n)
{
    char path[PATH_BYTES_MAX], *copy;
    struct stat st;
    int undo, own;

    if (!is_meant(fd, &st, path) || (fcntl(fd, F_GETFL) & O_DSYNC) != 0)
        return;
    if ((undo = open_undo(&st, O_WRONLY | O_CREAT | O_APPEND)) < 0 || (own = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        abort();
    copy = malloc(COPY_BYTES_MAX);
    for (size_t done = 0; done < n; done += COPY_BYTES_MAX) {
        size_t piece = n - done < COPY_BYTES_MAX ? n - done : COPY_BYTES_MAX;
        ssize_t got = pread(own, copy, piece, at + (off_t)done);
        struct head h = {(uint64_t)at + done, (uint64_t)st.st_size, got > 0 ? (uint32_t)got : 0,
                         (uint32_t)strlen(path)};

        put(undo, &h, sizeof h);
        put(undo, path, h.path_bytes);
        put(undo, copy, h.n);
    }
    free(copy);
    (void)close(own);
    (void)close(undo);
}

/* It is durable now. */
static void forget(int fd)
{
    char path[PATH_BYTES_MAX];
    struct stat st;
    int undo;

    if (!is_meant(fd, &st, path) || (undo = open_undo(&st, O_WRONLY | O_TRUNC)) < 0)
        return;
    (void)close(undo);
}

static int synced(int fd, int rc)
{
    if (rc == 0)
        forget(fd);
    return rc;
}

static size_t vector_bytes(const struct iovec *v, int count)
{
    size_t n = 0;

    for (int i = 0; i < count; i++)
        n += v[i].iov_len;
    return n;
}

int fdatasync(int fd)
{
    return synced(fd, ((int (*)(int))real("fdatasync"))(fd));
}

int fsync(int fd)
{
    return synced(fd, ((int (*)(int))real("fsync"))(fd));
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    if (fd >= OWN_FD_MIN)
        remember(fd, lseek(fd, 0, SEEK_CUR), n);
    return real_write(fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    if (fd >= OWN_FD_MIN)
        remember(fd, lseek(fd, 0, SEEK_CUR), vector_bytes(v, count));
    return ((ssize_t(*)(int, const struct iovec *, int))real("writev"))(fd, v, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    remember(fd, at, n);
    return ((ssize_t(*)(int, const void *, size_t, off_t))real("pwrite"))(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at)
{
    return pwrite(fd, bytes, n, at);
}

ssize_t pwritev(int fd, const struct iovec *v, int count, off_t at)
{
    remember(fd, at, vector_bytes(v, count));
    return ((ssize_t(*)(int, const struct iovec *, int, off_t))real("pwritev"))(fd, v, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int count, off_t at)
{
    return pwritev(fd, v, count, at);
}

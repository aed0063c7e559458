/* A disk that misbehaves on request: an LD_PRELOAD library for the tests of what happens when the log's disk stalls,
 * fills up or fails.
 *
 * HOLDFAST_DISK_CONTROL names a file that says what the disk does now; it is read again at every call:
 *
 *     (missing or empty)   as always
 *     slow N               each write and sync takes N ms longer
 *     slow-sync N          only syncs, and the O_DSYNC writes that are LMDB's commit point, take N ms longer
 *     stall                block until the file says something else
 *     enospc               a full disk: what would make a file longer fails, what is allocated can be written
 *     eio                  each write and sync fails with EIO
 *     eio-sync             only syncs fail, and the O_DSYNC writes that are LMDB's commit point
 *
 * HOLDFAST_DISK_UNDER names the directories (a:b:c) whose files, at any depth, are meant; descriptors elsewhere,
 * sockets and pipes are left alone. LMDB commits by fdatasync and then by a pwrite to a descriptor opened with
 * O_DSYNC: both are caught. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum fault { FAULT_NONE, FAULT_STALL, FAULT_ENOSPC, FAULT_EIO, FAULT_EIO_SYNC, FAULT_SLOW, FAULT_SLOW_SYNC };
enum call { CALL_WRITE, CALL_SYNC, CALL_ALLOCATE };
enum { CONTROL_BYTES_MAX = 64, PATH_BYTES_MAX = 4096, POLL_MS = 5 };

static void *real(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    if (f == NULL)
        abort();
    return f;
}

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static enum fault fault_now(long *slow_ms)
{
    const char *path = getenv("HOLDFAST_DISK_CONTROL");
    char text[CONTROL_BYTES_MAX + 1] = "";
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n;

    if (fd < 0)
        return FAULT_NONE;
    n = read(fd, text, CONTROL_BYTES_MAX);
    (void)close(fd);
    if (n <= 0)
        return FAULT_NONE;
    if (strncmp(text, "stall", 5) == 0)
        return FAULT_STALL;
    if (strncmp(text, "enospc", 6) == 0)
        return FAULT_ENOSPC;
    if (strncmp(text, "eio-sync", 8) == 0)
        return FAULT_EIO_SYNC;
    if (strncmp(text, "eio", 3) == 0)
        return FAULT_EIO;
    if (strncmp(text, "slow-sync ", 10) == 0) {
        *slow_ms = strtol(text + 10, NULL, 10);
        return FAULT_SLOW_SYNC;
    }
    if (strncmp(text, "slow ", 5) == 0) {
        *slow_ms = strtol(text + 5, NULL, 10);
        return FAULT_SLOW;
    }
    return FAULT_NONE;
}

static bool is_under(const char *path, const char *directories)
{
    for (const char *d = directories; *d != '\0';) {
        size_t n = strcspn(d, ":");

        if (n > 0 && strncmp(path, d, n) == 0 && (path[n] == '/' || path[n] == '\0'))
            return true;
        d += n + (d[n] == ':');
    }
    return false;
}

static bool is_meant(int fd)
{
    const char *under = getenv("HOLDFAST_DISK_UNDER");
    char link[64], path[PATH_BYTES_MAX];
    struct stat st;
    ssize_t n;

    if (under == NULL || fstat(fd, &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
        return false;
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return is_under(path, under);
}

static bool grows(int fd, off_t end)
{
    struct stat st;

    return fstat(fd, &st) == 0 && end > st.st_size;
}

static bool syncs(int fd, enum call call)
{
    return call == CALL_SYNC || (call == CALL_WRITE && (fcntl(fd, F_GETFL) & O_DSYNC));
}

/* 0, or the errno to fail with. end: where a write ends in the file. */
static int disk(int fd, enum call call, off_t end)
{
    int saved = errno, error = 0;
    long slow_ms = 0;
    enum fault fault = fault_now(&slow_ms);

    if (fault != FAULT_NONE && is_meant(fd)) {
        while (fault == FAULT_STALL) {
            sleep_ms(POLL_MS);
            fault = fault_now(&slow_ms);
        }
        if ((fault == FAULT_SLOW && call != CALL_ALLOCATE) || (fault == FAULT_SLOW_SYNC && syncs(fd, call)))
            sleep_ms(slow_ms);
        if (fault == FAULT_ENOSPC && (call == CALL_ALLOCATE || (call == CALL_WRITE && grows(fd, end))))
            error = ENOSPC;
        if (fault == FAULT_EIO)
            error = EIO;
        if (fault == FAULT_EIO_SYNC && syncs(fd, call))
            error = EIO;
    }
    errno = saved;
    return error;
}

static bool fails(int fd, enum call call, off_t end)
{
    int error = disk(fd, call, end);

    if (error != 0)
        errno = error;
    return error != 0;
}

static off_t vector_bytes(const struct iovec *v, int count)
{
    off_t n = 0;

    for (int i = 0; i < count; i++)
        n += (off_t)v[i].iov_len;
    return n;
}

int fdatasync(int fd)
{
    return fails(fd, CALL_SYNC, 0) ? -1 : ((int (*)(int))real("fdatasync"))(fd);
}

int fsync(int fd)
{
    return fails(fd, CALL_SYNC, 0) ? -1 : ((int (*)(int))real("fsync"))(fd);
}

int sync_file_range(int fd, off_t at, off_t n, unsigned flags)
{
    return fails(fd, CALL_SYNC, 0)
               ? -1
               : ((int (*)(int, off_t, off_t, unsigned))real("sync_file_range"))(fd, at, n, flags);
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    /* Sockets, pipes and event descriptors come by here most: cheap for them. */
    if (fd > 2 && fails(fd, CALL_WRITE, lseek(fd, 0, SEEK_CUR) + (off_t)n))
        return -1;
    return ((ssize_t(*)(int, const void *, size_t))real("write"))(fd, bytes, n);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    return fails(fd, CALL_WRITE, at + (off_t)n)
               ? -1
               : ((ssize_t(*)(int, const void *, size_t, off_t))real("pwrite"))(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at)
{
    return pwrite(fd, bytes, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    if (fd > 2 && fails(fd, CALL_WRITE, lseek(fd, 0, SEEK_CUR) + vector_bytes(v, count)))
        return -1;
    return ((ssize_t(*)(int, const struct iovec *, int))real("writev"))(fd, v, count);
}

ssize_t pwritev(int fd, const struct iovec *v, int count, off_t at)
{
    return fails(fd, CALL_WRITE, at + vector_bytes(v, count))
               ? -1
               : ((ssize_t(*)(int, const struct iovec *, int, off_t))real("pwritev"))(fd, v, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int count, off_t at)
{
    return pwritev(fd, v, count, at);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    return fails(fd, CALL_ALLOCATE, at + n) ? -1
                                            : ((int (*)(int, int, off_t, off_t))real("fallocate"))(fd, mode, at, n);
}

int fallocate64(int fd, int mode, off_t at, off_t n)
{
    return fallocate(fd, mode, at, n);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
    int error = disk(fd, CALL_ALLOCATE, at + n);

    return error != 0 ? error : ((int (*)(int, off_t, off_t))real("posix_fallocate"))(fd, at, n);
}

int posix_fallocate64(int fd, off_t at, off_t n)
{
    return posix_fallocate(fd, at, n);
}

/* Faults in system calls, for the one test program that includes this: the calls below, made by the program or by
 * LMDB, come here first. Letters: w a write, A one to the
 * file ahead, M the meta page (m if its descriptor is not O_DSYNC), D fdatasync, F fsync, g sync_file_range, R
 * rename, u unlink, a fallocate. Armed, the n-th call of the chosen kinds kills the process, or fails with an errno
 * (that one, or all from then on). */
#ifndef HF_LOG_FAULT_H
#define HF_LOG_FAULT_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault_kind {
    FAULT_WRITE = 1,
    FAULT_META = 2,
    FAULT_SYNC = 4,
    FAULT_RENAME = 8,
    FAULT_UNLINK = 16,
    FAULT_ALLOCATE = 32,
    FAULT_AHEAD = 64
};

static struct {
    atomic_int kinds, left, error; /* error 0: kill */
    atomic_bool sticky;
    atomic_int hits;
    atomic_int traced;
    char trace[64]; /* a letter for each call since fault_arm(), of any kind, as long as there is room */
} fault;

static void fault_arm(int kinds, int nth, int error, bool sticky)
{
    fault.kinds = 0;
    fault.left = nth;
    fault.error = error;
    fault.sticky = sticky;
    fault.hits = 0;
    fault.traced = 0;
    memset(fault.trace, 0, sizeof fault.trace);
    fault.kinds = kinds;
}

/* True: the call is to fail, errno is set. */
static bool fault_here(int kind, char letter)
{
    int at = atomic_fetch_add(&fault.traced, 1), left;

    if (at >= 0 && at < (int)sizeof fault.trace - 1)
        fault.trace[at] = letter;
    if ((fault.kinds & kind) == 0)
        return false;
    left = atomic_fetch_sub(&fault.left, 1);
    if (left > 1 || (left < 1 && !fault.sticky))
        return false;
    fault.hits++;
    if (fault.error == 0) {
        (void)kill(getpid(), SIGKILL);
        for (;;)
            (void)pause();
    }
    errno = fault.error;
    return true;
}

#define FAULT_REAL(type, name, ...) ((type(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, name))

/* LMDB writes its meta page, and single pages, with pwrite; runs of pages with lseek and writev. The meta pages are
 * the first two; of a meta page only a part is written. Whole blocks through O_DSYNC are the file ahead's. */
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    if (n >= 256 * 1024 && at >= 8192) /* zeros ahead of LMDB (store_fill), in the background: no part of a commit */
        return FAULT_REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, bytes, n, at);
    if (n >= 4096 && (fcntl(fd, F_GETFL) & O_DSYNC))
        return fault_here(FAULT_AHEAD, 'A')
                   ? -1
                   : FAULT_REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, bytes, n, at);
    if (at < 8192 ? fault_here(FAULT_META, (fcntl(fd, F_GETFL) & O_DSYNC) ? 'M' : 'm') : fault_here(FAULT_WRITE, 'w'))
        return -1;
    return FAULT_REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at)
{
    return pwrite(fd, bytes, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    if (fault_here(FAULT_WRITE, 'w'))
        return -1;
    return FAULT_REAL(ssize_t, "writev", int, const struct iovec *, int)(fd, v, n);
}

int fdatasync(int fd)
{
    return fault_here(FAULT_SYNC, 'D') ? -1 : FAULT_REAL(int, "fdatasync", int)(fd);
}

int fsync(int fd)
{
    return fault_here(FAULT_SYNC, 'F') ? -1 : FAULT_REAL(int, "fsync", int)(fd);
}

int sync_file_range(int fd, off_t at, off_t n, unsigned flags)
{
    bool fill = flags == SYNC_FILE_RANGE_WRITE && n == 512 * 1024; /* as above */

    return !fill && fault_here(FAULT_SYNC, 'g')
               ? -1
               : FAULT_REAL(int, "sync_file_range", int, off_t, off_t, unsigned)(fd, at, n, flags);
}

int rename(const char *from, const char *to)
{
    return fault_here(FAULT_RENAME, 'R') ? -1 : FAULT_REAL(int, "rename", const char *, const char *)(from, to);
}

int unlinkat(int fd, const char *path, int flags)
{
    return fault_here(FAULT_UNLINK, 'u') ? -1 : FAULT_REAL(int, "unlinkat", int, const char *, int)(fd, path, flags);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    return fault_here(FAULT_ALLOCATE, 'a') ? -1
                                           : FAULT_REAL(int, "fallocate", int, int, off_t, off_t)(fd, mode, at, n);
}

#endif

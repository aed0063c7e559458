/* One process for one log, by flock(2): the kernel lets go of it when the process ends, however it ends. */
#include "log/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "log/base/buf.h"
#include "log/base/diag.h"

enum { PATH_BYTES_MAX = 4096 };

bool lock_take(const char *dir, int *fd, bool *existed, char *why, size_t why_size)
{
    char path[PATH_BYTES_MAX];
    off_t size;

    if (snprintf(path, sizeof path, "%s/lock", dir) >= PATH_BYTES_MAX) {
        (void)snprintf(why, why_size, "the directory's name is too long");
        return false;
    }
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) == 0 && (size = lseek(*fd, 0, SEEK_END)) >= 0) {
        *existed = size > 0;
        return true;
    }
    if (*fd >= 0 && errno == EWOULDBLOCK)
        (void)snprintf(why, why_size, "%s is in use by another process", dir);
    else
        (void)snprintf(why, why_size, "cannot lock %s: %s", path, strerror(errno));
    return false;
}

bool lock_note(int fd, struct store_identity id, const char *node, char *why, size_t why_size)
{
    struct buf b = {0};
    bool ok;

    buf_text(&b, "cluster ");
    for (int i = 0; i < STORE_CLUSTER_BYTES; i++)
        buf_printf(&b, "%02x", (unsigned)(unsigned char)id.cluster[i]);
    buf_printf(&b, "\nnode %s\n", node);
    CHECK(!b.failed);
    ok = pwrite(fd, buf_head(&b), b.len, 0) == (ssize_t)b.len && fsync(fd) == 0;
    if (!ok)
        (void)snprintf(why, why_size, "cannot write the lock file: %s", strerror(errno));
    buf_free(&b);
    return ok;
}

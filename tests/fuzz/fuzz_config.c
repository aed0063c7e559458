/* Settings from a file: whatever the bytes, a verdict and no harm; and what CONFIG GET shows of an accepted file is
 * accepted again. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config/config.h"
#include "log/base/buf.h"
#include "log/base/diag.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(void *arg, const char *name, const char *value)
{
    struct config *c = arg;
    char why[512] = "";

    /* A value with blanks or quotes of its own does not survive being split; such settings show plain words only. */
    if (strcmp(name, "bind") == 0 || strcmp(name, "valkey-password") == 0)
        return;
    if (strcmp(name, "member") == 0) /* they add up */
        CHECK(config_set(c, name, "", false, why, sizeof why));
    CHECK(config_set(c, name, value, false, why, sizeof why));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("config", 0);
    struct buf err = {0};
    struct config c, copy;
    char path[64];
    char *argv[] = {(char[]){"holdfast"}, path};
    bool ok;

    /* An include would read this machine's files, and make results depend on them. */
    if (fd < 0 || memmem(data, size, "nclude", 6) != NULL || write(fd, data, size) != (ssize_t)size) {
        if (fd >= 0)
            (void)close(fd);
        return 0;
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ok = config_load(&c, 2, argv, &err);
    CHECK(ok == (err.len == 0));
    if (ok) {
        copy = c;
        config_get(&c, "*", again, &copy);
    }
    buf_free(&err);
    (void)close(fd);
    return 0;
}

#include "log/base/diag.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 1024 };

void diag_log(const struct diag *d, enum diag_level level, const char *format, ...)
{
    static const char marks[] = ".-*#";
    char message[LINE_BYTES_MAX], stamp[64];
    struct timeval now;
    struct tm local;
    va_list arguments;
    int saved = errno;
    FILE *out;

    if (d == NULL || level < d->level || level >= DIAG_NOTHING)
        return;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)gettimeofday(&now, NULL);
    (void)localtime_r(&now.tv_sec, &local);
    (void)strftime(stamp, sizeof stamp, "%d %b %Y %H:%M:%S", &local);
    out = d->file[0] ? fopen(d->file, "a") : stdout;
    if (out != NULL) {
        fprintf(out, "%d:H %s.%03d %c %s\n", (int)getpid(), stamp, (int)(now.tv_usec / 1000), marks[level], message);
        if (out == stdout)
            (void)fflush(out);
        else
            (void)fclose(out);
    }
    errno = saved;
}

_Noreturn void diag_check_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "holdfast: CHECK failed: %s (%s:%d)\n", what, file, line);
    abort();
}

void *must_calloc(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size ? size : 1);

    CHECK(memory != NULL);
    return memory;
}

void *must_realloc(void *old, size_t size)
{
    void *memory = realloc(old, size ? size : 1);

    CHECK(memory != NULL);
    return memory;
}

char *must_strdup(const char *text)
{
    char *copy = strdup(text);

    CHECK(copy != NULL);
    return copy;
}

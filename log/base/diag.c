#include "log/base/diag.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/time.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES_MAX = 1024,
    ESCAPED_BYTES_MAX = 2 * LINE_BYTES_MAX, /* each byte of a message becomes two at most */
    STAMP_BYTES_MAX = 64
};

static void make_stamp(enum diag_stamp stamp, char out[STAMP_BYTES_MAX])
{
    struct timeval now;
    struct tm local;
    size_t n;
    int ms;

    (void)gettimeofday(&now, NULL);
    ms = (int)(now.tv_usec / 1000);
    if (stamp == DIAG_STAMP_MILLISECONDS) {
        (void)snprintf(out, STAMP_BYTES_MAX, "%lld", (long long)now.tv_sec * 1000 + ms);
        return;
    }
    (void)localtime_r(&now.tv_sec, &local);
    n = strftime(out, STAMP_BYTES_MAX, stamp == DIAG_STAMP_ISO8601 ? "%Y-%m-%dT%H:%M:%S" : "%d %b %Y %H:%M:%S",
                 &local);
    n += (size_t)snprintf(out + n, STAMP_BYTES_MAX - n, ".%03d", ms);
    if (stamp == DIAG_STAMP_ISO8601) {
        long east_minutes = local.tm_gmtoff / 60, minutes = labs(east_minutes);

        (void)snprintf(out + n, STAMP_BYTES_MAX - n, "%c%02ld:%02ld", east_minutes < 0 ? '-' : '+', minutes / 60,
                       minutes % 60);
    }
}

/* A message never ends its line nor moves the cursor. In place. */
static void flatten(char *message)
{
    for (; *message != '\0'; message++)
        if ((unsigned char)*message < ' ' || *message == 0x7f)
            *message = ' ';
}

/* What stands between double quotes. A quote itself becomes, as in Valkey, a single one in logfmt, where not all
 * readers know escapes; a backslash is doubled, for those that do. */
static void quote(enum diag_format format, const char *message, char out[ESCAPED_BYTES_MAX])
{
    size_t n = 0;

    for (; *message != '\0'; message++) {
        if (*message == '"' && format == DIAG_LOGFMT) {
            out[n++] = '\'';
            continue;
        }
        if (*message == '"' || *message == '\\')
            out[n++] = '\\';
        out[n++] = *message;
    }
    out[n] = '\0';
}

static void write_line(const struct diag *d, enum diag_level level, const char *message, FILE *out)
{
    static const char marks[] = ".-*#";
    static const char *const words[] = {"debug", "info", "notice", "warning"}; /* as Valkey has it */
    char stamp[STAMP_BYTES_MAX], quoted[ESCAPED_BYTES_MAX];
    int pid = (int)getpid();

    make_stamp(d->stamp, stamp);
    switch (d->format) {
    case DIAG_LEGACY:
        fprintf(out, "%d:H %s %c %s\n", pid, stamp, marks[level], message);
        break;
    case DIAG_LOGFMT:
        quote(d->format, message, quoted);
        fprintf(out, "pid=%d role=holdfast timestamp=\"%s\" level=%s message=\"%s\"\n", pid, stamp, words[level],
                quoted);
        break;
    case DIAG_JSON:
        quote(d->format, message, quoted);
        fprintf(out, "{\"pid\":%d,\"role\":\"holdfast\",\"timestamp\":\"%s\",\"level\":\"%s\",\"message\":\"%s\"}\n",
                pid, stamp, words[level], quoted);
        break;
    }
}

void diag_log(const struct diag *d, enum diag_level level, const char *format, ...)
{
    static const int priority[] = {LOG_DEBUG, LOG_INFO, LOG_NOTICE, LOG_WARNING};
    char message[LINE_BYTES_MAX];
    va_list arguments;
    int saved = errno;
    FILE *out;

    if (d == NULL || level < d->level || level >= DIAG_NOTHING)
        return;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    flatten(message);
    out = d->file[0] ? fopen(d->file, "a") : stdout;
    if (out != NULL) {
        write_line(d, level, message, out);
        if (out == stdout)
            (void)fflush(out);
        else
            (void)fclose(out);
    }
    if (d->to_syslog)
        syslog(priority[level], "%s", message);
    errno = saved;
}

void diag_open_syslog(struct diag *d, const char *ident, int facility)
{
    openlog(ident, LOG_PID | LOG_NDELAY | LOG_NOWAIT, facility);
    d->to_syslog = true;
}

enum diag_level diag_limited(struct diag_limit *l, uint64_t now_ms, unsigned most, enum diag_level level)
{
    if (l->said == 0 || now_ms - l->since_ms >= DIAG_LIMIT_MS)
        *l = (struct diag_limit){.since_ms = now_ms};
    if (l->said == most)
        return DIAG_VERBOSE;
    l->said++;
    return level;
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

/* The log's lines: each format, each kind of time, messages that would break a line, levels, the system's logger. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <regex.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "log/base/diag.h"

/* ---- the system's logger, as far as we can see: these stand before libc's ---- */

static struct {
    char ident[32], message[64];
    int facility, priority, lines;
} sent;

void openlog(const char *ident, int option, int facility)
{
    assert_true((option & LOG_PID) != 0);
    (void)snprintf(sent.ident, sizeof sent.ident, "%s", ident);
    sent.facility = facility;
}

void syslog(int priority, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(sent.message, sizeof sent.message, format, arguments);
    va_end(arguments);
    sent.priority = priority;
    sent.lines++;
}

/* ---- a log file ---- */

static struct diag d;

static int begin(void **state)
{
    int fd;

    (void)state;
    memset(&d, 0, sizeof d);
    memset(&sent, 0, sizeof sent);
    (void)snprintf(d.file, sizeof d.file, "/tmp/holdfast-test-diag-XXXXXX");
    fd = mkstemp(d.file);
    if (fd < 0)
        return -1;
    (void)close(fd);
    (void)setenv("TZ", "UTC", 1);
    tzset();
    return 0;
}

static int end(void **state)
{
    (void)state;
    return unlink(d.file);
}

/* What is in the file, which is emptied; it must be one line, which is given without its end. */
static char *line(void)
{
    static char text[8192];
    FILE *f = fopen(d.file, "r+");
    size_t n;

    assert_non_null(f);
    n = fread(text, 1, sizeof text - 1, f);
    assert_int_equal(ftruncate(fileno(f), 0), 0);
    (void)fclose(f);
    assert_true(n > 0 && text[n - 1] == '\n');
    text[n - 1] = '\0';
    assert_null(strchr(text, '\n'));
    return text;
}

static void matches(const char *text, const char *pattern)
{
    regex_t r;
    int rc;

    assert_int_equal(regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB), 0);
    rc = regexec(&r, text, 0, NULL, 0);
    regfree(&r);
    if (rc != 0)
        fail_msg("'%s' is not like '%s'", text, pattern);
}

#define LEGACY_TIME "[0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}"
#define ISO_TIME    "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}"

static void each_format_and_level(void **state)
{
    static const char marks[] = ".-*#";
    static const char *const words[] = {"debug", "info", "notice", "warning"};
    char pattern[256];

    (void)state;
    for (int level = DIAG_DEBUG; level <= DIAG_WARNING; level++) {
        d.format = DIAG_LEGACY;
        diag_log(&d, (enum diag_level)level, "node %s leads", "b");
        (void)snprintf(pattern, sizeof pattern, "^%d:H " LEGACY_TIME " [%c] node b leads$", (int)getpid(),
                       marks[level]);
        matches(line(), pattern);
        d.format = DIAG_LOGFMT;
        diag_log(&d, (enum diag_level)level, "node %s leads", "b");
        (void)snprintf(pattern, sizeof pattern,
                       "^pid=%d role=holdfast timestamp=\"" LEGACY_TIME "\" level=%s message=\"node b leads\"$",
                       (int)getpid(), words[level]);
        matches(line(), pattern);
        d.format = DIAG_JSON;
        diag_log(&d, (enum diag_level)level, "node %s leads", "b");
        (void)snprintf(pattern, sizeof pattern,
                       "^\\{\"pid\":%d,\"role\":\"holdfast\",\"timestamp\":\"" LEGACY_TIME
                       "\",\"level\":\"%s\",\"message\":\"node b leads\"\\}$",
                       (int)getpid(), words[level]);
        matches(line(), pattern);
    }
}

static void times_are_those_of_the_clock(void **state)
{
    static const struct {
        const char *zone, *shown;
    } zones[] = {{"UTC", "+00:00"}, {"HFT-05:30", "+05:30"}, {"HFT+03:30", "-03:30"}, {"HFT+00:30", "-00:30"}};
    struct timespec now;
    long long before, after, said;
    char pattern[256];

    (void)state;
    d.stamp = DIAG_STAMP_MILLISECONDS;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &now), 0);
    before = (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    diag_log(&d, DIAG_NOTICE, "x");
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &now), 0);
    after = (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    assert_int_equal(sscanf(line(), "%*d:H %lld * x", &said), 1);
    assert_in_range(said, before, after);

    d.stamp = DIAG_STAMP_ISO8601;
    d.format = DIAG_LOGFMT;
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
        struct tm there = {0};
        const char *text, *at;

        (void)setenv("TZ", zones[i].zone, 1);
        tzset();
        before = (long long)time(NULL);
        diag_log(&d, DIAG_NOTICE, "x");
        after = (long long)time(NULL);
        text = line();
        (void)snprintf(pattern, sizeof pattern, "timestamp=\"" ISO_TIME "[%c]%s\" level", zones[i].shown[0],
                       zones[i].shown + 1);
        matches(text, pattern);
        at = strchr(text, '"');
        assert_non_null(strptime(at + 1, "%Y-%m-%dT%H:%M:%S", &there));
        there.tm_isdst = -1;
        assert_in_range((long long)mktime(&there), before, after);
    }
}

/* Nothing that a message holds ends its line, its quotes, or begins another line. */
static void a_message_is_one_line(void **state)
{
    static const char bad[] = "a\nb\rc\td\x01\x1b[31m\x7f \"q\" \\ C:\\";
    json_error_t error;
    json_t *object;

    (void)state;
    diag_log(&d, DIAG_WARNING, "%s", bad);
    matches(line(), "# a b c d  \\[31m  \"q\" \\\\ C:\\\\$");
    d.format = DIAG_LOGFMT;
    diag_log(&d, DIAG_WARNING, "%s", bad);
    matches(line(), " message=\"a b c d  \\[31m  'q' \\\\\\\\ C:\\\\\\\\\"$");
    d.format = DIAG_JSON;
    diag_log(&d, DIAG_WARNING, "%s", bad);
    object = json_loads(line(), JSON_REJECT_DUPLICATES, &error);
    assert_non_null(object);
    assert_int_equal(json_object_size(object), 5);
    assert_string_equal(json_string_value(json_object_get(object, "message")), "a b c d  [31m  \"q\" \\ C:\\");
    assert_int_equal(json_integer_value(json_object_get(object, "pid")), getpid());
    json_decref(object);
}

/* A long message is cut, and its line is whole all the same. */
static void a_long_message_is_cut(void **state)
{
    char *longer = must_calloc(1, 4096);
    const char *at;
    json_t *object;

    (void)state;
    memset(longer, '\\', 4095);
    diag_log(&d, DIAG_WARNING, "%s", longer);
    at = strchr(line(), '\\');
    assert_int_equal(strlen(at), 1023);
    d.format = DIAG_LOGFMT;
    diag_log(&d, DIAG_WARNING, "%s", longer);
    at = strchr(line(), '\\');
    assert_int_equal(strlen(at), 2 * 1023 + 1);
    assert_int_equal(at[2 * 1023], '"');
    d.format = DIAG_JSON;
    diag_log(&d, DIAG_WARNING, "%s", longer);
    object = json_loads(line(), 0, NULL);
    assert_int_equal(json_string_length(json_object_get(object, "message")), 1023);
    json_decref(object);
    free(longer);
}

static void levels_are_thresholds(void **state)
{
    (void)state;
    for (int threshold = DIAG_DEBUG; threshold <= DIAG_NOTHING; threshold++)
        for (int level = DIAG_DEBUG; level <= DIAG_NOTHING; level++) {
            FILE *f;
            int any;

            d.level = (enum diag_level)threshold;
            errno = EAGAIN;
            diag_log(&d, (enum diag_level)level, "x");
            assert_int_equal(errno, EAGAIN);
            f = fopen(d.file, "r");
            any = fgetc(f);
            (void)fclose(f);
            assert_int_equal(any != EOF, level >= threshold && level < DIAG_NOTHING);
            if (any != EOF)
                (void)line();
        }
    diag_log(NULL, DIAG_WARNING, "to nobody");
}

static void the_system_logger_gets_the_message_alone(void **state)
{
    static const int priority[] = {LOG_DEBUG, LOG_INFO, LOG_NOTICE, LOG_WARNING};

    (void)state;
    diag_log(&d, DIAG_WARNING, "before");
    (void)line();
    assert_int_equal(sent.lines, 0);
    diag_open_syslog(&d, "orders", LOG_LOCAL3);
    assert_string_equal(sent.ident, "orders");
    assert_int_equal(sent.facility, LOG_LOCAL3);
    d.format = DIAG_LOGFMT;
    for (int level = DIAG_DEBUG; level <= DIAG_WARNING; level++) {
        diag_log(&d, (enum diag_level)level, "%%s \"%d\"\n", level);
        assert_int_equal(sent.priority, priority[level]);
        assert_int_equal(sent.lines, level + 1);
        assert_memory_equal(sent.message, "%s \"", 4);
        assert_true(sent.message[4] == '0' + level && strcmp(sent.message + 5, "\" ") == 0);
        matches(line(), "^pid=");
    }
    d.level = DIAG_WARNING;
    diag_log(&d, DIAG_NOTICE, "too low");
    assert_int_equal(sent.lines, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_format_and_level, begin, end),
        cmocka_unit_test_setup_teardown(times_are_those_of_the_clock, begin, end),
        cmocka_unit_test_setup_teardown(a_message_is_one_line, begin, end),
        cmocka_unit_test_setup_teardown(a_long_message_is_cut, begin, end),
        cmocka_unit_test_setup_teardown(levels_are_thresholds, begin, end),
        cmocka_unit_test_setup_teardown(the_system_logger_gets_the_message_alone, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Diagnostics: the log that people read, and CHECK, for our own mistakes.
 *
 * Lines look like Valkey's, in each of its formats; where Valkey names a role, we name ourselves:
 *
 *   legacy   4711:H 01 Dec 2026 09:30:00.123 # Link to node b is down: Connection reset by peer
 *   logfmt   pid=4711 role=holdfast timestamp="01 Dec 2026 09:30:00.123" level=warning message="Link to node b ..."
 *   json     {"pid":4711,"role":"holdfast","timestamp":"...","level":"warning","message":"..."}
 *
 * One call is one line, whatever the message holds: control characters become blanks.
 * User data (keys, values, arguments, passwords) is never logged; nothing is logged for each request. What changes
 * its state says so once, with the cause, at `notice`, or `warning` if somebody should look; what one client does is
 * `verbose`. */
#ifndef HF_DIAG_H
#define HF_DIAG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum diag_level { DIAG_DEBUG, DIAG_VERBOSE, DIAG_NOTICE, DIAG_WARNING, DIAG_NOTHING };
enum diag_format { DIAG_LEGACY, DIAG_LOGFMT, DIAG_JSON };
enum diag_stamp { DIAG_STAMP_LEGACY, DIAG_STAMP_ISO8601, DIAG_STAMP_MILLISECONDS };

struct diag { /* may be changed at any time; all zero: everything, in the legacy format, to standard output */
    enum diag_level level; /* lines below it are dropped */
    enum diag_format format;
    enum diag_stamp stamp;
    bool to_syslog;  /* as well; see diag_open_syslog() */
    char file[4096]; /* "" = standard output; opened and closed for each line, so that rotation needs no signal */
};

/* From now on the messages go to the system's logger, too. `ident` is borrowed for ever; `facility`: LOG_USER,
 * LOG_LOCAL0 ... */
void diag_open_syslog(struct diag *d, const char *ident, int facility);

/* Writes one line. `d` may be NULL (nothing is written). */
void diag_log(const struct diag *d, enum diag_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* For what may come in a flood. */
struct diag_limit { /* all zero at first */
    uint64_t since_ms;
    unsigned said;
};
enum { DIAG_LIMIT_MS = 10000 };
/* The level to log it at: `level` for the first `most` in DIAG_LIMIT_MS, DIAG_VERBOSE for what is beyond. */
enum diag_level diag_limited(struct diag_limit *l, uint64_t now_ms, unsigned most, enum diag_level level);

/* Says what was violated on stderr and aborts. Never returns. */
_Noreturn void diag_check_failed(const char *what, const char *file, int line);

/* For our own mistakes only, never for input or I/O errors. Stays on in release; no side effects inside. */
#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (__builtin_expect(!(condition), 0))                                                                       \
            diag_check_failed(#condition, __FILE__, __LINE__);                                                       \
    } while (0)

/* Allocation of small, fixed sizes: running out of memory ends the process. Sizes named by the network use malloc
 * and close the connection instead. The result is the caller's, freed with free(). */
void *must_calloc(size_t count, size_t size);
void *must_realloc(void *old, size_t size);
char *must_strdup(const char *text);

#endif

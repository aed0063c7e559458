/* Diagnostics: the log that people read, and CHECK, for our own mistakes.
 *
 * Lines look like Valkey's:  pid:H dd Mon yyyy HH:MM:SS.mmm <.-*#> message
 * User data (keys, values, arguments) is never logged. */
#ifndef HF_DIAG_H
#define HF_DIAG_H

#include <stdio.h>
#include <stdlib.h>

enum diag_level { DIAG_DEBUG, DIAG_VERBOSE, DIAG_NOTICE, DIAG_WARNING, DIAG_NOTHING };

struct diag {
    enum diag_level level; /* lines below it are dropped; may be changed at any time */
    char file[4096]; /* "" = standard output; opened and closed for each line, so that rotation needs no signal */
};

/* Writes one line. `d` may be NULL (nothing is written). */
void diag_log(const struct diag *d, enum diag_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

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

/* Which scripts promise to write nothing: by their first line, and by SHA1, once their text has been seen. Pure.
 *
 *     EVAL "#!lua flags=no-writes\nreturn ..."    a read; its SHA1 is remembered
 *     SCRIPT LOAD "#!lua flags=no-writes\n..."    remembered
 *     EVALSHA 6b1b…                               a read from then on
 *
 * Valkey holds such a script to it. The SHA1 is of the whole text, so what is known never becomes wrong. A function's
 * flags can be changed by FUNCTION LOAD REPLACE at any moment: FCALL is a write, FCALL_RO is there for reading. */
#ifndef HF_SCRIPTS_H
#define HF_SCRIPTS_H

#include <stdbool.h>
#include <stddef.h>

struct scripts;

enum {
    SCRIPTS_KNOWN_MAX = 4096
}; /* when there are more, all are forgotten: their EVALSHA are writes until seen again */

bool script_promises_no_writes(const char *text, size_t n);
struct scripts *scripts_new(void);
void scripts_free(struct scripts *s);
void scripts_learn(struct scripts *s, const char *text, size_t n);          /* of EVAL or SCRIPT LOAD */
bool scripts_no_writes(const struct scripts *s, const char *sha, size_t n); /* of EVALSHA, as hex digits */

#endif

/* A parsed command: its arguments, and its canonical RESP. One representation from the client's socket to Valkey's.
 *
 *   canonical:  *3\r\n $3\r\n SET\r\n $1\r\n k\r\n $1\r\n v\r\n      (bytes, n)
 *   arg[i]:     offset of the argument's first byte inside `bytes`, and its length */
#ifndef HF_ARGV_H
#define HF_ARGV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct buf;

struct arg {
    size_t at, len;
};
struct argv {
    const char *bytes; /* borrowed: the parser's, an op's or a stream's */
    size_t n;
    const struct arg *arg;
    size_t count;
};

static inline const char *argv_at(const struct argv *a, size_t i)
{
    return a->bytes + a->arg[i].at;
}
static inline size_t argv_len(const struct argv *a, size_t i)
{
    return a->arg[i].len;
}
/* Argument i is this word, without case; false if there is none. In line: lengths mostly differ. */
static inline bool argv_is(const struct argv *a, size_t i, const char *word)
{
    return i < a->count && a->arg[i].len == strlen(word) && strncasecmp(argv_at(a, i), word, a->arg[i].len) == 0;
}
bool argv_integer(const struct argv *a, size_t i,
                  int64_t *out); /* as Valkey's string2ll: no '+', space or leading zero */
void argv_encode(struct buf *out, size_t count, const char *const *arg,
                 const size_t *len); /* appends canonical RESP */
/* The first command of canonical RESP that we made ourselves (of a log that was checked, of an op): its bytes. count:
 * of its arguments; args: their places, from `bytes`, if it is not NULL; it must have room for them. Anything else
 * than canonical RESP is a mistake of ours. */
size_t argv_places(const char *bytes, size_t n, struct arg *args, size_t *count);
void argv_header(struct buf *out, size_t count);              /* *count\r\n */
void argv_bulk(struct buf *out, const void *bytes, size_t n); /* $n\r\n...\r\n */

#endif

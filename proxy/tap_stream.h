/* Private to the tap: the bytes of Valkey's replication stream, turned into effects. Pure: no socket, no clock. */
#ifndef HF_TAP_STREAM_H
#define HF_TAP_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "proxy/tap.h"

struct tap_stream;

enum tap_item {
    TAP_MORE,    /* all bytes were taken; no effect is complete */
    TAP_EFFECT,  /* *e is one command, or one unit */
    TAP_MESSAGE, /* *e is SPUBLISH channel payload, outside of a unit: commands[0] */
    TAP_GETACK,  /* REPLCONF GETACK: Valkey wants to know how far we are */
    TAP_BAD      /* not a replication stream: *why says it */
};

/* The stream goes on at `offset`, where database `db` is selected. */
struct tap_stream *tap_stream_new(uint64_t offset, uint32_t db);
void tap_stream_free(struct tap_stream *s); /* NULL is fine */
/* Takes bytes up to the end of the next item; *used says how many: call again with the rest. *e borrows from s
 * until the next call. */
enum tap_item tap_stream_next(struct tap_stream *s, const char *bytes, size_t n, size_t *used, struct effect *e,
                              const char **why);
uint64_t tap_stream_offset(const struct tap_stream *s); /* of the last byte taken */

#endif

/* Between loop.c and stream.c only: the list of streams that have something to write. */
#ifndef HF_STREAM_LOOP_H
#define HF_STREAM_LOOP_H

#include <stdbool.h>

struct stream;

bool stream_link_dirty(struct stream *s, struct stream *last); /* behind last, or NULL; false: it is in already */
struct stream *stream_unlink_dirty(struct stream *s);          /* the first one; returns the next */
void stream_flush(struct stream *s);                           /* one write */

#endif

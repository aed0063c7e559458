/* Between loop.c and stream.c only: the lists of streams that have something to write, or to read without their
 * socket. */
#ifndef HF_STREAM_LOOP_H
#define HF_STREAM_LOOP_H

#include <stdbool.h>

struct stream;

bool stream_link_dirty(struct stream *s, struct stream *last); /* behind last, or NULL; false: it is in already */
struct stream *stream_unlink_dirty(struct stream *s);          /* the first one; returns the next */
/* The same of those that read in the next turn; returns the new head, the next one. */
struct stream *stream_link_kicked(struct stream *s, struct stream *next);
struct stream *stream_unlink_kicked(struct stream *s);
void stream_wake(struct stream *s);
void stream_flush(struct stream *s); /* one write */

#endif

/* Between loop.c and stream.c only: the list of streams that have something to write. */
#ifndef HF_STREAM_LOOP_H
#define HF_STREAM_LOOP_H

struct stream;

struct stream *stream_link_dirty(struct stream *s,
                                 struct stream *next); /* returns the new head (unchanged if s is in already) */
struct stream *stream_unlink_dirty(struct stream *s);  /* returns the next one */
void stream_flush(struct stream *s);                   /* one write */

#endif

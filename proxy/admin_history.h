/* The last minutes, one sample a second, for the page: what somebody who opens it now wants to have seen. */
#ifndef HF_ADMIN_HISTORY_H
#define HF_ADMIN_HISTORY_H

#include <stdint.h>

struct buf;
struct history;
struct loop;
struct status;

enum { HISTORY_SAMPLES = 600, HISTORY_EVERY_MS = 1000 };

struct history *history_new(struct loop *l, const struct status *(*fill)(void *arg), void *arg);
void history_free(struct history *h);
/* One object: {"every_ms", "fields", "samples": [[...], ...]}, samples taken after since_unix_ms, oldest first. */
void history_json(const struct history *h, uint64_t since_unix_ms, struct buf *out);

#endif

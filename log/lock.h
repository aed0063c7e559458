/* <dir>/lock: locked by the process that has the log open; its text, written once the log exists, says that there was
 * one, so that missing data are refused and never begun anew. */
#ifndef HF_LOCK_H
#define HF_LOCK_H

#include <stdbool.h>
#include <stddef.h>

#include "log/store.h"

/* *fd is the caller's to close, also on failure if it is not negative; closing it ends the lock. */
bool lock_take(const char *dir, int *fd, bool *existed, char *why, size_t why_size);
bool lock_note(int fd, struct store_identity id, const char *node, char *why, size_t why_size);

#endif

/* The snapshot files of a log: <dir>/snapshots/. The functions that the rest of the program calls are in log.h; log.c
 * passes them on to here. */
#ifndef HF_SNAPSHOT_H
#define HF_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>

#include "log/log.h"

struct diag;
struct snapshots;
struct store;
struct writer;

/* Makes the directory, removes what an interrupted snapshot left. broken() is told of damage and of final errors.
 * NULL with a reason. Borrows all. */
struct snapshots *snapshots_open(const char *dir, const struct diag *d, struct store *store, struct writer *w,
                                 void (*broken)(void *arg, const char *why), void *arg, char *why, size_t why_size);
/* After the writer has ended. A snapshot that was being finished is dropped. */
void snapshots_close(struct snapshots *s);
/* Whether there are snapshot files under dir: then there was a log. */
bool snapshots_exist(const char *dir);

struct snapshot_writer *snapshots_begin(struct snapshots *s, char *why, size_t why_size);
bool snapshots_newest(struct snapshots *s, struct snapshot_mark *mark, char *path, size_t path_size);

#endif

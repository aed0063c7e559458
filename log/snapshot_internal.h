/* What the snapshot*.c files share; nobody else includes this. */
#ifndef HF_SNAPSHOT_INTERNAL_H
#define HF_SNAPSHOT_INTERNAL_H

#include "log/snapshot.h"
#include "log/writer.h"

enum { SNAPSHOT_PATH_BYTES_MAX = 4096, SNAPSHOT_STEP_BYTES = 8 * 1024 * 1024 };

struct snapshots {
    char dir[SNAPSHOT_PATH_BYTES_MAX];
    const struct diag *diag;
    struct store *store;
    struct writer *writer;
    void (*broken)(void *arg, const char *why);
    void *arg;
    uint64_t next_serial;
    struct store_snapshot newest; /* as recorded; serial 0: none */
    bool verified;                /* the newest has been compared with its sidecar, or was written by this process */
    struct snapshot_writer *active;     /* at most one is being written */
    struct snapshot_receiver *received; /* at most one is being received */
    bool placing;                       /* it is in place, or will be at any moment: nothing may overtake it */
};

/* ---- snapshot.c ---- */
void snapshot_name(const struct snapshots *s, uint64_t serial, const char *end, char *out);
bool snapshot_sync_directory(const char *path);
bool snapshot_sync_range(int fd, uint64_t from, uint64_t bytes, unsigned flags);
bool snapshot_write_all(int fd, const char *bytes, size_t n);
/* On the writer thread: removes files of serials below `keep`. */
void snapshot_remove_older(const struct snapshots *s, uint64_t keep);
/* On the writer thread: records it, unless a newer one was recorded meanwhile (then FULL: it is to be dropped). */
enum store_result snapshot_record(struct snapshots *s, struct store_snapshot record, char *why);

/* ---- snapshot_mark.c: the sidecar ---- */
struct sidecar {
    struct snapshot_mark mark;
    struct hash128 rdb_hash;
};
/* Into out[SNAPSHOT_SIDECAR_BYTES_MAX]; returns the length, 0 if a text in the mark cannot be written. */
size_t sidecar_write(const struct sidecar *c, char *out);
bool sidecar_parse(const char *text, size_t n, struct sidecar *c);
/* Writes it durably as <serial>.mark; *check: its hash. errno. */
bool sidecar_store(const struct snapshots *s, uint64_t serial, const struct sidecar *c, uint64_t *check);

/* ---- snapshot_write.c, snapshot_receive.c ---- */
void snapshot_writer_drop(struct snapshot_writer *w);     /* at closing */
void snapshot_receiver_drop(struct snapshot_receiver *r); /* at closing */

#endif

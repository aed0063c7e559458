/* The snapshot files of a log: <dir>/snapshots/. The functions that the rest of the program calls are in log.h; log.c
 * passes them on to here. */
#ifndef HF_SNAPSHOT_H
#define HF_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>

#include "log/log.h"
#include "log/store.h"

struct diag;
struct snapshots;
struct writer;

enum { SNAPSHOT_SIDECAR_BYTES_MAX = 1024 };

/* Makes the directory, removes what an interrupted snapshot left (but keeps an interrupted transfer). broken() is
 * told of damage and of final errors. NULL with a reason. Borrows all. */
struct snapshots *snapshots_open(const char *dir, const struct diag *d, struct store *store, struct writer *w,
                                 void (*broken)(void *arg, const char *why), void *arg, char *why, size_t why_size);
/* After the writer has ended. A snapshot that was being finished or received is dropped; a transfer's bytes stay. */
void snapshots_close(struct snapshots *s);
/* Whether there are snapshot files under dir: then there was a log. */
bool snapshots_exist(const char *dir);

struct snapshot_writer *snapshots_begin(struct snapshots *s, char *why, size_t why_size);
bool snapshots_newest(struct snapshots *s, struct snapshot_mark *mark, char *path, size_t path_size);

/* ---- sending: the newest snapshot, held open even if a newer one removes it ---- */
struct snapshot_source {
    int fd; /* of the RDB, at its beginning; the holder's to close */
    struct snapshot_mark mark;
    struct hash128 rdb_hash;
    char sidecar[SNAPSHOT_SIDECAR_BYTES_MAX]; /* its text: what snapshots_receive() wants */
    size_t sidecar_bytes;
};
/* false: there is none (or broken() was called). The content is not compared with its hash here: the receiver does.
 */
bool snapshots_open_newest(struct snapshots *s, struct snapshot_source *out);
/* What a sidecar's text says; false if it is not one. */
bool snapshot_sidecar_parse(const char *text, size_t n, struct snapshot_mark *mark, struct hash128 *rdb_hash);

/* ---- receiving another member's snapshot; one at a time ----
 *
 *     snapshots_receive ─▶ snapshot_receive_write ... ─▶ snapshot_receive_check ─▶ done(ok, record)
 *       │ goes on where an                                                       │
 *       │ earlier one stopped       snapshot_receive_finish: the newest, alone ◀─┤
 *       ▼                           snapshot_receive_installed: it was recorded ◀┤
 *     snapshot_receive_end          by store_install()                           │
 *     (at any time but while a callback is due) ◀────────────────────────────────┘ */
struct snapshot_receiver;
/* sidecar: the other member's. *from: how many bytes of the RDB are here already, of an earlier transfer of the same
 * RDB; what is here of any other is removed. NULL with a reason. */
struct snapshot_receiver *snapshots_receive(struct snapshots *s, const char *sidecar, size_t n, uint64_t *from,
                                            char *why, size_t why_size);
const struct snapshot_mark *snapshot_receive_mark(const struct snapshot_receiver *r);
uint64_t snapshot_receive_missing(const struct snapshot_receiver *r); /* bytes that are still to come */
/* The next bytes. false: disk trouble, or more than announced; then end it. */
bool snapshot_receive_write(struct snapshot_receiver *r, const void *bytes, size_t n);
/* Nothing is missing: compares the whole file with its hash and puts it and its sidecar in place, durably, on the
 * writer thread; done() on the loop. It is not the newest yet: `record`, if ok, is for one of the two below. Not ok:
 * what was received is gone if it was wrong, and the receiver is to be ended. Until the receiver has ended, no other
 * snapshot can begin. */
void snapshot_receive_check(struct snapshot_receiver *r,
                            void (*done)(void *arg, bool ok, struct store_snapshot record, const char *why),
                            void *arg);
/* Records it as the newest; done() on the loop. The receiver is consumed. A snapshot of our own that was being
 * written meanwhile is dropped. */
void snapshot_receive_finish(struct snapshot_receiver *r, void (*done)(void *arg, bool ok), void *arg);
/* store_install() has recorded it: now it is the newest. The receiver is consumed. */
void snapshot_receive_installed(struct snapshot_receiver *r);
/* Gives up; keep: what was received so far stays for the next snapshots_receive() of the same RDB, also after a
 * restart. */
void snapshot_receive_end(struct snapshot_receiver *r, bool keep);

#endif

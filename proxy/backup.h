/* Backups: `valkey-cli --rdb FILE`, and whatever else asks in its way.
 *
 *     client                                worker                                  core
 *     REPLCONF capa eof      ─▶  +OK
 *     REPLCONF rdb-only 1    ─▶  +OK
 *     SYNC                   ─▶  a task that waits  ──────────────────────────▶  a snapshot is begun, made durable
 *                            ◀─  "\n" each second                                     │
 *     $<bytes>\r\n<RDB>      ◀─  the file, piece by piece, as the client takes it ◀───┘ its file, open
 *     closed                 ◀─
 *
 * What it shows is durable: it is a snapshot of Holdfast's own, valid once the log has committed what is in it. It
 * was begun after SYNC came: on `port` it has all that was acknowledged before (the leader's Valkey was asked, and
 * that it still led is proven by the entry that the snapshot waits for); on `reader-port` it is the node's own, a
 * moment behind.
 *
 * A relay gets each piece as a push (relay.h) and passes on what is inside: its own framing stays whole. */
#ifndef HF_BACKUP_H
#define HF_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

struct backup_ticket;
struct session;
struct task;
struct worker;

enum {
    BACKUP_PIECE_BYTES = 256 << 10,    /* read at once, and as much may wait in the stream */
    BACKUP_SILENCE_MS_MAX = 60 * 1000, /* a client that takes nothing for so long is closed: it holds a file open */
    BACKUP_ALIVE_MS = 1000,            /* a sign of life while the snapshot is being taken */
    BACKUPS_MAX = 16                   /* under way in a worker */
};

/* TO_WORKER_BACKUP: takes the ticket. */
void backup_came(struct worker *w, struct backup_ticket *ticket);
/* The stream's turn to be written: appends the next piece. true: ask again. */
bool backup_fill(struct session *s);
void backup_sent(struct session *s); /* all output has left: ends it, if that was all */
void backup_tick(struct session *s, uint64_t now_ms);

#endif

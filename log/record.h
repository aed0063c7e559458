/* The log's record format: what one entry holds, byte by byte. Pure: no I/O, no clock.
 *
 * An entry is one group commit. Numbers are little endian; "varint" is LEB128, in its shortest form.
 *
 *   entry:  offset  0  u32       magic 'HFE1'
 *                   4  u32       length of all that follows the header
 *                   8  u64       index
 *                  16  u64       term
 *                  24  16 bytes  running hash = hash128(previous running hash || D)
 *                  40  u64       checksum = hash64(the 40 bytes before it || D)
 *                  48  frames    D = hash128(frames), 16 bytes: the frames are walked once for both
 *   frame:  u8 kind | varint length of body | body
 *
 *   INTENT  varint seq | varint db | argv as canonical RESP: a write as it will be sent to Valkey
 *   OUTCOME varint end_offset (of Valkey's replication stream, after the last effect) | items...
 *     REF       u8 1 | varint first seq | varint count: those intents took effect verbatim, in this order
 *     RAW       u8 2 | varint db before | varint db after | varint length | RESP bytes: one effect, or one
 *               MULTI...EXEC unit
 *     TRY       u8 4 | as REF: those intents are executed now, by the replay. Nobody has seen their effects: one may
 *               be refused, by every node alike
 *     RESOLVED  u8 3 | varint seq: all lane intents up to seq have been executed
 *   CONTROL u8 what | body (see enum control)
 *
 * A record is valid if magic, length, index (one more than the previous), running hash and checksum agree. LMDB
 * commits whole entries, and the file ahead of it (store_ahead.c) has checksums of its own for whole writes, so there
 * is no torn tail: any disagreement is damage, is reported, and stops the process; it is never "repaired" by
 * truncation. */
#ifndef HF_RECORD_H
#define HF_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "log/base/hash.h"

enum frame_kind { FRAME_INTENT = 1, FRAME_OUTCOME = 2, FRAME_CONTROL = 3 };
enum item_kind { ITEM_REF = 1, ITEM_RAW = 2, ITEM_RESOLVED = 3, ITEM_TRY = 4 };

enum control {
    CONTROL_START = 1, /* varint term: a process began to write */
    CONTROL_ATTACH =
        2, /* varint offset | u8 n, replication id | u8 n, run_id: the tap follows this stream from this offset */
    CONTROL_MODE = 3,     /* u8 durability mode */
    CONTROL_SNAPSHOT = 4, /* varint index of the snapshot that became the newest */
    CONTROL_BARRIER = 5,  /* nothing: a new leader's first entry */
    CONTROL_MEMBERS = 6,  /* the group's configuration, as consensus encodes it; alone in its entry */
    CONTROL_CLOCK = 7,    /* varint wall clock of the leader in ms: the next leader's must not be behind it */
    CONTROL_BASE = 8,     /* the data that the log begins with: an entry with this frame is durable on a member only
                             when that snapshot is, too. varint index of its mark */
    CONTROL_USERS = 9     /* text: Valkey's users as ACL LIST shows them, a line each, without Holdfast's own */
};

/* What an entry is to consensus; its first frame tells. */
enum record_type { RECORD_COMMAND = 1, RECORD_BARRIER = 2, RECORD_CHANGE = 3 };

enum { ENTRY_HEADER_BYTES = 48, FRAME_BYTES_MAX = 0x7fffffff };

/* ---- writing: frames are appended to a batch; entry_seal() makes it an entry ---- */
void frame_begin(struct buf *batch, enum frame_kind kind, size_t body_bytes);
void frame_intent(struct buf *batch, uint64_t seq, uint32_t db, const void *resp, size_t n);
void frame_outcome(struct buf *batch, uint64_t end_offset, const struct buf *items);
void frame_control(struct buf *batch, enum control what, const void *body, size_t n);
void item_ref(struct buf *items, uint64_t first, uint64_t count);
void item_try(struct buf *items, uint64_t first, uint64_t count);
void item_raw(struct buf *items, uint32_t db_before, uint32_t db_after, const void *resp, size_t n);
void item_resolved(struct buf *items, uint64_t seq);

/* Leaves room for the header at the front of an empty batch / fills it in once all frames are there. */
void entry_begin(struct buf *batch);
struct hash128 entry_seal(struct buf *batch, uint64_t index, uint64_t term, struct hash128 previous);

/* ---- reading ---- */
struct entry_view {
    uint64_t index, term;
    struct hash128 running;
    struct cursor frames;
};
enum entry_error { ENTRY_OK, ENTRY_SHORT, ENTRY_MAGIC, ENTRY_LENGTH, ENTRY_CHECKSUM, ENTRY_INDEX, ENTRY_CHAIN };
const char *entry_error_text(enum entry_error e);
/* Checks everything, the index and the chain against `index` and `previous`. */
enum entry_error entry_open(const void *bytes, size_t n, uint64_t index, struct hash128 previous,
                            struct entry_view *out);
/* Checks magic, length and checksum, but not the place: neither index nor chain. *out is valid if ENTRY_OK. */
enum entry_error entry_check(const void *bytes, size_t n, struct entry_view *out);
/* How long the entry at the front of these bytes states to be, header and all; 0: longer than they are. */
size_t entry_bytes(const void *bytes, size_t n);
/* What an entry states, unchecked but for ENTRY_SHORT; frames too. */
enum entry_error entry_stated(const void *bytes, size_t n, struct entry_view *out);
/* The running hash that an entry states, unchecked. */
enum entry_error entry_running(const void *bytes, size_t n, struct hash128 *out);
/* The running hash after an entry with these frames, when `previous` is the one before it. */
struct hash128 entry_chain(const struct entry_view *e, struct hash128 previous);
/* CHANGE if the first frame is CONTROL_MEMBERS, BARRIER if it is CONTROL_BARRIER, else COMMAND (also if it is
 * malformed: whoever executes the entry says so). */
enum record_type entry_type(const struct entry_view *e);
/* A CHANGE's configuration, inside the entry; NULL, and *n = 0, of any other entry. */
const void *entry_change(const struct entry_view *e, size_t *n);

struct frame_view {
    enum frame_kind kind;
    uint64_t seq;         /* INTENT */
    uint32_t db;          /* INTENT */
    const char *resp;     /* INTENT: canonical RESP */
    size_t resp_bytes;    /* INTENT */
    uint64_t end_offset;  /* OUTCOME */
    struct cursor items;  /* OUTCOME */
    enum control control; /* CONTROL */
    struct cursor body;   /* CONTROL */
};
/* The next frame. false at the end, or when the bytes are malformed (then frames->bad). */
bool frame_next(struct cursor *frames, struct frame_view *out);

struct item_view {
    enum item_kind kind;
    uint64_t seq, count;          /* REF, TRY: first and count; RESOLVED: seq */
    uint32_t db_before, db_after; /* RAW */
    const char *resp;             /* RAW */
    size_t resp_bytes;            /* RAW */
};
bool item_next(struct cursor *items, struct item_view *out);

#endif

/* The tap: a replica of our Valkey that reads its replication stream. Every effect, in execution order, made
 * deterministic by Valkey.
 *
 * Handshake: PING, AUTH, REPLCONF listening-port, capa eof, capa psync2, PSYNC. MULTI ... EXEC of the stream is one
 * effect (a unit). SELECT, PING, REPLCONF GETACK are consumed here and only move the offset. */
#ifndef HF_TAP_H
#define HF_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/argv.h"

struct diag;
struct loop;
struct tap;
struct tls;

struct effect {
    uint32_t db_before, db_after; /* database before the first and after the last command (a unit can hold SELECTs) */
    const char *bytes;            /* as Valkey sent it; for a unit from MULTI to EXEC */
    size_t n;
    const struct argv *commands; /* the commands of a unit without MULTI, EXEC; SELECTs inside are there */
    size_t command_count;
    bool unit;
    uint64_t end_offset; /* of the stream, after its last byte */
};

struct tap_events {
    void (*full)(void *arg, const char *replid, uint64_t offset); /* +FULLRESYNC: an RDB follows */
    void (*rdb)(void *arg, const char *bytes, size_t n);
    void (*rdb_end)(void *arg);
    void (*partial)(void *arg, const char *replid);    /* +CONTINUE: the stream goes on; replid is the current one */
    void (*effect)(void *arg, const struct effect *e); /* borrowed */
    void (*message)(void *arg, const char *channel, size_t channel_n, const char *payload, size_t payload_n,
                    const struct effect *e);
    /* SPUBLISH outside a unit: instead of effect() */
    void (*closed)(void *arg, const char *why); /* at most once */
};
struct tap_settings {
    const char *address, *user, *password;
    struct tls *tls;    /* NULL: plain */
    const char *replid; /* NULL: full sync ("? -1"); else partial from `offset` + 1 */
    uint64_t offset;
    uint32_t db;   /* database selected at `offset` (partial) */
    bool rdb_only; /* REPLCONF rdb-only 1: RDB, then the end: closed(arg, "done") */
};
struct tap *tap_new(struct loop *l, const struct diag *d, const struct tap_settings *s,
                    const struct tap_events *events, void *arg);
void tap_close(struct tap *t);
uint64_t tap_offset(const struct tap *t); /* read so far */
/* What REPLCONF ACK may say from now on (sent every second, on GETACK, and at once when it moved and Valkey asked).
 */
void tap_ack(struct tap *t, uint64_t durable_offset);
void tap_pause(struct tap *t, bool pause);

#endif

/* RESP on both sides: requests from clients, replies from Valkey; framing by hiredis' reader, with our callbacks and
 * limits.
 *
 * Requests are parsed strictly: what Valkey might frame differently is refused with Valkey's own protocol error.
 * Their canonical bytes are made anew from the parsed arguments; client bytes are never passed on. Replies are only
 * delimited; their bytes are passed on as they are. */
#ifndef HF_RESP_H
#define HF_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "proxy/argv.h"

struct resp_limits {
    size_t bulk_bytes_max;  /* proto-max-bulk-len */
    size_t query_bytes_max; /* client-query-buffer-limit: one command's bytes */
    size_t args_max;        /* 1024 * 1024 */
    size_t line_bytes_max;  /* inline and header lines: 64 KiB */
};

/* ---- requests ---- */
struct resp_parser;
/* Parsers are pooled: a connection holds one only while a command is incomplete. */
struct resp_pool;
struct resp_pool *resp_pool_new(const struct resp_limits *limits); /* borrows limits: they may change while running */
void resp_pool_free(struct resp_pool *p);
/* Releases what the last command borrowed, if it is large: for turns without a next one. */
void resp_pool_trim(struct resp_pool *p);

enum resp_result { RESP_MORE, RESP_COMMAND, RESP_ERROR };
/* Feeds bytes. RESP_COMMAND: one command is in *out, borrowed until the next call with this pool; *used says how many
 * bytes were taken: call again with all of the rest (and what came behind it). RESP_MORE: all were taken, no command
 * complete. RESP_ERROR: *error is Valkey's text, without '-' and CRLF, e.g. "ERR Protocol error: invalid bulk
 * length": send it and close; *parser is NULL. Empty requests (empty lines, *0, *-1) are skipped. *parser is NULL at
 * first; it is taken from the pool when needed, and given back (NULL again) as soon as all bytes were taken and no
 * command is incomplete: an idle connection holds none. In between it belongs to this connection: who gives up before
 * that drops it. strict: an unauthenticated connection: at most 10 arguments of at most 16384 bytes ("unauthenticated
 * multibulk length" / "unauthenticated bulk length"). */
enum resp_result resp_parse(struct resp_pool *pool, struct resp_parser **parser, const char *bytes, size_t n,
                            size_t *used, bool strict, struct argv *out, const char **error);
void resp_parser_drop(struct resp_pool *pool, struct resp_parser *parser); /* connection closed; NULL is fine */
size_t resp_parser_bytes(const struct resp_parser *parser);                /* memory held; 0 for NULL */

/* ---- replies ---- */
struct resp_splitter;
struct resp_splitter *resp_splitter_new(void);
void resp_splitter_free(struct resp_splitter *s);
/* Feeds bytes and calls each() with the whole bytes of every complete reply, in order; each() returns false to stop
 * (the rest is dropped: the owner is closing). Returns false if the bytes are not RESP (the connection must be
 * closed). */
bool resp_split(struct resp_splitter *s, const char *bytes, size_t n,
                bool (*each)(void *arg, const char *reply, size_t n), void *arg);

/* ---- writing replies ---- */
void resp_error(struct buf *out, const char *text);  /* "-text\r\n" */
void resp_status(struct buf *out, const char *text); /* "+text\r\n" */
void resp_integer(struct buf *out, int64_t v);
void resp_bulk(struct buf *out, const void *bytes, size_t n);
void resp_bulk_text(struct buf *out, const char *text);
void resp_null(struct buf *out, int proto); /* "$-1\r\n" or "_\r\n" */
void resp_array(struct buf *out, size_t count);
void resp_map(struct buf *out, size_t pairs, int proto); /* RESP2: an array of twice the count */

#endif

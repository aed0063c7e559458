/* What log_fetch.c and log_serve.c say to each other over a PEER_FETCH connection; see log_serve.c. */
#ifndef HF_LOG_FETCH_H
#define HF_LOG_FETCH_H

enum fetch_kind {
    FETCH_ASK = 1,   /* varint: only a snapshot with a mark behind this index */
    FETCH_HAVE,      /* the sidecar's text */
    FETCH_NONE,      /* nothing that would help */
    FETCH_GET,       /* varint offset | varint bytes */
    FETCH_DATA,      /* bytes */
    FETCH_GET_LOG,   /* nothing */
    FETCH_LOG_BEGIN, /* varint first index | 16 bytes running hash before it */
    FETCH_RECORD,    /* one sealed entry */
    FETCH_LOG_END    /* varint index | varint its term | varint index of the members' entry | that configuration */
};
enum {
    FETCH_PIECE_BYTES_MAX = 512 * 1024,
    FETCH_ASK_BYTES_MAX = 64,
    FETCH_FRAME_BYTES_MAX = 1024 * 1024 * 1024 /* one entry */
};

#endif

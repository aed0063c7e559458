/* What is shown of a session: a line of CLIENT LIST, and what its filters look at.
 *
 *   CLIENT KILL USER alice NOT-ID 7 8 SKIPME no ─▶ {USER alice} {NOT-ID 7 8}, skip_me = false */
#ifndef HF_CLIENT_H
#define HF_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "proxy/session.h"

enum {
    CLIENT_IP_BYTES = 112,
    CLIENT_ADDRESS_BYTES = CONFIG_TEXT_MAX + 144, /* a socket's path, or what a relay says */
    CLIENT_FLAGS_BYTES = 20,
    CLIENT_CONDITIONS_MAX = 64
};

/* ---- local_client.c ---- */
const char *client_user(const struct session *s);
void client_address(const struct session *s, char *out, size_t size);
void client_local_address(const struct session *s, char *out, size_t size);
bool client_is_pubsub(const struct session *s);
void client_flags(const struct session *s, char out[CLIENT_FLAGS_BYTES]);
void client_describe(const struct session *s, struct buf *out);       /* appends the line, with its LF */
enum dispatch client_reply_text(struct session *s, struct buf *text); /* frees text's memory */
bool client_is_word(const struct argv *a, size_t i);

/* ---- client_filter.c ---- */
struct client_condition {
    const struct client_kind *kind;
    bool negated;
    size_t at, count; /* arguments with the values: one, but for ID */
};
struct client_filter {
    struct client_condition conditions[CLIENT_CONDITIONS_MAX];
    size_t count;
    bool skip_me;
};
/* Reads the arguments from `at` on. false: error (without CRLF) is in why. */
bool client_filter_parse(struct client_filter *f, const struct argv *a, size_t at, char *why, size_t why_size);
bool client_filter_matches(const struct client_filter *f, const struct argv *a, const struct session *s);
/* Nothing but ID: Valkey answers in the order of the ids then. */
bool client_filter_is_ids(const struct client_filter *f);

#endif

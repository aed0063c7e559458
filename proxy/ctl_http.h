/* One HTTP request to an admin port, and wait for the answer. */
#ifndef HF_CTL_HTTP_H
#define HF_CTL_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "log/base/buf.h"

struct ctl_answer {
    int code;        /* of HTTP */
    struct buf body; /* the caller's: buf_free() */
};
/* address: HOST:PORT. token: admin-token, NULL or "" = none. post: POST, else GET. false with a reason: no answer. */
bool ctl_ask(const char *address, const char *token, bool post, const char *path, int timeout_s,
             struct ctl_answer *answer, char *why, size_t why_size);

#endif

/* Between the files of holdfast ctl only: asking an admin port, and reading its answers. */
#ifndef HF_CTL_INTERNAL_H
#define HF_CTL_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "log/base/buf.h"
#include "proxy/ctl.h"
#include "proxy/ctl_http.h"

struct ctl {
    const char *admin, *token;
    bool json;
    unsigned interval_ms, count; /* of top; count 0: for ever */
};

/* false: nobody answers; it was said on stderr. */
bool ctl_request(const struct ctl *c, bool post, const char *path, struct ctl_answer *answer);
json_t *ctl_object(const struct ctl_answer *answer); /* NULL: it is none; it was said on stderr */
void ctl_print_body(const struct ctl_answer *answer);
/* Fields that are missing, or something else, are "", 0 and false. */
const char *ctl_text(const json_t *object, const char *key);
int64_t ctl_number(const json_t *object, const char *key);
bool ctl_yes(const json_t *object, const char *key);

/* ctl_show.c: all of these return an exit code */
int ctl_show_members(const struct ctl *c);
int ctl_show_status(const struct ctl *c);
int ctl_show_ready(const struct ctl *c);
int ctl_show_mode(const struct ctl *c);
void ctl_members_table(struct buf *out, const json_t *members, int64_t committed);
void ctl_problems(struct buf *out, const json_t *status);

/* ctl_top.c */
int ctl_top(const struct ctl *c);

#endif

/* Between status.c and status_members.c only. */
#ifndef HF_STATUS_INTERNAL_H
#define HF_STATUS_INTERNAL_H

#include <jansson.h>

#include "proxy/status.h"

void append_one_line(struct buf *out, const char *text); /* for INFO: control characters become blanks */
void append_label(struct buf *out, const char *name, const char *value);
void append_head(struct buf *out, const char *metric, const char *type, const char *help);
json_t *json_text(const char *text);
void append_json(struct buf *out, json_t *root); /* and lets go of root */

void members_info(const struct status *s, struct buf *out);
void members_metrics(const struct status *s, struct buf *out);
json_t *members_json(const struct status *s);

#endif

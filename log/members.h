/* Who belongs to the group, and whether that is safe. Pure.
 *
 * A member is a voter (votes, counts for the quorum) or a standby (gets the log, counts for nothing: a newcomer that
 * is catching up). Its id is the id of its data directory, made at random when that is created: a node that comes
 * back with an empty disk is somebody else, and cannot vote as its old self. */
#ifndef HF_MEMBERS_H
#define HF_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/buf.h"

enum { MEMBERS_MAX = 9, MEMBER_NAME_BYTES_MAX = 65, MEMBER_ADDRESS_BYTES_MAX = 160, MEMBER_TEXT_BYTES_MAX = 320 };

enum member_role { MEMBER_STANDBY, MEMBER_VOTER };

struct member {
    uint64_t id; /* 0 = not known yet (settings name members, data directories have ids) */
    char name[MEMBER_NAME_BYTES_MAX], zone[MEMBER_NAME_BYTES_MAX];
    char address[MEMBER_ADDRESS_BYTES_MAX]; /* host:port of its peer port */
    bool log_only;                          /* a witness: it has no Valkey */
    enum member_role role;
};
struct members {
    struct member at[MEMBERS_MAX];
    size_t count;
};

/* "NAME ZONE HOST:PORT [log-only]": the value of a `member` setting, and the text that the log's configuration
 * entries hold for each member. parse leaves id 0 and role MEMBER_VOTER. */
bool member_parse(const char *text, struct member *out, char *why, size_t why_size);
void member_text(const struct member *m, char out[MEMBER_TEXT_BYTES_MAX]);

struct member *members_by_id(struct members *m, uint64_t id);        /* NULL: not there */
struct member *members_by_name(struct members *m, const char *name); /* the first of that name */
size_t members_voters(const struct members *m);
size_t members_quorum(const struct members *m); /* how many voters make a majority */
size_t members_zones(const struct members *m);  /* distinct zones of voters */
/* False, with an explanation, if the voters of one zone could make a majority (then losing that zone loses what it
 * alone has acknowledged), or if there is no voter with a Valkey. One member alone is accepted: it is the embedded
 * default and promises less. */
bool members_safe(const struct members *m, char *why, size_t why_size);

/* As the log's configuration entries hold them. decode: every bound checked, and ids and texts are distinct, roles
 * known, at least one a voter. */
void members_encode(const struct members *m, struct buf *out);
bool members_decode(const void *bytes, size_t n, struct members *out);

#endif

/* The group's members: their text, their bytes, and the rule that no zone may hold a majority. See members.h.
 *
 * The bytes are those of libraft's configuration entries (its disk-format page), since libraft reads them too; but it
 * reads without looking where they end, so what comes from the wire or the disk is read here first:
 *
 *      u8 1 | u64 count | count times: u64 id, text ended by a zero byte, u8 role | zero bytes up to a multiple of 8
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/members.h"

enum { MEMBERS_FORMAT = 1, MEMBERS_ALIGN_BYTES = 8 };

static bool is_name(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

    return n > 0 && n < MEMBER_NAME_BYTES_MAX && text[n] == '\0';
}

/* HOST:PORT; an IPv6 address is written [::1]:7400. */
static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    unsigned long port = 0;

    if (colon == NULL || colon == text || strlen(text) >= MEMBER_ADDRESS_BYTES_MAX)
        return false;
    if (colon[1] < '1' || colon[1] > '9')
        return false;
    for (const char *c = colon + 1; *c != '\0'; c++) {
        if (!isdigit((unsigned char)*c) || port > 65535)
            return false;
        port = 10 * port + (unsigned long)(*c - '0');
    }
    for (const char *c = text; c < colon; c++)
        if (!isgraph((unsigned char)*c) || (*c == ':' && text[0] != '['))
            return false;
    return port <= 65535 && (text[0] != '[' || (colon[-1] == ']' && colon > text + 2));
}

static bool no(char *why, size_t size, const char *what)
{
    if (why != NULL && size > 0)
        snprintf(why, size, "%s", what);
    return false;
}

bool member_parse(const char *text, struct member *out, char *why, size_t why_size)
{
    char copy[MEMBER_TEXT_BYTES_MAX], *rest = copy, *word[4] = {NULL}, *extra = NULL;

    memset(out, 0, sizeof *out);
    out->role = MEMBER_VOTER;
    if (strlen(text) >= sizeof copy)
        return no(why, why_size, "a member is NAME ZONE HOST:PORT [log-only], and shorter than this");
    snprintf(copy, sizeof copy, "%s", text);
    for (int i = 0; i < 4; i++)
        word[i] = strtok_r(i == 0 ? copy : NULL, " \t", &rest);
    extra = word[3] != NULL ? strtok_r(NULL, " \t", &rest) : NULL;
    if (word[2] == NULL || extra != NULL)
        return no(why, why_size, "a member is NAME ZONE HOST:PORT [log-only]");
    if (!is_name(word[0]) || !is_name(word[1]))
        return no(why, why_size, "a member's name and zone are 1 to 64 letters, digits, '_', '-' or '.'");
    if (!is_address(word[2]))
        return no(why, why_size, "a member's address is HOST:PORT, as in 10.0.0.1:7400 or [::1]:7400");
    if (word[3] != NULL && strcmp(word[3], "log-only") != 0)
        return no(why, why_size, "all that may follow a member's address is 'log-only'");
    snprintf(out->name, sizeof out->name, "%s", word[0]);
    snprintf(out->zone, sizeof out->zone, "%s", word[1]);
    snprintf(out->address, sizeof out->address, "%s", word[2]);
    out->log_only = word[3] != NULL;
    return true;
}

void member_text(const struct member *m, char out[MEMBER_TEXT_BYTES_MAX])
{
    int n = snprintf(out, MEMBER_TEXT_BYTES_MAX, "%s %s %s%s", m->name, m->zone, m->address,
                     m->log_only ? " log-only" : "");

    CHECK(n > 0 && n < MEMBER_TEXT_BYTES_MAX);
}

struct member *members_by_id(struct members *m, uint64_t id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->at[i].id == id)
            return &m->at[i];
    return NULL;
}

struct member *members_by_name(struct members *m, const char *name)
{
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->at[i].name, name) == 0)
            return &m->at[i];
    return NULL;
}

size_t members_voters(const struct members *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->count; i++)
        n += m->at[i].role == MEMBER_VOTER;
    return n;
}

size_t members_quorum(const struct members *m)
{
    return members_voters(m) / 2 + 1;
}

static size_t voters_in(const struct members *m, const char *zone)
{
    size_t n = 0;

    for (size_t i = 0; i < m->count; i++)
        n += m->at[i].role == MEMBER_VOTER && strcmp(m->at[i].zone, zone) == 0;
    return n;
}

size_t members_zones(const struct members *m)
{
    size_t zones = 0;

    for (size_t i = 0; i < m->count; i++) {
        bool first = m->at[i].role == MEMBER_VOTER;

        for (size_t j = 0; j < i && first; j++)
            first = m->at[j].role != MEMBER_VOTER || strcmp(m->at[j].zone, m->at[i].zone) != 0;
        zones += first;
    }
    return zones;
}

bool members_safe(const struct members *m, char *why, size_t why_size)
{
    size_t voters = members_voters(m), quorum = members_quorum(m), with_valkey = 0;

    for (size_t i = 0; i < m->count; i++)
        with_valkey += m->at[i].role == MEMBER_VOTER && !m->at[i].log_only;
    if (with_valkey == 0)
        return no(why, why_size, "no voting member has a Valkey: nobody could serve");
    if (voters == 1)
        return true;
    for (size_t i = 0; i < m->count; i++) {
        size_t here = voters_in(m, m->at[i].zone);

        if (here < quorum)
            continue;
        if (why != NULL && why_size > 0)
            snprintf(why, why_size,
                     "zone %s holds %zu of the %zu voting members, and %zu are a majority: what they alone have "
                     "acknowledged is lost with that zone. Put the members into more zones (a log-only member in a "
                     "third one is enough), or accept it with allow-single-az yes",
                     m->at[i].zone, here, voters, quorum);
        return false;
    }
    return true;
}

void members_encode(const struct members *m, struct buf *out)
{
    size_t before = out->len;

    CHECK(m->count > 0 && m->count <= MEMBERS_MAX);
    buf_u8(out, MEMBERS_FORMAT);
    buf_u64(out, m->count);
    for (size_t i = 0; i < m->count; i++) {
        char text[MEMBER_TEXT_BYTES_MAX];

        member_text(&m->at[i], text);
        buf_u64(out, m->at[i].id);
        buf_append(out, text, strlen(text) + 1);
        buf_u8(out, (uint8_t)m->at[i].role);
    }
    while ((out->len - before) % MEMBERS_ALIGN_BYTES != 0)
        buf_u8(out, 0);
}

/* One member; false also if its text is not the one that we would write: then libraft, which compares texts, and we
 * could differ about which members are the same. */
static bool decode_member(struct cursor *at, struct members *out)
{
    uint64_t id = cursor_u64(at);
    const char *text = at->at;
    const void *end = at->bad ? NULL : memchr(text, '\0', at->left);
    char again[MEMBER_TEXT_BYTES_MAX];
    struct member *m = &out->at[out->count];
    uint8_t role;

    if (id == 0 || end == NULL || members_by_id(out, id) != NULL || !member_parse(text, m, NULL, 0))
        return false;
    member_text(m, again);
    cursor_bytes(at, strlen(text) + 1);
    role = cursor_u8(at);
    if (at->bad || strcmp(text, again) != 0 || role > MEMBER_VOTER)
        return false;
    for (size_t i = 0; i < out->count; i++) {
        char other[MEMBER_TEXT_BYTES_MAX];

        member_text(&out->at[i], other);
        if (strcmp(text, other) == 0)
            return false;
    }
    m->id = id;
    m->role = role == MEMBER_VOTER ? MEMBER_VOTER : MEMBER_STANDBY;
    out->count++;
    return true;
}

bool members_decode(const void *bytes, size_t n, struct members *out)
{
    struct cursor at = cursor_of(bytes, n);
    uint64_t count;

    memset(out, 0, sizeof *out);
    if (n % MEMBERS_ALIGN_BYTES != 0 || cursor_u8(&at) != MEMBERS_FORMAT)
        return false;
    count = cursor_u64(&at);
    if (at.bad || count == 0 || count > MEMBERS_MAX)
        return false;
    for (uint64_t i = 0; i < count; i++)
        if (!decode_member(&at, out))
            return false;
    if (at.left >= MEMBERS_ALIGN_BYTES)
        return false;
    while (at.left > 0)
        if (cursor_u8(&at) != 0)
            return false;
    return members_voters(out) > 0;
}

/* The bytes between members, drawn. Numbers are little endian; flags have no other bits than those named; nothing may
 * follow the last field.
 *
 *   HELLO    u32 magic 'HFP1' | u32 version | then, as version 1 has it:
 *            u8 purpose | u64 id | u8 log-only | str name | str zone | str address | str cluster | 16 bytes group
 *            | u32 n, configuration | u32 n, extra                                        (str: u16 n, n bytes)
 *   MESSAGE  u8 kind | u64 term | u64 sent_ms | u64 echo_ms | u64 wall_ms | then
 *     VOTE_REQUEST   u64 last index | u64 last term | u8 flags: 1 disrupt leader, 2 pre-vote
 *     VOTE           u8 flags: 1 granted, 2 pre-vote
 *     APPEND         u64 prev index | u64 prev term | u64 commit | u32 count | count x (u32 n, entry as in record.h)
 *     APPEND_RESULT  u64 rejected | u64 last index
 *     INSTALL, TIMEOUT_NOW   u64 last index | u64 last term
 *     STATE          u64 committed | u64 snapshot | u64 fed | u64 keys | u64 first | u8 flags: 1 log-only
 *   REFUSE   text
 *
 * A body comes from a peer that has proven its name, and may still be wrong in every byte (a bug, another build).
 * What is read is what is there: a count or length only says how to cut the bytes that have arrived. The entries of
 * an APPEND must be whole, must have the indexes that follow prev index, and are copied. */
#include <stdio.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/base/hash.h"
#include "log/peer.h"
#include "log/record.h"

enum {
    HELLO_MAGIC = 0x31504648, /* "HFP1" */
    MESSAGE_HEAD_BYTES = 1 + 4 * 8,
    APPEND_COUNT_AT = MESSAGE_HEAD_BYTES + 3 * 8,
    RECORD_BYTES_MIN = 4 + ENTRY_HEADER_BYTES,
    CONFIGURATION_BYTES_MAX = 8 * 1024,
    KIND_AND_HASH_BYTES = 9
};
_Static_assert(4 + KIND_AND_HASH_BYTES == WIRE_FRAME_HEADER_BYTES, "length, kind, hash");
_Static_assert(CONFIGURATION_BYTES_MAX + PEER_EXTRA_BYTES_MAX + 2048 < WIRE_HELLO_BYTES_MAX,
               "a HELLO fits its limit");

/* ---- frames ---- */

size_t wire_begin(struct buf *out)
{
    static const char zeros[WIRE_FRAME_HEADER_BYTES];
    size_t at = out->len;

    buf_append(out, zeros, sizeof zeros);
    return at;
}

void wire_end(struct buf *out, size_t at, enum wire_kind kind)
{
    struct buf header;
    size_t body;
    char *head;

    if (out->failed)
        return;
    CHECK(out->len >= at + WIRE_FRAME_HEADER_BYTES);
    body = out->len - at - WIRE_FRAME_HEADER_BYTES;
    CHECK(body <= PEER_FRAME_BYTES_MAX);
    head = buf_head(out) + at;
    header = (struct buf){.data = head, .cap = WIRE_FRAME_HEADER_BYTES}; /* fills the room that begin left */
    buf_u32(&header, (uint32_t)(body + KIND_AND_HASH_BYTES));
    buf_u8(&header, (uint8_t)kind);
    buf_u64(&header, hash64(head + WIRE_FRAME_HEADER_BYTES, body, (uint64_t)kind));
    CHECK(header.data == head && header.len == WIRE_FRAME_HEADER_BYTES);
}

enum wire_state wire_next(struct cursor *c, size_t bytes_max, struct wire_frame *out, const char **why)
{
    struct cursor at = *c;
    uint32_t length = cursor_u32(&at);
    uint64_t sum;

    if (at.bad)
        return WIRE_PART;
    *why = "a frame of impossible length";
    if (length < KIND_AND_HASH_BYTES || length - KIND_AND_HASH_BYTES > bytes_max)
        return WIRE_BAD;
    out->kind = (enum wire_kind)cursor_u8(&at);
    *why = "a frame of no known kind";
    if (!at.bad && (out->kind < WIRE_HELLO || out->kind > WIRE_REFUSE))
        return WIRE_BAD;
    sum = cursor_u64(&at);
    out->body_bytes = length - KIND_AND_HASH_BYTES;
    out->body = cursor_bytes(&at, out->body_bytes);
    if (at.bad)
        return WIRE_PART;
    *why = "a damaged frame";
    if (hash64(out->body, out->body_bytes, (uint64_t)out->kind) != sum)
        return WIRE_BAD;
    *c = at;
    return WIRE_FRAME;
}

/* ---- messages ---- */

static uint8_t flags(bool first, bool second)
{
    return (uint8_t)((first ? 1 : 0) | (second ? 2 : 0));
}

static void read_flags(struct cursor *c, bool *first, bool *second)
{
    uint8_t v = cursor_u8(c);

    *first = (v & 1) != 0;
    if (second != NULL)
        *second = (v & 2) != 0;
    if (v > (second != NULL ? 3 : 1))
        c->bad = true;
}

static void put_state(struct buf *out, const struct peer_state *s)
{
    buf_u64(out, s->committed);
    buf_u64(out, s->snapshot_index);
    buf_u64(out, s->fed_index);
    buf_u64(out, s->valkey_keys);
    buf_u64(out, s->log_first);
    buf_u64(out, s->election_ms);
    buf_u8(out, flags(s->log_only, s->draining));
}

static void get_state(struct cursor *c, struct peer_state *s)
{
    s->committed = cursor_u64(c);
    s->snapshot_index = cursor_u64(c);
    s->fed_index = cursor_u64(c);
    s->valkey_keys = cursor_u64(c);
    s->log_first = cursor_u64(c);
    s->election_ms = cursor_u64(c);
    read_flags(c, &s->log_only, &s->draining);
}

static void put_records(struct buf *out, struct record *const *records, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct buf *bytes = &records[i]->bytes;

        CHECK(bytes->len >= ENTRY_HEADER_BYTES && bytes->len <= UINT32_MAX);
        buf_u32(out, (uint32_t)bytes->len);
        buf_append(out, buf_head(bytes), bytes->len);
    }
}

void wire_message(struct buf *out, const struct peer_message *m, struct record *const *records, size_t count)
{
    CHECK(count == (m->kind == PEER_APPEND ? m->append.count : 0));
    buf_u8(out, (uint8_t)m->kind);
    buf_u64(out, m->term);
    buf_u64(out, m->sent_ms);
    buf_u64(out, m->echo_ms);
    buf_u64(out, m->wall_ms);
    switch (m->kind) {
    case PEER_VOTE_REQUEST:
        buf_u64(out, m->vote_request.last_index);
        buf_u64(out, m->vote_request.last_term);
        buf_u8(out, flags(m->vote_request.disrupt_leader, m->vote_request.pre_vote));
        break;
    case PEER_VOTE:
        buf_u8(out, flags(m->vote.granted, m->vote.pre_vote));
        break;
    case PEER_APPEND:
        buf_u64(out, m->append.prev_index);
        buf_u64(out, m->append.prev_term);
        buf_u64(out, m->append.commit);
        buf_u32(out, m->append.count);
        put_records(out, records, count);
        break;
    case PEER_APPEND_RESULT:
        buf_u64(out, m->append_result.rejected);
        buf_u64(out, m->append_result.last_index);
        break;
    case PEER_INSTALL:
        buf_u64(out, m->install.last_index);
        buf_u64(out, m->install.last_term);
        break;
    case PEER_TIMEOUT_NOW:
        buf_u64(out, m->timeout_now.last_index);
        buf_u64(out, m->timeout_now.last_term);
        break;
    case PEER_STATE:
        put_state(out, &m->state);
        break;
    }
}

size_t wire_records_max(const void *body, size_t n)
{
    struct cursor c = cursor_of(body, n);
    size_t count;

    if (cursor_u8(&c) != PEER_APPEND || cursor_bytes(&c, APPEND_COUNT_AT - 1) == NULL)
        return 0;
    count = cursor_u32(&c);
    return count < c.left / RECORD_BYTES_MIN ? count : c.left / RECORD_BYTES_MIN;
}

/* One record, copied; NULL: not a whole entry, not of this index, or no memory. */
static struct record *get_record(struct cursor *c, uint64_t index)
{
    size_t n = cursor_u32(c);
    const char *at = cursor_bytes(c, n);
    struct entry_view e;
    struct buf copy = {0};

    if (at == NULL || entry_check(at, n, &e) != ENTRY_OK || e.index != index)
        return NULL;
    buf_append(&copy, at, n);
    if (!copy.failed)
        return record_new(&copy, entry_type(&e), e.index, e.term, e.running);
    buf_free(&copy);
    return NULL;
}

static void get_append(struct cursor *c, struct peer_message *out, struct record **records, size_t max)
{
    size_t got = 0;

    out->append.prev_index = cursor_u64(c);
    out->append.prev_term = cursor_u64(c);
    out->append.commit = cursor_u64(c);
    out->append.count = cursor_u32(c);
    if (c->bad || out->append.count > max || out->append.prev_index > UINT64_MAX - out->append.count) {
        c->bad = true;
        return;
    }
    for (; got < out->append.count; got++) {
        records[got] = get_record(c, out->append.prev_index + 1 + got);
        if (records[got] == NULL)
            break;
    }
    if (got == out->append.count && c->left == 0)
        return;
    c->bad = true;
    while (got > 0)
        record_drop(records[--got]);
}

bool wire_message_open(const void *body, size_t n, struct peer_message *out, struct record **records, size_t max)
{
    struct cursor c = cursor_of(body, n);

    *out = (struct peer_message){.kind = (enum peer_kind)cursor_u8(&c)};
    out->term = cursor_u64(&c);
    out->sent_ms = cursor_u64(&c);
    out->echo_ms = cursor_u64(&c);
    out->wall_ms = cursor_u64(&c);
    switch (out->kind) {
    case PEER_VOTE_REQUEST:
        out->vote_request.last_index = cursor_u64(&c);
        out->vote_request.last_term = cursor_u64(&c);
        read_flags(&c, &out->vote_request.disrupt_leader, &out->vote_request.pre_vote);
        break;
    case PEER_VOTE:
        read_flags(&c, &out->vote.granted, &out->vote.pre_vote);
        break;
    case PEER_APPEND:
        get_append(&c, out, records, max);
        break;
    case PEER_APPEND_RESULT:
        out->append_result.rejected = cursor_u64(&c);
        out->append_result.last_index = cursor_u64(&c);
        break;
    case PEER_INSTALL:
        out->install.last_index = cursor_u64(&c);
        out->install.last_term = cursor_u64(&c);
        break;
    case PEER_TIMEOUT_NOW:
        out->timeout_now.last_index = cursor_u64(&c);
        out->timeout_now.last_term = cursor_u64(&c);
        break;
    case PEER_STATE:
        get_state(&c, &out->state);
        break;
    default:
        return false;
    }
    return !c.bad && c.left == 0;
}

/* ---- hello ---- */

static void put_text(struct buf *out, const char *text)
{
    size_t n = strlen(text);

    CHECK(n <= UINT16_MAX);
    buf_u8(out, (uint8_t)n);
    buf_u8(out, (uint8_t)(n >> 8));
    buf_append(out, text, n);
}

/* Visible ASCII only, without blanks: names and addresses are, and what is read here gets into log lines. */
static void get_text(struct cursor *c, char *out, size_t size)
{
    size_t n = cursor_u8(c);
    const char *at;

    n |= (size_t)cursor_u8(c) << 8;
    at = cursor_bytes(c, n);
    out[0] = '\0';
    if (at == NULL || n >= size) {
        c->bad = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        c->bad = c->bad || at[i] <= ' ' || at[i] > '~';
    memcpy(out, at, n);
    out[n] = '\0';
}

void wire_hello(struct buf *out, const struct peer_hello *h, const char *cluster)
{
    CHECK(h->configuration.len <= CONFIGURATION_BYTES_MAX && h->extra_bytes <= PEER_EXTRA_BYTES_MAX);
    buf_u32(out, HELLO_MAGIC);
    buf_u32(out, PEER_VERSION);
    buf_u8(out, (uint8_t)h->purpose);
    buf_u64(out, h->member.id);
    buf_u8(out, h->member.log_only ? 1 : 0);
    put_text(out, h->member.name);
    put_text(out, h->member.zone);
    put_text(out, h->member.address);
    put_text(out, cluster);
    buf_append(out, h->group, PEER_GROUP_BYTES);
    buf_u32(out, (uint32_t)h->configuration.len);
    buf_append(out, buf_head(&h->configuration), h->configuration.len);
    buf_u32(out, (uint32_t)h->extra_bytes);
    buf_append(out, h->extra, h->extra_bytes);
}

static void get_group(struct cursor *c, struct peer_hello *out)
{
    const char *at = cursor_bytes(c, PEER_GROUP_BYTES);
    size_t n;

    if (at != NULL)
        memcpy(out->group, at, PEER_GROUP_BYTES);
    n = cursor_u32(c);
    at = n <= CONFIGURATION_BYTES_MAX ? cursor_bytes(c, n) : NULL;
    if (at == NULL) {
        c->bad = true;
        return;
    }
    buf_append(&out->configuration, at, n);
    c->bad = c->bad || out->configuration.failed;
}

bool wire_hello_open(const void *body, size_t n, struct peer_hello *out, char *cluster, size_t cluster_size,
                     uint32_t *version)
{
    struct cursor c = cursor_of(body, n);
    uint32_t magic = cursor_u32(&c);
    const char *at;

    *version = cursor_u32(&c);
    *out = (struct peer_hello){0};
    cluster[0] = '\0';
    if (c.bad || magic != HELLO_MAGIC)
        return false;
    if (*version != PEER_VERSION)
        return true;
    out->purpose = (enum peer_purpose)cursor_u8(&c);
    out->member.id = cursor_u64(&c);
    read_flags(&c, &out->member.log_only, NULL);
    get_text(&c, out->member.name, sizeof out->member.name);
    get_text(&c, out->member.zone, sizeof out->member.zone);
    get_text(&c, out->member.address, sizeof out->member.address);
    get_text(&c, cluster, cluster_size);
    get_group(&c, out);
    out->extra_bytes = cursor_u32(&c);
    at = out->extra_bytes <= PEER_EXTRA_BYTES_MAX ? cursor_bytes(&c, out->extra_bytes) : NULL;
    if (at != NULL)
        memcpy(out->extra, at, out->extra_bytes);
    else
        c.bad = true;
    return !c.bad && c.left == 0 && out->purpose >= PEER_LINK && out->purpose <= PEER_RELAY && out->member.id != 0 &&
           out->member.name[0] != '\0' && out->member.name[0] != '.';
}

void wire_text(const void *body, size_t n, char out[WIRE_TEXT_BYTES_MAX])
{
    struct cursor c = cursor_of(body, n < WIRE_TEXT_BYTES_MAX ? n : WIRE_TEXT_BYTES_MAX - 1);
    size_t i = 0;

    while (c.left > 0) {
        char byte = (char)cursor_u8(&c);

        out[i++] = byte >= ' ' && byte <= '~' ? byte : '?';
    }
    out[i] = '\0';
}

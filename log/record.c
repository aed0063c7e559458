#include "log/record.h"

#include <string.h>

#include "log/base/diag.h"

static const char entry_magic[4] = {'H', 'F', 'E', '1'};

enum { CHECKED_HEADER_BYTES = 40, HASH_BYTES = 16 }; /* the header up to the checksum; a struct hash128 in the file */

_Static_assert(CHECKED_HEADER_BYTES + 8 == ENTRY_HEADER_BYTES, "the checksum is the header's last field");

static size_t varint_bytes(uint64_t v)
{
    size_t n = 1;

    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

/* ---- writing ---- */

void frame_begin(struct buf *batch, enum frame_kind kind, size_t body_bytes)
{
    CHECK(body_bytes <= FRAME_BYTES_MAX);
    buf_u8(batch, (uint8_t)kind);
    buf_varint(batch, body_bytes);
}

void frame_intent(struct buf *batch, uint64_t seq, uint32_t db, const void *resp, size_t n)
{
    frame_begin(batch, FRAME_INTENT, varint_bytes(seq) + varint_bytes(db) + n);
    buf_varint(batch, seq);
    buf_varint(batch, db);
    buf_append(batch, resp, n);
}

/* Items that found no memory must not become an OUTCOME that lacks some: the failure is handed on to the batch. */
void frame_outcome(struct buf *batch, uint64_t end_offset, const struct buf *items)
{
    frame_begin(batch, FRAME_OUTCOME, varint_bytes(end_offset) + items->len);
    buf_varint(batch, end_offset);
    buf_append(batch, buf_head(items), items->len);
    batch->failed = batch->failed || items->failed;
}

void frame_control(struct buf *batch, enum control what, const void *body, size_t n)
{
    frame_begin(batch, FRAME_CONTROL, 1 + n);
    buf_u8(batch, (uint8_t)what);
    buf_append(batch, body, n);
}

static void refer(struct buf *items, enum item_kind kind, uint64_t first, uint64_t count)
{
    CHECK(count > 0 && first <= UINT64_MAX - count);
    buf_u8(items, (uint8_t)kind);
    buf_varint(items, first);
    buf_varint(items, count);
}

void item_ref(struct buf *items, uint64_t first, uint64_t count)
{
    refer(items, ITEM_REF, first, count);
}

void item_try(struct buf *items, uint64_t first, uint64_t count)
{
    refer(items, ITEM_TRY, first, count);
}

void item_raw(struct buf *items, uint32_t db_before, uint32_t db_after, const void *resp, size_t n)
{
    buf_u8(items, ITEM_RAW);
    buf_varint(items, db_before);
    buf_varint(items, db_after);
    buf_varint(items, n);
    buf_append(items, resp, n);
}

void item_resolved(struct buf *items, uint64_t seq)
{
    buf_u8(items, ITEM_RESOLVED);
    buf_varint(items, seq);
}

void entry_begin(struct buf *batch)
{
    static const char zeros[ENTRY_HEADER_BYTES];

    CHECK(batch->len == 0);
    buf_append(batch, zeros, sizeof zeros);
}

static void put_hash(struct buf *b, struct hash128 h)
{
    buf_u64(b, h.low);
    buf_u64(b, h.high);
}

static struct hash128 chain(struct hash128 previous, struct hash128 digest)
{
    char memory[2 * HASH_BYTES];
    struct buf b = {.data = memory, .cap = sizeof memory};

    put_hash(&b, previous);
    put_hash(&b, digest);
    return hash128(memory, sizeof memory, 0);
}

static uint64_t checksum(const void *header, struct hash128 digest)
{
    char memory[CHECKED_HEADER_BYTES + HASH_BYTES];
    struct buf b = {.data = memory, .cap = sizeof memory};

    buf_append(&b, header, CHECKED_HEADER_BYTES);
    put_hash(&b, digest);
    return hash64(memory, sizeof memory, 0);
}

struct hash128 entry_seal(struct buf *batch, uint64_t index, uint64_t term, struct hash128 previous)
{
    char *head = buf_head(batch);
    struct buf header = {.data = head, .cap = ENTRY_HEADER_BYTES}; /* fills the room that entry_begin() left */
    struct hash128 digest, running;
    size_t length;

    CHECK(!batch->failed && batch->len >= ENTRY_HEADER_BYTES);
    length = batch->len - ENTRY_HEADER_BYTES;
    CHECK(length <= UINT32_MAX);
    digest = hash128(head + ENTRY_HEADER_BYTES, length, 0);
    running = chain(previous, digest);
    buf_append(&header, entry_magic, sizeof entry_magic);
    buf_u32(&header, (uint32_t)length);
    buf_u64(&header, index);
    buf_u64(&header, term);
    put_hash(&header, running);
    buf_u64(&header, checksum(head, digest));
    CHECK(header.len == ENTRY_HEADER_BYTES && header.data == head);
    return running;
}

/* ---- reading ---- */

const char *entry_error_text(enum entry_error e)
{
    static const char *const text[] = {
        [ENTRY_OK] = "valid",
        [ENTRY_SHORT] = "shorter than an entry's header",
        [ENTRY_MAGIC] = "does not begin as an entry",
        [ENTRY_LENGTH] = "its length disagrees with its header",
        [ENTRY_CHECKSUM] = "checksum mismatch",
        [ENTRY_INDEX] = "another index than its place",
        [ENTRY_CHAIN] = "its running hash does not continue that of the entry before",
    };

    CHECK((size_t)e < sizeof text / sizeof text[0]);
    return text[e];
}

/* The header's fields and where the frames are; *sum: the checksum that it states. n >= ENTRY_HEADER_BYTES. */
static void read_header(const void *bytes, size_t n, struct entry_view *out, uint64_t *sum)
{
    struct cursor c = cursor_of(bytes, n);

    (void)cursor_bytes(&c, sizeof entry_magic + sizeof(uint32_t));
    out->index = cursor_u64(&c);
    out->term = cursor_u64(&c);
    out->running.low = cursor_u64(&c);
    out->running.high = cursor_u64(&c);
    *sum = cursor_u64(&c);
    out->frames = c;
}

/* All that can be known without the entry before; *digest is left for the chain. */
static enum entry_error check(const void *bytes, size_t n, struct entry_view *out, struct hash128 *digest)
{
    struct cursor c = cursor_of(bytes, n);
    uint64_t sum;

    if (n < ENTRY_HEADER_BYTES)
        return ENTRY_SHORT;
    if (memcmp(cursor_bytes(&c, sizeof entry_magic), entry_magic, sizeof entry_magic) != 0)
        return ENTRY_MAGIC;
    if (cursor_u32(&c) != n - ENTRY_HEADER_BYTES)
        return ENTRY_LENGTH;
    read_header(bytes, n, out, &sum);
    *digest = hash128(out->frames.at, out->frames.left, 0);
    return sum == checksum(bytes, *digest) ? ENTRY_OK : ENTRY_CHECKSUM;
}

enum entry_error entry_check(const void *bytes, size_t n, struct entry_view *out)
{
    struct hash128 digest;

    return check(bytes, n, out, &digest);
}

enum entry_error entry_open(const void *bytes, size_t n, uint64_t index, struct hash128 previous,
                            struct entry_view *out)
{
    struct hash128 digest, expected;
    enum entry_error error = check(bytes, n, out, &digest);

    if (error != ENTRY_OK)
        return error;
    if (out->index != index)
        return ENTRY_INDEX;
    expected = chain(previous, digest);
    if (expected.low != out->running.low || expected.high != out->running.high)
        return ENTRY_CHAIN;
    return ENTRY_OK;
}

enum entry_error entry_stated(const void *bytes, size_t n, struct entry_view *out)
{
    uint64_t sum;

    if (n < ENTRY_HEADER_BYTES)
        return ENTRY_SHORT;
    read_header(bytes, n, out, &sum);
    return ENTRY_OK;
}

size_t entry_bytes(const void *bytes, size_t n)
{
    struct cursor c = cursor_of(bytes, n);
    size_t length;

    (void)cursor_u32(&c);
    length = ENTRY_HEADER_BYTES + (size_t)cursor_u32(&c);
    return c.bad || length > n ? 0 : length;
}

enum entry_error entry_running(const void *bytes, size_t n, struct hash128 *out)
{
    struct entry_view e;
    enum entry_error error = entry_stated(bytes, n, &e);

    if (error == ENTRY_OK)
        *out = e.running;
    return error;
}

struct hash128 entry_chain(const struct entry_view *e, struct hash128 previous)
{
    return chain(previous, hash128(e->frames.at, e->frames.left, 0));
}

static bool first_control(const struct entry_view *e, struct frame_view *out)
{
    struct cursor frames = e->frames; /* a copy: the view is not walked */

    return frame_next(&frames, out) && out->kind == FRAME_CONTROL;
}

enum record_type entry_type(const struct entry_view *e)
{
    struct frame_view f;

    if (!first_control(e, &f))
        return RECORD_COMMAND;
    switch (f.control) {
    case CONTROL_BARRIER:
        return RECORD_BARRIER;
    case CONTROL_MEMBERS:
        return RECORD_CHANGE;
    default:
        return RECORD_COMMAND;
    }
}

const void *entry_change(const struct entry_view *e, size_t *n)
{
    struct frame_view f;

    *n = 0;
    if (!first_control(e, &f) || f.control != CONTROL_MEMBERS)
        return NULL;
    *n = f.body.left;
    return f.body.at;
}

static uint32_t read_db(struct cursor *c)
{
    uint64_t db = cursor_varint(c);

    if (db > UINT32_MAX) {
        c->bad = true;
        return 0;
    }
    return (uint32_t)db;
}

static bool read_body(struct cursor body, struct frame_view *out)
{
    switch (out->kind) {
    case FRAME_INTENT:
        out->seq = cursor_varint(&body);
        out->db = read_db(&body);
        out->resp = body.at;
        out->resp_bytes = body.left;
        return !body.bad;
    case FRAME_OUTCOME:
        out->end_offset = cursor_varint(&body);
        out->items = body;
        return !body.bad;
    case FRAME_CONTROL:
        out->control = (enum control)cursor_u8(&body);
        out->body = body;
        return !body.bad && out->control >= CONTROL_START && out->control <= CONTROL_USERS;
    default:
        return false;
    }
}

bool frame_next(struct cursor *frames, struct frame_view *out)
{
    const char *body;
    uint64_t n;

    if (frames->bad || frames->left == 0)
        return false;
    *out = (struct frame_view){.kind = (enum frame_kind)cursor_u8(frames)};
    n = cursor_varint(frames);
    body = n <= FRAME_BYTES_MAX ? cursor_bytes(frames, (size_t)n) : NULL;
    if (body == NULL || !read_body(cursor_of(body, (size_t)n), out)) {
        frames->bad = true;
        return false;
    }
    return true;
}

static bool read_item(struct cursor *items, struct item_view *out)
{
    switch (out->kind) {
    case ITEM_REF:
    case ITEM_TRY:
        out->seq = cursor_varint(items);
        out->count = cursor_varint(items);
        return !items->bad && out->count > 0 && out->seq <= UINT64_MAX - out->count;
    case ITEM_RAW:
        out->db_before = read_db(items);
        out->db_after = read_db(items);
        out->resp_bytes = (size_t)cursor_varint(items);
        out->resp = cursor_bytes(items, out->resp_bytes);
        return !items->bad;
    case ITEM_RESOLVED:
        out->seq = cursor_varint(items);
        return !items->bad;
    default:
        return false;
    }
}

bool item_next(struct cursor *items, struct item_view *out)
{
    if (items->bad || items->left == 0)
        return false;
    *out = (struct item_view){.kind = (enum item_kind)cursor_u8(items)};
    if (!read_item(items, out)) {
        items->bad = true;
        return false;
    }
    return true;
}

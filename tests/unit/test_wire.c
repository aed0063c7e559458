/* The bytes between members: what is written is read back; what is cut, changed or made up is refused, or read as
 * something harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log/peer.h"
#include "log/record.h"

enum { RECORDS_MAX = 12, ROUNDS = 3000 };

static uint64_t random_state = 88172645463325252u;

static uint64_t number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t below(uint64_t n)
{
    return (number() >> 11) % n;
}

/* Any number, the ends of the range more often than others. */
static uint64_t any(void)
{
    return below(4) == 0 ? 0 : below(4) == 0 ? UINT64_MAX : number() >> below(64);
}

static struct record *record(uint64_t index, uint64_t term)
{
    static const enum control whats[] = {CONTROL_START, CONTROL_BARRIER, CONTROL_MEMBERS};
    struct buf batch = {0};
    struct hash128 running;
    char body[64] = "";
    enum control what = whats[below(3)];

    entry_begin(&batch);
    frame_control(&batch, what, body, below(sizeof body));
    running = entry_seal(&batch, index, term, (struct hash128){number(), number()});
    return record_new(&batch,
                      what == CONTROL_MEMBERS   ? RECORD_CHANGE
                      : what == CONTROL_BARRIER ? RECORD_BARRIER
                                                : RECORD_COMMAND,
                      index, term, running);
}

static size_t fill(struct peer_message *m, struct record **records)
{
    *m = (struct peer_message){
        .kind = (enum peer_kind)(1 + below(7)), .term = any(), .sent_ms = any(), .echo_ms = any(), .wall_ms = any()};
    switch (m->kind) {
    case PEER_VOTE_REQUEST:
        m->vote_request.last_index = any();
        m->vote_request.last_term = any();
        m->vote_request.disrupt_leader = below(2);
        m->vote_request.pre_vote = below(2);
        return 0;
    case PEER_VOTE:
        m->vote.granted = below(2);
        m->vote.pre_vote = below(2);
        return 0;
    case PEER_APPEND:
        m->append.count = (uint32_t)below(RECORDS_MAX + 1);
        m->append.prev_index = any();
        if (m->append.prev_index > UINT64_MAX - m->append.count)
            m->append.prev_index -= m->append.count;
        m->append.prev_term = any();
        m->append.commit = any();
        for (size_t i = 0; i < m->append.count; i++)
            records[i] = record(m->append.prev_index + 1 + i, any());
        return m->append.count;
    case PEER_APPEND_RESULT:
        m->append_result.rejected = any();
        m->append_result.last_index = any();
        return 0;
    case PEER_INSTALL:
        m->install.last_index = any();
        m->install.last_term = any();
        return 0;
    case PEER_TIMEOUT_NOW:
        m->timeout_now.last_index = any();
        m->timeout_now.last_term = any();
        return 0;
    case PEER_STATE:
        m->state = (struct peer_state){.committed = any(),
                                       .snapshot_index = any(),
                                       .fed_index = any(),
                                       .valkey_keys = any(),
                                       .log_first = any(),
                                       .log_only = below(2),
                                       .draining = below(2)};
        return 0;
    }
    return 0;
}

static void drop(struct record **records, size_t n)
{
    for (size_t i = 0; i < n; i++)
        record_drop(records[i]);
}

/* On a copy of the exact size, so that a sanitizer sees a read past the end. True: it was accepted. */
static bool open_exact(const char *body, size_t n, struct peer_message *m, struct record **records, size_t max)
{
    char *exact = malloc(n > 0 ? n : 1);
    bool ok;

    memcpy(exact, body, n);
    ok = wire_message_open(exact, n, m, records, max);
    free(exact);
    return ok;
}

static void same(const struct peer_message *m, struct record **is, const struct peer_message *out,
                 struct record **got)
{
    struct buf a = {0}, b = {0};

    /* The codec writes every field: equal values are equal bytes, and the fields were compared with their bytes. */
    wire_message(&a, m, is, m->kind == PEER_APPEND ? m->append.count : 0);
    wire_message(&b, out, got, out->kind == PEER_APPEND ? out->append.count : 0);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(buf_head(&a), buf_head(&b), a.len);
    for (size_t i = 0; m->kind == PEER_APPEND && i < m->append.count; i++) {
        assert_int_equal(got[i]->index, is[i]->index);
        assert_int_equal(got[i]->term, is[i]->term);
        assert_int_equal(got[i]->type, is[i]->type);
        assert_true(got[i]->running.low == is[i]->running.low && got[i]->running.high == is[i]->running.high);
        assert_int_equal(got[i]->holders, 1);
    }
    buf_free(&a);
    buf_free(&b);
}

static void test_messages(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct record *records[RECORDS_MAX], *got[RECORDS_MAX];
        struct peer_message m, out;
        struct buf b = {0};
        size_t n = fill(&m, records), cut;

        wire_message(&b, &m, records, n);
        assert_int_equal(wire_records_max(buf_head(&b), b.len), n);
        assert_true(open_exact(buf_head(&b), b.len, &out, got, n));
        assert_int_equal(out.peer, 0);
        same(&m, records, &out, got);
        drop(got, n);
        if (n > 0)
            assert_false(open_exact(buf_head(&b), b.len, &out, got, n - 1)); /* no more than there is room for */
        cut = b.len < 400 ? 0 : below(b.len);
        for (; cut < b.len; cut += b.len < 400 ? 1 : 1 + below(50))
            assert_false(open_exact(buf_head(&b), cut, &out, got, n));
        buf_u8(&b, 0);
        assert_false(open_exact(buf_head(&b), b.len, &out, got, n)); /* something behind it */
        drop(records, n);
        buf_free(&b);
    }
}

/* The fields are where the essay of wire.c says. */
static void test_layout(void **state)
{
    static const unsigned char expected[] = {1, 8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0,
                                             3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 16,
                                             0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2};
    struct peer_message m = {.kind = PEER_VOTE_REQUEST,
                             .peer = 55,
                             .term = 0x0102030405060708,
                             .sent_ms = 2,
                             .echo_ms = 3,
                             .wall_ms = 4,
                             .vote_request = {16, 9, false, true}};
    struct buf b = {0};
    size_t at;

    (void)state;
    wire_message(&b, &m, NULL, 0);
    assert_int_equal(b.len, sizeof expected);
    assert_memory_equal(buf_head(&b), expected, sizeof expected);
    buf_clear(&b);
    buf_text(&b, "before");
    at = wire_begin(&b);
    buf_text(&b, "why");
    wire_end(&b, at, WIRE_REFUSE);
    assert_int_equal(b.len, 6 + WIRE_FRAME_HEADER_BYTES + 3);
    assert_memory_equal(buf_head(&b) + 6, "\x0c\x00\x00\x00\x03", 5);
    buf_free(&b);
}

/* Changed bytes may be another message, but never harm; and an entry is never accepted that was changed. */
static void test_mutations(void **state)
{
    size_t accepted = 0;

    (void)state;
    for (int round = 0; round < ROUNDS * 10; round++) {
        struct record *records[RECORDS_MAX], *got[RECORDS_MAX];
        struct peer_message m, out;
        struct buf b = {0};
        size_t n = fill(&m, records), max;

        wire_message(&b, &m, records, n);
        for (uint64_t i = 1 + below(4); i > 0; i--)
            buf_head(&b)[below(b.len)] ^= (char)(1 << below(8));
        max = wire_records_max(buf_head(&b), b.len);
        assert_true(max * (ENTRY_HEADER_BYTES + 4) <= b.len);
        if (max <= RECORDS_MAX && open_exact(buf_head(&b), b.len, &out, got, RECORDS_MAX)) {
            struct buf again = {0};
            size_t count = out.kind == PEER_APPEND ? out.append.count : 0;

            accepted++;
            wire_message(&again, &out, got, count); /* accepted is what could have been written */
            assert_int_equal(again.len, b.len);
            assert_memory_equal(buf_head(&again), buf_head(&b), b.len);
            for (size_t i = 0; i < count; i++)
                assert_true(i < n && got[i]->bytes.len == records[i]->bytes.len &&
                            memcmp(buf_head(&got[i]->bytes), buf_head(&records[i]->bytes), got[i]->bytes.len) == 0);
            drop(got, count);
            buf_free(&again);
        }
        drop(records, n);
        buf_free(&b);
    }
    assert_true(accepted > ROUNDS); /* the test reaches what is behind the checks */
}

/* Counts and lengths that announce more than there is. */
static void test_announcements(void **state)
{
    struct peer_message m = {.kind = PEER_APPEND}, out;
    struct record *one = record(1, 1), *got[4];
    struct buf b = {0};

    (void)state;
    m.append.count = 1;
    wire_message(&b, &m, &one, 1);
    memcpy(buf_head(&b) + 57, "\xff\xff\xff\xff", 4); /* count */
    assert_int_equal(wire_records_max(buf_head(&b), b.len), 1);
    assert_false(open_exact(buf_head(&b), b.len, &out, got, 4));
    memcpy(buf_head(&b) + 57, "\x01\x00\x00\x00\xff\xff\xff\xff", 8); /* and the entry's length */
    assert_false(open_exact(buf_head(&b), b.len, &out, got, 4));
    buf_clear(&b);
    m.append.prev_index = UINT64_MAX - 1;
    wire_message(&b, &m, &one, 1); /* of another index than its place */
    assert_false(open_exact(buf_head(&b), b.len, &out, got, 4));
    memset(buf_head(&b) + 33, 0xff, 8); /* the entry's place is beyond the last index */
    assert_false(open_exact(buf_head(&b), b.len, &out, got, 4));
    assert_int_equal(wire_records_max("", 0), 0);
    assert_false(open_exact("", 0, &out, got, 4));
    record_drop(one);
    buf_free(&b);
}

/* ---- hello ---- */

static void hello(struct peer_hello *h)
{
    *h = (struct peer_hello){.purpose = (enum peer_purpose)(1 + below(3))};
    h->member.id = number() | 1;
    h->member.log_only = below(2);
    (void)snprintf(h->member.name, sizeof h->member.name, "node-%d", (int)below(100));
    (void)snprintf(h->member.zone, sizeof h->member.zone, "%.*s", (int)below(5), "zone");
    (void)snprintf(h->member.address, sizeof h->member.address, "[::1]:%d", (int)below(65536));
    for (size_t i = 0; i < PEER_GROUP_BYTES; i++)
        h->group[i] = (char)number();
    for (size_t i = below(3) * below(2000); i > 0; i--)
        buf_u8(&h->configuration, (uint8_t)number());
    h->extra_bytes = below(2) * below(PEER_EXTRA_BYTES_MAX + 1);
    for (size_t i = 0; i < h->extra_bytes; i++)
        h->extra[i] = (char)number();
}

static bool hello_exact(const char *body, size_t n, struct peer_hello *out, char cluster[64], uint32_t *version)
{
    char *exact = malloc(n > 0 ? n : 1);
    bool ok;

    memcpy(exact, body, n);
    ok = wire_hello_open(exact, n, out, cluster, 64, version);
    free(exact);
    return ok;
}

static void test_hello(void **state)
{
    char cluster[64];
    uint32_t version;

    (void)state;
    for (int round = 0; round < ROUNDS / 10; round++) {
        struct peer_hello *h = malloc(sizeof *h), *out = malloc(sizeof *out);
        struct buf b = {0};

        hello(h);
        wire_hello(&b, h, "cluster-1");
        assert_true(b.len <= WIRE_HELLO_BYTES_MAX);
        assert_true(hello_exact(buf_head(&b), b.len, out, cluster, &version));
        assert_int_equal(version, PEER_VERSION);
        assert_string_equal(cluster, "cluster-1");
        assert_int_equal(out->purpose, h->purpose);
        assert_memory_equal(&out->member.id, &h->member.id, sizeof h->member.id);
        assert_string_equal(out->member.name, h->member.name);
        assert_string_equal(out->member.zone, h->member.zone);
        assert_string_equal(out->member.address, h->member.address);
        assert_int_equal(out->member.log_only, h->member.log_only);
        assert_memory_equal(out->group, h->group, PEER_GROUP_BYTES);
        assert_int_equal(out->configuration.len, h->configuration.len);
        assert_int_equal(out->extra_bytes, h->extra_bytes);
        assert_memory_equal(out->extra, h->extra, h->extra_bytes);
        buf_free(&out->configuration);
        for (size_t cut = 0; cut < b.len; cut += 1 + below(b.len / 40)) {
            assert_false(hello_exact(buf_head(&b), cut, out, cluster, &version));
            buf_free(&out->configuration);
        }
        for (int i = 0; i < 200; i++) {
            size_t place = below(b.len);
            char was = buf_head(&b)[place];

            buf_head(&b)[place] = (char)number();
            if (hello_exact(buf_head(&b), b.len, out, cluster, &version) && version == PEER_VERSION)
                assert_true(out->member.id != 0 && out->member.name[0] != '\0' &&
                            strlen(out->member.name) < sizeof out->member.name && strlen(cluster) < sizeof cluster);
            buf_free(&out->configuration);
            buf_head(&b)[place] = was;
        }
        buf_u8(&b, 0);
        assert_false(hello_exact(buf_head(&b), b.len, out, cluster, &version));
        buf_free(&out->configuration);
        buf_free(&h->configuration);
        buf_free(&b);
        free(h);
        free(out);
    }
}

static void refused_member(const char *name, uint64_t id)
{
    struct peer_hello *h = calloc(1, sizeof *h), *out = malloc(sizeof *out);
    struct buf b = {0};
    char cluster[64];
    uint32_t version;

    h->purpose = PEER_LINK;
    h->member.id = id;
    (void)snprintf(h->member.name, sizeof h->member.name, "%s", name);
    wire_hello(&b, h, "c");
    assert_false(hello_exact(buf_head(&b), b.len, out, cluster, &version));
    buf_free(&out->configuration);
    buf_free(&b);
    free(h);
    free(out);
}

static void test_hello_refused(void **state)
{
    struct peer_hello *out = malloc(sizeof *out);
    char cluster[64];
    uint32_t version = 0;
    struct buf b = {0};

    (void)state;
    refused_member("", 1);
    refused_member(".b", 1); /* ".b.cluster" would match every certificate of a name that ends so */
    refused_member("a b", 1);
    refused_member("a\nb", 1);
    refused_member("a\x80", 1);
    refused_member("a", 0);
    buf_text(&b, "HFP1");
    buf_u32(&b, 9); /* another version: whatever follows */
    buf_text(&b, "?");
    assert_true(wire_hello_open(buf_head(&b), b.len, out, cluster, sizeof cluster, &version));
    assert_int_equal(version, 9);
    buf_head(&b)[0] = 'h';
    assert_false(wire_hello_open(buf_head(&b), b.len, out, cluster, sizeof cluster, &version));
    buf_free(&b);
    free(out);
}

/* ---- frames ---- */

static void test_frames(void **state)
{
    struct wire_frame f;
    struct buf b = {0};
    struct cursor c;
    const char *why = "";
    char text[WIRE_TEXT_BYTES_MAX];
    size_t at = wire_begin(&b);

    (void)state;
    buf_text(&b, "first\n\x01");
    wire_end(&b, at, WIRE_REFUSE);
    at = wire_begin(&b);
    wire_end(&b, at, WIRE_MESSAGE); /* empty */
    for (size_t cut = 0; cut < WIRE_FRAME_HEADER_BYTES + 7; cut++) {
        c = cursor_of(buf_head(&b), cut);
        assert_int_equal(wire_next(&c, 7, &f, &why), WIRE_PART);
        assert_int_equal(c.left, cut);
    }
    c = cursor_of(buf_head(&b), b.len);
    assert_int_equal(wire_next(&c, 6, &f, &why), WIRE_BAD);
    assert_string_equal(why, "a frame of impossible length");
    assert_int_equal(wire_next(&c, 7, &f, &why), WIRE_FRAME);
    assert_int_equal(f.kind, WIRE_REFUSE);
    assert_int_equal(f.body_bytes, 7);
    wire_text(f.body, f.body_bytes, text);
    assert_string_equal(text, "first??");
    assert_int_equal(wire_next(&c, 7, &f, &why), WIRE_FRAME);
    assert_int_equal(f.body_bytes, 0);
    assert_int_equal(wire_next(&c, 7, &f, &why), WIRE_PART);
    for (size_t i = 0; i < (WIRE_FRAME_HEADER_BYTES + 7) * 8; i++) { /* any one bit */
        struct cursor changed;

        buf_head(&b)[i / 8] ^= (char)(1 << i % 8);
        changed = cursor_of(buf_head(&b), WIRE_FRAME_HEADER_BYTES + 7);
        assert_int_not_equal(wire_next(&changed, 7, &f, &why), WIRE_FRAME);
        buf_head(&b)[i / 8] ^= (char)(1 << i % 8);
    }
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),      cmocka_unit_test(test_layout), cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_announcements), cmocka_unit_test(test_hello),  cmocka_unit_test(test_hello_refused),
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

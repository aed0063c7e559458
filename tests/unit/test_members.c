/* Members: their text, their bytes, and which groups are safe. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <raft.h>

#include "log/members.h"

static void text(void **state)
{
    static const char *const good[] = {
        "a zone-1 10.0.0.1:7400",  "n.1 z_2 host.example.com:1",
        "n z [::1]:65535",         "witness zone3 10.0.0.3:7400 log-only",
        "x y [fe80::1%eth0]:7400",
    };
    static const char *const bad[] = {
        "",
        "a",
        "a z",
        "a z 10.0.0.1",
        "a z :7400",
        "a z 10.0.0.1:",
        "a z 10.0.0.1:0",
        "a z 10.0.0.1:07400",
        "a z 10.0.0.1:65536",
        "a z 10.0.0.1:99999999999999999999",
        "a z ::1:7400",
        "a z []:7400",
        "a z [::1:7400",
        "a! z h:1",
        "a z/ h:1",
        "a z h:1 logonly",
        "a z h:1 log-only more",
        "a z h:1x",
        "a z h\x01:1",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa z h:1",
    };
    struct member m;
    char out[MEMBER_TEXT_BYTES_MAX], why[128];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(member_parse(good[i], &m, why, sizeof why));
        assert_int_equal(m.id, 0);
        assert_int_equal(m.role, MEMBER_VOTER);
        assert_int_equal(m.log_only, strstr(good[i], "log-only") != NULL);
        member_text(&m, out);
        assert_string_equal(out, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        why[0] = '\0';
        assert_false(member_parse(bad[i], &m, why, sizeof why));
        assert_true(strlen(why) > 0);
    }
    assert_true(member_parse("  a \t z   h:1  ", &m, NULL, 0));
    member_text(&m, out);
    assert_string_equal(out, "a z h:1");
}

static void longest(void **state)
{
    char all[MEMBER_TEXT_BYTES_MAX + 8], out[MEMBER_TEXT_BYTES_MAX];
    struct member m;

    (void)state;
    memset(all, 'x', sizeof all);
    all[64] = all[129] = ' ';
    snprintf(all + 130 + 154, sizeof all - 284, ":7400 log-only");
    assert_true(member_parse(all, &m, NULL, 0));
    member_text(&m, out);
    assert_string_equal(out, all);
    memset(all, 'x', sizeof all);
    all[64] = all[129] = ' ';
    snprintf(all + 130 + 155, sizeof all - 285, ":7400 log-only");
    assert_false(member_parse(all, &m, NULL, 0));
    memset(all, ' ', sizeof all - 1);
    all[sizeof all - 1] = '\0';
    assert_false(member_parse(all, &m, NULL, 0));
}

/* One letter each: its zone; capital: with a Valkey; small: log-only; after a '-': a standby. */
static struct members group(const char *letters)
{
    struct members m = {0};
    bool standby = false;

    for (; *letters != '\0'; letters++) {
        char line[64];

        if (*letters == '-') {
            standby = true;
            continue;
        }
        snprintf(line, sizeof line, "n%zu zone-%c 10.0.0.1:%zu%s", m.count + 1, *letters & ~0x20, 7400 + m.count,
                 (*letters & 0x20) ? " log-only" : "");
        assert_true(member_parse(line, &m.at[m.count], NULL, 0));
        m.at[m.count].role = standby ? MEMBER_STANDBY : MEMBER_VOTER;
        m.at[m.count].id = 100 + m.count;
        m.count++;
        standby = false;
    }
    return m;
}

static void safe(void **state)
{
    static const struct {
        const char *letters;
        bool safe;
        size_t zones, quorum;
    } cases[] = {
        {"A", true, 1, 1},          {"a", false, 1, 1},      {"", false, 0, 1},        {"-A", false, 0, 1},
        {"AB", true, 2, 2},         {"AA", false, 1, 2},     {"ABC", true, 3, 2},      {"AAB", false, 2, 2},
        {"AAA", false, 1, 2},       {"ABc", true, 3, 2},     {"Abc", true, 3, 2},      {"abc", false, 3, 2},
        {"AABBC", true, 3, 3},      {"AAABC", false, 3, 3},  {"AABBc", true, 3, 3},    {"AAABB", false, 2, 3},
        {"ABCDE", true, 5, 3},      {"AABB", true, 2, 3},    {"AAAB", false, 2, 3},    {"AB-C", true, 2, 2},
        {"ABC-A", true, 3, 2},      {"ABC-A-A", true, 3, 2}, {"A-B", true, 1, 1},      {"A-A-A", true, 1, 1},
        {"AAB-C", false, 2, 2},     {"ABBCCDD", true, 4, 4}, {"AAAABCD", false, 4, 4}, {"AAABBBCCC", true, 3, 5},
        {"AAAAABCDE", false, 5, 5},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct members m = group(cases[i].letters);
        char why[512] = "";

        assert_int_equal(members_zones(&m), cases[i].zones);
        assert_int_equal(members_quorum(&m), cases[i].quorum);
        if (members_safe(&m, why, sizeof why) != cases[i].safe)
            fail_msg("%s: %s", cases[i].letters, why);
        assert_int_equal(why[0] == '\0', cases[i].safe);
        assert_int_equal(members_safe(&m, NULL, 0), cases[i].safe);
    }
}

static void explained(void **state)
{
    struct members m = group("AAB");
    char why[512];

    (void)state;
    assert_false(members_safe(&m, why, sizeof why));
    assert_non_null(strstr(why, "zone-A holds 2 of the 3"));
    assert_non_null(strstr(why, "allow-single-az"));
}

static void found(void **state)
{
    struct members m = group("AB-C");

    (void)state;
    assert_ptr_equal(members_by_id(&m, 101), &m.at[1]);
    assert_null(members_by_id(&m, 7));
    assert_ptr_equal(members_by_name(&m, "n3"), &m.at[2]);
    assert_null(members_by_name(&m, "n"));
    assert_int_equal(members_voters(&m), 2);
}

/* Our bytes are libraft's. */
static void bytes(void **state)
{
    struct members m = group("AbC-D"), again;
    struct raft_configuration conf;
    struct buf b = {0};
    struct raft_buffer theirs;

    (void)state;
    members_encode(&m, &b);
    raft_configuration_init(&conf);
    for (size_t i = 0; i < m.count; i++) {
        char line[MEMBER_TEXT_BYTES_MAX];

        member_text(&m.at[i], line);
        assert_int_equal(raft_configuration_add(&conf, m.at[i].id, line, (int)m.at[i].role), 0);
    }
    assert_int_equal(raft_configuration_encode(&conf, &theirs), 0);
    assert_int_equal(theirs.len, b.len);
    assert_memory_equal(theirs.base, buf_head(&b), b.len);
    assert_true(members_decode(theirs.base, theirs.len, &again));
    assert_memory_equal(&again, &m, sizeof m);
    raft_free(theirs.base);
    raft_configuration_close(&conf);
    buf_free(&b);
}

/* What must be refused: libraft would follow it anywhere. */
static void hostile(void **state)
{
    struct members m = group("ABC"), out;
    struct buf b = {0};
    char *copy;
    size_t n;

    (void)state;
    members_encode(&m, &b);
    n = b.len;
    copy = malloc(n + 16);
    assert_non_null(copy);
    for (size_t cut = 0; cut < n; cut++) { /* exactly as large, so that a look beyond is seen by the sanitizer */
        char *part = malloc(cut + 1);

        assert_non_null(part);
        memcpy(part, buf_head(&b), cut);
        assert_false(members_decode(part, cut, &out));
        free(part);
    }
    memset(copy, 0, n + 16);
    memcpy(copy, buf_head(&b), n);
    assert_true(members_decode(copy, n, &out));
    assert_false(members_decode(copy, n + 8, &out)); /* too much behind it */
    copy[0] = 2;
    assert_false(members_decode(copy, n, &out));
    copy[0] = 1;
    memset(copy + 1, 0xff, 8); /* 2^64 - 1 members */
    assert_false(members_decode(copy, n, &out));
    memset(copy + 1, 0, 8); /* none */
    assert_false(members_decode(copy, n, &out));
    memcpy(copy, buf_head(&b), n);
    memset(copy + 9, 0, 8); /* id 0 */
    assert_false(members_decode(copy, n, &out));
    free(copy);
    buf_free(&b);
}

static void hostile_members(void **state)
{
    struct members good = group("ABC"), m, out;
    struct buf b = {0};

    (void)state;
    for (int what = 0; what < 5; what++) {
        m = good;
        if (what == 0)
            m.at[2].id = m.at[0].id;
        else if (what == 1)
            memcpy(&m.at[2], &m.at[0], sizeof m.at[0]), m.at[2].id = 999; /* the same text */
        else if (what == 2)
            m.at[0].role = m.at[1].role = m.at[2].role = MEMBER_STANDBY;
        else if (what == 3)
            m.at[1].role = (enum member_role)RAFT_SPARE;
        else
            strcpy(m.at[1].zone, "a b");
        members_encode(&m, &b);
        assert_false(members_decode(buf_head(&b), b.len, &out));
        buf_clear(&b);
    }
    buf_free(&b);
}

/* Random damage: refused, or it says what it decodes to. */
static void fuzzed(void **state)
{
    unsigned seed = 1;
    size_t accepted = 0;

    (void)state;
    for (int round = 0; round < 200000; round++) {
        static const char *const groups[] = {"A", "ABC", "Ab-C", "AABBC"};
        struct members m = group(groups[round % 4]), out;
        struct buf b = {0}, again = {0};
        unsigned char *copy;

        members_encode(&m, &b);
        copy = malloc(b.len);
        assert_non_null(copy);
        memcpy(copy, buf_head(&b), b.len);
        for (int k = rand_r(&seed) % 4; k >= 0; k--)
            copy[(size_t)rand_r(&seed) % b.len] = (unsigned char)rand_r(&seed);
        if (members_decode(copy, b.len, &out)) {
            accepted++;
            members_encode(&out, &again);
            assert_int_equal(again.len, b.len);
            assert_memory_equal(buf_head(&again), copy, b.len);
        }
        free(copy);
        buf_free(&again);
        buf_free(&b);
    }
    assert_true(accepted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text),      cmocka_unit_test(longest),         cmocka_unit_test(safe),
        cmocka_unit_test(explained), cmocka_unit_test(found),           cmocka_unit_test(bytes),
        cmocka_unit_test(hostile),   cmocka_unit_test(hostile_members), cmocka_unit_test(fuzzed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* From one ACL LIST to another: lines, and the commands that lead from one set of users to the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/buf.h"
#include "proxy/acl_list.h"

static const char reply[] = "*3\r\n$37\r\nuser default on nopass ~* &* +@all ok\r\n$22\r\nuser alice on ~a:* +@r\r\n"
                            "$20\r\nuser own on ~* +@all\r\n";

static void lines_without_our_own(void **state)
{
    static const char want[] = "user default on nopass ~* &* +@all ok\nuser alice on ~a:* +@r\n";
    struct buf out = {0};

    (void)state;
    assert_true(acl_list_lines(reply, sizeof reply - 1, "own", &out));
    assert_int_equal(out.len, sizeof want - 1);
    assert_memory_equal(buf_head(&out), want, sizeof want - 1);
    buf_free(&out);
    assert_false(acl_list_lines("-NOPERM no\r\n", 12, "own", &out));
    assert_false(acl_list_lines("", 0, "own", &out));
    buf_free(&out);
}

/* Cut anywhere, it is refused or the shorter; never read past its end (under ASan). */
static void replies_cut_anywhere(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof reply - 1; n++) {
        struct buf out = {0};
        char *copy = malloc(n + 1);

        memcpy(copy, reply, n);
        (void)acl_list_lines(copy, n, "own", &out);
        free(copy);
        buf_free(&out);
    }
}

static void collect(void *arg, const char *resp, size_t n)
{
    buf_append(arg, resp, n);
}

static void expect(const char *have, const char *want, const char *own, size_t count, const char *commands)
{
    struct buf out = {0};

    assert_int_equal(acl_list_change(have, strlen(have), want, strlen(want), own, collect, &out), count);
    buf_append(&out, "", 1);
    assert_string_equal(buf_head(&out), commands);
    buf_free(&out);
}

static void changes(void **state)
{
    static const char a[] = "user a on ~k +get\n", b[] = "user a on ~k +get (~x +set)\n";

    (void)state;
    expect(a, a, "own", 0, "");
    expect(a, b, "own", 1,
           "*9\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$1\r\na\r\n$5\r\nreset\r\n$2\r\non\r\n$2\r\n~k\r\n$4\r\n+get\r\n$"
           "3\r\n(~x\r\n$5"
           "\r\n+set)\r\n");
    expect(a, "", "own", 1, "*3\r\n$3\r\nACL\r\n$7\r\nDELUSER\r\n$1\r\na\r\n");
    expect("", a, "own", 1,
           "*7\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$1\r\na\r\n$5\r\nreset\r\n$2\r\non\r\n$2\r\n~k\r\n$4\r\n+get\r\n");
    expect(a, "user b on\n", "own", 2,
           "*5\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$1\r\nb\r\n$5\r\nreset\r\n$2\r\non\r\n*3\r\n$3\r\nACL\r\n$"
           "7\r\nDELUSER\r\n$1\r\na\r\n");
}

static void ours_and_default_stay(void **state)
{
    (void)state;
    expect("user default on\nuser own on\n", "user default on\n", "own", 0, "");
    expect("user own on\n", "user own off\n", "own", 0, "");
    expect("user default on\n", "", "own", 0, "");
    expect("user default on\n", "user default off\n", "default", 0, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_without_our_own),
        cmocka_unit_test(replies_cut_anywhere),
        cmocka_unit_test(changes),
        cmocka_unit_test(ours_and_default_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

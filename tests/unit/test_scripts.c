/* Scripts that promise to write nothing: by their first line, and by the SHA1 of a text that was seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/scripts.h"

static bool promises(const char *text)
{
    return script_promises_no_writes(text, strlen(text));
}

static void by_the_first_line(void **state)
{
    static const char *const yes[] = {"#!lua flags=no-writes\nreturn 1", "#!lua flags=allow-stale,no-writes\n",
                                      "#!lua flags=no-writes,allow-oom\r\nreturn 1",
                                      "#!lua name=x flags=no-writes\n"};
    static const char *const no[] = {"",
                                     "#!",
                                     "#!lua flags=no-writes",
                                     "return 1 -- flags=no-writes\n",
                                     "#!lua flags=\nno-writes",
                                     "#!lua flags=no-writes-at-all\n",
                                     "#!lua flags=allow-oom\n#!lua flags=no-writes\n",
                                     "#!luaflags=no-writes\n",
                                     " #!lua flags=no-writes\n",
                                     "#!lua flags=allow-oom no-writes\n",
                                     "#!js flags=no-writes\n"};

    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(promises(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(promises(no[i]));
    for (size_t n = 0; n < strlen(yes[1]); n++)
        assert_false(script_promises_no_writes(yes[1], n));
}

static void by_sha(void **state)
{
    /* printf '#!lua flags=no-writes\nreturn 1' | sha1sum */
    static const char text[] = "#!lua flags=no-writes\nreturn 1", sha[] = "77f21361171213377cb083e2ffc2ae24ffdff8fb";
    static const char big[] = "77F21361171213377CB083E2FFC2AE24FFDFF8FB";
    struct scripts *s = scripts_new();

    (void)state;
    assert_false(scripts_no_writes(s, sha, 40));
    scripts_learn(s, "return 1", 8);
    scripts_learn(s, text, strlen(text));
    scripts_learn(s, text, strlen(text));
    assert_true(scripts_no_writes(s, sha, 40));
    assert_true(scripts_no_writes(s, big, 40));
    assert_false(scripts_no_writes(s, sha, 39));
    assert_false(scripts_no_writes(s, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 40)); /* return 1 */
    assert_false(scripts_no_writes(s, "g7f21361171213377cb083e2ffc2ae24ffdff8fb", 40));
    for (int i = 0; i <= SCRIPTS_KNOWN_MAX; i++) { /* too many: all are forgotten, and can be learned again */
        char other[64];

        (void)snprintf(other, sizeof other, "#!lua flags=no-writes\nreturn %d", i + 2);
        scripts_learn(s, other, strlen(other));
    }
    assert_false(scripts_no_writes(s, sha, 40));
    scripts_learn(s, text, strlen(text));
    assert_true(scripts_no_writes(s, sha, 40));
    scripts_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_the_first_line), cmocka_unit_test(by_sha)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

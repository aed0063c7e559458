/* The router's short way for plain reads comes to what its long way comes to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proxy/command.h"
#include "proxy/router.h"

enum { REPLY_BYTES_MAX = 1024 * 1024 };

static struct command_table *commands;

static int set_up(void **state)
{
    static const char *const places[] = {"tests/unit/data/command-8.0.1.resp",
                                         "../../tests/unit/data/command-8.0.1.resp"};
    char *bytes = malloc(REPLY_BYTES_MAX), why[200] = "";
    FILE *f = NULL;
    size_t n;

    (void)state;
    for (size_t i = 0; f == NULL && i < sizeof places / sizeof *places; i++)
        f = fopen(places[i], "rb");
    assert_non_null(f);
    n = fread(bytes, 1, REPLY_BYTES_MAX, f);
    (void)fclose(f);
    commands = command_table_new(bytes, n, why, sizeof why);
    free(bytes);
    return commands == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    command_table_free(commands);
    return 0;
}

/* The short way of a plain read comes to what the long way comes to, whatever else is so. */
static void plain_reads_go_the_same_way(void **state)
{
    struct arg arg[2] = {{0, 3}, {4, 1}};
    struct argv a = {"get k", 5, arg, 2};
    struct command plain = *command_find(commands, &a), other = plain;

    (void)state;
    assert_true((plain.flags & CMD_PLAIN_READ) != 0);
    other.flags &= ~(uint32_t)CMD_PLAIN_READ;
    for (unsigned bits = 0; bits < 1u << 12; bits++) {
        struct route_facts f = {.command = &plain,
                                .args = &a,
                                .treatment = TREAT_BY_FLAGS,
                                .mode = (bits & 1) ? DURABILITY_SYNC : DURABILITY_OFF,
                                .in_multi = bits & 2,
                                .stateful = bits & 4,
                                .full = bits & 8,
                                .subscribed = bits & 16,
                                .monitoring = bits & 32,
                                .reader = bits & 64,
                                .gate = (enum gate_state)((bits >> 7) % 3),
                                .refusal = (enum gate_refusal)((bits >> 9) % 6),
                                .write_bytes_max = 1,
                                .marker_channel = "holdfast-marker:"};
        struct route shortly = route_command(&f), at_length;

        f.command = &other;
        at_length = route_command(&f);
        assert_int_equal(shortly.to, at_length.to);
        assert_int_equal(shortly.kind, at_length.kind);
        assert_int_equal(shortly.why, at_length.why);
    }
}

static void what_is_a_plain_read(void **state)
{
    static const char *const not [] = {"SET",    "PFCOUNT", "XREAD",    "EVAL_RO", "FCALL_RO",  "PUBSUB",
                                       "OBJECT", "MEMORY",  "FUNCTION", "PING",    "KEYS_OPEN", "XINFO"};

    (void)state;
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++) {
        struct arg arg = {0, strlen(not [i])};
        struct argv a = {not [i], arg.len, &arg, 1};
        const struct command *c = command_find(commands, &a);

        assert_true(c == NULL || (c->flags & CMD_PLAIN_READ) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_reads_go_the_same_way),
        cmocka_unit_test(what_is_a_plain_read),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

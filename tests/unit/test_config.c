/* Settings: values, files, the command line, CONFIG GET and SET, reload. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"
#include "log/base/buf.h"

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

struct place {
    char dir[64], file[128], other[128];
};
static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof *p);

    (void)snprintf(p->dir, sizeof p->dir, "/tmp/holdfast-test-config-XXXXXX");
    if (mkdtemp(p->dir) == NULL)
        return -1;
    (void)snprintf(p->file, sizeof p->file, "%s/a.conf", p->dir);
    (void)snprintf(p->other, sizeof p->other, "%s/b.conf", p->dir);
    *state = p;
    return 0;
}
static int remove_place(void **state)
{
    struct place *p = *state;

    (void)unlink(p->file);
    (void)unlink(p->other);
    (void)rmdir(p->dir);
    free(p);
    return 0;
}

/* Loads with these arguments; the message must contain `expected`, or the load succeed if that is NULL. */
static void load(struct config *c, const char *expected, int argc, const char *const *argv)
{
    struct buf err = {0};
    bool ok = config_load(c, argc, (char **)(uintptr_t)argv, &err);

    buf_append(&err, "", 1);
    if (expected == NULL) {
        assert_string_equal(buf_head(&err), "");
        assert_true(ok);
    } else {
        assert_false(ok);
        if (strstr(buf_head(&err), expected) == NULL)
            fail_msg("'%s' is not in: %s", expected, buf_head(&err));
    }
    buf_free(&err);
}
#define LOAD(c, expected, ...)                                                                                       \
    do {                                                                                                             \
        const char *const args[] = {"holdfast", __VA_ARGS__};                                                        \
        load(c, expected, (int)(sizeof args / sizeof *args), args);                                                  \
    } while (0)

static void set_ok(struct config *c, const char *name, const char *value)
{
    char why[256] = "";

    if (!config_set(c, name, value, false, why, sizeof why))
        fail_msg("%s %s: %s", name, value, why);
}
static void set_bad(struct config *c, const char *name, const char *value, const char *reason)
{
    struct config before = *c;
    char why[256] = "";

    assert_false(config_set(c, name, value, false, why, sizeof why));
    assert_string_equal(why, reason);
    assert_memory_equal(&before, c, sizeof before);
}

static void note_value(void *arg, const char *name, const char *value)
{
    buf_printf(arg, "%s=%s;", name, value);
}
static void shows(const struct config *c, const char *pattern, const char *expected)
{
    struct buf out = {0};

    config_get(c, pattern, note_value, &out);
    buf_append(&out, "", 1);
    assert_string_equal(buf_head(&out), expected);
    buf_free(&out);
}

static void defaults_are_those_of_the_header(void **state)
{
    struct config c;

    (void)state;
    config_defaults(&c);
    assert_int_equal(c.bind_count, 2);
    assert_string_equal(c.bind[1], "-::1");
    assert_int_equal(c.port, 6379);
    assert_int_equal(c.maxclients, 10000);
    assert_int_equal(c.durability, DURABILITY_SYNC);
    assert_int_equal(c.durability_lag_max_ms, 10000);
    assert_int_equal(c.valkey_timeout_ms, 10000);
    assert_true(c.query_bytes_max == 1024ULL * 1024 * 1024);
    assert_true(c.log_size_max == 4ULL * 1024 * 1024 * 1024);
    assert_true(c.output_limit[OUTPUT_PUBSUB].hard_bytes == 32ULL * 1024 * 1024);
    assert_int_equal(c.output_limit[OUTPUT_PUBSUB].soft_seconds, 60);
    assert_int_equal(c.loglevel, DIAG_NOTICE);
    assert_int_equal(c.log_format, DIAG_LEGACY);
    assert_int_equal(c.log_timestamp_format, DIAG_STAMP_LEGACY);
    assert_false(c.syslog_enabled);
    assert_string_equal(c.syslog_ident, "holdfast");
    assert_int_equal(c.syslog_facility, LOG_LOCAL0);
    assert_false(c.valkey_spawn);
    assert_int_equal(c.member_count, 0);
    assert_null(config_own_member(&c));
    assert_string_equal(c.cluster, "holdfast");
    assert_int_equal(c.election_timeout_ms, 400);
    assert_int_equal(c.clock_skew_max_ms, 500);
    assert_true(c.peer_tls);
    assert_false(c.allow_single_az);
    assert_false(config_log_only(&c));
}

static void sizes_and_durations_have_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"2000000", 2000000}, {"2000k", 2000000}, {"2048KB", 2048 * 1024}, {"5m", 5000000},
                 {"5mb", 5242880},     {"1G", 1000000000}, {"1Gb", 1073741824},     {"1048576b", 1048576}};
    struct config c;

    (void)state;
    config_defaults(&c);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        set_ok(&c, "durability-buffer-max", sizes[i].text);
        assert_true(c.durability_buffer_max == sizes[i].bytes);
    }
    set_bad(&c, "durability-buffer-max", "5 mb", "argument must be a memory value");
    set_bad(&c, "durability-buffer-max", "-1mb", "argument must be a memory value");
    set_bad(&c, "durability-buffer-max", "mb", "argument must be a memory value");
    set_bad(&c, "durability-buffer-max", "99999999999gb", "argument must be a memory value");
    set_bad(&c, "durability-buffer-max", "1kb", "argument must be between 1048576 and 9223372036854775807 inclusive");
    set_ok(&c, "durability-lag-max", "500ms");
    assert_int_equal(c.durability_lag_max_ms, 500);
    shows(&c, "durability-lag-max", "durability-lag-max=500ms;");
    set_ok(&c, "durability-lag-max", "3s");
    shows(&c, "durability-lag-max", "durability-lag-max=3;");
    set_ok(&c, "durability-lag-max", "7");
    assert_int_equal(c.durability_lag_max_ms, 7000);
    set_bad(&c, "durability-lag-max", "0", "argument must be between 200ms and 86400 inclusive");
    set_bad(&c, "durability-lag-max", "1h",
            "argument must be a duration: seconds (10 or 10s) or milliseconds (500ms)");
}

static void bad_values_are_refused_in_valkeys_words(void **state)
{
    struct config c;
    char long_text[CONFIG_TEXT_MAX + 1];

    (void)state;
    config_defaults(&c);
    memset(long_text, 'a', CONFIG_TEXT_MAX);
    long_text[CONFIG_TEXT_MAX] = '\0';
    set_bad(&c, "port", "65536", "argument must be between 0 and 65535 inclusive");
    set_bad(&c, "port", "+1", "argument couldn't be parsed into an integer");
    set_bad(&c, "port", " 1", "argument couldn't be parsed into an integer");
    set_bad(&c, "port", "", "argument couldn't be parsed into an integer");
    set_bad(&c, "unixsocketperm", "8", "argument couldn't be parsed as an octal number");
    set_bad(&c, "valkey-spawn", "true", "argument must be 'yes' or 'no'");
    set_bad(&c, "durability", "on", "argument(s) must be one of the following: sync, async, off");
    set_bad(&c, "logfile", long_text, "argument is too long (at most 255 bytes)");
    set_bad(&c, "node", "a b", "argument must be 1 to 64 letters, digits, '.', '_' or '-'");
    set_bad(&c, "valkey", "localhost", "argument must be host:port or the path of a Unix socket (with a '/')");
    set_bad(&c, "valkey", "h:70000", "argument must be host:port or the path of a Unix socket (with a '/')");
    set_bad(&c, "valkey", "h:1x", "argument must be host:port or the path of a Unix socket (with a '/')");
    set_ok(&c, "valkey", "[::1]:6380");
    set_ok(&c, "valkey", "/run/valkey.sock");
    set_ok(&c, "valkey", "none");
    set_bad(&c, "no-such", "1", "Unknown option or number of arguments for CONFIG SET");
    set_bad(&c, "client-output-buffer-limit", "normal 1 2",
            "Wrong number of arguments in buffer limit configuration.");
    set_bad(&c, "client-output-buffer-limit", "normal 1 2 3 what 1 2 3",
            "Invalid client class specified in buffer limit configuration.");
    set_bad(&c, "client-output-buffer-limit", "normal 1 2 3 pubsub 1 2 x",
            "Error in hard, soft or soft_seconds setting in buffer limit configuration.");
    set_bad(&c, "bind", "\"a", "Unbalanced quotes in configuration line");
}

static void the_settings_of_the_log_have_valkeys_words(void **state)
{
    struct config c;

    (void)state;
    config_defaults(&c);
    set_ok(&c, "log-format", "LOGFMT");
    assert_int_equal(c.log_format, DIAG_LOGFMT);
    set_ok(&c, "log-format", "json");
    shows(&c, "log-*", "log-format=json;log-timestamp-format=legacy;log-size-max=4294967296;");
    set_bad(&c, "log-format", "xml", "argument(s) must be one of the following: legacy, logfmt, json");
    set_ok(&c, "log-timestamp-format", "iso8601");
    assert_int_equal(c.log_timestamp_format, DIAG_STAMP_ISO8601);
    set_bad(&c, "log-timestamp-format", "unix",
            "argument(s) must be one of the following: legacy, iso8601, milliseconds");
    set_ok(&c, "syslog-facility", "local7");
    assert_int_equal(c.syslog_facility, LOG_LOCAL7);
    set_bad(&c, "syslog-facility", "mail",
            "argument(s) must be one of the following: user, local0, local1, local2, local3, local4, local5, local6, "
            "local7");
    set_bad(&c, "hide-user-data-from-log", "no", "Unknown option or number of arguments for CONFIG SET");
}

static void several_arguments(void **state)
{
    struct config c;

    (void)state;
    config_defaults(&c);
    set_ok(&c, "client-output-buffer-limit", "PUBSUB 1mb 0 0 slave 5 6 7");
    shows(&c, "client-output-buffer-limit",
          "client-output-buffer-limit=normal 0 0 0 slave 5 6 7 pubsub 1048576 0 0;");
    set_ok(&c, "bind", "10.0.0.1 * -::*");
    shows(&c, "bind", "bind=10.0.0.1 * -::*;");
    assert_int_equal(c.bind_count, 3);
    set_ok(&c, "bind", "");
    assert_int_equal(c.bind_count, 0);
    set_bad(&c, "bind", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17", "Too many bind addresses specified.");
}

static void config_set_at_run_time(void **state)
{
    struct config c;
    char why[128] = "";

    (void)state;
    config_defaults(&c);
    assert_true(config_set(&c, "DURABILITY", "Async", true, why, sizeof why));
    assert_int_equal(c.durability, DURABILITY_ASYNC);
    assert_string_equal(durability_name(c.durability), "async");
    assert_false(config_set(&c, "port", "1", true, why, sizeof why));
    assert_string_equal(why, "can't set immutable config");
    assert_true(config_known("Port"));
    assert_false(config_known("ports"));
}

static void config_get_takes_globs_and_hides_secrets(void **state)
{
    struct config c;

    (void)state;
    config_defaults(&c);
    set_ok(&c, "valkey-password", "secret");
    shows(&c, "VALKEY-[pu]*", "valkey-user=;valkey-password=;");
    shows(&c, "durability", "durability=sync;");
    shows(&c, "nothing*", "");
    shows(&c, "admin-????", "admin-bind=127.0.0.1;admin-port=0;");
}

static void file_then_options(void **state)
{
    struct place *p = *state;
    struct config c;
    char line[256];

    write_file(p->other, "port 7001\nnode other\n");
    (void)snprintf(line, sizeof line,
                   "# comment\n\n  port 7000  \r\nnode \"n\\x31\"\nlogfile ''\ninclude %s/b*.conf\nloglevel "
                   "debug\ninclude %s/none*",
                   p->dir, p->dir);
    write_file(p->file, line);
    LOAD(&c, NULL, p->file, "--maxclients", "5", "--bind", "127.0.0.1", "-::1", "10.0.0.1", "--Timeout", "9");
    assert_int_equal(c.port, 7001);
    assert_string_equal(c.node, "other");
    assert_int_equal(c.maxclients, 5);
    assert_int_equal(c.bind_count, 3);
    assert_int_equal(c.timeout_s, 9);
    assert_int_equal(c.loglevel, DIAG_DEBUG);
    assert_string_equal(c.file, p->file);
    LOAD(&c, NULL, "--port", "1", "--port", "2");
    assert_int_equal(c.port, 2);
}

static void bad_files_name_line_and_reason(void **state)
{
    struct place *p = *state;
    struct config c;
    char text[256];

    write_file(p->file, "port 1\nnonsense 5\n");
    LOAD(&c, "at line 2 of ", p->file);
    LOAD(&c, ">>> 'nonsense 5'\nBad directive or wrong number of arguments\n", p->file);
    LOAD(&c, "*** FATAL CONFIG FILE ERROR (Version " HOLDFAST_VERSION ") ***\n", p->file);
    write_file(p->file, "port 1 2\n");
    LOAD(&c, ">>> 'port 1 2'\nwrong number of arguments\n", p->file);
    write_file(p->file, "port\n");
    LOAD(&c, "Bad directive or wrong number of arguments\n", p->file);
    write_file(p->file, "node \"x\n");
    LOAD(&c, "Unbalanced quotes in configuration line\n", p->file);
    write_file(p->file, "logfile \"a\\x00b\"\n");
    LOAD(&c, "argument must not hold a NUL byte\n", p->file);
    write_file(p->file, "valkey-password secret secret\n");
    LOAD(&c, ">>> '(a line with a secret)'\n", p->file);
    write_file(p->file, "include /nonexistent/x.conf\n");
    LOAD(&c, "can't open included file '/nonexistent/x.conf'", p->file);
    (void)snprintf(text, sizeof text, "include %s\n", p->file);
    write_file(p->file, text);
    LOAD(&c, "include nested more than 16 deep\n", p->file);
    write_file(p->other, "\n\nport x\n");
    (void)snprintf(text, sizeof text, "include %s\n", p->other);
    write_file(p->file, text);
    LOAD(&c, "at line 3 of ", p->file);
    LOAD(&c, "Fatal error, can't open config file", "/nonexistent/holdfast.conf");
    LOAD(&c, "Is a directory", p->dir);
    LOAD(&c, "Reading the command line\n>>> 'port x'\nargument couldn't be parsed into an integer\n", "--port", "x");
    LOAD(&c, "Bad directive or wrong number of arguments\n", "--port", "--timeout", "1");
    LOAD(&c, "Bad directive or wrong number of arguments\n", "--include", "x");
    LOAD(&c, "Configured to not listen anywhere", "--port", "0");
}

/* ---- the group ---- */

static void members_add_up(void **state)
{
    struct config c;

    (void)state;
    config_defaults(&c);
    set_ok(&c, "member", "a az-1  127.0.0.1:7001");
    set_ok(&c, "member", "\"b az-2 [::1]:7002\" , w az-3 db-3.example:7003 log-only");
    assert_int_equal(c.member_count, 3);
    assert_string_equal(c.member[1], "b az-2 [::1]:7002");
    shows(&c, "member", "member=a az-1 127.0.0.1:7001, b az-2 [::1]:7002, w az-3 db-3.example:7003 log-only;");
    set_ok(&c, "node", "b");
    assert_string_equal(config_own_member(&c), "b az-2 [::1]:7002");
    set_ok(&c, "peer-listen", "0.0.0.0:1");
    shows(&c, "peer-listen", "peer-listen=0.0.0.0:1;");
    set_ok(&c, "node", "az-2");
    assert_null(config_own_member(&c));
    set_ok(&c, "member", "");
    assert_int_equal(c.member_count, 0);
    shows(&c, "member", "member=;");
}

static void bad_members_are_refused(void **state)
{
    static const char form[] = "a member is NAME ZONE HOST:PORT, and log-only behind it for a witness";
    char why[128] = "";
    struct config c;

    (void)state;
    config_defaults(&c);
    set_bad(&c, "member", "a", form);
    set_bad(&c, "member", ",", form);
    set_bad(&c, "member", " ", "wrong number of arguments");
    set_bad(&c, "member", "a az-1 h:1, , b az-2 h:2", form);
    set_bad(&c, "member", "a az-1 h:1 log-only more", form);
    set_bad(&c, "member", "a az-1 h:1 witness", form);
    set_bad(&c, "member", "a/b az-1 h:1", "a member's name must be 1 to 64 letters, digits, '.', '_' or '-'");
    set_bad(&c, "member", "a az=1 h:1", "a member's zone must be 1 to 64 letters, digits, '.', '_' or '-'");
    set_bad(&c, "member", "a az-1 h", "a member's address must be host:port");
    set_bad(&c, "member", "a az-1 h:0", "a member's address must be host:port");
    set_bad(&c, "member", "a az-1 /tmp/h:1", "a member's address must be host:port");
    set_bad(&c, "member", "a z h:1, b z h:2, c z h:3, d z h:4, e z h:5, f z h:6, g z h:7, h z h:8, i z h:9, j z h:10",
            "a group has at most 9 members");
    set_bad(&c, "cluster", "a b", "argument must be 1 to 64 letters, digits, '.', '_' or '-'");
    set_bad(&c, "peer-listen", "7000", "argument must be host:port");
    set_bad(&c, "election-timeout", "50ms", "argument must be between 100ms and 60 inclusive");
    assert_false(config_set(&c, "member", "a z h:1", true, why, sizeof why));
    assert_string_equal(why, "can't set immutable config");
}

static void settings_of_a_group_agree(void **state)
{
    struct config c;

#define GROUP "--member", "a az-1 127.0.0.1:7001", "--member", "b", "az-2", "127.0.0.1:7002", "--member"
    (void)state;
    LOAD(&c, NULL, GROUP, "c az-3 127.0.0.1:7003", "--node", "a", "--peer-tls", "no");
    assert_int_equal(c.member_count, 3);
    LOAD(&c, "node node-1 is not among the members", GROUP, "c az-3 127.0.0.1:7003", "--peer-tls", "no");
    LOAD(&c, "*** FATAL CONFIG FILE ERROR (Version ", GROUP, "c az-3 127.0.0.1:7003", "--peer-tls", "no");
    LOAD(&c, "two members have the same name: 'a az-1 127.0.0.1:7001' and 'a az-3 127.0.0.1:7003'", GROUP,
         "a az-3 127.0.0.1:7003");
    LOAD(&c, "two members have the same address: ", GROUP, "c az-3 127.0.0.1:7001");
    LOAD(&c, "member 'c az-3 127.0.0.1:7003 log-only' is log-only, which needs valkey none", GROUP,
         "c az-3 127.0.0.1:7003 log-only", "--node", "c");
    LOAD(&c, "valkey none, but member 'a az-1 127.0.0.1:7001' is not log-only", GROUP,
         "c az-3 127.0.0.1:7003 log-only", "--node", "a", "--valkey", "none");
    LOAD(&c, NULL, GROUP, "c az-3 127.0.0.1:7003 log-only", "--node", "c", "--valkey", "none", "--peer-tls", "no");
    assert_true(config_log_only(&c));
    LOAD(&c, "valkey-spawn yes contradicts valkey none", GROUP, "c az-3 127.0.0.1:7003 log-only", "--node", "c",
         "--valkey", "none", "--valkey-spawn", "yes");
    LOAD(&c, "without member lines a Valkey is needed", "--valkey", "none");
    LOAD(&c, "peer-tls-cert-file, peer-tls-key-file and peer-tls-ca-cert-file are needed", GROUP,
         "c az-3 127.0.0.1:7003", "--node", "a", "--peer-tls-cert-file", "x");
    LOAD(&c, NULL, GROUP, "c az-3 10.0.0.3:7003", "--node", "a", "--peer-tls-cert-file", "x", "--peer-tls-key-file",
         "y", "--peer-tls-ca-cert-file", "z");
    LOAD(&c, "peer-tls no is only for members on loopback addresses, and 'c az-3 10.0.0.3:7003' is not", GROUP,
         "c az-3 10.0.0.3:7003", "--node", "a", "--peer-tls", "no");
    LOAD(&c, "peer-listen 0.0.0.0:7001 is none", GROUP, "c az-3 localhost:7003", "--node", "a", "--peer-tls", "no",
         "--peer-listen", "0.0.0.0:7001");
#undef GROUP
}

static void the_sample_says_the_defaults(void **state)
{
    struct config sample, defaults;
    struct buf a = {0}, b = {0};

    (void)state;
    LOAD(&sample, NULL, "config/holdfast.conf");
    config_defaults(&defaults);
    config_get(&sample, "*", note_value, &a);
    config_get(&defaults, "*", note_value, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(buf_head(&a), buf_head(&b), a.len);
    buf_free(&a);
    buf_free(&b);
}

static void reload_takes_over_what_can_change(void **state)
{
    struct place *p = *state;
    const char *const args[] = {"holdfast", p->file, "--timeout", "9"};
    struct buf notes = {0};
    struct config c;

    write_file(p->file, "port 7000\nloglevel notice\ntimeout 1\n");
    load(&c, NULL, 4, args);
    write_file(p->file, "port 7001\nloglevel warning\ntimeout 2\ndurability-lag-max "
                        "250ms\nclient-output-buffer-limit normal 9 9 9\n");
    assert_true(config_reload(&c, &notes));
    assert_int_equal(c.port, 7000);
    assert_int_equal(c.loglevel, DIAG_WARNING);
    assert_int_equal(c.timeout_s, 9);
    assert_int_equal(c.durability_lag_max_ms, 250);
    assert_int_equal(c.output_limit[OUTPUT_NORMAL].soft_bytes, 9);
    buf_append(&notes, "", 1);
    assert_string_equal(buf_head(&notes), "port has changed in the settings file and needs a restart\n");
    buf_clear(&notes);
    write_file(p->file, "loglevel debug\nport x\n");
    assert_false(config_reload(&c, &notes));
    assert_int_equal(c.loglevel, DIAG_WARNING);
    buf_free(&notes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_header),
        cmocka_unit_test(sizes_and_durations_have_units),
        cmocka_unit_test(bad_values_are_refused_in_valkeys_words),
        cmocka_unit_test(the_settings_of_the_log_have_valkeys_words),
        cmocka_unit_test(several_arguments),
        cmocka_unit_test(config_set_at_run_time),
        cmocka_unit_test(config_get_takes_globs_and_hides_secrets),
        cmocka_unit_test_setup_teardown(file_then_options, make_place, remove_place),
        cmocka_unit_test_setup_teardown(bad_files_name_line_and_reason, make_place, remove_place),
        cmocka_unit_test(members_add_up),
        cmocka_unit_test(bad_members_are_refused),
        cmocka_unit_test(settings_of_a_group_agree),
        cmocka_unit_test(the_sample_says_the_defaults),
        cmocka_unit_test_setup_teardown(reload_takes_over_what_can_change, make_place, remove_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

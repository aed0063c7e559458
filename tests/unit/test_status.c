/* Histograms, and the three faces of struct status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "log/base/buf.h"
#include "log/base/metrics.h"
#include "proxy/status.h"

static void buckets_have_inclusive_bounds(void **state)
{
    struct histogram h = {0};

    (void)state;
    assert_int_equal(histogram_bound_us(0), 8);
    assert_int_equal(histogram_bound_us(22), 8u << 22);
    assert_true(histogram_bound_us(23) == UINT64_MAX);
    for (int i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
        memset(&h, 0, sizeof h);
        histogram_add(&h, histogram_bound_us(i));
        assert_int_equal(h.bucket[i], 1);
        histogram_add(&h, histogram_bound_us(i) + 1);
        assert_int_equal(h.bucket[i + 1], 1);
    }
    memset(&h, 0, sizeof h);
    histogram_add(&h, 0);
    histogram_add(&h, UINT64_MAX / 2);
    assert_int_equal(h.bucket[0], 1);
    assert_int_equal(h.bucket[HISTOGRAM_BUCKETS - 1], 1);
    assert_int_equal(h.count, 2);
}

static void quantiles_are_upper_bounds(void **state)
{
    struct histogram h = {0};

    (void)state;
    assert_int_equal(histogram_quantile_us(&h, 0.99), 0);
    for (int i = 0; i < 99; i++)
        histogram_add(&h, 100);
    histogram_add(&h, 5000);
    assert_int_equal(histogram_quantile_us(&h, 0), 128);
    assert_int_equal(histogram_quantile_us(&h, 0.5), 128);
    assert_int_equal(histogram_quantile_us(&h, 0.99), 128);
    assert_int_equal(histogram_quantile_us(&h, 0.999), 8192);
    assert_int_equal(h.sum_us, 99 * 100 + 5000);
}

static void example(struct status *s)
{
    memset(s, 0, sizeof *s);
    s->state = "serving";
    s->ready = true;
    s->mode = DURABILITY_ASYNC;
    s->lag_ms = 1234;
    s->writes_sync = 7;
    s->start_unix_ms = 1700000000123;
    s->rebuild_progress = 0.25;
    (void)snprintf(s->log_stalled_why, sizeof s->log_stalled_why, "disk\r\nfull \"x\"");
    (void)snprintf(s->valkey_version, sizeof s->valkey_version, "8.0.1\"\\\n");
    (void)snprintf(s->node, sizeof s->node, "a");
    (void)snprintf(s->leader, sizeof s->leader, "b");
    (void)snprintf(s->role, sizeof s->role, "follower");
    s->member_count = 2;
    s->members[0] = (struct status_member){
        .name = "a", .zone = "az-1", .address = "h:1", .role = "voter", .self = true, .connected = true};
    s->members[1] = (struct status_member){.name = "b",
                                           .zone = "az-2",
                                           .address = "h:2",
                                           .role = "log-only",
                                           .leader = true,
                                           .match_index = 17,
                                           .heard_ms_ago = UINT64_MAX,
                                           .clock_skew_ms = -1050};
    histogram_add(&s->commit_us, 100);
    histogram_add(&s->commit_us, 100000000);
    histogram_add(&s->fsync_us, 300);
    s->draining = true;
}

static void has(struct buf *out, const char *line)
{
    if (strstr(buf_head(out), line) == NULL)
        fail_msg("'%s' is not in:\n%s", line, buf_head(out));
}

static void info_section(void **state)
{
    struct buf out = {0};
    struct status s;

    (void)state;
    example(&s);
    status_info_section(&s, &out);
    buf_append(&out, "", 1);
    assert_int_equal(strncmp(buf_head(&out), "# Durability\r\n", 14), 0);
    has(&out, "\r\nholdfast_state:serving\r\n");
    has(&out, "\r\nholdfast_mode:async\r\n");
    has(&out, "\r\nholdfast_lag_ms:1234\r\n");
    has(&out, "\r\nholdfast_ready:1\r\n");
    has(&out, "\r\nholdfast_log_stalled_why:disk  full \"x\"\r\n");
    has(&out, "\r\nholdfast_rebuild_progress:0.2500\r\n");
    has(&out, "\r\nholdfast_commit_us:count=2,sum=100000100,p50=128,p99=18446744073709551615,p99.9="
              "18446744073709551615\r\n");
    has(&out, "\r\nholdfast_role:follower\r\n");
    has(&out, "\r\nholdfast_member0:name=a,zone=az-1,address=h:1,role=voter,state=self,leader=0,match_index=0,"
              "heard_ms_ago=0,snapshot_index=0,fed_index=0,clock_skew_ms=0,draining=0\r\n");
    has(&out, "\r\nholdfast_member1:name=b,zone=az-2,address=h:2,role=log-only,state=down,leader=1,match_index=17,"
              "heard_ms_ago=-1,snapshot_index=0,fed_index=0,clock_skew_ms=-1050,draining=0\r\n");
    buf_free(&out);
}

/* Prometheus' own checks, in small: HELP and TYPE before each family, names once, every line `name[{labels}] number`.
 */
static void check_exposition(char *text)
{
    char *rest = text, *line, family[128] = "", seen[16384] = "";

    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        char name[128];
        char *end;

        if (sscanf(line, "# HELP %127s", name) == 1) {
            char quoted[140];

            (void)snprintf(quoted, sizeof quoted, "<%s>", name);
            assert_null(strstr(seen, quoted));
            assert_true(strlen(seen) + strlen(quoted) < sizeof seen);
            (void)snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s", quoted);
            (void)snprintf(family, sizeof family, "%s", name);
            continue;
        }
        if (sscanf(line, "# TYPE %127s", name) == 1) {
            assert_string_equal(name, family);
            continue;
        }
        assert_int_equal(strncmp(line, family, strlen(family)), 0);
        assert_non_null(strrchr(line, ' '));
        (void)strtod(strrchr(line, ' ') + 1, &end);
        assert_int_equal(*end, '\0');
    }
}

static void metrics_page(void **state)
{
    struct buf out = {0};
    struct status s;

    (void)state;
    example(&s);
    status_metrics(&s, &out);
    buf_append(&out, "", 1);
    has(&out, "holdfast_build_info{version=\"" HOLDFAST_VERSION "\",build=\"");
    has(&out, "holdfast_valkey_info{version=\"8.0.1\\\"\\\\ \",run_id=\"\"} 1\n");
    has(&out, "# TYPE holdfast_lag_seconds gauge\nholdfast_lag_seconds 1.234\n");
    has(&out, "\nholdfast_start_timestamp_seconds 1700000000.123\n");
    has(&out, "\nholdfast_state{state=\"serving\"} 1\n");
    has(&out, "\nholdfast_state{state=\"starting\"} 0\n");
    has(&out, "\nholdfast_durability_mode{mode=\"async\"} 1\n");
    has(&out, "# TYPE holdfast_writes_sync_total counter\nholdfast_writes_sync_total 7\n");
    has(&out,
        "\nholdfast_commit_seconds_bucket{le=\"6.4e-05\"} 0\nholdfast_commit_seconds_bucket{le=\"0.000128\"} 1\n");
    has(&out, "\nholdfast_commit_seconds_bucket{le=\"33.554432\"} 1\nholdfast_commit_seconds_bucket{le=\"+Inf\"} 2\n"
              "holdfast_commit_seconds_sum 100.000100\nholdfast_commit_seconds_count 2\n");
    has(&out,
        "\nholdfast_fsync_seconds_bucket{le=\"0.000256\"} 0\nholdfast_fsync_seconds_bucket{le=\"0.000512\"} 1\n");
    has(&out, "\nholdfast_fsync_seconds_sum 0.000300\nholdfast_fsync_seconds_count 1\n");
    has(&out, "# TYPE holdfast_draining gauge\nholdfast_draining 1\n");
    has(&out, "\nholdfast_peer_draining{peer=\"b\",zone=\"az-2\"} 0\n");
    has(&out, "\nholdfast_role{role=\"follower\"} 1\n");
    has(&out, "\nholdfast_role{role=\"leader\"} 0\n");
    has(&out, "# TYPE holdfast_peer_up gauge\nholdfast_peer_up{peer=\"b\",zone=\"az-2\"} 0\n");
    has(&out, "\nholdfast_peer_match_index{peer=\"b\",zone=\"az-2\"} 17\n");
    has(&out, "\nholdfast_peer_clock_skew_seconds{peer=\"b\",zone=\"az-2\"} -1.050\n");
    assert_null(strstr(buf_head(&out), "holdfast_peer_heard_seconds{")); /* never heard */
    assert_null(strstr(buf_head(&out), "peer=\"a\""));                   /* itself */
    check_exposition(buf_head(&out));
    buf_free(&out);
}

static void check_members(const json_t *members)
{
    const json_t *b = json_array_get(members, 1);

    assert_int_equal(json_array_size(members), 2);
    assert_string_equal(json_string_value(json_object_get(b, "name")), "b");
    assert_string_equal(json_string_value(json_object_get(b, "role")), "log-only");
    assert_string_equal(json_string_value(json_object_get(b, "state")), "down");
    assert_true(json_is_false(json_object_get(b, "self")));
    assert_true(json_is_true(json_object_get(b, "leader")));
    assert_true(json_is_false(json_object_get(b, "connected")));
    assert_int_equal(json_integer_value(json_object_get(b, "match_index")), 17);
    assert_true(json_is_null(json_object_get(b, "heard_ms_ago")));
    assert_int_equal(json_integer_value(json_object_get(b, "clock_skew_ms")), -1050);
}

static void json_page(void **state)
{
    struct buf out = {0};
    struct status s;
    struct config c;
    json_error_t error;
    json_t *root;
    char why[64];

    (void)state;
    example(&s);
    config_defaults(&c);
    assert_true(config_set(&c, "valkey-password", "secret", false, why, sizeof why));
    assert_true(config_set(&c, "logfile", "\xff\xfe", false, why, sizeof why));
    status_json(&s, &c, &out);
    root = json_loadb(buf_head(&out), out.len, 0, &error);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "state")), "serving");
    assert_true(json_is_true(json_object_get(root, "ready")));
    assert_int_equal(json_integer_value(json_object_get(root, "lag_ms")), 1234);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "commit_us"), "count")), 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "settings"), "valkey-password")), "");
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "settings"), "logfile")),
                        "(not UTF-8)");
    assert_string_equal(json_string_value(json_object_get(root, "node")), "a");
    check_members(json_object_get(root, "members"));
    json_decref(root);
    buf_clear(&out);
    status_members_json(&s, "", "add c: done", &out);
    root = json_loadb(buf_head(&out), out.len, 0, &error);
    assert_string_equal(json_string_value(json_object_get(root, "leader")), "b");
    check_members(json_object_get(root, "members"));
    json_decref(root);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_have_inclusive_bounds),
        cmocka_unit_test(quantiles_are_upper_bounds),
        cmocka_unit_test(info_section),
        cmocka_unit_test(metrics_page),
        cmocka_unit_test(json_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

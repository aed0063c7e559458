/* holdfast ctl: what the admin port knows, for people.
 *
 *     NAME  ZONE  ADDRESS         ROLE   STATE   LEADER  LOG  BEHIND  VALKEY  SNAPSHOT  HEARD   SKEW
 *     a     az-a  127.0.0.1:7001  voter  self    yes     42   0       -       -         -       0 ms
 *     b     az-b  127.0.0.1:7002  voter  online  -       40   2       40      17        31 ms   1 ms
 *
 * LOG, VALKEY and SNAPSHOT are entries of the log: how far its log, its Valkey and its newest snapshot are. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "log/base/buf.h"
#include "proxy/ctl_internal.h"

enum { HTTP_DONE = 200 };

/* ---------------------------------------------------------------- tables */

static const char *const titles[] = {"NAME", "ZONE",   "ADDRESS", "ROLE",     "STATE", "LEADER",
                                     "LOG",  "BEHIND", "VALKEY",  "SNAPSHOT", "HEARD", "SKEW"};
enum { COLUMNS = sizeof titles / sizeof *titles, ROWS_MAX = 16, CELL_BYTES = 168 };

struct table {
    char cell[ROWS_MAX][COLUMNS][CELL_BYTES];
    size_t rows;
};

static void set_count(char cell[CELL_BYTES], const json_t *object, const char *key, const char *unit)
{
    const json_t *value = json_object_get(object, key);

    if (json_is_integer(value) && (json_integer_value(value) != 0 || unit[0] != '\0'))
        (void)snprintf(cell, CELL_BYTES, "%" PRId64 "%s", (int64_t)json_integer_value(value), unit);
    else
        (void)snprintf(cell, CELL_BYTES, "-");
}

static void add_member(struct table *t, const json_t *m, int64_t committed)
{
    char(*row)[CELL_BYTES] = t->cell[t->rows++];
    static const char *const texts[] = {"name", "zone", "address", "role", "state"};
    int64_t match = ctl_number(m, "match_index");

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        (void)snprintf(row[i], CELL_BYTES, "%s", ctl_text(m, texts[i]));
    if (ctl_yes(m, "draining"))
        (void)snprintf(row[4], CELL_BYTES, "draining");
    (void)snprintf(row[5], CELL_BYTES, "%s", ctl_yes(m, "leader") ? "yes" : "-");
    set_count(row[6], m, "match_index", "");
    if (match > 0)
        (void)snprintf(row[7], CELL_BYTES, "%" PRId64, committed > match ? committed - match : 0);
    else
        (void)snprintf(row[7], CELL_BYTES, "-"); /* only the leader knows it of others */
    set_count(row[8], m, "fed_index", "");
    set_count(row[9], m, "snapshot_index", "");
    if (ctl_yes(m, "self"))
        (void)snprintf(row[10], CELL_BYTES, "-");
    else
        set_count(row[10], m, "heard_ms_ago", " ms");
    set_count(row[11], m, "clock_skew_ms", " ms");
}

static void put_table(struct buf *out, const struct table *t)
{
    int width[COLUMNS] = {0};

    for (size_t r = 0; r < t->rows; r++)
        for (size_t k = 0; k < COLUMNS; k++)
            if ((int)strlen(t->cell[r][k]) > width[k])
                width[k] = (int)strlen(t->cell[r][k]);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t k = 0; k < COLUMNS; k++)
            if (k + 1 < COLUMNS)
                buf_printf(out, "%-*s  ", width[k], t->cell[r][k]);
            else
                buf_printf(out, "%s\n", t->cell[r][k]);
}

void ctl_members_table(struct buf *out, const json_t *members, int64_t committed)
{
    struct table t = {.rows = 1};
    const json_t *m;
    size_t i;

    for (size_t k = 0; k < COLUMNS; k++)
        (void)snprintf(t.cell[0][k], CELL_BYTES, "%s", titles[k]);
    json_array_foreach(members, i, m) if (t.rows < ROWS_MAX) add_member(&t, m, committed);
    if (t.rows == 1)
        buf_text(out, "no members: this node is alone\n");
    else
        put_table(out, &t);
}

void ctl_problems(struct buf *out, const json_t *status)
{
    const json_t *problem;
    size_t i;

    json_array_foreach(json_object_get(status, "problems"), i, problem)
    {
        buf_printf(out, "%-11s %s\n            %s\n", ctl_text(problem, "severity"), ctl_text(problem, "what"),
                   ctl_text(problem, "todo"));
    }
}

static void print(struct buf *out)
{
    (void)fwrite(buf_head(out), 1, out->len, stdout);
    buf_free(out);
}

/* ---------------------------------------------------------------- reading */

int ctl_show_members(const struct ctl *c)
{
    struct ctl_answer answer;
    struct buf table = {0};
    json_t *object;

    if (!ctl_request(c, false, "/members", &answer))
        return CTL_UNREACHABLE;
    object = c->json ? NULL : ctl_object(&answer);
    if (c->json)
        ctl_print_body(&answer);
    else if (object != NULL) {
        ctl_members_table(&table, json_object_get(object, "members"), ctl_number(object, "log_committed"));
        print(&table);
        if (ctl_text(object, "busy")[0] != '\0')
            printf("under way: %s\n", ctl_text(object, "busy"));
        if (ctl_text(object, "last")[0] != '\0')
            printf("last: %s\n", ctl_text(object, "last"));
    }
    buf_free(&answer.body);
    json_decref(object);
    return (c->json && answer.code == HTTP_DONE) || object != NULL ? CTL_OK : CTL_FAILED;
}

static void print_valkey(const json_t *s)
{
    time_t now = time(NULL), taken = (time_t)(ctl_number(s, "snapshot_unix_ms") / 1000);

    printf("Valkey      %s%s", ctl_text(s, "valkey_version")[0] != '\0' ? ctl_text(s, "valkey_version") : "none",
           ctl_yes(s, "snapshot_running") ? ", a snapshot is being taken" : "");
    if (taken > 0)
        printf(", newest snapshot at entry %" PRId64 ", %lld s ago", ctl_number(s, "snapshot_index"),
               (long long)(now > taken ? now - taken : 0));
    printf("\n");
}

static void print_status(const json_t *s, const char *readiness)
{
    struct buf out = {0};

    printf("node        %s%s%s of %s, version %s\n", ctl_text(s, "node"),
           ctl_text(s, "zone")[0] != '\0' ? " in " : "", ctl_text(s, "zone"), ctl_text(s, "cluster"),
           ctl_text(s, "version"));
    printf("role        %s", ctl_text(s, "role"));
    if (strcmp(ctl_text(s, "role"), "follower") == 0)
        printf(" of %s", ctl_text(s, "leader"));
    printf(", term %" PRId64 "\n", ctl_number(s, "term"));
    printf("state       %s, %s%s\n", ctl_text(s, "state"),
           ctl_yes(s, "ready") ? "ready" : "not ready: ", ctl_yes(s, "ready") ? "" : readiness);
    printf("durability  %s, oldest write not durable %" PRId64 " ms (at most %" PRId64 " ms), %" PRId64
           " bytes pending\n",
           ctl_text(s, "mode"), ctl_number(s, "lag_ms"), ctl_number(s, "lag_max_ms"), ctl_number(s, "pending_bytes"));
    printf("log         entries %" PRId64 " to %" PRId64 ", committed %" PRId64 ", %" PRId64 " of %" PRId64
           " bytes\n",
           ctl_number(s, "log_first_index"), ctl_number(s, "log_index"), ctl_number(s, "log_committed"),
           ctl_number(s, "log_bytes"), ctl_number(s, "log_size_max_bytes"));
    print_valkey(s);
    printf("clients     %" PRId64 "\n", ctl_number(s, "sessions"));
    if (ctl_yes(s, "single_zone") && json_array_size(json_object_get(s, "members")) <= 1)
        printf("warning     the loss of one zone can stop this group, or lose what it has acknowledged\n");
    ctl_problems(&out, s);
    buf_text(&out, "\n");
    ctl_members_table(&out, json_object_get(s, "members"), ctl_number(s, "log_committed"));
    print(&out);
}

int ctl_show_status(const struct ctl *c)
{
    struct ctl_answer answer, readiness;
    json_t *object;

    if (!ctl_request(c, false, "/status", &answer))
        return CTL_UNREACHABLE;
    object = c->json ? NULL : ctl_object(&answer);
    if (c->json) {
        ctl_print_body(&answer);
    } else if (object != NULL && ctl_request(c, false, "/readyz", &readiness)) {
        buf_append(&readiness.body, "", 1);
        ((char *)buf_head(&readiness.body))[strcspn(buf_head(&readiness.body), "\n")] = '\0';
        print_status(object, buf_head(&readiness.body));
        buf_free(&readiness.body);
    }
    buf_free(&answer.body);
    json_decref(object);
    return (c->json && answer.code == HTTP_DONE) || object != NULL ? CTL_OK : CTL_FAILED;
}

int ctl_show_ready(const struct ctl *c)
{
    struct ctl_answer answer;
    int code;

    if (!ctl_request(c, false, "/readyz", &answer))
        return CTL_UNREACHABLE;
    ctl_print_body(&answer);
    code = answer.code == HTTP_DONE ? CTL_OK : CTL_FAILED;
    buf_free(&answer.body);
    return code;
}

int ctl_show_mode(const struct ctl *c)
{
    struct ctl_answer answer;
    json_t *object;
    bool ok;

    if (!ctl_request(c, false, "/status", &answer))
        return CTL_UNREACHABLE;
    object = ctl_object(&answer);
    if (object != NULL && strcmp(ctl_text(object, "role"), "follower") == 0) { /* what it has read at its start */
        fprintf(stderr, "holdfast ctl: this node does not lead: ask the leader, %s\n", ctl_text(object, "leader"));
        json_decref(object);
        object = NULL;
    }
    ok = object != NULL && ctl_text(object, "mode")[0] != '\0';
    if (ok && c->json)
        printf("{\"mode\": \"%s\"}\n", ctl_text(object, "mode"));
    else if (ok)
        printf("%s\n", ctl_text(object, "mode"));
    buf_free(&answer.body);
    json_decref(object);
    return ok ? CTL_OK : CTL_FAILED;
}

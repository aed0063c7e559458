/* The release rule by hand: the five schedules that design section 5 names, each of which loses a write, or shows one
 * that is lost, without the clause that it is about; and others that once went wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "log/base/diag.h"
#include "proxy/canon.h"
#include "proxy/sequencer.h"
#include "tests/unit/sim_valkey.h"

enum { OPS = 8 };
struct stage {
    struct seq *s;
    uint64_t open, offset, appended; /* appended: newest entry that holds something */
    struct op op[OPS];
    bool forwarded[OPS], released[OPS];
};

static void carry_out(struct stage *t)
{
    struct seq_decision d;

    while (seq_next(t->s, &d)) {
        if (d.act == SEQ_RELEASE)
            t->released[d.op - t->op] = true;
        else if (d.act == SEQ_FORWARD)
            t->forwarded[d.op - t->op] = true;
        else if (d.act == SEQ_REOPEN)
            seq_lane_opened(t->s);
        else if (d.act == SEQ_INTENT || d.act == SEQ_OUTCOME)
            t->appended = t->open;
        else if (d.act == SEQ_URGE)
            assert_int_equal(t->appended, t->open); /* the log is never urged to commit an empty batch */
        buf_free(&d.items);
    }
}

static void seal(struct stage *t) /* what comes now goes into the next entry */
{
    seq_log_open(t->s, ++t->open);
}

static void commit_sealed(struct stage *t)
{
    seq_committed(t->s, t->open - 1);
    carry_out(t);
}

static void commit(struct stage *t) /* everything that was appended */
{
    seal(t);
    commit_sealed(t);
}

static void marker(struct stage *t)
{
    uint64_t resolves, n = seq_marker_sent(t->s, t->offset, &resolves);

    t->offset += 10;
    assert_true(seq_marker_seen(t->s, n, resolves, t->offset));
    carry_out(t);
}

static struct stage *stage_open(const char *without)
{
    struct stage *t = must_calloc(1, sizeof *t);
    struct replay_facts facts = {.next_seq = 1};

    t->s = seq_new();
    if (without != NULL)
        seq_without(t->s, without);
    seq_log_open(t->s, t->open = 1);
    seq_track(t->s, true);
    seq_attach(t->s, &facts, false);
    marker(t);
    commit(t);
    assert_true(seq_lane_is_open(t->s));
    return t;
}

static void stage_close(struct stage *t)
{
    seq_detach(t->s);
    carry_out(t);
    for (int i = 0; i < OPS; i++) {
        buf_free(&t->op[i].request);
        keyset_clear(&t->op[i].keys);
        free(t->op[i].args);
    }
    seq_free(t->s);
    free(t);
}

/* "COPY s t" as RESP; one letter in lower case is a key. */
static void encode(const char *text, struct buf *out, struct keyset *keys)
{
    char copy[64];
    const char *words[8];
    size_t n = 0;

    assert_true(strlen(text) < sizeof copy);
    strcpy(copy, text);
    for (char *at = strtok(copy, " "); at != NULL; at = strtok(NULL, " ")) {
        words[n++] = at;
        if (strlen(at) == 1 && *at >= 'a' && *at <= 'z')
            keyset_add(keys, key_hash(0, at, 1));
    }
    buf_printf(out, "*%zu\r\n", n);
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
}

static struct op *new_op(struct stage *t, int i, enum op_kind kind, const char *text)
{
    struct op *op = &t->op[i];

    op->session = (struct session *)t; /* somebody's */
    op->kind = kind;
    op->sync = true;
    encode(text, &op->request, &op->keys);
    op_hash_effect(op);
    return op;
}

static void lane_write(struct stage *t, int i, const char *text)
{
    seq_write(t->s, new_op(t, i, OP_WRITE, text), 1);
    carry_out(t);
}

static void captured(struct stage *t, int i, const char *text) /* on its own connection; its reply comes at once */
{
    struct op *op = new_op(t, i, OP_CAPTURED, text);

    seq_begin(t->s, op);
    seq_end(t->s, op, 1);
    carry_out(t);
}

static void effect(struct stage *t, const char *text, bool unit)
{
    struct buf bytes = {0};
    struct keyset keys = {0};
    struct arg words[SIM_WORDS_MAX];
    struct argv single = {0};
    size_t used;
    struct seq_effect e = {.single = unit ? NULL : &single, .keys = &keys};

    encode(text, &bytes, &keys);
    e.bytes = single.bytes = buf_head(&bytes);
    e.n = single.n = bytes.len;
    single.arg = words;
    single.count = unit ? 0 : cmd_words(e.bytes, e.n, words, &used);
    e.end_offset = t->offset += bytes.len;
    seq_effect(t->s, &e);
    carry_out(t);
    buf_free(&bytes);
    keyset_clear(&keys);
}

static void reply(struct stage *t, int i, bool error)
{
    t->op[i].error = error;
    seq_lane_reply(t->s, &t->op[i], 1);
    carry_out(t);
}

static void read_key(struct stage *t, int i, const char *text)
{
    seq_read(t->s, new_op(t, i, OP_READ, text));
    carry_out(t);
}

/* SPOP s captured, COPY s t, SADD t y: what t holds came from a pop that is not durable. */
static void copied(struct stage *t)
{
    lane_write(t, 1, "COPY s t");
    lane_write(t, 2, "SADD t Y");
    seal(t);
    captured(t, 0, "SPOP s");
    effect(t, "SREM s X", false);
    marker(t); /* the pop is over, its OUTCOME is in the next entry */
    commit_sealed(t);
    assert_true(t->forwarded[1] && t->forwarded[2]);
    effect(t, "COPY s t", false);
    effect(t, "SADD t Y", false);
    reply(t, 1, false);
    reply(t, 2, false);
    marker(t);
}

static void test_data_carried_on(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    copied(t);
    assert_false(t->released[0] || t->released[1] || t->released[2]);
    commit(t);
    assert_true(t->released[0] && t->released[1] && t->released[2]);
    stage_close(t);
    t = stage_open("taint-follows-data");
    copied(t);
    assert_true(t->released[2] && !t->released[0]);
    stage_close(t);
}

/* INCR k refused by -OOM, then INCR k: the one effect is taken for the first one's; replay would do both. */
static void refused_and_not(struct stage *t)
{
    lane_write(t, 0, "INCR k");
    lane_write(t, 1, "INCR k");
    commit(t);
    effect(t, "INCR k", false);
    reply(t, 0, true);
    reply(t, 1, false);
    marker(t);
}

static void test_refused_then_the_same(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    refused_and_not(t);
    assert_false(t->released[0] || t->released[1]);
    commit(t);
    assert_true(t->released[0] && t->released[1]);
    stage_close(t);
    t = stage_open("no-effect-taints");
    refused_and_not(t);
    assert_true(t->released[1]);
    stage_close(t);
}

/* A script's LPOP l beside a pending LPOP l on the lane, with RENAME l m between. */
static void test_equal_bytes_of_a_script(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    seq_begin(t->s, new_op(t, 0, OP_CAPTURED, "EVAL l"));
    lane_write(t, 1, "RENAME l m");
    lane_write(t, 2, "LPOP l");
    commit(t);
    effect(t, "LPOP l", false); /* the script's */
    effect(t, "RENAME l m", false);
    reply(t, 1, false);
    reply(t, 2, false); /* nil: l is gone */
    marker(t);
    read_key(t, 3, "LRANGE m");
    assert_false(t->released[1] || t->released[2] || t->released[3]);
    seq_end(t->s, &t->op[0], 1);
    carry_out(t);
    marker(t); /* the read waited for the script, which may have touched m for all we know: it named l alone */
    assert_false(t->released[0] || t->released[1] || t->released[2] || t->released[3]);
    commit(t);
    assert_true(t->released[0] && t->released[1] && t->released[2] && t->released[3]);
    stage_close(t);
}

/* k over its TTL, INCR k, GET k: Valkey deletes k first; replay of the intent alone would go on from the old value.
 */
static void over_its_ttl(struct stage *t)
{
    lane_write(t, 0, "INCR k");
    commit(t);
    effect(t, "MULTI UNLINK k INCR k EXEC", true);
    reply(t, 0, false);
    read_key(t, 1, "GET k");
    assert_false(t->released[1]); /* the lane's marker is under way */
    marker(t);
}

static void test_expired_key(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    over_its_ttl(t);
    assert_false(t->released[0] || t->released[1]);
    commit(t);
    assert_true(t->released[0] && t->released[1]);
    stage_close(t);
    t = stage_open("reads-wait");
    over_its_ttl(t);
    assert_true(t->released[1]);
    stage_close(t);
}

/* SPOP s seen, not durable, SMEMBERS s: the member must not come back. */
static void popped(struct stage *t)
{
    captured(t, 0, "SPOP s");
    effect(t, "SREM s X", false);
    marker(t);
    read_key(t, 1, "SMEMBERS s");
    read_key(t, 2, "SMEMBERS u"); /* another key has nothing to wait for */
    assert_true(t->released[2]);
}

static void test_read_of_a_pop(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    popped(t);
    assert_false(t->released[0] || t->released[1]);
    commit(t);
    assert_true(t->released[0] && t->released[1]);
    stage_close(t);
    t = stage_open("reads-wait");
    popped(t);
    assert_true(t->released[1] && !t->released[0]);
    stage_close(t);
}

/* WAIT while an intent is with the log's writer and the open entry is empty: it waits for the intent's entry. */
static void test_wait_beside_a_commit(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    lane_write(t, 0, "SET k 1");
    seal(t);
    t->op[1].kind = OP_LOCAL;
    seq_wait(t->s, &t->op[1]);
    carry_out(t);
    marker(t);
    assert_false(t->released[1]);
    commit_sealed(t);
    assert_true(t->released[1] && t->forwarded[0]);
    stage_close(t);
}

/* The lane breaks while the OUTCOME before is with the writer, and recovers with nothing new to say. */
static void test_lane_recovers_beside_a_commit(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    captured(t, 0, "SPOP s");
    effect(t, "SREM s a", false);
    marker(t);
    seal(t);
    seq_lane_broken(t->s, 7);
    carry_out(t);
    seq_killed(t->s, 7);
    carry_out(t);
    marker(t);
    assert_false(seq_lane_is_open(t->s));
    commit_sealed(t);
    assert_true(seq_lane_is_open(t->s) && t->released[0]);
    stage_close(t);
}

/* A script's PUSH a X beside a pending GETPUSH a X, which reaches the stream as PUSH a X too; then the same PUSH is
 * refused. Were the script's effect taken for the GETPUSH's, that one's would be taken for the refused one's, and
 * nobody would know that replay pushes twice before it deletes. */
static void rewritten(struct stage *t)
{
    struct op *get = new_op(t, 1, OP_WRITE, "GETPUSH a X");
    uint64_t number, resolves;
    size_t used;

    captured(t, 0, "EVAL a");
    number = seq_marker_sent(t->s, t->offset, &resolves);
    get->canon = canon_find("getpush");
    get->args = must_calloc(SIM_WORDS_MAX, sizeof *get->args);
    get->arg_count = cmd_words(buf_head(&get->request), get->request.len, get->args, &used);
    seq_write(t->s, get, 1);
    carry_out(t);
    lane_write(t, 2, "PUSH a X");
    commit(t);
    effect(t, "PUSH a X", false); /* the script's */
    assert_true(seq_marker_seen(t->s, number, resolves, t->offset += 10));
    carry_out(t);
    lane_write(t, 3, "DEL a");
    commit(t);
    assert_true(t->released[0] && t->forwarded[3]);
    effect(t, "PUSH a X", false); /* the GETPUSH's */
    effect(t, "DEL a", false);
    reply(t, 1, false);
    reply(t, 2, true);
    reply(t, 3, false);
    marker(t);
}

static void test_rewritten_beside_its_equal(void **state)
{
    struct stage *t = stage_open(NULL);

    (void)state;
    rewritten(t);
    assert_false(t->released[1] || t->released[2] || t->released[3]);
    commit(t);
    assert_true(t->released[1] && t->released[2] && t->released[3]);
    stage_close(t);
    t = stage_open("rewritten-in-time");
    rewritten(t);
    assert_true(t->released[3]);
    stage_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_carried_on),
        cmocka_unit_test(test_refused_then_the_same),
        cmocka_unit_test(test_equal_bytes_of_a_script),
        cmocka_unit_test(test_expired_key),
        cmocka_unit_test(test_read_of_a_pop),
        cmocka_unit_test(test_wait_beside_a_commit),
        cmocka_unit_test(test_rewritten_beside_its_equal),
        cmocka_unit_test(test_lane_recovers_beside_a_commit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

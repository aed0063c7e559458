/* The feed with a scripted replica: who may come, what PSYNC is answered at every offset, what is durable when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/feed_play.h"

/* ---- who may come ---- */

static void strangers(void **state)
{
    struct play *p = new_play(21, 5);
    char text[128];

    (void)state;
    dial(p);
    say(p, "AUTH wrong\r\n");
    line(p, text, sizeof text);
    assert_true(p->gone);
    dial(p);
    say(p, "PSYNC ? -1\r\n");
    line(p, text, sizeof text);
    assert_true(p->gone);
    dial(p);
    say(p, "*1\r\n$100000000\r\n");
    line(p, text, sizeof text);
    assert_true(p->gone);
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    assert_true(p->began_full == 1 && p->lefts == 0 && !p->closed);
    end_play(p);
}

/* ---- every offset ---- */

/* Ends of commands in the stream, a unit as one: 1 where Valkey can stand. */
static char *boundaries(const char *bytes, size_t n)
{
    char *at = calloc(n + 1, 1);
    size_t i = 0;
    bool unit = false;

    assert_non_null(at);
    at[0] = 1;
    while (i < n) {
        char *end;
        unsigned long count = strtoul(bytes + i + 1, &end, 10);

        if (memcmp(bytes + i, "*1\r\n$5\r\nMULTI", 13) == 0)
            unit = true;
        else if (memcmp(bytes + i, "*1\r\n$4\r\nEXEC", 12) == 0)
            unit = false;
        i = (size_t)(end - bytes) + 2;
        for (; count > 0; count--) {
            unsigned long length = strtoul(bytes + i + 1, &end, 10);

            i = (size_t)(end - bytes) + 2 + length + 2;
        }
        at[i] = !unit;
    }
    return at;
}

static void on_noted(void *arg, bool ok)
{
    assert_true(ok);
    ((struct play *)arg)->noted = true;
}

static bool until_noted(struct fixture *f)
{
    return ((struct play *)f->arg)->noted;
}

static void restore_note(struct play *p, const char *note, size_t n)
{
    p->noted = false;
    log_note(p->w->f.log, "feed", note, n, on_noted, p);
    assert_true(fixture_wait(&p->w->f, until_noted));
}

/* PSYNC from each offset, exact or not. The stream must go on with exactly the bytes of the log, without what was
 * said in between. */
static void every_offset(void **state)
{
    struct play *p = new_play(22, 6);
    char note[LOG_NOTE_BYTES_MAX], id[48], *end, *stream;
    size_t note_n, first, all, continued = 0;

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    first = p->in.len; /* with GETACK; a checkpoint is behind it */
    lead_entries(p->w, &p->l, 6);
    feed_more(p->feed);
    fixture_turns(&p->w->f, 30);
    all = p->in.len;
    assert_true(all > first + 100);
    stream = malloc(all);
    assert_non_null(stream);
    memcpy(stream, buf_head(&p->in), all);
    end = boundaries(stream, all);
    (void)snprintf(id, sizeof id, "%s", p->replid);
    close_feed(p);
    note_n = log_noted(p->w->f.log, "feed", note, sizeof note);
    for (size_t at = 0; at <= all + 2; at++) {
        bool good = at <= all && end[at], before = at + GETACK_BYTES <= first;
        size_t rest = all - at - (before ? GETACK_BYTES : 0);

        restore_note(p, note, note_n);
        open_feed(p, NULL, RUN_ID);
        assert_int_equal(sync_from(p, id, (int64_t)at + 1), good);
        if (good) {
            continued++;
            wait_bytes(p, rest + GETACK_BYTES);
            if (before)
                assert_memory_equal(buf_head(&p->in), stream + at, first - GETACK_BYTES - at);
            assert_memory_equal(buf_head(&p->in) + (before ? first - GETACK_BYTES - at : 0),
                                stream + (before ? first : at), before ? all - first : all - at);
            assert_memory_equal(buf_head(&p->in) + rest, GETACK, GETACK_BYTES);
        }
        close_feed(p);
    }
    assert_true(continued > 10);
    restore_note(p, note, note_n);
    open_feed(p, NULL, "another-run"); /* restarted: its state may be another one's */
    assert_false(sync_from(p, id, (int64_t)first + 1));
    close_feed(p);
    restore_note(p, note, note_n);
    open_feed(p, NULL, RUN_ID);
    assert_false(sync_from(p, "0123456789012345678901234567890123456789", (int64_t)first + 1));
    free(end);
    free(stream);
    end_play(p);
}

/* The checkpoint tells of a GETACK (a PING, likewise) that was never sent: what goes out instead must not be taken
 * for it by the next process. */
static void crash_between_note_and_ping(void **state)
{
    struct play *p = new_play(23, 6);
    char note[LOG_NOTE_BYTES_MAX], id[48];
    size_t note_n, first;

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    first = p->in.len - GETACK_BYTES;
    (void)snprintf(id, sizeof id, "%s", p->replid);
    close_feed(p);
    note_n = log_noted(p->w->f.log, "feed", note, sizeof note);
    lead_entries(p->w, &p->l, 6);
    restore_note(p, note, note_n);
    open_feed(p, NULL, RUN_ID);
    assert_true(sync_from(p, id, (int64_t)first + 1)); /* it has not seen GETACK */
    wait_bytes(p, 40);                                 /* some of what comes now ... */
    close_feed(p);                                     /* ... and we die again */
    open_feed(p, NULL, RUN_ID);
    assert_false(sync_from(p, id, (int64_t)first + GETACK_BYTES + 1)); /* no proof from the one that is not true */
    end_play(p);
}

/* The log is cut behind a newer snapshot: no proof any more, and the snapshot is what is fed. */
static void on_stored(void *arg, bool ok)
{
    assert_true(ok);
    ((struct play *)arg)->noted = true;
}

static void truncated(void **state)
{
    static const char rdb[] = "any bytes will do here";
    struct play *p = new_play(28, 8);
    struct snapshot_writer *writer;
    struct replay *walk = replay_new(p->w->f.log, NULL);
    struct replay_place place;
    char id[48], why[128];
    uint64_t at;

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    at = p->in.len;
    (void)snprintf(id, sizeof id, "%s", p->replid);
    lead_entries(p->w, &p->l, 8);
    while (replay_step(walk, NULL, 1000))
        continue;
    replay_place(walk, &place);
    replay_free(walk);
    writer = snapshot_begin(p->w->f.log, why, sizeof why);
    assert_true(writer != NULL && snapshot_write(writer, rdb, sizeof rdb));
    snapshot_finish(writer, &place.mark, on_stored, p);
    assert_true(fixture_wait(&p->w->f, until_noted));
    lead_entries(p->w, &p->l, 3);
    log_truncate(p->w->f.log, place.mark.log_from); /* what the feed has perhaps not read yet */
    feed_more(p->feed);
    fixture_turns(&p->w->f, 50);
    assert_true(p->lefts <= 1 && !p->closed && !p->w->f.failed);
    assert_false(sync_from(p, id, (int64_t)at + 1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    close_feed(p);
    open_feed(p, NULL, RUN_ID);
    assert_false(sync_from(p, id, (int64_t)at + 1));
    end_play(p);
}

/* ---- PING ---- */

static bool until_ping(struct fixture *f)
{
    struct play *p = f->arg;

    return p->in.len >= PING_BYTES && memcmp(buf_head(&p->in) + p->in.len - PING_BYTES, PING, PING_BYTES) == 0;
}

static void ping_is_behind_a_checkpoint(void **state)
{
    struct play *p = new_play(24, 4);

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    for (int i = 0; i < 2; i++) {
        struct checkpoints *noted;
        const struct checkpoint *k;
        char id[48];

        assert_true(fixture_wait(&p->w->f, until_ping));
        noted = checkpoints_new(p->w->f.log);
        k = checkpoints_newest(noted);
        assert_non_null(k);
        assert_int_equal(k->offset, p->in.len);
        assert_int_equal(k->extra, PING_BYTES);
        assert_non_null(checkpoints_for(noted, p->replid, RUN_ID, p->in.len - PING_BYTES));
        assert_null(checkpoints_for(noted, p->replid, RUN_ID, p->in.len - 3));
        checkpoints_free(noted);
        ack(p, p->in.len);
        (void)snprintf(id, sizeof id, "%s", p->replid);
        lead_entries(p->w, &p->l, 3);
        feed_more(p->feed);
        fixture_turns(&p->w->f, 20);
    }
    end_play(p);
}

/* ---- the same feed, again ---- */

static void comes_again(void **state)
{
    struct play *p = new_play(25, 6);
    uint64_t at;

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    at = p->in.len;
    for (int i = 1; i < 10; i++) {
        char id[48];

        hang_up(p);
        lead_entries(p->w, &p->l, (size_t)i % 3);
        (void)snprintf(id, sizeof id, "%s", p->replid);
        fixture_turns(&p->w->f, 5);
        assert_true(sync_from(p, id, (int64_t)at + 1));
        take_all(p);
        assert_true(fixture_wait(&p->w->f, until_all_acked));
        at += p->in.len;
        assert_int_equal(p->lefts, i);
        assert_int_equal(p->began_partial, i);
    }
    feed_resync(p->feed);
    assert_false(sync_from(p, p->replid, (int64_t)at + 1));
    take_all(p);
    assert_int_equal(p->began_full, 2);
    end_play(p);
}

/* ---- from a primary's own stream ---- */

static void proven(void **state)
{
    static const char own[] = "fedcba9876543210fedcba9876543210fedcba98";
    struct play *p = new_play(26, 10);
    struct feed_proof proof = {.offset = 5000};

    (void)state;
    (void)snprintf(proof.replid, sizeof proof.replid, "%s", own);
    proof.index = log_committed(p->w->f.log);
    lead_entries(p->w, &p->l, 5);
    close_feed(p);
    open_feed(p, &proof, RUN_ID);
    assert_false(sync_from(p, own, 5002)); /* one byte more than was proven */
    close_feed(p);
    open_feed(p, &proof, RUN_ID);
    assert_true(sync_from(p, own, 5001));
    assert_string_not_equal(p->replid, own);
    take_all(p);
    assert_memory_equal(buf_head(&p->in), "*2\r\n$6\r\nSELECT\r\n", 16);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    end_play(p);
}

/* ---- the end ---- */

static bool until_complete(struct fixture *f)
{
    return ((struct play *)f->arg)->complete;
}

static bool until_closed(struct fixture *f)
{
    return ((struct play *)f->arg)->closed;
}

static void finishes(void **state)
{
    struct play *p = new_play(27, 6);
    char id[48];
    uint64_t at;

    (void)state;
    assert_false(sync_from(p, "?", -1));
    take_all(p);
    assert_true(fixture_wait(&p->w->f, until_all_acked));
    buf_consume(&p->in, p->in.len);
    feed_finish(p->feed, log_committed(p->w->f.log) + 1); /* an entry that is still to come */
    fixture_turns(&p->w->f, 50);
    assert_int_equal(p->in.len, 0);
    lead_raw(p->w, "SET last 1");
    feed_more(p->feed);
    assert_true(fixture_wait(&p->w->f, until_getack));
    at = feed_offset(p->feed);
    assert_false(p->complete);
    ack(p, at - GETACK_BYTES);
    assert_true(fixture_wait(&p->w->f, until_complete));
    (void)snprintf(id, sizeof id, "%s", p->replid);
    assert_null(checkpoints_newest(p->checkpoints));
    close_feed(p);
    open_feed(p, NULL, RUN_ID); /* nothing proves what was made of it */
    assert_false(sync_from(p, id, (int64_t)at + 1));
    feed_finish(p->feed, log_committed(p->w->f.log));
    hang_up(p);
    assert_true(fixture_wait(&p->w->f, until_closed)); /* and a break is the end */
    end_play(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(strangers),
                                       cmocka_unit_test(every_offset),
                                       cmocka_unit_test(crash_between_note_and_ping),
                                       cmocka_unit_test(truncated),
                                       cmocka_unit_test(ping_is_behind_a_checkpoint),
                                       cmocka_unit_test(comes_again),
                                       cmocka_unit_test(proven),
                                       cmocka_unit_test(finishes)};

    return cmocka_run_group_tests_name("feed", tests, NULL, NULL);
}

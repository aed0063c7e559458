/* What a store refuses: our own mistakes, by ending the process before anything is written; and what it does not
 * know, by not opening. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/store_small.h"

/* ---- our own mistakes ---- */

static void mistake_second_vote(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
}

static void mistake_vote_taken_back(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 1}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
}

static void mistake_term_sinks(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){4, 0}}, s->f.why);
}

static void mistake_index(struct small *s)
{
    struct record *r = model_record(11, 1, s->running, 5);

    (void)store_write(s->f.s, &(struct store_write){.records = &r, .count = 1}, s->f.why);
}

static void mistake_chain(struct small *s)
{
    struct record *r = model_record(10, 1, (struct hash128){1, 1}, 5);

    (void)store_write(s->f.s, &(struct store_write){.records = &r, .count = 1}, s->f.why);
}

static void mistake_chain_behind_a_cut(struct small *s)
{
    struct record *r = model_record(7, 1, s->running, 5);

    (void)store_write(s->f.s, &(struct store_write){.cut_from = 7, .records = &r, .count = 1}, s->f.why);
}

static void mistake_cut_below_the_base(struct small *s)
{
    struct store_base base = {.index = 5, .term = 1};
    bool more;

    (void)store_truncate_to(s->f.s, 2, &base, &more, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.cut_from = 5}, s->f.why);
}

static void mistake_truncate_beyond_the_base(struct small *s)
{
    struct store_base base = {.index = 5, .term = 1};
    bool more;

    (void)store_truncate_to(s->f.s, 7, &base, &more, s->f.why);
}

static void mistake_another_group(struct small *s)
{
    static const char a[STORE_CLUSTER_BYTES] = "a", b[STORE_CLUSTER_BYTES] = "b";

    (void)store_put_cluster(s->f.s, a, s->f.why);
    (void)store_put_cluster(s->f.s, b, s->f.why);
}

static void nothing_wrong(struct small *s)
{
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 0}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
    (void)store_write(s->f.s, &(struct store_write){.hard = &(struct store_hard){5, 2}}, s->f.why);
}

static bool aborts(void (*wrong)(struct small *s))
{
    struct small s;
    int status, pid;

    small_new(&s);
    small_append(&s, 9, 1);
    store_fixture_close(&s.f);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        (void)signal(SIGABRT, SIG_DFL);
        store_fixture_open(&s.f);
        wrong(&s);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    store_fixture_open(&s.f); /* and the log is well */
    small_expect(&s, store_state(s.f.s).first, 9);
    small_free(&s);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_our_mistakes_end_the_process(void **state)
{
    static void (*const mistakes[])(struct small * s) = {
        mistake_second_vote,
        mistake_vote_taken_back,
        mistake_term_sinks,
        mistake_index,
        mistake_chain,
        mistake_chain_behind_a_cut,
        mistake_cut_below_the_base,
        mistake_truncate_beyond_the_base,
        mistake_another_group,
    };

    (void)state;
    assert_false(aborts(nothing_wrong));
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++)
        if (!aborts(mistakes[i]))
            fail_msg("mistake %zu is not noticed", i);
}

/* ---- what is refused at opening ---- */

static void overwrite(const struct store_fixture *f, const void *find, size_t n, size_t at, char byte)
{
    char path[256];
    struct buf file = {0};
    int fd;
    ssize_t got;

    (void)snprintf(path, sizeof path, "%s/log/data.mdb", f->dir);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    while ((got = read(fd, buf_tail(&file, 65536), 65536)) > 0)
        buf_grew(&file, (size_t)got);
    for (size_t i = 0; i + n <= file.len; i++)
        if (memcmp(buf_head(&file) + i, find, n) == 0)
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)(i + at)), 1);
    (void)close(fd);
    buf_free(&file);
}

static void test_another_format_is_refused(void **state)
{
    struct store_fixture f;
    struct buf identity = {0};

    (void)state;
    store_fixture_new(&f);
    store_fixture_open(&f);
    buf_text(&identity, "identity");
    buf_u32(&identity, 3);
    store_fixture_close(&f);
    overwrite(&f, buf_head(&identity), identity.len, 8, 1);
    assert_null(store_open(f.dir, "node-1", MODEL_SIZE_MAX_BYTES, true, f.why, sizeof f.why));
    assert_non_null(strstr(f.why, "the log has format 1, this program knows format 3"));
    buf_free(&identity);
    store_fixture_remove(&f);
}

static void test_a_base_that_disagrees_is_refused(void **state)
{
    struct store_base base = {.index = 5, .term = 1, .change_index = 0x1122334455667788};
    struct buf stored = {0};
    struct small s;
    bool more;

    (void)state;
    small_new(&s);
    small_append(&s, 9, 1);
    store_ok(store_truncate_to(s.f.s, 3, &base, &more, s.f.why), s.f.why);
    store_fixture_close(&s.f);
    buf_u64(&stored, 5);
    buf_u64(&stored, 1);
    buf_u64(&stored, base.change_index);
    overwrite(&s.f, buf_head(&stored), stored.len, 8, 2); /* another term */
    assert_null(store_open(s.f.dir, "node-1", MODEL_SIZE_MAX_BYTES, true, s.f.why, sizeof s.f.why));
    assert_non_null(strstr(s.f.why, "its base"));
    small_free(&s);
    buf_free(&stored);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_our_mistakes_end_the_process),
        cmocka_unit_test(test_another_format_is_refused),
        cmocka_unit_test(test_a_base_that_disagrees_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The log beside bare LMDB: the same sizes, one commit per entry, one after another, in turns, on the same file
 * system.
 *
 *     log_bench [directory] [seconds per size and side]
 *
 * Bare LMDB is one thread that puts and commits. The log adds the frame, checksum and chain, the writer thread and
 * two hand-overs. Ratios are what counts: of throughput (log / LMDB; bar 0.8 for large values), and of the median
 * (log / LMDB).
 *
 * Needs the objects of log/ and log/base/, -levent_core -llmdb. */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/log.h"

enum { TIMES_MAX = 100000, ROUNDS = 6, SIDES = 2 };

struct side {
    uint32_t us[TIMES_MAX];
    size_t count;
    uint64_t total_us;
};

struct bare {
    MDB_env *env;
    MDB_dbi entries;
    size_t next;
};

struct subject {
    struct loop *loop;
    struct log *log;
};

static void die(const char *what)
{
    fprintf(stderr, "log_bench: %s\n", what);
    exit(1);
}

static void add(struct side *s, uint64_t us)
{
    if (s->count < TIMES_MAX)
        s->us[s->count++] = (uint32_t)us;
    s->total_us += us;
}

static void bare_open(struct bare *b, const char *dir)
{
    MDB_txn *txn;

    if (mkdir(dir, 0700) != 0 || mdb_env_create(&b->env) != 0 || mdb_env_set_maxdbs(b->env, 1) != 0 ||
        mdb_env_set_mapsize(b->env, (size_t)16 << 30) != 0 || mdb_env_open(b->env, dir, MDB_NOTLS, 0600) != 0 ||
        mdb_txn_begin(b->env, NULL, 0, &txn) != 0 ||
        mdb_dbi_open(txn, "entries", MDB_CREATE | MDB_INTEGERKEY, &b->entries) != 0 || mdb_txn_commit(txn) != 0)
        die("cannot open LMDB");
    b->next = 1;
}

static void bare_commit(struct bare *b, char *bytes, size_t n)
{
    MDB_val key = {sizeof b->next, &b->next}, data = {n, bytes};
    MDB_txn *txn;

    if (mdb_txn_begin(b->env, NULL, 0, &txn) != 0 || mdb_put(txn, b->entries, &key, &data, MDB_APPEND) != 0 ||
        mdb_txn_commit(txn) != 0)
        die("LMDB failed");
    b->next++;
}

static void on_committed(void *arg, uint64_t index)
{
    (void)index;
    loop_stop(((struct subject *)arg)->loop);
}

static void on_failed(void *arg, const char *why)
{
    (void)arg;
    die(why);
}

static void on_stalled(void *arg, bool stalled, const char *why)
{
    (void)arg;
    if (stalled)
        die(why);
}

static bool on_turn(void *arg)
{
    return log_flush(((struct subject *)arg)->log);
}

static void log_setup(struct subject *s, const char *dir)
{
    static const struct log_events events = {
        .committed = on_committed, .stalled = on_stalled, .failed = on_failed};
    struct log_settings settings = {.dir = dir, .size_max_bytes = (uint64_t)64 << 30, .node = "bench"};
    char why[256];

    s->loop = loop_new();
    if (mkdir(dir, 0700) != 0)
        die("cannot make the directory");
    s->log = log_open(s->loop, NULL, &settings, &events, s, why, sizeof why);
    if (s->log == NULL)
        die(why);
    loop_add_hook(s->loop, on_turn, s);
}

static void log_commit(struct subject *s, const char *bytes, size_t n)
{
    frame_intent(log_batch(s->log), 1, 0, bytes, n);
    log_touch(s->log, true);
    loop_run(s->loop);
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static uint32_t quantile(struct side *s, double q)
{
    return s->us[(size_t)((double)(s->count - 1) * q)];
}

static void report(size_t n, struct side *bare, struct side *subject)
{
    double bare_rate = (double)bare->count * (double)n / (double)bare->total_us;
    double log_rate = (double)subject->count * (double)n / (double)subject->total_us;

    qsort(bare->us, bare->count, sizeof bare->us[0], compare);
    qsort(subject->us, subject->count, sizeof subject->us[0], compare);
    printf("%9zu %10.1f %10.1f %6.2f %9u %9u %6.2f %9u %9u\n", n, bare_rate, log_rate, log_rate / bare_rate,
           quantile(bare, 0.5), quantile(subject, 0.5), (double)quantile(subject, 0.5) / (double)quantile(bare, 0.5),
           quantile(bare, 0.99), quantile(subject, 0.99));
    (void)fflush(stdout);
}

/* Fresh files for each size, so that both sides append to a file of equal length. */
static void measure(const char *parent, size_t n, double seconds)
{
    static struct side sides[SIDES];
    struct bare b;
    struct subject s;
    char dir[512];
    char *bytes = must_calloc(1, n);

    memset(sides, 0, sizeof sides);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)rand();
    (void)snprintf(dir, sizeof dir, "%s/bare-%zu", parent, n);
    bare_open(&b, dir);
    (void)snprintf(dir, sizeof dir, "%s/log-%zu", parent, n);
    log_setup(&s, dir);
    for (int turn = 0; turn < ROUNDS * SIDES; turn++) {
        struct side *side = &sides[turn % SIDES];
        uint64_t end = clock_mono_us() + (uint64_t)(seconds * 1e6 / ROUNDS), from, to = 0;

        while (to < end) {
            from = clock_mono_us();
            if (turn % SIDES == 0)
                bare_commit(&b, bytes, n);
            else
                log_commit(&s, bytes, n);
            to = clock_mono_us();
            add(side, to - from);
        }
    }
    report(n, &sides[0], &sides[1]);
    mdb_env_close(b.env);
    log_close(s.log);
    loop_free(s.loop);
    free(bytes);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {100, 4096, 15000, 100000, 1000000, 4000000, 16000000};
    double seconds = argc > 2 ? atof(argv[2]) : 2;
    char parent[256], remove[300];

    (void)snprintf(parent, sizeof parent, "%s/log-bench-XXXXXX", argc > 1 ? argv[1] : "/tmp");
    if (mkdtemp(parent) == NULL)
        die("cannot make a directory");
    printf("%9s %10s %10s %6s %9s %9s %6s %9s %9s\n", "bytes", "LMDB MB/s", "log MB/s", "ratio", "LMDB p50",
           "log p50", "ratio", "LMDB p99", "log p99");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        measure(parent, sizes[i], seconds);
    (void)snprintf(remove, sizeof remove, "rm -rf '%s'", parent);
    return system(remove) == 0 ? 0 : 1;
}

/* Runs a fuzz target without a fuzzer: the corpus, then seeded mutations of it, for some seconds. Any crash or
 * sanitizer report ends it.
 *
 *     fuzz_x SECONDS [FILE or DIRECTORY ...]     FUZZ_SEED=n repeats a run; one FILE and 0 seconds repeats one input
 *
 * A target is one function, int LLVMFuzzerTestOneInput(const uint8_t *, size_t), in tests/fuzz/fuzz_<name>.c; its
 * corpus is tests/fuzz/corpus/<name>/. So the same files work with libFuzzer: clang -fsanitize=fuzzer instead of this
 * file. */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/diag.h"

enum { INPUTS_MAX = 4096, INPUT_BYTES_MAX = 64 * 1024, MUTATIONS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *bytes;
    size_t n;
};
struct run {
    struct input corpus[INPUTS_MAX];
    size_t count;
    uint64_t random, done;
};

static uint64_t next_random(struct run *r) /* xorshift64* */
{
    r->random ^= r->random >> 12;
    r->random ^= r->random << 25;
    r->random ^= r->random >> 27;
    return r->random * 0x2545F4914F6CDD1DULL;
}

static size_t below(struct run *r, size_t bound)
{
    return bound ? (size_t)(next_random(r) % bound) : 0;
}

static void read_file(struct run *r, const char *path)
{
    FILE *f = fopen(path, "rb");
    struct input in;

    if (f == NULL || r->count == INPUTS_MAX) {
        if (f != NULL)
            (void)fclose(f);
        return;
    }
    in.bytes = must_calloc(1, INPUT_BYTES_MAX);
    in.n = fread(in.bytes, 1, INPUT_BYTES_MAX, f);
    (void)fclose(f);
    r->corpus[r->count++] = in;
}

static void read_path(struct run *r, const char *path)
{
    struct stat st;
    struct dirent *entry;
    DIR *dir;

    if (stat(path, &st) != 0)
        return;
    if (!S_ISDIR(st.st_mode)) {
        read_file(r, path);
        return;
    }
    dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char file[8192];

        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        read_file(r, file);
    }
    if (dir != NULL)
        (void)closedir(dir);
}

/* One change in place: a bit, a byte, a run copied from elsewhere or from another input, a cut, a number that
 * matters. */
static void mutate(struct run *r, uint8_t *bytes, size_t *n)
{
    static const char *const words[] = {"\r\n", "-1", "0", "4294967296", "9223372036854775807",
                                        "\"",   "*",  "$", "%",          "\\x"};
    const struct input *other = &r->corpus[below(r, r->count)];
    const char *word;
    size_t at, from, len;

    at = below(r, *n + 1);
    switch (below(r, 6)) {
    case 0:
        if (at < *n)
            bytes[at] = (uint8_t)(bytes[at] ^ (1u << below(r, 8)));
        break;
    case 1:
        if (at < *n)
            bytes[at] = (uint8_t)next_random(r);
        break;
    case 2:
        *n = at;
        break;
    case 3:
        from = below(r, other->n);
        len = below(r, other->n - from + 1);
        if (at + len <= INPUT_BYTES_MAX && len > 0) {
            memcpy(bytes + at, other->bytes + from, len);
            *n = at + len > *n ? at + len : *n;
        }
        break;
    case 4:
        len = below(r, *n - at + 1);
        memmove(bytes + at, bytes + at + len, *n - at - len);
        *n -= len;
        break;
    default:
        word = words[below(r, sizeof words / sizeof *words)];
        len = strlen(word);
        if (*n + len <= INPUT_BYTES_MAX) {
            memmove(bytes + at + len, bytes + at, *n - at);
            memcpy(bytes + at, word, len);
            *n += len;
        }
        break;
    }
}

/* Run on a copy of the exact size, so that a read past the end is seen. */
static void try_input(struct run *r, const uint8_t *bytes, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);

    CHECK(exact != NULL);
    memcpy(exact, bytes, n);
    (void)LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    r->done++;
}

int main(int argc, char **argv)
{
    static const uint8_t nothing[1];
    const char *seed_text = getenv("FUZZ_SEED");
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    uint64_t end_ms = clock_mono_ms() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 3) * 1000;
    struct run *r = must_calloc(1, sizeof *r);
    uint8_t *work = must_calloc(1, INPUT_BYTES_MAX);

    r->random = seed | 1;
    printf("seed %" PRIu64 "\n", seed);
    (void)fflush(stdout);
    for (int i = 2; i < argc; i++)
        read_path(r, argv[i]);
    if (r->count == 0)
        r->corpus[r->count++] = (struct input){must_calloc(1, INPUT_BYTES_MAX), 0};
    try_input(r, nothing, 0);
    for (size_t i = 0; i < r->count; i++)
        try_input(r, r->corpus[i].bytes, r->corpus[i].n);
    while (clock_mono_ms() < end_ms) {
        const struct input *from = &r->corpus[below(r, r->count)];
        size_t n = from->n, changes = 1 + below(r, MUTATIONS_MAX);

        memcpy(work, from->bytes, n);
        for (size_t i = 0; i < changes; i++)
            mutate(r, work, &n);
        try_input(r, work, n);
    }
    printf("%" PRIu64 " inputs, %zu in the corpus, seed %" PRIu64 "\n", r->done, r->count, seed);
    for (size_t i = 0; i < r->count; i++)
        free(r->corpus[i].bytes);
    free(work);
    free(r);
    return 0;
}

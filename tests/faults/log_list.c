/* Prints what a stopped node's log holds: one line for each entry, its index and a hash of its bytes. For comparing
 * the logs of a group, entry by entry; it checks nothing and changes nothing. LMDB's entries first, then those of the
 * file ahead (log/store_ahead.c) whose lap is the one that LMDB names.
 *
 *     log_list DATA-DIR/log */
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static int fail(const char *what, int rc)
{
    fprintf(stderr, "log_list: %s: %s\n", what, mdb_strerror(rc));
    return 1;
}

enum { BLOCK = 4096, SECTOR = 512, SECTOR_TAKES = 504 };
enum { AHEAD_BYTES = 512 * 1024, FRAME_HEADER = 32, ENTRY_HEADER = 48 };

static unsigned long long number(const unsigned char *at, int n)
{
    unsigned long long v = 0;

    while (n-- > 0)
        v = v << 8 | at[n];
    return v;
}

static void print(unsigned long long index, const void *bytes, size_t n)
{
    printf("%llu %016llx %zu\n", index, (unsigned long long)XXH3_64bits(bytes, n), n);
}

static void list_ahead(const char *directory, unsigned long long lap)
{
    static unsigned char file[AHEAD_BYTES];
    char path[4096];
    size_t n, at = 0;
    FILE *f;

    snprintf(path, sizeof path, "%s/ahead", directory);
    if ((f = fopen(path, "rb")) == NULL)
        return;
    n = fread(file, 1, sizeof file, f);
    fclose(f);
    for (unsigned long long frame = 0; at + FRAME_HEADER <= n; frame++) {
        static unsigned char whole[AHEAD_BYTES];
        const unsigned char *head = file + at, *entry = whole + FRAME_HEADER;
        size_t left = (size_t)number(head + 4, 4), all = FRAME_HEADER + left;

        if (memcmp(head, "HFA2", 4) != 0 || number(head + 8, 8) != lap || number(head + 16, 8) != frame ||
            all > n - at)
            return;
        for (size_t i = 0; i * SECTOR_TAKES < all; i++)
            memcpy(whole + i * SECTOR_TAKES, head + i * SECTOR, SECTOR_TAKES);
        if (number(head + 24, 8) != XXH3_64bits_withSeed(entry, left, XXH3_64bits_withSeed(whole, 24, 0)))
            return;
        at += ((all + SECTOR_TAKES - 1) / SECTOR_TAKES * SECTOR + BLOCK - 1) / BLOCK * BLOCK;
        while (left >= ENTRY_HEADER) {
            size_t bytes = ENTRY_HEADER + (size_t)number(entry + 4, 4);

            if (bytes > left)
                return;
            print(number(entry + 8, 8), entry, bytes);
            entry += bytes;
            left -= bytes;
        }
    }
}

int main(int argc, char **argv)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi entries, meta;
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc;

    if (argc != 2) {
        fprintf(stderr, "log_list DIRECTORY\n");
        return 2;
    }
    if ((rc = mdb_env_create(&env)) != 0 || (rc = mdb_env_set_maxdbs(env, 2)) != 0 ||
        (rc = mdb_env_open(env, argv[1], MDB_RDONLY | MDB_NOLOCK, 0600)) != 0)
        return fail(argv[1], rc);
    if ((rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn)) != 0 ||
        (rc = mdb_dbi_open(txn, "entries", 0, &entries)) != 0 || (rc = mdb_cursor_open(txn, entries, &cursor)) != 0)
        return fail("entries", rc);
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t index = 0;

        if (key.mv_size == sizeof index)
            memcpy(&index, key.mv_data, sizeof index);
        print(index, value.mv_data, value.mv_size);
    }
    mdb_cursor_close(cursor);
    key = (MDB_val){5, "ahead"};
    if (mdb_dbi_open(txn, "meta", 0, &meta) == 0 && mdb_get(txn, meta, &key, &value) == 0 && value.mv_size == 8)
        list_ahead(argv[1], number(value.mv_data, 8));
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return rc == MDB_NOTFOUND ? 0 : fail("reading", rc);
}

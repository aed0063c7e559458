/* Prints what a stopped node's log holds: one line for each entry, its index and a hash of its bytes. For comparing
 * the logs of a group, entry by entry; it checks nothing and changes nothing.
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

int main(int argc, char **argv)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi entries;
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
        printf("%zu %016llx %zu\n", index, (unsigned long long)XXH3_64bits(value.mv_data, value.mv_size),
               value.mv_size);
    }
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return rc == MDB_NOTFOUND ? 0 : fail("reading", rc);
}

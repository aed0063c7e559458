/* The sidecar of a snapshot: a few lines of text, the last one the hash64 of all lines before it.
 *
 *     holdfast-snapshot 2
 *     index 4711
 *     effects 2                       (of the OUTCOMEs of entry 4711 that are in the RDB)
 *     log-from 4690
 *     next-seq 90210
 *     taken-ms 1767225600000
 *     replid 8371445ee75bc1b7e9a1dcfe5ab4d8a0e1f1f6aa      ("-": none)
 *     run-id -
 *     offset 1234
 *     db 0
 *     mode 1                          (-1: never said)
 *     rdb-bytes 1048576
 *     rdb-xxh3 0123456789abcdef0123456789abcdef            (128 bits, high half first)
 *     check fedcba9876543210
 *
 * Reading is strict: what was read must be, byte for byte, what would be written. The same text goes to other members
 * with the RDB. */
#include <fcntl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/snapshot_internal.h"

enum { FIELDS = 13 };

static const char none[] = "-";

static bool is_word(const char *text, size_t size)
{
    size_t n = strspn(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_");

    return n < size && text[n] == '\0';
}

size_t sidecar_write(const struct sidecar *c, char *out)
{
    const struct snapshot_mark *m = &c->mark;
    int n, sum;

    if (!is_word(m->replid, sizeof m->replid) || !is_word(m->run_id, sizeof m->run_id))
        return 0;
    n = snprintf(out, SNAPSHOT_SIDECAR_BYTES_MAX,
                 "holdfast-snapshot 2\nindex %" PRIu64 "\neffects %" PRIu64 "\nlog-from %" PRIu64
                 "\nnext-seq %" PRIu64 "\ntaken-ms %" PRIu64 "\nreplid %s\nrun-id %s\noffset %" PRIu64 "\ndb %" PRIu32
                 "\nmode %d\nrdb-bytes %" PRIu64 "\nrdb-xxh3 %016" PRIx64 "%016" PRIx64 "\n",
                 m->index, m->effects, m->log_from, m->next_seq, m->taken_ms, m->replid[0] != '\0' ? m->replid : none,
                 m->run_id[0] != '\0' ? m->run_id : none, m->offset, m->db, m->mode, m->rdb_bytes, c->rdb_hash.high,
                 c->rdb_hash.low);
    CHECK(n > 0 && n < SNAPSHOT_SIDECAR_BYTES_MAX);
    sum = snprintf(out + n, SNAPSHOT_SIDECAR_BYTES_MAX - (size_t)n, "check %016" PRIx64 "\n",
                   hash64(out, (size_t)n, 0));
    CHECK(sum > 0 && n + sum < SNAPSHOT_SIDECAR_BYTES_MAX);
    return (size_t)(n + sum);
}

static void unless_none(char *text)
{
    if (strcmp(text, none) == 0)
        text[0] = '\0';
}

bool sidecar_parse(const char *text, size_t n, struct sidecar *c)
{
    struct snapshot_mark *m = &c->mark;
    char copy[SNAPSHOT_SIDECAR_BYTES_MAX], again[SNAPSHOT_SIDECAR_BYTES_MAX];

    _Static_assert(sizeof m->replid == 48 && sizeof m->run_id == 48, "the widths below");
    *c = (struct sidecar){.rdb_hash = {0, 0}};
    if (n >= sizeof copy)
        return false;
    memcpy(copy, text, n);
    copy[n] = '\0';
    if (sscanf(copy,
               "holdfast-snapshot 2\nindex %" SCNu64 "\neffects %" SCNu64 "\nlog-from %" SCNu64 "\nnext-seq %" SCNu64
               "\ntaken-ms %" SCNu64 "\nreplid %47s\nrun-id %47s\noffset %" SCNu64 "\ndb %" SCNu32
               "\nmode %d\nrdb-bytes %" SCNu64 "\nrdb-xxh3 %16" SCNx64 "%16" SCNx64 "\n",
               &m->index, &m->effects, &m->log_from, &m->next_seq, &m->taken_ms, m->replid, m->run_id, &m->offset,
               &m->db, &m->mode, &m->rdb_bytes, &c->rdb_hash.high, &c->rdb_hash.low) != FIELDS)
        return false;
    unless_none(m->replid);
    unless_none(m->run_id);
    return sidecar_write(c, again) == n && memcmp(copy, again, n) == 0;
}

bool snapshot_sidecar_parse(const char *text, size_t n, struct snapshot_mark *mark, struct hash128 *rdb_hash)
{
    struct sidecar c;

    if (!sidecar_parse(text, n, &c))
        return false;
    *mark = c.mark;
    *rdb_hash = c.rdb_hash;
    return true;
}

bool sidecar_store(const struct snapshots *s, uint64_t serial, const struct sidecar *c, uint64_t *check)
{
    char from[SNAPSHOT_PATH_BYTES_MAX], to[SNAPSHOT_PATH_BYTES_MAX], text[SNAPSHOT_SIDECAR_BYTES_MAX];
    size_t n = sidecar_write(c, text);
    bool ok;
    int fd;

    if (n == 0) {
        errno = EINVAL;
        return false;
    }
    *check = hash64(text, n, 0);
    snapshot_name(s, serial, ".mark.tmp", from);
    snapshot_name(s, serial, ".mark", to);
    fd = open(from, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ok = fd >= 0 && snapshot_write_all(fd, text, n) && fsync(fd) == 0;
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    return ok && rename(from, to) == 0 && snapshot_sync_directory(s->dir);
}

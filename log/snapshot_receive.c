/* Receiving another member's snapshot: from a temporary file that outlives the process, to a snapshot of ours.
 *
 *     snapshots/fetch-HASH.part     HASH: the RDB's XXH3, 32 hex digits, so it is known whose bytes these are
 *
 *     step                                               crash after it: what the next start finds
 *     1 fetch-HASH.part grows                            6 is the newest; the transfer goes on where it stopped
 *     2 its whole content agrees with HASH               the same
 *     3 fsync, renamed 7.rdb, 7.mark written             6 is the newest; 7.* are removed
 *     4 record "7" committed, perhaps with a new log     7 is the newest; 6.* are removed
 *     5 6.* removed                                      7 is the newest
 *
 * What is left of an interrupted transfer is not believed until step 2: its length is all that is taken from it.
 *
 * The order of serials: 7 is taken at step 3, and from then on until 7 is the newest or given up no snapshot of our
 * own can begin; one that began before has a lower serial, and cannot be recorded after 7 (snapshot_record()).
 *
 *     RECEIVING ──check──▶ CHECKING ──▶ PLACED ──finish──▶ RECORDING ──▶ CLEANING ──▶ (freed)
 *                              └──────▶ FAILED ──end──▶       installed ───▲ */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/snapshot_internal.h"

enum receive_stage { RECEIVING, CHECKING, PLACED, FAILED, RECORDING, CLEANING };

struct snapshot_receiver {
    struct writer_job job;
    struct snapshots *owner;
    enum receive_stage stage;
    struct sidecar sidecar;
    char part[SNAPSHOT_PATH_BYTES_MAX];
    uint64_t received_bytes, hashed_bytes;
    int fd;
    bool failed; /* to write */
    uint64_t serial;
    struct hasher *hasher;
    enum store_result result; /* FULL: dropped */
    struct store_snapshot record;
    char why[STORE_WHY_BYTES];
    void (*checked)(void *arg, bool ok, struct store_snapshot record, const char *why);
    void (*finished)(void *arg, bool ok);
    void *arg;
};

static void set_stage(struct snapshot_receiver *r, enum receive_stage to)
{
    static const bool allowed[6][6] = {
        [RECEIVING] = {[CHECKING] = true},
        [CHECKING] = {[PLACED] = true, [FAILED] = true},
        [PLACED] = {[RECORDING] = true, [CLEANING] = true},
        [RECORDING] = {[CLEANING] = true, [FAILED] = true},
    };

    CHECK(allowed[r->stage][to]);
    r->stage = to;
}

/* ---- the temporary file ---- */

static const char part_prefix[] = "fetch-";

/* Those of other transfers: each was given up for this one. */
static void remove_other_parts(const struct snapshots *s, const char *keep)
{
    DIR *d = opendir(s->dir);
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL)
        if (strncmp(e->d_name, part_prefix, sizeof part_prefix - 1) == 0 && strcmp(e->d_name, keep) != 0)
            (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d != NULL)
        (void)closedir(d);
}

static bool open_part(struct snapshot_receiver *r)
{
    char name[64];
    struct stat st;

    (void)snprintf(name, sizeof name, "%s%016" PRIx64 "%016" PRIx64 ".part", part_prefix, r->sidecar.rdb_hash.high,
                   r->sidecar.rdb_hash.low);
    CHECK(snprintf(r->part, sizeof r->part, "%s/%s", r->owner->dir, name) < (int)sizeof r->part);
    remove_other_parts(r->owner, name);
    r->fd = open(r->part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (r->fd < 0 || fstat(r->fd, &st) != 0)
        return false;
    if ((uint64_t)st.st_size > r->sidecar.mark.rdb_bytes) {
        if (ftruncate(r->fd, 0) != 0)
            return false;
        st.st_size = 0;
    }
    r->received_bytes = (uint64_t)st.st_size;
    return lseek(r->fd, st.st_size, SEEK_SET) == st.st_size;
}

/* The one end of a snapshot_receiver. */
static void release(struct snapshot_receiver *r)
{
    r->owner->received = NULL;
    r->owner->placing = false;
    if (r->fd >= 0)
        (void)close(r->fd);
    hasher_free(r->hasher);
    free(r);
}

struct snapshot_receiver *snapshots_receive(struct snapshots *s, const char *sidecar, size_t n, uint64_t *from,
                                            char *why, size_t why_size)
{
    struct snapshot_receiver *r;

    if (s->received != NULL) {
        (void)snprintf(why, why_size, "a snapshot is being received already");
        return NULL;
    }
    r = must_calloc(1, sizeof *r);
    r->owner = s;
    r->fd = -1;
    s->received = r;
    if (!sidecar_parse(sidecar, n, &r->sidecar)) {
        (void)snprintf(why, why_size, "what the other member says of its snapshot is malformed");
        release(r);
        return NULL;
    }
    if (!open_part(r)) {
        (void)snprintf(why, why_size, "cannot open %s: %s", r->part, strerror(errno));
        release(r);
        return NULL;
    }
    *from = r->received_bytes;
    return r;
}

const struct snapshot_mark *snapshot_receive_mark(const struct snapshot_receiver *r)
{
    return &r->sidecar.mark;
}

uint64_t snapshot_receive_missing(const struct snapshot_receiver *r)
{
    return r->sidecar.mark.rdb_bytes - r->received_bytes;
}

bool snapshot_receive_write(struct snapshot_receiver *r, const void *bytes, size_t n)
{
    uint64_t step = r->received_bytes / SNAPSHOT_STEP_BYTES * SNAPSHOT_STEP_BYTES;

    CHECK(r->stage == RECEIVING);
    if (r->failed || n > snapshot_receive_missing(r) || !snapshot_write_all(r->fd, bytes, n)) {
        r->failed = true;
        return false;
    }
    r->received_bytes += n;
    if (r->received_bytes - step >= SNAPSHOT_STEP_BYTES &&
        !snapshot_sync_range(r->fd, step, r->received_bytes - step, SYNC_FILE_RANGE_WRITE))
        r->failed = true;
    return !r->failed;
}

/* ---- step 2 and 3, on the writer thread ---- */

static bool fail(struct snapshot_receiver *r, enum store_result result, const char *what)
{
    r->result = result;
    (void)snprintf(r->why, sizeof r->why, "%s: %s", what, strerror(errno));
    return true;
}

/* One step of the file into the hasher; false: it cannot be read, or ends early. */
static bool hash_step(struct snapshot_receiver *r, char *memory)
{
    uint64_t left = r->sidecar.mark.rdb_bytes - r->hashed_bytes;
    size_t n = left < SNAPSHOT_STEP_BYTES ? (size_t)left : SNAPSHOT_STEP_BYTES, at = 0;

    while (at < n) {
        ssize_t got = pread(r->fd, memory, n - at, (off_t)(r->hashed_bytes + at));

        if (got == 0)
            errno = EIO;
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        if (got > 0) {
            hasher_add(r->hasher, memory, (size_t)got);
            at += (size_t)got;
        }
    }
    r->hashed_bytes += n;
    return true;
}

static bool place(struct snapshot_receiver *r)
{
    char rdb[SNAPSHOT_PATH_BYTES_MAX];

    snapshot_name(r->owner, r->serial, ".rdb", rdb);
    if (fsync(r->fd) != 0 || rename(r->part, rdb) != 0 || !snapshot_sync_directory(r->owner->dir))
        return fail(r, STORE_FULL, "cannot put the received snapshot in place");
    r->record.serial = r->serial;
    if (!sidecar_store(r->owner, r->serial, &r->sidecar, &r->record.check))
        return fail(r, STORE_FULL, "cannot write the received snapshot's sidecar");
    r->result = STORE_OK;
    return true;
}

static bool check_run(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;
    struct hash128 value;
    char *memory;
    bool ok;

    if (r->hashed_bytes < r->sidecar.mark.rdb_bytes) {
        memory = must_calloc(1, SNAPSHOT_STEP_BYTES);
        ok = hash_step(r, memory);
        free(memory);
        return ok ? false : fail(r, STORE_FULL, "cannot read the received snapshot");
    }
    value = hasher_value128(r->hasher);
    if (value.low == r->sidecar.rdb_hash.low && value.high == r->sidecar.rdb_hash.high)
        return place(r);
    (void)unlink(r->part);
    r->result = STORE_FULL;
    (void)snprintf(r->why, sizeof r->why, "the received snapshot does not agree with its hash");
    return true;
}

static void check_done(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;

    set_stage(r, r->result == STORE_OK ? PLACED : FAILED);
    r->checked(r->arg, r->result == STORE_OK, r->record, r->why);
}

void snapshot_receive_check(struct snapshot_receiver *r,
                            void (*done)(void *arg, bool ok, struct store_snapshot record, const char *why),
                            void *arg)
{
    CHECK(!r->failed && snapshot_receive_missing(r) == 0);
    set_stage(r, CHECKING);
    r->owner->placing = true;
    r->serial = r->owner->next_serial++;
    r->hasher = hasher_new();
    r->checked = done;
    r->arg = arg;
    r->job = (struct writer_job){.run = check_run, .done = check_done};
    writer_submit(r->owner->writer, &r->job, WRITER_BACKGROUND);
}

/* ---- step 4 and 5 ---- */

static bool clean_run(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;

    snapshot_remove_older(r->owner, r->serial);
    return true;
}

static void clean_done(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;
    void (*finished)(void *arg, bool ok) = r->finished;
    void *arg = r->arg;

    release(r);
    if (finished != NULL)
        finished(arg, true);
}

/* The old files go only after the loop has stopped to name them as the newest. */
static void become_newest(struct snapshot_receiver *r)
{
    set_stage(r, CLEANING);
    r->owner->newest = r->record;
    r->owner->verified = true;
    r->job = (struct writer_job){.run = clean_run, .done = clean_done};
    writer_submit(r->owner->writer, &r->job, WRITER_BACKGROUND);
}

static bool record_run(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;

    r->result = snapshot_record(r->owner, r->record, r->why);
    return true;
}

static void remove_placed(const struct snapshot_receiver *r)
{
    static const char *const ends[] = {".mark.tmp", ".mark", ".rdb"};
    char path[SNAPSHOT_PATH_BYTES_MAX];

    for (size_t i = 0; r->serial != 0 && i < sizeof ends / sizeof ends[0]; i++) {
        snapshot_name(r->owner, r->serial, ends[i], path);
        (void)unlink(path);
    }
}

static void record_done(struct writer_job *j)
{
    struct snapshot_receiver *r = (struct snapshot_receiver *)j;
    void (*finished)(void *arg, bool ok) = r->finished;
    void *arg = r->arg;

    if (r->result == STORE_OK) {
        become_newest(r);
        return;
    }
    set_stage(r, FAILED);
    diag_log(r->owner->diag, DIAG_WARNING, "Received snapshot dropped: %s", r->why);
    if (r->result == STORE_BROKEN)
        r->owner->broken(r->owner->arg, r->why);
    else
        remove_placed(r);
    release(r);
    finished(arg, false);
}

void snapshot_receive_finish(struct snapshot_receiver *r, void (*done)(void *arg, bool ok), void *arg)
{
    set_stage(r, RECORDING);
    r->finished = done;
    r->arg = arg;
    r->job = (struct writer_job){.run = record_run, .done = record_done};
    writer_submit(r->owner->writer, &r->job, WRITER_BACKGROUND);
}

void snapshot_receive_installed(struct snapshot_receiver *r)
{
    CHECK(r->stage == PLACED);
    become_newest(r);
}

void snapshot_receive_end(struct snapshot_receiver *r, bool keep)
{
    CHECK(r->stage == RECEIVING || r->stage == PLACED || r->stage == FAILED);
    if (!keep)
        (void)unlink(r->part);
    remove_placed(r);
    release(r);
}

/* What may have been recorded stays, and so do the bytes of a transfer; the next start knows what to remove. */
void snapshot_receiver_drop(struct snapshot_receiver *r)
{
    release(r);
}

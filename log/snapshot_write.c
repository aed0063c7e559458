/* Writing a snapshot of our own Valkey, by the steps of snapshot.c.
 *
 * The loop writes into the page cache and has the kernel start on each SNAPSHOT_STEP_BYTES at once; the writer thread
 * then waits for them a step at a time, so that commits pass in between and the last fsync is short. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/snapshot_internal.h"

enum snapshot_stage { WRITING, FINISHING };

struct snapshot_writer {
    struct writer_job job;
    struct snapshots *owner;
    enum snapshot_stage stage;
    uint64_t serial, written_bytes, synced_bytes;
    int fd;
    bool failed;
    struct hasher *hasher;
    struct snapshot_mark mark;
    void (*done)(void *arg, bool ok);
    void *arg;
    enum store_result result;
    struct store_snapshot record;
    char why[STORE_WHY_BYTES];
};

struct snapshot_writer *snapshots_begin(struct snapshots *s, char *why, size_t why_size)
{
    char path[SNAPSHOT_PATH_BYTES_MAX];
    struct snapshot_writer *w;
    int fd;

    if (s->active != NULL) {
        (void)snprintf(why, why_size, "a snapshot is being written already");
        return NULL;
    }
    if (s->placing) {
        (void)snprintf(why, why_size, "a snapshot of another member is being put in place");
        return NULL;
    }
    snapshot_name(s, s->next_serial, ".rdb.tmp", path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        (void)snprintf(why, why_size, "cannot create %s: %s", path, strerror(errno));
        return NULL;
    }
    w = must_calloc(1, sizeof *w);
    w->owner = s;
    w->serial = s->next_serial++;
    w->fd = fd;
    w->hasher = hasher_new();
    s->active = w;
    return w;
}

bool snapshot_write(struct snapshot_writer *w, const void *bytes, size_t n)
{
    uint64_t step = w->written_bytes / SNAPSHOT_STEP_BYTES;

    CHECK(w->stage == WRITING);
    if (w->failed)
        return false;
    if (!snapshot_write_all(w->fd, bytes, n)) {
        w->failed = true;
        return false;
    }
    hasher_add(w->hasher, bytes, n);
    w->written_bytes += n;
    if (w->written_bytes / SNAPSHOT_STEP_BYTES > step &&
        !snapshot_sync_range(w->fd, step * SNAPSHOT_STEP_BYTES, w->written_bytes - step * SNAPSHOT_STEP_BYTES,
                             SYNC_FILE_RANGE_WRITE))
        w->failed = true;
    return !w->failed;
}

/* The one end of a snapshot_writer. */
static void release(struct snapshot_writer *w, bool remove)
{
    char path[SNAPSHOT_PATH_BYTES_MAX];

    if (remove) {
        snapshot_name(w->owner, w->serial, ".rdb.tmp", path);
        (void)unlink(path);
        snapshot_name(w->owner, w->serial, ".mark.tmp", path);
        (void)unlink(path);
        snapshot_name(w->owner, w->serial, ".mark", path);
        (void)unlink(path);
        snapshot_name(w->owner, w->serial, ".rdb", path);
        (void)unlink(path);
    }
    w->owner->active = NULL;
    if (w->fd >= 0)
        (void)close(w->fd);
    hasher_free(w->hasher);
    free(w);
}

void snapshot_abandon(struct snapshot_writer *w)
{
    CHECK(w->stage == WRITING);
    release(w, true);
}

static bool rename_durably(const struct snapshots *s, uint64_t serial, const char *from_end, const char *to_end)
{
    char from[SNAPSHOT_PATH_BYTES_MAX], to[SNAPSHOT_PATH_BYTES_MAX];

    snapshot_name(s, serial, from_end, from);
    snapshot_name(s, serial, to_end, to);
    return rename(from, to) == 0 && snapshot_sync_directory(s->dir);
}

static bool write_sidecar(struct snapshot_writer *w)
{
    struct sidecar c = {.mark = w->mark, .rdb_hash = hasher_value128(w->hasher)};

    w->record.serial = w->serial;
    return sidecar_store(w->owner, w->serial, &c, &w->record.check);
}

/* On the writer thread: steps 2 and 3 of snapshot.c's table, after waiting for what the kernel has begun to write. */
static bool make_durable(struct snapshot_writer *w, bool *again)
{
    const unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;

    *again = w->written_bytes - w->synced_bytes > SNAPSHOT_STEP_BYTES;
    if (*again) {
        w->synced_bytes += SNAPSHOT_STEP_BYTES;
        return snapshot_sync_range(w->fd, w->synced_bytes - SNAPSHOT_STEP_BYTES, SNAPSHOT_STEP_BYTES, wait);
    }
    return fsync(w->fd) == 0 && rename_durably(w->owner, w->serial, ".rdb.tmp", ".rdb") && write_sidecar(w);
}

static bool finish(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;
    bool again;

    if (!make_durable(w, &again)) {
        (void)snprintf(w->why, sizeof w->why, "cannot write the snapshot: %s", strerror(errno));
        w->result = STORE_FULL; /* nothing depends on it yet: dropped, not fatal */
        return true;
    }
    if (again)
        return false;
    w->result = snapshot_record(w->owner, w->record, w->why); /* step 4 */
    return true;
}

static bool clean(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;

    snapshot_remove_older(w->owner, w->serial);
    return true;
}

static void end(struct snapshot_writer *w, bool ok, bool remove)
{
    void (*done)(void *arg, bool ok) = w->done;
    void *arg = w->arg;

    release(w, remove);
    if (done != NULL)
        done(arg, ok);
}

static void cleaned(struct writer_job *j)
{
    end((struct snapshot_writer *)j, true, false);
}

/* The old files go only after the loop has stopped to name them as the newest. */
static void finished(struct writer_job *j)
{
    struct snapshot_writer *w = (struct snapshot_writer *)j;
    struct snapshots *s = w->owner;

    if (w->result == STORE_OK) {
        s->newest = w->record;
        s->verified = true;
        w->job = (struct writer_job){.run = clean, .done = cleaned};
        writer_submit(s->writer, &w->job, WRITER_BACKGROUND);
        return;
    }
    diag_log(s->diag, DIAG_WARNING, "Snapshot dropped: %s", w->why);
    if (w->result == STORE_BROKEN)
        s->broken(s->arg, w->why);
    end(w, false, w->result == STORE_FULL);
}

void snapshot_finish(struct snapshot_writer *w, const struct snapshot_mark *mark, void (*done)(void *arg, bool ok),
                     void *arg)
{
    CHECK(w->stage == WRITING && !w->failed);
    w->stage = FINISHING;
    w->mark = *mark;
    w->mark.rdb_bytes = w->written_bytes;
    w->done = done;
    w->arg = arg;
    w->job = (struct writer_job){.run = finish, .done = finished};
    writer_submit(w->owner->writer, &w->job, WRITER_BACKGROUND);
}

void snapshot_disown(struct snapshot_writer *w)
{
    CHECK(w->stage == FINISHING);
    w->done = NULL;
}

/* What may have been recorded stays; the next start knows. */
void snapshot_writer_drop(struct snapshot_writer *w)
{
    release(w, w->record.serial == 0);
}

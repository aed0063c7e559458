/* Backups (backup.h), the core's part: for each ticket a snapshot that was begun after it came.
 *
 *   snapshot 7 runs │ ticket 1 comes │ 7 ends │ 8 begins │ ticket 2 comes │ 8 ends: ticket 1 │ 9 begins, ends: ticket
 * 2
 *
 * One that was under way already will not do: Valkey may have forked before a write that was acknowledged before the
 * ticket came. Tickets that wait for the same snapshot share it. One that cannot begin is tried again for a moment:
 * the files of another member's may be coming in, or a snapshot has just been given up.
 *
 * A leader's snapshot is valid when an entry of its own term is committed behind the fork (node_snapshot.c): so
 * nobody else can have acknowledged a write before that, and none is missing. When it ceases to lead its tickets are
 * void; what its Valkey shows from then on is a follower's. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proxy/core_internal.h"

enum { BEGIN_MS_MAX = 5000, ATTEMPT_MS = 200 };

static void answer(struct core *c, struct backup_ticket **at, const char *why)
{
    struct backup_ticket *t = *at;

    *at = t->next;
    (void)snprintf(t->why, sizeof t->why, "%s", why);
    core_post(c, TO_WORKER_BACKUP, NULL, 0, t);
}

static const char *objection(const struct core *c, const struct backup_ticket *t)
{
    if (c->witness)
        return "ERR this node has no Valkey";
    if (t->own)
        return NULL;
    if (!c->leads || !c->attached) /* elected, and still a follower's Valkey: it may lack the last writes */
        return "TRYAGAIN leadership has moved, there is no backup yet";
    return c->lost ? "CLUSTERDOWN No majority: it cannot be known whether a backup would be whole" : NULL;
}

/* The newest one that is recorded may be another member's, which has come meanwhile: only if it shows no less. */
static bool open_file(struct core *c, struct backup_ticket *t)
{
    struct snapshot_mark mark;

    if (!snapshot_open_newest(c->log, &mark, &t->hash, &t->fd))
        return false;
    if (mark.index < node_figures(c->node)->snapshot_index) {
        (void)close(t->fd);
        t->fd = -1;
        return false;
    }
    t->bytes = mark.rdb_bytes;
    t->index = mark.index;
    return true;
}

/* true: *at was answered. */
static bool look(struct core *c, struct backup_ticket **at, uint64_t now_ms)
{
    struct backup_ticket *t = *at;
    const char *why = objection(c, t);

    if (why == NULL && node_figures(c->node)->snapshot_made > t->after && !open_file(c, t))
        why = "ERR the snapshot cannot be opened";
    if (node_figures(c->node)->snapshot_running)
        t->begin_until_ms = now_ms + BEGIN_MS_MAX; /* an earlier one: what counts is how long ours does not begin */
    if (why == NULL && t->fd < 0 && !node_figures(c->node)->snapshot_running) {
        if (now_ms >= t->begin_until_ms) {
            why = "ERR no snapshot could be taken at present: Holdfast's log says why";
        } else if (now_ms >= t->attempt_ms) {
            t->attempt_ms = now_ms + ATTEMPT_MS;
            node_snapshot(c->node, "a client asked for a backup");
        }
    }
    if (why == NULL && t->fd < 0)
        return false;
    answer(c, at, why != NULL ? why : "");
    return true;
}

void core_backup(struct core *c, struct backup_ticket *t)
{
    t->after = node_figures(c->node)->snapshots_begun;
    t->begin_until_ms = loop_now_ms(c->loop) + BEGIN_MS_MAX;
    t->next = c->backups;
    c->backups = t;
    (void)look(c, &c->backups, loop_now_ms(c->loop));
}

void core_backup_tick(struct core *c)
{
    uint64_t now = loop_now_ms(c->loop);

    for (struct backup_ticket **at = &c->backups; *at != NULL;)
        if (!look(c, at, now))
            at = &(*at)->next;
}

void core_backup_void(struct core *c)
{
    for (struct backup_ticket **at = &c->backups; *at != NULL;) {
        if ((*at)->own)
            at = &(*at)->next;
        else
            answer(c, at, "TRYAGAIN leadership has moved, there is no backup yet");
    }
}

void core_backup_end(struct core *c)
{
    while (c->backups != NULL) {
        struct backup_ticket *t = c->backups;

        c->backups = t->next;
        backup_ticket_free(t);
    }
}

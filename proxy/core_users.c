/* Valkey's users, for the group: ACL SETUSER and its kin are in no replication stream, so they go through the log.
 *
 *   leader      ACL SETUSER by way of Holdfast succeeded: what ACL LIST shows then is logged (CONTROL_USERS), whole;
 *               a sync client's answer waits until it is committed
 *   every node  when it reads such a frame, and whenever its Valkey comes: that Valkey's users are made the log's
 *
 *   users: set ─▶ ACL LIST asked ─▶ what differs is set, what is too many deleted ─▶ the worker may be opened
 *
 * As long as nobody changes users by way of Holdfast, no frame is there, and each Valkey keeps what its own files
 * say. The frame would go with the truncation of the log: it is written again when some member has a newer snapshot.
 */
#include "proxy/acl_list.h"
#include "proxy/core_internal.h"
#include "proxy/replay.h"

enum { REFUSAL_BYTES_SHOWN = 160, WALK_BYTES = 256 << 10, SNAPSHOT_PATH_MAX = 4096 };

static const char *own_user(const struct core *c)
{
    return c->config->valkey_user[0] != '\0' ? c->config->valkey_user : "default";
}

static bool may_ask(const struct core *c)
{
    enum node_state s = node_state(c->node);

    return s == NODE_ATTACHED || s == NODE_FED;
}

/* ---- making Valkey's users the log's ---- */

static void on_changed(void *arg, const char *reply, size_t n)
{
    struct core *c = arg;

    if (reply[0] != '-')
        return;
    diag_log(c->diag, DIAG_WARNING, "USERS DIFFER: a user of the group could not be set in this node's Valkey: %.*s",
             (int)(n < REFUSAL_BYTES_SHOWN ? n - 2 : REFUSAL_BYTES_SHOWN), reply + 1);
}

static void send_change(void *arg, const char *resp, size_t n)
{
    struct core *c = arg;

    node_send(c->node, resp, n, on_changed, c);
}

static void on_applied(void *arg, const char *reply, size_t n)
{
    struct core *c = arg;

    (void)reply;
    (void)n;
    c->users_applying = false;
    core_lane_open_worker(c);
}

static void on_list(void *arg, const char *reply, size_t n)
{
    static const char ping[] = "*1\r\n$4\r\nPING\r\n";
    struct core *c = arg;
    struct buf have = {0};
    size_t changes = 0;

    c->users_applied = c->users_index; /* they may have changed since ACL LIST was asked */
    if (acl_list_lines(reply, n, own_user(c), &have))
        changes = acl_list_change(buf_head(&have), have.len, buf_head(&c->users), c->users.len, own_user(c),
                                  send_change, c);
    else
        on_changed(c, reply, n);
    if (changes > 0)
        diag_log(c->diag, DIAG_NOTICE, "Users of this Valkey made those of the group: %zu changed", changes);
    buf_free(&have);
    node_send(c->node, ping, sizeof ping - 1, on_applied, c); /* answered after them */
}

static void apply(struct core *c)
{
    static const char list[] = "*2\r\n$3\r\nACL\r\n$4\r\nLIST\r\n";

    if (c->users_index == 0 || !may_ask(c))
        return;
    c->users_applying = true;
    c->users_applied = c->users_index;
    node_send(c->node, list, sizeof list - 1, on_list, c);
}

void core_users_came(struct core *c)
{
    (void)node_users(c->node, &c->users_index, &c->users);
    c->users_applying = false;
    c->users_applied = 0;
    apply(c);
}

static void release(struct core *c, struct op *op, bool error)
{
    op->error = error;
    TAILQ_REMOVE(&c->users_waiting, op, in_core);
    core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
}

void core_users_end(struct core *c)
{
    replay_free(c->users_walk);
    c->users_walk = NULL;
    buf_free(&c->users_good);
    while (!TAILQ_EMPTY(&c->users_waiting))
        release(c, TAILQ_FIRST(&c->users_waiting), true);
    buf_free(&c->users);
}

void core_users_gone(struct core *c)
{
    c->users_applying = false; /* nobody answers any more */
}

/* ---- the log ---- */

static void take(struct core *c, uint64_t index, const char *lines, size_t n)
{
    buf_clear(&c->users);
    buf_append(&c->users, lines, n);
    CHECK(!c->users.failed);
    c->users_index = index;
}

static void append(struct core *c)
{
    c->users_index = log_open_index(c->log);
    frame_control(log_batch(c->log), CONTROL_USERS, buf_head(&c->users), c->users.len);
}

void core_users_again(struct core *c)
{
    if (c->leads && c->users_index != 0)
        append(c);
}

void core_users_log(struct core *c, struct op *op)
{
    if (!c->leads || !c->attached) {
        op->error = true;
        core_post(c, TO_WORKER_RELEASE, op, 0, NULL);
        return;
    }
    take(c, 0, buf_head(&op->request), op->request.len);
    append(c);
    log_touch(c->log, true);
    op->need = c->users_index;
    TAILQ_INSERT_TAIL(&c->users_waiting, op, in_core);
}

/* The open entry gets another index (log.h, lead()). */
void core_users_moved(struct core *c, uint64_t from, uint64_t to)
{
    struct op *op;

    if (c->users_index == from)
        c->users_index = to;
    TAILQ_FOREACH(op, &c->users_waiting, in_core)
    {
        if (op->need == from)
            op->need = to;
    }
}

/* After a restart the feed goes on where it was, perhaps behind the entry that names the users: our Valkey has them,
 * but we must know them, too, for when it comes back empty. */
static void look_back(struct core *c)
{
    const struct replay_facts *facts;
    struct snapshot_mark mark;
    char path[SNAPSHOT_PATH_MAX];

    if (c->users_walk == NULL)
        c->users_walk = replay_new(c->log, snapshot_newest(c->log, &mark, path, sizeof path) ? &mark : NULL);
    if (replay_step(c->users_walk, NULL, WALK_BYTES))
        return;
    facts = replay_facts(c->users_walk);
    c->users_walked = !facts->cut; /* else anew, from a newer snapshot */
    if (facts->users != NULL && facts->users_index > c->users_index)
        take(c, facts->users_index, facts->users, facts->users_bytes);
    replay_free(c->users_walk);
    c->users_walk = NULL;
}

/* What we logged as a leader and was not committed when another one led never was. */
static void keep_good(struct core *c, uint64_t committed)
{
    if (c->users_index <= committed && c->users_good_index != c->users_index) {
        buf_clear(&c->users_good);
        buf_append(&c->users_good, buf_head(&c->users), c->users.len);
        CHECK(!c->users_good.failed);
        c->users_good_index = c->users_index;
    }
    if (c->users_index > committed && !c->leads)
        take(c, c->users_good_index, buf_head(&c->users_good), c->users_good.len);
}

static uint64_t newest_snapshot(struct core *c)
{
    struct log_member_status at[CONFIG_MEMBERS_MAX];
    size_t count = log_alone(c->log) ? 0 : log_members(c->log, at, CONFIG_MEMBERS_MAX);
    uint64_t newest = node_figures(c->node)->snapshot_index;

    for (size_t i = 0; i < count; i++)
        if (at[i].state.snapshot_index > newest)
            newest = at[i].state.snapshot_index;
    return newest;
}

void core_users_tick(struct core *c)
{
    struct op *op, *next;
    uint64_t committed = log_committed(c->log);

    for (op = TAILQ_FIRST(&c->users_waiting); op != NULL; op = next) {
        next = TAILQ_NEXT(op, in_core);
        if (op->need > committed && c->leads && !c->lost)
            continue;
        release(c, op, op->need > committed);
    }
    if (!c->users_walked && (c->users_walk != NULL || node_state(c->node) == NODE_FED))
        look_back(c);
    keep_good(c, committed);
    if (!c->leads) {
        (void)node_users(c->node, &c->users_index, &c->users);
        if (c->users_applied != c->users_index && !c->users_applying)
            apply(c);
        return;
    }
    if (c->attached && !c->lost && c->users_index != 0 && c->users_index <= committed &&
        newest_snapshot(c) >= c->users_index) {
        append(c);
        log_touch(c->log, false);
    }
}

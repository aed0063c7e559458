/* The writer lane and the markers.
 *
 *   CLOSED ──SEQ_REOPEN──▶ CONNECTING ──handshake──▶ OPEN ──broke──▶ CLOSED (the sequencer has it killed first)
 *                              └──failed──▶ CLOSED ──LANE_RETRY_MS──▶ CONNECTING
 *
 * A marker is SPUBLISH <channel> "<term> <number> <resolves>" on a channel whose name holds a random nonce of this
 * attachment. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "proxy/argv.h"
#include "proxy/certs.h"
#include "proxy/core_internal.h"

static char marker_cookie; /* its address stands for "the reply to a marker" */

static void new_nonce(struct core *c)
{
    unsigned char nonce[MARKER_NONCE_BYTES];
    size_t at = (size_t)snprintf(c->marker_channel, sizeof c->marker_channel, "%s", MARKER_CHANNEL_PREFIX);

    CHECK(getrandom(nonce, sizeof nonce, 0) == (ssize_t)sizeof nonce);
    for (size_t i = 0; i < sizeof nonce; i++)
        at += (size_t)snprintf(c->marker_channel + at, sizeof c->marker_channel - at, "%02x", nonce[i]);
}

/* ---- the connection ---- */

void core_lane_open_worker(struct core *c)
{
    struct valkey_identity *copy;

    if (c->worker_open || !c->attached || c->lane_state != LANE_OPEN || c->users_applying)
        return;
    copy = must_calloc(1, sizeof *copy);
    *copy = *c->identity;
    copy->commands = malloc(copy->commands_bytes + 1);
    CHECK(copy->commands != NULL);
    memcpy(copy->commands, c->identity->commands, copy->commands_bytes);
    c->worker_open = true;
    core_post(c, TO_WORKER_OPEN, NULL, 0, copy);
    atomic_store(&c->set.gate->state, GATE_OPEN);
    diag_log(c->diag, DIAG_NOTICE, "Ready to accept commands: Valkey %s, run_id %s, mode %s", c->identity->version,
             c->identity->run_id, durability_name((enum durability)atomic_load(&c->set.gate->mode)));
}

static void on_ready(void *arg)
{
    struct core *c = arg;

    c->lane_state = LANE_OPEN;
    c->lane_wanted = false;
    core_lane_open_worker(c);
    core_facts(c);
    seq_lane_opened(c->seq);
    core_decisions(c);
}

static void on_marker_reply(struct core *c, const char *reply)
{
    if (reply[0] != '-')
        return;
    c->marker_paused = true; /* -BUSY: refused, so it will never be seen; sent again */
    loop_timer_once(c->marker_timer, MARKER_RETRY_MS);
}

void lane_on_marker_retry(void *arg)
{
    struct core *c = arg;

    c->marker_paused = false;
    seq_marker_refused(c->seq);
}

static void on_reply(void *arg, void *cookie, const char *reply, size_t n)
{
    struct core *c = arg;
    struct op *op = cookie;
    uint64_t now = loop_now_us(c->loop);

    if (cookie == &marker_cookie) {
        on_marker_reply(c, reply);
        return;
    }
    if (op->more > 0) {
        op_take_more(op, reply, n);
        return;
    }
    if (!op_exec_refused(op, reply, n, &op->reply))
        buf_append(&op->reply, reply, n);
    op->error = reply[0] == '-';
    if (!log_alone(c->log))
        op->came_boot_ms = log_boot_ms();
    if (now > op->forwarded_us)
        histogram_add(&c->forward_us, now - op->forwarded_us);
    if (!op->ghost)
        core_post(c, TO_WORKER_CAME, op, 0, NULL);
    core_facts(c);
    seq_lane_reply(c->seq, op, now);
    core_decisions(c);
}

static void on_closed(void *arg, const char *why)
{
    struct core *c = arg;
    bool was_open = c->lane_state == LANE_OPEN;
    uint64_t id = backend_client_id(c->lane);

    /* In a hand-over it is we who close it. */
    diag_log(c->diag, was_open && c->hand_over.phase == HAND_NONE ? DIAG_WARNING : DIAG_VERBOSE, "Writer lane: %s",
             why);
    lane_close(c);
    if (was_open) {
        core_facts(c);
        seq_lane_broken(c->seq, id);
        core_decisions(c);
    } else if (c->lane_wanted) {
        loop_timer_once(c->lane_timer, LANE_RETRY_MS);
    }
}

static const struct backend_events lane_events = {on_ready, on_reply, NULL, on_closed};

void lane_connect(struct core *c)
{
    char name[CONFIG_TEXT_MAX + 32];
    struct backend_settings s = {.address = c->set.valkey_address,
                                 .user = c->config->valkey_user,
                                 .password = c->config->valkey_password,
                                 .tls = certs_valkey(c->set.certs),
                                 .name = name,
                                 .run_id = c->identity->run_id,
                                 .shared = true};

    if (c->lane_state != LANE_CLOSED)
        return;
    (void)snprintf(name, sizeof name, "holdfast-%s-writer", c->config->node);
    c->lane_state = LANE_CONNECTING;
    c->lane = backend_new(c->loop, c->diag, &s, &lane_events, c);
    if (c->lane == NULL) {
        c->lane_state = LANE_CLOSED;
        loop_timer_once(c->lane_timer, LANE_RETRY_MS);
    }
}

void lane_on_retry(void *arg)
{
    struct core *c = arg;

    if (c->attached && c->lane_wanted)
        lane_connect(c);
}

void lane_close(struct core *c)
{
    backend_close(c->lane);
    c->lane = NULL;
    c->lane_state = LANE_CLOSED;
}

void lane_send(struct core *c, struct op *op)
{
    const struct buf *out;

    CHECK(c->lane_state == LANE_OPEN);
    op->forwarded_us = loop_now_us(c->loop);
    if (op->kind == OP_WRITE && op->forwarded_us > op->accepted_us)
        histogram_add(&c->commit_us, op->forwarded_us - op->accepted_us);
    backend_use(c->lane, op->db, op->proto);
    out = op->sent.len > 0 ? &op->sent : &op->request;
    backend_send_many(c->lane, buf_head(out), out->len, op->more + 1, op);
}

/* ---- markers ---- */

static void on_control_marker(void *arg, const char *reply, size_t n)
{
    (void)n;
    on_marker_reply(arg, reply);
}

void lane_markers(struct core *c)
{
    bool on_control;
    uint64_t number, resolves;
    char payload[80];
    struct buf command = {0};
    const char *arg[3] = {"SPUBLISH", c->marker_channel, payload};
    size_t len[3] = {8, 0, 0};

    if (!c->attached || !c->leads || c->marker_paused || !seq_wants_marker(c->seq, &on_control))
        return;
    if (!on_control && c->lane_state != LANE_OPEN)
        return;
    if (c->marker_channel[0] == '\0')
        new_nonce(c);
    number = seq_marker_sent(c->seq, loop_now_us(c->loop), &resolves);
    atomic_store(&c->set.gate->epoch, seq_epoch(c->seq));
    len[1] = strlen(c->marker_channel);
    len[2] = (size_t)snprintf(payload, sizeof payload, "%" PRIu64 " %" PRIu64 " %" PRIu64, c->marker_term, number,
                              resolves);
    argv_encode(&command, 3, arg, len);
    CHECK(!command.failed);
    if (on_control)
        node_send(c->node, buf_head(&command), command.len, on_control_marker, c);
    else
        backend_send(c->lane, buf_head(&command), command.len, &marker_cookie);
    buf_free(&command);
}

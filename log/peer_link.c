/* Our link to one member.
 *
 *   WAITING ──retry timer──▶ DIALLING ──HELLOs──▶ UP ──lost──▶ WAITING          (link_free() from any of them)
 *      ▲                        └──────failed──────────────────────┘
 *
 * Messages wait in a ring; they are encoded when the stream is about to be written (fill), as long as less than
 * PEER_OUT_BYTES_MAX is unsent. The entries of an APPEND are asked for then, in pieces, each an APPEND of its own:
 *
 *      queue:  APPEND prev 10/3, 500 entries | RESULT | ...
 *      sent:   APPEND prev 10/3, 180 entries | APPEND prev 190/3, 175 | APPEND prev 365/4, 145 | RESULT
 *
 * Slow is bounded twice: PEER_QUEUE_MESSAGES_MAX small messages, and what is unsent plus one piece. The oldest
 * message goes first when the ring is full: Raft asks again for what is missing. A link that dies drops everything.
 *
 * Silence: bytes wait, in the stream or unacknowledged in the kernel, and for PEER_SILENCE_MS_MAX none of them has
 * been taken by the other end. The kernel's own patience would be a quarter of an hour. */
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "log/peer_internal.h"

enum { QUEUE_MESSAGES_MIN = 64, PIECE_RECORDS_MAX = 256 };
_Static_assert((PEER_QUEUE_MESSAGES_MAX & (PEER_QUEUE_MESSAGES_MAX - 1)) == 0, "a ring of a power of two");

enum link_state { LINK_WAITING, LINK_DIALLING, LINK_UP };

struct peer_link {
    struct peers *peers;
    struct member member; /* id: 0 until one has proven the name, if it was not known */
    enum link_state state;
    struct peer_conn *conn; /* not WAITING */
    struct loop_timer *retry;
    uint64_t retry_ms, up_ms;
    uint64_t id; /* of whom we are connected to; 0: nobody */
    struct peer_message *ring;
    size_t capacity, head, count;    /* capacity: a power of two, or 0 */
    uint64_t piece_from, piece_term; /* the first message's entries have left up to here; 0: none has */
    uint64_t given;                  /* bytes given to the stream since it is up */
    uint64_t taken;                  /* of those, the most that the other end was seen to have taken */
    uint64_t taken_ms;
};

/* ---- the queue ---- */

static struct peer_message *at(const struct peer_link *k, size_t i)
{
    return &k->ring[(k->head + i) & (k->capacity - 1)];
}

static void pop(struct peer_link *k)
{
    CHECK(k->count > 0);
    k->head = (k->head + 1) & (k->capacity - 1);
    k->count--;
    k->piece_from = 0;
}

static void grow(struct peer_link *k)
{
    size_t capacity = k->capacity > 0 ? k->capacity * 2 : QUEUE_MESSAGES_MIN;
    struct peer_message *ring = must_calloc(capacity, sizeof *ring);

    for (size_t i = 0; i < k->count; i++)
        ring[i] = *at(k, i);
    free(k->ring);
    k->ring = ring;
    k->capacity = capacity;
    k->head = 0;
}

static void forget_queue(struct peer_link *k)
{
    free(k->ring);
    k->ring = NULL;
    k->capacity = k->head = k->count = 0;
    k->piece_from = 0;
}

void link_send(struct peer_link *k, const struct peer_message *m)
{
    CHECK(k->state == LINK_UP);
    if (k->count == PEER_QUEUE_MESSAGES_MAX)
        pop(k);
    if (k->count == k->capacity)
        grow(k);
    *at(k, k->count) = *m;
    k->count++;
    (void)stream_out(conn_stream(k->conn)); /* so that fill() is called at the end of the turn */
}

/* ---- writing ---- */

static void encode(struct peer_link *k, const struct peer_message *m, struct record *const *records, size_t count)
{
    struct buf *out = stream_out(conn_stream(k->conn));
    size_t before = out->len, frame = wire_begin(out);

    wire_message(out, m, records, count);
    wire_end(out, frame, WIRE_MESSAGE);
    k->given += out->len - before;
}

/* One piece of the first message's entries; the message goes with its last one, or if it is out of date. */
static void send_piece(struct peer_link *k, const struct peer_message *m)
{
    struct record *records[PIECE_RECORDS_MAX];
    uint64_t from = k->piece_from > 0 ? k->piece_from : m->append.prev_index + 1;
    uint64_t left = m->append.prev_index + m->append.count + 1 - from;
    size_t max = left < PIECE_RECORDS_MAX ? (size_t)left : PIECE_RECORDS_MAX;
    size_t n = k->peers->events->records(k->peers->arg, m, from, max, PEER_PIECE_BYTES_MAX, records);
    struct peer_message piece = *m;

    CHECK(n <= max);
    if (n == 0) {
        pop(k);
        return;
    }
    CHECK(records[0]->index == from && records[n - 1]->index == from + n - 1);
    piece.append.prev_index = from - 1;
    if (k->piece_from > 0)
        piece.append.prev_term = k->piece_term;
    piece.append.count = (uint32_t)n;
    encode(k, &piece, records, n);
    if (n == left) {
        pop(k);
    } else {
        k->piece_from = from + n;
        k->piece_term = records[n - 1]->term;
    }
    for (size_t i = 0; i < n; i++)
        record_drop(records[i]);
}

static bool on_fill(void *arg)
{
    struct peer_link *k = arg;

    while (k->state == LINK_UP && k->count > 0 && stream_pending(conn_stream(k->conn)) < PEER_OUT_BYTES_MAX) {
        struct peer_message m = *at(k, 0);

        if (m.kind == PEER_APPEND && m.append.count > 0) {
            send_piece(k, &m);
        } else {
            encode(k, &m, NULL, 0);
            pop(k);
        }
    }
    return k->count > 0;
}

/* ---- life ---- */

static void set_state(struct peer_link *k, enum link_state to)
{
    if (to != LINK_UP) {
        forget_queue(k);
        k->id = 0;
    }
    k->state = to;
}

static void on_ready(void *arg, const struct peer_hello *h)
{
    struct peer_link *k = arg;
    struct peers *p = k->peers;

    set_state(k, LINK_UP);
    k->id = h->member.id;
    k->given = k->taken = 0;
    k->up_ms = k->taken_ms = loop_now_ms(p->loop);
    diag_log(p->diag, DIAG_VERBOSE, "peer %s (%s): link is up", k->member.name, k->member.address);
    p->events->link(p->arg, k->id, true, "");
}

/* The delay doubles, and is varied by a quarter, so that members that lost each other do not dial in step. */
static void retry_later(struct peer_link *k, bool at_most)
{
    uint64_t ms = at_most ? PEER_RETRY_MS_MAX : k->retry_ms;

    k->retry_ms = ms * 2 < PEER_RETRY_MS_MAX ? ms * 2 : PEER_RETRY_MS_MAX;
    loop_timer_once(k->retry, ms - ms / 4 + peers_random(k->peers, ms / 2 + 1));
}

static void on_closed(void *arg, const char *why, bool refused)
{
    struct peer_link *k = arg;
    struct peers *p = k->peers;
    bool was_up = k->state == LINK_UP;
    uint64_t id = k->id;
    char who[MEMBER_NAME_BYTES_MAX + MEMBER_ADDRESS_BYTES_MAX + 4];

    if (was_up && loop_now_ms(p->loop) - k->up_ms >= PEER_STEADY_MS)
        k->retry_ms = PEER_RETRY_FIRST_MS;
    k->conn = NULL;
    set_state(k, LINK_WAITING);
    retry_later(k, refused);
    if (was_up) {
        diag_log(p->diag, DIAG_VERBOSE, "peer %s (%s): link is lost: %s", k->member.name, k->member.address, why);
        p->events->link(p->arg, id, false, why);
        return;
    }
    (void)snprintf(who, sizeof who, "%s (%s)", k->member.name, k->member.address);
    peers_complain(p, &p->of_links, who, why);
}

static const struct peer_conn_events conn_callbacks = {.ready = on_ready, .closed = on_closed, .fill = on_fill};

static void on_retry(void *arg)
{
    struct peer_link *k = arg;

    CHECK(k->state == LINK_WAITING);
    set_state(k, LINK_DIALLING);
    k->conn = conn_dial(k->peers, &k->member, PEER_LINK, NULL, 0, &conn_callbacks, k);
}

struct peer_link *link_new(struct peers *p, const struct member *m)
{
    struct peer_link *k = must_calloc(1, sizeof *k);

    k->peers = p;
    k->member = *m;
    k->retry_ms = PEER_RETRY_FIRST_MS;
    k->retry = loop_timer_new(p->loop, on_retry, k);
    loop_timer_once(k->retry, 0);
    return k;
}

void link_hurry(struct peer_link *k)
{
    if (k->state != LINK_WAITING)
        return;
    k->retry_ms = PEER_RETRY_FIRST_MS;
    loop_timer_once(k->retry, 0);
}

bool link_is_named(const struct peer_link *k, const char *name)
{
    return strcmp(k->member.name, name) == 0;
}

static void release(void *object)
{
    struct peer_link *k = object;

    free(k->ring);
    free(k);
}

void link_free(struct peer_link *k)
{
    conn_close(k->conn);
    loop_timer_free(k->retry);
    loop_bury(k->peers->loop, k, release);
}

/* Also when only its id has become known: the one who has proven the name has that id, or is dialled anew. */
bool link_is_to(const struct peer_link *k, const struct member *m)
{
    uint64_t id = k->member.id != 0 ? k->member.id : k->id;

    return strcmp(k->member.name, m->name) == 0 && strcmp(k->member.address, m->address) == 0 &&
           (id == m->id || (id != 0 && m->id == 0 && k->member.id == 0));
}

uint64_t link_id(const struct peer_link *k)
{
    return k->state == LINK_UP ? k->id : 0;
}

void link_check(struct peer_link *k)
{
    uint64_t now = loop_now_ms(k->peers->loop), waiting, taken;
    int unacknowledged = 0;

    if (k->state != LINK_UP)
        return;
    waiting = stream_pending(conn_stream(k->conn));
    if (ioctl(stream_fd(conn_stream(k->conn)), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0)
        waiting += (uint64_t)unacknowledged;
    taken = k->given > waiting ? k->given - waiting : 0; /* TLS adds to what waits: never more than was taken */
    if (waiting == 0 || taken > k->taken) {
        k->taken = taken > k->taken ? taken : k->taken;
        k->taken_ms = now;
    } else if (now - k->taken_ms >= PEER_SILENCE_MS_MAX) {
        conn_close(k->conn);
        on_closed(k, "it has taken no bytes for too long", false);
    }
}

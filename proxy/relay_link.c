/* The leader's side of a relay: dialling, setting the session up again, replies, loss.
 *
 *     dial ─▶ ">2 holdfast ready" ─▶ prelude, one reply each ─▶ what has waited ─▶ commands as they come
 *
 * Nothing is sent before the leader's session has said "ready": a link that a node takes and drops again, because it
 * leads no more or has no room, costs no command its certainty. Commands that have waited are sent when the whole
 * prelude has succeeded: they must not run in another database or as another user.
 *
 * Replies are passed on whole. A link that breaks inside one leaves that request unanswered, like those behind it. */
#include <string.h>

#include "log/base/stream.h"
#include "proxy/relay_internal.h"

enum { KEEP_BYTES_MAX = 1024 }; /* what an idle relay's buffer may hold */

const char relay_ready[] = ">2\r\n$8\r\nholdfast\r\n$5\r\nready\r\n";
const char relay_moved[] = ">2\r\n$8\r\nholdfast\r\n$5\r\nmoved\r\n";
const char relay_bytes[] = ">3\r\n$8\r\nholdfast\r\n$5\r\nbytes\r\n";
const char relay_farewell[] = ">2\r\n$8\r\nholdfast\r\n$5\r\nclose\r\n";

static const char not_executed[] = "CLUSTERDOWN The leader has changed: the command was not executed";
static const char uncertain[] =
    "UNCERTAIN The connection to the leader was lost: the command may or may not have been executed";

/* ---- sending ---- */

static void wipe(struct buf *b)
{
    if (b->len > 0)
        explicit_bzero(buf_head(b), b->len);
    buf_free(b);
}

/* How many replies are owed is not known from here on. */
static void forget_ring(struct relay *r)
{
    while (r->count > 0)
        relay_pop(r);
    wipe(&r->kept);
}

static void send_bytes(struct relay *r, struct request *q, const char *bytes, size_t n)
{
    stream_write(r->link, bytes, n);
    q->kept = r->kept.len + n <= RELAY_KEPT_BYTES_MAX;
    if (q->kept)
        buf_append(&r->kept, bytes, n);
    if (r->kept.failed)
        r->doom = "out of memory for a command";
    track_sent(&r->track, q);
}

void relay_send(struct relay *r, const struct argv *a, struct request *q)
{
    CHECK(r->state == RELAY_UP);
    send_bytes(r, q, a->bytes, a->n);
    if (r->track.opaque)
        forget_ring(r);
}

static void go_up(struct relay *r)
{
    size_t at = 0;

    r->state = RELAY_UP;
    for (size_t i = 0; i < r->count; i++) {
        struct request *q = &r->ring[(r->head + i) & (r->cap - 1)];

        if (q->kind == REQUEST_SAY)
            continue;
        send_bytes(r, q, buf_head(&r->waiting) + at, q->wire_bytes);
        at += q->wire_bytes;
    }
    CHECK(at == r->waiting.len);
    wipe(&r->waiting);
    if (r->track.opaque)
        forget_ring(r);
    relay_say_due(r);
    relay_kick(r);
}

static void replay_prelude(struct relay *r)
{
    struct buf commands = {0};

    track_prelude(&r->track, &commands);
    r->replaying = r->track.prelude_count;
    r->state = RELAY_REPLAYING;
    if (commands.failed) {
        r->broke = "out of memory for the session's setup";
    } else if (r->replaying == 0) {
        go_up(r);
    } else {
        stream_write(r->link, buf_head(&commands), commands.len);
        explicit_bzero(buf_head(&commands), commands.len);
    }
    buf_free(&commands);
}

/* ---- replies ---- */

static bool is_word(const char *reply, size_t n, const char *word)
{
    return n == strlen(word) && memcmp(reply, word, n) == 0;
}

static bool begins(const char *reply, size_t n, const char *word)
{
    return n > strlen(word) && memcmp(reply, word, strlen(word)) == 0;
}

/* Breaking is noted only: the splitter is at work. */
static bool give_up(struct relay *r, const char *why, bool rejected)
{
    r->broke = why;
    r->rejected = rejected;
    relay_kick(r);
    return false;
}

/* What is in the bulk string: between its header's end and the last CRLF. */
static void say_bytes(struct relay *r, const char *bulk, size_t n)
{
    const char *end = memchr(bulk, '\n', n);

    CHECK(end != NULL && bulk[0] == '$');
    r->backup = true;
    relay_say(r, end + 1, n - (size_t)(end + 1 - bulk) - 2);
}

static bool on_push(struct relay *r, const char *push, size_t n)
{
    if (is_word(push, n, relay_farewell))
        return give_up(r, "closed by the leader", true);
    if (is_word(push, n, relay_moved)) {
        r->moved = true;
        return give_up(r, "the leader hands over", false);
    }
    if (is_word(push, n, relay_ready)) {
        if (r->state != RELAY_GREETING)
            return give_up(r, "the leader's session began again", false);
        replay_prelude(r);
    } else if (r->state == RELAY_UP && begins(push, n, relay_bytes)) {
        say_bytes(r, push + strlen(relay_bytes), n - strlen(relay_bytes));
    } else if (r->state == RELAY_UP) {
        relay_say(r, push, n);
    }
    return true;
}

static bool on_replayed(struct relay *r, const char *reply, size_t n)
{
    if (begins(reply, n, "-LOADING")) /* it has become leader, its Valkey is not there yet: again, later */
        return give_up(r, "the leader is loading", false);
    if (reply[0] == '-')
        return give_up(r, "the leader refuses to set the session up again", true);
    CHECK(r->replaying > 0);
    if (--r->replaying == 0)
        go_up(r);
    return true;
}

static bool on_answer(struct relay *r, const char *reply, size_t n)
{
    struct request *q = relay_oldest(r);

    relay_say(r, reply, n);
    if (r->track.opaque || reply[0] == '|')
        return true; /* RESP3: attributes come before their reply */
    if (q == NULL)
        return give_up(r, "a reply to nothing", true);
    CHECK(q->kind != REQUEST_SAY);
    track_answered(&r->track, q, reply, n);
    if (q->kept)
        buf_consume(&r->kept, q->wire_bytes);
    if (r->kept.len == 0 && r->kept.cap > KEEP_BYTES_MAX)
        wipe(&r->kept);
    relay_pop(r);
    relay_say_due(r);
    if (r->count == 0 || r->count == RELAY_OPS_MAX - 1)
        relay_kick(r);
    return true;
}

static bool on_reply(void *arg, const char *reply, size_t n)
{
    struct relay *r = arg;

    if (reply[0] == '>')
        return on_push(r, reply, n);
    switch (r->state) {
    case RELAY_GREETING: /* "-ERR max number of clients reached" */
        relay_say(r, reply, n);
        return give_up(r, "the leader does not take the client", true);
    case RELAY_REPLAYING:
        return on_replayed(r, reply, n);
    default:
        CHECK(r->state == RELAY_UP);
        return on_answer(r, reply, n);
    }
}

static void on_data(void *arg, const char *bytes, size_t n)
{
    struct relay *r = arg;

    if (r->broke != NULL || r->state >= RELAY_FINISHING)
        return;
    if (!resp_split(r->splitter, bytes, n, on_reply, r) && r->broke == NULL)
        (void)give_up(r, "not RESP", false);
}

/* ---- life ---- */

static void on_closed(void *arg, const char *why)
{
    struct relay *r = arg;

    relay_lost(r, r->broke != NULL ? r->broke : why);
}

static const struct stream_events link_events = {.data = on_data, .closed = on_closed, .sent = relay_on_sent};

void relay_drop_link(struct relay *r)
{
    if (r->dial != NULL)
        r->worker->set.relay.cancel(r->dial);
    r->dial = NULL;
    stream_close(r->link);
    r->link = NULL;
    resp_splitter_free(r->splitter);
    r->splitter = NULL;
    free(r->leader);
    r->leader = NULL;
    r->replaying = 0;
    r->stale_ms = 0;
    r->broke = NULL;
}

/* What was sent and not answered, when the leader says that it has not executed it: it waits for the next one, if all
 * of it was kept. */
static bool wait_again(struct relay *r)
{
    uint64_t now = loop_now_ms(r->worker->loop);

    track_unsent(&r->track);
    for (size_t i = 0; i < r->count; i++) {
        struct request *q = &r->ring[(r->head + i) & (r->cap - 1)];

        if (q->kind != REQUEST_SAY && !q->kept)
            return false;
        q->since_ms = now;
    }
    if (!track_restorable(&r->track))
        return false;
    buf_move(&r->waiting, &r->kept);
    if (r->count > 0)
        relays_watch(r->worker);
    return true;
}

static void answer_lost(struct relay *r)
{
    struct request *q;

    if (r->moved && wait_again(r))
        return;
    while ((q = relay_oldest(r)) != NULL) {
        if (q->kind == REQUEST_SAY)
            relay_say(r, q->bytes, q->n);
        else
            relay_error(r, r->moved ? not_executed : uncertain);
        relay_pop(r);
    }
    r->track.answered = r->track.sent;
    wipe(&r->kept);
}

void relay_lost(struct relay *r, const char *why)
{
    bool was_up = r->state == RELAY_UP, keep = track_restorable(&r->track);

    diag_log(r->worker->diag, DIAG_VERBOSE, "Relay to the leader, %zu commands unanswered: %s", was_up ? r->count : 0,
             why);
    relay_drop_link(r);
    r->state = RELAY_DOWN;
    r->retry_ms = loop_now_ms(r->worker->loop) + (was_up && !r->moved ? 0 : RELAY_RETRY_MS);
    if (was_up)
        answer_lost(r);
    else if (!keep || r->rejected)
        forget_ring(r);
    keep = (r->moved ? track_restorable(&r->track) : keep) && !r->rejected;
    r->moved = false;
    if (keep)
        relay_kick(r);
    else
        relay_finish(r);
}

static void on_dialled(void *arg, struct stream *s, const char *why)
{
    struct relay *r = arg;

    CHECK(r->state == RELAY_DIALLING);
    r->dial = NULL;
    if (s == NULL) {
        relay_lost(r, why);
        return;
    }
    r->link = s;
    r->splitter = resp_splitter_new();
    r->state = RELAY_GREETING;
    stream_hand_over(s, &link_events, r);
}

void relay_dial(struct relay *r)
{
    const struct relay_door *door = &r->worker->set.relay;
    char address[RELAY_ADDRESS_BYTES_MAX];
    struct buf extra = {0};
    struct log_dial *dial = NULL;

    CHECK(r->state == RELAY_DOWN && r->link == NULL && r->dial == NULL);
    if (r->unix_socket || !stream_remote_address(r->client, address, sizeof address))
        (void)snprintf(address, sizeof address, "%s:0", r->worker->config->unixsocket);
    relay_extra(&extra, address);
    r->state = RELAY_DIALLING;
    r->leader = must_strdup(r->worker->leader);
    if (door->dial != NULL && !extra.failed)
        dial = door->dial(door->arg, buf_head(&extra), extra.len, on_dialled, r);
    if (r->state == RELAY_DIALLING && r->dial == NULL) /* it may have been answered at once */
        r->dial = dial;
    if (r->state == RELAY_DIALLING && dial == NULL)
        relay_lost(r, "the leader cannot be dialled");
    buf_free(&extra);
}

/* ---- the last word to a relay of another node ---- */

static void on_bye_closed(void *arg, const char *why)
{
    (void)why;
    stream_close(arg);
}

static void on_bye_data(void *arg, const char *bytes, size_t n)
{
    (void)arg;
    (void)bytes;
    (void)n;
}

void relay_bye(struct stream *s, const char *text)
{
    static const struct stream_events events = {.data = on_bye_data, .closed = on_bye_closed};

    stream_hand_over(s, &events, s);
    stream_write(s, text, strlen(text));
    stream_finish(s);
}

#include "tests/unit/peer_world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log/base/loop.h"
#include "log/base/stream.h"
#include "log/base/tls.h"
#include "log/record.h"
#include "tests/unit/tls_files.h"

uint64_t world_random(struct world *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

/* ---- what a node does with what it is told ---- */

static void on_hello(void *arg, struct peer_hello *own)
{
    (void)arg;
    memcpy(own->group, "group of members", PEER_GROUP_BYTES);
    buf_text(&own->configuration, "configuration");
}

static bool on_met(void *arg, const struct peer_hello *h, char *why, size_t why_size)
{
    struct node *n = arg;

    n->met++;
    CHECK(memcmp(h->group, "group of members", PEER_GROUP_BYTES) == 0);
    CHECK(h->configuration.len == 13 && memcmp(buf_head(&h->configuration), "configuration", 13) == 0);
    if (n->refuse == NULL || !n->refuse(h))
        return true;
    (void)snprintf(why, why_size, "unwelcome");
    return false;
}

static void on_message(void *arg, const struct peer_message *m, struct record **records)
{
    struct node *n = arg;

    n->messages++;
    if (m->kind != PEER_APPEND) {
        CHECK(m->wall_ms >= n->next_mark);
        n->gaps += m->wall_ms > n->next_mark;
        n->next_mark = m->wall_ms + 1;
        n->marks++;
        return;
    }
    CHECK(m->sent_ms == 7 && m->append.commit == 5);
    if (m->append.prev_index + 1 != n->next_index)
        n->gaps++;
    else
        CHECK(n->last_term == 0 || m->append.prev_term == n->last_term);
    for (size_t i = 0; i < m->append.count; i++) {
        const struct record *r = records[i], *is = n->world->records[m->append.prev_index + 1 + i];

        CHECK(r->index == is->index && r->term == is->term && r->type == is->type && r->bytes.len == is->bytes.len);
        CHECK(memcmp(buf_head(&r->bytes), buf_head(&is->bytes), is->bytes.len) == 0);
        n->last_term = r->term;
        n->entries++;
    }
    n->next_index = m->append.prev_index + 1 + m->append.count;
}

static size_t on_records(void *arg, const struct peer_message *m, uint64_t from, size_t max, size_t bytes_max,
                         struct record **out)
{
    struct node *n = arg;
    size_t got = 0;

    CHECK(from > m->append.prev_index && from <= m->append.prev_index + m->append.count);
    for (size_t bytes = 0; got < max && bytes < bytes_max; got++) {
        if (from + got > n->world->record_count)
            break;
        out[got] = record_hold(n->world->records[from + got]);
        bytes += out[got]->bytes.len;
    }
    return got;
}

static void on_link(void *arg, uint64_t id, bool up, const char *why)
{
    struct node *n = arg;

    CHECK(id != 0);
    if (up)
        n->ups++;
    else
        n->downs++;
    (void)snprintf(n->why, sizeof n->why, "%s", why);
}

static void on_unread(void *arg, const char *bytes, size_t n)
{
    (void)arg;
    (void)bytes;
    (void)n;
}

static void on_unread_closed(void *arg, const char *why)
{
    (void)why;
    stream_close(arg);
}

static const struct stream_events unread_events = {.data = on_unread, .closed = on_unread_closed};

static void on_accepted(void *arg, struct stream *s, const struct peer_hello *h)
{
    struct node *n = arg;

    if (n->keep_no_taken) {
        stream_hand_over(s, &unread_events, s);
        return;
    }
    n->taken = s;
    memcpy(n->extra, h->extra, h->extra_bytes);
    n->extra_bytes = h->extra_bytes;
}

static const struct peers_events events = {.hello = on_hello,
                                           .met = on_met,
                                           .message = on_message,
                                           .records = on_records,
                                           .link = on_link,
                                           .accepted = on_accepted};

/* ---- nodes ---- */

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    CHECK(close(fd) == 0);
    return ntohs(a.sin_port);
}

static struct tls *context(struct world *w, const char *name)
{
    char certificate[TLS_PATH_BYTES_MAX], key[TLS_PATH_BYTES_MAX], ca[TLS_PATH_BYTES_MAX], why[256];
    struct tls_settings s = {.cert_file = certificate,
                             .key_file = key,
                             .ca_file = ca,
                             .peer_must_prove = true,
                             .versions = TLS_VERSION_13};
    struct tls *t;

    (void)snprintf(certificate, sizeof certificate, "%s/%s.crt", w->dir, name);
    (void)snprintf(key, sizeof key, "%s/%s.key", w->dir, name);
    (void)snprintf(ca, sizeof ca, "%s/ca.crt", w->dir);
    t = tls_new(&s, why, sizeof why);
    CHECK(t != NULL);
    return t;
}

void node_make(struct world *w, size_t i)
{
    struct node *n = &w->nodes[i];

    n->world = w;
    n->cluster = "test";
    n->self.id = 101 + i;
    n->self.role = MEMBER_VOTER;
    (void)snprintf(n->self.name, sizeof n->self.name, "%c", (int)('a' + i));
    (void)snprintf(n->self.zone, sizeof n->self.zone, "zone-%c", (int)('a' + i));
    (void)snprintf(n->self.address, sizeof n->self.address, "127.0.0.1:%d", free_port());
    n->next_index = 1;
    if (w->tls && n->tls == NULL)
        n->tls = context(w, n->self.name);
}

void peer_node_start(struct node *n)
{
    struct peers_settings s = {n->cluster, n->self, n->self.address, n->tls};
    char why[512];

    n->peers = peers_new(n->world->loop, &n->world->diag, &s, &events, n, why, sizeof why);
    CHECK(n->peers != NULL);
}

void peer_node_stop(struct node *n)
{
    stream_close(n->taken);
    n->taken = NULL;
    peers_free(n->peers);
    n->peers = NULL;
}

void node_knows(struct node *n, size_t count, ...)
{
    struct members m = {.count = 0};
    va_list others;

    va_start(others, count);
    for (size_t i = 0; i < count; i++)
        m.at[m.count++] = va_arg(others, struct node *)->self;
    va_end(others);
    peers_set(n->peers, &m);
}

/* ---- the world ---- */

static bool on_turn(void *arg)
{
    struct world *w = arg;

    if (w->until != NULL && w->until(w, w->arg)) {
        w->until = NULL;
        loop_stop(w->loop);
    }
    return false;
}

static void on_limit(void *arg)
{
    struct world *w = arg;

    w->timed_out = true;
    loop_stop(w->loop);
}

static void certificates(struct world *w)
{
    struct tls_issuer *ca = tls_issuer_new(w->dir, "ca"), *other = tls_issuer_new(w->dir, "other-ca");

    for (char name = 'a'; name < 'a' + WORLD_NODES_MAX; name++) {
        char file[8], san[32];

        (void)snprintf(file, sizeof file, "%c", name);
        (void)snprintf(san, sizeof san, "DNS:%c.test", name);
        tls_make(w->dir, file, &(struct tls_wish){.san = san, .issuer = ca});
    }
    tls_make(w->dir, "stranger", &(struct tls_wish){.san = "DNS:b.test", .issuer = other});
    tls_issuer_free(ca);
    tls_issuer_free(other);
}

void world_open(struct world *w, bool tls)
{
    memset(w, 0, sizeof *w);
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/hf_peer.XXXXXX");
    CHECK(mkdtemp(w->dir) != NULL);
    w->loop = loop_new();
    w->limit = loop_timer_new(w->loop, on_limit, w);
    w->diag.level = DIAG_NOTICE;
    (void)snprintf(w->diag.file, sizeof w->diag.file, "%s/log", w->dir);
    w->random = (uint64_t)getpid() * 2654435761u | 1;
    w->tls = tls;
    loop_add_hook(w->loop, on_turn, w);
    if (tls)
        certificates(w);
    for (size_t i = 0; i < WORLD_NODES_MAX; i++)
        node_make(w, i);
}

void world_close(struct world *w)
{
    char command[256];

    for (size_t i = 0; i < WORLD_NODES_MAX; i++) {
        peer_node_stop(&w->nodes[i]);
        tls_free(w->nodes[i].tls);
    }
    for (size_t i = 1; i <= w->record_count; i++)
        record_drop(w->records[i]);
    loop_timer_free(w->limit);
    world_pass(w, 0);
    loop_free(w->loop);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", w->dir);
    CHECK(system(command) == 0);
}

bool world_run(struct world *w, bool (*until)(struct world *w, void *arg), void *arg)
{
    w->until = until;
    w->arg = arg;
    w->timed_out = false;
    loop_timer_once(w->limit, WORLD_WAIT_MS_MAX);
    loop_run(w->loop);
    loop_timer_stop(w->limit);
    w->until = NULL;
    return !w->timed_out;
}

static void on_passed(void *arg)
{
    loop_stop(arg);
}

void world_pass(struct world *w, uint64_t ms)
{
    struct loop_timer *t = loop_timer_new(w->loop, on_passed, w->loop);

    loop_timer_once(t, ms);
    loop_run(w->loop);
    loop_timer_free(t);
}

size_t world_said(struct world *w, const char *text)
{
    FILE *f = fopen(w->diag.file, "r");
    char line[2048];
    size_t n = 0;

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        n += strstr(line, text) != NULL;
    if (f != NULL)
        (void)fclose(f);
    return n;
}

struct wanted {
    const char *text;
    size_t lines;
};

static bool is_said(struct world *w, void *arg)
{
    const struct wanted *s = arg;

    return world_said(w, s->text) >= s->lines;
}

bool world_says(struct world *w, const char *text, size_t lines)
{
    return world_run(w, is_said, &(struct wanted){text, lines});
}

void world_records(struct world *w, size_t count, size_t bytes_max)
{
    struct hash128 running = {0, 0};
    uint64_t term = 1;

    CHECK(count <= WORLD_RECORDS_MAX && w->record_count == 0);
    for (size_t i = 1; i <= count; i++) {
        size_t n = (size_t)world_random(w, bytes_max);
        struct buf batch = {0}, body = {0};

        for (size_t j = 0; j < n; j++)
            buf_u8(&body, (uint8_t)world_random(w, 256));
        term += world_random(w, 40) == 0;
        entry_begin(&batch);
        frame_intent(&batch, i, 0, buf_head(&body), body.len);
        running = entry_seal(&batch, i, term, running);
        w->records[i] = record_new(&batch, RECORD_COMMAND, i, term, running);
        buf_free(&body);
    }
    w->record_count = count;
}

/* ---- what tests say and ask ---- */

void send_mark(struct node *from, struct node *to, uint64_t mark)
{
    struct peer_message m = {.kind = PEER_APPEND_RESULT, .peer = to->self.id, .term = 3, .wall_ms = mark};

    peers_send(from->peers, &m);
}

void send_append(struct node *from, struct node *to, uint64_t prev, uint32_t count)
{
    struct peer_message m = {.kind = PEER_APPEND, .peer = to->self.id, .term = 9, .sent_ms = 7};

    m.append.prev_index = prev;
    m.append.prev_term = prev > 0 ? from->world->records[prev]->term : 0;
    m.append.commit = 5;
    m.append.count = count;
    peers_send(from->peers, &m);
}

bool a_to_b(struct world *w, void *arg)
{
    (void)arg;
    return peers_up(A->peers, B->self.id);
}

bool a_lost_b(struct world *w, void *arg)
{
    (void)arg;
    return A->downs >= 1;
}

bool has_marks(struct world *w, void *arg)
{
    return B->marks >= *(size_t *)arg;
}

static bool all_up(struct world *w, void *arg)
{
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 3; j++)
            if (i != j && !peers_up(w->nodes[i].peers, w->nodes[j].self.id))
                return false;
    (void)arg;
    return true;
}

bool world_three(struct world *w)
{
    for (size_t i = 0; i < 3; i++)
        peer_node_start(&w->nodes[i]);
    for (size_t i = 0; i < 3; i++)
        node_knows(&w->nodes[i], 3, A, B, C);
    return world_run(w, all_up, NULL);
}

/* ---- raw connections ---- */

static void raw_data(void *arg, const char *bytes, size_t n)
{
    struct raw *r = arg;

    buf_append(&r->in, bytes, n);
    if (r->keep_quiet)
        stream_pause(r->stream, true);
}

static void raw_connected(void *arg)
{
    struct raw *r = arg;

    r->open = true;
}

static void raw_closed(void *arg, const char *why)
{
    struct raw *r = arg;

    (void)why;
    r->closed = true;
}

const struct stream_events raw_events = {.data = raw_data, .closed = raw_closed, .connected = raw_connected};

static bool raw_is_open(struct world *w, void *arg)
{
    (void)w;
    return ((struct raw *)arg)->open;
}

bool raw_is_closed(struct world *w, void *arg)
{
    (void)w;
    return ((struct raw *)arg)->closed;
}

void raw_open(struct world *w, struct raw *r, struct node *to)
{
    char why[256];

    *r = (struct raw){0};
    r->stream = stream_connect(w->loop, to->self.address, &raw_events, r, why, sizeof why);
    CHECK(r->stream != NULL);
    CHECK(world_run(w, raw_is_open, r));
}

void raw_close(struct raw *r)
{
    stream_close(r->stream);
    buf_free(&r->in);
}

void hello_of(struct buf *out, const struct node *n, enum peer_purpose purpose, uint32_t version)
{
    struct peer_hello h = {.purpose = purpose, .member = n->self};
    size_t at = wire_begin(out);

    memcpy(h.group, "group of members", PEER_GROUP_BYTES);
    buf_text(&h.configuration, "configuration");
    wire_hello(out, &h, n->cluster);
    buf_head(out)[at + WIRE_FRAME_HEADER_BYTES + 4] = (char)version;
    wire_end(out, at, WIRE_HELLO);
    buf_free(&h.configuration);
}

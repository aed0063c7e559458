/* GETs and SETs side by side at a given rate, the latency of each kind by itself.
 *
 *     mixed port seconds rate share clients keys bytes
 *     mixed 6379 5       20000 0.2  50      100000 100
 *
 * `rate` commands a second arrive at random (Poisson), whatever the server does; `share` of them are SETs, which have
 * that share of the clients for themselves. A command that finds no idle client of its kind waits for one, and its
 * latency counts from its arrival, not from its sending: a server that stalls cannot hide it by slowing its load down
 * (coordinated omission).
 *
 *     arrivals ──▶ due[kind] ──▶ idle client ──▶ socket ──▶ reply ──▶ latency[kind]
 *
 * rate 0: closed loop; every client sends its next command when the last one is answered.
 * Prints one line of JSON; latencies in microseconds. An error reply ends it: a figure over errors means nothing. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static const char program[] = "mixed";
#include "measure.h"

enum { CLIENTS_MAX = 1000, VALUE_BYTES_MAX = 64 * 1024, BUFFER_BYTES = VALUE_BYTES_MAX + 256, KINDS = 2 };
enum kind { GET, SET };

struct client {
    int fd;
    enum kind kind;
    uint64_t since; /* arrival of the command under way, ns */
    size_t have;
    char in[BUFFER_BYTES];
};

struct load {
    double rate; /* per second; 0 = closed loop */
    uint64_t next; /* arrival of the next command, ns */
    struct client *idle[CLIENTS_MAX];
    size_t idle_count;
    struct latencies latencies;
};

struct bench {
    struct load load[KINDS];
    uint64_t random, keys, end;
    size_t bytes;
    char value[VALUE_BYTES_MAX];
};

static uint64_t gap_ns(struct bench *b, double rate)
{
    double u = (double)(next_random(&b->random) >> 11) / 9007199254740992.0;

    return (uint64_t)(-log(1 - u) / rate * 1e9);
}

static void send_command(struct bench *b, struct client *c, uint64_t arrived)
{
    static char out[BUFFER_BYTES];
    unsigned long long key = next_random(&b->random) % b->keys;
    int n;

    if (c->kind == GET)
        n = snprintf(out, sizeof out, "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012llu\r\n", key);
    else
        n = snprintf(out, sizeof out, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012llu\r\n$%zu\r\n%.*s\r\n", key, b->bytes,
                     (int)b->bytes, b->value);
    c->since = arrived;
    c->have = 0;
    if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL) != n) /* one command under way: it always fits */
        die("cannot send");
}

/* True when the reply is whole. */
static bool reply_is_whole(const struct client *c)
{
    const char *line_end = memchr(c->in, '\n', c->have);
    long bulk;

    if (c->have > 0 && c->in[0] == '-' && line_end != NULL) {
        fprintf(stderr, "mixed: %.*s\n", (int)(line_end - c->in), c->in);
        exit(1);
    }
    if (line_end == NULL)
        return false;
    if (c->in[0] != '$')
        return true;
    bulk = strtol(c->in + 1, NULL, 10);
    return bulk < 0 || c->have == (size_t)(line_end - c->in) + 1 + (size_t)bulk + 2;
}

static void on_readable(struct bench *b, struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
    struct load *l = &b->load[c->kind];
    uint64_t now;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("connection lost");
    c->have += (size_t)n;
    if (!reply_is_whole(c))
        return;
    now = now_ns();
    record(&l->latencies, now - c->since);
    if (l->rate > 0)
        l->idle[l->idle_count++] = c;
    else if (now < b->end)
        send_command(b, c, now);
}

/* Sends what is due; returns the nanoseconds until the next arrival. */
static uint64_t send_due(struct bench *b, uint64_t now)
{
    uint64_t wait = 100000000;

    for (int kind = 0; kind < KINDS; kind++) {
        struct load *l = &b->load[kind];

        if (l->rate <= 0)
            continue;
        while (l->next <= now && l->idle_count > 0) {
            send_command(b, l->idle[--l->idle_count], l->next);
            l->next += gap_ns(b, l->rate);
        }
        if (l->next > now)
            wait = l->next - now < wait ? l->next - now : wait;
    }
    return wait;
}

static struct client *connect_client(int epoll, int port, enum kind kind)
{
    struct client *c = calloc(1, sizeof *c);

    if (c == NULL)
        die("out of memory");
    c->kind = kind;
    c->fd = connect_loopback(epoll, port, c);
    return c;
}

static void run(struct bench *b, int epoll)
{
    struct epoll_event events[128];
    uint64_t now;

    while ((now = now_ns()) < b->end) {
        uint64_t wait = send_due(b, now);
        struct timespec t = {0, (long)wait};
        int n = epoll_pwait2(epoll, events, 128, &t, NULL);

        for (int i = 0; i < n; i++)
            on_readable(b, events[i].data.ptr);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    double seconds, rate, share;
    int clients, sets, epoll = epoll_create1(0);

    if (argc != 8)
        die("port seconds rate share clients keys bytes");
    seconds = atof(argv[2]);
    rate = atof(argv[3]);
    share = atof(argv[4]);
    clients = atoi(argv[5]);
    b.keys = (uint64_t)atoll(argv[6]);
    b.bytes = (size_t)atoll(argv[7]);
    if (clients < 1 || clients > CLIENTS_MAX || b.bytes > VALUE_BYTES_MAX || b.keys < 1)
        die("out of range");
    b.random = random_seed();
    memset(b.value, 'x', sizeof b.value);
    b.load[SET].rate = rate * share;
    b.load[GET].rate = rate * (1 - share);
    sets = (int)((double)clients * share + 0.5);
    for (int i = 0; i < clients; i++) {
        struct client *c = connect_client(epoll, atoi(argv[1]), i < sets ? SET : GET);

        b.load[c->kind].idle[b.load[c->kind].idle_count++] = c;
    }
    b.load[GET].next = b.load[SET].next = now_ns();
    b.end = now_ns() + (uint64_t)(seconds * 1e9);
    for (int kind = 0; kind < KINDS && rate <= 0; kind++)
        for (size_t i = 0; i < b.load[kind].idle_count; i++)
            send_command(&b, b.load[kind].idle[i], now_ns());
    run(&b, epoll);
    printf("{\"get\": ");
    report(&b.load[GET].latencies, seconds);
    printf(", \"set\": ");
    report(&b.load[SET].latencies, seconds);
    printf("}\n");
    return 0;
}

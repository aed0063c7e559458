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
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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
    uint32_t *latency_us; /* grows */
    size_t count, room;
};

struct bench {
    struct load load[KINDS];
    uint64_t random, keys, end;
    size_t bytes;
    char value[VALUE_BYTES_MAX];
};

static void die(const char *what)
{
    fprintf(stderr, "mixed: %s\n", what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(struct bench *b) /* xorshift64 */
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random;
}

static uint64_t gap_ns(struct bench *b, double rate)
{
    double u = (double)(next_random(b) >> 11) / 9007199254740992.0;

    return (uint64_t)(-log(1 - u) / rate * 1e9);
}

static void record(struct load *l, uint64_t ns)
{
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 65536;
        l->latency_us = realloc(l->latency_us, l->room * sizeof *l->latency_us);
        if (l->latency_us == NULL)
            die("out of memory");
    }
    l->latency_us[l->count++] = (uint32_t)(ns / 1000);
}

static void send_command(struct bench *b, struct client *c, uint64_t arrived)
{
    static char out[BUFFER_BYTES];
    unsigned long long key = next_random(b) % b->keys;
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
    record(l, now - c->since);
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
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct client *c = calloc(1, sizeof *c);
    int one = 1;

    if (c == NULL)
        die("out of memory");
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    c->kind = kind;
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("cannot connect");
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c}) != 0)
        die("epoll_ctl");
    return c;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void report(struct load *l, const char *name, double seconds)
{
    static const double quantiles[] = {0.5, 0.95, 0.99, 0.999};

    qsort(l->latency_us, l->count, sizeof *l->latency_us, compare);
    printf("\"%s\": {\"count\": %zu, \"rps\": %.0f", name, l->count, (double)l->count / seconds);
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles && l->count > 0; i++)
        printf(", \"p%g\": %u", quantiles[i] * 100, l->latency_us[(size_t)((double)(l->count - 1) * quantiles[i])]);
    printf("}");
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
    static struct bench b = {.random = 88172645463325252U};
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
    b.random ^= (uint64_t)getpid() << 20;
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
    printf("{");
    report(&b.load[GET], "get", seconds);
    printf(", ");
    report(&b.load[SET], "set", seconds);
    printf("}\n");
    return 0;
}

/* What the load programs of this folder share: a clock, a random number, the connections of a closed loop, and
 * latencies with their report.
 *
 *     since = now_ns() ── send ── reply ── record(&latencies, now_ns() - since) ... report(&latencies, seconds)
 *
 * Each program defines `program`, its name in messages, before it includes this. An error ends the program: a figure
 * over commands that failed means nothing. */
#ifndef HOLDFAST_BENCH_MEASURE_H
#define HOLDFAST_BENCH_MEASURE_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct latencies {
    uint32_t *us; /* grows */
    size_t count, room;
};

static inline _Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program, what);
    exit(1);
}

static inline uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* Differs between processes; their order does not matter here. */
static inline uint64_t random_seed(void)
{
    return 88172645463325252U ^ (uint64_t)getpid() << 20;
}

static inline uint64_t next_random(uint64_t *random) /* xorshift64 */
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static inline void record(struct latencies *l, uint64_t ns)
{
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 65536;
        l->us = realloc(l->us, l->room * sizeof *l->us);
        if (l->us == NULL)
            die("out of memory");
    }
    l->us[l->count++] = (uint32_t)(ns / 1000);
}

/* A connection to a port on loopback; `epoll` reports it by `client`. */
static inline int connect_loopback(int epoll, int port, void *client)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("cannot connect");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = client}) != 0)
        die("epoll_ctl");
    return fd;
}

static inline int compare_us(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* {"count": 12, "rps": 3.4, "p50": 56, ...}: microseconds. */
static inline void report(struct latencies *l, double seconds)
{
    static const double quantiles[] = {0.5, 0.95, 0.99, 0.999};

    qsort(l->us, l->count, sizeof *l->us, compare_us);
    printf("{\"count\": %zu, \"rps\": %.1f", l->count, (double)l->count / seconds);
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles && l->count > 0; i++)
        printf(", \"p%g\": %u", quantiles[i] * 100, l->us[(size_t)((double)(l->count - 1) * quantiles[i])]);
    printf("}");
}

#endif

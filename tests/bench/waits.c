/* SETs, each followed by a command that waits for copies (or by none), in a closed loop.
 *
 *     waits port seconds clients keys bytes [word ...]
 *     waits 6379 5       50      100000 100 WAIT 1 1000      SET and WAIT in one packet, both replies count as one
 *     waits 6379 5       50      100000 100                  SET alone: its reply says it all
 *
 * A wait that reports fewer copies than its first number (WAITAOF: local and replicas) ends it, as does an error
 * reply: a figure over writes that are not as safe as asked for means nothing. Prints one line of JSON; latencies in
 * microseconds, from sending the pair to its last reply. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char program[] = "waits";
#include "measure.h"

enum { CLIENTS_MAX = 1000, VALUE_BYTES_MAX = 64 * 1024, IN_BYTES = 512, WAIT_BYTES_MAX = 512, WORDS_MAX = 8 };

struct client {
    int fd;
    uint64_t since; /* ns */
    size_t have;
    char in[IN_BYTES];
};

struct bench {
    uint64_t random, keys, end;
    size_t bytes, wait_bytes;
    int lines; /* of the replies to one pair */
    long copies[2]; /* asked for, by each number that is answered */
    struct latencies latencies;
    char value[VALUE_BYTES_MAX], wait[WAIT_BYTES_MAX];
};

/* One SET, and the wait behind it. */
static void send_pair(struct bench *b, struct client *c)
{
    static char out[VALUE_BYTES_MAX + WAIT_BYTES_MAX + 256];
    int n = snprintf(out, sizeof out, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012llu\r\n$%zu\r\n%.*s\r\n%.*s",
                     (unsigned long long)(next_random(&b->random) % b->keys), b->bytes, (int)b->bytes, b->value,
                     (int)b->wait_bytes, b->wait);

    c->since = now_ns();
    c->have = 0;
    if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL) != n) /* one pair under way: it always fits */
        die("cannot send");
}

/* True when all lines are there; they are judged then: +OK, and :n or *2 :n :m. */
static bool replies_are_whole(const struct bench *b, struct client *c)
{
    int lines = 0, number = 0;

    for (size_t i = 0; i < c->have; i++)
        lines += c->in[i] == '\n';
    c->in[c->have] = '\0';
    if (c->in[0] == '-')
        die(c->in);
    if (lines < b->lines)
        return false;
    for (const char *at = c->in; (at = strchr(at, '\n')) != NULL; at++) {
        if (at[1] == '-')
            die(at + 1);
        if (at[1] == ':' && number < 2 && strtol(at + 2, NULL, 10) < b->copies[number++])
            die("there are fewer copies than were asked for");
    }
    return true;
}

static void on_readable(struct bench *b, struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->have, sizeof c->in - 1 - c->have, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("connection lost");
    c->have += (size_t)n;
    if (!replies_are_whole(b, c))
        return;
    record(&b->latencies, now_ns() - c->since);
    if (now_ns() < b->end)
        send_pair(b, c);
}

static struct client *connect_client(int epoll, int port)
{
    struct client *c = calloc(1, sizeof *c);

    if (c == NULL)
        die("out of memory");
    c->fd = connect_loopback(epoll, port, c);
    return c;
}

/* WAIT n timeout answers :n; WAITAOF local n timeout answers *2 :local :n. */
static void parse_wait(struct bench *b, int words, char **word)
{
    int n = 0;

    b->lines = 1;
    if (words == 0)
        return;
    if (words > WORDS_MAX)
        die("too many words");
    n = snprintf(b->wait, sizeof b->wait, "*%d\r\n", words);
    for (int i = 0; i < words && n < (int)sizeof b->wait; i++)
        n += snprintf(b->wait + n, sizeof b->wait - (size_t)n, "$%zu\r\n%s\r\n", strlen(word[i]), word[i]);
    if (n >= (int)sizeof b->wait)
        die("the words are too long");
    b->wait_bytes = (size_t)n;
    b->lines = words > 3 ? 4 : 2;
    for (int i = 1; i < words - 1 && i < 3; i++)
        b->copies[i - 1] = strtol(word[i], NULL, 10);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct epoll_event events[128];
    int clients, epoll = epoll_create1(0);
    double seconds;
    uint64_t began;

    if (argc < 6)
        die("port seconds clients keys bytes [word ...]");
    seconds = atof(argv[2]);
    clients = atoi(argv[3]);
    b.keys = (uint64_t)atoll(argv[4]);
    b.bytes = (size_t)atoll(argv[5]);
    if (clients < 1 || clients > CLIENTS_MAX || b.bytes > VALUE_BYTES_MAX || b.keys < 1)
        die("out of range");
    b.random = random_seed();
    memset(b.value, 'x', sizeof b.value);
    parse_wait(&b, argc - 6, argv + 6);
    began = now_ns();
    b.end = began + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < clients; i++)
        send_pair(&b, connect_client(epoll, atoi(argv[1])));
    while (now_ns() < b.end) {
        int n = epoll_wait(epoll, events, 128, 100);

        for (int i = 0; i < n; i++)
            on_readable(&b, events[i].data.ptr);
    }
    report(&b.latencies, (double)(now_ns() - began) / 1e9);
    printf("\n");
    return 0;
}

/* Blocks of commands in a closed loop; or elements handed over to blocked clients.
 *
 *     blocks port seconds clients keys bytes word ... [/ word ...]
 *     blocks 6379 2 50 100000 100 MULTI / SET %k %d / EXEC      a block in one packet, all its replies count as one
 *     blocks 6379 2 50 100000 100 HANDOVER                      pairs of connections, see below
 *
 * %k is a random key, %d the value. An error reply ends it: a figure over commands that failed means nothing. With
 * HANDOVER each client is two connections: one is blocked in BLPOP on a list of its own, the other one pushes; the
 * time is that from the push to the element. A PING lies between, so that the list is waited for before it is pushed
 * to:
 *
 *     taker    BLPOP l 0 ─────────────────────────▶ element
 *     pusher   PING ──▶ PONG, RPUSH l value ──▶ 1
 *
 * Prints one line of JSON; latencies in microseconds. */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <string.h>

static const char program[] = "blocks";
#include "measure.h"

enum { CLIENTS_MAX = 1000, VALUE_BYTES_MAX = 4096, OUT_BYTES = 64 * 1024, IN_BYTES = 64 * 1024 };

enum stage { BLOCK, TAKING, PINGING, PUSHING }; /* BLOCK: not a hand-over */

struct client {
    int fd, number;
    enum stage stage;
    int due; /* replies */
    uint64_t since;
    redisReader *reader;
    struct client *other; /* of a pair */
};

struct bench {
    uint64_t random, keys, end;
    int words, commands;
    char **word;
    size_t bytes;
    struct latencies latencies;
    char value[VALUE_BYTES_MAX];
};

/* ---- sending ---- */

static size_t put_word(struct bench *b, char *out, size_t room, const char *word)
{
    char made[VALUE_BYTES_MAX + 64];
    const char *hole = strstr(word, "%k");
    size_t n;

    if (strcmp(word, "%d") == 0)
        n = (size_t)snprintf(made, sizeof made, "%.*s", (int)b->bytes, b->value);
    else if (hole != NULL)
        n = (size_t)snprintf(made, sizeof made, "%.*skey:%012llu", (int)(hole - word), word,
                             (unsigned long long)(next_random(&b->random) % b->keys));
    else
        n = (size_t)snprintf(made, sizeof made, "%s", word);
    if (n >= sizeof made || n + 32 > room)
        die("a command is too long");
    return (size_t)snprintf(out, room, "$%zu\r\n%s\r\n", n, made);
}

static size_t put_command(struct bench *b, char *out, size_t room, int count, char **word)
{
    size_t n = (size_t)snprintf(out, room, "*%d\r\n", count);

    for (int i = 0; i < count; i++)
        n += put_word(b, out + n, room - n, word[i]);
    return n;
}

static void send_bytes(struct client *c, const char *out, size_t n, int replies)
{
    c->due = replies;
    c->since = now_ns();
    if (send(c->fd, out, n, MSG_NOSIGNAL) != (ssize_t)n) /* one block under way: it always fits */
        die("cannot send");
}

static void send_block(struct bench *b, struct client *c)
{
    static char out[OUT_BYTES];
    size_t n = 0;

    for (int at = 0, from = 0; at <= b->words; at++) {
        if (at < b->words && strcmp(b->word[at], "/") != 0)
            continue;
        n += put_command(b, out + n, sizeof out - n, at - from, b->word + from);
        from = at + 1;
    }
    send_bytes(c, out, n, b->commands);
}

static void send_words(struct bench *b, struct client *c, enum stage stage, int count, char **word)
{
    static char out[OUT_BYTES];

    c->stage = stage;
    send_bytes(c, out, put_command(b, out, sizeof out, count, word), 1);
}

static void begin_pair(struct bench *b, struct client *taker)
{
    char list[32];

    (void)snprintf(list, sizeof list, "list:%d:%d", (int)getpid(), taker->number); /* the last run left an element */
    send_words(b, taker, TAKING, 3, (char *[]){"BLPOP", list, "0"});
    send_words(b, taker->other, PINGING, 1, (char *[]){"PING"});
}

/* ---- replies ---- */

static void check(const redisReply *r)
{
    if (r->type == REDIS_REPLY_ERROR)
        die(r->str);
    if (r->type == REDIS_REPLY_NIL)
        die("an answer is empty");
    for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i < r->elements; i++)
        check(r->element[i]);
}

static void answered(struct bench *b, struct client *c)
{
    uint64_t now = now_ns();
    char list[32];

    switch (c->stage) {
    case BLOCK:
        record(&b->latencies, now - c->since);
        if (now < b->end)
            send_block(b, c);
        return;
    case PINGING:
        (void)snprintf(list, sizeof list, "list:%d:%d", (int)getpid(), c->number);
        send_words(b, c, PUSHING, 3, (char *[]){"RPUSH", list, "%d"});
        return;
    case TAKING:
        if (c->other->stage != PUSHING)
            die("an element came before it was pushed");
        record(&b->latencies, now - c->other->since);
        break;
    case PUSHING:
        break;
    }
    if (c->due == 0 && c->other->due == 0 && now < b->end)
        begin_pair(b, c->stage == TAKING ? c : c->other);
}

static void on_readable(struct bench *b, struct client *c)
{
    static char in[IN_BYTES];
    ssize_t n = recv(c->fd, in, sizeof in, 0);
    void *reply = NULL;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("connection lost");
    if (redisReaderFeed(c->reader, in, (size_t)n) != REDIS_OK)
        die("not RESP");
    while (redisReaderGetReply(c->reader, &reply) == REDIS_OK && reply != NULL) {
        check(reply);
        freeReplyObject(reply);
        reply = NULL;
        if (--c->due == 0)
            answered(b, c);
    }
}

/* ---- clients ---- */

static struct client *connect_client(int epoll, int port, int number)
{
    struct client *c = calloc(1, sizeof *c);

    if (c == NULL || (c->reader = redisReaderCreate()) == NULL)
        die("out of memory");
    c->number = number;
    c->fd = connect_loopback(epoll, port, c);
    return c;
}

static void begin_client(struct bench *b, int epoll, int port, int number)
{
    struct client *c = connect_client(epoll, port, number);

    if (b->commands > 0) {
        send_block(b, c);
        return;
    }
    c->other = connect_client(epoll, port, number);
    c->other->other = c;
    begin_pair(b, c);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct epoll_event events[128];
    int clients, epoll = epoll_create1(0);
    uint64_t began;

    if (argc < 7)
        die("port seconds clients keys bytes word ... [/ word ...]");
    clients = atoi(argv[3]);
    b.keys = (uint64_t)atoll(argv[4]);
    b.bytes = (size_t)atoll(argv[5]);
    if (clients < 1 || clients > CLIENTS_MAX || b.bytes > VALUE_BYTES_MAX || b.keys < 1)
        die("out of range");
    b.random = random_seed();
    memset(b.value, 'x', sizeof b.value);
    b.words = argc - 6;
    b.word = argv + 6;
    if (strcmp(b.word[0], "HANDOVER") != 0) {
        b.commands = 1;
        for (int i = 0; i < b.words; i++)
            b.commands += strcmp(b.word[i], "/") == 0;
    }
    began = now_ns();
    b.end = began + (uint64_t)(atof(argv[2]) * 1e9);
    for (int i = 0; i < clients; i++)
        begin_client(&b, epoll, atoi(argv[1]), i);
    while (now_ns() < b.end) {
        int n = epoll_wait(epoll, events, 128, 100);

        for (int i = 0; i < n; i++)
            on_readable(&b, events[i].data.ptr);
    }
    report(&b.latencies, (double)(now_ns() - began) / 1e9);
    printf("\n");
    return 0;
}

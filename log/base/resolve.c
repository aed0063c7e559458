/* getaddrinfo() blocks, so each lookup has a thread of its own; it is never waited for. What the thread and the loop
 * share is the job, counted by both, so that either may be gone first:
 *
 *   loop:   ask ─▶ name (one per address) ─▶ job ──thread──▶ getaddrinfo ──eventfd──▶ answers
 *                                                                                       └─▶ done() of all that ask
 *
 * At most one job is under way for a name. Its last good answer is kept: while the name server is silent
 * (RESOLVE_PATIENCE_MS) or fails, members still find each other where they were. */
#include "log/base/resolve.h"

#include <event2/event.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log/base/address.h"
#include "log/base/diag.h"
#include "log/base/loop.h"

enum { ANSWERS_MAX = 4, WHY_BYTES_MAX = 128 };

struct answers {
    char at[ANSWERS_MAX][ADDRESS_BYTES_MAX];
    size_t count;
};
struct job {
    atomic_int holders;
    int fd; /* an eventfd: the answers are there */
    char host[ADDRESS_HOST_BYTES_MAX], port[ADDRESS_PORT_BYTES_MAX];
    struct answers answers;
    char why[WHY_BYTES_MAX];
};
struct name {
    struct resolver *resolver;
    char address[ADDRESS_BYTES_MAX];
    struct answers good;
    size_t next; /* of the good ones, for the next who asks */
    uint64_t good_ms, used_ms;
    struct job *job;     /* NULL: none under way */
    struct event *event; /* of the job */
    struct lookup *lookups;
};
struct lookup {
    struct name *name;
    struct lookup **place, *next;
    struct loop_timer *patience;
    void (*done)(void *arg, const char *numeric, const char *why);
    void *arg;
};
struct resolver {
    struct loop *loop;
    struct name **names;
    size_t count;
};

/* ---- the thread ---- */

static void job_drop(struct job *j)
{
    if (atomic_fetch_sub(&j->holders, 1) > 1)
        return;
    (void)close(j->fd);
    free(j);
}

static void *run(void *arg)
{
    struct job *j = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int rc = getaddrinfo(j->host, j->port, &hints, &found);
    uint64_t one = 1;

    if (rc != 0)
        (void)snprintf(j->why, sizeof j->why, "%s", gai_strerror(rc));
    for (const struct addrinfo *a = found; a != NULL && j->answers.count < ANSWERS_MAX; a = a->ai_next) {
        struct sockaddr_storage to = {0};

        if (a->ai_addrlen > sizeof to)
            continue;
        memcpy(&to, a->ai_addr, a->ai_addrlen);
        if (address_text(&to, a->ai_addrlen, true, j->answers.at[j->answers.count], ADDRESS_BYTES_MAX))
            j->answers.count++;
    }
    if (found != NULL)
        freeaddrinfo(found);
    (void)!write(j->fd, &one, sizeof one); /* an eventfd takes it */
    job_drop(j);
    return NULL;
}

/* Signals are the loop thread's. */
static bool start_thread(struct job *j)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;
    bool ok;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    ok = pthread_create(&thread, &attributes, run, j) == 0;
    (void)pthread_attr_destroy(&attributes);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

/* ---- answering ---- */

void lookup_cancel(struct lookup *k)
{
    if (k == NULL)
        return;
    *k->place = k->next;
    if (k->next != NULL)
        k->next->place = k->place;
    loop_timer_free(k->patience);
    loop_bury(k->name->resolver->loop, k, free);
}

static void answer(struct lookup *k, const char *why)
{
    struct name *n = k->name;
    char numeric[ADDRESS_BYTES_MAX];
    bool ok = n->good.count > 0;

    if (ok)
        (void)snprintf(numeric, sizeof numeric, "%s", n->good.at[n->next++ % n->good.count]);
    lookup_cancel(k);
    k->done(k->arg, ok ? numeric : NULL, ok ? "" : why);
}

static void stop_job(struct name *n)
{
    if (n->job == NULL)
        return;
    event_free(n->event);
    n->event = NULL;
    job_drop(n->job);
    n->job = NULL;
}

static void on_answers(evutil_socket_t fd, short what, void *arg)
{
    struct name *n = arg;
    char why[WHY_BYTES_MAX];
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) != (ssize_t)sizeof count)
        return;
    (void)snprintf(why, sizeof why, "%s", n->job->why);
    if (n->job->answers.count > 0) {
        n->good = n->job->answers;
        n->good_ms = loop_now_ms(n->resolver->loop);
    }
    stop_job(n);
    while (n->lookups != NULL)
        answer(n->lookups, why);
}

static bool fresh(const struct name *n)
{
    return n->good.count > 0 && loop_now_ms(n->resolver->loop) - n->good_ms < RESOLVE_FRESH_MS;
}

/* Either there is an answer that is fresh, or one that must do. */
static void on_patience(void *arg)
{
    struct lookup *k = arg;

    if (k->name->good.count > 0)
        answer(k, "");
    else if (k->name->job == NULL)
        answer(k, "no thread to look it up");
}

static void start_job(struct name *n)
{
    struct job *j = must_calloc(1, sizeof *j);

    atomic_init(&j->holders, 2);
    j->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (j->fd < 0 || !address_split(n->address, j->host, j->port) || !start_thread(j)) {
        if (j->fd >= 0)
            (void)close(j->fd);
        free(j); /* on_patience() answers */
        return;
    }
    n->job = j;
    n->event = event_new(loop_base(n->resolver->loop), j->fd, EV_READ | EV_PERSIST, on_answers, n);
    CHECK(n->event != NULL);
    (void)event_add(n->event, NULL);
}

/* ---- names ---- */

static void name_free(struct name *n)
{
    while (n->lookups != NULL)
        lookup_cancel(n->lookups);
    stop_job(n);
    loop_bury(n->resolver->loop, n, free);
}

/* One that nobody waits for makes room, the one not used for longest; there are more names only while more are being
 * looked up. */
static void make_room(struct resolver *r)
{
    size_t oldest = r->count;

    for (size_t i = 0; i < r->count; i++)
        if (r->names[i]->lookups == NULL && (oldest == r->count || r->names[i]->used_ms < r->names[oldest]->used_ms))
            oldest = i;
    if (r->count < RESOLVE_NAMES_MAX || oldest == r->count)
        return;
    name_free(r->names[oldest]);
    r->names[oldest] = r->names[--r->count];
}

static struct name *name_of(struct resolver *r, const char *address)
{
    struct name *n;

    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->names[i]->address, address) == 0)
            return r->names[i];
    make_room(r);
    n = must_calloc(1, sizeof *n);
    n->resolver = r;
    (void)snprintf(n->address, sizeof n->address, "%s", address);
    r->names = must_realloc(r->names, (r->count + 1) * sizeof(struct name *));
    r->names[r->count++] = n;
    return n;
}

struct resolver *resolver_new(struct loop *l)
{
    struct resolver *r = must_calloc(1, sizeof *r);

    r->loop = l;
    return r;
}

void resolver_free(struct resolver *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->count; i++)
        name_free(r->names[i]);
    free(r->names);
    loop_bury(r->loop, r, free);
}

struct lookup *resolver_ask(struct resolver *r, const char *address,
                            void (*done)(void *arg, const char *numeric, const char *why), void *arg)
{
    struct lookup *k = must_calloc(1, sizeof *k);
    struct name *n = name_of(r, address);

    n->used_ms = loop_now_ms(r->loop);
    k->name = n;
    k->done = done;
    k->arg = arg;
    k->next = n->lookups;
    k->place = &n->lookups;
    if (k->next != NULL)
        k->next->place = &k->next;
    n->lookups = k;
    if (!fresh(n) && n->job == NULL)
        start_job(n);
    k->patience = loop_timer_new(r->loop, on_patience, k);
    loop_timer_once(k->patience, fresh(n) || n->job == NULL ? 0 : RESOLVE_PATIENCE_MS);
    return k;
}

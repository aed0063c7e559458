/* loop thread                       writer thread
 *
 *   writer_submit ──▶ waiting[class] ──▶ run() ──▶ done list
 *        ▲               (mutex, condition)            │ eventfd, written when the list was empty
 *        └────────────── done() ◀──────────────────────┘
 *
 * The mutex guards the three lists and `stopping`, nothing else, and is never held while a job runs. What a job holds
 * is handed over with it, so it needs no lock of its own. */
#include "log/writer.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log/base/diag.h"
#include "log/base/loop.h"

struct job_list {
    struct writer_job *first, **end;
};

struct writer {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct job_list waiting[WRITER_CLASSES];
    struct job_list finished;
    bool stopping;
    int event_fd;
    struct event *event;
};

static void list_clear(struct job_list *l)
{
    l->first = NULL;
    l->end = &l->first;
}

static void list_add(struct job_list *l, struct writer_job *j)
{
    j->next = NULL;
    *l->end = j;
    l->end = &j->next;
}

static struct writer_job *list_take(struct job_list *l)
{
    struct writer_job *j = l->first;

    if (j == NULL)
        return NULL;
    l->first = j->next;
    if (l->first == NULL)
        l->end = &l->first;
    return j;
}

/* With the mutex held. NULL when stopping. */
static struct writer_job *next_job(struct writer *w, enum writer_class *c)
{
    struct writer_job *j;

    while (!w->stopping) {
        for (int i = 0; i < WRITER_CLASSES; i++) {
            if ((j = list_take(&w->waiting[i])) != NULL) {
                *c = (enum writer_class)i;
                return j;
            }
        }
        (void)pthread_cond_wait(&w->wake, &w->mutex);
    }
    return NULL;
}

static void tell_loop(struct writer *w)
{
    uint64_t one = 1;
    ssize_t n;

    do
        n = write(w->event_fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
    CHECK(n == sizeof one);
}

static void *run(void *arg)
{
    struct writer *w = arg;
    struct writer_job *j;
    enum writer_class c = WRITER_URGENT;

    (void)pthread_mutex_lock(&w->mutex);
    while ((j = next_job(w, &c)) != NULL) {
        bool finished, first;

        (void)pthread_mutex_unlock(&w->mutex);
        finished = j->run(j);
        (void)pthread_mutex_lock(&w->mutex);
        first = finished && w->finished.first == NULL;
        list_add(finished ? &w->finished : &w->waiting[c], j);
        if (first) {
            (void)pthread_mutex_unlock(&w->mutex);
            tell_loop(w);
            (void)pthread_mutex_lock(&w->mutex);
        }
    }
    (void)pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static struct writer_job *take_finished(struct writer *w)
{
    struct writer_job *j;

    (void)pthread_mutex_lock(&w->mutex);
    j = list_take(&w->finished);
    (void)pthread_mutex_unlock(&w->mutex);
    return j;
}

/* The descriptor is drained before the list: a job that finishes in between is seen now or announced again. */
static void on_finished(evutil_socket_t fd, short what, void *arg)
{
    struct writer *w = arg;
    struct writer_job *j;
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
    while ((j = take_finished(w)) != NULL)
        j->done(j);
}

/* Signals are for the loop's thread. */
static int start_thread(struct writer *w)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS);
    (void)sigdelset(&all, SIGSEGV);
    (void)sigdelset(&all, SIGFPE);
    (void)sigdelset(&all, SIGILL);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&w->thread, NULL, run, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

struct writer *writer_new(struct loop *l)
{
    struct writer *w = must_calloc(1, sizeof *w);
    int rc;

    for (int i = 0; i < WRITER_CLASSES; i++)
        list_clear(&w->waiting[i]);
    list_clear(&w->finished);
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->event_fd < 0) {
        free(w);
        return NULL;
    }
    w->event = event_new(loop_base(l), w->event_fd, EV_READ | EV_PERSIST, on_finished, w);
    CHECK(w->event != NULL && event_add(w->event, NULL) == 0);
    CHECK(pthread_mutex_init(&w->mutex, NULL) == 0 && pthread_cond_init(&w->wake, NULL) == 0);
    rc = start_thread(w);
    if (rc == 0)
        return w;
    event_free(w->event);
    (void)close(w->event_fd);
    free(w);
    errno = rc;
    return NULL;
}

void writer_submit(struct writer *w, struct writer_job *j, enum writer_class c)
{
    (void)pthread_mutex_lock(&w->mutex);
    list_add(&w->waiting[c], j);
    (void)pthread_mutex_unlock(&w->mutex);
    (void)pthread_cond_signal(&w->wake);
}

void writer_free(struct writer *w)
{
    (void)pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    (void)pthread_mutex_unlock(&w->mutex);
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_join(w->thread, NULL);
    event_free(w->event);
    (void)close(w->event_fd);
    (void)pthread_mutex_destroy(&w->mutex);
    (void)pthread_cond_destroy(&w->wake);
    free(w);
}

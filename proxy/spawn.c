/* Our own valkey-server. Life:
 *
 *     RUNNING ──ends──▶ PAUSING ──timer──▶ RUNNING ...        any ──spawn_stop()──▶ STOPPING ──ended──▶ STOPPED
 *
 * It outlives us on purpose: own session, no death signal, its output in a file. A Holdfast that was killed comes
 * back, finds it behind its socket and bridges to it, which is faster than any rebuild. Who is behind the socket is
 * asked of the kernel (SO_PEERCRED: the process that called listen()), not of a pidfile: pids are used again,
 * sockets are not.
 *
 * Its end is seen through a pidfd, which works for children and for strangers alike; a kernel without pidfd_open gets
 * a timer that looks. A child is reaped then; a stranger belongs to init.
 *
 * Paths of Unix sockets have at most 107 bytes. A longer one is reached through our descriptor of its directory,
 * /proc/self/fd/<n>/valkey.sock, while valkey-server, which changes into its --dir first, just uses the bare name. */
#include "proxy/spawn.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"

enum {
    RETRY_FIRST_MS = 100,
    RETRY_MS_MAX = 5000,
    STEADY_MS = 10000, /* alive for so long: the next pause is short again */
    STOP_MS_MAX = 5000,
    LOOK_MS = 50, /* without pidfd */
    PATH_BYTES_MAX = PATH_MAX + 32,
    ADDRESS_BYTES_MAX = 108
};

extern char **environ;

enum spawn_state { SPAWN_PAUSING, SPAWN_RUNNING, SPAWN_STOPPING, SPAWN_STOPPED };

struct spawn {
    struct loop *loop;
    const struct diag *diag;
    enum spawn_state state;
    void (*exited)(void *arg, int status);
    void *arg;
    void (*stopped)(void *arg);
    void *stopped_arg;
    char program[CONFIG_TEXT_MAX];
    char dir[PATH_BYTES_MAX], log[PATH_BYTES_MAX], pidfile[PATH_BYTES_MAX];
    char socket_arg[PATH_BYTES_MAX]; /* as valkey-server is told */
    char address[ADDRESS_BYTES_MAX]; /* as we connect */
    int dir_fd;
    pid_t pid; /* 0 = none */
    bool child;
    int pidfd;
    struct event *ended;
    struct loop_timer *timer; /* PAUSING: start; STOPPING: kill; else, without pidfd: look */
    struct loop_timer *look;
    uint64_t started_ms, pause_ms;
};

/* ---- its end ---- */

static void finish_stop(struct spawn *s)
{
    s->state = SPAWN_STOPPED;
    loop_timer_stop(s->timer);
    if (s->stopped != NULL)
        s->stopped(s->stopped_arg);
}

static void unwatch(struct spawn *s)
{
    if (s->ended != NULL)
        event_free(s->ended);
    s->ended = NULL;
    if (s->pidfd >= 0)
        (void)close(s->pidfd);
    s->pidfd = -1;
    loop_timer_stop(s->look);
}

static void pause_and_start(struct spawn *s)
{
    s->state = SPAWN_PAUSING;
    loop_timer_once(s->timer, s->pause_ms);
    s->pause_ms = s->pause_ms * 2 < RETRY_MS_MAX ? s->pause_ms * 2 : RETRY_MS_MAX;
}

static void on_gone(struct spawn *s, int status)
{
    bool stopping = s->state == SPAWN_STOPPING;

    unwatch(s);
    s->pid = 0;
    if (loop_now_ms(s->loop) >= s->started_ms + STEADY_MS)
        s->pause_ms = RETRY_FIRST_MS;
    if (!stopping && WIFSIGNALED(status))
        diag_log(s->diag, DIAG_WARNING, "valkey-server was killed by signal %d; starting it again", WTERMSIG(status));
    else if (!stopping)
        diag_log(s->diag, DIAG_WARNING, "valkey-server ended (exit code %d, see %s); starting it again",
                 WEXITSTATUS(status), s->log);
    if (s->exited != NULL)
        s->exited(s->arg, status);
    if (stopping)
        finish_stop(s);
    else if (s->state == SPAWN_RUNNING)
        pause_and_start(s);
}

/* Whether it has ended: told by the pidfd, or by the timer that looks. */
static void look(struct spawn *s)
{
    int status = 0;

    if (s->pid == 0)
        return;
    if (s->child) {
        if (waitpid(s->pid, &status, WNOHANG) == s->pid)
            on_gone(s, status);
    } else if (kill(s->pid, 0) != 0 && errno == ESRCH) {
        on_gone(s, 0);
    }
}

static void on_pidfd(evutil_socket_t fd, short what, void *arg)
{
    struct spawn *s = arg;

    (void)fd;
    (void)what;
    if (s->child)
        look(s);
    else
        on_gone(s, 0); /* perhaps still a zombie of another parent: the pidfd's word is enough */
}

static void on_look(void *arg)
{
    look(arg);
}

static void watch(struct spawn *s, pid_t pid, bool child)
{
    s->pid = pid;
    s->child = child;
    s->state = SPAWN_RUNNING;
    s->started_ms = loop_now_ms(s->loop);
    s->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (s->pidfd < 0) {
        loop_timer_every(s->look, LOOK_MS);
        return;
    }
    s->ended = event_new(loop_base(s->loop), s->pidfd, EV_READ | EV_PERSIST, on_pidfd, s);
    CHECK(s->ended != NULL);
    (void)event_add(s->ended, NULL);
}

/* ---- its beginning ---- */

/* The process that listens behind the socket; 0 if nobody does. */
static pid_t find_predecessor(const struct spawn *s)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct ucred who = {0};
    socklen_t size = sizeof who;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return 0;
    memcpy(to.sun_path, s->address, strlen(s->address) + 1);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0)
        who.pid = 0;
    (void)close(fd);
    return who.pid;
}

static int run(struct spawn *s, char *const argv[], pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int rc;

    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGKILL);
    (void)sigdelset(&all, SIGSTOP);
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    (void)posix_spawn_file_actions_init(&files);
    (void)posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&files, 1, s->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)posix_spawn_file_actions_adddup2(&files, 1, 2);
    (void)posix_spawn_file_actions_addclosefrom_np(&files, 3);
    rc = posix_spawnp(pid, s->program, &files, &attributes, argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    (void)posix_spawnattr_destroy(&attributes);
    return rc;
}

static void start(struct spawn *s)
{
    char *const argv[] = {s->program,
                          "--port",
                          "0", /* nobody but us, and those who may enter our data-dir */
                          "--unixsocket",
                          s->socket_arg,
                          "--unixsocketperm",
                          "700",
                          "--dir",
                          s->dir,
                          "--logfile",
                          s->log,
                          "--pidfile",
                          s->pidfile,
                          "--daemonize",
                          "no",
                          "--save",
                          "",
                          "--appendonly",
                          "no", /* durability is our part */
                          "--repl-diskless-sync",
                          "yes",
                          "--repl-diskless-sync-delay",
                          "0",
                          "--repl-backlog-size",
                          "64mb",
                          "--maxmemory-policy",
                          "noeviction",
                          NULL};
    pid_t pid = 0;
    int rc = run(s, argv, &pid);

    if (rc != 0) {
        diag_log(s->diag, DIAG_WARNING, "Cannot start %s: %s", s->program, strerror(rc));
        pause_and_start(s);
        return;
    }
    diag_log(s->diag, DIAG_NOTICE, "Started %s, pid %ld, on %s", s->program, (long)pid, s->address);
    watch(s, pid, true);
}

static void on_timer(void *arg)
{
    struct spawn *s = arg;

    if (s->state == SPAWN_PAUSING) {
        start(s);
    } else if (s->state == SPAWN_STOPPING && s->pid > 0) {
        diag_log(s->diag, DIAG_WARNING, "valkey-server does not end by SIGTERM: killing it");
        (void)kill(s->pid, SIGKILL);
    } else if (s->state == SPAWN_STOPPING) {
        finish_stop(s);
    }
}

/* ---- the door ---- */

static bool make_paths(struct spawn *s, const struct config *c)
{
    char path[PATH_BYTES_MAX], data[PATH_MAX];
    int n;

    (void)snprintf(path, sizeof path, "%s/valkey", c->data_dir);
    (void)mkdir(c->data_dir, 0700);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return false;
    if (realpath(path, data) == NULL)
        return false;
    (void)snprintf(s->dir, sizeof s->dir, "%s", data);
    (void)snprintf(s->log, sizeof s->log, "%s/valkey.log", data);
    (void)snprintf(s->pidfile, sizeof s->pidfile, "%s/valkey.pid", data);
    s->dir_fd = open(data, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return false;
    n = snprintf(path, sizeof path, "%s/valkey.sock", data);
    if ((size_t)n < sizeof s->address) {
        (void)snprintf(s->address, sizeof s->address, "%.107s", path);
        (void)snprintf(s->socket_arg, sizeof s->socket_arg, "%s", s->address);
    } else {
        (void)snprintf(s->address, sizeof s->address, "/proc/self/fd/%d/valkey.sock", s->dir_fd);
        (void)snprintf(s->socket_arg, sizeof s->socket_arg, "valkey.sock");
    }
    return true;
}

struct spawn *spawn_new(struct loop *l, const struct diag *d, const struct config *c,
                        void (*exited)(void *arg, int status), void *arg)
{
    struct spawn *s = must_calloc(1, sizeof *s);
    pid_t predecessor;

    s->loop = l;
    s->diag = d;
    s->exited = exited;
    s->arg = arg;
    s->pidfd = -1;
    s->dir_fd = -1;
    s->pause_ms = RETRY_FIRST_MS;
    (void)snprintf(s->program, sizeof s->program, "%s", c->valkey_server);
    s->timer = loop_timer_new(l, on_timer, s);
    s->look = loop_timer_new(l, on_look, s);
    if (!make_paths(s, c)) {
        diag_log(d, DIAG_WARNING, "Cannot use %s/valkey: %s", c->data_dir, strerror(errno));
        spawn_free(s);
        return NULL;
    }
    predecessor = find_predecessor(s);
    if (predecessor > 0) {
        diag_log(d, DIAG_NOTICE, "Taking over valkey-server, pid %ld, on %s", (long)predecessor, s->address);
        watch(s, predecessor, false);
    } else {
        start(s);
    }
    return s;
}

const char *spawn_socket(const struct spawn *s)
{
    return s->address;
}

void spawn_kill(struct spawn *s)
{
    if (s->pid > 0)
        (void)kill(s->pid, SIGKILL);
}

void spawn_stop(struct spawn *s, void (*stopped)(void *arg), void *arg)
{
    s->stopped = stopped;
    s->stopped_arg = arg;
    if (s->state == SPAWN_STOPPING)
        return;
    s->state = SPAWN_STOPPING;
    if (s->pid > 0)
        (void)kill(s->pid, SIGTERM);
    loop_timer_once(s->timer, s->pid > 0 ? STOP_MS_MAX : 0);
}

static void release(void *object)
{
    free(object);
}

void spawn_free(struct spawn *s)
{
    if (s == NULL)
        return;
    unwatch(s);
    if (s->dir_fd >= 0)
        (void)close(s->dir_fd);
    loop_timer_free(s->timer);
    loop_timer_free(s->look);
    loop_bury(s->loop, s, release);
}

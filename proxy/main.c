/* holdfast [FILE] [--name value ...]: reads the settings, puts core, worker and admin port on one loop, and handles
 * signals.
 *
 *   SIGTERM, SIGINT   drain: finish what is in flight, make it durable, leave (a second SIGINT: leave at once)
 *   SIGHUP            load the settings and the certificates again, take over what can change
 */
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "log/base/buf.h"
#include "log/base/clock.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/notify.h"
#include "log/base/stream.h"
#include "proxy/admin.h"
#include "proxy/certs.h"
#include "proxy/core.h"
#include "proxy/core_admin.h"
#include "proxy/ctl.h"
#include "proxy/message.h"
#include "proxy/status.h"
#include "proxy/worker.h"

enum { FILES_BESIDE_CLIENTS = 96 }; /* descriptors for listeners, log, lanes and so on */

struct holdfast {
    struct config config;
    struct diag diag;
    struct loop *loop;
    struct gate gate;
    struct queue to_core, to_worker;
    struct core *core;
    struct worker *worker;
    struct admin *admin;
    struct certs *certs;
    struct status status;
    char valkey_address[CONFIG_TEXT_MAX + 32];
    struct event *signals[3];
    bool leaving;
};

static const char usage[] = "Usage: holdfast [FILE] [--name value ...]\n"
                            "       holdfast - (read the settings from standard input)\n"
                            "       holdfast ctl [--admin HOST:PORT] COMMAND (holdfast ctl --help)\n"
                            "       holdfast -v | --version\n"
                            "       holdfast -h | --help\n\n"
                            "A durability proxy for Valkey. Settings are explained in config/holdfast.conf; each can "
                            "be given as --name value.\n"
                            "Examples:\n"
                            "       holdfast holdfast.conf\n"
                            "       holdfast --port 6379 --valkey 127.0.0.1:6380 --data-dir /var/lib/holdfast\n"
                            "       holdfast --valkey-spawn yes --durability async\n";

static const struct status *fill_status(void *arg)
{
    struct holdfast *h = arg;

    core_status(h->core, &h->status);
    worker_status(h->worker, &h->status);
    return &h->status;
}

static void admin_transfer(void *arg, const char *to, admin_done *done, void *done_arg)
{
    core_transfer(((struct holdfast *)arg)->core, to, done, done_arg);
}

static void admin_members(void *arg, enum log_change what, const char *name, admin_done *done, void *done_arg)
{
    core_change_members(((struct holdfast *)arg)->core, what, name, done, done_arg);
}

static void admin_snapshot(void *arg, admin_done *done, void *done_arg)
{
    core_snapshot(((struct holdfast *)arg)->core, done, done_arg);
}

static void admin_mode(void *arg, enum durability mode, admin_done *done, void *done_arg)
{
    core_mode(((struct holdfast *)arg)->core, mode, done, done_arg);
}

static void admin_drain(void *arg, bool out, admin_done *done, void *done_arg)
{
    core_take_out(((struct holdfast *)arg)->core, out, done, done_arg);
}

static const struct admin_actions admin_actions = {admin_transfer, admin_members, admin_snapshot, admin_mode,
                                                   admin_drain};

/* An I/O error of the log: nothing may be acknowledged any more, and nothing said. */
static void on_failed(void *arg, const char *why)
{
    struct holdfast *h = arg;

    diag_log(&h->diag, DIAG_WARNING, "The log has failed, stopping at once: %s", why);
    _exit(1);
}

static void on_relayed(void *arg, struct stream *s, const char *from, const void *extra, size_t n)
{
    struct holdfast *h = arg;

    if (h->worker != NULL)
        worker_relayed(h->worker, s, from, extra, n);
    else
        stream_close(s);
}

static void on_core_drained(void *arg)
{
    struct holdfast *h = arg;

    diag_log(&h->diag, DIAG_NOTICE, "Holdfast is now ready to exit, bye bye...");
    loop_stop(h->loop);
}

static void on_worker_drained(void *arg)
{
    struct holdfast *h = arg;

    core_drain(h->core, (uint64_t)h->config.shutdown_timeout_s * 1000u, on_core_drained, h);
}

static void leave(struct holdfast *h, int number)
{
    if (h->leaving && number != SIGINT) /* a supervisor and a terminal may both send it */
        return;
    if (h->leaving) {
        diag_log(&h->diag, DIAG_WARNING, "You insist... exiting now.");
        _exit(1);
    }
    h->leaving = true;
    (void)notify_supervisor("STOPPING=1\nSTATUS=draining\n");
    diag_log(&h->diag, DIAG_NOTICE, "Received %s, draining", number == SIGTERM ? "SIGTERM" : "SIGINT");
    atomic_store(&h->gate.state, GATE_DRAINING);
    worker_drain(h->worker, (uint64_t)h->config.shutdown_timeout_s * 1000u, on_worker_drained, h);
}

static void say_change(void *arg, const char *name, const char *before, const char *after)
{
    const struct holdfast *h = arg;

    diag_log(&h->diag, DIAG_NOTICE, "SIGHUP: %s: \"%s\" -> \"%s\"", name, before, after);
}

static void reload(struct holdfast *h)
{
    struct config *before = must_calloc(1, sizeof *before);
    struct buf notes = {0};
    char *line, *save = NULL;

    diag_log(&h->diag, DIAG_NOTICE, "Received SIGHUP, loading the settings again");
    *before = h->config;
    if (config_reload(&h->config, &notes)) {
        if (h->config.member_count >
            0) /* a group's mode is what CONFIG SET made it: one node's file does not change it */
            h->config.durability = before->durability;
        config_differences(before, &h->config, say_change, h);
        core_reconfigure(h->core);
        worker_reconfigure(h->worker);
    }
    free(before);
    buf_append(&notes, "", 1);
    for (line = strtok_r(buf_head(&notes), "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
        diag_log(&h->diag, DIAG_WARNING, "%s", line);
    buf_free(&notes);
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct holdfast *h = arg;

    (void)what;
    if (number == SIGHUP)
        reload(h);
    else
        leave(h, (int)number);
}

static void raise_file_limit(struct holdfast *h)
{
    struct rlimit limit;
    rlim_t want = (rlim_t)h->config.maxclients + FILES_BESIDE_CLIENTS;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= want ? want : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= want)
        return;
    h->config.maxclients = limit.rlim_cur > FILES_BESIDE_CLIENTS ? (int)(limit.rlim_cur - FILES_BESIDE_CLIENTS) : 1;
    diag_log(&h->diag, DIAG_WARNING, "maxclients is now %d: the limit of open files is too low",
             h->config.maxclients);
}

/* Makes data-dir and its name absolute: the spawned Valkey's socket is told apart from host:port by its leading
 * slash. */
static bool make_data_dir(struct holdfast *h)
{
    char *path = NULL;

    if ((mkdir(h->config.data_dir, 0700) != 0 && errno != EEXIST) ||
        (path = realpath(h->config.data_dir, NULL)) == NULL || strlen(path) >= sizeof h->config.data_dir) {
        diag_log(&h->diag, DIAG_WARNING, "data-dir %s: %s", h->config.data_dir,
                 path ? "path too long" : strerror(errno));
        free(path);
        return false;
    }
    (void)snprintf(h->config.data_dir, sizeof h->config.data_dir, "%s", path);
    free(path);
    if (h->config.valkey_spawn)
        (void)snprintf(h->valkey_address, sizeof h->valkey_address, "%s/valkey/valkey.sock", h->config.data_dir);
    else
        (void)snprintf(h->valkey_address, sizeof h->valkey_address, "%s", h->config.valkey);
    return true;
}

static bool read_certificates(struct holdfast *h)
{
    char why[256] = "";

    h->certs = certs_new(&h->diag, &h->config, why, sizeof why);
    if (h->certs == NULL)
        diag_log(&h->diag, DIAG_WARNING, "%s", why);
    return h->certs != NULL;
}

static bool start(struct holdfast *h)
{
    char why[256] = "";
    struct core_settings core = {.config = &h->config,
                                 .certs = h->certs,
                                 .valkey_address = h->valkey_address,
                                 .gate = &h->gate,
                                 .to_core = &h->to_core,
                                 .to_worker = &h->to_worker,
                                 .failed = on_failed,
                                 .relayed = on_relayed,
                                 .arg = h};
    struct worker_settings worker = {.config = &h->config,
                                     .certs = h->certs,
                                     .valkey_address = h->valkey_address,
                                     .gate = &h->gate,
                                     .to_core = &h->to_core,
                                     .to_worker = &h->to_worker,
                                     .status = fill_status,
                                     .arg = h,
                                     .marker_channel = MARKER_CHANNEL_PREFIX};

    if ((h->core = core_new(h->loop, &h->diag, &core, why, sizeof why)) == NULL) {
        diag_log(&h->diag, DIAG_WARNING, "%s", why);
        return false;
    }
    worker.relay = (struct relay_door){.dial = core_relay, .cancel = core_relay_cancel, .arg = h->core};
    if ((h->worker = worker_new(h->loop, &h->diag, &worker, why, sizeof why)) == NULL ||
        (h->config.admin_port != 0 && (h->admin = admin_new(h->loop, &h->diag, &h->config, fill_status,
                                                            &admin_actions, h, why, sizeof why)) == NULL)) {
        diag_log(&h->diag, DIAG_WARNING, "%s", why);
        return false;
    }
    return true;
}

/* CONFIG SET changes the settings; this takes over, at the end of the turn, what concerns our own lines. */
static bool on_turn(void *arg)
{
    struct holdfast *h = arg;

    h->diag.level = h->config.loglevel;
    h->diag.format = h->config.log_format;
    h->diag.stamp = h->config.log_timestamp_format;
    return false;
}

static bool open_log(struct holdfast *h)
{
    FILE *f;

    (void)on_turn(h);
    (void)snprintf(h->diag.file, sizeof h->diag.file, "%s", h->config.logfile);
    if (h->config.syslog_enabled)
        diag_open_syslog(&h->diag, h->config.syslog_ident, h->config.syslog_facility);
    if (h->config.logfile[0] == '\0')
        return true;
    if ((f = fopen(h->config.logfile, "a")) == NULL) {
        fprintf(stderr, "holdfast: logfile %s: %s\n", h->config.logfile, strerror(errno));
        return false;
    }
    (void)fclose(f);
    return true;
}

static void watch_signals(struct holdfast *h)
{
    const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a full disk, not the end */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        h->signals[i] = evsignal_new(loop_base(h->loop), numbers[i], on_signal, h);
        CHECK(h->signals[i] != NULL);
        (void)evsignal_add(h->signals[i], NULL);
    }
}

static void finish(struct holdfast *h)
{
    struct message m;

    if (h->worker != NULL)
        worker_free(h->worker);
    if (h->core != NULL)
        core_free(h->core);
    if (h->admin != NULL) /* last: the core has told it how its actions ended */
        admin_free(h->admin);
    certs_free(h->certs);
    while (queue_pop(&h->to_worker, &m))
        if (m.kind == TO_WORKER_SHUT)
            free(m.pointer);
        else if (m.kind == TO_WORKER_BACKUP)
            backup_ticket_free(m.pointer);
    while (queue_pop(&h->to_core, &m))
        if (m.kind == TO_CORE_BACKUP)
            backup_ticket_free(m.pointer);
    for (size_t i = 0; i < sizeof h->signals / sizeof *h->signals; i++)
        if (h->signals[i] != NULL)
            event_free(h->signals[i]);
    queue_free(&h->to_core);
    queue_free(&h->to_worker);
    loop_free(h->loop);
}

static int early(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0 || strcmp(argv[i], "--version") == 0) {
            printf("Holdfast %s\n", HOLDFAST_VERSION);
            return 0;
        }
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    static struct holdfast h; /* large; its one owner is this function */
    struct buf err = {0};
    int rc = argc > 1 && strcmp(argv[1], "ctl") == 0 ? ctl_main(argc - 1, argv + 1) : early(argc, argv);

    if (rc >= 0)
        return rc;
    if (!config_load(&h.config, argc, argv, &err)) {
        (void)fwrite(buf_head(&err), 1, err.len, stderr);
        buf_free(&err);
        return 1;
    }
    buf_free(&err);
    if (!open_log(&h))
        return 1;
    h.status.start_unix_ms = clock_wall_ms();
    h.loop = loop_new();
    diag_log(&h.diag, DIAG_NOTICE, "Holdfast %s, pid %d, node %s", HOLDFAST_VERSION, (int)getpid(), h.config.node);
    raise_file_limit(&h);
    watch_signals(&h);
    loop_add_hook(h.loop, on_turn, &h);
    rc = make_data_dir(&h) && read_certificates(&h) && start(&h) ? 0 : 1;
    if (rc == 0) {
        (void)notify_supervisor("READY=1\nSTATUS=listening\n");
        loop_run(h.loop);
    }
    finish(&h);
    return rc;
}

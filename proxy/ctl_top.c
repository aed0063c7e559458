/* holdfast ctl top: a node and its group at a glance, again and again.
 *
 *     /status, /history?since= ─▶ struct view ─▶ lines ─┬─ a terminal: the second screen, drawn over
 *            ▲                                          └─ else: a block for each look, an empty line behind it
 *            └── after --interval; on a terminal also when its size changes
 *
 * It ends after --count looks, and with q, SIGINT, SIGTERM or SIGHUP: these are blocked and read from a descriptor,
 * so that the terminal is always put back as it was; then it exits as after the last look, 0 or 3 (no answer). If the
 * very first look has no answer, that is all that it says. Rates and latencies are of the samples that the node took
 * since the look before (one a second); of several, the largest quantile: theirs together is no larger. */
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "log/base/clock.h"
#include "log/base/diag.h"
#include "proxy/ctl_internal.h"

enum { LOOK_TIMEOUT_S = 2, BAR_CELLS = 30, PATH_BYTES = 64, TIME_BYTES = 16, SIZE_BYTES = 32 };

static const char *const latencies[][3] = {{"commit", "commit_p50_us", "commit_p99_us"},
                                           {"fsync", "fsync_p50_us", "fsync_p99_us"},
                                           {"forward", "forward_p50_us", "forward_p99_us"},
                                           {"release", "p50_us", "p99_us"}};
enum { LATENCIES = sizeof latencies / sizeof *latencies };

struct view {
    json_t *status;    /* of the last look that was answered */
    char why[512];     /* the last look had no answer: why; "" = it had */
    int64_t newest_ms; /* unix time of the newest sample seen */
    double seconds;    /* that the figures below are about; 0: no sample yet */
    double commands, writes, rejected, uncertain;
    int64_t p50_us[LATENCIES], p99_us[LATENCIES];
};

struct screen {
    bool live, raw; /* a terminal shows it; keys are read */
    int signals_fd;
    struct termios before;
};

/* ---------------------------------------------------------------- looking */

static json_t *get(const struct ctl *c, const char *path, struct view *v)
{
    struct ctl_answer answer;
    json_t *object = NULL;

    v->why[0] = '\0';
    if (ctl_ask(c->admin, c->token, false, path, LOOK_TIMEOUT_S, &answer, v->why, sizeof v->why)) {
        object = json_loadb(buf_head(&answer.body), answer.body.len, 0, NULL);
        if (!json_is_object(object) || answer.code != 200) {
            (void)snprintf(v->why, sizeof v->why, "this is no answer of a Holdfast admin port: HTTP %d", answer.code);
            json_decref(object);
            object = NULL;
        }
        buf_free(&answer.body);
    }
    return object;
}

static int64_t column(const json_t *history, const json_t *sample, const char *field)
{
    const json_t *name;
    size_t i;

    json_array_foreach(json_object_get(history, "fields"), i, name)
    {
        const char *text = json_string_value(name);

        if (text != NULL && strcmp(text, field) == 0)
            return json_integer_value(json_array_get(sample, i));
    }
    return 0;
}

/* Negative: beyond the last bound. */
static int64_t larger(int64_t a, int64_t b)
{
    return a < 0 || b < 0 ? -1 : a > b ? a : b;
}

static void add_sample(struct view *v, const json_t *history, const json_t *sample)
{
    v->seconds += (double)ctl_number(history, "every_ms") / 1000;
    v->commands += (double)column(history, sample, "commands");
    v->writes += (double)column(history, sample, "writes");
    v->rejected += (double)column(history, sample, "rejected");
    v->uncertain += (double)column(history, sample, "uncertain");
    for (size_t k = 0; k < LATENCIES; k++) {
        v->p50_us[k] = larger(v->p50_us[k], column(history, sample, latencies[k][1]));
        v->p99_us[k] = larger(v->p99_us[k], column(history, sample, latencies[k][2]));
    }
    v->newest_ms = column(history, sample, "unix_ms");
}

/* The samples since the last look; at the first one, the newest alone. Without a new one the figures stay. */
static void take_samples(struct view *v, const json_t *history)
{
    const json_t *samples = json_object_get(history, "samples");
    size_t count = json_array_size(samples), first = v->newest_ms == 0 && count > 0 ? count - 1 : 0;

    if (count == 0)
        return;
    v->seconds = v->commands = v->writes = v->rejected = v->uncertain = 0;
    memset(v->p50_us, 0, sizeof v->p50_us);
    memset(v->p99_us, 0, sizeof v->p99_us);
    for (size_t i = first; i < count; i++)
        add_sample(v, history, json_array_get(samples, i));
}

static void look(const struct ctl *c, struct view *v)
{
    char path[PATH_BYTES];
    json_t *status = get(c, "/status", v), *history = NULL;

    if (status != NULL) {
        (void)snprintf(path, sizeof path, "/history?since=%" PRId64, v->newest_ms);
        history = get(c, path, v);
    }
    if (history != NULL) {
        json_decref(v->status);
        v->status = json_incref(status);
        take_samples(v, history);
    }
    json_decref(status);
    json_decref(history);
}

/* ---------------------------------------------------------------- words */

static const char *bytes_text(char out[SIZE_BYTES], int64_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double size = (double)n;
    size_t i = 0;

    for (; size >= 1024 && i + 1 < sizeof units / sizeof *units; i++)
        size /= 1024;
    (void)snprintf(out, SIZE_BYTES, i > 0 ? "%.1f %s" : "%.0f %s", size, units[i]);
    return out;
}

/* Quantiles are upper bounds of buckets, the last of which has none. */
static const char *us_text(char out[SIZE_BYTES], int64_t us)
{
    if (us == 0)
        (void)snprintf(out, SIZE_BYTES, "-");
    else if (us < 0)
        (void)snprintf(out, SIZE_BYTES, ">30 s");
    else if (us < 1000)
        (void)snprintf(out, SIZE_BYTES, "%" PRId64 " us", us);
    else
        (void)snprintf(out, SIZE_BYTES, us < 10 * 1000 ? "%.1f ms" : "%.0f ms", (double)us / 1000);
    return out;
}

static void put_bar(struct buf *out, int64_t value, int64_t limit)
{
    double part = limit > 0 ? (double)value / (double)limit : 0;
    int full = part >= 1 ? BAR_CELLS : (int)ceil(part * BAR_CELLS);

    buf_text(out, "[");
    for (int i = 0; i < BAR_CELLS; i++)
        buf_text(out, i < full ? "#" : ".");
    buf_text(out, "]");
}

static void put_rates(struct buf *out, const struct view *v)
{
    double per = v->seconds > 0 ? 1 / v->seconds : 0, others = v->commands > v->writes ? v->commands - v->writes : 0;
    char p50[SIZE_BYTES], p99[SIZE_BYTES];

    buf_printf(out, "a second    writes %.0f, others %.0f, commands %.0f, rejected %.0f, uncertain %.0f\n",
               v->writes * per, others * per, v->commands * per, v->rejected * per, v->uncertain * per);
    buf_text(out, "p50, p99   ");
    for (size_t k = 0; k < LATENCIES; k++)
        buf_printf(out, "%s %s %s, %s", k > 0 ? ";" : "", latencies[k][0], us_text(p50, v->p50_us[k]),
                   us_text(p99, v->p99_us[k]));
    buf_text(out, "\n");
}

static void put_log(struct buf *out, const json_t *s)
{
    int64_t taken_ms = ctl_number(s, "snapshot_unix_ms"), now_ms = (int64_t)clock_wall_ms();
    char size[SIZE_BYTES], most[SIZE_BYTES];

    buf_printf(out, "log         entries %" PRId64 " to %" PRId64 ", committed %" PRId64 ", %s of %s\n",
               ctl_number(s, "log_first_index"), ctl_number(s, "log_index"), ctl_number(s, "log_committed"),
               bytes_text(size, ctl_number(s, "log_bytes")), bytes_text(most, ctl_number(s, "log_size_max_bytes")));
    if (taken_ms > 0)
        buf_printf(out, "snapshot    at entry %" PRId64 ", %s, %" PRId64 " s old%s\n",
                   ctl_number(s, "snapshot_index"), bytes_text(size, ctl_number(s, "snapshot_bytes")),
                   now_ms > taken_ms ? (now_ms - taken_ms) / 1000 : 0,
                   ctl_yes(s, "snapshot_running") ? ", another one is being taken" : "");
    else
        buf_printf(out, "snapshot    %s\n", ctl_yes(s, "snapshot_running") ? "being taken" : "none");
}

static void put_view(struct buf *out, const struct view *v)
{
    const json_t *s = v->status;
    char size[SIZE_BYTES], clock[TIME_BYTES] = "";
    time_t now = time(NULL);
    struct tm tm;

    if (localtime_r(&now, &tm) != NULL)
        (void)strftime(clock, sizeof clock, "%H:%M:%S", &tm);
    buf_printf(out, "%s  node %s%s%s of %s: %s", clock, ctl_text(s, "node"),
               ctl_text(s, "zone")[0] != '\0' ? " in " : "", ctl_text(s, "zone"), ctl_text(s, "cluster"),
               ctl_text(s, "role"));
    if (strcmp(ctl_text(s, "role"), "follower") == 0)
        buf_printf(out, " of %s", ctl_text(s, "leader"));
    buf_printf(out, ", %s, %s%s\n", ctl_text(s, "state"), ctl_yes(s, "ready") ? "ready" : "NOT READY",
               ctl_yes(s, "draining") ? ", draining" : "");
    if (v->why[0] != '\0')
        buf_printf(out, "NO ANSWER   %s. What is below is from before.\n", v->why);
    buf_printf(out, "durability  %s, lag %" PRId64 " of %" PRId64 " ms ", ctl_text(s, "mode"),
               ctl_number(s, "lag_ms"), ctl_number(s, "lag_max_ms"));
    put_bar(out, ctl_number(s, "lag_ms"), ctl_number(s, "lag_max_ms"));
    buf_printf(out, " %s pending%s\n", bytes_text(size, ctl_number(s, "pending_bytes")),
               ctl_yes(s, "refusing_writes") ? ", WRITES ARE REFUSED" : "");
    put_rates(out, v);
    put_log(out, s);
    buf_printf(out,
               "clients     %" PRId64 ", and %" PRId64 " relayed; %" PRId64 " lanes, %" PRId64 " of one client\n",
               ctl_number(s, "sessions"), ctl_number(s, "relays"), ctl_number(s, "lanes"), ctl_number(s, "pinned"));
    ctl_problems(out, s);
    buf_text(out, "\n");
    ctl_members_table(out, json_object_get(s, "members"), ctl_number(s, "log_committed"));
}

/* ---------------------------------------------------------------- the screen */

static void write_all(const struct buf *out)
{
    (void)fwrite(buf_head(out), 1, out->len, stdout);
    (void)fflush(stdout);
}

/* What a node says may hold anything: no byte of it controls the terminal. */
static void put_line(struct buf *out, const char *line, size_t n, size_t width)
{
    for (size_t i = 0; i < n && i < width; i++)
        buf_append(out, (unsigned char)line[i] < ' ' || line[i] == 127 ? " " : line + i, 1);
}

static void draw(const struct screen *screen, const struct view *v)
{
    struct winsize size = {0};
    struct buf text = {0}, out = {0};
    size_t rows = SIZE_MAX, width = SIZE_MAX, left;
    const char *at;

    if (screen->live && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
        rows = size.ws_row;
        width = size.ws_col - 1u; /* in the last column, clearing to the line's end would take the last character */
    }
    put_view(&text, v);
    CHECK(!text.failed);
    if (screen->live)
        buf_text(&out, "\033[H");
    at = buf_head(&text);
    left = text.len;
    for (size_t row = 0; left > 0 && row < rows; row++) {
        size_t n = (size_t)((const char *)memchr(at, '\n', left) - at);

        if (screen->live && row > 0)
            buf_text(&out, "\n");
        put_line(&out, at, n, width);
        buf_text(&out, screen->live ? "\033[K" : "\n");
        at += n + 1;
        left -= n + 1;
    }
    buf_text(&out, screen->live ? "\033[J" : "\n");
    write_all(&out);
    buf_free(&text);
    buf_free(&out);
}

static void begin(struct screen *screen)
{
    struct termios raw;
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGWINCH);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    screen->signals_fd = signalfd(-1, &set, SFD_CLOEXEC);
    CHECK(screen->signals_fd >= 0);
    screen->live = isatty(STDOUT_FILENO) == 1;
    if (!screen->live)
        return;
    if (tcgetattr(STDIN_FILENO, &screen->before) == 0) {
        raw = screen->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VSUSP] = _POSIX_VDISABLE; /* it would leave the second screen to the shell */
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        screen->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    (void)fputs("\033[?1049h\033[?25l\033[2J", stdout);
}

static void end(const struct screen *screen)
{
    if (screen->live) {
        (void)fputs("\033[?25h\033[?1049l", stdout);
        (void)fflush(stdout);
    }
    if (screen->raw)
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &screen->before);
    (void)close(screen->signals_fd);
}

/* Until the next look. false: it is to end. */
static bool wait_for_next(struct screen *screen, unsigned interval_ms)
{
    uint64_t until = clock_mono_ms() + interval_ms, now;
    struct signalfd_siginfo signal;
    char key;

    while ((now = clock_mono_ms()) < until) {
        struct pollfd fds[] = {{.fd = screen->signals_fd, .events = POLLIN},
                               {.fd = screen->raw ? STDIN_FILENO : -1, .events = POLLIN}};

        if (poll(fds, 2, (int)(until - now)) <= 0)
            continue;
        if (fds[0].revents != 0) {
            if (read(screen->signals_fd, &signal, sizeof signal) != sizeof signal || signal.ssi_signo != SIGWINCH)
                return false;
            if (screen->live)
                return true;
        }
        if (fds[1].revents != 0 && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q'))
            return false;
    }
    return true;
}

int ctl_top(const struct ctl *c)
{
    struct view v = {0};
    struct screen screen = {0};

    look(c, &v);
    if (v.status == NULL) {
        fprintf(stderr, "holdfast ctl: %s\n", v.why);
        return CTL_UNREACHABLE;
    }
    begin(&screen);
    draw(&screen, &v);
    for (unsigned n = 1; (c->count == 0 || n < c->count) && wait_for_next(&screen, c->interval_ms); n++) {
        look(c, &v);
        draw(&screen, &v);
    }
    end(&screen);
    json_decref(v.status);
    return v.why[0] == '\0' ? CTL_OK : CTL_UNREACHABLE;
}

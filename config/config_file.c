/* Reads settings from files and from the command line, in Valkey's manner.
 *
 *     holdfast /etc/holdfast.conf --port 7000 --bind 127.0.0.1 ::1
 *              `--- first, if it does not begin with "--"; "-" is standard input
 *
 * Lines are `name value ...`; empty ones and those that begin with # are skipped; quoting is sdssplitargs'. `include`
 * takes globs; its lines count at the place where it stands. The last of equals wins: so the command line comes last.
 */
#include <errno.h>
#include <glob.h>
#include <hiredis/sds.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "config/config_table.h"
#include "log/base/buf.h"

enum { FILE_BYTES_MAX = 1024 * 1024, INCLUDE_DEPTH_MAX = 16, WHY_MAX = 512 };

struct reading {
    struct config *config;
    struct buf *err;
    int depth;
};

static void fatal(const struct reading *r, const char *file, int line, const char *text, const char *why)
{
    buf_printf(r->err, "\n*** FATAL CONFIG FILE ERROR (Version %s) ***\n", HOLDFAST_VERSION);
    if (file != NULL)
        buf_printf(r->err, "Reading the configuration file, at line %d of %s\n", line,
                   strcmp(file, "-") == 0 ? "stdin" : file);
    else
        buf_printf(r->err, "Reading the command line\n");
    /* A secret is not repeated in a message that ends up in a journal. */
    buf_printf(
        r->err, ">>> '%s'\n%s\n",
        strcasestr(text, "pass") != NULL || strcasestr(text, "token") != NULL ? "(a line with a secret)" : text, why);
}

static bool read_file(struct reading *r, const char *path, char *why, size_t why_size, bool *told);

static bool include(struct reading *r, const char *pattern, char *why, size_t why_size, bool *told)
{
    glob_t found;
    bool ok = true;

    if (r->depth >= INCLUDE_DEPTH_MAX) {
        (void)snprintf(why, why_size, "include nested more than %d deep", INCLUDE_DEPTH_MAX);
        return false;
    }
    /* As in Valkey: a pattern that matches nothing is fine, a plain name that does not exist is not. */
    if (glob(pattern, 0, NULL, &found) != 0) {
        if (strpbrk(pattern, "*?[") != NULL)
            return true;
        (void)snprintf(why, why_size, "can't open included file '%.300s': %s", pattern, strerror(ENOENT));
        return false;
    }
    r->depth++;
    for (size_t i = 0; ok && i < found.gl_pathc; i++)
        ok = read_file(r, found.gl_pathv[i], why, why_size, told);
    r->depth--;
    globfree(&found);
    return ok;
}

/* One line's arguments, the name first. *told: the message was written already, by an included file. */
static bool apply(struct reading *r, int argc, sds *argv, bool from_file, char *why, size_t why_size, bool *told)
{
    const struct setting *s;

    for (int i = 0; i < argc; i++)
        if (strlen(argv[i]) != sdslen(argv[i])) {
            (void)snprintf(why, why_size, "argument must not hold a NUL byte");
            return false;
        }
    if (strcasecmp(argv[0], "include") == 0 && argc == 2 && from_file)
        return include(r, argv[1], why, why_size, told);
    s = setting_find(argv[0]);
    if (s == NULL || argc < 2) {
        (void)snprintf(why, why_size, "Bad directive or wrong number of arguments");
        return false;
    }
    return setting_parse(s, r->config, argc - 1, argv + 1, why, why_size);
}

static bool apply_line(struct reading *r, const char *line, const char *file, int number)
{
    char why[WHY_MAX] = "";
    bool ok, told = false;
    sds *argv;
    int argc;

    line += strspn(line, " \t\r\n");
    if (*line == '#' || *line == '\0')
        return true;
    argv = sdssplitargs(line, &argc);
    if (argv == NULL) {
        fatal(r, file, number, line, "Unbalanced quotes in configuration line");
        return false;
    }
    ok = argc == 0 || apply(r, argc, argv, true, why, sizeof why, &told);
    if (!ok && !told)
        fatal(r, file, number, line, why);
    sdsfreesplitres(argv, argc);
    return ok;
}

/* The whole file into content, bounded. */
static bool slurp(FILE *f, struct buf *content, char *why, size_t why_size)
{
    char piece[4096];
    size_t n;

    while ((n = fread(piece, 1, sizeof piece, f)) > 0) {
        if (content->len + n > FILE_BYTES_MAX) {
            (void)snprintf(why, why_size, "it is larger than %d bytes", FILE_BYTES_MAX);
            return false;
        }
        buf_append(content, piece, n);
    }
    if (ferror(f)) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        return false;
    }
    buf_append(content, "", 1);
    if (content->failed || strlen(buf_head(content)) + 1 != content->len) {
        (void)snprintf(why, why_size, "%s", content->failed ? strerror(ENOMEM) : "it holds a NUL byte");
        return false;
    }
    return true;
}

static bool read_lines(struct reading *r, char *text, const char *file)
{
    char *rest = text, *line;

    for (int number = 1; (line = strsep(&rest, "\n")) != NULL; number++) {
        line[strcspn(line, "\r")] = '\0';
        if (!apply_line(r, line, file, number))
            return false;
    }
    return true;
}

static bool read_file(struct reading *r, const char *path, char *why, size_t why_size, bool *told)
{
    struct buf content = {0};
    char reason[WHY_MAX / 4];
    struct stat st;
    bool ok, from_stdin = strcmp(path, "-") == 0;
    FILE *f = from_stdin ? stdin : fopen(path, "r");

    if (f == NULL || (!from_stdin && fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode))) {
        (void)snprintf(why, why_size, "can't open config file '%.300s': %s", path,
                       strerror(f == NULL ? errno : EISDIR));
        if (f != NULL)
            (void)fclose(f);
        return false;
    }
    ok = slurp(f, &content, reason, sizeof reason);
    if (!from_stdin)
        (void)fclose(f);
    if (!ok) {
        (void)snprintf(why, why_size, "can't read config file '%.300s': %s", path, reason);
    } else {
        ok = read_lines(r, buf_head(&content), path);
        *told = !ok;
    }
    buf_free(&content);
    return ok;
}

/* --name value ...: everything up to the next --name belongs to it. Returns the index after the option, -1 on an
 * error. */
static int read_option(struct reading *r, int argc, char **argv, int i)
{
    char why[WHY_MAX] = "";
    sds args[SETTING_ARGS_MAX], text;
    bool ok = false, told = false;
    int count = 0;

    if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0') {
        fatal(r, NULL, 0, argv[i], "Bad directive or wrong number of arguments");
        return -1;
    }
    args[count++] = sdsnew(argv[i++] + 2);
    text = sdsdup(args[0]);
    while (i < argc && (strncmp(argv[i], "--", 2) != 0) && count < SETTING_ARGS_MAX) {
        text = sdscatfmt(text, " %s", argv[i]);
        args[count++] = sdsnew(argv[i++]);
    }
    ok = apply(r, count, args, false, why, sizeof why, &told);
    if (!ok)
        fatal(r, NULL, 0, text, why);
    while (count > 0)
        sdsfree(args[--count]);
    sdsfree(text);
    return ok ? i : -1;
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 || strcmp(address, "localhost") == 0;
}

/* What single lines cannot show to be wrong. */
static bool agrees(const struct config *c, struct buf *err)
{
    struct buf why = {0};
    char text[WHY_MAX];
    bool ok = config_members_check(c, &why);

    if (ok && !config_tls_check(c, text, sizeof text)) {
        buf_text(&why, text);
        ok = false;
    }
    if (ok && c->admin_port != 0 && c->admin_token[0] == '\0' && !is_loopback(c->admin_bind)) {
        buf_printf(&why, "admin-bind %s is no loopback address: an admin-token is needed", c->admin_bind);
        ok = false;
    }
    if (!ok)
        buf_printf(err, "\n*** FATAL CONFIG FILE ERROR (Version %s) ***\n%.*s\n", HOLDFAST_VERSION, (int)why.len,
                   (const char *)buf_head(&why));
    buf_free(&why);
    return ok;
}

bool config_read_all(struct config *c, int argc, char **argv, struct buf *err)
{
    struct reading r = {.config = c, .err = err};
    char why[WHY_MAX] = "";
    bool told = false;
    int i = 1;

    c->argc = argc;
    c->argv = argv;
    c->file[0] = '\0';
    if (i < argc && strncmp(argv[i], "--", 2) != 0) {
        if (strlen(argv[i]) >= sizeof c->file) {
            buf_printf(err, "Fatal error, the config file's name is too long\n");
            return false;
        }
        (void)snprintf(c->file, sizeof c->file, "%s", argv[i]);
        if (!read_file(&r, argv[i], why, sizeof why, &told)) {
            if (!told)
                buf_printf(err, "Fatal error, %s\n", why);
            return false;
        }
        i++;
    }
    while (i >= 0 && i < argc)
        i = read_option(&r, argc, argv, i);
    if (i < 0)
        return false;
    if (((c->port == 0 && c->tls_port == 0) || c->bind_count == 0) && c->unixsocket[0] == '\0') {
        buf_printf(err, "Configured to not listen anywhere, exiting.\n");
        return false;
    }
    return agrees(c, err);
}

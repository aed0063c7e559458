/* Lines of ACL LIST, and the way from one set of them to another: see acl_list.h. `reset` before the rules makes a
 * user what its line says, whatever it was; Valkey applies all of a SETUSER or nothing. */
#include "proxy/acl_list.h"

#include <stdlib.h>
#include <string.h>

#include "log/base/buf.h"
#include "proxy/argv.h"

struct line {
    const char *text, *name;
    size_t n, name_n;
};

/* "user alice on ..." at *at; false at the end. What is no such line is passed over. */
static bool next_line(const char **at, const char *end, struct line *l)
{
    static const char word[] = "user ";

    while (*at < end) {
        const char *stop = memchr(*at, '\n', (size_t)(end - *at)), *blank;

        stop = stop != NULL ? stop : end;
        *l = (struct line){.text = *at, .n = (size_t)(stop - *at)};
        *at = stop < end ? stop + 1 : end;
        if (l->n <= sizeof word - 1 || memcmp(l->text, word, sizeof word - 1) != 0)
            continue;
        l->name = l->text + sizeof word - 1;
        blank = memchr(l->name, ' ', (size_t)(stop - l->name));
        l->name_n = (size_t)((blank != NULL ? blank : stop) - l->name);
        return true;
    }
    return false;
}

static bool is_named(const struct line *l, const char *name, size_t n)
{
    return l->name_n == n && memcmp(l->name, name, n) == 0;
}

static bool find(const char *lines, size_t n, const struct line *like, struct line *out)
{
    const char *at = lines;

    while (next_line(&at, lines + n, out))
        if (is_named(out, like->name, like->name_n))
            return true;
    return false;
}

bool acl_list_lines(const char *reply, size_t n, const char *own, struct buf *out)
{
    const char *end = reply + n, *at = n > 0 ? memchr(reply, '\n', n) : NULL;

    if (at == NULL || reply[0] != '*')
        return false;
    for (at++; at < end && *at == '$';) {
        const char *text = memchr(at, '\n', (size_t)(end - at));
        size_t length = text != NULL ? (size_t)strtoul(at + 1, NULL, 10) : 0; /* framed by the splitter */
        struct line l;
        const char *line;

        if (text == NULL || length + 2 > (size_t)(end - text - 1))
            return false;
        line = ++text;
        if (memchr(text, '\n', length) == NULL && next_line(&line, text + length, &l) &&
            !is_named(&l, own, strlen(own))) {
            buf_append(out, text, length);
            buf_append(out, "\n", 1);
        }
        at = text + length + 2;
    }
    return !out->failed;
}

/* ---- commands ---- */

static void set_user(const struct line *l, struct buf *out)
{
    const char *end = l->text + l->n;
    size_t words = 0;

    for (const char *w = l->name + l->name_n; w < end; w++)
        words += w[0] == ' ' && w + 1 < end && w[1] != ' ';
    argv_header(out, words + 4);
    argv_bulk(out, "ACL", 3);
    argv_bulk(out, "SETUSER", 7);
    argv_bulk(out, l->name, l->name_n);
    argv_bulk(out, "reset", 5);
    for (const char *w = l->name + l->name_n; w < end;) {
        const char *stop;

        while (w < end && *w == ' ')
            w++;
        if (w == end)
            break;
        stop = memchr(w, ' ', (size_t)(end - w));
        stop = stop != NULL ? stop : end;
        argv_bulk(out, w, (size_t)(stop - w));
        w = stop;
    }
}

static void delete_user(const struct line *l, struct buf *out)
{
    argv_header(out, 3);
    argv_bulk(out, "ACL", 3);
    argv_bulk(out, "DELUSER", 7);
    argv_bulk(out, l->name, l->name_n);
}

size_t acl_list_change(const char *have, size_t have_n, const char *want, size_t want_n, const char *own,
                       void (*each)(void *arg, const char *resp, size_t n), void *arg)
{
    const char *at = want;
    struct buf command = {0};
    struct line l, other;
    size_t count = 0;

    while (next_line(&at, want + want_n, &l)) {
        if (is_named(&l, own, strlen(own)) ||
            (find(have, have_n, &l, &other) && other.n == l.n && memcmp(other.text, l.text, l.n) == 0))
            continue;
        set_user(&l, &command);
        each(arg, buf_head(&command), command.len);
        buf_clear(&command);
        count++;
    }
    for (at = have; next_line(&at, have + have_n, &l);) {
        if (is_named(&l, own, strlen(own)) || is_named(&l, "default", 7) || find(want, want_n, &l, &other))
            continue;
        delete_user(&l, &command);
        each(arg, buf_head(&command), command.len);
        buf_clear(&command);
        count++;
    }
    buf_free(&command);
    return count;
}

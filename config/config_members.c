/* The settings that make a group of nodes: their syntax, and what they must agree on.
 *
 *     member a az-a 10.0.0.1:7000            one line for each node, the same lines on every node
 *     member b az-b 10.0.1.1:7000
 *     member w az-c 10.0.2.1:7000 log-only   a witness: on that node, `valkey none`
 *     node a                                 which of them this one is
 *
 * On the command line each is one --member "a az-a 10.0.0.1:7000"; a comma ends a member too, so that what CONFIG GET
 * shows can be read again. Here only the form is looked at, and what this node's settings contradict of it; whether
 * the set is safe is the log's to judge, which knows the group. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_table.h"
#include "log/base/buf.h"

enum { NAME_BYTES_MAX = 64, ADDRESS_BYTES_MAX = 159, WORDS_MAX = 4, LINE_BYTES_MAX = SETTING_VALUE_MAX };

#define LETTERS_AND_DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

bool config_name_ok(const char *text)
{
    size_t n = strlen(text);

    return n > 0 && n <= NAME_BYTES_MAX && strspn(text, LETTERS_AND_DIGITS "._-") == n;
}

bool config_host_port_ok(const char *text)
{
    const char *colon = strrchr(text, ':');
    size_t digits = colon != NULL ? strspn(colon + 1, "0123456789") : 0;

    return colon != NULL && colon != text && digits > 0 && digits <= 5 && colon[1 + digits] == '\0' &&
           atoi(colon + 1) > 0 && atoi(colon + 1) <= 65535;
}

/* ---------------------------------------------------------------- one member */

struct words { /* of one member, borrowed from a line that is cut up */
    const char *at[WORDS_MAX];
    size_t count;
};

static bool check_words(const struct words *w, char *why, size_t why_size)
{
    if (w->count < 3 || w->count > 4 || (w->count == 4 && strcmp(w->at[3], "log-only") != 0)) {
        (void)snprintf(why, why_size, "a member is NAME ZONE HOST:PORT, and log-only behind it for a witness");
        return false;
    }
    for (size_t i = 0; i < 2; i++)
        if (!config_name_ok(w->at[i])) {
            (void)snprintf(why, why_size, "a member's %s must be 1 to %d letters, digits, '.', '_' or '-'",
                           i == 0 ? "name" : "zone", NAME_BYTES_MAX);
            return false;
        }
    if (!config_host_port_ok(w->at[2]) || strlen(w->at[2]) > ADDRESS_BYTES_MAX ||
        w->at[2][strspn(w->at[2], LETTERS_AND_DIGITS "._-:[]%")] != '\0') {
        (void)snprintf(why, why_size, "a member's address must be host:port");
        return false;
    }
    return true;
}

/* Cuts the next member out of *rest; false: there is none. Too many words are counted, not kept. */
static bool next_member(char **rest, struct words *w)
{
    *w = (struct words){0};
    for (bool ended = false; !ended;) {
        char *word;

        *rest += strspn(*rest, " \t");
        if (**rest == '\0')
            break;
        word = *rest;
        *rest += strcspn(*rest, " \t,");
        ended = **rest == ',' || (*rest)[strspn(*rest, " \t")] == ',';
        if (ended) { /* the comma may stand apart */
            char *comma = *rest + strspn(*rest, " \t");

            **rest = '\0';
            *rest = comma + 1;
        } else if (**rest != '\0') {
            *(*rest)++ = '\0';
        }
        if (w->count < WORDS_MAX)
            w->at[w->count] = word;
        w->count++;
    }
    return w->count > 0;
}

bool config_members_parse(struct config *c, int argc, char *const *argv, char *why, size_t why_size)
{
    char line[LINE_BYTES_MAX], found[CONFIG_MEMBERS_MAX][CONFIG_TEXT_MAX] = {""}, *rest = line;
    size_t used = 0, count = c->member_count;
    struct words w;

    if (argc == 1 && argv[0][0] == '\0') { /* forget those named so far */
        memset(c->member, 0, sizeof c->member);
        c->member_count = 0;
        return true;
    }
    for (int i = 0; i < argc && used < sizeof line; i++)
        used += (size_t)snprintf(line + used, sizeof line - used, "%s%s", i > 0 ? " " : "", argv[i]);
    if (used >= sizeof line) {
        (void)snprintf(why, why_size, "argument is too long (at most %zu bytes)", sizeof line - 1);
        return false;
    }
    while (next_member(&rest, &w)) {
        if (!check_words(&w, why, why_size))
            return false;
        if (count >= CONFIG_MEMBERS_MAX) {
            (void)snprintf(why, why_size, "a group has at most %d members", CONFIG_MEMBERS_MAX);
            return false;
        }
        if ((size_t)snprintf(found[count], CONFIG_TEXT_MAX, "%s %s %s%s", w.at[0], w.at[1], w.at[2],
                             w.count == 4 ? " log-only" : "") >= CONFIG_TEXT_MAX) {
            (void)snprintf(why, why_size, "argument is too long (at most %d bytes)", CONFIG_TEXT_MAX - 1);
            return false;
        }
        count++;
    }
    if (count == c->member_count) {
        (void)snprintf(why, why_size, "a member is NAME ZONE HOST:PORT, and log-only behind it for a witness");
        return false;
    }
    memcpy(c->member[c->member_count], found[c->member_count], (count - c->member_count) * CONFIG_TEXT_MAX);
    c->member_count = count;
    return true;
}

void config_members_show(const struct config *c, char *out, size_t out_size)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < c->member_count && used < out_size; i++)
        used += (size_t)snprintf(out + used, out_size - used, "%s%s", i > 0 ? ", " : "", c->member[i]);
}

/* ---------------------------------------------------------------- what the settings say about it */

bool config_log_only(const struct config *c)
{
    return strcmp(c->valkey, "none") == 0;
}

/* The length of the word at `text`, and where the next one begins. */
static const char *word_of(const char *member, int nth, size_t *n)
{
    for (; nth > 0; nth--)
        member += strcspn(member, " ") + 1; /* one blank, as config_members_parse() wrote it */
    *n = strcspn(member, " ");
    return member;
}

static bool same_word(const char *a, const char *b, int nth)
{
    size_t an, bn;
    const char *aw = word_of(a, nth, &an), *bw = word_of(b, nth, &bn);

    return an == bn && memcmp(aw, bw, an) == 0;
}

const char *config_own_member(const struct config *c)
{
    for (size_t i = 0; i < c->member_count; i++)
        if (same_word(c->member[i], c->node, 0))
            return c->member[i];
    return NULL;
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

static bool check_different(const struct config *c, struct buf *why)
{
    for (size_t i = 0; i < c->member_count; i++)
        for (size_t j = 0; j < i; j++)
            for (int nth = 0; nth <= 2; nth += 2)
                if (same_word(c->member[i], c->member[j], nth)) {
                    buf_printf(why, "two members have the same %s: '%s' and '%s'", nth == 0 ? "name" : "address",
                               c->member[j], c->member[i]);
                    return false;
                }
    return true;
}

static bool check_tls(const struct config *c, struct buf *why)
{
    if (c->peer_tls && (c->peer_tls_cert_file[0] == '\0' || c->peer_tls_key_file[0] == '\0' ||
                        c->peer_tls_ca_cert_file[0] == '\0')) {
        buf_text(why, "members talk over TLS: peer-tls-cert-file, peer-tls-key-file and peer-tls-ca-cert-file are "
                      "needed (or peer-tls no, between loopback addresses)");
        return false;
    }
    if (c->peer_tls)
        return true;
    for (size_t i = 0; i < c->member_count; i++) {
        size_t n;
        const char *address = word_of(c->member[i], 2, &n);

        if (!is_loopback(address)) {
            buf_printf(why, "peer-tls no is only for members on loopback addresses, and '%s' is not", c->member[i]);
            return false;
        }
    }
    if (c->peer_listen[0] != '\0' && !is_loopback(c->peer_listen)) {
        buf_printf(why, "peer-tls no is only for loopback addresses, and peer-listen %s is none", c->peer_listen);
        return false;
    }
    return true;
}

bool config_members_check(const struct config *c, struct buf *why)
{
    bool log_only = config_log_only(c);
    const char *own = config_own_member(c);
    size_t n = 0;

    if (log_only && c->valkey_spawn) {
        buf_text(why, "valkey-spawn yes contradicts valkey none");
        return false;
    }
    if (c->member_count == 0) {
        if (!log_only)
            return true;
        buf_text(why, "valkey none is for a log-only member of a group: without member lines a Valkey is needed");
        return false;
    }
    if (!check_different(c, why))
        return false;
    if (own == NULL) {
        buf_printf(why, "node %s is not among the members", c->node);
        return false;
    }
    (void)word_of(own, 2, &n);
    if ((word_of(own, 2, &n)[n] == ' ') != log_only) {
        buf_printf(why,
                   log_only ? "valkey none, but member '%s' is not log-only"
                            : "member '%s' is log-only, which needs valkey none",
                   own);
        return false;
    }
    return check_tls(c, why);
}

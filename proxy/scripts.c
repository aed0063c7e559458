/* See scripts.h. */
#include "proxy/scripts.h"

#include <openssl/sha.h>
#include <string.h>

#include "log/base/diag.h"

#include <uthash.h>

struct known {
    unsigned char sha[SHA_DIGEST_LENGTH];
    UT_hash_handle hh;
};

struct scripts {
    struct known *known;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* "#!lua flags=no-writes,allow-stale". Valkey refuses a script with an option or a flag that it does not know, so a
 * flag that is found here and that Valkey understands otherwise is an error there. */
bool script_promises_no_writes(const char *text, size_t n)
{
    static const char head[] = "#!lua", flags[] = "flags=", word[] = "no-writes";
    const char *end = n > 0 ? memchr(text, '\n', n) : NULL, *at;

    if (end == NULL || n < sizeof head - 1 || memcmp(text, head, sizeof head - 1) != 0 ||
        !is_space(text[sizeof head - 1]))
        return false;
    at = memmem(text, (size_t)(end - text), flags, sizeof flags - 1);
    if (at == NULL)
        return false;
    at += sizeof flags - 2;
    while (at < end && !is_space(*at)) { /* at the '=' or ',' before a flag */
        const char *flag = at + 1, *next = flag;

        while (next < end && *next != ',' && !is_space(*next))
            next++;
        if ((size_t)(next - flag) == sizeof word - 1 && memcmp(flag, word, sizeof word - 1) == 0)
            return true;
        at = next;
    }
    return false;
}

struct scripts *scripts_new(void)
{
    return must_calloc(1, sizeof(struct scripts));
}

static void forget(struct scripts *s)
{
    struct known *k, *next;

    HASH_ITER(hh, s->known, k, next)
    {
        HASH_DEL(s->known, k);
        free(k);
    }
}

void scripts_free(struct scripts *s)
{
    if (s == NULL)
        return;
    forget(s);
    free(s);
}

void scripts_learn(struct scripts *s, const char *text, size_t n)
{
    unsigned char sha[SHA_DIGEST_LENGTH];
    struct known *k;

    if (!script_promises_no_writes(text, n))
        return;
    (void)SHA1((const unsigned char *)text, n, sha);
    HASH_FIND(hh, s->known, sha, sizeof sha, k);
    if (k != NULL)
        return;
    if (HASH_COUNT(s->known) >= SCRIPTS_KNOWN_MAX)
        forget(s);
    k = must_calloc(1, sizeof *k);
    memcpy(k->sha, sha, sizeof sha);
    HASH_ADD(hh, s->known, sha, sizeof k->sha, k);
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool scripts_no_writes(const struct scripts *s, const char *sha, size_t n)
{
    unsigned char bytes[SHA_DIGEST_LENGTH];
    struct known *k;

    if (s->known == NULL || n != 2 * sizeof bytes)
        return false;
    for (size_t i = 0; i < sizeof bytes; i++) {
        int high = digit(sha[2 * i]), low = digit(sha[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    HASH_FIND(hh, s->known, bytes, sizeof bytes, k);
    return k != NULL;
}

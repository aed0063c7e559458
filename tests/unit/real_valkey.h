/* A real valkey-server on a Unix socket in a directory of its own, with a blocking connection to it, for tests. */
#ifndef HF_REAL_VALKEY_H
#define HF_REAL_VALKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct redisContext;

struct real_valkey {
    char dir[96], address[128];
    pid_t pid;
    struct redisContext *c;
};

bool real_valkey_installed(void);
void real_valkey_make(struct real_valkey *v); /* the directory */
void real_valkey_start(struct real_valkey *v,
                       const char *const *extra); /* extra: more arguments, NULL-terminated; may be NULL */
void real_valkey_kill(struct real_valkey *v);     /* SIGKILL; the directory stays */
void real_valkey_remove(struct real_valkey *v);   /* kill, remove the directory */
void real_valkey_connect(struct real_valkey *v);  /* (again) to its address */
int real_valkey_pid(struct real_valkey *v);       /* as it says itself */
/* One command (printf's arguments are words). The answer as text: strings as they are, integers in decimal, "" for
 * null. An error answer fails the test. */
void real_valkey_ask(struct real_valkey *v, char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void real_valkey_do(struct real_valkey *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* `count` random writes over all types and four databases, some of them refused, in pipelines. */
void real_valkey_workload(struct real_valkey *v, uint64_t seed, size_t count);
bool real_valkey_same(struct real_valkey *a, struct real_valkey *b); /* DEBUG DIGEST */

#endif

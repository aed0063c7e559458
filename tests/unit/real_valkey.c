#include "tests/unit/real_valkey.h"

#include <fcntl.h>
#include <ftw.h>
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_MS_MAX = 60000, ARGS_MAX = 48, PIPELINE = 200, VALUE_BYTES = 64 };

bool real_valkey_installed(void)
{
    return access("/usr/bin/valkey-server", X_OK) == 0 || access("/usr/local/bin/valkey-server", X_OK) == 0;
}

void real_valkey_make(struct real_valkey *v)
{
    *v = (struct real_valkey){0};
    (void)snprintf(v->dir, sizeof v->dir, "/tmp/holdfast-valkey-XXXXXX");
    assert_non_null(mkdtemp(v->dir));
    (void)snprintf(v->address, sizeof v->address, "%s/valkey.sock", v->dir);
}

static void run(struct real_valkey *v, const char *const *extra)
{
    const char *argv[ARGS_MAX] = {"valkey-server",
                                  "--port",
                                  "0",
                                  "--unixsocket",
                                  v->address,
                                  "--dir",
                                  v->dir,
                                  "--save",
                                  "",
                                  "--enable-debug-command",
                                  "yes",
                                  "--repl-diskless-sync-delay",
                                  "0",
                                  "--logfile",
                                  "valkey.log"};
    int n = 15;

    for (; extra != NULL && *extra != NULL && n < ARGS_MAX - 1; extra++)
        argv[n++] = *extra;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)execvp(argv[0], (char *const *)argv);
    _exit(127);
}

void real_valkey_start(struct real_valkey *v, const char *const *extra)
{
    (void)signal(SIGPIPE, SIG_IGN); /* hiredis writes to connections that were killed */
    (void)unlink(v->address);
    v->pid = fork();
    assert_true(v->pid >= 0);
    if (v->pid == 0)
        run(v, extra);
    for (int ms = 0; ms < START_MS_MAX; ms += 10) {
        if (waitpid(v->pid, NULL, WNOHANG) == v->pid) {
            v->pid = 0;
            fail_msg("valkey-server has ended: %s/valkey.log", v->dir);
        }
        v->c = redisConnectUnix(v->address);
        if (v->c != NULL && v->c->err == 0)
            return;
        redisFree(v->c);
        v->c = NULL;
        (void)usleep(10000);
    }
    fail_msg("valkey-server did not start");
}

void real_valkey_kill(struct real_valkey *v)
{
    if (v->c != NULL)
        redisFree(v->c);
    v->c = NULL;
    if (v->pid > 0) {
        (void)kill(v->pid, SIGKILL);
        (void)waitpid(v->pid, NULL, 0);
    }
    v->pid = 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

void real_valkey_remove(struct real_valkey *v)
{
    real_valkey_kill(v);
    (void)nftw(v->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void real_valkey_connect(struct real_valkey *v)
{
    if (v->c != NULL)
        redisFree(v->c);
    v->c = redisConnectUnix(v->address);
    assert_true(v->c != NULL && v->c->err == 0);
}

static redisReply *ask(struct real_valkey *v, const char *format, va_list args)
{
    char line[1024];
    redisReply *r;

    (void)vsnprintf(line, sizeof line, format, args);
    r = redisCommand(v->c, line);
    if (r == NULL) {
        real_valkey_connect(v); /* the node kills ordinary connections */
        r = redisCommand(v->c, line);
    }
    assert_non_null(r);
    if (r->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", line, r->str);
    return r;
}

void real_valkey_ask(struct real_valkey *v, char *out, size_t size, const char *format, ...)
{
    va_list args;
    redisReply *r;

    va_start(args, format);
    r = ask(v, format, args);
    va_end(args);
    out[0] = '\0';
    if (r->type == REDIS_REPLY_INTEGER)
        (void)snprintf(out, size, "%lld", r->integer);
    else if (r->str != NULL)
        (void)snprintf(out, size, "%s", r->str);
    freeReplyObject(r);
}

void real_valkey_do(struct real_valkey *v, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    freeReplyObject(ask(v, format, args));
    va_end(args);
}

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* %k: a key of the type that the letter after it names; %m: another of that type; %n: a small number; %v: a value;
 * %f: a field. */
static const char *const forms[] = {
    "SET %ks %v",
    "SET %ks %v EX 100000",
    "SETNX %ks %v",
    "APPEND %ks %v",
    "GETSET %ks %v",
    "GETDEL %ks",
    "DEL %ks",
    "UNLINK %ks",
    "SETRANGE %ks %n %v",
    "SETBIT %ks %n 1",
    "COPY %ks %ms REPLACE",
    "RENAME %ks %ms",
    "GETEX %ks EX 90000",
    "PERSIST %ks",
    "INCR %ki",
    "INCRBY %ki %n",
    "DECR %ki",
    "INCRBYFLOAT %kd 1.5",
    "EXPIRE %ki 100000",
    "SET %ki 5 KEEPTTL",
    "MSET %ki 1 %mi 2",
    "LPUSH %kl %v %v",
    "RPUSH %kl %v",
    "LPOP %kl",
    "RPOP %kl %n",
    "LMOVE %kl %ml LEFT RIGHT",
    "LTRIM %kl 0 20",
    "LSET %kl 0 %v",
    "LINSERT %kl BEFORE %v %v",
    "LREM %kl 1 %v",
    "LMPOP 2 %kl %ml LEFT COUNT 2",
    "SORT %kl ALPHA STORE %ml",
    "SADD %kt %f %f",
    "SREM %kt %f",
    "SPOP %kt",
    "SPOP %kt 2",
    "SMOVE %kt %mt %f",
    "SUNIONSTORE %kt %kt %mt",
    "SDIFFSTORE %kt %kt %mt",
    "HSET %kh %f %v",
    "HDEL %kh %f",
    "HINCRBY %kh n %n",
    "HINCRBYFLOAT %kh d 0.5",
    "HSETNX %kh %f %v",
    "ZADD %kz %n %f",
    "ZINCRBY %kz 1.5 %f",
    "ZREM %kz %f",
    "ZPOPMIN %kz",
    "ZRANGESTORE %kz %mz 0 5",
    "ZUNIONSTORE %kz 2 %kz %mz",
    "ZADD %kz GT CH %n %f",
    "ZMPOP 1 %kz MIN",
    "GEOADD %kg 13.36 38.11 %f",
    "GEOADD %kg 2.3 48.8 %f",
    "XADD %kx * f %v",
    "XADD %kx MAXLEN ~ 10 * f %v",
    "XTRIM %kx MAXLEN 5",
    "XGROUP CREATE %kx grp $ MKSTREAM",
    "XREADGROUP GROUP grp c COUNT 2 STREAMS %kx >",
    "PFADD %kp %f %f",
    "PFMERGE %kp %mp",
    "BITFIELD %kb INCRBY u8 %n 3",
    "EVAL e1 1 %ki",
    "EVAL e2 2 %ks %kl",
    "SELECT",
    "MULTI",
    "MULTI",
    "SPUBLISH ch %v",
    "PUBLISH ch %v",
    "MOVE %ks %n",
    "BLPOP %kl 0.001",
    "SWAPDB 1 2",
    "FUNCTION FLUSH",
};

struct words {
    char text[16][VALUE_BYTES + 96];
    const char *at[16];
    int n;
};

static void add_word(struct words *w, const char *token, uint64_t *x)
{
    char *out = w->text[w->n];
    size_t size = sizeof w->text[0];

    if (strncmp(token, "%k", 2) == 0 || strncmp(token, "%m", 2) == 0)
        (void)snprintf(out, size, "%c%d", token[2], (int)(next(x) % 5));
    else if (strcmp(token, "%n") == 0)
        (void)snprintf(out, size, "%d", (int)(next(x) % 12));
    else if (strcmp(token, "%v") == 0)
        (void)snprintf(out, size, "value-%llx", (unsigned long long)(next(x) % 64));
    else if (strcmp(token, "%f") == 0)
        (void)snprintf(out, size, "f%d", (int)(next(x) % 9));
    else if (strcmp(token, "e1") == 0)
        (void)snprintf(out, size, "return redis.call('INCR',KEYS[1])");
    else if (strcmp(token, "e2") == 0)
        (void)snprintf(out, size,
                       "redis.call('SET',KEYS[1],'s') redis.call('LPUSH',KEYS[2],'s') redis.call('SELECT',3) "
                       "redis.call('INCR','i1') return 1");
    else
        (void)snprintf(out, size, "%s", token);
    w->at[w->n] = out;
    w->n++;
}

static int send_form(struct real_valkey *v, const char *form, uint64_t *x)
{
    char copy[160], *rest = NULL;
    struct words w = {.n = 0};

    (void)snprintf(copy, sizeof copy, "%s", form);
    if (strcmp(form, "SELECT") == 0) {
        (void)redisAppendCommand(v->c, "SELECT %d", (int)(next(x) % 4));
        return 1;
    }
    if (strcmp(form, "MULTI") == 0) { /* a unit over two databases */
        (void)redisAppendCommand(v->c, "MULTI");
        (void)redisAppendCommand(v->c, "SADD t%d x y", (int)(next(x) % 5));
        (void)redisAppendCommand(v->c, "SELECT %d", (int)(next(x) % 4));
        (void)redisAppendCommand(v->c, "LPUSH l%d in-multi", (int)(next(x) % 5));
        (void)redisAppendCommand(v->c, "EXEC");
        return 5;
    }
    for (char *t = strtok_r(copy, " ", &rest); t != NULL; t = strtok_r(NULL, " ", &rest))
        add_word(&w, t, x);
    (void)redisAppendCommandArgv(v->c, w.n, w.at, NULL);
    return 1;
}

void real_valkey_workload(struct real_valkey *v, uint64_t seed, size_t count)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    real_valkey_do(v, "PING"); /* reconnects if it has to */
    for (size_t done = 0; done < count;) {
        int due = 0;

        for (size_t i = 0; i < PIPELINE && done < count; i++, done++)
            due += send_form(v, forms[next(&x) % (sizeof forms / sizeof *forms)], &x);
        for (; due > 0; due--) {
            redisReply *r = NULL;

            assert_int_equal(redisGetReply(v->c, (void **)&r), REDIS_OK);
            freeReplyObject(r);
        }
    }
    real_valkey_do(v, "SELECT 0");
}

bool real_valkey_same(struct real_valkey *a, struct real_valkey *b)
{
    char x[64], y[64];

    real_valkey_ask(a, x, sizeof x, "DEBUG DIGEST");
    real_valkey_ask(b, y, sizeof y, "DEBUG DIGEST");
    return strcmp(x, y) == 0;
}

int real_valkey_pid(struct real_valkey *v)
{
    char info[8192];
    const char *at;

    real_valkey_ask(v, info, sizeof info, "INFO server");
    at = strstr(info, "process_id:");
    assert_non_null(at);
    return atoi(at + 11);
}

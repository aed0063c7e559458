/* A Valkey module for tests: a data type of its own, and commands of every kind that a proxy must get right.
 *
 *     HFC.ADD key n          adds; in the stream as it is
 *     HFC.ROLL key           adds a random number; in the stream: HFC.ADD key <number>
 *     HFC.SLOWADD key n ms   blocks its client so long, then adds; in the stream: HFC.ADD key n
 *     HFC.SET key n          writes a string by calling SET; in the stream: SET key n
 *     HFC.GET key            reads
 *
 * Loaded with an argument it is another one, which has no data type and so can be unloaded: HFP.SET key n alone.
 *
 * What it needs of Valkey's module interface is declared here: no package has the header. The names are resolved by
 * GetApi, whose address is the first word of the context. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { OK = 0, ERR = 1, READ = 1, WRITE = 2, EMPTY = 0, API = 1, TYPE_METHODS = 1 };

typedef struct context context;
typedef struct string string;
typedef struct key key;
typedef struct type type;
typedef struct io io;
typedef struct digest digest;
typedef struct blocked blocked;
typedef int command(context *c, string **argv, int argc);

struct methods { /* version 1 */
    uint64_t version;
    void *(*load)(io *rdb, int encoding);
    void (*save)(io *rdb, void *value);
    void (*rewrite)(io *aof, string *name, void *value);
    size_t (*memory)(const void *value);
    void (*digest)(digest *d, void *value);
    void (*free)(void *value);
};

#define FUNCTIONS(F)                                                                                                 \
    F(void, SetModuleAttribs, (context * c, const char *name, int version, int api))                                 \
    F(int, CreateCommand,                                                                                            \
      (context * c, const char *name, command *f, const char *flags, int from, int to, int step))                    \
    F(type *, CreateDataType, (context * c, const char *name, int encoding, struct methods *m))                      \
    F(int, WrongArity, (context * c))                                                                                \
    F(int, ReplyWithLongLong, (context * c, long long n))                                                            \
    F(int, ReplyWithError, (context * c, const char *text))                                                          \
    F(int, ReplyWithSimpleString, (context * c, const char *text))                                                   \
    F(key *, OpenKey, (context * c, string * name, int mode))                                                        \
    F(void, CloseKey, (key * k))                                                                                     \
    F(int, KeyType, (key * k))                                                                                       \
    F(type *, ModuleTypeGetType, (key * k))                                                                          \
    F(void *, ModuleTypeGetValue, (key * k))                                                                         \
    F(int, ModuleTypeSetValue, (key * k, type * t, void *value))                                                     \
    F(int, StringToLongLong, (const string *s, long long *n))                                                        \
    F(string *, CreateStringFromString, (context * c, const string *s))                                              \
    F(void, FreeString, (context * c, string * s))                                                                   \
    F(int, Replicate, (context * c, const char *name, const char *format, ...))                                      \
    F(int, ReplicateVerbatim, (context * c))                                                                         \
    F(void *, Call, (context * c, const char *name, const char *format, ...))                                        \
    F(void, FreeCallReply, (void *reply))                                                                            \
    F(void, SaveSigned, (io * rdb, int64_t n))                                                                       \
    F(int64_t, LoadSigned, (io * rdb))                                                                               \
    F(void, EmitAOF, (io * aof, const char *name, const char *format, ...))                                          \
    F(void, DigestAddLongLong, (digest * d, long long n))                                                            \
    F(void, DigestEndSequence, (digest * d))                                                                         \
    F(blocked *, BlockClient, (context * c, command * reply, command * timeout, void *drop, long long ms))           \
    F(int, UnblockClient, (blocked * b, void *data))                                                                 \
    F(void *, GetBlockedClientPrivateData, (context * c))                                                            \
    F(uint64_t, CreateTimer, (context * c, long long ms, void (*f)(context *, void *), void *data))

#define DECLARE(result, name, arguments) static result(*name) arguments;
FUNCTIONS(DECLARE)

static type *counter_type;

struct counter {
    long long total;
};

/* ---- the data type ---- */

static void *counter_load(io *rdb, int encoding)
{
    struct counter *n = calloc(1, sizeof *n);

    (void)encoding;
    if (n != NULL)
        n->total = LoadSigned(rdb);
    return n;
}

static void counter_save(io *rdb, void *value)
{
    SaveSigned(rdb, ((struct counter *)value)->total);
}

static void counter_rewrite(io *aof, string *name, void *value)
{
    EmitAOF(aof, "HFC.ADD", "sl", name, ((struct counter *)value)->total);
}

static size_t counter_memory(const void *value)
{
    (void)value;
    return sizeof(struct counter);
}

static void counter_digest(digest *d, void *value)
{
    DigestAddLongLong(d, ((struct counter *)value)->total);
    DigestEndSequence(d);
}

/* ---- commands ---- */

/* The counter under that name; NULL: another type is there, which has been answered. */
static struct counter *counter_at(context *c, key *k)
{
    struct counter *n;

    if (KeyType(k) == EMPTY) {
        n = calloc(1, sizeof *n);
        if (n != NULL)
            (void)ModuleTypeSetValue(k, counter_type, n);
        return n;
    }
    if (ModuleTypeGetType(k) == counter_type)
        return ModuleTypeGetValue(k);
    if (c != NULL)
        (void)ReplyWithError(c, "WRONGTYPE Operation against a key holding the wrong kind of value");
    return NULL;
}

static int add(context *c, string **argv, int argc)
{
    long long n;
    key *k;
    struct counter *counter;

    if (argc != 3)
        return WrongArity(c);
    if (StringToLongLong(argv[2], &n) != OK)
        return ReplyWithError(c, "ERR value is not an integer or out of range");
    k = OpenKey(c, argv[1], READ | WRITE);
    counter = counter_at(c, k);
    if (counter != NULL) {
        counter->total += n;
        (void)ReplicateVerbatim(c);
        (void)ReplyWithLongLong(c, counter->total);
    }
    CloseKey(k);
    return OK;
}

static int roll(context *c, string **argv, int argc)
{
    struct timespec now;
    struct counter *counter;
    key *k;
    long long n;

    if (argc != 2)
        return WrongArity(c);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    n = now.tv_nsec % 1000 + 1;
    k = OpenKey(c, argv[1], READ | WRITE);
    counter = counter_at(c, k);
    if (counter != NULL) {
        counter->total += n;
        (void)Replicate(c, "HFC.ADD", "sl", argv[1], n);
        (void)ReplyWithLongLong(c, counter->total);
    }
    CloseKey(k);
    return OK;
}

static int set(context *c, string **argv, int argc)
{
    void *reply;

    if (argc != 3)
        return WrongArity(c);
    reply = Call(c, "SET", "!ss", argv[1], argv[2]);
    if (reply != NULL)
        FreeCallReply(reply);
    return ReplyWithSimpleString(c, "OK");
}

static int get(context *c, string **argv, int argc)
{
    struct counter *n;
    key *k;

    if (argc != 2)
        return WrongArity(c);
    k = OpenKey(c, argv[1], READ);
    if (k == NULL || KeyType(k) == EMPTY) {
        if (k != NULL)
            CloseKey(k);
        return ReplyWithLongLong(c, 0);
    }
    n = counter_at(c, k);
    if (n != NULL)
        (void)ReplyWithLongLong(c, n->total);
    CloseKey(k);
    return OK;
}

struct slow {
    blocked *client;
    string *name;
    long long n, total;
};

static void slow_now(context *c, void *data)
{
    struct slow *s = data;
    key *k = OpenKey(c, s->name, READ | WRITE);
    struct counter *counter = counter_at(NULL, k);

    if (counter != NULL) {
        counter->total += s->n;
        s->total = counter->total;
        (void)Replicate(c, "HFC.ADD", "sl", s->name, s->n);
    }
    CloseKey(k);
    FreeString(c, s->name);
    (void)UnblockClient(s->client, s);
}

static int slow_reply(context *c, string **argv, int argc)
{
    (void)argv;
    (void)argc;
    return ReplyWithLongLong(c, ((struct slow *)GetBlockedClientPrivateData(c))->total);
}

static void slow_free(context *c, void *data)
{
    (void)c;
    free(data);
}

static int slow(context *c, string **argv, int argc)
{
    struct slow *s;
    long long ms, n;

    if (argc != 4)
        return WrongArity(c);
    if (StringToLongLong(argv[2], &n) != OK || StringToLongLong(argv[3], &ms) != OK)
        return ReplyWithError(c, "ERR value is not an integer or out of range");
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return ReplyWithError(c, "ERR out of memory");
    s->client = BlockClient(c, slow_reply, NULL, (void *)slow_free, 0);
    s->name = CreateStringFromString(NULL, argv[1]);
    s->n = n;
    (void)CreateTimer(c, ms, slow_now, s);
    return OK;
}

/* ---- loading ---- */

int ValkeyModule_OnLoad(context *c, string **argv, int argc);

int ValkeyModule_OnLoad(context *c, string **argv, int argc)
{
    int (*get_api)(const char *name, void *to) = *(int (**)(const char *, void *))c;
    static struct methods methods = {TYPE_METHODS,   counter_load,   counter_save, counter_rewrite,
                                     counter_memory, counter_digest, free};

    (void)argv;
#define RESOLVE(result, name, arguments)                                                                             \
    if (get_api("ValkeyModule_" #name, (void *)&name) != OK)                                                         \
        return ERR;
    FUNCTIONS(RESOLVE)
    if (argc > 0) {
        SetModuleAttribs(c, "hfplain", 1, API);
        return CreateCommand(c, "hfp.set", set, "write deny-oom", 1, 1, 1);
    }
    SetModuleAttribs(c, "hfcounter", 1, API);
    counter_type = CreateDataType(c, "hfcounter", 0, &methods);
    if (counter_type == NULL || CreateCommand(c, "hfc.add", add, "write deny-oom", 1, 1, 1) != OK ||
        CreateCommand(c, "hfc.roll", roll, "write deny-oom", 1, 1, 1) != OK ||
        CreateCommand(c, "hfc.set", set, "write deny-oom", 1, 1, 1) != OK ||
        CreateCommand(c, "hfc.slowadd", slow, "write deny-oom", 1, 1, 1) != OK ||
        CreateCommand(c, "hfc.get", get, "readonly", 1, 1, 1) != OK)
        return ERR;
    return OK;
}

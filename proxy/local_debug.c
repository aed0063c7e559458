/* DEBUG, where allow-guarded-commands allows it: `debug` for what leaves the data as it is, `debug-unsafe` for the
 * rest: what that does to the data is in no replication stream, and so in no log; or it ends Valkey. */
#include "proxy/local.h"
#include "proxy/worker_state.h"

static bool is_harmless(const struct argv *a)
{
    static const char *const words[] = {"help",
                                        "object",
                                        "digest",
                                        "digest-value",
                                        "sleep",
                                        "htstats",
                                        "htstats-key",
                                        "listpack",
                                        "quicklist",
                                        "sdslen",
                                        "error",
                                        "log",
                                        "protocol",
                                        "structsize",
                                        "client-eviction",
                                        "ziplist",
                                        "stringmatch-len",
                                        "hashtable",
                                        "mallctl-str",
                                        "set-active-expire",
                                        "jmap",
                                        "replybuffer",
                                        "dict-resizing",
                                        "hashtable-resizing",
                                        "stringmatch-test",
                                        "quicklist-packed-threshold",
                                        "set-skip-checksum-validation",
                                        "aof-flush-sleep",
                                        "client-enforce-reply-list"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (argv_is(a, 1, words[i]))
            return true;
    return argv_is(a, 1, "reload") && a->count == 2; /* saves first what it reads then */
}

enum dispatch local_debug(struct session *s, const struct argv *a)
{
    bool harmless = is_harmless(a);
    unsigned needed = harmless ? GUARD_DEBUG | GUARD_DEBUG_UNSAFE : GUARD_DEBUG_UNSAFE;
    struct task *t;

    if ((s->worker->config->guards_allowed & needed) == 0)
        return local_error(
            s, "ERR this DEBUG subcommand is not available through Holdfast: what it does is in no log. The "
               "setting allow-guarded-commands can allow it (debug-unsafe)");
    if (!harmless && s->reader)
        return local_error(s, "READONLY You can't write against a read only replica.");
    return session_to_pinned(s, harmless ? OP_READ : OP_CAPTURED, NULL, a, NULL, &t);
}

/* The settings: one table (config_table.c) of names, types, defaults, reload rules; one parser, in Valkey's manner.
 *
 * Precedence: defaults, then the file, then --name value on the command line; the last of equals wins. */
#ifndef HF_CONFIG_H
#define HF_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/base/diag.h"

struct buf;

#define HOLDFAST_VERSION "0.1.0"

enum durability { DURABILITY_OFF, DURABILITY_ASYNC, DURABILITY_SYNC };
const char *durability_name(enum durability d); /* "off" "async" "sync" */

/* Commands that are refused unless allow-guarded-commands names them. */
enum guard {
    GUARD_NONE = 0,
    GUARD_DEBUG = 1,        /* DEBUG subcommands that leave the data as it is; PFDEBUG */
    GUARD_DEBUG_UNSAFE = 2, /* the others: what they do is in no log, or ends Valkey */
    GUARD_MIGRATE = 4,
    GUARD_SHUTDOWN = 8,
    GUARD_PERSISTENCE = 16 /* CONFIG SET of Valkey's own persistence */
};

struct output_limit { /* client-output-buffer-limit <class> <hard> <soft> <soft seconds>; 0 = none */
    uint64_t hard_bytes, soft_bytes, soft_seconds;
};
enum output_class {
    OUTPUT_NORMAL,
    OUTPUT_PUBSUB,
    OUTPUT_REPLICA,
    OUTPUT_CLASSES
}; /* "replica"/"slave" is accepted and kept, unused */

enum tls_auth_clients { TLS_AUTH_NO, TLS_AUTH_OPTIONAL, TLS_AUTH_YES };

enum { CONFIG_TEXT_MAX = 256, CONFIG_BIND_MAX = 16, CONFIG_MEMBERS_MAX = 9 };

struct config {
    char bind[CONFIG_BIND_MAX][CONFIG_TEXT_MAX]; /* default: "127.0.0.1" "-::1" ('-': may be missing, as in Valkey) */
    size_t bind_count;
    int port;                      /* 6379; 0 = no TCP */
    int reader_port;               /* 0 = none */
    int tls_port, tls_reader_port; /* the same through TLS; 0 = none */
    char tls_cert_file[CONFIG_TEXT_MAX], tls_key_file[CONFIG_TEXT_MAX], tls_ca_cert_file[CONFIG_TEXT_MAX],
        tls_ca_cert_dir[CONFIG_TEXT_MAX];    /* all of tls_* from here on: runtime */
    char tls_key_file_pass[CONFIG_TEXT_MAX]; /* sensitive */
    enum tls_auth_clients tls_auth_clients;  /* yes */
    char tls_protocols[CONFIG_TEXT_MAX], tls_ciphers[CONFIG_TEXT_MAX], tls_ciphersuites[CONFIG_TEXT_MAX];
    bool tls_prefer_server_ciphers;
    char unixsocket[CONFIG_TEXT_MAX];
    int unixsocketperm;   /* octal, 0 = leave */
    int tcp_backlog;      /* 511 */
    int tcp_keepalive_s;  /* 300 */
    int timeout_s;        /* idle clients; 0 = never */
    int relay_timeout_ms; /* how long a command waits for a leader: 2000; runtime */
    int maxclients;       /* 10000 */
    struct output_limit output_limit[OUTPUT_CLASSES];
    uint64_t query_bytes_max; /* client-query-buffer-limit 1gb */
    uint64_t bulk_bytes_max;  /* proto-max-bulk-len 512mb */
    enum diag_level loglevel;
    char logfile[CONFIG_TEXT_MAX];
    enum diag_format log_format;          /* legacy; runtime */
    enum diag_stamp log_timestamp_format; /* legacy; runtime */
    bool syslog_enabled;                  /* no */
    char syslog_ident[CONFIG_TEXT_MAX];   /* holdfast */
    int syslog_facility;                  /* LOG_LOCAL0 */
    int shutdown_timeout_s;               /* 10 */

    char valkey[CONFIG_TEXT_MAX]; /* host:port, a socket's path, or "none"; default 127.0.0.1:6380 */
    char valkey_user[CONFIG_TEXT_MAX], valkey_password[CONFIG_TEXT_MAX]; /* password: sensitive */
    bool valkey_tls;
    char valkey_tls_cert_file[CONFIG_TEXT_MAX], valkey_tls_key_file[CONFIG_TEXT_MAX],
        valkey_tls_ca_cert_file[CONFIG_TEXT_MAX];
    char valkey_tls_server_name[CONFIG_TEXT_MAX]; /* "" = the host of `valkey`, "none" = any name will do */
    bool valkey_spawn;                            /* start and supervise our own valkey-server in data-dir */
    char valkey_server[CONFIG_TEXT_MAX];          /* program for valkey-spawn: valkey-server */
    unsigned guards_allowed;                      /* allow-guarded-commands: enum guard, or-ed */
    int valkey_timeout_ms;                        /* 10000: no answer for so long = hung */

    char data_dir[CONFIG_TEXT_MAX];    /* default: ./holdfast-data */
    char node[CONFIG_TEXT_MAX];        /* default: node-1 */
    enum durability durability;        /* sync; runtime */
    int durability_lag_max_ms;         /* durability-lag-max 10 (seconds, or 500ms / 10s); runtime */
    uint64_t durability_buffer_max;    /* bytes accepted and not yet durable: 256mb; runtime */
    uint64_t log_size_max;             /* 4gb */
    uint64_t snapshot_log_bytes;       /* a new snapshot when so much log lies behind the newest: 256mb; runtime */
    char admin_bind[CONFIG_TEXT_MAX];  /* 127.0.0.1 */
    int admin_port;                    /* 0 = none; sample and make run set 9121-like */
    char admin_token[CONFIG_TEXT_MAX]; /* sensitive; "" = none, which needs a loopback admin-bind */
    int read_lanes;                    /* shared connections for stateless reads per user: 2 */

    char member[CONFIG_MEMBERS_MAX]
               [CONFIG_TEXT_MAX];  /* "NAME ZONE HOST:PORT[ log-only]", single blanks; form checked */
    size_t member_count;           /* 0 (default): this node alone */
    char cluster[CONFIG_TEXT_MAX]; /* holdfast */
    bool allow_single_az;          /* no */
    int election_timeout_ms;       /* 400 */
    int clock_skew_max_ms;         /* 500 */
    bool peer_tls;                 /* yes; means nothing without members */
    char peer_tls_cert_file[CONFIG_TEXT_MAX], peer_tls_key_file[CONFIG_TEXT_MAX],
        peer_tls_ca_cert_file[CONFIG_TEXT_MAX];
    char peer_listen[CONFIG_TEXT_MAX]; /* host:port; "" = the own member's address */

    char file[CONFIG_TEXT_MAX]; /* the settings file as it was named; "" = none, "-" = standard input */
    int argc;                   /* for config_reload(): main's, borrowed for as long as the config is used */
    char **argv;
};

void config_defaults(struct config *c);

/* Reads argv as `holdfast [FILE] [--name value ...]`; FILE "-" is stdin; `include` with globs. On a bad file or
 * option, writes Valkey's kind of message
 * (*** FATAL CONFIG FILE ERROR (Version x) *** / Reading the configuration file, at line N / >>> 'line' / reason) to
 * err and returns false. */
bool config_load(struct config *c, int argc, char **argv, struct buf *err);

/* What the settings of TLS contradict of each other; false with a reason. */
bool config_tls_check(const struct config *c, char *why, size_t why_size);
bool config_tls_listens(const struct config *c); /* on a port of TLS */

bool config_name_ok(const char *text); /* of a node, a zone, a group: 1 to 64 letters, digits, '.', '_', '-' */
/* valkey none: this node keeps the log and has no Valkey. */
bool config_log_only(const struct config *c);
/* The line of this node, NULL if there are no members. After config_load() it is there if there are any. */
const char *config_own_member(const struct config *c);

/* One setting by name. For CONFIG SET: `runtime` refuses immutable ones. false with a reason in why, and c unchanged.
 */
bool config_set(struct config *c, const char *name, const char *value, bool runtime, char *why, size_t why_size);
bool config_known(const char *name);
/* Calls each(name, value) for the settings that match a glob pattern (case-insensitive); sensitive ones show an empty
 * value. */
void config_get(const struct config *c, const char *pattern,
                void (*each)(void *arg, const char *name, const char *value), void *arg);
/* Calls each() for the settings that differ between the two; sensitive ones show empty values. */
void config_differences(const struct config *before, const struct config *after,
                        void (*each)(void *arg, const char *name, const char *before, const char *after), void *arg);
/* SIGHUP: loads file and options again (kept from config_load) and takes over what can change at run time; names what
 * cannot in *notes. */
bool config_reload(struct config *c, struct buf *notes);

#endif

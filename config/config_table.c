/* The one table of settings.
 *
 * A setting is a row: name, kind, field, default, whether it can change at run time, bounds. A new one = a field in
 * config.h, a row here, a paragraph in holdfast.conf and a line in README.md; `make check` complains about the last
 * two. Defaults are text and go through the same parser as everything else (config_values.c). */
#include "config/config_table.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

#include "log/base/diag.h"

enum { SOCKET_PATH_MAX = 107 };

#define KB (1024LL)
#define MB (1024LL * 1024)
#define GB (1024LL * 1024 * 1024)

/* ---------------------------------------------------------------- checks of single settings */

/* Names become part of connection names, which may hold no spaces, and of certificates. */
static bool check_name(const char *text, char *why, size_t why_size)
{
    if (config_name_ok(text))
        return true;
    (void)snprintf(why, why_size, "argument must be 1 to 64 letters, digits, '.', '_' or '-'");
    return false;
}

static bool check_not_empty(const char *text, char *why, size_t why_size)
{
    if (text[0] != '\0')
        return true;
    (void)snprintf(why, why_size, "argument must not be empty");
    return false;
}

static bool check_socket_path(const char *text, char *why, size_t why_size)
{
    if (strlen(text) <= SOCKET_PATH_MAX)
        return true;
    (void)snprintf(why, why_size, "a Unix socket's path has at most %d bytes", SOCKET_PATH_MAX);
    return false;
}

static bool check_valkey(const char *text, char *why, size_t why_size)
{
    if (strchr(text, '/') != NULL)
        return check_socket_path(text, why, why_size);
    if (strcmp(text, "none") == 0 || config_host_port_ok(text))
        return true;
    (void)snprintf(why, why_size, "argument must be host:port or the path of a Unix socket (with a '/')");
    return false;
}

static bool check_listen(const char *text, char *why, size_t why_size)
{
    if (text[0] == '\0' || config_host_port_ok(text))
        return true;
    (void)snprintf(why, why_size, "argument must be host:port");
    return false;
}

/* ---------------------------------------------------------------- the table */

static const struct setting_word durability_words[] = {
    {"sync", DURABILITY_SYNC}, {"async", DURABILITY_ASYNC}, {"off", DURABILITY_OFF}, {NULL, 0}};
static const struct setting_word loglevel_words[] = {{"debug", DIAG_DEBUG},     {"verbose", DIAG_VERBOSE},
                                                     {"notice", DIAG_NOTICE},   {"warning", DIAG_WARNING},
                                                     {"nothing", DIAG_NOTHING}, {NULL, 0}};
static const struct setting_word log_format_words[] = {
    {"legacy", DIAG_LEGACY}, {"logfmt", DIAG_LOGFMT}, {"json", DIAG_JSON}, {NULL, 0}};
static const struct setting_word log_timestamp_words[] = {{"legacy", DIAG_STAMP_LEGACY},
                                                          {"iso8601", DIAG_STAMP_ISO8601},
                                                          {"milliseconds", DIAG_STAMP_MILLISECONDS},
                                                          {NULL, 0}};
static const struct setting_word facility_words[] = {{"user", LOG_USER},     {"local0", LOG_LOCAL0},
                                                     {"local1", LOG_LOCAL1}, {"local2", LOG_LOCAL2},
                                                     {"local3", LOG_LOCAL3}, {"local4", LOG_LOCAL4},
                                                     {"local5", LOG_LOCAL5}, {"local6", LOG_LOCAL6},
                                                     {"local7", LOG_LOCAL7}, {NULL, 0}};

static const struct setting_word guard_words[] = {
    {"debug", GUARD_DEBUG},       {"debug-unsafe", GUARD_DEBUG_UNSAFE}, {"migrate", GUARD_MIGRATE},
    {"shutdown", GUARD_SHUTDOWN}, {"persistence", GUARD_PERSISTENCE},   {NULL, 0}};
static const struct setting_word auth_words[] = {
    {"no", TLS_AUTH_NO}, {"yes", TLS_AUTH_YES}, {"optional", TLS_AUTH_OPTIONAL}, {NULL, 0}};

#define FIELD(f) offsetof(struct config, f), sizeof(((struct config *)0)->f)
#define NOW      SETTING_RUNTIME

static const struct setting settings[] = {
    /* network */
    {"bind", KIND_BIND, FIELD(bind), "127.0.0.1 -::1", 0, 0, 0, NULL, NULL},
    {"port", KIND_INT, FIELD(port), "6379", 0, 0, 65535, NULL, NULL},
    {"reader-port", KIND_INT, FIELD(reader_port), "0", 0, 0, 65535, NULL, NULL},
    {"unixsocket", KIND_TEXT, FIELD(unixsocket), "", 0, 0, 0, NULL, check_socket_path},
    {"unixsocketperm", KIND_OCTAL, FIELD(unixsocketperm), "0", 0, 0, 0777, NULL, NULL},
    {"tcp-backlog", KIND_INT, FIELD(tcp_backlog), "511", 0, 0, INT_MAX, NULL, NULL},
    {"tcp-keepalive", KIND_INT, FIELD(tcp_keepalive_s), "300", NOW, 0, INT_MAX, NULL, NULL},
    {"timeout", KIND_INT, FIELD(timeout_s), "0", NOW, 0, INT_MAX, NULL, NULL},
    {"relay-timeout", KIND_DURATION, FIELD(relay_timeout_ms), "2", NOW, 0, 3600 * 1000, NULL, NULL},
    /* TLS of the ports; names and meaning are Valkey's */
    {"tls-port", KIND_INT, FIELD(tls_port), "0", 0, 0, 65535, NULL, NULL},
    {"tls-reader-port", KIND_INT, FIELD(tls_reader_port), "0", 0, 0, 65535, NULL, NULL},
    {"tls-cert-file", KIND_TEXT, FIELD(tls_cert_file), "", NOW, 0, 0, NULL, NULL},
    {"tls-key-file", KIND_TEXT, FIELD(tls_key_file), "", NOW, 0, 0, NULL, NULL},
    {"tls-key-file-pass", KIND_TEXT, FIELD(tls_key_file_pass), "", NOW | SETTING_SENSITIVE, 0, 0, NULL, NULL},
    {"tls-ca-cert-file", KIND_TEXT, FIELD(tls_ca_cert_file), "", NOW, 0, 0, NULL, NULL},
    {"tls-ca-cert-dir", KIND_TEXT, FIELD(tls_ca_cert_dir), "", NOW, 0, 0, NULL, NULL},
    {"tls-auth-clients", KIND_WORD, FIELD(tls_auth_clients), "yes", NOW, 0, 0, auth_words, NULL},
    {"tls-protocols", KIND_TEXT, FIELD(tls_protocols), "", NOW, 0, 0, NULL, config_tls_protocols_ok},
    {"tls-ciphers", KIND_TEXT, FIELD(tls_ciphers), "", NOW, 0, 0, NULL, NULL},
    {"tls-ciphersuites", KIND_TEXT, FIELD(tls_ciphersuites), "", NOW, 0, 0, NULL, NULL},
    {"tls-prefer-server-ciphers", KIND_BOOL, FIELD(tls_prefer_server_ciphers), "no", NOW, 0, 0, NULL, NULL},
    /* clients */
    {"maxclients", KIND_INT, FIELD(maxclients), "10000", NOW, 1, INT_MAX, NULL, NULL},
    {"client-output-buffer-limit", KIND_OUTPUT_LIMIT, FIELD(output_limit),
     "normal 0 0 0 replica 256mb 64mb 60 pubsub 32mb 8mb 60", NOW, 0, 0, NULL, NULL},
    {"client-query-buffer-limit", KIND_MEMORY, FIELD(query_bytes_max), "1gb", NOW, MB, LLONG_MAX, NULL, NULL},
    {"proto-max-bulk-len", KIND_MEMORY, FIELD(bulk_bytes_max), "512mb", NOW, MB, LLONG_MAX, NULL, NULL},
    /* general */
    {"loglevel", KIND_WORD, FIELD(loglevel), "notice", NOW, 0, 0, loglevel_words, NULL},
    {"logfile", KIND_TEXT, FIELD(logfile), "", 0, 0, 0, NULL, NULL},
    {"log-format", KIND_WORD, FIELD(log_format), "legacy", NOW, 0, 0, log_format_words, NULL},
    {"log-timestamp-format", KIND_WORD, FIELD(log_timestamp_format), "legacy", NOW, 0, 0, log_timestamp_words, NULL},
    {"syslog-enabled", KIND_BOOL, FIELD(syslog_enabled), "no", 0, 0, 0, NULL, NULL},
    {"syslog-ident", KIND_TEXT, FIELD(syslog_ident), "holdfast", 0, 0, 0, NULL, NULL},
    {"syslog-facility", KIND_WORD, FIELD(syslog_facility), "local0", 0, 0, 0, facility_words, NULL},
    {"shutdown-timeout", KIND_INT, FIELD(shutdown_timeout_s), "10", NOW, 0, INT_MAX / 1000, NULL, NULL},
    /* Valkey */
    {"valkey", KIND_TEXT, FIELD(valkey), "127.0.0.1:6380", 0, 0, 0, NULL, check_valkey},
    {"valkey-user", KIND_TEXT, FIELD(valkey_user), "", 0, 0, 0, NULL, NULL},
    {"valkey-password", KIND_TEXT, FIELD(valkey_password), "", SETTING_SENSITIVE, 0, 0, NULL, NULL},
    {"valkey-tls", KIND_BOOL, FIELD(valkey_tls), "no", 0, 0, 0, NULL, NULL},
    {"valkey-tls-cert-file", KIND_TEXT, FIELD(valkey_tls_cert_file), "", NOW, 0, 0, NULL, NULL},
    {"valkey-tls-key-file", KIND_TEXT, FIELD(valkey_tls_key_file), "", NOW, 0, 0, NULL, NULL},
    {"valkey-tls-ca-cert-file", KIND_TEXT, FIELD(valkey_tls_ca_cert_file), "", NOW, 0, 0, NULL, NULL},
    {"valkey-tls-server-name", KIND_TEXT, FIELD(valkey_tls_server_name), "", NOW, 0, 0, NULL, NULL},
    {"valkey-spawn", KIND_BOOL, FIELD(valkey_spawn), "no", 0, 0, 0, NULL, NULL},
    {"valkey-server", KIND_TEXT, FIELD(valkey_server), "valkey-server", 0, 0, 0, NULL, check_not_empty},
    {"allow-guarded-commands", KIND_WORDS, FIELD(guards_allowed), "", 0, 0, 0, guard_words, NULL},
    {"valkey-timeout", KIND_DURATION, FIELD(valkey_timeout_ms), "10", NOW, 100, 3600 * 1000, NULL, NULL},
    {"read-lanes", KIND_INT, FIELD(read_lanes), "2", 0, 1, 64, NULL, NULL},
    /* durability */
    {"data-dir", KIND_TEXT, FIELD(data_dir), "./holdfast-data", 0, 0, 0, NULL, check_not_empty},
    {"node", KIND_TEXT, FIELD(node), "node-1", 0, 0, 0, NULL, check_name},
    {"durability", KIND_WORD, FIELD(durability), "sync", NOW, 0, 0, durability_words, NULL},
    {"durability-lag-max", KIND_DURATION, FIELD(durability_lag_max_ms), "10", NOW, 200, 24 * 3600 * 1000, NULL, NULL},
    {"durability-buffer-max", KIND_MEMORY, FIELD(durability_buffer_max), "256mb", NOW, MB, LLONG_MAX, NULL, NULL},
    {"log-size-max", KIND_MEMORY, FIELD(log_size_max), "4gb", 0, MB, 1024 * GB, NULL, NULL},
    {"snapshot-log-bytes", KIND_MEMORY, FIELD(snapshot_log_bytes), "256mb", NOW, 64 * KB, LLONG_MAX, NULL, NULL},
    /* the group */
    {"member", KIND_MEMBER, FIELD(member), "", 0, 0, 0, NULL, NULL},
    {"cluster", KIND_TEXT, FIELD(cluster), "holdfast", 0, 0, 0, NULL, check_name},
    {"allow-single-az", KIND_BOOL, FIELD(allow_single_az), "no", 0, 0, 0, NULL, NULL},
    {"election-timeout", KIND_DURATION, FIELD(election_timeout_ms), "400ms", 0, 100, 60 * 1000, NULL, NULL},
    {"clock-skew-max", KIND_DURATION, FIELD(clock_skew_max_ms), "500ms", 0, 10, 3600 * 1000, NULL, NULL},
    {"peer-listen", KIND_TEXT, FIELD(peer_listen), "", 0, 0, 0, NULL, check_listen},
    {"peer-tls", KIND_BOOL, FIELD(peer_tls), "yes", 0, 0, SETTING_ALSO_ON_OFF, NULL, NULL},
    {"peer-tls-cert-file", KIND_TEXT, FIELD(peer_tls_cert_file), "", 0, 0, 0, NULL, NULL},
    {"peer-tls-key-file", KIND_TEXT, FIELD(peer_tls_key_file), "", 0, 0, 0, NULL, NULL},
    {"peer-tls-ca-cert-file", KIND_TEXT, FIELD(peer_tls_ca_cert_file), "", 0, 0, 0, NULL, NULL},
    /* admin port */
    {"admin-bind", KIND_TEXT, FIELD(admin_bind), "127.0.0.1", 0, 0, 0, NULL, check_not_empty},
    {"admin-port", KIND_INT, FIELD(admin_port), "0", 0, 0, 65535, NULL, NULL},
    {"admin-token", KIND_TEXT, FIELD(admin_token), "", NOW | SETTING_SENSITIVE, 0, 0, NULL, NULL},
};
enum { SETTING_COUNT = sizeof settings / sizeof *settings };

const struct setting *setting_at(size_t i)
{
    return i < SETTING_COUNT ? &settings[i] : NULL;
}

const struct setting *setting_find(const char *name)
{
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (strcasecmp(settings[i].name, name) == 0)
            return &settings[i];
    return NULL;
}

/* What the settings of TLS must agree on. Whether the files are any good is seen when they are read.
 *
 *     tls-port 6390            who listens with TLS needs a certificate with its key;
 *     tls-auth-clients yes     who asks for certificates needs to know whom to believe;
 *     valkey-tls yes           so does who dials, and a Unix socket has no TLS */
#include <stdio.h>
#include <string.h>

#include "config/config_table.h"
#include "log/base/tls.h"

bool config_tls_listens(const struct config *c)
{
    return c->tls_port != 0 || c->tls_reader_port != 0;
}

bool config_tls_protocols_ok(const char *text, char *why, size_t why_size)
{
    unsigned versions;

    if (tls_versions(text, &versions))
        return true;
    (void)snprintf(why, why_size, "argument must be TLSv1.2, TLSv1.3 or both; older versions are not safe");
    return false;
}

static bool refuse(const char *text, char *why, size_t why_size)
{
    (void)snprintf(why, why_size, "%s", text);
    return false;
}

static bool check_ports(const struct config *c, char *why, size_t why_size)
{
    if (!config_tls_listens(c))
        return true;
    if (c->tls_cert_file[0] == '\0')
        return refuse("No tls-cert-file configured!", why, why_size);
    if (c->tls_key_file[0] == '\0')
        return refuse("No tls-key-file configured!", why, why_size);
    if (c->tls_auth_clients != TLS_AUTH_NO && c->tls_ca_cert_file[0] == '\0' && c->tls_ca_cert_dir[0] == '\0')
        return refuse(
            "Either tls-ca-cert-file or tls-ca-cert-dir must be specified when tls-auth-clients is enabled!", why,
            why_size);
    return true;
}

bool config_tls_check(const struct config *c, char *why, size_t why_size)
{
    if (!check_ports(c, why, why_size))
        return false;
    if ((c->valkey_tls_cert_file[0] == '\0') != (c->valkey_tls_key_file[0] == '\0'))
        return refuse("valkey-tls-cert-file and valkey-tls-key-file belong together", why, why_size);
    if (!c->valkey_tls)
        return true;
    if (c->valkey_spawn || strchr(c->valkey, '/') != NULL)
        return refuse("valkey-tls yes is for a Valkey at host:port: a Unix socket has no TLS", why, why_size);
    if (c->valkey_tls_ca_cert_file[0] == '\0')
        return refuse("valkey-tls yes needs valkey-tls-ca-cert-file, to know whom to believe", why, why_size);
    return true;
}

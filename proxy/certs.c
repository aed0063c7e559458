/* Which settings make which TLS context.
 *
 *     clients   tls-*: a server's; asks for certificates as tls-auth-clients says
 *     valkey    valkey-tls-*: a client's; Valkey's certificate must be for the host that is dialled
 *     feed      valkey-tls-cert-file again, as a server's: Valkey dials with TLS, and proves itself by the feed's
 *               password, which only it was told */
#include "proxy/certs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/tls.h"

enum use { USE_CLIENTS, USE_VALKEY, USE_FEED, USES };

struct certs {
    const struct diag *diag;
    struct tls *tls[USES];
};

static const char *const use_text[USES] = {"The client ports", "Connections to Valkey", "The feed"};

/* host:port without its port and brackets. */
static void host_of(const char *address, char *host, size_t size)
{
    const char *colon = strrchr(address, ':');
    size_t n = colon != NULL ? (size_t)(colon - address) : strlen(address);

    if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    (void)snprintf(host, size, "%.*s", (int)n, address);
}

static const char *server_name(const struct config *c, char *host, size_t size)
{
    if (strcmp(c->valkey_tls_server_name, "none") == 0)
        return "";
    if (c->valkey_tls_server_name[0] != '\0')
        return c->valkey_tls_server_name;
    host_of(c->valkey, host, size);
    return host;
}

static struct tls_settings of_clients(const struct config *c)
{
    bool ask = c->tls_auth_clients != TLS_AUTH_NO;
    unsigned versions = 0;

    (void)tls_versions(c->tls_protocols, &versions); /* its form was checked */
    return (struct tls_settings){.cert_file = c->tls_cert_file,
                                 .key_file = c->tls_key_file,
                                 .key_pass = c->tls_key_file_pass,
                                 .ca_file = ask ? c->tls_ca_cert_file : "",
                                 .ca_dir = ask ? c->tls_ca_cert_dir : "",
                                 .peer_must_prove = c->tls_auth_clients == TLS_AUTH_YES,
                                 .versions = versions,
                                 .ciphers = c->tls_ciphers,
                                 .suites = c->tls_ciphersuites,
                                 .prefer_server_ciphers = c->tls_prefer_server_ciphers};
}

/* false: there is no such context. *host is room for a text of theirs. */
static bool settings_of(const struct config *c, enum use use, struct tls_settings *s, char host[CONFIG_TEXT_MAX])
{
    *s = (struct tls_settings){.cert_file = c->valkey_tls_cert_file, .key_file = c->valkey_tls_key_file};
    switch (use) {
    case USE_CLIENTS:
        *s = of_clients(c);
        return config_tls_listens(c);
    case USE_VALKEY:
        s->ca_file = c->valkey_tls_ca_cert_file;
        s->wildcards = true;
        s->server_name = server_name(c, host, CONFIG_TEXT_MAX);
        return c->valkey_tls;
    case USE_FEED:
        return c->valkey_tls_cert_file[0] != '\0';
    case USES:
        break;
    }
    return false;
}

static bool make(const struct config *c, struct tls *tls[USES], char *why, size_t why_size)
{
    struct tls_settings s;
    char host[CONFIG_TEXT_MAX];

    for (int use = 0; use < USES; use++)
        if (settings_of(c, (enum use)use, &s, host) && (tls[use] = tls_new(&s, why, why_size)) == NULL)
            return false;
    return true;
}

struct certs *certs_new(const struct diag *d, const struct config *c, char *why, size_t why_size)
{
    struct certs *k = must_calloc(1, sizeof *k);
    char reason[224];

    k->diag = d;
    if (!make(c, k->tls, reason, sizeof reason)) {
        (void)snprintf(why, why_size, "TLS: %s", reason);
        certs_free(k);
        return NULL;
    }
    for (int use = 0; use < USES; use++)
        if (k->tls[use] != NULL && tls_out_of_date(k->tls[use]) != NULL)
            diag_log(d, DIAG_WARNING, "%s: nobody will believe our certificate: %s", use_text[use],
                     tls_out_of_date(k->tls[use]));
    return k;
}

void certs_free(struct certs *k)
{
    if (k == NULL)
        return;
    for (int use = 0; use < USES; use++)
        tls_free(k->tls[use]);
    free(k);
}

void certs_reload(struct certs *k, const struct config *c)
{
    struct tls_settings s;
    char host[CONFIG_TEXT_MAX], why[256];

    for (int use = 0; use < USES; use++) {
        if (!settings_of(c, (enum use)use, &s, host))
            continue;
        if (k->tls[use] == NULL && (k->tls[use] = tls_new(&s, why, sizeof why)) == NULL)
            diag_log(k->diag, DIAG_WARNING, "%s have no certificate: %s", use_text[use], why);
        else if (!tls_change(k->tls[use], &s, why, sizeof why))
            diag_log(k->diag, DIAG_WARNING, "%s: TLS stays as it was: %s", use_text[use], why);
        else
            diag_log(k->diag, DIAG_NOTICE, "%s: certificates read again", use_text[use]);
    }
}

bool certs_try(const struct config *c, char *why, size_t why_size)
{
    struct tls *tls[USES] = {NULL};
    bool ok = make(c, tls, why, why_size);

    for (int use = 0; use < USES; use++) {
        if (ok && tls[use] != NULL && tls_out_of_date(tls[use]) != NULL) {
            (void)snprintf(why, why_size, "the certificate: %s", tls_out_of_date(tls[use]));
            ok = false;
        }
        tls_free(tls[use]);
    }
    return ok;
}

struct tls *certs_clients(const struct certs *k)
{
    return k != NULL ? k->tls[USE_CLIENTS] : NULL;
}

struct tls *certs_valkey(const struct certs *k)
{
    return k != NULL ? k->tls[USE_VALKEY] : NULL;
}

struct tls *certs_feed(const struct certs *k)
{
    return k != NULL ? k->tls[USE_FEED] : NULL;
}

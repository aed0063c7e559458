/* A TLS context is built whole from its files before it takes the place of the one before: a certificate without its
 * key, one that has expired, or a file that somebody is still writing, changes nothing. What is decided here:
 *
 *   - no resumption, by ticket or by session id: it would skip the certificate checks, and tickets that arrive after
 *     the handshake have brought deadlocks (OpenSSL 10880, 7948);
 *   - no renegotiation, no compression; nothing older than 1.2;
 *   - nobody is asked for a passphrase on a terminal;
 *   - a certificate that is asked for must chain to the CA file and be fit for its use (clientAuth of who dials,
 *     serverAuth of who is dialled, which is what OpenSSL checks by itself). Whose it is, is asked per connection;
 *   - revocation lists stand in the CA file beside the CAs, or in the CA directory (NAME.r0), and count for the CAs
 *     that have one. One that is overdue still counts: a list that nobody renewed must not stop a group. */
#include "log/base/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "log/base/diag.h"
#include "log/base/stream_tls.h"

struct tls {
    SSL_CTX *context;
    struct tls_settings set; /* its texts are ours, none is NULL */
};

/* Takes the oldest error of OpenSSL's queue, which is the cause; the later ones say who passed it on. */
static bool refuse(const char *file, char *why, size_t why_size)
{
    unsigned long error = ERR_get_error();
    const char *reason = error == 0                ? NULL
                         : ERR_SYSTEM_ERROR(error) ? strerror(ERR_GET_REASON(error))
                                                   : ERR_reason_error_string(error);
    char other[128];

    if (reason == NULL)
        ERR_error_string_n(error, other, sizeof other);
    (void)snprintf(why, why_size, "%s: %s", file, reason != NULL ? reason : other);
    ERR_clear_error();
    return false;
}

/* A revocation list that is not there, overdue, or from a clock ahead of ours refuses nobody; what it says does
 * (RFC 5280, 6.3). */
static int on_verified(int fine, X509_STORE_CTX *chain)
{
    int error = X509_STORE_CTX_get_error(chain);

    if (fine || (error != X509_V_ERR_UNABLE_TO_GET_CRL && error != X509_V_ERR_CRL_HAS_EXPIRED &&
                 error != X509_V_ERR_CRL_NOT_YET_VALID))
        return fine;
    X509_STORE_CTX_set_error(chain, X509_V_OK);
    return 1;
}

static bool load_ca(const struct tls_settings *s, SSL_CTX *c, char *why, size_t why_size)
{
    struct stat found;

    if (s->ca_file[0] == '\0' && s->ca_dir[0] == '\0') {
        if (!s->peer_must_prove)
            return true;
        (void)snprintf(why, why_size, "a CA file is needed to check the other side's certificate");
        return false;
    }
    /* OpenSSL looks into a directory only when it needs a certificate. */
    if (s->ca_dir[0] != '\0' && (stat(s->ca_dir, &found) != 0 || !S_ISDIR(found.st_mode))) {
        (void)snprintf(why, why_size, "%s: no such directory", s->ca_dir);
        return false;
    }
    if (SSL_CTX_load_verify_locations(c, s->ca_file[0] != '\0' ? s->ca_file : NULL,
                                      s->ca_dir[0] != '\0' ? s->ca_dir : NULL) != 1)
        return refuse(s->ca_file[0] != '\0' ? s->ca_file : s->ca_dir, why, why_size);
    if (s->ca_file[0] != '\0') /* takes the list; NULL is fine */
        SSL_CTX_set_client_CA_list(c, SSL_load_client_CA_file(s->ca_file));
    (void)X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(c), X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | (s->peer_must_prove ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), on_verified);
    return true;
}

/* Without a callback OpenSSL would ask on the terminal. */
static int give_passphrase(char *to, int size, int writing, void *passphrase)
{
    size_t n = passphrase != NULL ? strlen(passphrase) : 0;

    (void)writing;
    if (n == 0 || n > (size_t)size)
        return -1;
    memcpy(to, passphrase, n);
    return (int)n;
}

static bool load(const struct tls_settings *s, SSL_CTX *c, char *why, size_t why_size)
{
    SSL_CTX_set_default_passwd_cb(c, give_passphrase);
    SSL_CTX_set_default_passwd_cb_userdata(c, (void *)(uintptr_t)s->key_pass);
    if (s->cert_file[0] != '\0') {
        if (SSL_CTX_use_certificate_chain_file(c, s->cert_file) != 1)
            return refuse(s->cert_file, why, why_size);
        if (SSL_CTX_use_PrivateKey_file(c, s->key_file, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(c) != 1)
            return refuse(s->key_file, why, why_size);
    } else if (s->peer_must_prove) {
        (void)snprintf(why, why_size, "a certificate is needed where both sides prove themselves");
        return false;
    }
    SSL_CTX_set_default_passwd_cb_userdata(c, NULL);
    return load_ca(s, c, why, why_size);
}

static bool choose(const struct tls_settings *s, SSL_CTX *c, char *why, size_t why_size)
{
    unsigned versions = s->versions != 0 ? s->versions : TLS_VERSION_12 | TLS_VERSION_13;

    (void)SSL_CTX_set_min_proto_version(c, versions & TLS_VERSION_12 ? TLS1_2_VERSION : TLS1_3_VERSION);
    (void)SSL_CTX_set_max_proto_version(c, versions & TLS_VERSION_13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    if (s->prefer_server_ciphers)
        (void)SSL_CTX_set_options(c, SSL_OP_CIPHER_SERVER_PREFERENCE);
    if (s->ciphers[0] != '\0' && SSL_CTX_set_cipher_list(c, s->ciphers) != 1)
        return refuse(s->ciphers, why, why_size);
    if (s->suites[0] != '\0' && SSL_CTX_set_ciphersuites(c, s->suites) != 1)
        return refuse(s->suites, why, why_size);
    return true;
}

/* NULL with a reason. */
static SSL_CTX *build(const struct tls_settings *s, char *why, size_t why_size)
{
    SSL_CTX *c = SSL_CTX_new(TLS_method());

    CHECK(c != NULL);
    ERR_clear_error();
    (void)SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_num_tickets(c, 0);
    (void)SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    /* Several records with one read of the socket; stream_io.c knows that OpenSSL may then hold some back. */
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_default_read_buffer_len(c, TLS_READ_BYTES);
    if (choose(s, c, why, why_size) && load(s, c, why, why_size))
        return c;
    SSL_CTX_free(c);
    return NULL;
}

/* ---- the door ---- */

static const char *copy_of(const char *text)
{
    return must_strdup(text != NULL ? text : "");
}

struct tls *tls_new(const struct tls_settings *s, char *why, size_t why_size)
{
    struct tls *t = must_calloc(1, sizeof *t);

    t->set = *s;
    t->set.cert_file = copy_of(s->cert_file);
    t->set.key_file = copy_of(s->key_file);
    t->set.key_pass = copy_of(s->key_pass);
    t->set.ca_file = copy_of(s->ca_file);
    t->set.ca_dir = copy_of(s->ca_dir);
    t->set.ciphers = copy_of(s->ciphers);
    t->set.suites = copy_of(s->suites);
    t->set.server_name = copy_of(s->server_name);
    t->context = build(&t->set, why, why_size);
    if (t->context != NULL)
        return t;
    tls_free(t);
    return NULL;
}

bool tls_change(struct tls *t, const struct tls_settings *s, char *why, size_t why_size)
{
    struct tls *fresh = tls_new(s, why, why_size), before = *t;

    if (fresh == NULL)
        return false;
    if (tls_out_of_date(fresh) != NULL) {
        (void)snprintf(why, why_size, "%s: %s", fresh->set.cert_file, tls_out_of_date(fresh));
        tls_free(fresh);
        return false;
    }
    *t = *fresh;
    *fresh = before;
    tls_free(fresh); /* connections hold its context */
    return true;
}

bool tls_reload(struct tls *t, char *why, size_t why_size)
{
    return tls_change(t, &t->set, why, why_size);
}

const char *tls_server_name(const struct tls *t)
{
    return t->set.server_name;
}

const char *tls_out_of_date(const struct tls *t)
{
    const X509 *certificate = SSL_CTX_get0_certificate(t->context);

    if (certificate == NULL)
        return NULL;
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        return "it has expired";
    return X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0 ? "it is not yet valid" : NULL;
}

bool tls_versions(const char *text, unsigned *versions)
{
    unsigned found = 0;

    for (text += strspn(text, " "); *text != '\0'; text += strspn(text, " ")) {
        size_t n = strcspn(text, " ");

        if (n != strlen("TLSv1.x") || (strncasecmp(text, "TLSv1.2", n) != 0 && strncasecmp(text, "TLSv1.3", n) != 0))
            return false;
        found |= text[n - 1] == '2' ? TLS_VERSION_12 : TLS_VERSION_13;
        text += n;
    }
    *versions = found;
    return true;
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    SSL_CTX_free(t->context);
    free((void *)(uintptr_t)t->set.cert_file);
    free((void *)(uintptr_t)t->set.key_file);
    explicit_bzero((void *)(uintptr_t)t->set.key_pass, strlen(t->set.key_pass));
    free((void *)(uintptr_t)t->set.key_pass);
    free((void *)(uintptr_t)t->set.ca_file);
    free((void *)(uintptr_t)t->set.ca_dir);
    free((void *)(uintptr_t)t->set.ciphers);
    free((void *)(uintptr_t)t->set.suites);
    free((void *)(uintptr_t)t->set.server_name);
    free(t);
}

struct ssl_ctx_st *tls_context(const struct tls *t)
{
    return t->context;
}

bool tls_wildcards(const struct tls *t)
{
    return t->set.wildcards;
}

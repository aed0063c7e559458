/* A TLS context is built whole from its files before it takes the place of the one before: a certificate without its
 * key, or a file that somebody is still writing, changes nothing. What is decided here:
 *
 *   - no resumption, by ticket or by session id: it would skip the certificate checks, and tickets that arrive after
 *     the handshake have brought deadlocks (OpenSSL 10880, 7948);
 *   - no renegotiation, no compression; 1.3 only, or 1.2 and later;
 *   - a certificate that is asked for must chain to the CA file and be fit for its use (clientAuth of who dials,
 *     serverAuth of who is dialled, which is what OpenSSL checks by itself). Whose it is, is asked per connection. */
#include "log/base/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>

#include "log/base/diag.h"
#include "log/base/stream_tls.h"

struct tls {
    SSL_CTX *context;
    char *cert_file, *key_file, *ca_file;
    bool peer_must_prove, tls13_only;
};

/* Takes the oldest error of OpenSSL's queue, which is the cause; the later ones say who passed it on. */
static bool refuse(const char *file, char *why, size_t why_size)
{
    unsigned long error = ERR_get_error();
    const char *reason = error == 0 ? NULL : ERR_reason_error_string(error);
    char other[128];

    if (reason == NULL)
        ERR_error_string_n(error, other, sizeof other);
    (void)snprintf(why, why_size, "%s: %s", file, reason != NULL ? reason : other);
    ERR_clear_error();
    return false;
}

static bool load_ca(const struct tls *t, SSL_CTX *c, char *why, size_t why_size)
{
    if (t->ca_file[0] == '\0') {
        if (!t->peer_must_prove)
            return true;
        (void)snprintf(why, why_size, "a CA file is needed to check the other side's certificate");
        return false;
    }
    if (SSL_CTX_load_verify_locations(c, t->ca_file, NULL) != 1)
        return refuse(t->ca_file, why, why_size);
    SSL_CTX_set_client_CA_list(c, SSL_load_client_CA_file(t->ca_file)); /* takes the list; NULL is fine */
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | (t->peer_must_prove ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    return true;
}

static bool load(const struct tls *t, SSL_CTX *c, char *why, size_t why_size)
{
    if (t->cert_file[0] != '\0') {
        if (SSL_CTX_use_certificate_chain_file(c, t->cert_file) != 1)
            return refuse(t->cert_file, why, why_size);
        if (SSL_CTX_use_PrivateKey_file(c, t->key_file, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(c) != 1)
            return refuse(t->key_file, why, why_size);
    } else if (t->peer_must_prove) {
        (void)snprintf(why, why_size, "a certificate is needed where both sides prove themselves");
        return false;
    }
    return load_ca(t, c, why, why_size);
}

/* NULL with a reason. */
static SSL_CTX *build(const struct tls *t, char *why, size_t why_size)
{
    SSL_CTX *c = SSL_CTX_new(TLS_method());

    CHECK(c != NULL);
    ERR_clear_error();
    (void)SSL_CTX_set_min_proto_version(c, t->tls13_only ? TLS1_3_VERSION : TLS1_2_VERSION);
    (void)SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_num_tickets(c, 0);
    (void)SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    /* Several records with one read of the socket; stream_io.c knows that OpenSSL may then hold some back. */
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_default_read_buffer_len(c, TLS_READ_BYTES);
    if (load(t, c, why, why_size))
        return c;
    SSL_CTX_free(c);
    return NULL;
}

struct tls *tls_new(const struct tls_settings *s, char *why, size_t why_size)
{
    struct tls *t = must_calloc(1, sizeof *t);

    t->cert_file = must_strdup(s->cert_file != NULL ? s->cert_file : "");
    t->key_file = must_strdup(s->key_file != NULL ? s->key_file : "");
    t->ca_file = must_strdup(s->ca_file != NULL ? s->ca_file : "");
    t->peer_must_prove = s->peer_must_prove;
    t->tls13_only = s->tls13_only;
    t->context = build(t, why, why_size);
    if (t->context != NULL)
        return t;
    tls_free(t);
    return NULL;
}

bool tls_reload(struct tls *t, char *why, size_t why_size)
{
    SSL_CTX *fresh = build(t, why, why_size);

    if (fresh == NULL)
        return false;
    SSL_CTX_free(t->context); /* connections hold it */
    t->context = fresh;
    return true;
}

void tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    SSL_CTX_free(t->context);
    free(t->cert_file);
    free(t->key_file);
    free(t->ca_file);
    free(t);
}

struct ssl_ctx_st *tls_context(const struct tls *t)
{
    return t->context;
}

/* TLS on a non-blocking socket.
 *
 * OpenSSL reads and writes the socket through a BIO of ours, for three reasons: its own raises SIGPIPE when the other
 * end is gone; a read that got less than it asked for need not be repeated just to see EAGAIN (drained); and the
 * errno of a failure is kept where it happens.
 *
 * A failure is final and has a reason in words, found in this order: what the certificate check said, what OpenSSL's
 * error queue says (an alert of the other side has a number of its own there), the socket's errno. */
#include "log/base/stream_tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log/base/diag.h"

enum {
    WHY_BYTES_MAX = 192,
    NAME_CHECK = X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT,
    WILD_NAME_CHECK = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
};

struct stream_tls {
    SSL *ssl;
    BIO_METHOD *method;
    int fd;
    bool drained;     /* the socket had nothing more when it was last read in this round */
    bool established; /* the handshake is done; OpenSSL forgets that when it fails later */
    bool failed;
    int error; /* errno of the socket; 0 */
    char name[256];
    char why[WHY_BYTES_MAX];
};

/* ---- the BIO ---- */

static int bio_read(BIO *b, char *to, size_t size, size_t *n)
{
    struct stream_tls *t = BIO_get_data(b);
    ssize_t got = -1;

    BIO_clear_retry_flags(b);
    *n = 0;
    if (!t->drained) {
        got = recv(t->fd, to, size, 0);
        if (got < 0 && errno != EAGAIN && errno != EINTR) {
            t->error = errno;
            return 0;
        }
        if (got == 0) {
            (void)BIO_set_flags(b, BIO_FLAGS_IN_EOF);
            return 0;
        }
        t->drained = got < (ssize_t)size;
    }
    if (got < 0) {
        BIO_set_retry_read(b);
        return 0;
    }
    *n = (size_t)got;
    return 1;
}

static int bio_write(BIO *b, const char *from, size_t size, size_t *n)
{
    struct stream_tls *t = BIO_get_data(b);
    ssize_t sent = send(t->fd, from, size, MSG_NOSIGNAL);

    BIO_clear_retry_flags(b);
    *n = sent > 0 ? (size_t)sent : 0;
    if (sent >= 0)
        return 1;
    if (errno == EAGAIN || errno == EINTR)
        BIO_set_retry_write(b);
    else
        t->error = errno;
    return 0;
}

static long bio_control(BIO *b, int what, long number, void *pointer)
{
    (void)number;
    (void)pointer;
    if (what == BIO_CTRL_EOF)
        return BIO_test_flags(b, BIO_FLAGS_IN_EOF) != 0;
    return what == BIO_CTRL_FLUSH;
}

static BIO *bio_new(struct stream_tls *t)
{
    BIO *b;

    t->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "socket");
    CHECK(t->method != NULL);
    (void)BIO_meth_set_read_ex(t->method, bio_read);
    (void)BIO_meth_set_write_ex(t->method, bio_write);
    (void)BIO_meth_set_ctrl(t->method, bio_control);
    b = BIO_new(t->method);
    CHECK(b != NULL);
    BIO_set_data(b, t);
    BIO_set_init(b, 1);
    return b;
}

/* ---- life ---- */

struct stream_tls *stream_tls_new(const struct tls *tls, int fd, bool accepting, const char *name)
{
    struct stream_tls *t = must_calloc(1, sizeof *t);
    BIO *b;

    t->fd = fd;
    t->ssl = SSL_new(tls_context(tls));
    CHECK(t->ssl != NULL);
    b = bio_new(t);
    SSL_set_bio(t->ssl, b, b); /* takes it */
    if (accepting)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    if (name[0] == '\0')
        return t;
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), t->name) == 1)
        return t; /* an address: of the certificate's IP names, and never in SNI */
    ERR_clear_error();
    (void)SSL_set_tlsext_host_name(t->ssl, t->name);
    SSL_set_hostflags(t->ssl, tls_wildcards(tls) ? WILD_NAME_CHECK : NAME_CHECK);
    CHECK(SSL_set1_host(t->ssl, t->name) == 1);
    return t;
}

void stream_tls_free(struct stream_tls *t)
{
    if (t == NULL)
        return;
    SSL_free(t->ssl);
    BIO_meth_free(t->method);
    free(t);
}

/* ---- why it failed ---- */

static void explain_certificate(struct stream_tls *t, long verdict)
{
    switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate has expired");
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate is not yet valid");
        break;
    case X509_V_ERR_CERT_REVOKED:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate has been revoked");
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate is self-signed");
        break;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate is not signed by our CA (%s)",
                       X509_verify_cert_error_string(verdict));
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate is not meant for this use (%s)",
                       SSL_is_server(t->ssl) ? "clientAuth" : "serverAuth");
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate is not for %.100s", t->name);
        break;
    default:
        (void)snprintf(t->why, sizeof t->why, "the other end's certificate: %s",
                       X509_verify_cert_error_string(verdict));
        break;
    }
}

/* TLS alerts that the other side sent are reasons from SSL_AD_REASON_OFFSET on (RFC 8446, 6.2). */
static void explain_error(struct stream_tls *t, unsigned long error)
{
    int reason = ERR_GET_REASON(error);
    const char *text = ERR_reason_error_string(error);

    if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
        (void)snprintf(t->why, sizeof t->why, "the other end refused TLS: %s",
                       SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
    else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        (void)snprintf(t->why, sizeof t->why, "the other end has shown no certificate");
    else if (reason == SSL_R_UNSUPPORTED_PROTOCOL)
        (void)snprintf(t->why, sizeof t->why, "the other end speaks no TLS version that is accepted here");
    else if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
             reason == SSL_R_HTTPS_PROXY_REQUEST || reason == SSL_R_PACKET_LENGTH_TOO_LONG)
        (void)snprintf(t->why, sizeof t->why, "the other end does not speak TLS");
    else if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        (void)snprintf(t->why, sizeof t->why,
                       t->established ? "cut off by the other end"
                                      : "closed by the other end during the TLS handshake");
    else
        (void)snprintf(t->why, sizeof t->why, "TLS: %s", text != NULL ? text : "unknown error");
}

static enum tls_io fail(struct stream_tls *t, int kind)
{
    long verdict = SSL_get_verify_result(t->ssl);
    unsigned long error = ERR_peek_error();
    bool asked = (SSL_get_verify_mode(t->ssl) & SSL_VERIFY_PEER) != 0;

    if (!t->established && asked && verdict != X509_V_OK && kind == SSL_ERROR_SSL)
        explain_certificate(t, verdict);
    else if (kind == SSL_ERROR_SSL && error != 0)
        explain_error(t, error);
    else if (t->error != 0)
        (void)snprintf(t->why, sizeof t->why, "%s", strerror(t->error));
    else
        (void)snprintf(t->why, sizeof t->why, "cut off by the other end");
    t->failed = true;
    ERR_clear_error();
    return TLS_IO_FAILED;
}

/* What became of an operation that did not succeed. */
static enum tls_io verdict_of(struct stream_tls *t, int result)
{
    int kind = SSL_get_error(t->ssl, result);

    switch (kind) {
    case SSL_ERROR_WANT_READ:
        return TLS_IO_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return TLS_IO_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_IO_EOF;
    default:
        return fail(t, kind);
    }
}

/* ---- the four operations ---- */

void stream_tls_readable(struct stream_tls *t)
{
    t->drained = false;
}

/* An alert says to the other side why it was refused. Input that is left unread would make the kernel reset the
 * connection, and the alert be lost: so it is read, as far as it is here. */
static void let_alert_arrive(const struct stream_tls *t)
{
    char bytes[4096];

    (void)shutdown(t->fd, SHUT_WR);
    for (int i = 0; i < 16 && recv(t->fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0; i++)
        continue;
}

enum tls_io stream_tls_handshake(struct stream_tls *t)
{
    enum tls_io io;
    int result;

    ERR_clear_error();
    result = SSL_do_handshake(t->ssl);
    t->established = result == 1;
    if (t->established)
        return TLS_IO_DONE;
    io = verdict_of(t, result);
    if (io == TLS_IO_EOF)
        (void)snprintf(t->why, sizeof t->why, "closed by the other end during the TLS handshake");
    if (io == TLS_IO_FAILED)
        let_alert_arrive(t);
    return io;
}

enum tls_io stream_tls_read(struct stream_tls *t, char *to, size_t size, size_t *n)
{
    *n = 0;
    while (*n < size) {
        size_t got = 0;
        int result;

        if (t->failed)
            return TLS_IO_FAILED;
        ERR_clear_error();
        result = SSL_read_ex(t->ssl, to + *n, size - *n, &got);
        if (result != 1)
            return verdict_of(t, result);
        *n += got;
    }
    return TLS_IO_DONE;
}

enum tls_io stream_tls_write(struct stream_tls *t, const char *from, size_t size, size_t *n)
{
    int result;

    *n = 0;
    if (t->failed)
        return TLS_IO_FAILED;
    ERR_clear_error();
    result = SSL_write_ex(t->ssl, from, size, n);
    return result == 1 ? TLS_IO_DONE : verdict_of(t, result);
}

/* Only our half is closed; the other side's answer is not waited for. */
void stream_tls_bye(struct stream_tls *t)
{
    if (t->failed || !t->established)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

const char *stream_tls_why(const struct stream_tls *t)
{
    return t->why;
}

/* A name that begins with a dot would match every name that ends with it (X509_check_host(3)). */
bool stream_tls_peer_is(const struct stream_tls *t, const char *name)
{
    X509 *certificate;
    bool is;

    if (name[0] == '\0' || name[0] == '.' || !t->established ||
        (SSL_get_verify_mode(t->ssl) & SSL_VERIFY_PEER) == 0 || SSL_get_verify_result(t->ssl) != X509_V_OK)
        return false;
    certificate = SSL_get1_peer_certificate(t->ssl);
    if (certificate == NULL)
        return false;
    is = X509_check_host(certificate, name, 0, NAME_CHECK, NULL) == 1;
    X509_free(certificate);
    return is;
}

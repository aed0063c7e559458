#include "tests/unit/tls_files.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "log/base/diag.h"

struct tls_issuer {
    EVP_PKEY *key;
    X509 *certificate;
};

static void extend(X509 *c, X509 *issuer, int what, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *e;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, c, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &context, what, value);
    CHECK(e != NULL && X509_add_ext(c, e, -1) == 1);
    X509_EXTENSION_free(e);
}

static X509 *certificate(EVP_PKEY *key, const char *name, long begins_s, long ends_s)
{
    X509 *c = X509_new();
    unsigned char serial[8];
    BIGNUM *number;

    CHECK(RAND_bytes(serial, sizeof serial) == 1);
    serial[0] = 1;
    number = BN_bin2bn(serial, sizeof serial, NULL);
    CHECK(c != NULL && number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(c)) != NULL);
    BN_free(number);
    CHECK(X509_set_version(c, X509_VERSION_3) == 1 && X509_set_pubkey(c, key) == 1);
    CHECK(X509_gmtime_adj(X509_getm_notBefore(c), begins_s) && X509_gmtime_adj(X509_getm_notAfter(c), ends_s));
    CHECK(X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                     -1, 0) == 1);
    return c;
}

static void save(const char *dir, const char *name, X509 *c, EVP_PKEY *key)
{
    char path[TLS_PATH_BYTES_MAX];
    FILE *f;

    (void)snprintf(path, sizeof path, "%s/%s.crt", dir, name);
    f = fopen(path, "w");
    CHECK(f != NULL && PEM_write_X509(f, c) == 1 && fclose(f) == 0);
    if (key == NULL)
        return;
    (void)snprintf(path, sizeof path, "%s/%s.key", dir, name);
    f = fopen(path, "w");
    CHECK(f != NULL && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0);
}

struct tls_issuer *tls_issuer_new(const char *dir, const char *name)
{
    struct tls_issuer *i = must_calloc(1, sizeof *i);

    i->key = EVP_EC_gen("P-256");
    CHECK(i->key != NULL);
    i->certificate = certificate(i->key, name, -3600, 3600);
    CHECK(X509_set_issuer_name(i->certificate, X509_get_subject_name(i->certificate)) == 1);
    extend(i->certificate, i->certificate, NID_basic_constraints, "critical,CA:TRUE");
    extend(i->certificate, i->certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
    CHECK(X509_sign(i->certificate, i->key, EVP_sha256()) > 0);
    save(dir, name, i->certificate, NULL);
    return i;
}

void tls_issuer_free(struct tls_issuer *i)
{
    if (i == NULL)
        return;
    EVP_PKEY_free(i->key);
    X509_free(i->certificate);
    free(i);
}

void tls_make(const char *dir, const char *name, const struct tls_wish *w)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    bool hour = w->begins_s == 0 && w->ends_s == 0;
    X509 *c, *issuer;

    CHECK(key != NULL);
    c = certificate(key, name, hour ? -1800 : w->begins_s, hour ? 1800 : w->ends_s);
    issuer = w->issuer != NULL ? w->issuer->certificate : c;
    CHECK(X509_set_issuer_name(c, X509_get_subject_name(issuer)) == 1);
    extend(c, issuer, NID_basic_constraints, "critical,CA:FALSE");
    extend(c, issuer, NID_subject_alt_name, w->san);
    extend(c, issuer, NID_ext_key_usage, w->eku != NULL ? w->eku : "serverAuth,clientAuth");
    CHECK(X509_sign(c, w->issuer != NULL ? w->issuer->key : key, EVP_sha256()) > 0);
    save(dir, name, c, key);
    X509_free(c);
    EVP_PKEY_free(key);
}

void tls_revoke(struct tls_issuer *i, const char *dir, const char *name, const char *file, long due_s)
{
    X509_CRL *list = X509_CRL_new();
    X509_REVOKED *row = X509_REVOKED_new();
    ASN1_TIME *begin = ASN1_TIME_adj(NULL, time(NULL), 0, due_s - 7200),
              *due = ASN1_TIME_adj(NULL, time(NULL), 0, due_s);
    char path[TLS_PATH_BYTES_MAX];
    X509 *c;
    FILE *f;

    (void)snprintf(path, sizeof path, "%s/%s.crt", dir, name);
    f = fopen(path, "r");
    CHECK(f != NULL && list != NULL && row != NULL && begin != NULL && due != NULL);
    c = PEM_read_X509(f, NULL, NULL, NULL);
    CHECK(c != NULL && fclose(f) == 0);
    CHECK(X509_REVOKED_set_serialNumber(row, X509_get_serialNumber(c)) == 1);
    CHECK(X509_REVOKED_set_revocationDate(row, begin) == 1 && X509_CRL_add0_revoked(list, row) == 1);
    CHECK(X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1);
    CHECK(X509_CRL_set_issuer_name(list, X509_get_subject_name(i->certificate)) == 1);
    CHECK(X509_CRL_set1_lastUpdate(list, begin) == 1 && X509_CRL_set1_nextUpdate(list, due) == 1);
    CHECK(X509_CRL_sort(list) == 1 && X509_CRL_sign(list, i->key, EVP_sha256()) > 0);
    (void)snprintf(path, sizeof path, "%s/%s.crt", dir, file);
    f = fopen(path, "a");
    CHECK(f != NULL && PEM_write_X509_CRL(f, list) == 1 && fclose(f) == 0);
    X509_free(c);
    X509_CRL_free(list);
    ASN1_TIME_free(begin);
    ASN1_TIME_free(due);
}

/* Certificates for tests, as good or as bad as wished, in PEM files. */
#ifndef HF_TLS_FILES_H
#define HF_TLS_FILES_H

#include <stdbool.h>

enum { TLS_PATH_BYTES_MAX = 256 };

struct tls_issuer;

/* <dir>/<name>.crt; the issuer is the caller's: tls_issuer_free(). */
struct tls_issuer *tls_issuer_new(const char *dir, const char *name);
void tls_issuer_free(struct tls_issuer *i);
/* Appends to <dir>/<file>.crt a list by which the issuer revokes <dir>/<name>.crt; it is due in `due_s` from now, and
 * two hours old then. */
void tls_revoke(struct tls_issuer *i, const char *dir, const char *name, const char *file, long due_s);

struct tls_wish {
    const char *san;           /* as openssl.cnf writes it: "DNS:a.test,IP:127.0.0.1" */
    const char *eku;           /* NULL: serverAuth,clientAuth */
    long begins_s, ends_s;     /* from now; both 0: an hour around now */
    struct tls_issuer *issuer; /* NULL: signed by itself */
};
/* <dir>/<name>.crt and .key. */
void tls_make(const char *dir, const char *name, const struct tls_wish *wish);

#endif

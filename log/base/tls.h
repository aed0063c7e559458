/* TLS contexts: what a kind of connection proves about itself and asks of the other side. A stream gets one when it
 * is made (stream.h); loading new files concerns connections made from then on. */
#ifndef HF_TLS_H
#define HF_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct tls;

struct tls_settings {
    const char *cert_file, *key_file, *ca_file; /* PEM; ca_file "": nothing is asked of the other side */
    bool peer_must_prove; /* a certificate is required, on both ends, and checked against the CA */
    bool tls13_only;      /* else 1.2 and later */
};
/* NULL with a reason that names the file. Tickets are off: resumption would skip the certificate checks. */
struct tls *tls_new(const struct tls_settings *s, char *why, size_t why_size);
/* Reads the files again: key and certificate must belong together, else what was there stays. */
bool tls_reload(struct tls *t, char *why, size_t why_size);
void tls_free(struct tls *t); /* connections that use it go on */

#endif

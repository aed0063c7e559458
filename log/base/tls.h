/* TLS contexts: what a kind of connection proves about itself and asks of the other side. A stream gets one when it
 * is made (stream.h); loading new files concerns connections made from then on. */
#ifndef HF_TLS_H
#define HF_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct tls;

enum tls_version { TLS_VERSION_12 = 1, TLS_VERSION_13 = 2 }; /* bits */

/* Texts may be NULL, which is "". */
struct tls_settings {
    const char *cert_file, *key_file; /* PEM; the certificate first, then what its chain needs */
    const char *key_pass;             /* of an encrypted key */
    const char *ca_file, *ca_dir;     /* whom to believe, and revocation lists; neither: nothing is asked */
    bool peer_must_prove;             /* a certificate is required, on both ends, and checked. Without:
                                         who accepts checks one if it is shown; who is dialled must show one */
    unsigned versions;                /* enum tls_version; 0 = 1.2 and later */
    const char *ciphers, *suites;     /* of 1.2, of 1.3, in OpenSSL's words; "" = OpenSSL's choice */
    bool prefer_server_ciphers;
    bool wildcards;          /* *.example.com is for a.example.com */
    const char *server_name; /* kept for who dials with it: tls_server_name() */
};
/* NULL with a reason that names the file. Tickets are off: resumption would skip the certificate checks. */
struct tls *tls_new(const struct tls_settings *s, char *why, size_t why_size);
/* Reads the files again: key and certificate must belong together and be valid today, else what was there stays. */
bool tls_reload(struct tls *t, char *why, size_t why_size);
/* The same with other settings. */
bool tls_change(struct tls *t, const struct tls_settings *s, char *why, size_t why_size);
const char *tls_server_name(const struct tls *t);
/* Why nobody will believe our own certificate today: "it has expired", "it is not yet valid". NULL: fine, or none. */
const char *tls_out_of_date(const struct tls *t);
/* "TLSv1.2 TLSv1.3", in any case and order, as bits; "" = 0. false: something else. */
bool tls_versions(const char *text, unsigned *versions);
void tls_free(struct tls *t); /* connections that use it go on */

#endif

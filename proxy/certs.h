/* The TLS contexts of this node, but for those between members (log/log_peers.c):
 *
 *     clients ──tls-port──▶ Holdfast ──valkey-tls──▶ Valkey
 *                               ▲───feed, if Valkey's tls-replication says so
 *
 * They live as long as the process; new files or settings are taken over for connections made from then on. */
#ifndef HF_CERTS_H
#define HF_CERTS_H

#include <stdbool.h>
#include <stddef.h>

struct certs;
struct config;
struct diag;
struct tls;

/* NULL with a reason that names the file. */
struct certs *certs_new(const struct diag *d, const struct config *c, char *why, size_t why_size);
void certs_free(struct certs *k); /* NULL is fine */
/* Reads the files again, by these settings. What is no good is named in the log, and what there was stays. */
void certs_reload(struct certs *k, const struct config *c);
/* Whether certs_reload() would succeed. false with a reason. */
bool certs_try(const struct config *c, char *why, size_t why_size);

/* NULL: none, that is plain; also of a NULL certs. */
struct tls *certs_clients(const struct certs *k);
struct tls *certs_valkey(const struct certs *k); /* with the name to check: tls_server_name() */
struct tls *certs_feed(const struct certs *k);   /* for a Valkey that dials us */

#endif

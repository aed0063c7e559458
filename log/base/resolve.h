/* Names to addresses without holding the loop up: a dead name server may take many seconds to be given up. */
#ifndef HF_RESOLVE_H
#define HF_RESOLVE_H

struct loop;
struct lookup;
struct resolver;

enum {
    RESOLVE_FRESH_MS = 1000,   /* an answer is used again for so long: many asking at once are one lookup */
    RESOLVE_PATIENCE_MS = 300, /* then an older answer is better than none */
    RESOLVE_NAMES_MAX = 32
};

struct resolver *resolver_new(struct loop *l);
void resolver_free(struct resolver *r); /* lookups are cancelled; NULL is fine */
/* "host:port" or "[v6]:port". done() once, in a later turn: with "ip:port", or NULL and why. A name with several
 * addresses yields one after the other, ask by ask. */
struct lookup *resolver_ask(struct resolver *r, const char *address,
                            void (*done)(void *arg, const char *numeric, const char *why), void *arg);
void lookup_cancel(struct lookup *k); /* before done(); NULL is fine */

#endif

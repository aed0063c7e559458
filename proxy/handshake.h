/* Connections to a port of TLS whose handshake is under way. They are nobody's clients yet: they hold no session, and
 * no more than HANDSHAKES_MAX of them are there at once.
 *
 *     accept ─▶ begin ─┬─ handshake done ─▶ done(): a session or a relay takes the stream
 *                      └─ failed, or not done within HANDSHAKE_MS_MAX ─▶ closed, and the log says why
 *
 * When they are full, one that is older than HANDSHAKE_GRACE_MS makes room for a newcomer; else accepting waits. */
#ifndef HF_HANDSHAKE_H
#define HF_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>

struct handshakes;
struct stream;
struct worker;

enum {
    HANDSHAKES_MAX = 128,      /* each costs a signature: established clients wait for no more than these */
    HANDSHAKE_GRACE_MS = 1000, /* a slow client's time; a staller's, too */
    HANDSHAKE_LINES_MAX = 10,  /* of failures in the log, in HANDSHAKE_LINES_MS; then they are only counted */
    HANDSHAKE_LINES_MS = 10000
};

struct handshakes *handshakes_new(struct worker *w, void (*done)(void *arg, struct stream *s, bool reader),
                                  void *arg);
bool handshakes_room(struct handshakes *h);                       /* makes it, if it may */
void handshakes_begin(struct handshakes *h, int fd, bool reader); /* takes fd */
size_t handshakes_count(const struct handshakes *h);
void handshakes_close(struct handshakes *h); /* all that are under way */
void handshakes_free(struct handshakes *h);  /* NULL is fine */

#endif

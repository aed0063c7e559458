/* Relays: clients of a node that does not lead, as a pipe to the session that serves them on the leader's node.
 *
 *     client ══▶ relay ═══════ link (peer TLS) ═══════▶ session on the leader, which knows the client's address
 *
 * A relay never sends a command again that may have been executed. It knows how many replies its client is owed: when
 * the link is lost, each gets -UNCERTAIN, and the client stays if its session can be set up again (track.h). */
#ifndef HF_RELAY_H
#define HF_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct relay;
struct session;
struct stream;
struct worker;

enum {
    RELAY_OPS_MAX = 1024,                /* unanswered; beyond it, reading stops */
    RELAY_WAITING_BYTES_MAX = 256 << 10, /* commands that wait for a leader; one command more at most */
    RELAY_STASH_BYTES_MAX = 64 << 10,    /* read and not parsed; one read more at most */
    RELAY_LINK_BYTES_MAX = 1 << 20,      /* unsent to the leader; beyond it, the client is not read */
    RELAY_KEPT_BYTES_MAX =
        256 << 10,                 /* of sent commands, for when the leader hands over; else they are refused then */
    RELAY_OUT_BYTES_MAX = 1 << 20, /* unsent to the client; beyond it, the link is not read */
    RELAY_TICK_MS = 20,            /* while commands wait */
    RELAY_RETRY_MS = 50,           /* from a link that could not be had to the next attempt */
    RELAY_BLOCKED_MS = 300,        /* a command that may block and is unanswered so long is blocked */
    RELAY_STALE_MS = 500           /* what a former leader may take to answer, once another one is known */
};

struct relay *relay_new(struct worker *w, struct stream *client, bool unix_socket);
/* A session of a node that leads no more: all was answered, and it can be set up elsewhere. It is consumed. */
void relay_of_session(struct session *s);
void relay_close(struct relay *r, const char *why);
void relays_watch(struct worker *w); /* commands wait: look at the clock every RELAY_TICK_MS */
void relays_on_tick(void *arg);      /* arg: the worker; its relay_tick */
bool relays_run(struct worker *w);   /* each turn; the node's part may have changed. false: nothing was to be done */
void relays_tick(struct worker *w, uint64_t now_ms); /* idle clients */
/* For draining: nothing was sent that is not answered, but for what waits for other clients. */
bool relays_idle(struct worker *w, uint64_t now_ms);
void relays_pause(struct worker *w);
void relays_close(struct worker *w, const char *why);

/* What a relay tells the leader about its client.
 *
 *     u8 version = 1 | varint n, n bytes: the client's address ("ip:port", "path:0") | more, from later versions
 */
enum { RELAY_EXTRA_VERSION = 1, RELAY_ADDRESS_BYTES_MAX = 400 };
void relay_extra(struct buf *out, const char *address);
/* false: not understood. address holds at least RELAY_ADDRESS_BYTES_MAX. */
bool relay_extra_read(const void *extra, size_t n, char *address, size_t size);

/* Said by the leader's session to the relay, as pushes that no Valkey sends.
 *
 *     ready      before anything else: commands may come
 *     farewell   the last word: it closes for a reason that is the client's (CLIENT KILL, a limit)
 *     moved      the last word: the node leads no more. All that was begun has been answered; commands behind that
 *                were not executed and never will be, so they may be sent to the next leader
 *     bytes      followed by a bulk string: what is in it goes to the client as it is (backup.h) */
extern const char relay_ready[], relay_farewell[], relay_moved[], relay_bytes[];
/* Says the last word on an open stream that is nobody's any more, and closes it when that has left. */
void relay_bye(struct stream *s, const char *text);

#endif

/* Clients that change hands without noticing: relay to session, session to relay, and a client of another node.
 *
 *     this node begins to lead    relay with nothing unanswered ─▶ session: prelude (muted), what has waited, rest
 *     this node leads no more     session with nothing unanswered, without state ─▶ relay: prelude made from it
 *     worker_relayed()            a link of another node's relay ─▶ session that shows the client's address
 *
 * Who changes hands keeps socket, half-read command and everything read and not parsed. */
#include <stdio.h>
#include <string.h>

#include "log/base/stream.h"
#include "proxy/relay_internal.h"
#include "proxy/session.h"

/* ---- relay to session ---- */

bool relay_may_move(const struct relay *r)
{
    const struct worker *w = r->worker;
    bool waits = r->count > 0;

    if (r->state >= RELAY_FINISHING || (r->state == RELAY_UP && waits) || r->void_tx || r->last || r->broke != NULL ||
        r->doom != NULL || w->draining || !track_restorable(&r->track))
        return false;
    if (worker_open(w))
        return true;
    /* It will be; and if not, what the session says is as good as a refusal of ours. */
    return waits && loop_now_ms(w->loop) - r->ring[r->head].since_ms >= (uint64_t)w->config->relay_timeout_ms;
}

void relay_to_session(struct relay *r)
{
    struct session_setup setup = {.muted = r->track.prelude_count};

    track_prelude(&r->track, &setup.commands);
    buf_append(&setup.commands, buf_head(&r->waiting), r->waiting.len);
    session_adopt(r->worker, r->client, r->unix_socket, &setup, &r->parser, &r->stash, r->eof);
    r->client = NULL;
    relay_close(r, "this node leads now");
}

/* ---- session to relay ---- */

static void assume(struct track *t, size_t count, const char *const *words)
{
    struct buf bytes = {0};
    struct arg args[4];
    size_t lengths[4], at = 4;
    struct request q;

    CHECK(count > 0 && count <= 4);
    for (size_t i = 0; i < count; i++)
        lengths[i] = strlen(words[i]);
    argv_encode(&bytes, count, words, lengths);
    for (size_t i = 0; i < count; i++) {
        char header[24];

        at += (size_t)snprintf(header, sizeof header, "$%zu\r\n", lengths[i]);
        args[i] = (struct arg){at, lengths[i]};
        at += lengths[i] + 2;
    }
    CHECK(at == bytes.len);
    q = request_of(&(struct argv){buf_head(&bytes), bytes.len, args, count}, 0);
    CHECK(q.kind == REQUEST_SETUP);
    track_assume(t, &q);
    request_free(&q);
    buf_free(&bytes);
}

static const char *choice_word(enum choice c)
{
    return c == CHOICE_OFF ? "OFF" : c == CHOICE_ASYNC ? "ASYNC" : "SYNC";
}

static void prelude_of(const struct session *s, struct track *t)
{
    char db[16];

    if (s->proto == 3)
        assume(t, 2, (const char *const[]){"HELLO", "3"});
    if (s->name != NULL)
        assume(t, 3, (const char *const[]){"CLIENT", "SETNAME", s->name});
    if (s->lib_name != NULL)
        assume(t, 4, (const char *const[]){"CLIENT", "SETINFO", "LIB-NAME", s->lib_name});
    if (s->lib_ver != NULL)
        assume(t, 4, (const char *const[]){"CLIENT", "SETINFO", "LIB-VER", s->lib_ver});
    if (s->readonly)
        assume(t, 1, (const char *const[]){"READONLY"});
    if (s->redirects)
        assume(t, 3, (const char *const[]){"CLIENT", "CAPA", "REDIRECT"});
    if (s->choice != CHOICE_DEFAULT)
        assume(t, 3, (const char *const[]){"CLIENT", "DURABILITY", choice_word(s->choice)});
    if (s->no_evict)
        assume(t, 3, (const char *const[]){"CLIENT", "NO-EVICT", "ON"});
    if (s->no_touch)
        assume(t, 3, (const char *const[]){"CLIENT", "NO-TOUCH", "ON"});
    (void)snprintf(db, sizeof db, "%u", s->db);
    if (s->db != 0)
        assume(t, 2, (const char *const[]){"SELECT", db});
}

void relay_of_session(struct session *s)
{
    struct relay *r = relay_make(s->worker, s->unix_socket);

    CHECK(s->op_count == 0);
    prelude_of(s, &r->track);
    if (s->held != NULL)
        buf_append(&r->stash, buf_head(&s->held->request), s->held->request.len);
    buf_append(&r->stash, buf_head(&s->stash), s->stash.len);
    if (r->stash.failed)
        r->doom = "out of memory for a command";
    r->parser = s->parser;
    s->parser = NULL;
    if (s->held != NULL) { /* between commands: what the parser has read ahead is in the stash */
        resp_parser_drop(r->worker->pool, r->parser);
        r->parser = NULL;
    }
    r->eof = s->eof;
    r->client = s->stream;
    s->stream = NULL;
    stream_hand_over(r->client, &relay_client_events, r);
    session_close(s, "another node leads now");
    if (!track_restorable(&r->track))
        r->doom = "its session cannot be set up again";
    relay_kick(r);
}

/* ---- a client of another node ---- */

void relay_extra(struct buf *out, const char *address)
{
    buf_u8(out, RELAY_EXTRA_VERSION);
    buf_varint(out, strlen(address));
    buf_text(out, address);
}

bool relay_extra_read(const void *extra, size_t n, char *address, size_t size)
{
    struct cursor c = cursor_of(extra, n);
    uint8_t version = cursor_u8(&c);
    uint64_t length = cursor_varint(&c);
    const char *text = c.bad || length >= size ? NULL : cursor_bytes(&c, (size_t)length);

    if (c.bad || version < RELAY_EXTRA_VERSION || length >= size || (text == NULL && length > 0))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= ' ' || text[i] > '~') /* it stands in CLIENT LIST, between blanks */
            return false;
        address[i] = text[i];
    }
    address[length] = '\0';
    return true;
}

void worker_relayed(struct worker *w, struct stream *stream, const char *from, const void *extra, size_t n)
{
    char address[RELAY_ADDRESS_BYTES_MAX];

    if (!relay_extra_read(extra, n, address, sizeof address)) {
        diag_log(w->diag, diag_limited(&w->relays_refused, loop_now_ms(w->loop), 1, DIAG_WARNING),
                 "A client relayed by %s is refused: what it says of it is not understood", from);
        stream_close(stream);
    } else if (!worker_leads(w) || w->draining) { /* the relay looks for the leader again */
        stream_close(stream);
    } else if (worker_clients(w) >= (size_t)w->config->maxclients) {
        w->sessions_rejected++;
        relay_bye(stream, "-ERR max number of clients reached\r\n");
    } else {
        session_relayed(w, stream, from, address);
    }
}

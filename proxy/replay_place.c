/* Where a replay is, as a mark from which another one can begin; and looking for a place in the stream.
 *
 *   entry 7:  INTENT 4, 5 │ OUTCOME  RAW x          RAW y (in database 2) │ ...
 *                          stream:   SET x  ┃ SELECT 2  ┃ SET y  ┃
 *                          places:       {7, 1}      {7, 1}, db 2    {7, 2}
 *
 * The end of every command is a place, of a SELECT as well: Valkey may have read that far, and no further. A place
 * inside an entry is a mark inside it; whoever begins there walks the entry again from its first frame, and what the
 * mark has told already is passed over (replay.c). log_from is the entry of the oldest intent that is pending. */
#include <string.h>

#include "proxy/replay_internal.h"

/* ---- places ---- */

static void place_at(const struct replay *r, uint64_t index, uint64_t effects, struct replay_place *out)
{
    const struct replay_facts *f = &r->facts;

    *out = (struct replay_place){.db = r->out_db,
                                 .mark = {.index = index,
                                          .effects = effects,
                                          .log_from = index,
                                          .next_seq = f->next_seq,
                                          .offset = f->offset,
                                          .db = f->db,
                                          .mode = f->mode}};
    memcpy(out->mark.replid, f->replid, sizeof out->mark.replid);
    memcpy(out->mark.run_id, f->run_id, sizeof out->mark.run_id);
    for (size_t i = r->head; i < r->count; i++) {
        if (r->intent[i].resp == NULL)
            continue;
        if (r->intent[i].index < index)
            out->mark.log_from = r->intent[i].index;
        break;
    }
}

void replay_found(struct replay *r, uint64_t index, uint64_t effects)
{
    r->seek.result = REPLAY_FOUND;
    place_at(r, index, effects, &r->seek.place);
}

void replay_passed(struct replay *r, size_t n, uint64_t effects)
{
    r->bytes += n;
    if (r->seek.what != SEEK_BYTES || r->seek.result != REPLAY_SEEKING || r->bytes < r->seek.goal)
        return;
    if (r->bytes == r->seek.goal)
        replay_found(r, r->entry, effects);
    else
        r->seek.result = REPLAY_MISSED;
}

/* ---- the door ---- */

uint64_t replay_walked(const struct replay *r)
{
    return r->next - 1;
}

uint64_t replay_bytes(const struct replay *r)
{
    return r->bytes;
}

void replay_place(const struct replay *r, struct replay_place *out)
{
    if (r->has_mark && r->next <= r->mark.index) { /* all that was walked is before the mark */
        *out = (struct replay_place){.mark = r->mark, .db = r->out_db};
        return;
    }
    place_at(r, r->next, 0, out);
}

/* ---- looking for a place ---- */

void replay_seek_bytes(struct replay *r, uint64_t bytes)
{
    r->seek.what = SEEK_BYTES;
    r->seek.goal = bytes;
    r->seek.result = bytes < r->bytes ? REPLAY_MISSED : REPLAY_SEEKING;
    if (bytes == r->bytes) {
        r->seek.result = REPLAY_FOUND;
        replay_place(r, &r->seek.place);
    }
}

void replay_seek_index(struct replay *r, uint64_t index)
{
    bool before = r->has_mark && (index + 1 < r->mark.index || (index + 1 == r->mark.index && r->mark.effects > 0));

    r->seek.what = SEEK_INDEX;
    r->seek.goal = index;
    r->seek.result = before || index + 1 < r->next ? REPLAY_MISSED : REPLAY_SEEKING;
    if (!before && index + 1 == r->next) {
        r->seek.result = REPLAY_FOUND;
        replay_place(r, &r->seek.place);
    }
}

enum replay_search replay_sought(const struct replay *r, struct replay_place *out)
{
    if (r->seek.result == REPLAY_FOUND)
        *out = r->seek.place;
    return r->seek.result;
}

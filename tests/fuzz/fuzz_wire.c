/* Bytes from another member: frames, and, since a checksum guards those, bodies on their own. Whatever they are, they
 * are refused, or are what our own codec would have written.
 *
 * The first byte says what the rest is: 0 frames, as a link carries them; 1 a message; 2 a HELLO; 3 a refusal's text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "log/base/diag.h"
#include "log/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void message(const void *body, size_t n)
{
    size_t max = wire_records_max(body, n);
    struct record **records = must_calloc(max + 1, sizeof *records);
    struct peer_message m;
    struct buf again = {0};

    CHECK(max <= n / 48);
    if (wire_message_open(body, n, &m, records, max)) {
        size_t count = m.kind == PEER_APPEND ? m.append.count : 0;

        wire_message(&again, &m, records, count);
        CHECK(again.len == n && memcmp(buf_head(&again), body, n) == 0);
        while (count > 0)
            record_drop(records[--count]);
    }
    buf_free(&again);
    free(records);
}

static void hello(const void *body, size_t n)
{
    struct peer_hello h;
    struct buf again = {0};
    char cluster[256];
    uint32_t version;

    if (wire_hello_open(body, n, &h, cluster, sizeof cluster, &version) && version == PEER_VERSION) {
        wire_hello(&again, &h, cluster);
        CHECK(again.len == n && memcmp(buf_head(&again), body, n) == 0);
    }
    buf_free(&again);
    buf_free(&h.configuration);
}

static void text(const void *body, size_t n)
{
    char out[WIRE_TEXT_BYTES_MAX];

    wire_text(body, n, out);
    for (size_t i = 0; out[i] != '\0'; i++)
        CHECK(out[i] >= ' ' && out[i] <= '~');
}

static void frames(const void *bytes, size_t n)
{
    struct cursor at = cursor_of(bytes, n);
    struct wire_frame f;
    const char *why;

    while (wire_next(&at, PEER_FRAME_BYTES_MAX, &f, &why) == WIRE_FRAME) {
        CHECK(f.body_bytes <= n);
        if (f.kind == WIRE_MESSAGE)
            message(f.body, f.body_bytes);
        else if (f.kind == WIRE_HELLO)
            hello(f.body, f.body_bytes);
        else
            text(f.body, f.body_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const of[])(const void *, size_t) = {frames, message, hello, text};

    if (size > 0)
        of[data[0] % 4](data + 1, size - 1);
    return 0;
}

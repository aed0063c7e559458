/* A worker whose way to the leader is the test's: each dial makes a socket pair, and the test plays the leader at the
 * other end of it. One thread: rw_turns() lets the loop run, reading and writing happen in between. */
#ifndef HF_RELAY_WORLD_H
#define HF_RELAY_WORLD_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "log/base/diag.h"
#include "log/base/loop.h"
#include "log/base/stream.h"
#include "proxy/message.h"
#include "proxy/relay.h"
#include "proxy/status.h"
#include "proxy/worker.h"

enum { READ_BYTES_MAX = 1 << 20 };

enum answer { ACCEPTED, ACCEPTED_MUTE, REFUSED, NO_ANSWER }; /* to a dial; MUTE: without saying "ready" */

#define GET_A  "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
#define SET_B  "*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n1\r\n"
#define LPOP_C "*2\r\n$4\r\nLPOP\r\n$1\r\nc\r\n"
#define PING   "*1\r\n$4\r\nPING\r\n"
#define MULTI  "*1\r\n$5\r\nMULTI\r\n"
#define EXEC   "*1\r\n$4\r\nEXEC\r\n"
#define SELECT "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
#define NAME   "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\nbob\r\n"
#define HELLO3 "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
#define AUTH   "*3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$2\r\npw\r\n"

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)

struct relay_world {
    struct diag diag;
    struct config config;
    struct gate gate;
    struct queue to_core, to_worker;
    struct status status;
    struct loop *loop;
    struct loop_timer *stop, *answer_later;
    struct worker *worker;
    char dir[64];
    enum answer answer;
    int leader; /* our end of the newest link; -1 */
    int dials, cancelled;
    char extra[512];
    size_t extra_n;
    void (*done)(void *arg, struct stream *s, const char *why);
    void *done_arg;
    char read[READ_BYTES_MAX + 1];
    size_t read_n;
    bool ended; /* the last reading met the end of the stream */
};

struct relay_world *relay_world_new(enum gate_part part);
void relay_world_free(struct relay_world *w);
void rw_turns(struct relay_world *w, unsigned ms);
void rw_part(struct relay_world *w, enum gate_part part); /* and a few turns */
void rw_open_valkey(struct relay_world *w); /* one that nobody reaches, enough for what we answer ourselves */

int rw_client_new(struct relay_world *w);
void rw_say(struct relay_world *w, int fd, const char *text); /* and a few turns */
void rw_say_bytes(struct relay_world *w, int fd, const char *bytes, size_t n);
const char *rw_hear(struct relay_world *w, int fd); /* what has come, after a few turns */
void rw_expect(struct relay_world *w, int fd, const char *text);
void rw_expect_open(struct relay_world *w, int fd);
void rw_expect_closed(struct relay_world *w, int fd); /* nothing more comes but the end; closes our fd */
void rw_expect_count(struct relay_world *w, int fd, const char *code,
                     size_t count);     /* so many error lines, no more */
void rw_hang_up(struct relay_world *w); /* the leader's end */

#endif

/* A node with a log, a real Valkey, and a core that logs every effect as RAW, for tests. */
#ifndef HF_NODE_WORLD_H
#define HF_NODE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "proxy/node.h"
#include "tests/unit/log_fixture.h"
#include "tests/unit/real_valkey.h"

struct loop_timer;

enum { NODE_LOG_BYTES_MAX = 256 << 20 };

struct place { /* the end of an effect in the stream, and in the log */
    uint64_t offset, index, effects;
};

struct world {
    struct fixture f;
    struct real_valkey v, twin;
    struct config config;
    struct node *node;
    struct loop_timer *pass; /* passes commits on */
    uint64_t passed;
    int attached, bridged, detached, close_outs, snapshots, snapshots_failed;
    bool is_attached, stopped;
    size_t effects, pending;
    uint64_t end_offset, goal, entry, in_entry;
    struct place place[65536];
    size_t places;
    bool watching;
    char run_id[48], why[256];
    /* ---- following ---- */
    enum node_part part; /* node_play() before it is started, unless NODE_LEADS */
    bool is_fed;
    int feds, unfeds;
    uint64_t commits; /* entries passed on */
};

struct world *new_world(void); /* Valkey and node are not started */
void close_world(struct world *w);
struct world *world_of(struct fixture *f);
void start_node(struct world *w);
void restart_log(struct world *w); /* node and log, as after a crash */
void stop_node(struct world *w);   /* as a crash does it: without a word */
bool until_attached(struct fixture *f);
bool until_detached(struct fixture *f);
void follow(struct world *w);            /* until attached, and all that Valkey has done is logged */
void digest(struct world *w, char *out); /* 64 bytes */
void expect_digest(struct world *w, const char *expected);

#endif

#ifndef HF_SNAPSHOT_SIDE_H
#define HF_SNAPSHOT_SIDE_H

#include "log/snapshot.h"
#include "tests/unit/store_model.h"

/* A store, a writer and snapshots, without the log above them. */
struct side {
    struct store_fixture f;
    struct loop *loop;
    struct writer *writer;
    struct snapshots *s;
    bool broken, done, ok;
    struct store_snapshot record;
    char why[256];
};

void side_new(struct side *d);
void side_open(struct side *d); /* again */
void side_close(struct side *d);
void side_reopen(struct side *d);
void side_remove(struct side *d);
void side_wait(struct side *d); /* turns of the loop until `done`, which is false again then */

#endif

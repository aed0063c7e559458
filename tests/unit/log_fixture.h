/* A log in a directory of its own, on a loop of its own, for unit tests. */
#ifndef HF_LOG_FIXTURE_H
#define HF_LOG_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "log/log.h"

struct loop;

struct fixture {
    char dir[128];
    struct loop *loop;
    struct log *log;
    uint64_t committed;
    bool stalled, failed, timed_out;
    int stalls, recoveries;
    char why[512];
    bool (*until)(struct fixture *f);
    void *arg;
};

void fixture_dir(struct fixture *f);                     /* makes f->dir */
bool fixture_open(struct fixture *f, uint64_t size_max); /* false: f->why says the reason */
bool fixture_open_as(struct fixture *f, uint64_t size_max, const char *node);
void fixture_close(struct fixture *f);  /* the log and the loop; the directory stays */
void fixture_remove(struct fixture *f); /* closes, removes the directory */
bool fixture_wait(struct fixture *f,
                  bool (*until)(struct fixture *f)); /* turns of the loop until then; false after 60 s */
void fixture_turns(struct fixture *f, unsigned ms);  /* turns of the loop for so long */

/* One INTENT frame of n bytes made from `seed`, in the open batch. */
void fixture_append(struct fixture *f, uint64_t seed, size_t n, bool urgent);
bool fixture_matches(const struct entry_view *e, uint64_t seed, size_t n); /* the entry is just that frame */
void fixture_commit(struct fixture *f, uint64_t seed, size_t n);           /* and waits until it is committed */
bool fixture_quiet(struct fixture *f); /* for fixture_wait: all that was appended is committed */
void fixture_fill(char *to, size_t n, uint64_t seed);

/* Entries whose size and content follow from their index. */
enum { FIXTURE_SIZE_MAX_BYTES = 512 * 1024 * 1024 };
void fixture_open_fresh(struct fixture *f);
void fixture_reopen(struct fixture *f);
void fixture_append_next(struct fixture *f);          /* into the open batch, urgent */
void fixture_commit_next(struct fixture *f, int n);   /* n such entries, one by one */
void fixture_check(struct fixture *f, uint64_t from); /* all from there on are there, and right */
bool fixture_stalled_or_quiet(struct fixture *f);
bool fixture_recovered(struct fixture *f);
bool fixture_shrunk(struct fixture *f); /* below *(uint64_t *)f->arg bytes */

/* Runs this binary again with `mode` and arguments; returns its pid and the read end of its standard output. */
int fixture_child(const char *mode, const char *a, const char *b, const char *c, int *out);

#endif

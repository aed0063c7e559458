/* The one thread that waits for the disk. Jobs are run in order of submission, urgent ones first; when a job is done,
 * its done() is called on the loop. Nothing is copied: a job is embedded in what it works on, and belongs to the
 * writer between writer_submit() and done(). */
#ifndef HF_WRITER_H
#define HF_WRITER_H

#include <stdbool.h>

struct loop;
struct writer;

struct writer_job {
    bool (*run)(struct writer_job
                    *j); /* on the writer thread; false: there is more to do, run me again after what is urgent */
    void (*done)(struct writer_job *j); /* on the loop; may submit again */
    struct writer_job *next;
};

enum writer_class { WRITER_URGENT, WRITER_BACKGROUND, WRITER_CLASSES };

struct writer *writer_new(struct loop *l); /* NULL: no thread or no descriptor (errno) */
void writer_submit(struct writer *w, struct writer_job *j, enum writer_class c);
/* Stops after the run() in progress. done() of jobs not yet reported is not called: they are their owner's again. */
void writer_free(struct writer *w);

#endif

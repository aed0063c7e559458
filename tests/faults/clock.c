/* A wall clock that is off on request: an LD_PRELOAD library for the tests of what clock steps and skew may do.
 *
 * HOLDFAST_CLOCK_CONTROL names a file of 8 bytes, an int64 in this machine's order: so many microseconds are added to
 * CLOCK_REALTIME, gettimeofday() and time(). The file is mapped: a step is one write to it, and a call costs what it
 * cost before. Monotonic and boot clocks are left alone, as they are when somebody sets the time. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { US_PER_S = 1000000, NS_PER_US = 1000 };

static const volatile int64_t *offset_us;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("HOLDFAST_CLOCK_CONTROL");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at;

    *(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (fd < 0)
        return;
    at = mmap(NULL, sizeof *offset_us, PROT_READ, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (at != MAP_FAILED)
        offset_us = at;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    /* A sanitizer asks before constructors have run. */
    int rc = real_clock_gettime != NULL ? real_clock_gettime(id, t) : (int)syscall(SYS_clock_gettime, id, t);

    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) && offset_us != NULL) {
        int64_t us = (int64_t)t->tv_sec * US_PER_S + t->tv_nsec / NS_PER_US + *offset_us;

        t->tv_nsec = (long)(us % US_PER_S * NS_PER_US + t->tv_nsec % NS_PER_US);
        t->tv_sec = (time_t)(us / US_PER_S);
    }
    return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return -1;
    tv->tv_sec = t.tv_sec;
    tv->tv_usec = t.tv_nsec / NS_PER_US;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec t;

    if (clock_gettime(CLOCK_REALTIME, &t) != 0)
        return (time_t)-1;
    if (out != NULL)
        *out = t.tv_sec;
    return t.tv_sec;
}

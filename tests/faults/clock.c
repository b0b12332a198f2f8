/*
 * Clocks that a test moves, for LD_PRELOAD. The file named by CLOCK_OFFSET, which is shared with
 * the test, has two 64-bit numbers of seconds:
 *
 *     by how much the wall clock is off:    CLOCK_REALTIME
 *     how much time has gone by as well:    CLOCK_REALTIME and CLOCK_MONOTONIC
 *
 * The kernel knows nothing of that. So a wait until a time of the monotonic clock is told the
 * kernel's time; a thread waits as long as without the shim, and wakes no sooner when time goes by.
 * libev's timers do: its loop asks the clock, by `syscall`, each time that it has something to do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static volatile int64_t *offsets;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(0, 2 * sizeof *offsets, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        offsets = map;
    close(fd);
}

static int64_t offset(clockid_t clock)
{
    if (offsets && clock == CLOCK_REALTIME)
        return offsets[0] + offsets[1];
    return offsets && clock == CLOCK_MONOTONIC ? offsets[1] : 0;
}

static struct timespec kernels(clockid_t clock, const struct timespec *until)
{
    return (struct timespec){until->tv_sec - offset(clock), until->tv_nsec};
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    if (!real)
        real = REAL(syscall);
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    long result = real(number, a, b, c, d, e, f);
    if (number == SYS_clock_gettime && !result)
        ((struct timespec *)b)->tv_sec += offset((clockid_t)a);
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    return syscall(SYS_clock_gettime, clock, now);
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int result = syscall(SYS_gettimeofday, now, zone);
    if (!result)
        now->tv_sec += offset(CLOCK_REALTIME);
    return result;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

/* Python's conditions are made for the monotonic clock. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    static __typeof__(&pthread_cond_timedwait) real;
    if (!real)
        real = REAL(pthread_cond_timedwait);
    struct timespec when = kernels(CLOCK_MONOTONIC, until);
    return real(condition, mutex, &when);
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until)
{
    static __typeof__(&sem_clockwait) real;
    if (!real)
        real = REAL(sem_clockwait);
    struct timespec when = kernels(clock, until);
    return real(semaphore, clock, &when);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    static __typeof__(&clock_nanosleep) real;
    if (!real)
        real = REAL(clock_nanosleep);
    struct timespec when = flags & TIMER_ABSTIME ? kernels(clock, until) : *until;
    return real(clock, flags, &when, left);
}

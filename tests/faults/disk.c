/*
 * A disk that fails at the n-th call, or takes long for it, for LD_PRELOAD.
 *
 * The file named by FAULTS_CONTROL is shared with the test: two rules for each kind of call,
 * then a trace of the calls. A rule lets `left` calls pass, and then is about `times` ones; a
 * negative number of them is all. A fault has an errno; 0 makes a write short by half, and so
 * does a negative one, which the next write then fails with. A delay has microseconds, which
 * end early when the disk heals. Only channel files (".tsv") and their folder (FAULTS_FOLDER)
 * count, and a `syncfs` of the file system that the folder is on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, SYNC, SYNC_ALL, SYNC_FOLDER, TRUNCATE, OPEN, READ, KINDS };
static const char letters[] = "wsadtor"; /* in the trace; in capitals where it failed */

#define TRACE 65000

struct rule { int left, times, value; };

struct control {
    struct rule faults[KINDS], delays[KINDS];
    int heals; /* how often the disk was healed */
    int traced;
    char trace[TRACE];
};

static struct control *control;
static const char *folder;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* while rules are asked */

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    folder = getenv("FAULTS_FOLDER");
    if (!path || !folder)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        control = map;
    close(fd);
}

/* Return whether a rule is about this call. */
static int concerns(struct rule *rule)
{
    if (!rule->times || rule->left-- > 0)
        return 0;
    if (rule->times > 0)
        rule->times--;
    return 1;
}

/* Return after so many microseconds, or when the disk was healed since. */
static void delay(int microseconds, int heals)
{
    struct timespec now, end, step = {0, 1000000};
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += microseconds / 1000000;
    end.tv_nsec += microseconds % 1000000 * 1000;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long left = (end.tv_sec - now.tv_sec) * 1000000000 + end.tv_nsec - now.tv_nsec;
        if (left <= 0 || __atomic_load_n(&control->heals, __ATOMIC_SEQ_CST) != heals)
            return;
        step.tv_nsec = left < 1000000 ? left : 1000000;
        nanosleep(&step, 0);
    }
}

/* Return the errno with which this call fails; 0: not at all; -1: it is short. May take long. */
static int fault(int kind)
{
    struct rule *rule = &control->faults[kind];
    int failed = 0, microseconds = 0;
    pthread_mutex_lock(&lock);
    int heals = control->heals;
    if (concerns(rule)) {
        failed = rule->value > 0 ? rule->value : -1;
        if (rule->value < 0) {
            rule->value = -rule->value;
            rule->times++;
        }
    }
    if (concerns(&control->delays[kind]))
        microseconds = control->delays[kind].value;
    if (control->traced < TRACE)
        control->trace[control->traced++] = failed ? letters[kind] - 32 : letters[kind];
    pthread_mutex_unlock(&lock);
    if (microseconds)
        delay(microseconds, heals);
    return failed;
}

static int is_channel(const char *path)
{
    size_t size = strlen(path);
    return size > 4 && !strcmp(path + size - 4, ".tsv")
        && !strncmp(path, folder, strlen(folder));
}

/* Return 1 for a channel's file, 2 for the folder, 0 for anything else. */
static int what_is(int fd)
{
    struct stat status;
    char link[64], path[4096];
    if (!control || fstat(fd, &status) || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
        return 0;
    char *end = link + sizeof link - 1;
    *end = 0;
    do
        *--end = '0' + fd % 10;
    while (fd /= 10);
    end -= 14;
    memcpy(end, "/proc/self/fd/", 14);
    ssize_t size = readlink(end, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    if (S_ISDIR(status.st_mode))
        return strcmp(path, folder) ? 0 : 2;
    return is_channel(path);
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (size && what_is(fd) == 1) {
        int failed = fault(WRITE);
        if (failed > 0) {
            errno = failed;
            return -1;
        }
        if (failed < 0)
            size = (size + 1) / 2;
    }
    return syscall(SYS_write, fd, data, size);
}

static int sync_or_fail(int call, int fd)
{
    int kind = what_is(fd);
    int failed = kind == 1 ? fault(SYNC) : kind == 2 ? fault(SYNC_FOLDER) : 0;
    if (failed) {
        errno = failed;
        return -1;
    }
    return syscall(call, fd);
}

int syncfs(int fd)
{
    struct stat status, own;
    int is_own = control && !fstat(fd, &status) && !stat(folder, &own) && status.st_dev == own.st_dev;
    int failed = is_own ? fault(SYNC_ALL) : 0;
    if (failed) {
        errno = failed;
        return -1;
    }
    return syscall(SYS_syncfs, fd);
}

int fsync(int fd) { return sync_or_fail(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_or_fail(SYS_fdatasync, fd); }

int ftruncate(int fd, off_t size)
{
    int failed = what_is(fd) == 1 ? fault(TRUNCATE) : 0;
    if (failed) {
        errno = failed;
        return -1;
    }
    return syscall(SYS_ftruncate, fd, size);
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    int failed = what_is(fd) == 1 ? fault(READ) : 0;
    if (failed) {
        errno = failed;
        return -1;
    }
    return syscall(SYS_pread64, fd, data, size, offset);
}
ssize_t pread64(int fd, void *data, size_t size, off_t offset) { return pread(fd, data, size, offset); }

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    int failed = control && is_channel(path) ? fault(OPEN) : 0;
    if (failed) {
        errno = failed;
        return -1;
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return open64(path, flags, mode);
}

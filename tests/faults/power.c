/*
 * A journal of what a power cut would leave, for LD_PRELOAD; and a kill before a call.
 *
 * Each call that changes a folder or a file in it has a line in the file named by POWER_JOURNAL:
 *
 *     <ns> F <inode> <size>                       a file was synced, which was so large then
 *     <ns> D <inode> <name> <inode> <name> ...    a folder was synced, with what was in it then
 *     <ns> + <folder> <inode> <name>              a name has come
 *     <ns> - <folder> <inode> <name>              a name has gone
 *     <ns> R <folder> <inode> <name> <name>       a name has become another one
 *     <ns> W <inode> <offset> <hex>               bytes were overwritten, or cut off: these were there
 *
 * A sync is noted after it has ended well, with the time at which it began: a sync that ends later
 * may have begun earlier, and then what it has put on disk is not the newest. A `syncfs` of a folder
 * has a line for the folder, and one for each channel file in it. Files whose last name goes are kept
 * in the folder `<journal>.gone`, named by their inodes.
 *
 * With it the test can take away all that was not synced, as a power cut may.
 *
 * In a process that calls `power_begin`, only what is done in one folder counts, and the process ends
 * before that many calls that change something or sync it. There a sync takes no time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KILLED 9

static int journal = -1;
static char gone[PATH_MAX];  /* where files are kept whose last name has gone */
static char only[PATH_MAX];  /* the one folder that counts; empty: all do */
static int left = -1;        /* calls before the end; -1: it does not come */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* while something is changed, or looked at */

/* Begin a journal, in one folder alone if that is not empty; end before so many calls in it. */
void power_begin(const char *path, const char *folder, int calls)
{
    journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    snprintf(gone, sizeof gone, "%s.gone", path);
    syscall(SYS_mkdirat, AT_FDCWD, gone, 0700);
    snprintf(only, sizeof only, "%s", folder);
    left = calls;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWER_JOURNAL");
    if (path)
        power_begin(path, "", -1);
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

struct text { size_t used; char bytes[1 << 18]; };

static void put(const struct text *text)
{
    if (text->used)
        syscall(SYS_write, journal, text->bytes, text->used);
}

static void note(const char *format, ...)
{
    char line[1024];
    va_list more;
    va_start(more, format);
    int size = vsnprintf(line, sizeof line, format, more);
    va_end(more);
    syscall(SYS_write, journal, line, size);
}

/* Split a path: the folder's status, and the name in there. Returns whether that folder counts. */
static int in_folder(const char *path, struct stat *folder, const char **name)
{
    char above[PATH_MAX];
    struct stat one;
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    snprintf(above, sizeof above, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    return journal >= 0 && !stat(above, folder)
        && (!*only || (!stat(only, &one) && one.st_ino == folder->st_ino && one.st_dev == folder->st_dev));
}

/* Whether an open file or folder counts. */
static int counts(int fd, struct stat *status)
{
    char link[64], path[PATH_MAX];
    struct stat folder;
    const char *name;
    if (journal < 0 || fstat(fd, status) || !(S_ISREG(status->st_mode) || S_ISDIR(status->st_mode)))
        return 0;
    if (!*only)
        return 1;
    if (S_ISDIR(status->st_mode))
        return !stat(only, &folder) && folder.st_ino == status->st_ino;
    sprintf(link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return in_folder(path, &folder, &name);
}

static void take_a_call(void)
{
    if (left >= 0 && left-- == 0)
        _exit(KILLED);
}

/* Note what is in a file from an offset on, as it is about to be overwritten, or cut off. */
static void note_bytes(int fd, const struct stat *status, off_t offset, size_t size)
{
    size_t there = offset < status->st_size ? status->st_size - offset : 0;
    if (size > there)
        size = there;
    if (!size)
        return;
    char *bytes = malloc(size), *line = malloc(2 * size + 100), path[64];
    sprintf(path, "/proc/self/fd/%d", fd); /* it may be open for writing alone */
    int own = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    ssize_t got = syscall(SYS_pread64, own, bytes, size, offset);
    syscall(SYS_close, own);
    size_t used = got > 0 ? sprintf(line, "%ld W %lu %ld ", now(), status->st_ino, offset) : 0;
    for (ssize_t n = 0; n < got; n++)
        used += sprintf(line + used, "%02x", (unsigned char)bytes[n]);
    if (used)
        line[used++] = '\n';
    syscall(SYS_write, journal, line, used);
    free(line);
    free(bytes);
}

/* Append a file's line; what has no room is not on disk. */
static void note_file(struct text *text, long began, const struct stat *status)
{
    if (text->used + 100 < sizeof text->bytes)
        text->used += sprintf(text->bytes + text->used, "%ld F %lu %ld\n",
                              began, status->st_ino, status->st_size);
}

/* Append a folder's line, and then, if asked for, those of the channel files in it. */
static void note_folder(struct text *text, long began, int fd, int with_files)
{
    char path[64];
    struct dirent *entry;
    struct stat status;
    sprintf(path, "/proc/self/fd/%d", fd);
    DIR *folder = opendir(path);
    if (!folder || fstat(fd, &status))
        return;
    text->used += sprintf(text->bytes + text->used, "%ld D %lu", began, status.st_ino);
    while ((entry = readdir(folder)) && text->used + 400 < sizeof text->bytes)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            text->used += sprintf(text->bytes + text->used, " %s %lu", entry->d_name, entry->d_ino);
    text->bytes[text->used++] = '\n';
    rewinddir(folder);
    while (with_files && (entry = readdir(folder)))
        if (strstr(entry->d_name, ".tsv")
            && !fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) && S_ISREG(status.st_mode))
            note_file(text, began, &status);
    closedir(folder);
}

static int sync_and_note(int call, int fd)
{
    static __thread struct text text;
    struct stat status;
    text.used = 0;
    if (counts(fd, &status)) {
        take_a_call();
        pthread_mutex_lock(&lock);
        long began = now();
        if (S_ISDIR(status.st_mode))
            note_folder(&text, began, fd, call == SYS_syncfs);
        else if (call != SYS_syncfs && !fstat(fd, &status))
            note_file(&text, began, &status);
        pthread_mutex_unlock(&lock);
    }
    int result = *only ? 0 : syscall(call, fd);
    int error = errno;
    if (!result)
        put(&text);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_and_note(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_and_note(SYS_fdatasync, fd); }
int syncfs(int fd) { return sync_and_note(SYS_syncfs, fd); }

/* -- bytes ------------------------------------------------------------------------------------ */

/* What comes behind all others is no overwriting. */
static void about_to_write(int fd, size_t size, off_t offset)
{
    struct stat status;
    if (!counts(fd, &status) || !S_ISREG(status.st_mode))
        return;
    take_a_call();
    if (!(fcntl(fd, F_GETFL) & O_APPEND))
        note_bytes(fd, &status, offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    about_to_write(fd, size, -1);
    return syscall(SYS_write, fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    about_to_write(fd, size, offset);
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

int ftruncate64(int fd, off_t size)
{
    struct stat status;
    if (counts(fd, &status)) {
        take_a_call();
        note_bytes(fd, &status, size, SIZE_MAX);
    }
    return syscall(SYS_ftruncate, fd, size);
}

/* -- names ------------------------------------------------------------------------------------ */

/* Keep a file whose last name is about to go. Returns its status; inode 0: there is none. */
static struct stat about_to_go(const char *path)
{
    char kept[PATH_MAX + 32];
    struct stat status;
    if (lstat(path, &status))
        status.st_ino = 0;
    else if (status.st_nlink == 1 && !S_ISDIR(status.st_mode)) {
        sprintf(kept, "%s/%lu", gone, status.st_ino);
        syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0);
    }
    return status;
}

static int opened(const char *path, int flags, int mode)
{
    struct stat folder, status;
    const char *name;
    if (!(flags & (O_CREAT | O_TRUNC)) || !in_folder(path, &folder, &name))
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    take_a_call();
    pthread_mutex_lock(&lock);
    int is_there = !lstat(path, &status);
    if (is_there && flags & O_TRUNC && S_ISREG(status.st_mode)) {
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        note_bytes(fd, &status, 0, SIZE_MAX);
        syscall(SYS_close, fd);
    }
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode), error = errno;
    if (fd >= 0 && !is_there && !fstat(fd, &status))
        note("%ld + %lu %lu %s\n", now(), folder.st_ino, status.st_ino, name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return opened(path, flags, mode);
}

int symlink(const char *target, const char *path)
{
    struct stat folder, status;
    const char *name;
    if (!in_folder(path, &folder, &name))
        return syscall(SYS_symlinkat, target, AT_FDCWD, path);
    take_a_call();
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_symlinkat, target, AT_FDCWD, path), error = errno;
    if (!result && !lstat(path, &status))
        note("%ld + %lu %lu %s\n", now(), folder.st_ino, status.st_ino, name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int unlink(const char *path)
{
    struct stat folder;
    const char *name;
    if (!in_folder(path, &folder, &name))
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    take_a_call();
    pthread_mutex_lock(&lock);
    struct stat status = about_to_go(path);
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0), error = errno;
    if (!result)
        note("%ld - %lu %lu %s\n", now(), folder.st_ino, status.st_ino, name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *old, const char *new)
{
    struct stat folder, status;
    const char *name, *other;
    if (!in_folder(new, &folder, &other) || !in_folder(old, &folder, &name))
        return syscall(SYS_renameat, AT_FDCWD, old, AT_FDCWD, new);
    take_a_call();
    pthread_mutex_lock(&lock);
    about_to_go(new);
    int result = syscall(SYS_renameat, AT_FDCWD, old, AT_FDCWD, new), error = errno;
    if (!result && !lstat(new, &status))
        note("%ld R %lu %lu %s %s\n", now(), folder.st_ino, status.st_ino, name, other);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

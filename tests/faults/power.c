/*
 * A journal of what was put on disk, for LD_PRELOAD.
 *
 * After each successful sync its lines go to the file named by POWER_JOURNAL, in one write:
 *
 *     <ns> F <inode> <size>                          of a file, as large as when its sync began
 *     <ns> D <inode> <name> <inode> <name> ...       of a folder, with what was in it by then
 *
 * A `syncfs` of a folder has a line for the folder, and one for each channel file in it. The
 * nanoseconds are when the sync began: a sync that ends later may have begun earlier, and then
 * what it has put on disk is not the newest.
 *
 * With it the test can take away everything else, as a power cut may.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* while it is seen what there is */

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWER_JOURNAL");
    if (path)
        journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

struct text { size_t used; char bytes[1 << 18]; };

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
        if (entry->d_name[0] != '.')
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
    if (journal >= 0 && !fstat(fd, &status)) {
        struct timespec now;
        pthread_mutex_lock(&lock);
        clock_gettime(CLOCK_MONOTONIC, &now);
        long began = now.tv_sec * 1000000000 + now.tv_nsec;
        if (S_ISDIR(status.st_mode))
            note_folder(&text, began, fd, call == SYS_syncfs);
        else if (S_ISREG(status.st_mode) && call != SYS_syncfs && !fstat(fd, &status))
            note_file(&text, began, &status);
        pthread_mutex_unlock(&lock);
    }
    int result = syscall(call, fd);
    int error = errno;
    if (!result && text.used)
        syscall(SYS_write, journal, text.bytes, text.used);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_and_note(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_and_note(SYS_fdatasync, fd); }
int syncfs(int fd) { return sync_and_note(SYS_syncfs, fd); }

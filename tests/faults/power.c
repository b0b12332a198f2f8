/*
 * A journal of what was put on disk, for LD_PRELOAD.
 *
 * After each successful sync one line goes to the file named by POWER_JOURNAL, in one write:
 *
 *     F <inode> <size>                          of a file, as large as when its sync began
 *     D <inode> <name> <inode> <name> ...       of a folder, with what was in it by then
 *
 * With it the test can take away everything else, as a power cut may.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int journal = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWER_JOURNAL");
    if (path)
        journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* Append the folder's entries to the line. */
static size_t list(int fd, char *line, size_t used, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)) && used + 300 < room)
        if (entry->d_name[0] != '.')
            used += snprintf(line + used, room - used, " %s %lu", entry->d_name, entry->d_ino);
    if (folder)
        closedir(folder);
    return used;
}

static int sync_and_note(int call, int fd)
{
    static __thread char line[1 << 18];
    size_t used = 0;
    struct stat status;
    if (journal >= 0 && !fstat(fd, &status)) {
        if (S_ISREG(status.st_mode))
            used = snprintf(line, sizeof line, "F %lu %ld", status.st_ino, status.st_size);
        else if (S_ISDIR(status.st_mode)) {
            used = snprintf(line, sizeof line, "D %lu", status.st_ino);
            used = list(fd, line, used, sizeof line);
        }
    }
    int result = syscall(call, fd);
    int error = errno;
    if (!result && used) {
        line[used++] = '\n';
        syscall(SYS_write, journal, line, used);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return sync_and_note(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_and_note(SYS_fdatasync, fd); }

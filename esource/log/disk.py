"""What is asked of the disk: flags, syncs, where whole rows end, and a copy of what is cut off."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from esource.errors import StorageError, StorageFull

# A FIFO must not block the open; a symbolic link may lead out of the folder.
FLAGS = os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FILE_MODE = 0o640  # events may be private; the group is for backups
CHUNK = 1 << 16
LOCK_SECONDS = 5.0  # for which a file's lock is waited for: it is held for a sync or two
LOCK_POLL_SECONDS = 0.005
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, STATX_BTIME = -100, 0x100, 0x1000, 0x800  # of Linux
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # what a file says that may only be read

# Only the data and the size need to be on disk, not the times (macOS has no fdatasync).
sync = getattr(os, "fdatasync", os.fsync)
_statx = getattr(ctypes.CDLL(None), "statx", None)  # for which Python has no name


def whole_rows(fd: int, start: int, end: int) -> int:
    """Return where the last whole row between two offsets ends, or `start`. Raises `OSError`."""
    while end > start:
        chunk_start = max(end - CHUNK, start)
        newline = os.pread(fd, end - chunk_start, chunk_start).rfind(b"\n")
        if newline >= 0:
            return chunk_start + newline + 1
        end = chunk_start
    return start


def overwrite(fd: int, offset: int, data: bytes) -> None:
    """Put bytes into a file that was opened to append, at an offset. Raises `OSError`."""
    fcntl.fcntl(fd, fcntl.F_SETFL, FLAGS & ~os.O_APPEND)  # or Linux would append them
    try:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, offset)
            offset, rest = offset + written, rest[written:]
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, FLAGS)


def birth(file: int | Path) -> int:
    """Return when a file was made, in ns since 1970; 0 where that is not known."""
    status = ctypes.create_string_buffer(256)  # struct statx
    which = (file, b"", AT_EMPTY_PATH)
    if isinstance(file, Path):
        which = (AT_FDCWD, os.fsencode(file), AT_SYMLINK_NOFOLLOW)
    if _statx is None or _statx(*which, STATX_BTIME, status):
        return 0
    seconds, ns = struct.unpack_from("=qI", status, 80)
    return int(seconds * 10**9 + ns)


def generation(fd: int, rows: bytes) -> str:
    """Return what tells a file from others of its name: an inode comes back, and a row may, too.

    `rows` are those at its beginning; hexadecimal digits, or nothing without a row.
    """
    if not rows:
        return ""
    name = b"%d %d %b" % (birth(fd), os.fstat(fd).st_ino, rows.partition(b"\n")[0])
    return blake2b(name, digest_size=6).hexdigest()


def lock(fd: int, seconds: float = 0.0) -> bool:
    """Take a file's `flock`, for which it waits so many seconds; return whether it is taken."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return True


def unlock(fd: int) -> None:
    """Let go of a file's `flock`."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def made_like(status: os.stat_result) -> Iterator[None]:
    """Let what is made meanwhile have the owner, the group and at most the mode of another file.

    That is for commands that root runs beside a hub of another user. It is of the whole process,
    and so for one without threads. For anybody but root the owner stays who runs it.
    """
    user, group = os.geteuid(), os.getegid()
    umask = os.umask(0o777 & ~stat.S_IMODE(status.st_mode))
    try:
        if user == 0:
            os.setegid(status.st_gid)
            os.seteuid(status.st_uid)
        yield
    finally:
        if user == 0:
            os.seteuid(user)
            os.setegid(group)
        os.umask(umask)


def save_aside(fd: int, start: int, end: int, path: Path) -> Path:
    """Copy bytes of the file at `path` to a new file next to it; return its path.

    It is on disk on return, its name included. Raises `OSError`, and then there is no copy.
    """
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
    saved = path.with_name(f"{path.name}.torn-{stamp}")
    copy_fd = os.open(saved, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE)
    try:
        with open(copy_fd, "wb") as copy:
            while start < end and (piece := os.pread(fd, min(end - start, CHUNK), start)):
                start += copy.write(piece)
            copy.flush()
            os.fsync(copy_fd)
        sync_folder(path.parent)
    except OSError:
        saved.unlink()
        raise
    return saved


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: a file whose name is lost is lost."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def storage_error(verb: str, path: Path, error: OSError) -> StorageError:
    """Return what a failed call of the system is to a publisher or a reader."""
    if error.errno == errno.ELOOP:
        return StorageError(f"{path.name} is a symbolic link; the hub follows none")
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"cannot {verb} {path.name}: {error.strerror or error}")

"""Events whose type and data were overwritten, and the record of that, beside a channel's files.

    orders.erasures    a line of JSON each, never changed:
    {"step": "begun", "at": "2026-01-31T10:00:00Z", "offset": 120, "size": 44,
     "modified": 1769853600000000000, "by": "root", "reason": "a request of …", "id": "7"}
    {"step": "done", "at": "2026-01-31T10:00:00Z", "offset": 120, "bytes": 4096, "sha256": "…"}

Each step is on disk before the next one: the line `begun`; the bytes, and the time of the file; its
index, which goes; the line `done`, with the SHA-256 of the file's first `bytes`. Nothing of what
was there is in them. So what was begun can be finished, at the next erasure or by the next hub,
which has the folder to itself as well: `finish`. If the row has gone, the line is `gone`.

All calls block, and raise `OSError`.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from esource.errors import StorageError
from esource.log import NAME, disk, reading, segments
from esource.log.disk import FILE_MODE, FLAGS
from esource.rows import tsv

logger = logging.getLogger(__name__)

SUFFIX = ".erasures"


class Erasure(NamedTuple):
    """An event that is to be overwritten."""

    id: bytes
    offset: int  # of its row, in the history
    size: int  # bytes of its row
    modified: int  # the time of its file, in ns since 1970, which stays
    is_done: bool = False  # it is overwritten already


def record_of(plain: Path) -> Path:
    """Return the path of the record of a channel, of which `plain` is the one file, or the link."""
    return plain.with_suffix(SUFFIX)


def mark(plain: Path) -> str:
    """Return hexadecimal digits that are others after each erasure in a channel; none before."""
    try:
        size = os.lstat(record_of(plain)).st_size
    except FileNotFoundError:
        size = 0
    return f"{size:x}" if size else ""


def find(folder: Path, channel: str, id: bytes) -> Iterator[Erasure]:
    """Yield all events that have an id, as what is to be erased.

    All files of the channel are read, also those before a gap; not what is late in them.
    """
    for start, stop, path in segments.spans(folder, channel):
        fd = os.open(path, os.O_RDONLY | FLAGS)
        try:
            status = os.fstat(fd)
            length = status.st_size if stop is None else stop - start
            for offset, rows in reading.stretches(fd, length):
                begin = 0 if start or offset else tsv.mark_bytes(rows)
                for place, size in tsv.of_id(rows[begin:], id):
                    at = begin + place
                    is_done = rows[at : at + size] == tsv.erased(id, size)
                    yield Erasure(id, start + offset + at, size, status.st_mtime_ns, is_done)
        finally:
            os.close(fd)


def erase(
    folder: Path, channel: str, erasures: Sequence[Erasure], by: str, reason: str
) -> list[Path]:
    """Erase events, for a reason; return the files that were changed. All is on disk on return.

    The folder is the caller's alone, and what was begun before is finished.
    """
    begun = []
    for each in erasures:
        file = _file_of(segments.files(folder, channel), each)
        assert file
        os.close(os.open(file[1], os.O_RDWR | FLAGS))  # if this cannot be, nothing is begun
        id = each.id.decode(errors="surrogateescape")
        about = {"by": by, "reason": reason, "id": id}
        begun.append(_line("begun", each.offset, size=each.size, modified=each.modified, **about))
    _record(folder, channel, begun)
    return complete(folder, channel, erasures)


def pending(folder: Path, channel: str) -> list[Erasure]:
    """Return what was begun and is not done, in the order of offsets. Foreign lines are nothing."""
    try:
        fd = os.open(record_of(segments.plain_path(folder, channel)), os.O_RDONLY | FLAGS)
    except FileNotFoundError:
        return []
    found = {}
    with open(fd, "rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):  # half a line was not synced
                entry: dict[str, Any] = json.loads(line)
                offset = int(entry["offset"])
                if entry["step"] == "begun":
                    id = str(entry["id"]).encode(errors="surrogateescape")
                    size, modified = int(entry["size"]), int(entry["modified"])
                    found[offset] = Erasure(id, offset, size, modified)
                else:
                    found.pop(offset, None)
    return [found[offset] for offset in sorted(found)]


def complete(folder: Path, channel: str, erasures: Sequence[Erasure]) -> list[Path]:
    """Do what was recorded as begun, again or for the first time; return the files changed."""
    changed = []
    for file, group in groupby(erasures, partial(_file_of, segments.files(folder, channel))):
        left = list(group)
        if file:
            start, path = file
            done, about = _overwritten(start, path, left)
            segments.remove_index(path)  # it has the types of the events
            disk.sync_folder(folder)
            if done:
                changed.append(path)
                _record(folder, channel, [_line("done", offset, **about) for offset in done])
            left = [each for each in left if each.offset not in done]
        _record(folder, channel, [_line("gone", each.offset) for each in left])
    return changed


def _file_of(files: Sequence[tuple[int, Path]], erasure: Erasure) -> tuple[int, Path] | None:
    """Return (offset, path) of the file that has the row; None if its rows are gone."""
    return max((file for file in files if file[0] <= erasure.offset), default=None)


def _line(step: str, offset: int, **about: object) -> dict[str, object]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"step": step, "at": now, "offset": offset, **about}


def _overwritten(
    start: int, path: Path, erasures: Sequence[Erasure]
) -> tuple[list[int], dict[str, object]]:
    """Overwrite rows of a file that begins at `start`; (the offsets of those, its digest then)."""
    fd = os.open(path, os.O_RDWR | FLAGS & ~os.O_APPEND)
    try:
        status = os.fstat(fd)
        done = [each.offset for each in erasures if _overwrite(fd, each.offset - start, each)]
        if done:
            with suppress(PermissionError):  # the time is its owner's to set
                os.utime(fd, ns=(status.st_atime_ns, erasures[0].modified))
            os.fsync(fd)
        size, digest = 0, sha256()
        while block := os.pread(fd, reading.BLOCK_BYTES, size):
            digest.update(block)
            size += len(block)
        return done, {"bytes": size, "sha256": digest.hexdigest()}
    finally:
        os.close(fd)


def finish(folder: Path) -> None:
    """Finish what was begun in a folder, which is the caller's alone. What fails is logged."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(SUFFIX)]
    for name in sorted(names):
        channel = name.removesuffix(SUFFIX)
        if not NAME.fullmatch(channel):
            continue
        try:
            if erasures := pending(folder, channel):
                complete(folder, channel, erasures)
                logger.warning("%s: finished %d erasures that were begun", channel, len(erasures))
        except (OSError, StorageError) as error:
            logger.critical("%s: an erasure was begun and cannot be finished: %s", channel, error)


def _overwrite(fd: int, place: int, erasure: Erasure) -> bool:
    """Overwrite what is behind the id of a row; return whether such a row is there.

    It may be overwritten in part already.
    """
    new, behind = tsv.erased(erasure.id, erasure.size), len(erasure.id) + 1
    old = os.pread(fd, erasure.size, place)
    is_there = len(old) == len(new) and (old[:behind], old[-1:]) == (new[:behind], b"\n")
    if is_there and old.count(b"\n") == 1:
        os.pwrite(fd, new[behind:], place + behind)
        return True
    return False


def _record(folder: Path, channel: str, lines: Sequence[dict[str, Any]]) -> None:
    """Append lines to the record; they are on disk on return. If that fails, none is there."""
    path = record_of(segments.plain_path(folder, channel))
    if not lines:
        return
    like = path if path.exists() else segments.files(folder, channel)[-1][1]
    with disk.made_like(os.lstat(like)):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, FILE_MODE)
    size = os.fstat(fd).st_size
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if size and os.pread(fd, 1, size - 1) != b"\n":
        text = b"\n" + text  # behind half a line, which is none
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(text)
        os.fsync(fd)
        disk.sync_folder(folder)
    except OSError:
        os.ftruncate(fd, size)
        raise
    finally:
        os.close(fd)

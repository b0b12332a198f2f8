"""What commands do on an engine, and `esource import` and `export` between one and a folder."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from esource.check import Finding, Ids
from esource.command.command import Command, folder_of, say
from esource.config import Config
from esource.errors import Conflict, EsourceError, Missing, StartError, StorageError
from esource.log import Log
from esource.log.engines import EngineLogs, logs_of
from esource.log.erasures import Erasure
from esource.rows import tsv
from esource.rules import Rule

IMPORT = """\
Copy channels of DIR to the engine of ESOURCE_STORE: all of them, or those that are named. Byte
for byte, at the same offsets, rows that are no events included, with the times of the files.
DIR must not be held by a hub; on the engine hubs may run. A channel that is there already is
compared, and gets what it lacks: so an import that was broken off goes on. If it has other
rows, that is said, and nothing of it is changed. A line for each: its bytes, their SHA-256.

  ESOURCE_STORE=postgresql://db/esource esource import --dir /srv/events
"""
EXPORT = """\
Copy channels of the engine of ESOURCE_STORE to DIR: all of them, or those that are named. Byte
for byte, at the same offsets, as files that a hub takes up. Files that are there stay, and
that is an error. On return the files are on disk. A line for each: its bytes, their SHA-256.

  ESOURCE_STORE=postgresql://db/esource esource export --dir /srv/copy
"""
FOLDER = "the folder of the channel files"
PIECE_BYTES = 4 << 20


@contextmanager
def engine() -> Iterator[EngineLogs]:
    """Give the engine of ESOURCE_STORE, with its tables. Raises `StartError`."""
    config = Config.from_env(os.environ)
    if not config.store:
        raise StartError("ESOURCE_STORE is not set: it names the engine")
    logs = logs_of(config.store, config.store_timeout, config.keep)
    try:
        logs.hold(lambda: None)
        yield logs
    finally:
        logs.close()


def pieces(log: Log, start: int, stop: int) -> Iterator[bytes]:
    """Yield the rows between two offsets, whole rows at a time; raise if some are gone."""
    while start < stop:
        rows = log.read(start, PIECE_BYTES, stop)
        if not rows:
            raise StorageError(f"{log.name} has lost rows at byte {start}")
        yield rows
        start += len(rows)


# -- between an engine and a folder ------------------------------------------------------------


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("channels", nargs="*", metavar="CHANNEL", help="default: all of them")
    parser.add_argument(
        "--dir", dest="folder", type=Path, required=True, metavar="DIR", help=FOLDER
    )


def _import(options: argparse.Namespace) -> int:
    from esource.command.histories import held
    from esource.log.folder import Folder, channel_names

    folder = held(options)
    there = sorted(channel_names(folder))
    with engine() as logs:
        return _each(
            _wanted(options.channels, there),
            lambda name: _import_one(folder, name, Folder(folder).open(name), logs),
        )


def _wanted(named: list[str], there: list[str]) -> list[str]:
    if missing := sorted(set(named) - set(there)):
        raise Missing(f"there is no channel {', '.join(missing)}")
    return named or there


def _each(names: Iterable[str], copy: Callable[[str], tuple[int, str]]) -> int:
    """Copy each channel, and say so; return the exit code."""
    failed = 0
    for name in names:
        try:
            size, digest = copy(name)
        except EsourceError as error:
            failed += 1
            say(f"esource: {name}: {error}", sys.stderr)
        else:
            say(f"{name}: {size} bytes, sha256 {digest}")
    return 1 if failed else 0


def _import_one(folder: Path, name: str, source: Log, logs: EngineLogs) -> tuple[int, str]:
    """Copy what the engine lacks of a channel; return how many bytes it is, and their SHA-256."""
    from esource.log import segments

    log = logs.open(name)
    if not log.end and source.start:
        logs.create(name, source.start)
        log = logs.open(name)
    if (log.start, source.start) != (source.start, log.start) or log.end > source.end:
        raise Conflict("the engine has other rows of that name; nothing of it was changed")
    digest = sha256()
    at = source.start
    for rows in pieces(source, source.start, log.end):
        if log.pread(at, len(rows)) != rows:
            raise Conflict("the engine has other rows of that name; nothing of it was changed")
        digest.update(rows)
        at += len(rows)
    for rows in pieces(source, at, source.end):
        log.append(at, [rows])
        digest.update(rows)
        at += len(rows)
    if log.end != source.end:
        raise Conflict("somebody else has appended to it meanwhile")
    for start, stop, path in segments.spans(folder, name):
        end = source.end if stop is None else stop
        if end > source.start:
            logs.date(name, start, end, path.stat().st_mtime)
    return at - source.start, digest.hexdigest()


def _export(options: argparse.Namespace) -> int:
    folder = folder_of(options)
    with engine() as logs:
        return _each(
            _wanted(options.channels, logs.names()),
            lambda name: _export_one(folder, name, logs.open(name)),
        )


def _export_one(folder: Path, name: str, log: Log) -> tuple[int, str]:
    from esource.log import disk, segments

    if segments.files(folder, name):
        raise Conflict(f"there are files of it in {folder} already")
    path = segments.plain_path(folder, name)
    if log.start:
        path = segments.path_of(folder, name, log.start)
    new, digest = path.with_name(f".{path.name}.export"), sha256()
    try:
        with open(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, disk.FILE_MODE), "wb"
        ) as file:
            for rows in pieces(log, log.start, log.end):
                file.write(rows)
                digest.update(rows)
            file.flush()
            os.utime(new, (log.modified, log.modified))
            os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
    if log.start:
        segments.link(folder, name, log.start)
    disk.sync_folder(folder)
    return log.end - log.start, digest.hexdigest()


# -- on an engine ------------------------------------------------------------------------------


def trim(channel: str, rule: Rule, *, dry_run: bool) -> int:
    """Remove the oldest rows that a rule need not keep; return the exit code.

    With `dry_run` only say how many bytes they are.
    """
    with engine() as logs:
        _there(logs, channel)
        if dry_run:
            print(f"{channel}: would remove {logs.trimmable(channel, rule)} bytes")
            return 0
        size = 0
        while removed := logs.trim(channel, rule):
            size += removed
        print(f"{channel}: removed {size} bytes")
    return 0


def remove(channel: str) -> int:
    """Remove a channel; return the exit code."""
    with engine() as logs:
        log = _there(logs, channel)
        logs.remove(channel)
        print(f"{channel}: removed {log.end - log.start} bytes")
    return 0


def erase(channel: str, id: bytes, at: int | None, is_all: bool, by: str, reason: str) -> int:
    """Overwrite events; return the exit code."""
    from esource.command.histories import chosen

    with engine() as logs:
        log = _there(logs, channel)
        wanted = chosen(_found(log, id), channel, id, at, is_all)
        for each in wanted:
            logs.erase(channel, each.offset, tsv.erased(id, each.size), by, reason)
        if wanted:
            say(f"{channel}: erased {len(wanted)} events with the id {os.fsdecode(id)}")
            say("not reached: backups, dumps, archived WAL, clients that have it")
    return 0


def _found(log: Log, id: bytes) -> Iterator[Erasure]:
    """Yield all events that have an id. Reads all rows."""
    offset = log.begin
    for rows in pieces(log, log.begin, log.end):
        for place, size in tsv.of_id(rows, id):
            is_done = rows[place : place + size] == tsv.erased(id, size)
            yield Erasure(id, offset + place, size, 0, is_done)
        offset += len(rows)


def check(log: Log) -> Iterator[Finding]:
    """Yield what is wrong with the rows of a channel. Reads all of them."""
    line, ids = 1, Ids()
    try:
        for rows in pieces(log, log.begin, log.end):
            yield from ids.wrong_rows(log.name, line, rows)
            line += rows.count(b"\n")
    except StorageError as error:
        yield Finding(log.name, line, "gap", error.text)


def _there(logs: EngineLogs, channel: str) -> Log:
    log = logs.open(channel)
    if not log.end:
        raise Missing(f"there is no channel {channel}")
    return log


COMMANDS = (
    Command(
        "import", "--dir DIR [CHANNEL…]", "copy channels of a folder to the engine",
        IMPORT, _add, _import,
    ),
    Command(
        "export", "--dir DIR [CHANNEL…]", "copy channels of the engine to a folder",
        EXPORT, _add, _export,
    ),
)  # fmt: skip

"""`esource rotate`, `trim`, `join`, `rm` and `erase`: the files of one channel."""

import argparse
import os
import pwd
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from esource.command.command import Command, channel_of, folder_of, is_for_engine, say
from esource.errors import Conflict, Missing
from esource.rules import Rule, amount

if TYPE_CHECKING:
    from esource.log.erasures import Erasure

ROTATE = """\
Close the file of CHANNEL that grows, beside a running hub or without one. What comes next is
in a new file, a segment, which is named by the offset of its first byte; the one file of a
channel becomes its first segment. No event is lost, no offset, id or place changes, and
followers notice nothing. On return both files are on disk. If the file has no rows, nothing
is done.

  esource rotate orders
"""
TRIM = """\
Remove the oldest closed files of CHANNEL, beside a running hub or without one: those of which
all events are older than AGE (in h d w y), or without which the channel still has SIZE (in
M G T). The file that grows stays: `esource rotate` closes it. On return they are gone from
the disk. Who asks for what is gone is told so (Esource-Resume: trimmed).

  esource trim orders --older-than 90d --dry-run
"""
JOIN = """\
Make one file, CHANNEL.tsv, of all segments of CHANNEL: before going back to an older version,
or once the channel has no rule in ESOURCE_KEEP any more. The folder must not be held by a hub.
On return the file is on disk, and the segments are gone; until then both take space. After a
crash all is there, and the same command, or the next start of the hub, goes on.

Ids are as before. Offsets are, too, unless the oldest events have been removed: the file then
begins with the first that is kept, and a copy of what was there before (curl -C -) must be
begun anew. Places (@…) and ETags are others.

  systemctl stop esource && esource join orders && systemctl start esource
"""
RM = """\
Remove CHANNEL: all its files, the link, the indexes. The folder must not be held by a hub. On
return they are gone from the disk. What is no part of the channel stays, and is named: the
record of its erasures, and copies of torn rows.

  systemctl stop esource && esource rm orders && systemctl start esource
"""
ERASE = """\
Overwrite type and data of the event of CHANNEL with an ID by `erased` and spaces. The row
keeps its length and its place, the file its time: no id, offset or cursor changes (but places
in a file whose first event it is). The ETag does. If several events have the ID, nothing is
done, and their offsets are listed.

Who, when, the reason, ID and place are recorded in CHANNEL.erasures first, and afterwards the
SHA-256 of the file; nothing of what was there. All is on disk on return. After a crash the
next start of the hub, or the next erasure, finishes what was begun. The folder must not be
held by a hub, since that may be sending the bytes: stop it for two seconds. (Under systemd's
socket nobody is refused meanwhile.)

It cannot reach backups, archives, snapshots, and clients that have the event. Files with
other hard links (cp -al) are named: these are the same bytes, and are changed as well.

  systemctl stop esource
  esource erase orders 17 --reason 'request of 12 May'
  systemctl start esource
"""
FOLDER = "the folder of the channel files (default: ESOURCE_DIR, or events)"
SHOWN = 20  # offsets


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("channel", metavar="CHANNEL")
    parser.add_argument("--dir", dest="folder", type=Path, metavar="DIR", help=FOLDER)


def _rotate(options: argparse.Namespace) -> int:
    from esource.log import history

    channel = channel_of(options)
    rotated = history.rotate(folder_of(options), channel)
    if rotated:
        old, new = rotated
        print(f"{channel}: closed {old.name}; what comes is in {new.name}")
    else:
        print(f"{channel}: nothing to close, the file that grows has no rows")
    return 0


def _add_trim(parser: argparse.ArgumentParser) -> None:
    _add(parser)
    condition = parser.add_mutually_exclusive_group(required=True)
    condition.add_argument(
        "--older-than", dest="age", type=_amount_of("age"), metavar="AGE",
        help="remove files of which every event is older, such as 90d",
    )  # fmt: skip
    condition.add_argument(
        "--larger-than", dest="size", type=_amount_of("size"), metavar="SIZE",
        help="remove files without which the channel still has that size, such as 10G",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")


def _amount_of(key: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            return amount(key, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _trim(options: argparse.Namespace) -> int:
    from esource.log import history

    channel = channel_of(options)
    rule = Rule("*", options.age, options.size)
    if is_for_engine(options):
        from esource.command import engines

        return engines.trim(channel, rule, dry_run=options.dry_run)
    gone = history.trim(
        folder_of(options), channel, rule, time.time(), dry_run=options.dry_run
    )  # fmt: skip
    verb = "would remove" if options.dry_run else "removed"
    for segment in gone:
        print(f"{verb} {segment.path.name}, {segment.size} bytes")
    print(f"{channel}: {verb} {len(gone)} files, {sum(each.size for each in gone)} bytes")
    return 0


def _join(options: argparse.Namespace) -> int:
    from esource.log import history

    channel, folder = channel_of(options), held(options)
    joined = history.join(folder, channel)
    if not joined:
        print(f"{channel}: is one file already")
        return 0
    print(f"{channel}: all of it is in {joined.path.name} now, {joined.size} bytes")
    if joined.start:
        print(f"{channel}: its first byte was at offset {joined.start}, and is at 0 now")
    return 0


def _rm(options: argparse.Namespace) -> int:
    from esource.log import history

    channel = channel_of(options)
    if is_for_engine(options):
        from esource.command import engines

        return engines.remove(channel)
    folder = held(options)
    removed = history.remove(folder, channel)
    print(f"{channel}: removed {len(removed)} files")
    if left := _others(folder, channel):
        say(f"not removed: {', '.join(left)}")
    return 0


def _add_erase(parser: argparse.ArgumentParser) -> None:
    _add(parser)
    parser.add_argument("id", metavar="ID", help="of the event; may be empty with --at")
    parser.add_argument("--reason", required=True, type=_reason, metavar="TEXT", help="why; kept")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--at", type=int, metavar="OFFSET", help="the one that is at this offset")
    which.add_argument("--all", action="store_true", help="all events with this id")


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the reason is empty")
    return text


def _erase(options: argparse.Namespace) -> int:
    from esource.log import erasures, history

    channel, id, at = channel_of(options), os.fsencode(options.id), options.at
    if not id and at is None:
        raise Missing("the ID is empty; an event without an id is named by --at OFFSET")
    if is_for_engine(options):
        from esource.command import engines

        return engines.erase(channel, id, at, options.all, _user(), options.reason)
    folder = held(options)
    history.settle(folder, channel)
    found = erasures.find(folder, channel, id)
    wanted = chosen(found, channel, id, at, options.all)
    if not wanted:
        return 0
    changed = erasures.erase(folder, channel, wanted, _user(), options.reason)
    say(f"{channel}: erased {len(wanted)} events with the id {options.id}")
    for path in changed:
        if (links := path.stat().st_nlink) > 1:
            print(f"{path.name} has {links - 1} more hard links (cp -al?), which are changed, too")
    others = _others(folder, channel)
    say(
        "not reached: " + ", ".join(["backups, archives, snapshots, clients that have it", *others])
    )
    return 0


def chosen(
    found: Iterable["Erasure"], channel: str, id: bytes, at: int | None, is_all: bool
) -> list["Erasure"]:
    """Return which of the events with an id are to be erased; none: that they are is said.

    Only the one `at` an offset counts, if that is given. Raises `Missing`, and `Conflict` if they
    are several, and not all are meant.
    """
    found = [each for each in found if at is None or each.offset == at]
    wanted, shown = [each for each in found if not each.is_done], os.fsdecode(id)
    if not found:
        where = f"{channel} at offset {at}" if at is not None else channel
        raise Missing(f"there is no event with the id {shown} in {where}")
    if len(wanted) > 1 and not is_all:
        offsets = ", ".join(str(each.offset) for each in wanted[:SHOWN])
        more = ", …" if len(wanted) > SHOWN else ""
        raise Conflict(
            f"{len(wanted)} events of {channel} have the id {shown}, at {offsets}{more}; "
            "say which with --at OFFSET, or --all"
        )
    if not wanted:
        say(f"{channel}: {shown} is erased already")
    return wanted


def held(options: argparse.Namespace) -> Path:
    """Return the folder, which no hub has; what was begun in it is finished."""
    from esource.log import erasures, history
    from esource.log.lock import hold

    folder = folder_of(options)
    hold(folder)
    history.finish(folder)
    erasures.finish(folder)
    return folder


def _others(folder: Path, channel: str) -> list[str]:
    """Return the names of what is beside a channel's files, and no part of it."""
    from esource.log import segments

    paths = [path for _, path in segments.files(folder, channel)]
    names = {each.name for path in paths for each in (path, *segments.indexes(path))}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.startswith(f"{channel}.") and entry.name not in names
        if not entry.is_symlink()
    )


def _user() -> str:
    """Return who runs this, for a record: root may do so for somebody else."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{name} ({behind})" if behind else name


COMMANDS = (
    Command(
        "rotate", "[--dir DIR] CHANNEL",
        "close the file of a channel that grows, and begin the next one", ROTATE, _add, _rotate,
    ),
    Command(
        "trim", "[--dir DIR] (--older-than AGE | --larger-than SIZE) [--dry-run] CHANNEL",
        "remove the oldest closed files of a channel", TRIM, _add_trim, _trim,
    ),
    Command(
        "join", "[--dir DIR] CHANNEL",
        "make one file of a channel's segments again", JOIN, _add, _join,
    ),
    Command("rm", "[--dir DIR] CHANNEL", "remove a channel", RM, _add, _rm),
    Command(
        "erase", "[--dir DIR] CHANNEL ID --reason TEXT [--at OFFSET | --all]",
        "overwrite the type and the data of an event", ERASE, _add_erase, _erase,
    ),
)  # fmt: skip

"""`esource check` and `esource repair`: all channels of a folder."""

import argparse
import json
import sys
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from esource.command.command import Command, folder_of, is_for_engine, say
from esource.errors import EsourceError

if TYPE_CHECKING:
    from esource.check import Finding

CHECK = """\
Read all channel files of DIR and say, a line each, what is wrong with them:

  torn       the last row has no end: a write was cut off (repair, or the hub, sees to it)
  malformed  a row is no event: it has fewer than two tabs
  order      a default id is not greater than one before it
  repeated   an id stands there twice
  changed    rows are not those that the index was made of: a disk's error, or an editor
  gap        a segment is missing or too short: the history begins after it
  late       a program has written into a segment after it was closed
  link       CHANNEL.tsv does not lead to the segment that grows
  erasure    one was begun, and the machine failed; the next start of the hub finishes it

Nothing is changed or locked, so it may be done beside a running hub. A large file is read
block by block.

With --against DIR is held to be a copy of what the hub at URL has, and is compared with that, by
SHA-256 if both are equally long and the hub knows its own, else by reading both:

  missing    the hub has a channel, or bytes, that the copy has not
  more       the copy has bytes that the hub has not
  differs    they are not the same from some byte on; the file and the MiB are named

What a hub has removed from its front (retention) is not compared, and not missing.

  esource check /srv/backup/esource --against https://hub.example.org
"""
REPAIR = """\
Cut off the torn last row of each channel file of DIR, as the hub does when it opens a file.
The file as it was is copied to FILE.before-repair-TIME first. Nothing else is changed. The
folder must not be held by a hub.
"""
FOLDER = "the folder of the channel files (default: ESOURCE_DIR, or events)"
SHOWN = 20  # findings of one file; more are counted


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help=FOLDER)


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, of everything")
    parser.add_argument("--against", type=_url, metavar="URL", help="a hub to compare with")
    parser.add_argument(
        "-H", dest="headers", action="append", default=[], type=_field, metavar="'NAME: VALUE'",
        help="a header for that hub, or the gateway before it; may be repeated",
    )  # fmt: skip


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no http:// or https:// URL")
    return text.rstrip("/")


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not 'NAME: VALUE'")
    return name.strip(), value.strip()


def _check(options: argparse.Namespace) -> int:
    from esource import check
    from esource.command.against import Hub, compare
    from esource.log import segments

    report = _Report(options.json)
    if is_for_engine(options) and not options.against:
        from esource.command import engines

        with engines.engine() as logs:
            for channel in logs.names():
                report.add(channel, [channel], engines.check(logs.open(channel)))
        return report.end("channel")
    folder = folder_of(options)
    progress = _Progress()
    channels = check.channels(folder)
    hub = Hub(options.against, dict(options.headers)) if options.against else None
    there = hub.channels() if hub else {}
    known = segments.offsets(folder)
    for channel in sorted({*channels, *there}):
        found = check.check(folder, channel, progress, known)
        if hub:
            found = chain(found, compare(folder, channel, hub, progress, known))
        names = [path.name for _, path in segments.files(folder, channel, known)]
        report.add(channel, names, found)
    return report.end("file")


class _Report:
    """What was found, printed line by line as it is found, or in the end as JSON."""

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._names: set[str] = set()
        self._wholes: set[str] = set()  # channels of which something is wrong that is no file's
        self._findings: list[Finding] = []

    def add(self, channel: str, names: Collection[str], found: Iterable["Finding"]) -> None:
        """Take what is wrong with a channel, which has these files."""
        self._names.update(names)
        shown = 0
        for finding in found:
            shown += 1
            self._findings.append(finding)
            if finding.file not in names:
                self._wholes.add(channel)
            if shown <= SHOWN and not self._is_json:
                line = f", line {finding.line}" if finding.line else ""
                say(f"{finding.file}{line}: {finding.text}")
        if shown > SHOWN and not self._is_json:
            say(f"{channel}: {shown - SHOWN} more")

    def end(self, what: str) -> int:
        """Print the sum of all; return the exit code."""
        if self._is_json:
            findings = [finding._asdict() for finding in self._findings]
            print(json.dumps({f"{what}s": len(self._names), "findings": findings}, indent=1))
        else:
            wrong = len(self._names & {finding.file for finding in self._findings})
            counted = f"{_number(len(self._names), what)}, {wrong} of them with something wrong"
            if self._wholes:
                counted += f"; and {_number(len(self._wholes), 'channel')} as a whole"
            print(counted)
        return 1 if self._findings else 0


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Progress:
    """A line on a terminal that says how far a large file has been read."""

    def __init__(self) -> None:
        self.shown: tuple[Path, int] | None = None

    def __call__(self, path: Path, done: int, size: int) -> None:
        if size < 1 << 26 or not sys.stderr.isatty():
            return
        percent = done * 100 // size
        if (path, percent) != self.shown:
            self.shown = path, percent
            end = "\n" if done >= size else ""
            print(f"\r{path.name} {percent} %", end=end, file=sys.stderr, flush=True)


def _repair(options: argparse.Namespace) -> int:
    from esource import check
    from esource.log.lock import hold

    folder = folder_of(options)
    hold(folder)
    paths = check.repairable(folder)
    repaired = failed = 0
    for path in paths:
        try:
            copy = check.repair(path)
        except EsourceError as error:
            failed += 1
            say(f"esource: {error}", sys.stderr)
            continue
        if copy:
            repaired += 1
            say(f"{path.name}: cut off a torn row; as it was before, it is in {copy.name}")
    print(f"{_number(len(paths), 'file')}, {repaired} repaired")
    return 1 if failed else 0


COMMANDS = (
    Command(
        "check", "[--json] [--against URL [-H HEADER]] [DIR]",
        "look for torn rows, rows that are not events, ids out of order, gaps",
        CHECK, _add_check, _check,
    ),
    Command(
        "repair", "[DIR]",
        "do what the hub does when it opens a file: cut off a torn row, after a copy",
        REPAIR, _add_folder, _repair,
    ),
)  # fmt: skip

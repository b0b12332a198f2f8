"""`esource` and `python -m esource`: serve, or look at the files while nobody serves.

`esource --help` says which commands there are, and what their exit codes mean.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from esource import __version__
from esource.config import Config
from esource.errors import EsourceError, printable

USAGE = """\
usage: esource [serve] [GUNICORN OPTIONS]
       esource check [--json] [DIR]
       esource repair [DIR]
       esource version
       esource COMMAND --help

serve    start the hub (also without the word), as plain gunicorn does in a checkout
check    look for torn rows, rows that are not events, ids out of order or repeated
repair   do what the hub does when it opens a file: cut off a torn row, after a copy
version  print the version

Settings are environment variables (ESOURCE_DIR, ESOURCE_BIND, …; see the README).
Gunicorn's options work as always, `gunicorn --help` lists them:

    ESOURCE_DIR=/srv/events esource -b 127.0.0.1:8000

check and repair look at ESOURCE_DIR unless a folder is named, and leave a folder alone
that a hub holds.

Exit codes:
  0  all is well: no file has anything wrong, or the hub was told to stop
  1  it is not: a file has something wrong, the folder is held, the hub cannot start
  2  the command line makes no sense
  3  the hub failed while it started to serve; its log says why
"""
CHECK = """\
Read all channel files of DIR and say, a line each, what is wrong with them:

  torn       the last row has no end: a write was cut off (repair, or the hub, sees to it)
  malformed  a row is no event: it has fewer than two tabs
  order      a default id is not greater than one before it
  repeated   an id stands there twice

Nothing is changed. A large file is read block by block.
"""
REPAIR = """\
Cut off the torn last row of each channel file of DIR, as the hub does when it opens a file.
The file as it was is copied to FILE.before-repair-TIME first. Nothing else is changed.
"""
FOLDER = "the folder of the channel files (default: ESOURCE_DIR, or events)"
CODES = "Exit codes: 0 if all is well, 1 if not, 2 if the command line makes no sense."
SHOWN = 20  # findings of one file; more are counted


def main() -> None:
    """Run the command of the command line."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "serve"
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
    elif command in ("-v", "--version", "version"):
        print(f"esource {__version__}")
    elif command in ("check", "repair"):
        try:
            _log_to_terminal()
            sys.exit((_check if command == "check" else _repair)(arguments[1:]))
        except EsourceError as error:
            _say(f"esource: {error}", sys.stderr)
            sys.exit(1)
        except BrokenPipeError:
            sys.exit(1)
    elif command == "serve" or command.startswith("-"):
        _serve(arguments[command == "serve" :])
    else:
        print(f"esource: there is no command {command!r}; see esource --help", file=sys.stderr)
        sys.exit(2)


def _serve(options: Sequence[str]) -> None:
    """Run the server with gunicorn's options; does not return."""
    from gunicorn.app.wsgiapp import WSGIApplication

    # The last -c wins, so a person's own still counts.
    sys.argv[1:] = ["-c", "python:esource.server", *options]
    WSGIApplication(prog="esource").run()


def _say(text: str, to: TextIO | None = None) -> None:
    """Print a line that may hold what a file says, or what it is called."""
    print(printable(text), file=to)


def _log_to_terminal() -> None:
    """Have what the log's functions have to say printed likewise."""
    handler = logging.StreamHandler()
    handler.format = lambda record: printable(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler])


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"esource {command}", description=description, epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help=FOLDER)
    return parser


def _folder(options: argparse.Namespace) -> Path:
    return options.folder or Config.from_env(os.environ).dir


def _check(arguments: Sequence[str]) -> int:
    from esource import check

    parser = _parser("check", CHECK)
    parser.add_argument("--json", action="store_true", help="print one JSON object, of everything")
    options = parser.parse_args(arguments)
    folder = _folder(options)
    findings = []
    paths = check.channel_files(folder)
    locks = check.hold(folder)
    for path in paths:
        found = 0
        for finding in check.check(path, _Progress(path)):
            found += 1
            if options.json:
                findings.append(finding._asdict())
            elif found <= SHOWN:
                _say(f"{finding.file}, line {finding.line}: {finding.text}")
        if found > SHOWN and not options.json:
            _say(f"{path.name}: {found - SHOWN} more")
        if found and not options.json:
            findings.append({})
    for lock in locks:
        lock.release()
    if options.json:
        print(json.dumps({"files": len(paths), "findings": findings}, indent=1))
    else:
        print(f"{len(paths)} files, {len(findings)} of them with something wrong")
    return 1 if findings else 0


class _Progress:
    """A line on a terminal that says how far a large file has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.percent = -1

    def __call__(self, done: int) -> None:
        if self.size < 1 << 26 or not sys.stderr.isatty():
            return
        percent = done * 100 // self.size
        if percent != self.percent:
            self.percent = percent
            end = "\n" if done >= self.size else ""
            print(f"\r{self.path.name} {percent} %", end=end, file=sys.stderr, flush=True)


def _repair(arguments: Sequence[str]) -> int:
    from esource import check

    folder = _folder(_parser("repair", REPAIR).parse_args(arguments))
    paths = check.channel_files(folder)
    locks = check.hold(folder)
    repaired = failed = 0
    for path in paths:
        try:
            copy = check.repair(path)
        except EsourceError as error:
            failed += 1
            _say(f"esource: {error}", sys.stderr)
            continue
        if copy:
            repaired += 1
            _say(f"{path.name}: cut off a torn row; as it was before, it is in {copy.name}")
    for lock in locks:
        lock.release()
    print(f"{len(paths)} files, {repaired} repaired")
    return 1 if failed else 0


if __name__ == "__main__":
    main()

"""follow, pipe: a hub's clients that come back by themselves."""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from esource.command.command import Command
from esource.errors import Unusable, printable

if TYPE_CHECKING:
    from esource.client.target import Options

TOLD_SECONDS = 0.5
SAVED_SECONDS = 0.2  # how much printing may have to be repeated after a kill -9


def _add_curls(parser: argparse.ArgumentParser) -> None:
    curls = parser.add_argument_group("as curl does")
    curls.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="HEADER",
        help="'Name: value', sent with each request; repeatable",
    )
    curls.add_argument(
        "--header-file",
        type=Path,
        metavar="FILE",
        help="a header in each line: what is secret is in no list of processes",
    )
    curls.add_argument(
        "-n", "--netrc", action="store_true", help="user and password from ~/.netrc, or $NETRC"
    )
    curls.add_argument("--cacert", type=Path, metavar="FILE", help="whom to trust, PEM")
    curls.add_argument("--unix-socket", type=Path, metavar="PATH", help="connect there")


def _options(options: argparse.Namespace) -> "Options":
    from esource.client.target import Options, parse_header

    lines: list[str] = list(options.header)
    if options.header_file:
        lines += filter(None, options.header_file.read_text().splitlines())
    if options.cacert and not options.cacert.is_file():
        raise Unusable(f"{options.cacert}: there is no such file")
    return Options(
        tuple(map(parse_header, lines)), options.netrc, options.cacert, options.unix_socket
    )


class Progress:
    """A line on a terminal: how many events, how fast, and how far behind; nothing elsewhere."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()
        self._events = self._before = 0
        self._time = time.monotonic()

    def tell(self, events: int, behind: str) -> None:
        """Say that so many more are done."""
        self._events += events
        now = time.monotonic()
        if self._is_on and now - self._time >= TOLD_SECONDS:
            rate = (self._events - self._before) / (now - self._time)
            line = f"{self._events} events, {rate:.0f}/s, {behind}"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._time, self._before = now, self._events

    def end(self) -> None:
        """Leave the line for what comes next."""
        if self._is_on and self._events:
            print(f"\r\x1b[K{self._events} events", file=sys.stderr)


def _age(id: bytes) -> str:
    """Return how far behind a follower is whose last event has this id."""
    from esource.event import time_of

    nanos = time_of(id)
    if nanos is None:
        return printable(f"at {id.decode(errors='replace')}")
    seconds = max(0, time.time() - nanos / 1e9)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} behind"
    return f"{seconds:.0f} s behind"


def _follow(options: argparse.Namespace) -> int:
    from esource.client import work
    from esource.client.cursor import Cursor
    from esource.client.mirror import Mirror
    from esource.client.patience import Stop, Stopped
    from esource.client.stream import follow
    from esource.client.target import Target

    target = Target(options.url, _options(options))
    stop = Stop()
    progress = Progress()
    if options.to:
        if options.cursor or options.exec or options.new or options.until or target.query:
            raise Unusable("--to copies a whole channel, and the copy is the cursor")
        to = Target(options.to, _options(options))
        copy = to.sibling(target.path.rpartition("/")[2]) if to.path.endswith("/") else to
        mirror = Mirror(target, copy, stop)
        try:
            mirror.run(
                lambda rows, behind: progress.tell(rows.count(b"\n"), f"{behind} bytes behind"),
                options.once,
            )
        except Stopped:
            pass
        finally:
            progress.end()
        return 0
    if (options.tries or options.dead) and not options.exec:
        raise Unusable("--tries and --dead are for --exec")
    dead = target.sibling(options.dead) if options.dead else None
    do = work.printing(options.format)
    if options.exec:
        tries = options.tries or (1 if dead else None)
        do = work.executing(options.exec, stop, tries, dead)
    cursor = Cursor(options.cursor, target.url)
    every = 0.0 if options.exec else SAVED_SECONDS
    saved = time.monotonic()
    left = options.limit
    done = True
    try:
        for event in follow(target, cursor, stop, options.new, options.until):
            if event:
                done = False
                do(event)
                done = True
                progress.tell(1, _age(event.id))
                left -= 1
            if not event or time.monotonic() - saved >= every:
                cursor.save()
                saved = time.monotonic()
            if not left:
                break
    except Stopped:
        pass
    finally:
        progress.end()
        if done:
            cursor.save()
    return 0


def _pipe(options: argparse.Namespace) -> int:
    from esource.client.patience import Stop, Stopped
    from esource.client.pipe import Pipe
    from esource.client.target import Target

    stop = Stop()
    curls = _options(options)
    progress = Progress()
    pipe = Pipe(Target(options.source, curls), Target(options.sink, curls), options.command, stop)
    try:
        pipe.run(lambda events: progress.tell(events, shlex.join(options.command)))
    except Stopped:
        pass
    finally:
        progress.end()
    return 0


def _add_follow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="a channel, and what of it: …/orders?event=paid")
    parser.add_argument(
        "--cursor",
        type=Path,
        metavar="FILE",
        help="keep there what is done with, and go on from it",
    )
    does = parser.add_mutually_exclusive_group()
    does.add_argument(
        "--exec",
        metavar="CMD",
        help="give each event to sh -c: EVENT_ID, EVENT_TYPE, the data on stdin",
    )
    does.add_argument(
        "--to",
        metavar="HUB",
        help="copy to another hub, byte for byte: a channel's URL, or a hub's with a /",
    )
    does.add_argument(
        "--format",
        choices=["ndjson", "tsv", "raw"],
        default="ndjson",
        help="how events are printed without --exec and --to",
    )
    parser.add_argument(
        "--new",
        action="store_true",
        help="without a cursor begin with the next event, not with the first",
    )
    parser.add_argument("--until", metavar="TYPE", help="end after the first event of that type")
    parser.add_argument("--limit", type=_count, default=-1, metavar="N", help="end after N events")
    parser.add_argument("--once", action="store_true", help="with --to, end when all is copied")
    parser.add_argument(
        "--tries",
        type=_count,
        metavar="N",
        help="how often CMD is tried for an event; for ever without it",
    )
    parser.add_argument(
        "--dead",
        metavar="CHANNEL",
        help="where an event is published that CMD does not take; then go on",
    )
    _add_curls(parser)


def _add_pipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="HUB/IN")
    parser.add_argument("sink", metavar="HUB/OUT")
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --, with its arguments")
    _add_curls(parser)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


FOLLOW = Command(
    "follow",
    "[--cursor FILE] [--exec CMD | --to HUB] [OPTIONS] URL",
    "follow a channel, and come back after every break",
    """\
Follow a channel from its first event on, or from the cursor; print it, give it to a command, or
copy it to another hub. It comes back by itself, and goes on where it was. SIGTERM and Ctrl-C end it
after the event at work. With --cursor each event is done with at least once, in order.""",
    _add_follow,
    _follow,
)
PIPE = Command(
    "pipe",
    "[OPTIONS] HUB/IN HUB/OUT -- CMD…",
    "derive a channel from another by a command, exactly once",
    """\
CMD is started once, reads lines of NDJSON and writes some, flushed line by line: at most one for
each that it read, in order, with that one's id. OUT is the cursor: killed at any moment, it goes on
without a row lost, doubled or out of order. IN's ids must be unique and not empty.""",
    _add_pipe,
    _pipe,
)
COMMANDS = (FOLLOW, PIPE)

"""What is done with an event: it is printed, or given to a command until that is content."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from esource.client.patience import Patience, Stop
from esource.client.target import Away, Refused, Target
from esource.errors import EsourceError, printable
from esource.event import Event
from esource.rows import tsv

Work = Callable[[Event], None]


def _ndjson(event: Event) -> bytes:
    id, type, data = (field.decode("utf-8", "replace") for field in event)
    fields = {"id": id, "event": type, "data": data}
    return (json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


PRINTED: dict[str, Callable[[Event], bytes]] = {
    "ndjson": _ndjson,
    "tsv": tsv.encode,
    "raw": lambda event: event.data + b"\n",
}


def printing(format: str) -> Work:
    """Return what prints an event in a format; it is with the system when that returns."""
    encode = PRINTED[format]

    def work(event: Event) -> None:
        sys.stdout.buffer.write(encode(event))
        sys.stdout.buffer.flush()

    return work


def executing(command: str, stop: Stop, tries: int | None, dead: Target | None) -> Work:
    """Return what gives an event to `sh -c`, again and again until its exit code is 0.

    The command has the id and the type in EVENT_ID and EVENT_TYPE, and the data on its standard
    input. After so many tries the event is published to `dead`, or what is returned raises
    `EsourceError` without one. A signal ends it between two tries: it raises `Stopped`.
    """

    def work(event: Event) -> None:
        patience = Patience(stop)
        tried = 0
        while code := _run(command, event):
            tried += 1
            what = f"--exec ended with {code} for the event {event.id.decode(errors='replace')!r}"
            if tries is not None and tried >= tries:
                if not dead:
                    raise EsourceError(f"{what}, {tried} times")
                print(printable(f"esource: {what}; it goes to {dead.url}"), file=sys.stderr)
                bury(event, dead, stop)
                return
            patience.wait(Away(what))

    return work


def _run(command: str, event: Event) -> int:
    """Run a command for an event; return its exit code, which is negative for a signal."""
    names = {b"EVENT_ID": event.id, b"EVENT_TYPE": event.type}
    # Of a session of its own, so that Ctrl-C reaches the follower alone, which lets it finish.
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE,
        env={**os.environb, **names},
        start_new_session=True,
    )
    process.communicate(event.data)
    return process.returncode


def bury(event: Event, dead: Target, stop: Stop) -> None:
    """Publish an event, with its id and its type; it is stored on return. Raises `Refused`."""
    query = [
        ("id", event.id.decode(errors="replace")),
        ("event", event.type.decode(errors="replace")),
    ]
    if event.id:
        query.append(("unique", "1"))
    patience = Patience(stop)
    while True:
        try:
            # One line end at the end is dropped: this one.
            dead.text(dead.ask("POST", query, {"Content-Type": "text/plain"}, event.data + b"\n"))
            return
        except Away as away:
            patience.wait(away)
        except Refused as refused:
            if refused.status == 409:  # one of its id is there, which stays
                return
            raise

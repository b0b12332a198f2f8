"""The one grammar of parameters: what a query says, for reads, publishes, and `/-/`.

    text     any, or a check of `event`        id, event, expect, match
    flag     0 | 1                             follow, unique
    word     one of a few                      format, each
    count    digits                            tail, limit
    seconds  digits [ "." digits ]             timeout
    since    a time | seconds ( s | m | h | d )

An empty value is as if the parameter were not there. A parameter that is unknown, or given
twice (but for a read's `event`), is refused, and so is a value that is not in the grammar: an
error tells a client more than an answer to another question.
"""

import re
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from esource.errors import BadInput
from esource.event import check_type, time_of

# Browsers cannot set the header on their first request, and libraries differ in the name.
RESUME_PARAMETERS = ("after", "lastEventId", "last_event_id", "Last-Event-ID")
READ_PARAMETERS = (
    *RESUME_PARAMETERS, "since", "tail", "event", "limit", "follow", "timeout", "format",
)  # fmt: skip
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SECONDS = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"

Parameters = Mapping[str, str]


# -- names and values ----------------------------------------------------------------------


def pairs(query: str) -> list[tuple[str, str]]:
    """Return a query's names and values, in order; raise `BadInput` if they are not UTF-8.

    `query` is WSGI's text: each character is a byte of the request.

    Percent-encoded or not: `curl 'hub/orders?event=größe'` sends the bytes of the terminal.
    """
    if not query:
        return []
    try:
        text = query.encode("latin-1").decode()
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadInput("the query is not valid UTF-8, or has too many parameters") from None


def parameters(query: str, allowed: Collection[str]) -> dict[str, str]:
    """Return a query's parameters by name; raise `BadInput` for others, and for one twice."""
    return _by_name(pairs(query), allowed)


def _by_name(pairs: Iterable[tuple[str, str]], allowed: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise BadInput(f"unknown parameter {name!r}; allowed here: {', '.join(allowed)}")
        if name in found:
            raise BadInput(f"{name} is given twice")
        found[name] = value
    return found


def flag(parameters: Parameters, name: str) -> bool | None:
    """Return whether a parameter is 1; None without it. Raises `BadInput`."""
    text = parameters.get(name, "")
    if text not in ("", "0", "1"):
        raise _refused(name, text, "0 or 1")
    return text == "1" if text else None


def word(parameters: Parameters, name: str, words: Collection[str]) -> str:
    """Return one of a few words; empty without the parameter. Raises `BadInput`."""
    text = parameters.get(name, "")
    if text and text not in words:
        raise _refused(name, text, f"{'one of ' if len(words) > 1 else ''}{', '.join(words)}")
    return text


def count(parameters: Parameters, name: str) -> int | None:
    """Return a number of events; None without the parameter. Raises `BadInput`."""
    text = parameters.get(name, "")
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        raise _refused(name, text, "a whole number of events, 0 or more")
    return int(text) if text else None


def count_up_to(most: int, parameters: Parameters, name: str) -> int:
    """Return a number from 1 to `most`, which it is without the parameter. Raises `BadInput`."""
    text = parameters.get(name) or str(most)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise _refused(name, text, f"1 to {most}")
    return int(text)


def seconds(parameters: Parameters, name: str) -> float | None:
    """Return a number of seconds; None without the parameter. Raises `BadInput`."""
    text = parameters.get(name, "")
    if text and not re.fullmatch(_SECONDS, text):
        raise _refused(name, text, "a number of seconds")
    return float(text) if text else None


def since(parameters: Parameters, name: str) -> int | None:
    """Return a time, or so long ago, in nanoseconds since 1970; None without the parameter.

    Raises `BadInput`.
    """
    text = parameters.get(name, "")
    if not text:
        return None
    duration = re.fullmatch(f"({_SECONDS})([smhd])", text)
    if duration:
        return time.time_ns() - int(float(duration[1]) * UNIT_SECONDS[duration[2]] * 1e9)
    moment = time_of(text.encode())
    if moment is None:
        what = "a time such as 2026-01-31T10:00Z, or a duration such as 90s, 15m, 24h, 7d"
        raise _refused(name, text, what)
    return moment


def _refused(name: str, text: str, what: str) -> BadInput:
    return BadInput(f"{name} is {text!r}, but must be {what}")


# -- a read --------------------------------------------------------------------------------


class Selection(NamedTuple):
    """Which events of a channel a reader gets; None and empty where the query does not say.

    Start, then types, then the last `tail` of what was there at the start, then `limit`.
    """

    after: bytes = b""  # an id, to start right after its event
    since: int | None = None  # nanoseconds since 1970, to start at the first later event
    tail: int | None = None  # how many events before the end, to start there
    types: frozenset[bytes] = frozenset()
    limit: int | None = None  # how many events, to stop after
    follow: bool | None = None  # whether to wait for more at the end
    timeout: float | None = None  # seconds, to stop after
    format: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is every event from its start on, so that no row need be looked at."""
        return not self.types and self.limit is None


EVERYTHING = Selection()


def parse(pairs: list[tuple[str, str]], formats: Collection[str]) -> Selection:
    """Return the selection of a read's parameters; raise `BadInput` for what makes no sense."""
    if not pairs:
        return EVERYTHING
    others = [pair for pair in pairs if pair[0] != "event"]
    fields = _by_name(others, READ_PARAMETERS)
    given = [name for name in RESUME_PARAMETERS if fields.get(name)]
    if len(given) > 1:
        raise BadInput(f"{' and '.join(given)} mean the same; give one of them")
    return Selection(
        after=fields[given[0]].encode() if given else b"",
        since=since(fields, "since"),
        tail=count(fields, "tail"),
        types=frozenset(check_type(value) for name, value in pairs if name == "event"),
        limit=count(fields, "limit"),
        follow=flag(fields, "follow"),
        timeout=seconds(fields, "timeout"),
        format=word(fields, "format", formats),
    )

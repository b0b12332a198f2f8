"""The one grammar of parameters: what a query says, for reads, publishes, and `/-/`.

    text     any, or a check of `event`        id, event, expect, after, match
    flag     0 | 1                             follow, unique
    word     one of a few                      format, each
    count    digits                            tail, limit
    seconds  digits [ "." digits ]             timeout
    moment   a time | seconds ( s | m | h | d )

An empty value is as if the parameter were not there. A parameter that is unknown, or given
twice (but for a read's `event`), is refused, and so is a value that is not in the grammar: an
error tells a client more than an answer to another question.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from esource.errors import BadInput
from esource.event import check_type, time_of
from esource.rows.formats import FORMATS

T = TypeVar("T")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SECONDS = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(f"({_SECONDS})([smhd])")


# -- names ---------------------------------------------------------------------------------


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


# -- values --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What some parameters have in common: which values there are, and what each of them means."""

    pattern: str
    value: Callable[[str], T | None]  # None of a text that fits the pattern, but means nothing
    what: str  # that it must be, in words

    def __call__(self, parameters: Mapping[str, str], name: str) -> T | None:
        """Return the value of a parameter; None without it. Raises `BadInput`."""
        text = parameters.get(name)
        if not text:
            return None
        value = self.value(text) if re.fullmatch(self.pattern, text) else None
        if value is None:
            raise BadInput(f"{name} is {text!r}, but must be {self.what}")
        return value


def one_of(*words: str) -> Kind[str]:
    """Return the kind of a few words."""
    what = f"{'one of ' if len(words) > 1 else ''}{', '.join(words)}"
    return Kind("|".join(words), str, what)


def up_to(most: int) -> Kind[int]:
    """Return the kind of the numbers from 1 to `most`."""

    def value(text: str) -> int | None:
        return int(text) if 1 <= int(text) <= most else None

    return Kind("[0-9]{1,9}", value, f"1 to {most}")


def _moment(text: str) -> int | None:
    """Return a time, or so long ago, in nanoseconds since 1970."""
    duration = _DURATION.fullmatch(text)
    if duration:
        return time.time_ns() - int(float(duration[1]) * UNIT_SECONDS[duration[2]] * 1e9)
    return time_of(text.encode())


FLAG = Kind("[01]", lambda text: text == "1", "0 or 1")
COUNT = Kind("[0-9]{1,18}", int, "a whole number of events, 0 or more")
SECONDS = Kind(_SECONDS, float, "a number of seconds")
MOMENT = Kind(
    ".+", _moment, "a time such as 2026-01-31T10:00Z, or a duration such as 90s, 15m, 24h, 7d"
)


# -- a read --------------------------------------------------------------------------------


# Browsers cannot set the header on their first request, and libraries differ in the name.
RESUME_PARAMETERS = ("after", "lastEventId", "last_event_id", "Last-Event-ID")
# Those that are a field of a selection by themselves.
FIELDS: dict[str, Kind[Any]] = {
    "since": MOMENT,
    "tail": COUNT,
    "limit": COUNT,
    "follow": FLAG,
    "timeout": SECONDS,
    "format": one_of(*FORMATS),
}
READ_PARAMETERS = (*RESUME_PARAMETERS, "event", *FIELDS)


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
    format: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is every event from its start on, so that no row need be looked at."""
        return not self.types and self.limit is None


EVERYTHING = Selection()


def parse(pairs: list[tuple[str, str]]) -> Selection:
    """Return the selection of a read's parameters; raise `BadInput` for what makes no sense."""
    if not pairs:
        return EVERYTHING
    given = _by_name([pair for pair in pairs if pair[0] != "event"], READ_PARAMETERS)
    resume = [name for name in RESUME_PARAMETERS if given.get(name)]
    if len(resume) > 1:
        raise BadInput(f"{' and '.join(resume)} mean the same; give one of them")
    return Selection(
        after=given[resume[0]].encode() if resume else b"",
        types=frozenset(check_type(value) for name, value in pairs if name == "event"),
        **{name: kind(given, name) for name, kind in FIELDS.items()},
    )

"""The one grammar of parameters: what a query says, for reads, publishes, and `/-/`.

    text     any, or a check of `event`        id, event, expect, after, match, the resume point
    type     a text that is not empty          from, until
    bound    an id or a moment                 before
    flag     0 | 1 | without `=`               follow, prime, unique
    word     one of a few                      format, each, bad
    count    digits                            tail, limit
    seconds  digits [ "." digits ]             timeout, wait, heartbeat
    moment   a time | 1*( seconds ( s | m | h | d | w ) ) | ten digits: seconds since 1970

A text may be empty. Anything else may not: a script's empty variable must not mean "everything".
A parameter that is unknown, or given twice (but for a read's `event` and resume point), is refused,
and so is a value that is not in the grammar: an error tells a client more than an answer to another
question.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote_plus

from esource.errors import BadInput
from esource.event import MAX_ID_BYTES, MAX_TYPE_BYTES, TIME, check_id, check_type, time_of
from esource.rows.formats import FORMATS

T = TypeVar("T")
WAIT_SECONDS = 300.0  # at most: proxies in between give up
HEARTBEAT_SECONDS = 1.0, 3600.0  # at least, at most
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_SECONDS = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(f"({_SECONDS})([smhdw])")
_DURATIONS = re.compile(f"(?:{_DURATION.pattern}){{1,5}}")
_UNIX_SECONDS = re.compile("[0-9]{10}")
_MOMENTS = f"{_DURATIONS.pattern}|{_UNIX_SECONDS.pattern}|{TIME.pattern.decode()}"
NAME_CHARS = 40  # of a name that may be meant for another

# Names and values, in order; None is the value of a name without `=`.
Pairs: TypeAlias = list[tuple[str, str | None]]


# -- names ---------------------------------------------------------------------------------


def pairs(query: str, ignored: Collection[str] = ()) -> Pairs:
    """Return a query's names and values, in order; raise `BadInput` if they are not UTF-8.

    Without the names to be `ignored`, which are not the hub's business. `query` is WSGI's text:
    each character is a byte of the request.

    Percent-encoded or not: `curl 'hub/orders?event=größe'` sends the bytes of the terminal.
    """
    if not query:
        return []
    try:
        text = query.encode("latin-1").decode()
        found = []
        for part in filter(None, text.split("&")):
            name, equals, value = part.partition("=")
            name = unquote_plus(name, errors="strict")
            if name not in ignored:
                found.append((name, unquote_plus(value, errors="strict") if equals else None))
        return found
    except ValueError:
        raise BadInput("the query is not valid UTF-8") from None


def parameters(pairs: Pairs, kinds: "Mapping[str, Kind[Any]]") -> dict[str, Any]:
    """Return what the parameters mean, by name. Raises `BadInput` for others, and for one twice."""
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in kinds:
            raise BadInput(_unknown(name, kinds))
        if name in found:
            raise BadInput(f"{name} is given twice")
        found[name] = kinds[name](name, text)
    return found


def _unknown(name: str, known: Iterable[str]) -> str:
    in_lower_case = {each.lower(): each for each in known}
    nearest = get_close_matches(name[:NAME_CHARS].lower(), in_lower_case, 1)
    hint = f"did you mean {in_lower_case[nearest[0]]}? " if nearest else ""
    return (
        f"unknown parameter {name[:NAME_CHARS]!r}; {hint}known here: {', '.join(known) or 'none'}"
    )


# -- values --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What some parameters have in common: which values there are, and what each of them means."""

    pattern: str
    value: Callable[[str], T | None]  # None of a text that fits the pattern, but means nothing
    what: str  # that it must be, in words
    bare: str = ""  # what a name without `=` stands for
    shape: Mapping[str, Any] = field(default_factory=dict)  # for JSON Schema, if it is not any text
    # What one parameter of the kind is for; documents are made from it, or compared with it.
    example: str = ""  # a value, or a word for it in capitals
    meaning: str = ""
    repeats: bool = False  # whether it may be given several times
    required: bool = False

    def named(
        self, example: str, meaning: str, *, repeats: bool = False, required: bool = False
    ) -> "Kind[T]":
        """Return the kind of one parameter, which has a meaning."""
        return replace(
            self, example=example, meaning=meaning, repeats=repeats, required=required
        )  # fmt: skip

    def __call__(self, name: str, text: str | None) -> T:
        """Return the value of a parameter. Raises `BadInput`."""
        text = self.bare if text is None else text
        value = self.value(text) if re.fullmatch(self.pattern, text, re.DOTALL) else None
        if value is None:
            raise BadInput(f"{name} is {text[:100]!r}, but must be {self.what}")
        return value


def one_of(*words: str) -> Kind[str]:
    """Return the kind of a few words."""
    what = f"{'one of ' if len(words) > 1 else ''}{', '.join(words)}"
    return Kind("|".join(words), str, what, shape={"enum": words})


def up_to(most: int) -> Kind[int]:
    """Return the kind of the numbers from 1 to `most`."""

    def value(text: str) -> int | None:
        return int(text) if 1 <= int(text) <= most else None

    shape = {"type": "integer", "minimum": 1, "maximum": most}
    return Kind("[0-9]{1,9}", value, f"1 to {most}", shape=shape)


def between(least: float, most: float) -> Kind[float]:
    """Return the kind of a number of seconds, from the least to the most."""

    def value(text: str) -> float | None:
        return seconds if least <= (seconds := float(text)) <= most else None

    shape = {"type": "number", "minimum": least, "maximum": most}
    return Kind(_SECONDS, value, f"{least:g} to {most:g} seconds", shape=shape)


class Bound(NamedTuple):
    """An event to end before: that with an id, or the first of a time or later."""

    id: bytes
    time: int | None  # in nanoseconds since 1970; None if the id is not a moment


def _moment(text: str) -> int | None:
    """Return a time, or so long ago, in nanoseconds since 1970."""
    if _DURATIONS.fullmatch(text):
        seconds = sum(float(many) * UNIT_SECONDS[unit] for many, unit in _DURATION.findall(text))
        return time.time_ns() - int(seconds * 1e9)
    if _UNIX_SECONDS.fullmatch(text):
        return int(text) * 1_000_000_000
    return time_of(text.encode())


def _type(text: str) -> bytes | None:
    try:
        return check_type(text)
    except BadInput:  # which says what is wrong with an `event`
        return None


TEXT = Kind(".*", str, "text")
ID = Kind(".*", check_id, "an id", shape={"maxLength": MAX_ID_BYTES})
TYPE = Kind(".*", check_type, "a type", shape={"maxLength": MAX_TYPE_BYTES})
A_TYPE = Kind(
    ".+", _type, "a type: up to 256 bytes, no control character, and no space at its edges",
    shape={"minLength": 1, "maxLength": MAX_TYPE_BYTES},
)  # fmt: skip
BOUND = Kind(
    ".+", lambda text: Bound(text.encode(), _moment(text)), "an id or a time",
    shape={"minLength": 1},
)  # fmt: skip
FLAG = Kind("[01]", lambda text: text == "1", "0 or 1", bare="1", shape={"enum": ("0", "1")})
COUNT = Kind(
    "[0-9]{1,18}", int, "a whole number of events, 0 or more",
    shape={"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
)  # fmt: skip
SECONDS = Kind(
    _SECONDS, float, "a number of seconds",
    shape={"type": "number", "minimum": 0, "maximum": 10**9 - 1},
)  # fmt: skip
MOMENT = Kind(
    ".+", _moment,
    "a time such as 2026-01-31T10:00Z, a duration such as 15m, 1h30m, 7d, or ten digits: "
    "seconds since 1970",
    shape={"pattern": f"^(?:{_MOMENTS})$"},
)  # fmt: skip


# -- a read --------------------------------------------------------------------------------


# Browsers cannot set the header on their first request, and libraries differ in the name.
RESUME_PARAMETERS = ("lastEventId", "last_event_id", "Last-Event-ID")
# Those that are a field of a selection by themselves.
FIELDS: dict[str, Kind[Any]] = {
    "after": Kind(".*", str.encode, "an id").named(
        "ID", "start after this event, as with `Last-Event-ID`; `after=` is the first event, also "
        "of a follow",
    ),
    "since": MOMENT.named(
        "TIME", "start with the first event whose id is a later time: `2026-01-31T10:00Z`; `90s`, "
        "`15m`, `1h30m`, `7d`, `2w` ago; or seconds since 1970, ten digits",
    ),
    "from": A_TYPE.named(
        "TYPE", "start with the newest event of this type, or with the first event if there is "
        "none: a snapshot, and all that came after it",
    ),
    "tail": COUNT.named("N", "start with the last N events"),
    "before": BOUND.named(
        "ID", "end before this event, which must be there, or before the first of that time or "
        "later; not for a follow",
    ),
    "until": A_TYPE.named(
        "TYPE", "end after the first event of this type, which is sent whatever `event=` says"
    ),
    "limit": COUNT.named("N", "end after N events"),
    "follow": FLAG.named(
        "1", "stay for what comes; an event stream always does, unless `follow=0`"
    ),
    "timeout": SECONDS.named(
        "SECONDS", "end a follow after that long; with `0`, as soon as there is nothing more"
    ),
    "wait": between(0, WAIT_SECONDS).named(
        "SECONDS", "long poll, up to 300: what there is; if that is nothing, what comes next; "
        "after that long, nothing",
    ),
    "heartbeat": between(*HEARTBEAT_SECONDS).named(
        "SECONDS", "1 to 3600, of silence until a follow sends a comment line; in `ndjson`, a "
        "blank line",
    ),
    "prime": FLAG.named(
        "1", "begin an event stream with the place where it begins (see below); `prime=0`: not"
    ),
    "format": one_of(*FORMATS).named(
        "FORMAT", "`tsv`, `sse`, `sse-json`, `ndjson`, `json` or `raw`, instead of `Accept`"
    ),
}  # fmt: skip
READ_KINDS: dict[str, Kind[Any]] = {
    **FIELDS,
    "event": TYPE.named(
        "TYPE", "only this type; several times for several; `event=` for events without one",
        repeats=True,
    ),
    **dict.fromkeys(RESUME_PARAMETERS, TEXT.named(
        "ID", "the resume point, as the header `Last-Event-ID`, which wins; it wins over `after`, "
        "`since`, `from` and `tail`",
    )),
}  # fmt: skip


class Selection(NamedTuple):
    """Which events of a channel a reader gets; None and empty where the query does not say.

    Start, and end, then types, then the last `tail` of what was there at the start, then up to
    the first `until`, then `limit`.
    """

    resume: bytes = b""  # the id of the event that the client has got to: it wins over the others
    after: bytes | None = None  # an id, to start right after its event; empty for the beginning
    since: int | None = None  # nanoseconds since 1970, to start at the first later event
    newest: bytes | None = None  # a type, to start with the newest event of it: `from`
    moves: bool = False  # whether a moment was said as so long ago, and so is later each time
    tail: int | None = None  # how many events before the end, to start there
    before: Bound | None = None  # to end before
    types: frozenset[bytes] = frozenset()  # that of `until` among them, if there are any
    until: bytes | None = None  # a type, to end after the first event of it
    limit: int | None = None  # how many events, to stop after
    follow: bool | None = None  # whether to wait for more at the end
    timeout: float | None = None  # seconds, to stop after
    wait: float | None = None  # seconds, for something to answer with
    heartbeat: float | None = None  # seconds of silence, after which a follower hears something
    prime: bool | None = None  # whether a stream begins with the place where it does
    format: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is every event from its start on, so that no row need be looked at."""
        return not self.types and self.until is None and self.limit is None


EVERYTHING = Selection()


def parse(pairs: Pairs, kinds: "Mapping[str, Kind[Any]]" = READ_KINDS) -> Selection:
    """Return the selection of a read's parameters; raise `BadInput` for what makes no sense."""
    if not pairs:
        return EVERYTHING
    others, types, resume = [], set(), b""
    for name, text in pairs:
        if name == "event":
            types.add(TYPE(name, text))
        elif name in RESUME_PARAMETERS:  # however often: a client adds to the link that it followed
            resume = (text or "").encode() or resume
        else:
            others.append((name, text))
    given = parameters(others, kinds)
    moves = any(
        name in ("since", "before") and _DURATIONS.fullmatch(text or "") for name, text in others
    )
    if types and "until" in given:
        types.add(given["until"])
    newest = given.pop("from", None)  # a keyword of the language
    return Selection(resume=resume, newest=newest, moves=moves, types=frozenset(types), **given)

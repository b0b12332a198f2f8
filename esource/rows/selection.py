"""Which events of a channel a reader gets: the query, and rows -> rows. Pure.

    after, since, tail    where to start
    event                 which types
    limit, timeout        when to stop
    follow                whether to wait for more at the end

Start, then types, then the last `tail` of what was there at the start, then `limit`.
"""

import re
import time
from typing import NamedTuple

from esource.errors import BadInput
from esource.event import check_type, time_of

# Browsers cannot set the header on their first request, and libraries differ in the name.
RESUME_PARAMETERS = ("after", "lastEventId", "last_event_id", "Last-Event-ID")
PARAMETERS = (*RESUME_PARAMETERS, "since", "tail", "event", "limit", "follow", "timeout", "format")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Selection(NamedTuple):
    """What a query asks for; None and empty where it does not say."""

    after: bytes = b""
    since: int | None = None  # nanoseconds since 1970
    tail: int | None = None
    types: frozenset[bytes] = frozenset()
    limit: int | None = None
    follow: bool | None = None
    timeout: float | None = None
    format: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is every event from its start on, so that no row need be looked at."""
        return not self.types and self.limit is None


EVERYTHING = Selection()


def parse(pairs: list[tuple[str, str]], formats: tuple[str, ...]) -> Selection:
    """Return the selection of a query's parameters; raise `BadInput` for what makes no sense."""
    if not pairs:
        return EVERYTHING
    fields: dict[str, str] = {}
    types = []
    for name, value in pairs:
        if name not in PARAMETERS:
            raise BadInput(f"unknown parameter {name!r}; allowed here: {', '.join(PARAMETERS)}")
        if name == "event":
            types.append(check_type(value))
        elif name in fields:
            raise BadInput(f"{name} is given twice")
        else:
            fields[name] = value
    given = [name for name in RESUME_PARAMETERS if fields.get(name)]
    if len(given) > 1:
        raise BadInput(f"{' and '.join(given)} mean the same; give one of them")
    format = fields.get("format", "")
    if format and format not in formats:
        raise BadInput(f"format is {format!r}, but must be one of {', '.join(formats)}")
    follow = fields.get("follow", "")
    if follow not in ("", "0", "1"):
        raise BadInput(f"follow is {follow!r}, but must be 0 or 1")
    return Selection(
        after=fields[given[0]].encode() if given else b"",
        since=_since(fields["since"]) if fields.get("since") else None,
        tail=_count("tail", fields),
        types=frozenset(types),
        limit=_count("limit", fields),
        follow=follow == "1" if follow else None,
        timeout=_timeout(fields["timeout"]) if fields.get("timeout") else None,
        format=format,
    )


def _count(name: str, fields: dict[str, str]) -> int | None:
    text = fields.get(name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise BadInput(f"{name} is {text!r}, but must be a whole number of events, 0 or more")
    return int(text)


def _timeout(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise BadInput(f"timeout is {text!r}, but must be a number of seconds")
    return float(text)


def _since(text: str) -> int:
    duration = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text)
    if duration:
        return time.time_ns() - int(float(duration[1]) * UNIT_SECONDS[duration[2]] * 1e9)
    moment = time_of(text.encode())
    if moment is None:
        raise BadInput(
            f"since is {text!r}, but must be a time such as 2026-01-31T10:00Z, or a duration "
            "such as 90s, 15m, 24h, 7d"
        )
    return moment


def of_types(rows: bytes, types: frozenset[bytes]) -> bytes:
    """Return the rows that are events of one of these types."""
    kept = []
    for row in rows.split(b"\n"):
        fields = row.split(b"\t", 2)
        if len(fields) == 3 and fields[1] in types:
            kept.append(row + b"\n")
    return b"".join(kept)


def first(rows: bytes, limit: int) -> tuple[bytes, int]:
    """Return the rows up to and with the first `limit` events, and how many events they are."""
    end = count = 0
    while count < limit and end < len(rows):
        start, end = end, rows.index(b"\n", end) + 1
        count += rows.count(b"\t", start, end) >= 2
    return rows[:end], count


def last(rows: bytes, limit: int, types: frozenset[bytes]) -> tuple[int, int]:
    """Return the offset of the last `limit` events in the rows, and how many events they are.

    With `types`, events of other types do not count.
    """
    start, count = len(rows), 0
    while count < limit and start > 0:
        end, start = start, rows.rfind(b"\n", 0, start - 1) + 1
        fields = rows[start:end].split(b"\t", 2)
        count += len(fields) == 3 and (not types or fields[1] in types)
    return start, count

"""One event, what is allowed in it, and how ids relate to time.

Knows nothing of files, formats or HTTP. Everything is `bytes` in UTF-8.

A *default id* is the UTC time in ISO 8601, fixed width, with microseconds:
`2017-04-05T11:40:10.793000Z`. Default ids of one channel strictly increase, so
they sort as bytes and as times alike. Any other id is the publisher's own.
"""

import re
import unicodedata
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

from esource.errors import BadInput

MAX_ID_BYTES = 1024
MAX_TYPE_BYTES = 256

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Up to the year 9499: the publishers' own ids of this form move the hub's next one until 9000 (see
# `micros_of`), so that one has centuries to go until this pattern fails to know it again.
DEFAULT_ID = re.compile(rb"(?!9[5-9])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
DEFAULT_ID_BYTES = 27
# Between two events of a channel: where a reader goes on that has seen none yet, or none lately.
PLACE = re.compile(rb"@([0-9a-f]{1,32})-([0-9]{1,18})")
# Most ids and types, to be let through quickly.
_PLAIN = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# ISO 8601, extended form, from a full date on. A number such as 20170405 may be a counter.
# A `+` that a query string turned into a space is taken for what it was.
TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)"
    rb"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:[Zz]|([+ -])(\d\d)(?::?(\d\d))?)?)?"
)


class Event(NamedTuple):
    """What a channel is a list of. Lines in `data` are separated by LF; `type` may be empty.

    An empty `id` asks the channel for a default id.
    """

    id: bytes
    type: bytes
    data: bytes


def check_id(text: str) -> bytes:
    """Return a publisher's id in UTF-8, or raise `BadInput`."""
    id = _check_field("id", text, MAX_ID_BYTES)
    if id.startswith(b"@") and PLACE.fullmatch(id):
        raise BadInput("id has the form of a place, @<generation>-<offset>: those are the hub's")
    return id


def check_type(text: str) -> bytes:
    """Return a publisher's event type in UTF-8, or raise `BadInput`."""
    return _check_field("event", text, MAX_TYPE_BYTES)


def _check_field(name: str, text: str, limit: int) -> bytes:
    if not text:
        return b""
    field = text.encode()
    if len(field) > limit:  # first of all: it may be megabytes
        raise BadInput(f"{name} is {len(field)} bytes long, over the limit of {limit}")
    if _PLAIN.fullmatch(text):
        return field
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise BadInput(f"{name} holds a control character (tab, line break, …)")
    if text != text.strip():
        raise BadInput(f"{name} begins or ends with a space")
    return field


def check_data(data: bytes) -> bytes:
    """Return data as it is kept: with LF for line breaks.

    `data` is valid UTF-8. CRLF, CR and LF are line breaks alike, since SSE cannot tell
    them apart (WHATWG HTML 9.2.5). NUL and VT raise `BadInput`: the one ends strings in
    too many readers, the other stands for a line break in the file.
    """
    if b"\0" in data or b"\x0b" in data:
        raise BadInput("the data holds a NUL or VT character")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def default_id(micros: int) -> bytes:
    """Return the default id of a time, in microseconds since 1970."""
    seconds, fraction = divmod(micros, 1_000_000)
    return b"%b.%06dZ" % (_to_the_second(seconds), fraction)


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> bytes:
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19].encode()


def micros_of(id: bytes) -> int | None:
    """Return the microseconds since 1970 of a default id; None for any other id.

    And for one of the year 9000 or later: no default id need be greater than such a one.
    """
    time = time_of(id) if DEFAULT_ID.fullmatch(id) and not id.startswith(b"9") else None
    return None if time is None else time // 1000


def time_of(id: bytes) -> int | None:
    """Return the nanoseconds since 1970 that an id names; None if it is not a time.

    A time is ISO 8601 of at least a full date; without a zone it is UTC.
    """
    match = TIME.fullmatch(id)
    if not match:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            tzinfo=timezone.utc,
        )  # fmt: skip
        since = moment - EPOCH
    except ValueError:
        return None
    offset = int(off_hour or 0) * 3600 + int(off_minute or 0) * 60
    seconds = since.days * 86_400 + since.seconds + (offset if sign == b"-" else -offset)
    return seconds * 1_000_000_000 + int((fraction or b"0").ljust(9, b"0"))

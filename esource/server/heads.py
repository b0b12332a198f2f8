"""Heads of plain requests: those that no two parsers may see differently. Pure.

    METHOD /<channel>[?query] HTTP/1.1 or 1.0
    header fields of a list alone, each at most once, in printable ASCII, with `Host`

A doubt is a no: such a request is gunicorn's. So here are no chunks, no `Expect`, no folded or
repeated fields, and no precondition.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from esource.server.gunicorn import DEFAULTS, FIELD_BYTES

HEAD_BYTES = 4000
PLANS = 2048  # heads of each kind that are remembered: a client sends the same one again and again
PLAN_BYTES = 1 << 10  # of a head that is remembered
# Not with a `#`: what stands behind it is no part of a query.
_LINE = re.compile(rb"(GET|POST) /([A-Za-z0-9_-]{4,64})(?:\?([!\x22$-~]*))? HTTP/1\.([01])")
_FIELD = re.compile(rb"([A-Za-z-]+): ?([!-~](?:[ -~]*[!-~])?)")

# What gunicorn would refuse is not answered here.
assert DEFAULTS.limit_request_line > HEAD_BYTES
assert DEFAULTS.limit_request_field_size > HEAD_BYTES


class Parsed(NamedTuple):
    """A head, as far as it is read here."""

    channel: str
    query: str
    fields: dict[str, str]  # by their names in lower case
    version: bytes  # of HTTP, behind the point
    is_last: bool  # on its connection, as the client says


def parsed(method: bytes, head: bytes, known: Collection[str]) -> Parsed | None:
    """Return what a plain head with this method and with fields that are `known` says; or None.

    `head` ends with its empty line.
    """
    first, *lines = head[:-4].split(b"\r\n")
    line = _LINE.fullmatch(first)
    if not line or line[1] != method:
        return None
    fields: dict[str, str] = {}
    for text in lines:
        field = _FIELD.fullmatch(text)
        name = field[1].decode().lower() if field else ""
        if not field or name not in known or name in fields:
            return None
        fields[name] = value = field[2].decode()
        if len(value) > FIELD_BYTES.get(name.upper(), HEAD_BYTES):
            return None
    connection = fields.get("connection", "").lower()
    if "host" not in fields or connection not in ("", "keep-alive", "close"):
        return None
    is_last = connection == "close" or (line[4] == b"0" and connection != "keep-alive")
    return Parsed(line[2].decode(), (line[3] or b"").decode(), fields, line[4], is_last)

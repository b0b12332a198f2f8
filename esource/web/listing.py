"""The list of channels, a page at a time, for people and as JSON. Pure."""

import time
from bisect import bisect_right
from typing import NamedTuple
from urllib.parse import urlencode

import orjson

from esource.errors import printable


class Page(NamedTuple):
    """The names on one page, in order; how many there are on all; where the next one begins."""

    names: list[str]
    total: int
    next: str | None  # the last of these names, if more follow


class Row(NamedTuple):
    """What the list says of a channel; the names are those of its JSON."""

    name: str
    bytes: int
    newest_id: str
    modified: float
    subscribers: int
    rate: float
    segments: int  # files that its history is in; 0 if it is not in segments


def page(names: list[str], after: str, match: str, limit: int) -> Page:
    """Return the first `limit` names greater than `after` that contain `match`, in any case.

    The names must be in order.
    """
    match = match.lower()
    matching = [name for name in names if match in name.lower()] if match else names
    start = bisect_right(matching, after)
    found = matching[start : start + limit]
    return Page(found, len(matching), found[-1] if start + limit < len(matching) else None)


def json(rows: list[Row], page: Page) -> bytes:
    """Return the list as one object."""
    channels = [row._asdict() for row in rows]
    return orjson.dumps({"channels": channels, "total": page.total, "next": page.next}) + b"\n"


def table(rows: list[Row], page: Page, match: str) -> bytes:
    """Return the list for people: a line for each channel, its columns one below the other."""
    lines = [("NAME", "BYTES", "EVENTS/S", "SUBSCRIBERS", "MODIFIED".ljust(20), "NEWEST ID")]
    for name, size, newest_id, modified, subscribers, rate, _ in rows:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(modified))
        # A terminal must only show it, and files from elsewhere may hold anything.
        id = printable(newest_id)
        lines.append((name, str(size), f"{rate:.1f}", str(subscribers), moment, id))
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    text = ""
    for name, *numbers, id in lines:
        columns = [name.ljust(first), *map(str.rjust, numbers, others), id]
        text += "  ".join(columns).rstrip() + "\n"
    if page.next is not None:
        link = urlencode({"after": page.next, **({"match": match} if match else {})})
        text += f"# {len(rows)} of {page.total}; the next page: /-/channels?{link}\n"
    return text.encode()

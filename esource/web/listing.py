"""The list of channels, a page at a time. Pure."""

from bisect import bisect_right
from typing import NamedTuple


class Page(NamedTuple):
    """The names on one page, in order; how many there are on all; where the next one begins."""

    names: list[str]
    total: int
    next: str | None  # the last of these names, if more follow


def page(names: list[str], after: str, match: str, limit: int) -> Page:
    """Return the first `limit` names greater than `after` that contain `match`, in any case.

    The names must be in order.
    """
    match = match.lower()
    matching = [name for name in names if match in name.lower()] if match else names
    start = bisect_right(matching, after)
    found = matching[start : start + limit]
    return Page(found, len(matching), found[-1] if start + limit < len(matching) else None)

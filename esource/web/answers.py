"""What every view needs: answers of one line, and headers."""

import re
from http import HTTPStatus
from operator import itemgetter

from flask import Response
from werkzeug.datastructures import Headers

TEXT = "text/plain; charset=utf-8"
QUALITY = re.compile(r"[01](?:\.[0-9]{0,3})?")


def answer(
    text: str | bytes, status: int, more: dict[str, str] | None = None, content_type: str = TEXT
) -> Response:
    """Return an answer for a person: one line, LF-terminated unless it is an id."""
    line = f"{status} {HTTPStatus(status).phrase}"  # Werkzeug's are in capitals
    return Response(text, line, headers(content_type, more))


def accepted(accept: str) -> list[str]:
    """Return the media types that a client accepts, in lower case, the preferred one first.

    `accept` is the field (RFC 9110, 12.5.1). Takes time in proportion to its length.
    """
    found: list[tuple[float, str]] = []
    for element in accept.lower().split(","):
        kind, *parameters = map(str.strip, element.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        if QUALITY.fullmatch(weight) and float(weight):
            found.append((-float(weight), kind))
    return [kind for _, kind in sorted(found, key=itemgetter(0))]


def headers(content_type: str, more: dict[str, str] | None = None) -> Headers:
    """Return the headers that every answer has, and some more."""
    # A browser that sniffs would take an event's data for a page.
    fixed = [("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")]
    return Headers([*fixed, *more.items()] if more else fixed)

"""What every view needs: answers of one line, and headers."""

from http import HTTPStatus

from flask import Response
from werkzeug.datastructures import Headers

TEXT = "text/plain; charset=utf-8"


def answer(
    text: str | bytes, status: int, more: dict[str, str] | None = None, content_type: str = TEXT
) -> Response:
    """Return an answer for a person: one line, LF-terminated unless it is an id."""
    line = f"{status} {HTTPStatus(status).phrase}"  # Werkzeug's are in capitals
    return Response(text, line, headers(content_type, more))


def headers(content_type: str, more: dict[str, str] | None = None) -> Headers:
    """Return the headers that every answer has, and some more."""
    # A browser that sniffs would take an event's data for a page.
    fixed = [("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")]
    return Headers([*fixed, *more.items()] if more else fixed)

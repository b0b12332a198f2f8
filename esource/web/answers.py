"""What every view needs: the query as text, answers of one line, and headers."""

from collections.abc import Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from flask import Response
from werkzeug.datastructures import Headers

from esource.errors import BadInput

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


def parameters(environ: dict[str, Any], allowed: Collection[str]) -> dict[str, str]:
    """Return the query's parameters by name; raise `BadInput` for others, and for one twice."""
    found: dict[str, str] = {}
    for name, value in query(environ):
        if name not in allowed:
            raise BadInput(f"unknown parameter {name!r}; allowed here: {', '.join(allowed)}")
        if name in found:
            raise BadInput(f"{name} is given twice")
        found[name] = value
    return found


def query(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the query's parameters, in order; raise `BadInput` if they are not UTF-8.

    Percent-encoded or not: `curl 'hub/orders?event=größe'` sends the bytes of the terminal.
    """
    text = environ.get("QUERY_STRING", "")
    if not text:
        return []
    try:
        text = text.encode("latin-1").decode()  # WSGI's strings are bytes in disguise
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadInput("the query is not valid UTF-8, or has too many parameters") from None

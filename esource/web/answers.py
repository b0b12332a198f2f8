"""What every view needs: answers of one line, headers, and what names the rows of an answer."""

import re
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from http import HTTPStatus
from operator import itemgetter

from flask import Response
from werkzeug.datastructures import ETags, Headers
from werkzeug.http import parse_etags, quote_etag

from esource.errors import Versioned
from esource.web.post import Answer

TEXT = "text/plain; charset=utf-8"
# The status lines; Werkzeug's are in capitals.
STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
WISH = re.compile(r"([a-z*][a-z0-9_.*-]*)=(-?[0-9]{1,15})")
WISHES = re.compile(f" *{WISH.pattern}(?:[ \t]*,[ \t]*{WISH.pattern})* *")
QUALITY = re.compile(r"[01](?:\.[0-9]{0,3})?")


def answer(
    text: str | bytes, status: int, more: dict[str, str] | None = None, content_type: str = TEXT
) -> Response:
    """Return an answer for a person: one line, LF-terminated."""
    fields = headers(content_type, more)
    if status >= 400:  # a cache may keep a 404 (RFC 9111, 4.2.2), and so hide what is there later
        fields["Cache-Control"] = "no-store"
    return Response(text, STATUS[status], fields)


def told(
    content: bytes, status: int, more: list[tuple[str, str]], content_type: str = TEXT
) -> Answer:
    """Return the answer to a publisher who is told what was stored."""
    return Answer(STATUS[status], [*_fixed(content_type), *more], content)


def response(answer: Answer) -> Response:
    """Return an answer as the framework's."""
    return Response(answer.content, answer.status, Headers(list(answer.headers)))


def plain(response: Response) -> Answer:
    """Return the framework's answer as the server's."""
    return Answer(response.status, _without_length(response.headers), response.get_data())


def _without_length(headers: Headers) -> list[tuple[str, str]]:
    return [field for field in headers if field[0] != "Content-Length"]


def accepted(accept: str) -> list[str]:
    """Return the media types that a client accepts, in lower case, the preferred one first.

    `accept` is the field (RFC 9110, 12.5.1). Takes time in proportion to its length.
    """
    found = [(weight, kind) for kind, weight in _weights(accept) if weight]
    return [kind for _, kind in sorted(found, key=itemgetter(0), reverse=True)]


@lru_cache(maxsize=64)
def prefers_json(accept: str) -> bool:
    """Return whether JSON has a greater weight than plain text: a client that likes both gets text.

    `accept` is as for `accepted`. (A publisher sends the same one again and again.)
    """
    weights = dict(_weights(accept))

    def weight(*kinds: str) -> float:  # that of the most specific one
        return next((weights[kind] for kind in kinds if kind in weights), 0.0)

    json = weight("application/json", "application/*", "*/*")
    return json > weight("text/plain", "text/*", "*/*")


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    for element in accept.lower().split(","):
        kind, *parameters = map(str.strip, element.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        if QUALITY.fullmatch(weight):
            yield kind, float(weight)


def wants_sha256(wanted: str) -> bool:
    """Return whether a client asks for a SHA-256, in `Want-Repr-Digest` (RFC 9530, 4).

    The field is a dictionary (RFC 9651, 3.2) of whole numbers; any other is no wish.
    """
    if not WISHES.fullmatch(wanted):
        return False
    return int(dict(WISH.findall(wanted)).get("sha-256", "0")) > 0  # the last one counts


def repr_digest(sha256: bytes | None) -> dict[str, str]:
    """Return the field with a digest (RFC 9530, 3), if it is known."""
    return {"Repr-Digest": f"sha-256=:{b64encode(sha256).decode()}:"} if sha256 else {}


def etag(view: Versioned, format: str = "") -> str:
    """Return the `ETag` of rows in a format: none for TSV, and for an answer to a publisher."""
    return quote_etag(f"{view.version}.{format}" if format else view.version)


def state(version: str) -> str:
    """Return where the rows end and what the last ones are: what a version says of that."""
    return version.partition(".")[0].partition("-")[2]


def states(field: str) -> ETags:
    """Return the states of rows that the `If-Match` or `If-None-Match` of a publisher names.

    In any format; and whatever has become of older rows, since it is about what comes next.
    """
    etags = parse_etags(field)
    # To Werkzeug the empty one, `""`, is None.
    names = {state(etag) for etag in etags.as_set(include_weak=False) if etag}
    weak = {state(etag) for etag in etags.as_set(include_weak=True) if etag} - names
    return ETags(names, weak, etags.star_tag)


def headers(content_type: str, more: dict[str, str] | None = None) -> Headers:
    """Return the headers that every answer has, and some more."""
    return Headers([*_fixed(content_type), *more.items()] if more else _fixed(content_type))


def _fixed(content_type: str) -> list[tuple[str, str]]:
    # A browser that sniffs would take an event's data for a page.
    return [("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")]

"""One request body, whole or not at all, and the text in it.

A body that ends before its declared length, a malformed chunk, and a body over the limit
all raise; none of them looks like a shorter body. After one of the first two nobody knows
where the next request begins, so the connection must not serve another one.
"""

import codecs
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.http import parse_options_header

from esource.errors import BadInput, TooLarge, Unsupported

# Python's own string escapes are no character sets, and its IDNA decoder is quadratic.
_NOT_CHARSETS = {"unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"}


# Names of charsets are short; Python keeps every unknown one in memory for ever.
_CHARSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,30}")
# Instead of gunicorn's 8 KiB, for bodies that may be large.
RECEIVE_BYTES = 1 << 16
# Of a chunk's size line, or of the trailers; gunicorn's parser knows no limit for either.
CHUNK_LINE_BYTES = 1 << 14


class _Lines:
    """What gunicorn's chunk parser reads from: fails when a line does not end."""

    def __init__(self, unreader: Any) -> None:
        self.unread = unreader.unread
        self.left = CHUNK_LINE_BYTES
        self._unreader = unreader

    def read(self) -> bytes:
        if self.left <= 0:
            raise OSError("a chunk's size line or the trailers are too long")
        piece: bytes = self._unreader.read()
        self.left -= len(piece)
        return piece


def guard_chunks(request: Any) -> None:
    """Put limits into gunicorn's parser of a chunked body, before anything is read of it.

    And let it fail with `NoMoreData` alone. Of a body that nobody reads it is the server who
    looks for the end, and what else may be wrong would be a traceback in the log.
    """
    reader = request.body.reader
    if not hasattr(reader, "parse_chunked"):
        return
    lines = _Lines(request.unreader)

    def pieces() -> Iterator[bytes]:
        try:
            for piece in reader.parse_chunked(lines):
                lines.left = CHUNK_LINE_BYTES
                yield piece
        except (OSError, ParseException) as error:
            raise NoMoreData(str(error)) from error

    reader.parser = pieces()


def is_chunked(environ: dict[str, Any]) -> bool:
    """Return whether the body has no declared length (RFC 9112, 7.1)."""
    return "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" in environ


def read(environ: dict[str, Any], limit: int) -> bytes:
    """Return the body. Blocks until all of it has come.

    Raises `TooLarge` over `limit` bytes, before reading where the length is declared, and
    `BadInput` if the body was cut off or its chunks are malformed.
    """
    size = _size(environ, limit)
    if not size:
        return b""
    # RFC 9112, 6.3: gunicorn ends the input where the message ends.
    body: bytes = _guarded(environ, environ["wsgi.input"].read, size)
    if is_chunked(environ):
        if len(body) > limit:
            close_afterwards(environ)
            raise TooLarge(f"the body is over the limit of {limit} bytes")
    elif len(body) < size:
        close_afterwards(environ)
        raise BadInput(f"the body was cut off after {len(body)} of {size} bytes")
    return body


def pieces(environ: dict[str, Any], limit: int = sys.maxsize) -> Iterator[bytes]:
    """Yield the body in pieces, as they arrive. Raises what `read` raises, at its place.

    A chunk is not held back until there are more: gunicorn's own `read` waits for 1 KiB,
    so this takes them from the parser underneath, where there is one.
    """
    stream = environ["wsgi.input"]
    size = _size(environ, limit)
    parser = getattr(getattr(stream, "reader", None), "parser", None)
    if is_chunked(environ):
        if parser is None:  # not gunicorn, or not as we know it: slower, but as right
            while piece := _guarded(environ, stream.read, 1024):
                yield piece
            return
        # An empty piece is not the end: the parser yields one for a size without data behind it.
        while (piece := _guarded(environ, next, parser, None)) is not None:
            if piece:
                yield piece
        stream.reader.parser = None  # gunicorn finds the body read
        return
    while size > 0:
        piece = _guarded(environ, stream.read, min(size, RECEIVE_BYTES))
        if not piece:
            close_afterwards(environ)
            raise BadInput(f"the body was cut off {size} bytes before its end")
        size -= len(piece)
        yield piece


def _size(environ: dict[str, Any], limit: int) -> int:
    """Return how many bytes to read: a chunked body may be one too many. Raises `TooLarge`."""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding and (coding != "chunked" or "CONTENT_LENGTH" in environ):
        close_afterwards(environ)
        raise BadInput(f"Transfer-Encoding {coding} is not supported; send chunked")
    declared = environ.get("CONTENT_LENGTH")
    if declared:
        size = int(declared)
        if size > limit:
            close_afterwards(environ)
            raise TooLarge(f"the body is {size} bytes long, over the limit of {limit}")
        return size
    return limit + 1 if coding else 0


def _guarded(environ: dict[str, Any], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that reads from the body; raise `BadInput` for what gunicorn raises."""
    try:
        return function(*args)
    except (OSError, ParseException) as error:
        close_afterwards(environ)
        raise BadInput(f"the body is malformed or was cut off ({type(error).__name__})") from error


def close_afterwards(environ: dict[str, Any]) -> None:
    """Have the server close the connection after the answer (`server.pre_request` put it there)."""
    close = getattr(environ["wsgi.input"], "close_afterwards", None)
    if close:
        close()


def decode(body: bytes, environ: dict[str, Any]) -> bytes:
    """Return the body as UTF-8, from the charset that its `Content-Type` names.

    Raises `Unsupported` or `BadInput`.
    """
    _refuse_coding(environ)
    charset = "utf-8"
    content_type = environ.get("CONTENT_TYPE", "")
    if "charset" in content_type.lower():
        charset = parse_options_header(content_type)[1].get("charset", charset)
    try:
        codec = codecs.lookup(charset) if _CHARSET.fullmatch(charset) else None
        if (
            codec is None
            or not codec._is_text_encoding
            or codec.name.replace("-", "_") in _NOT_CHARSETS
        ):
            raise LookupError
    except LookupError:
        raise Unsupported(f"the charset {charset[:40]!r} is not known; send UTF-8") from None
    try:
        text = codec.decode(body)[0]
        return body if codec.name == "utf-8" else text.encode()
    except ValueError as error:
        raise BadInput(f"the body is not valid {codec.name}: {error}") from None


def require_utf8(options: dict[str, str], environ: dict[str, Any]) -> None:
    """Raise `Unsupported` unless a batch is plain UTF-8; `options` are its content type's."""
    _refuse_coding(environ)
    charset = options.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise Unsupported(f"a batch is UTF-8, not {charset[:40]!r}")


def _refuse_coding(environ: dict[str, Any]) -> None:
    if environ.get("HTTP_CONTENT_ENCODING"):
        raise Unsupported("Content-Encoding is not supported; send the body as it is")

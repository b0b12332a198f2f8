"""One request body, whole or not at all, and the text in it.

A body that ends before its declared length, a malformed chunk, and a body over the limit
all raise; none of them looks like a shorter body. After one of the first two nobody knows
where the next request begins, so the connection must not serve another one.
"""

import codecs
from typing import Any

from gunicorn.http.errors import ParseException
from werkzeug.http import parse_options_header

from esource.errors import BadInput, TooLarge, Unsupported

# Python's own string escapes are no character sets, and its IDNA decoder is quadratic.
_NOT_CHARSETS = {"unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"}


def read(environ: dict[str, Any], limit: int) -> bytes:
    """Return the body. Blocks until all of it has come.

    Raises `TooLarge` over `limit` bytes, before reading where the length is declared, and
    `BadInput` if the body was cut off or its chunks are malformed.
    """
    declared = environ.get("CONTENT_LENGTH")
    size = limit + 1
    if declared:
        size = int(declared)
        if size > limit:
            _close_afterwards(environ)
            raise TooLarge(f"the body is {size} bytes long, over the limit of {limit}")
    elif "HTTP_TRANSFER_ENCODING" not in environ:
        return b""
    try:
        # RFC 9112, 6.3: gunicorn ends the input where the message ends.
        body: bytes = environ["wsgi.input"].read(size)
    except (OSError, ParseException) as error:
        _close_afterwards(environ)
        raise BadInput(f"the body is malformed or was cut off ({type(error).__name__})") from error
    if declared and len(body) < size:
        _close_afterwards(environ)
        raise BadInput(f"the body was cut off after {len(body)} of {size} bytes")
    if len(body) > limit:
        _close_afterwards(environ)
        raise TooLarge(f"the body is over the limit of {limit} bytes")
    return body


def _close_afterwards(environ: dict[str, Any]) -> None:
    """Have the server close the connection after the answer (`server.pre_request` put it there)."""
    close = getattr(environ["wsgi.input"], "close_afterwards", None)
    if close:
        close()


def decode(body: bytes, environ: dict[str, Any]) -> bytes:
    """Return the body as UTF-8, from the charset that its `Content-Type` names.

    Raises `Unsupported` or `BadInput`.
    """
    if environ.get("HTTP_CONTENT_ENCODING"):
        raise Unsupported("Content-Encoding is not supported; send the body as it is")
    charset = "utf-8"
    content_type = environ.get("CONTENT_TYPE", "")
    if "charset" in content_type.lower():
        charset = parse_options_header(content_type)[1].get("charset", charset)
    try:
        codec = codecs.lookup(charset)
        if not codec._is_text_encoding or codec.name.replace("-", "_") in _NOT_CHARSETS:
            raise LookupError
    except (LookupError, ValueError):
        raise Unsupported(f"the charset {charset!r} is not known; send UTF-8") from None
    try:
        text = codec.decode(body)[0]
        return body if codec.name == "utf-8" else text.encode()
    except ValueError as error:
        raise BadInput(f"the body is not valid {codec.name}: {error}") from None

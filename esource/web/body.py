"""One request body, whole or not at all, and the text in it.

A body that ends before its declared length, a malformed chunk, and a body over the limit
all raise; none of them looks like a shorter body. After one of the first two nobody knows
where the next request begins, so the connection must not serve another one.

How the bytes arrive is the business of `post.Body`, and thereby of the server.
"""

import codecs
import re
import socket
import sys
from collections.abc import Iterator

from werkzeug.http import parse_options_header

from esource.errors import BadInput, EsourceError, TooLarge, Unsupported
from esource.hub.clients import shut
from esource.hub.memory import Share
from esource.web.post import Body, Post

# Python's own string escapes are no character sets, and its IDNA decoder is quadratic.
_NOT_CHARSETS = {"unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"}
# Names of charsets are short; Python keeps every unknown one in memory for ever.
_CHARSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,30}")


def read(body: Body, share: Share, limit: int) -> bytes:
    """Return all of a body, counted in its share. Blocks until it has come.

    Raises what `pieces` raises, and `Busy`; then the connection ends after the answer.
    """
    content = bytearray()  # of many small pieces each would cost more than what is in it
    try:
        for piece in pieces(body, share, limit):
            share.take(len(piece))
            content += piece
    except EsourceError:
        body.close_afterwards()
        raise
    return bytes(content)


def cut_off(body: Body) -> None:
    """Let a body end where it is, as if its client had gone: who waits for more of it, wakes."""
    if body.client is not None:
        shut(body.client, socket.SHUT_RD)


def pieces(body: Body, share: Share, limit: int = sys.maxsize) -> Iterator[bytes]:
    """Yield a body in pieces, as they arrive; tell its share that it is whole. Blocks for each.

    Raises `TooLarge` over `limit` bytes, before anything is read where the length is
    declared, `BadInput` if the body was cut off or its chunks are malformed, and `Busy` if it was
    given up. In each case the connection ends after the answer.
    """
    size = body.size
    if size is not None and size > limit:
        body.close_afterwards()
        raise too_large(size, limit)
    arrived = 0
    try:
        for piece in body.pieces():
            arrived += len(piece)
            if arrived > limit:
                body.close_afterwards()
                raise TooLarge(f"the body is over the limit of {limit} bytes")
            yield piece
    except OSError as error:
        body.close_afterwards()
        share.take(0)
        raise BadInput(f"the body is malformed or was cut off ({type(error).__name__})") from error
    if size is not None and arrived < size:
        body.close_afterwards()
        share.take(0)
        raise BadInput(f"the body was cut off after {arrived} of {size} bytes")
    share.complete()


def too_large(size: int, limit: int) -> TooLarge:
    """Return what is to be raised for a body over a limit, both in bytes."""
    return TooLarge(f"the body is {size} bytes long, over the limit of {limit}")


def check_framing(post: Post, body: Body) -> None:
    """Raise `BadInput` for a body that is coded for its transfer in any way but in chunks."""
    coding = post.transfer_encoding.strip().lower()
    if coding and (coding != "chunked" or body.size is not None):
        body.close_afterwards()
        raise BadInput(f"Transfer-Encoding {coding} is not supported; send chunked")


def codec_of(post: Post) -> codecs.CodecInfo:
    """Return the codec of the charset that a `Content-Type` names. Raises `Unsupported`."""
    _refuse_coding(post)
    charset = "utf-8"
    if "charset" in post.content_type.lower():
        charset = parse_options_header(post.content_type)[1].get("charset", charset)
    try:
        codec = codecs.lookup(charset) if _CHARSET.fullmatch(charset) else None
        if (
            codec is None
            or not codec._is_text_encoding  # noqa: SLF001 -- nothing public tells
            or codec.name.replace("-", "_") in _NOT_CHARSETS
        ):
            raise LookupError
    except LookupError:
        raise Unsupported(f"the charset {charset[:40]!r} is not known; send UTF-8") from None
    return codec


def decode(content: bytes, codec: codecs.CodecInfo) -> bytes:
    """Return the content of a body as UTF-8. Raises `BadInput`."""
    try:
        text = codec.decode(content)[0]
        return content if codec.name == "utf-8" else text.encode()
    except ValueError as error:
        raise BadInput(f"the body is not valid {codec.name}: {error}") from None


def require_utf8(options: dict[str, str], post: Post) -> None:
    """Raise `Unsupported` unless a batch is plain UTF-8; `options` are its content type's."""
    _refuse_coding(post)
    charset = options.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise Unsupported(f"a batch is UTF-8, not {charset[:40]!r}")


def _refuse_coding(post: Post) -> None:
    if post.content_encoding:
        raise Unsupported("Content-Encoding is not supported; send the body as it is")

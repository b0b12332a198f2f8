"""A POST to a channel: the one typed request that `publish` takes, however it was received.

A view makes it of a WSGI environment; the server's fast path makes it of bytes. Both fill in
the same fields, so that nothing which `publish` asks for can be absent on one way alone.
Knows neither Flask nor gunicorn: the server imports this and `get`, and nothing else of `web`.
"""

import socket
import sys
from codecs import CodecInfo
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

from esource.hub.commit import Receipt, Wish
from esource.hub.memory import Share

# WSGI's environment of a request (PEP 3333): text under most names, but not under all.
Environ: TypeAlias = dict[str, Any]
Fields: TypeAlias = Sequence[tuple[str, str]]  # of an answer's head

RECEIVE_BYTES = 1 << 16


class Post(NamedTuple):
    """What the head of a POST says; a field that was not sent is empty, or None where that differs.

    The text is WSGI's: each character is a byte of the request.
    """

    channel: str  # the name that is asked for, which may be none
    query: str = ""  # percent-encoded, without the question mark
    host: str = ""
    accept: str = ""
    content_type: str = ""
    content_encoding: str = ""
    transfer_encoding: str = ""
    origin: str | None = None
    site: str | None = None  # Sec-Fetch-Site
    if_match: str | None = None
    if_none_match: str | None = None

    @classmethod
    def from_environ(cls, channel: str, environ: Environ) -> "Post":
        """Return what a WSGI environment says of a POST to this channel."""
        return cls(
            channel=channel,
            query=environ.get("QUERY_STRING", ""),
            host=environ.get("HTTP_HOST", ""),
            accept=environ.get("HTTP_ACCEPT", ""),
            content_type=environ.get("CONTENT_TYPE", ""),
            content_encoding=environ.get("HTTP_CONTENT_ENCODING", ""),
            transfer_encoding=environ.get("HTTP_TRANSFER_ENCODING", ""),
            origin=environ.get("HTTP_ORIGIN"),
            site=environ.get("HTTP_SEC_FETCH_SITE"),
            if_match=environ.get("HTTP_IF_MATCH"),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
        )


class Plan(NamedTuple):
    """What the head of a POST of one event asks for: a value, of the same head always the same."""

    channel: str
    id: bytes
    type: bytes
    wish: Wish
    codec: CodecInfo  # of the body
    as_json: bool


@runtime_checkable
class Body(Protocol):
    """The body of a request, which may still be on its way."""

    @property
    def size(self) -> int | None:
        """How many bytes it must have; None if it is chunked, and its end tells."""

    @property
    def client(self) -> socket.socket | None:
        """The connection that it comes on; None if it is not known, or not needed any more."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive, once; none of the pieces is empty. Blocks for each.

        There are never more than `size` bytes; there are fewer if the client ended too soon.
        Raises `OSError` if the client has gone, or if what it sends is not chunked as it says.
        """

    def close_afterwards(self) -> None:
        """End the connection after the answer: where the next request begins is not known."""


class Answer(NamedTuple):
    """What a POST is answered, as far as the server must know."""

    status: str  # the code and the phrase
    headers: Fields  # all that go with the content, but for its length
    content: bytes


class Publishing(Protocol):
    """What answers POSTs without the framework. Nothing is raised: a refusal is an answer, too."""

    def plan(self, post: Post) -> "Plan | None":
        """Return what the head of a POST of one event asks for; None if it is any other."""

    def begin(
        self, plan: "Plan", content: bytes, share: Share, done: Callable[[], None]
    ) -> Receipt | Answer:
        """Queue the event; return its receipt, or why it is refused.

        With a receipt, `done` is called in the loop when that is committed or refused. What the
        event takes is taken of the `share`, and not given back. Blocks to open a channel.
        """

    def end(self, plan: "Plan", receipt: Receipt) -> Answer:
        """Return the answer to an event whose receipt is done."""

    def whole(self, post: Post, body: Body) -> Answer:
        """Answer any POST. Blocks until its events are committed."""


def client_of(environ: Environ) -> socket.socket | None:
    """Return the connection that a request came on; None under a server that does not tell."""
    client: socket.socket | None = environ.get("gunicorn.socket")
    return client


def body_of(environ: Environ) -> Body:
    """Return the body of a request: the server's own if that is one of ours, else what WSGI has."""
    source = environ["wsgi.input"]
    if isinstance(source, Body):
        return source
    if "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" in environ:
        return _File(source, None)
    return _File(source, int(environ.get("CONTENT_LENGTH") or 0))


class _File:
    """A body that a WSGI server hands over as a file, which ends where the message does."""

    client = None

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self.size = size
        self._file = file

    def pieces(self) -> Iterator[bytes]:
        left = sys.maxsize if self.size is None else self.size
        while left and (piece := self._file.read(min(left, RECEIVE_BYTES))):
            left -= len(piece)
            yield piece

    def close_afterwards(self) -> None:
        """Leave it to the server, which alone knows the connection."""

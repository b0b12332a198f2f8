"""A GET that follows a channel: the one typed request, however it was received.

A view makes it of a WSGI environment; the server's fast path makes it of bytes. The same code
begins the answer, and both frame it alike.
Knows neither Flask nor gunicorn: the server imports this and `post`, and nothing else of `web`.
"""

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from esource.web.post import Answer, Environ, Fields, client_of

P = TypeVar("P")


class Get(NamedTuple):
    """What the head of a GET that follows says; a field that was not sent is empty.

    The text is WSGI's: each character is a byte of the request.
    """

    channel: str  # the name that is asked for, which may be none
    query: str = ""  # percent-encoded, without the question mark
    host: str = ""
    accept: str = ""
    last_event_id: str = ""
    pragma: str = ""
    protocol: str = "HTTP/1.1"

    @classmethod
    def from_environ(cls, channel: str, environ: Environ) -> "Get":
        """Return what a WSGI environment says of a GET of this channel."""
        return cls(
            channel=channel,
            query=environ.get("QUERY_STRING", ""),
            host=environ.get("HTTP_HOST", ""),
            accept=environ.get("HTTP_ACCEPT", ""),
            last_event_id=environ.get("HTTP_LAST_EVENT_ID", ""),
            pragma=environ.get("HTTP_PRAGMA", ""),
            protocol=environ["SERVER_PROTOCOL"],
        )


@runtime_checkable
class Connection(Protocol):
    """What a stream has to know of its connection."""

    @property
    def client(self) -> socket.socket | None:
        """The client's socket; None under a server that does not tell."""

    @property
    def may_park(self) -> bool:
        """Whether the stream may go on without its request.

        It may if nothing that was received has to be kept, and nobody waits for its end. The stream
        then raises `hub.parking.Parked` where it would wait.
        """

    @property
    def closes(self) -> bool:
        """Whether the connection ends with the answer; to be asked once its head has left."""


class _Unknown(NamedTuple):
    client: socket.socket | None
    may_park: bool = False
    closes: bool = True


def connection_of(environ: Environ) -> Connection:
    """Return the connection of a request; one that does nothing special if the server has none."""
    source = environ["wsgi.input"]
    return source if isinstance(source, Connection) else _Unknown(client_of(environ))


class Framing(NamedTuple):
    """How a server writes an answer without a length."""

    frame: Callable[[bytes], bytes]  # of some bytes, which are not none
    last: bytes  # after everything


def _as_it_is(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    """Return the data as a chunk of its own (RFC 9112, 7.1), as gunicorn writes it."""
    return b"%X\r\n%b\r\n" % (len(data), data)


FRAMINGS = {"HTTP/1.0": Framing(_as_it_is, b""), "HTTP/1.1": Framing(_chunk, _chunk(b""))}


class Begun(NamedTuple):
    """The answer to a GET that follows, which is a `200`."""

    headers: Fields
    content: Iterator[bytes]  # some pieces may be empty; `Connection` says what may be raised


class Following(Protocol[P]):
    """What answers GETs that follow without the framework. Nothing is raised: see `Publishing`."""

    def plan(self, get: Get) -> P | None:
        """Return what a head asks for: a value, of the same head always the same.

        None if that is no follow, or is refused, or is not always the same: then it is the
        framework's.
        """

    def begin(self, plan: P, connection: Connection) -> Begun | Answer:
        """Begin to answer. Blocks while the place to start from is looked for."""

"""Gunicorn's inside: every name that the hub relies on though gunicorn does not promise it.

What gunicorn documents is used where it is needed: settings, hooks, `glogging.Logger`. What it
does not document is typed here, used here where that can be, and looked for at the start by
`check_master` and `check_worker`. So a gunicorn that has changed is refused in one line, which
names what is missing, and does not fail at the first request that needs it.

The protocols say what gunicorn's objects must have; the same protocols are what is checked, on
objects that gunicorn made. Where a name matters less than what it does (how a body is framed,
how a page of errors leaves), the check does it once.

Gunicorn's parser in C (`gunicorn_h1c`) reads the heads alone. It makes the same `Request` as
the one in Python, so nothing here depends on which of them there is.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, cast, get_type_hints

from gunicorn import __version__, http, systemd, util
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import body, errors, wsgi

from esource.errors import StartError

# What the options are if nobody gives any: how long a worker may take to stop, in seconds, and
# how much the head of a request may be, in bytes and in fields.
DEFAULTS: "Settings" = Config()

# At once from a body of declared length, which may be large.
RECEIVE_BYTES = 1 << 16
# Of a chunk's size line, or of the trailers; gunicorn's parser knows no limit for either.
CHUNK_LINE_BYTES = 1 << 14
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 24

Address: TypeAlias = tuple[str, int] | str  # a host and a port, or the path of a Unix socket


# -- what gunicorn's objects must have -----------------------------------------------------


class Settings(Protocol):
    """The options, of the command line and of `esource.server`."""

    address: list[Address]
    graceful_timeout: int
    is_ssl: bool
    keepalive: int
    limit_request_field_size: int
    limit_request_fields: int
    limit_request_line: int
    max_requests: int
    preload_app: bool
    proxy_protocol: str
    statsd_host: tuple[str, int] | None
    workers: int

    def set(self, name: str, value: object) -> None:
        """Change one, also while requests are served."""


class Log(Protocol):
    """What gunicorn logs to."""

    access_log_enabled: bool
    error_log: logging.Logger

    def warning(self, text: str, *args: object) -> None: ...  # noqa: D102
    def error(self, text: str, *args: object) -> None: ...  # noqa: D102


class Arbiter(Protocol):
    """The master."""

    LISTENERS: list[object]
    cfg: Settings
    log: Log
    num_workers: int


class Reader(Protocol):
    """What finds the end of a body: gunicorn's `LengthReader`, or its `ChunkedReader`."""

    length: int  # of the first alone: how much is still to come

    def read(self, size: int, /) -> bytes:
        """Return so many bytes; fewer at the end, or if the client has gone."""

    def parse_chunked(self, lines: "_Lines", /) -> Iterator[bytes]:
        """Yield what is in the chunks, as it arrives; some may be empty (the second alone)."""


class Request(Protocol):
    """A request whose head gunicorn has parsed."""

    body: Any  # with a `reader`, until a `RequestBody` takes its place
    method: str
    must_close: bool
    unreader: Any  # with the connection, `sock`, and `read` and `unread` for the parsers

    def force_close(self) -> None:
        """Make this the last request of its connection, if the answer has not begun."""


Explain: TypeAlias = Callable[[Request | None, socket.socket, Address, BaseException], None]


class Worker(Protocol):
    """The worker of class `gevent`.

    It looks its own `handle` and `handle_error` up when it needs them, so that they can be
    replaced before it serves: that is not checked.
    """

    alive: bool  # until it is told to stop
    app: Any  # with `wsgi`, which returns the Flask application
    cfg: Settings
    handle: Callable[[socket.socket, socket.socket, Address], None]
    handle_error: "Explain"
    log: Log

    def notify(self) -> None:
        """Tell the master that this worker is alive."""


# -- bodies --------------------------------------------------------------------------------


_NOTHING: Iterator[bytes] = iter(())


class RequestBody:
    """A request's body: a `post.Body` to the hub, and the file that gunicorn drains."""

    __slots__ = ("_arriving", "client", "close_afterwards", "size")

    def __init__(self, request: Request) -> None:
        """Take the place of the body that gunicorn made, before anything was read of it."""
        self.client: socket.socket = request.unreader.sock
        self.close_afterwards = request.force_close
        self.size: int | None = None
        self._arriving: Iterator[bytes] = _NOTHING
        reader: Reader = request.body.reader
        if isinstance(reader, body.ChunkedReader):
            lines = _Lines(request.unreader.read, request.unreader.unread)
            self._arriving = _chunks(reader, lines)
        else:
            self.size = reader.length
            if self.size:  # ten thousand followers, whose requests have no body, need no reader
                self._arriving = iter(partial(reader.read, RECEIVE_BYTES), b"")

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive, as `post.Body` says."""
        return self._arriving

    def read(self, size: int = -1) -> bytes:
        """Return some bytes of what nothing has read; gunicorn drops it until there is no more."""
        return next(self._arriving, b"")


class _Lines:
    """What gunicorn's chunk parser reads from: fails when a line does not end."""

    def __init__(self, read: Callable[[], bytes], unread: Callable[[bytes], None]) -> None:
        self.unread = unread
        self.left = CHUNK_LINE_BYTES
        self._read = read

    def read(self) -> bytes:
        if self.left <= 0:
            raise OSError("a chunk's size line or the trailers are too long")
        piece = self._read()
        self.left -= len(piece)
        return piece


def _chunks(reader: Reader, lines: _Lines) -> Iterator[bytes]:
    """Yield what is in the chunks, within limits. Raises `NoMoreData` alone, an `OSError`.

    Of a body that nothing reads it is gunicorn that looks for the end, and anything else that
    may be wrong with it would be a traceback in the log.
    """
    try:
        for piece in reader.parse_chunked(lines):
            lines.left = CHUNK_LINE_BYTES
            if piece:
                yield piece
    except (OSError, errors.ParseException) as error:
        raise errors.NoMoreData(str(error)) from error


# -- connections ---------------------------------------------------------------------------


def linger(client: socket.socket) -> None:
    """Close, but read on for a while: a client that is still sending must get to the answer.

    RFC 9112, 9.6. Blocks for at most `LINGER_SECONDS`.
    """
    util.close_graceful(client, LINGER_SECONDS, LINGER_BYTES)


def explained(
    explain: Explain, request: Request | None, address: Address, error: BaseException
) -> bytes:
    """Have a worker's `handle_error` log why a request is none; return its status line.

    The line has no line end; it is empty if gunicorn would not answer. Its page is HTML, which
    says less than the hub's own text does, and may be taken for what it is not.
    """
    page = _Page()
    explain(request, cast(socket.socket, page), address, error)
    return page.status_line


class _Page:
    """Stands in for a client to which gunicorn explains itself."""

    status_line = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, page: bytes) -> None:
        self.status_line = page.partition(b"\r\n")[0]


# -- the master ----------------------------------------------------------------------------


def tell_systemd_of_the_stop(server: Arbiter) -> None:
    """Tell that the stop is meant. That the hub is ready, gunicorn tells by itself."""
    systemd.sd_notify("STOPPING=1", server.log)


def is_of_gunicorn(handler: logging.Handler) -> bool:
    """Return whether a log's handler is one that gunicorn's own options made."""
    return hasattr(handler, "_gunicorn")


# -- the check -----------------------------------------------------------------------------

# What is used here of gunicorn's modules, and of an object that one of them makes.
_NAMES = (
    (http, "http", "get_parser"),
    (errors, "http.errors", "NoMoreData ParseException"),
    (body, "http.body", "ChunkedReader LengthReader"),
    (systemd, "systemd", "sd_notify"),
    (util, "util", "close_graceful write_error"),
    (Logger, "glogging.Logger", "_set_handler"),
)
# Requests of each kind, with a body `abc`.
_HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
_DECLARED = _HEAD + b"Content-Length: 3\r\n\r\nabc"


def check_master(server: Arbiter) -> None:
    """Raise `StartError` if gunicorn is not as the hub knows it: the master, and requests.

    Makes requests of each kind as a worker does, on a pair of sockets. Blocks for about a
    millisecond.
    """
    for thing, path, names in _NAMES:
        _require(thing, path, *names.split())
    _require(server, "arbiter", *_names_of(Arbiter))
    _require(server.cfg, "cfg", *_names_of(Settings))
    _require(server.log, "log", *_names_of(Log))
    # Set on what that makes, by the code alone.
    if "_gunicorn" not in Logger._set_handler.__code__.co_names:  # noqa: SLF001 -- to look at it
        raise _refusal("glogging.Logger._set_handler's handler._gunicorn")
    page = _Page()
    with suppress(AttributeError):
        util.write_error(page, 400, "Bad Request", "")
    if page.status_line != b"HTTP/1.1 400 Bad Request":
        raise _refusal("util.write_error that calls sendall once")
    try:
        _check_requests()
    except StartError:
        raise
    except Exception as error:
        raise _refusal(f"http.get_parser that reads as the hub knows ({error!r})") from error


def check_worker(worker: Worker) -> None:
    """Raise `StartError` if a worker, made but not yet forked, is not as the hub knows it."""
    _require(worker, "worker", *_names_of(Worker))
    _require(worker.app, "worker.app", "wsgi")


def _check_requests() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(_CHUNKED + _DECLARED + _CHUNKED + _DECLARED)
        theirs.shutdown(socket.SHUT_WR)
        config = Config()
        requests = http.get_parser(config, ours, ("127.0.0.1", 1))
        for kind, name in (("chunked", "parse_chunked"), ("length", "length")):
            request = next(requests)
            _require(request, "request", *_names_of(Request))
            _require(request.unreader, "request.unreader", "sock", "read", "unread")
            _require(request.body, "request.body", "reader")
            _require(request.body.reader, f"request.body.reader ({kind})", "read", name)
            request.body = RequestBody(request)
            environ = wsgi.default_environ(request, ours, config)
            if environ["wsgi.input"] is not request.body or request.unreader.sock is not ours:
                raise _refusal("request.body that becomes wsgi.input")
            if b"".join(request.body.pieces()) != b"abc":
                raise _refusal(f"request.body.reader ({kind}) that reads as the hub knows")
        # What nothing has read of a body, gunicorn drops by its `read`.
        request = next(requests)
        request.body = RequestBody(request)
        request = next(requests)
        request.force_close()
        if not request.must_close or next(requests, None):
            raise _refusal("request.must_close that ends the connection")


def _names_of(form: type) -> list[str]:
    """Return the names that a protocol says."""
    return sorted({*get_type_hints(form), *(name for name in dir(form) if name[0] != "_")})


def _require(thing: object, path: str, *names: str) -> None:
    """Raise `StartError` unless a thing, found in gunicorn at a path, has all these names."""
    for name in names:
        if not hasattr(thing, name):
            raise _refusal(f"{path}.{name}")


def _refusal(what: str) -> StartError:
    return StartError(
        f"gunicorn {__version__} has no {what}, which the hub needs; "
        "install a version that the hub knows: pip install 'gunicorn[gevent,fast]>=26.2,<27'"
    )

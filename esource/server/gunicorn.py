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
import os
import re
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, cast, get_type_hints

from gunicorn import __version__, http, systemd, util
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import body, errors, wsgi
from gunicorn.workers import base
from gunicorn.workers.workertmp import WorkerTmp

from esource.errors import StartError

# What the options are if nobody gives any: how long a worker may take to stop, in seconds, and
# how much the head of a request may be, in bytes and in fields.
DEFAULTS: "Settings" = Config()

# Of a request's head, and of the values of the fields that the hub parses: some parsers take a
# millisecond for each kilobyte.
HEAD_BYTES = 1 << 15
FIELD_BYTES = {
    "ACCEPT": 1 << 10, "CONTENT-TYPE": 1 << 11, "HOST": 1 << 11, "IF-MATCH": 1 << 11,
    "IF-MODIFIED-SINCE": 1 << 11, "IF-NONE-MATCH": 1 << 11, "IF-RANGE": 1 << 11,
    "LAST-EVENT-ID": 1 << 12, "ORIGIN": 1 << 11, "RANGE": 1 << 11, "WANT-REPR-DIGEST": 1 << 10,
}  # fmt: skip
_ABSOLUTE = re.compile(r"https?://([^/?#@\\]+)(?=[/?#]|\Z)", re.IGNORECASE)

Address: TypeAlias = tuple[str, int] | str  # a host and a port, or the path of a Unix socket


# -- what gunicorn's objects must have -----------------------------------------------------


class Settings(Protocol):
    """The options, of the command line and of `esource.server`."""

    address: list[Address]
    bind: list[str]
    gid: int
    graceful_timeout: int
    http2_cleartext: str
    http_protocols: list[str]
    is_ssl: bool
    keepalive: int
    limit_request_field_size: int
    limit_request_fields: int
    limit_request_line: int
    max_requests: int
    pidfile: str | None
    preload_app: bool
    protocol: str
    proxy_protocol: str
    statsd_host: tuple[str, int] | None
    uid: int
    worker_class_str: str
    worker_connections: int
    workers: int
    wsgi_app: str

    def set(self, name: str, value: object) -> None:
        """Change one, also while requests are served."""


class Log(Protocol):
    """What gunicorn logs to."""

    access_log_enabled: bool
    error_log: logging.Logger

    def warning(self, text: str, *args: object) -> None: ...  # noqa: D102
    def error(self, text: str, *args: object) -> None: ...  # noqa: D102
    def exception(self, text: str, *args: object) -> None: ...  # noqa: D102


class Arbiter(Protocol):
    """The master."""

    LISTENERS: list[object]
    app: Any  # with `app_uri`, which names the application
    cfg: Settings
    log: Log
    num_workers: int
    pidfile: Any  # with `unlink`, if there is one
    worker_class: type


Explain: TypeAlias = "Callable[[Request | None, socket.socket, Address, BaseException], None]"


class Worker(Protocol):
    """The worker of class `gevent`.

    It looks its own `run`, `handle` and `handle_error` up when it needs them, so that they can be
    replaced before it serves: that is not checked.
    """

    alive: bool  # until it is told to stop
    app: Any  # with `wsgi`, which returns the Flask application
    cfg: Settings
    handle: Callable[[socket.socket, socket.socket, Address], None]
    handle_error: Explain
    log: Log
    run: Callable[[], None]
    tmp: object

    def notify(self) -> None:
        """Tell the master that this worker is alive."""


# -- requests ------------------------------------------------------------------------------


class _Refused(errors.InvalidRequestLine):  # type: ignore[misc]  # gunicorn has no types
    """No request that the hub understands: `400`."""

    __str__ = BaseException.__str__


class Request(http.Request):  # type: ignore[misc]
    """A request whose head gunicorn has parsed, within the hub's limits.

    What the hub has no use for refuses nothing: of `Expect` only `100-continue` counts, and that is
    for the body to answer, once it is read.
    """

    body: Any  # gunicorn's, with a `reader`, until a `RequestBody` takes its place
    expects_continue = False
    headers: list[tuple[str, str]]
    method: str
    must_close: bool
    path: str
    unreader: Any  # with the connection, `sock`, and `take_buffered` and `unread`

    def __init__(
        self, goes_on: Callable[[], bool], received: dict[socket.socket, bytes], *about: object
    ) -> None:
        """`goes_on` is asked when the answer's head leaves; `about` is gunicorn's.

        What was `received` of a connection before gunicorn read from it, comes first.
        """
        self._goes_on = goes_on
        self._received = received
        self._closes: bool | None = None
        super().__init__(*about)

    def parse(self, unreader: Any) -> bytes:  # noqa: ANN401 -- gunicorn's
        """Parse a head; return what is behind it. Raises gunicorn's `ParseException`."""
        self.max_buffer_headers = HEAD_BYTES  # of a head that does not end
        if received := self._received.pop(unreader.sock, b""):
            unreader.unread(received)
        rest: bytes = super().parse(unreader)
        sizes = Counter({"": len(self.uri)})
        for name, value in self.headers:
            sizes[name] += len(value)
            sizes[""] += len(name) + len(value) + len(": \r\n")
        for name in sizes.keys() & FIELD_BYTES.keys():
            if sizes[name] > FIELD_BYTES[name]:
                raise errors.LimitRequestHeaders(
                    f"{name.title()} is over {FIELD_BYTES[name]} bytes long"
                )
        if sizes[""] > HEAD_BYTES:
            raise errors.LimitRequestHeaders(f"the head is over {HEAD_BYTES} bytes long")
        if self.version >= (1, 1) and "HOST" not in sizes:
            raise _Refused("HTTP/1.1 needs a Host field")
        if not self.uri.startswith("/") and (self.method, self.uri) != ("OPTIONS", "*"):
            self._make_absolute_form_plain()
        return rest

    def _make_absolute_form_plain(self) -> None:
        """Let the host of the target count, and not that of the field (RFC 9112, 3.2.2)."""
        target = _ABSOLUTE.match(self.uri)
        if not target:
            raise _Refused("the target of a request is a path, or an address with http://")
        headers = [field for field in self.headers if field[0] != "HOST"]
        self.headers = [("HOST", target[1]), *headers]
        self.path = self.path or "/"

    def _apply_header_policy(
        self, name: str, value: str, *about: object, **more: object
    ) -> tuple[str, str] | None:
        if name == "EXPECT":
            self.expects_continue = value.lower() == "100-continue" and self.version >= (1, 1)
            return name, value
        kept: tuple[str, str] | None = super()._apply_header_policy(name, value, *about, **more)
        return kept

    def declared_size(self) -> int | None:
        """Return how many bytes the body must have; None if it is chunked."""
        reader = self.body.reader
        return None if isinstance(reader, body.ChunkedReader) else reader.length

    def check_trailers(self, lines: bytes) -> None:
        """Raise `OSError` if these are no trailers."""
        try:
            self.parse_headers(lines, from_trailer=True)
        except errors.ParseException as error:
            raise OSError(str(error)) from error

    def should_close(self) -> bool:
        """Return whether the connection ends after this request.

        Decided once, as the answer's head leaves, which says it: so what was said holds.
        """
        if self._closes is None:
            self._closes = bool(super().should_close() or not self._goes_on())
            self._closes |= not self.body.skip()
        return self._closes


def make_requests(goes_on: Callable[[], bool], received: dict[socket.socket, bytes]) -> None:
    """Have gunicorn make the hub's `Request`s from now on."""
    http.RequestParser.mesg_class = partial(Request, goes_on, received)


# -- connections ---------------------------------------------------------------------------


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


# -- the sign of life ----------------------------------------------------------------------


class _SignOfLife(WorkerTmp):  # type: ignore[misc]
    """What a worker tells the master by that it lives: a file in memory.

    Gunicorn's own is in a folder, where there may be no right to write, or a slow disk.
    """

    def __init__(self, cfg: Settings) -> None:
        fd = os.memfd_create("sign-of-life")
        if (cfg.uid, cfg.gid) != (os.geteuid(), os.getegid()):  # a sandbox may forbid the call
            os.fchown(fd, cfg.uid, cfg.gid)
        self._tmp = os.fdopen(fd, "w+b", 0)


base.WorkerTmp = _SignOfLife

# -- the master ----------------------------------------------------------------------------


def tell_systemd_of_the_stop(server: Arbiter) -> None:
    """Tell that the stop is meant. That the hub is ready, gunicorn tells by itself."""
    systemd.sd_notify("STOPPING=1", server.log)


def is_known_worker(kind: type) -> bool:
    """Return whether a class of workers is gevent's, and serves with gunicorn's own parser."""
    from gunicorn.workers.ggevent import GeventWorker  # which loads gevent

    return issubclass(kind, GeventWorker) and getattr(kind, "server_class", None) is None


def is_of_gunicorn(handler: logging.Handler) -> bool:
    """Return whether a log's handler is one that gunicorn's own options made."""
    return hasattr(handler, "_gunicorn")


# -- the check -----------------------------------------------------------------------------

# What is used here of gunicorn's modules, and of an object that one of them makes.
_NAMES = (
    (http, "http", "get_parser RequestParser"),
    (http.RequestParser, "http.RequestParser", "mesg_class"),
    (errors, "http.errors", "InvalidRequestLine LimitRequestHeaders ParseException"),
    (body, "http.body", "ChunkedReader LengthReader"),
    (systemd, "systemd", "sd_notify"),
    (util, "util", "write_error"),
    (Logger, "glogging.Logger", "_set_handler"),
    (WorkerTmp, "workers.workertmp.WorkerTmp", "notify last_update fileno close"),
)
# Requests of each kind, with a body `abc`.
_HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
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
    _require(server.app, "app", "app_uri")
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
    if not isinstance(worker.tmp, _SignOfLife):
        raise _refusal("workers.base.WorkerTmp that makes worker.tmp")


def _check_requests() -> None:
    # Loads gevent, which a worker does not want before it has prepared the process for it.
    from esource.hub.clients import Clients
    from esource.server.body import RequestBody

    ours, theirs = socket.socketpair()
    config, clients = Config(), Clients()
    with ours, theirs:
        theirs.sendall(_CHUNKED + _DECLARED + _CHUNKED + _DECLARED)
        theirs.shutdown(socket.SHUT_WR)
        requests = http.get_parser(config, ours, ("127.0.0.1", 1))
        requests.mesg_class = partial(Request, lambda: True, {})
        for kind, size in (("chunked", None), ("length", 3)):
            request = next(requests)
            _require(request, "request", "force_close", "headers", "must_close", "path", "uri")
            _require(request.unreader, "request.unreader", "sock", "take_buffered", "unread")
            _require(request.body, "request.body", "reader")
            if not request.expects_continue:
                raise _refusal("request._apply_header_policy")
            if request.declared_size() != size:
                raise _refusal(f"request.body.reader ({kind}) that says how long a body is")
            request.body = RequestBody(request, clients)
            _, environ = wsgi.create(request, ours, ("", 1), ("", 1), config)
            if environ["wsgi.input"] is not request.body or request.unreader.sock is not ours:
                raise _refusal("request.body that becomes wsgi.input")
            if b"".join(request.body.pieces()) != b"abc":
                raise _refusal(f"request.body ({kind}) that can be read past the reader")
        # What nothing has read of a body, `skip` drops.
        request = next(requests)
        request.body = RequestBody(request, clients)
        request = next(requests)
        request.body = RequestBody(request, clients)
        request.force_close()
        if not request.must_close or next(requests, None):
            raise _refusal("request.must_close that ends the connection")
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.recv(1)
            raise _refusal("request that leaves 100 Continue to its body")


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

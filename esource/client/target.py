"""A channel of a hub, by its URL, and how it is asked: with the options that `curl` has."""

import base64
import http.client
import netrc
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from esource.errors import EsourceError, Unusable

CONNECT_SECONDS = 10.0
# 408, 425 and 429 are the client's turn to wait; all from 500 on the server's to recover.
AGAIN = {408, 425, 429}
ETAG = re.compile(r'(?:W/)?"([0-9a-f]+)-([0-9a-f]+)(?:-[0-9a-f]+)?"')

Query = Sequence[tuple[str, str]]


class Refused(EsourceError):
    """The hub, or what stands before it, says no, and would again."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text, status)
        self.status = status


class Away(Exception):
    """Nobody answers, or says to come back later, in `seconds` if that is known."""

    def __init__(self, text: str, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.seconds = seconds


class Options(NamedTuple):
    """How to ask: what `-H`, `--header-file`, `--netrc`, `--cacert` and `--unix-socket` say."""

    headers: tuple[tuple[str, str], ...] = ()
    uses_netrc: bool = False
    cacert: Path | None = None
    unix_socket: Path | None = None


class Kept(NamedTuple):
    """What a hub has of a channel."""

    end: int  # an offset
    newest: str  # the id of its last event; empty if it has none
    etag: str


class Target:
    """A channel's URL. It holds one connection at a time, for requests one after the other."""

    def __init__(self, url: str, options: Options) -> None:
        """Take a URL apart; nothing is asked yet. Raise `Unusable` if it cannot be asked."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            self._port = parts.port
        except ValueError as error:
            raise Unusable(f"{url} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise Unusable(f"{url} is no URL of a channel, as http://localhost:9000/orders is")
        self._host = parts.hostname
        self._options = options
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=options.cacert)
        self.path = parts.path or "/"
        self.query: Query = parse_qsl(parts.query, keep_blank_values=True)
        self._headers = dict(options.headers)
        names = {name.lower() for name in self._headers}
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if not user and options.uses_netrc:
            user, password = _in_netrc(self._host)
        if user and "authorization" not in names:
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {basic}"
        if "user-agent" not in names:
            self._headers["User-Agent"] = "esource"
        netloc = parts.netloc.rpartition("@")[2]
        self.hub = f"{parts.scheme}://{netloc}"
        self.url = f"{self.hub}{self.path}" + (f"?{parts.query}" if parts.query else "")
        self._connection: http.client.HTTPConnection | None = None

    def another(self) -> "Target":
        """Return the same, with a connection of its own."""
        other = copy(self)
        other.forget()
        return other

    def sibling(self, channel: str) -> "Target":
        """Return another channel of the same hub."""
        other = self.another()
        other.path = f"{self.path.rpartition('/')[0]}/{quote(channel)}"
        other.query = []
        other.url = f"{self.hub}{other.path}"
        return other

    def ask(
        self,
        method: str,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 60.0,
    ) -> http.client.HTTPResponse:
        """Return the answer to a request, its body unread; at most `timeout` s of silence in it.

        A body of the answer that was not read ends the connection with the next request. Raises
        `Away` if there is no answer or if it says to come back, and `Refused` for any other status
        but a 2xx.
        """
        asked = urlencode([*self.query, *query])
        path = self.path + (f"?{asked}" if asked else "")
        try:
            connection = self._connected(timeout)
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Away(f"{self.url}: {_reason(error)}") from error
        if 200 <= answer.status < 300:
            return answer
        said = self.text(answer).decode("utf-8", "replace").strip().partition("\n")[0]
        text = f"{self.url}: {answer.status} {said[:500] or answer.reason}"
        if answer.status in AGAIN or answer.status >= 500:
            raise Away(text, _seconds(answer.headers.get("Retry-After", "")))
        raise Refused(text, answer.status)

    def text(self, answer: http.client.HTTPResponse) -> bytes:
        """Return the whole body of an answer; raise `Away` if it breaks off."""
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Away(f"{self.url}: {_reason(error)}") from error

    def piece(self, answer: http.client.HTTPResponse, size: int) -> bytes:
        """Return what has come of a body, as soon as there is something; nothing at its end."""
        try:
            piece = answer.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Away(f"{self.url}: {_reason(error)}") from error
        if not piece and answer.length:
            self.close()
            raise Away(f"{self.url}: the answer broke off")
        return piece

    def kept(self) -> Kept:
        """Return what the hub has of the channel now."""
        answer = self.ask("HEAD", headers={"Accept": "text/tab-separated-values"})
        self.text(answer)
        etag = answer.headers.get("ETag", "")
        match = ETAG.fullmatch(etag)
        if not match:
            raise Refused(f"{self.url} is no channel of a hub: it has no such ETag")
        return Kept(int(match[2], 16), id_in(answer.headers.get("Last-Event-ID", "")), etag)

    def forget(self) -> None:
        """Leave the connection to another, of whom this is a copy."""
        self._connection = None

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def interrupt(self) -> None:
        """End what another thread waits for: its read is over."""
        connection = self._connection
        if connection and connection.sock:
            with suppress(OSError):  # it is gone already
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        connection = self._connection
        if connection and (connection.sock is None or not _is_idle(connection)):
            self.close()
            connection = None
        if not connection:
            connection = self._connection = _Connection(
                self._host, self._port, self._tls, self._options.unix_socket
            )
            connection.connect()
        connection.sock.settimeout(timeout)
        return connection


class _Connection(http.client.HTTPConnection):
    """One over TLS, or over a Unix socket, or neither."""

    def __init__(
        self, host: str, port: int | None, tls: ssl.SSLContext | None, unix_socket: Path | None
    ) -> None:
        if tls:
            self.default_port = http.client.HTTPS_PORT  # so that `Host` does not name it
        super().__init__(host, port, timeout=CONNECT_SECONDS)
        self._tls = tls
        self._unix_socket = unix_socket

    def connect(self) -> None:
        if self._unix_socket:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(CONNECT_SECONDS)
            self.sock.connect(str(self._unix_socket))
        else:
            super().connect()
        if self._tls:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def id_in(field: str) -> str:
    """Return an id that stands in a header: UTF-8, which `http.client` takes for Latin-1."""
    return field.encode("latin-1").decode("utf-8", "surrogateescape")


def header(id: bytes) -> str:
    """Return an id for a header, in UTF-8."""
    return id.decode("latin-1")


def parse_header(line: str) -> tuple[str, str]:
    """Return name and value of a header field as `curl -H` takes it; raise `Unusable`."""
    name, colon, value = line.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise Unusable(f"{line!r} is no header: it is 'Name: value'")
    if re.search(r"[\r\n\0]", value):
        raise Unusable(f"the value of the header {name} holds a line break")
    return name, value.strip()


def _is_idle(connection: http.client.HTTPConnection) -> bool:
    """Whether a request can be sent: the last answer was read, and nobody has closed."""
    response = getattr(connection, "_HTTPConnection__response", None)
    if response is not None and not response.isclosed():
        return False
    connection.sock.settimeout(0)
    try:
        return not (connection.sock.recv(1, socket.MSG_PEEK) or True)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except (OSError, ValueError):  # closed, or TLS, which cannot peek
        return isinstance(connection.sock, ssl.SSLSocket)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no sign of life"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"the answer broke off ({type(error).__name__})"


def _seconds(retry_after: str) -> float:
    """Return the seconds that a `Retry-After` names; of a date nothing is taken."""
    return min(float(retry_after), 300.0) if re.fullmatch(r"[0-9]{1,6}", retry_after) else 0.0


def _in_netrc(host: str) -> tuple[str, str]:
    """Return user and password of a host in the file `curl` would take; empty if there are none."""
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return "", ""
    except netrc.NetrcParseError as error:
        raise Unusable(f"{path}: {error.msg}") from None
    return (found[0], found[2] or "") if found else ("", "")

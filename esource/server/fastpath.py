"""The fast path: plain publishes, answered without the framework.

Most publishers send the same small `POST` all day, whole in one packet. For those, parsing
in general, an environment in general and dispatch in general cost several times what the
publish does. So before gunicorn reads from a connection, this looks at what has arrived
(`MSG_PEEK`), and if that is a plain publish, whole, takes it and answers it by the same code
as the view does, to which it gives the same `Post`. At the first request that is anything else
the connection is gunicorn's, to its end, and nothing of that request has been taken.

A plain publish is strictly this, and a doubt is a no:

    POST /<channel>[?query] HTTP/1.1 or 1.0
    header fields of `FIELDS` alone, each at most once, in printable ASCII, with `Host` and
    a declared length
    the whole body

So nothing that two parsers may see differently is answered here: no chunks, no `Expect`,
no folded or repeated fields, none that a browser sends, and no precondition in a field.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple

from esource.server.gunicorn import DEFAULTS, Worker
from esource.web.post import Post, Publish

PEEK_BYTES = 1 << 16
HEAD_BYTES = 4000
# Not with a `#`: what stands behind it is no part of a query.
_LINE = re.compile(rb"POST /([A-Za-z0-9_-]{4,64})(?:\?([!\x22$-~]*))? HTTP/1\.([01])")
_FIELD = re.compile(rb"([A-Za-z-]+): ?([!-~](?:[ -~]*[!-~])?)")
_LENGTH = re.compile(r"[0-9]{1,6}")
# The fields that a publish may have here; of the others the views and gunicorn know.
FIELDS = {
    "host", "content-length", "content-type", "connection", "user-agent", "accept",
    "accept-encoding", "accept-language", "x-forwarded-for", "x-real-ip", "x-request-id",
}  # fmt: skip


# What gunicorn would refuse is not answered here.
assert DEFAULTS.limit_request_line > HEAD_BYTES
assert DEFAULTS.limit_request_field_size > HEAD_BYTES
assert DEFAULTS.limit_request_fields >= len(FIELDS)
assert PEEK_BYTES > HEAD_BYTES


class _Head(NamedTuple):
    """What a request's head says."""

    post: Post
    size: int  # of the body, in bytes
    is_last: bool  # on its connection
    version: bytes  # of HTTP, behind the point


class _Whole:
    """A body that has arrived, as `post.Body`: so the next request is where it must be."""

    __slots__ = ("_content", "size")

    client = None

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def pieces(self) -> Iterator[bytes]:
        return iter((self._content,) if self.size else ())

    def close_afterwards(self) -> None:
        pass


class FastPath:
    """Plain publishes on the connections of a worker."""

    def __init__(self, publish: Publish, keepalive: float) -> None:
        """`publish` answers a POST; a connection may be silent for `keepalive` seconds."""
        self.keepalive = keepalive
        self._publish = publish

    def next(self, client: socket.socket) -> "Request | None":
        """Take the next request of a connection if it is a plain publish, else leave it there.

        Blocks until something has arrived. Raises `TimeoutError` if nothing does, and `OSError`.
        """
        client.settimeout(self.keepalive)
        arrived = client.recv(PEEK_BYTES, socket.MSG_PEEK)
        end = arrived.find(b"\r\n\r\n", 0, HEAD_BYTES) + 4
        if end < 4:
            return None
        head = parse(arrived[:end])
        if head is None or len(arrived) < end + head.size:
            return None
        client.recv(end + head.size)  # what has been seen is there, so this is all of it
        return Request(self._publish, client, head, arrived[end : end + head.size])


def fast_path(worker: Worker, publish: Publish) -> FastPath | None:
    """Return the fast path; None where an option wants to see, count or encrypt every request.

    Nor where a connection is for one request, or where gunicorn is told to take less of one
    than the fast path does (0 is no limit).
    """
    cfg = worker.cfg
    if (
        cfg.is_ssl
        or cfg.proxy_protocol != "off"
        or worker.log.access_log_enabled
        or cfg.statsd_host
        or cfg.max_requests
        or not cfg.keepalive
        or 0 < cfg.limit_request_line < HEAD_BYTES
        or 0 < cfg.limit_request_field_size < HEAD_BYTES
        or 0 < cfg.limit_request_fields < len(FIELDS)
    ):
        return None
    return FastPath(publish, cfg.keepalive)


class Request:
    """A plain publish that was taken from its connection, and must be answered."""

    __slots__ = ("_body", "_client", "_head", "_publish", "was_refused")

    def __init__(
        self, publish: Publish, client: socket.socket, head: _Head, content: bytes
    ) -> None:
        self._publish = publish
        self._client = client
        self._head = head
        self._body = _Whole(content)
        self.was_refused = False  # and so nothing was waited for

    def answer(self, goes_on: Callable[[], bool]) -> bool:
        """Publish and answer; return whether the connection goes on. Blocks.

        `goes_on` is asked once it is stored, which may take long. Raises `OSError` if the client
        has gone.
        """
        answer = self._publish(self._head.post, self._body)
        self.was_refused = answer.status >= "4"
        is_last = self._head.is_last or not goes_on()
        # The length is among them, since the content is whole.
        fields = "".join([f"{name}: {value}\r\n" for name, value in answer.headers])
        self._client.settimeout(None)
        # In one packet: for gunicorn, head and body are two.
        self._client.sendall(
            b"HTTP/1.%b %b\r\nServer: gunicorn\r\nDate: %b\r\nConnection: %b\r\n%b"
            b"\r\n%b" % (
                self._head.version, answer.status.encode("latin-1"), _date(int(time.time())),
                b"close" if is_last else b"keep-alive", fields.encode("latin-1"),
                answer.content,
            )
        )  # fmt: skip
        return not is_last


@lru_cache(maxsize=64)
def parse(head: bytes) -> _Head | None:
    """Return what the head of a plain publish says; None for any other.

    `head` ends with its empty line. (A publisher sends the same one again and again.)
    """
    first, *lines = head[:-4].split(b"\r\n")
    line = _LINE.fullmatch(first)
    if not line:
        return None
    fields: dict[str, str] = {}
    for text in lines:
        field = _FIELD.fullmatch(text)
        name = field[1].decode().lower() if field else ""
        if not field or name not in FIELDS or name in fields:
            return None
        fields[name] = field[2].decode()
    size = fields.get("content-length", "")
    connection = fields.get("connection", "").lower()
    if (
        "host" not in fields
        or not _LENGTH.fullmatch(size)
        or connection not in ("", "keep-alive", "close")
    ):
        return None
    post = Post(
        channel=line[1].decode(),
        query=(line[2] or b"").decode(),
        host=fields["host"],
        accept=fields.get("accept", ""),
        content_type=fields.get("content-type", ""),
    )
    is_last = connection == "close" or (line[3] == b"0" and connection != "keep-alive")
    return _Head(post, int(size), is_last, line[3])


@lru_cache(maxsize=1)
def _date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()

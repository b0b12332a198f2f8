"""The fast path: plain publishes, answered without the framework.

    received ──► whole requests ──► queued, together ──► answered, together (`owed`)
       │                                  └─► meanwhile the next are received
       └─► of one that is not whole the rest is waited for

Most publishers send the same small `POST` all day. For those, parsing in general, an environment
in general and dispatch in general cost several times what the publish does. So what arrives on a
connection is looked at here first. The plain publishes in it are queued by the same code as the
view's, and answered when they are committed. At the first request that is anything else the
connection is gunicorn's, to its end, with all that was received of that request.

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
from functools import lru_cache
from typing import NamedTuple

import gevent

from esource.hub.clients import shut
from esource.hub.loop import give_way
from esource.hub.memory import BodyMemory
from esource.server.gunicorn import DEFAULTS, Worker
from esource.server.owed import Owed
from esource.web.post import Plan, Post, Publishing

RECEIVE_BYTES = 1 << 16  # at a time, and of a body that is waited for here
HEAD_BYTES = 4000
REQUESTS = 256  # that are queued before others have a turn: about three milliseconds
ROUND_REQUESTS = 1024  # of all connections together, before the loop begins another round
NEWCOMER_BYTES, MOST_NEWCOMERS = 1 << 13, 32  # about eight publishes
PLANS = 2048  # heads that are remembered: a publisher sends the same one again and again
PLAN_BYTES = 1 << 10  # of a head that is remembered
PIECES = 64  # that are received before others have a turn: a millisecond at most
SWEEP_SECONDS = 0.5  # between two looks for connections that are silent for too long
SWEEP_CLIENTS = 1000  # looked at, before others have a turn
REST_SECONDS = 1.0  # for the rest of a request; gunicorn's way has more patience
# Of what was received and is not queued, on all connections. With more, each receives no more than
# a head at a time, and the rest of a request is waited for in gunicorn's way, where it is counted.
HELD_BYTES = 1 << 24
# Not with a `#`: what stands behind it is no part of a query.
_LINE = re.compile(rb"POST /([A-Za-z0-9_-]{4,64})(?:\?([!\x22$-~]*))? HTTP/1\.([01])")
_FIELD = re.compile(rb"([A-Za-z-]+): ?([!-~](?:[ -~]*[!-~])?)")
_LENGTH = re.compile(r"[0-9]{1,6}")
# The fields that a publish may have here; of the others the views and gunicorn know.
FIELDS = {
    "host", "content-length", "content-type", "connection", "user-agent", "accept",
    "accept-encoding", "accept-language", "x-forwarded-for", "x-forwarded-proto", "x-real-ip",
    "x-request-id",
}  # fmt: skip


# What gunicorn would refuse is not answered here.
assert DEFAULTS.limit_request_line > HEAD_BYTES
assert DEFAULTS.limit_request_field_size > HEAD_BYTES
assert DEFAULTS.limit_request_fields >= len(FIELDS)
assert RECEIVE_BYTES > HEAD_BYTES


class Head(NamedTuple):
    """What the head of a plain publish says."""

    post: Post
    size: int  # of the body, in bytes
    is_last: bool  # on its connection
    version: bytes  # of HTTP, behind the point
    plan: Plan | None = None  # of one event; without it the request is answered alone


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

    def __init__(
        self, publishing: Publishing, memory: BodyMemory, keepalive: float,
        goes_on: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Have POSTs answered by `publishing`, and their bodies counted in `memory`.

        A connection may be silent for `keepalive` seconds, and ends once `goes_on` says no.
        """
        self.keepalive = keepalive
        # Connections between two requests, and since when, by the monotonic clock.
        self.idle: dict[socket.socket, float] = {}
        self._sweeper: gevent.Greenlet | None = None
        self._publishing = publishing
        self._memory = memory
        self._goes_on = goes_on
        self._connections = 0  # the idle ones, too
        self._held = 0  # bytes that were received and are not queued
        self._known = lru_cache(PLANS)(self._planned)

    @property
    def newcomers(self) -> int:
        """How many connections may be accepted in a round of the loop, which serves all others.

        With one alone the last of a thousand that come to publish waits for seconds; with many, a
        flood of connections makes others wait. So it is more for each few publishes that are under
        way, as their rows and receipts take memory.
        """
        return 1 + min(self._memory.used // NEWCOMER_BYTES, MOST_NEWCOMERS)

    def serve(self, client: socket.socket) -> bytes | None:
        """Answer plain publishes; return all that was received of the first other request.

        None at the end of the connection, which is to be closed. Blocks until then.
        """
        owed = Owed(client, self._memory, self._publishing, self._goes_on)
        received, deadline, pieces = b"", None, 0
        self._connections += 1
        try:
            while True:
                requests, size, may_be_plain = self._look(received)
                if requests:
                    owed.wait()
                    if owed.is_over:
                        return None
                    self._queue(owed, requests)
                    received, deadline = self._hold(received, received[size:]), None
                    if requests[-1][0].is_last:
                        return None
                    if not owed.is_pending:  # nothing was waited for
                        give_way()
                    continue
                if received and deadline is None:
                    deadline = time.monotonic() + REST_SECONDS
                more = self._receive(client, deadline) if may_be_plain else b""
                if not more:
                    owed.wait()
                if owed.is_over:
                    return None
                if not more:
                    return received or None
                received = self._hold(received, received + more)
                pieces += 1
                if not pieces % PIECES:  # nothing may have been waited for
                    give_way()
        except OSError:  # it has gone
            return None
        finally:
            self._connections -= 1
            self._hold(received, b"")
            owed.wait()  # or what is owed would be written to a connection that is closed

    def _look(self, received: bytes) -> tuple[list[tuple[Head, bytes]], int, bool]:
        """Return the whole plain publishes that come first, and the size of all of them.

        And whether what comes next may be one once the rest of it is there.
        """
        found: list[tuple[Head, bytes]] = []
        busy = self._connections - len(self.idle)
        at, most = 0, min(REQUESTS, ROUND_REQUESTS // busy or 1)
        while len(found) < most:
            end = received.find(b"\r\n\r\n", at, at + HEAD_BYTES) + 4
            if end < 4:
                is_post = b"POST /".startswith(received[at : at + 6])
                return found, at, is_post and len(received) - at < HEAD_BYTES
            text = received[at:end]
            head = self._known(text) if end - at <= PLAN_BYTES else self._planned(text)
            if head is None or head.size > RECEIVE_BYTES:
                return found, at, False
            if len(received) < end + head.size:
                break
            found.append((head, received[end : end + head.size]))
            at = end + head.size
            if head.is_last:
                break
        return found, at, True

    def _planned(self, text: bytes) -> Head | None:
        head = parse(text)
        return head and head._replace(plan=self._publishing.plan(head.post))

    def _queue(self, owed: Owed, requests: list[tuple[Head, bytes]]) -> None:
        """Begin requests; those of one event are not waited for. Blocks for others."""
        for head, content in requests:
            if head.plan:
                owed.begin(head.plan, content, head.version, head.is_last)
                continue
            owed.send()
            owed.wait()
            if owed.is_over:
                return
            answer = self._publishing.whole(head.post, _Whole(content))
            owed.add(answer, head.version, head.is_last)
            give_way()  # a refusal takes a tenth of a millisecond, and waits for nothing
        owed.send()

    def _receive(self, client: socket.socket, deadline: float | None) -> bytes:
        """Return what comes next; nothing if the client is silent for too long, or has ended.

        Until a `deadline`, if something was received already. Blocks; raises `OSError`.
        """
        size = RECEIVE_BYTES if self._held < HELD_BYTES else HEAD_BYTES
        if deadline is not None:
            if size < RECEIVE_BYTES or (seconds := deadline - time.monotonic()) <= 0:
                return b""
            # Not the socket's timeout, which is that of what is sent meanwhile, too.
            with gevent.Timeout(seconds, False):
                return client.recv(size)
            return b""
        self.idle[client] = time.monotonic()  # a timer for each would cost as much as its parsing
        if self._sweeper is None:
            self._sweeper = gevent.spawn(self._sweep)
        try:
            return client.recv(size)
        finally:
            del self.idle[client]

    def _sweep(self) -> None:
        """Be the greenlet that ends connections that are silent for too long."""
        while self.idle:
            gevent.sleep(SWEEP_SECONDS)
            latest = time.monotonic() - self.keepalive
            for count, client in enumerate(list(self.idle), 1):
                if self.idle.get(client, latest) < latest:
                    shut(client, socket.SHUT_RD)
                if not count % SWEEP_CLIENTS:
                    give_way()
        self._sweeper = None

    def _hold(self, before: bytes, now: bytes) -> bytes:
        self._held += len(now) - len(before)
        return now


def fast_path(
    worker: Worker, publishing: Publishing, memory: BodyMemory
) -> FastPath | None:  # fmt: skip
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
    return FastPath(publishing, memory, cfg.keepalive, lambda: worker.alive)


def parse(head: bytes) -> Head | None:
    """Return what the head of a plain publish says; None for any other.

    `head` ends with its empty line.
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
    return Head(post, int(size), is_last, line[3])

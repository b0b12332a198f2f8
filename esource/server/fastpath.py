"""The fast path: plain publishes and follows, answered without the framework.

    received ──► whole requests ──► queued, together ──► answered, together (`owed`)
       │                                  └─► meanwhile the next are received
       └─► of one that is not whole the rest is waited for

Most publishers send the same small `POST` all day. For those, parsing in general, an environment
in general and dispatch in general cost several times what the publish does. So what arrives on a
connection is looked at here first. The plain publishes in it are queued by the same code as the
view's, and answered when they are committed. A plain follow (`follows`) is answered in its turn. At
the first request that is anything else the connection is gunicorn's, to its end, with all that was
received of that request.

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
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import gevent

from esource.hub.clients import shut
from esource.hub.loop import give_way
from esource.hub.memory import BodyMemory
from esource.server import follows, heads
from esource.server.follows import Follow, Follows
from esource.server.gunicorn import DEFAULTS, Worker
from esource.server.heads import HEAD_BYTES, PLANS, parsed
from esource.server.owed import Owed
from esource.server.streams import Streams
from esource.web.get import Following
from esource.web.post import Answer, Plan, Post, Publishing

RECEIVE_BYTES = 1 << 16  # at a time, and of a body that is waited for here
REQUESTS = 256  # that are queued before others have a turn: about three milliseconds
ROUND_REQUESTS = 1024  # of all connections together, before the loop begins another round
PIECES = 64  # that are received before others have a turn: a millisecond at most
SWEEP_SECONDS = 0.5  # between two looks for connections that are silent for too long
SWEEP_CLIENTS = 1000  # looked at, before others have a turn
REST_SECONDS = 1.0  # for the rest of a request; gunicorn's way has more patience
# Of what was received and is not queued, on all connections. With more, each receives no more than
# a head at a time, and the rest of a request is waited for in gunicorn's way, where it is counted.
HELD_BYTES = 1 << 24
WORDS = b"POST /", b"GET /"
_LENGTH = re.compile(r"[0-9]{1,6}")
# The fields that a publish may have here; of the others the views and gunicorn know.
FIELDS = {
    "host", "content-length", "content-type", "connection", "user-agent", "accept",
    "accept-encoding", "accept-language", "x-forwarded-for", "x-forwarded-proto", "x-real-ip",
    "x-request-id",
}  # fmt: skip
MOST_FIELDS = max(len(FIELDS), len(follows.FIELDS))


# What gunicorn would refuse is not answered here.
assert DEFAULTS.limit_request_fields >= MOST_FIELDS
assert RECEIVE_BYTES > HEAD_BYTES


Begin: TypeAlias = Callable[[Streams], Answer | bool]
FollowBy: TypeAlias = Callable[[socket.socket, Begin], Answer | bool]


class Directly(Protocol):
    """What answers without the framework."""

    @property
    def publishing(self) -> Publishing:
        """POSTs."""

    @property
    def following(self) -> Following[Any]:
        """GETs that follow."""


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
    """Plain requests on the connections of a worker."""

    def __init__(
        self, directly: Directly, memory: BodyMemory, keepalive: float,
        goes_on: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Have requests answered `directly`, and the bodies of POSTs counted in `memory`.

        A connection may be silent for `keepalive` seconds, and ends once `goes_on` says no.
        """
        self.keepalive = keepalive
        # Connections between two requests, and since when, by the monotonic clock.
        self.idle: dict[socket.socket, float] = {}
        self._sweeper: gevent.Greenlet | None = None
        self._publishing = directly.publishing
        self._follows = Follows(directly.following, goes_on)
        self._memory = memory
        self._goes_on = goes_on
        self._connections = 0  # the idle ones, too
        self._streaming = 0  # those with a stream
        self._held = 0  # bytes that were received and are not queued
        self._known = lru_cache(PLANS)(self._planned)

    def serve(self, client: socket.socket, follow: FollowBy) -> bytes | None:
        """Answer plain requests; return all that was received of the first other request.

        None at the end of the connection, which is to be closed; or nothing is to be done with it,
        since its follower is parked. Blocks until then. A stream is written within `follow`.
        """
        owed = Owed(client, self._memory, self._publishing, self._goes_on)
        received, deadline, pieces = b"", None, 0
        self._connections += 1
        try:
            while True:
                head, plan = self._follow_in(received)
                if plan:
                    rest = received[len(head) :]
                    if not self._follow(client, owed, plan, bool(rest), follow):
                        return None
                    received, deadline = self._hold(received, rest), None
                    continue
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

    def _follow_in(self, received: bytes) -> tuple[bytes, Follow | None]:
        """Return the head of the plain follow that comes first, and what it says, if it is one."""
        if not received.startswith(b"GET /"):
            return b"", None
        head = received[: received.find(b"\r\n\r\n", 0, HEAD_BYTES) + 4]
        return head, self._follows.plan(head) if len(head) >= 4 else None

    def _follow(
        self, client: socket.socket, owed: Owed, plan: Follow, has_more: bool, follow: FollowBy
    ) -> bool:
        """Answer a plain follow; return whether the next request can be served. Blocks."""
        owed.wait()
        if owed.is_over:
            return False
        self._streaming += 1
        try:
            answer = follow(client, partial(self._follows.serve, client, plan, has_more))
        finally:
            self._streaming -= 1
        if isinstance(answer, bool):
            return answer
        owed.add(answer, plan.version, plan.is_last)
        owed.send()
        give_way()
        return not plan.is_last

    def _look(self, received: bytes) -> tuple[list[tuple[Head, bytes]], int, bool]:
        """Return the whole plain publishes that come first, and the size of all of them.

        And whether what comes next may be one once the rest of it is there.
        """
        found: list[tuple[Head, bytes]] = []
        busy = self._connections - len(self.idle) - self._streaming
        at, most = 0, min(REQUESTS, ROUND_REQUESTS // busy or 1)
        while len(found) < most:
            end = received.find(b"\r\n\r\n", at, at + HEAD_BYTES) + 4
            if end < 4:
                begun = received[at : at + 6]
                may_be = begun.startswith(b"GET /") or any(w.startswith(begun) for w in WORDS)
                return found, at, may_be and len(received) - at < HEAD_BYTES
            text = received[at:end]
            head = self._known(text) if end - at <= heads.PLAN_BYTES else self._planned(text)
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


def fast_path(worker: Worker, directly: Directly, memory: BodyMemory) -> FastPath | None:
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
        or 0 < cfg.limit_request_fields < MOST_FIELDS
    ):
        return None
    return FastPath(directly, memory, cfg.keepalive, lambda: worker.alive)


def parse(head: bytes) -> Head | None:
    """Return what the head of a plain publish says; None for any other.

    `head` ends with its empty line.
    """
    about = parsed(b"POST", head, FIELDS)
    if not about:
        return None
    fields = about.fields
    size = fields.get("content-length", "")
    if not _LENGTH.fullmatch(size):
        return None
    post = Post(
        channel=about.channel,
        query=about.query,
        host=fields["host"],
        accept=fields.get("accept", ""),
        content_type=fields.get("content-type", ""),
    )
    return Head(post, int(size), about.is_last, about.version)

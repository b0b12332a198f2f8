"""Plain follows: GETs of event streams that are answered without the framework.

    received ──► turn ──► the place is looked for ──► head and first piece, in one send
                                                        └─► at the tail: parked, or goes on

After a restart a crowd comes back at once, and each of it costs what a connection costs. Most ask
for the same, in a head of the same few fields. So a plain one (see `heads`) is begun by the same
code as the view's, whose very generator is the content; what is spared is the parsing in general,
the environment, the dispatch, and a second send.
"""

import socket
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from esource.server import heads
from esource.server.heads import PLANS, parsed
from esource.server.owed import head_of
from esource.server.streams import Streams, framed
from esource.web.get import FRAMINGS, Following, Framing, Get
from esource.web.post import Answer

# The fields that a follow may have here. Those that are not read change nothing for the views and
# gunicorn either.
FIELDS = {
    "host", "accept", "last-event-id", "pragma", "connection",
    "accept-encoding", "accept-language", "authorization", "cache-control", "cookie", "dnt",
    "forwarded", "priority", "referer", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform",
    "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-gpc", "user-agent", "via",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
    "x-request-id",
}  # fmt: skip


class Follow(NamedTuple):
    """What the head of a plain follow says."""

    plan: Any  # of `Following`
    version: bytes  # of HTTP, behind the point
    framing: Framing
    is_last: bool  # on its connection, as the client says


class _Connection:
    """The connection of one stream, as a `get.Connection`."""

    __slots__ = ("client", "closes", "may_park")

    def __init__(self, client: socket.socket, may_park: bool) -> None:
        self.client: socket.socket | None = client
        self.may_park = may_park
        self.closes = True  # until its head has left, which says it


def parse(head: bytes) -> tuple[Get, bool] | None:
    """Return the GET that a plain head is, and whether it is the last on its connection; or None.

    `head` ends with its empty line.
    """
    about = parsed(b"GET", head, FIELDS)
    if not about:
        return None
    fields = about.fields
    get = Get(
        channel=about.channel,
        query=about.query,
        host=fields["host"],
        accept=fields.get("accept", ""),
        last_event_id=fields.get("last-event-id", ""),
        pragma=fields.get("pragma", ""),
        protocol=f"HTTP/1.{about.version.decode()}",
    )
    return get, about.is_last


class Follows:
    """The plain follows on the connections of a worker."""

    def __init__(self, following: Following[Any], goes_on: Callable[[], bool]) -> None:
        """Have GETs answered by `following`. `goes_on` is asked as a head leaves."""
        self._following = following
        self._goes_on = goes_on
        self._known = lru_cache(PLANS)(self._planned)

    def plan(self, head: bytes) -> Follow | None:
        """Return what a head says if it is that of a plain follow."""
        return self._known(head) if len(head) <= heads.PLAN_BYTES else self._planned(head)

    def _planned(self, head: bytes) -> Follow | None:
        if not (about := parse(head)) or not (plan := self._following.plan(about[0])):
            return None
        get, is_last = about
        return Follow(plan, get.protocol[-1:].encode(), FRAMINGS[get.protocol], is_last)

    def serve(
        self, client: socket.socket, follow: Follow, has_more: bool, streams: Streams
    ) -> Answer | bool:  # fmt: skip
        """Write a stream; return whether it has ended, so that the next request can be served.

        If it has not, it is parked, or nothing more can be written to its connection. Or return
        another answer, which is due. With `has_more`, something has come behind the head. Blocks.
        """
        connection = _Connection(client, streams.may_park and not has_more)
        begun = self._following.begin(follow.plan, connection)
        if isinstance(begun, Answer):
            return begun
        framing = follow.framing
        is_chunked = bool(framing.last)

        def pieces() -> Iterator[bytes]:
            first = next(begun.content)
            # Without chunks only the end of the connection tells the end of the answer.
            closes = connection.closes = follow.is_last or not is_chunked or not self._goes_on()
            fields = [("Transfer-Encoding", "chunked")] * is_chunked + [*begun.headers]
            head = head_of(follow.version, "200 OK", closes, fields)
            yield head + framing.frame(first) if first else head
            yield from framed(begun.content, framing)

        return streams.write(client, pieces()) and not connection.closes

"""The clients that something is sent to or received from without an end: their sockets.

Knows TCP: the options of a connection, whether its peer is still there, and how it is shut. Not
what is sent.
"""

import _socket
import os
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias, cast

import gevent
import gevent.socket
from gevent import monkey

from esource.hub.loop import give_way

# A slow follower's backlog is in the log; the kernel need not hold megabytes of it, too.
SEND_BUFFER_BYTES = 1 << 16
# A client that vanished without a FIN is asked after 3 s. It is gone within 10 s: 3 s until it is
# probed, 4 s without an answer, and the time between two looks.
KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 5}
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 4.0
TURN_CLIENTS = 64  # looked at, before others get a turn
# The kernel asks a client whose window is full more and more rarely, up to every two minutes; with
# this option (Linux 6.15, linux/tcp.h) every 2 s, so that one that vanished is found out.
TCP_RTO_MAX_MS = 44
RTO_MAX_MS = 2000


_POLL = monkey.get_original("select", "poll")  # gevent's own waits, and knows no RDHUP

# A socket, or what `detached` makes of one.
Client: TypeAlias = _socket.socket


class Clients:
    """The clients of a hub whose connections may last."""

    def __init__(self) -> None:
        self._watched: set[Client] = set()
        self._sent_to: set[Client] = set()
        self._received_from: set[socket.socket] = set()
        self._unanswered: dict[Client, float] = {}  # since when nothing comes back
        self._watchman: gevent.Greenlet | None = None

    # -- which they are ------------------------------------------------------------------

    def join(self, client: Client) -> None:
        """Have a client looked after that something is sent to: it may vanish without a FIN."""
        self._sent_to.add(client)
        self._watch(client)

    def leave(self, client: Client | None) -> None:
        """Forget a client."""
        if client is not None:
            self._sent_to.discard(client)
            self._watched.discard(client)
            self._unanswered.pop(client, None)

    @contextmanager
    def watched(self, client: socket.socket) -> Iterator[None]:
        """Look after a client that is waited for: if it vanishes, its connection is shut."""
        keep_alive(client)
        self._watch(client)
        try:
            yield
        finally:
            self.leave(client)

    @contextmanager
    def sending(self, client: socket.socket) -> Iterator[None]:
        """Look after a client that something is being sent to."""
        self.join(client)
        try:
            yield
        finally:
            self.leave(client)

    @contextmanager
    def receiving(self, client: socket.socket | None) -> Iterator[None]:
        """Let a body without end, if it comes from a socket, be ended by `end_bodies`."""
        if client is None:
            yield
            return
        self._received_from.add(client)
        try:
            yield
        finally:
            self._received_from.discard(client)

    # -- the end -------------------------------------------------------------------------

    def end_bodies(self) -> None:
        """End every body without end: it is read as one that was cut off."""
        for client in list(self._received_from):
            shut(client, socket.SHUT_RD)

    def cut_off(self) -> None:
        """Shut the connections that are still being sent to: those clients take nothing."""
        for client in list(self._sent_to):
            shut(client, socket.SHUT_RDWR)

    # -- are they there? -----------------------------------------------------------------

    def _watch(self, client: Client) -> None:
        self._watched.add(client)
        if self._watchman is None and hasattr(socket, "TCP_INFO"):
            self._watchman = gevent.spawn(self._look)

    def _look(self) -> None:
        """Be the greenlet that cuts off clients that do not answer, while there are any."""
        while self._watched:
            gevent.sleep(LOOK_SECONDS)
            for count, client in enumerate(list(self._watched)):
                if not count % TURN_CLIENTS:
                    give_way()
                if client in self._watched and self._has_vanished(client):
                    shut(client, socket.SHUT_RDWR)
        self._watchman = None

    def _has_vanished(self, client: Client) -> bool:
        """Return whether nothing came back for `ANSWER_SECONDS` though something must have.

        TCP_USER_TIMEOUT does not tell a client that is gone from one that answers that its window
        is full, and retransmissions alone take the kernel 15 minutes.
        """
        try:
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        except OSError:
            return False  # closed, or no TCP
        probes = info[3]  # unanswered ones, of a closed window or to keep alive
        (unacknowledged,) = struct.unpack_from("I", info, 24)  # segments
        (last_answer,) = struct.unpack_from("I", info, 56)  # ms ago
        now = time.monotonic()
        since = self._unanswered.get(client)
        if not (probes or unacknowledged):
            self._unanswered.pop(client, None)
        elif since is None or now - last_answer / 1000 > since:
            self._unanswered[client] = now
        else:
            return now - since >= ANSWER_SECONDS
        return False


def tune(client: socket.socket) -> None:
    """Prepare a connection to be sent to for as long as its client lives, and no longer."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    keep_alive(client)


def keep_alive(client: socket.socket) -> None:
    """Have the kernel ask a silent client whether it is there; a Unix socket tells by itself."""
    if client.family == socket.AF_UNIX:
        return
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if sys.platform == "linux":
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, RTO_MAX_MS)


def takes_plain_bytes(client: socket.socket) -> bool:
    """Return whether bytes that are written to the descriptor reach the client as they are."""
    return not isinstance(client, ssl.SSLSocket)


def is_gone(client: Client) -> bool:
    """Return whether a client has closed its sending side: what can be known without sending."""
    return _is_ready(client, select.POLLRDHUP)


def has_said_something(client: Client) -> bool:
    """Return whether a client has sent something that was not received, or closed its sending side.

    Or it has gone altogether.
    """
    return _is_ready(client, select.POLLIN | select.POLLRDHUP)


def detached(client: Client) -> Client:
    """Take a socket's connection away from it; return a smaller socket, which cannot be waited for.

    No greenlet may be waiting for the other one, which is as good as closed.
    """
    family, kind, protocol = client.family, client.type, client.proto
    return _socket.socket(family, kind, protocol, client.detach())


def attached(client: Client) -> socket.socket:
    """Take a connection away from a socket that `detached` made; return one to be waited for."""
    family, kind, protocol = client.family, client.type, client.proto
    ours = gevent.socket.socket(family, kind, protocol, client.detach())
    return cast(socket.socket, ours)


def is_full(client: Client) -> bool:
    """Return whether a client's socket takes nothing now, since the client takes nothing."""
    return not _is_ready(client, select.POLLOUT)


def _is_ready(client: Client, events: int) -> bool:
    poll = _POLL()
    with suppress(ValueError):  # closed
        poll.register(client.fileno(), events)
    return bool(poll.poll(0))


def shut(client: Client, how: int) -> None:
    """Shut a connection as its peer would: a greenlet that reads or writes on it finds it ended.

    On a second descriptor: on the first one gevent would fail that greenlet, and noisily.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(client.fileno())) as twin:
        twin.shutdown(how)

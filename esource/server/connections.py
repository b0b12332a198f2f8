"""The worker's connections: which are between two requests, and how each of them ends.

Gunicorn's gevent worker serves a connection in one greenlet, from its first request to its
end. This stands around that: plain publishes go the fast path before gunicorn reads anything,
what gunicorn cannot parse is refused in the hub's own form, and on a stop every connection is
let go of as soon as may be:

    at once      streams get their last line, each in its turn, and the times below begin when all
                 have had it; from now on every answer is its connection's last
    after 0.5 s  streams that could not take it are cut off, and so are downloads, and reads
                 whose client went
    after 1 s    connections between two requests are closed: a client that is busy has sent its
                 next one, and knows by the answer that it was the last
    after 2 s    so are all other reads, however long their search or slow their client; bodies
                 that are still coming in, which are thereby refused; and publishers that send on
                 and on, and take no answers

A client whose next request is always there already would keep the loop to itself: requests
that wait for nothing (refused ones, and others than publishes) are followed by a turn of
all the others.
"""

import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import TypeVar

import gevent

from esource.errors import printable
from esource.hub.clients import is_full, is_gone, shut
from esource.hub.hub import Hub
from esource.hub.limits import Reminder
from esource.hub.loop import Failure, Rounds, give_way
from esource.server.body import LINGER_SECONDS, RequestBody, linger
from esource.server.fastpath import FastPath
from esource.server.gunicorn import DEFAULTS, Address, Request, Worker, explained, make_requests
from esource.server.streams import Streams

T = TypeVar("T")
# The work of newcomers in one round of the loop, which serves all others, is bounded, whoever they
# are: so many are accepted, and of what is not one plain event so many begin. As many fewer are
# accepted as wait for that already: here they take memory, and in the kernel little.
BEGUN = 16
TURNS_SECONDS = 10.0  # for ten thousand streams and more, which end one after the other
DRAIN_SECONDS = 0.5  # after that, for a stream to take its last line; then its connection is shut
IDLE_SECONDS = 0.5  # after that, for the next request of a connection
UPLOAD_SECONDS = 1.0  # after that, for a body to arrive
# Or the master kills the worker, which then ends nothing properly.
assert DEFAULTS.graceful_timeout > (
    TURNS_SECONDS + DRAIN_SECONDS + IDLE_SECONDS + UPLOAD_SECONDS + LINGER_SECONDS
)


class Connections:
    """The open connections of a worker, which calls `handle` and `refuse` for its own."""

    def __init__(self, worker: Worker, hub: Hub, fast_path: FastPath | None) -> None:
        """Begin with none. Without `fast_path` every request is gunicorn's."""
        self._worker = worker
        self.hub = hub
        self._fast_path = fast_path
        self._open: set[socket.socket] = set()
        self._idle: set[socket.socket] = set()  # between two requests
        self._received: dict[socket.socket, bytes] = {}  # before gunicorn reads
        self._reading: dict[socket.socket, gevent.Greenlet] = {}  # what serves a GET
        self._newcomers = Rounds(BEGUN)
        self._draining = False
        self._serve = worker.handle
        self._explain = worker.handle_error
        make_requests(lambda: worker.alive, self._received)
        self.streams = Streams(worker, hub.parking, self._go_on, self._serve_next)

    @property
    def newcomers(self) -> int:
        """How many connections may be accepted in a round of the loop."""
        return self._newcomers.room

    def handle(self, listener: socket.socket, client: socket.socket, address: Address) -> None:
        """Serve one connection (gunicorn's `Worker.handle`)."""
        self.streams.wait_for_room(lambda: len(self._open))
        self._serve_next(client, address)

    def _serve_next(self, client: socket.socket, address: Address) -> None:
        """Serve what comes next on a connection, to its end."""
        self._open.add(client)
        try:
            if not self._shakes_hands(client):
                client.close()
                return
            if self._fast_path:
                received = self._fast_path.serve(client, self._follow)
                if received is None:
                    if client.fileno() >= 0:  # else it is a follower's, which is parked
                        linger(client)
                    return
                self._received[client] = received
                del received  # a connection may last for days
            self._newcomers.wait()
            self._idle.add(client)
            # Gunicorn asks the listener for its address, which a stop may have closed by now.
            self._serve(client, client, address)
        finally:
            self._open.discard(client)
            self._idle.discard(client)
            self._received.pop(client, None)

    def _read_by(self, client: socket.socket, write: Callable[[], T]) -> T:
        """Have an answer to a GET written, which a stop can end."""
        self._reading[client] = gevent.getcurrent()
        try:
            return write()
        finally:
            self._reading.pop(client, None)

    def _follow(self, client: socket.socket, begin: Callable[[Streams], T]) -> T:
        """Have a stream begun on a connection that is served here, once it is its turn."""
        self._newcomers.wait()
        return self._read_by(client, lambda: begin(self.streams))

    def _go_on(self, client: socket.socket, write: Callable[[], bool]) -> bool:
        """Have the rest of a stream written, on a connection that nobody serves."""
        self._open.add(client)
        try:
            return self._read_by(client, write)
        finally:
            self._open.discard(client)

    def _shakes_hands(self, client: socket.socket) -> bool:
        """Return whether a connection can be used; one with TLS, if its handshake ends in time."""
        if isinstance(client, ssl.SSLSocket):
            with gevent.Timeout(self._worker.cfg.keepalive or None, False), suppress(OSError):
                client.do_handshake()
                return True
            return False
        return True

    def begin_request(self, request: Request) -> None:
        """Before gunicorn's request: its connection is busy, its body is the hub's."""
        client = request.unreader.sock
        self._idle.discard(client)
        if request.method in ("GET", "HEAD"):
            self._reading[client] = gevent.getcurrent()
        request.body = RequestBody(request, self.hub.clients, self.streams.may_park)

    def end_request(self, request: Request) -> None:
        """After gunicorn's response: the connection is idle, or closed, as the response said."""
        client = request.unreader.sock
        self._reading.pop(client, None)
        if client.fileno() < 0:  # detached, since its follower is parked
            request.body = None  # or it would be there until garbage is looked for
        elif request.should_close():
            linger(client)
        else:
            self._idle.add(client)
            give_way()
        if not self._worker.alive:
            self.begin_drain()  # gunicorn's `max_requests` stops without a signal

    def refuse(
        self, request: Request | None, client: socket.socket, address: Address, error: BaseException
    ) -> None:
        """Answer a request that gunicorn could not parse, and close (its `Worker.handle_error`).

        Gunicorn logs it and chooses the status.
        """
        status_line = explained(self._explain, request, address, error)
        if not status_line:
            return
        text = "the hub has failed; its log says why"
        if b" 500 " not in status_line:
            text = (
                printable(" ".join(str(error).split()))
                or "this is no request that the hub understands"
            )
        body = text.encode() + b"\n"
        self.hub.stats.refuse(int(status_line.split(b" ")[1]))
        with suppress(OSError):
            client.settimeout(LINGER_SECONDS)
            client.sendall(
                b"%b\r\nDate: %b\r\nConnection: close\r\n"
                b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
                b"Cache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b"
                % (status_line, formatdate(usegmt=True).encode(), len(body), body)
            )
            linger(client)

    def begin_drain(self) -> None:
        """Let go of every connection, each as soon as may be; return at once."""
        if not self._draining:
            self._draining = True
            gevent.spawn(self._drain)

    def _drain(self) -> None:
        # A client that connects from now on, until gunicorn closes the door, gets this long for a
        # request.
        self._worker.cfg.set("keepalive", 1)
        if self._fast_path:
            self._fast_path.keepalive = 1
        self.hub.drain()
        # Or the last of a crowd would be cut off before it could be told when to come back.
        self.hub.wait_for_turns(TURNS_SECONDS)
        gevent.sleep(DRAIN_SECONDS)
        self.hub.cut_off()
        # A client that closed its sending side may still be there, and wait for an answer that may
        # take a search of minutes. Now that is not worth the doubt.
        self._end_reads([client for client in self._reading if is_gone(client)])
        gevent.sleep(IDLE_SECONDS)
        between = list(self._fast_path.idle) if self._fast_path else []
        for client in [*self._idle, *between]:
            shut(client, socket.SHUT_RD)  # a request that has already arrived is still served
        gevent.sleep(UPLOAD_SECONDS)
        self._end_reads(list(self._reading))
        for client in list(self._open):
            # A publisher that waits for a commit has sent everything, and is still answered.
            shut(client, socket.SHUT_RDWR if is_full(client) else socket.SHUT_RD)

    def _end_reads(self, clients: list[socket.socket]) -> None:
        for client in clients:
            self._reading[client].kill(block=False)


def crash_report(log: logging.Logger) -> Callable[[str, Failure], None]:
    """Return what logs why a greenlet has ended, or a connection could not be accepted.

    The latter is tried again for as long as there are no descriptors; a traceback each time
    would not say what to do.
    """
    descriptors = Reminder()

    def report(text: str, failure: Failure) -> None:
        error = failure[1]
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            descriptors.warn(
                "%s (this process may have %d): new connections have to wait; "
                "raise the limit (LimitNOFILE=, ulimit -n)",
                error.strerror, resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )  # fmt: skip
        else:
            log.critical("%s", text, exc_info=failure)

    return report

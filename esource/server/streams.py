"""Streams that go on without gunicorn: what becomes of parked followers.

    gunicorn's greenlet ──► parked ──► a greenlet of ours ──► parked ──► …
                                            └─► the end of the stream ──► the next request, or
                                                                          the end of the connection

A follower is parked (`hub.parking`) by an exception that gunicorn takes for a client who left: it
writes nothing more, and closes a socket that is detached. What goes on with it later writes the
rest of the same stream to the same connection, framed as gunicorn frames it.

Not where each request is logged or counted at its end (an access log, statsd): gunicorn would do
that when the follower is parked, with what was sent until then.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import gevent

from esource.hub.followers import Follower
from esource.hub.parking import Parked, Parking
from esource.server.body import linger
from esource.server.gunicorn import Address, Worker
from esource.web.get import Framing

LOOK_SECONDS = 0.05  # at a stop, between two looks whether all have ended
FULL_SECONDS = 0.1  # between two looks whether there is room for one more connection

# Serves what comes next on a connection, to its end; and a stream, among what a stop looks after.
Serve = Callable[[socket.socket, Address], None]
Among = Callable[[socket.socket, Callable[[], bool]], bool]


class Streams:
    """The streams of a worker that gunicorn does not know of."""

    def __init__(
        self, worker: Worker, parking: Parking[Follower], among: Among, serve: Serve
    ) -> None:
        """Begin without any.

        A connection is `among` the others while something is written to it here. What comes next
        on it is `serve`d by the same greenlet.
        """
        self._worker = worker
        self._parking = parking
        self._among = among
        self._serve = serve
        self._going_on = 0
        self.may_park = False

    def open(self) -> None:
        """Have followers parked from now on, if that may be."""
        worker = self._worker
        worker.run = partial(self._run, worker.run)
        self.may_park = not (worker.log.access_log_enabled or worker.cfg.statsd_host)
        if self.may_park:
            self._parking.open(self._go_on)

    def __len__(self) -> int:
        return len(self._parking) + self._going_on

    def wait_for_room(self, others: Callable[[], int]) -> None:
        """Block while there are as many connections as gunicorn may have.

        It does not count the parked ones; `others` says how many more are served.
        """
        while self._parking and self._worker.alive:
            if len(self._parking) + others() < self._worker.cfg.worker_connections:
                break
            gevent.sleep(FULL_SECONDS)

    def _run(self, run: Callable[[], None]) -> None:
        """Have gunicorn `run` its worker; after that wait for these streams, as it does for its.

        Blocks. A stop has begun to end them by then.
        """
        run()
        deadline = time.monotonic() + self._worker.cfg.graceful_timeout
        while len(self) and time.monotonic() < deadline:
            self._worker.notify()
            gevent.sleep(LOOK_SECONDS)

    def _go_on(self, follower: Follower) -> None:
        """Be the greenlet that goes on with a follower that was parked."""
        self._going_on += 1
        try:
            client = follower.attach()
            has_ended = self._among(client, lambda: self.write(client, _rest(follower)))
            if not has_ended:
                return
            if follower.closes:
                linger(client)
                return
            with suppress(OSError):  # it has gone
                self._serve(client, client.getpeername())
            client.close()
        finally:
            self._going_on -= 1

    def write(self, client: socket.socket, pieces: Iterator[bytes]) -> bool:
        """Write what is to be sent of a stream; return whether it has ended, as it should.

        If it has not, the follower is parked, or its connection is closed. Blocks.
        """
        try:
            for data in pieces:
                client.sendall(data)
        except Parked:
            return False
        except OSError:  # it has gone
            client.close()
            return False
        except Exception:
            self._worker.log.exception("Error handling request")
            client.close()
            return False
        return True


def framed(content: Iterator[bytes], framing: Framing) -> Iterator[bytes]:
    """Yield the pieces of an answer without a length as they are sent."""
    for piece in content:
        if piece:  # a chunk of no bytes is the last
            yield framing.frame(piece)
    yield framing.last


def _rest(follower: Follower) -> Iterator[bytes]:
    assert follower.stream
    assert follower.push
    framing = Framing(follower.push.frame, follower.push.last)
    return framed(follower.stream.go_on(follower), framing)

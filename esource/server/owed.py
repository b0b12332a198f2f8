"""The answers that are owed to one client: in the order of its requests, and together.

    begun ──► stored ──► all that were begun are done ──► one packet ──► [ rest ]
                                                                          └─ what the socket
                                                                             does not take at once

What is stored is answered from the commit, while the client's greenlet already waits for its next
request: to wake that first would cost as much as the commit. A rest is sent by a greenlet of its
own, and the next request is not begun before it has gone: so answers never mix. It is counted in
the memory of bodies: a client that reads nothing may have to give way.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache, partial

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.errors import Busy
from esource.hub.clients import shut
from esource.hub.commit import Receipt
from esource.hub.memory import BodyMemory
from esource.web.post import Answer, Plan, Publishing

logger = logging.getLogger(__name__)


class Owed:
    """What one client is owed. All of it is of the loop's thread."""

    __slots__ = (
        "_answers", "_client", "_goes_on", "_is_ready", "_left", "_publishing", "_rest", "_share",
        "_signal", "is_over",
    )  # fmt: skip

    def __init__(
        self, client: socket.socket, memory: BodyMemory, publishing: Publishing,
        goes_on: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Owe nothing yet. `goes_on` is asked as an answer leaves, which may be the last one."""
        self.is_over = False  # the client was told that there will be no more, or takes none
        self._client = client
        self._publishing = publishing
        self._goes_on = goes_on
        self._share = memory.share(partial(shut, client, socket.SHUT_RDWR))
        self._share.is_whole = True  # what is begun; a rest of answers is not
        self._answers: list[tuple[Plan | None, Receipt | Answer, bytes, bool]] = []
        self._left = 0  # of them, receipts that are not done
        self._is_ready = False  # to be sent once these are
        self._rest: gevent.Greenlet | None = None
        self._signal: Signal | None = None  # for who waits

    @property
    def is_pending(self) -> bool:
        """Whether something is not sent yet."""
        return bool(self._answers or self._rest)

    def begin(self, plan: Plan, content: bytes, version: bytes, is_last: bool) -> None:
        """Queue an event, and owe the answer. Blocks to open a channel."""
        self._is_ready = False
        self._left += 1
        result = self._publishing.begin(plan, content, self._share, self._done)
        if isinstance(result, Answer):
            self._left -= 1
        self._answers.append((plan, result, version, is_last))

    def add(self, answer: Answer, version: bytes, is_last: bool) -> None:
        """Owe an answer that is known."""
        self._answers.append((None, answer, version, is_last))

    def send(self) -> None:
        """Send the answers, as soon as all that were begun are done; return at once."""
        self._is_ready = True
        if not self._left:
            self._send()

    def wait(self) -> None:
        """Block until nothing is owed."""
        if self._answers or self._rest:
            self._signal = Signal()
            self._signal.wait()
            self._signal = None

    def _done(self) -> None:
        self._left -= 1
        if not self._left and self._is_ready:
            self._send()

    def _send(self) -> None:
        answers, self._answers = self._answers, []
        self._share.give(self._share.held)
        if not self.is_over and answers:
            goes_on, number = self._goes_on(), len(answers)
            data = b"".join([
                self._rendered(plan, result, version, is_last or (not goes_on and n == number))
                for n, (plan, result, version, is_last) in enumerate(answers, 1)
            ])  # fmt: skip
            self.is_over = answers[-1][3] or not goes_on
            self._write(data)
            if not goes_on:
                shut(self._client, socket.SHUT_RD)  # it may be waited for
        if self._signal and not self._rest:
            self._signal.set()

    def _write(self, data: bytes) -> None:
        try:
            sent = os.write(self._client.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has gone
            self.is_over = True
            return
        if sent < len(data):
            # Counted as a body that stands: of clients that read nothing the first has to give way.
            self._share.is_whole = False
            self._rest = gevent.spawn(self._send_rest, data[sent:])

    def _send_rest(self, data: bytes) -> None:
        try:
            self._share.take(len(data))
            self._client.sendall(data)
        except (OSError, Busy):
            self.is_over = True
            shut(self._client, socket.SHUT_RDWR)  # it may be waited for
        self._share.is_whole = True
        self._share.give(self._share.held)
        self._rest = None
        if self._signal:
            self._signal.set()

    def _rendered(
        self, plan: Plan | None, result: Receipt | Answer, version: bytes, is_last: bool
    ) -> bytes:
        if plan is not None and isinstance(result, Receipt):
            result = self._publishing.end(plan, result)
        assert isinstance(result, Answer)
        fields = [*result.headers]
        if not result.status.startswith("204"):
            fields.append(("Content-Length", str(len(result.content))))
        return head_of(version, result.status, is_last, fields) + result.content


def head_of(version: bytes, status: str, closes: bool, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of an answer, as gunicorn writes it.

    `version` is that of HTTP, behind the point; `status` is the code and the phrase.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    connection = "close" if closes else "keep-alive"
    return (
        f"HTTP/1.{version.decode()} {status}\r\nServer: gunicorn\r\n"
        f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n{lines}\r\n"
    ).encode("latin-1")


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)

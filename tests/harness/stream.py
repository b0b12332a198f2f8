"""One GET whose answer is read as it comes: in any format, over either version of HTTP."""

import re
from contextlib import suppress
from http.client import HTTPMessage

from esource.event import Event
from esource.rows import sse
from tests.harness.wire import Chunks, Door


class Stream:
    """One raw connection that follows, what has come on it, and the events in that.

    By itself it asks for an event stream, over HTTP/1.0; `Accept` or `format=` ask for others.
    """

    def __init__(self, door: Door, path: str, *, version: str = "1.0", **headers: str) -> None:
        """Follow; return when headers, and of an event stream the first comment, are there."""
        self.body = b""  # all of it until now, without the frames of chunks
        self.events: list[Event] = []
        self.status = 0
        self.headers = HTTPMessage()  # of any case: proxies change it
        self._head = b""
        self._chunks: Chunks | None = None
        self._decoder: sse.Decoder | None = None
        self.connection = door.connect()
        fields = {"Host": "hub", "Accept": "text/event-stream", "Connection": "close", **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        request = "\r\n".join([f"GET {path} HTTP/{version}", *lines, "", ""])
        try:
            self.connection.sendall(request.encode())
            self._wait()
        except BaseException:
            self.close()
            raise

    # -- what comes ------------------------------------------------------------------------

    def _take(self, piece: bytes) -> None:
        if not self.status:
            self._head += piece
            if b"\r\n\r\n" not in self._head:
                return
            self._head, _, piece = self._head.partition(b"\r\n\r\n")
            first, *fields = self._head.decode("latin-1").split("\r\n")
            self.status = int(first.split()[1])
            for name, _, value in (field.partition(": ") for field in fields):
                self.headers[name] = value
            if self.headers.get("Transfer-Encoding") == "chunked":
                self._chunks = Chunks()
            if self.headers.get("Content-Type", "").startswith("text/event-stream"):
                self._decoder = sse.Decoder()
        if self._chunks:
            piece = self._chunks.feed(piece)
        self.body += piece
        if self._decoder:
            self.events += self._decoder.feed(piece)

    def read_more(self, size: int = 1 << 16) -> bool:
        """Take what comes next; return whether there was any before the end."""
        piece = self.connection.recv(size)
        self._take(piece)
        return bool(piece)

    def _wait(self) -> None:
        while not self.status:
            assert self.read_more(), self._head
        assert self.status == 200, self._head + self.body
        while self._decoder and not self.body:
            assert self.read_more(), self._head

    @property
    def content(self) -> bytes:
        """The body until now, heartbeats left out."""
        return re.sub(rb"^:\n", b"", self.body, flags=re.MULTILINE)

    # -- what is waited for ----------------------------------------------------------------

    def read(self, count: int) -> list[Event]:
        """Return the first `count` events, as soon as they are there."""
        while len(self.events) < count:
            assert self.read_more(), f"it ended after {len(self.events)} of {count} events"
        assert len(self.events) == count
        return self.events

    def read_until(self, wanted: bytes) -> bytes:
        """Return the body until now, as soon as `wanted` is in it."""
        while wanted not in self.body:
            assert self.read_more(), f"it ended without {wanted!r}: {self.body[-1000:]!r}"
        return self.body

    def read_up_to(self, last: bytes) -> bytes:
        """Return the content, as soon as `last` is the end of it."""
        while not self.body.endswith(last):
            assert self.read_more(), f"it ended without {last!r}: {self.body[-1000:]!r}"
        return self.content

    def read_bytes(self, count: int) -> bytes:
        """Return the body until now, as soon as it has so many bytes."""
        while len(self.body) < count:
            assert self.read_more(), f"it ended after {len(self.body)} of {count} bytes"
        return self.body

    def read_to_end(self) -> bytes:
        """Return the whole body, once the hub has ended it; chunks must have their end."""
        with suppress(ConnectionResetError):
            while self.read_more():
                pass
        if self._chunks:
            assert self._chunks.is_complete, self.body[-200:]
        return self.body

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Go away."""
        self.connection.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""A request's body as it arrives, and what becomes of one that nothing reads.

    arrived with the head ─┐
    received, in turns ────┴─► [chunks ─► content] ─► pieces, as soon as they are there

A connection goes on after a request only if that request's body was read to its end before the
answer's head left (`skip` asks that). Of any other body the end is not looked for: the answer says
`Connection: close`, and `linger` drops what still comes, for a while (RFC 9112, 9.6). So what a
client sends costs the others a turn, however much it is and whatever it is for.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from esource.errors import TooSlow
from esource.hub.clients import Clients
from esource.hub.loop import give_way
from esource.server.gunicorn import Request

# At once; then others have a turn. What is received together is sent to followers together, and
# more than this is more than their sockets take at once, all of them.
RECEIVE_BYTES = 1 << 14
TURN_CHUNKS = 250  # decoded, in a millisecond at most, before others have a turn
# Of a chunk's size line, or of the trailers: the standard knows no limit for either.
CHUNK_LINE_BYTES = 1 << 14
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 24
# A body of declared length must keep to this rate, after this time.
LEAST_RATE = 1024  # bytes a second
PATIENCE_SECONDS = 30.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\r\n]*)?\r\n")


class BadChunk(OSError):
    """What is sent is not chunked as the request says."""


class CutOff(OSError):
    """The client has gone before the last chunk."""


class RequestBody:
    """A request's body: a `post.Body` to the hub, and a file without content to gunicorn.

    And its connection, as a stream knows it: a `post.Connection`.
    """

    __slots__ = ("_chunks", "_clients", "_may_park", "_request", "_size_left", "client", "size")

    def __init__(self, request: Request, clients: Clients, may_park: bool = False) -> None:
        """Take the place of the body that gunicorn made, before anything was read of it.

        A client that is waited for is looked after in `clients`. `may_park` says whether this
        server lets streams go on without their request.
        """
        self.client: socket.socket = request.unreader.sock
        self.size = request.declared_size()
        self._request = request
        self._clients = clients
        self._may_park = may_park
        self._size_left = self.size or 0
        self._chunks = Chunks(request.check_trailers) if self.size is None else None

    @property
    def is_at_end(self) -> bool:
        """Whether all of it has been read, so that the next request comes next."""
        return self._chunks.is_at_end if self._chunks else not self._size_left

    @property
    def may_park(self) -> bool:
        """As `post.Connection` says."""
        data = self._request.unreader.take_buffered()
        self._request.unreader.unread(data)
        return not data and self._may_park

    @property
    def closes(self) -> bool:
        """As `post.Connection` says."""
        return self._request.should_close()

    def close_afterwards(self) -> None:
        """End the connection after the answer, also if this body was read to its end."""
        self._request.force_close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive, as `post.Body` says; of tiny chunks many are a piece.

        A client that waits to be asked for its body (`Expect`) is asked. Raises `TooSlow` if a
        declared length does not arrive at the least rate, `BadChunk` and `CutOff`.
        """
        if self.is_at_end:
            return
        data = self._request.unreader.take_buffered()
        if not data and self._request.expects_continue:
            self.client.sendall(CONTINUE)
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._clients.watched(self.client):
            while True:
                if piece := self._decoded(data):
                    yield piece
                if self._chunks and self._chunks.error:
                    raise self._chunks.error
                if self.is_at_end:
                    return
                give_way()
                data = self._receive(deadline)
                if not data and self._chunks:
                    raise CutOff
                if not data:
                    return
                deadline += len(data) / LEAST_RATE

    def skip(self) -> bool:
        """Drop what has arrived of a body that nothing will read; return whether that was all.

        Waits for nothing. Looks at what was received with the head, and at as much again.
        """
        with suppress(OSError):
            self._decoded(self._request.unreader.take_buffered())
            if not self.is_at_end:
                self.client.settimeout(0.0)
                self._decoded(self.client.recv(self._most()))
        self.client.settimeout(None)
        return self.is_at_end

    def read(self, size: int = -1) -> bytes:
        """Return nothing: gunicorn would read to the end of what nothing has read."""
        return b""

    def _receive(self, deadline: float) -> bytes:
        """Return what comes next; nothing if the client has gone. Blocks; raises `TooSlow`."""
        if self._chunks:  # a stream may be silent for as long as its client lives
            return self.client.recv(RECEIVE_BYTES)
        try:
            self.client.settimeout(max(deadline - time.monotonic(), 0.001))
            return self.client.recv(self._most())
        except TimeoutError:
            raise TooSlow(
                f"the body came too slowly; send at least {LEAST_RATE} bytes a second"
            ) from None
        finally:
            self.client.settimeout(None)

    def _most(self) -> int:
        """Return how many bytes to receive: of a declared length no byte beyond it."""
        return RECEIVE_BYTES if self._chunks else min(self._size_left, RECEIVE_BYTES)

    def _decoded(self, data: bytes) -> bytes:
        """Return what is of this body in some bytes; what is behind it is the next request's."""
        if self._chunks is None:
            content, rest = data[: self._size_left], data[self._size_left :]
            self._size_left -= len(content)
        else:
            parts: list[bytes] = []
            for part in self._chunks.feed(data):
                if parts:
                    give_way()
                parts.append(part)
            content, rest = b"".join(parts), b""
            if self.is_at_end:
                rest, self._chunks.rest = self._chunks.rest, b""
        self._request.unreader.unread(rest)
        return content


class Chunks:
    """The content of a chunked body (RFC 9112, 7.1), whose bytes come in any pieces. Pure."""

    __slots__ = ("_check_trailers", "_left", "error", "is_at_end", "rest")

    def __init__(self, check_trailers: Callable[[bytes], object]) -> None:
        """`check_trailers` is given the lines behind the last chunk, and may raise `OSError`."""
        self.is_at_end = False  # whether the last chunk has come, and the trailers
        self.error: OSError | None = None  # why there is no more content
        self.rest = b""  # what was fed and not used: a part of a line, or what is behind the end
        self._left = 0  # bytes of a chunk that are to come, with its line end
        self._check_trailers = check_trailers

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the content that is in the next bytes: after each turn of chunks, and at the end.

        What is before something malformed is content, too.
        """
        self.rest += data
        goes_on = True
        while goes_on and not self.error:
            parts: list[bytes] = []
            try:
                goes_on = self._decode(parts)
            except OSError as error:
                self.error = error
            yield b"".join(parts)

    def _decode(self, parts: list[bytes]) -> bool:
        """Put content into `parts`; return whether that was a turn, and there may be more."""
        text, at = self.rest, 0
        try:
            while not self.is_at_end:
                if self._left > 2:
                    parts.append(text[at : at + self._left - 2])
                    at += len(parts[-1])
                    self._left -= len(parts[-1])
                if self._left > 2:
                    break
                if self._left:
                    if text[at : at + 2] != b"\r\n"[: len(text) - at]:
                        raise BadChunk("a chunk does not end where it says")
                    if len(text) < at + 2:
                        break
                    at, self._left = at + 2, 0
                    if len(parts) >= TURN_CHUNKS:
                        return True
                end = text.find(b"\n", at, at + CHUNK_LINE_BYTES) + 1
                line = _SIZE_LINE.match(text, at) if end else None
                if end and not line:
                    raise BadChunk("a chunk has no size")
                # From the size's line end on: there may be no trailers.
                last = text.find(b"\r\n\r\n", end - 2) if line and not int(line[1], 16) else at
                if not line or last < 0:
                    if len(text) - at >= CHUNK_LINE_BYTES:
                        raise BadChunk("a chunk's size line or the trailers are too long")
                    break
                if size := int(line[1], 16):
                    at, self._left = end, size + 2
                else:
                    if last > end:
                        self._check_trailers(text[end:last])
                    at, self.is_at_end = last + 4, True
            return False
        finally:
            self.rest = text[at:]


def linger(client: socket.socket) -> None:
    """Close, but read on for a while: a client that is still sending must get to the answer.

    RFC 9112, 9.6: what is closed with bytes unread is reset, and the reset may overtake the answer.
    Blocks for at most `LINGER_SECONDS`.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    left = LINGER_BYTES
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            client.settimeout(seconds)
            dropped = len(client.recv(RECEIVE_BYTES))
            if not dropped:
                break
            left -= dropped
            give_way()
    with suppress(OSError):
        client.close()

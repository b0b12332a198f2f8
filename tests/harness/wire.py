"""Connections, byte by byte: doors to the hub, the chunks of HTTP/1.1, and one kept-alive wire."""

import re
import socket
from typing import NamedTuple, Protocol


class Door(Protocol):
    """Where a connection can be opened: a hub, or what is in front of one."""

    def connect(self) -> socket.socket: ...


def connect_slowly_reading(address: tuple[str, int], receive_buffer: int = 0) -> socket.socket:
    """Open a connection; with a receive buffer of that many bytes, if given."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(address)
    return connection


class NarrowDoor(NamedTuple):
    """A door on loopback whose connections have a receive buffer of so many bytes; 0: as usual."""

    port: int
    buffer: int

    def connect(self) -> socket.socket:
        return connect_slowly_reading(("127.0.0.1", self.port), self.buffer)


def reset(connection: socket.socket) -> None:
    """Close a connection with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # 0 s
    connection.close()


# -- chunks ------------------------------------------------------------------------------------


def chunk(piece: bytes) -> bytes:
    """Return a piece of a body as a chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Chunks:
    """The content of a chunked body that comes in any pieces; fails if it is malformed."""

    def __init__(self) -> None:
        self.is_complete = False  # whether the last chunk has come
        self._left = 0  # bytes of the current chunk that are to come
        self._pending = b""  # a line that is not whole yet, and the line end behind a chunk

    def feed(self, piece: bytes) -> bytes:
        """Return the content that is in the next piece."""
        text, self._pending = self._pending + piece, b""
        content = []
        while text:
            assert not self.is_complete, f"something behind the last chunk: {text[:100]!r}"
            if self._left > 2:
                content.append(text[: self._left - 2])
                text, self._left = text[self._left - 2 :], max(2, self._left - len(text))
            elif self._left:
                assert b"\r\n".startswith(text[:2]), text[:100]
                if len(text) < 2:
                    break
                text, self._left = text[2:], 0
            else:
                size, end, rest = text.partition(b"\r\n")
                assert re.fullmatch(rb"[0-9A-Fa-f]+" if end else rb"[0-9A-Fa-f]*\r?", size), size
                if not end:
                    break
                if int(size, 16):
                    text, self._left = rest, int(size, 16) + 2
                else:
                    assert b"\r\n".startswith(rest[:2]), rest[:100]
                    if len(rest) < 2:
                        break
                    text, self.is_complete = rest[2:], True
        self._pending = text
        return b"".join(content)


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """Return what has come of a chunked body, and whether it has ended properly."""
    chunks = Chunks()
    return chunks.feed(body), chunks.is_complete


# -- one kept-alive connection -----------------------------------------------------------------


class Reply(NamedTuple):
    """The answer to one request."""

    status: int
    body: bytes


class Wire:
    """One kept-alive connection. Raises `OSError` when the hub is gone."""

    def __init__(self, door: Door) -> None:
        """Connect."""
        self.connection = door.connect()
        self._reader = self.connection.makefile("rb")

    def send(self, path: str, body: bytes, *fields: str) -> None:
        """Send a POST; do not wait for the answer."""
        head = [f"POST {path} HTTP/1.1", "Host: hub", f"Content-Length: {len(body)}", *fields]
        self.connection.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def reply(self) -> Reply:
        """Return the next answer."""
        status = self._reader.readline()
        length = -1
        while line := self._reader.readline().rstrip():
            name, _, value = line.partition(b": ")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._reader.read(length) if length >= 0 else b""
        if not status or length < 0 or len(body) < length:
            raise ConnectionResetError("the hub went away in the middle of an answer")
        return Reply(int(status.split()[1]), body)

    def post(self, path: str, body: bytes, *fields: str) -> Reply:
        """Publish, whatever comes of it."""
        self.send(path, body, *fields)
        return self.reply()

    def close(self) -> None:
        """Go away."""
        self._reader.close()
        self.connection.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

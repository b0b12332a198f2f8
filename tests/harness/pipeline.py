"""Requests on one connection, sent before their answers are read; and the answers, one by one."""

import socket


def publish(target: bytes, body: bytes = b"x", *fields: bytes, version: bytes = b"1.1") -> bytes:
    """Return the bytes of a publish."""
    lines = [b"POST %b HTTP/%b" % (target, version), b"Host: hub", *fields]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


class Client:
    """A connection on which answers are read one by one."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a connection; what is sent on it leaves at once."""
        self.connection = connection
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, *pieces: bytes) -> "Client":
        """Send these, one after the other."""
        for piece in pieces:
            self.connection.sendall(piece)
        return self

    def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """Return status line, fields and body of the next answer, which has a length."""
        head, _, _ = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        self._received = self._received[len(head) + 4 :]
        status, *lines = head.split(b"\r\n")
        pairs = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        fields: dict[bytes, bytes] = dict(pairs)
        assert len(fields) == len(pairs), head
        size = int(fields[b"Content-Length"])
        while len(self._received) < size:
            self._receive()
        body, self._received = self._received[:size], self._received[size:]
        return status, fields, body

    def ids(self, count: int) -> list[bytes]:
        """Return the ids that the next answers tell, which are all of events that are stored."""
        ids = []
        for _ in range(count):
            status, _, body = self.answer()
            assert status.endswith(b" 201 Created"), (status, body)
            ids.append(body.rstrip(b"\n"))
        return ids

    def is_at_end(self) -> bool:
        """Return whether the hub closes without another word; block until it does either."""
        return not self._received and not self.connection.recv(1, socket.MSG_PEEK)

    def _until(self, wanted: bytes) -> bytes:
        while wanted not in self._received:
            self._receive()
        return self._received

    def _receive(self) -> None:
        piece = self.connection.recv(1 << 16)
        assert piece, f"the hub closed after {self._received!r}"
        self._received += piece

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

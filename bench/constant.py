"""The least that gevent can do: receive a request, answer a constant `201`. Stores nothing.

`python -m bench.constant PORT`: a greenlet for each connection, no gunicorn, no HTTP but for
the declared length, one send for an answer.
"""

import contextlib
import socket
import sys

from gevent.server import StreamServer

from bench.message import whole

BACKLOG = 8192
ID = b"2017-04-05T11:40:10.793000Z\n"
ANSWER = (
    b"HTTP/1.1 201 Created\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(ID), ID)
)


def serve(client: socket.socket, _: object) -> None:
    """Answer every request of a connection."""
    received = b""
    with contextlib.suppress(OSError):  # a client that has gone
        while piece := client.recv(1 << 16):
            received += piece
            while size := whole(received):
                received = received[size:]
                client.send(ANSWER)  # all of it fits; `sendall` would ask for the buffer's size


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=BACKLOG).serve_forever()

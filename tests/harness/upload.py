"""Batches: POSTs of many events, whole or in chunks."""

import http.client

from tests.harness.hub import Answer, Hub
from tests.harness.wire import Door, chunk

CONTENT_TYPES = {
    "tsv": "text/tab-separated-values",
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
    "each=line": "text/plain",
}


class Upload:
    """A chunked POST on its way."""

    def __init__(self, door: Door, path: str, name: str = "each=line", **headers: str) -> None:
        """Send the head of the request."""
        self.connection = door.connect()
        lines = [f"POST {path} HTTP/1.1", "Host: hub", "Transfer-Encoding: chunked"]
        lines += [f"Content-Type: {CONTENT_TYPES[name]}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def raw(self, piece: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(piece)

    def send(self, *pieces: bytes) -> None:
        """Send pieces of the body, each a chunk of its own, all at once."""
        self.raw(b"".join(map(chunk, pieces)))

    def end(self) -> Answer:
        """End the body; return what the hub says to it."""
        self.raw(b"0\r\n\r\n")
        return self.answer()

    def answer(self) -> Answer:
        """Wait for the answer."""
        response = http.client.HTTPResponse(self.connection, method="POST")
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def post_whole(hub: Hub, path: str, name: str, body: bytes) -> Answer:
    """Send a batch with its length."""
    return hub.post(path, body, Content_Type=CONTENT_TYPES[name])


def post_chunked(hub: Hub, path: str, name: str, body: bytes) -> Answer:
    """Send a batch in some five hundred chunks."""
    with Upload(hub, path, name) as upload:
        size = max(7, len(body) // 500)
        upload.send(*(body[n : n + size] for n in range(0, len(body), size)))
        return upload.end()

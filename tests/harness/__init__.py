"""The verbs of the tests: a real hub in a folder of its own, and what people do to it.

Nothing here stands in for the server, the file or the client: `Hub` is the installed
`esource` on a free port, requests go through sockets, and the file is read with `open`.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import pytest

from esource.event import Event
from esource.rows import sse

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 20.0  # until something that must happen counts as a fault

AWKWARD = [
    "plain",
    "",
    "tab\tseparated\tfields",
    "  edge spaces  ",
    ": a colon first",
    "line one\nline two\n\nline four",
    "dos\r\nlines",
    "old mac\rlines",
    "paragraph\u2028separator\u2029and\u0085next line",
    "emoji 🛩️ and umlauts äöü",
    '{"text": "escaped \\n and \\" inside", "n": [1, 2]}',
    "data: looks like a field\nid: 7\n\nevent: x",
    "\ufeffbyte order mark",
    "ends with a space \n and a line",
    "x" * (1 << 20),
]


class Answer(NamedTuple):
    """What came back for a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def kept(data: str) -> str:
    """Return data as every reader must see it: line breaks as LF, and none at the end."""
    data = data.replace("\r\n", "\n").replace("\r", "\n")
    return data[:-1] if data.endswith("\n") else data


def eventually(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not after {seconds} s: {condition}"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def needs(*programs: str) -> list[str]:
    """Return the programs' paths. Where one is missing, skip the test; if `CI` is `true`, fail it.

    For the bodies of tests and for fixtures: where everything is installed on purpose, a test
    that nobody misses must not be left out in silence.
    """
    # Debian's users do not have sbin in their PATH.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    found = {program: shutil.which(program, path=path) for program in programs}
    missing = [program for program, where in found.items() if where is None]
    if missing:
        do_without(f"missing: {', '.join(missing)}")
    return [where for where in found.values() if where is not None]


def do_without(reason: str) -> NoReturn:
    """Skip the test for want of something that could be had here; if `CI` is `true`, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class Hub:
    """A hub process on loopback, with its folder and its log."""

    def __init__(self, home: Path, **settings: str) -> None:
        """Choose a port and a folder; `settings` are environment variables."""
        self.home = home
        self.folder = home / "events"
        self.log_path = home / "hub.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            **os.environ, "ESOURCE_DIR": str(self.folder),
            "ESOURCE_BIND": f"127.0.0.1:{self.port}", **settings,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    # -- the process -----------------------------------------------------------------------

    def launch(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start the process; do not wait for it."""
        command = [sys.executable, "-m", "esource", *options]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, env=self.environ, stderr=log, cwd=self.home)
        return self.process

    def start(self, *options: str) -> "Hub":
        """Start the process; return when it answers."""
        self.launch(*options)
        self.wait_until_up()
        return self

    def wait_until_up(self) -> None:
        """Return when the hub serves."""

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            try:
                return self.get("/up__").status == 200
            except OSError:
                return False

        eventually(up)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the process; return its exit code."""
        process, self.process = self.process, None
        assert process is not None
        process.send_signal(signal_number)
        return process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Kill master and worker as the out-of-memory killer would."""
        worker = self.worker
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        eventually(lambda: not Path(f"/proc/{worker}").exists())
        self.process = None

    def restart(self) -> None:
        """Stop and start again, at the same port."""
        self.stop()
        self.start()

    @property
    def worker(self) -> int:
        """The worker's process id."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    @property
    def log(self) -> str:
        """What the hub has written to stderr."""
        return self.log_path.read_text()

    def descriptors(self) -> int:
        """Return how many descriptors the worker has open."""
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    # -- requests --------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send one request on a connection of its own. `_` in a header's name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Download."""
        return self.request("GET", path, None, **headers)

    def post(self, path: str, body: str | bytes = b"", **headers: str) -> Answer:
        """Publish, whatever comes of it."""
        data = body.encode() if isinstance(body, str) else body
        return self.request("POST", path, data, **headers)

    def publish(self, path: str, body: str | bytes = b"") -> str:
        """Publish, and return the id."""
        answer = self.post(path, body)
        assert answer.status == 201, answer
        return answer.text

    def raw(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send bytes as they are; return everything that comes until the hub closes."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    # -- the file --------------------------------------------------------------------------

    def file(self, channel: str) -> Path:
        """Return the path of a channel's file."""
        return self.folder / f"{channel}.tsv"

    def rows(self, channel: str) -> list[bytes]:
        """Return the rows of a channel's file, without line ends; none if there is no file."""
        path = self.file(channel)
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def curl(self, *arguments: str, body: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run curl to its end."""
        return subprocess.run(
            ["curl", "-sS", "--max-time", str(PATIENCE_SECONDS), *arguments],
            input=body, capture_output=True, check=False,
        )  # fmt: skip


@contextmanager
def running_hub(home: Path, *options: str, **settings: str) -> Iterator[Hub]:
    """A started hub, stopped at the end whatever happens."""
    hub = Hub(home, **settings)
    try:
        yield hub.start(*options)
    finally:
        if hub.process:
            hub.stop()


class Door(Protocol):
    """Where a connection can be opened: a hub, or what is in front of one."""

    def connect(self) -> socket.socket: ...


class Stream:
    """A subscriber: one raw connection, and the events on it."""

    def __init__(self, door: "Door", path: str, **headers: str) -> None:
        """Subscribe; return when the headers and the first comment are there."""
        self.connection = door.connect()
        lines = [f"GET {path} HTTP/1.0", "Host: hub", "Accept: text/event-stream"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.text = b""  # all of the body until now
        self._decoder = sse.Decoder()
        self.events: list[Event] = []
        received = b""
        try:
            self.connection.sendall("\r\n".join([*lines, "", ""]).encode())
            while b"\r\n\r\n:" not in received:
                piece = self.connection.recv(1 << 16)
                assert piece, received
                received += piece
        except BaseException:
            self.close()
            raise
        head, _, body = received.partition(b"\r\n\r\n")
        self.status, *fields = head.decode("latin-1").split("\r\n")
        self.headers = dict(field.split(": ", 1) for field in fields)
        self._take(body)

    def _take(self, piece: bytes) -> None:
        self.text += piece
        self.events += self._decoder.feed(piece)

    def read(self, count: int) -> list[Event]:
        """Return the first `count` events, as soon as they are there."""
        while len(self.events) < count:
            piece = self.connection.recv(1 << 16)
            assert piece, f"the stream ended after {len(self.events)} of {count} events"
            self._take(piece)
        assert len(self.events) == count
        return self.events

    def read_text(self, wanted: bytes) -> bytes:
        """Return the body until now, as soon as `wanted` is in it."""
        while wanted not in self.text:
            piece = self.connection.recv(1 << 16)
            assert piece, f"the stream ended without {wanted!r}: {self.text!r}"
            self._take(piece)
        return self.text

    def read_more(self) -> bool:
        """Take what comes next; return whether there was any before the end."""
        piece = self.connection.recv(1 << 16)
        self._take(piece)
        return bool(piece)

    def read_to_end(self) -> bytes:
        """Return the whole body, once the hub has ended it."""
        while self.read_more():
            pass
        return self.text

    def close(self) -> None:
        """Go away."""
        self.connection.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

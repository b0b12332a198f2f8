"""A real hub with a folder or an engine of its own: the installed `esource` on a free port.

Requests go through sockets, and its channels are seen beside it in its `store`. Another way to
start a hub is a subclass that has another `command`; one that is reached in another way has another
`connect`.
"""

import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.machine import free_port
from tests.harness.store import Folder, store_of
from tests.harness.waiting import PATIENCE_SECONDS, eventually

# No heartbeats: a stream that says nothing any more runs into its reader's timeout.
QUIET = {"ESOURCE_HEARTBEAT_SECONDS": "1000"}


class Answer(NamedTuple):
    """What came back for a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def id(self) -> bytes:
        """The id that a publisher is told, without its line end."""
        assert self.body.endswith(b"\n"), self
        return self.body[:-1]


def answer_on(
    connection: socket.socket, method: str, path: str, body: bytes | None, **headers: str
) -> Answer:
    """Send one request on a connection, and close it; `_` in a header's name stands for `-`."""
    client = http.client.HTTPConnection("127.0.0.1", connection.getpeername()[1])
    client.sock = connection
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, path, body, names)
        response = client.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        client.close()


class Hub:
    """A hub process on loopback, with its folder and its log."""

    def __init__(self, home: Path, **settings: str) -> None:
        """Choose a port and a folder; `settings` are environment variables."""
        self.home = home
        self._folder = home / "events"
        self.log_path = home / "hub.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = store_of(self._folder, settings)
        self.environ = {
            **os.environ, **self.store.settings,
            "ESOURCE_BIND": f"127.0.0.1:{self.port}", **settings,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Its folder, which may be moved before it is started."""
        return self._folder

    @folder.setter
    def folder(self, folder: Path) -> None:
        self._folder = folder
        if isinstance(self.store, Folder):
            self.store = Folder(folder)
            self.environ |= self.store.settings

    # -- the process -----------------------------------------------------------------------

    def command(self) -> list[str]:
        """Return what starts it."""
        return [sys.executable, "-m", "esource"]

    def launch(self, *options: str, **popen: Any) -> "subprocess.Popen[bytes]":
        """Start the process; do not wait for it. `popen` is for `Popen`."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.command(), *options],
                **{"env": self.environ, "stderr": log, "cwd": self.home, **popen},
            )
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
        assert self.process is not None
        worker = Path(f"/proc/{self.worker}")
        os.kill(self.process.pid, signal.SIGKILL)
        os.kill(int(worker.name), signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        self.process = None

        def dead() -> bool:
            try:  # it may be dead and not buried yet: that is up to init
                return (worker / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                return True

        eventually(dead)

    def restart(self) -> None:
        """Stop and start again, at the same port."""
        self.stop()
        self.start()

    @property
    def worker(self) -> int:
        """The worker's process id."""
        assert self.process is not None
        return children(self.process.pid)[0]

    def limit_descriptors(self, count: int) -> None:
        """Let the hub have no more than `count` descriptors, from its next worker on: a new one."""
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, count))
        before = self.worker
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: before not in children(self.process.pid) if self.process else True)
        self.wait_until_up()

    @property
    def log(self) -> str:
        """What the hub has written to stderr."""
        return self.log_path.read_text()

    def descriptors(self) -> int:
        """Return how many descriptors the worker has open."""
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    # -- requests --------------------------------------------------------------------------

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send one request on a connection of its own. `_` in a header's name stands for `-`."""
        return answer_on(self.connect(), method, path, body, **headers)

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
        return answer.id.decode()

    def raw(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send bytes as they are; return everything that comes until the hub closes."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def curl(self, *arguments: str, body: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run curl to its end."""
        return subprocess.run(
            ["curl", "-sS", "--max-time", str(PATIENCE_SECONDS), *arguments],
            input=body, capture_output=True, check=False,
        )  # fmt: skip

    # -- its channels, beside it -----------------------------------------------------------

    def file(self, channel: str) -> Path:
        """Return the path of a channel's file. A test that asks is marked with `files`."""
        assert isinstance(self.store, Folder), "a test of files: mark it with `files`"
        return self.store.file(channel)

    def has(self, channel: str) -> bool:
        """Return whether there is such a channel: with a folder, a file."""
        return self.store.has(channel)

    def content(self, channel: str) -> bytes:
        """Return all bytes of a channel; none if there is none."""
        return self.store.read(channel)

    def put(self, channel: str, rows: bytes | str) -> None:
        """Append rows to a channel by hand, or, on an engine, as another hub does."""
        self.store.put(channel, rows.encode() if isinstance(rows, str) else rows)

    def prepare(self, channel: str, rows: bytes | str) -> None:
        """Let a channel have these rows and no others, by hand; nothing is done if it has them."""
        wanted = rows.encode() if isinstance(rows, str) else rows
        if self.content(channel) != wanted:
            if self.has(channel):
                self.take_away(channel)
            self.put(channel, wanted)

    def take_away(self, channel: str) -> None:
        """Let a channel be gone: move its file away, or remove it from the engine."""
        self.store.take_away(channel)

    def rows(self, channel: str) -> list[bytes]:
        """Return the rows of a channel, without line ends; none if there is no channel."""
        return self.content(channel).split(b"\n")[:-1]

    def data(self, channel: str) -> list[bytes]:
        """Return the data of the rows of a channel."""
        return [row.split(b"\t", 2)[2] for row in self.rows(channel)]


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running_hub(home: Path, *options: str, **settings: str) -> Iterator[Hub]:
    """A started hub, stopped at the end whatever happens."""
    hub = Hub(home, **settings)
    with started(hub, *options):
        yield hub
    hub.store.release()


@contextmanager
def started(hub: Hub, *options: str) -> Iterator[Hub]:
    """The hub, started, and stopped at the end whatever happens."""
    try:
        yield hub.start(*options)
    finally:
        if hub.process:
            hub.stop()

"""What the tests of faults share: shims in C, file systems to break, publishers that keep book.

`ESOURCE_TEST_FULL=1` asks for the full sizes (`size`); without it they are what CI has time for.
"""

import mmap
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import PATIENCE_SECONDS, Hub, eventually, needs

# No heartbeats: a stream that says nothing any more runs into its reader's timeout.
QUIET = {"ESOURCE_HEARTBEAT_SECONDS": "1000"}

FULL = os.environ.get("ESOURCE_TEST_FULL") == "1"


def size(default: int, full: int) -> int:
    """Return how many: the default, or all of them if asked for."""
    return full if FULL else default


def command(*words: str | Path) -> str:
    """Run a command to its end; return what it prints. Raises `CalledProcessError`."""
    done = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


# -- shims -------------------------------------------------------------------------------------

Build = Callable[[str], Path]


def build(name: str, folder: Path) -> Path:
    """Compile `<name>.c` to a library for LD_PRELOAD."""
    needs("cc")
    source = Path(__file__).parent / f"{name}.c"
    library = folder / f"{name}.so"
    if not library.exists():
        command("cc", "-shared", "-fPIC", "-O2", "-o", library, source)
    return library


def preload(hub: Hub, library: Path, **variables: str) -> Hub:
    """Have the hub's processes load a shim from their next start on."""
    hub.environ["LD_PRELOAD"] = str(library)
    hub.environ.update(variables)
    return hub


class Disk:
    """The test's end of `disk.c`: says which call fails, and sees which were made."""

    KINDS = ("write", "sync", "sync_folder", "truncate", "open", "read")
    _TRACE_AT = len(KINDS) * 16
    _TRACE_BYTES = 65000

    def __init__(self, hub: Hub, library: Path) -> None:
        """Put the shim under a hub that is not started yet."""
        path = hub.home / "faults"
        path.write_bytes(bytes(self._TRACE_AT + 4 + self._TRACE_BYTES + 12))
        with path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 0)
        preload(hub, library, FAULTS_CONTROL=str(path), FAULTS_FOLDER=str(hub.folder))

    def fail(self, kind: str, left: int, error: int, times: int = 1) -> None:
        """Let `left` calls pass, then fail `times` ones.

        With `error` 0 a write is short; with a negative one it is, and the next one fails.
        """
        at = self.KINDS.index(kind) * 16
        struct.pack_into("iii", self._control, at, left, 0, error)
        struct.pack_into("i", self._control, at + 4, times)

    def heal(self) -> None:
        """Let every call pass."""
        for kind in self.KINDS:
            self.fail(kind, 0, 0, times=0)

    def pending(self, kind: str) -> int:
        """Return how many calls of a kind are still to fail."""
        pending: int = struct.unpack_from("i", self._control, self.KINDS.index(kind) * 16 + 4)[0]
        return pending

    def trace(self) -> str:
        """Return the calls since the last `forget`: a letter each, a capital if it failed.

        w(rite), s(ync), d (the folder's sync), t(runcate), o(pen), r(ead).
        """
        count = min(struct.unpack_from("i", self._control, self._TRACE_AT)[0], self._TRACE_BYTES)
        at = self._TRACE_AT + 4
        return self._control[at : at + count].decode()

    def forget(self) -> None:
        """Begin a new trace."""
        struct.pack_into("i", self._control, self._TRACE_AT, 0)


# -- processes ---------------------------------------------------------------------------------


def kill(hub: Hub) -> None:
    """Kill master and worker as `Hub.kill` does, but do not wait for init to bury the worker."""
    assert hub.process
    worker = Path(f"/proc/{hub.worker}")
    os.kill(hub.process.pid, signal.SIGKILL)
    os.kill(int(worker.name), signal.SIGKILL)
    hub.process.wait(PATIENCE_SECONDS)
    hub.process = None

    def dead() -> bool:
        try:
            return (worker / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(dead)


# -- file systems ------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, *words: str | Path) -> Iterator[Path]:
    """A file system mounted at a new folder (`mount <words> <folder>`); skip if that cannot be."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    try:
        command("mount", *words, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not possible here: {getattr(error, 'stderr', error)}")
    try:
        yield folder
    finally:
        # A process that was just killed may still be on its way out: then as soon as it is.
        command("umount", "--lazy", folder)


# -- publishers --------------------------------------------------------------------------------


class Reply(NamedTuple):
    """The answer to one request."""

    status: int
    body: bytes


class Wire:
    """One kept-alive connection. Raises `OSError` when the hub is gone."""

    def __init__(self, hub: Hub) -> None:
        """Connect."""
        self.connection = hub.connect()
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


class Publisher:
    """One connection that publishes `<name> <number> <padding>`, and keeps book.

    `batch` requests are sent before the first answer is read. With `retry`, what was not
    answered is sent again with its id and `unique=1`, by the next connection.
    """

    def __init__(
        self, hub: Hub, name: str, channel: str, batch: int = 1, retry: bool = False
    ) -> None:
        self.hub = hub
        self.name = name
        self.channel = channel
        self.batch = batch
        self.retry = retry
        self.padding = b""
        self.sent = 0
        self.acknowledged: list[int] = []
        self.refused: list[tuple[int, int]] = []  # number and status
        self._thread: threading.Thread | None = None
        self._stop = False

    def data(self, number: int) -> bytes:
        """Return the data of an event."""
        return b"%b %d %b" % (self.name.encode(), number, self.padding)

    def start(self) -> None:
        """Publish from now on, until the connection breaks or `stop`."""
        self._stop = False
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def stop(self) -> None:
        """Publish no more; return when the last answer is there."""
        self._stop = True
        self.join()

    def join(self) -> None:
        """Return when the connection has ended."""
        assert self._thread
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _path(self, number: int) -> str:
        unique = f"?unique=1&id={self.name}-{number}" if self.retry else ""
        return f"/{self.channel}{unique}"

    def _publish(self) -> None:
        try:
            with Wire(self.hub) as wire:
                while not self._stop:
                    first = self.acknowledged[-1:] if self.retry else [self.sent]
                    begin = (first or [-1])[0] + 1 if self.retry else self.sent
                    numbers = range(begin, begin + self.batch)
                    self.sent = numbers.stop
                    for number in numbers:
                        wire.send(self._path(number), self.data(number))
                    for number in numbers:
                        reply = wire.reply()
                        if reply.status in (200, 201):
                            self.acknowledged.append(number)
                        else:
                            self.refused.append((number, reply.status))
        except OSError:
            pass


def numbers(rows: list[bytes], name: str) -> list[int]:
    """Return the numbers of a publisher's events among rows, in order."""
    beginning = name.encode() + b" "
    found = []
    for row in rows:
        data = row.split(b"\t", 2)[2]
        if data.startswith(beginning):
            found.append(int(data.split(b" ")[1]))
    return found


def increases(values: list[int]) -> bool:
    """Return whether each value is greater than the one before."""
    return all(a < b for a, b in pairwise(values))


def connect_slowly_reading(address: tuple[str, int], receive_buffer: int = 0) -> socket.socket:
    """Open a connection; with a receive buffer of that many bytes, if given."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(address)
    return connection

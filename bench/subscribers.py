"""Who listens: `sse_clients.c`, compiled once, and run for each measurement.

Its opening comment says what goes in and what comes out.
"""

import json
import os
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import Server

SOURCE = Path(__file__).with_name("sse_clients.c")
PATIENCE_SECONDS = 30.0  # until a line must have come; the program itself is less patient


@dataclass(frozen=True)
class Received:
    """What N streams got, all in all."""

    events: int
    least: int  # by the stream that got least
    lost: int
    twice: int
    unordered_ids: int
    ended: int  # streams
    retries: int  # lines that say when to come back
    bytes: int
    first_ns: int  # CLOCK_MONOTONIC
    last_ns: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def compile_clients(folder: Path) -> Path:
    """Compile the program into a folder."""
    program = folder / "sse_clients"
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE], check=True
    )
    return program


class Subscribers:
    """So many event streams of one path, from their headers until the end of the `with`."""

    program: Path  # what `compile_clients` has returned

    def __init__(
        self, server: Server, path: str, count: int, *headers: str, window: int = 0,
        each: Path | None = None, addresses: int = 0,
    ) -> None:  # fmt: skip
        """Subscribe; return once each stream has its headers.

        `each` is a file with a header for each stream, a line each. With `addresses` they come
        from so many addresses of loopback in turn, since one has ports for 28 000.

        With `window`, `wait_for_window` returns each time that all of them together got as
        many events for each as that.
        """
        command = [str(self.program), "-p", str(server.port), "-u", path, "-n", str(count)]
        command += ["-w", str(window)] if window else []
        command += ["-F", str(each)] if each else []
        command += ["-a", str(addresses)] if addresses else []
        for header in headers:
            command += ["-H", header]
        self.count = count
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self._text = b""
        self.connecting_seconds: float = self._next("ready")["seconds"]

    def wait_for_window(self) -> None:
        """Return when the next window has come in."""
        self._next("window")

    def received(self, events: int) -> Received:
        """Wait until each stream has had `events`, or nothing comes any more; tell what came."""
        return self._result(f"expect {events}\n")

    def ended(self) -> Received:
        """Wait until each stream has ended, or nothing comes any more; tell what came."""
        return self._result("ended\n")

    def _result(self, command: str) -> Received:
        self._say(command)
        fields = self._next("events")
        return Received(**{name: fields[name] for name in Received.__dataclass_fields__})

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def _next(self, kind: str) -> dict[str, Any]:
        """Return the next line that has a field called so."""
        assert self._process.stdout is not None
        while True:
            line, feed, rest = self._text.partition(b"\n")
            if feed:
                self._text = rest
                fields: dict[str, Any] = json.loads(line)
                if kind in fields:
                    return fields
                continue
            readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
            piece = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            if not piece:
                raise RuntimeError(f"the subscribers of {self.count} streams said no {kind!r}")
            self._text += piece

    def __enter__(self) -> "Subscribers":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

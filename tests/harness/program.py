"""Programs of others that listen at a port of loopback."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.waiting import PATIENCE_SECONDS, eventually


@contextmanager
def running(home: Path, port: int, *command: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of a program that listens at a port of loopback, ended at the end.

    What it prints is in `home / "log"`.
    """
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home
        )

    def up() -> bool:
        assert process.poll() is None, (home / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        eventually(up)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)

"""`esource follow` and `esource pipe`: processes that are killed, stopped, or run to their end."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.hub import Hub
from tests.harness.waiting import PATIENCE_SECONDS


def command(*words: object) -> list[str]:
    """Return what runs a command of esource."""
    return [sys.executable, "-m", "esource", *map(str, words)]


def run(*words: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=2 * PATIENCE_SECONDS,
        env={**os.environ, **environ},
    )


@contextmanager
def running(*words: object) -> Iterator["subprocess.Popen[str]"]:
    """A command that runs, killed at the end if it still does."""
    process = subprocess.Popen(
        command(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def publish_on(hub: Hub, channel: str, count: int) -> threading.Thread:
    """Publish numbers to a channel in a thread, however often the hub is away."""

    def publish() -> None:
        for n in range(count):
            while True:
                try:
                    if hub.post(f"/{channel}?id=n{n}&unique=1", str(n)).status in (200, 201):
                        break
                except OSError:
                    pass
                time.sleep(0.05)

    thread = threading.Thread(target=publish)
    thread.start()
    return thread

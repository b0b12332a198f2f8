"""`esource follow` and `esource pipe`: processes that are killed, stopped, or run to their end."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.hub import Hub
from tests.harness.waiting import PATIENCE_SECONDS, eventually


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


class Numbers(threading.Thread):
    """Publishes 0, 1, 2, …, each with an id, however often the hub is away, until it is ended."""

    def __init__(self, hub: Hub, channel: str) -> None:
        """Begin at once."""
        super().__init__(daemon=True)
        self.count = 0  # that were acknowledged
        self._hub = hub
        self._channel = channel
        self._least: int | None = None
        self.start()

    def end(self, least: int) -> int:
        """Publish no more, once there are so many; return how many there are."""
        self._least = least
        self.join()
        return self.count

    def run(self) -> None:
        while self._least is None or self.count < self._least:
            with suppress(OSError):
                path = f"/{self._channel}?id=n{self.count}&unique=1"
                self.count += self._hub.post(path, str(self.count)).status in (200, 201)
            time.sleep(0.002)


def kill_again_and_again(
    words: list[str],
    times: int,
    done: Callable[[], int],
    halfway: Callable[[], None],
    out: Path | None = None,
) -> None:
    """Start a command and kill it so many times, each time some time after more is `done`.

    `halfway` is called in the middle, while it runs. What it prints is added to `out`.
    """
    for n in range(times):
        before = done()
        with open(out or os.devnull, "ab") as file:
            process = subprocess.Popen(words, stdout=file)
        try:
            eventually(lambda before=before: done() > before)  # type: ignore[misc]
            if n == times // 2:
                halfway()
            time.sleep(random.uniform(0, 0.2))
        finally:
            process.kill()
            process.wait()

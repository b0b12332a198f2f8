"""Channels in this process, on files, and calls of theirs that wait for the test."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from esource.event import Event
from esource.hub.channel import Channel
from esource.hub.view import Place
from esource.log import Log
from esource.log.file import FileLog
from esource.rows import tsv
from tests.harness.waiting import PATIENCE_SECONDS


def channel_of(path: Path) -> Channel:
    """Return the open channel of a file."""
    return Channel(path.stem, lambda: FileLog(path)).open()


def publish(channel: Channel, event: Event) -> Event:
    """Append an event; return it with its id."""
    return event._replace(id=channel.append([tsv.draft(event)]).wait().first)


def append_by_hand(path: Path, rows: bytes) -> None:
    """Append to a file as another program does."""
    with path.open("ab") as file:
        file.write(rows)


def age(path: Path, seconds: float = 10.0) -> Path:
    """Let a file look as if it had not been written to for a while; return it."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def read_to_end(channel: Channel, log: Log, offset: int) -> list[Event]:
    """Return what a follower gets from an offset into a log until it would wait."""
    rows = b""
    for stretch in channel.follow(log, offset, heartbeat=0.001):
        if isinstance(stretch, Place):
            break
        rows += stretch.rows
    return list(tsv.decode(rows))


class Gate:
    """Where a thread of the hub waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait_until_reached(self) -> None:
        """Return when a thread waits; greenlets run meanwhile."""
        with gevent.Timeout(PATIENCE_SECONDS):
            while not self.reached.is_set():
                gevent.sleep(0.001)


@contextmanager
def at_a_gate(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, once: bool = False
) -> Iterator[Gate]:
    """What a function of a module or class has found is returned once the context ends.

    With `once` that is so of the first call alone; others pass.
    """
    gate, real = Gate(), getattr(owner, name)

    def call_and_wait(*args: object) -> object:
        found = real(*args)
        if once and gate.reached.is_set():
            return found
        gate.reached.set()
        assert gate.opened.wait(PATIENCE_SECONDS)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call_and_wait)
        try:
            yield gate
        finally:
            gate.opened.set()

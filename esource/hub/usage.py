"""What the channels take of the disk, and when the last event came: measured for who asks.

Every file is looked at, so not often: a measure is repeated once it is a hundred times as old as it
took. A thousand files are measured each time, a hundred thousand about once a minute; never in the
loop, and in steps like all long work.
"""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gevent.lock import BoundedSemaphore

from esource.hub.work import Work
from esource.log import Counts as Counts
from esource.log import Kept, Logs

PART = 0.01  # of the time, that is spent on it at most


class Usage(NamedTuple):
    """What was found."""

    files: int = 0
    segments: int = 0  # of these files: parts of a history, the growing ones included
    bytes: int = 0
    newest: float = 0.0  # when the last event came, in seconds since 1970; 0.0 without one
    by_channel: Mapping[str, float] = MappingProxyType({})  # the same; none unless it is asked for
    free: int | None = None  # bytes, that can still be written; None if that is not known


class Meter:
    """The last measure of all logs."""

    def __init__(self, logs: Logs, by_channel: bool) -> None:
        """Nothing is measured yet; `by_channel` also keeps the time of each channel."""
        self._logs = logs
        self._by_channel = by_channel
        self._lock = BoundedSemaphore(1)  # those who ask meanwhile wait for the same measure
        self._due = 0.0
        self._usage = Usage()

    def usage(self) -> Usage:
        """Return what there is, as of not long ago. Blocks; raises `OSError`."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._usage = self._measure()
                ended = time.monotonic()
                self._due = ended + (ended - began) / PART
        return self._usage._replace(free=Work().do(self._logs.free))

    def _measure(self) -> Usage:
        files = parts = size = 0
        newest = 0.0
        by_channel: dict[str, float] = {}
        rest = self._logs.kept()

        def step(deadline: float) -> list[Kept]:
            found = []
            for one in rest:
                found.append(one)
                if time.monotonic() > deadline:
                    break
            return found

        work = Work()
        while found := work.step(step):
            for one in found:
                files, parts = files + 1, parts + one.is_part
                size, newest = size + one.size, max(newest, one.modified)
                if self._by_channel:
                    by_channel[one.name] = max(by_channel.get(one.name, 0.0), one.modified)
        return Usage(files, parts, size, newest, by_channel)

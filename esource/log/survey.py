"""One look at all files of a folder: which channels' logs are to be tended, and what is missing.

A look costs a `stat` for each file and opens hardly any: a folder may hold tens of thousands.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from esource.log import segments
from esource.log.segments import Segment
from esource.rules import Rule, rule_of


class Seen(NamedTuple):
    """What is seen of a file: no path yet, which takes longer to make than all of this."""

    start: int  # its offset; 0 for the one file of a channel
    size: int  # bytes
    modified: float  # seconds since 1970


class History(NamedTuple):
    """The files of a channel, in order."""

    files: list[Seen]
    first: int  # of them, the first that counts: before it something is missing
    is_plain: bool = False  # the channel is one file, and not segments

    @property
    def starts(self) -> list[int]:
        """The offsets of all segments."""
        return [] if self.is_plain else [each.start for each in self.files]

    @property
    def growing(self) -> Seen:
        """The file that grows."""
        return self.files[-1]

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.growing.start + self.growing.size

    @property
    def has_late(self) -> bool:
        """Whether something was written into a closed file."""
        files = self.files[self.first :]
        return any(one.start + one.size > next.start for one, next in pairwise(files))


class Survey:
    """What was seen at the last look."""

    def __init__(self, folder: Path, rules: Sequence[Rule]) -> None:
        """Nothing is seen yet."""
        self._folder = folder
        self._rules = rules
        self.histories: dict[str, History] = {}  # by channel
        self._both: list[str] = []  # channels that are one file and segments
        self._since: dict[tuple[str, int], float] = {}  # when growing files got their first events

    def look(self) -> None:
        """See what there is. Blocks; raises `OSError`."""
        plain: dict[str, History] = {}
        parts: dict[str, list[Seen]] = {}
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                parsed = segments.parse(entry.name)
                if not parsed or not entry.is_file(follow_symlinks=False):
                    continue
                name, start = parsed
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    seen = Seen(start or 0, status.st_size, status.st_mtime)
                    if start is None:
                        plain[name] = History([seen], 0, is_plain=True)
                    else:
                        parts.setdefault(name, []).append(seen)
        self._both = sorted(plain.keys() & parts.keys())
        self.histories = plain | {
            name: self._history(name, sorted(each)) for name, each in parts.items()
        }
        there = {(name, each.growing.start) for name, each in self.histories.items()}
        self._since = {key: since for key, since in self._since.items() if key in there}

    def needs(self, name: str, now: float) -> bool:
        """Return whether files are to be closed, moved from or removed. Raises `OSError`."""
        history, rule = self.histories[name], rule_of(self._rules, name)
        if history.has_late:
            return True
        return bool(rule) and (self._is_to_close(name, now) or bool(self._removable(name, now)))

    def removable(self, now: float) -> list[Segment]:
        """Return what the rules need not keep. Raises `OSError`."""
        return [segment for name in self.histories for segment in self._removable(name, now)]

    def gaps(self) -> list[str]:
        """Return what is missing of histories, for a person."""
        found = [
            f"{name}: {name}.tsv and segments are both there; move one of them away"
            for name in self._both
        ]
        for name, (files, first, _) in self.histories.items():
            if first:
                short = segments.path_of(self._folder, name, files[first - 1].start).name
                at = files[first].start
                found.append(f"{name}: its history begins at {at}: {short} is not all before that")
        return found

    def _history(self, name: str, files: list[Seen]) -> History:
        """Return what files, in the order of their offsets, are together."""
        first = len(files) - 1
        while first and self._goes_on(name, files[first - 1], files[first].start):
            first -= 1
        return History(files, first)

    def _goes_on(self, name: str, file: Seen, end: int) -> bool:
        """Return whether a file counts up to an offset; only if it is longer, it is looked into."""
        size = end - file.start
        if file.size <= size:
            return file.size == size
        with suppress(OSError):
            return segments.ends_row(segments.path_of(self._folder, name, file.start), size)
        return False

    def _removable(self, name: str, now: float) -> list[Segment]:
        history, rule = self.histories[name], rule_of(self._rules, name)
        files = history.files[history.first :]
        if not rule or len(files) < 2:
            return []
        oldest, following = files[:2]
        is_old = rule.age is not None and now - oldest.modified > rule.age
        if not is_old and (rule.size is None or history.end - following.start < rule.size):
            return []
        closed = [
            Segment(
                one.start, next.start - one.start,
                segments.path_of(self._folder, name, one.start), modified=one.modified,
            )
            for one, next in pairwise(files)
        ]  # fmt: skip
        return segments.removable(closed, history.end, rule, now)

    def _is_to_close(self, name: str, now: float) -> bool:
        """Return whether a growing file is too old, or too large."""
        history, rule = self.histories[name], rule_of(self._rules, name)
        start, size, _ = history.growing
        if not rule or not size:
            return False
        if rule.segment_age and (name, start) not in self._since:
            path = segments.path_of(self._folder, name, start)
            if history.is_plain:
                path = segments.plain_path(self._folder, name)
            closed = history.files[-2].modified if len(history.files) > 1 else 0.0
            self._since[name, start] = segments.oldest(path, 0, closed)
        is_old = rule.segment_age and now - self._since[name, start] >= rule.segment_age
        return bool(is_old) or size > rule.segment

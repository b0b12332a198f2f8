"""Finding places in one log: after an id, at a time, the last few.

A search reads the log in a thread, from its start, since the first occurrence of an id is what
counts. After the first search the log is mapped in the background (see `rows.find`), so that later
ones read only where the id can be. It looks at one view: what comes meanwhile is not searched.
"""

from collections.abc import Callable

import gevent

from esource.event import time_of
from esource.hub.loop import in_thread, reads
from esource.hub.view import View
from esource.log import Log
from esource.rows import find, tsv
from esource.rows.find import ZONE_BYTES, Verdict, Zone

SCAN_BYTES = 1 << 18  # of rows searched at a time, which the processor's cache can hold
HOP_BYTES = 1 << 23  # of them in one go, in a thread
MAP_PAUSE_SECONDS = 0.003  # after each zone, which takes about 2 ms of the interpreter


class Search:
    """The places in a log, and what earlier searches have learned of it. All calls block."""

    def __init__(self, log: Log) -> None:
        """Begin with nothing known."""
        self.log = log
        self._zones: list[Zone] = []
        self._is_mapping = False
        self._closed = False

    def close(self) -> None:
        """Learn no more: nobody will ask."""
        self._closed = True

    def after(self, view: View, id: bytes) -> tuple[int, Verdict]:
        """Return the offset where a follower goes on that has seen `id`, and how it was found.

        `EXACT`: after the first event with this id. `TIME`: the id is not there but is a time, as
        the newest is: at the first event of a later time. `START`: any other.
        """
        offset = self._find(
            view.end, lambda zone: zone.admits_id(id), lambda rows: find.after_id(rows, id)
        )
        if offset is not None:
            return offset, Verdict.EXACT
        time = time_of(id)
        if time is None or time_of(view.newest_id) is None:
            return self.log.begin, Verdict.START
        return self.later_than(view, time), Verdict.TIME

    def later_than(self, view: View, time: int) -> int:
        """Return the offset of the first event whose id is a later time, in ns since 1970.

        It is the view's end if there is none.
        """
        self._map(view.end)
        offset = self._find(
            view.end,
            lambda zone: zone.admits_later(time),
            lambda rows: find.later_than(rows, time),
        )
        return view.end if offset is None else offset

    def last(self, view: View, count: int, start: int, types: frozenset[bytes]) -> int:
        """Return the offset of the last `count` events of the view, of these types if any.

        None of them is before `start`. Reads the log from its end.
        """
        blocks = self.log.backwards(view.end)

        def step(count: int) -> tuple[int, int]:
            """Return where in the next block the last events begin, and how many are there."""
            block = next(blocks, None)
            if block is None:
                return start, 0
            offset, rows = block
            if offset < start:
                offset, rows = start, rows[start - offset :]
            place, found = tsv.last(rows, count, types)
            return offset + place, found

        place = view.end
        while count > 0 and place > start:
            place, found = in_thread(reads(), step, count)
            count -= found
        return place

    @property
    def _mapped(self) -> int:
        return self._zones[-1].end if self._zones else self.log.begin

    def _find(
        self, end: int, admits: Callable[[Zone], bool], place_in: Callable[[bytes], int | None]
    ) -> int | None:
        """Return the first offset where `place_in` finds something, in zones that admit it."""

        def step(offset: int, stop: int) -> tuple[int | None, int]:
            """Return where it was found, if it was, and how far the search has come."""
            hop = offset + HOP_BYTES
            while offset < min(stop, hop) and (rows := self.log.read(offset, SCAN_BYTES, stop)):
                found = place_in(rows)
                if found is not None:
                    return offset + found, offset
                offset += len(rows)
            return None, offset

        mapped = self._mapped
        zones = [zone for zone in self._zones if zone.offset < end and admits(zone)]
        places = [(zone.offset, min(zone.end, end)) for zone in zones]
        try:
            for offset, stop in [*places, (mapped, end)]:
                while offset < stop:
                    before = offset
                    found, offset = in_thread(reads(), step, offset, stop)
                    if found is not None:
                        return found
                    if offset == before:
                        break
            return None
        finally:
            # For the next search. (Not meanwhile: both would take ten times as long.)
            if end - mapped > 8 * ZONE_BYTES and not self._is_mapping:
                self._is_mapping = True
                gevent.spawn(self._map_quietly, end)

    def _map_quietly(self, end: int) -> None:
        try:
            self._map(end, MAP_PAUSE_SECONDS)
        finally:
            self._is_mapping = False

    def _map(self, end: int, pause: float = 0.0) -> None:
        """Bring the zone map up to `end`, but for less than a zone.

        With pauses (in seconds) between zones, if nothing waits for it.
        """

        def step(offset: int) -> Zone | None:
            rows = self.log.read(offset, ZONE_BYTES, end)
            return find.zone(offset, rows) if rows else None

        while end - self._mapped >= ZONE_BYTES and not self._closed:
            mapped = self._mapped
            found = in_thread(reads(), step, mapped)
            if not found:
                break
            if mapped == self._mapped:  # or another greenlet was faster
                self._zones.append(found)
            if pause:
                gevent.sleep(pause)

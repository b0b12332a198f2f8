"""Finding places in one log: after an id, at a time, the last few, those of some types.

A search reads the log in a thread, from its start, since the first occurrence of an id is what
counts. After the first search the log is mapped in the background (see `rows.find`), so that later
ones read only where the id can be. What is filtered from the start maps the log as it goes. It
looks at one view: what comes meanwhile is not searched.

All of it is the `Work` of a client: in steps, and ended with the client.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter

import gevent

from esource.event import time_of
from esource.hub.tail import READ_BYTES, READ_ROWS
from esource.hub.view import View, last_event
from esource.hub.work import Work
from esource.log import Log
from esource.rows import find, tsv
from esource.rows.find import ZONE_BYTES, Verdict, Zone

LEARN_BYTES = 8 * ZONE_BYTES  # not mapped: so many are worth it
SCAN_BYTES = 1 << 18  # of rows searched at a time, which the processor's cache can hold
# And where each row is looked at: what one call of the interpreter takes, nothing interrupts.
ROWS_BYTES = 1 << 16
TIMES_BYTES = 1 << 14  # where each row may be one of a time in any form


class Search:
    """The places in a log, and what earlier searches have learned of it.

    All calls block, and may raise `ClientLeft` and `StorageError`.
    """

    def __init__(self, log: Log) -> None:
        """Begin with nothing known."""
        self.log = log
        self._begin = log.begin
        self._zones: list[Zone] = []
        self._part: Zone | None = None  # of the next one: what was looked at
        self._unmapped = 0  # how many bytes were filtered that were not mapped
        self._is_mapping = False
        self.is_closed = False

    def close(self) -> None:
        """Learn no more: nobody will ask, or rows that were to be learned of are gone."""
        self.is_closed = True

    def after(self, view: View, id: bytes, work: Work | None = None) -> tuple[int, Verdict]:
        """Return the offset where a follower goes on that has seen `id`, and how it was found.

        `EXACT`: after the first event with this id, or at this place. `TIME`: the id is not there
        but is a time, as the newest is: at the first event of a later time. `START`: any other.
        `TRIMMED`: the same as either, at the first event that is kept, where there were others.
        """
        work = work or Work()
        place = work.do(view.offset_of, id) if id.startswith(b"@") else None
        offset = self._after_id(view, id, work) if place is None else place
        if offset is not None:
            return offset, Verdict.EXACT
        time = time_of(id)
        if time is None or time_of(view.newest_id) is None:
            return self.log.begin, Verdict.TRIMMED if self.log.start else Verdict.START
        offset = self.later_than(view, time, work)
        is_first = self.log.start > 0 and offset <= self.log.begin
        return offset, Verdict.TRIMMED if is_first else Verdict.TIME

    def before(self, view: View, id: bytes, time: int | None, work: Work) -> int | None:
        """Return the offset of the event with this id, or of a place; None if it is not there.

        Or, of an id that is not there but names a `time` (in ns since 1970), of the first event
        of that time or later; it is the view's end if there is none.
        """
        place = work.do(view.offset_of, id)
        if place is not None:
            return place
        end = self._after_id(view, id, work)
        if end is not None:
            return work.do(last_event, self.log, end)[0]
        return None if time is None else self.later_than(view, time - 1, work)

    def later_than(self, view: View, time: int, work: Work) -> int:
        """Return the offset of the first event whose id is a later time, in ns since 1970.

        It is the view's end if there is none.
        """
        self._map(view.end, work)
        offset = self._find(
            view.end, lambda zone: zone.admits_later(time),
            lambda rows: find.later_than(rows, time), TIMES_BYTES, work,
        )  # fmt: skip
        return view.end if offset is None else offset

    def last(self, view: View, count: int, start: int, types: frozenset[bytes], work: Work) -> int:
        """Return the offset of the last `count` events of the view, of these types if any.

        None of them is before `start`. Reads the log from its end, where such events can be.
        """
        blocks = self._backwards(start, view.end, types)

        def step(deadline: float, place: int, count: int) -> tuple[int, int]:
            """Return where the last events looked at begin, and how many are still wanted."""
            while count > 0 and place > start and time.monotonic() < deadline:
                place, rows = next(blocks, (start, b""))
                self._unmapped += len(rows) if types and place >= self._mapped else 0
                begin, found = tsv.last(rows, count, types)
                place, count = place + begin, count - found
            return place, count

        place = view.end
        while count > 0 and place > start:
            place, count = work.step(step, place, count)
            self._note(view.end)
        return place

    def _backwards(
        self, start: int, end: int, types: frozenset[bytes]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole rows) from an end back to a start, where such events can be."""
        mapped = self._mapped  # first: it looks whether the zones are still there
        parts = (
            (zone.offset, zone.end) for zone in reversed(self._zones) if zone.admits_types(types)
        )
        for offset, stop in chain([(mapped, end)], parts):
            if stop <= start:
                break
            if offset < end:
                for place, rows in self.log.backwards(min(stop, end)):
                    first = max(offset, start)
                    yield max(place, first), rows[max(first - place, 0) :]
                    if place <= first:
                        break

    def select(
        self, offset: int, end: int, types: frozenset[bytes], work: Work
    ) -> tuple[bytes, int | None]:
        """Return (events of these types from an offset on, the offset to go on from).

        As many as are encoded together, or as one step finds, which may be none. None: there are
        no rows at the offset any more.
        """

        def step(deadline: float, offset: int) -> tuple[bytes, int | None]:
            kept: list[bytes] = []
            begin, size, count = offset, 0, 0
            while offset < end and size < READ_BYTES and count < READ_ROWS:
                zone = self._zone_at(offset)
                stop = min(zone.end, end) if zone else end
                if offset == self._mapped and self._is_due(end):
                    self._map_more(end)
                elif zone and not zone.admits_types(types):
                    offset = stop
                else:
                    rows = self.log.read(offset, ROWS_BYTES, stop)
                    if not rows:
                        return b"".join(kept), None if offset == begin else offset
                    self._unmapped += 0 if zone else len(rows)
                    offset += len(rows)
                    kept.append(tsv.of_types(rows, types))
                    size, count = size + len(kept[-1]), count + kept[-1].count(b"\n")
                if time.monotonic() > deadline:
                    break
            return b"".join(kept), offset

        found = work.step(step, offset)
        self._note(end)
        return found

    # -- the map ---------------------------------------------------------------------------

    def _after_id(self, view: View, id: bytes, work: Work) -> int | None:
        """Return the offset right after the first event with this id."""
        return self._find(
            view.end, lambda zone: zone.admits_id(id), lambda rows: find.after_id(rows, id),
            SCAN_BYTES, work,
        )  # fmt: skip

    @property
    def _mapped(self) -> int:
        """Up to where the log is mapped, from its begin on; that may have moved meanwhile."""
        begin = self.log.begin
        if begin != self._begin:
            zones = self._zones if begin > self._begin else []
            kept = [zone for zone in zones if zone.end > begin]
            if kept:  # the first may have begun before: it admits too much now, never too little
                kept[0] = kept[0]._replace(offset=max(kept[0].offset, begin))
            self._zones, self._begin = kept, begin
            self._part = self._part if kept else None
        return self._zones[-1].end if self._zones else begin

    def _find(
        self, end: int, admits: Callable[[Zone], bool], place_in: Callable[[bytes], int | None],
        size: int, work: Work,
    ) -> int | None:  # fmt: skip
        """Return the first offset where `place_in` finds something, in zones that admit it.

        `size` is how many bytes of rows it is given at a time.
        """
        mapped = self._mapped

        def places() -> Iterator[tuple[int, int]]:
            for zone in self._zones:
                if zone.offset >= min(mapped, end):
                    break
                if admits(zone):
                    yield zone.offset, min(zone.end, end)
            yield mapped, end

        rest = places()

        def step(deadline: float, offset: int, stop: int) -> tuple[int | None, int, int]:
            """Return where it was found, if it was, and where to go on; -1: nowhere."""
            while time.monotonic() < deadline:
                offset = max(offset, self.log.begin)  # which may have moved meanwhile
                rows = self.log.read(offset, size, stop) if offset < stop else b""
                if not rows:
                    offset, stop = next(rest, (-1, -1))
                    if offset < 0:
                        break
                    continue
                found = place_in(rows)
                if found is not None:
                    return offset + found, -1, -1
                offset += len(rows)
            return None, offset, stop

        found, offset, stop = None, 0, 0
        try:
            while found is None and offset >= 0:
                found, offset, stop = work.step(step, offset, stop)
            return found
        finally:
            self._learn(end)

    def _zone_at(self, offset: int) -> Zone | None:
        """Return the zone of the rows at an offset, if they are mapped."""
        index = bisect_right(self._zones, offset, key=itemgetter(0)) - 1
        zone = self._zones[index] if index >= 0 else None
        return zone if zone and offset < zone.end else None

    def _note(self, end: int) -> None:
        """After a step of a filter: have the log mapped, if that has read much for want of it."""
        if self._unmapped > LEARN_BYTES:
            self._learn(end)

    def _learn(self, end: int) -> None:
        """For the next search, have the log mapped in the background, if much of it is not.

        (Not during a search for an id: both would take ten times as long.)
        """
        if end - self._mapped > LEARN_BYTES and not (self._is_mapping or self.is_closed):
            self._is_mapping = True
            gevent.spawn(self._map_quietly, end)

    def _map_quietly(self, end: int) -> None:
        try:
            self._map(end, Work())
        finally:
            self._is_mapping = False

    def _map(self, end: int, work: Work) -> None:
        """Bring the zone map up to `end`, but for less than a zone."""

        def step(deadline: float) -> None:
            """Map some rows."""
            while time.monotonic() < deadline and self._is_due(end):
                self._map_more(end)

        while self._is_due(end):
            work.step(step)

    def _is_due(self, end: int) -> bool:
        """Whether there is a zone before `end` that is not mapped, but should be."""
        return end - self._mapped >= ZONE_BYTES and not self.is_closed

    def _map_more(self, end: int) -> None:
        """Look at some rows before `end` for the next zone, for which there must be enough.

        It is done in steps of works, of which no two run at once.
        """
        offset = self._part.end if self._part else self._mapped
        rows = self.log.read(offset, ROWS_BYTES, end)
        if not rows:  # the file was cut
            self.close()
            return
        more = find.zone(offset, rows)
        self._part = self._part.joined(more) if self._part else more
        if self._part.end - self._part.offset >= ZONE_BYTES:
            self._zones.append(self._part)
            self._part = None

"""Finding places in one log: after an id, at a time, the last few, those of some types.

A search reads the log in a thread, from its start, since the first occurrence of an id is what
counts; but only the parts that can have it, as the log knows (`Log.places`). It looks at one view:
what comes meanwhile is not searched. The log learns in the background: after a search that had to
read much, and as it grows.

All of it is the `Work` of a client: in steps, and ended with the client.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`
from gevent.lock import BoundedSemaphore

from esource.errors import StorageError
from esource.event import time_of
from esource.hub import sought
from esource.hub.first_steps import FirstSteps
from esource.hub.found import Found
from esource.hub.sought import Sought
from esource.hub.tail import READ_BYTES, READ_ROWS
from esource.hub.view import View, last_event
from esource.hub.work import CROWD, STEP_SECONDS, Learning, Work, look_seconds
from esource.log import Log
from esource.rows import find, tsv
from esource.rows.find import ZONE_BYTES, Verdict, Wanted

LEARN_BYTES = 8 * ZONE_BYTES  # that were read in one search: so many are worth an index
SCAN_BYTES = 1 << 18  # of rows searched at a time, which the processor's cache can hold
# And where each row is looked at: what one call of the interpreter takes, nothing interrupts.
ROWS_BYTES = 1 << 16
PAUSE_SECONDS = STEP_SECONDS  # between two steps of learning, which nobody waits for
BUSY_PAUSE_SECONDS = 9 * STEP_SECONDS  # likewise, while the log is published to
BUSY_SECONDS = 10.0  # that long after a commit, it still is

_learning = BoundedSemaphore(1)  # of all logs together


class Search:
    """The places in a log.

    All calls block, and may raise `ClientLeft` and `StorageError`; but for `grow` and `close`.
    """

    def __init__(self, log: Log) -> None:
        """Begin with nothing learned."""
        self.log = log
        self._found = Found()
        self._grown = -BUSY_SECONDS  # when it was published to last, by the monotonic clock
        self._learned = 0  # up to where, but for less than a zone
        self._end = 0  # up to where it is to be learned
        self._looked = 0  # bytes that filters have read since then
        self._taught = 0  # up to where that is done
        self._lesson = Signal()  # set when more is
        self._is_learning = False
        self._searches = 0  # for places, now
        self._first_steps = FirstSteps(partial(sought.begin, log))
        self.is_closed = False

    def close(self) -> None:
        """Learn no more: nobody will ask."""
        self.is_closed = True

    def grow(self, end: int) -> None:
        """Learn what there is to be known of the rows up to an end, soon, if it is worth it."""
        self._grown = time.monotonic()
        if end - self._learned >= ZONE_BYTES:
            self.learn(end)

    def after(self, view: View, id: bytes, work: Work | None = None) -> tuple[int, Verdict]:
        """Return the offset where a follower goes on that has seen `id`, and how it was found.

        `EXACT`: after the first event with this id, or at this place. `TIME`: the id is not there
        but is a time, as the newest is: at the first event of a later time. `START`: any other.
        `TRIMMED`: the same as either, at the first event that is kept, where there were others.
        Those who ask for the same id share the search.
        """
        return self._found.after(view, id, work or Work(), self.look_after)

    def look_after(self, view: View, id: bytes, work: Work) -> tuple[int, Verdict]:
        """Return the same, by a search of one's own."""
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
        offset = self._find(
            view.end, Wanted(later_than=time), lambda rows: find.later_than(rows, time),
            ROWS_BYTES, work,
        )  # fmt: skip
        return view.end if offset is None else offset

    def last(self, view: View, count: int, start: int, types: frozenset[bytes], work: Work) -> int:
        """Return the offset of the last `count` events of the view, of these types if any.

        None of them is before `start`. Reads the log from its end, where such events can be.
        """
        blocks = self._backwards(start, view.end, types)
        looked = 0

        def step(deadline: float, place: int, count: int) -> tuple[int, int]:
            """Return where the last events looked at begin, and how many are still wanted."""
            nonlocal looked
            while count > 0 and place > start and time.monotonic() < deadline:
                place, rows = next(blocks, (start, b""))
                looked += len(rows)
                begin, found = tsv.last(rows, count, types)
                place, count = place + begin, count - found
            return place, count

        place = view.end
        while count > 0 and place > start:
            place, count = work.step(step, place, count)
        self._note(looked, view.end)
        return place

    def _backwards(
        self, start: int, end: int, types: frozenset[bytes]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole rows) from an end back to a start, where such events can be."""
        for first, stop in self.log.places(Wanted(types=types), start, end, is_backwards=True):
            if first == stop:
                yield first, b""
                continue
            for place, rows in self.log.backwards(stop):
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
            if offset < self.log.start:
                return b"", None
            for first, stop in self.log.places(Wanted(types=types), offset, end):
                offset = first
                while offset < stop and size < READ_BYTES and count < READ_ROWS:
                    rows = self.log.read(offset, ROWS_BYTES, stop)
                    if not rows:
                        return b"".join(kept), None if offset == begin else offset
                    offset += len(rows)
                    self._looked += len(rows)
                    kept.append(tsv.of_types(rows, types))
                    size, count = size + len(kept[-1]), count + kept[-1].count(b"\n")
                    if time.monotonic() > deadline:
                        break
                if offset < stop or time.monotonic() > deadline:
                    return b"".join(kept), offset
            return b"".join(kept), end

        found = work.step(step, offset)
        self._note(self._looked, end)
        return found

    def _after_id(self, view: View, id: bytes, work: Work) -> int | None:
        """Return the offset right after the first event with this id."""
        return self._find(
            view.end, Wanted(id=id), lambda rows: find.after_id(rows, id), SCAN_BYTES, work
        )

    def _find(
        self, end: int, wanted: Wanted, place_in: Callable[[bytes], int | None], size: int,
        work: Work,
    ) -> int | None:  # fmt: skip
        """Return the first offset where `place_in` finds something, where the index admits it.

        `size` is how many bytes of rows it is given at a time.
        """
        search = Sought(self.log, wanted, end, place_in, size, lambda: self._taught)
        self._searches += 1
        try:
            self._wait_for_lesson(end, work)
            work.begin(partial(self._first_steps.take, search))
            while not search.is_over:
                work.step(search.step)
            return search.found
        finally:
            self._searches -= 1
            self._note(search.looked, end)

    @property
    def _is_crowded(self) -> bool:
        return self._searches >= CROWD

    def _wait_for_lesson(self, end: int, work: Work) -> None:
        """As one of a crowd, wait until what is to be known of the rows up to an end is learned.

        To learn it takes as long as few searches that read the rows. Blocks; raises `ClientLeft`.
        """
        if self._is_crowded and end - self._taught >= ZONE_BYTES:
            self.learn(end)
            while self._is_crowded and self._is_learning and end - self._taught >= ZONE_BYTES:
                self._lesson.wait(look_seconds(self._searches))
                work.check()

    # -- the index -----------------------------------------------------------------------------

    def _note(self, looked: int, end: int) -> None:
        """After a search: learn for the next one, if it has read much.

        (Not during a search for an id: both would take ten times as long.)
        """
        if looked > LEARN_BYTES:
            self._looked = 0
            self.learn(end)

    def learn(self, end: int) -> None:
        """Learn what there is to be known of the rows up to an end, in the background."""
        self._end = max(self._end, end)
        if not (self._is_learning or self.is_closed):
            self._is_learning = True
            gevent.spawn(self._learn)

    def _learn(self) -> None:
        try:
            is_due = True
            while is_due:
                self._learned = self._end
                self._learn_up_to(self._learned)
                self._teach(self._learned)
                is_due = self._end - self._learned >= ZONE_BYTES  # it has grown meanwhile
        except StorageError:
            pass  # the next search meets the same, and says so
        finally:
            self._is_learning = False
            self._teach(self._taught)

    def _teach(self, end: int) -> None:
        """Note up to where all is learned; wake the searches that wait for that."""
        self._taught = end
        lesson, self._lesson = self._lesson, Signal()
        lesson.set()

    def _learn_up_to(self, end: int) -> None:
        work, steps = Learning(), self.log.learn(end)

        def step(deadline: float) -> bool:
            """Return whether there is more to learn."""
            return any(time.monotonic() > deadline for _ in steps)

        has_more = True
        while has_more and not self.is_closed:
            with _learning:
                work.is_urgent = self._is_crowded
                has_more = work.step(step)
                is_busy = time.monotonic() - self._grown < BUSY_SECONDS
                pause = BUSY_PAUSE_SECONDS if is_busy else PAUSE_SECONDS
                gevent.sleep(0 if self._is_crowded else pause)

"""Blocking calls in threads, giving way, and turns: where the loop must not wait.

Commits have threads of their own. Were they to share gevent's pool, a search through a
large file could make publishers wait.

What takes a millisecond or two of the loop is done in turns, one in each round: two hundred
followers that each encode a stretch would else hold all others up for all their stretches.
"""

import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TypeAlias, TypeVar

import gevent
from gevent.event import AsyncResult
from gevent.event import Event as Signal  # an event is always an `event.Event`
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool
from greenlet import settrace

from esource.errors import again

T = TypeVar("T")
Failure: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
LAG_SECONDS = 0.5
SWITCH_SECONDS = 0.0005
_thread: Callable[[], int] = get_original("_thread", "get_ident")  # gevent's is of a greenlet


def share_the_interpreter() -> None:
    """Have threads take turns with the loop in shorter steps than Python's 5 ms.

    A commit asks for the interpreter after each of its calls to the system. While the loop decodes
    a batch, or 50 searches run, each of them would take 5 ms, and a publish 100 (now 7).
    """
    sys.setswitchinterval(SWITCH_SECONDS)


@functools.cache
def commits() -> ThreadPool:
    """Return the threads that write and sync."""
    return ThreadPool(32)


@functools.cache
def reads() -> ThreadPool:
    """Return the threads that read and search."""
    return ThreadPool(8)


def in_thread(pool: ThreadPool, function: Callable[..., T], *args: object) -> T:
    """Call a blocking function; the greenlet waits, the loop does not. Raises what it raises."""
    result, error = pool.apply(_caught, (function, args))
    if error:
        try:
            raise error
        finally:
            del error  # or it would hold this frame, and so itself and the arguments
    return result  # type: ignore[no-any-return]


def _caught(
    function: Callable[..., T], args: tuple[object, ...]
) -> tuple[T | None, Exception | None]:
    """Return the result and the error: gevent prints a traceback of what a thread raises."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


class Shared:
    """Calls in threads: while one is under way, all that would make the same wait for it."""

    def __init__(self, pool: Callable[[], ThreadPool]) -> None:
        """Begin with none under way."""
        self._pool = pool
        self._under_way: dict[tuple[object, ...], AsyncResult] = {}

    def __call__(self, function: Callable[..., T], *args: object) -> T:
        """Call a blocking function, whose arguments tell the same from others, as `in_thread`."""
        key = function, *args
        result = self._under_way.get(key)
        if result is None:
            result = self._pool().spawn(_caught, function, args)
            self._under_way[key] = result
            result.rawlink(lambda _: self._under_way.pop(key, None))
        value, error = result.get()
        if error:
            raise again(error)
        return value  # type: ignore[no-any-return]


class Together:
    """A call that many make at once. Those that come while one is under way share the next one.

    So what each of them is told was looked for after it had asked.
    """

    def __init__(self) -> None:
        """Begin with none under way."""
        self._turn = BoundedSemaphore(1)
        self._next: gevent.Greenlet | None = None

    def __call__(self, call: Callable[[], bool]) -> bool:
        """Have `call` made, in a greenlet of its own, which goes on though who asked is ended.

        It is always the same one. Returns what it returns. Blocks; raises what the call raises.
        """
        if self._next is None:
            self._next = gevent.spawn(self._be, call)
        said, error = self._next.get()
        if error:
            raise again(error)
        return bool(said)

    def _be(self, call: Callable[[], bool]) -> tuple[bool | None, Exception | None]:
        with self._turn:
            self._next = None
            return _caught(call, ())


class InLoop:
    """How calls of an engine wait that are made in this loop (see `esource.log.waiting`)."""

    def __init__(self) -> None:
        """Be of the loop of the thread that calls."""
        self._thread = _thread()

    def is_in_loop(self) -> bool:
        """Return whether a greenlet of the loop calls."""
        return _thread() == self._thread

    def ready(self, fd: int, wanted: int, seconds: float) -> int:
        """Have the greenlet wait, and not the loop. Who ends the greenlet ends the wait."""
        hub = gevent.get_hub()
        waiter: Waiter[int] = Waiter(hub)
        watcher, timer = hub.loop.io(fd, wanted), hub.loop.timer(max(seconds, 0.0))
        try:
            watcher.start(waiter.switch, pass_events=True)
            timer.start(waiter.switch, 0)
            found: int = waiter.get()
            return found
        finally:
            watcher.close()
            timer.close()

    def apart(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in a thread, if it is called in the loop."""
        return in_thread(commits(), function, *args) if self.is_in_loop() else function(*args)


def watch_lag(note: Callable[[float], None]) -> None:
    """Tell twice a second, for ever, by how many seconds the loop was late; return at once."""

    def watch() -> None:
        while True:
            due = time.monotonic() + LAG_SECONDS
            gevent.sleep(LAG_SECONDS)
            note(max(time.monotonic() - due, 0.0))

    gevent.spawn(watch)


def report_crashes(report: Callable[[str, Failure], None]) -> None:
    """Have it told what ends a greenlet: gevent would print it, in no form that a log has.

    `report` is given a text and what `sys.exc_info` returns.
    """

    def tell(
        context: object, kind: type[BaseException], error: BaseException,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        report(f"a greenlet has failed: {context!r}", (kind, error, traceback))

    gevent.get_hub().print_exception = tell


def give_way() -> None:
    """Let all other greenlets have a turn, also one for which something arrives just now.

    `sleep(0)` would not do: gevent looks at the sockets again only after fifty such turns.
    A watcher of idleness with the highest priority is called once in each round of the loop.
    """
    gevent.idle(priority=gevent.get_hub().loop.MAXPRI)


class Rounds:
    """What may be begun in one round of the loop: so much. What is more waits, first come first."""

    def __init__(self, most: int) -> None:
        """Let `most` begin in a round."""
        self._most = most
        self._left = most  # of a round that may have been long ago
        self._waiting: deque[Signal] = deque()
        self._next: gevent.Greenlet | None = None

    @property
    def room(self) -> int:
        """How many more can begin in the next round."""
        return max(0, self._most - len(self._waiting))

    def wait(self) -> None:
        """Block until it is one's turn: at once, if few have begun."""
        if self._left:
            self._left -= 1
            if not self._left:
                self._next = self._next or gevent.spawn(self._be)
            return
        turn = Signal()
        self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # ended meanwhile
            with suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def _be(self) -> None:
        """Be the greenlet that counts the rounds, while there is something to be counted."""
        while not self._left:
            give_way()
            self._left = max(0, self._most - len(self._waiting))
            for _ in range(min(self._most, len(self._waiting))):
                self._waiting.popleft().set()
        self._next = None


_turns = BoundedSemaphore(1)


@contextmanager
def turn() -> Iterator[None]:
    """Wait for one's turn to hold the loop for a millisecond or two; after it, give way."""
    with _turns:
        yield
        give_way()
    # The next in the queue was told of it, and runs now: else the next turn would be ours again.
    gevent.sleep(0)


class Switches:
    """How often greenlets have switched in this thread, since `count` was called."""

    def __init__(self) -> None:
        self.seen = 0

    def count(self) -> None:
        """Begin to count. For tests: it costs each switch a call."""

        def see(event: str, about: object) -> None:
            self.seen += 1

        settrace(see)


switches = Switches()


class unswitched:  # noqa: N801 -- it reads as a word: `with unswitched():`
    """A region in which no greenlet may switch, since what it changes belongs together.

    Where switches are counted, as in the tests, one in the region fails. Else it costs 0.2 us.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = switches.seen

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert kind or switches.seen == self._before, "a greenlet has switched where none may"

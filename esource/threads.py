"""Blocking calls in threads, and giving way: where the loop must not wait.

Commits have threads of their own. Were they to share gevent's pool, a search through a
large file could make publishers wait.
"""

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.threadpool import ThreadPool

T = TypeVar("T")
LAG_SECONDS = 0.5


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
        raise error
    return result  # type: ignore[no-any-return]


def _caught(
    function: Callable[..., T], args: tuple[object, ...]
) -> tuple[T | None, Exception | None]:
    """Return the result and the error: gevent prints a traceback of what a thread raises."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


def watch_lag(note: Callable[[float], None]) -> None:
    """Tell twice a second, for ever, by how many seconds the loop was late; return at once."""

    def watch() -> None:
        while True:
            due = time.monotonic() + LAG_SECONDS
            gevent.sleep(LAG_SECONDS)
            note(max(time.monotonic() - due, 0.0))

    gevent.spawn(watch)


def give_way() -> None:
    """Let the other greenlets have a turn."""
    gevent.sleep(0)

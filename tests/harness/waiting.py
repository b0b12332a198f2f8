"""Waiting: on a condition, and on several threads. How long is a fault, and what is only slow."""

import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 20.0  # until something that must happen counts as a fault
# Until what must not wait for anything does. It is a bound on faults alone: what it must not wait
# for takes 10 s (the next heartbeat) or 30 (gunicorn's patience); how quick it is, `bench` tells.
AT_ONCE_SECONDS = 8.0


def eventually(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not after {seconds} s: {condition}"
        time.sleep(0.01)


def together(count: int, work: Callable[[int], None]) -> None:
    """Do some work in many threads at once; fail if it fails in one of them."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait(PATIENCE_SECONDS)
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

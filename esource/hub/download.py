"""Bytes of a file to a socket, without looking at them. Plain blocking calls, for a thread.

A client who takes all it gets is waited for here: the way through the loop takes as long as a
megabyte.
"""

import select
import time

from gevent import monkey

from esource.log.file import Log

SEND_BYTES = 1 << 20  # at a time, and
SEND_SECONDS = 0.004  # for how long: others want the threads, too
SEND_WAIT_MS = 1  # until a client counts as one who takes nothing now

_poll = monkey.get_original("select", "poll")  # gevent's own is not for threads


def send_for_a_while(log: Log, fd: int, offset: int, end: int) -> tuple[int, bool]:
    """Send a file to a non-blocking socket; return how much went, and whether it is full."""
    start, stop = offset, time.monotonic() + SEND_SECONDS
    writable = _poll()
    writable.register(fd, select.POLLOUT)
    while offset < end and time.monotonic() < stop:
        try:
            sent = log.sendfile(fd, offset, min(SEND_BYTES, end - offset))
        except BlockingIOError:
            if not writable.poll(SEND_WAIT_MS):
                return offset - start, True
            continue
        if not sent:
            break
        offset += sent
    return offset - start, False

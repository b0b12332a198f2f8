"""Bytes of a log to a client, without looking at them.

With a plain socket that is `sendfile`, in a thread, since reading what is cold blocks. A client
that takes all it gets is waited for there: the way through the loop takes as long as a megabyte.
"""

import errno
import select
import time
from collections.abc import Iterator
from socket import socket

import gevent
from gevent import monkey

from esource.hub.clients import Clients, takes_plain_bytes
from esource.hub.loop import in_thread, reads
from esource.log import Log

PIECE_BYTES = 1 << 18  # where they have to go through the server
SEND_BYTES = 1 << 20  # at a time, and
SEND_SECONDS = 0.004  # for how long: others want the threads, too
SEND_WAIT_MS = 1  # until a client counts as one that takes nothing now

_poll = monkey.get_original("select", "poll")  # gevent's own is not for threads


def send(
    clients: Clients, client: socket | None, log: Log, offset: int, end: int
) -> Iterator[bytes]:
    """Send the bytes of a log from an offset to an end; yield those that the server must send.

    First yields nothing, `b""`, so that the server sends its headers. Raises
    `ConnectionAbortedError` if the log was cut: the client sees that bytes are missing. So it does,
    by a `ConnectionResetError`, if it was slower than what removes the oldest rows.
    """
    yield b""
    if client is None or not takes_plain_bytes(client):
        while offset < end:
            piece = in_thread(reads(), log.pread, offset, min(PIECE_BYTES, end - offset))
            if not piece:
                return
            yield piece
            offset += len(piece)
        return
    fd = client.fileno()
    with clients.sending(client):
        while offset < end:
            sent, is_full = in_thread(reads(), _send_for_a_while, log, fd, offset, end)
            offset += sent
            if is_full:
                gevent.socket.wait_write(fd)
            elif not sent and offset < log.start:
                raise ConnectionResetError(errno.ECONNRESET, f"{log.name} begins later now")
            elif not sent:
                raise ConnectionAbortedError(f"{log.name} ended before byte {end}")


def _send_for_a_while(log: Log, fd: int, offset: int, end: int) -> tuple[int, bool]:
    """Send to a non-blocking socket; return how many bytes went, and whether it is full.

    If neither, there are no bytes at the offset: something is tried, however late it has become.
    """
    start, stop = offset, time.monotonic() + SEND_SECONDS
    writable = _poll()
    writable.register(fd, select.POLLOUT)
    while offset < end:
        try:
            sent = log.sendfile(fd, offset, min(SEND_BYTES, end - offset))
        except BlockingIOError:
            if not writable.poll(SEND_WAIT_MS):
                return offset - start, True
            continue
        if not sent:
            break
        offset += sent
        if time.monotonic() > stop:
            break
    return offset - start, False

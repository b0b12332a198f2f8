"""Bytes of a log to a socket: all of them, or an end that the client sees."""

import os
from pathlib import Path

import gevent
import gevent.socket
import pytest

from esource.hub import download
from esource.hub.clients import Clients, is_full
from esource.log.file import FileLog

ROWS = b"1\t\tone\n" * 200_000


@pytest.fixture
def log(tmp_path: Path) -> FileLog:
    path = tmp_path / "orders.tsv"
    path.write_bytes(ROWS)
    return FileLog(path)


def test_a_client_that_reads_slowly_gets_all_of_it(log: FileLog) -> None:
    ours, theirs = gevent.socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while not is_full(ours):
            gevent.sleep(0.001)
        gevent.sleep(0.01)  # by now it has been found to be
        while piece := theirs.recv(1 << 16):
            received.extend(piece)
            gevent.sleep(0)

    with theirs:
        reader = gevent.spawn(receive)
        with ours:
            assert list(download.send(Clients(), ours, log, 7, len(ROWS) - 7)) == [b""]
        reader.get(timeout=20)
    assert bytes(received) == ROWS[7:-7]


def test_a_log_that_was_cut_ends_the_connection(log: FileLog) -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        sending = download.send(Clients(), ours, log, 0, log.end)
        assert next(sending) == b""  # the head, which tells how long it is, leaves
        os.truncate(log.path, 700)
        with pytest.raises(ConnectionAbortedError, match="ended before byte 1400000"):
            next(sending)
        assert theirs.recv(1000) == ROWS[:700]


def test_without_a_socket_the_bytes_are_handed_over(log: FileLog) -> None:
    pieces = list(download.send(Clients(), None, log, 0, log.end))
    assert b"".join(pieces) == ROWS
    assert max(map(len, pieces)) <= download.PIECE_BYTES


def test_a_thread_that_comes_too_late_sends_something_all_the_same(
    log: FileLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SEND_SECONDS", -1.0)  # over before it has begun
    ours, theirs = gevent.socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while piece := theirs.recv(1 << 16):
            received.extend(piece)

    with theirs:
        reader = gevent.spawn(receive)
        with ours:
            assert list(download.send(Clients(), ours, log, 0, log.end)) == [b""]
        reader.get(timeout=20)
    assert bytes(received) == ROWS

"""Turns: who always has more to do, and who waits behind them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest

from esource.hub.loop import give_way, turn
from tests.harness import Hub, Stream, eventually

ROUNDS = 600


def test_a_party_that_never_blocks_takes_turns_with_one_that_does() -> None:
    turns = {"never blocks": 0, "blocks": 0}

    def take(name: str) -> None:
        while sum(turns.values()) < ROUNDS:
            with turn():
                turns[name] += 1
            if name == "blocks":
                give_way()

    gevent.joinall([gevent.spawn(take, name) for name in turns], raise_error=True)
    assert max(turns.values()) < 2 * min(turns.values()), turns


def test_three_parties_that_never_block_take_turns() -> None:
    turns = [0, 0, 0]

    def take(number: int) -> None:
        while sum(turns) < ROUNDS:
            with turn():
                turns[number] += 1

    gevent.joinall([gevent.spawn(take, number) for number in range(3)], raise_error=True)
    assert max(turns) < 2 * min(turns), turns


# -- over HTTP ---------------------------------------------------------------------------------

CHUNKS = {
    "event-stream": ("Content-Type: text/event-stream", "", b"data: an event of a stream\n\n"),
    "each=line": ("Content-Type: text/plain", "?each=line", b"a line of a log\n"),
}


@contextmanager
def endless_upload(hub: Hub, channel: str, kind: str, size: int) -> Iterator[None]:
    """Send chunks of `size` bytes, the next of which is always there, until the context ends."""
    field, query, event = CHUNKS[kind]
    body = event * ((1 << 18) // len(event))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])
    ended = threading.Event()
    answers: list[bytes] = []
    head = f"POST /{channel}{query} HTTP/1.1\r\nHost: h\r\n{field}\r\nTransfer-Encoding: chunked"

    def send() -> None:
        with hub.connect() as connection:
            connection.sendall(head.encode() + b"\r\n\r\n")
            while not ended.is_set():
                connection.sendall(chunks)
            connection.sendall(b"0\r\n\r\n")
            answers.append(connection.recv(65536))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert answers[0].startswith(b"HTTP/1.1 201 "), answers


@pytest.mark.parametrize("size", [1 << 16, 100])
@pytest.mark.parametrize("kind", CHUNKS)
def test_everybody_else_gets_answers_while_an_endless_upload_goes_on(
    hub: Hub, kind: str, size: int
) -> None:
    """What was sent is committed and seen meanwhile, not at the end."""
    channel, history = f"endless-{kind.replace('=', '-')}-{size}", f"hist-{size}"
    hub.file(history).write_bytes(b"".join([b"%d\t\t%b\n" % (n, b"x" * 90) for n in range(10_000)]))
    with Stream(hub, f"/{channel}?limit=1000") as stream, endless_upload(hub, channel, kind, size):
        answers: list[bytes] = []
        asked = threading.Thread(
            target=lambda: answers.append(hub.get(f"/{history}?format=sse&follow=0").body)
        )
        asked.start()
        waits = []
        for _ in range(20):
            started = time.monotonic()
            assert hub.get("/-/ready").status == 200
            waits.append(time.monotonic() - started)
        eventually(lambda: answers or not asked.is_alive(), 10.0)
        asked.join()
        assert answers[0].count(b"\ndata: " + b"x" * 90 + b"\n\n") == 10_000
        stream.read_to_end()
        assert len(stream.events) == 1000
        assert max(waits) < 0.25, waits

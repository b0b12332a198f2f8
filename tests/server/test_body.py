"""Bodies as they arrive: chunks, what nothing reads, what is slow, and who waits for them."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from esource.server.body import CHUNK_LINE_BYTES, TURN_CHUNKS, Chunks
from tests.harness import Hub, Stream, running_hub
from tests.harness.shims import customized
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import chunk

TURN_SECONDS = 2.0  # a bound on a fault, which was 30 s; how long it is, `bench` tells
CHUNKED = b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def statuses(answers: bytes) -> list[bytes]:
    return [line.split()[1] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


# -- chunks ------------------------------------------------------------------------------------


def no_trailers(lines: bytes) -> None:
    if lines != b"A: b":
        raise OSError("no trailers")


@given(
    contents=some.lists(some.binary(min_size=1, max_size=5)),
    extension=some.sampled_from([b"", b";a=b", b" ;a"]),
    trailers=some.sampled_from([b"", b"A: b\r\n"]),
    cuts=some.lists(some.integers(1, 9)),
)
def test_chunks_that_are_cut_anywhere_are_their_content_and_what_is_behind_them(
    contents: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]
) -> None:
    lines = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in contents]
    text = b"".join(lines) + b"0\r\n" + trailers + b"\r\nnext"
    chunks = Chunks(no_trailers)
    content = b""
    for cut in cuts:
        content += b"".join(chunks.feed(text[:cut]))
        text = text[cut:]
    content += b"".join(chunks.feed(text))
    assert content == b"".join(contents)
    assert (chunks.is_at_end, chunks.error, chunks.rest) == (True, None, b"next")


MALFORMED = [
    b"z\r\n", b"-1\r\n", b"0x1\r\n", b"1 \r\n", b"\r\n", b";a\r\n", b"1\nx", b"1;a\rb\r\n",
    b"f" * 17 + b"\r\n", b"1\r\nxy", b"1\r\nx\n", b"0\r\nB: c\r\n\r\n",
    b"1;" + b"a" * CHUNK_LINE_BYTES, b"0\r\n" + b"A: b\r\n" * CHUNK_LINE_BYTES,
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_before_something_malformed_is_content_and_nothing_is_after_it(text: bytes) -> None:
    chunks = Chunks(no_trailers)
    content = b"".join(chunks.feed(b"2\r\nab\r\n" + text)) + b"".join(chunks.feed(b"\r\n0\r\n\r\n"))
    assert content in (b"ab", b"abx")
    assert chunks.error
    assert not chunks.is_at_end


def test_tiny_chunks_are_decoded_in_turns() -> None:
    parts = list(Chunks(no_trailers).feed(b"1\r\nx\r\n" * 10 * TURN_CHUNKS))
    assert [len(part) for part in parts if part] == [TURN_CHUNKS] * 10


# -- what one client sends, and what it costs others -------------------------------------------


@contextmanager
def sending(hub: Hub, head: bytes, piece: bytes) -> Iterator[socket.socket]:
    """A client that sends on and on, and reads what it is answered."""
    with hub.connect() as client:
        client.sendall(head)

        def send() -> None:
            with suppress(OSError):
                while True:
                    client.sendall(piece)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield client
        finally:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            thread.join()


def nobody_waits(hub: Hub) -> None:
    for n in range(10):
        started = time.monotonic()
        hub.publish("/others", f"{n}")
        assert time.monotonic() - started < TURN_SECONDS


UNREAD = {
    "GET": b"GET /unread HTTP/1.1\r\n",
    "HEAD": b"HEAD /unread HTTP/1.1\r\n",
    "PUT": b"PUT /unread HTTP/1.1\r\n",
    "OPTIONS": b"OPTIONS /unread HTTP/1.1\r\n",
    "a bad name": b"POST /bad HTTP/1.1\r\n",
    "a bad parameter": b"POST /unread?bad=1 HTTP/1.1\r\n",
}


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("case", UNREAD)
def test_a_body_that_nothing_reads_has_an_end(hub: Hub, case: str, declared: bool) -> None:
    fields = b"Host: h\r\nContent-Length: 1000000000000\r\n\r\n" if declared else CHUNKED
    with sending(hub, UNREAD[case] + fields, chunk(b"x") * 10_000) as client:
        nobody_waits(hub)
        started = time.monotonic()
        answer = b""
        with suppress(ConnectionResetError):  # in the end
            while piece := client.recv(1 << 16):
                answer += piece
        assert time.monotonic() - started < AT_ONCE_SECONDS
    assert b"\r\nConnection: close\r\n" in answer
    assert len(statuses(answer)) == 1


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_small_body_that_nothing_reads_is_dropped_and_the_connection_goes_on(
    hub: Hub, framing: str
) -> None:
    inner = b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
    body = b"Host: h\r\nContent-Length: %d\r\n\r\n%b" % (len(inner), inner)
    if framing == "chunked":
        body = CHUNKED + chunk(inner) + b"0\r\n\r\n"
    last = b"GET /unread HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answers = hub.raw(b"GET /unread HTTP/1.1\r\n" + body + last)
    assert statuses(answers) == [b"200", b"200"]
    assert hub.rows("unread") == []


@pytest.mark.parametrize("target", ["/tiny", "/tiny?each=line"])
def test_chunks_of_one_byte_make_nobody_wait(hub: Hub, target: str) -> None:
    with hub.connect() as client:
        client.sendall(b"POST %b HTTP/1.1\r\n" % target.encode() + CHUNKED)
        body = chunk(b"x") * 100_000 + b"0\r\n\r\n"
        thread = threading.Thread(target=client.sendall, args=[body])
        thread.start()
        try:
            nobody_waits(hub)
        finally:
            thread.join()
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
    assert len(hub.data("tiny")[-1]) == 100_000


def test_a_line_of_a_stream_reaches_a_follower_before_the_next_one_is_sent(hub: Hub) -> None:
    with hub.connect() as client, Stream(hub, "/at_once") as stream:
        client.sendall(b"POST /at_once?each=line HTTP/1.1\r\n" + CHUNKED)
        for n in range(1, 4):
            client.sendall(b"".join(chunk(b"%c" % letter) for letter in b"line\n"))
            assert stream.read(n)[-1].data == b"line"
        client.sendall(b"0\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 201 ")


# -- answers that come before the body is sent -------------------------------------------------


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_a_client_that_sends_all_of_a_body_over_the_limit_sees_why_it_was_refused(
    hub: Hub, expect: str
) -> None:
    size = 4 << 20
    head = f"POST /large HTTP/1.1\r\nHost: h\r\n{expect}Content-Length: {size}\r\n\r\n"
    for _ in range(10):  # what a reset would overtake, it overtakes now and then
        with hub.connect() as client:
            client.sendall(head.encode())
            client.sendall(bytes(size))
            assert statuses(all_of(client)) == [b"413"]


DOOMED = {
    "too long": (b"POST /orders HTTP/1.1\r\nContent-Length: 99999999\r\n", b"413"),
    "no channel": (b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n", b"400"),
    "a bad parameter": (b"POST /orders?x=1 HTTP/1.1\r\nContent-Length: 9\r\n", b"400"),
    "a bad batch": (
        b"POST /orders?each=line HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n",
        b"415",
    ),
    "no charset": (
        b"POST /orders HTTP/1.1\r\nContent-Type: a/b; charset=klingon\r\nContent-Length: 9\r\n",
        b"415",
    ),
    "a read": (b"GET /doomed HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", b"200"),
}


@pytest.mark.parametrize("case", DOOMED)
def test_a_request_that_its_head_dooms_is_refused_before_its_body_is_asked_for(
    hub: Hub, case: str
) -> None:
    head, status = DOOMED[case]
    with hub.connect() as client:
        client.sendall(head + b"Host: h\r\nExpect: 100-continue\r\n\r\n")
        answer = client.recv(1 << 16)
        assert statuses(answer) == [status]
        assert b"\r\nConnection: close\r\n" in answer


def test_a_body_is_asked_for_once_it_is_to_be_read(hub: Hub) -> None:
    with hub.connect() as client:
        client.sendall(
            b"POST /asked HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n"
        )
        assert client.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ab")
        assert statuses(client.recv(1 << 16)) == [b"201"]
    assert hub.data("asked") == [b"ab"]


# -- slow senders ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/trickle", "/trickle?each=line"])
def test_a_declared_body_that_trickles_is_refused(tmp_path: Path, target: str) -> None:
    patient = "from esource.server import body\nbody.PATIENCE_SECONDS = 1.0\n"
    with (
        running_hub(tmp_path, **customized(tmp_path, patient)) as hub,
        hub.connect() as client,
        hub.connect() as other,
    ):
        head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n".encode()
        client.sendall(head)
        other.sendall(head)
        started = time.monotonic()
        client.settimeout(0.05)
        answer = b""
        sent = 0
        while not answer:
            with suppress(TimeoutError):
                client.sendall(b"x")
                if sent < 9000:  # the other one is slow as well, but not too slow
                    other.sendall(b"x" * 300)
                    sent += 300
                answer = client.recv(1 << 16)
        assert 0.9 < time.monotonic() - started < AT_ONCE_SECONDS
        assert statuses(answer) == [b"408"]
        assert b"\r\nConnection: close\r\n" in answer
        other.sendall(b"x" * (10_000 - sent))
        assert statuses(other.recv(1 << 16)) == [b"201"]
        assert hub.data("trickle") == [b"x" * 10_000]


def trickle(client: socket.socket) -> None:
    """Send a byte now and then, until the hub has closed."""
    with suppress(OSError):
        while True:
            client.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize(
    "head", [b"GET /trickle HTTP/1.1\r\nX-A", b"POST /trickle HTTP/1.1\r\nX-A"]
)
def test_a_head_that_trickles_has_an_end(tmp_path: Path, head: bytes) -> None:
    with running_hub(tmp_path, "--keep-alive", "1") as hub, hub.connect() as client:
        client.sendall(head)
        started = time.monotonic()
        trickle(client)
        assert time.monotonic() - started < AT_ONCE_SECONDS


def test_a_stream_may_be_silent(hub: Hub) -> None:
    """For as long as its client lives: a deadline would be for bodies of declared length."""
    with hub.connect() as client:
        client.sendall(b"POST /silent HTTP/1.1\r\n" + CHUNKED + chunk(b"a"))
        time.sleep(1.5)  # the watch has looked at it
        client.sendall(chunk(b"b") + b"0\r\n\r\n")
        assert statuses(client.recv(1 << 16)) == [b"201"]
    assert hub.data("silent") == [b"ab"]

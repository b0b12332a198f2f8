"""Bodies cut at every place: nothing of them is stored, the connection's others are unharmed."""

import re
import socket
import struct
import time

import pytest

from tests.harness import Hub, eventually

SMUGGLED = b"POST /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"


def post(path: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request as it goes over the wire."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode() + body


def declared(path: str, body: bytes, *fields: str) -> bytes:
    return post(path, f"Content-Length: {len(body)}", *fields, body=body)


def chunked(
    path: str, *chunks: bytes, fields: tuple[str, ...] = (), end: bytes = b"0\r\n\r\n"
) -> bytes:
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return post(path, "Transfer-Encoding: chunked", *fields, body=body)


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of the answers on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def vanish(hub: Hub, request: bytes) -> None:
    """Send, and reset the connection as soon as the hub has read it."""
    with hub.connect() as connection:
        connection.sendall(request)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


WHOLE = {
    "declared": declared("/CHANNEL", b"one event, whole or not at all"),
    "chunked": chunked("/CHANNEL", b"one event, ", b"whole or ", b"not at all"),
    "batch": declared(
        "/CHANNEL", b"\t\ta\n\t\tb\n\t\tc\n", "Content-Type: text/tab-separated-values"
    ),
    "unique": declared("/CHANNEL?id=u&unique=1", b"once"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_request_that_is_cut_at_any_place_stores_nothing(hub: Hub, kind: str) -> None:
    good = declared(f"/good-{kind}", b"good")
    whole = WHOLE[kind].replace(b"CHANNEL", f"cut-{kind}".encode())
    head = whole.index(b"\r\n\r\n") + 4
    for cut in range(1, len(whole)):
        answer = hub.raw(good + whole[:cut], half_close=True)
        first, *rest = statuses(answer)
        assert first == 201
        assert rest in ([], [400]), f"{rest} for {whole[:cut]!r}"
        if cut >= head:
            assert rest == [400], f"no answer for {whole[:cut]!r}"
        vanish(hub, good + whole[:cut])
    assert hub.rows(f"cut-{kind}") == []
    eventually(lambda: len(hub.rows(f"good-{kind}")) == 2 * (len(whole) - 1))
    assert statuses(hub.raw(whole, half_close=True)) == [201]
    assert len(hub.rows(f"cut-{kind}")) == (3 if kind == "batch" else 1)


@pytest.mark.parametrize("kind", [*WHOLE, "stream"])
def test_a_request_that_pauses_at_any_place_is_stored_whole(hub: Hub, kind: str) -> None:
    stream = chunked("/CHANNEL?each=line", b"line one\n", b"line two\nline three\n")
    request = WHOLE.get(kind, stream)
    rows = {"batch": 3, "stream": 3}.get(kind, 1)
    for cut in range(1, len(request)):
        channel = f"pause-{kind}-{cut}"
        with hub.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head, rest = request[:cut], request[cut:]
            whole = request.replace(b"CHANNEL", channel.encode())
            at = len(whole) - len(rest) if len(head) > request.index(b"CHANNEL") + 7 else cut
            connection.sendall(whole[:at])
            time.sleep(0.004)  # the hub reads the first part meanwhile; if not, it is harmless
            connection.sendall(whole[at:])
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))  # type: ignore[misc]
        assert statuses(answer) == [201], f"{whole[:at]!r} | {whole[at:]!r}: {answer!r}"
        assert len(hub.rows(channel)) == rows


def test_a_stream_that_is_cut_at_any_place_stores_its_complete_lines(hub: Hub) -> None:
    chunks = [b"line one\n", b"line two\nli", b"ne three\nline four"]
    whole = chunked("/CHANNEL?each=line", *chunks)
    ends = [whole.index(chunk) + len(chunk) for chunk in chunks]
    for cut in range(whole.index(b"\r\n\r\n") + 4, len(whole)):
        channel = f"stream-{cut:04}"
        answer = hub.raw(whole[:cut].replace(b"CHANNEL", channel.encode()), half_close=True)
        assert statuses(answer) == [400]
        rows = hub.rows(channel)
        assert [row.split(b"\t")[2] for row in rows] == b"".join(chunks).split(b"\n")[: len(rows)]
        arrived = [chunk for chunk, end in zip(chunks, ends, strict=True) if end <= cut - 5]
        # Of a chunk that was cut, the lines that have come may be stored or not.
        least = b"".join(arrived).count(b"\n")
        most = whole[:cut].partition(b"\r\n\r\n")[2].replace(b"\r\n", b"").count(b"\n")
        assert least <= len(rows) <= most
        if rows:
            assert b"%d events before that are stored" % len(rows) in answer


CHUNKED = "Transfer-Encoding: chunked"
BAD = {
    "bad chunk size": (post("/CHANNEL", CHUNKED, body=b"5\r\nhello\r\nxyz\r\n"), 400),
    "negative chunk size": (post("/CHANNEL", CHUNKED, body=b"-5\r\nhello\r\n"), 400),
    "huge chunk size": (
        post("/CHANNEL", CHUNKED, body=b"f" * 17 + b"\r\nhello\r\n"), 400,
    ),
    "chunk longer than its size": (
        post("/CHANNEL", CHUNKED, body=b"3\r\nhello\r\n0\r\n\r\n"), 400,
    ),
    "declared over the limit": (post("/CHANNEL", "Content-Length: 9000000", body=b"x" * 5000), 413),
    "chunked over the limit": (chunked("/CHANNEL", *[b"x" * 65536] * 17), 413),
    "a line over the limit": (
        chunked("/CHANNEL?each=line", *[b"x" * 65536] * 120), 413,
    ),
    "both lengths": (
        post("/CHANNEL", CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n"), 400,
    ),
    "two lengths": (post("/CHANNEL", "Content-Length: 5", "Content-Length: 6", body=b"hello"), 400),
    "no number": (post("/CHANNEL", "Content-Length: 5x", body=b"hello"), 400),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_body_is_refused_and_nothing_after_it_is_taken_for_a_request(
    hub: Hub, kind: str
) -> None:
    request, status = BAD[kind]
    channel = re.sub("[^a-z]+", "-", kind)
    request = request.replace(b"CHANNEL", channel.encode())
    answer = hub.raw(declared(f"/good-{channel}", b"good") + request + SMUGGLED, half_close=True)
    first, *rest = statuses(answer)
    assert first == 201
    assert len(rest) == 1
    assert rest == [status]
    assert hub.rows(channel) == []
    assert hub.rows("smuggled") == []
    assert len(hub.rows(f"good-{channel}")) == 1


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate, chunked"])
def test_a_transfer_coding_besides_chunked_is_refused(hub: Hub, coding: str) -> None:
    request = post("/another", f"Transfer-Encoding: {coding}", body=b"5\r\nhello\r\n0\r\n\r\n")
    (status,) = statuses(hub.raw(request, half_close=True))
    assert status in (400, 415, 501)
    assert hub.rows("another") == []


def test_a_body_that_is_whole_but_bad_leaves_the_connection_usable(hub: Hub) -> None:
    bad = [
        (declared("/usable", b"\xff\xfe"), 400),
        (declared("/usable", b"nul \0"), 400),
        (declared("/usable?id=%09", SMUGGLED), 400),
        (declared("/usable?nonsense=1", SMUGGLED), 400),
        (declared("/usable", SMUGGLED, "Content-Encoding: gzip"), 415),
        (declared("/bad", SMUGGLED), 400),
        (chunked("/usable?id=%09", SMUGGLED), 400),
        (chunked("/usable", b"nul \0"), 400),
    ]
    for request, status in bad:
        before = len(hub.rows("usable"))
        answer = hub.raw(request + declared("/usable", b"next"), half_close=True)
        assert statuses(answer) == [status, 201], request
        assert len(hub.rows("usable")) == before + 1
    assert hub.rows("smuggled") == []

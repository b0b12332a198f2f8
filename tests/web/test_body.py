"""The memory of bodies, over sockets: SPEC, section 7."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import (
    QUIET,
    Answer,
    Hub,
    Stream,
    Upload,
    Wire,
    eventually,
    post_whole,
    running_hub,
    store,
)
from tests.harness.measures import memory, metric
from tests.harness.upload import CONTENT_TYPES
from tests.harness.wire import chunk

MIB = 1 << 20
# A batch of as many bytes of rows, of any format, takes at most so many times of them (stated in
# the README, and for engines in their page), and what a hub takes for other reasons.
BATCH_BYTES = 32 * MIB
MULTIPLE = {store.FILES: 3, store.POSTGRESQL: 9, store.VALKEY: 6}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with 2.7 MB for large bodies, and 0.9 MB for plain ones."""
    limits = {"ESOURCE_MAX_BODY_MEMORY": "3600000", "ESOURCE_MAX_BATCH_BYTES": str(2 * MIB)}
    with running_hub(tmp_path, **QUIET, **limits) as hub:
        yield hub


class Declared(Upload):
    """A body of declared length on its way."""

    def __init__(self, hub: Hub, path: str, size: int) -> None:
        """Send the head of the request."""
        self.connection = hub.connect()
        self.raw(f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode())


def taken(hub: Hub) -> float:
    return metric(hub, "esource_body_memory_bytes")


def refused(upload: Upload) -> Answer:
    answer = upload.answer()
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.text.count("\n") == 1
    assert upload.connection.recv(1) == b""
    return answer


def test_clients_who_do_not_go_on_keep_nobody_out(hub: Hub) -> None:
    lines = (b"x" * 999 + b"\n") * 700
    with ExitStack() as stack:
        slow = []
        for n in range(3):
            upload = stack.enter_context(Declared(hub, f"/slow-{n}?each=line", 2 * MIB - 1))
            upload.raw(lines)
            eventually(lambda count=n + 1: taken(hub) > count * 0.9 * len(lines))  # type: ignore[misc]
            slow.append(upload)
            hub.publish("/plain", b"x" * 60_000)
        for n in range(4):
            answer = post_whole(hub, f"/good-{n}?each=line", "each=line", lines * 2)
            assert answer.status == 201
        for each in slow[:2]:
            refused(each)
        hub.publish("/plain", "still")
    for n in range(3):
        assert not hub.has(f"slow-{n}")
    eventually(lambda: taken(hub) == 0)
    assert "ESOURCE_MAX_BODY_MEMORY is" in hub.log


def test_a_stream_that_is_given_up_says_how_much_is_stored(hub: Hub) -> None:
    with Stream(hub, "/stream") as stream, Upload(hub, "/stream?each=line") as upload:
        upload.send(b"a\nb\n", b"half " + b"x" * 900_000)
        assert len(stream.read(2)) == 2
        eventually(lambda: taken(hub) > 900_000)
        assert post_whole(hub, "/other?each=line", "each=line", b"x\n" * 65_000).status == 201
        assert "2 events before that are stored" in refused(upload).text
    assert hub.data("stream") == [b"a", b"b"]


def test_a_stream_of_which_all_is_stored_is_not_given_up(hub: Hub) -> None:
    lines = (b"x" * 999 + b"\n") * 1900
    with Stream(hub, "/silent") as stream, Upload(hub, "/silent?each=line") as upload:
        upload.send(b"a\n")
        stream.read(1)
        with Declared(hub, "/slow?each=line", len(lines) + 1) as slow:
            slow.raw(lines)
            eventually(lambda: taken(hub) > 0.9 * len(lines))
            assert post_whole(hub, "/good?each=line", "each=line", lines).status == 201
            refused(slow)
        upload.send(b"b\n")
        assert upload.end().status == 201


def test_unfinished_small_bodies_keep_no_plain_publish_out(hub: Hub) -> None:
    with ExitStack() as stack:
        for n in range(24):
            upload = stack.enter_context(Declared(hub, f"/unfinished-{n}", 1 << 16))
            upload.raw(b"x" * 65_000)
        for _ in range(20):
            hub.publish("/plain", b"x" * 60_000)
    eventually(lambda: taken(hub) == 0)


def test_a_batch_that_would_not_fit_alone_is_too_large(tmp_path: Path) -> None:
    with running_hub(tmp_path, **QUIET, ESOURCE_MAX_BODY_MEMORY="4000") as hub:
        assert post_whole(hub, "/orders?each=line", "each=line", b"x\n" * 100).status == 413
        assert post_whole(hub, "/orders?each=line", "each=line", b"x\n" * 50).status == 201


# name, path, unit of the body
SHORTEST = {
    "empty lines": ("each=line", "?each=line", b"\n"),
    "empty lines with a type": ("each=line", "?each=line&event=" + "e" * 256, b"\n"),
    "rows": ("tsv", "", b"\t\t\n"),
    "JSON": ("ndjson", "", b'{"data":1}\n'),
    "frames": ("sse", "", b"data\n\n"),
    "lines": ("each=line", "?each=line", b"x" * 999 + b"\n"),
}


@pytest.mark.parametrize("name", SHORTEST)
def test_the_rows_of_a_batch_are_within_its_limit_and_within_memory(
    tmp_path: Path, name: str
) -> None:
    format, query, unit = SHORTEST[name]
    with running_hub(tmp_path, **QUIET, ESOURCE_MAX_BATCH_BYTES=str(BATCH_BYTES)) as hub:
        post_whole(hub, f"/batch{query}", format, unit)
        row = len(hub.content("batch"))
        before = memory(hub, "VmHWM")
        with hub.connect() as connection:
            connection.settimeout(None)
            body = unit * (BATCH_BYTES // row)
            head = f"POST /batch{query} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: {CONTENT_TYPES[format]}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 201")
        rows = len(hub.content("batch")) - row
        assert BATCH_BYTES - row < rows <= BATCH_BYTES
        peak = memory(hub, "VmHWM") - before
        print(f"{name}: {peak / rows:.1f} times its rows")
        assert peak < MULTIPLE[store.chosen] * rows
        answer = post_whole(hub, f"/over{query}", format, unit * (BATCH_BYTES // row + 1))
        assert answer.status == 413
        assert not hub.has("over")


def test_a_thousand_times_the_limit_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    with running_hub(tmp_path, **QUIET, ESOURCE_MAX_BATCH_BYTES=str(4 * MIB)) as hub:
        hub.publish("/warm", "x")
        before = memory(hub, "VmHWM")
        answer = post_whole(hub, "/over?each=line&event=" + "e" * 256, "each=line", b"\n" * 4 * MIB)
        assert answer.status == 413
        assert "rows" in answer.text
        assert memory(hub, "VmHWM") - before < 40 * MIB


def test_tiny_pieces_of_a_stream_cost_no_more_memory_than_long_ones(tmp_path: Path) -> None:
    with running_hub(tmp_path, **QUIET) as hub:
        hub.publish("/tiny", "x")
        before = memory(hub, "VmHWM")
        with Upload(hub, "/tiny?each=line") as upload:
            upload.connection.settimeout(None)
            for _ in range(100):
                upload.raw(chunk(b"\n") * 2000)
            assert upload.end().status == 201
        assert len(hub.rows("tiny")) == 200_001
        assert memory(hub, "VmHWM") - before < 40 * MIB


def test_a_line_in_tiny_pieces_takes_no_more_memory_than_it_is_long(hub: Hub) -> None:
    with Upload(hub, "/tiny-pieces?each=line") as upload:
        before = memory(hub, "VmHWM")
        for _ in range(20):
            upload.raw(chunk(b"xy") * 5000)
        eventually(lambda: taken(hub) == 200_000)
        assert memory(hub, "VmHWM") - before < 4 * MIB
        upload.connection.shutdown(socket.SHUT_WR)


def test_others_have_many_turns_while_a_piece_of_a_body_is_decoded(tmp_path: Path) -> None:
    # 32 pieces of 64 KiB. The last frame is bad, so that nothing is left to be done after them.
    body = b"data\n\n" * 350_000 + b"data: \0\n\n"
    with running_hub(tmp_path, **QUIET) as hub, Wire(hub) as others:
        with ThreadPoolExecutor(1) as pool:
            sender = pool.submit(post_whole, hub, "/frames", "sse", body)
            published = 0
            while not sender.done():
                others.post("/others", b"x")
                published += 1
            assert sender.result().status == 400
        print(f"{published} events were published meanwhile")
        assert published > 100

"""A hub that encrypts: gunicorn's own options, and no way past the encryption.

What writes to sockets past the server (pushes, `sendfile`, the fast path) must leave these
alone. A single byte in plain text between two records ends a client's connection with an
`SSLError`, so it is enough to read exactly what was meant through a real client.
"""

import http.client
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Hub, Stream, encoded, started
from tests.harness.encrypted import EncryptedHub
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import unchunked

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes certificates")


@pytest.fixture
def encrypted_hub(tmp_path: Path) -> Iterator[EncryptedHub]:
    hub = EncryptedHub(tmp_path)
    with started(hub, *hub.options):
        yield hub


def test_publishers_are_answered_one_request_after_the_other(encrypted_hub: EncryptedHub) -> None:
    request = b"POST /orders HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
    with encrypted_hub.connect() as connection:
        for n in range(100, 105):
            connection.sendall(request + b"%d" % n)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 201
            assert encrypted_hub.rows("orders")[-1] == answer.read().rstrip() + b"\t\t%d" % n
    assert len(encrypted_hub.rows("orders")) == 5
    assert "Traceback" not in encrypted_hub.log


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_events_that_come_while_a_reader_waits_are_encrypted(
    encrypted_hub: EncryptedHub, version: str
) -> None:
    request = f"GET /live?format=sse HTTP/{version}\r\nHost: h\r\n\r\n".encode()
    with encrypted_hub.connect() as connection:
        connection.sendall(request)
        received = b""
        while not received.endswith((b"\r\n\r\n:\n", b"\r\n:\n\r\n")):
            received += connection.recv(65536)
        head, _, received = received.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/{version} 200 OK\r\n".encode())
        for n in range(5):
            encrypted_hub.publish("/live", f"event {n}\nof two lines")
            frames = b":\n" + encoded(encrypted_hub, "live", "sse")
            while (unchunked(received)[0] if version == "1.1" else received) != frames:
                piece = connection.recv(65536)
                assert piece, received
                received += piece
                assert len(received) < 2 * len(frames) + 100, received
    assert "Traceback" not in encrypted_hub.log


def test_a_download_and_a_part_of_one_are_encrypted(encrypted_hub: EncryptedHub) -> None:
    for n in range(3):
        encrypted_hub.publish("/large", f"{n}" * 1_000_000)
    file = encrypted_hub.file("large").read_bytes()
    whole = encrypted_hub.get("/large")
    assert whole.status == 200
    assert whole.headers["Content-Length"] == str(len(file))
    assert whole.body == file
    part = encrypted_hub.get("/large", Range="bytes=999990-2000009")
    assert part.status == 206
    assert part.headers["Content-Range"] == f"bytes 999990-2000009/{len(file)}"
    assert part.body == file[999_990:2_000_010]
    assert "Traceback" not in encrypted_hub.log


def test_a_stop_ends_encrypted_streams_properly_and_does_not_wait(
    encrypted_hub: EncryptedHub,
) -> None:
    with encrypted_hub.connect() as idle:
        idle.sendall(b"GET /quiet HTTP/1.1\r\nHost: h\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        with Stream(encrypted_hub, "/quiet") as stream:
            encrypted_hub.publish("/quiet", "the last")
            stream.read(1)
            started = time.monotonic()
            assert encrypted_hub.stop() == 0
            assert time.monotonic() - started < AT_ONCE_SECONDS
            frames = re.escape(encoded(encrypted_hub, "quiet", "sse"))
            assert re.fullmatch(rb":\n%bretry: \d+\n" % frames, stream.read_to_end())
    assert "Traceback" not in encrypted_hub.log


def test_a_stop_does_not_wait_for_who_has_not_begun_to_encrypt(
    encrypted_hub: EncryptedHub,
) -> None:
    with Hub.connect(encrypted_hub):
        encrypted_hub.publish("/silent", "x")  # the hub has accepted both
        assert encrypted_hub.process
        encrypted_hub.process.terminate()
        started = time.monotonic()
        encrypted_hub.process.wait(40.0)
        assert time.monotonic() - started < AT_ONCE_SECONDS


def test_a_handshake_that_is_not_ended_has_an_end(tmp_path: Path) -> None:
    hub = EncryptedHub(tmp_path)
    with started(hub, *hub.options, "--keep-alive", "1"), Hub.connect(hub) as silent:
        before = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - before < AT_ONCE_SECONDS
        hub.publish("/still", "x")

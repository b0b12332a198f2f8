"""Plain publishes without gunicorn: what is one, and that nobody can tell the difference."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.http import wsgi

from esource.server.fastpath import parse
from esource.server.heads import HEAD_BYTES
from esource.web.post import Post, body_of
from tests.harness import Hub, Stream, eventually, running_hub
from tests.harness.measures import unread
from tests.harness.pipeline import Client, publish
from tests.harness.shims import SLOW_DISK, customized
from tests.harness.waiting import AT_ONCE_SECONDS

# A field that the fast path does not know, so that the request is gunicorn's.
SLOW = b"X-Other: 1"


def connected(hub: Hub) -> Client:
    return Client(hub.connect())


# -- what a plain publish is -------------------------------------------------------------------

HOST = b"Host: h\r\n"
ONE = b"Content-Length: 1\r\n"
PLAIN = [
    b"POST /orders HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
    b"POST /orders HTTP/1.0\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
    b"POST /orders? HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    b"POST /orders?id=1&event=%0a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
    b'POST /orders?a?b/../c:@[]\\"<> HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n',
    b"POST /" + b"n" * 64 + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
    b"POST /---- HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
    b"POST /orders HTTP/1.1\r\nhost:h\r\nCONTENT-LENGTH:007\r\n\r\n",
    b"POST /orders HTTP/1.1\r\nHost: h\r\nContent-Length: 999999\r\n\r\n",
    b"POST /orders HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive\r\n" + ONE + b"\r\n",
    b"POST /orders HTTP/1.1\r\nHost: h\r\nConnection: CLOSE\r\n" + ONE + b"\r\n",
    b"POST /orders HTTP/1.1\r\nHost: h\r\nUser-Agent: a b  c:d\r\nAccept: */*\r\n" + ONE + b"\r\n",
    b"POST /orders HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n" + ONE + b"\r\n",
]
LINES = [
    b"GET /orders HTTP/1.1", b"post /orders HTTP/1.1", b"POST /orders HTTP/1.2",
    b"POST /orders HTTP/2.0", b"POST /orders http/1.1", b"POST /orders", b"POST  /orders HTTP/1.1",
    b"POST /orders  HTTP/1.1", b"POST /orders HTTP/1.1 ", b" POST /orders HTTP/1.1",
    b"POST\t/orders\tHTTP/1.1", b"POST /orders HTTP/1.10", b"POST /orders HTTP/01.1",
    b"POST //orders HTTP/1.1", b"POST /orders/ HTTP/1.1", b"POST /ord HTTP/1.1",
    b"POST /" + b"n" * 65 + b" HTTP/1.1", b"POST orders HTTP/1.1", b"POST /or%64ers HTTP/1.1",
    b"POST /orders%0a HTTP/1.1", b"POST /./orders HTTP/1.1", b"POST /orders;a HTTP/1.1",
    b"POST http://h/orders HTTP/1.1", b"POST /orders#id HTTP/1.1", b"POST * HTTP/1.1",
    b"POST /orders?id=1#2 HTTP/1.1", b"POST /orders?# HTTP/1.1", b"POST /orders?a b HTTP/1.1",
    b"POST /orders?\xc3\xa4 HTTP/1.1", b"POST /orders?a\0 HTTP/1.1", b"POST /orders?a\n HTTP/1.1",
    b"POST /orders?a\x7f HTTP/1.1", b"POST /\xc3\xb6rders HTTP/1.1", b"\r\nPOST /orders HTTP/1.1",
    b"POST /orders HTTP/1.1\n", b"",
]  # fmt: skip
FIELDS = [
    b"Host: h\r\n", ONE, b"Host: h\r\nContent-Length: \r\n", b"Host: \r\n" + ONE,
    HOST + b"Content-Length: +5\r\n", HOST + b"Content-Length: -0\r\n",
    HOST + b"Content-Length: 1, 1\r\n", HOST + b"Content-Length: 0x1\r\n",
    HOST + b"Content-Length: 1_0\r\n", HOST + b"Content-Length: 1.0\r\n",
    HOST + b"Content-Length: 1 1\r\n", HOST + b"Content-Length: 1000000\r\n",
    HOST + b"Content-Length: \xb2\r\n", HOST + b"Content-Length: \xd9\xa1\r\n",
    HOST + ONE + ONE, HOST + ONE + b"content-length: 1\r\n", HOST + HOST + ONE,
    HOST + ONE + b"Content_Length: 2\r\n", HOST + ONE + b"Content-Length : 2\r\n",
    HOST + ONE + b" Content-Length: 2\r\n", HOST + ONE + b"Accept: a\r\n b\r\n",
    HOST + ONE + b"Accept: a\r\n\tb\r\n", HOST + ONE + b"Accept: a\nTransfer-Encoding: chunked\r\n",
    HOST + ONE + b"Accept: a\rX: b\r\n", HOST + ONE + b"Accept: a\0\r\n",
    HOST + ONE + b"Accept: a\tb\r\n",
    HOST + ONE + b"Accept: a \r\n", HOST + ONE + b"Accept:  a\r\n",
    HOST + ONE + b"Accept:\ta\r\n", HOST + ONE + b"Accept: \xe4\r\n", HOST + ONE + b"Accept\r\n",
    HOST + ONE + b": a\r\n", HOST + ONE + b"Accept : a\r\n", HOST + b"Content-Length: 1\n",
    HOST + ONE + b"Transfer-Encoding: chunked\r\n", HOST + b"Transfer-Encoding: chunked\r\n",
    HOST + ONE + b"Transfer-Encoding: identity\r\n", HOST + ONE + b"Expect: 100-continue\r\n",
    HOST + ONE + b"Origin: http://h\r\n", HOST + ONE + b"Sec-Fetch-Site: none\r\n",
    HOST + ONE + b"If-Match: *\r\n", HOST + ONE + b"If-None-Match: *\r\n",
    HOST + ONE + b"Content-Encoding: gzip\r\n", HOST + ONE + b"Upgrade: h2c\r\n",
    HOST + ONE + b"Connection: upgrade\r\n", HOST + ONE + b"Connection: close, host\r\n",
    HOST + ONE + b"Connection: close\r\nConnection: close\r\n",
    HOST + ONE + b"Cookie: a=b\r\n",
    HOST + ONE + b"Trailer: a\r\n", HOST + ONE + b"Te: trailers\r\n",
]  # fmt: skip


@pytest.mark.parametrize("head", PLAIN)
def test_both_ways_to_a_publish_build_the_same_request(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(head)
        request = next(http.get_parser(Config(), ours, ("127.0.0.1", 1)))
        about = ours, ("127.0.0.1", 1), ("127.0.0.1", 80), Config()
        _, environ = wsgi.create(request, *about)
    plain = parse(head)
    assert plain
    assert plain.post == Post.from_environ(environ["PATH_INFO"][1:], environ)
    assert plain.size == body_of(environ).size


@pytest.mark.parametrize("head", PLAIN)
def test_plain_heads_are_taken(head: bytes) -> None:
    assert parse(head)


@pytest.mark.parametrize("line", LINES)
def test_other_request_lines_are_left(line: bytes) -> None:
    assert parse(line + b"\r\nHost: h\r\nContent-Length: 1\r\n\r\n") is None


@pytest.mark.parametrize("fields", FIELDS)
def test_other_fields_are_left(fields: bytes) -> None:
    assert parse(b"POST /orders HTTP/1.1\r\n" + fields + b"\r\n") is None


# -- the same answers --------------------------------------------------------------------------

REQUESTS = [
    (b"", b"one", []),
    (b"?id=a&event=b", b"one\r\ntwo\n", []),
    (b"?id=%C3%A4&event=", "ä".encode(), [b"Content-Type: text/plain; charset=utf-8"]),
    (b"?id=1#2", b"fragment", []),
    (b"?", b"", []),
    (b"?id=j", b"", [b"Accept: application/json"]),
    (b"?id=l", "ä".encode("latin-1"), [b"Content-Type: text/plain; charset=latin-1"]),
    (b"?id=a&id=b", b"", []),
    (b"?bad=1", b"", []),
    (b"?id=%ff", b"", []),
    (b"?id=%0a", b"", []),
    (b"?each=word", b"", []),
    (b"?unique=1", b"", []),
    (b"?unique=2", b"", []),
    (b"?expect=nobody", b"", []),
    (b"", b"\xff", []),
    (b"", b"nul \0", []),
    (b"?id=z", b"x", [b"Content-Type: text/plain; charset=klingon"]),
    (b"?each=line&event=t", b"1\n2\n3", []),
    (b"", b'{"id":"n1","data":1}\n', [b"Content-Type: application/x-ndjson"]),
    (b"", b"not json", [b"Content-Type: application/x-ndjson"]),
    (b"", b"id: s\ndata: x\n\n", [b"Content-Type: text/event-stream"]),
    (b"?id=u&unique=1", b"once", [b"Connection: close"]),
    (b"", b"y" * 2000, [b"User-Agent: t", b"X-Request-Id: 1", b"X-Forwarded-For: 10.0.0.1"]),
    (b"", b"y" * 2001, []),
]  # fmt: skip


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    settings = {"ESOURCE_CORS_ORIGINS": "http://page", "ESOURCE_MAX_EVENT_BYTES": "2000"}
    with running_hub(tmp_path_factory.mktemp("limited"), **settings) as hub:
        yield hub


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(("query", "body", "fields"), REQUESTS)
def test_an_answer_is_the_one_that_gunicorn_gives(
    limited: Hub, query: bytes, body: bytes, fields: list[bytes], version: bytes
) -> None:
    answers = []
    number = REQUESTS.index((query, body, fields))
    for way, more in ((b"fast", []), (b"slow", [SLOW])):
        channel = b"%b%d-%b" % (way, number, version[-1:])
        with connected(limited) as client:
            request = publish(b"/" + channel + query, body, *fields, *more, version=version)
            status, headers, text = client.send(request).answer()
            del headers[b"Date"]
            id = headers.pop(b"Last-Event-ID", text[:-1])
            assert id == text[:-1] or text.startswith(b"{")
            # Gunicorn's way ends the connection after a body that it has not read: here it was.
            if status.split()[1] not in (b"201", b"200"):
                headers.pop(b"Connection")
            etag = headers.get(b"ETag", b"")
            headers[b"ETag"] = b"".join(etag.split(b"-")[1:2])  # the part that is not of the file
            assert list(headers)[:2] == [b"Server", b"Connection"] or b"Connection" not in headers
            rows = limited.rows(channel.decode())
            ids = {row.split(b"\t")[0] for row in rows}
            assert text[:-1] in ids or status.split()[1] != b"201" or text.startswith(b"{")
            default = len(text) == 28 or b'first":"20' in text
            kept = [row.split(b"\t", 1)[1] if default else row for row in rows]
            answers.append((status, headers, len(text) if default else text, kept))
    assert answers[0] == answers[1]


# -- many on one connection --------------------------------------------------------------------


def test_two_publishes_cut_at_any_place_are_stored_once_and_in_order(hub: Hub) -> None:
    both = publish(b"/cuts?id=1", b"one\n") + publish(b"/cuts?id=2", b"GET / HTTP/1.1\r\n\r\n")
    for cut in range(1, len(both)):
        with connected(hub) as client:
            client.send(both[:cut])
            if cut % 8 == 0:  # so that the hub has seen the first part for sure
                time.sleep(0.01)
            client.send(both[cut:])
            assert [client.answer()[2].rstrip(b"\n") for _ in "12"] == [b"1", b"2"], cut
    assert hub.data("cuts") == [b"one", b"GET / HTTP/1.1\x0b"] * (len(both) - 1)


def test_a_thousand_pipelined_publishes_are_stored_once_and_in_order(hub: Hub) -> None:
    sent = [b"%d" % n for n in range(1000)]
    with connected(hub) as client:
        client.send(b"".join([publish(b"/pipeline?id=" + id, id) for id in sent]))
        assert [client.answer()[2].rstrip(b"\n") for _ in sent] == sent
    assert hub.data("pipeline") == sent


def test_plain_and_other_requests_on_one_connection_keep_their_order(hub: Hub) -> None:
    download = b"GET /mixed HTTP/1.1\r\nHost: hub\r\n\r\n"
    chunked = b"POST /mixed?id=3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"1\r\n3\r\n0\r\n\r\n"
    pieces = [
        publish(b"/mixed?id=1", b"1"), publish(b"/mixed?id=2", b"2", SLOW), chunked,
        publish(b"/mixed?id=4", b"4"), download,
    ]  # fmt: skip
    with connected(hub) as client:
        client.send(b"".join(pieces))
        assert [client.answer()[2].rstrip(b"\n") for _ in "1234"] == [b"1", b"2", b"3", b"4"]
        status, _, body = client.answer()
        assert (status, body) == (b"HTTP/1.1 200 OK", hub.file("mixed").read_bytes())
    assert hub.data("mixed") == [b"1", b"2", b"3", b"4"]


def test_a_smuggled_request_is_data(hub: Hub) -> None:
    inner = publish(b"/smuggled?id=evil", b"evil")
    with connected(hub) as client:
        client.send(publish(b"/smuggled?id=1", inner) + publish(b"/smuggled?id=2", b"2"))
        assert [client.answer()[2].rstrip(b"\n") for _ in "12"] == [b"1", b"2"]
    assert len(hub.rows("smuggled")) == 2


@pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 8000])
def test_heads_of_any_length_are_answered(hub: Hub, size: int) -> None:
    bare = publish(b"/heads", b"x", b"User-Agent: ")
    request = bare.replace(b"User-Agent: ", b"User-Agent: " + b"u" * (size - len(bare) + 1))
    with connected(hub) as client:
        assert client.send(request).answer()[0] == b"HTTP/1.1 201 Created"


# -- how a connection ends ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "field", "goes_on"),
    [
        (b"1.0", b"Accept: a", False), (b"1.0", b"Connection: keep-alive", True),
        (b"1.0", b"Connection: close", False), (b"1.1", b"Accept: a", True),
        (b"1.1", b"Connection: close", False), (b"1.1", b"Connection: keep-alive", True),
    ],
)  # fmt: skip
def test_a_connection_goes_on_if_both_sides_say_so(
    hub: Hub, version: bytes, field: bytes, goes_on: bool
) -> None:
    with connected(hub) as client:
        for _ in "12":
            client.send(publish(b"/goes_on", b"x", field, version=version))
            status, headers, _ = client.answer()
            assert status == b"HTTP/%b 201 Created" % version
            assert headers[b"Connection"] == (b"keep-alive" if goes_on else b"close")
            if not goes_on:
                assert client.is_at_end()
                break


def test_a_client_that_stops_sending_is_answered(hub: Hub) -> None:
    for request in (publish(b"/half_closed"), publish(b"/half_closed") * 2):
        answer = hub.raw(request, half_close=True)
        assert answer.count(b" 201 Created") == request.count(b"POST")


def test_a_silent_connection_is_closed_after_the_keep_alive(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--keep-alive", "1") as hub, connected(hub) as client:
        silent = connected(hub)
        client.send(publish(b"/silent")).answer()
        started = time.monotonic()
        assert client.is_at_end()
        assert silent.is_at_end()
        assert time.monotonic() - started < AT_ONCE_SECONDS
        silent.connection.close()


def test_without_keep_alive_a_client_may_take_its_time_for_its_one_request(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--keep-alive", "0") as hub, connected(hub) as client:
        hub.publish("/one_each", "x")  # the hub has seen the other connection before this one
        status, headers, _ = client.send(publish(b"/one_each")).answer()
        assert (status, headers[b"Connection"]) == (b"HTTP/1.1 201 Created", b"close")
        assert client.is_at_end()


def test_an_access_log_names_every_publish(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--access-logfile", str(tmp_path / "access")) as hub:
        with connected(hub) as client:
            for n in range(3):
                client.send(publish(b"/logged?id=%d" % n)).answer()
        log = tmp_path / "access"
        eventually(lambda: log.read_text().count('"POST /logged?id=') == 3)


def test_statsd_counts_every_publish(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        address = f"127.0.0.1:{statsd.getsockname()[1]}"
        with running_hub(tmp_path, "--statsd-host", address) as hub, connected(hub) as client:
            client.send(publish(b"/counted")).answer()
            while not statsd.recv(1000).startswith(b"gunicorn.request.status.201"):
                pass


def test_gunicorns_own_limits_hold_for_publishes(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--limit-request-line", "100") as hub, connected(hub) as client:
        client.send(publish(b"/limit?id=" + b"i" * 100))
        assert client.answer()[0] == b"HTTP/1.1 400 Bad Request"


def test_a_unix_socket_has_a_fast_path(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    hub = Hub(tmp_path)
    hub.launch("--bind", f"unix:{path}")
    eventually(lambda: "Listening at" in hub.log)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        client = Client(connection)
        both = publish(b"/unix?id=1", b"1") + publish(b"/unix?id=2", b"2", SLOW)
        client.send(both[:150], both[150:])
        assert [client.answer()[2].rstrip(b"\n") for _ in "12"] == [b"1", b"2"]
    assert hub.stop() == 0
    assert hub.data("unix") == [b"1", b"2"]


def test_a_stop_answers_what_has_arrived_and_closes(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        clients = [connected(hub) for _ in range(20)]
        for client in clients:
            client.send(publish(b"/stopped")).answer()
        stop = threading.Thread(target=hub.stop)
        stop.start()
        stored = 0
        for client in clients:
            is_last = False
            # Closed between two requests: nothing comes, or a reset.
            with suppress(OSError):
                while not is_last and not client.send(publish(b"/stopped")).is_at_end():
                    status, headers, _ = client.answer()
                    assert status == b"HTTP/1.1 201 Created"
                    stored += 1
                    is_last = headers[b"Connection"] == b"close"
            client.connection.close()
        stop.join()
        assert len(hub.rows("stopped")) == 20 + stored
        assert stored
        assert "Traceback" not in hub.log


@pytest.mark.parametrize("behind", [1, 0])
def test_a_publisher_that_a_stop_finds_at_the_disk_is_told_which_answer_is_the_last(
    tmp_path: Path, behind: int
) -> None:
    with running_hub(tmp_path, **customized(tmp_path, SLOW_DISK)) as hub:
        with Stream(hub, "/last") as stream, connected(hub) as client:
            (tmp_path / "hang").touch()
            client.send(publish(b"/last") * (1 + behind))
            eventually(lambda: len(hub.rows("last")) == 1 + behind)
            assert hub.process
            hub.process.terminate()
            stream.read_to_end()  # the hub stops
            (tmp_path / "hang").unlink()
            is_last = False
            for _ in range(1 + behind):
                if not is_last:
                    status, headers, _ = client.answer()
                    assert status == b"HTTP/1.1 201 Created"
                    is_last = headers[b"Connection"] == b"close"
            assert is_last
        assert hub.process.wait(20) == 0
        hub.process = None


# -- what one connection may cost the others ---------------------------------------------------


@pytest.mark.parametrize("fields", [[], [SLOW]])
def test_a_stream_of_refused_requests_does_not_hold_up_others(
    hub: Hub, fields: list[bytes]
) -> None:
    # The fast path was held up in the same way, but only until a packet ended inside a request.
    requests = publish(b"/refused?bad=1", b"", *fields) * 500
    client = hub.connect()

    def send() -> None:
        with suppress(OSError):
            while True:
                client.sendall(requests)

    def receive() -> None:
        with suppress(OSError):
            while client.recv(1 << 20):
                pass

    threads = [threading.Thread(target=send), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            started = time.monotonic()
            hub.publish("/not_refused", "x")
            assert time.monotonic() - started < AT_ONCE_SECONDS
    finally:
        client.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        client.close()


def test_a_stop_does_not_wait_for_a_publisher_who_takes_no_answers(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", hub.port))
        client.settimeout(0.5)
        before, rest = -1, b""
        while unread(hub, client) != before:  # a hub that is merely busy takes something meanwhile
            before = unread(hub, client)
            with suppress(TimeoutError):
                while True:
                    rest = rest or publish(b"/deaf?bad=1", b"") * 500
                    rest = rest[client.send(rest) :]
        started = time.monotonic()
        assert hub.stop() == 0
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert "Traceback" not in hub.log

"""What a connection is owed: all answers, in order, together; whatever comes on it, and however."""

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from esource.server.fastpath import RECEIVE_BYTES, REST_SECONDS
from tests.harness import PATIENCE_SECONDS, Hub, Stream, eventually, running_hub, size
from tests.harness.measures import metric, unread
from tests.harness.pipeline import Client, publish
from tests.harness.shims import SLOW_DISK, customized
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import reset

SLOW = b"X-Other: 1"  # a field that the fast path does not know
NDJSON = b"Content-Type: application/x-ndjson"


def connected(hub: Hub) -> Client:
    return Client(hub.connect())


def commits(hub: Hub) -> int:
    return int(metric(hub, "esource_commit_events_count"))


def seen(hub: Hub, client: Client) -> None:
    """Wait until the hub has received all that was sent."""
    eventually(lambda: not unread(hub, client.connection))


# -- what is sent at once, or in any pieces ----------------------------------------------------


class Said(NamedTuple):
    """A request, what it is answered, and the data that it stores."""

    request: bytes
    status: bytes
    body: bytes  # the beginning of it
    data: tuple[bytes, ...] = ()


def any_request(draw: random.Random, channel: bytes, number: int) -> Said:
    """Return a request with an id of its own, `number`, to a channel."""
    id, target = b"%d" % number, b"/%b?id=%d" % (channel, number)
    data = draw.choice([b"", b"x", b"POST /" + channel + b" HTTP/1.1", b"y" * draw.randrange(9000)])
    json = b'{"id":"%b","data":"1"}\n{"id":"%b-2","data":"2"}\n' % (id, id)
    return draw.choices(
        [
            Said(publish(target, data), b"201", id + b"\n", (data,)),
            Said(publish(target + b"&unique=1", data), b"201", id + b"\n", (data,)),
            Said(publish(target + b"&expect=nobody", data), b"412", b"the channel"),
            Said(publish(target + b"&what=1", data), b"400", b""),
            Said(publish(target, data + b"\0"), b"400", b""),
            Said(publish(b"/" + channel, json, NDJSON), b"201", b'{"count":2', (b"1", b"2")),
            Said(publish(b"/" + channel, b"{", NDJSON), b"400", b""),
        ],
        [12, 1, 1, 1, 1, 1, 1],
    )[0]


@pytest.mark.parametrize("seed", range(size(24, 200)))
def test_whatever_is_pipelined_is_answered_in_order_and_stored_once(hub: Hub, seed: int) -> None:
    draw = random.Random(seed)
    channels = [b"any-%d-%d" % (seed, n) for n in range(draw.choice([1, 1, 3]))]
    said = [(draw.choice(channels), n) for n in range(draw.randrange(1, 40))]
    requests = [(channel, any_request(draw, channel, n)) for channel, n in said]
    if draw.random() < 0.3:  # gunicorn's way ends a connection with a request that it refuses
        others = [publish(b"/%b?id=%d" % (channels[0], n), b"x", SLOW) for n in range(40, 43)]
        requests += [(channels[0], Said(other, b"201", b"4", (b"x",))) for other in others]
    sent = b"".join([request.request for _, request in requests])
    ends = draw.choice(["close", "read", "half-close"])
    if ends == "close":
        sent += publish(b"/%b?id=last" % channels[0], b"last", b"Connection: close")
        sent += publish(channels[0].join([b"/", b"?id=behind"]), b"behind") * draw.randrange(3)
        requests.append((channels[0], Said(b"", b"201", b"last\n", (b"last",))))
    elif ends == "read":
        sent += b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % channels[0]
    cuts = sorted({draw.randrange(1, len(sent)) for _ in range(draw.choice([0, 1, 9]))})
    with connected(hub) as client:
        for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            client.send(sent[start:end])
            if draw.random() < 0.3:
                seen(hub, client)
        if ends == "half-close":
            client.connection.shutdown(socket.SHUT_WR)
        for _, request in requests:
            status, _, body = client.answer()
            assert status.split()[1] == request.status, (body, request)
            assert body.startswith(request.body), request
        if ends == "read":
            assert client.answer()[0] == b"HTTP/1.1 200 OK"
        else:
            assert client.is_at_end()
    for channel in channels:
        stored = [data for name, request in requests if name == channel for data in request.data]
        assert hub.data(channel.decode()) == [data.replace(b"\n", b"\v") for data in stored]


def test_a_pipeline_that_comes_byte_by_byte_is_answered_in_order(hub: Hub) -> None:
    sent = [b"%d" % n for n in range(40)]
    with connected(hub) as client:
        for byte in b"".join([publish(b"/bytes?id=" + id, id) for id in sent]):
            client.send(b"%c" % byte)
        assert client.ids(len(sent)) == sent
    assert hub.data("bytes") == sent


def test_what_arrived_together_is_one_commit_and_one_packet_of_answers(hub: Hub) -> None:
    with connected(hub) as client:
        client.send(publish(b"/together?id=0")).ids(1)
        before = commits(hub)
        client.send(b"".join([publish(b"/together?id=%d" % n, b"x" * 99) for n in range(1, 101)]))
        packet = client.connection.recv(1 << 20)
        assert packet.count(b"HTTP/1.1 201 Created\r\n") == 100
        assert commits(hub) == before + 1


def test_a_torn_request_comes_back_to_the_fast_path(hub: Hub) -> None:
    """After each, a pipeline is one commit: gunicorn's way would need one for each request."""
    torn = publish(b"/torn?id=torn", b"GET / HTTP/1.1\r\n\r\n")
    pipeline = publish(b"/torn?id=whole", b"x") * 5
    with connected(hub) as client:
        client.send(publish(b"/torn")).ids(1)
        before = commits(hub)
        for cut in range(1, len(torn)):
            client.send(torn[:cut])
            seen(hub, client)
            client.send(torn[cut:])
            assert client.ids(1) == [b"torn"]
            client.send(pipeline)
            assert client.ids(5) == [b"whole"] * 5
        assert commits(hub) == before + 2 * (len(torn) - 1)


def test_what_is_torn_behind_whole_requests_waits_for_none_of_them(hub: Hub) -> None:
    request = publish(b"/behind?id=1", b"y" * 5000)
    with connected(hub) as client:
        client.send(request)
        for _ in range(50):
            client.send(request[:3000])
            seen(hub, client)
            client.send(request[3000:] + request)
        assert client.ids(101) == [b"1"] * 101


# -- what is gunicorn's, with every byte -------------------------------------------------------

OTHERS: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "a head that is slow": (lambda name: publish(b"/%b?id=2" % name, b"2"), b"201"),
    "another field": (lambda name: publish(b"/%b?id=2" % name, b"2", SLOW), b"201"),
    "a large body": (
        lambda name: publish(b"/%b?id=2" % name, b"2" * (RECEIVE_BYTES + 1)), b"201"
    ),
    "chunks": (
        lambda name: b"POST /%b?id=2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n2\r\n0\r\n\r\n" % name, b"201",
    ),
    "a download": (lambda name: b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % name, b"200"),
    "garbage": (lambda _: b"\x16\x03\x01 nothing that\r\n\r\n", b"400"),
    "HTTP/2": (lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_plain_gets_to_gunicorn_with_every_byte(hub: Hub, kind: str) -> None:
    make, status = OTHERS[kind]
    name = b"other-" + kind.encode().replace(b" ", b"-").replace(b"/", b"-")
    request = make(name)
    places = sorted({1, 4, 5, 6, 7, 20, len(request) - 9, len(request) - 1, len(request)})
    with ExitStack() as stack:
        clients = [(cut, stack.enter_context(connected(hub))) for cut in places]
        for cut, client in clients:
            client.send(publish(b"/%b?id=1" % name, b"1") * 2 + request[:cut])
            assert client.ids(2) == [b"1", b"1"]
        if kind.endswith("slow"):
            time.sleep(REST_SECONDS + 0.2)
        for cut, client in clients:
            client.send(request[cut:] + publish(b"/%b?id=3" % name, b"3"))
            assert client.answer()[0].split()[1] == status, cut
            if status == b"400":
                assert client.is_at_end()
            else:
                assert client.ids(1) == [b"3"]
    ids = [row.split(b"\t")[0] for row in hub.rows(name.decode())]
    each = {b"201": 2, b"200": 2, b"400": 2}[status] * len(places)
    assert ids.count(b"1") == each
    assert ids.count(b"2") == (len(places) if status == b"201" else 0)
    assert ids.count(b"3") == (0 if status == b"400" else len(places))


def test_a_request_that_ends_too_early_is_not_stored(hub: Hub) -> None:
    request = publish(b"/early?id=2", b"none")
    for cut in range(len(request)):
        answer = hub.raw(publish(b"/early?id=1", b"x"), request[:cut], half_close=True)
        assert answer.startswith(b"HTTP/1.1 201 Created")
        assert answer.count(b" 201 Created") == 1
    assert hub.data("early") == [b"x"] * len(request)


# -- clients that do not read ------------------------------------------------------------------


def narrow(hub: Hub) -> Client:
    """A client whose connection holds little: as over a network, and not as on loopback."""
    connection = socket.socket()
    connection.settimeout(PATIENCE_SECONDS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", hub.port))
    return Client(connection)


def numbered(channel: bytes, *numbers: int) -> bytes:
    """Return a pipeline of posts with ids of 60 digits."""
    return b"".join([publish(b"/%b?id=%060d" % (channel, n), b"%d" % n) for n in numbers])


def ids(*numbers: int) -> list[bytes]:
    return [b"%060d" % n for n in numbers]


@contextmanager
def deaf(hub: Hub, channel: bytes, count: int) -> Iterator[Client]:
    """A client that pipelines so many posts, and has read nothing: the sockets are full."""
    with narrow(hub) as client:

        def send() -> None:
            with suppress(OSError):
                client.send(numbered(channel, *range(count)))

        thread = threading.Thread(target=send)
        thread.start()
        before = 0
        while unread(hub, client.connection) != before or not before:
            before = unread(hub, client.connection)
            time.sleep(0.2)
        try:
            yield client
        finally:
            with suppress(OSError):
                client.connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_client_that_reads_late_gets_all_answers_in_order(hub: Hub) -> None:
    with deaf(hub, b"late", count := 6000) as client:
        assert 0 < len(hub.rows("late")) < 3000
        hub.publish("/others", "x")
        assert client.ids(count) == ids(*range(count))
    assert hub.data("late") == [b"%d" % n for n in range(count)]


def test_of_clients_that_read_nothing_the_first_gives_way(tmp_path: Path) -> None:
    limit = 300_000  # of plain publishes: a pipeline is 205 000, answers that are not taken 80 000
    with running_hub(tmp_path, ESOURCE_MAX_BODY_MEMORY=str(4 * limit)) as hub, ExitStack() as stack:
        clients = [stack.enter_context(deaf(hub, b"deaf-%d" % n, 4000)) for n in range(5)]
        assert metric(hub, "esource_body_memory_bytes") <= limit
        hub.publish("/others", "x")
        received = 1
        with suppress(ConnectionResetError):
            while received:
                received = len(clients[0].connection.recv(1 << 16))  # not all: then it would wait
        hub.publish("/others", "y")
    assert "Traceback" not in hub.log


def test_a_client_whose_socket_gets_full_between_two_pipelines_gets_all_answers(hub: Hub) -> None:
    with narrow(hub) as client:
        sent = 0
        while len(hub.rows("full")) == sent:
            assert sent < 2000, "what the socket did not take was dropped"
            client.send(numbered(b"full", *range(sent, sent := sent + 20)))
            with suppress(AssertionError):
                eventually(lambda: len(hub.rows("full")) == sent, 0.5)
        client.connection.shutdown(socket.SHUT_WR)
        assert client.ids(sent) == ids(*range(sent))
        assert client.is_at_end()
    assert hub.data("full") == [b"%d" % n for n in range(sent)]


# -- a slow disk -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that lets connections be silent for a second; its disk hangs while `hang` is there."""
    home = tmp_path_factory.mktemp("slow")
    with running_hub(home, "--keep-alive", "1", **customized(home, SLOW_DISK)) as hub:
        yield hub


@contextmanager
def hanging(hub: Hub) -> Iterator[None]:
    (hub.home / "hang").touch()
    try:
        yield
    finally:
        (hub.home / "hang").unlink()


def readable(*connections: socket.socket, seconds: float = 0.0) -> list[socket.socket]:
    return select.select(connections, [], [], seconds)[0]


def test_a_silent_client_whose_post_is_at_a_slow_disk_does_not_lose_its_answer(slow: Hub) -> None:
    with connected(slow) as client:
        with hanging(slow):
            client.send(publish(b"/silent?id=1") * 3)
            assert not readable(client.connection, seconds=2.5)
        assert client.ids(3) == [b"1"] * 3
        assert client.is_at_end()


def test_nothing_is_answered_or_shown_before_it_is_on_disk(slow: Hub) -> None:
    with Stream(slow, "/synced") as stream, connected(slow) as client:
        with hanging(slow):
            client.send(publish(b"/synced?id=1") * 3)
            eventually(lambda: len(slow.rows("synced")) == 3)
            assert not readable(client.connection, stream.connection, seconds=0.3)
        assert client.ids(3) == [b"1"] * 3
        assert len(stream.read(3)) == 3


def test_what_a_client_has_published_that_goes_is_stored(slow: Hub) -> None:
    with hanging(slow):
        clients = [connected(slow) for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(publish(b"/gone?id=%d" % number, b"x" * 1000) * 5)
        eventually(lambda: len(slow.rows("gone")) >= 5)
        assert metric(slow, "esource_body_memory_bytes")
        for client in clients:
            seen(slow, client)
            reset(client.connection)
    eventually(lambda: metric(slow, "esource_body_memory_bytes") == 0)
    assert sorted(slow.rows("gone")) == sorted(
        [b"%d\t\t%b" % (number, b"x" * 1000) for number in range(20)] * 5
    )
    assert "Traceback" not in slow.log


# -- stored, then answered, then shown ---------------------------------------------------------


def test_a_pipeline_is_answered_before_its_events_are_shown(hub: Hub) -> None:
    """As a follower's socket has something, the publisher's has its answers already."""
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(hub, "/order")) for _ in range(3)]
        client = stack.enter_context(connected(hub))
        followers = [stream.connection for stream in streams]
        for _ in range(200):
            client.send(publish(b"/order", b"x") * 10)
            assert readable(*followers, seconds=AT_ONCE_SECONDS)
            assert readable(client.connection)
            client.ids(10)
            for stream in streams:
                stream.read(len(stream.events) + 10)


# -- a stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_narrow", [False, True])
def test_whatever_a_stop_finds_in_a_pipeline_is_answered_or_not_stored(
    tmp_path: Path, is_narrow: bool
) -> None:
    """Of clients that send on and on until they are told to stop, over two networks."""
    told: dict[int, list[bytes]] = {}

    def talk(hub: Hub, number: int) -> None:
        sent = 0
        with narrow(hub) if is_narrow else connected(hub) as client:
            told[number] = []
            client.connection.setblocking(False)
            received, rest, is_over = b"", b"", False
            while not is_over:
                rest = rest or numbered(b"stopped-%d" % number, *range(sent, sent := sent + 100))
                with suppress(OSError):
                    rest = rest[client.connection.send(rest) :]
                with suppress(BlockingIOError, ConnectionResetError):
                    piece = client.connection.recv(1 << 16)
                    is_over, received = not piece, received + piece
            told[number] = received.split(b"\r\n\r\n")

    with running_hub(tmp_path) as hub:
        threads = [threading.Thread(target=talk, args=[hub, number]) for number in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: all(len(hub.rows(f"stopped-{n}")) > 300 for n in range(4)))
        hub.stop()
        for thread in threads:
            thread.join()
        for number, parts in told.items():
            heads = [part for part in parts if b"HTTP/1.1 " in part]
            is_told = [b"Connection: close" in head for head in heads]
            stored = len(hub.rows(f"stopped-{number}"))
            # What does not fit through in two seconds is cut off.
            assert is_narrow or is_told[-1]
            assert len(heads) == stored if is_told[-1] else len(heads) < stored
            assert not any(is_told[:-1])
        assert "Traceback" not in hub.log


def test_a_defect_in_what_a_head_asks_for_is_answered_and_the_connection_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "defect.py").write_text(
        "from esource.server import *\n"
        "before = post_worker_init\n"
        "def post_worker_init(worker):\n"
        "    from esource.web import answers\n"
        "    real = answers.prefers_json\n"
        "    def fail(accept):\n"
        "        return 1 // 0 if accept == 'defect' else real(accept)\n"
        "    answers.prefers_json = fail\n"
        "    before(worker)\n"
    )
    with running_hub(tmp_path, "-c", "defect.py") as hub, connected(hub) as client:
        for _ in "12":
            client.send(publish(b"/defect", b"x", b"Accept: defect"))
            assert client.answer()[0] == b"HTTP/1.1 500 Internal Server Error"
        client.send(publish(b"/defect", b"x"))
        assert client.answer()[0] == b"HTTP/1.1 201 Created"
        assert "ZeroDivisionError" in hub.log

"""Hostile clients: what one client can do to a hub, as fast as it can, until it is killed.

    python -m tests.harness.attacks NAME PORT SECONDS [--tls] [FIELD ...]

A process of its own, so that an attack does not share the interpreter of what measures. SECONDS
after its first connection it ends by a signal (SIGALRM), wherever it is: so an attack is an endless
loop, without a clock. It ends otherwise only by a fault of its own.

An attack is a function of a `Way` to the hub. It uses the channel `attacked`, which is empty at
first, and those that `hostile.FAMILIES` prepares for its family; never `quiet`, which is others'.
"""

import gzip
import http.client
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from tests.harness.wire import chunk, reset

MIB = 1 << 20
CHUNKED = "Transfer-Encoding: chunked"
NDJSON = "Content-Type: application/x-ndjson"
TSV = "Content-Type: text/tab-separated-values"
SSE = "Content-Type: text/event-stream"
FOLLOW = "Accept: text/event-stream"


@dataclass
class Way:
    """The way to a hub: a port of loopback, with TLS or without, and fields for each request."""

    port: int
    seconds: float  # from the first connection to the end
    fields: tuple[str, ...] = ("Host: hub",)
    tls: ssl.SSLContext | None = None

    def connect(self) -> socket.socket:
        """Open a connection. Raises `OSError`."""
        if self.seconds:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            self.seconds = 0.0
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.tls.wrap_socket(connection) if self.tls else connection


Run = Callable[[Way], None]  # never returns
Make = Callable[[Way], bytes]  # what is sent on a way: a request, mostly


class Attack(NamedTuple):
    """A hostile client."""

    family: str
    about: str  # what it does, in a line
    run: Run
    mib: float = 100  # by how much the hub's memory may grow meanwhile
    seconds: float = 0.8  # that it takes to do harm, if it can


ATTACKS: dict[str, Attack] = {}


def add(family: str, name: str, about: str, run: Run, *bounds: float) -> None:
    """Add a hostile client to the table; the bounds are memory and seconds."""
    assert name not in ATTACKS, name
    ATTACKS[name] = Attack(family, about, run, *bounds)


# -- what is sent ------------------------------------------------------------------------------


def raw(data: bytes) -> Make:
    """Return what makes these bytes."""
    return lambda _: data


def head(line: str, *fields: str, then: bytes = b"") -> Make:
    """Return what makes the head of a request, whose line is `GET /path`, and what follows it."""
    return lambda way: (
        "\r\n".join([f"{line} HTTP/1.1", *way.fields, *fields, "", ""]).encode("latin-1") + then
    )


def whole(line: str, body: bytes, *fields: str) -> Make:
    """Return what makes a request with a body of declared length."""
    return head(line, f"Content-Length: {len(body)}", *fields, then=body)


def batch(body: Callable[[], bytes], *fields: str, query: str = "") -> Make:
    """Return what makes a batch; its body is large, and made when it is needed."""
    return lambda way: whole(f"POST /attacked{query}", body(), *fields)(way)


def in_bytes(line: str, body: Callable[[], bytes], *fields: str) -> Make:
    """Return what makes a request whose body comes in chunks of one byte."""
    return lambda way: (
        head(line, CHUNKED, *fields)(way)
        + (b"".join([b"1\r\n%c\r\n" % byte for byte in body()]) + b"0\r\n\r\n")
    )


def filled(piece: str, size: int = 8000) -> str:
    """Return a value of so many characters, as long as a field may be."""
    return (piece * (size // len(piece) + 1))[:size].strip(" ,;")


def crowd(name: str, piece: str, line: str = "GET /attacked") -> Make:
    """Return what makes a request with 95 equal fields of 8 KiB."""
    return head(line, *[f"{name}: {filled(piece)}"] * 95)


# -- ways to be hostile ------------------------------------------------------------------------


def again(way: Way, once: Callable[[socket.socket], None]) -> None:
    """Do something on one connection after the other."""
    while True:
        with suppress(OSError, http.client.HTTPException), way.connect() as connection:
            once(connection)


def apart(run: Callable[..., None], *args: object) -> None:
    """Do something in a thread."""
    threading.Thread(target=run, args=args, daemon=True).start()


def swallow(connection: socket.socket) -> None:
    """Read all that comes until the connection ends."""
    with suppress(OSError):
        while connection.recv(1 << 16):
            pass


def wait() -> None:
    """Do nothing any more."""
    while True:
        time.sleep(60)


def pour(start: Make, piece: bytes) -> Run:
    """Send a beginning, and then the same piece for ever; read nothing."""
    pieces = piece * max(1, (1 << 16) // len(piece))

    def run(way: Way) -> None:
        def once(connection: socket.socket) -> None:
            connection.sendall(start(way))
            while True:
                connection.sendall(pieces)

        again(way, once)

    return run


def pipeline(request: Make) -> Run:
    """Send requests without waiting for the answers; read what comes of them."""

    def run(way: Way) -> None:
        requests = request(way)
        requests *= max(1, (1 << 16) // len(requests))

        def once(connection: socket.socket) -> None:
            apart(swallow, connection)
            while True:
                connection.sendall(requests)

        again(way, once)

    return run


def ask(request: Make, count: int = 1) -> Run:
    """Send a request, wait for its answer, and send it again; so many connections at once."""

    def run(way: Way) -> None:
        asked = request(way)
        method = asked.split(b" ", 1)[0].decode("latin-1")

        def once(connection: socket.socket) -> None:
            while True:
                connection.sendall(asked)
                response = http.client.HTTPResponse(connection, method=method)
                response.begin()
                while response.read(1 << 16):
                    pass
                if response.will_close:
                    return

        for _ in range(count - 1):
            apart(again, way, once)
        again(way, once)

    return run


def hold(
    start: Make, count: int, more: bytes = b"", every: float = 1.0, closed: bool = False
) -> Run:
    """Open many connections, send a beginning on each, and then one byte of `more` now and then.

    Read nothing. With `closed` the sending side is closed after the beginning.
    """

    def run(way: Way) -> None:
        held = []
        for _ in range(count):
            with suppress(OSError):
                held.append(way.connect())
                held[-1].settimeout(5)
                held[-1].sendall(start(way))
                if closed:
                    held[-1].shutdown(socket.SHUT_WR)
        while True:
            time.sleep(every)
            for connection in held if more else []:
                with suppress(OSError):
                    connection.send(more)

    return run


def leave(count: int, seconds: float, *requests: Make) -> Run:
    """Ask on many connections, go away without the answers after so many seconds, and so on."""

    def run(way: Way) -> None:
        while True:
            opened = []
            for number in range(count):
                with suppress(OSError):
                    opened.append(way.connect())
                    opened[-1].sendall(requests[number % len(requests)](way))
            time.sleep(seconds)
            for connection in opened:
                reset(connection)

    return run


def come_and_go(start: Make, end: Callable[[socket.socket], None] = reset) -> Run:
    """Open a connection, send something, and end it, as often as can be."""

    def run(way: Way) -> None:
        def once(connection: socket.socket) -> None:
            connection.sendall(start(way))
            end(connection)

        again(way, once)

    return run


def half_close(connection: socket.socket) -> None:
    """Send no more, and read to the end."""
    connection.shutdown(socket.SHUT_WR)
    swallow(connection)


def both(beside: Run, run: Run) -> Run:
    """Do two things at once."""

    def both_of_them(way: Way) -> None:
        apart(beside, way)
        run(way)

    return both_of_them


def plainly(run: Run) -> Run:
    """Do the same without TLS."""
    return lambda way: run(Way(way.port, way.seconds, way.fields))


# -- plain publishes, whose answers are owed ---------------------------------------------------


def torn(request: Make, count: int) -> Run:
    """Send all but the last byte of a request on many connections, then that byte; read nothing."""

    def run(way: Way) -> None:
        sent = request(way)
        held = [way.connect() for _ in range(count)]
        while True:
            for piece in (sent[:-1], sent[-1:]):
                for connection in held:
                    connection.sendall(piece)
            for connection in held:
                with suppress(BlockingIOError):
                    connection.recv(1 << 16, socket.MSG_DONTWAIT)

    return run


def bytewise(request: Make) -> Run:
    """Send a request again and again, a byte at a time; read what comes of it."""

    def run(way: Way) -> None:
        sent = request(way)

        def once(connection: socket.socket) -> None:
            apart(swallow, connection)
            while True:
                for at in range(len(sent)):
                    connection.send(sent[at : at + 1])

        again(way, once)

    return run


def crowd_of(count: int, run: Run) -> Run:
    """Do the same on so many connections at once."""

    def together(way: Way) -> None:
        for _ in range(count - 1):
            apart(run, way)
        run(way)

    return together


def others(count: int, line: str, *fields: str) -> Make:
    """Return what makes so many publishes, each of which has its number in `{}`."""
    return lambda way: b"".join(
        [whole(line.format(n), b"", *[field.format(n) for field in fields])(way)
         for n in range(count)]
    )  # fmt: skip


SMALLEST = b"POST /attacked HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"

# fmt: off

# -- heads -------------------------------------------------------------------------------------

for name, field, piece in (
    ("accept", "Accept", "a/b;q=0.1,"),
    ("accept-quotes", "Accept", 'a/b;c="\\",'),
    ("forwarded", "X-Forwarded-For", "1.1.1.1, "),
):
    add("heads", name, f"95 fields {field} of 8 KiB", ask(crowd(field, piece)))
add("heads", "many-fields", "99 fields of 4 bytes, pipelined",
    pipeline(head("GET /attacked", *["X: y"] * 98)))
add("heads", "endless-head", "a head that has no end",
    pour(raw(b"GET /attacked HTTP/1.1\r\n"), b"X: y\r\n"))
add("heads", "endless-request-line", "a request line that has no end", pour(raw(b"GET /"), b"a"))
add("heads", "blank-lines", "blank lines before a request, for ever", pour(raw(b""), b"\r\n"))
add("heads", "slow-heads", "300 heads that come a byte in 10 ms each",
    hold(raw(b"GET /attacked HTTP/1.1\r\nX: "), 300, b"y", 0.01))

# -- bodies that nothing reads -----------------------------------------------------------------

UNREAD = {
    "get": "GET /attacked", "head": "HEAD /attacked", "put": "PUT /attacked",
    "delete": "DELETE /attacked", "options": "OPTIONS /attacked", "bad-name": "POST /x",
}
for name, line in UNREAD.items():
    add("unread", f"chunks-of-{name}", f"{line} with chunks of one byte for ever",
        pour(head(line, CHUNKED), b"1\r\nx\r\n"))
add("unread", "length-of-get", "a GET with 256 MiB of declared length",
    pour(head("GET /attacked", f"Content-Length: {256 * MIB}"), b"x"))
add("unread", "expects", "what is refused, with Expect: 100-continue, and sent at once",
    pour(head("POST /x", CHUNKED, "Expect: 100-continue"), chunk(b"x" * 65535)))

# -- chunks ------------------------------------------------------------------------------------

add("chunks", "bytes-of-an-event", "one event of 256 KiB in chunks of one byte",
    ask(in_bytes("POST /attacked", lambda: b"x" * (MIB // 4))))
add("chunks", "bytes-of-json", "a line of NDJSON in chunks of one byte",
    ask(in_bytes("POST /attacked", lambda: b'{"data":"%b"}\n' % (b"x" * (MIB // 2)), NDJSON)))
add("chunks", "bytes-of-sse", "frames without data in chunks of one byte",
    ask(in_bytes("POST /attacked", lambda: b"data\n\n" * (MIB // 12), SSE)))
add("chunks", "line-ends", "a million events, each a chunk of one LF",
    ask(in_bytes("POST /attacked?each=line", lambda: b"\n" * MIB)), 150, 4)
add("chunks", "extensions", "chunks of one byte with 8 KB of extensions",
    pour(head("POST /attacked?each=line", CHUNKED), b"1;%b\r\nx\r\n" % (b"e" * 8000)))
add("chunks", "endless-size", "a chunk's size that has no end",
    pour(head("POST /attacked", CHUNKED), b"0"))
add("chunks", "trailers", "trailers that have no end",
    pour(head("POST /attacked", CHUNKED, then=b"0\r\n"), b"a: b\r\n"))
add("chunks", "bad-chunks", "bodies with a malformed chunk, a connection each",
    ask(head("POST /attacked", CHUNKED, then=b"ZZ\r\n")))

# -- batches -----------------------------------------------------------------------------------

LINES = "?each=line"
MOST = 2_000_000  # short events, which make 64 MiB of rows with their ids
for name, about, mib, request in (
    ("lines", "as many lines of one byte as a batch may have", 300,
     batch(lambda: b"x\n" * MOST, query=LINES)),
    ("too-many-lines", "64 MiB of lines of one byte", 300,
     batch(lambda: b"x\n" * (32 * MIB), query=LINES)),
    ("types", "4 MiB of LF, as events with a type of 256 bytes", 300,
     batch(lambda: b"\n" * (4 * MIB), query=f"{LINES}&event={'e' * 256}")),
    ("empty-objects", "16 MiB of lines {}", 150, batch(lambda: b"{}\n" * (16 * MIB // 3), NDJSON)),
    ("small-objects", "as many lines of NDJSON as a batch may have, with empty data", 300,
     batch(lambda: b'{"data":""}\n' * MOST, NDJSON)),
    ("keys", "a line of NDJSON with half a million keys", 150,
     batch(lambda: b'{"data":"",%b}\n' % b",".join(b'"%x":1' % n for n in range(MIB // 2)),
           NDJSON)),
    ("long-id", "a line of NDJSON whose id has 6 MiB", 200,
     batch(lambda: b'{"data":"","id":"%b"}\n' % (b"x" * (6 * MIB)), NDJSON)),
    ("nesting", "a line of NDJSON with 3 million brackets", 200,
     batch(lambda: b'{"data":%b\n' % (b"[" * 3_000_000), NDJSON)),
    ("frames", "16 MiB of frames `data`", 150, batch(lambda: b"data\n\n" * (16 * MIB // 6), SSE)),
    ("data-lines", "an event of SSE whose lines are `data`, 16 MiB of them", 200,
     batch(lambda: b"data\n" * (3 * MIB) + b"\n", SSE)),
    ("carriage-returns", "16 MiB of frames that end with CR alone", 150,
     batch(lambda: b"data:x\r\r" * (2 * MIB), SSE)),
    ("beginnings", "16 MiB of frames that are one line, full of beginnings of fields", 150,
     batch(lambda: (b"id: " * 8000 + b"\n\n") * (MIB // 2000), SSE)),
    ("odd-frames", "16 MiB of frames, of which every 20th is not plain", 150,
     batch(lambda: (b"data:x\n\n" + b"data: x\n\n" * 19) * (16 * MIB // 180), SSE)),
    ("odd-lines", "16 MiB of lines of NDJSON, of which every 20th has an escape", 200,
     batch(lambda: (b'{"data":""}\n' * 19 + b'{"data":"\\n"}\n') * (16 * MIB // 240), NDJSON)),
    ("rows", "as many empty rows as a batch may have", 300,
     batch(lambda: b"\t\t\n" * MOST, TSV)),
    ("last-row", "16 MiB of rows, of which the last is none", 150,
     batch(lambda: b"\t\t\n" * (16 * MIB // 3) + b"x\n", TSV)),
    ("charset", "an event in a charset that takes the square of its size to decode", 100,
     batch(lambda: b"a" * 500_000 + b"-" + b"z" * 500_000,
           "Content-Type: text/plain; charset=punycode")),
    ("compressed", "64 MiB of zeros, compressed", 100,
     batch(lambda: gzip.compress(bytes(64 * MIB)), "Content-Encoding: gzip", query=LINES)),
):
    add("batches", name, about, ask(request), mib, 3 if mib == 300 else 1.5)
for name, about, data in (
    ("endless-line", "a line that has no end", b"x"),
    ("lines-for-ever", "lines of one byte for ever", b"x\n"),
):
    add("batches", name, f"{about}, in chunks of 64 KiB",
        pour(head("POST /attacked?each=line", CHUNKED), chunk(data * ((1 << 16) // len(data)))))

# -- memory of bodies that have not ended ------------------------------------------------------

add("unfinished", "unfinished-lines", "8 batches of 64 MiB but for their ends",
    lambda way: unfinished(head("POST /attacked?each=line", f"Content-Length: {64 * MIB}"), way),
    400, 4)
add("unfinished", "unfinished-rows", "8 batches of rows of 64 MiB but for their ends",
    lambda way: unfinished(head("POST /attacked", f"Content-Length: {64 * MIB}", TSV), way), 400, 4)
add("unfinished", "a-byte-a-second", "100 batches of 64 MiB, a byte now and then",
    hold(head("POST /attacked?each=line", f"Content-Length: {64 * MIB}"), 100, b"x", 0.2))
add("unfinished", "events-without-end", "300 events of 1 MiB but for their last byte",
    hold(head("POST /attacked", f"Content-Length: {MIB}", then=b"x" * (MIB - 1)), 300), 400, 3)
add("unfinished", "chunks-without-end", "300 events of 1 MiB in chunks, without their ends",
    hold(head("POST /attacked", CHUNKED, then=chunk(b"x" * (MIB - 1))), 300), 400, 3)


def unfinished(start: Make, way: Way) -> None:
    """Send all of 64 MiB but the last lines, 8 times at once, and wait."""

    def late(connection: socket.socket) -> None:
        connection.sendall(start(way))
        for _ in range(1023):
            connection.sendall(b"\t\t" + b"x" * 65533 + b"\n")
        swallow(connection)

    for _ in range(7):
        apart(again, way, late)
    again(way, late)


# -- unique=1 ----------------------------------------------------------------------------------

add("unique", "unique-events", "unique=1 for a channel of events of 1 MiB",
    ask(whole("POST /large?unique=1&id=x", b"x")), 300, 3)
add("unique", "unique-again", "unique=1 for 8 such channels that were not open, at once",
    leave(8, 60, *[whole(f"POST /large{n}?unique=1&id=x", b"x") for n in range(8)]), 400, 3)
add("unique", "unique-batches", "16 MiB of rows with ids of their own, with unique=1",
    ask(batch(lambda: b"".join([b"%x\t\t\n" % n for n in range(2 * MIB)]), TSV,
              query="?unique=1")), 400, 3)
add("unique", "unique-repeats", "the same id a million times, with unique=1",
    ask(batch(lambda: b"x\t\t\n" * MIB, TSV, query="?unique=1")), 300, 3)
add("unique", "unique-large", "batches of 32 events of 1 MiB, with unique=1",
    ask(batch(lambda: b"".join([b"%d\t\t%b\n" % (n, b"x" * (MIB - 99)) for n in range(32)]), TSV,
              query="?unique=1")), 400, 3)

# -- queries and preconditions -----------------------------------------------------------------

for name, about, query in (
    ("parameters", "4 KiB of a=&", "a=&"),
    ("types-asked-for", "4 KiB of event=a", "event=a&"),
    ("long-time", "a time of 4 KiB of digits", "since=" + "9" * 4000),
    ("long-after", "an id of 4 KiB", "after=" + "%C3%A4" * 700),
):
    add("queries", name, f"{about}, pipelined",
        pipeline(head(f"GET /attacked?{filled(query, 3900)}")))
add("queries", "if-match", "95 fields If-Match of 8 KiB of entity tags",
    ask(crowd("If-Match", '"a", ', "POST /attacked")))
add("queries", "if-none-match", "95 fields If-None-Match of 8 KiB of entity tags",
    ask(crowd("If-None-Match", 'W/"a", ')))
add("queries", "unclosed-tags", "95 fields If-Match of 8 KiB of quotes that do not end",
    ask(crowd("If-Match", 'W/"', "POST /attacked")))

# -- searches in 300 MB ------------------------------------------------------------------------

SEARCHES = {
    "tail": head("GET /default?event=none&tail=1"),
    "since": head("GET /times?since=2099-01-01"),
    "after": head("GET /times?after=unknown&limit=1&event=none"),
    "filter": head("GET /default?event=none"),
    "resume": head("GET /default?lastEventId=unknown&event=none&limit=1&follow=0"),
    "json": head("GET /times?event=none&format=json"),
}
for name in ("tail", "since", "filter"):
    add("searches", f"{name}-and-wait", f"50 at once wait for a search: {name}",
        ask(SEARCHES[name], 50), 150)
for name in ("tail", "since", "after"):
    add("searches", f"{name}-and-go", f"50 at once ask for a search ({name}), gone after 0.3 s",
        leave(50, 0.3, SEARCHES[name]), 150)
add("searches", "all-and-go", "80 at once, all kinds of searches, gone after 0.3 s",
    leave(80, 0.3, *SEARCHES.values()), 150)
add("searches", "follow-and-go", "50 followers of nothing from the start, gone after 0.3 s",
    leave(50, 0.3, head("GET /default?event=none&after=0", FOLLOW)), 150)
add("searches", "before-and-go", "50 at once ask what was before an event, gone after 0.3 s",
    leave(50, 0.3, head("GET /times?before=unknown&tail=1")), 150)
add("searches", "several", "20 at once read two channels as one, for no type",
    ask(head("GET /-/read?channel=default&channel=times&event=none"), 20), 150)
add("searches", "several-and-go", "50 followers of two channels as one, gone after 0.3 s",
    leave(50, 0.3, head("GET /-/read?channel=default&channel=times&after=0", FOLLOW)), 150)
add("searches", "polls", "long polls with nothing to come, gone after 0.3 s",
    leave(80, 0.3, head("GET /times?event=none&after=0&wait=60")), 150)
add("searches", "expect", "appends that expect an unknown id, pipelined",
    pipeline(whole("POST /times?expect=unknown", b"x")))

# -- downloads and ranges of 300 MB ------------------------------------------------------------

add("downloads", "ranges", "8 KiB of ranges, pipelined",
    pipeline(head("GET /default", "Range: bytes=" + filled("0-0,", 7900))))
add("downloads", "range", "a range of one byte, pipelined",
    pipeline(head("GET /default", "Range: bytes=0-0")))
add("downloads", "replays", "20 event streams at once, as fast as can be",
    ask(head("GET /default?follow=0&format=sse"), 20))
# Each has 256 KiB of rows, and what they are in JSON.
add("downloads", "replays-unread", "300 reads as JSON that are not read",
    hold(head("GET /default?format=json"), 300), 200)
add("downloads", "downloads-unread", "300 downloads that are not read",
    hold(head("GET /default"), 300))
add("downloads", "downloads-and-go", "50 downloads, gone after 50 ms",
    leave(50, 0.05, head("GET /default")))

# -- pipelines ---------------------------------------------------------------------------------

for name, request in (
    ("reads", head("GET /attacked")),
    ("publishes", whole("POST /attacked", b"x")),
    ("publishes-in-chunks", head("POST /attacked", CHUNKED, then=b"1\r\nx\r\n0\r\n\r\n")),
    ("bad-names", head("GET /x")),
    ("preflights", head("OPTIONS /attacked", "Origin: https://evil.example",
                        "Access-Control-Request-Method: POST")),
    ("followers-that-end", head("GET /attacked?timeout=0", FOLLOW)),
):
    add("pipelines", name, f"{name}, without waiting for answers", pipeline(request))
for name, line in (("reads", "GET /attacked"), ("bad-names", "POST /x")):
    add("pipelines", f"{name}-unread", f"2000 {name} on each of 20 connections, no answer read",
        hold(raw(f"{line} HTTP/1.1\r\nHost: hub\r\n\r\n".encode() * 2000), 20))

# -- what the hub says of itself, in a folder of 3000 channels ---------------------------------

for name, path in (
    ("channel-list", "/-/channels?limit=1000"),
    ("channel-match", "/-/channels?match=" + "a" * 3000),
    ("metrics", "/-/metrics"),
    ("page", "/"),
):
    add("lists", name, f"GET {path[:30]}, pipelined", pipeline(head(f"GET {path}")))
add("lists", "other-channels", "reads of one channel after the other",
    pipeline(lambda way: b"".join([head(f"GET /other-{n}")(way) for n in range(10_000)])))

# -- connections -------------------------------------------------------------------------------

add("connections", "come-and-go", "connections that are opened and reset", come_and_go(raw(b"")))
add("connections", "come-and-ask", "connections that are reset with a request under way",
    come_and_go(head("GET /attacked")))
add("connections", "come-and-publish", "connections that are reset in the middle of a body",
    come_and_go(head("POST /attacked", "Content-Length: 9", then=b"x")))
add("connections", "short-bodies", "bodies that end too early",
    come_and_go(head("POST /attacked", "Content-Length: 9", then=b"x"), half_close))
add("connections", "half-closed", "500 connections whose sending side is closed in a head",
    hold(raw(b"GET /attacked HTTP/1.1\r\n"), 500, closed=True))
add("connections", "silent", "2000 connections without a byte", hold(raw(b""), 2000))
add("connections", "bad-requests", "requests without a version, a connection each",
    ask(raw(b"GET\r\n\r\n")))
add("connections", "bad-batches", "batches whose first line is bad, pipelined",
    pipeline(whole("POST /attacked", b"{", NDJSON)))

# -- owed: plain publishes ---------------------------------------------------------------------

add("owed", "torn-posts", "2000 connections whose posts come in two pieces",
    torn(whole("POST /attacked", b"x" * 100), 2000), 100, 2)
add("owed", "torn-bodies", "500 bodies of 64 KiB that come but for a byte, and then that byte",
    torn(whole("POST /attacked", b"x" * (1 << 16)), 500), 200, 2)
add("owed", "held-bodies", "500 bodies of 64 KiB but for a byte, which does not come",
    hold(lambda way: whole("POST /attacked", b"x" * (1 << 16))(way)[:-1], 500), 100, 2)
add("owed", "bytewise", "a body of 64 KiB in packets of one byte",
    bytewise(whole("POST /attacked", b"x" * (1 << 16))))
add("owed", "smallest", "the smallest publishes, pipelined", pipeline(raw(SMALLEST)))
add("owed", "smallest-20", "the smallest publishes, pipelined on 20 connections",
    crowd_of(20, pipeline(raw(SMALLEST))))
add("owed", "deaf-publisher", "the smallest publishes, pipelined; no answer is read",
    pour(raw(b""), SMALLEST))
add("owed", "deaf-publishers", "the same on 20 connections; no answer is read",
    crowd_of(20, pour(raw(b""), SMALLEST)))
add("owed", "many-heads", "publishes whose heads all differ, pipelined",
    pipeline(others(10_000, "POST /attacked", "User-Agent: {:0900}")))
for name, about, request in (
    ("unexpected", "that expect another newest id", whole("POST /attacked?expect=none", b"")),
    ("refused", "with a parameter that is none", whole("POST /attacked?what=1", b"")),
    ("nul", "of a byte that cannot be stored", whole("POST /attacked", b"\0")),
):
    add("owed", name, f"publishes {about}, pipelined on 40 connections",
        crowd_of(40, pipeline(request)))
# The last: what the socket still holds of it is stored after the attack, and opens channels.
add("owed", "many-names", "publishes to 10 000 channels, pipelined",
    pipeline(others(10_000, "POST /name-{}")), 150, 2)

# -- TLS: a hub with a certificate of its own --------------------------------------------------

HELLO = bytes.fromhex("160301020001000001fc0303") + bytes(32)  # the beginning of a ClientHello
add("tls", "no-handshake", "500 connections that never begin a handshake",
    plainly(hold(raw(b""), 500)))
add("tls", "half-handshakes", "500 connections that stop in the middle of a ClientHello",
    plainly(hold(raw(HELLO), 500)))
add("tls", "plain-http", "requests without TLS", plainly(ask(head("GET /attacked"))))
add("tls", "no-records", "bytes that are no records", plainly(pour(raw(b""), bytes(range(256)))))
add("tls", "handshakes", "handshakes and nothing else", come_and_go(raw(b"")))
add("tls", "broken-records", "a handshake, and then bytes that are no records",
    lambda way: again(way, break_records))
add("tls", "chunks-over-tls", "chunks of one byte that nothing reads",
    pour(head("GET /attacked", CHUNKED), b"1\r\nx\r\n"))


def break_records(connection: socket.socket) -> None:
    """Send bytes past the encryption."""
    with socket.socket(fileno=connection.detach()) as plain:
        plain.sendall(bytes(range(256)) * 256)
        swallow(plain)


# -- followers: a hub that lets 200 of them follow ---------------------------------------------

add("followers", "deaf", "150 followers of 300 MB that read nothing",
    hold(head("GET /default?after=0", FOLLOW), 150))
add("followers", "deaf-and-loud", "150 followers that read nothing of what one publishes",
    both(hold(head("GET /attacked", FOLLOW), 150),
         pipeline(whole("POST /attacked", b"x" * 10_000))))
add("followers", "filtered", "150 followers of a type that does not come, of what one publishes",
    both(hold(head("GET /attacked?event=none", FOLLOW), 150),
         pipeline(whole("POST /attacked", b"x" * 10_000))))
add("followers", "talkative", "a follower that sends without end",
    pour(head("GET /attacked", FOLLOW), b"x"))
add("followers", "too-many", "followers over the limit, one after the other",
    both(hold(head("GET /attacked", FOLLOW), 250), ask(head("GET /attacked", FOLLOW))))
add("followers", "come-and-follow", "followers that go at once",
    come_and_go(head("GET /attacked", FOLLOW)))

# fmt: on

# -- the process -------------------------------------------------------------------------------


def main(name: str, port: str, seconds: str, *options: str) -> None:
    """Attack until the alarm."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if "--tls" in options else None
    if tls:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    fields = tuple(option for option in options if option != "--tls") or ("Host: hub",)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    ATTACKS[name].run(Way(int(port), float(seconds), fields, tls))


if __name__ == "__main__":
    main(*sys.argv[1:])

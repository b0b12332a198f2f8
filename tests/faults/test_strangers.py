"""What strangers send: SPEC, section 7, at the hub's own door and through nginx.

The tables say what each request is answered at either door. A request that nginx answers by
itself never reaches the hub; one that it makes into something else, the hub answers.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from esource.rows import sse
from tests.harness import PATIENCE_SECONDS, Hub, Stream, eventually, free_port, running_hub
from tests.harness.measures import cpu_seconds, memory, unread
from tests.harness.nginx import running_nginx

PAGE = "https://page.example"
NGINX_SITE = """\
upstream hub {{
    server 127.0.0.1:{hub_port};
    keepalive 8;
}}
server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    large_client_header_buffers 4 16k;
    location / {{
        proxy_pass http://hub;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_request_buffering off;
        proxy_read_timeout 1h;
    }}
}}
"""


class Door(NamedTuple):
    """Where a request goes in, and the hub that is behind it."""

    hub: Hub
    port: int
    is_nginx: bool

    def status(self, direct: int, nginx: int | None = None) -> int:
        """Return the status that is expected here: nginx's own, if it has one."""
        return nginx if self.is_nginx and nginx is not None else direct

    def send(self, *pieces: bytes) -> bytes:
        """Send bytes; return everything that comes until the other side closes."""
        address = ("127.0.0.1", self.port)
        with socket.create_connection(address, timeout=PATIENCE_SECONDS) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                return b"".join(iter(lambda: connection.recv(65536), b""))
            except (ConnectionResetError, BrokenPipeError):  # closed while there was more to read
                return b""


@pytest.fixture(scope="module")
def strange_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that lists a page and knows its own names."""
    home = tmp_path_factory.mktemp("strangers")
    settings = {
        "ESOURCE_CORS_ORIGINS": PAGE,
        "ESOURCE_ALLOWED_HOSTS": "hub 127.0.0.1",
        "ESOURCE_MAX_EVENT_BYTES": "100000",
    }
    with running_hub(home, **settings) as hub:
        hub.publish("/known?id=7", "x")
        (home / "secret.tsv").write_text("1\t\tsecret\n")
        yield hub


@pytest.fixture(scope="module")
def nginx_port(strange_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx in front of the hub."""
    port = free_port()
    site = NGINX_SITE.format(port=port, hub_port=strange_hub.port)
    with running_nginx(tmp_path_factory.mktemp("nginx"), site, port):
        yield port


@pytest.fixture(params=["gunicorn", "nginx"])
def door(request: pytest.FixtureRequest, strange_hub: Hub) -> Door:
    """Both doors, one after the other."""
    if request.param == "gunicorn":
        return Door(strange_hub, strange_hub.port, False)
    return Door(strange_hub, request.getfixturevalue("nginx_port"), True)


@pytest.fixture(autouse=True)
def no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever strangers send, the log of the hub has no traceback."""
    yield
    if "strange_hub" in request.fixturenames:
        hub: Hub = request.getfixturevalue("strange_hub")
        log, _ = hub.log, hub.log_path.write_bytes(b"")
        assert "Traceback" not in log, log
        assert hub.get("/known?format=raw&limit=1").body == b"x\n"


def request(method: str, target: str, *fields: str, body: bytes | None = None) -> bytes:
    """Return a request after which the connection is closed."""
    fields = ("Connection: close", *fields)
    if not any(field.startswith("Host") for field in fields):
        fields = ("Host: hub", *fields)
    if body is not None:
        fields = (*fields, f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""])
    return head.encode("latin-1") + (body or b"")


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all the answers on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) [A-Z]", answer)]


def head(answer: bytes) -> list[bytes]:
    """Return the lines of an answer's head."""
    return answer.partition(b"\r\n\r\n")[0].split(b"\r\n")


def is_by_the_hub(answer: bytes) -> bool:
    """Return whether the hub made an answer, and not gunicorn or nginx on their own."""
    return b"text/html" not in answer


# -- pages of other sites ----------------------------------------------------------------------

EVIL = "Origin: https://evil.example"
WRITES = {
    "no browser": ([], 201),
    "curl with a Referer": (["Referer: https://evil.example/page"], 201),
    "text/plain, which needs no preflight": ([EVIL, "Content-Type: text/plain"], 403),
    "a form": ([EVIL, "Content-Type: application/x-www-form-urlencoded"], 403),
    "a form with files": ([EVIL, "Content-Type: multipart/form-data; boundary=x"], 403),
    "a batch": ([EVIL, "Content-Type: text/event-stream"], 403),
    "a new browser": ([EVIL, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"], 403),
    "a page next door": (["Origin: http://hub:1", "Sec-Fetch-Site: same-site"], 403),
    "a page that hides its origin": (["Origin: null"], 403),
    "no origin, but a browser": (["Sec-Fetch-Site: cross-site"], 403),
    "its own name in another's path": (["Origin: http://evil.example/hub"], 403),
    "its own name as a user": (["Origin: http://hub@evil.example"], 403),
    "the end of a listed name": (["Origin: https://evil-page.example"], 403),
    "the beginning of a listed name": ([f"Origin: {PAGE}.evil.example"], 403),
    "two origins": ([EVIL, "Origin: http://hub"], 403),
    "two origins, the other way round": (["Origin: http://hub", EVIL], 403),
    "two sites": ([EVIL, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin"], 403),
    "no URL": (["Origin: http://["], 403),
    "its own page": (["Origin: http://hub"], 201),
    "its own page in a new browser": (["Origin: http://hub", "Sec-Fetch-Site: same-origin"], 201),
    "an address typed in": (["Sec-Fetch-Site: none"], 201),
    "a listed page": ([f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site"], 201),
}


@pytest.mark.parametrize("case", list(WRITES))
def test_a_page_of_another_site_writes_in_vain(door: Door, case: str) -> None:
    fields, status = WRITES[case]
    rows = door.hub.rows("written")
    answer = door.send(request("POST", "/written", *fields, body=b"x"))
    assert statuses(answer) == [status]
    assert b"X-Content-Type-Options: nosniff" in head(answer)
    assert len(door.hub.rows("written")) == len(rows) + (status == 201)


HOSTS = {
    "its own name": (["Host: hub"], 200, None),
    "its own name and a port": (["Host: hub:8000"], 200, None),
    "its own name in capitals": (["Host: HUB"], 200, None),
    "its address": (["Host: 127.0.0.1"], 200, None),
    "a name that was pointed here": (["Host: evil.example"], 421, None),
    "the same, with a port": (["Host: evil.example:9000"], 421, None),
    "a longer name": (["Host: hub.evil.example"], 421, None),
    "a user": (["Host: hub@evil.example"], 421, None),
    "another address": (["Host: 127.0.0.2"], 421, None),
    "nothing": (["Host: "], 421, 400),
    "two names": (["Host: hub", "Host: evil.example"], 400, None),
    "names in other headers": (["Host: evil.example", "X-Forwarded-Host: hub"], 421, None),
    "more names in other headers": (["Host: evil.example", "Forwarded: host=hub"], 421, None),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("case", HOSTS)
def test_a_name_that_was_pointed_at_the_hub_is_not_its_name(
    door: Door, case: str, method: str
) -> None:
    fields, direct, nginx = HOSTS[case]
    status = door.status(direct, nginx)
    body = b"x" if method == "POST" else None
    answer = door.send(request(method, "/rebound", *fields, body=body))
    if status == 200:
        assert statuses(answer) == [{"POST": 201, "OPTIONS": 204}.get(method, 200)]
    else:
        assert statuses(answer) == [status]
    if is_by_the_hub(answer):
        assert b"X-Content-Type-Options: nosniff" in head(answer)


@pytest.mark.parametrize(("origin", "status"), [(PAGE, 204), ("https://evil.example", 403)])
def test_a_preflight_goes_through(door: Door, origin: str, status: int) -> None:
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: if-match")
    answer = door.send(request("OPTIONS", "/known", f"Origin: {origin}", *asked))
    assert statuses(answer) == [status]
    allowed = f"Access-Control-Allow-Origin: {origin}".encode() in head(answer)
    assert allowed == (status == 204)


# -- paths -------------------------------------------------------------------------------------

LONG = "a" * 5000
PATHS: dict[str, tuple[str, int, int | None]] = {
    "up": ("/..", 400, None),
    "up, then a name": ("/../secret", 404, 400),
    "up, encoded": ("/%2e%2e", 400, None),
    "up, half encoded": ("/.%2e", 400, None),
    "up, encoded twice": ("/%252e%252e", 400, None),
    "up and down": ("/known/../known", 404, None),
    "up, with an encoded slash": ("/..%2fsecret", 404, 400),
    "up, all encoded": ("/%2e%2e%2fsecret", 404, 400),
    "up, with an encoded backslash": ("/..%5csecret", 400, None),
    "up, overlong": ("/%c0%ae%c0%ae%c0%afsecret", 400, None),
    "up, in full width": ("/%ef%bc%8e%ef%bc%8e%ef%bc%8fsecret", 400, None),
    "an encoded slash": ("/known%2Fx", 404, None),
    "an encoded slash in front": ("/%2Fknown", 404, None),
    "two slashes": ("//known", 404, None),
    "a slash at the end": ("/known/", 404, None),
    "a dot": ("/./known", 404, None),
    "an absolute file": ("//etc/passwd", 404, None),
    "NUL": ("/known%00", 400, None),
    "NUL before a suffix": ("/known%00.tsv", 400, None),
    "LF": ("/known%0a", 400, None),
    "CR LF and a header": ("/known%0d%0aX-Evil:%201", 400, None),
    "a file's name": ("/known.tsv", 400, None),
    "a torn file": ("/known.tsv.torn-1", 400, None),
    "the lock": ("/.lock", 400, None),
    "the writer's lock": ("/.writer.lock", 400, None),
    "a wildcard": ("/know*", 400, None),
    "a tilde": ("/~root", 400, None),
    "a parameter of the path": ("/known;x=1", 400, None),
    "a percent sign alone": ("/known%", 400, None),
    "half an escape": ("/known%2", 400, None),
    "no hex": ("/known%zz", 400, None),
    "bytes that are not UTF-8": ("/known%ff", 400, None),
    "another digit four": ("/abc%d9%a4", 400, None),
    "a name too long": ("/" + "a" * 65, 400, None),
    "a long name": ("/" + "a" * 3000, 400, None),
    "over the line limit": (f"/{LONG}", 400, None),
    "a query over the line limit": (f"/known?after={LONG}", 400, None),
    "a fragment": ("/known#/../x", 200, None),
    "another host": ("http://hub/known", 200, None),
    "another scheme": ("file:///etc/passwd", 400, None),
    "no slash": ("known", 400, None),
    "a question mark": ("?known", 400, None),
    "an unfinished address": ("http://[", 400, None),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "case",
    list(PATHS),
)
def test_a_path_is_a_name_of_a_channel_or_nothing(door: Door, case: str, method: str) -> None:
    target, direct, nginx = PATHS[case]
    before = {path.name for path in door.hub.folder.iterdir()}
    outside = {path.name for path in door.hub.home.iterdir()}
    body = b"x" if method == "POST" else None
    answer = door.send(request(method, target, body=body))
    assert is_by_the_hub(answer) or door.is_nginx
    status = door.status(direct, nginx)
    if method == "POST" and "?" in target and status == 200:
        status = 400
    assert statuses(answer) == [201 if method == "POST" and status == 200 else status]
    assert b"secret\n" not in answer
    assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0]
    assert {path.name for path in door.hub.folder.iterdir()} == before
    assert {path.name for path in door.hub.home.iterdir()} == outside


# -- links and other things that are no files --------------------------------------------------


def make_link_out(path: Path) -> None:
    path.symlink_to("../secret.tsv")


def make_link_to_an_absolute_file(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to("../made-by-the-hub.tsv")


def make_link_to_a_link(path: Path) -> None:
    between = path.with_suffix(".between")
    if not between.is_symlink():
        between.symlink_to("../secret.tsv")
    path.symlink_to(between.name)


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        try:  # the path may be longer than a socket's name can be
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


THINGS = [
    make_link_out, make_link_to_an_absolute_file, make_link_to_nothing, make_link_to_a_link,
    make_link_to_itself, make_fifo, make_folder, make_socket,
]  # fmt: skip


@pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__.removeprefix("make_"))
@pytest.mark.parametrize("name_is_known", [False, True], ids=["", "of a channel in use"])
def test_what_is_no_file_of_the_folder_is_neither_read_nor_written(
    door: Door, make: Any, name_is_known: bool
) -> None:
    hub = door.hub
    name = f"thing-{make.__name__}-{int(name_is_known)}-{int(door.is_nginx)}"
    secret = hub.home / "secret.tsv"
    if name_is_known:
        hub.publish(f"/{name}", "x")
        hub.file(name).unlink()
    make(hub.file(name))
    before = stat.S_IFMT(hub.file(name).lstat().st_mode)
    for asked in (
        request("GET", f"/{name}"),
        request("HEAD", f"/{name}"),
        request("POST", f"/{name}", body=b"x"),
        request("GET", f"/{name}", "Accept: text/event-stream"),
        request("POST", f"/{name}?each=line", body=b"x\ny"),
    ):
        answer = door.send(asked)
        assert statuses(answer) == [503], asked
        assert b"secret\n" not in answer
    assert stat.S_IFMT(hub.file(name).lstat().st_mode) == before
    assert secret.read_text() == "1\t\tsecret\n"
    assert not (hub.home / "made-by-the-hub.tsv").exists()


def test_a_follower_is_not_led_out_of_the_folder_by_a_link(strange_hub: Hub) -> None:
    with Stream(strange_hub, "/led-out") as stream:
        strange_hub.publish("/led-out", "one")
        stream.read(1)
        strange_hub.file("led-out").unlink()
        make_link_out(strange_hub.file("led-out"))
        assert strange_hub.post("/led-out", "two").status == 503
        strange_hub.file("led-out").unlink()
        strange_hub.publish("/led-out", "three")
        assert [event.data for event in stream.read(2)] == [b"one", b"three"]


def test_the_lock_does_not_write_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    hub = Hub(tmp_path)
    hub.folder.mkdir()
    (hub.folder / ".lock").symlink_to(precious)
    process = hub.launch()
    try:
        assert process.wait(PATIENCE_SECONDS) != 0
    finally:
        process.terminate()
        hub.process = None
    assert precious.read_text() == "precious"
    assert "Traceback" not in hub.log


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "events").symlink_to("volume")
    with running_hub(tmp_path) as hub:
        hub.publish("/linked", "x")
    assert (tmp_path / "volume" / "linked.tsv").exists()


# -- splitting ---------------------------------------------------------------------------------

BREAKS = {
    "CR LF": "%0d%0a", "LF": "%0a", "CR": "%0d", "NUL": "%00", "VT": "%0b", "FF": "%0c",
    "TAB": "%09", "NEL": "%c2%85", "DEL": "%7f", "ESC": "%1b",
}  # fmt: skip


@pytest.mark.parametrize("field", ["id", "event"])
@pytest.mark.parametrize("name", BREAKS)
def test_no_line_break_gets_into_an_id_or_a_type(door: Door, field: str, name: str) -> None:
    value = f"a{BREAKS[name]}X-Evil: 1".replace(" ", "%20")
    answer = door.send(request("POST", f"/split?{field}={value}", body=b"x"))
    assert statuses(answer) == [400]
    assert not any(line.lower().startswith(b"x-evil") for line in re.split(rb"[\r\n]+", answer))
    assert not door.hub.file("split").exists()


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("ndjson", "id"), ("ndjson", "event"), ("each=line", "id"), ("each=line", "event"),
        ("event-stream", "event"),  # and an id with NUL is no id: WHATWG HTML, 9.2.6
    ],
)  # fmt: skip
def test_no_line_break_gets_into_them_by_a_batch(door: Door, field: str, kind: str) -> None:
    escaped = "a\\r\\nX-Evil: 1"
    target, content_type, body = {
        "ndjson": ("/split", "application/x-ndjson", f'{{"{field}":"{escaped}","data":"x"}}'),
        "each=line": (f"/split?each=line&{field}=a%0d%0aX-Evil:%201", "text/plain", "x"),
        "event-stream": ("/split", "text/event-stream", f"{field}: a\x00X-Evil\ndata: x\n\n"),
    }[kind]
    answer = door.send(request("POST", target, f"Content-Type: {content_type}", body=body.encode()))
    assert statuses(answer) == [400]
    assert not door.hub.file("split").exists()


HAND_WRITTEN = (
    b"a\rdata: evil\r\rid: 9\tb\rdata: evil\rretry: 1\tc\rdata: evil\r\n"
    b"id\x00nul\ttype\x00\td\x00\n"
    b"a\r\nX-Evil: 1\r\n\t\tx\n"
    b"newest\rX-Evil: 1\t\tlast\n"
)


def test_a_file_that_others_wrote_splits_no_header_and_no_frame(door: Door) -> None:
    name = f"hand-written-{int(door.is_nginx)}"
    door.hub.file(name).write_bytes(HAND_WRITTEN)
    answer = door.send(request("GET", f"/{name}"))
    assert statuses(answer) == [200]
    assert not any(line.lower().startswith((b"x-evil", b"last-event-id")) for line in head(answer))
    stream = door.send(request("GET", f"/{name}?format=sse&follow=0"))
    frames = b"".join(stream.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])  # of its chunks
    assert b"\r" not in frames
    assert [event.data for event in sse.Decoder().feed(frames)] == [
        b"c\ndata: evil", b"d\x00", b"x", b"last",
    ]  # fmt: skip
    names = {line.partition(b":")[0] for line in frames.split(b"\n")}
    assert names == {b"", b"event", b"id", b"data"}


def test_an_id_is_shown_and_never_obeyed(door: Door) -> None:
    script = "%3Cscript%3Ealert(1)%3C/script%3E"
    answer = door.send(request("POST", f"/shown?id={script}", body=b"x"))
    assert statuses(answer) == [201]
    assert answer.endswith(b"<script>alert(1)</script>\n")
    assert b"Content-Type: text/plain; charset=utf-8" in head(answer)
    assert b"X-Content-Type-Options: nosniff" in head(answer)
    answer = door.send(request("GET", "/shown"))
    assert b"Last-Event-ID: <script>alert(1)</script>" in head(answer)


# -- smuggling ---------------------------------------------------------------------------------

POST = b"POST /smuggle HTTP/1.1\r\nHost: hub\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = request("POST", "/smuggled", body=b"x")
LENGTH = b"Content-Length: %d\r\n" % len(SMUGGLED)
NOTHING = b"0\r\n\r\n"
BOTH = (201, 201)

# What is sent, the status, and nginx's if it is another. Two are those of two requests: nginx is
# kinder than gunicorn in some versions, and then it is nginx who sees where the second begins.
SMUGGLING: dict[str, tuple[bytes, int, int | tuple[int, ...] | None]] = {
    "length, then chunks": (POST + LENGTH + TE + b"\r\n" + NOTHING + SMUGGLED, 400, None),
    "chunks, then length": (POST + TE + LENGTH + b"\r\n" + NOTHING + SMUGGLED, 400, None),
    "no length, and chunks": (POST + b"Content-Length: 0\r\n" + TE + b"\r\n" + SMUGGLED, 400, None),
    "two lengths": (POST + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + SMUGGLED, 400, None),
    "two lengths alike": (POST + LENGTH + LENGTH + b"\r\n" + SMUGGLED, 400, None),
    "two lengths in one": (POST + b"Content-Length: 0, 5\r\n\r\n" + SMUGGLED, 400, None),
    "a length with a sign": (POST + b"Content-Length: +0\r\n\r\n" + SMUGGLED, 400, None),
    "a length below zero": (POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED, 400, None),
    "a length in hex": (POST + b"Content-Length: 0x5\r\n\r\n" + SMUGGLED, 400, None),
    "a length with a fraction": (POST + b"Content-Length: 0.0\r\n\r\n" + SMUGGLED, 400, None),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n" + SMUGGLED, 400, None),
    "a superscript length": (POST + b"Content-Length: \xb2\r\n\r\n" + SMUGGLED, 400, None),
    "an empty length": (POST + b"Content-Length: \r\n\r\n" + SMUGGLED, 400, None),
    "a length of many digits": (
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + SMUGGLED, 400, None,
    ),
    "chunked twice": (POST + TE + TE + b"\r\n" + NOTHING + SMUGGLED, 400, None),
    "chunked, chunked": (
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + NOTHING + SMUGGLED, 400, 501,
    ),
    "chunked, gzip": (
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + NOTHING + SMUGGLED, 400, 501,
    ),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED, 400, 501),
    "a coding that nobody knows": (
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + NOTHING + SMUGGLED, 400, 501,
    ),
    "an empty coding": (POST + b"Transfer-Encoding:\r\n\r\n" + NOTHING + SMUGGLED, 400, 501),
    "a coding with VT": (
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + NOTHING + SMUGGLED, 400, 501,
    ),
    "a coding in quotes": (
        POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + NOTHING + SMUGGLED, 400, 501,
    ),
    "a space before the colon": (
        POST + b"Transfer-Encoding : chunked\r\n" + LENGTH + b"\r\n" + SMUGGLED, 400, None,
    ),
    "a tab before the name": (
        POST + b"\tTransfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + SMUGGLED, 400, None,
    ),
    "chunks in HTTP/1.0": (
        b"POST /smuggle HTTP/1.0\r\nHost: hub\r\n" + TE + b"\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "obs-fold": (POST + b"X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "a folded length": (POST + b"Content-Length:\r\n 0\r\n\r\n" + SMUGGLED, 400, None),
    "a folded coding": (
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "a folded first line": (b" " + POST + b"Content-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "an underscore": (
        POST + b"Content_Length: 0\r\nConnection: close\r\n" + LENGTH + b"\r\n" + SMUGGLED,
        201, None,
    ),
    "LF alone": (
        POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + SMUGGLED, 400, BOTH,
    ),
    "CR alone": (POST + b"X: a\rContent-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "NUL in a header": (POST + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "no colon": (POST + b"X\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400, BOTH),
    "no name": (POST + b": x\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "a name with a space": (POST + b"X Y: x\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400, None),
    "HTTP/0.9": (b"GET /smuggle\r\n" + SMUGGLED, 400, ()),
    "HTTP/2.0": (b"GET /smuggle HTTP/2.0\r\nHost: hub\r\n\r\n" + SMUGGLED, 400, 505),
    "HTTP/1.10": (b"GET /smuggle HTTP/1.10\r\nHost: hub\r\n\r\n" + SMUGGLED, 400, (200, 201)),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED, 400, None),
    "a line of the PROXY protocol": (
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n" + SMUGGLED, 400, None,
    ),
    "a chunk size with a sign": (POST + TE + b"\r\n+1\r\nx\r\n" + NOTHING + SMUGGLED, 400, None),
    "a chunk size below zero": (POST + TE + b"\r\n-1\r\nx\r\n" + NOTHING + SMUGGLED, 400, None),
    "a chunk size with 0x": (POST + TE + b"\r\n0x1\r\nx\r\n" + NOTHING + SMUGGLED, 400, None),
    "a chunk size with an underscore": (
        POST + TE + b"\r\n1_0\r\n" + b"x" * 16 + b"\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "a chunk size after a space": (POST + TE + b"\r\n 1\r\nx\r\n" + NOTHING + SMUGGLED, 400, None),
    "a chunk size before a space": (
        POST + TE + b"\r\n1 \r\nx\r\n" + NOTHING + SMUGGLED, 400, BOTH,
    ),
    "a chunk size in quotes": (POST + TE + b'\r\n"1"\r\nx\r\n' + NOTHING + SMUGGLED, 400, None),
    "no chunk size": (POST + TE + b"\r\n\r\nx\r\n" + NOTHING + SMUGGLED, 400, None),
    "no chunk size but an extension": (
        POST + TE + b"\r\n;a=b\r\nx\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "a chunk that is longer than it says": (
        POST + TE + b"\r\n1\r\nxyz\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "a chunk that ends with LF": (POST + TE + b"\r\n1\r\nx\n" + NOTHING + SMUGGLED, 400, BOTH),
    "a chunk size that ends with LF": (
        POST + TE + b"\r\n1\nx\r\n" + NOTHING + SMUGGLED, 400, BOTH,
    ),
    "a chunk extension with CR": (
        POST + TE + b"\r\n1;a\rb\r\nx\r\n" + NOTHING + SMUGGLED, 400, None,
    ),
    "a length in the trailers": (
        POST + TE + b"\r\n0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, 400, BOTH,
    ),
    "a trailer that is none": (POST + TE + b"\r\n0\r\nno colon\r\n\r\n" + SMUGGLED, 400, BOTH),
}  # fmt: skip


@pytest.mark.parametrize("case", SMUGGLING)
def test_what_is_not_one_clear_message_ends_the_connection(door: Door, case: str) -> None:
    data, direct, nginx = SMUGGLING[case]
    door.hub.file("smuggled").unlink(missing_ok=True)
    answer = door.send(data)
    seen = statuses(answer)
    if not door.is_nginx:
        assert b"X-Content-Type-Options: nosniff" in head(answer)
        assert b"Content-Type: text/plain; charset=utf-8" in head(answer)
    if door.is_nginx and isinstance(nginx, tuple):
        assert seen in ([*nginx], [400])
    else:
        assert seen == [door.status(direct, nginx)]  # type: ignore[arg-type]
    assert door.hub.file("smuggled").exists() == (len(seen) == 2)


# Gunicorn lets these through, for an application that knows what to do with them.
CODINGS = {
    "gzip, chunked": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + NOTHING + SMUGGLED
    ),
    "gzip and a length": (
        POST + b"Transfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx" + SMUGGLED
    ),
    "identity and a length": (
        POST + b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx" + SMUGGLED
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CODINGS)
def test_a_coding_that_the_hub_cannot_undo_is_refused(strange_hub: Hub, case: str) -> None:
    strange_hub.file("smuggled").unlink(missing_ok=True)
    door = Door(strange_hub, strange_hub.port, False)
    assert statuses(door.send(CODINGS[case])) == [400]
    assert not strange_hub.file("smuggled").exists()


@pytest.mark.parametrize("case", CODINGS)
def test_nginx_refuses_such_a_coding_by_itself(
    strange_hub: Hub, nginx_port: int, case: str
) -> None:
    strange_hub.file("smuggled").unlink(missing_ok=True)
    assert statuses(Door(strange_hub, nginx_port, True).send(CODINGS[case])) == [501]
    assert not strange_hub.file("smuggled").exists()


UNREAD = {
    "a download": (b"GET /known HTTP/1.1\r\n", 200),
    "a refused name": (b"POST /x HTTP/1.1\r\n", 400),
    "a refused parameter": (b"POST /known?x=1 HTTP/1.1\r\n", 400),
    "a refused method": (b"DELETE /known HTTP/1.1\r\n", 405),
    "a refused page": (b"POST /known HTTP/1.1\r\n" + EVIL.encode() + b"\r\n", 403),
    "no such page": (b"POST /known/x HTTP/1.1\r\n", 404),
}
MALFORMED = {
    "a bad chunk size": b"ZZ\r\nx\r\n" + NOTHING,
    "a chunk that is longer than it says": b"1\r\nxyz\r\n" + NOTHING,
    "a bad extension": b"1;a\rb\r\nx\r\n" + NOTHING,
    "a bad trailer": b"0\r\nno colon\r\n\r\n",
    "a length in the trailers": b"0\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("case", UNREAD)
def test_a_malformed_body_that_nobody_wants_ends_the_connection_quietly(
    strange_hub: Hub, case: str, body: str
) -> None:
    line, status = UNREAD[case]
    strange_hub.file("smuggled").unlink(missing_ok=True)
    door = Door(strange_hub, strange_hub.port, False)
    answer = door.send(line + b"Host: hub\r\n" + TE + b"\r\n" + MALFORMED[body] + SMUGGLED)
    assert statuses(answer) == [status]
    assert "Traceback" not in strange_hub.log
    assert not strange_hub.file("smuggled").exists()


def test_a_well_formed_pipeline_is_served_whole(door: Door) -> None:
    one = POST + TE + b"\r\n1;extension=x\r\na\r\n0\r\nX-Sum: x\r\n\r\n"
    two = b"GET /known HTTP/1.1\r\nHost: hub\r\nContent-Length: 3\r\n\r\nabc"
    answer = door.send(one + two + one + request("GET", "/known"))
    assert statuses(answer) == [201, 200, 201, 200]


@pytest.mark.parametrize("query", ["", "?each=line"])
def test_a_chunk_whose_size_comes_alone_is_not_the_end_of_the_body(
    strange_hub: Hub, query: str
) -> None:
    strange_hub.file("smuggled").unlink(missing_ok=True)
    strange_hub.file("alone").unlink(missing_ok=True)
    line = SMUGGLED + b"\n"
    with strange_hub.connect() as connection:
        for piece in (
            f"POST /alone{query} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n".encode() + TE,
            b"\r\n4\r\none\n\r\n",
            b"%x\r\n" % len(line),
            line + b"\r\n" + NOTHING,
        ):
            connection.sendall(piece)
            if not piece.endswith(NOTHING):
                eventually(lambda: not unread(strange_hub, connection))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert statuses(answer) == [201]
    assert len(strange_hub.rows("alone")) == (1 + line.count(b"\n") if query else 1)
    assert b"POST /smuggled" in strange_hub.rows("alone")[-1] or query
    assert not strange_hub.file("smuggled").exists()


ENDLESS = {
    "chunk size line": b"1;" + b"a" * 65534,
    "trailers": b"0\r\n" + b"a: b\r\n" * 10922,
    "leading zeros": b"0" * 65536,
}


@pytest.mark.parametrize("case", ENDLESS)
@pytest.mark.parametrize("target", ["/endless", "/endless?each=line"])
def test_a_line_of_a_chunked_body_that_does_not_end_is_cut_off(
    strange_hub: Hub, case: str, target: str
) -> None:
    head = f"POST {target} HTTP/1.1\r\nHost: hub\r\n".encode() + TE + b"\r\n"
    with strange_hub.connect() as connection:
        connection.sendall(head + ENDLESS[case])
        connection.settimeout(3)
        received = connection.recv(65536)  # though nothing has ended
    assert statuses(received) == [400]
    assert not strange_hub.file("endless").exists()


# -- limits ------------------------------------------------------------------------------------


def field(size: int) -> str:
    return "X-Long: " + "a" * (size - len("X-Long: "))


LIMITS: dict[str, tuple[bytes, int, int | None]] = {
    "the longest line": (request("GET", "/known?after=" + "a" * 4050), 200, None),
    "a longer line": (request("GET", "/known?after=" + "a" * 4100), 400, None),
    "a long field": (request("GET", "/known", field(8000)), 200, None),
    "a longer field": (request("GET", "/known", field(9000)), 431, None),
    "many fields": (request("GET", "/known", *["X: y"] * 90), 200, None),
    "more fields": (request("GET", "/known", *["X: y"] * 110), 431, None),
    "a method too long": (request("A" * 30, "/known"), 400, None),
    "a longest id": (
        request("POST", "/long?id=" + "%C3%A4" * 512 + "&event=" + "e" * 256, body=b"x"), 201, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_heads_have_limits(door: Door, case: str) -> None:
    data, direct, nginx = LIMITS[case]
    assert statuses(door.send(data)) == [door.status(direct, nginx)]


# What the hub parses, and what it has no use for.
VALUES = {
    "Accept": (b"a," * 600, 431), "If-None-Match": (b'"a",' * 600, 431),
    "Range": (b"bytes=" + b"0-1," * 600, 431), "Last-Event-ID": (b"i" * 5000, 431),
    "Cookie": (b"a=b;" * 2000, 200), "X-Forwarded-For": (b"a," * 4000, 200),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("times", [1, 4])
def test_a_field_that_is_parsed_has_a_limit_as_a_whole(
    strange_hub: Hub, name: str, times: int
) -> None:
    value, status = VALUES[name]
    pieces = [value[n::times] for n in range(times)] if times > 1 else [value]
    lines = b"".join(b"%b: %b\r\n" % (name.encode(), piece) for piece in pieces)
    door = Door(strange_hub, strange_hub.port, False)
    answer = door.send(
        b"GET /known HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n" + lines + b"\r\n"
    )
    assert statuses(answer) == [status]


def test_a_head_as_a_whole_has_a_limit(strange_hub: Hub) -> None:
    door = Door(strange_hub, strange_hub.port, False)
    for count, status in ((7, 200), (9, 431)):
        fields = [f"X-{n}: {'a' * 4000}" for n in range(count)]
        assert statuses(door.send(request("GET", "/known", *fields))) == [status]


NO_USE = {
    "schemes that contradict": ["X-Forwarded-Proto: http", "X-Forwarded-Ssl: on"],
    "a path of its own": ["SCRIPT_NAME: /other", "X-Script-Name: /other"],
    "another expectation": ["Expect: 202-accepted"],
    "a name with an underscore": ["X_Forwarded_Proto: https", "Content_Length: 9"],
    "an upgrade": ["Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade"],
}


@pytest.mark.parametrize("case", NO_USE)
def test_a_field_that_the_hub_has_no_use_for_refuses_nothing(strange_hub: Hub, case: str) -> None:
    door = Door(strange_hub, strange_hub.port, False)
    assert statuses(door.send(request("GET", "/known", *NO_USE[case]))) == [200]


ADDRESSES = {
    "http://hub/known": 200, "HTTP://HUB:80": 200, "http://other/known": 421, "http://other": 421,
    "http://other?x": 421, "https://other#x": 421, "http://user@hub/known": 400,
    "ftp://hub/known": 400, "*": 400, "hub:80": 400, "http:///known": 400,
}  # fmt: skip


@pytest.mark.parametrize("target", ADDRESSES)
def test_the_host_of_a_whole_address_counts_and_not_that_of_the_field(
    strange_hub: Hub, target: str
) -> None:
    door = Door(strange_hub, strange_hub.port, False)
    answer = door.send(request("GET", target, "Host: hub"))
    assert statuses(answer) == [ADDRESSES[target]]
    assert is_by_the_hub(answer) or target == "HTTP://HUB:80"
    if ADDRESSES[target] != 400:
        answer = door.send(request("GET", target, "Host: evil.example"))
        assert statuses(answer) == [ADDRESSES[target]]


def test_a_request_without_a_host_is_none_but_of_http_1_0(strange_hub: Hub) -> None:
    door = Door(strange_hub, strange_hub.port, False)
    for target in (b"/known", b"http://hub/known"):
        answer = door.send(b"GET " + target + b" HTTP/1.1\r\n\r\n")
        assert statuses(answer) == [400]
        assert is_by_the_hub(answer)
        assert answer.endswith(b"\r\n\r\nHTTP/1.1 needs a Host field\n")
    assert statuses(door.send(b"GET http://hub/known HTTP/1.0\r\n\r\n")) == [200]


def test_a_head_that_does_not_end_is_cut_off(strange_hub: Hub) -> None:
    door = Door(strange_hub, strange_hub.port, False)
    end = b"X: y\r\n" * 200
    assert statuses(door.send(b"GET /known HTTP/1.1\r\nHost: hub\r\n" + end + b"\r\n")) == [431]
    with strange_hub.connect() as connection:
        connection.sendall(b"GET /known HTTP/1.1\r\nHost: hub\r\n")
        with suppress(OSError):  # closed while there is more to send
            for _ in range(200):  # and no end
                connection.sendall(b"X: " + b"y" * 8000 + b"\r\n")
        with suppress(ConnectionResetError):
            assert statuses(connection.recv(65536)) == [431]
    # `no_traceback` sees that the hub is there.


def retry_after(answer: bytes) -> int:
    """Return the seconds of an answer's Retry-After."""
    for line in head(answer):
        if line.startswith(b"Retry-After: "):
            return int(line.split()[1])
    raise AssertionError(answer)


def test_one_subscriber_too_many_is_told_to_come_back_and_then_may(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_SUBSCRIBERS="3") as hub:
        door = Door(hub, hub.port, False)
        streams = [Stream(hub, f"/full{n % 2}") for n in range(3)]
        answer = door.send(request("GET", "/full2?follow=1&timeout=1"))
        assert statuses(answer) == [503]
        assert retry_after(answer) > 0
        # To an event stream that would be the end: an `EventSource` gives up for good.
        refusal = hub.get("/full0", Accept="text/event-stream")
        assert refusal.status == 200
        assert refusal.headers["Content-Type"].startswith("text/event-stream")
        assert re.fullmatch(r": too many subscribers.*\nretry: [23]\d{4}\n", refusal.text)
        # Neither who downloads nor who publishes is a subscriber.
        assert hub.get("/full0").status == 200
        assert hub.request("HEAD", "/full0", Accept="text/event-stream").status in (200, 503)
        assert hub.post("/full0", "x").status == 201
        for stream in streams[::2]:
            assert stream.read(1)[0].data == b"x"
        for stream in list(streams):
            stream.close()
            eventually(lambda: hub.get("/full0?follow=1&limit=1&after=0").status == 200)
            streams.append(Stream(hub, "/full0"))  # in the place of the one who has gone
            assert hub.get("/full0?timeout=1&follow=1").status == 503
        for stream in streams:
            stream.close()


def test_one_channel_too_many_gets_503_and_those_there_are_go_on(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_CHANNELS="3") as hub:
        for n in range(3):
            hub.publish(f"/room{n}", "x")
        door = Door(hub, hub.port, False)
        for target in ("/room3", "/room3?each=line", "/room4"):
            answer = door.send(request("POST", target, body=b"x"))
            assert statuses(answer) == [503]
            seconds = retry_after(answer)
            assert 0 < seconds <= 60
        assert sorted(path.name for path in hub.folder.glob("*.tsv")) == [
            "room0.tsv", "room1.tsv", "room2.tsv",
        ]  # fmt: skip
        hub.publish("/room0", "y")
        assert hub.get("/room3").status == 200  # reads as empty, and makes no file
        hub.file("room1").unlink()
        eventually(lambda: hub.post("/room3", "x").status == 201, seconds + 5)
        hub.restart()
        assert hub.post("/room4", "x").status == 503


def test_a_refused_event_does_not_take_a_channels_place(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_CHANNELS="1") as hub:
        assert hub.post("/refused", b"\xff").status == 400
        assert hub.post("/refused", b"x").status == 201


# -- what costs nothing ------------------------------------------------------------------------


KEEP_OPEN = 1024  # which is half of the descriptors here


def test_idle_channels_are_closed_and_cost_nothing(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        hub.limit_descriptors(2 * KEEP_OPEN)
        for n in range(3 * KEEP_OPEN):
            hub.file(f"idle{n:04}").write_bytes(b"1\t\tx\n")
        before = hub.descriptors()
        for n in range(KEEP_OPEN + 100):
            assert hub.get(f"/idle{n:04}?format=raw").body == b"x\n"
        held = memory(hub)
        for n in range(KEEP_OPEN + 100, 3 * KEEP_OPEN):
            assert hub.get(f"/idle{n:04}?format=raw").body == b"x\n"
        assert hub.descriptors() <= before + KEEP_OPEN + 8
        assert memory(hub) < held + (8 << 20)
        for n in range(50):  # and of those that were published to
            hub.publish(f"/idle{n:04}", "y")
        assert hub.get("/idle0000?format=raw").body == b"x\ny\n"


def test_a_subscriber_who_talks_costs_no_more_than_one_who_listens(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub, Stream(hub, "/talk") as stream:
        stream.connection.sendall(b"GET /talk HTTP/1.1\r\n" * 100)
        used = cpu_seconds(hub)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            hub.publish("/talk", "x")  # it still hears
            stream.read(len(stream.events) + 1)
            time.sleep(0.1)
        assert cpu_seconds(hub) - used < 0.5


STREAM_LINES = {
    "lines of data without data": b"data\n" * 1600,
    "lines of data, one byte each": b"data:x\n" * 1200,
}


@pytest.mark.parametrize(
    "case",
    list(STREAM_LINES),
)
def test_an_event_that_does_not_end_is_refused_at_the_limit(strange_hub: Hub, case: str) -> None:
    lines = STREAM_LINES[case]
    chunk = b"%x\r\n%b\r\n" % (len(lines), lines)
    fields = b"Content-Type: text/event-stream\r\n"
    with strange_hub.connect() as connection:
        connection.sendall(b"POST /endless HTTP/1.1\r\nHost: hub\r\n" + fields + TE + b"\r\n")
        connection.sendall(chunk * 100)  # five times the limit, and no blank line
        connection.settimeout(5)
        assert statuses(connection.recv(65536)) == [413]


# A chunk of the body, and how many of them make an event within the limit.
SHORT_PIECES = {"of a line": (b"x", 60_000), "of a line each": (b"\ndata:x", 40_000)}


@pytest.mark.parametrize("case", list(SHORT_PIECES))
def test_a_long_event_in_short_pieces_does_not_stop_the_others(tmp_path: Path, case: str) -> None:
    piece, count = SHORT_PIECES[case]
    with running_hub(tmp_path) as hub, hub.connect() as connection:
        fields = b"Content-Type: text/event-stream\r\n"
        used = cpu_seconds(hub)
        connection.sendall(b"POST /slow HTTP/1.1\r\nHost: hub\r\n" + fields + TE + b"\r\n")
        connection.sendall(b"5\r\ndata:\r\n" + b"%x\r\n%b\r\n" % (len(piece), piece) * count)
        connection.sendall(b"2\r\n\n\n\r\n" + NOTHING)
        connection.settimeout(60)
        assert statuses(connection.recv(65536)) == [201]
        assert cpu_seconds(hub) - used < 4

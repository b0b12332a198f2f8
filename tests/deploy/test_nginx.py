"""The sites of `deploy/nginx`: exactly these files in a real nginx, in front of a hub.

Only the lines that are marked `# yours` differ: addresses, the certificate, logs, the
archive's folder. Three sites know the same people in three ways, and promise the same.
"""

import os
import re
import signal
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, eventually, needs
from tests.harness.client import running as following
from tests.harness.load import load_on
from tests.harness.site import HOST, SITES, STRANGER, TOKEN, Site, running_site

PROTOCOLS = ["http1.1", "http2"]
STREAM = ("-N", "-H", "Accept: text/event-stream")


@pytest.fixture(scope="module", params=SITES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site in front of a hub."""
    with running_site(tmp_path_factory.mktemp("site"), request.param) as site:
        yield site


of_a_service = pytest.mark.parametrize("site", ["auth_request"], indirect=True)


def test_nginx_has_nothing_to_say_about_it(site: Site) -> None:
    [nginx] = needs("nginx")
    told = subprocess.run(
        [nginx, "-t", "-p", site.home, "-c", site.home / "nginx.conf", "-e", "/dev/null"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.rpartition(" ")[2] for line in told.stderr.splitlines()] == ["ok", "successful"]


# -- rights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stranger_may_nothing_a_reader_read_and_a_writer_write(site: Site, protocol: str) -> None:
    name = f"rights{PROTOCOLS.index(protocol)}"
    for user, reads, writes in (("", 401, 401), ("eve:e", 401, 401), ("rita:r", 200, 403)):
        assert site.status(f"/{name}", f"--{protocol}", user=user) == reads
        assert site.status(f"/{name}", f"--{protocol}", "--head", user=user) == reads
        assert site.status(f"/{name}", f"--{protocol}", "-d", "x", user=user) == writes
        for method in ("PUT", "DELETE", "PATCH"):
            assert site.status(f"/{name}", f"--{protocol}", "-X", method, user=user) == writes
    assert not site.hub.file(name).exists()
    assert site.status(f"/{name}", f"--{protocol}", "-d", "x", user="wanda:w") == 201
    assert site.curl(f"/{name}?format=raw", f"--{protocol}", user="rita:r").stdout == b"x\n"
    assert site.curl(f"/{name}?format=raw", f"--{protocol}", user="wanda:w").stdout == b"x\n"


def test_who_is_not_known_is_told_how_to_be(site: Site) -> None:
    done = site.curl("/orders", "-i")
    assert re.search(rb'(?i)^www-authenticate: Basic realm="hub"\r$', done.stdout, re.MULTILINE)


@of_a_service
@pytest.mark.parametrize(
    "path",
    ["/secrets", "/secrets?tail=1", "/%73ecrets", "//secrets", "/./secrets", "/x/../secrets",
     "/archive/secrets.tsv", "/archive/x/..%2fsecrets.tsv"],
)  # fmt: skip
def test_the_service_is_told_the_path_that_is_meant(site: Site, path: str) -> None:
    for options in ([], ["-d", "x"]):
        assert site.status(path, *options, user="wanda:w") == 403
    assert site.status("/secrets-of-others", user="wanda:w") == 200


@of_a_service
def test_nobody_passes_while_the_service_is_down(site: Site) -> None:
    for user in ("", "rita:r", "wanda:w"):
        assert site.status("/service-is-down", user=user) == 503
        assert site.status("/service-is-down", "-d", "x", user=user) == 503
    assert not site.hub.file("service-is-down").exists()
    site.hub.publish("/service-is-down", "secret")
    answer = site.curl("/service-is-down?after=", *STREAM, "-i", user="wanda:w").stdout
    assert re.search(rb"^HTTP/2 200 ", answer)
    assert re.search(rb"\r\n\r\nretry: \d{4}\n$", answer)


def test_a_wrong_password_is_no_right_to_write_or_to_read(site: Site) -> None:
    if site.name == "tokens":
        pytest.skip("a token has no password")
    for user in ("rita:w", "wanda:r", "wanda:"):
        assert site.status("/orders", user=user) == 401
        assert site.status("/orders", "-d", "x", user=user) == 401


def test_a_browsers_preflight_needs_no_right_and_grants_none(site: Site) -> None:
    ask = ["-X", "OPTIONS", "-H", "Origin: https://evil.example"]
    assert site.status("/orders", *ask) == 204
    assert site.status("/orders", *ask, "-H", "Access-Control-Request-Method: POST") == 403


def test_plain_http_is_sent_to_tls_with_its_method(site: Site) -> None:
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-d", "x",
         "-H", f"Host: {HOST}", f"http://127.0.0.1:{site.plain_port}/orders?id=1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"308 https://{HOST}/orders?id=1"


# -- tokens ------------------------------------------------------------------------------------

of_tokens = pytest.mark.parametrize("site", ["tokens"], indirect=True)
WAYS = {
    "bearer": ["-H", f"Authorization: Bearer {TOKEN}"],
    "lower case": ["-H", f"authorization: bearer {TOKEN}"],
    "a name without a password": ["-u", f"{TOKEN}:"],
    "cookie": ["-b", f"a=b; access_token={TOKEN}"],
    "query": ["--url-query", f"access_token={TOKEN}"],
}


@of_tokens
@pytest.mark.parametrize("way", WAYS)
def test_a_token_may_come_in_several_ways_and_is_in_no_log(site: Site, way: str) -> None:
    site.hub.publish("/tokens", "x")
    here = WAYS[way]
    wrong = [word.replace(TOKEN, TOKEN[:-1]) for word in here]
    assert site.curl("/tokens?format=raw", *here).stdout.endswith(b"x\n")
    assert site.status("/tokens", *wrong) == 401
    referred = ["-e", f"https://{HOST}/?access_token={TOKEN}"]
    assert site.status("/tokens?access%5ftoken=" + TOKEN, *here, *referred) == 200
    if way != "query":
        assert site.status("/tokens", "-d", "x", *here) == 403
    site.hub.stop()
    assert site.status("/tokens", *here) == 503
    site.hub.start()
    assert site.status("/tokens?tail=17", *here) == 200
    eventually(lambda: '"GET /tokens?tail=17' in site.accesses or way == "query")
    assert site.accesses.count('"GET /tokens') > 3
    for log in (site.accesses, site.nginx.log, site.hub.log):
        assert TOKEN[:-1] not in log


@of_tokens
def test_a_client_that_sends_another_scheme_is_not_known(site: Site) -> None:
    for value in ("", "Bearer", "Bearer ", f"Token {TOKEN}", f"Bearer {TOKEN} {TOKEN}"):
        assert site.status("/tokens", "-H", f"Authorization: {value}") == 401, value
    both = ["-H", f"Authorization: Bearer {TOKEN[:-1]}", "-b", f"access_token={TOKEN}"]
    assert site.status("/tokens", *both) == 401


# -- the hub's own -----------------------------------------------------------------------------

MONITORING = ["/-/health", "/-/ready", "/-/metrics"]
DISGUISES = [
    "//-/metrics", "/./-/metrics", "/x/../-/metrics", "/%2d/metrics", "/-%2fmetrics",
    "/-/./metrics",
    "/%2e/-/metrics", "/-//metrics",
]  # fmt: skip


def at_stranger(site: Site) -> list[str]:
    """Return the options of a curl that comes from elsewhere."""
    return ["--resolve", f"{HOST}:{site.port}:{STRANGER}", "--interface", STRANGER]


@pytest.mark.parametrize("path", MONITORING + DISGUISES)
def test_monitoring_is_for_this_machine_alone(site: Site, path: str) -> None:
    far = [*at_stranger(site)]
    assert site.status(path, *far, user="wanda:w") == 403
    assert site.status(path, *far) == 403
    if path in MONITORING:
        here = site.hub.get(path).status
        assert site.status(path) == here  # with no right at all


@pytest.mark.parametrize("path", ["/-/", "/-/auth", "/-/other", "/-/metrics/x"])
def test_the_rest_of_the_hubs_own_is_for_nobody(site: Site, path: str) -> None:
    for user in ("", "rita:r", "wanda:w"):
        done = site.curl(path, "-o", "/dev/null", "-w", "%{http_code} %{content_type}", user=user)
        assert done.stdout == b"404 text/html"


@of_a_service
@pytest.mark.parametrize("path", ["/-/read", "//-/read", "/%2d/read", "/-/%72ead", "/x/../-/read"])
def test_several_channels_at_once_are_for_nobody(site: Site, path: str) -> None:
    for user in ("", "rita:r", "wanda:w"):
        answer = site.curl(f"{path}?channel=orders&channel=secrets", user=user)
        assert answer.stdout == b"rights are for each channel here; read them one by one\n"


@pytest.mark.parametrize("site", ["basic", "tokens"], indirect=True)
def test_several_channels_at_once_are_for_those_who_may_read_all_of_them(site: Site) -> None:
    for name in ("together-a", "together-b"):
        site.hub.publish(f"/{name}", name)
    path = "/-/read?channel=together-a&channel=together-b&after="
    assert site.status(path) == 401
    assert site.curl(path, user="rita:r").stdout.count(b'"data":"together-') == 2


@pytest.mark.parametrize("path", ["/", "/-/channels", "/-/page/page.js"])
def test_the_page_is_for_those_who_may_read(site: Site, path: str) -> None:
    assert site.status(path) == 401
    assert site.status(path, user="rita:r") == site.hub.get(path).status
    assert site.status(path, "-d", "x", user="rita:r") == 403


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("format", ["sse", "ndjson", "raw"])
def test_an_event_arrives_at_once(site: Site, protocol: str, format: str, tmp_path: Path) -> None:
    name = f"live-{format}{PROTOCOLS.index(protocol)}"
    head = tmp_path / "head"
    options = ("-N", "-D", str(head), f"--{protocol}")
    # From an event that is there on: over HTTP/2, nginx keeps a head without a body to itself.
    site.hub.publish(f"/{name}", "event 0")
    command = site.command(f"/{name}?format={format}&follow=1&after=0", *options, user="rita:r")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        try:
            assert curl.stdout
            for n in range(4):  # each is read before the next one is sent
                if n > 0:
                    site.hub.publish(f"/{name}", f"event {n}")
                while f"event {n}".encode() not in curl.stdout.readline():
                    assert curl.poll() is None
            assert head.read_text().split()[:2] == [
                protocol.upper().replace("HTTP", "HTTP/"),
                "200",
            ]
        finally:
            curl.kill()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_chunked_upload_streams_through(site: Site, protocol: str) -> None:
    name = f"shipped{PROTOCOLS.index(protocol)}"
    command = site.command(
        f"/{name}?each=line", "-T", "-", "-X", "POST", "-N", f"--{protocol}", user="wanda:w"
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin
        assert curl.stdout
        for n in range(3):
            curl.stdin.write(b"line %d\n" % n)
            curl.stdin.flush()
            eventually(lambda n=n: len(site.hub.rows(name)) == n + 1)  # type: ignore[misc]
        curl.stdin.close()
        assert b'"count":3' in curl.stdout.read()


def test_a_reload_of_nginx_and_a_restart_of_the_hub_lose_nothing(site: Site) -> None:
    """A follower through TLS resumes by its last id; what was published meanwhile is there."""
    credentials = f"Basic {b64encode(b'rita:r').decode()}"
    with load_on(site.hub, "resumed", at=site, Authorization=credentials) as load:
        for disturb in (site.nginx.reload, site.hub.restart, site.nginx.reload):
            old = site.nginx.workers()
            connections = load.follower.connections
            disturb()
            eventually(lambda c=connections: load.follower.connections > c)  # type: ignore[misc]
            load.goes_on()
            if disturb == site.nginx.reload:
                eventually(lambda old=old: not old & site.nginx.workers())  # type: ignore[misc]
    load.check(site.hub.rows("resumed"))


def test_a_large_upload_is_kept_nowhere_on_its_way(site: Site, tmp_path: Path) -> None:
    """What is larger than all buffers of nginx is on the hub's disk before its end is sent."""
    half = 100_000 * (b"x" * 99 + b"\n")
    # With HTTP/2 and a full window, curl waits for its input while it still has something to send.
    command = site.command(
        "/shipped-large?each=line", "--http1.1", "-T", "-", "-X", "POST", user="wanda:w"
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin
        assert curl.stdout
        for n in (1, 2):
            curl.stdin.write(half)
            curl.stdin.flush()
            eventually(lambda n=n: site.hub.content("shipped-large").count(b"\n") == n * 100_000)  # type: ignore[misc]
            assert not [path for path in (site.home / "body").rglob("*") if path.is_file()]
        curl.stdin.close()
        assert b'"count":200000' in curl.stdout.read()
    whole = tmp_path / "whole"
    whole.write_bytes(half)
    declared = ["--data-binary", f"@{whole}", "-H", "Expect:"]
    assert site.status("/large-body?each=line", *declared, user="wanda:w") == 201
    assert site.hub.content("large-body").count(b"\n") == 100_000


# -- while the hub is away ---------------------------------------------------------------------


def test_a_stream_is_told_when_to_come_back_and_all_else_that_it_has_to(site: Site) -> None:
    site.hub.publish("/away", "x")
    told = set()
    site.hub.stop()
    try:
        for query in ("", "?after=", "?follow=1", "?format=sse-json") * 4:
            answer = site.curl(f"/away{query}", *STREAM, "-i", user="rita:r").stdout.decode()
            head, _, body = answer.partition("\r\n\r\n")
            assert re.match("HTTP/2 200 ", head)
            assert "\r\ncontent-type: text/event-stream\r\n" in head
            assert "\r\ncache-control: no-store, no-transform" in head
            told.add(int(re.fullmatch(r"retry: (\d{4})\n", body)[1]))  # type: ignore[index]
        assert len(told) > 8  # of 16
        assert all(1000 <= ms < 5000 for ms in told)
        for options in (
            ("/away",), ("/away", "-d", "x"), ("/away", *STREAM, "-d", "x"), ("/away", "--head"),
            ("/away?follow=0", *STREAM), ("/away?format=ndjson", *STREAM), ("/-/channels",),
        ):  # fmt: skip
            answer = site.curl(*options, "-i", user="wanda:w").stdout.decode()
            assert re.match("HTTP/2 503 ", answer), options
            assert "\r\nretry-after: 2\r\n" in answer
            assert answer.count("x-content-type-options: nosniff") == 1
        for user in ("", "eve:e"):
            assert site.status("/away", *STREAM, user=user) == 401
    finally:
        site.hub.start()
    assert site.hub.data("away") == [b"x"]


def test_curl_and_follow_go_on_by_themselves(site: Site) -> None:
    """A publisher, a follower that was there before, and one that comes meanwhile."""
    url = f"https://rita:r@127.0.0.1:{site.port}/goes-on"
    words = ("follow", url, "--cacert", site.certificate, "--limit")
    site.hub.publish("/goes-on?id=1", "one")
    with following(*words, 2) as before:
        eventually(lambda: "esource_subscribers 1.0" in site.hub.get("/-/metrics").text)
        site.hub.stop()
        again = ("--retry", "20", "-d", "two")
        publish = site.command("/goes-on?id=2&unique=1", *again, user="wanda:w")
        with following(*words, 2) as meanwhile, subprocess.Popen(publish) as curl:
            eventually(lambda: '"POST /goes-on?id=2&unique=1 HTTP/2.0" 503 ' in site.accesses)
            eventually(lambda: site.accesses.count('"GET /goes-on?heartbeat') >= 3)
            site.hub.start()
            for follower in (before, meanwhile):
                out, err = follower.communicate(timeout=2 * PATIENCE_SECONDS)
                assert (follower.returncode, out.count('"data"')) == (0, 2), err
            assert curl.wait(PATIENCE_SECONDS) == 0
    assert site.hub.rows("goes-on") == [b"1\t\tone", b"2\t\ttwo"]


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that waits for two seconds instead of an hour, before a hub with heartbeats."""
    home = tmp_path_factory.mktemp("hasty")
    changes = {"proxy_read_timeout 1h;": "proxy_read_timeout 2s;"}
    with running_site(home, "basic", changes, ESOURCE_HEARTBEAT_SECONDS="1") as site:
        yield site


def test_a_silent_stream_lives_on_by_its_heartbeats(hasty: Site) -> None:
    options = ("-N", "-H", "Accept: text/event-stream")
    command = hasty.command("/silent", *options, user="rita:r")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        try:
            assert curl.stdout
            assert [curl.stdout.readline() for _ in range(5)] == [
                b":\n"
            ] * 5  # at the start, and 4 s
            id = hasty.hub.publish("/silent", "at last")
            assert curl.stdout.readline() in (f"id: {id}\n".encode(), b":\n")
            assert b"data: at last\n" in [curl.stdout.readline() for _ in range(2)]
        finally:
            curl.kill()


def test_a_hub_that_does_not_answer_is_one_that_is_away(hasty: Site) -> None:
    worker = hasty.hub.worker
    os.kill(worker, signal.SIGSTOP)
    try:
        assert re.fullmatch(rb"retry: \d{4}\n", hasty.curl("/slow", *STREAM, user="rita:r").stdout)
        assert hasty.status("/slow", user="rita:r") == 503
    finally:
        os.kill(worker, signal.SIGCONT)


# -- downloads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_large_download_is_the_file_and_can_be_continued(
    site: Site, protocol: str, tmp_path: Path
) -> None:
    name = f"large{PROTOCOLS.index(protocol)}"
    rows = b"".join(b"%d\t\t%s\n" % (n, os.urandom(500).hex().encode()) for n in range(30000))
    site.hub.file(name).write_bytes(rows)
    copy = tmp_path / "copy.tsv"
    copy.write_bytes(rows[:12345])
    done = site.curl(f"/{name}", f"--{protocol}", "-C", "-", "-o", str(copy), user="rita:r")
    assert done.returncode == 0, done
    assert copy.read_bytes() == rows
    assert site.curl(f"/{name}", f"--{protocol}", user="rita:r").stdout == rows


def test_an_archived_channel_is_served_from_the_folder(site: Site) -> None:
    folder = site.archive / "2017"
    folder.mkdir()
    (folder / "orders.tsv").write_bytes(b"1\t\tone\n2\t\ttwo\n")
    (folder / "link.tsv").symlink_to(site.hub.log_path)
    assert site.status("/archive/2017/orders.tsv") == 401
    answer = site.answer_of("GET", "/archive/2017/orders.tsv", "rita:r")
    assert answer.body == b"1\t\tone\n2\t\ttwo\n"
    assert answer.headers["Content-Type"] == "text/tab-separated-values; charset=utf-8"
    assert site.curl("/archive/2017/orders.tsv", "-r", "7-", user="rita:r").stdout == b"2\t\ttwo\n"
    assert site.status("/archive/2017/orders.tsv", "-d", "x", user="wanda:w") == 403
    for path in ("2017/", "2017/link.tsv", "..%2fhub.key", "../hub.key"):
        assert site.status(f"/archive/{path}", user="rita:r") in (400, 403, 404), path


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "burst"), [("POST", 200), ("GET", 100)])
def test_too_many_requests_of_one_address_are_refused(site: Site, method: str, burst: int) -> None:
    urls = f"/flood?[1-{3 * burst}]"
    options = ["-w", "%{http_code}\n", "-Z", "-X", method, "--no-progress-meter"]
    done = site.curl(urls, *at_stranger(site), *options)
    codes = re.findall(rb"^(?:.*>)?(\d{3})$", done.stdout, re.MULTILINE)
    assert len(codes) == 3 * burst
    assert set(codes) == {b"401", b"429"}
    assert codes.count(b"401") >= burst


def test_an_event_source_of_too_many_comes_back(site: Site) -> None:
    command = site.command("/flood?[1-300]", *at_stranger(site), *STREAM, "-Z", user="eve:e")
    done = subprocess.run([*command, "--no-progress-meter"], capture_output=True, check=False)
    assert re.search(rb"^retry: \d{4}$", done.stdout, re.MULTILINE)
    assert b"many requests" not in done.stdout


def test_too_many_connections_of_one_address_are_refused(site: Site) -> None:
    credentials = b64encode(b"wanda:w").decode()
    head = (
        f"POST /many-connections?each=line HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Authorization: Basic {credentials}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with ExitStack() as stack:
        uploads = [stack.enter_context(site.connect(source="127.0.0.3")) for _ in range(201)]
        for upload in uploads:
            upload.sendall(head.encode())
        answers: list[bytes] = []

        def answered() -> bool:
            for upload in uploads:
                upload.setblocking(False)
                with suppress(ssl.SSLWantReadError):
                    answers.append(upload.recv(12))
            return bool(answers)

        eventually(answered)
        assert answers == [b"HTTP/1.1 429"]

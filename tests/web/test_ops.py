"""What lives under `/-/`, asked of a real hub."""

import errno
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esource.config import Config
from esource.web.app import create_app
from esource.web.ops import FOR_ANY_HOST
from tests.harness import Hub, Stream, eventually, needs, running_hub
from tests.harness.measures import metric


def listed(hub: Hub, query: str = "") -> dict[str, Any]:
    answer = hub.get(f"/-/channels?format=json{query}")
    assert answer.status == 200, answer
    result: dict[str, Any] = json.loads(answer.body)
    return result


@pytest.fixture
def empty_hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path, ESOURCE_METRICS_CHANNELS="1") as hub:
        yield hub


# -- health --------------------------------------------------------------------------------


def test_a_hub_that_works_is_healthy_and_ready(hub: Hub) -> None:
    for path, state in (("/-/health", "ok"), ("/-/ready", "ready")):
        answer = hub.get(path)
        assert (answer.status, answer.text) == (200, f"{state}\n")
        answer = hub.get(path, Accept="application/json")
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body) == {"status": state, "problems": []}
        assert hub.request("HEAD", path).status == 200


@pytest.mark.files("what is in the folder")
def test_asking_for_health_leaves_nothing_in_the_folder(own_hub: Hub) -> None:
    before = os.listdir(own_hub.folder), own_hub.folder.stat().st_mtime_ns
    for _ in range(3):
        assert own_hub.get("/-/health").status == 200
    assert (os.listdir(own_hub.folder), own_hub.folder.stat().st_mtime_ns) == before


@pytest.mark.files("what is in the folder")
def test_a_hub_whose_folder_is_gone_is_not_healthy(own_hub: Hub) -> None:
    own_hub.folder.rename(own_hub.home / "elsewhere")
    answer = own_hub.get("/-/health")
    assert answer.status == 503
    assert answer.text.startswith(f"cannot write to the folder {own_hub.folder}: No such file")
    assert answer.text.count("\n") == 1
    assert answer.headers["Retry-After"] == "10"
    problems = json.loads(own_hub.get("/-/health?format=json").body)
    assert problems == {"status": "failing", "problems": [answer.text.strip()]}
    (own_hub.home / "elsewhere").rename(own_hub.folder)
    assert own_hub.get("/-/health").status == 200


@pytest.mark.files("in this process, with a folder")
def test_without_nameless_files_the_rights_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    client = create_app(Config(dir=tmp_path)).test_client()
    assert client.get("/-/health").text == "ok\n"
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    answer = client.get("/-/health")
    assert answer.text == f"cannot write to the folder {tmp_path}: Permission denied\n"


@pytest.mark.files("in this process, with a folder")
def test_a_hub_that_is_stopping_is_not_ready(tmp_path: Path) -> None:
    # In this process: a real one has closed its doors a second later.
    app = create_app(Config(dir=tmp_path))
    client = app.test_client()
    assert client.get("/-/ready").status_code == 200
    app.extensions["esource"].drain()
    answer = client.get("/-/ready")
    assert (answer.status_code, answer.text) == (503, "the hub is stopping\n")
    assert client.get("/-/health").status_code == 200  # what it has still to do, it can


@pytest.mark.files("in this process, with a folder")
def test_a_channel_that_refuses_events_makes_the_hub_unhealthy_until_it_takes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = create_app(Config(dir=tmp_path)).test_client()
    assert client.post("/orders", data="x").status_code == 201

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr("esource.log.disk.sync", broken)
        assert client.post("/orders", data="x").status_code == 503
    answer = client.get("/-/health")
    failure = "orders.tsv could not be synced: Input/output error"
    assert (answer.status_code, answer.text) == (503, f"{failure}\n")
    metrics = client.get("/-/metrics").text
    assert "\nesource_refusing_channels 1.0\n" in metrics
    assert "\nesource_failed_commits_total 1.0\n" in metrics
    assert "\nesource_published_events_total 1.0\n" in metrics
    assert client.post("/orders", data="x").status_code == 201
    assert client.get("/-/health").status_code == 200
    assert "\nesource_refusing_channels 0.0\n" in client.get("/-/metrics").text


# -- channels ------------------------------------------------------------------------------


@pytest.mark.files("half a row, by hand")
def test_the_list_is_what_the_files_are(empty_hub: Hub) -> None:
    hub = empty_hub
    assert listed(hub) == {"channels": [], "total": 0, "next": None}
    hub.publish("/orders?id=first", "x")
    newest = hub.publish("/orders", "y")
    hub.put("from-elsewhere", "größe\t\ta\ntorn".encode())
    with Stream(hub, "/orders"), Stream(hub, "/nobody-wrote-here"):
        result = listed(hub)
    assert (result["total"], result["next"]) == (2, None)
    elsewhere, orders = result["channels"]
    assert orders == {
        "name": "orders", "bytes": len(hub.content("orders")), "newest_id": newest,
        "modified": hub.file("orders").stat().st_mtime, "subscribers": 1, "rate": 0.2,
        "segments": 0,
    }  # fmt: skip
    assert (elsewhere["newest_id"], elsewhere["subscribers"], elsewhere["rate"]) == ("größe", 0, 0)
    assert elsewhere["bytes"] == len("größe\t\ta\n".encode())


@pytest.mark.files("what is in the folder")
def test_the_start_counts_what_is_listed(own_hub: Hub) -> None:
    own_hub.publish("/orders", "x")
    for name in ("abc.tsv", "a b c.tsv", "orders.tsv.torn-2026", "notes.txt"):
        (own_hub.folder / name).touch()
    own_hub.file("folder").mkdir()
    own_hub.file("elsewhere").symlink_to("orders.tsv")
    own_hub.restart()
    assert listed(own_hub)["total"] == 1
    assert f"1 channels in {own_hub.folder}" in own_hub.log.splitlines()[-1]


def test_the_list_comes_in_pages_and_can_be_searched(empty_hub: Hub) -> None:
    names = [f"channel{n:02}" for n in range(10)] + ["orders"]
    for name in names:
        empty_hub.put(name, b"1\t\ta\n")

    def page(query: str) -> tuple[list[str], int, str | None]:
        result = listed(empty_hub, query)
        return [row["name"] for row in result["channels"]], result["total"], result["next"]

    assert page("&limit=4") == (names[:4], 11, "channel03")
    assert page("&limit=4&after=channel03") == (names[4:8], 11, "channel07")
    assert page("&limit=4&after=channel07") == (names[8:], 11, None)
    assert page("&match=CHANNEL0&after=channel06") == (names[7:10], 10, None)
    assert page("&match=nothing") == ([], 0, None)


@pytest.mark.files("the time of a file, set by hand")
def test_people_get_a_table(empty_hub: Hub) -> None:
    empty_hub.put("archive_of_2016", b"1\t\ta\n")
    empty_hub.put("elsewhere", b"\x1b[31mred\x07\t\ta\n")
    empty_hub.put("zzzz", b"")
    os.utime(empty_hub.file("archive_of_2016"), (0, 0))
    answer = empty_hub.get("/-/channels?limit=2")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    head, archive, elsewhere, more = answer.text.splitlines()
    assert head.split() == ["NAME", "BYTES", "EVENTS/S", "SUBSCRIBERS", "MODIFIED", "NEWEST", "ID"]
    assert archive.split() == ["archive_of_2016", "5", "0.0", "0", "1970-01-01T00:00:00Z", "1"]
    assert elsewhere.endswith(r"  \x1b[31mred\x07")  # a terminal must not obey it
    assert more == "# 2 of 3; the next page: /-/channels?after=elsewhere"
    assert {line.index(cell) for line, cell in ((head, "NEWEST"), (elsewhere, "\\"))} == {
        archive.rindex("1")
    }


def test_the_client_says_which_format_it_wants(hub: Hub) -> None:
    def content_type(path: str, accept: str) -> str:
        return str(hub.get(path, Accept=accept).headers["Content-Type"])

    for accept in ("application/json", "text/html;q=0.5, application/json", "application/*"):
        assert content_type("/-/channels", accept) == "application/json"
    for accept in ("*/*", "text/html,*/*;q=0.8", "text/plain, application/json", "image/png"):
        assert content_type("/-/channels", accept) == "text/plain; charset=utf-8"
    assert content_type("/-/channels?format=json", "text/plain") == "application/json"
    assert content_type("/-/channels?format=text", "application/json").startswith("text/plain")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "format=xml",
        "nonsense=1",
        "match=a&match=b",
    ],
)
def test_a_query_that_makes_no_sense_is_refused(hub: Hub, query: str) -> None:
    assert hub.get(f"/-/channels?{query}").status == 400


def test_no_path_takes_a_parameter_that_it_has_not(hub: Hub) -> None:
    for path in json.loads(hub.get("/-/?format=json").body).keys() - {"/-/read"}:
        assert hub.get(f"{path}?nothing=1").status == 400
        assert hub.get(f"{path}?access_token=1").status == 200  # which is not the hub's business


@pytest.mark.files("half a row, by hand")
def test_an_event_that_is_not_committed_does_not_count(own_hub: Hub) -> None:
    own_hub.publish("/orders?id=1", "x")
    size = len(own_hub.content("orders"))
    own_hub.put("orders", b"2\t\ttorn")
    [row] = listed(own_hub)["channels"]
    assert (row["bytes"], row["newest_id"]) == (size, "1")


# -- metrics -------------------------------------------------------------------------------


@pytest.mark.files("a file that cannot be opened, and syncs")
def test_what_a_hub_does_is_counted(empty_hub: Hub) -> None:
    hub = empty_hub
    for n in range(3):
        hub.publish(f"/orders?id={n}", "x")
    tsv = {"Content_Type": "text/tab-separated-values"}
    assert hub.post("/orders", b"3\t\tx\n4\tpaid\tx\n", **tsv).status == 201
    assert hub.post("/orders?expect=nothing", b"x").status == 412
    assert hub.post("/orders?id=4&unique=1&event=paid", b"x").status == 200
    assert hub.get("/abc").status == 400
    assert hub.get("/no/such/page").status == 404
    hub.file("broken").mkdir()
    assert hub.post("/broken", b"x").status == 503
    hub.put("orders", b"no event\n")
    with Stream(hub, "/orders", Last_Event_ID="1") as stream:
        stream.read(3)
        hub.publish("/orders?id=5", "x")
        stream.read(4)
        assert metric(hub, "esource_subscribers") == 1
        assert metric(hub, "esource_channel_subscribers", channel="orders") == 1
        with Stream(hub, "/orders?event=paid&after=unknown") as paid:
            paid.read(1)
    size = len(hub.content("orders")) - len("no event\n")
    assert metric(hub, "esource_published_events_total") == 6
    assert metric(hub, "esource_published_bytes_total") == size
    assert metric(hub, "esource_commit_events_count") == 5
    assert metric(hub, "esource_commit_events_bucket", le="1.0") == 4
    assert metric(hub, "esource_commit_duration_seconds_count") == 5
    assert metric(hub, "esource_sync_duration_seconds_count") == 5
    assert metric(hub, "esource_sync_duration_seconds_sum") > 0
    assert metric(hub, "esource_publish_duration_seconds_count") == 7
    assert metric(hub, "esource_delivered_events_total") == 5
    assert metric(hub, "esource_malformed_rows_total") == 1
    assert metric(hub, "esource_resumes_total", verdict="exact") == 1
    assert metric(hub, "esource_resumes_total", verdict="start") == 1
    assert metric(hub, "esource_refused_requests_total", status="400") == 1
    assert metric(hub, "esource_refused_requests_total", status="404") == 1
    assert metric(hub, "esource_refused_requests_total", status="412") == 1
    assert metric(hub, "esource_refused_requests_total", status="503") == 1
    assert metric(hub, "esource_channel_published_events_total", channel="orders") == 6
    eventually(lambda: metric(hub, "esource_subscribers") == 0)
    eventually(lambda: metric(hub, "esource_event_loop_lag_seconds_count") >= 2)


def test_promtool_finds_nothing_wrong_with_a_scrape(hub: Hub) -> None:
    [promtool] = needs("promtool")
    text = hub.get("/-/metrics").body
    run = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_a_scraper_gets_open_metrics_if_it_wants_them(hub: Hub) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = hub.get("/-/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.files("ESOURCE_FSYNC")
def test_syncs_are_counted_when_they_come_later(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_FSYNC="interval") as hub:
        hub.publish("/orders", "x")
        hub.publish("/orders", "x")
        eventually(lambda: metric(hub, "esource_sync_duration_seconds_count") == 1)
        assert metric(hub, "esource_commit_events_count") == 2


# -- all of it -----------------------------------------------------------------------------

PATHS = ("/-/health", "/-/ready", "/-/metrics", "/-/channels")


def test_nothing_of_it_can_be_written_or_is_a_channel(empty_hub: Hub) -> None:
    for path in PATHS:
        answer = empty_hub.post(path, "x")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert answer.text == "POST is not for this path; use GET, HEAD, OPTIONS\n"
        assert empty_hub.get(path).headers["Cache-Control"] == "no-store"
        assert empty_hub.get(f"/{path}").status == 404  # not what a gateway lets nobody see
    assert empty_hub.get("/-/nothing").status == 404
    assert listed(empty_hub)["total"] == 0


def test_hosts_and_origins_are_those_of_the_channels(tmp_path: Path) -> None:
    page = "https://page.example"
    settings = {"ESOURCE_CORS_ORIGINS": page, "ESOURCE_ALLOWED_HOSTS": "127.0.0.1"}
    with running_hub(tmp_path, **settings) as hub:
        for path in PATHS:
            expected = 200 if path in FOR_ANY_HOST else 421
            assert hub.get(path, Host="rebound.example").status == expected
            allowed = hub.get(path, Origin=page)
            assert allowed.headers["Access-Control-Allow-Origin"] == page
            refused = hub.get(path, Origin="https://other.example")
            assert "Access-Control-Allow-Origin" not in refused.headers
            for origin, status in ((page, 204), ("https://other.example", 403)):
                preflight = hub.request(
                    "OPTIONS", path, Origin=origin, Access_Control_Request_Method="GET"
                )
                assert preflight.status == status
            assert hub.request("OPTIONS", path).headers["Allow"] == "GET, HEAD, OPTIONS"


def test_the_list_of_what_is_here_names_all_of_it(hub: Hub) -> None:
    answer = hub.get("/-/")
    assert answer.status == 200
    paths = re.findall(r"^/-/\S*", answer.text, re.MULTILINE)
    assert paths == [
        "/-/", "/-/health", "/-/ready", "/-/metrics", "/-/read", "/-/channels", "/-/openapi.json",
    ]  # fmt: skip
    for path in paths:
        assert hub.get(path).status == (400 if path == "/-/read" else 200)  # which asks for names
    assert list(json.loads(hub.get("/-/?format=json").body)) == paths


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "says"),
    [
        ("PUT", "/orders", {}, 405, "PUT is not for channels; POST publishes, GET reads"),
        ("DELETE", "/-/health", {}, 405, "DELETE is not for this path; use GET, HEAD, OPTIONS"),
        ("GET", "/orders/", {}, 404, "the path of a channel has no slash at its end"),
        ("GET", "/-/helth", {}, 404, "channels are at /NAME, all else is listed at /-/"),
        ("GET", "/orders", {"Upgrade": "websocket"}, 400, "follow a channel with EventSource"),
    ],
)
def test_a_wrong_door_says_which_is_the_right_one(
    hub: Hub, method: str, path: str, headers: dict[str, str], status: int, says: str
) -> None:
    answer = hub.request(method, path, None, **headers)
    assert answer.status == status
    assert says in answer.text


@pytest.mark.files("the time of a file, set by hand")
def test_the_metrics_say_what_is_kept_and_how_old_the_last_event_is(tmp_path: Path) -> None:
    def value(hub: Hub, name: str) -> float:
        text = hub.get("/-/metrics").text
        return float(re.search(rf"^esource_{name} (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]

    with running_hub(tmp_path, ESOURCE_METRICS_CHANNELS="1") as hub:
        assert (value(hub, "files"), value(hub, "kept_bytes")) == (0, 0)
        for name in ("orders", "others"):
            hub.put(name, b"1\t\tx\n")
            os.utime(hub.file(name), (time.time() - 600, time.time() - 600))
        (hub.folder / "no-channel.txt").write_bytes(b"x")
        eventually(lambda: value(hub, "files") == 2)
        assert value(hub, "kept_bytes") == 10
        assert 600 <= value(hub, "last_event_age_seconds") < 660
        hub.publish("/orders?id=2", "x")
        eventually(lambda: value(hub, "kept_bytes") == 15)
        assert value(hub, "last_event_age_seconds") < 60
        assert 600 <= value(hub, 'channel_last_event_age_seconds{channel="others"}') < 660
        assert value(hub, "disk_free_bytes") > 0


def test_a_probe_needs_none_of_the_hubs_names(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_ALLOWED_HOSTS="127.0.0.1") as hub:
        for path in ("/-/health", "/-/ready"):
            assert hub.get(path, Host="10.0.0.7:9000").status == 200
        for path in ("/-/channels", "/-/metrics", "/-/", "/-/health/", "/health", "/orders"):
            assert hub.get(path, Host="10.0.0.7:9000").status == 421

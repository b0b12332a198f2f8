"""`esource check --against URL`: whether a copy is one, and from where on it is not."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from esource.command import against
from tests.harness import PATIENCE_SECONDS, QUIET, Hub, running_hub
from tests.harness.machine import free_port

Harm = Callable[[Path], object]


def check(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "esource", "check", *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


def rotate(hub: Hub, channel: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "esource", "rotate", channel, "--dir", str(hub.folder)], check=True,
        capture_output=True,
    )  # fmt: skip


def findings(folder: Path, hub: Hub) -> list[tuple[str, str]]:
    found = []
    there = against.Hub(hub.url, {})
    for channel in there.channels():
        for each in against.compare(folder, channel, there, lambda *_: None):
            found.append((each.kind, each.file))
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a channel that is one file, one of three, and one whose beginning is gone."""
    with running_hub(tmp_path_factory.mktemp("source"), **QUIET) as hub:
        for channel in ("plain", "parts", "trimmed"):
            for n in range(3):
                if n and channel != "plain":
                    rotate(hub, channel)
                hub.publish(f"/{channel}?id={n}", f"event {n}")
        sorted(hub.folder.glob("trimmed.*.tsv"))[0].unlink()
        yield hub


@pytest.fixture
def copy(source: Hub, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source.folder, tmp_path / "copy", symlinks=True))


def part(folder: Path, channel: str, number: int) -> Path:
    return sorted(folder.glob(f"{channel}.[0-9]*.tsv"))[number]


def test_a_copy_is_one_and_so_is_the_folder_itself(source: Hub, copy: Path) -> None:
    for folder in (copy, source.folder):
        done = check(folder, "--against", source.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "6 files, 0 of them with something wrong\n"


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x\t\tmore\n")


def changed(path: Path) -> None:
    rows = path.read_bytes()
    path.write_bytes(rows[:-2] + b"x" + rows[-1:])


@pytest.mark.parametrize(
    ("harm", "kind", "file"),
    [
        (lambda copy: changed(copy / "plain.tsv"), "differs", "plain.tsv"),
        (lambda copy: changed(part(copy, "parts", 0)), "differs", "parts.{:020}.tsv"),
        (lambda copy: changed(part(copy, "trimmed", 1)), "differs", "trimmed.{:020}.tsv"),
        (lambda copy: (copy / "plain.tsv").unlink(), "missing", "plain.tsv"),
        (lambda copy: part(copy, "parts", 0).unlink(), "missing", "parts.tsv"),
        (lambda copy: part(copy, "parts", 2).write_bytes(b""), "missing", "parts.tsv"),
        (lambda copy: (copy / "plain.tsv").write_bytes(b"0\t\tevent 0\n"), "missing", "plain.tsv"),
        (lambda copy: appended(copy / "plain.tsv"), "more", "plain.tsv"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_named(
    source: Hub, copy: Path, harm: Harm, kind: str, file: str
) -> None:
    offset = {"parts": 0, "trimmed": 2 * len(b"0\t\tevent 0\n")}.get(file.partition(".")[0], 0)
    harm(copy)
    assert findings(copy, source) == [(kind, file.format(offset))]


def test_it_is_named_from_which_byte_on(source: Hub, copy: Path) -> None:
    changed(part(copy, "parts", 1))
    done = check(copy, "--against", source.url)
    assert done.returncode == 1
    name = part(copy, "parts", 1).name
    assert f"{name}: it differs from the hub's from byte 9 on, in its MiB 0\n" in done.stdout
    report = json.loads(check("--json", copy, "--against", source.url).stdout)
    assert [(each["kind"], each["file"]) for each in report["findings"]] == [("differs", name)]


def test_what_is_not_there_is_counted_as_a_channel_and_not_as_a_file(
    source: Hub, copy: Path
) -> None:
    """A channel that is missing has no file, and a link is none; and one file is `1 file`."""
    part(copy, "parts", 0).unlink()
    (copy / "plain.tsv").unlink()
    changed(part(copy, "parts", 0))
    done = check(copy, "--against", source.url)
    last = done.stdout.splitlines()[-1]
    assert last == "4 files, 1 of them with something wrong; and 2 channels as a whole"
    shutil.rmtree(copy)
    copy.mkdir()
    (copy / "plain.tsv").write_bytes(b"0\t\tevent 0\n")
    last = check(copy, "--against", source.url).stdout.splitlines()[-1]
    assert last == "1 file, 1 of them with something wrong; and 2 channels as a whole"


def test_a_copy_that_has_what_the_hub_has_removed_is_whole(source: Hub, copy: Path) -> None:
    start = part(copy, "trimmed", 0).stat().st_size
    (copy / f"trimmed.{0:020}.tsv").write_bytes(b"0\t\tevent 0\n")
    assert start == len(b"0\t\tevent 0\n")
    assert findings(copy, source) == []


def test_a_copy_that_lacks_what_the_hub_has_is_compared_from_there_on(
    source: Hub, copy: Path
) -> None:
    part(copy, "trimmed", 0).unlink()  # of this channel the hub sends no ranges
    assert findings(copy, source) == [("missing", "trimmed.tsv")]
    changed(copy / os.readlink(copy / "trimmed.tsv"))
    file = os.readlink(copy / "trimmed.tsv")
    assert findings(copy, source) == [("missing", "trimmed.tsv"), ("differs", file)]


def test_the_digest_of_the_hub_is_enough(
    source: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Iterator[bytes]:
        raise AssertionError("it read the channel")

    monkeypatch.setattr(against.Hub, "read", never)
    assert findings(copy, source) == []


class Impostor(BaseHTTPRequestHandler):
    """Lists a channel, of which it sends a part; or says nothing that a hub would."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        page = {"channels": [{"name": "plain", "bytes": 33}], "next": None}
        body = json.dumps(page).encode() if "/-/" in self.path else b"0\t\tevent"
        self.send_response(200)
        if self.path.startswith("/torn"):
            self.send_header("ETag", '"71e2d0c4a8f3-21-0"')
            self.send_header("Content-Length", str(33 if b"channels" not in body else len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"hello" if self.path.startswith("/other") else body)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_url_that_is_no_hub_is_one_line(source: Hub, copy: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Impostor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    impostor = f"http://127.0.0.1:{server.server_port}"
    try:
        for url, why in (
            (f"http://127.0.0.1:{free_port()}", "Connection refused"),
            (f"{source.url}/plain", "404 "),
            (f"{impostor}/other", "it lists no channels"),
            (f"{impostor}/less", "it has no such ETag"),
            (f"{impostor}/torn", "ended before byte 33"),
        ):
            done = check(copy, "--against", url)
            assert (done.returncode, done.stdout) == (1, "")
            assert (why in done.stderr, done.stderr.count("\n")) == (True, 1), done.stderr
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_header_goes_with_each_request(source: Hub, copy: Path) -> None:
    done = check(copy, "--against", source.url, "-H", "Host: evil\x01")
    assert done.returncode == 1
    done = check(copy, "--against", source.url, "-H", "X-Token: 17", "-H", "Cookie: a=b")
    assert (done.returncode, done.stderr) == (0, "")

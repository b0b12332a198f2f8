"""The README is true: its walk, its lines for the shell, its tables.

The walk is the `console` blocks, in order. They look like a terminal:

- `$ COMMAND` is run with bash, in one scratch folder, and must print the lines that follow.
- A command with `curl -N` is a follower: it stays in the background once it has printed them.
- A block that begins without a command is what the last follower still running prints next.
- `^C` as the last line ends that follower. Then, nothing may be left that was not shown.
- `.venv/bin/gunicorn` stops the hub with Ctrl-C, and starts it anew.

Printed and shown must be the same, but for what differs each time: an id that is a time stands
for one real id, wherever it is shown, in commands too; what `VARYING` matches stands for
anything that it matches; `localhost:9000` stands for the address of the test's hub; and a
terminal shows neither a CR nor whether the last line has an LF. Blocks of other languages
are not run.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from esource import errors
from esource.config import Config, variable
from esource.web import publish, query
from tests.harness import PATIENCE_SECONDS, ROOT, Hub, Stream, eventually, started

README = (ROOT / "README.md").read_text()
START, TEST = re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)[:2]
SERVE = START.rpartition(" && ")[2]

ID = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
VARYING = [
    r"(?<=: )\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$",  # a date
    r'(?<=^ETag: )"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"$',
    r"(?<=@)[0-9a-f]{12}(?=-\d)",  # of a place
    r"(?<=^retry: )\d{4}$",
    r"(?<=  )\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(?=  )",  # when a channel was written to, and
    r"(?<=  )\d\.\d(?=  )",  # how many events it gets
]


class Step(NamedTuple):
    """A command of the walk, or none, and what is printed then."""

    command: str
    shown: str
    interrupted: bool


def walk() -> Iterator[Step]:
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        first, *rest = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
        for command, shown in [("", first), *zip(rest[::2], rest[1::2], strict=True)]:
            if command or shown:
                yield Step(command, shown.removesuffix("^C\n"), shown.endswith("^C\n"))


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    below = README.partition(f"# {heading}\n")[2]
    rows = re.findall(r"^\| (.*) \|$", below.partition("\n\n#")[0], re.MULTILINE)
    assert rows, heading
    return [row.split(" | ") for row in rows[2:]]


class Checkout(Hub):
    """Plain `gunicorn` in the repository, in a terminal of its own."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn"]

    def launch(self, *options: str, **popen: Any) -> "subprocess.Popen[bytes]":
        return super().launch(*options, cwd=ROOT, start_new_session=True, **popen)

    def interrupt(self) -> None:
        """Press Ctrl-C: all processes of the terminal get the signal."""
        process, self.process = self.process, None
        assert process is not None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0, self.log


class Background:
    """A command that goes on printing."""

    def __init__(self, command: str, folder: Path, environ: dict[str, str], output: Path) -> None:
        self.output = output
        self._taken = 0
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                ["bash", "-c", command], cwd=folder, env=environ, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def rest(self) -> str:
        """Return what was printed and not yet taken."""
        return self.output.read_bytes()[self._taken :].decode()

    def take(self, lines: int) -> str:
        """Return the next lines, once they are there."""
        eventually(lambda: self.rest().count("\n") >= lines or self.process.poll() is not None)
        text = "".join(self.rest().splitlines(keepends=True)[:lines])
        self._taken += len(text.encode())
        return text

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(PATIENCE_SECONDS)


class Walk:
    """Somebody who types what the README says, and looks at what is printed."""

    def __init__(self, hub: Checkout) -> None:
        self.hub = hub
        self.followers: list[Background] = []
        self._followed = 0
        self._real_ids: dict[str, str] = {}
        # As in a terminal, where curl shows no progress next to what it prints.
        (hub.home / ".curlrc").write_text("no-progress-meter\n")
        self._environ = {**os.environ, "CURL_HOME": str(hub.home), "LC_ALL": "C"}

    def take(self, step: Step) -> None:
        command = self._translated(step.command).replace("localhost:9000", self.hub.url[7:])
        if step.command == SERVE:
            self.hub.interrupt()
            self.hub.start()
            printed = ""
        elif not step.command or "curl -N " in step.command:
            if step.command:
                self._followed += 1
                output = self.hub.home / f"follower-{self._followed}"
                self.followers.append(Background(command, self.hub.home, self._environ, output))
            printed = self.followers[-1].take(step.shown.count("\n"))
        else:
            run = subprocess.run(
                ["bash", "-c", command], cwd=self.hub.home, env=self._environ, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            printed = run.stdout.decode()
        self._compare(step, printed)
        if step.interrupted:
            follower = self.followers.pop()
            follower.interrupt()
            assert follower.rest() == ""

    def _compare(self, step: Step, printed: str) -> None:
        for sample, id in zip(ID.findall(step.shown), ID.findall(printed), strict=False):
            self._real_ids.setdefault(sample, id)
        assert blurred(printed) == blurred(self._translated(step.shown)), step.command
        assert len(set(self._real_ids.values())) == len(self._real_ids)

    def _translated(self, text: str) -> str:
        return ID.sub(lambda match: self._real_ids.get(match[0], match[0]), text)


def blurred(text: str) -> str:
    text = text.replace("\r\n", "\n").removesuffix("\n")
    for pattern in VARYING:
        text = re.sub(pattern, "…", text, flags=re.MULTILINE)
    return text


@pytest.fixture(params=["", "*/age=30d,segment=1M"], ids=["a file", "segments"])
def checkout(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    # Heartbeats depend on how long the walk takes.
    hub = Checkout(tmp_path, ESOURCE_HEARTBEAT_SECONDS="3600", ESOURCE_KEEP=request.param)
    with started(hub):
        yield hub


def test_the_walk_prints_what_the_readme_says(checkout: Checkout) -> None:
    walker = Walk(checkout)
    try:
        for step in walk():
            walker.take(step)
        for follower in walker.followers:
            assert follower.process.wait(PATIENCE_SECONDS) == 0
            assert follower.rest() == ""
    finally:
        for follower in walker.followers:
            if follower.process.poll() is None:
                follower.interrupt()


def test_the_walk_shows_everything_that_it_should() -> None:
    commands = "\n".join(step.command for step in walk())
    for part in ("curl -N", "curl -d", "?event=", "Last-Event-ID: ", "curl -fsS -C -", SERVE):
        assert part in commands


def test_every_line_that_asks_the_hub_is_run() -> None:
    others = re.sub(r"^```console\n.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert "localhost:9000" not in others


def test_the_line_that_runs_the_tests_is_the_one_that_ci_runs() -> None:
    assert TEST in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_set_up_is_two_lines_that_need_nothing_else() -> None:
    commands = START.split(" && ")
    assert commands == ["python3 -m venv .venv", ".venv/bin/pip install .", ".venv/bin/gunicorn"]
    assert "\n" not in TEST
    assert TEST.endswith(".venv/bin/python -m pytest")


def test_the_settings_are_those_of_the_table() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table("Settings")}
    assert list(rows) == [variable(setting.name) for setting in fields(Config)]
    for setting in fields(Config):
        default, meaning = rows[variable(setting.name)]
        assert setting.metadata["cast"](default.strip(" `")) == setting.default
        assert meaning == setting.metadata["meaning"]


def test_the_parameters_are_those_of_the_tables() -> None:
    reads = dict(query.READ_KINDS)
    for name in query.RESUME_PARAMETERS:  # which have a section of their own
        del reads[name]
    for heading, kinds in (("Reading", reads), ("Publishing", publish.PARAMETERS)):
        shown = {f"`{name}={kind.example}`": kind.meaning for name, kind in kinds.items()}
        # One with several kinds of values begins with the first of them.
        rows = {cell.partition(", ")[0]: meaning for cell, meaning in table(heading)}
        assert rows == shown


RESUME_POINTS = {"live": "", "exact": "an id", "time": "2017-04-05T11:40Z", "start": "0"}
RESUME_POINTS["trimmed"] = "gone"


def test_each_way_to_resume_is_in_the_table_and_in_the_response(hub: Hub) -> None:
    assert [row[0].strip("`") for row in table("Where a stream begins")] == list(RESUME_POINTS)
    hub.publish("/resume?id=an%20id")
    hub.publish("/resume")
    kept = hub.folder / f"removed.{100:020}.tsv"
    kept.write_bytes(b"an id\t\tkept\n")
    hub.file("removed").symlink_to(kept.name)
    for verdict, id in RESUME_POINTS.items():
        channel = "removed" if verdict == "trimmed" else "resume"
        with Stream(hub, f"/{channel}", Last_Event_ID=id) as stream:
            assert stream.headers["Esource-Resume"] == verdict


CHUNKED = b"POST /orders HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n"
# Each is (method, path, body, headers), or everything that is sent.
BAD_INPUT: dict[str, list[bytes | tuple[str, str, bytes, dict[str, str]]]] = {
    "a channel name of another form": [
        ("GET", "/abc", b"", {}),
        ("POST", "/" + "a" * 65, b"", {}),
        ("POST", "/orders.tsv", b"", {}),
    ],
    "a path that is not one name, such as `/orders/new`": [
        ("POST", "/orders/new", b"", {}), ("POST", "/orders/", b"", {}),
    ],
    "a method other than `GET`, `HEAD`, `OPTIONS` and `POST`": [
        (method, "/orders", b"", {}) for method in ("PUT", "DELETE", "PATCH")
    ],
    "an unknown query parameter, one given twice, or an empty one": [
        ("POST", "/orders?evnt=a", b"", {}),
        ("GET", "/orders?tail=", b"", {}),
        ("POST", "/orders?id=a&id=b", b"", {}),
        ("GET", "/orders?id=a", b"", {}),
    ],
    "a control character in the id or the event type, or a space before or after it": [
        ("POST", "/orders?id=a%0Ab", b"", {}), ("POST", "/orders?event=+a", b"", {}),
    ],
    "an id over 1024 bytes, or an event type over 256": [
        ("POST", "/orders?id=" + 1025 * "a", b"", {}),
        ("POST", "/orders?event=" + 257 * "a", b"", {}),
    ],
    "an id that has the form of a place, such as `@71e2d0c4a8f3-28`": [
        ("POST", "/orders?id=@71e2d0c4a8f3-28", b"", {}),
        ("POST", "/orders", b"@0-0\t\tx\n", {"Content_Type": "text/tab-separated-values"}),
    ],
    "the first id of a channel, if it begins with a byte order mark": [
        ("POST", "/orders?id=%EF%BB%BF1", b"", {}),
    ],
    "a NUL or VT character in the data": [
        ("POST", "/orders", b"a\0", {}), ("POST", "/orders", b"a\x0b", {}),
    ],
    "data that is not valid in its charset": [
        ("POST", "/orders", b"\xff", {}),
        ("POST", "/orders", b"\xff", {"Content_Type": "text/plain; charset=us-ascii"}),
    ],
    "a charset that is not known": [
        ("POST", "/orders", b"", {"Content_Type": "text/plain; charset=klingon"}),
    ],
    "a `Content-Encoding`": [("POST", "/orders", b"", {"Content_Encoding": "gzip"})],
    "a form with parts (`curl -F`)": [
        ("POST", "/orders", b"", {"Content-Type": "multipart/form-data; boundary=b"}),
    ],
    "a body that ends too early, or a malformed chunk": [
        b"POST /orders HTTP/1.1\r\nHost: hub\r\nContent-Length: 9\r\n\r\nhalf",
        CHUNKED + b"9\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\nZZ\r\n\r\n",
    ],
    "a body over `ESOURCE_MAX_EVENT_BYTES`": [
        ("POST", "/orders", b"a" * ((1 << 20) + 1), {}),
    ],
    "a batch of declared length that is, or becomes rows, over `ESOURCE_MAX_BATCH_BYTES`": [
        (b"POST /orders?each=line HTTP/1.1\r\nHost: h\r\nContent-Length: 67108865\r\n\r\n"),
        ("POST", "/orders?each=line", b"\n" * (1 << 22), {}),
    ],
    "a head over 32 KiB, or over 4 KiB (`Accept`: 1 KiB) in a field that the hub reads": [
        ("GET", "/orders", b"", {"Accept": "a," * 600}),
        ("GET", "/orders", b"", {"Last_Event_ID": "i" * 4200}),
        ("GET", "/orders", b"", {f"X-{n}": "x" * 4000 for n in range(9)}),
    ],
    "HTTP/1.1 without `Host`, or a target that is neither a path nor an `http` address": [
        b"GET /orders HTTP/1.1\r\n\r\n",
        b"GET ftp://hub/orders HTTP/1.1\r\nHost: hub\r\n\r\n",
    ],
    "a `Range` beyond the end of the channel": [
        ("GET", "/orders", b"", {"Range": "bytes=9-"}),
    ],
    "a line of a batch that is none of its format, or has another key than the three": [
        ("POST", "/orders", b'{"data":"x","kind":"y"}\n', {"Content_Type": "application/x-ndjson"}),
        ("POST", "/orders", b"no tabs\n", {"Content_Type": "text/tab-separated-values"}),
        ("POST", "/orders", b"{}\n{\n", {"Content_Type": "application/x-ndjson"}),
        ("POST", "/orders?each=line", b"good\nb\0d\n", {}),
    ],
    "`before=` an event that is not there": [("GET", "/orders?before=unknown", b"", {})],
    "a `POST` by a page of another origin than the hub's and those of `ESOURCE_CORS_ORIGINS`": [
        ("POST", "/orders", b"", {"Origin": "https://example.org"}),
        ("POST", "/orders", b"", {"Sec_Fetch_Site": "cross-site"}),
    ],
    "a precondition that does not hold (`expect=`, `If-Match`, `If-None-Match`)": [
        ("POST", "/orders?expect=1", b"", {}),
        ("POST", "/orders", b"", {"If_Match": "*"}),
        ("POST", "/orders", b"", {"If_None_Match": '"0-0"'}),
    ],
    "`unique=1` with an id that is there with other data": [
        (
            "POST", "/orders?unique=1", b"1\t\ta\n1\t\tb\n",
            {"Content_Type": "text/tab-separated-values"},
        ),
    ],
}  # fmt: skip


def test_each_bad_input_of_the_table_is_tried() -> None:
    assert [row[0] for row in table("Bad input")] == list(BAD_INPUT)


def test_what_the_tables_say_is_in_the_description_for_programs(hub: Hub) -> None:
    paths = json.loads(hub.get("/-/openapi.json").body)["paths"]
    channel = paths.pop("/{channel}")
    assert {row[0].strip("`") for row in table("Operations")} == set(paths) - {"/-/"}
    described = set(channel["get"]["responses"]) | set(channel["post"]["responses"])
    # Which no method has.
    assert {row[1].strip("`") for row in table("Bad input")} <= described | {"405"}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_answered_as_in_the_table(hub: Hub, case: str) -> None:
    [status] = [row[1].strip("`") for row in table("Bad input") if row[0] == case]
    for request in BAD_INPUT[case]:
        if isinstance(request, bytes):
            answer = hub.raw(request, half_close=True)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            text = answer.partition(b"\r\n\r\n")[2].decode()
        else:
            method, path, body, headers = request
            answered = hub.request(method, path, body, **headers)
            assert str(answered.status) == status, request
            text = answered.text
        assert re.fullmatch(r"[^\n]+\n", text)
    assert not hub.file("orders").exists()


def test_a_file_that_cannot_be_used_is_answered_as_the_readme_says(hub: Hub) -> None:
    hub.file("broken").mkdir()
    status = hub.post("/broken", "x").status
    assert f"the answer is `{status}`; if the disk is full, `{errors.StorageFull.status}`" in README
    hub.file("broken").rmdir()
    hub.publish("/broken", "x")

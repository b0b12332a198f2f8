import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from esource.config import Config
from esource.server.log_lines import Few, formatter, mask
from tests.harness import PATIENCE_SECONDS, Hub, Wire, eventually, running_hub, started
from tests.harness.channels import age
from tests.harness.waiting import together


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("esource.log.file", level, "", 0, text, None, None)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Return a stream like the one that systemd gives a service."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(ours.fileno(), "w", closefd=False) as stream:
        status = os.fstat(ours.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield stream


@pytest.mark.parametrize(
    ("level", "priority"),
    [(10, "<7>"), (20, "<6>"), (30, "<4>"), (40, "<3>"), (50, "<2>")],
)
def test_the_journal_gets_a_priority_and_no_time(
    journal: TextIO, level: int, priority: str
) -> None:
    line = formatter(journal, os.environ).format(record("a torn row", level))
    assert line == f"{priority}a torn row"


def test_a_file_gets_none_though_the_service_has_a_journal(journal: TextIO, tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as stream:
        line = formatter(stream, os.environ).format(record("a torn row"))
    assert re.fullmatch(r"\[[-0-9: +]+\] \[\d+\] \[WARNING\] a torn row", line)


def failure() -> logging.LogRecord:
    try:
        raise RuntimeError("broken\nesource: all is well")
    except RuntimeError:
        made = record("it failed", logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


def test_a_traceback_is_one_record_of_the_journal_line_by_line(journal: TextIO) -> None:
    first, *others = formatter(journal, os.environ).format(failure()).split("\n")
    assert first == "<3>it failed"
    assert others
    assert all(line.startswith("<3>    ") for line in others)


def test_a_strangers_text_begins_no_line_and_moves_no_cursor(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as stream:
        text = formatter(stream, {}).format(record("GET /\n[CRITICAL] all is lost\r\x1b[2J\u2028"))
    assert text.endswith(r"GET /\n[CRITICAL] all is lost\r\x1b[2J\u2028")


# As a stranger may send them, or name a file: C0, DEL, C1, what turns text round, half a pair.
CONTROL = "".join(map(chr, [*range(32), *range(127, 160), 0x2028, 0x202E, 0x2067, 0xDC80]))


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_control_character_reaches_the_log(tmp_path: Path, form: str) -> None:
    made = record(f"a{CONTROL}b %s")
    made.args = (CONTROL,)
    try:
        raise ValueError(CONTROL)
    except ValueError:
        made.exc_info = sys.exc_info()
    with open(tmp_path / "log", "w") as stream:
        text = formatter(stream, {"ESOURCE_LOG_FORMAT": form}).format(made)
    text.encode()  # as a file takes it
    assert not set(text) & set(CONTROL) - {"\n", "\t"}
    assert all(line.startswith("    ") for line in text.split("\n")[1:])


def test_of_what_can_be_repeated_a_few_lines_are_logged_and_the_rest_is_counted() -> None:
    few = Few()
    now = time.time()

    def logged(count: int, at: float, line: int = 1, level: int = logging.WARNING) -> list[str]:
        lines = []
        for _ in range(count):
            made = record("bad %s", level)
            made.args, made.created, made.lineno = ("request",), at, line
            if few.filter(made):
                lines.append(made.getMessage())
        return lines

    bad = "bad request"
    assert logged(1000, now) == [
        bad, bad, bad, f"{bad} (6 more like this were left out)",
        f"{bad} (89 more like this were left out)", f"{bad} (899 more like this were left out)",
    ]  # fmt: skip
    assert logged(5, now + 59) == []
    assert logged(1, now + 60) == [f"{bad} (5 more like this were left out)"]
    assert logged(1, now, line=2) == [bad]  # of another place in the code
    assert len(logged(50, now, level=logging.INFO)) == 50


def test_bad_requests_are_a_few_lines(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        for n in range(150):
            assert hub.raw(b"GET /\x1b[2J%d HTTP/9\r\n\r\n" % n).startswith(b"HTTP/1.1 400 ")
        lines = [line for line in hub.log.splitlines() if "Invalid request" in line]
    assert 1 < len(lines) < 10
    assert "left out" in lines[-1]
    assert "\x1b" not in hub.log


# Texts with a secret, and what is logged of them.
SECRETS = {
    "GET /orders?access_token=SECRET HTTP/1.1": "GET /orders?access_token=*** HTTP/1.1",
    "/x?tail=1&access_token=SE\"CR'ET&follow=1": "/x?tail=1&access_token=***&follow=1",
    'access_token=SECRET&id=1 "http://p/?a=1&_=SECRET" "curl"': (
        'access_token=***&id=1 "http://p/?a=1&_=***" "curl"'
    ),
    "line: 'GET /?access%5Ftoke%6E=SECRET' bad": "line: 'GET /?access%5Ftoke%6E=***' bad",
    "GET /?access_token=SE#CRET\x85\xa0\x0bSECRET": "GET /?access_token=***",
    "GET /?schl\xc3\xbcssel=SECRET&Key=SECRET": "GET /?schl\xc3\xbcssel=***&Key=***",
    "?access_token=": "?access_token=***",
    "?access_tokens=1&my_access_token=2&x=access_token=3&key=4": (
        "?access_tokens=1&my_access_token=2&x=access_token=3&key=4"
    ),
}


@pytest.fixture
def masked() -> Iterator[None]:
    """Mask as a worker does."""
    names = {"ESOURCE_IGNORE_PARAMETERS": "access_token, _ schlüssel Key"}
    mask(Config.from_env(names).ignore_parameters)
    yield
    logging.setLogRecordFactory(logging.LogRecord)


@pytest.mark.usefixtures("masked")
@pytest.mark.parametrize("text", SECRETS)
def test_the_value_of_an_ignored_parameter_is_in_no_record(
    caplog: pytest.LogCaptureFixture, text: str
) -> None:
    logging.error("%s of %d", text, 1)
    try:
        raise ValueError(text)
    except ValueError:
        logging.exception("it failed")
    for line in (caplog.messages[0], formatter(sys.stderr, {}).format(caplog.records[1])):
        assert SECRETS[text] in line
        assert "SECRET" not in line
    with_json = formatter(sys.stderr, {"ESOURCE_LOG_FORMAT": "json"})
    assert SECRETS[text] in json.loads(with_json.format(caplog.records[1]))["traceback"]


@pytest.mark.usefixtures("masked")
def test_a_record_whose_arguments_do_not_fit_is_made_all_the_same() -> None:
    made = logging.getLogRecordFactory()("a", 10, "", 0, "%d", ("x",), None)
    assert made.args == ("x",)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_token_in_a_query_is_in_no_log_of_a_hub(tmp_path: Path, form: str) -> None:
    (tmp_path / "defect.py").write_text(
        "from esource import server\n"
        "from esource.server import *\n"
        "def post_worker_init(worker):\n"
        "    server.post_worker_init(worker)\n"
        "    hub, channel = server._connections.hub, server._connections.hub.unopened\n"
        "    def broken(name):\n"
        "        if name == 'orders': raise ValueError('?_=SECRET')\n"
        "        return channel(name)\n"
        "    hub.unopened = broken\n"
    )
    log = tmp_path / "access.log"
    form_of_line = '%(r)s|%(q)s|"%(f)s"|%({raw_uri}e)s|%({x-original-uri}i)s'
    options = [f"--access-logfile={log}", f"--access-logformat={form_of_line}"]
    # That parser says which request line is none.
    options += ["--log-level=debug", "--http-parser=python", "-c", "defect.py"]
    with running_hub(tmp_path, *options, ESOURCE_LOG_FORMAT=form) as hub:
        target = b"/orders?follow&access_token=SECRET&_=SECRET"
        fields = b"Host: h\r\nConnection: close\r\n"
        fields += b"Referer: http://p%b\r\nX-Original-URI: %b\r\n\r\n" % (target, target)
        hub.raw(b"GET %b HTTP/1.1\r\n%b" % (target, fields))
        hub.raw(b"GET %b\r\n%b" % (target, fields))
        hub.raw(b"POST %b&evnt=1 HTTP/1.1\r\n%b" % (target, fields))
        eventually(lambda: log.read_text().count("evnt=1") == 3)
        lines = log.read_text()
    assert "SECRET" not in lines + hub.log
    assert lines.count("access_token=***&_=***") == 2 * 5
    assert "ValueError: ?_=***" in hub.log
    assert "'GET /orders?follow&access_token=***&_=***'" in hub.log


def test_json_is_one_line_with_everything(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as stream:
        line = formatter(stream, {"ESOURCE_LOG_FORMAT": "json"}).format(failure())
    assert "\n" not in line
    fields = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert "RuntimeError: broken" in fields.pop("traceback")
    assert fields == {
        "level": "error", "pid": os.getpid(), "logger": "esource.log.file", "message": "it failed",
    }  # fmt: skip


def test_json_for_the_journal_keeps_its_priority(journal: TextIO) -> None:
    line = formatter(journal, {**os.environ, "ESOURCE_LOG_FORMAT": "json"}).format(record("x"))
    assert json.loads(line.removeprefix("<4>"))["message"] == "x"


# -- of a hub ------------------------------------------------------------------------------


def test_the_start_says_what_runs_where_and_how(own_hub: Hub) -> None:
    lines = re.sub(r"^\[.*?\] \[\d+\] ", "", own_hub.log, flags=re.MULTILINE).splitlines()
    assert f"[INFO] 0 channels in {own_hub.folder}, fsync always" in lines
    assert any(line.startswith(f"[INFO] Listening at: {own_hub.url} ") for line in lines)
    [versions] = [line for line in lines if line.startswith("[INFO] esource ")]
    assert re.fullmatch(
        r"\[INFO\] esource [\w.]+ on Python [\d.]+, gunicorn [\d.]+, gevent [\d.]+, flask [\d.]+",
        versions,
    )


def test_all_lines_of_a_hub_are_json_if_asked_for(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_LOG_FORMAT="json") as hub:
        hub.file("torn").write_bytes(b"1\t\tx\nto")
        os.utime(hub.file("torn"), (1, 1))  # half a row that nothing goes on writing
        assert hub.get("/torn").status == 200
        eventually(lambda: "torn write" in hub.log)
        hub.stop()
        lines = [json.loads(line) for line in hub.log.splitlines()]
    [warning] = [line for line in lines if line["level"] == "warning"]
    assert "torn write" in warning["message"]
    assert {line["logger"] for line in lines} == {"gunicorn.error", "esource", "esource.log.file"}


def test_a_start_that_fails_says_so_in_the_same_form(own_hub: Hub) -> None:
    environ = {**own_hub.environ, "ESOURCE_LOG_FORMAT": "json"}
    for more in ({}, {"ESOURCE_FSYNC": "sometimes"}):
        run = subprocess.run(
            [sys.executable, "-m", "esource"], env={**environ, **more}, capture_output=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert run.returncode == 1
        [*_, last] = [json.loads(line) for line in run.stderr.splitlines()]
        assert last["level"] == "critical"


def test_a_service_writes_to_the_journal_as_journald_likes_it(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    hub = Hub(tmp_path)
    with ours:
        with theirs:
            status = os.fstat(theirs.fileno())
            hub.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
            hub.launch(stderr=theirs.fileno())
        try:
            hub.wait_until_up()
        finally:
            hub.stop()
        lines = b"".join(iter(lambda: ours.recv(65536), b"")).decode().splitlines()
    assert all(re.match(r"<6>(?!\[)", line) for line in lines), lines
    assert f"<6>0 channels in {hub.folder}, fsync always" in lines


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_access_log_is_gunicorns_in_the_form_of_the_log(tmp_path: Path, form: str) -> None:
    log = tmp_path / "access.log"
    with running_hub(tmp_path, f"--access-logfile={log}", ESOURCE_LOG_FORMAT=form) as hub:
        hub.raw(b"POST /orders?id=\xc2\x9b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"
                b"Connection: close\r\n\r\n")  # fmt: skip
        eventually(lambda: "/orders" in log.read_text())
        last = log.read_text().splitlines()[-1]
    if form == "json":
        fields = json.loads(last)
        assert fields["logger"] == "gunicorn.access"
        last = fields["message"]
    assert re.match(r'127.0.0.1 - - \[.*\] "POST /orders\?id=\S+ HTTP/1.1" 400 ', last)
    assert form == "json" or "\x9b" not in last


def test_a_defect_that_ends_a_greenlet_is_one_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "defect.py").write_text(
        "from esource import server\n"
        "from esource.server import *\n"
        "def post_worker_init(worker):\n"
        "    server.post_worker_init(worker)\n"
        "    import gevent\n"
        "    gevent.spawn(lambda: 1 / 0)\n"
    )
    with running_hub(tmp_path, "-c", "defect.py", ESOURCE_LOG_FORMAT="json") as hub:
        eventually(lambda: "ZeroDivisionError" in hub.log)
        lines = [json.loads(line) for line in hub.log.splitlines()]
    [defect] = [line for line in lines if "traceback" in line]
    assert defect["level"] == "critical"


def test_threads_that_log_at_the_same_time_hold_nobody_up(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.folder.mkdir()
    names = [f"torn-{n}" for n in range(320)]
    for name in names:
        hub.file(name).write_bytes(b"1\t\twhole\n2\t\ttorn")
        age(hub.file(name))
    with started(hub):

        def open_some(number: int) -> None:
            with Wire(hub) as wire:
                for name in names[number::32]:
                    assert wire.post(f"/{name}", b"x").status == 201

        together(32, open_some)
        assert hub.log.count("torn write") == len(names)

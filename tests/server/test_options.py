"""Options of gunicorn's that cannot work with the hub: one line, and a code that is not 0."""

import signal
import sys
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, ROOT, Hub, eventually, running_hub, started

# Options, as a person types them, and what the refusal says.
REFUSED = {
    "--workers 2": ("--workers 2", "start it with one worker"),
    "--preload": ("--preload", "start it without"),
    "-k sync": ("-k sync", "start it without"),
    "-k gthread": ("-k gthread", "start it without"),
    "-k gevent_pywsgi": ("-k gevent_pywsgi", "start it without"),
    "-p 9000": ("-p 9000", "ESOURCE_BIND=127.0.0.1:9000"),
    "-p :9000": ("-p :9000", "ESOURCE_BIND=127.0.0.1:9000"),
    "-b 9000": ("-b 9000", "-b 127.0.0.1:9000"),
    "--protocol uwsgi": ("uwsgi", "HTTP/1.1"),
    "--http-protocols h1,h2": ("h2", "HTTP/1.1"),
    "--http2-cleartext upgrade": ("HTTP/2", "HTTP/1.1"),
    "serve events": ("events", "ESOURCE_DIR=events"),
    "serve ./events": ("./events", "ESOURCE_DIR=./events"),
    "serve /srv/events": ("/srv/events", "ESOURCE_DIR=/srv/events"),
}  # fmt: skip


def refusal(hub: Hub, *options: str) -> str:
    """Start a hub that must not start; return the one line in which it says why."""
    hub.folder.mkdir()
    assert hub.launch(*options).wait(PATIENCE_SECONDS) == 1
    hub.process = None
    [line] = [line for line in hub.log.splitlines() if "[INFO]" not in line]
    assert line.startswith("esource: ")
    return line


@pytest.mark.parametrize("options", REFUSED)
def test_an_option_that_cannot_work_is_refused_in_a_line_that_says_what_to_do(
    tmp_path: Path, options: str
) -> None:
    before = set(tmp_path.iterdir())
    line = refusal(Hub(tmp_path), *options.split())
    assert all(words in line for words in REFUSED[options])
    # No file for a process that is not there.
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"events", "hub.log"}


@pytest.mark.parametrize("way", ["installed", "checkout", "environment"])
def test_so_it_is_by_plain_gunicorn(tmp_path: Path, way: str) -> None:
    hub = Hub(tmp_path)
    gunicorn = str(Path(sys.executable).parent / "gunicorn")
    where = "python:esource.server" if way == "installed" else str(ROOT / "gunicorn.conf.py")
    hub.command = lambda: [gunicorn, "-c", where]  # type: ignore[method-assign]
    if way == "environment":
        hub.environ["GUNICORN_CMD_ARGS"] = "-k sync"
        assert "-k sync" in refusal(hub)
    else:
        assert "ESOURCE_DIR=events" in refusal(hub, "events")


def test_an_application_of_ones_own_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "wrapped.py").write_text("from esource.web.app import create_app\n")
    with running_hub(tmp_path, "serve", "wrapped:create_app()") as hub:
        hub.publish("/orders", "x")


def test_addresses_that_others_reach_are_warned_of_once(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    binds = ["-b", "0.0.0.0:0", "-b", "[::]:0", "-b", ":0", "-b", f"127.0.0.1:{hub.port}"]
    with started(hub, *binds):
        assert hub.process
        hub.process.send_signal(signal.SIGHUP)
        eventually(lambda: hub.log.count("channels in") == 2)
        [warning] = [line for line in hub.log.splitlines() if "[WARNING]" in line]
    assert "whoever reaches 0.0.0.0:0, [::]:0, 0.0.0.0:0 can read and write" in warning


def test_addresses_that_only_this_machine_reaches_are_not(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    with started(hub, "-b", f"localhost:{hub.port}", "-b", "[::1]:0", "-b", "unix:socket"):
        assert "[WARNING]" not in hub.log

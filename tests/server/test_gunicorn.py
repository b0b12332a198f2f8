"""The server as a whole: start, refuse to start, stop, reload, and what survives it."""

import fcntl
import os
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from gunicorn import __version__ as gunicorn_version
from gunicorn.config import KNOWN_SETTINGS

from esource import server
from tests.harness import PATIENCE_SECONDS, ROOT, Hub, Stream, eventually, running_hub
from tests.harness.hub import children
from tests.harness.waiting import AT_ONCE_SECONDS

STOP_SECONDS = 5.0  # a bound on a fault: of itself gunicorn waits for 30 s

# -- starting ----------------------------------------------------------------------------------


def refused(hub: Hub, *options: str) -> str:
    """Start a hub that must not start; return the one line in which it says why."""
    process = hub.launch(*options)
    try:
        assert process.wait(20) != 0
    finally:
        end(process)
    hub.process = None
    lines = [line for line in hub.log.splitlines() if "[INFO]" not in line]
    assert len(lines) == 1, hub.log
    return lines[0]


class Installed(Hub):
    """A hub that a command of the environment starts."""

    def __init__(self, home: Path, program: str) -> None:
        super().__init__(home)
        self.program = str(Path(sys.executable).parent / program)

    def command(self) -> list[str]:
        return [self.program]


def test_plain_gunicorn_in_the_checkout_starts_the_hub(tmp_path: Path) -> None:
    hub = Installed(tmp_path, "gunicorn")
    hub.launch(cwd=ROOT)
    hub.wait_until_up()
    hub.publish("/orders", "x")
    assert len(hub.rows("orders")) == 1
    assert "Using worker: gevent" in hub.log
    assert hub.stop() == 0


def test_the_installed_command_starts_it_anywhere_and_takes_gunicorns_options(
    tmp_path: Path,
) -> None:
    hub = Installed(tmp_path, "esource")
    del hub.environ["ESOURCE_DIR"]
    hub.environ["ESOURCE_BIND"] = "127.0.0.1:1"  # the option goes before it
    hub.start("-b", f"127.0.0.1:{hub.port}")
    hub.publish("/orders", "x")
    assert len(hub.rows("orders")) == 1  # in `events` of the current folder
    assert hub.stop() == 0


def test_help_and_version_need_no_server() -> None:
    for option, expected in (("--help", "ESOURCE_DIR"), ("--version", "esource 0.")):
        done = subprocess.run(
            [sys.executable, "-m", "esource", option], capture_output=True, check=True, text=True
        )
        assert expected in done.stdout


def test_a_second_hub_on_the_folder_is_refused_and_told_who_holds_it(own_hub: Hub) -> None:
    assert own_hub.process
    second = Hub(own_hub.home / "second", ESOURCE_DIR=str(own_hub.folder))
    second.home.mkdir()
    line = refused(second)
    assert f"in use by another hub (process {own_hub.process.pid})" in line
    assert "ESOURCE_DIR" in line
    own_hub.publish("/still", "works")


def test_a_second_worker_by_signal_is_taken_back(own_hub: Hub) -> None:
    assert own_hub.process
    own_hub.process.send_signal(signal.SIGTTIN)
    eventually(lambda: "2 workers refused" in own_hub.log)
    own_hub.publish("/still", "works")
    assert own_hub.log.count("Booting worker") == 1


def test_a_missing_parent_folder_is_refused(tmp_path: Path) -> None:
    line = refused(Hub(tmp_path, ESOURCE_DIR=str(tmp_path / "no" / "events")))
    assert "its parent does not exist" in line


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file is in the way")
    assert "cannot write to the folder" in refused(Hub(tmp_path))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir(mode=0o500)
    assert "cannot write to the folder" in refused(Hub(tmp_path))


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(Hub(tmp_path, ESOURCE_BIND=f"127.0.0.1:{port}"))
        assert f"127.0.0.1:{port} is in use" in line


@pytest.mark.parametrize("option", [[], ["--check-config"]])
def test_a_bad_setting_is_refused_by_name(tmp_path: Path, option: list[str]) -> None:
    line = refused(Hub(tmp_path, ESOURCE_FSYNC="sometimes"), *option)
    assert "ESOURCE_FSYNC" in line
    assert "always, interval, never" in line


def test_a_misspelt_setting_is_warned_of(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_FSNC="never") as hub:
        assert "ESOURCE_FSNC is not a setting" in hub.log


# What another gunicorn may lack, and what the refusal names.
GONE = {
    "systemd.sd_notify": "import gunicorn.systemd; del gunicorn.systemd.sd_notify",
    "http.errors.LimitRequestHeaders": (
        "import gunicorn.http.errors as errors; del errors.LimitRequestHeaders"
    ),
    "that makes worker.tmp": (
        "from gunicorn.workers import base, workertmp\nbase.WorkerTmp = workertmp.WorkerTmp"
    ),
    "leaves 100 Continue to its body": (
        "from gunicorn.http import wsgi\n"
        "make = wsgi.create\n"
        "def create(request, sock, *about):\n"
        "    sock.send(b'HTTP/1.1 100 Continue')\n"
        "    return make(request, sock, *about)\n"
        "wsgi.create = create"
    ),
    "log.access_log_enabled": (
        "from gunicorn.glogging import Logger; del Logger.access_log_enabled"
    ),
    "cfg.is_ssl": "from gunicorn.config import Config; del Config.is_ssl",
    "request.force_close": "from gunicorn.http.message import Message; del Message.force_close",
    "request.must_close": (
        "from gunicorn.http.message import Message\n"
        "Message.force_close = lambda self: setattr(self, 'closing', True)"
    ),
    "take_buffered": "from gunicorn.http.unreader import Unreader as U; del U.take_buffered",
    "that becomes wsgi.input": (
        "from gunicorn.http import wsgi\n"
        "make = wsgi.default_environ\n"
        "wsgi.default_environ = lambda *about: {**make(*about), 'wsgi.input': None}"
    ),
    "worker.handle_error": "from gunicorn.workers.base import Worker; del Worker.handle_error",
    "worker.notify": (
        "from gunicorn.workers import base, ggevent\n"
        "del base.Worker.notify, ggevent.GeventWorker.notify"
    ),
}


@pytest.mark.parametrize("name", GONE)
def test_a_gunicorn_without_a_name_that_the_hub_needs_is_refused_by_that_name(
    tmp_path: Path, name: str
) -> None:
    options = tmp_path / "options.py"
    options.write_text(f"from esource.server import *\n{GONE[name]}\n")
    line = refused(Hub(tmp_path), "-c", str(options))
    assert name in line
    assert f"gunicorn {gunicorn_version}" in line


READ_ONLY = """
mount --make-rprivate / && mount --bind "$0" "$0" && mount --bind /dev/null /dev/null || exit 99
awk '{print $2}' /proc/self/mounts | sort -u | while read -r at; do
    [ "$at" = "$0" ] || mount -o remount,bind,ro "$at" 2> /dev/null
done
for at in "$0/.." /tmp /var/tmp /dev/shm; do mkdir "$at/$$" 2> /dev/null && exit 99; done
exec "$@"
"""


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
def test_a_hub_that_may_write_to_its_folder_alone_starts_and_serves(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.folder.mkdir()
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(hub.folder), *hub.command()]
    hub.command = lambda: command  # type: ignore[method-assign]
    process = hub.launch()
    try:
        eventually(lambda: process.poll() or "channels in" in hub.log)
        if process.poll() == 99:
            pytest.skip("no mounts here")
        hub.publish("/orders", "x")
        assert "Traceback" not in hub.log
        assert hub.stop() == 0
    finally:
        end(process)
    assert len(hub.rows("orders")) == 1


# -- stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_200_streams_properly_and_at_once(tmp_path: Path, signal_number: int) -> None:
    with running_hub(tmp_path) as hub:
        request = b"GET /stop HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n"
        streams = [hub.connect() for _ in range(200)]
        idle = hub.connect()  # has not sent a request
        for stream in streams:
            stream.sendall(request)
        for stream in streams:
            text = b""
            while b"\r\n\r\n2\r\n:\n\r\n" not in text:
                text += stream.recv(65536)
        started = time.monotonic()
        assert hub.stop(signal_number) == 0
        assert time.monotonic() - started < AT_ONCE_SECONDS
        retries = set()
        for stream in streams:
            rest = b"".join(iter(lambda stream=stream: stream.recv(65536), b""))  # type: ignore[misc]
            # A last line that is no event, and the chunk that ends the response.
            match = re.fullmatch(rb"[0-9A-F]+\r\nretry: (\d+)\n\r\n0\r\n\r\n", rest)
            assert match, rest
            retries.add(int(match[1]))
            stream.close()
        idle.close()
        assert len(retries) > 100  # they do not all come back at once
        assert 1000 <= min(retries) <= max(retries) <= 3000
        assert "Traceback" not in hub.log
        hub.start()


# Seconds since there is a worker: it is forked; it imports gevent; it loads the hub; it serves.
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_while_the_worker_starts_is_over_soon(
    tmp_path: Path, signal_number: int, delay: float
) -> None:
    hub = Hub(tmp_path)
    process = hub.launch()
    try:
        while not children(process.pid):
            time.sleep(0.001)
        time.sleep(delay)
        if signal_number == signal.SIGINT:  # as a terminal does: master and worker have it
            for pid in children(process.pid):
                os.kill(pid, signal_number)
        process.send_signal(signal_number)
        assert process.wait(STOP_SECONDS) == 0
        assert "Traceback" not in hub.log
    finally:
        end(process)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_while_the_worker_waits_for_the_folder_is_over_soon(
    tmp_path: Path, signal_number: int
) -> None:
    hub = Hub(tmp_path)
    hub.folder.mkdir()
    with open(hub.folder / ".writer.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = hub.launch()
        try:
            eventually(lambda: "Booting worker" in hub.log)
            time.sleep(1.0)  # nothing tells that it waits
            process.send_signal(signal_number)
            assert process.wait(STOP_SECONDS) == 0
            assert "Traceback" not in hub.log
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a hub that has not stopped, and its worker."""
    if process.poll() is None:
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("milliseconds", [0, 20, 70])
def test_a_stop_in_the_first_moments_after_a_reload_is_obeyed(
    tmp_path: Path, milliseconds: int
) -> None:
    hub = Hub(tmp_path)
    process = hub.launch()
    try:
        hub.wait_until_up()
        old = set(children(process.pid))
        process.send_signal(signal.SIGHUP)
        born = time.monotonic()
        while not set(children(process.pid)) - old:
            assert process.poll() is None, hub.log
            assert time.monotonic() < born + PATIENCE_SECONDS
        time.sleep(milliseconds / 1000)  # into its first moments: no state can be waited for
        process.terminate()
        assert process.wait(AT_ONCE_SECONDS) == 0
        assert "Traceback" not in hub.log
    finally:
        end(process)


def test_a_stop_does_not_wait_for_a_reader_that_is_stuck(own_hub: Hub) -> None:
    with Stream(own_hub, "/stuck"):
        for _ in range(20):
            own_hub.publish("/stuck", "x" * 1_000_000)
        started = time.monotonic()
        assert own_hub.stop() == 0
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert "Traceback" not in own_hub.log


def test_a_stop_lets_go_of_idle_keep_alive_connections(own_hub: Hub) -> None:
    with own_hub.connect() as connection:
        connection.sendall(b"GET /idle HTTP/1.1\r\nHost: h\r\n\r\n")
        connection.recv(65536)
        started = time.monotonic()
        own_hub.stop()
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert connection.recv(65536) == b""


def test_everything_acknowledged_is_there_after_a_kill(own_hub: Hub) -> None:
    ids = [own_hub.publish("/kill", f"{n}") for n in range(20)]
    own_hub.kill()
    own_hub.start()
    assert [row.split(b"\t")[0].decode() for row in own_hub.rows("kill")] == ids


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_every_policy_keeps_events_over_a_restart(tmp_path: Path, fsync: str) -> None:
    with running_hub(tmp_path, ESOURCE_FSYNC=fsync) as hub:
        hub.publish("/policy", "1")
        hub.restart()
        hub.publish("/policy", "2")
        assert len(hub.rows("policy")) == 2


# -- reloading ---------------------------------------------------------------------------------


def test_reloads_lose_no_acknowledged_event_and_no_reader_misses_one(own_hub: Hub) -> None:
    acknowledged: list[str] = []
    failed: list[str] = []
    stop = threading.Event()

    def publish(number: int) -> None:
        n = 0
        while not stop.is_set():
            try:
                acknowledged.append(own_hub.publish("/reload", f"{number} {n}"))
            except OSError as error:  # a connection that was closed: nothing was acknowledged
                failed.append(str(error))
            n += 1

    received: list[str] = []

    def follow() -> None:
        while not stop.is_set():
            headers = {"Last_Event_ID": received[-1] if received else "0"}
            try:
                with Stream(own_hub, "/reload", **headers) as stream:
                    stream.read_to_end()
                    received.extend(event.id.decode() for event in stream.events)
            except (OSError, AssertionError):
                continue

    threads = [threading.Thread(target=publish, args=[n]) for n in range(4)]
    follower = threading.Thread(target=follow)
    for thread in [*threads, follower]:
        thread.start()
    for count in range(2, 5):
        assert own_hub.process
        reached = len(acknowledged)
        eventually(lambda reached=reached: len(acknowledged) > reached + 50)  # type: ignore[misc]
        own_hub.process.send_signal(signal.SIGHUP)
        eventually(lambda count=count: own_hub.log.count("channels in") == count)  # type: ignore[misc]
    reached = len(acknowledged)
    eventually(lambda: len(acknowledged) > reached + 50)
    stop.set()
    for thread in threads:
        thread.join()
    ids = [row.split(b"\t")[0].decode() for row in own_hub.rows("reload")]
    assert set(acknowledged) <= set(ids)
    assert len(ids) == len(set(ids))
    own_hub.stop()
    follower.join()
    assert received == ids[: len(received)]
    assert len(received) > len(ids) // 2
    assert "Traceback" not in own_hub.log


def test_a_worker_that_is_killed_is_replaced_and_nothing_acknowledged_is_lost(
    own_hub: Hub,
) -> None:
    ids = [own_hub.publish("/replaced", f"{n}") for n in range(10)]
    os.kill(own_hub.worker, signal.SIGKILL)
    eventually(lambda: own_hub.log.count("channels in") == 2)
    ids.append(own_hub.publish("/replaced", "10"))
    assert [row.split(b"\t")[0].decode() for row in own_hub.rows("replaced")] == ids


def test_a_crowd_that_comes_at_once_waits_to_be_accepted(tmp_path: Path) -> None:
    crowd = 2500  # more than gunicorn's own 2048
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    if most <= crowd:
        pytest.skip(f"net.core.somaxconn is {most}")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * crowd:
        pytest.skip(f"a process may have {before[1]} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * crowd), before[1]))
    try:
        with running_hub(tmp_path) as hub, ExitStack() as stack:
            worker = hub.worker
            os.kill(worker, signal.SIGSTOP)
            stack.callback(os.kill, worker, signal.SIGCONT)
            for _ in range(crowd):
                client = stack.enter_context(socket.socket())
                client.settimeout(AT_ONCE_SECONDS)
                client.connect(("127.0.0.1", hub.port))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_plain_gunicorn_is_given_all_that_esource_is() -> None:
    known = {setting.name for setting in KNOWN_SETTINGS}
    given = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert known & given.keys() == known & vars(server).keys()

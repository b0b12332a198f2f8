"""The hub and what it is held against, each in a process of its own on a free loopback port.

`HUB` and its like are *kinds*: a name for the table, how to start one, and what it needs.
`started` starts those that are installed and wanted, each in a folder of its own, and stops
them by their process ids; what is not installed is left out, and said once.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.cpu import tree
from bench.machine import ROOT
from tests.harness import Hub, eventually, free_port

DESCRIPTORS = 65_536
# Debian's place, and those of others.
NCHAN_MODULES = [
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
]
BASELINES = ("bare", "gevent", "nchan", "nginx", "redis")
STOP_SECONDS = 20.0

against: set[str] = set(BASELINES)  # the baselines that are wanted
skipped: list[str] = []  # what is not installed, a line each


@dataclass
class Server:
    """A server that runs."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    folder: Path  # its files
    scheme: str = "http"

    @property
    def pids(self) -> list[int]:
        """Return all of its processes."""
        return tree(self.process.pid)

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"


@dataclass(frozen=True)
class Kind:
    """A server that could be started, in a folder that it may fill."""

    name: str
    start: Callable[[Path], AbstractContextManager[Server]]
    baseline: str = ""  # which of the `BASELINES`; none for the hub
    missing: Callable[[], str] = lambda: ""  # what is not installed here


def installed(*kinds: Kind) -> list[Kind]:
    """Return those that are wanted and can be started; say once which cannot."""
    found = []
    for kind in kinds:
        if kind.baseline and kind.baseline not in against:
            continue
        missing = kind.missing()
        if not missing:
            found.append(kind)
        elif missing not in skipped:
            skipped.append(missing)
            print(f"skipped: {missing}", flush=True)
    return found


@contextmanager
def started(home: Path, *kinds: Kind) -> Iterator[list[Server]]:
    """Start what is installed; stop it at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(kind.start(place(home))) for kind in installed(*kinds)]


def place(home: Path) -> Path:
    """Return a new folder in `home`."""
    return Path(tempfile.mkdtemp(dir=home))


# -- processes -----------------------------------------------------------------------------


@contextmanager
def running(name: str, home: Path, port: int, command: list[str]) -> Iterator[Server]:
    """Start a server, wait until it answers, and stop it in the end."""
    with open(home / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, env=environ())
    try:
        eventually(lambda: answers(process, port, home / "log"))
        yield Server(name, port, process, home)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def answers(process: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    """Return whether a server says anything; fail with its log if it has ended."""
    assert process.poll() is None, log.read_text()
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /up__ HTTP/1.0\r\n\r\n")  # to Redis a command with an error
            return bool(connection.recv(1))
    except OSError:
        return False


def environ() -> dict[str, str]:
    """Return the environment for a server: this clone's code, and none of the user's settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ESOURCE_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


def program(name: str) -> str | None:
    """Return the path of a program, also if it is one for administrators."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


def lacks(package: str, *names: str) -> str:
    """Return which program is missing, and the Debian package that has it; nothing if none is."""
    for name in names:
        if not program(name):
            return f"{name} is not installed (Debian: {package})"
    return ""


# -- the hub -------------------------------------------------------------------------------


@contextmanager
def hub(
    home: Path, name: str = "hub", fsync: str = "always", options: tuple[str, ...] = (),
    without: str = "", keep: str = "",
) -> Iterator[Server]:  # fmt: skip
    """Start the hub, with its files in `home/events`; `without` a trick of `bench/without.py`.

    `keep` has the rules of its channels (`ESOURCE_KEEP`).
    """
    settings = {"ESOURCE_FSYNC": fsync, "ESOURCE_KEEP": keep, "BENCH_WITHOUT": without}
    hub = Hub(home, PYTHONPATH=str(ROOT), **settings)
    if without:
        options = (*options, "-c", "python:bench.without")
    try:
        hub.start(*options)
        assert hub.process is not None
        yield Server(name, hub.port, hub.process, hub.folder)
    finally:
        if hub.process:
            hub.stop()


# -- its baselines -------------------------------------------------------------------------


@contextmanager
def bare(home: Path) -> Iterator[Server]:
    """Start gunicorn as the hub uses it, with nothing in it."""
    port = free_port()
    command = ["-m", "gunicorn", "-c", "python:bench.bare", "-b", f"127.0.0.1:{port}"]
    with running(BARE.name, home, port, [sys.executable, *command]) as server:
        yield server


@contextmanager
def constant(home: Path) -> Iterator[Server]:
    """Start gevent's own server, with a constant answer."""
    port = free_port()
    command = [sys.executable, "-m", "bench.constant", str(port)]
    with running(GEVENT.name, home, port, command) as server:
        yield server


def nchan_module() -> Path | None:
    """Return where nchan is."""
    return next((path for path in NCHAN_MODULES if path.exists()), None)


@contextmanager
def nchan(home: Path, kind: Kind, workers: int) -> Iterator[Server]:
    """Start nginx with nchan in so many worker processes: every path is a channel, in memory."""
    settings = """
        nchan_shared_memory_size 2G;
        server {
            listen 127.0.0.1:PORT backlog=4096;
            location ~ ^/([A-Za-z0-9_-]+)$ {
                nchan_pubsub http eventsource;
                nchan_channel_id $1;
                nchan_message_buffer_length 1000;
                nchan_subscriber_first_message newest;
                client_max_body_size 0;
            }
        }
    """
    with nginx(kind.name, home, workers, settings, f"load_module {nchan_module()};") as server:
        yield server


@contextmanager
def nginx_files(home: Path, folder: Path) -> Iterator[Server]:
    """Start nginx as a server of a folder's files."""
    settings = f"""
        sendfile on;
        server {{
            listen 127.0.0.1:PORT backlog=4096;
            location / {{ root {folder}; }}
        }}
    """
    with nginx("nginx", home, 1, settings) as server:
        yield server


@contextmanager
def nginx(
    name: str, home: Path, workers: int, settings: str, modules: str = "", port: int = 0
) -> Iterator[Server]:
    """Start nginx with what differs from one use to the other, at a free port unless it says."""
    port = port or free_port()
    # As root, its workers would be somebody who may not read the hub's files.
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {home}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = home / "nginx.conf"
    configuration.write_text(
        f"""{modules}
        {user}
        daemon off;
        worker_processes {workers};
        worker_rlimit_nofile {DESCRIPTORS};
        error_log {home}/log;
        pid {home}/pid;
        events {{ worker_connections 16384; multi_accept on; }}
        http {{
            access_log off;
            {temporary}
            keepalive_timeout 75;
            keepalive_requests 1000000000;
            {settings.replace("PORT", str(port))}
        }}
        """
    )
    command = [str(program("nginx")), "-p", str(home), "-e", f"{home}/log", "-c"]
    with running(name, home, port, [*command, str(configuration)]) as server:
        yield server


@contextmanager
def redis(home: Path) -> Iterator[Server]:
    """Start Redis with its append-only file, synced for every command as the hub's are."""
    port = free_port()
    command = [
        str(program("redis-server")), "--port", str(port), "--bind", "127.0.0.1",
        "--dir", str(home), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        "--auto-aof-rewrite-percentage", "0", "--maxclients", "20000",
    ]  # fmt: skip
    with running(REDIS.name, home, port, command) as server:
        yield server


# -- the kinds -----------------------------------------------------------------------------


def nchan_kind(workers: int) -> Kind:
    """Return nchan with so many workers."""

    def missing() -> str:
        no_module = "nchan is not installed (Debian: libnginx-mod-nchan)"
        return lacks("nginx", "nginx") or ("" if nchan_module() else no_module)

    def start(home: Path) -> AbstractContextManager[Server]:
        return nchan(home, kind, workers)

    kind = Kind(f"nchan, {workers} worker{'s' if workers > 1 else ''}", start, "nchan", missing)
    return kind


def files_kind(folder: Path) -> Kind:
    """Return nginx that serves a folder's files."""
    return Kind(
        "nginx", partial(nginx_files, folder=folder), "nginx", partial(lacks, *["nginx"] * 2)
    )


def hub_kind(name: str, **differences: Any) -> Kind:
    """Return the hub with something that is different."""
    return Kind(name, partial(hub, name=name, **differences))


HUB = hub_kind("hub")
HUB_WITHOUT_FSYNC = hub_kind("hub, fsync never", fsync="never")
HUB_IN_SEGMENTS = hub_kind("hub, segments of 1 MiB", keep="*/segment=1M")
HUB_WITHOUT_COUNTING = hub_kind("hub, not counting", options=("-c", "python:bench.uncounted"))
BARE = Kind("bare gunicorn", bare, "bare")
GEVENT = Kind("bare gevent", constant, "gevent")
NCHAN = nchan_kind(1)
NCHAN_TWO = nchan_kind(2)
REDIS = Kind(
    "redis", redis, "redis", partial(lacks, "redis-server", "redis-server", "redis-benchmark")
)

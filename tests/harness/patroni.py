"""PostgreSQL servers that Patroni looks after, which has etcd: each of them one machine.

Strictly synchronous: what is committed is on two machines, or it is not committed.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.harness.machine import free_port
from tests.harness.postgres import USER, Postgres, as_user, binary, children
from tests.harness.waiting import eventually

PROGRAMS = ("patroni", "etcd")
TTL_SECONDS = 20  # after which a leader that says nothing is none; Patroni takes no less
PATIENCE_SECONDS = 90.0


class Node:
    """A machine: Patroni, and the PostgreSQL server that it starts."""

    def __init__(self, folder: Path, name: str, etcd: int) -> None:
        """Name the folder of all nodes, this one, and the port of etcd; nothing is made yet."""
        self.name = name
        self.server = Postgres(folder / name)
        self.rest = free_port()
        self.log = folder / f"{name}.patroni.log"
        self._settings = folder / f"{name}.json"  # which is YAML, too
        at = f"127.0.0.1:{self.server.port}"
        self._settings.write_text(json.dumps({
            "scope": "events", "name": name,
            "restapi": {
                "listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}",
            },
            "etcd3": {"hosts": [f"127.0.0.1:{etcd}"]},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS, "loop_wait": 1, "retry_timeout": 3,
                    "maximum_lag_on_failover": 1 << 30,
                    "synchronous_mode": True, "synchronous_mode_strict": True,
                },
                "initdb": ["no-sync", "no-locale", {"encoding": "UTF8"}, {"auth": "trust"}],
            },
            "postgresql": {
                "listen": at, "connect_address": at,
                "data_dir": str(self.server.folder), "bin_dir": str(Path(binary("initdb")).parent),
                "authentication": {
                    "superuser": {"username": USER}, "replication": {"username": USER},
                },
                "pgpass": str(folder / f"{name}.pgpass"),
                "pg_hba": [
                    "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust",
                ],
                "parameters": {"unix_socket_directories": "", "shared_buffers": "32MB"},
                "use_pg_rewind": True,
            },
            "watchdog": {"mode": "off"},
        }))  # fmt: skip
        self._patroni: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; do not wait."""
        environ = {**os.environ, "PATH": "/usr/bin:/bin"}
        with self.log.open("ab") as log:
            self._patroni = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "patroni", str(self._settings)],
                stdout=log, stderr=log, cwd="/", env=environ, **as_user(),
            )  # fmt: skip

    def _server_pids(self) -> list[int]:
        try:
            pid = int((self.server.folder / "postmaster.pid").read_text().split()[0])
            return [pid, *children(pid)]
        except (OSError, IndexError):
            return []

    def freeze(self, is_frozen: bool = True) -> None:
        """Stop the server's processes where they are, or let them go on."""
        for pid in self._server_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if is_frozen else signal.SIGCONT)

    def kill(self) -> None:
        """Kill all that runs there, as if the machine had lost its power."""
        if self._patroni is None:
            return
        self._patroni.kill()
        for pid in self._server_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._patroni.wait()
        self._patroni = None
        eventually(
            lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in self._server_pids())
        )


class Patroni:
    """Three nodes and an etcd."""

    def __init__(self, folder: Path) -> None:
        """Name a folder of the server's user; nothing is made yet."""
        self._folder = folder
        self._etcd = free_port()
        self.nodes = [Node(folder, f"node{n}", self._etcd) for n in range(3)]

    @property
    def url(self) -> str:
        """Return the address of all, for a hub."""
        hosts = ",".join(f"127.0.0.1:{node.server.port}" for node in self.nodes)
        return f"postgresql://{USER}@{hosts}/postgres"

    def start(self, stack: ExitStack) -> "Patroni":
        """Start all; return when one leads, one is its synchronous standby, and one another."""
        peer = free_port()
        with (self._folder / "etcd.log").open("ab") as log:
            etcd = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "KILL", "etcd", "--name", "etcd",
                    "--data-dir", str(self._folder / "etcd"),
                    "--listen-client-urls", f"http://127.0.0.1:{self._etcd}",
                    "--advertise-client-urls", f"http://127.0.0.1:{self._etcd}",
                    "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                    "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                    "--initial-cluster", f"etcd=http://127.0.0.1:{peer}",
                ],
                stdout=log, stderr=log, cwd="/", **as_user(),
            )  # fmt: skip
        stack.callback(etcd.wait)
        stack.callback(etcd.kill)
        for node in self.nodes:
            stack.callback(node.kill)
            node.start()
        eventually(
            lambda: sorted(self.roles()) == ["leader", "replica", "sync_standby"], PATIENCE_SECONDS
        )
        return self

    def roles(self) -> dict[str, Node]:
        """Return who leads, and who else runs, by the role; empty if nobody can say."""
        for node in self.nodes:
            with suppress(OSError, ValueError):
                at = f"http://127.0.0.1:{node.rest}/cluster"
                with urllib.request.urlopen(at, timeout=3) as answer:
                    members: Sequence[dict[str, Any]] = json.load(answer)["members"]
                named = {one.name: one for one in self.nodes}
                return {
                    each["role"]: named[each["name"]] for each in members
                    if each["state"] in ("running", "streaming")
                }  # fmt: skip
        return {}


def missing() -> list[str]:
    """Return which of the programs are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name)]


@contextmanager
def patroni() -> Iterator[Patroni]:
    """Have three nodes, which end with the block."""
    with tempfile.TemporaryDirectory(prefix="esource-patroni-") as name, ExitStack() as stack:
        folder = Path(name)
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
        nodes = Patroni(folder)
        for path in folder.iterdir():
            path.chmod(0o644)
        yield nodes.start(stack)

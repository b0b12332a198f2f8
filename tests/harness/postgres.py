"""A real PostgreSQL server for the tests: made in a folder of its own, and taken away."""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.harness.machine import free_port, needs
from tests.harness.waiting import eventually

PATIENCE_SECONDS = 30.0
USER = "postgres"  # the server refuses root
_numbers = count()  # of databases


def binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, the newest that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else (shutil.which(name) or name)


class Postgres:
    """One server."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Name the folder for its data; nothing is made yet."""
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder.with_suffix(".log")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the programs, as the server's user."""
        subprocess.run(
            [binary(program), *arguments], check=True, capture_output=True, cwd="/", **as_user()
        )

    def make(self) -> "Postgres":
        """Make an empty server."""
        self.run(
            "initdb", "-D", str(self.folder), "-A", "trust", "-U", USER, "-E", "UTF8",
            "--no-locale", "--no-sync",
        )  # fmt: skip
        return self

    def start(self, *settings: str) -> "Postgres":
        """Start it, and wait until it answers."""
        own = [
            f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=",
            "max_connections=200", "shared_buffers=32MB", *settings,
        ]  # fmt: skip
        options = [word for each in own for word in ("-c", each)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # Should this process be killed, it ends as well.
                ["setpriv", "--pdeathsig", "QUIT", binary("postgres"), "-D", self.folder, *options],
                stdout=log, stderr=log, cwd="/", **as_user(),
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return self
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it, or have all of its processes killed at once."""
        if self.process is None:
            return
        self.freeze(False)
        if number == signal.SIGKILL:
            for pid in [self.process.pid, *children(self.process.pid)]:
                os.kill(pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)
        self.process = None

    def standby(self, name: str) -> "Postgres":
        """Make a copy that follows this server, which must run, under a name; it is not started."""
        other = Postgres(self.folder.with_name(name))
        about = f"host=127.0.0.1 port={self.port} user={USER} application_name={name}"
        self.run(
            "pg_basebackup", "-D", str(other.folder), "-R", "-X", "stream", "-c", "fast",
            "--no-sync", "-d", about,
        )  # fmt: skip
        return other

    def wait_for(self, *names: str) -> None:
        """Commit nothing, from now on, that these standbys do not have."""
        value = ", ".join(names)
        self.do(
            f"ALTER SYSTEM SET synchronous_standby_names = '{value}'", "SELECT pg_reload_conf()"
        )
        state = """SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"""
        eventually(lambda: self.do(state) == [(len(names),)])

    def leave(self) -> None:
        """Have a standby follow no more."""
        self.do("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        eventually(lambda: self.do("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])

    def promote(self) -> None:
        """Have a standby be a primary; return when it is."""
        # Not by SQL: what is replayed meanwhile may end a query.
        self.run("pg_ctl", "promote", "-D", str(self.folder), "-t", str(int(PATIENCE_SECONDS)))

    def freeze(self, is_frozen: bool = True) -> None:
        """Stop all of its processes where they are, or let them go on."""
        assert self.process
        number = signal.SIGSTOP if is_frozen else signal.SIGCONT
        for pid in [self.process.pid, *children(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def database(self, *settings: str) -> str:
        """Make an empty database; return its address. `settings` are `name = value`."""
        name = f"test_{next(_numbers)}"
        changes = [f"ALTER DATABASE {name} SET {setting}" for setting in settings]
        self.do(f"CREATE DATABASE {name}", *changes)
        return self.url(name)

    def do(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements; return the rows of the last, if it has some."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def as_user() -> dict[str, Any]:
    """Return who runs the server: not root."""
    return {"user": USER} if os.geteuid() == 0 else {}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@cache
def shared_postgres() -> Postgres:
    """Return a server that all tests of this process share, until it ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgres())


@contextmanager
def postgres(*settings: str) -> Iterator[Postgres]:
    """Have a server of its own, which ends with the block."""
    needs(binary("postgres"))
    with tempfile.TemporaryDirectory(prefix="esource-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(folder / "data").make().start(*settings)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pair() -> Iterator[tuple[Postgres, Postgres, str]]:
    """Have a primary and a standby, and the address of both, which end with the block."""
    with postgres() as primary:
        standby = primary.standby("standby").start()
        try:
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            yield primary, standby, f"postgresql://{USER}@{hosts}/postgres"
        finally:
            if primary.process:  # which would wait for the standby
                primary.stop(signal.SIGKILL)
            standby.stop(signal.SIGKILL)

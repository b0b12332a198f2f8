"""Servers of Valkey or Redis, and connections to them: one server, Sentinels', or a cluster's.

    redis://[user:password@]host[:port][/database]      rediss:// the same with TLS
    sentinel://[user:password@]host[:port],…/master[/database]
    cluster://[user:password@]host[:port],…

with parameters: `wait`, `waitaof` (see `esource.log.valkey`); `tls=1`; `ca`, `cert`, `key` (files);
`sentinel_user` and `sentinel_password`.

Any thread may use a connection, one at a time, and so may the loop of a hub, where others go on
meanwhile. Hence its socket is the system's own: those that `socket` has under a hub are gevent's,
and belong to the thread that made them.
"""

import _socket
import random
import socket
import ssl
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.connection import Connection
from redis.crc import key_slot

from esource.errors import StartError, StorageError, StorageFull
from esource.log import Counts
from esource.log.blocks import ESCAPE
from esource.log.patience import Again, Away, Patience, Unsafe
from esource.log.waiting import IN_THREADS, READ, WRITE, Waiting

# The master of a hub loads this before gevent changes `ssl`. Of redis-py only its asyncio half
# keeps what was there before, and nothing uses that here.
warnings.filterwarnings(
    "ignore", r"Monkey-patching ssl .* \['redis\.asyncio\.connection \([^']*'\]\. $"
)
T = TypeVar("T")
Address: TypeAlias = tuple[str, int]
PORT, SENTINEL_PORT = 6379, 26379
PARAMETERS = ["wait", "waitaof", "tls", "ca", "cert", "key", "sentinel_user", "sentinel_password"]
LEAST_SECONDS = 0.2  # that a try may take
ALL = 0, (1 << 14) - 1  # slots
# Connections that are kept for the next calls, of each server: of all commits and reads at once.
IDLE = 24
WARM = 4  # of these, that are made at the start


class Short(exceptions.RedisError):
    """Fewer replicas than asked for have what was written."""


# What may be over the next moment: a server ends, begins, is a replica now, or has other slots.
AWAY = (
    exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError,
    exceptions.ClusterDownError, exceptions.TryAgainError, exceptions.AskError, Short,
)  # fmt: skip
AWAY_CODES = ("NOREPLICAS", "MISCONF", "UNBLOCKED", "NOMASTERLINK")


class _Wrong(Exception):
    """What is wrong with a URL, in words that are not its own: any part may be of a password."""


class Where(NamedTuple):
    """What a URL says."""

    scheme: str
    hosts: list[Address]
    master: str
    login: dict[str, Any]
    sentinel_login: dict[str, Any]
    tls: ssl.SSLContext | None
    wait: int
    waitaof: int


def where(url: str) -> Where:
    """Return what a URL says; raises `StartError`, which does not repeat it."""
    try:
        return _where(urlsplit(url))
    except _Wrong as error:
        raise StartError(f"ESOURCE_STORE is no URL of a Valkey server: {error}; {ESCAPE}") from None
    except ValueError:
        raise StartError(f"ESOURCE_STORE is no URL of a Valkey server; {ESCAPE}") from None


def _where(url: SplitResult) -> Where:
    given = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    if given.keys() - set(PARAMETERS):
        raise _Wrong(f"a parameter is none of {', '.join(PARAMETERS)}")
    user, _, hosts = url.netloc.rpartition("@")
    name, _, password = user.partition(":")
    path = url.path.strip("/").split("/")
    master = path.pop(0) if url.scheme == "sentinel" else ""
    if url.scheme == "sentinel" and not master:
        raise _Wrong("the name of the master is missing: sentinel://host/master")
    login = {"username": unquote(name) or None, "password": unquote(password) or None}
    return Where(
        url.scheme,
        [_address(h, SENTINEL_PORT if master else PORT) for h in hosts.split(",")],
        master,
        {**login, "db": _number("database", "".join(path) or "0")},
        {"username": given.get("sentinel_user"), "password": given.get("sentinel_password")},
        _tls(given) if url.scheme == "rediss" or given.get("tls") == "1" else None,
        _number("wait", given.get("wait", "0")),
        _number("waitaof", given.get("waitaof", "0")),
    )


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise _Wrong("a host is missing")
    return parts.hostname, parts.port or port


def _number(what: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 4:
        raise _Wrong(f"{what} must be a number")
    return int(text)


def _tls(given: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.get("ca"))
        if "cert" in given:
            context.load_cert_chain(given["cert"], given.get("key"))
    except OSError as error:
        raise _Wrong(f"ca, cert or key cannot be read: {error.strerror or error}") from None
    return context


class Plain:
    """A socket that threads and a loop wait for in turns, as far as a connection needs one."""

    def __init__(self, raw: _socket.socket, waiting: Waiting) -> None:
        """Take what is connected."""
        self._raw = raw
        self._waiting = waiting
        self._seconds = 1.0
        self.shutdown, self.close = raw.shutdown, raw.close

    def settimeout(self, seconds: float) -> None:
        """Have each wait take so long at most, and then raise `TimeoutError`."""
        self._seconds = seconds

    def sendall(self, content: bytes) -> None:
        """Send all of it."""
        if not self._is_in_loop():
            self._raw.sendall(content)
            return
        left = memoryview(content)
        while left:
            try:
                left = left[self._raw.send(left) :]
            except BlockingIOError:
                self._wait(WRITE)

    def recv(self, size: int) -> bytes:
        """Return what is there, at most so many bytes; none at the end."""
        if not self._is_in_loop():
            return self._raw.recv(size)
        while True:
            try:
                return self._raw.recv(size)
            except BlockingIOError:
                self._wait(READ)

    def _is_in_loop(self) -> bool:
        """Return whether the caller is in the loop; have the system wait for just so long."""
        is_in_loop = self._waiting.is_in_loop()
        seconds = 0.0 if is_in_loop else self._seconds
        if self._raw.gettimeout() != seconds:  # it is a call of the system
            self._raw.settimeout(seconds)
        return is_in_loop

    def _wait(self, wanted: int) -> None:
        if not self._waiting.ready(self._raw.fileno(), wanted, self._seconds):
            raise TimeoutError("timed out")


class TLS:
    """The same with TLS."""

    def __init__(self, raw: Plain, context: ssl.SSLContext, host: str) -> None:
        """Shake hands. Blocks; raises `OSError`."""
        self._raw = raw
        self._come, self._go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._come, self._go, server_hostname=host)
        self._do(self._tls.do_handshake)
        self.settimeout, self.shutdown, self.close = raw.settimeout, raw.shutdown, raw.close

    def _do(self, work: Callable[..., T], *arguments: object) -> T:
        while True:
            try:
                done = work(*arguments)
            except ssl.SSLWantReadError:
                self._send()
                if not (come := self._raw.recv(1 << 16)):
                    raise ConnectionResetError("the connection was closed") from None
                self._come.write(come)
            else:
                self._send()
                return done

    def _send(self) -> None:
        if go := self._go.read():
            self._raw.sendall(go)

    def sendall(self, content: bytes) -> None:
        """Send all of it."""
        for start in range(0, len(content), 1 << 16):
            self._do(self._tls.write, content[start : start + (1 << 16)])

    def recv(self, size: int) -> bytes:
        """Return what is there, at most so many bytes; none at the end."""
        try:
            return self._do(self._tls.read, size)
        except (ssl.SSLZeroReturnError, ConnectionResetError):
            return b""


class Link(Connection):  # type: ignore[misc, unused-ignore]
    """A connection to a server. Raises redis-py's errors."""

    seconds = 1.0  # that one call may take
    slots: Sequence[tuple[int, int]] = ()  # first and last, that the server has; for `Servers.each`

    def __init__(
        self, at: Address, tls: ssl.SSLContext | None, login: dict[str, Any], waiting: Waiting
    ) -> None:  # fmt: skip
        """Name the server; nothing is asked yet."""
        super().__init__(host=at[0], port=at[1], protocol=2, client_name="esource", **login)
        self._tls = tls
        self._waiting = waiting

    def _connect(self) -> Plain | TLS:
        raw = self._waiting.apart(self._opened)
        plain = Plain(raw, self._waiting)
        plain.settimeout(self.seconds)
        try:
            return TLS(plain, self._tls, self.host) if self._tls else plain
        except ssl.SSLCertVerificationError as failed:  # it does not become right by waiting
            raw.close()
            text = f"the certificate is not to be trusted: {failed.verify_message}"
            raise exceptions.AuthenticationError(text) from failed
        except BaseException:
            raw.close()
            raise

    def _opened(self) -> _socket.socket:
        error: OSError = OSError("no address")
        for family, kind, proto, _, at in _socket.getaddrinfo(
            self.host, self.port, 0, socket.SOCK_STREAM
        ):
            raw = _socket.socket(family, kind, proto)
            try:
                raw.settimeout(self.seconds)
                raw.connect(at)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return raw
            except OSError as failed:
                raw.close()
                error = failed
        raise error

    def within(self, seconds: float) -> "Link":
        """Have each call take so many seconds at most; connect, if it is not."""
        self.seconds = max(seconds, LEAST_SECONDS)
        self.connect()
        self._limit(self.seconds)
        return self

    def _limit(self, seconds: float) -> None:
        if raw := self._get_socket():
            raw.settimeout(seconds)

    def has(self, key: bytes) -> bool:
        """Return whether the server has a key, as far as is known."""
        if self.slots == [ALL]:
            return True
        slot = _slot(key)
        return any(first <= slot <= last for first, last in self.slots)

    def send(self, *command: object) -> None:
        """Send a command, of which the answer is to be heard."""
        self.send_packed_command(self.pack_commands([command]), check_health=False)

    def hear(self, seconds: float) -> list[Any] | None:
        """Return what comes next within so many seconds; None if nothing does."""
        self._limit(seconds)
        try:
            heard: list[Any] = self.read_response(disconnect_on_error=False)
        except exceptions.TimeoutError:
            return None
        return heard

    def close(self) -> None:
        """Close it; the next call opens it anew."""
        self.disconnect()

    def ask(self, *commands: Sequence[object]) -> list[Any]:
        """Return what is answered to commands that are sent together; raise the first error."""
        self.send_packed_command(self.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(self.read_response())
            except exceptions.ResponseError as error:
                answers.append(error)
        for answer in answers:
            if isinstance(answer, exceptions.ResponseError):
                raise answer
        return answers


class Servers:
    """The servers that a URL names: which one has a key, and connections to them."""

    def __init__(self, at: Where, seconds: float, waiting: Waiting = IN_THREADS) -> None:
        """Begin with what a URL says; nothing is asked yet. A call takes up to so many seconds."""
        self.at = at
        self._waiting = waiting
        self.counts = Counts()
        self._seconds = seconds
        self._reads = Patience("Valkey", seconds, self.counts)
        self._writes = Patience("Valkey", seconds, self.counts, writes=True)
        self._slots: list[tuple[int, int, Address]] = []  # first, last, and which server has them
        self._seen: set[Address] = set()
        self._idle: dict[Address, deque[Link]] = defaultdict(deque)

    # -- which server ----------------------------------------------------------------------

    def _find(self, seconds: float) -> list[tuple[int, int, Address]]:
        """Return which primary has which slots; without a cluster one has all of them."""
        slots = self._slots  # which another thread may forget at any time
        if not slots:
            if self.at.scheme == "cluster":
                slots = self._ask_any(_slots_of, seconds)
                self._seen = {address for _, _, address in slots}
            elif self.at.master:
                slots = [(*ALL, self._ask_any(self._master_of, seconds))]
            else:
                slots = [(*ALL, self.at.hosts[0])]
            self._slots = slots
        return slots

    def _ask_any(self, question: Callable[[Link], T], seconds: float) -> T:
        """Return what the first host says that knows, of the URL and, in a cluster, seen before."""
        login = self.at.sentinel_login if self.at.master else self.at.login
        last: Exception | None = None
        hosts = {*self.at.hosts, *self._seen}
        for host in random.sample(sorted(hosts), len(hosts)):
            link = Link(host, self.at.tls, login, self._waiting)
            try:
                return question(link.within(seconds / 2))
            except (exceptions.RedisError, OSError) as error:
                last = error
            finally:
                link.close()
        raise exceptions.ConnectionError(str(last))

    def _master_of(self, link: Link) -> Address:
        [found] = link.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.at.master))
        if not found:
            raise exceptions.ConnectionError("Sentinel knows no such master")
        return found[0].decode(), int(found[1])

    def _address_of(self, key: bytes, seconds: float) -> Address:
        slots = self._find(seconds)
        slot = _slot(key)
        for first, last, address in slots:
            if first <= slot <= last:
                return address
        self._slots = []
        raise exceptions.ConnectionError("no server has that slot")

    # -- calls -----------------------------------------------------------------------------

    def connect(self, address: Address, seconds: float) -> Link:
        """Return a new connection to a primary."""
        link = Link(address, self.at.tls, self.at.login, self._waiting)
        try:
            [role] = link.within(seconds).ask(("ROLE",))
            if role[0] != b"master":
                raise exceptions.ReadOnlyError("it is a replica")
        except BaseException:
            link.close()
            raise
        return link

    @contextmanager
    def _link(self, address: Address, seconds: float) -> Iterator[Link]:
        """Give a connection for one call; if it failed, all to that server are closed."""
        idle = self._idle[address]
        try:
            link = idle.pop()
        except IndexError:
            link = self.connect(address, seconds)
        try:
            yield link.within(seconds)
        except (exceptions.ResponseError, Short) as error:
            if isinstance(error, exceptions.ReadOnlyError):
                self._forget(address, link)
            else:
                idle.append(link)
            raise
        except BaseException:
            self._forget(address, link)
            raise
        if len(idle) < IDLE:
            idle.append(link)
        else:
            link.close()

    def _forget(self, address: Address, link: Link) -> None:
        """Close connections to a server."""
        link.close()
        with suppress(IndexError):
            while True:
                self._idle[address].pop().close()

    def call(
        self, key: bytes, work: Callable[[Link], T], asked: float | None = None,
        is_durable: bool = False,
    ) -> T:  # fmt: skip
        """Do some work, which may be done again, at the server that has a key.

        Tries for as long as there is time, since it was `asked` (see `Patience`). `is_durable`: it
        waits for replicas, too. Raises `StorageError`.
        """
        moving: Address | None = None  # a slot is being moved to it

        def once(seconds: float) -> T:
            nonlocal moving
            once_there, moving = moving, None
            with self._link(once_there or self._address_of(key, seconds), seconds) as link:
                if once_there:
                    link.ask(("ASKING",))
                return work(link)

        def heed(error: exceptions.AskError) -> None:
            nonlocal moving
            moving = error.node_addr

        return self._until_done(once, heed, self._writes if is_durable else self._reads, asked)

    def each(self, work: Callable[[Link], T]) -> list[T]:
        """Do some work, which may be done again, at each primary. Raises `StorageError`."""

        def once(seconds: float) -> list[T]:
            slots = defaultdict(list)
            for first, last, address in self._find(seconds):
                slots[address].append((first, last))
            done = []
            for address in sorted(slots):
                with self._link(address, seconds) as link:
                    link.slots = slots[address]
                    done.append(work(link))
            return done

        return self._until_done(once, _nothing, self._reads)

    def _until_done(
        self, once: Callable[[float], T], heed: Callable[[exceptions.AskError], None],
        patience: Patience, asked: float | None = None,
    ) -> T:  # fmt: skip
        def tried(deadline: float) -> T:
            # A server that says nothing is given half of the time, and then another is looked for.
            try:
                return once((deadline - time.monotonic()) / 2)
            except exceptions.OutOfMemoryError as error:
                raise StorageFull(f"Valkey: {said(error)}") from error
            except exceptions.RedisError as error:
                if "No space left" in str(error):
                    raise StorageFull(f"Valkey: {said(error)}") from error
                if not _is_over_soon(error):
                    raise StorageError(f"Valkey: {said(error)}") from error
                if isinstance(error, Short):
                    raise Unsafe(said(error)) from error
                if type(error) is exceptions.AskError:
                    heed(error)
                elif not isinstance(error, exceptions.TryAgainError):
                    self._slots = []  # another server may have the key now
                    raise Away(said(error)) from error
                raise Again(said(error)) from error

        return patience.call(tried, asked)

    def address_of(self, key: bytes) -> Address:
        """Return which server has a key."""
        return self._until_done(
            lambda seconds: self._address_of(key, seconds), _nothing, self._reads
        )

    def warm_up(self) -> None:
        """Make some connections to each primary. A failure is no matter."""
        with suppress(exceptions.RedisError, OSError), ExitStack() as stack:
            for address in {address for _, _, address in self._find(self._seconds / 2)}:
                for _ in range(WARM):
                    stack.enter_context(self._link(address, self._seconds / 2))

    def close(self) -> None:
        """Let go of all idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


def _nothing(error: exceptions.AskError) -> None:
    """Do nothing about a slot that is being moved: no key was asked for."""


@lru_cache(1 << 17)
def _slot(key: bytes) -> int:
    slot: int = key_slot(key)
    return slot


def _is_over_soon(error: Exception) -> bool:
    if isinstance(error, exceptions.AuthenticationError):
        return False
    return isinstance(error, AWAY) or str(error).startswith(AWAY_CODES)


def _slots_of(link: Link) -> list[tuple[int, int, Address]]:
    [slots] = link.ask(("CLUSTER", "SLOTS"))
    if not slots:
        raise exceptions.ConnectionError("the cluster has no slots yet")
    return [
        (first, last, (host.decode() if host else link.host, port))
        for first, last, (host, port, *_), *_ in slots
    ]


def said(error: Exception) -> str:
    """Return what a server, or the system, has said: one line."""
    return " ".join(str(error).split())

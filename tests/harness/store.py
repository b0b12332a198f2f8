"""Where a hub has its channels, as a test sees them beside it: a folder, or an engine.

`pytest --store NAME` says which of them a hub gets that does not say so itself. Each hub has one of
its own. Engines are real servers, which are started once for each process of the tests; what a hub
has left there is removed before the next one gets it. They are imported here only then.
"""

import atexit
import itertools
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from esource.log.engines import EngineLogs

FILES, POSTGRESQL, VALKEY = STORES = ("files", "postgresql", "valkey")
SECONDS = 30.0  # for a call of an engine
AT_ONCE = 16  # blocks that are appended
SHARES = 5


class Store(Protocol):
    """The channels of one hub."""

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables by which a hub finds it."""

    def has(self, name: str) -> bool:
        """Return whether there is a channel."""

    def read(self, name: str) -> bytes:
        """Return all bytes of a channel; none if there is none."""

    def put(self, name: str, rows: bytes) -> None:
        """Append rows as another program does, or another hub."""

    def take_away(self, name: str) -> None:
        """Let a channel be gone, so that its next rows are the first of another one."""

    def release(self) -> None:
        """Let the next hub have it."""


class Folder:
    """A folder."""

    def __init__(self, path: Path) -> None:
        """Name it; nothing is made yet."""
        self.path = path

    @property
    def settings(self) -> dict[str, str]:
        return {"ESOURCE_DIR": str(self.path)}

    def file(self, name: str) -> Path:
        """Return the path of a channel's file."""
        return self.path / f"{name}.tsv"

    def has(self, name: str) -> bool:
        return self.file(name).exists()

    def read(self, name: str) -> bytes:
        return self.file(name).read_bytes() if self.has(name) else b""

    def put(self, name: str, rows: bytes) -> None:
        self.path.mkdir(exist_ok=True)
        with self.file(name).open("ab") as file:
            file.write(rows)

    def take_away(self, name: str) -> None:
        aside = self.path.with_name("aside")
        aside.mkdir(exist_ok=True)
        self.file(name).rename(aside / f"{len(list(aside.iterdir()))}.tsv")

    def release(self) -> None:
        """Do nothing: it is taken away with the rest of the test's."""


class OnEngine:
    """An engine of its own, or a database of one."""

    def __init__(self, url: str) -> None:
        """Name it; nothing is asked yet."""
        self.url = url

    @property
    def settings(self) -> dict[str, str]:
        return {"ESOURCE_DIR": "", "ESOURCE_STORE": self.url}

    @cached_property
    def logs(self) -> "EngineLogs":
        """All of its logs, as another hub has them."""
        from esource.log.engines import logs_of

        logs = logs_of(self.url, SECONDS)
        atexit.register(logs.close)
        logs.hold(lambda: None)
        return logs

    def has(self, name: str) -> bool:
        return name in self.logs.names()

    def read(self, name: str) -> bytes:
        log = self.logs.open(name)
        return log.pread(log.start, log.end - log.start)

    def put(self, name: str, rows: bytes) -> None:
        from esource.log.blocks import pieces

        log, blocks = self.logs.open(name), pieces(rows)
        while some := list(itertools.islice(blocks, AT_ONCE)):
            log.append(None, some)
        self.logs.tell([log])

    def take_away(self, name: str) -> None:
        self.logs.remove(name)

    def release(self) -> None:
        """Do nothing: nothing else made it."""


class Pooled(OnEngine):
    """One that the hubs of this process have one after the other."""

    free: ClassVar[list["Pooled"]] = []
    until_the_end = ExitStack()

    def release(self) -> None:
        for name in self.logs.names():
            self.logs.remove(name)
        self.free.append(self)

    @classmethod
    def taken(cls, kind: str) -> "Pooled":
        """Return one that no hub has; it is made if there is none."""
        if cls.free:
            return cls.free.pop()
        if kind == POSTGRESQL:
            from tests.harness.postgres import shared_postgres

            return cls(shared_postgres().database())
        from tests.harness.valkey import valkey

        return cls(cls.until_the_end.enter_context(valkey()).url)


atexit.register(Pooled.until_the_end.close)
chosen = FILES  # for hubs that do not say


def choose(kind: str) -> None:
    """Say which of `STORES` a hub gets that does not say."""
    global chosen
    chosen = kind


def is_of_share(test: str, kind: str) -> bool:
    """Return whether a test, by its node id, is of the fifth that is run on a kind of store.

    Each kind has another one: most of what can be wrong with an engine, all have in common.
    """
    return zlib.crc32(test.encode()) % SHARES == STORES.index(kind)


def store_of(folder: Path, settings: Mapping[str, str]) -> Store:
    """Return where a hub with a folder has its channels; `settings` are its own."""
    if url := settings.get("ESOURCE_STORE"):
        return OnEngine(url)
    if chosen == FILES or "ESOURCE_DIR" in settings:
        return Folder(folder)
    return Pooled.taken(chosen)

"""Logs in Valkey or Redis, 7.2 and later: one server, one with Sentinels, or a cluster.

    esource:{orders}            a hash: the head of the channel
    esource:{orders}:<number>   a stream, of a generation: an entry is a block, its id <end>-<nonce>
    esource:{orders}:<number>:index   a hash: <kind>/<size>/<start> is the line of a part,
                                      <kind>/<size>/<start>/<n> a piece of its hashes

All are in one slot of a cluster. A script appends, and no other command runs meanwhile: the order
of the scripts is the order of the appends. What is written is as durable as the append-only file of
the server makes it, and, if the URL has `wait=N`, in the memory of N replicas, too (`WAIT`); with
`waitaof=N` on their disks (`WAITAOF`).

No hub shows what fewer replicas have: one that finds rows of another hub writes something itself,
and has that waited for, since `WAIT` is for the writes of the connection that asks.
"""
# ruff: noqa: D102 -- what the calls of logs and engines promise, the contracts say

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions

from esource.errors import StartError, StorageError, StorageFull
from esource.log import Kept, Log, Notice, Summary, WithoutFiles
from esource.log.blocks import (
    BLOCK_BYTES,
    KINDS,
    Answer,
    BlockLog,
    Cache,
    Entry,
    Head,
    heard,
    heed,
    new_number,
    told,
)
from esource.log.index import Kind, Part, Span
from esource.log.patience import PAUSE_SECONDS, Untried, cause
from esource.log.valkey_scripts import (
    APPEND,
    CREATE,
    HEAD,
    LEARN,
    READ,
    REMOVE,
    REWRITE,
    TRIM,
    Script,
)
from esource.log.valkey_servers import Link, Servers, Short, where
from esource.log.waiting import IN_THREADS, Waiting
from esource.rows import tsv
from esource.rules import Rule, rule_of

OLDEST = (7, 2)
NEWS = b"esource"  # the channel of notices
NOTICE_BYTES = 1 << 16
AT_ONCE = 1000  # channels that are asked about, or named, together
HASHES_BYTES = 1 << 14  # of a piece, of which a search reads a few
TRIM_BYTES = 1 << 26  # that are removed at a time, about
REWRITE_BLOCKS = 64  # that are copied at a time
REWRITE_SECONDS = 600  # after which a copy that was not finished is gone
MAY_BE_STORED = "the event may have been stored: repeat it with unique=1"
FIELDS = ("generation", "start", "first", "end", "nonce", "erasures", "modified")


def _key(name: str, generation: int = 0) -> bytes:
    """Return the key of a channel's hash, or of the stream of a generation."""
    return f"esource:{{{name}}}{f':{generation}' if generation else ''}".encode()


def _keys(name: str, generation: int) -> list[bytes]:
    """Return the keys of a channel: the hash, the stream of a generation, and its index."""
    stream = _key(name, generation)
    return [_key(name), stream, stream + b":index"]


def _part(kind: Kind, part: Part) -> str:
    """Return the field of a part in an index."""
    return f"{KINDS[kind]}/{part.size}/{part.start}"


def _known(head: Head) -> tuple[int, int, int]:
    return head.generation, head.end, head.nonce


def _head(fields: Sequence[bytes | None]) -> Head:
    """Return a head of its fields, in the order of `FIELDS`."""
    if fields[0] is None:
        return Head()
    generation, start, begin, end, nonce, erasures, modified = (
        int(field or 0) for field in fields[:7]
    )
    return Head(generation, start, begin, end, nonce, erasures, modified / 1e6)


class Valkey(WithoutFiles):
    """The logs in one server, or cluster (see `esource.log.Logs`), and their engine."""

    def __init__(
        self, url: str, seconds: float, rules: Sequence[Rule] = (), waiting: Waiting = IN_THREADS
    ) -> None:  # fmt: skip
        """Name the servers; nothing is asked yet. A call takes up to so many seconds.

        Raises `StartError`.
        """
        self._rules = rules
        self._seconds = seconds
        self._at = where(url)
        self._servers = Servers(self._at, seconds, waiting)
        self.counts = self._servers.counts
        self._cache = Cache()
        self._token = f"{new_number():x}"  # by which a hub knows its own notices
        self._ears: Link | None = None
        self._is_pinged = False
        self._about = ""

    @property
    def shared(self) -> "Valkey":
        return self

    def place(self) -> str:
        at = ", ".join(f"{host}:{port}" for host, port in self._at.hosts)
        master = f"{self._at.master} of " if self._at.master else ""
        wait, waitaof = self._at.wait, self._at.waitaof
        return f"{self._about or 'Valkey'}, {master}{at}, wait={wait}, waitaof={waitaof}"

    def close(self) -> None:
        """Let go of all connections."""
        self._servers.close()
        self._unsubscribe()

    # -- what is durable -----------------------------------------------------------------

    @property
    def _waits(self) -> bool:
        return bool(self._at.wait or self._at.waitaof)

    def _durability(self, link: Link) -> list[tuple[object, ...]]:
        """Return what asks for how many replicas have what the connection has written."""
        milliseconds = max(1, int(link.seconds * 1000 / 3))
        commands: list[tuple[object, ...]] = []
        # WAITAOF alone takes a second: a replica says that it has synced once in a second, unless
        # it is asked after what it has received.
        if self._waits:
            commands.append(("WAIT", max(self._at.wait, self._at.waitaof), milliseconds))
        if self._at.waitaof:
            commands.append(("WAITAOF", 1, self._at.waitaof, milliseconds))
        return commands

    def _heed(self, answers: Sequence[Any]) -> None:
        """Raise `Short` if fewer replicas than asked for have it."""
        if answers and answers[0] < (wanted := max(self._at.wait, self._at.waitaof)):
            raise Short(f"{answers[0]} of {wanted} replicas have it")
        if answers[1:] and (answers[1][0] < 1 or answers[1][1] < self._at.waitaof):
            local, there = answers[1]
            text = f"{local} of 1 primary and {there} of {self._at.waitaof} replicas"
            raise Short(f"{text} have synced it")

    def _write(
        self, name: str, script: Script, keys: list[bytes], *arguments: object,
        asked: float | None = None,
    ) -> list[Any]:  # fmt: skip
        """Run a script that writes; return its one answer once that is durable."""

        def once(link: Link) -> list[Any]:
            answer, *waited = script.run(link, keys, arguments, *self._durability(link))
            self._heed(waited)
            return [answer]

        return self._servers.call(_key(name), once, asked, is_durable=True)

    # -- an engine -----------------------------------------------------------------------

    def head(self, name: str, known: Head, asked: float | None = None) -> Answer:
        keys = [_key(name), _key(name, known.generation)]

        def once(link: Link) -> tuple[list[Any], int, bytes | None]:
            [found] = HEAD.run(link, keys, (*_known(known), 0))
            return found  # type: ignore[no-any-return]

        fields, goes_on, is_new = self._servers.call(keys[0], once, asked)
        if is_new is not None and self._waits:
            [(fields, goes_on, _)] = self._write(name, HEAD, keys, *_known(known), 1, asked=asked)
        return Answer(_head(fields), bool(goes_on))

    def append(self, name: str, known: Head, entry: Entry) -> Answer:
        generation = known.generation or new_number()
        began = time.monotonic()
        try:
            [(fields, goes_on, start)] = self._write(
                name, APPEND, [_key(name), _key(name, generation)], *_known(known), generation,
                "" if entry.expected is None else entry.expected, entry.least, entry.greatest,
                entry.newest_id, entry.begin, entry.nonce, *entry.blocks,
                asked=entry.asked,
            )  # fmt: skip
        except (StorageFull, Untried):
            raise
        except StorageError as error:
            self.counts.unknown += 1
            raise error.with_text(f"{error.text}; {MAY_BE_STORED}") from error
        self.counts.appends += 1
        self.counts.seconds += time.monotonic() - began
        return Answer(_head(fields), bool(goes_on), None if start is None else int(start))

    def read(self, name: str, head: Head, offset: int, stop: int) -> tuple[int, bytes]:
        keys = [_key(name), _key(name, head.generation)]
        arguments = (*_known(head), offset, stop, BLOCK_BYTES)
        [found] = self._servers.call(keys[0], lambda link: READ.run(link, keys, arguments))
        return (int(found[0]), b"".join(found[1:])) if found else (offset, b"")

    def lines(
        self, name: str, head: Head, spans: Sequence[Span]
    ) -> Sequence[Sequence[tuple[int, bytes]]]:
        parts = []
        for _, size, start, stop in spans:
            first = max(start, head.start - head.start % size)
            parts.append(range(first + -first % size, min(stop, head.end), size))
        fields = [
            _part(span.kind, Part(span.size, each))
            for span, some in zip(spans, parts, strict=True) for each in some
        ]  # fmt: skip
        line = iter(self._indexed(name, head, fields))
        return [
            [(each, found) for each in some if (found := next(line)) is not None] for some in parts
        ]

    def hashes(
        self, name: str, head: Head, wanted: Sequence[tuple[Part, int, int]]
    ) -> Sequence[bytes | None]:
        spans = [
            range(place // HASHES_BYTES, -(-(place + size) // HASHES_BYTES))
            for _, place, size in wanted
        ]
        fields = [
            f"{_part('ids', part)}/{number}"
            for (part, _, _), span in zip(wanted, spans, strict=True) for number in span
        ]  # fmt: skip
        each = iter(self._indexed(name, head, fields))
        found: list[bytes | None] = []
        for (_, place, size), span in zip(wanted, spans, strict=True):
            stored = [next(each) for _ in span]
            piece = b"".join(some for some in stored if some is not None)
            first = place % HASHES_BYTES
            found.append(None if None in stored else piece[first : first + size])
        return found

    def _indexed(self, name: str, head: Head, fields: Sequence[str]) -> list[bytes | None]:
        """Return what the index has in each of these fields."""
        hash, _, index = _keys(name, head.generation)
        some = [fields[at : at + AT_ONCE] for at in range(0, len(fields), AT_ONCE)]

        def once(link: Link) -> list[bytes | None]:
            return [field for each in some for field in link.ask(("HMGET", index, *each))[0]]

        return self._servers.call(hash, once) if some else []

    def learn(
        self, name: str, known: Head, kind: Kind, part: Part, line: bytes, hashes: bytes
    ) -> None:
        keys = _keys(name, known.generation)
        some = [hashes[at : at + HASHES_BYTES] for at in range(0, len(hashes), HASHES_BYTES)]
        arguments = (*_known(known), known.erasures, KINDS[kind], *part, line, *some)
        self._servers.call(keys[0], lambda link: LEARN.run(link, keys, arguments))

    def trim(self, name: str, rule: Rule) -> int:
        return self._trim(name, rule, TRIM_BYTES, 1)

    def trimmable(self, name: str, rule: Rule) -> int:
        return self._trim(name, rule, sys.maxsize, 0)

    def _trim(self, name: str, rule: Rule, limit: int, removes: int) -> int:
        """Return how many bytes go, about so many at most; remove them, or not."""
        head = self.head(name, Head()).head
        keys = _keys(name, head.generation)
        age, size = rule.age or "", rule.size or ""
        [removed] = self._write(name, TRIM, keys, *_known(head), age, size, limit, removes)
        return int(removed)

    def create(self, name: str, start: int) -> None:
        generation = new_number()
        keys = [_key(name), _key(name, generation)]
        [is_made] = self._write(name, CREATE, keys, generation, 0, 0, start)
        if not is_made:
            raise StorageError(f"{name} is there already")

    def date(self, name: str, start: int, end: int, modified: float) -> None:
        self._rewrite(name, start, end, round(modified * 1e6), "", "", "")

    def erase(self, name: str, offset: int, row: bytes, by: str, reason: str) -> None:
        id = tsv.id_of(row).decode(errors="replace")
        note = {"offset": offset, "size": len(row), "id": id, "by": by, "reason": reason}
        self._rewrite(name, 0, -1, 0, offset, row, json.dumps(note))

    def _rewrite(self, name: str, *change: object) -> None:
        head = self.head(name, Head()).head
        hash, stream, index = _keys(name, head.generation)
        keys = [hash, stream, index, stream + b":%d" % new_number(), hash + b":erasures"]
        at = head.start if head.start < head.end else -1
        while at >= 0:
            [at] = self._write(
                name, REWRITE, keys, *_known(head), at, REWRITE_BLOCKS, REWRITE_SECONDS, *change,
                head.start,
            )  # fmt: skip

    def remove(self, name: str) -> None:
        head = self.head(name, Head()).head
        keys = _keys(name, head.generation)
        self._write(name, REMOVE, keys, *_known(head))

    # -- logs ----------------------------------------------------------------------------

    def hold(self, waiting: Callable[[], None]) -> None:
        """See whether the servers keep what they have acknowledged. Several hubs hold them."""
        try:
            problems = self._problems()
        except StorageError as error:
            raise StartError(f"ESOURCE_STORE: {cause(error)}") from error
        if problems:
            raise StartError("ESOURCE_STORE: " + "; ".join(problems))

    def open(self, name: str) -> Log:
        head = self.head(name, Head()).head
        return BlockLog(name, self, self._cache, head, rule_of(self._rules, name))

    def names(self) -> list[str]:
        start, end = _key("\n").split(b"\n")

        def once(link: Link) -> set[str]:
            found: set[str] = set()
            cursor: bytes | int = 0
            while True:
                [(cursor, keys)] = link.ask(
                    ("SCAN", cursor, "MATCH", start + b"*" + end, "COUNT", AT_ONCE)
                )
                found |= {key[len(start) : -len(end)].decode() for key in keys}
                if not int(cursor):
                    return found

        return sorted(set().union(*self._servers.each(once)))

    def _fields(self, names: Sequence[str], *fields: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield what the hashes of channels have, of those that are there. Each step blocks."""
        for start in range(0, len(names), AT_ONCE):
            some = {_key(name): name for name in names[start : start + AT_ONCE]}

            def once(link: Link, some: dict[bytes, str] = some) -> list[tuple[str, list[Any]]]:
                keys = [key for key in some if link.has(key)]
                found = link.ask(*(("HMGET", key, *fields) for key in keys)) if keys else []
                return [(some[key], each) for key, each in zip(keys, found, strict=True) if each[0]]

            for found in self._servers.each(once):
                yield from found

    def summaries(self, names: Sequence[str]) -> list[Summary]:
        return sorted(
            Summary(name, int(end), newest or b"", int(modified) / 1e6)
            for name, (end, newest, modified) in self._fields(names, "end", "newest", "modified")
        )

    def kept(self) -> Iterator[Kept]:
        for name, (start, end, modified) in self._fields(self.names(), "start", "end", "modified"):
            yield Kept(name, int(end) - int(start), int(modified) / 1e6)

    def due(self, now: float) -> list[str]:
        names = [name for name in self.names() if rule_of(self._rules, name)] if self._rules else []
        return [
            name for name, (start, end, oldest) in self._fields(names, "start", "end", "oldest")
            if (rule := rule_of(self._rules, name))
            and ((rule.age and oldest and now - int(oldest) / 1e6 > rule.age)
                 or (rule.size and int(end) - int(start) > rule.size))
        ]  # fmt: skip

    def problems(self) -> list[str]:
        try:
            return self._problems()
        except StorageError as error:
            return [error.text]

    def _problems(self) -> list[str]:
        found = self._servers.each(_settings)
        self._about = _about(found[0])
        wanted = max(self._at.wait, self._at.waitaof)
        return sorted({text for each in found for text in _refused(each, wanted)})

    # -- other hubs ----------------------------------------------------------------------

    def warm_up(self) -> None:
        self._servers.warm_up()

    def tell(self, logs: Sequence[Log]) -> None:
        commands = [("SPUBLISH", NEWS, text) for text in told(self._token, logs, NOTICE_BYTES)]
        with suppress(StorageError):  # then they look for themselves
            self._servers.call(NEWS, lambda link: link.ask(*commands))

    def listen(self, seconds: float) -> list[Notice] | None:
        try:
            if self._ears is None:
                address = self._servers.address_of(NEWS)
                self._ears = self._servers.connect(address, self._seconds)
                self._ears.ask(("SSUBSCRIBE", NEWS))
                self._is_pinged = False
                self.counts.gaps += 1
                return None  # of what came before nothing is known
            return self._heard(self._ears, seconds)
        except (exceptions.RedisError, StorageError):
            self._unsubscribe()
            time.sleep(random.uniform(*PAUSE_SECONDS))
            return []

    def _heard(self, ears: Link, seconds: float) -> list[Notice]:
        """Return what others have told next; raise if the connection is dead."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            kind, *about = ears.hear(left) or [b""]
            if kind == b"pong":
                self._is_pinged = False
            elif kind == b"smessage":
                if notices := heard(self._token, about[1].decode()):
                    self.counts.notices += 1
                    return notices
            elif kind:
                raise exceptions.ConnectionError("another server has the notices now")
        if self._is_pinged:
            raise exceptions.ConnectionError("the server says nothing")
        ears.send("PING")  # of which the answer is there at the end of the next call
        self._is_pinged = True
        return []

    def _unsubscribe(self) -> None:
        if self._ears:
            self._ears.close()
        self._ears = None

    def heed(self, log: Log, notices: Sequence[Notice]) -> bool:
        return heed(log, notices)

    def grown(self, logs: Sequence[Log]) -> list[Log]:
        heads = {name: _head(head) for name, head in self._fields([x.name for x in logs], *FIELDS)}
        return [
            log for log in logs
            if isinstance(log, BlockLog) and not log.is_at(heads.get(log.name, Head()))
        ]  # fmt: skip


def _settings(link: Link) -> dict[str, str]:
    """Return what a server says of itself."""
    [text] = link.ask(("INFO",))
    found = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    with suppress(exceptions.ResponseError):  # which may be forbidden
        [(_, value)] = link.ask(("CONFIG", "GET", "appendfsync"))
        found["appendfsync"] = value.decode()
    return found


def _about(info: dict[str, str]) -> str:
    version = info.get("valkey_version")
    name = f"Valkey {version}" if version else f"Redis {info.get('redis_version')}"
    means = {
        "always": "on the disk of the server",
        "everysec": "on the disk of the server a second later",
        None: "when it is on the disk of the server is not known: CONFIG is forbidden",
    }
    fsync = info.get("appendfsync")
    return f"{name}, appendfsync {fsync or '?'} ({means.get(fsync, '')})"


def _refused(info: dict[str, str], wanted: int) -> Iterator[str]:
    """Yield why a server may lose what it has acknowledged, or cannot do."""
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        yield f"Redis {info['redis_version']} is too old: 7.2 or later is needed, or Valkey"
    if info.get("maxmemory_policy") != "noeviction":
        policy = info.get("maxmemory_policy")
        yield f"the server has maxmemory-policy {policy}, and may lose events: noeviction is needed"
    if info.get("aof_enabled") != "1":
        yield "the server has appendonly no, and may lose events"
    if info.get("appendfsync") == "no":
        yield "the server has appendfsync no, and may lose events"
    replicas = sum(
        "state=online" in value for name, value in info.items() if name.startswith("slave")
    )
    if replicas < wanted:
        yield f"{replicas} of {wanted} replicas are connected"

"""The engine in Valkey: what is acknowledged, what is shown, and what is refused."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esource.errors import StartError, StorageError, StorageFull
from esource.log import Appended, Log, Moved, Notice, Replaced
from esource.log.blocks import BLOCK_BYTES, READ_BYTES, Entry, Head, new_number
from esource.log.index import Part
from esource.log.valkey import Valkey
from esource.log.valkey_servers import Servers, where
from esource.rules import Rule
from tests.harness.machine import ROOT, do_without, needs
from tests.harness.valkey import Server, encrypted_valkey, replicated, shared_valkey, valkey
from tests.harness.waiting import eventually, together

ROWS = b"1\t\tone\n2\t\ttwo\n"
HASH = "esource:{orders}"


@pytest.fixture
def server() -> Server:
    """A server that tests share, empty."""
    server = shared_valkey()
    server.do("FLUSHALL")
    return server


@pytest.fixture
def logs(server: Server) -> Iterator[Valkey]:
    logs = Valkey(server.url, 5)
    logs.hold(lambda: None)
    yield logs
    logs.close()


@pytest.fixture
def other(server: Server) -> Iterator[Valkey]:
    """Another hub."""
    logs = Valkey(server.url, 5)
    yield logs
    logs.close()


def appended(log: Log, *rows: bytes) -> int:
    done = log.append(None, list(rows))
    assert isinstance(done, Appended), done
    return done.start


def content(log: Log) -> bytes:
    return log.pread(log.begin, log.end - log.begin)


def entry(rows: bytes, nonce: int = 0) -> Entry:
    return Entry([rows], None, b"", b"", b"", 0, nonce or new_number())


# -- appending ---------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 3, 64])
def test_an_append_that_is_tried_again_finds_itself(
    logs: Valkey, other: Valkey, others: int
) -> None:
    appended(logs.open("orders"), ROWS)
    known = logs.head("orders", Head()).head
    mine = entry(b"mine\t\tx\n")
    assert logs.append("orders", known, mine).start == known.end
    log = other.open("orders")
    for number in range(others):
        appended(log, b"%d\t\ttheirs\n" % number)
    again = logs.append("orders", known, mine)
    assert (again.start, again.goes_on) == (known.end, True)
    assert content(other.open("orders")).count(b"mine") == 1


def test_the_first_append_of_a_channel_finds_itself(
    logs: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first try is lost, and with it the generation that was made."""
    mine = entry(ROWS)
    call = logs._servers.call

    def twice(*about: Any, **how: Any) -> Any:
        call(*about, **how)
        return call(*about, **how)

    monkeypatch.setattr(logs._servers, "call", twice)
    assert logs.append("orders", Head(), mine).start == 0
    monkeypatch.undo()
    assert content(logs.open("orders")) == ROWS


def test_a_hub_that_is_far_behind_is_told_so_and_then_appends(logs: Valkey, other: Valkey) -> None:
    """Only so many blocks are looked through for an earlier try; before that nothing is done."""
    log = logs.open("orders")
    appended(log, ROWS)
    theirs = other.open("orders")
    for number in range(100):
        appended(theirs, b"%d\t\ttheirs\n" % number)
    moved = log.append(None, [b"mine\t\tx\n"])
    assert isinstance(moved, Moved)
    assert moved.end == theirs.end
    assert isinstance(log.append(moved.end, [b"mine\t\tx\n"]), Appended)
    assert content(log) == content(other.open("orders"))
    assert content(log).endswith(b"99\t\ttheirs\nmine\t\tx\n")


def test_a_script_that_the_server_forgets_is_loaded_again(server: Server, logs: Valkey) -> None:
    log = logs.open("orders")
    appended(log, ROWS)
    server.do("SCRIPT", "FLUSH")
    assert appended(log, b"3\t\tthree\n") == len(ROWS)
    server.do("SCRIPT", "FLUSH")
    assert content(logs.open("orders")) == ROWS + b"3\t\tthree\n"


def test_connections_that_are_killed_double_nothing(server: Server) -> None:
    """Neither do they lose what was acknowledged."""
    hubs = [Valkey(server.url, 10) for _ in range(2)]
    told: list[bytes] = []
    over = threading.Event()

    def write(number: int) -> None:
        log = hubs[number % 2].open("orders")
        for count in range(60):
            row = b"%d-%d\t\tx\n" % (number, count)
            while isinstance(log.append(None, [row]), Moved):
                log.refresh()
            told.append(row)

    def kill() -> None:
        while not over.is_set():
            server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            over.wait(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        together(4, write)
    finally:
        over.set()
        killer.join()
    rows = content(hubs[0].open("orders")).splitlines(keepends=True)
    assert sorted(rows) == sorted(told)
    for logs in hubs:
        logs.close()


def test_what_was_acknowledged_survives_the_kill_of_the_server() -> None:
    told: list[bytes] = []
    with valkey() as server:
        hubs = [Valkey(server.url, 10) for _ in range(4)]

        def write(number: int) -> None:
            log = hubs[number].open("orders")
            for count in range(200):
                row = b"%d-%d\t\tx\n" % (number, count)
                while isinstance(log.append(None, [row]), Moved):
                    log.refresh()
                told.append(row)

        def kill(number: int) -> None:
            for goal in (200, 500):
                eventually(lambda goal=goal: len(told) >= goal)  # type: ignore[misc]
                server.stop(signal.SIGKILL)
                server.start()

        together(5, lambda number: write(number) if number < 4 else kill(number))
        rows = content(hubs[0].open("orders")).splitlines(keepends=True)
        assert sorted(rows) == sorted(told)
        for logs in hubs:
            logs.close()


# -- reading -----------------------------------------------------------------------------------


def test_reads_are_bounded_by_bytes_and_long_rows_come_whole(logs: Valkey, other: Valkey) -> None:
    log = logs.open("orders")
    rows = b"".join(b"%d\t\t%b\n" % (n, b"x" * (n * 37 % 9000)) for n in range(1000))
    long = b"long\t\t" + b"y" * (READ_BYTES + 1000) + b"\n"
    for start in range(0, len(rows), 300_000):
        appended(log, rows[start : start + 300_000][: rows[start:].rfind(b"\n", 0, 300_000) + 1])
    appended(log, long, b"last\t\tz\n")
    head = logs.head("orders", Head()).head
    for offset in (0, 1, 200_000, 1_000_000, head.end - 1, head.end - len(long), head.end - 9):
        start, found = logs.read("orders", head, offset, offset + 1000)
        assert start <= offset < start + len(found)
        assert len(found) <= 2 * BLOCK_BYTES + len(long)
    assert logs.read("orders", head, head.end, head.end + 10)[1] == b""
    theirs = other.open("orders")
    assert content(theirs) == content(log)
    assert content(theirs).endswith(long + b"last\t\tz\n")
    assert theirs.pread(300_000, 700_000) == content(log)[300_000:1_000_000]


def test_a_log_never_reads_rows_of_another_history(server: Server, logs: Valkey) -> None:
    """A stale replica was promoted: it lacks the last rows, and gets others in their places."""
    log = logs.open("orders")
    appended(log, ROWS)
    stale = {key: server.do("DUMP", key) for key in server.do("KEYS", "*")}
    appended(log, b"3\t\tis lost\n")
    lost, fresh = log, logs.open("orders")
    assert content(lost) == ROWS + b"3\t\tis lost\n"
    for key, value in stale.items():
        server.do("RESTORE", key, 0, value, "REPLACE")
    assert fresh.pread(len(ROWS), 100) == b"", "neither are they there"
    appended(logs.open("orders"), b"3\t\tis new.\n")
    assert fresh.pread(len(ROWS), 100) == b""
    assert not log.is_current()
    assert logs.grown([log]) == [log]
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert content(change.by) == ROWS + b"3\t\tis new.\n"
    assert content(logs.open("orders")) == ROWS + b"3\t\tis new.\n"
    assert content(lost)[: len(ROWS)] == ROWS, "what was read can still be read"


def test_rows_that_a_refused_append_was_told_of_and_are_then_lost_are_forgotten(
    server: Server, logs: Valkey, other: Valkey
) -> None:
    log = logs.open("orders")
    appended(log, ROWS)
    stale = {key: server.do("DUMP", key) for key in server.do("KEYS", "*")}
    theirs = other.open("orders")
    appended(theirs, b"3\t\tis lost\n")
    assert isinstance(log.append(log.end, [b"no\t\t\n"]), Moved)
    assert log.pread(len(ROWS), 100) == b"3\t\tis lost\n"
    for key, value in stale.items():
        server.do("RESTORE", key, 0, value, "REPLACE")
    appended(other.open("orders"), b"3\t\tis new.\n")
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert change.by.pread(len(ROWS), 100) == b"3\t\tis new.\n"


# -- replicas ----------------------------------------------------------------------------------


def test_what_fewer_replicas_have_is_neither_acknowledged_nor_shown() -> None:
    with replicated(1) as (primary, replica):
        one, two = (Valkey(f"{primary.url}?wait=1", 1) for _ in range(2))
        one.hold(lambda: None)
        log, theirs = one.open("orders"), two.open("orders")
        appended(log, ROWS)
        theirs.refresh()
        replica.send(signal.SIGSTOP)
        with pytest.raises(StorageError, match=r"0 of 1 replicas have it; the event may have been"):
            log.append(None, [b"3\t\tmay be lost\n"])
        assert log.end == len(ROWS)
        assert two.grown([theirs]) == [theirs]
        for look in (
            lambda: theirs.append(len(ROWS), [b"3\t\trefused\n"]),
            theirs.refresh, lambda: two.open("orders"), lambda: theirs.append(None, []),
        ):  # fmt: skip
            with pytest.raises(StorageError, match="0 of 1 replicas have it"):
                look()
        assert theirs.end == len(ROWS)
        threading.Timer(0.3, replica.send, [signal.SIGCONT]).start()
        theirs.refresh()  # it waits until the replica has them
        assert content(theirs) == ROWS + b"3\t\tmay be lost\n"
        assert replica.do("HGET", HASH, "end") == b"%d" % theirs.end
        for logs in (one, two):
            logs.close()


def test_an_append_waits_for_the_disk_of_a_replica_for_no_second() -> None:
    with replicated(1) as (primary, replica):
        logs = Valkey(f"{primary.url}?wait=1&waitaof=1", 5)
        logs.hold(lambda: None)
        log = logs.open("orders")
        began = time.monotonic()
        for number in range(10):
            appended(log, b"%d\t\tx\n" % number)
        assert time.monotonic() - began < 5  # alone it takes a second each
        replica.stop(signal.SIGKILL)
        assert logs.problems() == ["0 of 1 replicas are connected"]
        logs.close()


# -- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["age", "size"])
def test_the_oldest_blocks_are_removed_and_never_one_that_a_rule_keeps(
    server: Server, logs: Valkey, other: Valkey, by: str
) -> None:
    log = logs.open("orders")
    starts = [appended(log, b"%d\t\t%b\n" % (n, b"x" * (n % 7 * 50))) for n in range(40)]
    rows = content(log)
    rule = Rule("*", age=3600) if by == "age" else Rule("*", size=len(rows) - starts[25])
    if by == "age":
        logs.date("orders", 0, starts[25], time.time() - 3700)
    log.refresh()
    assert logs.trim("orders", Rule("*", age=3800, size=len(rows))) == 0
    logs = Valkey(server.url, 5, [rule])
    assert logs.due(time.time()) == ["orders"]
    assert [logs.trimmable("orders", rule) for _ in range(2)] == [starts[25]] * 2
    assert logs.trim("orders", rule) == starts[25]
    assert logs.trimmable("orders", rule) == 0
    assert logs.trim("orders", rule) == 0
    assert logs.due(time.time()) == []
    theirs = other.open("orders")
    assert (theirs.start, theirs.begin, content(theirs)) == (
        starts[25],
        starts[25],
        rows[starts[25] :],
    )
    assert log.refresh() is None
    assert appended(log, b"more\t\tx\n") == len(rows)
    assert [kept.size for kept in logs.kept()] == [log.end - starts[25]]
    logs.date("orders", 0, log.end, time.time() - 3700)
    assert logs.trim("orders", Rule("*", age=3600, size=1)) == len(rows) - starts[25]
    assert content(other.open("orders")) == b"more\t\tx\n", "the last block stays"
    logs.close()


def test_a_row_is_overwritten_and_that_is_recorded(
    server: Server, logs: Valkey, other: Valkey
) -> None:
    log = logs.open("orders")
    for number in range(200):  # more than are copied at a time
        appended(log, b"%d\t\tx\n" % number, b"secret\t\tno\n")
    rows = content(log)
    place = rows.rindex(b"secret\t\tno\n")
    logs.erase("orders", place, b"secret\t\t--\n", "me", "they asked")
    wanted = rows[:place] + b"secret\t\t--\n" + rows[place + 11 :]
    assert content(other.open("orders")) == wanted
    assert log.refresh() is None
    assert content(log) == wanted
    assert appended(log, b"more\t\tx\n") == len(rows)
    [note] = server.do("LRANGE", f"{HASH}:erasures", 0, -1)
    assert b'"id": "secret", "by": "me", "reason": "they asked"' in note
    assert len(server.do("KEYS", "*")) == 3


def test_a_copy_that_was_broken_off_takes_no_place(
    logs: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a step is lost: its second try must not begin a copy without the first rows."""
    log = logs.open("orders")
    for number in range(100):
        appended(log, b"%d\t\tx\n" % number)
    rows, call = content(log), logs._servers.call
    calls = 0

    def lossy(*about: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 3):  # the look at the head is the first
            call(*about, **how)
        return call(*about, **how)

    monkeypatch.setattr(logs._servers, "call", lossy)
    with pytest.raises(StorageError, match="broken off"):
        logs.date("orders", 0, len(rows), 1.0)
    monkeypatch.undo()
    assert content(logs.open("orders")) == rows


def test_a_channel_begins_anywhere_and_is_removed(server: Server, logs: Valkey) -> None:
    logs.create("orders", 1000)
    with pytest.raises(StorageError, match="there already"):
        logs.create("orders", 5)
    log = logs.open("orders")
    assert (log.start, log.end) == (1000, 1000)
    assert appended(log, ROWS) == 1000
    logs.date("orders", 1000, log.end, 86400.0)
    assert logs.open("orders").modified == 86400.0
    logs.remove("orders")
    assert (logs.names(), server.do("DBSIZE")) == ([], 0)
    assert content(log) == b""
    assert isinstance(log.refresh(), Replaced)


def test_all_names_are_found_and_no_other_keys(server: Server, logs: Valkey) -> None:
    names = sorted(f"channel-{n}" for n in range(2500))
    logs.create("pattern", 7)
    fill = "for _, n in ipairs(ARGV) do redis.call('COPY', KEYS[1], 'esource:{' .. n .. '}') end"
    server.do("EVAL", fill, 1, "esource:{pattern}", *names)
    logs.remove("pattern")
    server.do("SET", "esource:other", 1)
    appended(logs.open(names[3]), ROWS)
    assert logs.names() == names
    assert len(list(logs.kept())) == 2500
    assert [s[:3] for s in logs.summaries([names[3], "gone", names[4]])] == [
        (names[3], 7 + len(ROWS), b"2"), (names[4], 7, b""),
    ]  # fmt: skip


# -- notices -----------------------------------------------------------------------------------


def test_a_hub_hears_others_and_not_itself(logs: Valkey, other: Valkey) -> None:
    assert logs.listen(5) is None, "what came before is not known"
    logs.tell([logs.open("mine")])
    other.tell([other.open("orders"), other.open("invoices")])
    assert logs.listen(5) == [Notice("orders"), Notice("invoices")]
    assert logs.listen(0.05) == []


def test_after_a_reconnect_something_may_have_been_missed(
    server: Server, logs: Valkey, other: Valkey
) -> None:
    assert logs.listen(5) is None
    server.do("CLIENT", "KILL", "TYPE", "pubsub")
    other.tell([other.open("orders")])
    assert logs.listen(5) == []
    assert logs.listen(5) is None
    other.tell([other.open("orders")])
    assert logs.listen(5) == [Notice("orders")]


def test_a_server_that_is_silent_is_not_listened_to_for_ever() -> None:
    with valkey() as server:
        logs = Valkey(server.url, 1)
        assert logs.listen(1) is None
        assert logs.listen(0.2) == []
        server.send(signal.SIGSTOP)
        eventually(lambda: logs.listen(0.2) == [] and logs._ears is None)
        server.send(signal.SIGCONT)
        assert logs.listen(1) is None
        logs.close()


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("maxmemory-policy", "allkeys-lru", "the server has maxmemory-policy allkeys-lru, and may"),
        ("appendonly", "no", "the server has appendonly no, and may lose events"),
        ("appendfsync", "no", "the server has appendfsync no, and may lose events"),
    ],
)
def test_a_server_that_loses_what_it_has_acknowledged_is_refused(
    server: Server, logs: Valkey, setting: str, value: str, text: str
) -> None:
    before = server.do("CONFIG", "GET", setting)[1]
    server.do("CONFIG", "SET", setting, value)
    try:
        with pytest.raises(StartError, match=text):
            logs.hold(lambda: None)
        assert any(text in problem for problem in logs.problems())
    finally:
        server.do("CONFIG", "SET", setting, before)
    eventually(lambda: logs.problems() == [])


def test_a_server_that_is_too_old_is_refused() -> None:
    [old] = needs("redis-server")
    with valkey(program=old) as server:
        version = server.do("INFO", "server")["redis_version"]
        if not version.startswith("7.0."):
            do_without(f"Redis {version} is not too old")
        with pytest.raises(StartError, match=f"Redis {version} is too old: 7.2 or"):
            Valkey(server.url, 2).hold(lambda: None)


def test_replicas_that_are_to_be_waited_for_must_be_there() -> None:
    with replicated(1) as (primary, replica):
        Valkey(f"{primary.url}?wait=1", 2).hold(lambda: None)
        with pytest.raises(StartError, match="1 of 2 replicas are connected"):
            Valkey(f"{primary.url}?wait=2", 2).hold(lambda: None)
        with pytest.raises(StartError, match="it is a replica"):
            Valkey(replica.url, 1).hold(lambda: None)


def test_a_server_without_memory_is_full(server: Server, logs: Valkey) -> None:
    log = logs.open("orders")
    appended(log, ROWS)
    server.do("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StorageFull, match="memory"):
            log.append(None, [b"3\t\t\n"])
        assert content(logs.open("orders")) == ROWS, "it can be read"
    finally:
        server.do("CONFIG", "SET", "maxmemory", "0")
    assert appended(log, b"3\t\t\n") == len(ROWS)


RIGHTS = [
    "~esource:*",
    "&esource",
    "+evalsha",
    "+script|load",
    "+hmget",
    "+hset",
    "+hincrby",
    "+hexists",
    "+hkeys",
    "+hdel",
    "+xadd",
    "+xrange",
    "+xrevrange",
    "+xtrim",
    "+unlink",
    "+rename",
    "+expire",
    "+persist",
    "+rpush",
    "+time",
    "+scan",
    "+role",
    "+info",
    "+wait",
    "+waitaof",
    "+spublish",
    "+ssubscribe",
    "+ping",
    "+cluster|slots",
    "+client|setname",
    "+client|setinfo",
    "+select",
]


def test_a_user_needs_few_rights_and_config_is_none_of_them() -> None:
    """What a user is asked for at most: the documentation names it."""
    named = (ROOT / "docs/engines.md").read_text().split("ACL SETUSER hub on >password ")[1]
    assert named.partition("```")[0].split() == RIGHTS
    with valkey() as server:
        server.do("ACL", "SETUSER", "hub", "on", ">a%word", *RIGHTS)
        url = server.url.replace("//", "//hub:a%25word@")
        logs = Valkey(f"{url}/0", 2)
        logs.hold(lambda: None)
        assert "when it is on the disk of the server is not known: CONFIG is forb" in logs.place()
        log = logs.open("orders")
        appended(log, ROWS)
        assert (logs.listen(1), logs.names(), content(log)) == (None, ["orders"], ROWS)
        logs.tell([logs.open("orders")])
        head = logs.head("orders", Head()).head
        logs.learn("orders", head, "ids", Part(5, 0), b"2", b"0123456789")
        logs.learn("orders", head, "ids", Part(10, 0), b"2", b"0123456789")
        assert logs.hashes("orders", head, [(Part(10, 0), 1, 8)]) == [b"12345678"]
        logs.erase("orders", 0, b"1\t\t---\n", "me", "why")
        appended(log, ROWS)
        assert logs.trim("orders", Rule("*", size=1)) == len(ROWS)
        logs.remove("orders")
        logs.close()


def test_no_password_is_in_any_text() -> None:
    with valkey() as server:
        server.do("ACL", "SETUSER", "hub", "on", ">right", "~*", "+@all", "&*")
        logs = Valkey(server.url.replace("//", "//hub:wr0ng@"), 30)
        began = time.monotonic()
        with pytest.raises(StartError) as failure:
            logs.hold(lambda: None)
        assert time.monotonic() - began < 5, "it does not become right by waiting"
        assert failure.value.text.startswith("ESOURCE_STORE: Valkey: invalid username-password")
        assert "wr0ng" not in failure.value.text + logs.place() + repr(logs)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://me:pass@host:s3cret", "in a password, each of @"),
        ("redis://me:s3cret/word@host", "in a password, each of @"),
        ("redis://me:s3cret#word@host", "in a password, each of @"),
        ("redis://me:pass?s3cret=word@host", "a parameter is none of wait, waitaof, tls"),
        ("redis://me:pass?s3cret@host", "in a password, each of @"),
        ("redis://me:s3cret@", "a host is missing"),
        ("redis://me:s3cret@host/x", "database must be a number"),
        ("redis://me:s3cret@host?wait=-1", "wait must be a number"),
        ("rediss://me:s3cret@host?ca=/nowhere", "No such file"),
        ("sentinel://me:s3cret@h1,h2", "the name of the master is missing"),
    ],
)
def test_a_bad_url_is_named_without_what_is_secret_in_it(url: str, text: str) -> None:
    with pytest.raises(StartError, match=text) as failure:
        Valkey(url, 1)
    assert "s3cret" not in failure.value.text


def test_urls_say_which_servers() -> None:
    at = where("sentinel://u%40:p%2F@h1,h2:7000,[::1]:5/events/3?wait=2&sentinel_password=x&tls=1")
    assert at.hosts == [("h1", 26379), ("h2", 7000), ("::1", 5)]
    assert (at.master, at.wait, at.waitaof, at.tls is not None) == ("events", 2, 0, True)
    assert at.login == {"username": "u@", "password": "p/", "db": 3}
    assert at.sentinel_login == {"username": None, "password": "x"}
    assert where("cluster://h1,h2:1").hosts == [("h1", 6379), ("h2", 1)]
    assert where("redis://h1").tls is None


def test_tls_is_spoken_and_certificates_are_looked_at(tmp_path: Path) -> None:
    with encrypted_valkey(tmp_path) as (_, port, certificate):
        url = f"rediss://127.0.0.1:{port}?ca={certificate}"
        servers = Servers(where(url), 5)
        big = b"x" * 300_000
        assert servers.call(b"k", lambda link: link.ask(("ECHO", big), ("PING",))) == [big, b"PONG"]
        assert servers.call(b"k", lambda link: link.ask(("PING",))) == [b"PONG"]
        servers.close()
        with pytest.raises(StorageError, match="certificate"):
            Servers(where(f"rediss://127.0.0.1:{port}"), 1).call(
                b"k", lambda link: link.ask(("PING",))
            )

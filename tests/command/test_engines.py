"""The commands on an engine: as a person runs them, with a real PostgreSQL."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS
from tests.harness.engine import engine_hubs
from tests.harness.postgres import Postgres, shared_postgres

ROWS = b"1\t\tone\nno event\n2\tx\ttwo\n3\t\tthree\n"


@pytest.fixture
def server() -> Postgres:
    server = shared_postgres()
    server.do("DROP SCHEMA IF EXISTS esource CASCADE")
    return server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One channel of one file, one of segments of which the first is gone, one with a BOM."""
    folder = tmp_path / "events"
    folder.mkdir()
    (folder / "orders.tsv").write_bytes(ROWS)
    (folder / f"late.{100:020}.tsv").write_bytes(b"5\t\tfive\n")
    (folder / f"late.{108:020}.tsv").write_bytes(b"6\t\tsix\n")
    (folder / "bom-1.tsv").write_bytes(b"\xef\xbb\xbfa\tb\tc\n")
    os.utime(folder / "orders.tsv", (1e9, 1e9))
    return folder


def esource(server: Postgres, *arguments: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "esource", *arguments], capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
        env={**os.environ, "ESOURCE_STORE": server.url(), **variables},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def digest(rows: bytes) -> str:
    return f"{len(rows)} bytes, sha256 {sha256(rows).hexdigest()}"


def test_channels_go_to_an_engine_and_back_byte_for_byte(
    server: Postgres, folder: Path, tmp_path: Path
) -> None:
    late, bom = b"5\t\tfive\n6\t\tsix\n", b"\xef\xbb\xbfa\tb\tc\n"
    lines = f"bom-1: {digest(bom)}\nlate: {digest(late)}\norders: {digest(ROWS)}\n"
    assert esource(server, "import", "--dir", str(folder)) == (0, lines, "")
    assert esource(server, "import", "--dir", str(folder)) == (0, lines, ""), "it is all there"
    out = tmp_path / "out"
    out.mkdir()
    assert esource(server, "export", "--dir", str(out)) == (0, lines, "")
    assert (out / "orders.tsv").read_bytes() == ROWS
    assert (out / "orders.tsv").stat().st_mtime == 1e9
    assert (out / "bom-1.tsv").read_bytes() == bom
    assert (out / f"late.{100:020}.tsv").read_bytes() == late
    assert os.readlink(out / "late.tsv") == f"late.{100:020}.tsv"
    code, said, wrong = esource(server, "export", "--dir", str(out), "orders")
    assert (code, said) == (1, "")
    assert wrong == f"esource: orders: there are files of it in {out} already\n"
    with engine_hubs(tmp_path, server.url(), 1) as [hub]:
        assert hub.get("/orders").body == ROWS
        assert hub.get("/orders").headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:41 GMT"
        assert hub.get("/late").body == late
        assert hub.get("/late?after=4").headers["Esource-Resume"] == "trimmed"
        assert hub.get("/bom-1?format=ndjson").body == b'{"id":"a","event":"b","data":"c"}\n'


def test_an_import_goes_on_and_changes_nothing_that_differs(server: Postgres, folder: Path) -> None:
    path = folder / "orders.tsv"
    path.write_bytes(ROWS[:7])
    assert esource(server, "import", "--dir", str(folder), "orders")[0] == 0
    path.write_bytes(ROWS)
    code, said, wrong = esource(server, "import", "--dir", str(folder), "orders")
    assert (code, said, wrong) == (0, f"orders: {digest(ROWS)}\n", "")
    for other in (ROWS[:7], ROWS.replace(b"two", b"owt")):
        path.write_bytes(other)
        code, said, wrong = esource(server, "import", "--dir", str(folder), "orders")
        assert (code, said) == (1, "")
        assert wrong == (
            "esource: orders: the engine has other rows of that name; nothing of it was changed\n"
        )
    assert esource(server, "import", "--dir", str(folder), "none")[2] == (
        "esource: there is no channel none\n"
    )


def test_what_is_wrong_with_rows_is_said(server: Postgres, folder: Path) -> None:
    esource(server, "import", "--dir", str(folder))
    assert esource(server, "check") == (
        1,
        "orders, line 2: not an event (fewer than two tabs)\n"
        "3 channels, 1 of them with something wrong\n",
        "",
    )
    server.do("""DELETE FROM esource.block WHERE "end" = 9""")
    assert "bom-1, line 1: bom-1 has lost rows at byte 3\n" in esource(server, "check")[1]


def test_an_event_is_erased_while_hubs_run(server: Postgres, folder: Path, tmp_path: Path) -> None:
    esource(server, "import", "--dir", str(folder))
    erased = ROWS.replace(b"2\tx\ttwo\n", b"2\teras\t\n")
    with engine_hubs(tmp_path, server.url()) as hubs:
        tags = [hub.get("/orders").headers["ETag"] for hub in hubs]
        code, said, wrong = esource(server, "erase", "orders", "2", "--reason", "a request")
        assert (code, wrong) == (0, "")
        assert said.startswith("orders: erased 1 events with the id 2\nnot reached: ")
        for hub, tag in zip(hubs, tags, strict=True):
            answer = hub.get("/orders")
            assert answer.body == erased
            assert answer.headers["ETag"] != tag
            assert hub.get("/orders?after=2").body == b"3\t\tthree\n"
            assert hub.get("/orders?after=2").headers["Esource-Resume"] == "exact"
    assert esource(server, "erase", "orders", "2", "--reason", "again")[1] == (
        "orders: 2 is erased already\n"
    )
    assert esource(server, "erase", "orders", "9", "--reason", "x") == (
        1, "", "esource: there is no event with the id 9 in orders\n",
    )  # fmt: skip
    assert server.do("""SELECT channel, "offset", id, reason FROM esource.erasure""") == [
        ("orders", 16, b"2", "a request")
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["erase", "none", "9", "--reason", "x"], "there is no channel none"),
        (["rm", "none"], "there is no channel none"),
        (["trim", "none", "--larger-than", "1M"], "there is no channel none"),
        (["rotate", "orders"], "ESOURCE_STORE is an engine, which has no files; name a folder"),
        (["join", "orders"], "ESOURCE_STORE is an engine, which has no files; name a folder"),
        (["repair"], "ESOURCE_STORE is an engine, which has no files; name a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    server: Postgres, arguments: list[str], line: str
) -> None:
    assert esource(server, *arguments) == (1, "", f"esource: {line}\n")


def test_the_oldest_rows_go_and_offsets_stay(server: Postgres, tmp_path: Path) -> None:
    with engine_hubs(tmp_path, server.url()) as [a, b]:
        for n in range(4):
            a.publish(f"/orders?id={n}", b"x" * 600_000)
        tag = b.get("/orders").headers["ETag"]
        trim = ("trim", "orders", "--larger-than", "1M")
        assert esource(server, *trim, "--dry-run")[:2] == (
            0, "orders: would remove 1200008 bytes\n",
        )  # fmt: skip
        assert a.get("/orders").headers["ETag"] == tag
        assert esource(server, *trim) == (
            0, "orders: removed 1200008 bytes\n", "",
        )  # fmt: skip
        for hub in (a, b):
            assert hub.get("/orders?format=ndjson").body.count(b"\n") == 2
            assert hub.get("/orders?after=0").headers["Esource-Resume"] == "trimmed"
            assert hub.get("/orders?after=2").headers["Esource-Resume"] == "exact"
            assert hub.get("/orders").headers["ETag"] != tag
        assert b.publish("/orders?id=4", b"y") == "4"
        assert a.get("/orders?after=3").body == b"4\t\ty\n"
        assert esource(server, "rm", "orders")[0] == 0
        for hub in (a, b):
            assert hub.get("/orders").body == b""
        a.publish("/orders?id=5", b"z")
        assert b.get("/orders").body == b"5\t\tz\n"


def test_rules_are_kept_after_an_hour(server: Postgres, tmp_path: Path) -> None:
    from esource.log.postgresql import PostgreSQL
    from esource.rules import Rule, parse

    logs = PostgreSQL(server.url(), 10, parse("app-*/age=1h:orders/size=1M"))
    try:
        logs.hold(lambda: None)
        for name in ("app-1", "orders", "other"):
            log = logs.open(name)
            for n in range(3):
                log.append(log.end, [b"%d\t\t%b\n" % (n, b"x" * 600_000)])
        assert sorted(logs.due(0.0)) == ["orders"]
        server.do(
            """INSERT INTO esource.channel (name, generation, first, "end")
            VALUES ('of-many-blocks', 7, 0, 12000)""",
            """INSERT INTO esource.block (generation, "end", nonce, rows)
            SELECT 7, n, 1, 'x' FROM generate_series(1, 12000) n""",
        )
        assert logs.trimmable("of-many-blocks", Rule("*", size=1000)) == 11_000
        server.do(
            """UPDATE esource.block SET stored = stored - interval '2 h' WHERE "end" < 700000"""
        )
        assert sorted(logs.due(0.0)) == ["app-1", "orders"]
        for name, start in (("app-1", 600_004), ("orders", 600_004), ("other", 0)):
            log = logs.open(name)
            assert log.tend(0.0, may_remove=False) == ""
            removed = log.tend(0.0, may_remove=True)
            assert removed == (f"{start} bytes" if start else "")
            assert log.refresh() is None
            assert (log.start, log.begin, log.end) == (start, start, 1_800_012)
    finally:
        logs.close()

"""What the tests rely on in their harness."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harness import ROOT, needs, store
from tests.harness.wire import Chunks, chunk

TESTS = ROOT / "tests"


def test_no_test_imports_from_a_test() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert not re.match(r"tests\.(.*\.)?(test_|conftest\b)", name), f"{path}: {name}"


def test_there_is_one_class_for_each_noun() -> None:
    found: list[str] = []
    for path in TESTS.rglob("*.py"):
        classes = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
        ]
        found += [one.name for one in classes]
    for name in ("Hub", "Stream", "Follower", "Publisher", "Upload", "Wire"):
        assert found.count(name) == 1, name


def test_what_is_started_ends_by_sigint() -> None:
    """Also in the background of a script, where a shell has SIGINT ignored: see the next one."""
    status = subprocess.run(["cat", "/proc/self/status"], check=True, capture_output=True).stdout
    ignored = re.search(rb"SigIgn:\s+(\w+)", status)
    assert ignored
    assert not int(ignored[1], 16) & 0b10


def test_what_is_started_ends_by_sigint_in_the_background_of_a_script(tmp_path: Path) -> None:
    test = f"{Path(__file__).relative_to(ROOT)}::test_what_is_started_ends_by_sigint"
    options = f"-n0 -q -p no:cacheprovider --basetemp={tmp_path / 'tmp'}"
    script = f"trap '' INT; exec '{sys.executable}' -m pytest {options} {test}"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_no_example_has_a_deadline() -> None:
    assert settings().deadline is None


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_chunks_are_read_however_they_come(size: int) -> None:
    body = b"".join(map(chunk, (b"one", b"t\r\nwo", b"3" * 20, b"")))
    chunks = Chunks()
    content = b"".join(chunks.feed(body[n : n + size]) for n in range(0, len(body), size))
    assert (content, chunks.is_complete) == (b"onet\r\nwo" + b"3" * 20, True)


@pytest.mark.parametrize("body", [b"x\r\n", b"1\r\naX\r\n", b"1\r\na\r\n\r\n", b"0\r\n\r\nx"])
def test_malformed_chunks_fail(body: bytes) -> None:
    with pytest.raises(AssertionError):
        Chunks().feed(body)


def test_programs_that_are_there_are_told_by_their_paths() -> None:
    sh, env = needs("sh", "env")
    assert (sh.rpartition("/")[2], env.rpartition("/")[2]) == ("sh", "env")
    assert sh.startswith("/")


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", pytest.fail.Exception), ("", pytest.skip.Exception), (None, pytest.skip.Exception)],
)
def test_a_missing_program_skips_a_test_but_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str | None, outcome: type[BaseException]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="missing: no-such-program, nor-this"):
        needs("sh", "no-such-program", "env", "nor-this")


# -- where a hub has its channels ----------------------------------------------------------------


def store_of_kind(kind: str, home: Path) -> store.Store:
    return store.Folder(home) if kind == store.FILES else store.Pooled.taken(kind)


@pytest.mark.parametrize("kind", store.STORES)
def test_a_store_is_the_same_of_each_kind_and_the_next_one_finds_nothing(
    kind: str, tmp_path: Path
) -> None:
    there = store_of_kind(kind, tmp_path / "events")
    assert (there.has("orders"), there.read("orders")) == (False, b"")
    rows = [b"%d\t\t%b\n" % (n, b"x" * n) for n in (1, 300_000, 3, 5_000_000, 5)]
    there.put("orders", rows[0])
    there.put("orders", b"".join(rows[1:]))
    assert (there.has("orders"), there.read("orders")) == (True, b"".join(rows))
    there.take_away("orders")
    assert (there.has("orders"), there.read("orders")) == (False, b"")
    there.put("others", rows[0])
    there.release()
    if kind != store.FILES:
        again = store_of_kind(kind, tmp_path)
        assert again.settings == there.settings
        assert not again.has("others")
        again.release()


def test_a_test_is_in_the_share_of_one_store_at_most_always_the_same() -> None:
    names = [f"tests/web/test_read.py::test_{n}" for n in range(1000)]
    shares = [{name for name in names if store.is_of_share(name, kind)} for kind in store.STORES]
    for share in shares:
        assert 150 < len(share) < 250
    assert len(set.union(*shares)) == sum(map(len, shares))
    assert store.is_of_share("tests/test_flights.py::test_b", store.POSTGRESQL)
    assert store.is_of_share("tests/test_flights.py::test_d", store.VALKEY)

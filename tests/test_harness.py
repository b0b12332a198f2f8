"""What the tests rely on in their harness."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harness import ROOT, needs
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

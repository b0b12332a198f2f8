"""Break the code on purpose, a line at a time, and see that the test of that line fails.

    python -m tests.mutants                      all of them
    python -m tests.mutants --list               which there are
    python -m tests.mutants --jobs 2 sse.py      those of a file, or with a word in them

`mutants.toml` has the entries: in `file`, the lines `line` (told by their text alone, so that it
may move) become `becomes`, and then `test` must fail; `why` is the promise that would be broken.
Each is tried in a copy of the tree, which is all that the test and what it starts import. First
each test must pass there as the code is; `--fast` leaves that out. On two cores that are busy with
other things as well, all of them took 43 minutes with `--jobs 2 --fast`; without `--fast` count on
twice that.
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ENTRIES = Path(__file__).parent / "mutants.toml"
SECONDS = 300.0  # until a test that hangs counts as one that fails
FAILED, HANGS = 1, -1  # pytest's code for tests that ran and failed; ours


class Mutant(NamedTuple):
    """One line, what it becomes, and the tests of which one must see it."""

    file: str
    line: str
    becomes: str
    test: str  # node ids, separated by spaces; in brackets there may be spaces, too
    why: str

    @property
    def tests(self) -> list[str]:
        """The node ids."""
        return re.split(r" (?=tests/)", self.test)

    def __str__(self) -> str:
        first, *more = self.becomes.strip().splitlines() or ["(nothing)"]
        return f"{self.file}: {self.line.splitlines()[0]} -> {first}{' …' if more else ''}"


def entries() -> list[Mutant]:
    """Return what `mutants.toml` has."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    tables = toml.loads(ENTRIES.read_text())
    return [Mutant(**entry) for entry in tables.get("mutant", [])]


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the mutation; raise `LookupError` unless its place is one."""
    lines = text.splitlines(keepends=True)
    wanted = [line.strip() for line in mutant.line.strip().splitlines()]
    stripped = [line.strip() for line in lines]
    places = [
        at for at in range(len(lines)) if wanted and stripped[at : at + len(wanted)] == wanted
    ]
    if len(places) != 1:
        raise LookupError(f"{len(places)} times in {mutant.file}: {mutant.line}")
    [at] = places
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    new = textwrap.indent(textwrap.dedent(mutant.becomes).strip("\n"), indent)
    lines[at : at + len(wanted)] = [new + "\n"] if new else []
    return "".join(lines)


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """A copy of what is tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in listed.stdout.split("\0"):
            source, target = ROOT / name, Path(folder) / "tree" / name
            if name and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target, follow_symlinks=False)
        yield Path(folder) / "tree"


def run(tree: Path, tests: list[str]) -> int:
    """Run tests in a copy; return pytest's exit code, or `HANGS`."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "CI": "true"}
    options = ["-n0", "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'tmp'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests], cwd=tree, env=environ,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return HANGS
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the hubs of a test that hangs
        process.wait()


def check_the_copy() -> None:
    """Raise `RuntimeError` unless a process with another folder imports the copy's code, too."""
    with copy_of_the_tree() as tree:
        done = subprocess.run(
            [sys.executable, "-c", "import esource; print(esource.__file__)"],
            cwd="/", env={**os.environ, "PYTHONPATH": str(tree)}, check=True, capture_output=True,
        )  # fmt: skip
        if not done.stdout.decode().startswith(str(tree)):
            raise RuntimeError(f"the tests would import {done.stdout.decode().strip()}")


def passes(mutant: Mutant) -> bool:
    """Return whether a mutant's tests pass with the code as it is."""
    with copy_of_the_tree() as tree:
        return run(tree, mutant.tests) == 0


def is_killed(mutant: Mutant) -> bool:
    """Try a mutant; say in a line what came of it."""
    started = time.monotonic()
    with copy_of_the_tree() as tree:
        path = tree / mutant.file
        path.write_text(mutated(mutant, path.read_text()))
        code = run(tree, mutant.tests)
    verdict = {FAILED: "killed", HANGS: "killed (hangs)", 0: "SURVIVED"}.get(code, f"ERROR {code}")
    print(f"{verdict:9} {time.monotonic() - started:5.1f} s  {mutant}", flush=True)
    return code in (FAILED, HANGS)


def main(arguments: list[str]) -> int:
    """Try the mutants that are asked for; return the exit code: 0 if all were killed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.mutants", None, __doc__, formatter_class=raw)
    parser.add_argument("words", nargs="*", help="of a file, a line, a test or a reason")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--fast", action="store_true", help="do not try the tests as they are")
    chosen = parser.parse_args(arguments)
    mutants = [
        mutant
        for mutant in entries()
        if not chosen.words or any(word in "\n".join(mutant) for word in chosen.words)
    ]
    if chosen.list:
        for mutant in mutants:
            print(f"{mutant}\n    {mutant.why}\n    {mutant.test}")
        return 0
    check_the_copy()
    started = time.monotonic()
    broken: list[str] = []
    with ThreadPoolExecutor(chosen.jobs) as pool:
        if not chosen.fast:
            one_of_each = list({mutant.test: mutant for mutant in mutants}.values())
            for mutant, good in zip(one_of_each, pool.map(passes, one_of_each), strict=True):
                if not good:
                    broken.append(mutant.test)
                    print(f"FAILS without a mutant: {mutant.test}", flush=True)
        tried = [mutant for mutant in mutants if mutant.test not in broken]
        killed = sum(pool.map(is_killed, tried))
    minutes = (time.monotonic() - started) / 60
    print(f"{killed} of {len(mutants)} mutants killed in {minutes:.0f} min")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Break the code on purpose, a line at a time, and see that the test of that line fails.

    python -m tests.mutants                      all of them
    python -m tests.mutants --list               which there are
    python -m tests.mutants --jobs 2 sse.py      those of a file, or with a word in them

`mutants.toml` has the entries: in `file`, the lines `line` (told by their text alone, so that it
may move) become `becomes`, and then `test` must fail; `why` is the promise that would be broken.
Each is tried in a copy of the tree. First each test must pass there as the code is; `--fast` leaves
that out. All of them took 43 minutes with `--jobs 2 --fast` on two busy cores; without, twice that.
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
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.harness.machine import ROOT, command

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
    text = Path(__file__).with_suffix(".toml").read_text()
    return [Mutant(**entry) for entry in toml.loads(text)["mutant"]]


def mutated(mutant: Mutant, text: str) -> str:
    """Return a file's text with the mutation; raise `LookupError` unless its place is one."""
    lines = text.splitlines(keepends=True)
    wanted = [line.strip() for line in mutant.line.strip().splitlines()]
    stripped = [line.strip() for line in lines]
    size = len(wanted)
    places = [at for at in range(len(lines)) if stripped[at : at + size] == wanted != []]
    if len(places) != 1:
        raise LookupError(f"{len(places)} times in {mutant.file}: {mutant.line}")
    [at] = places
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    new = textwrap.indent(textwrap.dedent(mutant.becomes).strip("\n"), indent)
    lines[at : at + size] = [new + "\n"] if new else []
    return "".join(lines)


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """A copy of what is tracked, or would be."""
    names = command("git", "-C", ROOT, "ls-files", "-zco", "--exclude-standard").split("\0")
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in names:
            source, target = ROOT / name, Path(folder) / "tree" / name
            if name and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target, follow_symlinks=False)
        yield Path(folder) / "tree"


def code_of(mutant: Mutant, is_broken: bool) -> int:
    """Return pytest's exit code for a mutant's tests, or `HANGS`: with its code broken, or not."""
    options, quiet = ["-n0", "-x", "-q", "-p", "no:cacheprovider"], subprocess.DEVNULL
    with copy_of_the_tree() as tree:
        path = tree / mutant.file
        if is_broken:
            path.write_text(mutated(mutant, path.read_text()))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, f"--basetemp={tree}-tmp", *mutant.tests],
            cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "CI": "true"},
            start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet,
        )  # fmt: skip
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return HANGS
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the hubs of a test that hangs
            process.wait()


def is_killed(mutant: Mutant) -> bool:
    """Try a mutant; say in a line what came of it."""
    started = time.monotonic()
    code = code_of(mutant, is_broken=True)
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
    words = chosen.words or [""]
    mutants = [one for one in entries() if any(word in "\n".join(one) for word in words)]
    if chosen.list:
        print("\n".join([f"{one}\n    {one.why}\n    {one.test}" for one in mutants]))
        return 0
    started = time.monotonic()
    each = [] if chosen.fast else list({one.test: one for one in mutants}.values())
    with ThreadPoolExecutor(chosen.jobs) as pool:
        codes = pool.map(partial(code_of, is_broken=False), each)
        broken = {one.test for one, code in zip(each, codes, strict=True) if code}
        for test in broken:
            print(f"FAILS without a mutant: {test}", flush=True)
        killed = sum(pool.map(is_killed, [one for one in mutants if one.test not in broken]))
    print(f"{killed} of {len(mutants)} killed in {(time.monotonic() - started) / 60:.0f} min")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A power cut in a command, before each of its calls: what it has to keep is there, once, in place.

The command runs with `power.c`, is killed before its n-th call that changes something, and then
the power is cut: nothing that was not synced survives, or any part of it, such as the last change
of a name without those before it. A second run ends what was begun.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from esource.log import erasures, history
from esource.log.folder import Folder
from tests.harness import size
from tests.harness.channels import age
from tests.harness.power import Commands, Power, anything, commands, nothing
from tests.harness.shims import Build

DAY = 86_400
SECRET = b"a secret that is longer than the words that are left"
ROWS = [b"1\t\tone\n", b"2\t\t%b\n" % SECRET, b"3\t\tthree\n", b"4\t\tfour\n", b"5\t\tfive\n"]
ERASED = b"2\terased\t" + b" " * (len(ROWS[1]) - 10) + b"\n"
LATE = b"late\t\ta row that another program wrote into a closed file\n"
OFFSETS = [0, *accumulate(map(len, ROWS))]
# What is chosen, and whether the last change of a name survives alone.
CUTS = [(nothing, False), (anything, True), *[(anything, False)] * size(0, 12)]
REASON = ("--reason", "a request")


@pytest.fixture(scope="module")
def runner(shim: Build) -> Iterator[Commands]:
    with commands(shim("power")) as process:
        yield process


def one_file(folder: Path) -> Path:
    path = folder / "orders.tsv"
    path.write_bytes(b"".join(ROWS))
    path.with_suffix(".idx").write_bytes(SECRET)
    return path


def segments(folder: Path) -> Path:
    """Make a channel of three files with two, two and one row; return the growing one."""
    for n, first in enumerate((0, 2, 4)):
        path = folder / f"orders.{OFFSETS[first]:020}.tsv"
        path.write_bytes(b"".join(ROWS[first : first + 2]))
        path.with_suffix(".idx").write_bytes(b"" if n else SECRET)
        os.utime(path, (time.time() - (3 - n) * DAY,) * 2)
    (folder / "orders.tsv").symlink_to(path.name)
    return path


def with_late_row(folder: Path) -> Path:
    growing = segments(folder)
    with (folder / f"orders.{0:020}.tsv").open("ab") as file:
        file.write(LATE)
    return growing


def without_the_first(folder: Path) -> Path:
    growing = segments(folder)
    for suffix in (".tsv", ".idx"):
        (folder / f"orders.{0:020}{suffix}").unlink()
    return growing


def cuts(
    home: Path, runner: Commands, make: Callable[[Path], Path], *arguments: str
) -> Iterator[tuple[Path, bool]]:
    """Yield (folder, whether the command was done): after each cut in it and right after it.

    The last row of the growing file was written by another program, and may not be on disk before.
    """
    random.seed(7)
    number = 0
    for choose, in_disorder in CUTS:
        for calls in range(200):
            number += 1
            folder = home / str(number) / "events"
            folder.mkdir(parents=True)
            growing = make(folder)
            power = Power(folder, folder.with_name("journal"))
            power.begin()
            power.is_unsynced(growing, growing.stat().st_size - len(ROWS[-1]))
            was_killed = runner.run(power, calls, *arguments)
            power.cut(choose, in_disorder=in_disorder)
            yield folder, not was_killed
            if not was_killed:
                break
        else:
            pytest.fail("it never ended")


def opened(folder: Path) -> tuple[int, bytes]:
    """Do what the next hub does, a while later; return (the offset of the first row, all rows)."""
    for path in files(folder):
        if time.time() - path.stat().st_mtime < DAY / 2:
            age(path)
    erasures.finish(folder)
    history.finish(folder)
    log = Folder(folder).open("orders")
    log.tend(time.time(), may_remove=False)
    return log.start, log.pread(log.start, log.end - log.start)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.is_symlink()]


def is_ours(path: Path) -> bool:
    """Whether it is of the channel, and no lock, and no copy of half a row."""
    return "lock" not in path.name and ".torn-" not in path.name


def is_there(what: bytes, folder: Path) -> bool:
    return any(what in path.read_bytes() for path in files(folder))


def again(folder: Path, runner: Commands, *arguments: str) -> None:
    """Run the command to its end."""
    power = Power(folder, folder.with_name("journal"))
    assert not runner.run(power, -1, *arguments)


def is_whole(rows: bytes, is_done: bool, all_of: bytes = b"".join(ROWS)) -> bool:
    """Whether all rows are there; if the command was not done, perhaps without the unsynced one."""
    return rows == all_of or (not is_done and rows == all_of.replace(ROWS[-1], b""))


@pytest.mark.parametrize("make", [one_file, segments])
def test_a_rotation(tmp_path: Path, runner: Commands, make: Callable[[Path], Path]) -> None:
    for folder, is_done in cuts(tmp_path, runner, make, "rotate", "orders"):
        start, rows = opened(folder)
        assert (start, is_whole(rows, is_done)) == (0, True)
        if is_done:
            assert (folder / f"orders.{OFFSETS[-1]:020}.tsv").read_bytes() == b""
        again(folder, runner, "rotate", "orders")
        assert opened(folder) == (0, rows)
        assert not (folder / "orders.tsv").read_bytes()


def test_trim(tmp_path: Path, runner: Commands) -> None:
    arguments = ("trim", "orders", "--older-than", "1h")
    for folder, is_done in cuts(tmp_path, runner, segments, *arguments):
        start, rows = opened(folder)
        assert start in ([OFFSETS[4]] if is_done else [OFFSETS[0], OFFSETS[2], OFFSETS[4]])
        left = b"".join(ROWS)[start:]
        assert is_whole(rows, False, left), "the file that grows is not the command's"
        again(folder, runner, *arguments)
        assert opened(folder) == (OFFSETS[4], rows[OFFSETS[4] - start :])
        assert not is_there(SECRET, folder)


@pytest.mark.parametrize("make", [with_late_row, without_the_first])
def test_join(tmp_path: Path, runner: Commands, make: Callable[[Path], Path]) -> None:
    wanted = b"".join(ROWS[2 if make is without_the_first else 0 :])
    if make is with_late_row:
        wanted += LATE
    for folder, is_done in cuts(tmp_path, runner, make, "join", "orders"):
        start, rows = opened(folder)
        assert is_whole(rows, is_done, wanted)
        plain = folder / "orders.tsv"
        assert plain.is_symlink() != is_done or not is_done
        if make is not without_the_first:
            assert start == 0
        again(folder, runner, "join", "orders")
        assert opened(folder) == (0, rows)
        assert [path.name for path in files(folder) if is_ours(path)] == ["orders.tsv"]


@pytest.mark.parametrize("make", [one_file, segments])
def test_rm(tmp_path: Path, runner: Commands, make: Callable[[Path], Path]) -> None:
    for folder, is_done in cuts(tmp_path, runner, make, "rm", "orders"):
        if is_done:
            assert not any(is_ours(path) for path in folder.iterdir())
            continue
        start, rows = opened(folder)
        if rows or start:
            assert is_whole(rows, False, b"".join(ROWS)[start:]), "the oldest go first"
            again(folder, runner, "rm", "orders")
            assert not is_there(SECRET, folder)


@pytest.mark.parametrize("make", [one_file, with_late_row])
def test_erase(tmp_path: Path, runner: Commands, make: Callable[[Path], Path]) -> None:
    arguments = ("erase", "orders", "2", *REASON)
    late = LATE if make is with_late_row else b""
    for folder, is_done in cuts(tmp_path, runner, make, *arguments):
        if is_done:
            assert not is_there(SECRET, folder), "not even before a hub comes"
            assert not list(folder.glob(".*.late")), "the same row may come again"
        start, rows = opened(folder)
        erased = b"".join([ROWS[0], ERASED, *ROWS[2:]]) + late
        is_new = is_whole(rows, is_done, erased)
        assert start == 0
        assert is_new or (not is_done and is_whole(rows, False, b"".join(ROWS) + late))
        if not is_done:
            again(folder, runner, *arguments)
        assert not is_there(SECRET, folder)
        after = opened(folder)[1]
        assert after in (erased, erased.replace(ROWS[-1], b""))

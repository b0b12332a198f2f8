"""An event is erased: its bytes, once and for all, and nothing else."""

import json
import os
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from esource.log import erasures
from esource.log.erasures import Erasure, erase, find, finish, pending
from esource.log.folder import Folder
from esource.rows import tsv
from tests.harness.killed import killed_at, traced

SECRET = b"a secret"
ROWS = [b"1\tlogin\tone\n", b"2\tlogin\t" + SECRET + b"\n", b"3\t\tthree\n"]
PLACE = len(ROWS[0])
ERASED = b"2\terased\t" + b" " * (len(ROWS[1]) - 10) + b"\n"


def plain(folder: Path, rows: Sequence[bytes] = ROWS) -> list[Path]:
    path = folder / "orders.tsv"
    path.write_bytes(b"".join(rows))
    os.utime(path, ns=(123_456_789, 987_654_321_123_456_789))
    return [path]


def in_segments(folder: Path, rows: Sequence[bytes] = ROWS) -> list[Path]:
    paths, offset = [], 0
    for row in rows:
        paths.append(folder / f"orders.{offset:020}.tsv")
        paths[-1].write_bytes(row)
        os.utime(paths[-1], ns=(123_456_789, 987_654_321_123_456_789))
        offset += len(row)
    (folder / "orders.tsv").symlink_to(paths[-1].name)
    return paths


KINDS = [plain, in_segments]
kinds = pytest.mark.parametrize("kind", KINDS)


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "orders.erasures").read_text().splitlines()]


def erase_2(folder: Path) -> list[Path]:
    return erase(folder, "orders", list(find(folder, "orders", b"2")), "root", "a request")


@kinds
def test_type_and_data_go_and_all_else_stays(tmp_path: Path, kind: Any) -> None:
    paths = kind(tmp_path)
    indexes = [path.with_suffix(".idx") for path in paths]
    for index in indexes:
        index.write_bytes(b"login")
    changed = erase_2(tmp_path)
    assert b"".join(path.read_bytes() for path in paths) == ROWS[0] + ERASED + ROWS[2]
    assert {path.stat().st_mtime_ns for path in paths} == {987_654_321_123_456_789}
    assert changed == paths[:1] if kind is plain else paths[1:2]
    assert [index.exists() for index in indexes] == [path not in changed for path in paths]
    (again,) = find(tmp_path, "orders", b"2")
    assert again.is_done


@kinds
def test_the_record_says_who_when_why_and_where_and_nothing_of_what_was_there(
    tmp_path: Path, kind: Any
) -> None:
    kind(tmp_path)
    (path,) = erase_2(tmp_path)
    begun, done = record(tmp_path)
    at = begun.pop("at"), done.pop("at")
    assert all(len(moment) == 20 and moment.endswith("Z") for moment in at)
    assert begun == {
        "step": "begun", "by": "root", "reason": "a request", "id": "2", "offset": PLACE,
        "size": len(ROWS[1]), "modified": 987_654_321_123_456_789,
    }  # fmt: skip
    digest = sha256(path.read_bytes()).hexdigest()
    assert done == {
        "step": "done", "offset": PLACE, "bytes": path.stat().st_size, "sha256": digest
    }  # fmt: skip
    everything = b"".join(each.read_bytes() for each in tmp_path.iterdir() if not each.is_symlink())
    assert SECRET not in everything
    assert pending(tmp_path, "orders") == []


@kinds
def test_an_erasure_that_is_killed_is_finished_and_begins_with_the_record(
    tmp_path: Path, kind: Any
) -> None:
    for call in range(500):
        folder = tmp_path / str(call)
        folder.mkdir()
        paths = kind(folder)
        if not killed_at(call, partial(erase_2, folder)):
            break
        rows = b"".join(path.read_bytes() for path in paths)
        begun = pending(folder, "orders")
        is_recorded = (folder / "orders.erasures").exists() and bool(record(folder))
        if rows != b"".join(ROWS):
            assert is_recorded, "the bytes were changed before that was recorded"
        logs = Folder(folder)
        logs.hold(lambda: None)  # which the next hub does, or the next command
        assert b"".join(path.read_bytes() for path in paths) == (
            ROWS[0] + ERASED + ROWS[2] if is_recorded else b"".join(ROWS)
        )
        if begun:
            assert {path.stat().st_mtime_ns for path in paths} == {987_654_321_123_456_789}
            assert record(folder)[-1]["step"] == "done"
        assert pending(folder, "orders") == []
        before = (folder / "orders.erasures").read_bytes() if is_recorded else b""
        finish(folder)
        assert not is_recorded or (folder / "orders.erasures").read_bytes() == before
    else:
        pytest.fail("it never ended")


def test_each_step_is_on_disk_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(tmp_path)[0].with_suffix(".idx").write_bytes(b"login")
    wanted = list(find(tmp_path, "orders", b"2"))
    steps = traced(monkeypatch, tmp_path, "fsync", "pwrite", "utime", "unlink")
    erase(tmp_path, "orders", wanted, "root", "")
    assert [step for step in steps if not step.endswith(".ids")] == [
        "fsync ./orders.erasures", "fsync .",
        "pwrite ./orders.tsv", "utime ./orders.tsv", "fsync ./orders.tsv",
        "unlink ./orders.idx", "fsync .",
        "fsync ./orders.erasures", "fsync .",
    ]  # fmt: skip


@pytest.mark.parametrize("written", range(0, len(ERASED), 3))
def test_a_row_that_is_overwritten_in_part_is_finished(tmp_path: Path, written: int) -> None:
    (path,) = plain(tmp_path)
    erase_2(tmp_path)
    lines = (tmp_path / "orders.erasures").read_text().splitlines(keepends=True)
    (tmp_path / "orders.erasures").write_text(lines[0])
    torn = ERASED[:written] + ROWS[1][written:]
    path.write_bytes(ROWS[0] + torn + ROWS[2])
    finish(tmp_path)
    assert path.read_bytes() == ROWS[0] + ERASED + ROWS[2]
    assert [line["step"] for line in record(tmp_path)] == ["begun", "done"]


@pytest.mark.parametrize(
    "now", [b"", ROWS[0], ROWS[0] + ROWS[2] * 9, b"other\t\trow\n" * 9, b"x" * 99]
)
def test_what_is_not_there_any_more_is_given_up_once(tmp_path: Path, now: bytes) -> None:
    (path,) = plain(tmp_path)
    erase_2(tmp_path)
    lines = (tmp_path / "orders.erasures").read_text().splitlines(keepends=True)
    (tmp_path / "orders.erasures").write_text(lines[0])
    path.write_bytes(now)
    finish(tmp_path)
    finish(tmp_path)
    assert path.read_bytes() == now
    assert [line["step"] for line in record(tmp_path)] == ["begun", "gone"]


def test_what_was_removed_meanwhile_is_given_up_too(tmp_path: Path) -> None:
    paths = in_segments(tmp_path)
    erase_2(tmp_path)
    lines = (tmp_path / "orders.erasures").read_text().splitlines(keepends=True)
    (tmp_path / "orders.erasures").write_text(lines[0])
    for path in paths[:2]:
        path.unlink()
    finish(tmp_path)
    paths[2].unlink()
    assert [line["step"] for line in record(tmp_path)] == ["begun", "gone"]


def test_lines_that_are_none_are_passed_over_and_half_a_line_is_ended(tmp_path: Path) -> None:
    (path,) = plain(tmp_path)
    begun = {"step": "begun", "id": "1", "offset": 0, "size": len(ROWS[0]), "modified": 0}
    foreign = [
        "", "[]", "7", "null", '"x"', "{}", '{"step": "begun"}', '{"step": "begun", "offset": "x"}',
        json.dumps({**begun, "size": []}), "\udcff{", "half a line: " + json.dumps(begun),
    ]  # fmt: skip
    text = "\n".join(foreign).encode(errors="surrogateescape")
    (tmp_path / "orders.erasures").write_bytes(text)
    finish(tmp_path)
    assert path.read_bytes() == b"".join(ROWS)
    erase_2(tmp_path)
    after = (tmp_path / "orders.erasures").read_bytes()
    assert after.startswith(text + b"\n")
    assert [json.loads(line)["step"] for line in after.splitlines()[-2:]] == ["begun", "done"]


def test_a_record_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    plain(folder)
    (folder / "orders.erasures").symlink_to(tmp_path / "elsewhere")
    finish(folder)
    with pytest.raises(OSError, match="symbolic link"):
        erase_2(folder)
    assert not (tmp_path / "elsewhere").exists()
    assert (folder / "orders.tsv").read_bytes() == b"".join(ROWS)


@kinds
def test_all_events_of_an_id_are_found_wherever_they_are(tmp_path: Path, kind: Any) -> None:
    rows = [
        tsv.BOM + b"2\t\tfirst\n", b"22\t\t2\t\tno\n", b"2\tno event\n", b"2\t\t\n", b"x2\t\t\n",
        b"2\ta\t2\tb\n", b"2\t\thalf",
    ]  # fmt: skip
    kind(tmp_path, rows)
    starts = [sum(map(len, rows[:n])) for n in range(len(rows))]
    found = [(each.offset, each.size) for each in find(tmp_path, "orders", b"2")]
    assert found == [
        (starts[0] + 3, len(rows[0]) - 3), (starts[3], len(rows[3])), (starts[5], len(rows[5])),
    ]  # fmt: skip
    erase(tmp_path, "orders", list(find(tmp_path, "orders", b"2")), "root", "")
    assert all(each.is_done for each in find(tmp_path, "orders", b"2"))
    log = Folder(tmp_path).open("orders")
    assert log.pread(0, log.end) == b"".join([
        tsv.BOM + b"2\terase\t\n", rows[1], rows[2], b"2\t\t\n", rows[4], b"2\teras\t\n",
    ])  # fmt: skip


def test_a_file_before_a_gap_is_reached_too(tmp_path: Path) -> None:
    rows = [ROWS[1], ROWS[0], ROWS[2]]
    paths = in_segments(tmp_path, rows)
    paths[1].unlink()
    assert erase_2(tmp_path) == paths[:1]
    assert paths[0].read_bytes() == ERASED


def test_if_nothing_can_be_written_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = plain(tmp_path)
    wanted = list(find(tmp_path, "orders", b"2"))

    def refused(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="No space"):
        erase(tmp_path, "orders", wanted, "root", "")
    assert path.read_bytes() == b"".join(ROWS)
    assert (tmp_path / "orders.erasures").read_bytes() == b""
    assert len(Folder(tmp_path, "never").open("orders").generation) == 12
    (tmp_path / "orders.erasures").unlink()
    path.unlink()
    path.mkdir()
    with pytest.raises((OSError, AssertionError)):
        erase(tmp_path, "orders", wanted, "root", "")
    assert not (tmp_path / "orders.erasures").exists()


# -- what a hub makes of it ----------------------------------------------------------------------


@kinds
def test_the_generation_is_another_and_places_stay(tmp_path: Path, kind: Any) -> None:
    kind(tmp_path, [ROWS[0] + ROWS[1], ROWS[2]])
    log = Folder(tmp_path).open("orders")
    generation, at = log.generation, log.generation_at(PLACE)
    erase_2(tmp_path)
    once = Folder(tmp_path).open("orders")
    assert once.generation != generation
    assert once.generation == Folder(tmp_path).open("orders").generation
    assert once.generation_at(PLACE) == at
    erase(tmp_path, "orders", [Erasure(b"3", PLACE + len(ROWS[1]), len(ROWS[2]), 0)], "root", "")
    twice = Folder(tmp_path).open("orders").generation
    assert len({generation, once.generation, twice}) == 3
    assert all(int(each, 16) for each in (once.generation, twice))


def test_the_generation_is_the_same_in_one_file_and_as_the_first_segment(tmp_path: Path) -> None:
    plain(tmp_path)
    erase_2(tmp_path)
    before = Folder(tmp_path).open("orders").generation
    (tmp_path / "orders.tsv").rename(tmp_path / f"orders.{0:020}.tsv")
    assert Folder(tmp_path).open("orders").generation == before


def test_a_channel_without_a_record_is_as_it_was(tmp_path: Path) -> None:
    (path,) = plain(tmp_path)
    assert erasures.mark(path) == ""
    assert len(Folder(tmp_path).open("orders").generation) == 12

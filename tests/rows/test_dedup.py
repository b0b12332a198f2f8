"""The last events by id: what is sent again is told from what is new."""

from hashlib import blake2b
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.errors import Conflict
from esource.rows.dedup import DIGEST_BYTES, PARTS, Dedup, Fresh, digests


def test_what_is_there_is_left_out_and_what_is_new_comes_back() -> None:
    dedup = Dedup(10, b"1\ta\tx\nno event\n\t\tno id\n")
    assert dedup.new(b"1\ta\tx\n2\ta\tx\n", Fresh(), {}) == (b"2\ta\tx\n", 1)


def test_what_is_new_is_not_there_before_it_is_added() -> None:
    dedup = Dedup(10)
    assert (
        dedup.new(b"1\t\tx\n", Fresh(), {})
        == dedup.new(b"1\t\tx\n", Fresh(), {})
        == (b"1\t\tx\n", 1)
    )
    dedup.add(digests(b"1\t\tx\n"))
    assert dedup.new(b"1\t\tx\n", Fresh(), {}) == (b"", 0)


def test_one_that_comes_twice_in_blocks_of_a_batch_is_new_once() -> None:
    dedup, seen = Dedup(10), Fresh()
    assert dedup.new(b"1\t\tx\n1\t\tx\n", seen, {}) == (b"1\t\tx\n", 1)
    assert dedup.new(b"1\t\tx\n", seen, {}) == (b"", 0)
    with pytest.raises(Conflict):
        dedup.new(b"1\t\ty\n", seen, {})


@pytest.mark.parametrize("row", [b"1\ta\ty\n", b"1\tb\tx\n", b"1\ta\tx \n"])
def test_another_type_or_data_under_an_id_is_a_conflict(row: bytes) -> None:
    with pytest.raises(Conflict, match="'1'"):
        Dedup(10, b"1\ta\tx\n").new(row, Fresh(), {})


def test_what_looks_like_the_digest_of_another_is_not_the_other() -> None:
    contents = (b"\t%020d" % n for n in count())
    content, alike = next(
        (content, digest)
        for content in contents
        if (digest := blake2b(content, digest_size=DIGEST_BYTES).digest()).startswith(b"\t")
        and b"\n" not in digest
    )
    with pytest.raises(Conflict):
        Dedup(10, b"1\t%b\n" % content).new(b"1\t%b\n" % alike, Fresh(), {})


def test_of_more_than_are_kept_the_last_are_kept() -> None:
    dedup = Dedup(2, b"1\t\tx\n")
    dedup.add({b"%d" % id: b"\tx" for id in range(1, 6)})
    assert dedup.new(b"3\t\tx\n4\t\tx\n5\t\tx\n", Fresh(), {}) == (b"3\t\tx\n", 1)


def test_of_a_batch_all_are_known_though_only_the_last_are_kept_in_order() -> None:
    dedup, fresh = Dedup(2), Fresh()
    rows = b"".join(b"%d\t\tx\n" % id for id in range(1000 * PARTS))
    assert dedup.new(rows, fresh, {}) == (rows, 1000 * PARTS)
    assert dedup.new(rows, fresh, {}) == (b"", 0)
    assert len(fresh.latest) == 2
    assert max(map(len, fresh.parts)) < 2000  # about 1000


@given(
    st.lists(st.integers(0, 6), max_size=20), st.integers(0, 5), st.lists(st.integers(0, 6))
)  # fmt: skip
def test_it_remembers_the_last_ids_as_a_plain_list_would(
    old: list[int], limit: int, sent: list[int]
) -> None:
    dedup = Dedup(limit, b"".join(b"%d\t\tx\n" % id for id in old))
    newest_first = dict.fromkeys(reversed(old))
    known = set(list(newest_first)[:limit])
    expected = [id for id in dict.fromkeys(sent) if id not in known]
    rows, count = dedup.new(b"".join(b"%d\t\tx\n" % id for id in sent), Fresh(), {})
    assert (rows, count) == (b"".join(b"%d\t\tx\n" % id for id in expected), len(expected))

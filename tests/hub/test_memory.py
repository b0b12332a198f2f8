"""The account of the memory of bodies: what is counted, and which body gives way."""

import pytest

from esource.errors import Busy
from esource.hub.memory import BodyMemory, Share


class Bodies:
    """Bodies of one account, which note that they are woken."""

    def __init__(self, limit: int) -> None:
        """`limit` is that of all of them together."""
        self.memory = BodyMemory(limit)
        self.woken: list[str] = []

    def share(self, name: str) -> Share:
        return self.memory.share(lambda: self.woken.append(name))


def test_the_body_that_has_stood_longest_gives_way_and_not_the_new_one() -> None:
    bodies = Bodies(100)
    with bodies.share("first") as first, bodies.share("second") as second:
        first.take(40)
        second.take(40)
        first.take(10)
        with bodies.share("third") as third:
            third.take(50)
            assert bodies.woken == ["first"]
            with pytest.raises(Busy, match="memory"):
                first.take(0)
            second.take(10)
        assert bodies.woken == ["first"]
    assert bodies.memory.used == 0


def test_as_many_give_way_as_it_takes() -> None:
    bodies = Bodies(100)
    with bodies.share("1") as one, bodies.share("2") as two, bodies.share("3") as three:
        for share in (one, two, three):
            share.take(33)
        with bodies.share("4") as four:
            four.take(60)
            assert bodies.woken == ["1", "2"]
            assert bodies.memory.used == 159  # they have not gone yet
            one.give(20)
            one.__exit__()
            four.take(7)
            assert bodies.woken == ["1", "2"]


def test_the_one_that_has_stood_longest_is_not_woken_to_be_told_so() -> None:
    bodies = Bodies(100)
    with bodies.share("first") as first:
        first.take(60)
        with pytest.raises(Busy) as error:
            first.take(60)
        assert error.value.seconds > 0
        assert bodies.woken == []
        with bodies.share("second") as second:
            second.take(100)
    assert bodies.memory.used == 0


def test_a_body_that_is_whole_is_not_given_up_but_the_new_one_is_refused() -> None:
    bodies = Bodies(100)
    with bodies.share("whole") as whole:
        whole.take(90)
        whole.complete()
        with bodies.share("new") as new, pytest.raises(Busy):
            new.take(20)
        with bodies.share("another") as another:
            another.take(10)
            another.complete()
            with pytest.raises(Busy):
                another.take(1)
        whole.take(10)
    assert bodies.woken == []


def test_a_body_that_was_given_up_before_its_last_byte_is_refused() -> None:
    bodies = Bodies(100)
    with bodies.share("slow") as slow, bodies.share("new") as new:
        slow.take(60)
        new.take(60)
        with pytest.raises(Busy):
            slow.complete()


def test_a_body_that_is_committed_in_parts_stands_anew_with_each() -> None:
    bodies = Bodies(100)
    with bodies.share("stream") as stream, bodies.share("batch") as batch:
        stream.take(40)
        batch.take(40)
        stream.give(20)
        with bodies.share("new") as new:
            new.take(50)
            assert bodies.woken == ["batch"]


def test_a_stream_of_which_all_is_committed_does_not_stand() -> None:
    bodies = Bodies(100)
    with bodies.share("silent") as silent, bodies.share("empty") as empty:
        silent.take(40)
        silent.give(40)
        empty.take(3)
        empty.take(-3)
        with bodies.share("new") as new, pytest.raises(Busy):
            new.take(101)
        assert bodies.woken == []

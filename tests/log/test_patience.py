"""How long an engine is waited for."""

import logging
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from esource.errors import StorageError
from esource.log import Counts
from esource.log.patience import PROBE_SECONDS, Again, Away, Patience, TooLate, Unsafe, Untried

SECONDS = 0.3
LATE = 0.2  # that an answer may come later than it is due


def failing(error: Exception) -> Callable[[float], None]:
    """Return a call that is never answered."""

    def once(deadline: float) -> None:
        raise error

    return once


def answered(deadline: float) -> bool:
    return True


def test_calls_that_queued_behind_one_that_failed_are_over_with_it() -> None:
    """As commits of a channel: each begins when the one before it is over."""
    patience = Patience("Valkey", SECONDS, Counts(), writes=True)
    asked = time.monotonic()
    with pytest.raises(StorageError, match="no replica") as failed:
        patience.call(failing(Unsafe("no replica")), asked)
    assert not isinstance(failed.value, Untried)
    for _ in range(3):
        with pytest.raises(Untried, match="no replica"):
            patience.call(answered, asked)
    assert time.monotonic() - asked < SECONDS + LATE


def test_what_was_asked_later_has_the_time_that_is_left_of_its_own() -> None:
    patience = Patience("Valkey", SECONDS, Counts(), writes=True)
    with pytest.raises(StorageError):
        patience.call(failing(Away("gone")))
    asked = time.monotonic() - SECONDS / 2
    with pytest.raises(StorageError, match="Valkey is away") as failed:
        patience.call(failing(Away("gone")), asked)
    assert not isinstance(failed.value, Untried)
    assert time.monotonic() - asked < SECONDS + LATE


def test_what_has_waited_for_the_work_of_others_has_all_its_time() -> None:
    """An engine that is well, and slow, refuses nobody."""
    patience = Patience("Valkey", SECONDS, Counts())
    assert patience.call(answered, time.monotonic() - 10 * SECONDS)


def test_one_answer_is_enough_for_all_to_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    patience = Patience("Valkey", SECONDS, Counts(), writes=True)
    for _ in range(2):
        with pytest.raises(StorageError):
            patience.call(failing(Unsafe("no replica")))
    assert patience.call(answered)
    assert patience.call(answered, time.monotonic() - 10 * SECONDS)
    assert [record.message for record in caplog.records] == [
        "Valkey takes no events: no replica",
        "Valkey takes events again",
    ]


def test_what_says_nothing_of_other_calls_is_no_reason_to_refuse_them() -> None:
    patience = Patience("Valkey", SECONDS, Counts())
    with pytest.raises(StorageError, match="Valkey: a slot is being moved"):
        patience.call(failing(Again("a slot is being moved")))
    assert patience.call(answered, time.monotonic() - 10 * SECONDS)


def test_the_one_that_asks_for_all_asks_again_soon() -> None:
    """The others are refused until it is answered."""
    patience = Patience("Valkey", SECONDS, Counts())
    with pytest.raises(StorageError):
        patience.call(failing(Away("gone")))
    back, tries = time.monotonic() + 8 * PROBE_SECONDS, []

    def once(deadline: float) -> bool:
        tries.append(time.monotonic())
        if tries[-1] < back:
            raise Away("gone")
        return True

    assert patience.call(once, back)  # it has time until then, and a little more
    assert max(after - before for before, after in pairwise(tries)) < PROBE_SECONDS + LATE


def test_the_one_that_asks_for_all_lets_another_one_ask_once_it_has_no_time_for_it() -> None:
    patience = Patience("PostgreSQL", SECONDS, Counts())
    began = time.monotonic()
    with pytest.raises(StorageError):
        patience.call(failing(TooLate("gone")))
    assert time.monotonic() - began > SECONDS / 2, "it may be answered on another's connection"
    began = time.monotonic()
    with pytest.raises(StorageError, match="PostgreSQL is away"):
        patience.call(failing(TooLate("gone")))
    assert time.monotonic() - began < SECONDS / 2
    assert patience.call(answered)

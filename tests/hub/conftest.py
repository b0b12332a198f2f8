"""What holds for every test of the hub in this process."""

from collections.abc import Iterator

import gevent
import pytest

from esource.hub.loop import Failure, report_crashes, switches


@pytest.fixture(scope="session", autouse=True)
def switches_are_counted() -> None:
    """From now on, a switch where `unswitched` allows none is an error."""
    switches.count()


@pytest.fixture(autouse=True)
def no_assertion_fails_in_silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also in a greenlet for which nobody waits, a failed assertion fails the test."""
    failed: list[BaseException] = []

    def note(text: str, failure: Failure) -> None:
        if isinstance(failure[1], AssertionError):
            failed.append(failure[1])

    monkeypatch.setattr(gevent.get_hub(), "print_exception", None)  # so that it is restored
    report_crashes(note)
    yield
    assert failed == []

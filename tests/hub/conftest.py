"""What holds for every test of the hub in this process."""

import pytest

from esource.hub.loop import switches


@pytest.fixture(scope="session", autouse=True)
def switches_are_counted() -> None:
    """From now on, a switch where `unswitched` allows none fails the test that is running."""
    switches.count()

"""What every test of faults may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import QUIET, Hub, shims
from tests.harness.shims import Disk


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of our marker."""
    config.addinivalue_line(
        "markers", "alone: measures what others do to it; has the machine to itself in CI"
    )


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> shims.Build:
    """The function that compiles a shim, once each."""
    folder = tmp_path_factory.mktemp("shims")

    def build(name: str) -> Path:
        return shims.build(name, folder)

    return build


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory, shim: shims.Build
) -> Iterator[tuple[Hub, Disk]]:
    """A hub on a disk that fails, or is slow, when it is told to."""
    with shims.on_a_disk(tmp_path_factory.mktemp("broken"), shim, **QUIET) as hub_and_disk:
        yield hub_and_disk

"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Hub, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A running hub that the tests of a module share: each uses channels of its own."""
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[Hub]:
    """A running hub for a test that stops, restarts or breaks it."""
    with running_hub(tmp_path) as hub:
        yield hub

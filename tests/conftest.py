"""What every test may ask for, and what holds for all of them."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.harness import Hub, running_hub
from tests.harness.machine import heed_sigint

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("esource", deadline=None)
hypothesis.settings.load_profile("esource")

heed_sigint()


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

"""What every test of faults may ask for."""

from pathlib import Path

import pytest

from tests.harness import shims


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> shims.Build:
    """The function that compiles a shim, once each."""
    folder = tmp_path_factory.mktemp("shims")

    def build(name: str) -> Path:
        return shims.build(name, folder)

    return build

"""What the tests of several hubs on one engine may ask for."""

from collections.abc import Iterator

import pytest

from tests.harness import QUIET, Hub
from tests.harness.engine import engine_hubs
from tests.harness.postgres import Postgres, shared_postgres


@pytest.fixture(scope="session")
def server() -> Postgres:
    """A server that the tests share; each has databases of its own."""
    return shared_postgres()


@pytest.fixture(scope="session")
def hubs(tmp_path_factory: pytest.TempPathFactory, server: Postgres) -> Iterator[list[Hub]]:
    """Three hubs, which the tests share; they start at once on a database without tables."""
    home = tmp_path_factory.mktemp("hubs")
    with engine_hubs(home, server.database(), 3, **QUIET) as hubs:
        yield hubs

"""What every test may ask for, and what holds for all of them."""

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.harness import Hub, extras, running_hub, store
from tests.harness.machine import heed_sigint

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("esource", deadline=None)
hypothesis.settings.load_profile("esource")

heed_sigint()

# What is asked of a hub whatever it has its channels in: `pytest --store NAME` runs these.
HERE = Path(__file__).parent
BLACK_BOX = [HERE / name for name in ("web", "page", "test_clients.py", "test_flights.py")]


class Module(pytest.Module):
    """A module of tests, which is skipped as a whole if it imports what is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            extras.excuse(error.__cause__)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    module: Module = Module.from_parent(parent, path=module_path)
    return module


def _excused() -> Generator[None, object, object]:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        extras.excuse(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test of which a fixture imports what is not installed."""
    return (yield from _excused())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip a test that imports what is not installed."""
    return (yield from _excused())


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("esource")
    group.addoption(
        "--store", choices=store.STORES, default=store.FILES,
        help="what hubs have their channels in; an engine: the tests for which that is the same",
    )  # fmt: skip
    group.addoption("--fifth", action="store_true", help="of these, a fifth: always the same")


def pytest_configure(config: pytest.Config) -> None:
    store.choose(config.getoption("store"))
    config.addinivalue_line("markers", "files(reason): cannot be on an engine, for a reason")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("store") == store.FILES:
        return None
    is_one = any(
        path in (collection_path, *collection_path.parents) or collection_path in path.parents
        for path in BLACK_BOX
    )
    return None if is_one else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kind = config.getoption("store")
    left_out: dict[pytest.Item, str] = {}
    for item in items if kind != store.FILES else []:
        if mark := item.get_closest_marker("files"):
            left_out[item] = mark.args[0]
        elif config.getoption("fifth") and not store.is_of_share(item.nodeid, kind):
            left_out[item] = ""
    items[:] = [item for item in items if item not in left_out]
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
    config.stash[LEFT_OUT] = left_out


LEFT_OUT = pytest.StashKey[dict[pytest.Item, str]]()


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """With `--collect-only`, list what cannot be on an engine, and why."""
    reasons: dict[str, list[str]] = {}
    for item, reason in config.stash.get(LEFT_OUT, {}).items():
        if reason:
            reasons.setdefault(reason, []).append(item.nodeid)
    lines = []
    for reason, ids in sorted(reasons.items()) if config.option.collectonly else ():
        lines += ["", f"Not on an engine: {reason}", *[f"  {id}" for id in ids]]
    return lines


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

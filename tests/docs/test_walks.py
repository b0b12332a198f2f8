"""The walks of all pages: what they say to type is typed at a terminal, and shows what they say.

`tests.harness.walk` says how a page is written for that.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import needs, started
from tests.harness.document import Document, Saved, pages
from tests.harness.own_etc import own_etc
from tests.harness.walk import Checkout, Walk

# Settings of the hub, which a page tells its reader to set.
SETTINGS = {
    "docs/retention.md": {
        "ESOURCE_KEEP": "app-*/age=30d,size=10G:metrics-*/age=7d:orders/segment=1M",
    },
}
# A channel with a rule is in segments, and nobody who reads the walk sees that.
IN_SEGMENTS = {"README.md": "*/age=30d,segment=1M"}
# Programs that its commands need.
PROGRAMS = {
    "docs/clients.md": ("node", "php", "java"),
    "docs/tutorial.md": ("node",),
    "docs/recipes.md": ("sqlite3",),
}
# And what the programs import that one saves.
MODULES = {"docs/clients.md": ("httpx", "httpx_sse")}
# What they say is typed by root, on a machine that has nginx.
AS_ROOT = {"docs/nginx.md"}
WALKED = [path for path in pages() if Document(path).commands()]


@pytest.fixture
def hub(tmp_path: Path, page: str, keep: str) -> Iterator[Checkout]:
    needs(*PROGRAMS.get(page, ()))
    for module in MODULES.get(page, ()):
        importlib.import_module(module)
    # Heartbeats depend on how long the walk takes.
    settings = {"ESOURCE_HEARTBEAT_SECONDS": "3600", "ESOURCE_KEEP": keep}
    settings |= SETTINGS.get(page, {})
    with ExitStack() as stack:
        if page in AS_ROOT:
            hub: Checkout = stack.enter_context(own_etc(tmp_path, **settings))
        else:
            hub = Checkout(tmp_path, **settings)
        stack.enter_context(started(hub))
        yield hub


@pytest.mark.parametrize(("page", "keep"), [*[(page, "") for page in WALKED], *IN_SEGMENTS.items()])
def test_what_a_page_says_to_type_shows_what_it_says(hub: Checkout, page: str) -> None:
    Walk(hub).go(Document(page).walk())


@pytest.mark.parametrize("page", SETTINGS)
def test_what_a_walk_needs_to_be_set_the_page_says(page: str) -> None:
    for name, value in SETTINGS[page].items():
        assert f"{name}='{value}'" in Document(page).text


@pytest.mark.parametrize("page", pages())
def test_every_line_of_a_terminal_that_asks_the_hub_is_run(page: str) -> None:
    """What asks the hub is in a `console` block, or in a file that one saves."""
    document = Document(page)
    saved = [step.text for step in document.walk() if isinstance(step, Saved)]
    for language in ("sh", "bash", "text"):
        for block in document.blocks(language):
            assert block in saved or not re.search("curl .*localhost:9000", block), block

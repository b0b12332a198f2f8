"""Debian's Chromium, started once for each module, and a person in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import Hub, needs
from tests.harness.npm import with_packages

if TYPE_CHECKING:  # a module that is missing skips tests, but ends pytest here
    from playwright.sync_api import Browser, BrowserContext

    from tests.page.person import Person

OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    [path] = needs("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser's window that knows nothing yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def person(context: BrowserContext, hub: Hub) -> Iterator[Person]:
    """Somebody who looks at the module's hub."""
    from tests.page.person import Person

    person = Person(context, hub)
    yield person
    person.leave()


@pytest.fixture
def own_person(context: BrowserContext, own_hub: Hub) -> Iterator[Person]:
    """Somebody who looks at the test's own hub, which may go away."""
    from tests.page.person import ABSENCE, Person

    person = Person(context, own_hub)
    person.forgiven = ABSENCE
    yield person
    person.leave()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's packages that the browser is to run, in `node_modules`."""
    return with_packages(Path(__file__).parent, tmp_path_factory.mktemp("packages"))

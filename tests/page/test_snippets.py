"""The pages of `docs/clients.md`, as they stand there, in a browser, from another origin."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import BrowserContext

from tests.harness import Hub, eventually, running_hub
from tests.harness.document import Document, Saved

SCRIPTS = {
    "htmx.js": "htmx.org/dist/htmx.js",
    "hx-sse.js": "htmx.org/dist/ext/hx-sse.js",
    "htmx2.js": "htmx.org-2/dist/htmx.js",
    "sse.js": "htmx-ext-sse/sse.js",
    "turbo.js": "@hotwired/turbo/dist/turbo.es2017-esm.js",
}
STREAM = "<turbo-stream action=append target=seen><template><li>{}</li></template></turbo-stream>"
# The type and the data of the events that each page is for.
EVENTS = {
    "plain.html": ("", "{}"),
    "typed.html": ("paid", "{}"),
    "every.html": ("anything", "{}"),
    "htmx.html": ("", "<li>{}</li>"),
    "htmx2.html": ("placed", "<li>{}</li>"),
    "turbo.html": ("", STREAM),
}
PAGES = {
    step.name: step.text
    for step in Document("docs/clients.md").walk()
    if isinstance(step, Saved) and step.name.endswith(".html")
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Shop(NamedTuple):
    """An origin of its own, with the pages in a folder, and a hub that lists it."""

    folder: Path
    url: str
    hub: Hub


@pytest.fixture(scope="module")
def shop(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    for name, path in SCRIPTS.items():
        shutil.copy(packages / "node_modules" / path, folder / name)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with running_hub(tmp_path_factory.mktemp("hub"), ESOURCE_CORS_ORIGINS=url) as hub:
            yield Shop(folder, url, hub)
        server.shutdown()
        thread.join()


def test_each_page_is_tried() -> None:
    assert list(PAGES) == list(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_a_page_shows_what_comes_also_after_a_restart(
    context: BrowserContext, shop: Shop, name: str
) -> None:
    hub, channel = shop.hub, name.partition(".")[0]
    text = PAGES[name].replace("http://localhost:9000/orders", f"{hub.url}/{channel}")
    (shop.folder / name).write_text(f"<!doctype html>{text}")
    page = context.new_page()
    page.goto(f"{shop.url}/{name}")
    eventually(lambda: "esource_subscribers 1.0" in hub.get("/-/metrics").text)
    type, data = EVENTS[name]
    seen = page.locator("#seen li")
    for count in (1, 2):
        hub.publish(f"/{channel}?event={type}", data.format(f"event {count}"))
        eventually(lambda count=count: seen.count() == count)  # type: ignore[misc]
        assert seen.nth(count - 1).text_content() == f"event {count}"
        if count == 1:
            hub.restart()
    page.close()
    eventually(lambda: "esource_subscribers 0.0" in hub.get("/-/metrics").text)

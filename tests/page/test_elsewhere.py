"""Pages of another origin than the hub's, and the libraries that they are built with.

All of them follow at the same time, so one reload and one restart do for all. Each has a window
of its own, since a browser opens six connections to a hub at most.
"""

import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.harness import Hub, eventually, running_hub

CONNECTING, OPEN, CLOSED = range(3)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Elsewhere(NamedTuple):
    """Another origin: at its address are the files of a folder, and an empty page."""

    folder: Path
    url: str


@pytest.fixture(scope="module")
def elsewhere(packages: Path) -> Iterator[Elsewhere]:
    """A server at another port, which has npm's packages."""
    (packages / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=packages)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Elsewhere(packages, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def datastar(elsewhere: Elsewhere) -> None:
    """Add the script of Datastar 1.0, which the wheel of StarHTML has, and npm does not."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "starhtml==0.7.0",
         "--python-version=3.12", "--only-binary=:all:", f"--dest={elsewhere.folder}"],
        check=True, timeout=180,
    )  # fmt: skip
    [wheel] = elsewhere.folder.glob("starhtml-*.whl")
    zipfile.ZipFile(wheel).extractall(elsewhere.folder)


@pytest.fixture(scope="module")
def listed_hub(elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose events pages from elsewhere may read, and which tells of each request."""
    home = tmp_path_factory.mktemp("listed")
    access_log = {"GUNICORN_CMD_ARGS": f"--access-logfile={home}/access.log"}
    with running_hub(home, **access_log, ESOURCE_CORS_ORIGINS=elsewhere.url) as hub:
        yield hub


# -- pages that follow -------------------------------------------------------------------------


class Site(NamedTuple):
    """A page whose element `seen` gets what comes on the channel that is named like the page."""

    body: str  # with the hub's address for HUB
    type: str = ""  # of the events
    data: str = "<p>TEXT</p>"  # of an event with a text
    is_last: bool = False  # whether its first event comes only after the hub was stopped

    def with_text(self, text: str) -> str:
        """Return the data of an event."""
        return self.data.replace("TEXT", text)


NATIVE = """
<div id=seen></div>
<script>
  source = new EventSource('HUB')
  source.onmessage = ({ data }) => seen.insertAdjacentHTML('beforeend', data)
</script>"""
SITES = {
    "native": Site(NATIVE),
    "native-still": Site(NATIVE, is_last=True),
    "native-json": Site(
        NATIVE.replace("HUB", "HUB?format=sse-json").replace(
            "', data)", "', JSON.parse(data).data)"
        ),
        type="placed",
    ),
    "htmx-2": Site(
        """
        <script src=/node_modules/htmx.org-2/dist/htmx.js></script>
        <script src=/node_modules/htmx-ext-sse/sse.js></script>
        <div hx-ext=sse sse-connect=HUB sse-swap=placed hx-swap=beforeend id=seen></div>""",
        type="placed",
    ),
    "htmx-4": Site(
        """
        <meta name=htmx-config content='{"mode": "cors"}'>
        <script src=/node_modules/htmx.org/dist/htmx.js></script>
        <script src=/node_modules/htmx.org/dist/ext/hx-sse.js></script>
        <div hx-sse:connect=HUB?prime=1 hx-swap=beforeend id=seen></div>"""
    ),
    "turbo": Site(
        """
        <script type=module src=/node_modules/@hotwired/turbo/dist/turbo.es2017-esm.js></script>
        <turbo-stream-source src=HUB></turbo-stream-source>
        <div id=seen></div>""",
        data="<turbo-stream action=append target=seen><template><p>TEXT</p></template>"
        "</turbo-stream>",
    ),
    "datastar": Site(
        """
        <script type=module src=/starhtml/static/js/datastar-core.js></script>
        <div data-init="@get('HUB?prime=1', {retry: 'always'})"></div>
        <div id=seen></div>""",
        type="datastar-patch-elements",
        data="selector #seen\nmode append\nelements <p>TEXT</p>",
    ),
}


def publish(hub: Hub, name: str, text: str) -> None:
    site = SITES[name]
    hub.publish(f"/{name}?event={site.type}", site.with_text(text))


def open_page(context: BrowserContext, elsewhere: Elsewhere, name: str, body: str) -> Page:
    (elsewhere.folder / f"{name}.html").write_text(f"<!doctype html>{body}")
    page = context.new_page()
    page.goto(f"{elsewhere.url}/{name}.html")
    return page


def seen(page: Page) -> list[str]:
    return page.locator("#seen > *").all_text_contents()


@pytest.mark.usefixtures("datastar")
def test_pages_lose_nothing_over_a_reload_and_a_restart_though_they_have_seen_nothing_yet(
    browser: Browser, elsewhere: Elsewhere, listed_hub: Hub
) -> None:
    """What is published while they reconnect, and what comes while the hub is down."""
    hub = listed_hub
    with ExitStack() as stack:
        pages = {}
        for name, site in SITES.items():
            context = browser.new_context()
            stack.callback(context.close)
            body = site.body.replace("HUB", f"{hub.url}/{name}")
            pages[name] = open_page(context, elsewhere, name, body)
        eventually(lambda: f"esource_subscribers {len(pages)}.0" in hub.get("/-/metrics").text)
        hub.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        eventually(lambda: pages["native"].evaluate("source.readyState") == CONNECTING)
        for name, site in SITES.items():
            if not site.is_last:
                publish(hub, name, "while they reconnect")
        eventually(lambda: all(seen(pages[name]) or SITES[name].is_last for name in pages))
        hub.stop()
        for name, site in SITES.items():
            data = site.with_text("while the hub is down").replace("\n", "\v")
            hub.put(name, f"by hand\t{site.type}\t{data}\n")
        hub.start()
        for name in SITES:
            publish(hub, name, "the end")
        for name, page in pages.items():
            eventually(lambda page=page: "the end" in seen(page))  # type: ignore[misc]
            first = [] if SITES[name].is_last else ["while they reconnect"]
            assert seen(page) == [*first, "while the hub is down", "the end"], name


def test_an_event_source_ends_for_good_at_the_event_that_the_link_names(
    context: BrowserContext, elsewhere: Elsewhere, listed_hub: Hub
) -> None:
    source = f"<script>source = new EventSource('{listed_hub.url}/until?until=done')</script>"
    page = open_page(context, elsewhere, "until", source)
    eventually(lambda: page.evaluate("source.readyState") == OPEN)
    listed_hub.publish("/until?event=done", "all of it")
    eventually(lambda: page.evaluate("source.readyState") == CLOSED)
    log = listed_hub.home / "access.log"  # which has a line once the answer is sent
    asked = re.compile(r'"GET /until\S* HTTP/1.1" (\d+)')
    eventually(lambda: asked.findall(log.read_text()) == ["200", "204"])


# -- pages that ask ----------------------------------------------------------------------------

ASK = """async (url) => {
  const headers = { Authorization: 'Bearer secret', Traceparent: '00', 'HX-Request': 'true' }
  const posted = await fetch(url, { method: 'POST', body: 'from elsewhere', headers })
  const read = await fetch(`${url}?format=raw`, { headers })
  return [
    posted.status, posted.headers.get('Last-Event-ID'), await posted.text(), await read.text(),
  ]
}"""


def test_a_page_of_a_listed_origin_reads_and_writes_with_the_headers_of_a_gateway(
    context: BrowserContext, elsewhere: Elsewhere, listed_hub: Hub
) -> None:
    page = open_page(context, elsewhere, "asks", "")
    status, id, answer, read = page.evaluate(ASK, f"{listed_hub.url}/asks")
    [row] = listed_hub.rows("asks")
    assert (status, answer, read) == (201, f"{id}\n", "from elsewhere\n")
    assert row.decode() == f"{id}\t\tfrom elsewhere"


def test_a_page_of_another_origin_is_refused(
    context: BrowserContext, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    with running_hub(tmp_path, ESOURCE_CORS_ORIGINS="https://example.org") as hub:
        hub.publish("/orders", "secret")
        source = f"<script>source = new EventSource('{hub.url}/orders?after=')</script>"
        page = open_page(context, elsewhere, "refused", source)
        eventually(lambda: page.evaluate("source.readyState") == CLOSED)
        post = "url => fetch(url, { method: 'POST', body: 'x' }).catch(({ name }) => name)"
        assert page.evaluate(post, f"{hub.url}/orders") == "TypeError"
        assert hub.data("orders") == [b"secret"]

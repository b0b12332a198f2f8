"""An EventSource of a browser, through the sites of `deploy/nginx`, while the hub is away."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.harness import eventually
from tests.harness.machine import some
from tests.harness.site import SITES, running_site

CLOSED = 2
FOLLOW = """() => {
  seen = []
  source = new EventSource('/restarted')
  source.onmessage = ({ data }) => seen.push(data)
}"""


@pytest.mark.parametrize("name", some(SITES, 3))
def test_an_event_source_comes_through_a_hub_that_is_away_for_a_while(
    browser: Browser, tmp_path: Path, name: str
) -> None:
    """It asks again and again meanwhile, is told each time when to, and misses nothing."""
    with running_site(tmp_path, name) as site:
        context = browser.new_context(
            ignore_https_errors=True, http_credentials={"username": "rita", "password": "r"}
        )
        page = context.new_page()
        page.goto(f"https://127.0.0.1:{site.port}/-/page/page.js")  # a text of the same origin
        page.evaluate(FOLLOW)
        eventually(lambda: "esource_subscribers 1.0" in site.hub.get("/-/metrics").text)
        site.hub.publish("/restarted", "before")
        eventually(lambda: page.evaluate("seen") == ["before"])
        site.hub.stop()
        site.hub.put("restarted", "by-hand\t\tmeanwhile\n")
        told = re.compile(r'"GET /restarted HTTP/\S+" 200 12 ')  # bytes: `retry: 1234`
        eventually(lambda: len(told.findall(site.accesses)) >= 2)
        assert page.evaluate("source.readyState") != CLOSED
        site.hub.start()
        site.hub.publish("/restarted", "after")
        eventually(lambda: "after" in page.evaluate("seen"))
        assert page.evaluate("seen") == ["before", "meanwhile", "after"]
        context.close()

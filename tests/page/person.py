"""A person in front of the page: what they do, and what they see of it."""

import re

from playwright.sync_api import BrowserContext, ConsoleMessage, Page

from tests.harness import PATIENCE_SECONDS, Hub, eventually

# Tells how often the page makes an EventSource, what its policy stopped, and the longest time
# between two frames.
WATCH = """
window.sources = 0
window.EventSource = class extends EventSource {
  constructor(...options) { super(...options); window.sources++ }
}
window.violations = []
addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective))
window.longest = 0
let last = performance.now()
const frame = (now) => {
  window.longest = Math.max(window.longest, now - last)
  last = now
  requestAnimationFrame(frame)
}
requestAnimationFrame(frame)
"""
# What a browser says by itself while there is no hub.
ABSENCE = r"Failed to load resource: net::ERR_(CONNECTION|INCOMPLETE|EMPTY|NETWORK)\w+"


class Person:
    """A person with the page open, and what they see of it."""

    def __init__(self, context: BrowserContext, hub: Hub) -> None:
        self.hub = hub
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.page.add_init_script(WATCH)
        self.problems: list[str] = []
        self.forgiven = "(?!)"
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._ask(request.url))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _ask(self, url: str) -> None:
        if not url.startswith((self.hub.url + "/", "data:")):
            self.problems.append(f"asked {url}")

    def visit(self, query: str = "") -> "Person":
        """Go to the page; with a channel in the query, return when its stream is open."""
        self.page.goto(f"{self.hub.url}/{query}")
        if "channel=" in query:
            self.wait_for_state("open")
        return self

    def wait_for_state(self, state: str) -> None:
        """Return when the page says that its stream is in this state."""
        self.page.wait_for_selector(f"#state[data-state={state}]")

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Id, type and data of the events in the list."""
        script = """rows => rows.map(({ children: [id, type, text] }) => [
          id.title.split('\\n')[0], type.textContent, text.textContent])"""
        found = self.page.locator(".row").evaluate_all(script)
        return [(id, type, data) for id, type, data in found]

    @property
    def data(self) -> list[str]:
        """The data of the events in the list."""
        return [data for _, _, data in self.rows]

    def sees(self, *data: str) -> None:
        """Wait until these are the data of the events in the list."""
        eventually(lambda: self.data == list(data))

    def text(self, selector: str) -> str:
        """Return the text of one element."""
        return self.page.locator(selector).inner_text()

    def line(self, place: str) -> str:
        """Return the line for the shell at a place."""
        return self.page.locator(f"#{place} code").text_content() or ""

    def leave(self) -> None:
        """Close the page; fail if anything on it went wrong."""
        self.problems += self.page.evaluate("window.violations ?? []")
        self.page.close()
        assert not [text for text in self.problems if not re.search(self.forgiven, text)]
